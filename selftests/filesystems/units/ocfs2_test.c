// SPDX-License-Identifier: GPL-2.0-only
/*
 * ocfs2 with clusters larger than a page.
 *
 * What allocates, zeroes or frees a part of a cluster locks the folios of the
 * whole cluster: ocfs2_grab_folios_for_write() and ocfs2_grab_folios(). The
 * disk is full of 0xaa before mkfs, so that what should have been zeroed or
 * written, and was not, shows.
 *
 * A model of the file is kept in memory. It is compared with the file in the
 * page cache, on disk, and on a new mount, between which fsck.ocfs2 looks at
 * the volume.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "image_test.h"

#define STALE		0xaa	/* what the disk is full of */
#define CLUSTERS	4	/* size of a file, at most */
#define FILE_NAME	"file"

struct volume {
	struct image im;
	int fd;
	size_t page;
	size_t cluster;
	size_t size;		/* of the file */
	uint8_t *want;		/* what has to be in it */
	uint8_t *buf;		/* CLUSTERS clusters, page aligned */
	unsigned int seed;
};

FIXTURE(ocfs2) {
	struct volume vol;
};

FIXTURE_VARIANT(ocfs2) {
	unsigned int block;
	unsigned int cluster;
	unsigned int journal;	/* MiB */
};

FIXTURE_VARIANT_ADD(ocfs2, cluster_4k) {
	.block = 4096,
	.cluster = 4096,
	.journal = 4,
};

FIXTURE_VARIANT_ADD(ocfs2, cluster_1m) {
	.block = 4096,
	.cluster = 1 << 20,
	.journal = 16,
};

FIXTURE_VARIANT_ADD(ocfs2, cluster_64k_block_1k) {
	.block = 1024,
	.cluster = 64 << 10,
	.journal = 4,
};

static void prefill(struct __test_metadata *_metadata, const char *path,
		    off_t size)
{
	uint8_t buf[64 << 10];
	int fd;

	memset(buf, STALE, sizeof(buf));
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0);
	for (off_t pos = 0; pos < size; pos += sizeof(buf))
		ASSERT_EQ(sizeof(buf), pwrite(fd, buf, sizeof(buf), pos))
			TH_LOG("%s: %s", path, strerror(errno));
	ASSERT_EQ(0, close(fd));
}

static int open_file(struct volume *vol, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/" FILE_NAME, vol->im.mnt);
	return open(path, O_RDWR | O_CLOEXEC | flags, 0600);
}

FIXTURE_SETUP(ocfs2)
{
	struct volume *vol = &self->vol;
	const off_t size = MIB(40);
	int err;

	if (image_setup(&vol->im, _metadata, size))
		return;
	if (!image_have("mkfs.ocfs2"))
		SKIP(return, "needs mkfs.ocfs2");
	vol->fd = -1;
	vol->page = sysconf(_SC_PAGESIZE);
	vol->cluster = variant->cluster;
	vol->want = calloc(CLUSTERS, vol->cluster);
	ASSERT_NE(NULL, vol->want);
	vol->buf = mmap(NULL, CLUSTERS * vol->cluster, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, vol->buf);

	prefill(_metadata, vol->im.path, size);
	ASSERT_EQ(0, image_run("mkfs.ocfs2 -q -x -F -M local -N 1 -J size=%uM -b %u -C %u %s",
			       variant->journal, variant->block,
			       variant->cluster, vol->im.path));
	err = image_mount(&vol->im, "ocfs2", 0, "heartbeat=none");
	if (err == -ENODEV)
		SKIP(return, "needs CONFIG_OCFS2_FS");
	ASSERT_EQ(0, err);
	vol->fd = open_file(vol, O_CREAT | O_EXCL);
	ASSERT_GE(vol->fd, 0);
}

FIXTURE_TEARDOWN(ocfs2)
{
	struct volume *vol = &self->vol;

	if (vol->fd >= 0)
		close(vol->fd);
	image_teardown(&vol->im);
}

