// SPDX-License-Identifier: GPL-2.0
/*
 * Whole filesystems on loop devices.
 *
 * Random reads and writes do not show whether a filesystem keeps its promises
 * on a loop device. These tests check that synced data survives an unmount, a
 * backing file that fails writes, and one that is full; that nothing hangs when
 * memory is short or the filesystem of the backing file is frozen; and that a
 * file on NTFS can hold a root filesystem, for which loop once learned to use
 * write(2).
 *
 * LOOP_TEST_TREE=DIR  the directory that is copied
 * LOOP_TEST_FILES=N   so many of its files, the first by name (default 2000)
 * LOOP_TEST_SEED=N    repeat the run which printed that seed
 */
#include "loop_test.h"
#include "loop_more.h"

#include <fts.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>

#define IMAGE		FAULTFS "/image"
#define MNT		BASE "/mnt"

/* A filesystem that has not done it by then never will. */
#define DEADLINE	300

static __u64 test_seed(void)
{
	__u64 seed = env_number("LOOP_TEST_SEED", time(NULL));

	ksft_print_msg("LOOP_TEST_SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

/* Run a command that has to succeed. */
#define RUN(...) do {							\
	int __status = run(__VA_ARGS__);				\
									\
	if (__status)							\
		print_log();						\
	ASSERT_EQ(0, __status);						\
} while (0)

/* ext4 on a loop device on a file of faultfs */
FIXTURE(ext4)
{
	struct loop loop;
};

FIXTURE_VARIANT(ext4)
{
	const char *options;	/* of faultfs */
	bool direct;
	unsigned int limit;	/* for short transfers, bytes */
};

FIXTURE_VARIANT_ADD(ext4, buffered)
{
	.options = "io=iter",
	.limit = 7001,
};

FIXTURE_VARIANT_ADD(ext4, direct)
{
	.options = "io=iter,dio_align=512,aio,fallocate",
	.direct = true,
	.limit = 6656,
};

/* files without iter methods */
FIXTURE_VARIANT_ADD(ext4, write)
{
	.options = "io=write",
	.limit = 7001,
};

/* Bind a device to @path. Non-zero if that has marked the test as skipped. */
static int attach(struct __test_metadata *_metadata, struct loop *loop,
		  const char *path, bool direct)
{
	return loop_attach_path(_metadata, loop, path, O_RDWR,
				direct ? LO_FLAGS_DIRECT_IO : 0);
}

/* Replace the image by an empty one, with an ext4 of @size on it. */
static int make_ext4(struct __test_metadata *_metadata, struct loop *loop,
		     bool direct, size_t size)
{
	int fd;

	ASSERT_TRUE(!unlink(IMAGE) || errno == ENOENT);
	fd = make_file(IMAGE, size);
	ASSERT_GE(fd, 0);
	close(fd);
	if (attach(_metadata, loop, IMAGE, direct))
		return -1;
	/* the kernel shall not be initializing in the background */
	RUN("mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 %s",
	    loop->dev);
	return 0;
}

static void mount_ext4(struct __test_metadata *_metadata,
		       const struct loop *loop)
{
	ASSERT_EQ(0, mount(loop->dev, MNT, "ext4", 0, NULL))
		TH_LOG("mount: %s", strerror(errno));
}

static void umount_ext4(struct __test_metadata *_metadata)
{
	ASSERT_EQ(0, umount_soon(MNT));
}

/* Nothing of the filesystem is left in the page cache of the device. */
static void check_ext4(struct __test_metadata *_metadata,
		       const struct loop *loop)
{
	ASSERT_EQ(0, ioctl(loop->fd, BLKFLSBUF));
	RUN("e2fsck -f -n %s", loop->dev);
	ASSERT_EQ(0, ioctl(loop->fd, BLKFLSBUF));
}

/* Unmount, check, mount again: what is read then comes from the file. */
static void remount_ext4(struct __test_metadata *_metadata,
			 const struct loop *loop)
{
	umount_ext4(_metadata);
	check_ext4(_metadata, loop);
	mount_ext4(_metadata, loop);
}

FIXTURE_SETUP(ext4)
{
	self->loop.fd = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	ASSERT_EQ(0, mkdir(MNT, 0755));
	if (!have_program("mkfs.ext4") || !have_program("e2fsck"))
		SKIP(return, "needs mkfs.ext4 and e2fsck");
}

FIXTURE_TEARDOWN(ext4)
{
	umount2(MNT, MNT_DETACH);
	loop_detach(&self->loop);
	EXPECT_EQ(0, umount_soon(FAULTFS));
}

/*
 * Files of 1 to 64 KiB, each with different data. A file that has been synced
 * must not be lost, the next one may be.
 */
#define MAX_FILES	4096
#define MAX_FILE_SIZE	KIB(64)

struct files {
	__u64 seed;
	unsigned int nr;
	bool synced[MAX_FILES];
	size_t size[MAX_FILES];
	unsigned char buf[MAX_FILE_SIZE];
};

static void file_name(char *name, size_t size, unsigned int nr)
{
	snprintf(name, size, MNT "/%u", nr);
}

/* Write the next file; what failed if anything did, as a negative errno. */
static int write_file(struct files *files, bool sync)
{
	unsigned int nr = files->nr;
	char name[64];
	ssize_t n;
	int fd, err = 0;

	if (nr == MAX_FILES)
		return -EMFILE;
	files->nr++;
	files->size[nr] = 1 + rnd(&files->seed) % MAX_FILE_SIZE;
	file_name(name, sizeof(name), nr);
	fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	pattern_fill(files->buf, files->size[nr], 0, nr);
	n = pwrite_full(fd, files->buf, files->size[nr], 0);
	if (n < 0)
		err = n;
	else if (sync && fsync(fd))
		err = -errno;
	files->synced[nr] = sync && !err;
	close(fd);
	return err;
}

/* Write files, most of them synced, until there is an error. */
static int write_files(struct files *files)
{
	int err;

	memset(files->synced, 0, sizeof(files->synced));
	for (files->nr = 0, err = 0; !err; )
		err = write_file(files, rnd(&files->seed) % 4);
	return err;
}

/* All that was synced has to be there. The number of files that were. */
static unsigned int check_files(struct __test_metadata *_metadata,
				struct files *files)
{
	unsigned int nr, checked = 0;
	struct stat st;
	char name[64];
	int fd;

	for (nr = 0; nr < files->nr; nr++) {
		if (!files->synced[nr])
			continue;
		file_name(name, sizeof(name), nr);
		fd = open(name, O_RDONLY | O_CLOEXEC);
		ASSERT_GE(fd, 0)
			TH_LOG("%s was synced: %s", name, strerror(errno));
		ASSERT_EQ(0, fstat(fd, &st));
		ASSERT_EQ(files->size[nr], st.st_size)
			TH_LOG("%s was synced", name);
		ASSERT_EQ(files->size[nr],
			  pread_full(fd, files->buf, files->size[nr], 0));
		ASSERT_EQ(-1, pattern_verify(files->buf, files->size[nr], 0,
					     nr))
			TH_LOG("%s was synced", name);
		close(fd);
		checked++;
	}
	return checked;
}

/*
 * A tree of real files: copied, then compared with the original after the file
 * system was unmounted, checked and mounted again.
 */
static const char *find_tree(void)
{
	static char documentation[256];
	const char *dir = getenv("LOOP_TEST_TREE");
	struct utsname uts;

	if (dir && *dir)
		return dir;
	uname(&uts);
	snprintf(documentation, sizeof(documentation),
		 "/lib/modules/%s/source/Documentation", uts.release);
	if (!access(documentation, R_OK))
		return documentation;
	return access("/usr/share/doc", R_OK) ? NULL : "/usr/share/doc";
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
	return strcmp((*a)->fts_name, (*b)->fts_name);
}

static void copy_file(struct __test_metadata *_metadata, const FTSENT *entry,
		      const char *to)
{
	static char buf[MIB(1)];
	int in, out;
	ssize_t n;

	in = open(entry->fts_accpath, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(in, 0);
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ASSERT_GE(out, 0);
	while ((n = read(in, buf, sizeof(buf))) > 0)
		ASSERT_EQ(n, write(out, buf, n));
	ASSERT_EQ(0, n);
	ASSERT_EQ(0, fchmod(out, entry->fts_statp->st_mode & 07777));
	close(in);
	close(out);
}

static void compare_file(struct __test_metadata *_metadata,
			 const FTSENT *entry, const char *to)
{
	static char a[MIB(1)], b[MIB(1)];
	struct stat st;
	int in, out;
	off_t pos;
	ssize_t n;

	in = open(entry->fts_accpath, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(in, 0);
	out = open(to, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(out, 0)
		TH_LOG("%s: %s", to, strerror(errno));
	ASSERT_EQ(0, fstat(out, &st));
	ASSERT_EQ(entry->fts_statp->st_mode, st.st_mode)
		TH_LOG("%s", to);
	ASSERT_EQ(entry->fts_statp->st_size, st.st_size)
		TH_LOG("%s", to);
	for (pos = 0; pos < st.st_size; pos += n) {
		n = pread(in, a, sizeof(a), pos);
		ASSERT_GT(n, 0);
		ASSERT_EQ(n, pread_full(out, b, n, pos));
		ASSERT_EQ(-1, find_difference(a, b, n))
			TH_LOG("%s, behind %lld", to, (long long)pos);
	}
	close(in);
	close(out);
}

/* Copy or compare directories and regular files below @from, @max of those. */
static unsigned long walk_tree(struct __test_metadata *_metadata,
			       const char *from, unsigned long max,
			       bool compare)
{
	char * const paths[] = { (char *)from, NULL };
	unsigned long files = 0;
	char to[PATH_MAX];
	FTSENT *entry;
	FTS *fts;

	fts = fts_open(paths, FTS_PHYSICAL, by_name);
	ASSERT_NE(NULL, fts);
	while (files < max && (entry = fts_read(fts))) {
		snprintf(to, sizeof(to), MNT "/tree%s",
			 entry->fts_path + strlen(from));
		switch (entry->fts_info) {
		case FTS_D:
			if (!compare)
				ASSERT_EQ(0, mkdir(to, 0700));
			break;
		case FTS_F:
			files++;
			if (compare)
				compare_file(_metadata, entry, to);
			else
				copy_file(_metadata, entry, to);
			break;
		}
	}
	fts_close(fts);
	return files;
}

static void copy_tree(struct __test_metadata *_metadata, struct loop *loop,
		      bool direct, unsigned int limit)
{
	unsigned long files, max = env_number("LOOP_TEST_FILES", 2000);
	const char *tree = find_tree();
	double start = now();

	if (!tree)
		SKIP(return, "no tree to copy, see LOOP_TEST_TREE");
	if (make_ext4(_metadata, loop, direct, MIB(512)))
		return;
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=%u", limit));
	mount_ext4(_metadata, loop);
	files = walk_tree(_metadata, tree, max, false);
	ASSERT_GT(files, 0);
	remount_ext4(_metadata, loop);
	ASSERT_EQ(files, walk_tree(_metadata, tree, max, true));
	umount_ext4(_metadata);
	ksft_print_msg("%s: %lu files, %.0f s\n", tree, files, now() - start);
}

TEST_F_TIMEOUT(ext4, tree, 900)
{
	copy_tree(_metadata, &self->loop, variant->direct, 0);
}

TEST_F_TIMEOUT(ext4, tree_short_transfers, 900)
{
	copy_tree(_metadata, &self->loop, variant->direct, variant->limit);
}

/*
 * Stores to a shared mapping by several processes with several threads each,
 * every word by one of them, again and again, with msync() between.
 */
#define MMAP_SIZE	MIB(8)
#define MMAP_PROCESSES	4
#define MMAP_THREADS	2
#define MMAP_ROUNDS	4

struct mmap_writer {
	pthread_t thread;
	__u64 *map;
	unsigned int nr;
};

static __u64 mmap_word(size_t i, unsigned int round)
{
	__u64 seed = i * MMAP_ROUNDS + round;

	return rnd(&seed);
}

static void *mmap_writer(void *arg)
{
	const unsigned int step = MMAP_PROCESSES * MMAP_THREADS;
	struct mmap_writer *writer = arg;
	unsigned int round;
	size_t i;

	for (round = 0; round < MMAP_ROUNDS; round++) {
		for (i = writer->nr; i < MMAP_SIZE / 8; i += step)
			writer->map[i] = mmap_word(i, round);
		if (msync(writer->map, MMAP_SIZE, MS_SYNC))
			return arg;
	}
	return NULL;
}

static bool mmap_process(__u64 *map, unsigned int nr)
{
	struct mmap_writer writers[MMAP_THREADS];
	bool failed = false;
	unsigned int i;
	void *ret;

	for (i = 0; i < MMAP_THREADS; i++) {
		writers[i].map = map;
		writers[i].nr = nr * MMAP_THREADS + i;
		if (pthread_create(&writers[i].thread, NULL, mmap_writer,
				   &writers[i]))
			return false;
	}
	for (i = 0; i < MMAP_THREADS; i++) {
		pthread_join(writers[i].thread, &ret);
		failed |= !!ret;
	}
	return !failed;
}

TEST_F_TIMEOUT(ext4, shared_mapping, DEADLINE + 30)
{
	pid_t pids[MMAP_PROCESSES];
	unsigned int p;
	__u64 *map;
	int fd, status;
	size_t i;

	if (make_ext4(_metadata, &self->loop, variant->direct, MIB(64)))
		return;
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=%u", variant->limit));
	mount_ext4(_metadata, &self->loop);
	fd = make_file(MNT "/mapped", MMAP_SIZE);
	ASSERT_GE(fd, 0);
	map = mmap(NULL, MMAP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	for (p = 0; p < MMAP_PROCESSES; p++) {
		pids[p] = fork();
		ASSERT_GE(pids[p], 0);
		if (!pids[p])
			_exit(!mmap_process(map, p));
	}
	for (p = 0; p < MMAP_PROCESSES; p++) {
		ASSERT_TRUE(wait_child(pids[p], &status, DEADLINE));
		ASSERT_EQ(0, status);
	}
	munmap(map, MMAP_SIZE);
	close(fd);

	remount_ext4(_metadata, &self->loop);
	fd = open(MNT "/mapped", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	map = malloc(MMAP_SIZE);
	ASSERT_NE(NULL, map);
	ASSERT_EQ(MMAP_SIZE, pread_full(fd, map, MMAP_SIZE, 0));
	for (i = 0; i < MMAP_SIZE / 8; i++)
		ASSERT_EQ(mmap_word(i, MMAP_ROUNDS - 1), map[i])
			TH_LOG("word %zu", i);
	free(map);
	close(fd);
	umount_ext4(_metadata);
}

/* Copy what a file of faultfs holds: the first is cut off. */
static void copy_image(struct __test_metadata *_metadata, const char *to)
{
	static char buf[KIB(64)], zero[KIB(64)];
	struct stat st;
	int in, out;
	off_t pos;

	in = open(IMAGE, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(in, 0);
	ASSERT_EQ(0, fstat(in, &st));
	out = make_file(to, st.st_size);
	ASSERT_GE(out, 0);
	for (pos = 0; pos < st.st_size; pos += sizeof(buf)) {
		ASSERT_EQ(sizeof(buf), pread_full(in, buf, sizeof(buf), pos));
		if (memcmp(buf, zero, sizeof(buf)))
			ASSERT_EQ(sizeof(buf),
				  pwrite_full(out, buf, sizeof(buf), pos));
	}
	close(in);
	close(out);
}

/*
 * The backing file stops taking writes, at any point: the filesystem has to be
 * what it was at its last successful flush, or later. Half of the time the
 * kernel replays the journal, half of the time e2fsck does.
 */
#define POWER_CUTS	10

TEST_F_TIMEOUT(ext4, power_cut, 600)
{
	static struct files files;
	unsigned int i, cut, checked;
	__u64 seed = test_seed();
	int err;

	files.seed = seed;
	for (i = 0; i < POWER_CUTS; i++) {
		if (make_ext4(_metadata, &self->loop, variant->direct, MIB(64)))
			return;
		mount_ext4(_metadata, &self->loop);
		cut = 1 + rnd(&seed) % 1000;
		ASSERT_EQ(0, remount_faultfs(FAULTFS, "cut=%u", cut));
		err = write_files(&files);
		/* or there were fewer writes than that */
		ASSERT_TRUE(!err || err == -EIO || err == -EROFS)
			TH_LOG("after %u writes: %s", cut, strerror(-err));
		umount_ext4(_metadata);
		ASSERT_EQ(0, loop_detach(&self->loop));
		ASSERT_EQ(0, remount_faultfs(FAULTFS, "cut=0"));

		copy_image(_metadata, FAULTFS "/copy");
		attach(_metadata, &self->loop, FAULTFS "/copy",
		       variant->direct);
		if (i % 2)
			ASSERT_LE(run("e2fsck -f -y %s", self->loop.dev), 1);
		mount_ext4(_metadata, &self->loop);
		checked = check_files(_metadata, &files);
		umount_ext4(_metadata);
		check_ext4(_metadata, &self->loop);
		ASSERT_EQ(0, loop_detach(&self->loop));
		ASSERT_EQ(0, unlink(FAULTFS "/copy"));
		ksft_print_msg("cut after %u writes: %u files synced, of %u\n",
			       cut, checked, files.nr);
	}
}

/* The filesystem that holds the backing file is full. */
TEST_F_TIMEOUT(ext4, enospc, DEADLINE)
{
	static struct files files;
	struct statvfs st;
	int err;

	files.seed = test_seed();
	if (make_ext4(_metadata, &self->loop, variant->direct, MIB(64)))
		return;
	mount_ext4(_metadata, &self->loop);
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "fail=enospc,fail_at=%zu",
				     MIB(40)));
	err = write_files(&files);
	ASSERT_TRUE(err == -ENOSPC || err == -EIO)
		TH_LOG("file %u: %s", files.nr, strerror(-err));
	ASSERT_EQ(0, statvfs(MNT, &st));
	ASSERT_GT(st.f_bavail * st.f_frsize, MIB(8))
		TH_LOG("it is ext4 that is full");
	umount_ext4(_metadata);
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "fail=none"));

	ASSERT_EQ(0, ioctl(self->loop.fd, BLKFLSBUF));
	ASSERT_LE(run("e2fsck -f -y %s", self->loop.dev), 1);
	check_ext4(_metadata, &self->loop);
	mount_ext4(_metadata, &self->loop);
	ASSERT_GT(check_files(_metadata, &files), 0);
	umount_ext4(_metadata);
}

/*
 * Fill a file on the mounted filesystem and read it from the device again.
 * Called in a child, returns its exit status.
 */
#define BIG_FILE	MIB(128)

static int write_big_file(void)
{
	static char buf[KIB(64)];
	off_t pos;
	int fd;

	fd = open(MNT "/big", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return 1;
	for (pos = 0; pos < BIG_FILE; pos += sizeof(buf)) {
		pattern_fill(buf, sizeof(buf), pos, 1);
		if (pwrite_full(fd, buf, sizeof(buf), pos) != sizeof(buf))
			return 2;
	}
	if (fsync(fd))
		return 3;
	posix_fadvise(fd, 0, BIG_FILE, POSIX_FADV_DONTNEED);
	for (pos = 0; pos < BIG_FILE; pos += sizeof(buf)) {
		if (pread_full(fd, buf, sizeof(buf), pos) != sizeof(buf))
			return 4;
		if (pattern_verify(buf, sizeof(buf), pos, 1) >= 0)
			return 5;
	}
	close(fd);
	return 0;
}

#define CGROUPS		BASE "/cgroup"

static char enabled[32];	/* controllers, by this test */

static void remove_cgroup(const void *dir)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/cgroup.kill", (const char *)dir);
	write_text(path, "1");
	wait_for(!rmdir(dir) || errno == ENOENT, SOON);
	write_text(CGROUPS "/cgroup.subtree_control", enabled);
}

/* More dirty data than the memory cgroup of the writer may have. */
TEST_F_TIMEOUT(ext4, memory_cgroup, DEADLINE + 60)
{
	char dir[64], path[128], text[512];
	pid_t pid, undo;
	int status;
	bool io;

	ASSERT_EQ(0, mkdir(CGROUPS, 0755));
	if (mount("none", CGROUPS, "cgroup2", 0, NULL)) {
		ASSERT_EQ(ENODEV, errno);
		SKIP(return, "no cgroup2 (CONFIG_CGROUPS)");
	}
	ASSERT_EQ(0, read_text(CGROUPS "/cgroup.controllers", text,
			       sizeof(text)));
	if (!strstr(text, "memory"))
		SKIP(return, "no memory controller (CONFIG_MEMCG) in cgroup2");
	/* with "io" loop has a worker for the cgroup */
	io = strstr(text, "io");
	ASSERT_EQ(0, read_text(CGROUPS "/cgroup.subtree_control", text,
			       sizeof(text)));
	if (!strstr(text, "memory"))
		strcat(enabled, "-memory ");
	if (io && !strstr(text, "io"))
		strcat(enabled, "-io");

	if (make_ext4(_metadata, &self->loop, variant->direct, MIB(256)))
		return;
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=%u", variant->limit));
	mount_ext4(_metadata, &self->loop);

	snprintf(dir, sizeof(dir), CGROUPS "/loop_fs_test.%d", getpid());
	undo = undo_later(_metadata, remove_cgroup, dir);
	ASSERT_EQ(0, write_text(CGROUPS "/cgroup.subtree_control",
				io ? "+memory +io" : "+memory"));
	ASSERT_EQ(0, mkdir(dir, 0755));
	snprintf(path, sizeof(path), "%s/memory.max", dir);
	ASSERT_EQ(0, write_text(path, "32M"));

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		snprintf(path, sizeof(path), "%s/cgroup.procs", dir);
		_exit(write_text(path, "0") ? 9 : write_big_file());
	}
	ASSERT_TRUE(wait_child(pid, &status, DEADLINE))
		TH_LOG("%zu bytes were not written in %d s", BIG_FILE,
		       DEADLINE);
	ASSERT_EQ(0, status)
		TH_LOG("see write_big_file()");
	snprintf(path, sizeof(path), "%s/memory.peak", dir);
	ASSERT_EQ(0, read_text(path, text, sizeof(text)));
	ASSERT_GT(strtoul(text, NULL, 0), MIB(24))
		TH_LOG("the limit was never near");
	undo_now(_metadata, undo);
	umount_ext4(_metadata);
	check_ext4(_metadata, &self->loop);
}

/* Let allocations that may not sleep fail. */
#define FAIL_DIR	"/sys/kernel/debug/fail_page_alloc/"

static const char * const fail_values[][2] = {
	{ FAIL_DIR "probability",	"50" },
	{ FAIL_DIR "task-filter",	"N" },
	{ FAIL_DIR "ignore-gfp-wait",	"Y" },
	{ FAIL_DIR "min-order",		"0" },
	{ FAIL_DIR "verbose",		"0" },
	{ FAIL_DIR "interval",		"1" },
	{ FAIL_DIR "times",		"1000000" },
};

/*
 * Loop and the block layer below a filesystem have to get along without the
 * memory that they cannot wait for. An allocation that may sleep is left alone:
 * when one of faultfs or of this program fails, an error is right.
 */
TEST_F_TIMEOUT(ext4, fail_page_alloc, DEADLINE + 60)
{
	const long times = 1000000;
	char text[32];
	int status;
	pid_t pid, undo;

	if (!env_number("LOOP_TEST_FAULTS", 0))
		SKIP_NO_FAULTS(return);
	if (access(FAIL_DIR, F_OK))
		SKIP(return, "no " FAIL_DIR " (CONFIG_FAIL_PAGE_ALLOC)");
	if (make_ext4(_metadata, &self->loop, variant->direct, MIB(256)))
		return;
	mount_ext4(_metadata, &self->loop);

	for (unsigned int i = 0; i < ARRAY_SIZE(fail_values); i++)
		ASSERT_EQ(0, save_setting(fail_values[i][0]));
	undo = undo_later(_metadata, restore_settings, NULL);
	for (int i = ARRAY_SIZE(fail_values) - 1; i >= 0; i--)
		ASSERT_EQ(0, write_text(fail_values[i][0], fail_values[i][1]));
	/* How many allocations must not sleep depends on the free memory. */
	for (int i = 0; i < 10; i++) {
		unlink(MNT "/big");
		pid = fork();
		ASSERT_GE(pid, 0);
		if (!pid)
			_exit(write_big_file());
		ASSERT_TRUE(wait_child(pid, &status, DEADLINE))
			TH_LOG("%zu bytes were not written in %d s", BIG_FILE,
			       DEADLINE);
		ASSERT_EQ(0, status)
			TH_LOG("see write_big_file()");
		ASSERT_EQ(0, read_text(FAIL_DIR "times", text, sizeof(text)));
		if (strtol(text, NULL, 0) < times)
			break;
	}
	ASSERT_LT(strtol(text, NULL, 0), times)
		TH_LOG("no allocation failed");
	ksft_print_msg("%ld allocations failed\n",
		       times - strtol(text, NULL, 0));
	undo_now(_metadata, undo);
	umount_ext4(_metadata);
	check_ext4(_metadata, &self->loop);
}

/* The second number in "inflight" is that of writes. */
static bool writes_in_flight(const struct loop *loop)
{
	char path[64], text[64];
	unsigned int reads, writes;

	snprintf(path, sizeof(path), "/sys/block/loop%d/inflight", loop->nr);
	return !read_text(path, text, sizeof(text)) &&
	       sscanf(text, "%u %u", &reads, &writes) == 2 && writes;
}

static void thaw(const void *fd)
{
	ioctl(*(const int *)fd, FITHAW, 0);
}

/* Writes wait while the filesystem of the backing file is frozen. */
TEST_F_TIMEOUT(ext4, freeze, DEADLINE)
{
	struct loop upper = { .fd = -1 };
	int fd, lower, status;
	long long calls;
	pid_t pid, undo;
	char *buf;

	if (make_ext4(_metadata, &self->loop, variant->direct, MIB(64)))
		return;
	mount_ext4(_metadata, &self->loop);
	fd = make_file(MNT "/image", MIB(16));
	ASSERT_GE(fd, 0);
	close(fd);
	attach(_metadata, &upper, MNT "/image", false);
	buf = alloc_pages(MIB(1));
	ASSERT_NE(NULL, buf);
	pattern_fill(buf, MIB(1), 0, 1);
	lower = open(MNT, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(lower, 0);

	undo = undo_later(_metadata, thaw, &lower);
	ASSERT_EQ(0, ioctl(lower, FIFREEZE, 0))
		TH_LOG("FIFREEZE: %s", strerror(errno));
	calls = faultfs_calls(FAULTFS, "write_bytes");
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = open(upper.dev, O_WRONLY | O_DIRECT | O_CLOEXEC);
		_exit(pwrite_full(fd, buf, MIB(1), 0) != MIB(1) || fsync(fd));
	}
	/* loop has the request, and half a second is long for one */
	ASSERT_TRUE(wait_for(writes_in_flight(&upper), SOON));
	ASSERT_FALSE(wait_child(pid, &status, 0.5))
		TH_LOG("written while frozen, status %#x", status);
	ASSERT_EQ(calls, faultfs_calls(FAULTFS, "write_bytes"));

	undo_now(_metadata, undo);
	ASSERT_TRUE(wait_child(pid, &status, DEADLINE / 2));
	ASSERT_EQ(0, status);
	ASSERT_EQ(MIB(1), pread_full(upper.fd, buf, MIB(1), 0));
	ASSERT_EQ(-1, pattern_verify(buf, MIB(1), 0, 1));
	close(lower);
	ASSERT_EQ(0, loop_detach(&upper));
	umount_ext4(_metadata);
	check_ext4(_metadata, &self->loop);
}

/*
 * dm-crypt on loop. The mapping goes when nobody has it open any more, so
 * @fd is what keeps it.
 */
#define CRYPT_SIZE	MIB(16)
#define CRYPT_KEY	"000102030405060708090a0b0c0d0e0f" \
			"101112131415161718191a1b1c1d1e1f" \
			"202122232425262728292a2b2c2d2e2f" \
			"303132333435363738393a3b3c3d3e3f"

static int open_crypt(struct __test_metadata *_metadata,
		      const struct loop *loop, const char *name)
{
	char minor[16], path[32];
	int fd;

	RUN("dmsetup create %s --noudevsync --table '0 %zu crypt %s %s 0 %s 0'",
	    name, CRYPT_SIZE / SECTOR, "aes-xts-plain64", CRYPT_KEY, loop->dev);
	/* udev may not be there to make a link in /dev/mapper */
	RUN("dmsetup info -c --noheadings -o minor %s", name);
	ASSERT_EQ(0, read_text(LOG, minor, sizeof(minor)));
	snprintf(path, sizeof(path), "/dev/dm-%s", minor);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	RUN("dmsetup remove --deferred --noudevsync %s", name);
	return fd;
}

static void remove_crypt(const void *name)
{
	run("dmsetup remove --noudevsync %s", (const char *)name);
}

TEST_F_TIMEOUT(ext4, dm_crypt, DEADLINE)
{
	struct loop above = { .fd = -1 };
	struct loop_args args = {};
	unsigned char *plain, *buf;
	char name[32];
	size_t i;
	pid_t undo;
	int fd;

	if (!have_program("dmsetup"))
		SKIP(return, "needs dmsetup");
	run("modprobe dm-crypt");
	if (run("dmsetup targets | grep '^crypt '"))
		SKIP(return, "no dm-crypt (CONFIG_DM_CRYPT)");

	fd = make_file(IMAGE, CRYPT_SIZE);
	ASSERT_GE(fd, 0);
	close(fd);
	if (attach(_metadata, &self->loop, IMAGE, variant->direct))
		return;
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=%u", variant->limit));
	plain = alloc_pages(CRYPT_SIZE);
	buf = alloc_pages(CRYPT_SIZE);
	ASSERT_TRUE(plain && buf);
	pattern_fill(plain, CRYPT_SIZE, 0, 1);

	snprintf(name, sizeof(name), "loop_fs_test.%d", getpid());
	undo = undo_later(_metadata, remove_crypt, name);
	fd = open_crypt(_metadata, &self->loop, name);
	ASSERT_EQ(CRYPT_SIZE, pwrite_full(fd, plain, CRYPT_SIZE, 0));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(CRYPT_SIZE, pread_full(fd, buf, CRYPT_SIZE, 0));
	ASSERT_EQ(-1, find_difference(plain, buf, CRYPT_SIZE));
	close(fd);

	/* no sector of the file may be plain, and each has to be decrypted */
	fd = open(IMAGE, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(CRYPT_SIZE, pread_full(fd, buf, CRYPT_SIZE, 0));
	for (i = 0; i < CRYPT_SIZE; i += SECTOR)
		ASSERT_NE(0, memcmp(plain + i, buf + i, SECTOR))
			TH_LOG("sector %zu is not encrypted", i / SECTOR);
	close(fd);

	/* with loop above, too */
	args.file = open_crypt(_metadata, &self->loop, name);
	ASSERT_EQ(0, loop_attach(&above, &args));
	ASSERT_EQ(CRYPT_SIZE, pread_full(above.fd, buf, CRYPT_SIZE, 0));
	ASSERT_EQ(-1, find_difference(plain, buf, CRYPT_SIZE));
	ASSERT_EQ(0, loop_detach(&above));
	close(args.file);
	undo_now(_metadata, undo);
	free(plain);
	free(buf);
}

/*
 * A root filesystem: ext4 in a file on NTFS, with a loop device for each.
 * Written by the program that it holds, which has to be found by the next mount
 * too.
 */
#define NTFS		BASE "/ntfs"

FIXTURE(root_on_ntfs)
{
	struct loop ntfs;
	struct loop root;
};

FIXTURE_VARIANT(root_on_ntfs)
{
	const char *type;
	const char *options;	/* of faultfs */
};

FIXTURE_VARIANT_ADD(root_on_ntfs, ntfs)
{
	.type = "ntfs",
	.options = "io=iter",
};

FIXTURE_VARIANT_ADD(root_on_ntfs, ntfs3)
{
	.type = "ntfs3",
	.options = "io=iter",
};

/* files without iter methods */
FIXTURE_VARIANT_ADD(root_on_ntfs, ntfs_write)
{
	.type = "ntfs",
	.options = "io=write",
};

FIXTURE_VARIANT_ADD(root_on_ntfs, ntfs3_write)
{
	.type = "ntfs3",
	.options = "io=write",
};

FIXTURE_SETUP(root_on_ntfs)
{
	int fd;

	self->ntfs.fd = -1;
	self->root.fd = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	ASSERT_EQ(0, mkdir(MNT, 0755));
	ASSERT_EQ(0, mkdir(NTFS, 0755));
	if (!have_program("mkfs.ext4") || !have_program("e2fsck"))
		SKIP(return, "needs mkfs.ext4 and e2fsck");
	if (!have_program("mkntfs"))
		SKIP(return, "needs mkntfs");

	fd = make_file(IMAGE, MIB(96));
	ASSERT_GE(fd, 0);
	close(fd);
	if (attach(_metadata, &self->ntfs, IMAGE, false))
		return;
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=7001"));
	RUN("mkntfs -q -Q -F %s", self->ntfs.dev);
	if (mount(self->ntfs.dev, NTFS, variant->type, 0, NULL)) {
		ASSERT_EQ(ENODEV, errno)
			TH_LOG("mount: %s", strerror(errno));
		SKIP(return, "no %s filesystem", variant->type);
	}
}

FIXTURE_TEARDOWN(root_on_ntfs)
{
	umount2(MNT, MNT_DETACH);
	loop_detach(&self->root);
	umount2(NTFS, MNT_DETACH);
	loop_detach(&self->ntfs);
	EXPECT_EQ(0, umount_soon(FAULTFS));
}

static void mount_root(struct __test_metadata *_metadata, struct loop *root)
{
	attach(_metadata, root, NTFS "/root", false);
	mount_ext4(_metadata, root);
}

static void umount_root(struct __test_metadata *_metadata, struct loop *root)
{
	umount_ext4(_metadata);
	check_ext4(_metadata, root);
	ASSERT_EQ(0, loop_detach(root));
}

/* Run a script with the shell of the root filesystem; its exit status. */
static int run_in_root(struct __test_metadata *_metadata, const char *script)
{
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		if (chroot(MNT) || chdir("/"))
			_exit(126);
		execl("/bin/sh", "sh", "-c", script, NULL);
		_exit(127);
	}
	ASSERT_TRUE(wait_child(pid, &status, DEADLINE));
	ASSERT_TRUE(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* only what a shell has built in: write lines, read them, add them up */
#define ROOT_LINES	"2000"
#define ROOT_SUM	"1999000"
#define ROOT_WRITE	"n=0; while [ $n -lt " ROOT_LINES " ]; do " \
			"echo line $n; n=$((n + 1)); done >/lines"
#define ROOT_READ	"n=0; while read a b; do n=$((n + b)); done " \
			"</lines; [ $n = " ROOT_SUM " ]"

TEST_F_TIMEOUT(root_on_ntfs, run_program, 2 * DEADLINE)
{
	int fd;

	fd = make_file(NTFS "/root", MIB(48));
	ASSERT_GE(fd, 0);
	close(fd);
	attach(_metadata, &self->root, NTFS "/root", false);
	RUN("mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 %s",
	    self->root.dev);
	mount_ext4(_metadata, &self->root);
	RUN("cp -L --parents /bin/sh $(ldd /bin/sh | grep -o '/[^ )]*') " MNT);
	ASSERT_EQ(0, run_in_root(_metadata, ROOT_WRITE));
	ASSERT_EQ(0, run_in_root(_metadata, ROOT_READ));
	umount_root(_metadata, &self->root);

	/* both filesystems anew, nothing is cached */
	ASSERT_EQ(0, umount_soon(NTFS));
	ASSERT_EQ(0, ioctl(self->ntfs.fd, BLKFLSBUF));
	ASSERT_EQ(0, mount(self->ntfs.dev, NTFS, variant->type, 0, NULL))
		TH_LOG("mount: %s", strerror(errno));
	mount_root(_metadata, &self->root);
	RUN("cmp /bin/sh " MNT "/bin/sh");
	ASSERT_EQ(0, run_in_root(_metadata, ROOT_READ));
	umount_root(_metadata, &self->root);
	ASSERT_EQ(0, umount_soon(NTFS));
}

TEST_HARNESS_MAIN
