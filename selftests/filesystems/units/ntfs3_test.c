// SPDX-License-Identifier: GPL-2.0
/*
 * Compressed files of the ntfs3 driver.
 *
 * They are read and written by frames: 16 clusters of a file that NTFS itself
 * compressed (LZNT), 4 to 32 KiB of one that Windows compressed afterwards
 * (XPRESS and LZX, read-only until it is opened for writing, which decompresses
 * it).  Reading one page of a frame locks and fills all of them.
 *
 * The disk is full of 0xaa before mkntfs, so that old contents of the disk are
 * noticed.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <linux/falloc.h>
#include <linux/fiemap.h>
#include <linux/userfaultfd.h>

#include "wof_image.h"

/* FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_COMPRESSED */
#define ATTR_COMPRESSED	0x820U
/* FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_SPARSE_FILE */
#define ATTR_SPARSE	0x220U

#define NR_FRAMES	4
#define NR_READERS	4

/* Seconds that readers of one file may take, also on an emulated machine. */
#define BUSY		60

/* What freed memory is filled with; pattern() is not often that. */
#define POISON		0xa5

#define IMAGE_SIZE	MIB(16)
#define FAULTFS		IMAGE_DIR "/faultfs"

static void mount_ntfs3(struct __test_metadata *_metadata, struct image *im)
{
	int err = image_mount(im, "ntfs3", 0, NULL);

	if (err == -ENODEV)
		SKIP(return, "no ntfs3 (CONFIG_NTFS3_FS)");
	ASSERT_EQ(0, err)
		TH_LOG("mount: %s", strerror(-err));
}

static int open_file(struct __test_metadata *_metadata, struct image *im,
		     const char *name, int flags)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", im->mnt, name);
	fd = open(path, flags | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0)
		TH_LOG("%s: %s", name, strerror(errno));
	return fd;
}

static uint8_t *map_file(struct __test_metadata *_metadata, int fd, size_t len,
			 int prot)
{
	uint8_t *map = mmap(NULL, len, prot, MAP_SHARED, fd, 0);

	ASSERT_NE(MAP_FAILED, map);
	return map;
}

/* Have any allocation fail that call_failing() names, and no other. */
static void prepare_failing(struct __test_metadata *_metadata)
{
	if (image_faults(FAILSLAB) || image_faults(FAIL_PAGE))
		SKIP(exit(KSFT_SKIP),
		     "needs CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC");
}

/*
 * @call of @arg, in which allocation number @nth fails: its result.  @left tells
 * whether there were fewer.
 */
static long call_failing(unsigned int nth, long (*call)(void *arg), void *arg,
			 bool *left)
{
	int fd = image_fail_nth(nth);
	long ret = call(arg);

	*left = !image_has_failed(fd);
	return ret;
}

/* Only a resident or empty file can be made compressed. */
static void make_compressed(struct __test_metadata *_metadata, int fd)
{
	uint32_t attr = ATTR_COMPRESSED;

	ASSERT_EQ(0, fsetxattr(fd, "system.ntfs_attrib", &attr, sizeof(attr),
			       0));
}

/* Use up the free clusters: close() frees some that were preallocated. */
static void fill_volume(struct __test_metadata *_metadata, struct image *im)
{
	uint8_t *buf = malloc(KIB(64));
	unsigned int i, written;
	char name[16];
	size_t len;

	ASSERT_NE(NULL, buf);
	pattern_fill(buf, KIB(64), 0, 1);
	for (i = 0, written = 1; written; i++) {
		int fd;

		snprintf(name, sizeof(name), "filler%u", i);
		fd = open_file(_metadata, im, name, O_CREAT | O_WRONLY);
		for (written = 0, len = KIB(64); len >= KIB(4); len /= 2)
			while (write(fd, buf, len) > 0 && !fsync(fd))
				written++;
		ASSERT_EQ(ENOSPC, errno);
		ASSERT_EQ(0, close(fd));
	}
	free(buf);
}

static void expect_size(struct __test_metadata *_metadata, int fd, off_t size)
{
	struct stat st;

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(size, st.st_size);
}

/* Leave a recognisable pattern in the memory that is handed out next. */
static void poison_free_memory(struct __test_metadata *_metadata)
{
	size_t len = MIB(32);
	void *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	ASSERT_NE(MAP_FAILED, p);
	memset(p, POISON, len);
	ASSERT_EQ(0, munmap(p, len));
}

/* The file has to hold @want at @pos.  The first difference is reported. */
static void expect_data(struct __test_metadata *_metadata, int fd,
			const uint8_t *want, size_t len, off_t pos,
			const char *when)
{
	size_t i, bad = 0, first = 0;
	uint8_t *got;

	got = malloc(len);
	ASSERT_NE(NULL, got);
	ASSERT_EQ(len, pread(fd, got, len, pos))
		TH_LOG("%s: read at %lld: %s", when, (long long)pos,
		       strerror(errno));
	for (i = 0; i < len; i++)
		if (got[i] != want[i] && !bad++)
			first = i;
	EXPECT_EQ(0, bad)
		TH_LOG("%s: at %lld 0x%02x, not 0x%02x", when,
		       (long long)pos + first, got[first], want[first]);
	free(got);
}

/* Not one byte of the range can be read. */
static void expect_unreadable(struct __test_metadata *_metadata, int fd,
			      size_t len, off_t pos, size_t step)
{
	uint8_t byte;
	off_t end = pos + len;

	for (; pos < end; pos += step) {
		EXPECT_EQ(-1, pread(fd, &byte, 1, pos))
			TH_LOG("at %lld 0x%02x", (long long)pos, byte);
		EXPECT_EQ(EINVAL, errno);
	}
}

/* Evict the file: no page of it has a reference that was not dropped. */
static void evict(struct __test_metadata *_metadata, int fd, size_t len)
{
	EXPECT_TRUE(wait_for(!posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) &&
			     !image_cached_pages(_metadata, fd, len), SOON));
}

struct readers {
	int fd;
	size_t frame;		/* bytes that are read together */
	unsigned int frames;	/* of the file */
	const uint8_t *want;	/* what the file holds, NULL: cannot be read */
	unsigned int rounds;
	pthread_barrier_t start;
	unsigned int next;	/* number of the thread that starts next */
};

/* Each reader has a different page of the frame, as far away as possible. */
static void *read_a_page(void *arg)
{
	struct readers *readers = arg;
	unsigned int nr = __atomic_fetch_add(&readers->next, 1,
					     __ATOMIC_RELAXED);
	size_t last = readers->frame - sysconf(_SC_PAGESIZE);
	off_t pos = last * nr / (NR_READERS - 1);
	unsigned int i;
	uint8_t byte;
	ssize_t n;

	for (i = 0; i < readers->rounds; i++) {
		off_t at = pos + i % readers->frames * readers->frame;

		/* All of them find the frame cold, or the first fills it. */
		if (!nr && readers->want)
			posix_fadvise(readers->fd, 0, 0, POSIX_FADV_DONTNEED);
		pthread_barrier_wait(&readers->start);
		n = pread(readers->fd, &byte, 1, at);
		if (readers->want) {
			if (n != 1 || byte != readers->want[at])
				_exit(1);
		} else if (n != -1 || errno != EINVAL) {
			_exit(1);
		}
	}
	return NULL;
}

static void read_concurrently(void *arg)
{
	struct readers *readers = arg;
	pthread_t thread[NR_READERS];
	int i;

	pthread_barrier_init(&readers->start, NULL, NR_READERS);
	for (i = 0; i < NR_READERS; i++)
		if (pthread_create(&thread[i], NULL, read_a_page, readers))
			_exit(2);
	for (i = 0; i < NR_READERS; i++)
		pthread_join(thread[i], NULL);
}

struct prefetch {
	const char *name;
	int (*fn)(int fd, size_t len);
	int fd;
	size_t len;
};

static int call_readahead(int fd, size_t len)
{
	return readahead(fd, 0, len);
}

static int call_fadvise(int fd, size_t len)
{
	return posix_fadvise(fd, 0, len, POSIX_FADV_WILLNEED);
}

static int call_madvise(int fd, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? -1 : madvise(p, len, MADV_WILLNEED);
}

static void prefetch(void *arg)
{
	struct prefetch *prefetch = arg;

	if (prefetch->fn(prefetch->fd, prefetch->len))
		_exit(1);
}

/* Each way to prefetch a cold file returns, and changes nothing. */
static void expect_prefetch_ends(struct __test_metadata *_metadata, int fd,
				 const uint8_t *want, size_t len)
{
	struct prefetch calls[] = {
		{ "readahead", call_readahead, fd, len },
		{ "fadvise", call_fadvise, fd, len },
		{ "madvise", call_madvise, fd, len },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(calls); i++) {
		ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
		ASSERT_EQ(0, in_child(prefetch, &calls[i], SOON))
			TH_LOG("%s", calls[i].name);
		expect_data(_metadata, fd, want, len, 0, calls[i].name);
	}
}

/* A file of NR_FRAMES compressed frames, none of them in the page cache. */
FIXTURE(lznt) {
	struct image im;
	int fd;
	size_t frame;
	size_t page;
	size_t len;		/* of the file */
	uint8_t *want;		/* what it holds */
};

FIXTURE_VARIANT(lznt) {
	unsigned int cluster;
};

FIXTURE_VARIANT_ADD(lznt, cluster_512) { .cluster = 512 };
FIXTURE_VARIANT_ADD(lznt, cluster_1024) { .cluster = 1024 };
FIXTURE_VARIANT_ADD(lznt, cluster_4096) { .cluster = 4096 };

/* Compressible data with something in front that compression leaves alone. */
static void fill_frames(uint8_t *buf, size_t frame, unsigned int seed)
{
	unsigned int i;

	pattern_fill(buf, NR_FRAMES * frame, 0, 2 * seed);
	for (i = 0; i < NR_FRAMES; i++)
		snprintf((char *)buf + i * frame, 9, "%u:Frame%u", seed % 10,
			 i);
}

/* ntfsresize walks all runlists and compares them with the cluster bitmap. */
static void remount(struct __test_metadata *_metadata,
		    FIXTURE_DATA(lznt) * self)
{
	int ret;

	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	ret = image_run("ntfsresize -f -i %s", self->im.path);
	if (ret != 127)
		EXPECT_EQ(0, ret);
	mount_ntfs3(_metadata, &self->im);
	self->fd = open_file(_metadata, &self->im, "file", O_RDWR);
}

FIXTURE_SETUP(lznt)
{
	self->page = sysconf(_SC_PAGESIZE);
	self->frame = 16 * variant->cluster;
	self->len = NR_FRAMES * self->frame;
	if (self->frame < 2 * self->page)
		SKIP(return, "needs two pages in a frame");
	if (image_setup(&self->im, _metadata, IMAGE_SIZE))
		return;
	if (!image_have("mkntfs"))
		SKIP(return, "no mkntfs (ntfs-3g)");
	image_prefill(_metadata, &self->im, IMAGE_SIZE);
	ASSERT_EQ(0, image_run("mkntfs -q -f -F -s 512 -c %u %s",
			       variant->cluster, self->im.path));
	mount_ntfs3(_metadata, &self->im);
	if (_metadata->exit_code)
		return;

	self->want = malloc(self->len);
	ASSERT_NE(NULL, self->want);
	fill_frames(self->want, self->frame, 1);
	self->fd = open_file(_metadata, &self->im, "file", O_CREAT | O_RDWR);
	make_compressed(_metadata, self->fd);
	ASSERT_EQ(self->len, pwrite(self->fd, self->want, self->len, 0));
	remount(_metadata, self);
}

FIXTURE_TEARDOWN(lznt)
{
	image_teardown(&self->im);
}

/* The file holds self->want: in the page cache, on disk, and for a new mount. */
static void expect_file(struct __test_metadata *_metadata,
			FIXTURE_DATA(lznt) * self)
{
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	evict(_metadata, self->fd, self->len);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
	remount(_metadata, self);
	expect_data(_metadata, self->fd, self->want, self->len, 0,
		    "after remount");
}

/*
 * Flip a bit of byte @byte of frame @nr on the device.  The frame begins with a
 * chunk header of two bytes, a byte of zero flags that says that eight literal
 * bytes follow, and these.
 */
static void edit_frame(struct __test_metadata *_metadata,
		       FIXTURE_DATA(lznt) * self, unsigned int nr,
		       unsigned int byte)
{
	unsigned int found = 0;
	uint8_t *image, *p, *end;
	int fd;

	fd = open(self->im.path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	image = map_file(_metadata, fd, IMAGE_SIZE, PROT_READ | PROT_WRITE);
	end = image + IMAGE_SIZE;
	for (p = image; p < end; p += 512) {
		if (memcmp(p + 3, self->want + nr * self->frame, 8) ||
		    !(p[1] & 0x80) || p[2])
			continue;
		p[byte] ^= 1;
		found++;
	}
	ASSERT_EQ(1, found)
		TH_LOG("frames that begin like frame %u", nr);
	ASSERT_EQ(0, munmap(image, IMAGE_SIZE));
	ASSERT_EQ(0, close(fd));
}

/*
 * Make frame @nr impossible to decompress: with a flag set, its first bytes
 * become a reference to what is before.
 */
static void spoil_frame(struct __test_metadata *_metadata,
			FIXTURE_DATA(lznt) * self, unsigned int nr)
{
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	edit_frame(_metadata, self, nr, 2);
	mount_ntfs3(_metadata, &self->im);
	self->fd = open_file(_metadata, &self->im, "file", O_RDWR);
	poison_free_memory(_metadata);
}

TEST_F(lznt, prefetch_ends)
{
	expect_prefetch_ends(_metadata, self->fd, self->want, self->len);
}

TEST_F_TIMEOUT(lznt, concurrent_readers, 2 * BUSY)
{
	struct readers readers = {
		.fd = self->fd,
		.frame = self->frame,
		.frames = NR_FRAMES,
		.want = self->want,
		.rounds = 1000,
	};

	ASSERT_EQ(0, in_child(read_concurrently, &readers, BUSY));
	expect_file(_metadata, self);
}

TEST_F_TIMEOUT(lznt, concurrent_readers_of_an_unreadable_frame, 2 * BUSY)
{
	struct readers readers = {
		.frame = self->frame,
		.frames = 1,
		.rounds = 300,
	};

	spoil_frame(_metadata, self, 0);
	readers.fd = self->fd;
	ASSERT_EQ(0, in_child(read_concurrently, &readers, BUSY));
}

/* A page that is in use stays as it is when the rest of the frame is read. */
TEST_F(lznt, a_cached_page_is_not_read_again)
{
	size_t frame = self->frame, page = self->page, i;
	uint8_t *map;

	map = mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_POPULATE, self->fd,
		   frame);
	ASSERT_NE(MAP_FAILED, map);
	drop_clean_caches();
	edit_frame(_metadata, self, 1, 3);
	for (i = 1; i < frame / page; i++)
		expect_data(_metadata, self->fd, self->want + frame + i * page,
			    page, frame + i * page, "another page");
	EXPECT_EQ(self->want[frame], map[0]);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	ASSERT_EQ(0, munmap(map, page));
	drop_clean_caches();
	self->want[frame] ^= 1;
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
}