/* Compare the file with the model; the first difference is reported. */
static void verify(struct __test_metadata *_metadata,
		   struct volume *vol, const char *when)
{
	size_t bad = 0, first = 0, stale = 0;
	struct stat st;

	ASSERT_EQ(0, fstat(vol->fd, &st));
	ASSERT_EQ(vol->size, st.st_size)
		TH_LOG("%s", when);
	ASSERT_EQ(vol->size,
		  pread(vol->fd, vol->buf, CLUSTERS * vol->cluster, 0))
		TH_LOG("%s: %s", when, strerror(errno));
	for (size_t i = 0; i < vol->size; i++) {
		if (vol->buf[i] == vol->want[i])
			continue;
		if (!bad++)
			first = i;
		stale += vol->buf[i] == STALE;
	}
	ASSERT_EQ(0, bad)
		TH_LOG("%s: at 0x%zx 0x%02x, not 0x%02x; %zu of %zu from the disk",
		       when, first, vol->buf[first], vol->want[first], stale, bad);
}

/* Compare now, read from disk, and after a check of the unmounted volume. */
static void verify_everywhere(struct __test_metadata *_metadata,
			      struct volume *vol)
{
	verify(_metadata, vol, "page cache");
	ASSERT_EQ(0, fsync(vol->fd));
	drop_clean_caches();
	verify(_metadata, vol, "disk");
	ASSERT_EQ(0, close(vol->fd));
	vol->fd = -1;
	ASSERT_EQ(0, image_umount(&vol->im));
	/* without the limit, it faults in and locks a cache of 256 MiB */
	if (image_have("fsck.ocfs2"))
		ASSERT_EQ(0, image_run("ulimit -v 24576; fsck.ocfs2 -fn %s",
				       vol->im.path));
	ASSERT_EQ(0, image_mount(&vol->im, "ocfs2", 0, "heartbeat=none"));
	vol->fd = open_file(vol, 0);
	ASSERT_GE(vol->fd, 0);
	verify(_metadata, vol, "new mount");
}

/* The model of a write of new data; returns the data. */
static uint8_t *model_write(struct volume *vol, off_t pos, size_t len)
{
	pattern_fill(vol->want + pos, len, pos, ++vol->seed);
	if (vol->size < pos + len)
		vol->size = pos + len;
	return vol->want + pos;
}

static void do_write(struct __test_metadata *_metadata,
		     struct volume *vol, off_t pos, size_t len)
{
	ASSERT_EQ(len, pwrite(vol->fd, model_write(vol, pos, len), len, pos))
		TH_LOG("%zu bytes at 0x%llx: %s", len, (long long)pos,
		       strerror(errno));
}

static void do_truncate(struct __test_metadata *_metadata,
			struct volume *vol, size_t size)
{
	if (size < vol->size)
		memset(vol->want + size, 0, vol->size - size);
	vol->size = size;
	ASSERT_EQ(0, ftruncate(vol->fd, size));
}

static void do_punch(struct __test_metadata *_metadata,
		     struct volume *vol, off_t pos, size_t len)
{
	memset(vol->want + pos, 0, len);
	ASSERT_EQ(0, fallocate(vol->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       pos, len));
}

/* Have the file on disk, and not in the page cache. */
static void do_evict(struct __test_metadata *_metadata,
		     struct volume *vol)
{
	ASSERT_EQ(0, fsync(vol->fd));
	ASSERT_EQ(0, posix_fadvise(vol->fd, 0, 0, POSIX_FADV_DONTNEED));
}

TEST_F(ocfs2, write_into_hole)
{
	struct volume *vol = &self->vol;

	do_truncate(_metadata, vol, 3 * vol->cluster);
	do_write(_metadata, vol, vol->cluster + vol->cluster / 2 + 10, 100);
	verify_everywhere(_metadata, vol);
}

