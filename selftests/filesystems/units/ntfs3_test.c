// SPDX-License-Identifier: GPL-2.0
/*
 * Compressed files of the ntfs3 driver.
 *
 * They are read and written by frames: 16 clusters of a file that NTFS itself
 * compressed (LZNT), 4 to 32 KiB of one that Windows compressed afterwards
 * (XPRESS and LZX, read-only until it is opened for writing, which decompresses
 * it).  Who wants one page of a frame gets all of them, locked together.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "wof_image.h"

/* FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_COMPRESSED */
#define ATTR_COMPRESSED	0x820U

#define NR_FRAMES	4
#define NR_READERS	4

/* Seconds that readers of one file may take, also on an emulated machine. */
#define BUSY		60

/* What freed memory is filled with; pattern() is not often that. */
#define POISON		0xa5

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

struct readers {
	int fd;
	size_t frame;		/* bytes that are read together */
	unsigned int frames;	/* of the file */
	const uint8_t *want;	/* what the file holds, NULL: cannot be read */
	unsigned int rounds;
	pthread_barrier_t start;
	unsigned int next;	/* number of the thread that starts next */
};

/* Each reader has a page of the frame of its own, as far away as it can be. */
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

	pthread_barrier_wait(&readers->start);
	for (i = 0; i < readers->rounds; i++) {
		off_t at = pos + i % readers->frames * readers->frame;

		if (!readers->want) {
			n = pread(readers->fd, &byte, 1, at);
			if (n != -1 || errno != EINVAL)
				_exit(1);
			continue;
		}
		posix_fadvise(readers->fd, 0, 0, POSIX_FADV_DONTNEED);
		n = pread(readers->fd, &byte, 1, at);
		if (n != 1 || byte != readers->want[at])
			_exit(1);
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

/* Whatever it is that prefetches a cold file, it ends and does no harm. */
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

static void remount(struct __test_metadata *_metadata,
		    FIXTURE_DATA(lznt) * self)
{
	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	mount_ntfs3(_metadata, &self->im);
	self->fd = open_file(_metadata, &self->im, "file", O_RDWR);
}

FIXTURE_SETUP(lznt)
{
	uint32_t attr = ATTR_COMPRESSED;

	self->page = sysconf(_SC_PAGESIZE);
	self->frame = 16 * variant->cluster;
	self->len = NR_FRAMES * self->frame;
	if (self->frame < 2 * self->page)
		SKIP(return, "needs two pages in a frame");
	if (image_setup(&self->im, _metadata, MIB(16)))
		return;
	if (!image_have("mkntfs"))
		SKIP(return, "no mkntfs (ntfs-3g)");
	ASSERT_EQ(0, image_run("mkntfs -q -f -F -s 512 -c %u %s",
			       variant->cluster, self->im.path));
	mount_ntfs3(_metadata, &self->im);
	if (_metadata->exit_code)
		return;

	self->want = malloc(self->len);
	ASSERT_NE(NULL, self->want);
	fill_frames(self->want, self->frame, 1);
	self->fd = open_file(_metadata, &self->im, "file", O_CREAT | O_RDWR);
	ASSERT_EQ(0, fsetxattr(self->fd, "system.ntfs_attrib", &attr,
			       sizeof(attr), 0));
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
	ASSERT_EQ(0, posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED));
	expect_data(_metadata, self->fd, self->want, self->len, 0, "cold");
	remount(_metadata, self);
	expect_data(_metadata, self->fd, self->want, self->len, 0,
		    "after remount");
}

/*
 * Make frame @nr impossible to decompress.  It begins with a chunk header of
 * two bytes, a byte of zero flags that says that eight literal bytes follow,
 * and these.  With a flag set they become a reference to what is before.
 */
