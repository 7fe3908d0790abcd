// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compressed clusters of f2fs.
 *
 * A cluster is 4 to 256 pages that are compressed together. A write to a part
 * of a compressed cluster locks, reads and rewrites all of it, see
 * prepare_compress_overwrite(), and so does a truncation into it.
 *
 * A model of the file is kept in memory. It is compared with the file in the
 * page cache, on disk, and on a new mount, between which fsck.f2fs looks at the
 * volume.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <linux/f2fs.h>

#include "image_test.h"

#define CLUSTERS	3	/* size of a file, at most */

/* A value of the mount option fault_type: there is no free segment. */
#define FAULT_NO_SEGMENT	0x100000

struct volume {
	struct image im;
	char options[128];
	int fd;
	size_t page;
	size_t cluster;		/* in bytes */
	size_t size;		/* of the file */
	uint8_t *want;		/* what has to be in it */
	uint8_t *buf;
	unsigned int seed;
};

FIXTURE(f2fs) {
	struct volume vol;
};

FIXTURE_VARIANT(f2fs) {
	unsigned int log;	/* of the pages in a cluster */
	int rounds;		/* of no_space_in_cluster; a small cluster is slow */
};

FIXTURE_VARIANT_ADD(f2fs, pages_4) {
	.log = 2,
	.rounds = 1,
};

FIXTURE_VARIANT_ADD(f2fs, pages_256) {
	.log = 8,
	.rounds = 40,
};

static int open_file(struct volume *vol, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/file", vol->im.mnt);
	return open(path, O_RDWR | O_CLOEXEC | flags, 0600);
}

static int do_mount(struct volume *vol)
{
	return image_mount(&vol->im, "f2fs", 0, vol->options);
}

/* A new volume with an empty file that gets compressed; skipped if not 0. */
static int volume_create(struct __test_metadata *_metadata,
			 struct volume *vol)
{
	int err, flags = FS_COMPR_FL;

	ASSERT_EQ(0, image_run("mkfs.f2fs -q -f -O extra_attr,compression %s",
			       vol->im.path));
	err = do_mount(vol);
	if (err == -ENODEV)
		SKIP(return -1, "needs CONFIG_F2FS_FS");
	ASSERT_EQ(0, err);
	vol->fd = open_file(vol, O_CREAT | O_EXCL);
	ASSERT_GE(vol->fd, 0);
	if (ioctl(vol->fd, FS_IOC_SETFLAGS, &flags) && errno == EOPNOTSUPP)
		SKIP(return -1, "needs CONFIG_F2FS_FS_COMPRESSION");
	return 0;
}

FIXTURE_SETUP(f2fs)
{
	struct volume *vol = &self->vol;

	if (image_setup(&vol->im, _metadata, MIB(64)))
		return;
	vol->fd = -1;
	if (!image_have("mkfs.f2fs"))
		SKIP(return, "needs mkfs.f2fs");
	vol->page = sysconf(_SC_PAGESIZE);
	vol->cluster = vol->page << variant->log;
	vol->want = calloc(CLUSTERS, vol->cluster);
	vol->buf = malloc(CLUSTERS * vol->cluster);
	ASSERT_TRUE(vol->want && vol->buf);
	snprintf(vol->options, sizeof(vol->options),
		 "compress_algorithm=lz4,compress_log_size=%u", variant->log);
	volume_create(_metadata, vol);
}

FIXTURE_TEARDOWN(f2fs)
{
	struct volume *vol = &self->vol;

	if (vol->fd >= 0)
		close(vol->fd);
	image_teardown(&vol->im);
}

/* Compare the file with the model; the first difference is reported. */
static void verify(struct __test_metadata *_metadata, struct volume *vol,
		   const char *when)
{
	size_t i;

	ASSERT_EQ(vol->size,
		  pread(vol->fd, vol->buf, CLUSTERS * vol->cluster, 0))
		TH_LOG("%s: %s", when, strerror(errno));
	for (i = 0; i < vol->size && vol->buf[i] == vol->want[i]; i++)
		;
	ASSERT_EQ(vol->size, i)
		TH_LOG("%s: at 0x%zx 0x%02x, not 0x%02x", when, i,
		       vol->buf[i], vol->want[i]);
}

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
	if (image_have("fsck.f2fs"))
		ASSERT_EQ(0, image_run("fsck.f2fs --dry-run %s",
				       vol->im.path));
	ASSERT_EQ(0, do_mount(vol));
	vol->fd = open_file(vol, 0);
	ASSERT_GE(vol->fd, 0);
	verify(_metadata, vol, "new mount");
}