TEST_F(lznt, an_unreadable_frame_is_an_error)
{
	size_t frame = self->frame;

	spoil_frame(_metadata, self, 1);
	expect_unreadable(_metadata, self->fd, frame, frame, self->page);
	expect_unreadable(_metadata, self->fd, frame, frame, self->page);
	expect_data(_metadata, self->fd, self->want, frame, 0, "before it");
	expect_data(_metadata, self->fd, self->want + 2 * frame, 2 * frame,
		    2 * frame, "after it");
}

/* What cannot be read must not be written back with a few bytes changed. */
TEST_F(lznt, writes_no_part_of_an_unreadable_frame)
{
	size_t frame = self->frame;
	int i;

	spoil_frame(_metadata, self, 1);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(-1, pwrite(self->fd, "a", 1, frame + 100));
		EXPECT_EQ(EINVAL, errno);
	}
	remount(_metadata, self);
	expect_unreadable(_metadata, self->fd, frame, frame, self->page);
}

TEST_F(lznt, writes_all_of_an_unreadable_frame)
{
	size_t frame = self->frame;

	spoil_frame(_metadata, self, 2);
	spoil_frame(_metadata, self, 1);
	expect_unreadable(_metadata, self->fd, 2 * frame, frame, self->page);
	pattern_fill(self->want + frame, frame, frame, 8);
	ASSERT_EQ(frame, pwrite(self->fd, self->want + frame, frame, frame));
	expect_data(_metadata, self->fd, self->want, 2 * frame, 0, "warm");
	expect_unreadable(_metadata, self->fd, frame, 2 * frame, self->page);
	remount(_metadata, self);
	expect_data(_metadata, self->fd, self->want, 2 * frame, 0,
		    "after remount");
	expect_unreadable(_metadata, self->fd, frame, 2 * frame, self->page);
	expect_data(_metadata, self->fd, self->want + 3 * frame, frame,
		    3 * frame, "after it");
}

/*
 * The end of the last frame is beyond the end of the file, so it is not read
 * for a write to the rest of the frame.  It is zero all the same.
 */
TEST_F(lznt, writes_up_to_the_end_of_an_unreadable_file)
{
	size_t frame = self->frame, cut = frame - frame / 3;
	off_t pos = self->len - frame;

	ASSERT_EQ(0, ftruncate(self->fd, pos + cut));
	spoil_frame(_metadata, self, NR_FRAMES - 1);
	expect_unreadable(_metadata, self->fd, cut, pos, self->page);
	pattern_fill(self->want + pos, cut, pos, 8);
	memset(self->want + pos + cut, 0, frame - cut);
	ASSERT_EQ(cut, pwrite(self->fd, self->want + pos, cut, pos));
	ASSERT_EQ(0, ftruncate(self->fd, self->len));
	expect_file(_metadata, self);
}

static void write_at(struct __test_metadata *_metadata,
		     FIXTURE_DATA(lznt) * self, off_t pos, size_t len,
		     unsigned int seed)
{
	pattern_fill(self->want + pos, len, pos, seed);
	ASSERT_EQ(len, pwrite(self->fd, self->want + pos, len, pos))
		TH_LOG("write of %zu at %lld: %s", len, (long long)pos,
		       strerror(errno));
}

TEST_F(lznt, writes_part_of_a_frame)
{
	write_at(_metadata, self, self->frame + 100, 1, 2);
	write_at(_metadata, self, 2 * self->frame + self->page + 1, 1000, 3);
	expect_file(_metadata, self);
	write_at(_metadata, self, self->frame - 10, 10, 2);
	expect_file(_metadata, self);
}

TEST_F(lznt, writes_whole_frames)
{
	write_at(_metadata, self, self->frame, self->frame, 2);
	EXPECT_EQ(self->frame / self->page,
		  image_cached_pages(_metadata, self->fd, self->len));
	expect_file(_metadata, self);
	write_at(_metadata, self, 2 * self->frame, 2 * self->frame, 3);
	expect_file(_metadata, self);
}

TEST_F(lznt, writes_across_frames)
{
	write_at(_metadata, self, self->frame - 1, 2, 2);
	expect_file(_metadata, self);
	write_at(_metadata, self, self->frame / 2 + 1, 3 * self->frame - 7, 3);
	expect_file(_metadata, self);
}

/* A frame of which the page cache has all pages but one, each in turn. */
TEST_F(lznt, writes_part_of_a_partly_cached_frame)
{
	size_t pages = self->frame / self->page;
	size_t i;

	for (i = 0; i < pages; i++) {
		expect_data(_metadata, self->fd, self->want, self->len, 0,
			    "warm");
		ASSERT_EQ(0, posix_fadvise(self->fd,
					   self->frame + i * self->page,
					   self->page, POSIX_FADV_DONTNEED));
		poison_free_memory(_metadata);
		write_at(_metadata, self,
			 self->frame + (i + 1) % pages * self->page + 100, 1000,
			 2 + i);
	}
	expect_file(_metadata, self);
}

/* @call, which returns the same each time, frees what it has allocated. */
static void expect_no_leak(struct __test_metadata *_metadata,
			   long (*call)(void *arg), void *arg)
{
	const char *env = getenv("UNITS_TEST_ROUNDS");
	unsigned int i, rounds = env ? atoi(env) : 0;
	long ret = call(arg);
	long long used = 0;

	if (!rounds)
		SKIP(return,
		     "set UNITS_TEST_ROUNDS=6000 on an idle machine to look for leaks");
	for (i = 0; i < 2 * rounds; i++) {
		if (i == rounds)
			used = image_slab();
		ASSERT_EQ(ret, call(arg));
	}
	/* what RCU has not freed yet is not leaked: give it time */
	EXPECT_TRUE(wait_for(image_slab() - used < rounds / 16, SOON))
		TH_LOG("from %lld KiB to %lld KiB in %u rounds", used,
		       image_slab(), rounds);
}

/* The hole between what has been written and what is written is zero. */
TEST_F(lznt, writes_behind_a_hole)
{
	size_t frame = self->frame, cut = frame + frame / 3;

	ASSERT_EQ(0, ftruncate(self->fd, cut));
	poison_free_memory(_metadata);
	memset(self->want + cut, 0, self->len - cut);
	write_at(_metadata, self, self->len - 100, 100, 2);
	/* What has been written, two frames, need not be read. */
	EXPECT_EQ(2 * frame / self->page,
		  image_cached_pages(_metadata, self->fd, self->len));
	expect_file(_metadata, self);
}

/*
 * Write @len bytes at @pos, from a buffer of which only the first @good bytes
 * can be read.
 */
static ssize_t write_from_hole(struct __test_metadata *_metadata,
			       FIXTURE_DATA(lznt) * self, int fd,
			       const uint8_t *data, size_t good, size_t len,
			       off_t pos)
{
	size_t room = (good / self->page + 1) * self->page;
	uint8_t *map;
	ssize_t n;

	map = mmap(NULL, room + self->len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, map);
	memcpy(map + room - good, data, good);
	ASSERT_EQ(0, munmap(map + room, self->len));
	n = pos < 0 ? write(fd, map + room - good, len) :
		      pwrite(fd, map + room - good, len, pos);
	if (n < 0)
		n = -errno;
	ASSERT_EQ(0, munmap(map, room));
	return n;
}

/* The file ends where a short write ended, and there the next one starts. */
static void expect_short_appends(struct __test_metadata *_metadata,
				 FIXTURE_DATA(lznt) * self, size_t good,
				 size_t len)
{
	size_t frame = self->frame, size = self->len, end;
	uint8_t *data;
	int fd;

	data = calloc(2, self->len);
	ASSERT_NE(NULL, data);
	memcpy(data, self->want, size);
	fd = open_file(_metadata, &self->im, "file", O_RDWR | O_APPEND);
	for (end = size + 2 * (good + 100); size < end; size += 100) {
		pattern_fill(data + size, good + 100, size, 2);
		EXPECT_EQ(good, write_from_hole(_metadata, self, fd,
						data + size, good, len, -1));
		size += good;
		expect_size(_metadata, fd, size);
		EXPECT_EQ(-EFAULT, write_from_hole(_metadata, self, fd, NULL,
						   0, len, -1));
		EXPECT_EQ(-EFAULT, write_from_hole(_metadata, self, fd, NULL,
						   0, 10, size + 3 * frame));
		expect_size(_metadata, fd, size);
		EXPECT_EQ(100, write(fd, data + size, 100));
	}
	expect_size(_metadata, fd, size);
	expect_data(_metadata, fd, data, size, 0, "warm");
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, close(fd));
	remount(_metadata, self);
	expect_size(_metadata, self->fd, size);
	expect_data(_metadata, self->fd, data, size, 0, "after remount");
	ASSERT_EQ(0, ftruncate(self->fd, size + frame));
	expect_data(_metadata, self->fd, data, size + frame, 0, "extended");
	free(data);
}

TEST_F(lznt, returns_what_was_written_before_an_error)
{
	expect_short_appends(_metadata, self, self->frame, 2 * self->frame);
}

TEST_F(lznt, returns_the_part_of_a_frame_that_was_written)
{
	expect_short_appends(_metadata, self, 1234, 2 * self->frame);
}

TEST_F(lznt, returns_the_byte_that_was_written)
{
	expect_short_appends(_metadata, self, 1, 2 * self->frame);
}

/* What a write does not reach is as it was, although it was not read. */
TEST_F(lznt, short_write_to_a_frame)
{
	size_t frame = self->frame;

	pattern_fill(self->want + frame, self->page, frame, 2);
	EXPECT_EQ(self->page,
		  write_from_hole(_metadata, self, self->fd, self->want + frame,
				  self->page, frame, frame));
	EXPECT_EQ(-EFAULT, write_from_hole(_metadata, self, self->fd, NULL, 0,
					   frame, 2 * frame));
	expect_file(_metadata, self);
}

/*
 * A thread that takes a page of the buffer away when the write has faulted it
 * in, and is about to fault in the last page.  That one is registered with
 * userfaultfd, so the write waits there.
 */
struct thief {
	int uffd;
	void *last, *data;
	size_t page;
	void *victim;
	int error;
};

static void *take_page_away(void *arg)
{
	struct thief *thief = arg;
	struct pollfd pfd = { .fd = thief->uffd, .events = POLLIN };
	struct uffdio_copy copy = {
		.dst = (unsigned long)thief->last,
		.src = (unsigned long)thief->data,
		.len = thief->page,
	};
	struct uffd_msg msg;

	if (poll(&pfd, 1, SOON * 1000) != 1 ||
	    read(thief->uffd, &msg, sizeof(msg)) != sizeof(msg)) {
		thief->error = ETIMEDOUT;
		return NULL;
	}
	if (munmap(thief->victim, thief->page) ||
	    ioctl(thief->uffd, UFFDIO_COPY, &copy))
		thief->error = errno;
	return NULL;
}

