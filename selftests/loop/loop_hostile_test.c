// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests of the loop driver against those who may open loop devices but shall
 * not get anything else that way: a fuzzer of the ioctls, and what must not be
 * possible with a file that loop writes through a window of user memory.
 *
 * LOOP_TEST_CALLS	system calls of the fuzzer (20000)
 * LOOP_TEST_SEED	seed of the fuzzer (the time)
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <pthread.h>
#include <stdint.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "loop_test.h"
#include "loop_more.h"

#define NEW		2	/* seeds of the pattern */
#define OLD		1

/* --- the fuzzer ---------------------------------------------------------- */

#define WORKERS		8
#define DEVICES		(1 + WORKERS)	/* for all, for each */
#define FILE_SIZE	KIB(512)
#define HANG_SECONDS	60

/* The first of DEVICES that did not exist before; far above those in use */
static unsigned int first_device = 4000;

static const char * const faultfs_io[] = {
	"iter", "write", "mixed", "none", "read", "noread",
};

/* What the workers share. */
struct shared {
	unsigned long calls, refused;
	unsigned long configured;	/* LOOP_CONFIGURE or LOOP_SET_FD */
	unsigned long transfers;	/* reads and writes that transferred */
	unsigned int last[WORKERS];	/* operation of the worker */
};

struct fuzzer {
	__u64 rng;
	struct shared *shared;
	unsigned int worker;
	int file[64];		/* of every kind */
	unsigned int nr_files;
	unsigned int nr_usable;	/* the first, which loop may accept */
	int dev[2];		/* the shared one, our own; or -1 */
	void *buf;
};

static void count(unsigned long *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

static unsigned int below(struct fuzzer *f, unsigned int limit)
{
	return rnd(&f->rng) % limit;
}

static bool one_in(struct fuzzer *f, unsigned int n)
{
	return !below(f, n);
}

/* Small, large, on a boundary, or anything. */
static __u64 number(struct fuzzer *f)
{
	static const __u64 edge[] = {
		0, 1, 511, 512, 513, 4095, 4096, 65536, FILE_SIZE - 1,
		FILE_SIZE, FILE_SIZE + 1, 1ULL << 31, 1ULL << 32, 1ULL << 63,
		INT64_MAX, UINT64_MAX,
	};

	switch (below(f, 4)) {
	case 0:
		return rnd(&f->rng);
	case 1:
		return below(f, 2 * FILE_SIZE);
	default:
		return edge[below(f, ARRAY_SIZE(edge))];
	}
}

static int any_file(struct fuzzer *f)
{
	if (one_in(f, 50))
		return number(f);
	if (one_in(f, 2))
		return f->file[below(f, f->nr_usable)];
	return f->file[below(f, f->nr_files)];
}

static void add_file(struct fuzzer *f, int fd)
{
	if (fd >= 0 && f->nr_files < ARRAY_SIZE(f->file))
		f->file[f->nr_files++] = fd;
}

static void add_path(struct fuzzer *f, const char *path, int flags)
{
	add_file(f, open(path, flags | O_CLOEXEC | O_NONBLOCK, 0644));
}

/* Some files of a pseudo filesystem, which are only read. */
static void add_directory(struct fuzzer *f, const char *path)
{
	struct dirent *d;
	char name[512];
	int nr = 0;
	DIR *dir;

	dir = opendir(path);
	if (!dir)
		return;
	while (nr < 8 && (d = readdir(dir))) {
		if (d->d_type != DT_REG)
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, d->d_name);
		add_path(f, name, O_RDONLY);
		nr++;
	}
	closedir(dir);
}