/* Across the boundary of two new clusters. */
TEST_F(ocfs2, write_into_two_holes)
{
	struct volume *vol = &self->vol;

	do_truncate(_metadata, vol, 3 * vol->cluster);
	do_write(_metadata, vol, 2 * vol->cluster - 1000, 2000);
	verify_everywhere(_metadata, vol);
}

/* The folios of the hole are uptodate already: they were read. */
TEST_F(ocfs2, write_into_hole_in_cache)
{
	struct volume *vol = &self->vol;

	do_truncate(_metadata, vol, 3 * vol->cluster);
	verify(_metadata, vol, "hole");
	do_write(_metadata, vol, vol->cluster + vol->cluster / 2 + 10, 100);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, append)
{
	struct volume *vol = &self->vol;
	const size_t steps[] = { 1, 100, 5000, 300, 70000, 4096, 33 };
	unsigned int i = 0;

	while (vol->size + 70000 < CLUSTERS * vol->cluster &&
	       i < 3 * ARRAY_SIZE(steps)) {
		do_write(_metadata, vol, vol->size,
			 steps[i % ARRAY_SIZE(steps)]);
		i++;
	}
	do_write(_metadata, vol, vol->size, 333);
	verify_everywhere(_metadata, vol);
}

/* The part between the old end and the write is zero, within a cluster too. */
TEST_F(ocfs2, write_past_eof)
{
	struct volume *vol = &self->vol;

	do_write(_metadata, vol, 0, 100);
	do_write(_metadata, vol, vol->cluster / 2 + 77, 100);
	do_write(_metadata, vol, 3 * vol->cluster + 77, 100);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, truncate_down_and_up)
{
	struct volume *vol = &self->vol;

	do_write(_metadata, vol, 0, 3 * vol->cluster);
	do_truncate(_metadata, vol, vol->cluster + vol->cluster / 2 + 123);
	do_truncate(_metadata, vol, 3 * vol->cluster);
	verify(_metadata, vol, "grown in cache");

	do_write(_metadata, vol, 0, 3 * vol->cluster);
	do_evict(_metadata, vol);
	do_truncate(_metadata, vol, vol->cluster + 5);
	do_evict(_metadata, vol);
	do_truncate(_metadata, vol, 3 * vol->cluster);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, punch_hole)
{
	struct volume *vol = &self->vol;

	do_write(_metadata, vol, 0, 4 * vol->cluster);
	do_evict(_metadata, vol);
	/* within one cluster, to a boundary, across one, and a whole cluster */
	do_punch(_metadata, vol, 100, vol->cluster / 2);
	do_punch(_metadata, vol, vol->cluster + 300, vol->cluster - 300);
	do_punch(_metadata, vol, 2 * vol->cluster - 200, 500);
	do_punch(_metadata, vol, 3 * vol->cluster - 1, vol->cluster);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, mmap_write)
{
	struct volume *vol = &self->vol;
	size_t len = 3 * vol->cluster;
	off_t pos = vol->cluster + vol->cluster / 2;
	uint8_t *map;

	do_truncate(_metadata, vol, len);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, vol->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	memcpy(map + pos, model_write(vol, pos, 3), 3);
	memcpy(map + len - 2, model_write(vol, len - 2, 2), 2);
	ASSERT_EQ(0, munmap(map, len));
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, direct_write)
{
	struct volume *vol = &self->vol;
	off_t pos = vol->cluster + vol->cluster / 2;
	int fd;

	pos -= pos % vol->page;
	do_truncate(_metadata, vol, 3 * vol->cluster);
	fd = open_file(vol, O_DIRECT);
	ASSERT_GE(fd, 0);
	memcpy(vol->buf, model_write(vol, pos, 2 * vol->page),
	       2 * vol->page);
	ASSERT_EQ(2 * vol->page, pwrite(fd, vol->buf, 2 * vol->page, pos))
		TH_LOG("%s", strerror(errno));
	ASSERT_EQ(0, close(fd));
	verify_everywhere(_metadata, vol);
}