/* Write frame 1, of which page @victim is taken away before it is copied. */
static ssize_t write_without_page(struct __test_metadata *_metadata,
				  FIXTURE_DATA(lznt) * self,
				  const uint8_t *data, unsigned int victim)
{
	uint8_t *user = mmap(NULL, self->frame, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct thief thief = {
		.page = self->page,
		.last = user + self->frame - self->page,
		.victim = user + victim * self->page,
	};
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (unsigned long)thief.last,
			   .len = thief.page },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	pthread_t thread;
	ssize_t n;

	ASSERT_NE(MAP_FAILED, user);
	memcpy(user, data, self->frame - self->page);
	thief.data = aligned_alloc(self->page, self->page);
	memcpy(thief.data, data + self->frame - self->page, self->page);
	thief.uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (thief.uffd < 0)
		SKIP(exit(KSFT_SKIP), "needs CONFIG_USERFAULTFD");
	ASSERT_EQ(0, ioctl(thief.uffd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(thief.uffd, UFFDIO_REGISTER, &reg));
	ASSERT_EQ(0, pthread_create(&thread, NULL, take_page_away, &thief));
	n = pwrite(self->fd, user, self->frame, self->frame);
	if (n < 0)
		n = -errno;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_EQ(0, thief.error);
	close(thief.uffd);
	return n;
}

TEST_F(lznt, short_copy_of_a_frame)
{
	size_t frame = self->frame;
	uint8_t *data = malloc(frame);

	pattern_fill(data, frame, frame, 2);
	/* of a frame that is partly cached, too */
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cached");
	ASSERT_EQ(0, posix_fadvise(self->fd, frame + self->page, self->page,
				   POSIX_FADV_DONTNEED));
	EXPECT_EQ(-EFAULT, write_without_page(_metadata, self, data, 0));
	expect_file(_metadata, self);
	if (frame > 2 * self->page) {
		memcpy(self->want + frame, data, self->page);
		EXPECT_EQ(self->page,
			  write_without_page(_metadata, self, data, 1));
		expect_file(_metadata, self);
	}
	free(data);
}

/* A small file, in the MFT record, with a store to a mapping of it. */
static int create_stored(struct __test_metadata *_metadata,
			 FIXTURE_DATA(lznt) * self, const char *name,
			 uint8_t **map)
{
	int fd = open_file(_metadata, &self->im, name,
			   O_CREAT | O_EXCL | O_RDWR);

	ASSERT_EQ(100, pwrite(fd, self->want + 100, 100, 0));
	*map = map_file(_metadata, fd, self->page, PROT_READ | PROT_WRITE);
	memcpy(*map, self->want, 100);
	return fd;
}

/*
 * A small file, in the MFT record, that has become compressed, after it was
 * written, or if not @flush, after a store to a mapping.
 */
static int create_small(struct __test_metadata *_metadata,
			FIXTURE_DATA(lznt) * self, const char *name,
			bool flush)
{
	uint8_t *map;
	int fd;

	if (flush) {
		fd = open_file(_metadata, &self->im, name,
			       O_CREAT | O_EXCL | O_RDWR);
		ASSERT_EQ(100, pwrite(fd, self->want, 100, 0));
		ASSERT_EQ(0, fsync(fd));
	} else {
		fd = create_stored(_metadata, self, name, &map);
		ASSERT_EQ(0, munmap(map, self->page));
	}
	make_compressed(_metadata, fd);
	return fd;
}

static void expect_small(struct __test_metadata *_metadata,
			 FIXTURE_DATA(lznt) * self, int fd, const char *name,
			 size_t len)
{
	expect_data(_metadata, fd, self->want, len, 0, "warm");
	ASSERT_EQ(0, fsync(fd));
	evict(_metadata, fd, len);
	expect_data(_metadata, fd, self->want, len, 0, "cold");
	ASSERT_EQ(0, close(fd));
	remount(_metadata, self);
	fd = open_file(_metadata, &self->im, name, O_RDWR);
	expect_data(_metadata, fd, self->want, len, 0, "after remount");
	ASSERT_EQ(0, close(fd));
}

static void grow_small(struct __test_metadata *_metadata,
		       FIXTURE_DATA(lznt) * self, int fd, const char *name)
{
	size_t len = 2 * self->page;

	ASSERT_EQ(len, pwrite(fd, self->want + 100, len, 100));
	expect_small(_metadata, self, fd, name, 100 + len);
}

TEST_F(lznt, resident_file_grows)
{
	int fd = create_small(_metadata, self, "small", true);

	ASSERT_EQ(0, close(fd));
	remount(_metadata, self);
	fd = open_file(_metadata, &self->im, "small", O_RDWR);
	grow_small(_metadata, self, fd, "small");
	/* ... and while its folio is dirty */
	fd = create_small(_metadata, self, "dirty", false);
	grow_small(_metadata, self, fd, "dirty");
	/* ... or does not, and is no longer resident all the same */
	fd = create_small(_metadata, self, "same", true);
	pattern_fill(self->want + 50, 10, 50, 8);
	ASSERT_EQ(10, pwrite(fd, self->want + 50, 10, 50));
	expect_small(_metadata, self, fd, "same", 100);
}

/* The first frame has to be zeroed up to the end. */
TEST_F(lznt, resident_file_grows_past_a_hole)
{
	size_t len = 2 * self->frame;
	int fd = create_small(_metadata, self, "small", false);

	memset(self->want + 100, 0, len - 100);
	ASSERT_EQ(100, pwrite(fd, self->want + len, 100, len));
	expect_small(_metadata, self, fd, "small", len + 100);
}

/* Clusters that were allocated and not written do not appear. */
TEST_F(lznt, resident_file_is_preallocated)
{
	size_t len = 2 * self->frame;
	int fd = create_small(_metadata, self, "small", true);

	ASSERT_EQ(0, close(fd));
	remount(_metadata, self);
	fd = open_file(_metadata, &self->im, "small", O_RDWR);
	memset(self->want + 100, 0, len - 100);
	ASSERT_EQ(0, fallocate(fd, 0, 0, len));
	expect_small(_metadata, self, fd, "small", len);
	fd = open_file(_metadata, &self->im, "small", O_RDWR);
	pattern_fill(self->want + 100, 10, 0, 3);
	ASSERT_EQ(10, pwrite(fd, self->want + 100, 10, 100));
	expect_small(_metadata, self, fd, "small", len);
}

static long read_vmstat(const char *name)
{
	char line[128];
	long value = -1;
	FILE *f;

	/* Add up what each CPU has counted. */
	f = fopen("/proc/sys/vm/stat_refresh", "r");
	if (f) {
		while (fgets(line, sizeof(line), f))
			;
		fclose(f);
	}
	f = fopen("/proc/vmstat", "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)) &&
		    line[strlen(name)] == ' ')
			value = strtol(line + strlen(name), NULL, 10);
	if (f)
		fclose(f);
	return value;
}

TEST_F(lznt, dirty_folios_are_accounted)
{
	const unsigned int nr = 100;
	char name[16];
	uint8_t *map;
	long before;

	sync();
	before = read_vmstat("nr_dirty");
	ASSERT_GE(before, 0);
	for (unsigned int i = 0; i < nr; i++) {
		int fd;

		snprintf(name, sizeof(name), "small%u", i);
		fd = create_small(_metadata, self, name, false);
		ASSERT_EQ(1000, pwrite(fd, self->want, 1000, 100));
		ASSERT_EQ(0, fsync(fd));
		ASSERT_EQ(0, close(fd));
		snprintf(name, sizeof(name), "long%u", i);
		fd = create_small(_metadata, self, name, true);
		ASSERT_EQ(0, ftruncate(fd, 2 * self->frame));
		ASSERT_EQ(0, fsync(fd));
		ASSERT_EQ(0, close(fd));
		snprintf(name, sizeof(name), "plain%u", i);
		fd = create_stored(_metadata, self, name, &map);
		ASSERT_EQ(0, munmap(map, self->page));
		ASSERT_EQ(0, fsync(fd));
		ASSERT_EQ(0, close(fd));
	}
	sync();
	EXPECT_LT(read_vmstat("nr_dirty"), before + nr / 2);
}

/*
 * Compressed data is read and written through the page cache of the device,
 * other data is not.  If a page has clusters of both, what is written to the
 * one must not change the other.
 */
TEST_F(lznt, shares_pages_with_another_file)
{
	size_t frame = self->frame, cluster = variant->cluster;
	const unsigned int nr = 40;
	uint8_t *data = malloc(nr * cluster);
	uint8_t *cmpr = calloc(nr, frame);
	unsigned int i;
	int fd, plain;

	ASSERT_NE(NULL, data);
	ASSERT_NE(NULL, cmpr);
	/* Have both use the same pages. */
	fd = open_file(_metadata, &self->im, "cmpr", O_CREAT | O_RDWR);
	make_compressed(_metadata, fd);
	plain = open_file(_metadata, &self->im, "plain", O_CREAT | O_RDWR);
	pattern_fill(data, nr * cluster, 0, 1);
	for (i = 0; i < nr; i++) {
		memset(cmpr + i * frame, i + 1, frame);
		ASSERT_EQ(frame, pwrite(fd, cmpr + i * frame, frame,
					i * frame));
		ASSERT_EQ(cluster, pwrite(plain, data + i * cluster, cluster,
					  i * cluster));
		ASSERT_EQ(0, fsync(plain));
	}
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(plain));
	remount(_metadata, self);

	fd = open_file(_metadata, &self->im, "cmpr", O_RDWR);
	plain = open_file(_metadata, &self->im, "plain", O_RDWR);
	expect_data(_metadata, fd, cmpr, nr * frame, 0, "cold");
	pattern_fill(data, nr * cluster, 0, 3);
	ASSERT_EQ(nr * cluster, pwrite(plain, data, nr * cluster, 0));
	ASSERT_EQ(0, fsync(plain));
	for (i = 0; i < nr; i++) {
		cmpr[i * frame] = 0xee;
		ASSERT_EQ(1, pwrite(fd, cmpr + i * frame, 1, i * frame));
	}
	ASSERT_EQ(0, fsync(fd));
	drop_clean_caches();
	expect_data(_metadata, plain, data, nr * cluster, 0, "plain");
	expect_data(_metadata, fd, cmpr, nr * frame, 0, "compressed");
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(plain));
	free(data);
	free(cmpr);
}

/* The page cache of the device has large folios then, where it can. */
TEST_F(lznt, the_device_was_read)
{
	uint8_t *buf = malloc(MIB(1));
	int dev;

	ASSERT_NE(NULL, buf);
	dev = open(self->im.dev, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(dev, 0);
	drop_clean_caches();
	while (read(dev, buf, MIB(1)) > 0)
		;
	ASSERT_EQ(0, close(dev));
	free(buf);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
	write_at(_metadata, self, self->frame - 10, self->frame, 3);
	write_at(_metadata, self, 2 * self->frame, self->frame, 2);
	ASSERT_EQ(0, fsync(self->fd));
	drop_clean_caches();
	expect_file(_metadata, self);
}

/* A write that does not fit leaves the frame as it was. */
TEST_F(lznt, no_space_for_a_frame)
{
	size_t frame = self->frame;
	uint8_t *data = malloc(self->len);

	ASSERT_NE(NULL, data);
	fill_volume(_metadata, &self->im);
	pattern_fill(data, self->len, 0, 1);
	ASSERT_EQ(0, posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED));
	EXPECT_EQ(-1, pwrite(self->fd, data, frame, frame));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, pwrite(self->fd, data, frame / 2, 2 * frame + 100));
	EXPECT_EQ(ENOSPC, errno);
	EXPECT_EQ(-1, pwrite(self->fd, data, frame, self->len));
	EXPECT_EQ(ENOSPC, errno);
	expect_size(_metadata, self->fd, self->len);
	expect_file(_metadata, self);
	free(data);
}

/*
 * Move the image to faultfs, which makes writes fail on request.  Returns @fd, opened
 * again.
 */
static int move_image_to_faultfs(struct __test_metadata *_metadata,
				 struct image *im, int fd, int flags)
{
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, image_umount(im));
	ASSERT_EQ(0, mkdir(FAULTFS, 0700));
	if (mount("none", FAULTFS, "faultfs", 0, NULL))
		SKIP(exit(KSFT_SKIP), "no faultfs (CONFIG_TEST_FAULTFS)");
	ASSERT_EQ(0, image_run("cat %s >" FAULTFS "/image", im->path));
	strcpy(im->path, FAULTFS "/image");
	mount_ntfs3(_metadata, im);
	return open_file(_metadata, im, "file", flags);
}

static void move_to_faultfs(struct __test_metadata *_metadata,
			    FIXTURE_DATA(lznt) * self)
{
	self->fd = move_image_to_faultfs(_metadata, &self->im, self->fd,
					 O_RDWR);
}

static void fail_writes(struct __test_metadata *_metadata, const char *how)
{
	ASSERT_EQ(0, mount("none", FAULTFS, NULL, MS_REMOUNT, how));
}

/* What the MFT record has room for, in a file that is not compressed. */
#define RESIDENT	300

static int create_resident(struct __test_metadata *_metadata,
			   FIXTURE_DATA(lznt) * self)
{
	int fd = open_file(_metadata, &self->im, "plain",
			   O_CREAT | O_EXCL | O_RDWR);

	pattern_fill(self->want, self->len, 0, 1);
	ASSERT_EQ(RESIDENT, pwrite(fd, self->want, RESIDENT, 0));
	/* The bitmap, too, or it stays in the page cache. */
	sync();
	/* The volume is marked dirty before the first change. */
	ASSERT_EQ(0, image_run("touch %s/other", self->im.mnt));
	return fd;
}

static void store_to_resident(struct __test_metadata *_metadata,
			      FIXTURE_DATA(lznt) * self, int fd)
{
	uint8_t *map = map_file(_metadata, fd, self->page,
				PROT_READ | PROT_WRITE);

	pattern_fill(self->want, RESIDENT / 2, 0, 3);
	memcpy(map, self->want, RESIDENT / 2);
	ASSERT_EQ(0, munmap(map, self->page));
}

/* A file grows out of the MFT record, and is read as well. */
struct growing {
	int fd;
	const uint8_t *want;
	size_t len;
	off_t pos;
	int (*during)(int fd);
	pid_t tid;		/* of the thread that writes */
};

static void *grow(void *arg)
{
	struct growing *g = arg;

	__atomic_store_n(&g->tid, gettid(), __ATOMIC_RELEASE);
	if (pwrite(g->fd, g->want + g->pos, g->len, g->pos) != g->len)
		_exit(1);
	return NULL;
}

/* Has the thread waited for the device for 200 ms? */
static bool waits_for_device(struct growing *g)
{
	pid_t tid = __atomic_load_n(&g->tid, __ATOMIC_ACQUIRE);
	char path[64], state;
	FILE *f;
	int i, n;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	for (i = 0; i < 20; i++) {
		f = fopen(path, "re");
		if (!f)
			return false;
		n = fscanf(f, "%*d (%*[^)]) %c", &state);
		fclose(f);
		if (n != 1 || state != 'D')
			return false;
		poll(NULL, 0, 10);
	}
	return true;
}

static void grow_and(void *arg)
{
	struct growing *g = arg;
	pthread_t thread;

	if (pthread_create(&thread, NULL, grow, g))
		_exit(2);
	if (!wait_for(waits_for_device(g), SOON))
		_exit(4);
	if (g->during(g->fd))
		_exit(3);
	pthread_join(thread, NULL);
}

/* The allocation of clusters waits for the bitmap, the other for the file. */
static void expect_grows(struct __test_metadata *_metadata,
			 FIXTURE_DATA(lznt) * self, int fd, off_t pos,
			 int (*during)(int fd))
{
	struct growing g = { fd, self->want, self->page, pos, during };

	drop_clean_caches();
	fail_writes(_metadata, "delay=2000");
	ASSERT_EQ(0, in_child(grow_and, &g, BUSY));
	fail_writes(_metadata, "delay=0");
	expect_small(_metadata, self, fd, "plain", pos + self->page);
}

static int read_one(int fd)
{
	uint8_t byte;

	return pread(fd, &byte, 1, 0) != 1;
}

static int write_back(int fd)
{
	return sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE |
					 SYNC_FILE_RANGE_WRITE |
					 SYNC_FILE_RANGE_WAIT_AFTER);
}

TEST_F_TIMEOUT(lznt, plain_resident_file_grows_and_is_read, 2 * BUSY)
{
	int fd;

	move_to_faultfs(_metadata, self);
	fd = create_resident(_metadata, self);
	expect_grows(_metadata, self, fd, RESIDENT, read_one);
}

/* Has there been a warning of the kernel since boot? */
static bool kernel_warned(void)
{
	unsigned long flags = 0;
	FILE *f = fopen("/proc/sys/kernel/tainted", "re");

	if (f) {
		if (fscanf(f, "%lu", &flags) != 1)
			flags = 0;
		fclose(f);
	}
	return flags & (1UL << 9);	/* TAINT_WARN */
}

TEST_F_TIMEOUT(lznt, plain_resident_file_grows_and_is_written_back, 2 * BUSY)
{
	bool warned;
	int fd;

	move_to_faultfs(_metadata, self);
	fd = create_resident(_metadata, self);
	store_to_resident(_metadata, self, fd);
	/* The write leaves the first page alone, or it would be dirty again. */
	memset(self->want + RESIDENT, 0, self->page - RESIDENT);
	warned = kernel_warned();
	expect_grows(_metadata, self, fd, self->page, write_back);
	/* If extending the file made it dirty again, no data is lost. */
	EXPECT_EQ(warned, kernel_warned());
}

TEST_F(lznt, plain_resident_file_grows_after_a_store)
{
	int fd = create_resident(_metadata, self);

	store_to_resident(_metadata, self, fd);
	ASSERT_EQ(self->page, pwrite(fd, self->want + RESIDENT, self->page,
				     RESIDENT));
	expect_small(_metadata, self, fd, "plain", RESIDENT + self->page);
}

TEST_F(lznt, range_is_inserted_into_a_resident_file)
{
	uint32_t attr = ATTR_SPARSE;
	int fd = open_file(_metadata, &self->im, "sparse",
			   O_CREAT | O_EXCL | O_RDWR);

	ASSERT_EQ(0, fsetxattr(fd, "system.ntfs_attrib", &attr, sizeof(attr),
			       0));
	ASSERT_EQ(RESIDENT, pwrite(fd, self->want, RESIDENT, 0));
	ASSERT_EQ(0, fsync(fd));
	evict(_metadata, fd, RESIDENT);
	poison_free_memory(_metadata);
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_INSERT_RANGE, 0, self->frame));
	memmove(self->want + self->frame, self->want, RESIDENT);
	memset(self->want, 0, self->frame);
	expect_size(_metadata, fd, self->frame + RESIDENT);
	expect_small(_metadata, self, fd, "sparse", self->frame + RESIDENT);
}

static void store(void *p)
{
	uint8_t *byte = p;

	(*byte)++;
}

/* Stores that nobody would write back raise SIGBUS. */
TEST_F(lznt, refuses_stores_to_mappings)
{
	int fd = open_file(_metadata, &self->im, "later",
			   O_CREAT | O_EXCL | O_RDWR);
	uint8_t *p;

	/* mapped before it was compressed */
	p = map_file(_metadata, fd, self->page, PROT_READ | PROT_WRITE);
	make_compressed(_metadata, fd);
	ASSERT_EQ(self->len, pwrite(fd, self->want, self->len, 0));
	EXPECT_EQ(self->want[0], p[0]);
	EXPECT_EQ(-EINTR, in_child(store, p, SOON));
	/* which is nothing that has to be zeroed when it is extended */
	ASSERT_EQ(0, ftruncate(fd, self->len - 100));
	ASSERT_EQ(0, ftruncate(fd, self->len));
	memset(self->want + self->len - 100, 0, 100);
	ASSERT_EQ(0, munmap(p, self->page));
	expect_small(_metadata, self, fd, "later", self->len);

	/* mapped read-only first */
	ASSERT_EQ(0, ftruncate(self->fd, self->len - 100));
	ASSERT_EQ(0, ftruncate(self->fd, self->len));
	p = map_file(_metadata, self->fd, self->len, PROT_READ);
	ASSERT_EQ(0, mprotect(p, self->len, PROT_READ | PROT_WRITE));
	EXPECT_EQ(self->want[0], p[0]);
	EXPECT_EQ(-EINTR, in_child(store, p, SOON));
	ASSERT_EQ(0, munmap(p, self->len));
	expect_file(_metadata, self);
}

