/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for the tests of the loop driver.
 *
 * Each test runs in a private mount namespace on private filesystems and uses
 * autoclear loop devices, so a killed test leaves nothing behind.
 *
 * Most backing files are on faultfs, the test filesystem that chooses which
 * methods a file has and how its calls go wrong (CONFIG_TEST_FAULTFS).
 *
 * Functions return 0 or a negative errno unless said otherwise. Those that take
 * _metadata assert, and return non-zero if they marked the test as skipped.
 */
#ifndef LOOP_TEST_H
#define LOOP_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <linux/loop.h>

#include "../kselftest_harness.h"

#define BASE		"/mnt"		/* a private tmpfs is mounted on it */
#define FAULTFS		BASE "/faultfs"
#define LOG		BASE "/log"

#define SECTOR		512
#define KIB(n)		((size_t)(n) << 10)
#define MIB(n)		((size_t)(n) << 20)

/* How long to wait for what should happen at once. */
#define SOON		10

static __maybe_unused double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Wait until @condition holds, @seconds at most; its last value. */
#define wait_for(condition, seconds)					\
({									\
	double __deadline = now() + (seconds);				\
	bool __holds;							\
									\
	while (!(__holds = (condition)) && now() < __deadline)		\
		poll(NULL, 0, 1);					\
	__holds;							\
})

/* Read a small file of a pseudo filesystem as a string without newline. */
static __maybe_unused int read_text(const char *path, char *buf, size_t size)
{
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -errno;
	if (n && buf[n - 1] == '\n')
		n--;
	buf[n] = '\0';
	return 0;
}

static __maybe_unused int write_text(const char *path, const char *text)
{
	ssize_t n;
	int err = 0, fd;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	if (n != (ssize_t)strlen(text))
		err = n < 0 ? -errno : -EIO;
	close(fd);
	return err;
}

/*
 * A private mount namespace with a tmpfs on BASE. Non-zero if the test has been
 * marked as skipped.
 */
static __maybe_unused int private_mounts(struct __test_metadata *_metadata)
{
	if (geteuid())
		SKIP(return -1, "needs root");
	if (access(BASE, F_OK))
		SKIP(return -1, "no directory " BASE);
	if (access("/dev/loop-control", F_OK))
		SKIP(return -1, "no /dev/loop-control (CONFIG_BLK_DEV_LOOP)");
	ASSERT_EQ(unshare(CLONE_NEWNS), 0);
	ASSERT_EQ(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ASSERT_EQ(mount("tmpfs", BASE, "tmpfs", 0, NULL), 0);
	return 0;
}

/*
 * Mount faultfs on @dir, which is made, with the options of @options. Non-zero
 * if the test has been marked as skipped.
 */
static __maybe_unused int mount_faultfs(struct __test_metadata *_metadata,
					const char *dir, const char *options)
{
	ASSERT_EQ(mkdir(dir, 0755), 0);
	if (mount("none", dir, "faultfs", 0, options)) {
		ASSERT_EQ(errno, ENODEV);
		SKIP(return -1, "no faultfs filesystem (CONFIG_TEST_FAULTFS)");
	}
	return 0;
}

/* Change the options of the faultfs on @dir that @format names. */
static __maybe_unused __printf(2, 3)
int remount_faultfs(const char *dir, const char *format, ...)
{
	char options[256];
	va_list args;

	va_start(args, format);
	vsnprintf(options, sizeof(options), format, args);
	va_end(args);
	return mount(NULL, dir, NULL, MS_REMOUNT, options) ? -errno : 0;
}

/* The number of @name in @path, whose lines are "NAME NUMBER", -1 if it has none. */
static __maybe_unused long long read_counter(const char *path, const char *name)
{
	long long value, found = -1;
	char key[64];
	FILE *f;

	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fscanf(f, "%63s %lld", key, &value) == 2)
		if (!strcmp(key, name))
			found = value;
	fclose(f);
	return found;
}