struct writer {
	struct volume *vol;
	pthread_barrier_t *barrier;
	unsigned int nr;
	pthread_t thread;
	bool failed;
};

#define NR_WRITERS	8

/* In each cluster, every writer writes its own pieces, all at once. */
static void *write_pieces(void *arg)
{
	struct writer *w = arg;
	struct volume *vol = w->vol;
	const size_t len = 512;

	for (size_t pos = 0; pos < vol->size; pos += len) {
		if (pos % vol->cluster == 0)
			pthread_barrier_wait(w->barrier);
		if (pos / len % NR_WRITERS == w->nr &&
		    pwrite(vol->fd, vol->want + pos, len, pos) != len)
			w->failed = true;
	}
	return NULL;
}

TEST_F_TIMEOUT(ocfs2, neighbours_in_one_cluster, 300)
{
	struct volume *vol = &self->vol;
	struct writer writers[NR_WRITERS];
	pthread_barrier_t barrier;

	do_truncate(_metadata, vol, CLUSTERS * vol->cluster);
	model_write(vol, 0, vol->size);
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, NR_WRITERS));
	for (int i = 0; i < NR_WRITERS; i++) {
		writers[i] = (struct writer) {
			.vol = vol,
			.barrier = &barrier,
			.nr = i,
		};
		ASSERT_EQ(0, pthread_create(&writers[i].thread, NULL,
					    write_pieces, &writers[i]));
	}
	for (int i = 0; i < NR_WRITERS; i++) {
		ASSERT_EQ(0, pthread_join(writers[i].thread, NULL));
		EXPECT_FALSE(writers[i].failed);
	}
	verify_everywhere(_metadata, vol);
}