/*
 * The file has so many runs that ntfs3 drops some from memory.  A task must not
 * drop the runs that another one is about to use.
 */
#define NR_RUNS		3000

static void *read_any_frame(void *arg)
{
	struct readers *readers = arg;
	unsigned int seed = __atomic_fetch_add(&readers->next, 1,
					       __ATOMIC_RELAXED);

	pthread_barrier_wait(&readers->start);
	while (__atomic_load_n(&readers->rounds, __ATOMIC_RELAXED)) {
		off_t at = rand_r(&seed) % readers->frames * readers->frame;
		uint8_t byte;

		posix_fadvise(readers->fd, at, readers->frame,
			      POSIX_FADV_DONTNEED);
		if (pread(readers->fd, &byte, 1, at + 1) != 1) {
			dprintf(STDOUT_FILENO, "read: %s\n", strerror(errno));
			_exit(1);
		}
		if (byte != 'x') {
			dprintf(STDOUT_FILENO, "0x%02x at %lld\n", byte,
				(long long)at + 1);
			_exit(4);
		}
	}
	return NULL;
}

static void read_and_write_any_frame(void *arg)
{
	struct readers *readers = arg;
	pthread_t thread[NR_READERS];
	unsigned int seed = 100, i;

	pthread_barrier_init(&readers->start, NULL, NR_READERS + 1);
	for (i = 0; i < NR_READERS; i++)
		if (pthread_create(&thread[i], NULL, read_any_frame, readers))
			_exit(2);
	pthread_barrier_wait(&readers->start);
	for (i = 0; i < 3000; i++) {
		off_t at = rand_r(&seed) % readers->frames * readers->frame;

		posix_fadvise(readers->fd, at, readers->frame,
			      POSIX_FADV_DONTNEED);
		if (pwrite(readers->fd, "y", 1, at) != 1) {
			dprintf(STDOUT_FILENO, "write: %s\n", strerror(errno));
			_exit(3);
		}
	}
	__atomic_store_n(&readers->rounds, 0, __ATOMIC_RELAXED);
	for (i = 0; i < NR_READERS; i++)
		pthread_join(thread[i], NULL);
}

TEST_F_TIMEOUT(lznt, many_runs, 2 * BUSY)
{
	struct readers readers = {
		.frame = self->frame,
		.frames = NR_RUNS / 2,
		.rounds = 1,
	};
	uint8_t *buf = malloc(self->frame);
	unsigned int i;

	if (variant->cluster != 512)
		SKIP(return, "one cluster size is enough");
	ASSERT_NE(NULL, buf);
	memset(buf, 'x', self->frame);
	readers.fd = open_file(_metadata, &self->im, "runs", O_CREAT | O_RDWR);
	make_compressed(_metadata, readers.fd);
	/* clusters and a hole */
	for (i = 0; i < readers.frames; i++)
		ASSERT_EQ(self->frame, pwrite(readers.fd, buf, self->frame,
					      i * self->frame));
	ASSERT_EQ(0, fsync(readers.fd));
	EXPECT_EQ(0, in_child(read_and_write_any_frame, &readers, BUSY));
	ASSERT_EQ(0, close(readers.fd));
	free(buf);
}

/* A file of a page.  @self->want is what it holds, and zeros past that. */
#define MAPPED_PAGES	8

static int create_page(struct __test_metadata *_metadata,
		       FIXTURE_DATA(lznt) * self)
{
	int fd = open_file(_metadata, &self->im, "plain", O_CREAT | O_RDWR);

	memset(self->want, 0, MAPPED_PAGES * self->page);
	pattern_fill(self->want, self->page, 0, 1);
	ASSERT_EQ(self->page, pwrite(fd, self->want, self->page, 0));
	return fd;
}

/* Store to a page of the mapping that is past the valid size of the file. */
static void store_past_valid(struct __test_metadata *_metadata,
			     FIXTURE_DATA(lznt) * self, uint8_t *map)
{
	size_t page = self->page, pos = 5 * page;

	pattern_fill(self->want + pos, page, pos, 1);
	memcpy(map + pos, self->want + pos, page);
	ASSERT_EQ(0, msync(map, MAPPED_PAGES * page, MS_SYNC));
}

/* Stores to a mapping that is made writable later, past the valid size. */
TEST_F(lznt, mapping_is_made_writable)
{
	size_t page = self->page, len = MAPPED_PAGES * page;
	int fd = create_page(_metadata, self);
	uint8_t *map;

	ASSERT_EQ(0, ftruncate(fd, len));
	map = map_file(_metadata, fd, len, PROT_READ);
	EXPECT_EQ(0, map[6 * page]);
	ASSERT_EQ(0, mprotect(map + 4 * page, 4 * page,
			      PROT_READ | PROT_WRITE));
	store_past_valid(_metadata, self, map);
	ASSERT_EQ(0, munmap(map, len));
	expect_small(_metadata, self, fd, "plain", len);
}

/* Nor does mremap() tell the filesystem of a page that can be stored to. */
TEST_F(lznt, mapping_is_enlarged)
{
	size_t page = self->page, len = MAPPED_PAGES * page;
	int fd = create_page(_metadata, self);
	uint8_t *map;

	ASSERT_EQ(0, ftruncate(fd, len));
	map = map_file(_metadata, fd, page, PROT_READ | PROT_WRITE);
	map = mremap(map, page, len, MREMAP_MAYMOVE);
	ASSERT_NE(MAP_FAILED, map);
	store_past_valid(_metadata, self, map);
	ASSERT_EQ(0, munmap(map, len));
	expect_small(_metadata, self, fd, "plain", len);
}

/* The page fault of a direct read, which holds the inode lock. */
static void read_into_own_mapping(void *arg)
{
	int fd = open(IMAGE_DIR "/mnt/plain", O_RDONLY | O_DIRECT);
	size_t page = sysconf(_SC_PAGESIZE);
	uint8_t *map = arg;

	/* what is read is valid, and is not */
	if (fd < 0 || pread(fd, map + 3 * page, page, 0) != page ||
	    pread(fd, map + 6 * page, page, 5 * page) != page)
		_exit(1);
}

TEST_F(lznt, direct_read_into_a_mapping)
{
	size_t page = self->page, len = MAPPED_PAGES * page;
	int fd = create_page(_metadata, self);
	uint8_t *map;

	ASSERT_EQ(0, ftruncate(fd, len));
	ASSERT_EQ(0, fsync(fd));
	map = map_file(_metadata, fd, len, PROT_READ | PROT_WRITE);
	ASSERT_EQ(0, in_child(read_into_own_mapping, map, SOON));
	memcpy(self->want + 3 * page, self->want, page);
	ASSERT_EQ(0, munmap(map, len));
	expect_small(_metadata, self, fd, "plain", len);
}

/* What is past the valid size is zeroed if it is stored to, only. */
TEST_F(lznt, what_is_not_mapped_is_not_zeroed)
{
	size_t page = self->page, len = MAPPED_PAGES * page;
	int fd = create_page(_metadata, self);
	struct stat st;
	void *map;
	int empty;

	/* Nothing is kept of an empty file. */
	empty = open_file(_metadata, &self->im, "empty", O_CREAT | O_RDWR);
	ASSERT_EQ(0, ftruncate(empty, len));
	EXPECT_EQ(0, image_cached_pages(_metadata, empty, len));
	ASSERT_EQ(0, close(empty));

	ASSERT_EQ(0, ftruncate(fd, len / 2));
	ASSERT_EQ(0, fallocate(fd, 0, 0, len));
	expect_size(_metadata, fd, len);
	map = map_file(_metadata, fd, page, PROT_READ | PROT_WRITE);
	ASSERT_EQ(0, fallocate(fd, 0, 0, len));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, len, len));
	EXPECT_EQ(1, image_cached_pages(_metadata, fd, len));
	ASSERT_EQ(0, munmap(map, page));

	/* as with a write, the file loses the privileges it has for others */
	ASSERT_EQ(0, fchmod(fd, 04755));
	setfsuid(1);
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_KEEP_SIZE, len, len));
	setfsuid(0);
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(len, st.st_size);
	EXPECT_EQ(0755, st.st_mode & 07777);
	expect_small(_metadata, self, fd, "plain", len);
}

/* Stores past EOF do not become data when the file grows. */
TEST_F(lznt, stores_behind_the_end)
{
	size_t page = self->page, len = 2 * page;
	int fd = create_page(_metadata, self);
	uint8_t *map;

	memset(self->want + page - 100, 0, 100);
	ASSERT_EQ(0, ftruncate(fd, page - 100));
	map = map_file(_metadata, fd, page, PROT_READ | PROT_WRITE);
	memset(map + page - 100, 1, 100);
	ASSERT_EQ(0, munmap(map, page));
	ASSERT_EQ(0, ftruncate(fd, len));
	expect_small(_metadata, self, fd, "plain", len);

	/* nor while a small file is mapped, that stays small at first */
	fd = create_stored(_metadata, self, "small", &map);
	memset(map + 150, 1, 100);
	memset(self->want + 100, 0, self->len - 100);
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, ftruncate(fd, RESIDENT));
	expect_data(_metadata, fd, self->want, RESIDENT, 0, "mapped");
	ASSERT_EQ(0, ftruncate(fd, len));
	expect_data(_metadata, fd, self->want, len, 0, "extended");
	ASSERT_EQ(0, munmap(map, page));
	expect_small(_metadata, self, fd, "small", len);

	/* nor what was data before */
	fd = open_file(_metadata, &self->im, "cut", O_CREAT | O_RDWR);
	ASSERT_EQ(RESIDENT, pwrite(fd, self->want, RESIDENT, 0));
	ASSERT_EQ(0, fsync(fd));
	evict(_metadata, fd, RESIDENT);
	ASSERT_EQ(0, ftruncate(fd, 50));
	map = map_file(_metadata, fd, page, PROT_READ);
	EXPECT_EQ(self->want[49], map[49]);
	EXPECT_EQ(0, map[50]);
	ASSERT_EQ(0, munmap(map, page));
	ASSERT_EQ(0, close(fd));

	/* nor if it was compressed in between, and its first frame is cached */
	fd = create_stored(_metadata, self, "later", &map);
	memset(map + 150, 1, 100);
	make_compressed(_metadata, fd);
	ASSERT_EQ(0, ftruncate(fd, self->frame));
	expect_data(_metadata, fd, self->want, self->frame, 0, "compressed");
	ASSERT_EQ(1, pwrite(fd, "", 1, self->len - 1));
	ASSERT_EQ(0, munmap(map, page));
	expect_small(_metadata, self, fd, "later", self->len);

	/* or is extended by a write */
	fd = create_stored(_metadata, self, "written", &map);
	memset(map + 150, 1, 100);
	make_compressed(_metadata, fd);
	ASSERT_EQ(1, pwrite(fd, "", 1, 199));
	ASSERT_EQ(0, ftruncate(fd, page));
	ASSERT_EQ(0, munmap(map, page));
	expect_small(_metadata, self, fd, "written", page);
}

/* The page with the old EOF has been stored to, and is again. */
TEST_F(lznt, last_page_grows_while_it_is_mapped)
{
	size_t page = self->page, end = page - 200;
	int fd = create_page(_metadata, self);
	uint8_t *map;

	ASSERT_EQ(0, ftruncate(fd, end));
	ASSERT_EQ(0, fsync(fd));
	map = map_file(_metadata, fd, page, PROT_READ | PROT_WRITE);
	/* by ftruncate() and by fallocate() */
	for (; end < page; end += 100) {
		memset(map + end - 10, 1, page - end + 10);
		ASSERT_EQ(0, end == page - 200 ? ftruncate(fd, end + 100) :
						 fallocate(fd, 0, 0, page));
		memset(self->want + end - 10, 1, 10);
		memset(self->want + end, 0, page - end);
		expect_data(_metadata, fd, self->want, end + 100, 0, "grown");
		EXPECT_EQ(0, memcmp(map, self->want, page));
		memset(map + end + 10, 2, 20);
		memset(self->want + end + 10, 2, 20);
	}
	ASSERT_EQ(0, munmap(map, page));
	expect_small(_metadata, self, fd, "plain", page);
}

/* A file grows below a mapping: old contents of the disk are past its data. */
static void expect_grows_mapped(struct __test_metadata *_metadata,
				FIXTURE_DATA(lznt) * self, bool preallocate)
{
	const struct timespec times[2] = { { 1234567890 }, { 1234567890 } };
	size_t len = MAPPED_PAGES * self->page;
	int fd = create_page(_metadata, self);
	struct stat st;
	uint8_t *map;

	map = map_file(_metadata, fd, len, PROT_READ | PROT_WRITE);
	ASSERT_EQ(0, futimens(fd, times));
	ASSERT_EQ(0, preallocate ? fallocate(fd, 0, 0, len) :
				   ftruncate(fd, len));
	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(len, st.st_size);
	EXPECT_NE(times[1].tv_sec, st.st_mtime);
	store_past_valid(_metadata, self, map);
	ASSERT_EQ(0, fsync(fd));
	/* As reclaim does, which does not wait for munmap(). */
	ASSERT_EQ(0, madvise(map, len, MADV_DONTNEED));
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	expect_data(_metadata, fd, self->want, len, 0, "mapped");
	ASSERT_EQ(0, munmap(map, len));
	expect_small(_metadata, self, fd, "plain", len);
}

TEST_F(lznt, mapped_file_is_extended)
{
	expect_grows_mapped(_metadata, self, false);
}

TEST_F(lznt, mapped_file_is_preallocated)
{
	expect_grows_mapped(_metadata, self, true);
}

static void expect_allocated(struct __test_metadata *_metadata, int fd,
			     size_t bytes)
{
	struct stat st;

	ASSERT_EQ(0, fstat(fd, &st));
	EXPECT_EQ(bytes, st.st_blocks * 512);
}

/*
 * A sparse file of MAPPED_PAGES pages, which have no clusters but for page 4.
 * Those behind it are past the valid size.
 */
static int create_sparse(struct __test_metadata *_metadata,
			 FIXTURE_DATA(lznt) * self)
{
	int fd = open_file(_metadata, &self->im, "sparse",
			   O_CREAT | O_EXCL | O_RDWR);
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	size_t len = MAPPED_PAGES * self->page, end = 5 * self->page;
	uint32_t attr = ATTR_SPARSE;

	ASSERT_EQ(0, fsetxattr(fd, "system.ntfs_attrib", &attr, sizeof(attr),
			       0));
	pattern_fill(self->want, end, 0, 1);
	ASSERT_EQ(end, pwrite(fd, self->want, end, 0));
	memset(self->want, 0, len);
	pattern_fill(self->want + end - self->page, self->page,
		     end - self->page, 1);
	ASSERT_EQ(0, ftruncate(fd, len));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, fallocate(fd, punch, 0, 4 * self->page));
	ASSERT_EQ(0, fallocate(fd, punch, 5 * self->page, 3 * self->page));
	return fd;
}