/* The model of a write of new data that compresses; returns the data. */
static uint8_t *model_write(struct volume *vol, off_t pos, size_t len)
{
	vol->seed += 2;
	pattern_fill(vol->want + pos, len, pos, vol->seed);
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

/* Have the file on disk, and not in the page cache. */
static void do_evict(struct __test_metadata *_metadata,
		     struct volume *vol)
{
	ASSERT_EQ(0, fsync(vol->fd));
	ASSERT_EQ(0, posix_fadvise(vol->fd, 0, 0, POSIX_FADV_DONTNEED));
}

static void expect_compressed(struct __test_metadata *_metadata,
			      struct volume *vol, __u64 blocks)
{
	__u64 saved = 0;

	ASSERT_EQ(0, ioctl(vol->fd, F2FS_IOC_GET_COMPRESS_BLOCKS, &saved));
	ASSERT_GE(saved, blocks)
		TH_LOG("the file is not compressed");
}

/* A file of compressed clusters, on disk only. */
static void fill_file(struct __test_metadata *_metadata,
		      struct volume *vol)
{
	do_write(_metadata, vol, 0, CLUSTERS * vol->cluster);
	do_evict(_metadata, vol);
	expect_compressed(_metadata, vol, CLUSTERS);
}

/*
 * One compressed cluster with many blocks, three for four pages: it takes long
 * until the last one is submitted.
 */
static void fill_cluster(struct __test_metadata *_metadata,
			 struct volume *vol)
{
	unsigned int seed = 1;

	memset(vol->buf, 0, vol->cluster);
	for (size_t i = 0; i < vol->cluster; i++)
		if (i / vol->page % 8 >= 2)
			vol->buf[i] = rand_r(&seed) >> 8;
	ASSERT_EQ(vol->cluster, pwrite(vol->fd, vol->buf, vol->cluster, 0));
	ASSERT_EQ(0, fsync(vol->fd));
	expect_compressed(_metadata, vol, 1);
}

/* No folio of the cluster is uptodate: all are read. */
TEST_F(f2fs, overwrite_cold)
{
	struct volume *vol = &self->vol;

	fill_file(_metadata, vol);
	do_write(_metadata, vol, vol->cluster + vol->page + 10, 100);
	verify_everywhere(_metadata, vol);
}

/* All are uptodate. */
TEST_F(f2fs, overwrite_warm)
{
	struct volume *vol = &self->vol;

	fill_file(_metadata, vol);
	verify(_metadata, vol, "cold");
	do_write(_metadata, vol, vol->cluster + vol->page + 10, 100);
	verify_everywhere(_metadata, vol);
}

/* Some are. */
TEST_F(f2fs, overwrite_half_cold)
{
	struct volume *vol = &self->vol;
	size_t half = vol->cluster / 2;

	fill_file(_metadata, vol);
	verify(_metadata, vol, "cold");
	ASSERT_EQ(0, posix_fadvise(vol->fd, vol->cluster + half, half,
				   POSIX_FADV_DONTNEED));
	do_write(_metadata, vol, vol->cluster + vol->page + 10, 100);
	do_write(_metadata, vol, 2 * vol->cluster - 10, 20);
	verify_everywhere(_metadata, vol);
}

/* The cluster is still dirty, or under writeback, when it is written again. */
TEST_F(f2fs, overwrite_again)
{
	struct volume *vol = &self->vol;

	fill_file(_metadata, vol);
	for (int i = 0; i < 20; i++) {
		do_write(_metadata, vol, vol->cluster + i * 100, 100);
		ASSERT_EQ(0, sync_file_range(vol->fd, 0, 0,
					     SYNC_FILE_RANGE_WRITE));
	}
	verify_everywhere(_metadata, vol);
}

TEST_F(f2fs, truncate_into_cluster)
{
	struct volume *vol = &self->vol;

	fill_file(_metadata, vol);
	do_truncate(_metadata, vol, 2 * vol->cluster + vol->page + 123);
	do_evict(_metadata, vol);
	do_truncate(_metadata, vol, vol->cluster + 77);
	do_truncate(_metadata, vol, CLUSTERS * vol->cluster);
	verify_everywhere(_metadata, vol);
}

struct writer {
	struct volume *vol;
	pthread_barrier_t *barrier;
	unsigned int nr;
	pthread_t thread;
	bool failed;
};

#define NR_WRITERS	4

/* In each cluster, every writer writes its own pieces, all at once. */
static void *write_pieces(void *arg)
{
	struct writer *w = arg;
	struct volume *vol = w->vol;
	const size_t len = vol->cluster / 16;

	for (size_t pos = 0; pos < vol->size; pos += len) {
		if (pos % vol->cluster == 0)
			pthread_barrier_wait(w->barrier);
		if (pos / len % NR_WRITERS == w->nr &&
		    pwrite(vol->fd, vol->want + pos, len, pos) != len)
			w->failed = true;
	}
	return NULL;
}

TEST_F_TIMEOUT(f2fs, writers_of_one_cluster, 300)
{
	struct volume *vol = &self->vol;
	struct writer writers[NR_WRITERS];
	pthread_barrier_t barrier;

	fill_file(_metadata, vol);
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

struct evicter {
	struct volume *vol;
	pthread_t thread;
	bool stop;
};

static void *evict_until_stopped(void *arg)
{
	struct evicter *e = arg;

	while (!__atomic_load_n(&e->stop, __ATOMIC_RELAXED)) {
		fsync(e->vol->fd);
		posix_fadvise(e->vol->fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	return NULL;
}

/* Folios go away between the read and the second lock: that starts again. */
TEST_F_TIMEOUT(f2fs, overwrite_while_evicted, 300)
{
	struct volume *vol = &self->vol;
	struct evicter e = { .vol = vol };

	fill_file(_metadata, vol);
	ASSERT_EQ(0, pthread_create(&e.thread, NULL, evict_until_stopped, &e));
	for (int i = 0; i < 50; i++)
		do_write(_metadata, vol,
			 (i * 7 * vol->page) % (2 * vol->cluster) + 10, 100);
	__atomic_store_n(&e.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(e.thread, NULL));
	verify_everywhere(_metadata, vol);
}

static void *write_until_error(void *arg)
{
	struct volume *vol = arg;

	while (pwrite(vol->fd, "x", 1, 0) == 1)
		;
	return NULL;
}

/*
 * It is not enough that the writer waits for the first page: it takes the locks
 * one by one and unlocks them before it locks all. Meet it in between.
 */
static void write_back_until_error(void *arg)
{
	struct volume *vol = arg;
	pthread_t thread;

	if (pthread_create(&thread, NULL, write_until_error, vol))
		_exit(1);
	do
		usleep(rand_r(&vol->seed) % 5000);
	while (!fsync(vol->fd));
	pthread_join(thread, NULL);
}

/*
 * One thread writes to a cluster and another one writes it back, until there is
 * no segment for the compressed blocks. The pages of which the blocks have been
 * submitted are taken back then, and the writer must not have one of them
 * locked. Without the fix it had in about every sixth round.
 */
TEST_F_TIMEOUT(f2fs, no_space_in_cluster, 300)
{
	struct volume *vol = &self->vol;
	char options[64];

	snprintf(options, sizeof(options), "fault_injection=1,fault_type=%u",
		 FAULT_NO_SEGMENT);
	for (int i = 0; i < variant->rounds; i++) {
		if (i)
			volume_create(_metadata, vol);
		vol->seed = i;
		fill_cluster(_metadata, vol);
		if (mount(NULL, vol->im.mnt, NULL, MS_REMOUNT, options))
			SKIP(return, "needs CONFIG_F2FS_FAULT_INJECTION");
		ASSERT_EQ(0, in_child(write_back_until_error, vol, 60))
			TH_LOG("round %d", i);
		ASSERT_EQ(0, close(vol->fd));
		vol->fd = -1;
		ASSERT_EQ(0, image_umount(&vol->im));
	}
}

TEST_HARNESS_MAIN