/* A file descriptor of every kind. */
static void open_files(struct fuzzer *f)
{
	char path[64];
	int fds[2];

	for (unsigned int i = 0; i < ARRAY_SIZE(faultfs_io); i++) {
		snprintf(path, sizeof(path), BASE "/%s/image", faultfs_io[i]);
		add_path(f, path, O_RDWR);
		if (!strcmp(faultfs_io[i], "write") ||
		    !strcmp(faultfs_io[i], "iter")) {
			add_path(f, path, O_RDONLY);
			add_path(f, path, O_WRONLY);
			add_path(f, path, O_RDWR | O_APPEND);
			add_path(f, path, O_PATH);
			snprintf(path, sizeof(path), BASE "/%s/protected",
				 faultfs_io[i]);
			add_path(f, path, O_RDONLY);
		}
	}
	add_path(f, BASE "/image", O_RDWR);
	add_path(f, BASE "/protected", O_RDONLY);
	f->nr_usable = f->nr_files;
	add_path(f, BASE, O_RDONLY);
	add_path(f, "/dev/null", O_RDWR);
	add_path(f, "/proc/self/mem", O_RDWR);
	add_path(f, "/proc/self/comm", O_RDWR);
	add_directory(f, "/proc/self");
	add_directory(f, "/sys/kernel");
	add_directory(f, "/sys/kernel/debug");
	add_file(f, memfd_create("loop_hostile_test", MFD_CLOEXEC));
	if (!pipe2(fds, O_CLOEXEC | O_NONBLOCK)) {
		add_file(f, fds[0]);
		add_file(f, fds[1]);
	}
	add_file(f, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	add_file(f, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	add_file(f, epoll_create1(EPOLL_CLOEXEC));
	snprintf(path, sizeof(path), "/dev/loop%u", first_device);
	add_path(f, path, O_RDWR);
}

/* Arguments of ioctls: valid ones with some bytes changed, now and then. */
static void *argument(struct fuzzer *f, void *arg, size_t size)
{
	if (one_in(f, 8))
		((unsigned char *)arg)[below(f, size)] = rnd(&f->rng);
	if (one_in(f, 100))
		return NULL;
	if (one_in(f, 100))
		return (void *)(uintptr_t)number(f);
	return arg;
}

static void any_info(struct fuzzer *f, struct loop_info64 *info)
{
	memset(info, 0, sizeof(*info));
	if (one_in(f, 4))
		info->lo_offset = number(f);
	if (one_in(f, 4))
		info->lo_sizelimit = number(f);
	if (one_in(f, 2))
		info->lo_flags = rnd(&f->rng) % 32;
	if (one_in(f, 20))
		info->lo_encrypt_type = below(f, 32);
	if (one_in(f, 20))
		info->lo_encrypt_key_size = number(f);
	for (unsigned int i = 0; one_in(f, 2) && i < LO_NAME_SIZE; i++)
		info->lo_file_name[i] = rnd(&f->rng);
}

static int fuzz_configure(struct fuzzer *f, int fd)
{
	struct loop_config config = { .fd = any_file(f) };
	int ret;

	any_info(f, &config.info);
	if (one_in(f, 3))
		config.block_size = one_in(f, 2) ? 512 << below(f, 5) :
						   number(f);
	if (one_in(f, 50))
		config.__reserved[below(f, 8)] = number(f);
	ret = ioctl(fd, LOOP_CONFIGURE, argument(f, &config, sizeof(config)));
	if (!ret)
		count(&f->shared->configured);
	return ret;
}

static int fuzz_set_fd(struct fuzzer *f, int fd)
{
	int ret = ioctl(fd, LOOP_SET_FD, any_file(f));

	if (!ret)
		count(&f->shared->configured);
	return ret;
}

static int fuzz_change_fd(struct fuzzer *f, int fd)
{
	return ioctl(fd, LOOP_CHANGE_FD, any_file(f));
}

static int fuzz_clr_fd(struct fuzzer *f, int fd)
{
	return ioctl(fd, LOOP_CLR_FD, 0);
}

static int fuzz_set_status(struct fuzzer *f, int fd)
{
	struct loop_info64 info;
	struct loop_info old = { 0 };

	any_info(f, &info);
	if (one_in(f, 2))
		return ioctl(fd, LOOP_SET_STATUS64,
			     argument(f, &info, sizeof(info)));
	old.lo_offset = info.lo_offset;
	old.lo_flags = info.lo_flags;
	return ioctl(fd, LOOP_SET_STATUS, argument(f, &old, sizeof(old)));
}

static int fuzz_get_status(struct fuzzer *f, int fd)
{
	struct loop_info64 info;
	struct loop_info old;

	if (one_in(f, 2))
		return ioctl(fd, LOOP_GET_STATUS64, &info);
	return ioctl(fd, LOOP_GET_STATUS, &old);
}

static int fuzz_number(struct fuzzer *f, int fd)
{
	static const unsigned long request[] = {
		LOOP_SET_CAPACITY, LOOP_SET_DIRECT_IO, LOOP_SET_BLOCK_SIZE,
	};
	unsigned long arg = one_in(f, 2) ? 512 << below(f, 5) : number(f);

	return ioctl(fd, request[below(f, ARRAY_SIZE(request))], arg);
}

static int fuzz_block(struct fuzzer *f, int fd)
{
	__u64 range[2] = { number(f), number(f) };
	int value = below(f, 2);

	switch (below(f, 6)) {
	case 0:
		return ioctl(fd, BLKROSET, argument(f, &value, sizeof(value)));
	case 1:
		return ioctl(fd, BLKRRPART);
	case 2:
		return ioctl(fd, BLKFLSBUF);
	case 3:
		return ioctl(fd, BLKDISCARD, range);
	case 4:
		range[0] = 4096 * below(f, 128);
		range[1] = 4096 * below(f, 16);
		return ioctl(fd, BLKZEROOUT, range);
	default:
		return fsync(fd);
	}
}

/* A request that does not exist, or is for something else. */
static int fuzz_unknown(struct fuzzer *f, int fd)
{
	char arg[256];

	return ioctl(fd, _IOC(below(f, 4), 0x4c, below(f, 256), below(f, 256)),
		     argument(f, arg, sizeof(arg)));
}

static int fuzz_io(struct fuzzer *f, int fd)
{
	size_t len = one_in(f, 3) ? below(f, KIB(256)) : 4096 * below(f, 32);
	off_t pos = one_in(f, 3) ? below(f, FILE_SIZE) : 4096 * below(f, 128);
	ssize_t n;

	if (one_in(f, 2))
		n = pread(fd, f->buf, len, pos);
	else
		n = pwrite(fd, f->buf, len, pos);
	if (n > 0)
		count(&f->shared->transfers);
	return n;
}

static unsigned int device_number(struct fuzzer *f, unsigned int i)
{
	return first_device + (i ? 1 + f->worker : 0);
}

static int fuzz_open(struct fuzzer *f, int fd)
{
	static const int flags[] = {
		O_RDWR, O_RDWR, O_RDWR | O_DIRECT, O_RDONLY, O_WRONLY,
		O_RDONLY | O_EXCL, O_RDWR | O_NDELAY,
	};
	unsigned int i = below(f, 2);
	char path[32];

	if (f->dev[i] >= 0)
		close(f->dev[i]);
	f->dev[i] = -1;
	if (one_in(f, 3))
		return 0;
	snprintf(path, sizeof(path), "/dev/loop%u", device_number(f, i));
	f->dev[i] = open(path, flags[below(f, ARRAY_SIZE(flags))] | O_CLOEXEC);
	return f->dev[i];
}

static int fuzz_control(struct fuzzer *f, int fd)
{
	static const unsigned long request[] = {
		LOOP_CTL_ADD, LOOP_CTL_REMOVE,
	};

	return loop_control(request[below(f, 2)],
			    device_number(f, below(f, 2)));
}

/* Change the backing files. */
static int fuzz_files(struct fuzzer *f, int fd)
{
	static const char * const fail[] = { "none", "zero", "eio", "enospc" };
	static const char * const op[] = {
		"read", "write", "fsync", "getattr", "fallocate",
	};
	char dir[64];

	snprintf(dir, sizeof(dir), BASE "/%s",
		 faultfs_io[below(f, ARRAY_SIZE(faultfs_io))]);
	switch (below(f, 4)) {
	case 0:
		return ftruncate(f->file[0], number(f) % (2 * FILE_SIZE));
	case 1:
		/* a few bytes at a time would be taken for something hanging */
		return remount_faultfs(dir, "short=%u",
				       one_in(f, 2) ? 0 : 64 + below(f, 8192));
	default:
		return remount_faultfs(dir, "fail=%s,fail_op=%s,fail_at=%u",
				       fail[one_in(f, 3) ? below(f, 4) : 0],
				       op[below(f, ARRAY_SIZE(op))],
				       below(f, FILE_SIZE));
	}
}

static const struct {
	int (*fn)(struct fuzzer *f, int fd);
	const char *name;
	unsigned int weight;
} ops[] = {
	{ fuzz_configure,	"LOOP_CONFIGURE",	20 },
	{ fuzz_set_fd,		"LOOP_SET_FD",		8 },
	{ fuzz_change_fd,	"LOOP_CHANGE_FD",	8 },
	{ fuzz_clr_fd,		"LOOP_CLR_FD",		6 },
	{ fuzz_set_status,	"LOOP_SET_STATUS",	12 },
	{ fuzz_get_status,	"LOOP_GET_STATUS",	6 },
	{ fuzz_number,		"ioctl with a number",	12 },
	{ fuzz_block,		"block ioctl",		12 },
	{ fuzz_unknown,		"unknown ioctl",	3 },
	{ fuzz_io,		"read or write",	30 },
	{ fuzz_open,		"open",			8 },
	{ fuzz_control,		"loop-control",		2 },
	{ fuzz_files,		"file",			4 },
};

/* Runs in a separate process, which is killed when it hangs. */
static void run_fuzzer(struct fuzzer *f, unsigned long calls)
{
	unsigned int total = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(ops); i++)
		total += ops[i].weight;
	f->dev[0] = -1;
	f->dev[1] = -1;
	open_files(f);

	while (calls--) {
		unsigned int pick = below(f, total), i;

		for (i = 0; pick >= ops[i].weight; i++)
			pick -= ops[i].weight;
		f->shared->last[f->worker] = i;
		alarm(HANG_SECONDS);
		count(&f->shared->calls);
		if (ops[i].fn(f, f->dev[below(f, 2)]) < 0)
			count(&f->shared->refused);
	}
	alarm(0);
}

FIXTURE(fuzz)
{
	struct shared *shared;
	int alive;		/* the pipe that clean_up() waits for */
	pid_t cleaner;
};

/* Unbind and remove a device that may be in any state but open. */
static int remove_device(unsigned int nr)
{
	double deadline = now() + SOON;
	char path[32];
	int fd, ret;

	snprintf(path, sizeof(path), "/dev/loop%u", nr);
	do {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			ioctl(fd, LOOP_CLR_FD, 0);
			close(fd);
		}
		ret = loop_control(LOOP_CTL_REMOVE, nr);
	} while (ret == -EBUSY && now() < deadline);
	return ret == -ENODEV ? 0 : ret;
}