/* What is stored to has clusters, which are zero, and nothing else has. */
TEST_F(lznt, mapping_of_a_hole_gets_clusters)
{
	size_t page = self->page, len = MAPPED_PAGES * page, at;
	size_t used = page;
	int fd = create_sparse(_metadata, self);
	struct fiemap fiemap = { .fm_length = ~0ULL };
	uint8_t *map, *priv;

	expect_allocated(_metadata, fd, used);
	EXPECT_EQ(0, lseek(fd, 0, SEEK_HOLE));
	EXPECT_EQ(5 * page - used, lseek(fd, 0, SEEK_DATA));
	EXPECT_EQ(5 * page, lseek(fd, 5 * page - 1, SEEK_HOLE));
	EXPECT_EQ(len + 1, lseek(fd, 1, SEEK_END));

	map = mmap(NULL, 2 * page, PROT_READ, MAP_SHARED, fd, page);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mprotect(map, 2 * page, PROT_NONE));
	priv = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, priv);
	ASSERT_EQ(0, mprotect(priv, len, PROT_READ | PROT_WRITE));
	memset(priv, 1, len);
	ASSERT_EQ(0, munmap(priv, len));
	expect_allocated(_metadata, fd, used);
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));

	/* below the valid size */
	ASSERT_EQ(0, mprotect(map + page, page, PROT_READ | PROT_WRITE));
	expect_allocated(_metadata, fd, used);
	at = 2 * page + 100;
	pattern_fill(self->want + at, 1000, at, 1);
	memcpy(map + page + 100, self->want + at, 1000);
	used += page;
	expect_allocated(_metadata, fd, used);
	ASSERT_EQ(0, munmap(map, 2 * page));
	EXPECT_EQ(2 * page, lseek(fd, page, SEEK_DATA));
	EXPECT_EQ(3 * page, lseek(fd, 2 * page, SEEK_HOLE));

	/* above it, and past the end */
	map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		   6 * page);
	ASSERT_NE(MAP_FAILED, map);
	expect_allocated(_metadata, fd, used);
	at = 7 * page + 100;
	pattern_fill(self->want + at, 1000, at, 1);
	memcpy(map + page + 100, self->want + at, 1000);
	used += page;
	expect_allocated(_metadata, fd, used);
	ASSERT_EQ(0, munmap(map, 3 * page));
	ASSERT_EQ(0, fsync(fd));
	expect_allocated(_metadata, fd, used);
	ASSERT_EQ(0, ioctl(fd, FS_IOC_FIEMAP, &fiemap));
	EXPECT_LE(3, fiemap.fm_mapped_extents);

	ASSERT_EQ(0, fallocate(fd, 0, 0, page));
	used += page;
	expect_allocated(_metadata, fd, used);
	expect_small(_metadata, self, fd, "sparse", len);
}

static void remount_delalloc(struct __test_metadata *_metadata,
			     struct image *im, int fd)
{
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, image_umount(im));
	ASSERT_EQ(0, image_mount(im, "ntfs3", 0, "delalloc"));
}

/* With "delalloc", they are allocated by writeback. */
TEST_F(lznt, mapping_of_a_hole_gets_clusters_later)
{
	size_t page = self->page, len = MAPPED_PAGES * page;
	uint8_t *map;
	int fd;

	remount_delalloc(_metadata, &self->im, self->fd);
	self->fd = open_file(_metadata, &self->im, "file", O_RDWR);
	fd = create_sparse(_metadata, self);
	map = map_file(_metadata, fd, len, PROT_READ | PROT_WRITE);
	map[5 * page] = 1;
	expect_allocated(_metadata, fd, page);
	store_past_valid(_metadata, self, map);
	expect_allocated(_metadata, fd, 2 * page);
	ASSERT_EQ(0, munmap(map, len));
	expect_small(_metadata, self, fd, "sparse", len);
}

TEST_F(lznt, no_space_for_a_mapping_of_a_hole)
{
	size_t page = self->page, len = MIB(1);
	int fd = create_sparse(_metadata, self);
	uint8_t *map;

	ASSERT_EQ(0, ftruncate(fd, len));
	fill_volume(_metadata, &self->im);
	map = map_file(_metadata, fd, len, PROT_READ | PROT_WRITE);
	/* in front of a page with clusters, and past the valid size */
	EXPECT_EQ(-EINTR, in_child(store, map, SOON));
	EXPECT_EQ(-EINTR, in_child(store, map + len - page, SOON));
	ASSERT_EQ(0, munmap(map, len));
	ASSERT_EQ(0, image_run("rm %s/filler*", self->im.mnt));
	expect_small(_metadata, self, fd, "sparse", MAPPED_PAGES * page);
}

static void *read_slowly(void *arg)
{
	uint8_t byte;

	return (void *)(long)pread(*(int *)arg, &byte, 1, 0);
}

/* A read that waits for the disk does not keep fsync() from writing. */
TEST_F_TIMEOUT(lznt, synced_while_it_is_read, 2 * BUSY)
{
	const struct timespec times[2] = { { 1234567890 }, { 1234567890 } };
	const uint64_t stamp = htole64((1234567890 + 11644473600) * 10000000);
	uint8_t *image = malloc(IMAGE_SIZE);
	pthread_t thread;
	void *n;
	int fd;

	ASSERT_NE(NULL, image);
	move_to_faultfs(_metadata, self);
	fd = open(self->im.path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	drop_clean_caches();
	fail_writes(_metadata, "delay=1000");
	ASSERT_EQ(0, pthread_create(&thread, NULL, read_slowly, &self->fd));
	poll(NULL, 0, 500);
	fail_writes(_metadata, "delay=0");
	ASSERT_EQ(0, futimens(self->fd, times));
	ASSERT_EQ(0, fsync(self->fd));
	ASSERT_EQ(0, pthread_join(thread, &n));
	EXPECT_EQ(1, (long)n);
	ASSERT_EQ(IMAGE_SIZE, pread(fd, image, IMAGE_SIZE, 0));
	EXPECT_NE(NULL, memmem(image, IMAGE_SIZE, &stamp, sizeof(stamp)));
	ASSERT_EQ(0, close(fd));
	expect_file(_metadata, self);
	free(image);
}

/* With "dirsync", a rename is on the disk when it returns. */
TEST_F(lznt, rename_is_synchronous)
{
	struct image copy = { .path = IMAGE_DIR "/copy",
			      .mnt = IMAGE_DIR "/copy.mnt" };
	int fd;

	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	ASSERT_EQ(0, image_mount(&self->im, "ntfs3", MS_DIRSYNC, NULL));
	ASSERT_EQ(0, chdir(self->im.mnt));
	ASSERT_EQ(0, mkdir("a", 0700));
	ASSERT_EQ(0, mkdir("b", 0700));
	ASSERT_EQ(0, rename("file", "a/old"));
	fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, syncfs(fd));
	ASSERT_EQ(0, rename("a/old", "a/older"));
	ASSERT_EQ(0, rename("a/older", "b/new"));
	/* The directories are unlocked. */
	ASSERT_EQ(0, mkdir("a/dir", 0700));
	ASSERT_EQ(0, mkdir("b/dir", 0700));

	/* what a crash would leave */
	ASSERT_EQ(0, image_run("cp %s %s", self->im.path, copy.path));
	ASSERT_EQ(0, mkdir(copy.mnt, 0700));
	ASSERT_EQ(0, image_mount(&copy, "ntfs3", MS_RDONLY, NULL));
	ASSERT_EQ(0, chdir(copy.mnt));
	EXPECT_EQ(0, access("b/new", F_OK))
		TH_LOG("%s", strerror(errno));
	EXPECT_EQ(-1, access("a/old", F_OK));
	EXPECT_EQ(ENOENT, errno);
	ASSERT_EQ(0, chdir("/"));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, image_umount(&copy));
}

/* The bitmap of a directory does not fit into the MFT record at some point. */
TEST_F(lznt, directory_grows)
{
	const char *dir = IMAGE_DIR "/mnt/dir";
	const unsigned int nr = 500;
	char filler[400] = "", name[200];
	unsigned int i;

	ASSERT_EQ(0, mkdir(dir, 0700));
	ASSERT_EQ(0, setxattr(dir, "user.filler", filler, sizeof(filler), 0));
	ASSERT_EQ(0, chdir(dir));
	for (i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), "%0150u", i);
		ASSERT_EQ(0, mknod(name, 0600, 0));
	}
	ASSERT_EQ(0, chdir("/"));
	remount(_metadata, self);
	EXPECT_EQ(0, image_run("test $(ls %s | wc -l) = %u", dir, nr));
	ASSERT_EQ(0, chdir(dir));
	for (i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), "%0150u", i);
		ASSERT_EQ(0, access(name, F_OK))
			TH_LOG("%u: %s", i, strerror(errno));
	}
	ASSERT_EQ(0, chdir("/"));
}

/* A write that waits for its buffer, after it has copied what is in @head. */
struct late_write {
	int fd;
	void *buf;
	void *head;
	size_t head_len;
};

static void *write_late(void *arg)
{
	struct late_write *late = arg;
	struct iovec iov[] = { { late->head, late->head_len }, { late->buf, 16 } };

	return (void *)(long)pwritev(late->fd, iov, ARRAY_SIZE(iov), 0);
}

static void *sync_now(void *arg)
{
	struct late_write *late = arg;

	return (void *)(long)fsync(late->fd);
}

/* Returns a userfaultfd that tells of an access to the buffer. */
static int watch_buffer(struct __test_metadata *_metadata,
			struct late_write *late, size_t page)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int uffd;

	late->buf = mmap(NULL, page, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, late->buf);
	reg.range.start = (unsigned long)late->buf;
	reg.range.len = page;
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	if (uffd < 0)
		SKIP(exit(KSFT_SKIP), "needs CONFIG_USERFAULTFD");
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_API, &api));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_REGISTER, &reg));
	return uffd;
}

static void *store_page(void *arg)
{
	return memset(arg, 1, sysconf(_SC_PAGESIZE));
}

/* The kernel stores to the page, and has to see the signal. */
static ssize_t read_zeros(void *page)
{
	return read(open("/dev/zero", O_RDONLY), page, sysconf(_SC_PAGESIZE));
}

/*
 * A store past the valid size waits for a write(), which waits for its buffer,
 * and a process that waits for it can be killed.
 */
TEST_F(lznt, stored_to_during_a_write)
{
	size_t page = self->page, len = MAPPED_PAGES * page;
	struct late_write late = { .fd = create_page(_metadata, self) };
	int uffd = watch_buffer(_metadata, &late, page);
	struct uffdio_zeropage zero = {
		.range = { (unsigned long)late.buf, page },
	};
	pthread_t writer, storer;
	struct uffd_msg msg;
	uint8_t *map;
	int status;
	pid_t pid;
	void *n;

	ASSERT_EQ(0, ftruncate(late.fd, len));
	ASSERT_EQ(0, pthread_create(&writer, NULL, write_late, &late));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));
	map = map_file(_metadata, late.fd, len, PROT_READ | PROT_WRITE);
	pid = fork();
	ASSERT_NE(-1, pid);
	if (!pid)
		_exit(read_zeros(map + 7 * page) < 0);
	/* the page that is valid does not wait */
	store_page(map);
	memset(self->want, 1, page);
	ASSERT_EQ(0, pthread_create(&storer, NULL, store_page, map + 5 * page));
	usleep(100 * 1000);
	EXPECT_EQ(EBUSY, pthread_tryjoin_np(storer, &n));
	ASSERT_EQ(0, kill(pid, SIGKILL));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(SIGKILL, status);
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	ASSERT_EQ(0, pthread_join(writer, &n));
	ASSERT_EQ(16, (long)n);
	memset(self->want, 0, 16);
	ASSERT_EQ(0, pthread_join(storer, &n));
	memset(self->want + 5 * page, 1, page);
	ASSERT_EQ(0, munmap(map, len));
	ASSERT_EQ(0, close(uffd));
	expect_small(_metadata, self, late.fd, "plain", len);
}

/* munmap() leaves what a write() has copied already. */
TEST_F(lznt, unmapped_during_a_write)
{
	size_t page = self->page;
	struct late_write late = {
		.fd = create_page(_metadata, self),
		.head = self->want,
		.head_len = 2 * page,
	};
	int uffd = watch_buffer(_metadata, &late, page);
	struct uffdio_zeropage zero = {
		.range = { (unsigned long)late.buf, page },
	};
	struct uffd_msg msg;
	pthread_t writer;
	uint8_t *map;
	void *n;

	pattern_fill(self->want, 2 * page, 0, 2);
	map = map_file(_metadata, late.fd, page, PROT_READ | PROT_WRITE);
	ASSERT_EQ(0, pthread_create(&writer, NULL, write_late, &late));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));
	ASSERT_EQ(0, munmap(map, page));
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_ZEROPAGE, &zero));
	ASSERT_EQ(0, pthread_join(writer, &n));
	ASSERT_EQ(2 * page + 16, (long)n);
	ASSERT_EQ(0, close(uffd));
	expect_small(_metadata, self, late.fd, "plain", 2 * page + 16);
}

/*
 * What fsync() has returned 0 for is on the disk. The write changes the MFT
 * record @ms after another fsync() has begun to write it, to a slow disk.
 */
static bool is_synced(struct __test_metadata *_metadata, struct late_write *late,
		      int uffd, int image, off_t pos, unsigned int ms)
{
	size_t page = sysconf(_SC_PAGESIZE);
	char *data = aligned_alloc(page, page), got[16];
	struct pollfd pfd = { .fd = uffd, .events = POLLIN };
	struct uffdio_copy copy = {
		.dst = (unsigned long)late->buf,
		.src = (unsigned long)data,
		.len = page,
	};
	pthread_t writer, syncer;
	struct uffd_msg msg;
	bool same;
	void *n;

	ASSERT_NE(NULL, data);
	memset(data, 0, page);
	snprintf(data, 16, "after %u ms", ms);
	ASSERT_EQ(0, madvise(late->buf, page, MADV_DONTNEED));
	ASSERT_EQ(0, pthread_create(&writer, NULL, write_late, late));
	ASSERT_EQ(1, poll(&pfd, 1, SOON * 1000));
	ASSERT_EQ(sizeof(msg), read(uffd, &msg, sizeof(msg)));
	fail_writes(_metadata, "delay=100");
	ASSERT_EQ(0, pthread_create(&syncer, NULL, sync_now, late));
	poll(NULL, 0, ms);
	ASSERT_EQ(0, ioctl(uffd, UFFDIO_COPY, &copy));
	ASSERT_EQ(0, pthread_join(writer, &n));
	ASSERT_EQ(16, (long)n);
	ASSERT_EQ(0, pthread_join(syncer, &n));
	ASSERT_EQ(0, (long)n);
	fail_writes(_metadata, "delay=0");
	ASSERT_EQ(0, fsync(late->fd));
	ASSERT_EQ(16, pread(image, got, 16, pos));
	same = !memcmp(got, data, 16);
	free(data);
	return same;
}