/* Data in the inode moves to a cluster, and the rest of that is zero. */
TEST_F(ocfs2, inline_data_to_extent)
{
	struct volume *vol = &self->vol;

	do_write(_metadata, vol, 0, 123);
	do_truncate(_metadata, vol, 2 * vol->cluster);
	verify(_metadata, vol, "truncated");
	do_truncate(_metadata, vol, 0);
	do_evict(_metadata, vol);

	do_write(_metadata, vol, 0, 123);
	do_evict(_metadata, vol);
	do_write(_metadata, vol, vol->cluster - 5, 10);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, inline_data_mmap)
{
	struct volume *vol = &self->vol;
	uint8_t *map;

	do_write(_metadata, vol, 0, 123);
	map = mmap(NULL, vol->page, PROT_READ | PROT_WRITE, MAP_SHARED,
		   vol->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	memcpy(map + 50, model_write(vol, 50, 3), 3);
	ASSERT_EQ(0, munmap(map, vol->page));
	verify_everywhere(_metadata, vol);
}

/*
 * Write @len bytes at @pos from a buffer of which only the first half can be
 * read. That half gets written.
 */
static void short_write(struct __test_metadata *_metadata,
			struct volume *vol, off_t pos, size_t len)
{
	size_t half = len / 2, room = (half / vol->page + 1) * vol->page;
	uint8_t *map, *user;

	map = mmap(NULL, room + vol->page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, map);
	user = map + room - half;
	memcpy(user, model_write(vol, pos, half), half);
	ASSERT_EQ(0, munmap(map + room, vol->page));
	ASSERT_EQ(half, pwrite(vol->fd, user, len, pos))
		TH_LOG("%s", strerror(errno));
	ASSERT_EQ(0, munmap(map, room));
}

/* What the write did not reach is as it was, although it was not read. */
TEST_F(ocfs2, short_copy_over_data)
{
	struct volume *vol = &self->vol;

	do_write(_metadata, vol, 0, 3 * vol->cluster);
	do_evict(_metadata, vol);
	short_write(_metadata, vol, vol->cluster, vol->page);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, short_copy_into_hole)
{
	struct volume *vol = &self->vol;

	do_truncate(_metadata, vol, 3 * vol->cluster);
	short_write(_metadata, vol, vol->cluster, vol->page);
	short_write(_metadata, vol, 2 * vol->cluster + 100, 2000);
	verify_everywhere(_metadata, vol);
}

TEST_F(ocfs2, short_copy_at_eof)
{
	struct volume *vol = &self->vol;

	do_write(_metadata, vol, 0, vol->cluster);
	do_evict(_metadata, vol);
	short_write(_metadata, vol, vol->cluster, vol->page);
	do_evict(_metadata, vol);
	do_truncate(_metadata, vol, 2 * vol->cluster);
	verify_everywhere(_metadata, vol);
}

/* Have the volume on a filesystem that can be frozen, with stable writes. */
static int move_to_freezable(struct __test_metadata *_metadata,
			     struct volume *vol, struct image *outer)
{
	char attribute[64];
	int fd;

	ASSERT_EQ(0, close(vol->fd));
	vol->fd = -1;
	ASSERT_EQ(0, image_umount(&vol->im));

	strcpy(outer->path, IMAGE_DIR "/outer");
	strcpy(outer->mnt, IMAGE_DIR "/outer.mnt");
	ASSERT_EQ(0, mkdir(outer->mnt, 0700));
	ASSERT_EQ(0, image_run("truncate -s 64M %s && mkfs.ext4 -q %s",
			       outer->path, outer->path));
	ASSERT_EQ(0, image_mount(outer, "ext4", 0, NULL));
	ASSERT_EQ(0, image_run("mv %s %s/image", vol->im.path, outer->mnt));
	strcpy(vol->im.path, IMAGE_DIR "/outer.mnt/image");

	ASSERT_EQ(0, image_attach(&vol->im));
	snprintf(attribute, sizeof(attribute),
		 "/sys/block/%s/queue/stable_writes", vol->im.dev + 5);
	fd = open(attribute, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		SKIP(return -1, "no %s", attribute);
	ASSERT_EQ(1, write(fd, "1", 1));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, image_mount(&vol->im, "ocfs2", 0, "heartbeat=none"));
	vol->fd = open_file(vol, 0);
	ASSERT_GE(vol->fd, 0);
	return 0;
}

/* Data under writeback stay as they are until they have been written. */
TEST_F(ocfs2, punch_under_writeback)
{
	struct volume *vol = &self->vol;
	struct image outer = {};
	int frozen, status, ended;
	uint8_t *map, before;
	bool changed;
	pid_t child;

	if (!image_have("mkfs.ext4"))
		SKIP(return, "needs mkfs.ext4");
	if (move_to_freezable(_metadata, vol, &outer))
		return;
	do_write(_metadata, vol, 0, vol->cluster);
	ASSERT_EQ(0, fsync(vol->fd));
	do_write(_metadata, vol, 0, vol->page);
	map = mmap(NULL, vol->page, PROT_READ, MAP_SHARED, vol->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	before = map[100];
	ASSERT_NE(0, before);

	frozen = open(outer.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(frozen, 0);
	ASSERT_EQ(0, ioctl(frozen, FIFREEZE, 0));
	/* no assertion may end the test before the thaw */
	EXPECT_EQ(0, sync_file_range(vol->fd, 0, vol->page,
				     SYNC_FILE_RANGE_WRITE));
	child = fork();
	if (!child)
		_exit(fallocate(vol->fd,
				FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				100, 50));
	changed = wait_for(__atomic_load_n(&map[100], __ATOMIC_RELAXED) !=
			   before, 2);
	ended = waitpid(child, &status, WNOHANG);
	EXPECT_EQ(0, ioctl(frozen, FITHAW, 0));
	ASSERT_EQ(0, close(frozen));

	EXPECT_FALSE(changed);
	ASSERT_EQ(0, ended)
		TH_LOG("the writeback has not been held up");
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	ASSERT_EQ(0, map[100]);
	ASSERT_EQ(0, munmap(map, vol->page));
	memset(vol->want + 100, 0, 50);
	verify_everywhere(_metadata, vol);
}

TEST_HARNESS_MAIN