/*
 * Not every device of the fuzzer clears itself. A separate process removes them
 * once nobody has the other end of @pipe any more: the test has ended, or was
 * killed. The exit status is the number of devices that are still in use.
 */
static void clean_up(int pipe)
{
	int left = 0;
	char c;

	setsid();	/* not one of those that are killed with the test */
	while (read(pipe, &c, 1) < 0 && errno == EINTR)
		;
	/* The first is the file of others, perhaps. */
	for (int i = DEVICES - 1; i >= 0; i--)
		left += !!remove_device(first_device + i);
	_exit(left);
}

/* A file whose pattern says whether it was written to. */
static int make_protected(const char *path)
{
	unsigned char *buf = malloc(FILE_SIZE);
	int fd = make_file(path, 0);
	ssize_t n;

	if (fd < 0)
		return fd;
	pattern_fill(buf, FILE_SIZE, 0, OLD);
	n = pwrite_full(fd, buf, FILE_SIZE, 0);
	free(buf);
	close(fd);
	return n == (ssize_t)FILE_SIZE ? 0 : -EIO;
}

/* The first byte of it that was written to, or -1 if all is well. */
static ssize_t verify_protected(const char *path)
{
	unsigned char *buf = malloc(FILE_SIZE + 1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = pread_full(fd, buf, FILE_SIZE + 1, 0), bad = 0;

	if (n == (ssize_t)FILE_SIZE)
		bad = pattern_verify(buf, FILE_SIZE, 0, OLD);
	close(fd);
	free(buf);
	return bad;
}

FIXTURE_SETUP(fuzz)
{
	char path[64], options[32];
	int fd, pipe[2];

	if (private_mounts(_metadata))
		return;
	for (unsigned int i = 0; i < ARRAY_SIZE(faultfs_io); i++) {
		snprintf(path, sizeof(path), BASE "/%s", faultfs_io[i]);
		snprintf(options, sizeof(options), "io=%s", faultfs_io[i]);
		if (mount_faultfs(_metadata, path, options))
			return;
		strcat(path, "/image");
		fd = make_file(path, FILE_SIZE);
		ASSERT_GE(fd, 0);
		close(fd);
	}
	fd = make_file(BASE "/image", FILE_SIZE);
	ASSERT_GE(fd, 0);
	close(fd);
	ASSERT_EQ(make_protected(BASE "/protected"), 0);
	ASSERT_EQ(make_protected(BASE "/iter/protected"), 0);
	ASSERT_EQ(make_protected(BASE "/write/protected"), 0);
	while ((fd = loop_control(LOOP_CTL_ADD, first_device)) == -EEXIST)
		first_device += DEVICES;
	if (fd == -EINVAL)
		SKIP(return, "no device numbers from %u on", first_device);
	ASSERT_EQ(fd, (int)first_device);
	for (unsigned int i = 1; i < DEVICES; i++)
		ASSERT_EQ(loop_control(LOOP_CTL_ADD, first_device + i),
			  (int)(first_device + i));
	ASSERT_EQ(pipe2(pipe, O_CLOEXEC), 0);
	self->alive = pipe[1];
	self->cleaner = fork();
	ASSERT_GE(self->cleaner, 0);
	if (!self->cleaner) {
		close(pipe[1]);
		clean_up(pipe[0]);
	}
	close(pipe[0]);
	self->shared = mmap(NULL, sizeof(*self->shared), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(self->shared, MAP_FAILED);
}

FIXTURE_TEARDOWN(fuzz)
{
	char path[64];
	int status;

	close(self->alive);
	EXPECT_EQ(waitpid(self->cleaner, &status, 0), self->cleaner);
	EXPECT_EQ(status, 0)
		TH_LOG("%d devices are still in use", WEXITSTATUS(status));
	for (unsigned int i = 0; i < ARRAY_SIZE(faultfs_io); i++) {
		snprintf(path, sizeof(path), BASE "/%s", faultfs_io[i]);
		EXPECT_EQ(umount_soon(path), 0)
			TH_LOG("%s: a file is still in use", path);
	}
}

/*
 * Nothing hangs, the kernel does not complain, files that were only open for
 * reading keep their contents, and no device or file stays in use.
 */
TEST_F_TIMEOUT(fuzz, ioctls, 4 * 3600)
{
	unsigned long calls = env_number("LOOP_TEST_CALLS", 20000);
	__u64 seed = env_number("LOOP_TEST_SEED", time(NULL));
	double reported = now();
	pid_t pid[WORKERS];
	int status, left;

	ksft_print_msg("LOOP_TEST_SEED=%llu LOOP_TEST_CALLS=%lu\n",
		       (unsigned long long)seed, calls);
	for (unsigned int i = 0; i < WORKERS; i++) {
		pid[i] = fork();
		ASSERT_GE(pid[i], 0);
		if (!pid[i]) {
			struct fuzzer f = {
				.rng = seed + i,
				.shared = self->shared,
				.worker = i,
				.buf = alloc_pages(KIB(256)),
			};

			prctl(PR_SET_PDEATHSIG, SIGKILL);
			signal(SIGALRM, SIG_DFL);
			run_fuzzer(&f, calls / WORKERS);
			_exit(0);
		}
	}
	do {
		left = 0;
		for (unsigned int i = 0; i < WORKERS; i++) {
			if (!pid[i])
				continue;
			if (waitpid(pid[i], &status, WNOHANG) != pid[i]) {
				left++;
				continue;
			}
			pid[i] = 0;
			EXPECT_EQ(status, 0)
				TH_LOG("worker %u ended with %#x in: %s", i,
				       status, ops[self->shared->last[i]].name);
		}
		poll(NULL, 0, 10);
		if (now() >= reported + 5) {
			reported = now();
			ksft_print_msg("%lu calls\n", self->shared->calls);
		}
	} while (left);
	ksft_print_msg("%lu calls, %lu refused; bound %lu times, %lu transfers\n",
		       self->shared->calls, self->shared->refused,
		       self->shared->configured, self->shared->transfers);

	/* Otherwise nothing was tried. */
	EXPECT_GT(self->shared->configured, calls / 1000);
	EXPECT_GT(self->shared->transfers, calls / 1000);
	EXPECT_EQ(verify_protected(BASE "/protected"), -1);
	remount_faultfs(BASE "/iter", "fail=none,short=0");
	EXPECT_EQ(verify_protected(BASE "/iter/protected"), -1);
	remount_faultfs(BASE "/write", "fail=none,short=0");
	EXPECT_EQ(verify_protected(BASE "/write/protected"), -1);
}

/* --- rights -------------------------------------------------------------- */

FIXTURE(rights)
{
	struct loop lo;
	int file;
	void *buf;
};

FIXTURE_VARIANT(rights)
{
	const char *options;
	bool window;
};

FIXTURE_VARIANT_ADD(rights, iter) {
	.options = "io=iter",
};

FIXTURE_VARIANT_ADD(rights, write) {
	.options = "io=write",
	.window = true,
};

/* Bind it, with the device and the file opened as @mode and @flags say. */
static int attach_protected(FIXTURE_DATA(rights) * self, int mode, int flags)
{
	struct loop_args args = { .mode = mode };

	self->file = open(FAULTFS "/protected", flags | O_CLOEXEC);
	if (self->file < 0)
		return -errno;
	args.file = self->file;
	return loop_attach(&self->lo, &args);
}

FIXTURE_SETUP(rights)
{
	int err;

	self->lo.fd = -1;
	self->file = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	self->buf = alloc_pages(MIB(1));
	ASSERT_NE(self->buf, NULL);
	ASSERT_EQ(make_protected(FAULTFS "/protected"), 0);
	err = attach_protected(self, O_RDWR, O_RDWR);
	if (err == -EINVAL && variant->window && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
	ASSERT_EQ(loop_detach(&self->lo), 0);
	close(self->file);
}

FIXTURE_TEARDOWN(rights)
{
	EXPECT_EQ(loop_detach(&self->lo), 0);
	close(self->file);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
}

/* Try everything that could make a device of it that writes. */
TEST_F(rights, file_open_for_reading_is_not_written)
{
	struct loop_info64 info = { .lo_flags = LO_FLAGS_AUTOCLEAR };
	__u64 range[2] = { 0, 4096 };
	int zero = 0;

	ASSERT_EQ(attach_protected(self, O_RDWR, O_RDONLY), 0);
	EXPECT_EQ(ioctl(self->lo.fd, BLKROSET, &zero), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_STATUS64, &info), 0);
	EXPECT_EQ(ioctl(self->lo.fd, BLKROSET, &zero), 0);
	EXPECT_EQ(is_read_only(self->lo.fd), 1);
	pattern_fill(self->buf, 4096, 0, NEW);
	EXPECT_EQ(pwrite(self->lo.fd, self->buf, 4096, 0), -1);
	EXPECT_EQ(errno, EPERM);
	EXPECT_EQ(ioctl(self->lo.fd, BLKZEROOUT, range), -1);
	EXPECT_EQ(errno, EPERM);
	EXPECT_EQ(ioctl(self->lo.fd, BLKDISCARD, range), -1);
	EXPECT_EQ(errno, EOPNOTSUPP);
	EXPECT_EQ(fsync(self->lo.fd), 0);
	EXPECT_EQ(faultfs_calls(FAULTFS, "fallocate"), 0);
	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(verify_protected(FAULTFS "/protected"), -1);
}

/* The same for a device that was open for reading when it was bound. */
TEST_F(rights, device_open_for_reading_is_not_written)
{
	int zero = 0, fd;

	ASSERT_EQ(attach_protected(self, O_RDONLY, O_RDWR), 0);
	EXPECT_EQ(ioctl(self->lo.fd, BLKROSET, &zero), 0);
	fd = open(self->lo.dev, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(pwrite(fd, self->buf, 4096, 0), -1);
	EXPECT_EQ(errno, EPERM);
	EXPECT_EQ(fsync(fd), 0);
	close(fd);
	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(verify_protected(FAULTFS "/protected"), -1);
}

/* A file that is only open for writing cannot be read through loop. */
TEST_F(rights, file_open_for_writing_is_not_read)
{
	EXPECT_EQ(attach_protected(self, O_RDWR, O_WRONLY), -EBADF);
}

/* --- the address space of the window -------------------------------------- */

/* PMD_SIZE: where the window is with pages of 4, 16 and 64 KiB */
static const unsigned long window_address[] = {
	2UL << 20, 4UL << 20, 8UL << 20, 32UL << 20, 512UL << 20,
};

static void *write_slowly(void *arg)
{
	int fd = *(int *)arg;
	void *buf = alloc_pages(4096);
	static ssize_t ret;

	pattern_fill(buf, 4096, 0, NEW);
	ret = pwrite(fd, buf, 4096, 0);
	free(buf);
	return &ret;
}

/* Is @path a file that nothing can be read from? */
static bool unreadable(const char *path)
{
	char c;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, &c, 1);

	close(fd);
	return n <= 0;
}

/*
 * The worker that is in ->write() has no memory for those who look at
 * processes, not even for root.
 */
static void look_at(struct __test_metadata *_metadata, pid_t pid)
{
	static const char * const files[] = {
		"maps", "smaps", "numa_maps", "pagemap", "environ", "cmdline",
		"auxv",
	};
	char path[64], buf[16];
	struct iovec local = { buf, sizeof(buf) };
	struct iovec remote = { NULL, sizeof(buf) };
	off_t pos;
	int fd;

	for (unsigned int i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
		EXPECT_TRUE(unreadable(path))
			TH_LOG("%s can be read", path);
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	for (unsigned int i = 0; i < ARRAY_SIZE(window_address); i++) {
		pos = window_address[i];
		if (fd >= 0) {
			EXPECT_LE(pread(fd, buf, sizeof(buf), pos), 0);
			EXPECT_LE(pwrite(fd, buf, sizeof(buf), pos), 0);
		}
		remote.iov_base = (void *)window_address[i];
		EXPECT_EQ(process_vm_readv(pid, &local, 1, &remote, 1, 0), -1);
		EXPECT_EQ(process_vm_writev(pid, &local, 1, &remote, 1, 0), -1);
	}
	close(fd);
	EXPECT_EQ(ptrace(PTRACE_ATTACH, pid, NULL, NULL), -1);
	EXPECT_EQ(ptrace(PTRACE_SEIZE, pid, NULL, NULL), -1);
}

TEST_F(rights, worker_is_not_visible)
{
	char path[64], comm[64], mark[16];
	unsigned int found = 0;
	pthread_t thread;
	struct dirent *d;
	void *ret;
	int fd;
	DIR *dir;

	ASSERT_EQ(attach_protected(self, O_RDWR, O_RDWR), 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "delay=3000"), 0);
	fd = open(self->lo.dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pthread_create(&thread, NULL, write_slowly, &fd), 0);
	/* The name of a worker ends in + and that of the busy workqueue. */
	snprintf(mark, sizeof(mark), "+loop%d", self->lo.nr);
	for (double deadline = now() + 2; !found && now() < deadline;) {
		dir = opendir("/proc");
		ASSERT_NE(dir, NULL);
		while ((d = readdir(dir))) {
			snprintf(path, sizeof(path), "/proc/%.16s/comm",
				 d->d_name);
			if (atoi(d->d_name) <= 0 ||
			    read_text(path, comm, sizeof(comm)) ||
			    strncmp(comm, "kworker/", 8) || !strstr(comm, mark))
				continue;
			found++;
			look_at(_metadata, atoi(d->d_name));
		}
		closedir(dir);
	}
	EXPECT_GT(found, 0);
	ASSERT_EQ(pthread_join(thread, &ret), 0);
	EXPECT_EQ(*(ssize_t *)ret, 4096);
	close(fd);
	ASSERT_EQ(remount_faultfs(FAULTFS, "delay=0"), 0);
}

/* --- files that are something else ---------------------------------------- */

/*
 * Loop takes regular files and block devices. Of the regular files in pseudo
 * filesystems, those that only have ->read and ->write have no size, so that
 * nothing can be read or written at their positions through loop.
 */
static unsigned long tried, taken;

static void try_pseudo_file(struct __test_metadata *_metadata,
			    const char *path, int log)
{
	struct loop_args args = { .mode = O_RDONLY };
	struct loop lo = { .fd = -1 };
	char dev[16], line[320];

	args.file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (args.file < 0)
		return;
	tried++;
	if (!loop_attach(&lo, &args)) {
		taken++;
		snprintf(dev, sizeof(dev), "loop%d:", lo.nr);
		/* of this file: others may have had the device before */
		snprintf(line, sizeof(line), "%s lacks iter methods",
			 strrchr(path, '/'));
		if (klog_wait(log, dev, line, 0))
			EXPECT_EQ(device_size(lo.fd), 0)
				TH_LOG("%s can be read and written", path);
		EXPECT_EQ(loop_detach(&lo), 0);
	}
	close(args.file);
}

static void try_pseudo_files(struct __test_metadata *_metadata,
			     const char *path, unsigned int depth, int log)
{
	unsigned int nr = 0;
	struct dirent *d;
	char name[1024];
	DIR *dir;

	dir = opendir(path);
	if (!dir)
		return;
	while ((d = readdir(dir)) && nr < 200) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, d->d_name);
		if (d->d_type == DT_DIR && depth)
			try_pseudo_files(_metadata, name, depth - 1, log);
		if (d->d_type == DT_REG) {
			nr++;
			try_pseudo_file(_metadata, name, log);
		}
	}
	closedir(dir);
}

FIXTURE(pseudo) {
};

FIXTURE_SETUP(pseudo)
{
	if (private_mounts(_metadata))
		return;
}

FIXTURE_TEARDOWN(pseudo)
{
}

TEST_F_TIMEOUT(pseudo, files_have_no_size, 600)
{
	int log = klog_open();

	ASSERT_GE(log, 0);
	try_pseudo_files(_metadata, "/proc/self", 0, log);
	try_pseudo_files(_metadata, "/proc/sys", 2, log);
	try_pseudo_files(_metadata, "/proc/fs", 2, log);
	try_pseudo_files(_metadata, "/sys/kernel", 3, log);
	try_pseudo_files(_metadata, "/sys/block", 2, log);
	ksft_print_msg("%lu of %lu files were taken\n", taken, tried);
	EXPECT_GT(taken, 10);
	close(log);
}

TEST_HARNESS_MAIN