TEST_F_TIMEOUT(lznt, resident_file_is_written_and_synced, 2 * BUSY)
{
	static const char first[] = "first: where is it?";
	struct late_write late = {};
	unsigned int ms, lost = 0;
	int image, uffd;
	uint8_t *buf;
	off_t pos;

	move_to_faultfs(_metadata, self);
	late.fd = open_file(_metadata, &self->im, "plain", O_CREAT | O_RDWR);
	ASSERT_EQ(sizeof(first), pwrite(late.fd, first, sizeof(first), 0));
	ASSERT_EQ(0, fsync(late.fd));
	image = open(self->im.path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(image, 0);
	buf = malloc(IMAGE_SIZE);
	ASSERT_NE(NULL, buf);
	ASSERT_EQ(IMAGE_SIZE, pread(image, buf, IMAGE_SIZE, 0));
	pos = (uint8_t *)memmem(buf, IMAGE_SIZE, first, sizeof(first)) - buf;
	ASSERT_GE(pos, 0);
	free(buf);

	uffd = watch_buffer(_metadata, &late, self->page);
	for (ms = 20; ms < 600; ms += 40)
		lost += !is_synced(_metadata, &late, uffd, image, pos, ms);
	EXPECT_EQ(0, lost)
		TH_LOG("%u writes were not on the disk after fsync()", lost);
	ASSERT_EQ(0, close(uffd));
	ASSERT_EQ(0, close(image));
	ASSERT_EQ(0, close(late.fd));
}

/* fsync() and synchronous writes report an error of the device. */
TEST_F(lznt, device_fails)
{
	size_t frame = self->frame;
	int fd;

	move_to_faultfs(_metadata, self);
	fd = open_file(_metadata, &self->im, "file", O_RDWR | O_DSYNC);
	write_at(_metadata, self, 100, 10, 2);
	ASSERT_EQ(0, fsync(self->fd));
	pattern_fill(self->want + frame, frame, frame, 3);
	fail_writes(_metadata, "fail=eio,fail_op=write");
	EXPECT_EQ(-1, pwrite(fd, self->want + frame, frame, frame));
	EXPECT_EQ(EIO, errno);
	ASSERT_EQ(frame, pwrite(self->fd, self->want + frame, frame, frame));
	/* A write that fails has nothing to sync, and no error of that. */
	EXPECT_EQ(-EFAULT, write_from_hole(_metadata, self, fd, NULL, 0, 10,
					   frame));
	EXPECT_EQ(-1, fsync(self->fd));
	EXPECT_EQ(EIO, errno);
	fail_writes(_metadata, "fail=none");
	/* Where the data has been is undefined; write it again. */
	ASSERT_EQ(frame, pwrite(fd, self->want + frame, frame, frame));
	EXPECT_EQ(0, fsync(self->fd));
	ASSERT_EQ(0, close(fd));
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	/* The volume is marked dirty after the errors. */
	ASSERT_EQ(0, image_mount(&self->im, "ntfs3", 0, "force"));
	self->fd = open_file(_metadata, &self->im, "file", O_RDWR);
	expect_data(_metadata, self->fd, self->want, self->len, 0,
		    "after remount");
}

/* With O_DSYNC the data is on the disk when the write returns. */
TEST_F(lznt, synchronous_write)
{
	static const char marker[] = "is on the disk";
	size_t frame = self->frame;
	uint8_t *image;
	int fd;

	fd = open_file(_metadata, &self->im, "file", O_RDWR | O_DSYNC);
	memcpy(self->want + frame, marker, sizeof(marker));
	for (unsigned int i = 0; i < sizeof(marker); i++)
		ASSERT_EQ(1, pwrite(fd, marker + i, 1, frame + i));
	ASSERT_EQ(0, close(fd));
	fd = open(self->im.path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	image = map_file(_metadata, fd, IMAGE_SIZE, PROT_READ);
	/* The first eight bytes are literal, then there is a byte of flags. */
	EXPECT_NE(NULL, memmem(image, IMAGE_SIZE, marker, 8));
	ASSERT_EQ(0, munmap(image, IMAGE_SIZE));
	ASSERT_EQ(0, close(fd));
	expect_file(_metadata, self);
}

/* Whole frames can become holes, parts of them cannot. */
TEST_F(lznt, punches_whole_frames_only)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct fiemap fiemap = { .fm_length = ~0ULL };
	size_t frame = self->frame;

	EXPECT_EQ(-1, ioctl(self->fd, FS_IOC_FIEMAP, &fiemap));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(self->fd, punch, frame + 100, 1000));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(self->fd, punch, frame, frame + self->page));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, fallocate(self->fd, punch, frame - 1, frame + 1));
	EXPECT_EQ(EOPNOTSUPP, errno);
	expect_file(_metadata, self);
	memset(self->want + frame, 0, frame);
	ASSERT_EQ(0, fallocate(self->fd, punch, frame, frame));
	expect_file(_metadata, self);
}

/* Preallocated clusters are zero, whatever the device has cached of them. */
TEST_F(lznt, preallocates_a_hole)
{
	size_t frame = self->frame;
	int fd;

	pattern_fill(self->want, self->len, 0, 1);
	fd = open_file(_metadata, &self->im, "gone", O_CREAT | O_RDWR);
	make_compressed(_metadata, fd);
	for (unsigned int i = 0; i < 16; i++)
		ASSERT_EQ(self->len, pwrite(fd, self->want, self->len,
					    i * self->len));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, image_run("rm %s/gone", self->im.mnt));

	memset(self->want, 0, self->len);
	fd = open_file(_metadata, &self->im, "holes", O_CREAT | O_RDWR);
	make_compressed(_metadata, fd);
	self->want[self->len - 1] = 1;
	ASSERT_EQ(1, pwrite(fd, self->want + self->len - 1, 1, self->len - 1));
	ASSERT_EQ(0, fallocate(fd, 0, 0, 2 * frame));
	expect_small(_metadata, self, fd, "holes", self->len);
}

/* Anything in any order against a model in memory. */
TEST_F_TIMEOUT(lznt, random_writes, 60)
{
	unsigned int i, seed = variant->cluster;
	size_t len, size = self->len;
	off_t pos;

	for (i = 0; i < 200 && !_metadata->exit_code; i++) {
		pos = rand_r(&seed) % self->len;
		len = 1 + rand_r(&seed) % (2 * self->frame);
		if (rand_r(&seed) % 4 == 0)
			pos -= pos % self->frame;
		if (len > self->len - pos)
			len = self->len - pos;
		switch (rand_r(&seed) % 8) {
		case 0:
			memset(self->want + pos, 0, self->len - pos);
			ASSERT_EQ(0, ftruncate(self->fd, pos));
			size = pos;
			continue;
		case 1:
			ASSERT_EQ(0, ftruncate(self->fd, self->len));
			size = self->len;
			continue;
		case 2:
			pattern_fill(self->want + pos, len, pos, i);
			EXPECT_EQ(len, write_from_hole(_metadata, self,
						       self->fd,
						       self->want + pos, len,
						       self->len, pos));
			break;
		default:
			write_at(_metadata, self, pos, len,
				 rand_r(&seed) % 100);
		}
		if (size < pos + len)
			size = pos + len;
		expect_size(_metadata, self->fd, size);
		if (rand_r(&seed) % 3 == 0)
			posix_fadvise(self->fd, pos / 2, len,
				      POSIX_FADV_DONTNEED);
		if (rand_r(&seed) % 3 == 0)
			expect_data(_metadata, self->fd, self->want + pos,
				    len, pos, "random");
	}
	if (_metadata->exit_code)
		TH_LOG("after %u writes", i);
	ASSERT_EQ(0, ftruncate(self->fd, self->len));
	expect_file(_metadata, self);
}

/* Readers see what one of two writes wrote, and the last one is what stays. */
struct contest {
	int fd;
	size_t len;
	uint8_t *data[2];
	bool done;
	bool bad;
	void *(*read)(void *arg);	/* until @done */
	void (*change)(struct contest *contest);
};

#define TRACING	"/sys/kernel/tracing"
#define TRACE	TRACING "/instances/ntfs3_test"

static int trace_set(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), TRACE "/%s", name);
	return write_string(path, value);
}

/* Record how this task allocates pages of @order. */
static int trace_start(unsigned int order)
{
	char pid[16], filter[32];
	int err;

	if (mount("tracefs", TRACING, "tracefs", 0, NULL) && errno != EBUSY)
		return -errno;
	rmdir(TRACE);	/* of a test that was killed */
	if (mkdir(TRACE, 0700))
		return -errno;
	snprintf(pid, sizeof(pid), "%d", getpid());
	snprintf(filter, sizeof(filter), "order == %u", order);
	err = trace_set("set_event_pid", pid);
	if (!err)
		err = trace_set("events/kmem/mm_page_alloc/filter", filter);
	if (!err)
		err = trace_set("events/kmem/mm_page_alloc/enable", "1");
	return err;
}

/* Returns how many were recorded, and in @fs, how many could enter a filesystem. */
static int trace_stop(int *fs)
{
	FILE *file = fopen(TRACE "/trace", "re");
	char line[512];
	int nr = 0;

	*fs = 0;
	while (file && fgets(line, sizeof(line), file)) {
		if (!strstr(line, "mm_page_alloc:"))
			continue;
		nr++;
		if (strstr(line, "GFP_KERNEL") || strstr(line, "__GFP_FS"))
			(*fs)++;
	}
	if (file)
		fclose(file);
	trace_set("events/kmem/mm_page_alloc/enable", "0");
	rmdir(TRACE);
	return nr;
}

#define PF_MEMALLOC_NOFS	0x00040000

static unsigned int task_flags(struct __test_metadata *_metadata)
{
	FILE *file = fopen("/proc/self/stat", "re");
	unsigned int flags;

	ASSERT_NE(NULL, file);
	ASSERT_EQ(1, fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %u",
			    &flags));
	fclose(file);
	return flags;
}

/*
 * The folios of the frame are locked while it is read and written.  Reclaim for
 * the buffers must not enter the filesystem, which could wait for one of them.
 */
TEST_F(lznt, buffers_of_a_frame_are_allocated_without_fs)
{
	size_t frame = self->frame;
	int err, fs, nr;

	/* Smaller buffers come from slabs. */
	if (frame < 4 * self->page)
		SKIP(return, "frames of %zu bytes", frame);
	remount(_metadata, self);
	err = trace_start(__builtin_ctzl(frame / self->page));
	if (err == -ENODEV || err == -ENOENT)
		SKIP(return, "no tracing (CONFIG_ENABLE_DEFAULT_TRACERS)");
	ASSERT_EQ(0, err);
	EXPECT_EQ(1, pwrite(self->fd, self->want + frame + 100, 1, frame + 100));
	nr = trace_stop(&fs);
	EXPECT_LE(1, nr);
	EXPECT_EQ(0, fs);
	/* What is allocated later can. */
	EXPECT_FALSE(task_flags(_metadata) & PF_MEMALLOC_NOFS);
	expect_file(_metadata, self);
}

struct failing_io {
	int fd;
	uint8_t *data;
	size_t len;
	off_t pos;
};

static long failing_write(void *arg)
{
	struct failing_io *io = arg;
	ssize_t n = pwrite(io->fd, io->data, io->len, io->pos);

	return n < 0 ? -errno : n;
}

static long failing_read(void *arg)
{
	struct failing_io *io = arg;
	ssize_t n = pread(io->fd, io->data, io->len, io->pos);

	return n < 0 ? -errno : n;
}

static long write_and_read(void *arg)
{
	struct failing_io *io = arg;
	uint8_t byte;

	if (failing_write(io) != io->len)
		return -errno;
	posix_fadvise(io->fd, 0, 0, POSIX_FADV_DONTNEED);
	return pread(io->fd, &byte, 1, 2 * io->pos);
}

TEST_F_TIMEOUT(lznt, no_memory_is_left, 4 * BUSY)
{
	struct failing_io io = {
		self->fd, self->want + self->frame, 10, self->frame
	};

	expect_no_leak(_metadata, write_and_read, &io);
	expect_file(_metadata, self);
}

/* A write without memory changes nothing, or has written what it returns. */
static void expect_writes_without_memory(struct __test_metadata *_metadata,
					 FIXTURE_DATA(lznt) * self, off_t pos,
					 size_t len)
{
	struct failing_io io = { self->fd, malloc(len), len, pos };
	unsigned int nth, failed = 0;
	size_t size = self->len;
	bool left = false;

	ASSERT_NE(NULL, io.data);
	pattern_fill(io.data, len, pos, 3);
	for (nth = 1; !left && nth < 1000; nth++) {
		long n;

		ASSERT_EQ(0, fsync(self->fd));
		ASSERT_EQ(0, posix_fadvise(self->fd, 0, 0,
					   POSIX_FADV_DONTNEED));
		n = call_failing(nth, failing_write, &io, &left);
		if (n < 0) {
			failed++;
			ASSERT_EQ(-ENOMEM, n)
				TH_LOG("allocation %u", nth);
			expect_size(_metadata, self->fd, size);
			expect_data(_metadata, self->fd, self->want, size, 0,
				    "as it was");
			continue;
		}
		ASSERT_EQ(len, n)
			TH_LOG("allocation %u", nth);
		expect_data(_metadata, self->fd, io.data, len, pos, "written");
		if (pos + len > size) {
			/* The next one has to extend the file again. */
			ASSERT_EQ(0, ftruncate(self->fd, size));
			continue;
		}
		ASSERT_EQ(len, pwrite(self->fd, self->want + pos, len, pos));
	}
	EXPECT_TRUE(left);
	EXPECT_LT(2, failed);
	free(io.data);
	expect_file(_metadata, self);
}

TEST_F(lznt, no_memory_for_a_frame)
{
	prepare_failing(_metadata);
	expect_writes_without_memory(_metadata, self, self->frame, self->frame);
}

TEST_F(lznt, no_memory_for_a_part_of_a_frame)
{
	prepare_failing(_metadata);
	expect_writes_without_memory(_metadata, self, self->frame + 100, 1000);
}

TEST_F(lznt, no_memory_behind_a_hole)
{
	prepare_failing(_metadata);
	/* The last frame is read, and zeroed past EOF. */
	self->len -= self->frame / 2;
	ASSERT_EQ(0, ftruncate(self->fd, self->len));
	expect_writes_without_memory(_metadata, self,
				     self->len + 2 * self->frame, 1000);
}

/* A small file that was made compressed is as it was, in the MFT record or not. */
TEST_F(lznt, no_memory_for_a_small_compressed_file)
{
	struct failing_io io = { .len = 10, .pos = 50 };
	uint8_t data[10];
	unsigned int nth, failed = 0;
	bool left = false;

	prepare_failing(_metadata);
	io.data = data;
	pattern_fill(data, sizeof(data), io.pos, 3);
	for (nth = 1; !left && nth < 1000; nth++) {
		long n;

		io.fd = create_small(_metadata, self, "small", true);
		n = call_failing(nth, failing_write, &io, &left);
		if (n < 0) {
			failed++;
			ASSERT_EQ(-ENOMEM, n)
				TH_LOG("allocation %u", nth);
			evict(_metadata, io.fd, 100);
			expect_data(_metadata, io.fd, self->want, 100, 0,
				    "as it was");
		}
		ASSERT_EQ(0, close(io.fd));
		ASSERT_EQ(0, image_run("rm %s/small", self->im.mnt));
	}
	EXPECT_TRUE(left);
	EXPECT_LT(2, failed);
}

/* Returns how many of the allocations of a read of page @nr make it fail. */
static unsigned int
expect_reads_without_memory(struct __test_metadata *_metadata, int fd,
			    const uint8_t *want, size_t len, unsigned int nr)
{
	uint8_t byte;
	struct failing_io io = { fd, &byte, 1, nr * sysconf(_SC_PAGESIZE) };
	unsigned int nth, failed = 0;
	bool left = false;
	long n;

	for (nth = 1; !left && nth < 1000; nth++) {
		drop_clean_caches();
		n = call_failing(nth, failing_read, &io, &left);
		if (n != 1) {
			failed++;
			ASSERT_EQ(-ENOMEM, n)
				TH_LOG("allocation %u", nth);
		}
		expect_data(_metadata, fd, want, len, 0, "after it");
	}
	EXPECT_TRUE(left);
	return failed;
}

