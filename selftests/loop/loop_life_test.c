// SPDX-License-Identifier: GPL-2.0-only
/*
 * Life cycle of loop devices: binding and clearing leak nothing, devices on one
 * file and on each other, memory cgroups, failing allocations.
 */
#include <glob.h>
#include <sys/mman.h>

#include "loop_test.h"
#include "loop_more.h"

#define IMAGE		FAULTFS "/image"
#define SIZE		MIB(1)

#define OLD		1
#define NEW		2

/* Life cycle, for each way to the backing file. */
FIXTURE(life) {
	struct loop lo;
	int file;
};

FIXTURE_VARIANT(life) {
	const char *options;		/* of faultfs */
	unsigned int flags;		/* of the device */
	bool window;			/* the file has no iter methods */
};

FIXTURE_VARIANT_ADD(life, iter) {
	.options = "io=iter",
};

FIXTURE_VARIANT_ADD(life, iter_direct) {
	.options = "io=iter,dio_align=512",
	.flags = LO_FLAGS_DIRECT_IO,
};

/* files without iter methods */
FIXTURE_VARIANT_ADD(life, write) {
	.options = "io=write",
	.window = true,
};

FIXTURE_SETUP(life)
{
	struct loop_args args = { .mode = O_RDWR, .flags = variant->flags };
	int err;

	self->lo.fd = -1;
	self->file = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	self->file = make_image(_metadata, IMAGE, SIZE, OLD, O_RDWR);
	args.file = self->file;
	err = loop_attach(&self->lo, &args);
	if (err == -EINVAL && variant->window && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
}

FIXTURE_TEARDOWN(life)
{
	EXPECT_EQ(loop_detach(&self->lo), 0);
	close(self->file);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
}

TEST_F(life, autoclear)
{
	struct loop_info64 info;
	int fd = open(self->lo.dev, O_RDONLY | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	ASSERT_TRUE(info.lo_flags & LO_FLAGS_AUTOCLEAR);
	close(self->lo.fd);
	self->lo.fd = -1;
	ASSERT_EQ(ioctl(fd, LOOP_GET_STATUS64, &info), 0);
	check_device(_metadata, &self->lo, SIZE, OLD);
	close(fd);
	ASSERT_TRUE(wait_for(!loop_bound(&self->lo), SOON));
	/* the file is free, too */
	close(self->file);
	self->file = -1;
	ASSERT_EQ(umount_soon(FAULTFS), 0);
	ASSERT_EQ(mount("none", FAULTFS, "faultfs", 0, NULL), 0);
}

TEST_F(life, several_devices)
{
	struct loop_args args = {
		.file = self->file,
		.mode = O_RDWR,
		.flags = variant->flags,
	};
	struct loop other[2];

	for (int i = 0; i < 2; i++)
		ASSERT_EQ(loop_attach(&other[i], &args), 0);
	write_device(_metadata, &self->lo, SIZE, NEW);
	for (int i = 0; i < 2; i++)
		check_device(_metadata, &other[i], SIZE, NEW);
	ASSERT_EQ(loop_detach(&other[0]), 0);
	write_device(_metadata, &other[1], SIZE, NEW + 1);
	check_device(_metadata, &self->lo, SIZE, NEW + 1);
	ASSERT_EQ(loop_detach(&other[1]), 0);
	check_device(_metadata, &self->lo, SIZE, NEW + 1);
}

TEST_F(life, loop_on_loop)
{
	struct loop_args args = { .mode = O_RDWR };
	struct loop upper;
	char *buf = alloc_pages(SIZE);

	ASSERT_NE(buf, NULL);
	args.file = open(self->lo.dev, O_RDWR | O_CLOEXEC);
	ASSERT_GE(args.file, 0);
	args.offset = KIB(64);
	ASSERT_EQ(loop_attach(&upper, &args), 0);
	close(args.file);
	ASSERT_EQ(device_size(upper.fd), (long long)(SIZE - KIB(64)));
	write_device(_metadata, &upper, KIB(128), NEW);
	ASSERT_EQ(fsync(upper.fd), 0);
	check_device(_metadata, &upper, KIB(128), NEW);

	ASSERT_EQ(pread_full(self->file, buf, SIZE, 0), (ssize_t)SIZE);
	ASSERT_EQ(pattern_verify(buf, KIB(64), 0, OLD), -1);
	ASSERT_EQ(pattern_verify(buf + KIB(64), KIB(128), 0, NEW), -1);
	ASSERT_EQ(pattern_verify(buf + KIB(192), SIZE - KIB(192), KIB(192),
				 OLD), -1);
	ASSERT_EQ(loop_detach(&upper), 0);
	free(buf);
}

/*
 * Have the slab caches @pattern give back what is free in them, and KASAN what it
 * keeps of them although it has been freed.
 */
static void shrink_caches(const char *pattern)
{
	char path[128];
	glob_t found;

	snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", pattern);
	if (glob(path, GLOB_NOSORT, NULL, &found))
		return;
	for (size_t i = 0; i < found.gl_pathc; i++)
		write_text(found.gl_pathv[i], "1");
	globfree(&found);
}

/* Memory of the kernel that cannot be reclaimed, in KiB. */
static long long kernel_memory(void)
{
	static const char * const names[] = {
		"SUnreclaim:", "KernelStack:", "PageTables:", "Percpu:",
	};
	char line[128], key[64];
	long long sum = 0, value;
	FILE *f;

	shrink_caches("*");
	f = fopen("/proc/meminfo", "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		for (unsigned int i = 0; i < ARRAY_SIZE(names); i++)
			if (sscanf(line, "%63s %lld", key, &value) == 2 &&
			    !strcmp(key, names[i]))
				sum += value;
	fclose(f);
	return sum;
}

/* Objects in use of the slab cache @name; 0 if that isn't told. */
static long long slab_objects(const char *name)
{
	char line[512], key[64];
	long long n = 0, value;
	FILE *f;

	shrink_caches(name);
	f = fopen("/proc/slabinfo", "re");
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %lld", key, &value) == 2 &&
		    !strcmp(key, name))
			n = value;
	fclose(f);
	return n;
}

static const char * const caches[] = {
	"mm_struct", "vm_area_struct", "filp", "task_struct", "pool_workqueue",
};

static void attach_cycles(struct __test_metadata *_metadata,
			  FIXTURE_DATA(life) * self, unsigned int flags,
			  int cycles)
{
	struct loop_args args = {
		.file = self->file,
		.mode = O_RDWR,
		.flags = flags,
	};

	while (cycles--) {
		ASSERT_EQ(loop_attach(&self->lo, &args), 0);
		ASSERT_EQ(loop_detach(&self->lo), 0);
	}
}

TEST_F_TIMEOUT(life, cycles, 300)
{
	int cycles = env_number("LOOP_TEST_CYCLES", 1000);
	long long objects[ARRAY_SIZE(caches)], memory;
	unsigned int i;

	if (!getenv("LOOP_TEST_CYCLES"))
		SKIP(return,
		     "set LOOP_TEST_CYCLES=1000 on an idle machine to look for leaks");
	ASSERT_GE(cycles, 100);
	ASSERT_EQ(loop_detach(&self->lo), 0);
	attach_cycles(_metadata, self, variant->flags, cycles / 4);
	memory = kernel_memory();
	for (i = 0; i < ARRAY_SIZE(caches); i++)
		objects[i] = slab_objects(caches[i]);

	attach_cycles(_metadata, self, variant->flags, cycles);

	/* what RCU has not freed yet is not leaked: give it time */
	for (i = 0; i < ARRAY_SIZE(caches); i++) {
		EXPECT_TRUE(wait_for(slab_objects(caches[i]) <
				     objects[i] + cycles / 4, SOON))
			TH_LOG("%s: from %lld to %lld in %d cycles", caches[i],
			       objects[i], slab_objects(caches[i]), cycles);
	}
	EXPECT_TRUE(wait_for(kernel_memory() < memory + 1024 + cycles / 4,
			     SOON))
		TH_LOG("from %lld KiB to %lld KiB in %d cycles", memory,
		       kernel_memory(), cycles);
}

/*
 * A private memory cgroup below a private parent, with the io controller, so
 * that writeback is done in its name. Non-zero if the test has been marked as
 * skipped. The test calls undo_now(_metadata, cgroup_undo) at its end.
 */
#define CGROUPS		BASE "/cgroup"

static char group[64], child[80];
static pid_t cgroup_undo;

/* Remove what a killed test has left, and the controllers that it enabled. */
static void undo_cgroup(const void *enabled)
{
	wait_for(rmdir(child) && errno != ENOENT ? 0 : 1, SOON);
	wait_for(rmdir(group) && errno != ENOENT ? 0 : 1, SOON);
	if (*(const char *)enabled)
		write_text(CGROUPS "/cgroup.subtree_control", enabled);
}

static int make_cgroup(struct __test_metadata *_metadata)
{
	char text[256], path[128], enabled[32] = "";

	ASSERT_EQ(mkdir(CGROUPS, 0755), 0);
	if (mount("none", CGROUPS, "cgroup2", 0, NULL)) {
		ASSERT_EQ(errno, ENODEV);
		SKIP(return -1, "no cgroups (CONFIG_CGROUPS)");
	}
	ASSERT_EQ(read_text(CGROUPS "/cgroup.controllers", text, sizeof(text)),
		  0);
	if (!strstr(text, "memory") || !strstr(text, "io"))
		SKIP(return -1,
		     "no memory and io controllers (CONFIG_MEMCG, CONFIG_BLK_CGROUP)");
	ASSERT_EQ(read_text(CGROUPS "/cgroup.subtree_control", text,
			    sizeof(text)), 0);
	if (!strstr(text, "memory"))
		strcat(enabled, "-memory ");
	if (!strstr(text, "io"))
		strcat(enabled, "-io");
	snprintf(group, sizeof(group), CGROUPS "/loop_test.%d", getpid());
	snprintf(child, sizeof(child), "%s/child", group);
	cgroup_undo = undo_later(_metadata, undo_cgroup, enabled);
	ASSERT_EQ(write_text(CGROUPS "/cgroup.subtree_control", "+memory +io"),
		  0);
	ASSERT_EQ(mkdir(group, 0755), 0);
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", group);
	ASSERT_EQ(write_text(path, "+memory +io"), 0);
	ASSERT_EQ(mkdir(child, 0755), 0);
	return 0;
}

static int write_child(const char *name, const char *text)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", child, name);
	return write_text(path, text);
}

static int rmdir_soon(const char *dir)
{
	int ret;

	wait_for(!(ret = rmdir(dir)) || errno != EBUSY, SOON);
	return ret ? -errno : 0;
}

/* Cgroups below the group that are removed, but still referred to, or -1. */
static int dying_cgroups(void)
{
	char path[128], line[128];
	int n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "%s/cgroup.stat", group);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "nr_dying_descendants %d", &n) == 1)
			break;
	fclose(f);
	return n;
}

