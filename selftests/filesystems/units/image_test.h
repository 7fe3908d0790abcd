/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for tests of filesystems, each on a private image.
 *
 * Everything is on a tmpfs in a mount namespace of the test's own, and every
 * loop device clears itself: what is killed leaves nothing.
 *
 * Functions return 0 or a negative errno unless said otherwise.
 */
#ifndef IMAGE_TEST_H
#define IMAGE_TEST_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <linux/fs.h>
#include <linux/loop.h>

#include "../../kselftest_harness.h"

#define IMAGE_DIR	"/tmp"		/* a tmpfs of our own is mounted on it */
#define IMAGE_LOG	IMAGE_DIR "/log"	/* of image_run() */
#define IMAGE_OUTPUT	IMAGE_DIR "/output"	/* of in_child() */

#define STALE		0xaa	/* what a disk is full of before mkfs */

#define KIB(n)		((off_t)(n) << 10)
#define MIB(n)		((off_t)(n) << 20)

/* How many seconds to wait for what should happen at once. */
#define SOON		10

struct image {
	char dir[16];		/* the tmpfs: for files the test needs */
	char path[32];		/* the image */
	char mnt[32];		/* where it gets mounted */
	char dev[32];		/* the loop device while it is mounted */
	int loop;		/* keeps the device bound, 0: not attached */
};

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

static __maybe_unused int write_string(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	return err;
}