static void spoil_frame(struct __test_metadata *_metadata,
			FIXTURE_DATA(lznt) * self, unsigned int nr)
{
	unsigned int found = 0;
	uint8_t *image, *p, *end;
	int fd;

	ASSERT_EQ(0, close(self->fd));
	ASSERT_EQ(0, image_umount(&self->im));
	fd = open(self->im.path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	image = mmap(NULL, MIB(16), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, image);
	end = image + MIB(16);
	for (p = image; p < end; p += 512) {
		if (memcmp(p + 3, self->want + nr * self->frame, 8) ||
		    !(p[1] & 0x80) || p[2])
			continue;
		p[2] = 1;
		found++;
	}
	ASSERT_EQ(1, found)
		TH_LOG("frames that begin like frame %u", nr);
	ASSERT_EQ(0, munmap(image, MIB(16)));
	ASSERT_EQ(0, close(fd));
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
		.rounds = 300,
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

	spoil_frame(_metadata, self, 1);
	expect_unreadable(_metadata, self->fd, frame, frame, self->page);
	pattern_fill(self->want + frame, frame, frame, 8);
	ASSERT_EQ(frame, pwrite(self->fd, self->want + frame, frame, frame));
	expect_file(_metadata, self);
}

/*
 * The end of the last frame is beyond the end of the file, so it is not read
 * for a write to the rest of the frame.  It is zero nevertheless.
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

/* A frame of which the page cache has some pages, and some not. */
TEST_F(lznt, writes_part_of_a_partly_cached_frame)
{
	size_t pages = self->frame / self->page;
	off_t pos = self->frame + (pages - 1) * self->page;

	expect_data(_metadata, self->fd, self->want, self->len, 0, "warm");
	ASSERT_EQ(0, posix_fadvise(self->fd, pos, self->page,
				   POSIX_FADV_DONTNEED));
	write_at(_metadata, self, self->frame + 100, 1000, 2);
	expect_file(_metadata, self);
}

/* The hole between what has been written and what is written is zero. */
TEST_F(lznt, writes_behind_a_hole)
{
	size_t frame = self->frame, cut = frame + frame / 3;

	ASSERT_EQ(0, ftruncate(self->fd, cut));
	poison_free_memory(_metadata);
	memset(self->want + cut, 0, self->len - cut);
	write_at(_metadata, self, self->len - 100, 100, 2);
	expect_file(_metadata, self);
}

TEST_F(lznt, returns_what_was_written_before_an_error)
{
	size_t frame = self->frame;
	struct stat st;
	uint8_t *user;

	user = mmap(NULL, 2 * frame, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, user);
	pattern_fill(user, frame, self->len, 2);
	ASSERT_EQ(0, munmap(user + frame, frame));
	EXPECT_EQ(frame, pwrite(self->fd, user, 2 * frame, self->len));
	expect_data(_metadata, self->fd, user, frame, self->len, "warm");
	ASSERT_EQ(0, fsync(self->fd));
	remount(_metadata, self);
	expect_data(_metadata, self->fd, self->want, self->len, 0, "old");
	expect_data(_metadata, self->fd, user, frame, self->len, "new");
	ASSERT_EQ(0, fstat(self->fd, &st));
	EXPECT_GE(st.st_size, self->len + frame);
}

/* Anything in any order against a model in memory. */
TEST_F_TIMEOUT(lznt, random_writes, 60)
{
	unsigned int i, seed = variant->cluster;
	size_t len;
	off_t pos;

	for (i = 0; i < 150 && !_metadata->exit_code; i++) {
		pos = rand_r(&seed) % self->len;
		len = 1 + rand_r(&seed) % (2 * self->frame);
		if (rand_r(&seed) % 4 == 0)
			pos -= pos % self->frame;
		if (len > self->len - pos)
			len = self->len - pos;
		write_at(_metadata, self, pos, len, rand_r(&seed) % 100);
		if (rand_r(&seed) % 3 == 0)
			posix_fadvise(self->fd, pos / 2, len,
				      POSIX_FADV_DONTNEED);
		if (rand_r(&seed) % 3 == 0)
			expect_data(_metadata, self->fd, self->want + pos,
				    len, pos, "random");
	}
	if (_metadata->exit_code)
		TH_LOG("after %u writes", i);
	expect_file(_metadata, self);
}

/* Readers see what one of two writes wrote, and the last one is what stays. */
struct contest {
	int fd;
	size_t len;
	uint8_t *data[2];
	bool done;
	bool bad;
};

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

static void write_while_reading(void *arg)
{
	struct contest *contest = arg;
	pthread_t thread[NR_READERS];
	unsigned int i;

	for (i = 0; i < NR_READERS; i++)
		if (pthread_create(&thread[i], NULL, read_one_or_the_other,
				   contest))
			_exit(2);
	for (i = 0; i < 200; i++) {
		/* In one piece, or in two that need the rest to be read. */
		size_t cut = i & 2 ? contest->len / 3 : contest->len;
		const uint8_t *data = contest->data[~i & 1];

		if (pwrite(contest->fd, data, cut, 0) != cut ||
		    pwrite(contest->fd, data + cut, contest->len - cut, cut) !=
		    contest->len - cut)
			contest->bad = true;
	}
	__atomic_store_n(&contest->done, true, __ATOMIC_RELEASE);
	for (i = 0; i < NR_READERS; i++)
		pthread_join(thread[i], NULL);
	if (contest->bad)
		_exit(1);
}

TEST_F_TIMEOUT(lznt, concurrent_readers_and_a_writer, 2 * BUSY)
{
	struct contest contest = {
		.fd = self->fd,
		.len = self->len,
		.data = { self->want, malloc(self->len) },
	};

	ASSERT_NE(NULL, contest.data[1]);
	fill_frames(contest.data[1], self->frame, 2);
	ASSERT_EQ(0, in_child(write_while_reading, &contest, BUSY));
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
};

FIXTURE_VARIANT_ADD(wof, xpress4k) { "XPRESS --chunk-size=4K", 4096, 0 };
FIXTURE_VARIANT_ADD(wof, xpress8k) { "XPRESS --chunk-size=8K", 8192, 2 };
FIXTURE_VARIANT_ADD(wof, xpress16k) { "XPRESS --chunk-size=16K", 16384, 3 };
FIXTURE_VARIANT_ADD(wof, lzx) { "LZX --chunk-size=32K", 32768, 1 };

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
	ASSERT_EQ(0, close(fd));
}

FIXTURE_SETUP(wof)
{
	if (variant->frame < sysconf(_SC_PAGESIZE))
		SKIP(return, "needs a page in a frame");
	if (image_setup(&self->im, _metadata, MIB(16)))
		return;
	if (!image_have("mkntfs") || !image_have("ntfscp"))
		SKIP(return, "no mkntfs or no ntfscp (ntfs-3g)");
	if (!image_have("wimlib-imagex"))
		SKIP(return, "no wimlib-imagex (wimtools)");

	self->len = 9 * variant->frame + 1234;
	self->want = malloc(self->len);
	ASSERT_NE(NULL, self->want);
	pattern_fill(self->want, self->len, 0, 2);
	ASSERT_EQ(0, image_run("mkntfs -q -f -F -s 512 -c 4096 %s",
			       self->im.path));
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
	map = mmap(NULL, SMALL_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
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
	ASSERT_EQ(0, posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
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

TEST_HARNESS_MAIN