#define LIMITED_SIZE	MIB(24)

static int write_limited(const char *dev)
{
	int fd = open(dev, O_RDWR | O_CLOEXEC);
	static char buf[KIB(64)];

	if (fd < 0 || write_child("cgroup.procs", "0"))
		return 1;
	for (size_t pos = 0; pos < LIMITED_SIZE; pos += sizeof(buf)) {
		pattern_fill(buf, sizeof(buf), pos, NEW);
		if (pwrite_full(fd, buf, sizeof(buf), pos) != sizeof(buf))
			return 2;
	}
	return fsync(fd) ? 3 : 0;
}

/* More dirty data than the writer may have memory. */
TEST_F_TIMEOUT(life, memory_limit, 120)
{
	int status;
	pid_t pid;

	if (make_cgroup(_metadata))
		return;
	ASSERT_EQ(write_child("memory.max", "8M"), 0);
	ASSERT_EQ(ftruncate(self->file, LIMITED_SIZE), 0);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(write_limited(self->lo.dev));
	EXPECT_TRUE(wait_child(pid, &status, 60));
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	check_device(_metadata, &self->lo, LIMITED_SIZE, NEW);
	EXPECT_EQ(rmdir_soon(child), 0);
	EXPECT_EQ(rmdir_soon(group), 0);
	undo_now(_metadata, cgroup_undo);
}