/* Show the output of something else as diagnostics. */
static __maybe_unused void image_print(const char *log)
{
	char line[256];
	FILE *f;

	f = fopen(log, "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		ksft_print_msg("  %.*s\n", (int)strcspn(line, "\n"), line);
	fclose(f);
}

/*
 * Run a shell command. Its exit status (127: command not found), or -1 if it
 * was killed; if that is not 0, what it printed is shown.
 */
static __maybe_unused __printf(1, 2)
int image_run(const char *format, ...)
{
	char command[2048];
	va_list args;
	int n, status;

	n = snprintf(command, sizeof(command),
		     "PATH=$PATH:/usr/sbin:/sbin; exec >" IMAGE_LOG " 2>&1; ");
	va_start(args, format);
	vsnprintf(command + n, sizeof(command) - n, format, args);
	va_end(args);
	fflush(NULL);
	status = system(command);
	if (!status)
		return 0;

	image_print(IMAGE_LOG);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Is the program @name in the path? */
static __maybe_unused bool image_have(const char *name)
{
	return !image_run("command -v %s", name);
}

/*
 * A private mount namespace with a tmpfs, and on it an image of @size bytes.
 * Non-zero if the test has been marked as skipped.
 */
static __maybe_unused int image_setup(struct image *im,
				      struct __test_metadata *_metadata,
				      off_t size)
{
	int fd;

	if (geteuid())
		SKIP(return -1, "needs root");
	if (access("/dev/loop-control", F_OK))
		SKIP(return -1, "no /dev/loop-control (CONFIG_BLK_DEV_LOOP)");
	ASSERT_EQ(0, unshare(CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("tmpfs", IMAGE_DIR, "tmpfs", 0, NULL));

	memset(im, 0, sizeof(*im));
	strcpy(im->dir, IMAGE_DIR);
	strcpy(im->path, IMAGE_DIR "/image");
	strcpy(im->mnt, IMAGE_DIR "/mnt");
	ASSERT_EQ(0, mkdir(im->mnt, 0755));
	fd = open(im->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(0, ftruncate(fd, size));
	ASSERT_EQ(0, close(fd));
	return 0;
}

/* What should have been zeroed or written, and was not, shows afterwards. */
static __maybe_unused void image_prefill(struct __test_metadata *_metadata,
					 struct image *im, off_t size)
{
	uint8_t buf[64 << 10];
	int fd;

	memset(buf, STALE, sizeof(buf));
	fd = open(im->path, O_WRONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	for (off_t pos = 0; pos < size; pos += sizeof(buf))
		ASSERT_EQ(sizeof(buf), pwrite(fd, buf, sizeof(buf), pos))
			TH_LOG("%s: %s", im->path, strerror(errno));
	ASSERT_EQ(0, close(fd));
}

/* Bind a free loop device to the image; another process may be quicker. */
static __maybe_unused int image_attach(struct image *im)
{
	struct loop_config config = {
		.block_size = 512,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR,
	};
	double deadline = now() + SOON;
	int ctl, file, fd, nr, err = 0;

	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		return -errno;
	file = open(im->path, O_RDWR | O_CLOEXEC);
	if (file < 0) {
		err = -errno;
		close(ctl);
		return err;
	}
	config.fd = file;
	do {
		nr = ioctl(ctl, LOOP_CTL_GET_FREE);
		if (nr < 0) {
			err = -errno;
			break;
		}
		snprintf(im->dev, sizeof(im->dev), "/dev/loop%d", nr);
		fd = open(im->dev, O_RDWR | O_CLOEXEC);
		if (fd >= 0 && !ioctl(fd, LOOP_CONFIGURE, &config)) {
			im->loop = fd;
			err = 0;
			break;
		}
		err = -errno;
		if (fd >= 0)
			close(fd);
	} while ((err == -EBUSY || err == -ENXIO) && now() < deadline);
	close(file);
	close(ctl);
	return err;
}

/* With the last user of the device its page cache goes as well. */
static __maybe_unused void image_detach(struct image *im)
{
	if (im->loop)
		close(im->loop);
	im->loop = 0;
}

/* -ENODEV: the kernel has no such filesystem. */
static __maybe_unused int image_mount(struct image *im, const char *fstype,
				      unsigned long flags, const char *options)
{
	int err;

	if (!im->loop) {
		err = image_attach(im);
		if (err)
			return err;
	}
	if (!mount(im->dev, im->mnt, fstype, flags, options))
		return 0;
	err = -errno;
	image_detach(im);
	return err;
}

/*
 * Unmount, once the last fput() of what was there has been done, and release the
 * device: im->path can be looked at and changed.
 */
static __maybe_unused int image_umount(struct image *im)
{
	int ret;

	wait_for(!(ret = umount(im->mnt)) || errno != EBUSY, SOON);
	if (ret)
		return -errno;
	image_detach(im);
	return 0;
}

/* Settings of the kernel that a test has changed, and what they were before. */
static struct {
	char path[64];
	char value[16];
} image_settings[16];

/* Write @value to @path, until image_restore(): 0 or a negative errno. */
static __maybe_unused int image_set(const char *path, const char *value)
{
	int i = 0, fd;
	ssize_t n;

	while (image_settings[i].path[0] && strcmp(image_settings[i].path, path))
		i++;
	if (!image_settings[i].path[0]) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		n = read(fd, image_settings[i].value,
			 sizeof(image_settings[i].value) - 1);
		close(fd);
		if (n <= 0)
			return -EIO;
		strcpy(image_settings[i].path, path);
	}
	return write_string(path, value);
}

static __maybe_unused void image_restore(void)
{
	int i = 0;

	while (image_settings[i].path[0])
		i++;
	while (i--)
		write_string(image_settings[i].path, image_settings[i].value);
}

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define FAIL_PAGE	"/sys/kernel/debug/fail_page_alloc/"

/*
 * Allocations of @kind, one of the above, can fail, but do so only if
 * image_fail_nth() asks for it: 0 or a negative errno.
 */
static __maybe_unused int image_faults(const char *kind)
{
	static const char * const settings[][2] = {
		{ "min-order", "0" }, { "ignore-gfp-highmem", "N" },
		{ "verbose", "0" }, { "ignore-gfp-wait", "N" },
	};
	char path[64];
	int err = 0;

	if (access(kind, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	/* or each failure of an allocation, of any kind, counts them down */
	image_set(FAILSLAB "times", "-1");
	image_set(FAIL_PAGE "times", "-1");
	/* FAILSLAB does not have the first two */
	for (int i = strcmp(kind, FAILSLAB) ? 0 : 2;
	     i < ARRAY_SIZE(settings) && !err; i++) {
		snprintf(path, sizeof(path), "%s%s", kind, settings[i][0]);
		err = image_set(path, settings[i][1]);
	}
	return err;
}

/* Of the allocations of this thread, number @nth from now on is to fail. */
static __maybe_unused int image_fail_nth(unsigned int nth)
{
	int fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);

	if (fd < 0 || dprintf(fd, "%u", nth) < 0)
		ksft_exit_fail_perror("fail-nth");
	return fd;
}

/* No more: has it failed, or were there fewer? Keeps errno. */
static __maybe_unused bool image_has_failed(int fd)
{
	char left[16] = "";
	int err = errno;

	if (pread(fd, left, sizeof(left) - 1, 0) <= 0 ||
	    pwrite(fd, "0", 1, 0) != 1)
		ksft_exit_fail_perror("fail-nth");
	close(fd);
	errno = err;
	return !atoi(left);
}

/* For what the end of the namespace does not do, or not soon. */
static __maybe_unused void image_teardown(struct image *im)
{
	image_restore();
	if (!im->path[0])
		return;
	umount2(im->mnt, MNT_DETACH);
	image_detach(im);
	umount2(im->dir, MNT_DETACH);
}

/* Forget all clean page cache, dentries and inodes that nobody uses. */
static __maybe_unused void drop_clean_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "3", 1) != 1)
		ksft_exit_fail_perror("/proc/sys/vm/drop_caches");
	close(fd);
}

/* How many pages of the file are in the page cache? */
static __maybe_unused size_t
image_cached_pages(struct __test_metadata *_metadata, int fd, size_t len)
{
	size_t page = sysconf(_SC_PAGESIZE), pages = (len + page - 1) / page;
	unsigned char *vec = malloc(pages);
	size_t nr = 0;
	void *map;

	ASSERT_NE(NULL, vec);
	map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, mincore(map, len, vec));
	for (size_t i = 0; i < pages; i++)
		nr += vec[i] & 1;
	ASSERT_EQ(0, munmap(map, len));
	free(vec);
	return nr;
}

/*
 * KiB in slab caches, without what can be reclaimed, what is free in a slab, and
 * what KASAN keeps of them although it has been freed.
 */
static __maybe_unused long long image_slab(void)
{
	long long kib = -1;
	char line[128];
	FILE *f;

	drop_clean_caches();
	image_run("for f in /sys/kernel/slab/*/shrink; do echo 1 >$f; done; :");
	f = fopen("/proc/meminfo", "re");
	while (f && kib < 0 && fgets(line, sizeof(line), f))
		sscanf(line, "SUnreclaim: %lld kB", &kib);
	if (kib < 0)
		ksft_exit_fail_perror("/proc/meminfo: SUnreclaim");
	fclose(f);
	return kib;
}

/*
 * Data that depends on its position in bytes and on @seed, and is never 0: what
 * is from elsewhere, from earlier or a hole is not taken for right. With an odd
 * seed it does not compress.
 */
static __maybe_unused uint8_t pattern(off_t pos, unsigned int seed)
{
	uint64_t x = (seed & 1 ? pos : pos >> 7) + ((uint64_t)seed << 40) + 1;

	x *= 0x9e3779b97f4a7c15;
	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9;
	return 1 + (x >> 32) % 255;
}

static __maybe_unused void pattern_fill(void *buf, size_t len, off_t pos,
					unsigned int seed)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		p[i] = pattern(pos + i, seed);
}