/* The counter @name of the faultfs on @dir, -1 if it has none. */
static __maybe_unused long long faultfs_calls(const char *dir, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/calls", dir);
	return read_counter(path, name);
}

/* A new file of @size bytes, open for reading and writing. */
static __maybe_unused int make_file(const char *path, off_t size)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, size)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

struct loop {
	int fd;			/* keeps the device bound; -1: not attached */
	int nr;
	char dev[32];		/* path of the device */
};

struct loop_args {
	int file;		/* open backing file */
	int mode;		/* to open the device with; 0 is O_RDONLY */
	__u32 flags;		/* LO_FLAGS_*, besides LO_FLAGS_AUTOCLEAR */
	__u32 block_size;	/* bytes, 0: default */
	__u64 offset;		/* bytes */
	__u64 sizelimit;	/* bytes, 0: none */
};

static __maybe_unused int loop_configure(int fd, const struct loop_args *args)
{
	struct loop_config config = {
		.fd = args->file,
		.block_size = args->block_size,
		.info.lo_flags = args->flags | LO_FLAGS_AUTOCLEAR,
		.info.lo_offset = args->offset,
		.info.lo_sizelimit = args->sizelimit,
	};

	return ioctl(fd, LOOP_CONFIGURE, &config) ? -errno : 0;
}

/* An ioctl of /dev/loop-control: its result, a device number, or -errno. */
static __maybe_unused int loop_control(unsigned long request, int nr)
{
	int ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int ret;

	if (ctl < 0)
		return -errno;
	ret = ioctl(ctl, request, nr);
	if (ret < 0)
		ret = -errno;
	close(ctl);
	return ret;
}

/* Open a loop device that is not bound. */
static __maybe_unused int loop_open_free(struct loop *lo, int mode)
{
	lo->fd = -1;
	lo->nr = loop_control(LOOP_CTL_GET_FREE, 0);
	if (lo->nr < 0)
		return lo->nr;
	snprintf(lo->dev, sizeof(lo->dev), "/dev/loop%d", lo->nr);
	lo->fd = open(lo->dev, mode | O_CLOEXEC);
	return lo->fd < 0 ? -errno : 0;
}

/*
 * Bind a free loop device. Another process may be quicker: EBUSY from the
 * ioctl, or ENXIO from open() if it has cleared the device again.
 */
static __maybe_unused int loop_attach(struct loop *lo,
				      const struct loop_args *args)
{
	double deadline = now() + SOON;
	int err;

	do {
		err = loop_open_free(lo, args->mode);
		if (!err) {
			err = loop_configure(lo->fd, args);
			if (!err)
				return 0;
			close(lo->fd);
			lo->fd = -1;
		}
	} while ((err == -EBUSY || err == -ENXIO) && now() < deadline);
	return err;
}

static __maybe_unused bool loop_bound(const struct loop *lo)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/loop%d/loop", lo->nr);
	return !access(path, F_OK);
}

/* Close the device and wait until it is free; others may have it open. */
static __maybe_unused int loop_detach(struct loop *lo)
{
	if (lo->fd < 0)
		return 0;
	close(lo->fd);
	lo->fd = -1;
	return wait_for(!loop_bound(lo), SOON) ? 0 : -ETIMEDOUT;
}

/* Unmount @dir once the last fput() of what was there has been done. */
static __maybe_unused int umount_soon(const char *dir)
{
	int ret;

	wait_for(!(ret = umount(dir)) || errno != EBUSY, SOON);
	return ret ? -errno : 0;
}

static __maybe_unused int loop_status(const struct loop *lo,
				      struct loop_info64 *info)
{
	return ioctl(lo->fd, LOOP_GET_STATUS64, info) ? -errno : 0;
}

/* Size in bytes of the block device that @fd is open for, or -1. */
static __maybe_unused long long device_size(int fd)
{
	__u64 size;

	return ioctl(fd, BLKGETSIZE64, &size) ? -1 : (long long)size;
}