/* A number of memory.stat of the child, or -1. */
static long long memory_stat(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/memory.stat", child);
	return read_counter(path, name);
}

/* Bind and clear, change the file, and have both refused. */
static int bind_cycles(FIXTURE_DATA(life) * self, struct loop_args args,
		       int cycles)
{
	int small = make_file(FAULTFS "/small", SECTOR);
	struct loop lo;

	if (small < 0 || write_child("cgroup.procs", "0"))
		return 1;
	while (cycles--) {
		args.block_size = 3;
		if (loop_attach(&lo, &args) != -EINVAL)
			return 2;
		args.block_size = 0;
		if (loop_attach(&lo, &args))
			return 3;
		if (ioctl(lo.fd, LOOP_CHANGE_FD, small) != -1 ||
		    errno != EINVAL)
			return 4;
		if (ioctl(lo.fd, LOOP_CHANGE_FD, self->file))
			return 5;
		if (loop_detach(&lo))
			return 6;
	}
	return 0;
}

/* A window of 64 KiB that is leaked in each cycle would be 2 MiB. */
TEST_F_TIMEOUT(life, charged_memory, 120)
{
	struct loop_args args = {
		.file = self->file,
		.flags = variant->flags | LO_FLAGS_READ_ONLY,
	};
	int status;
	pid_t pid;

	if (make_cgroup(_metadata))
		return;
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(bind_cycles(self, args, 32));
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	EXPECT_GE(memory_stat("kernel"), 0);
	EXPECT_TRUE(wait_for(memory_stat("kernel") < (long long)MIB(1), SOON))
		TH_LOG("%lld bytes are still charged", memory_stat("kernel"));
	EXPECT_EQ(rmdir_soon(child), 0);
	EXPECT_EQ(rmdir_soon(group), 0);
	undo_now(_metadata, cgroup_undo);
}