/* The page before the one that is read is in use, and is not read again. */
TEST_F(lznt, no_memory_for_a_read)
{
	size_t frame = self->frame, page = self->page;
	uint8_t *map;

	prepare_failing(_metadata);
	map = mmap(NULL, page, PROT_READ, MAP_SHARED | MAP_POPULATE, self->fd,
		   frame);
	ASSERT_NE(MAP_FAILED, map);
	edit_frame(_metadata, self, 1, 3);
	/* An array, the other pages of the frame, and a page for this one. */
	EXPECT_LE(frame / page,
		  expect_reads_without_memory(_metadata, self->fd, self->want,
					      self->len, frame / page + 1));
	EXPECT_EQ(self->want[frame], map[0]);

	/* No allocation that must not sleep is needed. */
	ASSERT_EQ(0, image_set(FAIL_PAGE "ignore-gfp-wait", "Y"));
	ASSERT_EQ(0, image_set(FAIL_PAGE "task-filter", "Y"));
	ASSERT_EQ(0, image_set(FAIL_PAGE "probability", "100"));
	ASSERT_EQ(0, write_string("/proc/self/make-it-fail", "1"));
	drop_clean_caches();
	expect_data(_metadata, self->fd, self->want, self->len, 0, "atomic");
	ASSERT_EQ(0, munmap(map, page));
}

/* Grow a file in one of these ways to MAPPED_PAGES pages. */
static long failing_truncate(void *arg)
{
	struct failing_io *io = arg;

	return ftruncate(io->fd, io->len) ? -errno : 0;
}

static long failing_fallocate(void *arg)
{
	struct failing_io *io = arg;

	return fallocate(io->fd, 0, 0, io->len) ? -errno : 0;
}

static long failing_extend(void *arg)
{
	struct failing_io *io = arg;
	uint8_t zero = 0;

	return pwrite(io->fd, &zero, 1, io->len - 1) == 1 ? 0 : -errno;
}

/* A page fault that lacks memory is repeated. */
static long failing_store(void *arg)
{
	struct failing_io *io = arg;

	io->data[io->len - 1] = 0;
	return 0;
}

/*
 * @call grows a file of @size bytes, or stores to it after that, without memory.
 * If it returns 0, what is stored is kept.
 */
static void expect_grows_without_memory(struct __test_metadata *_metadata,
					FIXTURE_DATA(lznt) * self, size_t size,
					long (*call)(void *arg))
{
	const struct timespec times[2] = { { 1234567890 }, { 1234567890 } };
	struct failing_io io = { .len = MAPPED_PAGES * self->page };
	bool left = false;
	unsigned int nth, failed = 0;
	struct stat st;
	long ret;

	prepare_failing(_metadata);
	for (nth = 1; !left && nth < 1000; nth++) {
		io.fd = open_file(_metadata, &self->im, "plain",
				  O_CREAT | O_EXCL | O_RDWR);
		memset(self->want, 0, io.len);
		pattern_fill(self->want, size, 0, nth);
		ASSERT_EQ(size, pwrite(io.fd, self->want, size, 0));
		io.data = map_file(_metadata, io.fd, io.len,
				   PROT_READ | PROT_WRITE);
		if (call == failing_store)
			ASSERT_EQ(0, ftruncate(io.fd, io.len));
		ASSERT_EQ(0, fsync(io.fd));
		ASSERT_EQ(0, posix_fadvise(io.fd, 0, 0, POSIX_FADV_DONTNEED));
		ASSERT_EQ(0, futimens(io.fd, times));
		ret = call_failing(nth, call, &io, &left);
		ASSERT_EQ(0, fstat(io.fd, &st));
		if (ret) {
			failed++;
			EXPECT_EQ(-ENOMEM, ret)
				TH_LOG("allocation %u", nth);
			EXPECT_TRUE(call == failing_extend ||
				    st.st_mtime == times[1].tv_sec);
		} else {
			EXPECT_EQ(io.len, st.st_size);
			EXPECT_NE(times[1].tv_sec, st.st_mtime);
			store_past_valid(_metadata, self, io.data);
			ASSERT_EQ(0, madvise(io.data, io.len, MADV_DONTNEED));
			ASSERT_EQ(0, posix_fadvise(io.fd, 0, 0,
						   POSIX_FADV_DONTNEED));
		}
		expect_data(_metadata, io.fd, self->want, st.st_size, 0,
			    "after it");
		ASSERT_EQ(0, munmap(io.data, io.len));
		ASSERT_EQ(0, close(io.fd));
		ASSERT_EQ(0, image_run("rm %s/plain", self->im.mnt));
	}
	EXPECT_TRUE(left);
	/* A store is repeated, and does not fail. */
	EXPECT_LT(2, call == failing_store ? nth - 1 : failed);
}

TEST_F(lznt, no_memory_to_store)
{
	expect_grows_without_memory(_metadata, self, self->page, failing_store);
}

TEST_F(lznt, no_memory_to_extend_a_resident_file)
{
	expect_grows_without_memory(_metadata, self, RESIDENT,
				    failing_truncate);
}

TEST_F(lznt, no_memory_to_preallocate_a_resident_file)
{
	expect_grows_without_memory(_metadata, self, RESIDENT,
				    failing_fallocate);
}

TEST_F(lznt, no_memory_to_write_to_a_resident_file)
{
	expect_grows_without_memory(_metadata, self, RESIDENT, failing_extend);
}

static void *read_one_or_the_other(void *arg)
{
	struct contest *contest = arg;
	uint8_t *got = malloc(contest->len);
	size_t i;

	while (!__atomic_load_n(&contest->done, __ATOMIC_ACQUIRE)) {
		posix_fadvise(contest->fd, 0, 0, POSIX_FADV_DONTNEED);
		if (pread(contest->fd, got, contest->len, 0) != contest->len)
			contest->bad = true;
		for (i = 0; i < contest->len; i++)
			if (got[i] != contest->data[0][i] &&
			    got[i] != contest->data[1][i])
				contest->bad = true;
	}
	free(got);
	return NULL;
}

/* For in_child(): readers, while this thread changes the file. */
static void change_while_reading(void *arg)
{
	struct contest *contest = arg;
	pthread_t thread[NR_READERS];
	unsigned int i;

	for (i = 0; i < NR_READERS; i++)
		if (pthread_create(&thread[i], NULL, contest->read, contest))
			_exit(2);
	contest->change(contest);
	__atomic_store_n(&contest->done, true, __ATOMIC_RELEASE);
	for (i = 0; i < NR_READERS; i++)
		pthread_join(thread[i], NULL);
	if (contest->bad)
		_exit(1);
}

static void write_again_and_again(struct contest *contest)
{
	for (unsigned int i = 0; i < 200; i++) {
		/* In one piece, or in two that need the rest to be read. */
		size_t cut = i & 2 ? contest->len / 3 : contest->len;
		const uint8_t *data = contest->data[~i & 1];

		if (pwrite(contest->fd, data, cut, 0) != cut ||
		    pwrite(contest->fd, data + cut, contest->len - cut, cut) !=
		    contest->len - cut)
			contest->bad = true;
	}
}

TEST_F_TIMEOUT(lznt, concurrent_readers_and_a_writer, 2 * BUSY)
{
	struct contest contest = {
		.fd = self->fd,
		.len = self->len,
		.data = { self->want, malloc(self->len) },
		.read = read_one_or_the_other,
		.change = write_again_and_again,
	};

	ASSERT_NE(NULL, contest.data[1]);
	fill_frames(contest.data[1], self->frame, 2);
	ASSERT_EQ(0, in_child(change_while_reading, &contest, BUSY));
	expect_file(_metadata, self);
}

static void *read_or_nothing(void *arg)
{
	struct contest *contest = arg;
	unsigned int seed = gettid();
	int fds[2];

	/* Unlike read(), splice() does not wait for the truncation. */
	if (pipe(fds))
		_exit(3);
	while (!__atomic_load_n(&contest->done, __ATOMIC_ACQUIRE)) {
		off_t pos = contest->len - 1 -
			    rand_r(&seed) % (contest->len / NR_FRAMES);
		off_t at = pos;
		uint8_t byte = 0;
		ssize_t n;

		posix_fadvise(contest->fd, 0, 0, POSIX_FADV_DONTNEED);
		n = splice(contest->fd, &at, fds[1], NULL, 1, 0);
		if (n < 0 || (n && read(fds[0], &byte, 1) != 1) ||
		    (byte && byte != contest->data[0][pos]))
			contest->bad = true;
	}
	return NULL;
}

static void truncate_again_and_again(struct contest *contest)
{
	/* The first page of the last frame stays: its lock is waited for. */
	off_t keep = contest->len - contest->len / NR_FRAMES + 1;
	double end = now() + 2;

	while (now() < end && !contest->bad)
		if (ftruncate(contest->fd, keep) ||
		    pwrite(contest->fd, contest->data[0] + keep,
			   contest->len - keep, keep) != contest->len - keep)
			contest->bad = true;
}

/* A page that is truncated while its frame is read is no error. */
TEST_F_TIMEOUT(lznt, concurrent_readers_and_truncation, 2 * BUSY)
{
	struct contest contest = {
		.fd = self->fd,
		.len = self->len,
		.data = { self->want },
		.read = read_or_nothing,
		.change = truncate_again_and_again,
	};

	ASSERT_EQ(0, in_child(change_while_reading, &contest, BUSY));
	expect_file(_metadata, self);
}

/* Files that were compressed by Windows. */
FIXTURE(wof) {
	struct image im;
	int fd;
	size_t len;
	uint8_t *want;
};

FIXTURE_VARIANT(wof) {
	const char *compress;	/* options of wimlib-imagex */
	size_t frame;
	uint32_t format;	/* in the reparse point */
	unsigned int cluster;
};

FIXTURE_VARIANT_ADD(wof, xpress4k) { "XPRESS --chunk-size=4K", 4096, 0, 4096 };
FIXTURE_VARIANT_ADD(wof, xpress8k) { "XPRESS --chunk-size=8K", 8192, 2, 4096 };
FIXTURE_VARIANT_ADD(wof, xpress16k) {
	"XPRESS --chunk-size=16K", 16384, 3, 4096
};

FIXTURE_VARIANT_ADD(wof, lzx) { "LZX --chunk-size=32K", 32768, 1, 4096 };
FIXTURE_VARIANT_ADD(wof, xpress8k_cluster_16k) {
	"XPRESS --chunk-size=8K", 8192, 2, 16384
};

FIXTURE_VARIANT_ADD(wof, lzx_cluster_512) {
	"LZX --chunk-size=32K", 32768, 1, 512
};

#define SMALL_SIZE	3000

/* FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_SPARSE_FILE | ..._REPARSE_POINT */
#define ATTR_WOF	0x620U

/* The data of the file itself is a hole, and not used. */
static void make_hole(struct __test_metadata *_metadata, struct image *im,
		      const char *name, size_t len)
{
	uint32_t attr = ATTR_WOF;
	int fd;

	fd = open_file(_metadata, im, name, O_CREAT | O_WRONLY);
	ASSERT_EQ(0, fsetxattr(fd, "system.ntfs_attrib", &attr, sizeof(attr),
			       0));
	ASSERT_EQ(1, pwrite(fd, "", 1, len - 1));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       0, IMAGE_SIZE));
	ASSERT_EQ(0, close(fd));
}

FIXTURE_SETUP(wof)
{
	if (variant->frame < sysconf(_SC_PAGESIZE))
		SKIP(return, "needs a page in a frame");
	if (image_setup(&self->im, _metadata, IMAGE_SIZE))
		return;
	if (!image_have("mkntfs") || !image_have("ntfscp"))
		SKIP(return, "no mkntfs or no ntfscp (ntfs-3g)");
	if (!image_have("wimlib-imagex"))
		SKIP(return, "no wimlib-imagex (wimtools)");

	self->len = 9 * variant->frame + 1234;
	self->want = malloc(self->len);
	ASSERT_NE(NULL, self->want);
	pattern_fill(self->want, self->len, 0, 2);
	image_prefill(_metadata, &self->im, IMAGE_SIZE);
	ASSERT_EQ(0, image_run("mkntfs -q -f -F -s 512 -c %u %s",
			       variant->cluster, self->im.path));
	mount_ntfs3(_metadata, &self->im);
	if (_metadata->exit_code)
		return;
	make_hole(_metadata, &self->im, "file", self->len);
	make_hole(_metadata, &self->im, "small", SMALL_SIZE);
	ASSERT_EQ(0, image_umount(&self->im));
	wof_compress(_metadata, &self->im, "file", self->want, self->len,
		     variant->compress, variant->format);
	wof_compress(_metadata, &self->im, "small", self->want, SMALL_SIZE,
		     variant->compress, variant->format);

	mount_ntfs3(_metadata, &self->im);
	self->fd = open_file(_metadata, &self->im, "file", O_RDONLY);
	poison_free_memory(_metadata);
}

FIXTURE_TEARDOWN(wof)
{
	image_teardown(&self->im);
}

TEST_F(wof, reads_what_was_compressed)
{
	struct stat st;

	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_EQ(self->len, st.st_size);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
}