/* A number from /sys/block/loopN/@name, or -1. */
static __maybe_unused long long loop_attr(const struct loop *lo,
					  const char *name)
{
	char path[128], buf[64];

	snprintf(path, sizeof(path), "/sys/block/loop%d/%s", lo->nr, name);
	return read_text(path, buf, sizeof(buf)) ? -1 : atoll(buf);
}

/* Is CONFIG_@option set? -1 if the kernel doesn't tell. */
static __maybe_unused int kernel_config(const char *option)
{
	char line[256], wanted[64];
	int found = -1;
	FILE *f;

	f = popen("exec 2>/dev/null; zcat /proc/config.gz || cat /boot/config-$(uname -r)",
		  "r");
	if (!f)
		return -1;
	snprintf(wanted, sizeof(wanted), "CONFIG_%s=", option);
	while (fgets(line, sizeof(line), f)) {
		if (found < 0)
			found = 0;
		if (!strncmp(line, wanted, strlen(wanted)))
			found = 1;
	}
	pclose(f);
	return found;
}

/* Does the kernel have the function @name? */
static __maybe_unused bool kernel_symbol(const char *name)
{
	char line[256], symbol[128];
	bool found = false;
	FILE *f;

	f = fopen("/proc/kallsyms", "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %*s %127s", symbol) == 1 &&
			!strcmp(symbol, name);
	fclose(f);
	return found;
}

/*
 * A file without iter methods was refused with EINVAL: because the kernel was
 * built without support for it? If it was not, that is a failure.
 */
static __maybe_unused bool no_user_window(void)
{
	int set = kernel_config("BLK_DEV_LOOP_USER_WINDOW");

	return set >= 0 ? !set : !kernel_symbol("user_window_create");
}

#define SKIP_NO_USER_WINDOW(statement)					\
	SKIP(statement,							\
	     "loop needs iter methods (CONFIG_BLK_DEV_LOOP_USER_WINDOW)")

/*
 * Data that depends on its position @pos, in bytes, and on @seed: data that is
 * from elsewhere or from earlier is not taken for right.
 */
static __maybe_unused unsigned char pattern_byte(__u64 pos,
						 unsigned int seed)
{
	__u64 x = (pos >> 3) + ((__u64)seed << 40) + 1;

	x *= 0x9e3779b97f4a7c15ULL;
	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ULL;
	return x >> ((pos & 7) * 8);
}

static __maybe_unused void pattern_fill(void *buf, size_t len, __u64 pos,
					unsigned int seed)
{
	unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = pattern_byte(pos + i, seed);
}

/* The first byte of @buf that differs from the pattern, or -1. */
static __maybe_unused ssize_t pattern_verify(const void *buf, size_t len,
					     __u64 pos, unsigned int seed)
{
	const unsigned char *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != pattern_byte(pos + i, seed))
			return i;
	return -1;
}

/* The first byte in which the buffers differ, or -1. */
static __maybe_unused ssize_t find_difference(const void *a, const void *b,
					      size_t len)
{
	const unsigned char *p = a, *q = b;

	for (size_t i = 0; i < len; i++)
		if (p[i] != q[i])
			return i;
	return -1;
}

/* A part of a transfer, and what came of it: bytes or a negative errno. */
struct piece {
	void *buf;
	size_t len;
	off_t pos;
	ssize_t ret;
};

#define MAX_PIECES	64

/*
 * IOCB_CMD_PREAD or IOCB_CMD_PWRITE all pieces, submitted at once, and wait for
 * them. The error is that of submitting; even then some may have been done.
 */
static __maybe_unused int rw_pieces(aio_context_t ctx, int fd, int opcode,
				    struct piece *pieces, int nr)
{
	struct iocb iocb[MAX_PIECES] = {}, *list[MAX_PIECES];
	struct io_event event;
	int submitted = 0, err = 0, n;