/* Each writer is in another cgroup: the driver has a worker for each. */
#define WRITERS		4

static int write_part(const char *dev, int part)
{
	const size_t len = KIB(8);
	int fd = open(dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	void *buf = alloc_pages(len);
	char path[128];

	snprintf(path, sizeof(path), "%s/w%d/cgroup.procs", group, part);
	if (fd < 0 || !buf || write_text(path, "0"))
		return 1;
	for (size_t pos = part * len; pos < SIZE; pos += WRITERS * len) {
		pattern_fill(buf, len, pos, NEW);
		if (pwrite_full(fd, buf, len, pos) != (ssize_t)len)
			return 2;
		if (pread_full(fd, buf, len, pos) != (ssize_t)len)
			return 3;
		if (pattern_verify(buf, len, pos, NEW) >= 0)
			return 4;
	}
	return 0;
}

TEST_F_TIMEOUT(life, cgroup_writers, 60)
{
	pid_t pids[WRITERS];
	char dir[80];
	int status;

	if (make_cgroup(_metadata))
		return;
	for (int i = 0; i < WRITERS; i++) {
		snprintf(dir, sizeof(dir), "%s/w%d", group, i);
		ASSERT_EQ(mkdir(dir, 0755), 0);
		pids[i] = fork();
		ASSERT_GE(pids[i], 0);
		if (!pids[i])
			_exit(write_part(self->lo.dev, i));
	}
	for (int i = 0; i < WRITERS; i++) {
		ASSERT_EQ(waitpid(pids[i], &status, 0), pids[i]);
		EXPECT_TRUE(WIFEXITED(status));
		EXPECT_EQ(WEXITSTATUS(status), 0);
		snprintf(dir, sizeof(dir), "%s/w%d", group, i);
		EXPECT_EQ(rmdir_soon(dir), 0);
	}
	check_device(_metadata, &self->lo, SIZE, NEW);
	EXPECT_EQ(rmdir_soon(child), 0);
	EXPECT_EQ(rmdir_soon(group), 0);
	undo_now(_metadata, cgroup_undo);
}

/* An injected fault is an error, unless the driver can do without. */
#define DEBUG		BASE "/debug"

static pid_t faults_undo;

/* The test calls undo_now(_metadata, faults_undo) at its end. */
static int set_up_faults(struct __test_metadata *_metadata)
{
	static const char * const values[][2] = {
		{ DEBUG "/failslab/ignore-gfp-wait", "N" },
		{ DEBUG "/failslab/verbose", "0" },
		{ DEBUG "/failslab/times", "1" },
		{ DEBUG "/fail_page_alloc/ignore-gfp-wait", "N" },
		{ DEBUG "/fail_page_alloc/min-order", "0" },
		{ DEBUG "/fail_page_alloc/verbose", "0" },
		{ DEBUG "/fail_page_alloc/times", "1" },
	};

	if (!env_number("LOOP_TEST_FAULTS", 0))
		SKIP_NO_FAULTS(return -1);
	ASSERT_EQ(mkdir(DEBUG, 0755), 0);
	if (mount("none", DEBUG, "debugfs", 0, NULL)) {
		ASSERT_EQ(errno, ENODEV);
		SKIP(return -1, "no debugfs (CONFIG_DEBUG_FS)");
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(values); i++) {
		int err = save_setting(values[i][0]);

		if (err == -ENOENT)
			SKIP(return -1,
			     "no %s (CONFIG_FAILSLAB, CONFIG_FAIL_PAGE_ALLOC, CONFIG_FAULT_INJECTION_DEBUG_FS)",
			     values[i][0]);
		ASSERT_EQ(err, 0);
	}
	faults_undo = undo_later(_metadata, restore_settings, NULL);
	for (unsigned int i = 0; i < ARRAY_SIZE(values); i++)
		ASSERT_EQ(write_text(values[i][0], values[i][1]), 0);
	return 0;
}

/*
 * LOOP_CONFIGURE, or LOOP_CHANGE_FD of a bound device, with the @nth allocation
 * failing. @faults is fail-nth of this thread; *@injected tells whether there
 * were that many.
 */
static int bind_failing(int faults, int nth, const struct loop *lo, bool bound,
			const struct loop_args *args, bool *injected)
{
	char text[16] = {};
	int err, n;

	n = snprintf(text, sizeof(text), "%d", nth);
	if (pwrite(faults, text, n, 0) != n)
		return -errno;
	if (bound)
		err = ioctl(lo->fd, LOOP_CHANGE_FD, args->file) ? -errno : 0;
	else
		err = loop_configure(lo->fd, args);
	if (pread(faults, text, sizeof(text) - 1, 0) <= 0 ||
	    pwrite(faults, "0", 1, 0) != 1)
		return -errno;
	*injected = !atoi(text);
	return err;
}

TEST_F_TIMEOUT(life, failing_allocations, 120)
{
	struct loop_args args = {
		.file = self->file,
		.flags = variant->flags | LO_FLAGS_READ_ONLY,
	};
	int failed[2] = {}, nth, err, faults;
	bool injected;
	struct loop lo;

	if (set_up_faults(_metadata))
		return;
	faults = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	ASSERT_GE(faults, 0);
	for (int bound = 0; bound < 2; bound++) {
		injected = true;
		for (nth = 1; injected; nth++) {
			ASSERT_LT(nth, 1000);
			/* a new one allocates what others have already */
			ASSERT_EQ(loop_add(&lo, O_RDWR), 0);
			if (bound)
				ASSERT_EQ(loop_configure(lo.fd, &args), 0);
			err = bind_failing(faults, nth, &lo, bound, &args,
					   &injected);
			if (err) {
				failed[bound]++;
				EXPECT_EQ(err, -ENOMEM)
					TH_LOG("allocation %d", nth);
				EXPECT_EQ(loop_bound(&lo), bound);
			}
			if (err && !bound)
				EXPECT_EQ(loop_configure(lo.fd, &args), 0);
			check_device(_metadata, &lo, SIZE, OLD);
			ASSERT_EQ(loop_remove(&lo), 0);
		}
	}
	/* those of the workqueue at least, and of the window */
	EXPECT_GT(failed[0], 0);
	EXPECT_EQ(failed[1] > 0, variant->window);
	close(faults);
	undo_now(_metadata, faults_undo);
}

/*
 * A write to a read-only device is refused by the driver if nothing above does:
 * here through memory that was mapped before the device became read only. The
 * memory cgroup of the writer goes away.
 */
FIXTURE(cgroup) {
	struct loop lo;
	int file;
	char *memory;
};

#define MAPPED		KIB(64)

FIXTURE_SETUP(cgroup)
{
	struct loop_args args = { .flags = LO_FLAGS_READ_ONLY };

	self->lo.fd = -1;
	if (private_mounts(_metadata) || make_cgroup(_metadata))
		return;
	self->file = make_image(_metadata, BASE "/image", SIZE, OLD, O_RDONLY);
	ASSERT_EQ(loop_add(&self->lo, O_RDWR), 0);
	self->memory = mmap(NULL, MAPPED, PROT_READ | PROT_WRITE, MAP_SHARED,
			    self->lo.fd, 0);
	ASSERT_NE(self->memory, MAP_FAILED);
	args.file = self->file;
	ASSERT_EQ(loop_configure(self->lo.fd, &args), 0);
	ASSERT_EQ(is_read_only(self->lo.fd), 1);
}

FIXTURE_TEARDOWN(cgroup)
{
	close(self->file);
	EXPECT_EQ(rmdir_soon(group), 0);
	undo_now(_metadata, cgroup_undo);
}

static int write_mapped(FIXTURE_DATA(cgroup) * self)
{
	if (write_child("cgroup.procs", "0"))
		return 1;
	memset(self->memory, 'x', MAPPED);
	if (!msync(self->memory, MAPPED, MS_SYNC))
		return 2;
	return errno == EIO ? 0 : 3;
}

TEST_F_TIMEOUT(cgroup, refused_write, 60)
{
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(write_mapped(self));
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_TRUE(WIFEXITED(status));
	EXPECT_EQ(WEXITSTATUS(status), 0);
	ASSERT_EQ(munmap(self->memory, MAPPED), 0);
	/* The workers and the page cache of the device refer to it, too. */
	ASSERT_EQ(loop_remove(&self->lo), 0);
	ASSERT_EQ(rmdir_soon(child), 0);
	EXPECT_TRUE(wait_for(!dying_cgroups(), SOON));
}

TEST_HARNESS_MAIN