/* The runlist of the file is a hole: cp skips holes. */
TEST_F(wof, data_is_not_reported_as_a_hole)
{
	struct fiemap fiemap = { .fm_length = ~0ULL };
	char copy[64];
	off_t pos;
	int fd;

	for (pos = 0; pos < self->len; pos += variant->frame / 2) {
		ASSERT_EQ(pos, lseek(self->fd, pos, SEEK_DATA));
		ASSERT_EQ(self->len, lseek(self->fd, pos, SEEK_HOLE));
	}
	EXPECT_EQ(-1, lseek(self->fd, self->len, SEEK_DATA));
	EXPECT_EQ(ENXIO, errno);
	EXPECT_EQ(-1, lseek(self->fd, self->len, SEEK_HOLE));
	EXPECT_EQ(ENXIO, errno);
	EXPECT_EQ(-1, ioctl(self->fd, FS_IOC_FIEMAP, &fiemap));
	EXPECT_EQ(EOPNOTSUPP, errno);

	snprintf(copy, sizeof(copy), "%s/copy", self->im.dir);
	ASSERT_EQ(0, image_run("cp %s/file %s", self->im.mnt, copy));
	fd = open(copy, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	expect_size(_metadata, fd, self->len);
	expect_data(_metadata, fd, self->want, self->len, 0, "copy");
	ASSERT_EQ(0, close(fd));
}

/* The data of a deduplicated file cannot be read, and is no hole either. */
TEST_F(wof, deduplicated_data_is_not_reported_as_a_hole)
{
	const uint32_t reparse_point[] = {
		htole32(0x80000013), htole32(16), 0, 0, 0, 0,
	};
	struct fiemap fiemap = { .fm_length = ~0ULL };
	uint8_t byte;
	int fd;

	make_hole(_metadata, &self->im, "dedup", self->len);
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	save(_metadata, IMAGE_DIR "/reparse_point", reparse_point,
	     sizeof(reparse_point));
	ASSERT_EQ(0, image_run("ntfscp -q -a 0xC0 %s %s/reparse_point dedup",
			       self->im.path, self->im.dir));
	mount_ntfs3(_metadata, &self->im);
	fd = open_file(_metadata, &self->im, "dedup", O_RDONLY);
	EXPECT_EQ(-1, pread(fd, &byte, 1, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(100, lseek(fd, 100, SEEK_DATA));
	EXPECT_EQ(self->len, lseek(fd, 100, SEEK_HOLE));
	EXPECT_EQ(-1, ioctl(fd, FS_IOC_FIEMAP, &fiemap));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_NE(0, image_run("cp %s/dedup %s/copy", self->im.mnt,
			       self->im.dir));
	ASSERT_EQ(0, close(fd));
}

TEST_F(wof, prefetch_ends)
{
	expect_prefetch_ends(_metadata, self->fd, self->want, self->len);
}

TEST_F_TIMEOUT(wof, concurrent_readers, 2 * BUSY)
{
	struct readers readers = {
		.fd = self->fd,
		.frame = variant->frame,
		.frames = 9,
		.want = self->want,
		.rounds = 300,
	};

	ASSERT_EQ(0, in_child(read_concurrently, &readers, BUSY));
}

/* Whoever maps the file gets zeros behind its end. */
TEST_F(wof, ends_in_zeros)
{
	size_t page = sysconf(_SC_PAGESIZE), i, bad = 0;
	uint8_t *map;
	int fd;

	fd = open_file(_metadata, &self->im, "small", O_RDONLY);
	expect_data(_metadata, fd, self->want, SMALL_SIZE, 0, "small");
	map = map_file(_metadata, fd, SMALL_SIZE, PROT_READ);
	for (i = SMALL_SIZE; i % page; i++)
		bad += !!map[i];
	EXPECT_EQ(0, bad)
		TH_LOG("of %zu bytes, the first 0x%02x", i - SMALL_SIZE,
		       map[SMALL_SIZE]);
}

/* To open it for writing decompresses the file, whatever is cached. */
static void write_a_byte(struct __test_metadata *_metadata,
			 FIXTURE_DATA(wof) * self, off_t pos)
{
	int fd = open_file(_metadata, &self->im, "file", O_RDWR);

	expect_data(_metadata, fd, self->want, self->len, 0, "decompressed");
	self->want[pos] ^= 0xff;
	ASSERT_EQ(1, pwrite(fd, self->want + pos, 1, pos));
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	ASSERT_EQ(0, fsync(fd));
	evict(_metadata, fd, self->len);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	mount_ntfs3(_metadata, &self->im);
	self->fd = open_file(_metadata, &self->im, "file", O_RDONLY);
	expect_data(_metadata, self->fd, self->want, self->len, 0,
		    "after remount");
}

TEST_F(wof, opened_for_writing_when_cold)
{
	size_t page = sysconf(_SC_PAGESIZE);
	int fd = open_file(_metadata, &self->im, "file", O_RDWR);

	/* What has been decompressed need not be read. */
	EXPECT_EQ((self->len + page - 1) / page,
		  image_cached_pages(_metadata, fd, self->len));
	ASSERT_EQ(0, close(fd));
	write_a_byte(_metadata, self, self->len / 2);
}

TEST_F(wof, opened_for_writing_when_cached)
{
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cached");
	write_a_byte(_metadata, self, self->len - 1);
}

TEST_F(wof, opened_for_writing_when_partly_cached)
{
	size_t page = sysconf(_SC_PAGESIZE);
	off_t pos;

	expect_data(_metadata, self->fd, self->want, self->len, 0, "cached");
	for (pos = page; pos < self->len; pos += 3 * page)
		ASSERT_EQ(0, posix_fadvise(self->fd, pos, page,
					   POSIX_FADV_DONTNEED));
	write_a_byte(_metadata, self, 0);
}

/* The clusters for what is decompressed are written at once. */
TEST_F(wof, opened_for_writing_with_delalloc)
{
	remount_delalloc(_metadata, &self->im, self->fd);
	self->fd = open_file(_metadata, &self->im, "file", O_RDONLY);
	write_a_byte(_metadata, self, self->len / 2);
}

#define EDITED		1000

/* A file whose first frame does not compress, on an image that is kept. */
static void make_raw(struct __test_metadata *_metadata,
		     FIXTURE_DATA(wof) * self,
		     const FIXTURE_VARIANT(wof) * variant)
{
	pattern_fill(self->want, variant->frame, 0, 1);
	make_hole(_metadata, &self->im, "raw", self->len);
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	wof_compress(_metadata, &self->im, "raw", self->want, self->len,
		     variant->compress, variant->format);
	ASSERT_EQ(0, image_run("cp %s %s/raw", self->im.path, self->im.dir));
}

/*
 * A page in use of that file: on the device a bit of byte EDITED has been flipped
 * since it was read.
 */
static uint8_t *map_edited(struct __test_metadata *_metadata,
			   FIXTURE_DATA(wof) * self)
{
	uint8_t *image, *p, *map;
	int fd;

	ASSERT_EQ(0, image_run("cp %s/raw %s", self->im.dir, self->im.path));
	mount_ntfs3(_metadata, &self->im);
	self->fd = open_file(_metadata, &self->im, "raw", O_RDONLY);
	map = mmap(NULL, sysconf(_SC_PAGESIZE), PROT_READ,
		   MAP_SHARED | MAP_POPULATE, self->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	drop_clean_caches();

	fd = open(self->im.path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	image = map_file(_metadata, fd, IMAGE_SIZE, PROT_READ | PROT_WRITE);
	p = memmem(image, IMAGE_SIZE, self->want + EDITED, 100);
	ASSERT_NE(NULL, p);
	*p ^= 1;
	ASSERT_EQ(0, munmap(image, IMAGE_SIZE));
	ASSERT_EQ(0, close(fd));
	return map;
}

/* A page that is in use stays as it is when its frame is read again. */
TEST_F(wof, a_cached_page_is_not_read_again)
{
	uint8_t *map;
	int fd;

	make_raw(_metadata, self, variant);
	map = map_edited(_metadata, self);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	EXPECT_EQ(self->want[EDITED], map[EDITED]);
	fd = open_file(_metadata, &self->im, "raw", O_RDWR);
	EXPECT_EQ(self->want[EDITED], map[EDITED]);
	expect_data(_metadata, fd, self->want, self->len, 0, "decompressed");
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, munmap(map, sysconf(_SC_PAGESIZE)));
	drop_clean_caches();
	self->want[EDITED] ^= 1;
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
}

/* Old contents of the disk do not become part of the last cluster. */
TEST_F(wof, last_cluster_ends_in_zeros)
{
	size_t last = self->len - self->len % variant->cluster, i, bad = 0;
	size_t len = self->len - last, end = variant->cluster;
	uint8_t *image, *p;
	int fd;

	/* A smaller frame may end first. */
	if (end > variant->frame)
		end = variant->frame;
	fd = open_file(_metadata, &self->im, "file", O_RDWR);
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	fd = open(self->im.path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	image = map_file(_metadata, fd, IMAGE_SIZE, PROT_READ);
	p = memmem(image, IMAGE_SIZE, self->want + last, len);
	ASSERT_NE(NULL, p);
	for (i = len; i < end; i++)
		bad += !!p[i];
	EXPECT_EQ(0, bad)
		TH_LOG("the first 0x%02x", p[len]);
	ASSERT_EQ(0, munmap(image, IMAGE_SIZE));
	ASSERT_EQ(0, close(fd));
}

TEST_F(wof, no_memory_to_read)
{
	size_t pages = variant->frame / sysconf(_SC_PAGESIZE);

	prepare_failing(_metadata);
	EXPECT_LE(pages,
		  expect_reads_without_memory(_metadata, self->fd, self->want,
					      self->len, pages));
}

static long failing_open(void *arg)
{
	int fd = open(arg, O_RDWR | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* A file that could not be decompressed is as it was. */
TEST_F_TIMEOUT(wof, no_memory_to_decompress, BUSY)
{
	size_t page = sysconf(_SC_PAGESIZE), pos;
	unsigned int nth, failed = 0, done = 0;
	uint8_t *map;
	bool left;
	long fd;

	prepare_failing(_metadata);
	make_raw(_metadata, self, variant);
	map = map_edited(_metadata, self);
	/* What is allocated last, for I/O, is from a reserve if need be. */
	for (nth = 1; done < 5; nth++) {
		/* Some pages are there, and have to stay, and some are not. */
		for (pos = page; pos < self->len; pos += 2 * page)
			ASSERT_EQ(0, posix_fadvise(self->fd, pos, page,
						   POSIX_FADV_DONTNEED));
		fd = call_failing(nth, failing_open,
				  IMAGE_DIR "/mnt/raw", &left);
		if (fd < 0) {
			failed++;
			EXPECT_EQ(-ENOMEM, fd)
				TH_LOG("allocation %u", nth);
		} else {
			done++;
			ASSERT_EQ(0, close(fd));
		}
		EXPECT_EQ(self->want[EDITED], map[EDITED]);
		expect_data(_metadata, self->fd, self->want, self->len, 0,
			    "warm");
		ASSERT_EQ(0, posix_fadvise(self->fd, 0, 0,
					   POSIX_FADV_DONTNEED));
		expect_data(_metadata, self->fd, self->want, self->len, 0,
			    "cold");
		if (fd < 0)
			continue;
		ASSERT_EQ(0, munmap(map, page));
		ASSERT_EQ(0, close(self->fd));
		ASSERT_EQ(0, image_umount(&self->im));
		map = map_edited(_metadata, self);
	}
	/* at least the pages that were not there, and for those that were */
	EXPECT_LE(self->len / page, failed);
	ASSERT_EQ(0, munmap(map, page));
}

/* A file "bare" of @len bytes, of which the compressed data is missing. */
static void make_bare(struct __test_metadata *_metadata,
		      FIXTURE_DATA(wof) * self, size_t len)
{
	make_hole(_metadata, &self->im, "bare", self->len);
	ASSERT_EQ(0, truncate(IMAGE_DIR "/mnt/bare", len));
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	/* The reparse point is that of the file compressed last. */
	ASSERT_EQ(0, image_run("ntfscp -q -a 0xC0 %s %s/reparse_point bare",
			       self->im.path, self->im.dir));
	mount_ntfs3(_metadata, &self->im);
}

/* The inode is bad after a failure to remove one of its attributes. */
TEST_F(wof, empty_file_without_compressed_data)
{
	make_bare(_metadata, self, 0);
	EXPECT_EQ(-ENOENT, failing_open(IMAGE_DIR "/mnt/bare"));
	EXPECT_EQ(-EINVAL, failing_open(IMAGE_DIR "/mnt/bare"));
}

static long failing_opens(void *arg)
{
	long ret = failing_open(arg);

	for (int i = 0; i < 2; i++)
		failing_open(arg);
	return ret;
}

TEST_F_TIMEOUT(wof, no_memory_is_left, 4 * BUSY)
{
	/* An array of pointers to the pages of a frame is leaked, if at all. */
	if (variant->frame < 32768)
		SKIP(return, "larger frames show more");
	make_bare(_metadata, self, self->len);
	EXPECT_EQ(-EINVAL, failing_opens(IMAGE_DIR "/mnt/bare"));
	expect_no_leak(_metadata, failing_opens, IMAGE_DIR "/mnt/bare");
}

struct openers {
	char path[64];
	const uint8_t *want;
	size_t len;
	pthread_barrier_t start;
};

static void *open_for_writing(void *arg)
{
	struct openers *openers = arg;
	uint8_t *got = malloc(openers->len);
	int fd;

	pthread_barrier_wait(&openers->start);
	fd = open(openers->path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, got, openers->len, 0) != openers->len ||
	    memcmp(got, openers->want, openers->len))
		_exit(1);
	free(got);
	close(fd);
	return NULL;
}

static void *read_the_file(void *arg)
{
	struct openers *openers = arg;
	uint8_t *got = malloc(openers->len);
	int fd = open(openers->path, O_RDONLY | O_CLOEXEC);

	pthread_barrier_wait(&openers->start);
	for (int i = 0; i < 20; i++) {
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		if (pread(fd, got, openers->len, 0) != openers->len ||
		    memcmp(got, openers->want, openers->len))
			_exit(1);
	}
	free(got);
	close(fd);
	return NULL;
}

static void open_concurrently(void *arg)
{
	struct openers *openers = arg;
	pthread_t thread[NR_READERS];
	int i;

	pthread_barrier_init(&openers->start, NULL, NR_READERS);
	for (i = 0; i < NR_READERS; i++)
		if (pthread_create(&thread[i], NULL,
				   i % 2 ? read_the_file : open_for_writing,
				   openers))
			_exit(2);
	for (i = 0; i < NR_READERS; i++)
		pthread_join(thread[i], NULL);
}

TEST_F_TIMEOUT(wof, concurrent_openers, 2 * BUSY)
{
	struct openers openers = {
		.want = self->want,
		.len = self->len,
	};

	snprintf(openers.path, sizeof(openers.path), "%s/file", self->im.mnt);
	ASSERT_EQ(0, in_child(open_concurrently, &openers, BUSY));
	write_a_byte(_metadata, self, self->len / 3);
}

/* A file is decompressed on the disk, or as it was. */
TEST_F(wof, device_fails)
{
	self->fd = move_image_to_faultfs(_metadata, &self->im, self->fd,
					 O_RDONLY);
	/* The volume is marked dirty before the first change. */
	ASSERT_EQ(0, image_run("touch %s/other", self->im.mnt));
	sync();
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cached");
	fail_writes(_metadata, "fail=eio,fail_op=write");
	EXPECT_EQ(-EIO, failing_open(IMAGE_DIR "/mnt/file"));
	fail_writes(_metadata, "fail=none");
	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	ASSERT_EQ(0, posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED));
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
	write_a_byte(_metadata, self, self->len / 2);
}

/* Without the space to decompress it, the file can still be read. */
TEST_F(wof, no_space)
{
	const size_t len = MIB(4);
	uint8_t *data = malloc(len);
	char path[64];
	int fd;

	ASSERT_NE(NULL, data);
	pattern_fill(data, len, 0, 4);
	make_hole(_metadata, &self->im, "big", len);
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	wof_compress(_metadata, &self->im, "big", data, len, variant->compress,
		     variant->format);
	mount_ntfs3(_metadata, &self->im);
	fill_volume(_metadata, &self->im);

	fd = open_file(_metadata, &self->im, "big", O_RDONLY);
	snprintf(path, sizeof(path), "%s/big", self->im.mnt);
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(-1, open(path, O_RDWR | O_CLOEXEC));
		EXPECT_EQ(ENOSPC, errno);
	}
	expect_data(_metadata, fd, data, len, 0, "cold");
	ASSERT_EQ(0, close(fd));
	fd = open_file(_metadata, &self->im, "big", O_RDONLY);
	expect_data(_metadata, fd, data, len, 0, "reopened");
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, image_run("rm %s/filler*", self->im.mnt));
	fd = open_file(_metadata, &self->im, "big", O_RDWR);
	data[len / 2] ^= 0xff;
	ASSERT_EQ(1, pwrite(fd, data + len / 2, 1, len / 2));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	expect_data(_metadata, fd, data, len, 0, "decompressed");
	ASSERT_EQ(0, close(fd));
	free(data);
	self->fd = open_file(_metadata, &self->im, "file", O_RDONLY);
}

TEST_HARNESS_MAIN