	for (int i = 0; i < nr; i++) {
		iocb[i].aio_fildes = fd;
		iocb[i].aio_lio_opcode = opcode;
		iocb[i].aio_buf = (uintptr_t)pieces[i].buf;
		iocb[i].aio_nbytes = pieces[i].len;
		iocb[i].aio_offset = pieces[i].pos;
		iocb[i].aio_data = i;
		list[i] = &iocb[i];
		pieces[i].ret = -EAGAIN;
	}
	/* It ends early if one piece fails: the next call has the error. */
	while (submitted < nr) {
		n = syscall(SYS_io_submit, ctx, nr - submitted,
			    list + submitted);
		if (n <= 0) {
			err = n ? -errno : -EAGAIN;
			break;
		}
		submitted += n;
	}
	while (submitted > 0) {
		if (syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL) != 1) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		pieces[event.data].ret = event.res;
		submitted--;
	}
	return err;
}

/* Read or write @len bytes unless there is an error; 0 at the end of file. */
static __maybe_unused ssize_t pread_full(int fd, void *buf, size_t len,
					 off_t pos)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, (char *)buf + done, len - done,
				  pos + done);

		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += n;
	}
	return done;
}

static __maybe_unused ssize_t pwrite_full(int fd, const void *buf, size_t len,
					  off_t pos)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, (const char *)buf + done, len - done,
				   pos + done);

		if (n < 0)
			return -errno;
		if (!n)
			break;
		done += n;
	}
	return done;
}

/* Memory for O_DIRECT. */
static __maybe_unused void *alloc_pages(size_t size)
{
	void *p;

	return posix_memalign(&p, 4096, size) ? NULL : p;
}

/* Wait for a child for @seconds; true if it has ended. */
static __maybe_unused bool wait_child(pid_t pid, int *status, double seconds)
{
	return wait_for(waitpid(pid, status, WNOHANG) == pid, seconds);
}

/*
 * Undo something that would outlive a killed test: in a separate process, when
 * the test asks for it or is dead.
 */
static __maybe_unused pid_t undo_later(struct __test_metadata *_metadata,
				       void (*undo)(const void *arg),
				       const void *arg)
{
	pid_t pid, parent = getpid();
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	ASSERT_EQ(0, sigprocmask(SIG_BLOCK, &set, NULL));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (pid) {
		ASSERT_EQ(0, sigprocmask(SIG_UNBLOCK, &set, NULL));
		return pid;
	}
	setsid();
	prctl(PR_SET_PDEATHSIG, SIGUSR1);
	if (getppid() == parent)
		sigwait(&set, &sig);
	undo(arg);
	_exit(0);
}

static __maybe_unused void undo_now(struct __test_metadata *_metadata,
				    pid_t pid)
{
	int status;

	ASSERT_EQ(0, kill(pid, SIGUSR1));
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);
}

/* Add a device that never has been bound, and open it. */
static __maybe_unused int loop_add(struct loop *lo, int mode)
{
	lo->fd = -1;
	lo->nr = loop_control(LOOP_CTL_ADD, -1);
	if (lo->nr < 0)
		return lo->nr;
	snprintf(lo->dev, sizeof(lo->dev), "/dev/loop%d", lo->nr);
	wait_for((lo->fd = open(lo->dev, mode | O_CLOEXEC)) >= 0, SOON);
	return lo->fd < 0 ? -errno : 0;
}

/* Close and remove it. Others, such as udev, may have it open for a moment. */
static __maybe_unused int loop_remove(struct loop *lo)
{
	int err = loop_detach(lo), ret;

	wait_for((ret = loop_control(LOOP_CTL_REMOVE, lo->nr)) != -EBUSY, SOON);
	return err ?: ret < 0 ? ret : 0;
}