/* The first byte of @buf that differs from the pattern, or -1. */
static __maybe_unused ssize_t pattern_verify(const void *buf, size_t len,
					     off_t pos, unsigned int seed)
{
	const uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		if (p[i] != pattern(pos + i, seed))
			return i;
	return -1;
}

/*
 * Run @fn in a child: for what may hang in the kernel, where no signal helps.
 * The child's exit status (0 if @fn returns), -EINTR if a signal killed it,
 * -ETIMEDOUT if it has not ended after @seconds. It then may be left behind,
 * with what it has open: not with our output, or who reads that would hang, too.
 */
static __maybe_unused long in_child(void (*fn)(void *arg), void *arg,
				    int seconds)
{
	int status;
	long ret;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		if (!freopen(IMAGE_OUTPUT, "w", stdout) ||
		    dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
			_exit(KSFT_FAIL);
		fn(arg);
		fflush(NULL);
		_exit(0);
	}
	if (wait_for(waitpid(pid, &status, WNOHANG) == pid, seconds)) {
		ret = WIFEXITED(status) ? WEXITSTATUS(status) : -EINTR;
	} else {
		kill(pid, SIGKILL);
		wait_for(waitpid(pid, NULL, WNOHANG) == pid, 1);
		ret = -ETIMEDOUT;
	}
	image_print(IMAGE_OUTPUT);
	return ret;
}

#endif /* IMAGE_TEST_H */
