// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compressed clusters of f2fs.
 *
 * A cluster is 4 to 256 pages that are compressed together. A write to a part
 * of a compressed cluster locks, reads and rewrites all of it, see
 * prepare_compress_overwrite(), and so does a truncation into it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <linux/f2fs.h>

#include "file_model.h"

#define CLUSTERS	3	/* size of a file, at most */

/* Values of the mount option fault_type */
#define FAULT_PAGE_ALLOC	0x4		/* of a page cache */
#define FAULT_NO_SEGMENT	0x100000	/* there is no free one */

/* Bits of /proc/kpageflags */
#define KPF_LRU			5
#define KPF_PRIVATE		35

FIXTURE(f2fs) {
	struct file_model m;
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

/* A new volume with an empty file that gets compressed; skipped if not 0. */
static int volume_create(struct __test_metadata *_metadata,
			 struct file_model *m)
{
	int err, flags = FS_COMPR_FL;

	ASSERT_EQ(0, image_run("mkfs.f2fs -q -f -O extra_attr,compression %s",
			       m->im.path));
	err = model_mount(m);
	if (err == -ENODEV)
		SKIP(return -1, "needs CONFIG_F2FS_FS");
	ASSERT_EQ(0, err);
	m->fd = model_open(m, O_CREAT | O_EXCL);
	ASSERT_GE(m->fd, 0);
	if (ioctl(m->fd, FS_IOC_SETFLAGS, &flags) && errno == EOPNOTSUPP)
		SKIP(return -1, "needs CONFIG_F2FS_FS_COMPRESSION");
	return 0;
}

FIXTURE_SETUP(f2fs)
{
	struct file_model *m = &self->m;

	m->fstype = "f2fs";
	m->check = "fsck.f2fs --dry-run $I";
	snprintf(m->options, sizeof(m->options),
		 "compress_algorithm=lz4,compress_log_size=%u", variant->log);
	if (model_setup(m, _metadata, MIB(64),
			sysconf(_SC_PAGESIZE) << variant->log, CLUSTERS))
		return;
	if (!image_have("mkfs.f2fs"))
		SKIP(return, "needs mkfs.f2fs");
	volume_create(_metadata, m);
}

FIXTURE_TEARDOWN(f2fs)
{
	model_teardown(&self->m);
}

static void expect_compressed(struct __test_metadata *_metadata,
			      struct file_model *m, __u64 blocks)
{
	__u64 saved = 0;

	ASSERT_EQ(0, ioctl(m->fd, F2FS_IOC_GET_COMPRESS_BLOCKS, &saved));
	ASSERT_GE(saved, blocks)
		TH_LOG("the file is not compressed");
}

/* A file of compressed clusters, on disk only. */
static void fill_file(struct __test_metadata *_metadata,
		      struct file_model *m)
{
	model_write(_metadata, m, 0, m->max);
	model_evict(_metadata, m);
	expect_compressed(_metadata, m, CLUSTERS);
}

/*
 * One compressed cluster with many blocks, three for four pages: it takes long
 * until the last one is submitted.
 */
static void fill_cluster(struct __test_metadata *_metadata,
			 struct file_model *m)
{
	unsigned int seed = 1;

	memset(m->buf, 0, m->unit);
	for (size_t i = 0; i < m->unit; i++)
		if (i / m->page % 8 >= 2)
			m->buf[i] = rand_r(&seed) >> 8;
	ASSERT_EQ(m->unit, pwrite(m->fd, m->buf, m->unit, 0));
	ASSERT_EQ(0, fsync(m->fd));
	expect_compressed(_metadata, m, 1);
}

/* -1: not supported */
static int inject_faults(struct file_model *m, int rate, unsigned int type)
{
	char options[64];

	snprintf(options, sizeof(options), "fault_injection=%d,fault_type=%u",
		 rate, type);
	return mount(NULL, m->im.mnt, NULL, MS_REMOUNT, options);
}

/* No folio of the cluster is uptodate: all are read. */
TEST_F(f2fs, overwrite_cold)
{
	struct file_model *m = &self->m;

	fill_file(_metadata, m);
	model_write(_metadata, m, m->unit + m->page + 10, 100);
	model_verify_everywhere(_metadata, m);
}

/* All are uptodate. */
TEST_F(f2fs, overwrite_warm)
{
	struct file_model *m = &self->m;

	fill_file(_metadata, m);
	model_verify(_metadata, m, "cold");
	model_write(_metadata, m, m->unit + m->page + 10, 100);
	model_verify_everywhere(_metadata, m);
}

/* Some are. */
TEST_F(f2fs, overwrite_half_cold)
{
	struct file_model *m = &self->m;
	size_t half = m->unit / 2;

	fill_file(_metadata, m);
	model_verify(_metadata, m, "cold");
	ASSERT_EQ(0, posix_fadvise(m->fd, m->unit + half, half,
				   POSIX_FADV_DONTNEED));
	model_write(_metadata, m, m->unit + m->page + 10, 100);
	model_write(_metadata, m, 2 * m->unit - 10, 20);
	model_verify_everywhere(_metadata, m);
}

/* The cluster is still dirty, or under writeback, when it is written again. */
TEST_F(f2fs, overwrite_again)
{
	struct file_model *m = &self->m;

	fill_file(_metadata, m);
	for (int i = 0; i < 20; i++) {
		model_write(_metadata, m, m->unit + i * 100, 100);
		ASSERT_EQ(0, sync_file_range(m->fd, 0, 0,
					     SYNC_FILE_RANGE_WRITE));
	}
	model_verify_everywhere(_metadata, m);
}

TEST_F(f2fs, truncate_into_cluster)
{
	struct file_model *m = &self->m;

	fill_file(_metadata, m);
	model_truncate(_metadata, m, 2 * m->unit + m->page + 123);
	model_evict(_metadata, m);
	model_truncate(_metadata, m, m->unit + 77);
	model_truncate(_metadata, m, m->max);
	model_verify_everywhere(_metadata, m);
}

TEST_F_TIMEOUT(f2fs, writers_of_one_cluster, 300)
{
	struct file_model *m = &self->m;

	fill_file(_metadata, m);
	model_write_together(_metadata, m, 4, m->unit / 16);
	model_verify_everywhere(_metadata, m);
}

struct evicter {
	struct file_model *m;
	pthread_t thread;
	bool stop;
};

static void *evict_until_stopped(void *arg)
{
	struct evicter *e = arg;

	while (!__atomic_load_n(&e->stop, __ATOMIC_RELAXED)) {
		fsync(e->m->fd);
		posix_fadvise(e->m->fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	return NULL;
}

/* Folios go away between the read and the second lock: that starts again. */
TEST_F_TIMEOUT(f2fs, overwrite_while_evicted, 300)
{
	struct file_model *m = &self->m;
	struct evicter e = { .m = m };

	fill_file(_metadata, m);
	ASSERT_EQ(0, pthread_create(&e.thread, NULL, evict_until_stopped, &e));
	for (int i = 0; i < 50; i++)
		model_write(_metadata, m,
			    (i * 7 * m->page) % (2 * m->unit) + 10, 100);
	__atomic_store_n(&e.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(e.thread, NULL));
	model_verify_everywhere(_metadata, m);
}

static void *write_until_error(void *arg)
{
	struct file_model *m = arg;

	while (pwrite(m->fd, "x", 1, 0) == 1)
		;
	return NULL;
}

/*
 * It is not enough that the writer waits for the first page: it takes the locks
 * one by one and unlocks them before it locks all. Meet it in between.
 */
static void write_back_until_error(void *arg)
{
	struct file_model *m = arg;
	pthread_t thread;

	if (pthread_create(&thread, NULL, write_until_error, m))
		_exit(1);
	do
		usleep(rand_r(&m->seed) % 5000);
	while (!fsync(m->fd));
	pthread_join(thread, NULL);
}

/*
 * Counts pages with PG_private that are on no LRU list.  The output of f2fs's
 * compression is in such pages until it has been written.
 */
static long private_pages(void)
{
	int fd = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t flags[4096];
	long pages = 0;
	ssize_t n;

	if (fd < 0)
		return 0;
	while ((n = read(fd, flags, sizeof(flags))) > 0)
		for (int i = 0; i < n / sizeof(*flags); i++)
			pages += flags[i] >> KPF_PRIVATE & 1 &&
				 !(flags[i] >> KPF_LRU & 1);
	close(fd);
	return pages;
}

/*
 * One thread writes to a cluster and another one writes it back, until there is
 * no segment for the compressed blocks. The pages of which the blocks have been
 * submitted are taken back then, and the writer must not have one of them
 * locked. Without the fix it had in about every sixth round.
 */
TEST_F_TIMEOUT(f2fs, no_space_in_cluster, 300)
{
	struct file_model *m = &self->m;
	long before;

	drop_clean_caches();
	before = private_pages();
	for (int i = 0; i < variant->rounds; i++) {
		if (i)
			volume_create(_metadata, m);
		m->seed = i;
		fill_cluster(_metadata, m);
		if (inject_faults(m, 1, FAULT_NO_SEGMENT))
			SKIP(return, "needs CONFIG_F2FS_FAULT_INJECTION");
		ASSERT_EQ(0, in_child(write_back_until_error, m, 60))
			TH_LOG("round %d", i);
		model_umount(_metadata, m);
	}
	drop_clean_caches();
	/* others have some for a moment only */
	EXPECT_TRUE(wait_for(private_pages() < before + variant->rounds, SOON));
}

/* Evict the file. The number of its pages that somebody still uses. */
static size_t busy_pages(struct __test_metadata *_metadata,
			 struct file_model *m)
{
	model_evict(_metadata, m);
	return image_cached_pages(_metadata, m->fd, m->max);
}

/*
 * Blocks of a checkpoint are moved by way of the page cache, one by one. There is
 * nothing left of that, nor of an attempt that failed.
 */
TEST_F(f2fs, move_blocks)
{
	struct file_model *m = &self->m;
	struct f2fs_move_range range = {
		.pos_in = m->page,
		.pos_out = m->page,
		.len = m->unit,
	};
	char path[64];
	int flags = 0;

	ASSERT_EQ(0, ioctl(m->fd, FS_IOC_SETFLAGS, &flags));
	model_write(_metadata, m, 0, m->max);
	ASSERT_EQ(0, syncfs(m->fd));
	snprintf(path, sizeof(path), "%s/to", m->im.mnt);
	range.dst_fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE((int)range.dst_fd, 0);
	/* its data are no longer in the inode */
	ASSERT_EQ(m->page, pwrite(range.dst_fd, m->want, m->page, 0));

	/* what is to be moved is in the page cache: only the target is not */
	model_verify(_metadata, m, "before");
	if (inject_faults(m, 1, FAULT_PAGE_ALLOC))
		SKIP(return, "needs CONFIG_F2FS_FAULT_INJECTION");
	EXPECT_EQ(-1, ioctl(m->fd, F2FS_IOC_MOVE_RANGE, &range));
	EXPECT_EQ(ENOMEM, errno);
	ASSERT_EQ(0, inject_faults(m, 0, 0));
	EXPECT_EQ(0, busy_pages(_metadata, m));
	model_verify(_metadata, m, "not moved");

	ASSERT_EQ(0, ioctl(m->fd, F2FS_IOC_MOVE_RANGE, &range));
	EXPECT_EQ(0, busy_pages(_metadata, m));
	ASSERT_EQ(m->page + m->unit, pread(range.dst_fd, m->buf, m->max, 0));
	EXPECT_EQ(0, memcmp(m->buf, m->want, m->page + m->unit));
	ASSERT_EQ(0, close(range.dst_fd));
	memset(m->want + range.pos_in, 0, m->unit);
	model_verify(_metadata, m, "moved");

	ASSERT_EQ(0, fallocate(m->fd, FALLOC_FL_COLLAPSE_RANGE, 0, m->unit));
	memmove(m->want, m->want + m->unit, m->max - m->unit);
	m->size -= m->unit;
	model_verify_everywhere(_metadata, m);
}

TEST_HARNESS_MAIN
