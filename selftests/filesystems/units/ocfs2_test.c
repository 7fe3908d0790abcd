// SPDX-License-Identifier: GPL-2.0-only
/*
 * ocfs2 with clusters larger than a page.
 *
 * What allocates, zeroes or frees a part of a cluster locks the folios of the
 * whole cluster: ocfs2_grab_folios_for_write() and ocfs2_grab_folios().
 */
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/wait.h>

#include "file_model.h"

#define CLUSTERS	4	/* size of a file, at most */

#define MAKE_IT_FAIL	"/proc/thread-self/make-it-fail"

FIXTURE(ocfs2) {
	struct file_model m;
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

FIXTURE_SETUP(ocfs2)
{
	struct file_model *m = &self->m;
	int err;

	m->fstype = "ocfs2";
	strcpy(m->options, "heartbeat=none");
	/* without the limit, it faults in and locks a cache of 256 MiB */
	m->check = "ulimit -v 24576; fsck.ocfs2 -fn $I";
	m->seed = 1;
	if (model_setup(m, _metadata, MIB(40), variant->cluster, CLUSTERS))
		return;
	if (!image_have("mkfs.ocfs2"))
		SKIP(return, "needs mkfs.ocfs2");
	ASSERT_EQ(0, image_run("mkfs.ocfs2 -q -x -F -M local -N 1 -J size=%uM -b %u -C %u %s",
			       variant->journal, variant->block,
			       variant->cluster, m->im.path));
	err = model_mount(m);
	if (err == -ENODEV)
		SKIP(return, "needs CONFIG_OCFS2_FS");
	ASSERT_EQ(0, err);
	m->fd = model_open(m, O_CREAT | O_EXCL);
	ASSERT_GE(m->fd, 0);
}

FIXTURE_TEARDOWN(ocfs2)
{
	model_teardown(&self->m);
}

static void do_punch(struct __test_metadata *_metadata,
		     struct file_model *m, off_t pos, size_t len)
{
	memset(m->want + pos, 0, len);
	ASSERT_EQ(0, fallocate(m->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       pos, len));
}

TEST_F(ocfs2, write_into_hole)
{
	struct file_model *m = &self->m;

	model_truncate(_metadata, m, 3 * m->unit);
	model_write(_metadata, m, m->unit + m->unit / 2 + 10, 100);
	model_verify_everywhere(_metadata, m);
}

/* Across the boundary of two new clusters. */
TEST_F(ocfs2, write_into_two_holes)
{
	struct file_model *m = &self->m;

	model_truncate(_metadata, m, 3 * m->unit);
	model_write(_metadata, m, 2 * m->unit - 1000, 2000);
	model_verify_everywhere(_metadata, m);
}

/* The folios of the hole are uptodate already: they were read. */
TEST_F(ocfs2, write_into_hole_in_cache)
{
	struct file_model *m = &self->m;

	model_truncate(_metadata, m, 3 * m->unit);
	model_verify(_metadata, m, "hole");
	model_write(_metadata, m, m->unit + m->unit / 2 + 10, 100);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, append)
{
	struct file_model *m = &self->m;
	const size_t steps[] = { 1, 100, 5000, 300, 70000, 4096, 33 };
	unsigned int i = 0;

	while (m->size + 70000 < m->max &&
	       i < 3 * ARRAY_SIZE(steps)) {
		model_write(_metadata, m, m->size,
			    steps[i % ARRAY_SIZE(steps)]);
		i++;
	}
	model_write(_metadata, m, m->size, 333);
	model_verify_everywhere(_metadata, m);
}

/* The part between the old end and the write is zero, within a cluster too. */
TEST_F(ocfs2, write_past_eof)
{
	struct file_model *m = &self->m;

	model_write(_metadata, m, 0, 100);
	model_write(_metadata, m, m->unit / 2 + 77, 100);
	model_write(_metadata, m, 3 * m->unit + 77, 100);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, truncate_down_and_up)
{
	struct file_model *m = &self->m;

	model_write(_metadata, m, 0, 3 * m->unit);
	model_truncate(_metadata, m, m->unit + m->unit / 2 + 123);
	model_truncate(_metadata, m, 3 * m->unit);
	model_verify(_metadata, m, "grown in cache");

	model_write(_metadata, m, 0, 3 * m->unit);
	model_evict(_metadata, m);
	model_truncate(_metadata, m, m->unit + 5);
	model_evict(_metadata, m);
	model_truncate(_metadata, m, 3 * m->unit);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, punch_hole)
{
	struct file_model *m = &self->m;

	model_write(_metadata, m, 0, 4 * m->unit);
	model_evict(_metadata, m);
	/* within one cluster, to a boundary, across one, and a whole cluster */
	do_punch(_metadata, m, 100, m->unit / 2);
	do_punch(_metadata, m, m->unit + 300, m->unit - 300);
	do_punch(_metadata, m, 2 * m->unit - 200, 500);
	do_punch(_metadata, m, 3 * m->unit - 1, m->unit);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, mmap_write)
{
	struct file_model *m = &self->m;
	size_t len = 3 * m->unit;
	off_t pos = m->unit + m->unit / 2;
	uint8_t *map;

	model_truncate(_metadata, m, len);
	map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	memcpy(map + pos, model_fill(m, pos, 3), 3);
	memcpy(map + len - 2, model_fill(m, len - 2, 2), 2);
	ASSERT_EQ(0, munmap(map, len));
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, direct_write)
{
	struct file_model *m = &self->m;
	off_t pos = m->unit + m->unit / 2;
	int fd;

	pos -= pos % m->page;
	model_truncate(_metadata, m, 3 * m->unit);
	fd = model_open(m, O_DIRECT);
	ASSERT_GE(fd, 0);
	memcpy(m->buf, model_fill(m, pos, 2 * m->page), 2 * m->page);
	ASSERT_EQ(2 * m->page, pwrite(fd, m->buf, 2 * m->page, pos))
		TH_LOG("%s", strerror(errno));
	ASSERT_EQ(0, close(fd));
	model_verify_everywhere(_metadata, m);
}

TEST_F_TIMEOUT(ocfs2, neighbours_in_one_cluster, 300)
{
	struct file_model *m = &self->m;

	model_truncate(_metadata, m, m->max);
	model_write_together(_metadata, m, 8, 512);
	model_verify_everywhere(_metadata, m);
}

/* Data in the inode moves to a cluster, and the rest of that is zero. */
TEST_F(ocfs2, inline_data_to_extent)
{
	struct file_model *m = &self->m;

	model_write(_metadata, m, 0, 123);
	model_truncate(_metadata, m, 2 * m->unit);
	model_verify(_metadata, m, "truncated");
	model_truncate(_metadata, m, 0);
	model_evict(_metadata, m);

	model_write(_metadata, m, 0, 123);
	model_evict(_metadata, m);
	model_write(_metadata, m, m->unit - 5, 10);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, inline_data_mmap)
{
	struct file_model *m = &self->m;
	uint8_t *map;

	model_write(_metadata, m, 0, 123);
	map = mmap(NULL, m->page, PROT_READ | PROT_WRITE, MAP_SHARED,
		   m->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	memcpy(map + 50, model_fill(m, 50, 3), 3);
	ASSERT_EQ(0, munmap(map, m->page));
	model_verify_everywhere(_metadata, m);
}

/*
 * Write @len bytes at @pos from a buffer of which only the first half can be
 * read. That half gets written.
 */
static void short_write(struct __test_metadata *_metadata,
			struct file_model *m, off_t pos, size_t len)
{
	size_t half = len / 2, room = (half / m->page + 1) * m->page;
	uint8_t *map, *user;

	map = mmap(NULL, room + m->page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, map);
	user = map + room - half;
	memcpy(user, model_fill(m, pos, half), half);
	ASSERT_EQ(0, munmap(map + room, m->page));
	ASSERT_EQ(half, pwrite(m->fd, user, len, pos))
		TH_LOG("%s", strerror(errno));
	ASSERT_EQ(0, munmap(map, room));
}

/* What the write did not reach is as it was, although it was not read. */
TEST_F(ocfs2, short_copy_over_data)
{
	struct file_model *m = &self->m;

	model_write(_metadata, m, 0, 3 * m->unit);
	model_evict(_metadata, m);
	short_write(_metadata, m, m->unit, m->page);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, short_copy_into_hole)
{
	struct file_model *m = &self->m;

	model_truncate(_metadata, m, 3 * m->unit);
	short_write(_metadata, m, m->unit, m->page);
	short_write(_metadata, m, 2 * m->unit + 100, 2000);
	model_verify_everywhere(_metadata, m);
}

TEST_F(ocfs2, short_copy_at_eof)
{
	struct file_model *m = &self->m;

	model_write(_metadata, m, 0, m->unit);
	model_evict(_metadata, m);
	short_write(_metadata, m, m->unit, m->page);
	model_evict(_metadata, m);
	model_truncate(_metadata, m, 2 * m->unit);
	model_verify_everywhere(_metadata, m);
}

/* Have the volume on a filesystem that can be frozen, with stable writes. */
static int move_to_freezable(struct __test_metadata *_metadata,
			     struct file_model *m, struct image *outer)
{
	char attribute[64];
	int fd;

	model_umount(_metadata, m);
	strcpy(outer->path, IMAGE_DIR "/outer");
	strcpy(outer->mnt, IMAGE_DIR "/outer.mnt");
	ASSERT_EQ(0, mkdir(outer->mnt, 0700));
	ASSERT_EQ(0, image_run("truncate -s 64M %s && mkfs.ext4 -q %s",
			       outer->path, outer->path));
	ASSERT_EQ(0, image_mount(outer, "ext4", 0, NULL));
	ASSERT_EQ(0, image_run("mv %s %s/image", m->im.path, outer->mnt));
	strcpy(m->im.path, IMAGE_DIR "/outer.mnt/image");

	ASSERT_EQ(0, image_attach(&m->im));
	snprintf(attribute, sizeof(attribute),
		 "/sys/block/%s/queue/stable_writes", m->im.dev + 5);
	fd = open(attribute, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		SKIP(return -1, "no %s", attribute);
	ASSERT_EQ(1, write(fd, "1", 1));
	ASSERT_EQ(0, close(fd));
	ASSERT_EQ(0, model_mount(m));
	m->fd = model_open(m, 0);
	ASSERT_GE(m->fd, 0);
	return 0;
}

/* Data under writeback stay as they are until they have been written. */
TEST_F(ocfs2, change_under_writeback)
{
	struct file_model *m = &self->m;
	struct image outer = {};
	int frozen, status, ended;
	uint8_t *map, before;
	bool changed;
	pid_t child;

	if (!image_have("mkfs.ext4"))
		SKIP(return, "needs mkfs.ext4");
	if (move_to_freezable(_metadata, m, &outer))
		return;
	model_write(_metadata, m, 0, m->unit);
	frozen = open(outer.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(frozen, 0);
	map = mmap(NULL, m->page, PROT_READ, MAP_SHARED, m->fd, 0);
	ASSERT_NE(MAP_FAILED, map);

	for (int punch = 0; punch < 2; punch++) {
		ASSERT_EQ(0, fsync(m->fd));
		model_write(_metadata, m, 0, m->page);
		before = map[100];
		ASSERT_EQ(m->want[100], before);
		memset(m->want + 100, punch ? 0 : before ^ 0x80, 50);

		ASSERT_EQ(0, ioctl(frozen, FIFREEZE, 0));
		/* no assertion may end the test before the thaw */
		EXPECT_EQ(0, sync_file_range(m->fd, 0, m->page,
					     SYNC_FILE_RANGE_WRITE));
		child = fork();
		if (!child)
			_exit(punch ? fallocate(m->fd, FALLOC_FL_PUNCH_HOLE |
						FALLOC_FL_KEEP_SIZE, 100, 50) :
			      pwrite(m->fd, m->want + 100, 50, 100) != 50);
		changed = wait_for(__atomic_load_n(&map[100], __ATOMIC_RELAXED)
				   != before, 1);
		ended = waitpid(child, &status, WNOHANG);
		EXPECT_EQ(0, ioctl(frozen, FITHAW, 0));

		EXPECT_FALSE(changed);
		ASSERT_EQ(0, ended)
			TH_LOG("the writeback has not been held up");
		ASSERT_EQ(child, waitpid(child, &status, 0));
		ASSERT_EQ(0, status);
		ASSERT_EQ(m->want[100], map[100]);
	}
	ASSERT_EQ(0, close(frozen));
	ASSERT_EQ(0, munmap(map, m->page));
	model_verify_everywhere(_metadata, m);
}

static bool writes_in_flight(const struct image *im, unsigned int nr)
{
	unsigned int reads, writes = 0;
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/%s/inflight", im->dev + 5);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fscanf(f, "%u %u", &reads, &writes) != 2)
		writes = 0;
	fclose(f);
	return writes >= nr;
}

static bool sleeps(pid_t pid)
{
	char path[32], state = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	if (fscanf(f, "%*d %*s %c", &state) != 1)
		state = 0;
	fclose(f);
	return state == 'D';
}

/*
 * The page of a write fault is invalidated while the fault waits for the journal:
 * there is another one when it gets to lock that, and the fault is repeated.
 *
 * A direct write of the first two pages, from a buffer that cannot be read,
 * invalidates it.  The write waits for the writeback of the second page, which is
 * held up.  So is the commit of a transaction with the inode, after it.
 */
TEST_F(ocfs2, invalidate_under_fault)
{
	struct file_model *m = &self->m;
	enum { DIRECT, COMMIT, FAULT, CHILDREN };
	pid_t children[CHILDREN];
	struct image outer = {};
	int frozen, direct, other, status;
	bool waiting;
	char path[64];
	uint8_t *map;
	void *none;

	if (!image_have("mkfs.ext4"))
		SKIP(return, "needs mkfs.ext4");
	/* or the commit writes the second page */
	strcat(m->options, ",data=writeback");
	if (move_to_freezable(_metadata, m, &outer))
		return;
	model_write(_metadata, m, 0, m->max);
	ASSERT_EQ(0, fsync(m->fd));
	map = mmap(NULL, m->page, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	none = mmap(NULL, 2 * m->page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS,
		    -1, 0);
	ASSERT_NE(MAP_FAILED, none);
	direct = model_open(m, O_DIRECT);
	ASSERT_GE(direct, 0);
	frozen = open(outer.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(frozen, 0);

	model_write(_metadata, m, m->page, m->page);
	/* a commit of some length */
	for (int i = 0; i < 64; i++) {
		snprintf(path, sizeof(path), "%s/other%d", m->im.mnt, i);
		other = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
		ASSERT_GE(other, 0);
		if (i < 63)
			ASSERT_EQ(0, close(other));
	}

	ASSERT_EQ(0, ioctl(frozen, FIFREEZE, 0));
	/* no assertion may end the test before the thaw */
	children[DIRECT] = fork();
	if (!children[DIRECT])
		_exit(pwrite(direct, none, 2 * m->page, 0) >= 0 ||
		      errno != EFAULT);
	waiting = wait_for(writes_in_flight(&m->im, 1), SOON);
	children[COMMIT] = fork();
	if (!children[COMMIT])
		_exit(fsync(other));
	waiting = waiting && wait_for(writes_in_flight(&m->im, 2), SOON);
	children[FAULT] = fork();
	if (!children[FAULT]) {
		map[100] ^= 0x80;
		_exit(0);
	}
	waiting = waiting && wait_for(sleeps(children[FAULT]), SOON);
	poll(NULL, 0, 100);
	for (int i = 0; i < CHILDREN; i++)
		waiting = waiting && sleeps(children[i]);
	EXPECT_EQ(0, ioctl(frozen, FITHAW, 0));
	ASSERT_EQ(0, close(frozen));

	EXPECT_TRUE(waiting);
	for (int i = 0; i < CHILDREN; i++) {
		ASSERT_EQ(children[i], waitpid(children[i], &status, 0));
		EXPECT_EQ(0, status)
			TH_LOG("child %d", i);
	}
	m->want[100] ^= 0x80;
	EXPECT_EQ(m->want[100], map[100]);
	ASSERT_EQ(0, munmap(map, m->page));
	ASSERT_EQ(0, munmap(none, 2 * m->page));
	ASSERT_EQ(0, close(direct));
	ASSERT_EQ(0, close(other));
	model_verify_everywhere(_metadata, m);
}

/* What takes the folios of one cluster. */
enum operation {
	WRITE, WRITE_DIRECT, WRITE_MAPPED, WRITE_INLINE, PUNCH, TRUNCATE, OPERATIONS
};

/* In the second cluster */
static off_t operation_pos(const struct file_model *m, enum operation op)
{
	if (op == WRITE_INLINE)
		return 100;
	if (op == WRITE_DIRECT)
		return m->unit + m->unit / 2 / m->page * m->page;
	return m->unit + m->unit / 2 + 100;
}

static size_t operation_len(const struct file_model *m, enum operation op)
{
	switch (op) {
	case WRITE_DIRECT:
		return m->page;
	case WRITE_INLINE:	/* more than an inode can have */
		return m->page - 200;
	case PUNCH:
		return m->unit / 2 - 200;
	default:
		return 100;
	}
}

/* The file that the operation @op is for; nothing of it is in the page cache. */
static void prepare_operation(struct __test_metadata *_metadata,
			      struct file_model *m, enum operation op)
{
	model_truncate(_metadata, m, 0);
	if (op == WRITE_INLINE)
		model_write(_metadata, m, 0, 123);
	else if (op == PUNCH || op == TRUNCATE)
		model_write(_metadata, m, 0, 3 * m->unit);
	else
		model_truncate(_metadata, m, 3 * m->unit);
	model_evict(_metadata, m);
}

/* Have in the model what @op does. */
static void expect_operation(struct file_model *m, enum operation op)
{
	off_t pos = operation_pos(m, op);
	size_t len = operation_len(m, op);

	if (op == PUNCH)
		memset(m->want + pos, 0, len);
	else if (op != TRUNCATE)
		memcpy(m->buf, model_fill(m, pos, len), len);
	else
		memset(m->want + pos, 0, m->size - pos);
	if (op == TRUNCATE)
		m->size = pos;
}

/* 0 or a negative errno */
static int operate(const struct file_model *m, enum operation op, int direct)
{
	off_t pos = operation_pos(m, op);
	ssize_t ret, len = operation_len(m, op);
	uint8_t *map;

	switch (op) {
	case PUNCH:
		ret = fallocate(m->fd, FALLOC_FL_PUNCH_HOLE |
				FALLOC_FL_KEEP_SIZE, pos, len);
		break;
	case TRUNCATE:
		ret = ftruncate(m->fd, pos);
		break;
	case WRITE_MAPPED:
		map = mmap(NULL, 2 * m->unit, PROT_READ | PROT_WRITE,
			   MAP_SHARED, m->fd, 0);
		if (map == MAP_FAILED)
			return -errno;
		memcpy(map + pos, m->buf, len);
		ret = munmap(map, 2 * m->unit);
		break;
	default:
		ret = pwrite(op == WRITE_DIRECT ? direct : m->fd, m->buf, len,
			     pos);
		if (ret == len)
			ret = 0;
	}
	return ret < 0 ? -errno : ret;
}

/*
 * An operation for which there is no page is refused, and has done nothing. Only
 * those allocations fail for it that cannot wait: with that it gets along.
 */
TEST_F_TIMEOUT(ocfs2, no_memory, 120)
{
	struct file_model *m = &self->m, old;
	uint8_t *want = malloc(m->max);
	int direct, faults;

	if (image_faults(FAIL_PAGE))
		SKIP(return, "no " FAIL_PAGE " (CONFIG_FAIL_PAGE_ALLOC)");
	ASSERT_EQ(0, image_set(FAIL_PAGE "task-filter", "Y"));
	ASSERT_NE(NULL, want);
	direct = model_open(m, O_DIRECT);
	ASSERT_GE(direct, 0);

	for (int op = 0; op < OPERATIONS; op++) {
		prepare_operation(_metadata, m, op);
		expect_operation(m, op);
		ASSERT_EQ(0, image_set(FAIL_PAGE "ignore-gfp-wait", "Y"));
		ASSERT_EQ(0, image_set(FAIL_PAGE "probability", "100"));
		ASSERT_EQ(0, write_string(MAKE_IT_FAIL, "1"));
		EXPECT_EQ(0, operate(m, op, direct))
			TH_LOG("operation %d", op);
		ASSERT_EQ(0, write_string(MAKE_IT_FAIL, "0"));
		ASSERT_EQ(0, image_set(FAIL_PAGE "probability", "0"));
		model_verify(_metadata, m, "without waiting");

		ASSERT_EQ(0, image_set(FAIL_PAGE "ignore-gfp-wait", "N"));
		for (int i = 1, failed = true; failed; i += 1 + i / 4) {
			int err;

			prepare_operation(_metadata, m, op);
			old = *m;
			old.want = memcpy(want, m->want, m->max);
			expect_operation(m, op);
			faults = image_fail_nth(i);
			err = operate(m, op, direct);
			failed = image_has_failed(faults);
			if (err) {
				/* of a truncation, any error becomes ENOSPC */
				if (err != -ENOSPC || op != TRUNCATE)
					EXPECT_EQ(-ENOMEM, err)
						TH_LOG("operation %d, page %d",
						       op, i);
				model_verify(_metadata, &old, "refused");
				memcpy(m->buf, m->want + operation_pos(m, op),
				       operation_len(m, op));
				ASSERT_EQ(0, operate(m, op, direct));
			}
			model_verify(_metadata, m, "at last");
		}
	}
	ASSERT_EQ(0, close(direct));
	free(want);
	model_verify_everywhere(_metadata, m);
}

TEST_HARNESS_MAIN