static __maybe_unused int is_read_only(int fd)
{
	int ro;

	return ioctl(fd, BLKROGET, &ro) ? -errno : ro;
}

/* A file with pattern @seed; open as @mode says. */
static __maybe_unused int make_image(struct __test_metadata *_metadata,
				     const char *path, size_t size,
				     unsigned int seed, int mode)
{
	void *buf = alloc_pages(size);
	int fd;

	ASSERT_NE(buf, NULL);
	pattern_fill(buf, size, 0, seed);
	fd = make_file(path, size);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pwrite_full(fd, buf, size, 0), (ssize_t)size);
	close(fd);
	free(buf);
	fd = open(path, mode | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	return fd;
}

/* Read @size bytes from the device, past its page cache, and compare. */
static __maybe_unused void check_device(struct __test_metadata *_metadata,
					const struct loop *lo, size_t size,
					unsigned int seed)
{
	void *buf = alloc_pages(size);
	int fd = open(lo->dev, O_RDONLY | O_DIRECT | O_CLOEXEC);

	ASSERT_NE(buf, NULL);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pread_full(fd, buf, size, 0), (ssize_t)size);
	ASSERT_EQ(pattern_verify(buf, size, 0, seed), -1);
	close(fd);
	free(buf);
}

/* Write @size bytes to the device, past its page cache. */
static __maybe_unused void write_device(struct __test_metadata *_metadata,
					const struct loop *lo, size_t size,
					unsigned int seed)
{
	void *buf = alloc_pages(size);
	int fd = open(lo->dev, O_WRONLY | O_DIRECT | O_CLOEXEC);

	ASSERT_NE(buf, NULL);
	ASSERT_GE(fd, 0);
	pattern_fill(buf, size, 0, seed);
	ASSERT_EQ(pwrite_full(fd, buf, size, 0), (ssize_t)size);
	close(fd);
	free(buf);
}

/* The kernel log, from now on. */
static __maybe_unused int klog_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (lseek(fd, 0, SEEK_END) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

/*
 * Wait for a message that contains both strings, @seconds at most, and return
 * whether there was one. With 0 seconds, look at what is there.
 */
static __maybe_unused bool klog_wait(int fd, const char *a, const char *b,
				     double seconds)
{
	double deadline = now() + seconds;
	char record[8192];

	for (;;) {
		ssize_t n = read(fd, record, sizeof(record) - 1);

		if (n > 0) {
			record[n] = '\0';
			/* After the message come lines of the device. */
			record[strcspn(record, "\n")] = '\0';
			if (strstr(record, a) && strstr(record, b))
				return true;
		} else if (n < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLIN };
			double left = deadline - now();

			if (left <= 0)
				return false;
			poll(&p, 1, left * 1000 + 1);
		} else if (n < 0 && errno != EPIPE) {
			return false;
		}
	}
}

/* How many messages contain both strings, of those that are there. */
static __maybe_unused int klog_count(int fd, const char *a, const char *b)
{
	int count = 0;

	while (klog_wait(fd, a, b, 0))
		count++;
	return count;
}

/*
 * Fill @iov with pieces of whole sectors of many sizes, which begin at sectors
 * within pages and together have @len bytes.
 */
static __maybe_unused int odd_pieces(struct iovec *iov, int max,
				     void *buf, size_t len)
{
	static const unsigned char sectors[] = { 1, 3, 5, 8, 2, 13, 1, 16, 7 };
	char *p = (char *)buf + SECTOR;
	int n = 0;

	while (len && n < max) {
		size_t piece = sectors[n % ARRAY_SIZE(sectors)] * SECTOR;

		if (piece > len)
			piece = len;
		iov[n++] = (struct iovec){ .iov_base = p, .iov_len = piece };
		len -= piece;
		/* leave a sector between the pieces: none is merged */
		p += piece + SECTOR;
	}
	return len ? -1 : n;
}

#endif /* LOOP_TEST_H */
