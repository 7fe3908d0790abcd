// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loop devices on files that have only ->read and ->write
 * (CONFIG_BLK_DEV_LOOP_USER_WINDOW). What holds for all files is tested for
 * these in the other programs, too.
 */
#include <glob.h>
#include <pthread.h>
#include <sys/fanotify.h>
#include <sys/fsuid.h>
#include <sys/inotify.h>

#include "loop_test.h"

#define IMAGE_NAME	"loop_window_image"
#define IMAGE		FAULTFS "/" IMAGE_NAME
#define SIZE		MIB(4)

#define OLD		1
#define NEW		2

/* What only ->read() and ->write() of a user's buffer show. */
FIXTURE(window) {
	struct loop lo;
	int file;
	int direct;
	unsigned char *buf;
};

FIXTURE_VARIANT(window) {
	const char *options;
	bool read;			/* reads, too, are without ->read_iter */
};

FIXTURE_VARIANT_ADD(window, write) {
	.options = "io=write",
	.read = true,
};

FIXTURE_VARIANT_ADD(window, mixed) {
	.options = "io=mixed",
};

static int window_attach(FIXTURE_DATA(window) * self)
{
	struct loop_args args = { .mode = O_RDWR };
	int err;

	self->file = open(IMAGE, O_RDWR | O_CLOEXEC);
	if (self->file < 0)
		return -errno;
	args.file = self->file;
	err = loop_attach(&self->lo, &args);
	if (err)
		return err;
	self->direct = open(self->lo.dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	return self->direct < 0 ? -errno : 0;
}

static int window_detach(FIXTURE_DATA(window) * self)
{
	if (self->lo.fd >= 0) {
		close(self->direct);
		close(self->file);
	}
	return loop_detach(&self->lo);
}

FIXTURE_SETUP(window)
{
	int fd, err;

	self->lo.fd = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	self->buf = alloc_pages(SIZE);
	ASSERT_NE(self->buf, NULL);
	fd = make_file(IMAGE, SIZE);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(fchmod(fd, 0666), 0);
	close(fd);
	err = window_attach(self);
	if (err == -EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
}

FIXTURE_TEARDOWN(window)
{
	EXPECT_EQ(window_detach(self), 0);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
	free(self->buf);
}

/* The pages of the window are there before the file is called. */
TEST_F(window, no_faults)
{
	struct iovec iov[128];
	int nr;

	pattern_fill(self->buf, SIZE, 0, NEW);
	ASSERT_EQ(pwrite(self->direct, self->buf, SIZE, 0), (ssize_t)SIZE);
	ASSERT_EQ(pwrite(self->lo.fd, self->buf, MIB(1), 100),
		  (ssize_t)MIB(1));
	ASSERT_EQ(fsync(self->lo.fd), 0);
	nr = odd_pieces(iov, ARRAY_SIZE(iov), self->buf, KIB(300));
	ASSERT_GT(nr, 0);
	ASSERT_EQ(pwritev(self->direct, iov, nr, 0), (ssize_t)KIB(300));
	ASSERT_EQ(preadv(self->direct, iov, nr, SECTOR), (ssize_t)KIB(300));
	ASSERT_EQ(pread(self->direct, self->buf, SIZE, 0), (ssize_t)SIZE);

	ASSERT_GT(faultfs_calls(FAULTFS, "write"), 0);
	if (variant->read)
		ASSERT_GT(faultfs_calls(FAULTFS, "read"), 0);
	ASSERT_EQ(faultfs_calls(FAULTFS, "faults"), 0);
}

#define OTHER_UID	4321

static void *open_as_other(void *arg)
{
	int *fd = arg;

	setfsuid(OTHER_UID);
	*fd = open(IMAGE, O_RDWR | O_CLOEXEC);
	return NULL;
}

/* The file is written by the one who has opened it. */
TEST_F(window, credentials)
{
	struct loop_args args = { .file = -1, .mode = O_RDWR };
	pthread_t thread;

	ASSERT_EQ(pwrite(self->direct, self->buf, SECTOR, 0), SECTOR);
	ASSERT_EQ(faultfs_calls(FAULTFS, "uid"), 0);

	ASSERT_EQ(window_detach(self), 0);
	ASSERT_EQ(pthread_create(&thread, NULL, open_as_other, &args.file), 0);
	ASSERT_EQ(pthread_join(thread, NULL), 0);
	ASSERT_GE(args.file, 0);
	self->file = args.file;
	ASSERT_EQ(loop_attach(&self->lo, &args), 0);
	self->direct = open(self->lo.dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(self->direct, 0);
	ASSERT_EQ(pwrite(self->direct, self->buf, SECTOR, 0), SECTOR);
	ASSERT_EQ(faultfs_calls(FAULTFS, "uid"), OTHER_UID);
}

/* Wait for the inotify event @mask of the only watch. */
static bool next_event(int fd, unsigned int mask)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct inotify_event event;

	while (poll(&p, 1, SOON * 1000) == 1) {
		if (read(fd, &event, sizeof(event)) != sizeof(event))
			return false;
		if (event.mask & mask)
			return true;
	}
	return false;
}

TEST_F(window, inotify)
{
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	if (fd < 0 && !kernel_config("INOTIFY_USER"))
		SKIP(return, "no inotify (CONFIG_INOTIFY_USER)");
	ASSERT_GE(fd, 0);
	ASSERT_GE(inotify_add_watch(fd, IMAGE, IN_MODIFY | IN_ACCESS), 0);
	ASSERT_EQ(pwrite(self->direct, self->buf, SECTOR, 0), SECTOR);
	ASSERT_TRUE(next_event(fd, IN_MODIFY));
	if (variant->read) {
		ASSERT_EQ(pread(self->direct, self->buf, SECTOR, 0), SECTOR);
		ASSERT_TRUE(next_event(fd, IN_ACCESS));
	}
	close(fd);
}

/*
 * Deny all reads of the image, after telling through @report that it has
 * begun, or why not. If this is killed nothing waits for an answer any more,
 * so it must be the only one that has the file descriptor.
 */
static void deny_reads(int report)
{
	struct fanotify_event_metadata event;
	int fd, err = 0;

	fd = fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC,
			   O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fanotify_mark(fd, FAN_MARK_ADD, FAN_ACCESS_PERM, AT_FDCWD,
				    IMAGE))
		err = errno;
	if (write(report, &err, sizeof(err)) != sizeof(err) || err)
		return;
	while (read(fd, &event, sizeof(event)) == sizeof(event)) {
		struct fanotify_response response = {
			.fd = event.fd,
			.response = FAN_DENY,
		};

		if (write(fd, &response, sizeof(response)) < 0)
			return;
		close(event.fd);
	}
}

TEST_F(window, fanotify_denies_read)
{
	int report[2], status, err;
	pid_t pid;

	/* Files that were opened before the mark are not asked about. */
	ASSERT_EQ(window_detach(self), 0);
	ASSERT_EQ(pipe(report), 0);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		deny_reads(report[1]);
		_exit(1);
	}
	ASSERT_EQ(read(report[0], &err, sizeof(err)), sizeof(err));
	if (err && !kernel_config("FANOTIFY_ACCESS_PERMISSIONS"))
		SKIP(return, "CONFIG_FANOTIFY_ACCESS_PERMISSIONS is not set");
	ASSERT_EQ(err, 0);
	ASSERT_EQ(window_attach(self), 0);
	/* ->read_iter is called by the driver itself, which nobody asks. */
	EXPECT_EQ(pread(self->direct, self->buf, SECTOR, 0),
		  variant->read ? -1 : SECTOR);
	EXPECT_EQ(pwrite(self->direct, self->buf, SECTOR, 0), SECTOR);
	ASSERT_EQ(kill(pid, SIGKILL), 0);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	EXPECT_TRUE(WIFSIGNALED(status));
	EXPECT_EQ(pread(self->direct, self->buf, SECTOR, 0), SECTOR);
}

/* What does not fit in the window takes another call. */
TEST_F(window, calls)
{
	const size_t len = KIB(64);
	long long before = faultfs_calls(FAULTFS, "write");

	ASSERT_EQ(pwrite(self->direct, self->buf, len, 0), (ssize_t)len);
	EXPECT_EQ(faultfs_calls(FAULTFS, "write"), before + 1);
	ASSERT_EQ(pwrite(self->direct, self->buf, len + SECTOR, 0),
		  (ssize_t)(len + SECTOR));
	EXPECT_EQ(faultfs_calls(FAULTFS, "write"), before + 3);

	/* An error after one more byte: the driver does not retry without end. */
	before = faultfs_calls(FAULTFS, "write");
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=enospc,fail_at=%zu", len + 1),
		  0);
	EXPECT_LT(pwrite(self->direct, self->buf, 2 * len, 0),
		  (ssize_t)(2 * len));
	EXPECT_LE(faultfs_calls(FAULTFS, "write"), before + 10);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
}

/* A device on a file of faultfs. */
FIXTURE(methods) {
	struct loop lo;
	int file;
};

FIXTURE_SETUP(methods)
{
	self->lo.fd = -1;
	self->file = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, "io=iter"))
		return;
	self->file = make_image(_metadata, IMAGE, SIZE, OLD, O_RDWR);
}

FIXTURE_TEARDOWN(methods)
{
	EXPECT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(loop_detach(&self->lo), 0);
	close(self->file);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
}

static int methods_attach(FIXTURE_DATA(methods) * self, struct loop_args args)
{
	args.file = self->file;
	args.mode = O_RDWR;
	return loop_attach(&self->lo, &args);
}

static void check_read_only(struct __test_metadata *_metadata,
			    FIXTURE_DATA(methods) * self)
{
	char buf[SECTOR] = {};

	ASSERT_EQ(is_read_only(self->lo.fd), 1);
	check_device(_metadata, &self->lo, SIZE, OLD);
	/* it was open for writing before it became read only */
	ASSERT_EQ(pwrite(self->lo.fd, buf, SECTOR, 0), -1);
	ASSERT_TRUE(errno == EPERM || errno == EROFS);
	ASSERT_EQ(fsync(self->lo.fd), 0);
	ASSERT_EQ(pread(self->lo.fd, buf, SECTOR, 0), SECTOR);
	ASSERT_EQ(pattern_verify(buf, SECTOR, 0, OLD), -1);
}

/* Bind a device to the image, opened with io=@io. -EINVAL: not supported. */
static int attach_as(struct __test_metadata *_metadata,
		     FIXTURE_DATA(methods) * self, const char *io,
		     struct loop_args args)
{
	int err;

	close(self->file);
	self->file = -1;
	err = remount_faultfs(FAULTFS, "io=%s", io);
	if (err)
		return err;
	self->file = open(IMAGE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
	return methods_attach(self, args);
}

TEST_F(methods, only_read)
{
	int err = attach_as(_metadata, self, "read", (struct loop_args){});

	if (err == -EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
	check_read_only(_metadata, self);
}

static void check_no_direct(struct __test_metadata *_metadata,
			    FIXTURE_DATA(methods) * self, const char *io)
{
	struct loop_info64 info;
	int err;

	ASSERT_EQ(loop_detach(&self->lo), 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=512"), 0);
	err = attach_as(_metadata, self, io, (struct loop_args){
			.flags = LO_FLAGS_DIRECT_IO,
	});
	if (err == -EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	ASSERT_FALSE(info.lo_flags & LO_FLAGS_DIRECT_IO);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_DIRECT_IO, 1), -1);
	ASSERT_EQ(errno, EINVAL);
	check_device(_metadata, &self->lo, SIZE, OLD);
}

TEST_F(methods, no_direct)
{
	check_no_direct(_metadata, self, "write");
}

/* not either when the file allows O_DIRECT for one of the directions */
TEST_F(methods, no_direct_mixed)
{
	check_no_direct(_metadata, self, "mixed");
}

TEST_F(methods, change_fd_methods)
{
	struct loop_args args = {
		.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_DIRECT_IO,
	};
	struct loop_info64 info;
	int iter, other, ret;

	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=512"), 0);
	iter = open(IMAGE, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(iter, 0);
	other = make_image(_metadata, FAULTFS "/other", SIZE, NEW, O_RDONLY);
	close(other);
	ASSERT_EQ(remount_faultfs(FAULTFS, "io=read"), 0);
	other = open(FAULTFS "/other", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(other, 0);

	ASSERT_EQ(methods_attach(self, args), 0);
	check_device(_metadata, &self->lo, SIZE, OLD);
	ret = ioctl(self->lo.fd, LOOP_CHANGE_FD, other);
	if (ret && errno == EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(goto out);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(ret, 0);
		ASSERT_EQ(loop_status(&self->lo, &info), 0);
		ASSERT_FALSE(info.lo_flags & LO_FLAGS_DIRECT_IO);
		check_device(_metadata, &self->lo, SIZE, NEW);
		ASSERT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, iter), 0);
		check_device(_metadata, &self->lo, SIZE, OLD);
		ret = ioctl(self->lo.fd, LOOP_CHANGE_FD, other);
	}
	ASSERT_EQ(ret, 0);
out:
	close(other);
	close(iter);
}

/* The kernel log names the device and says why it is slow. */
TEST_F(methods, log)
{
	int err, fd = klog_open();
	char name[32];

	ASSERT_GE(fd, 0);
	err = attach_as(_metadata, self, "write", (struct loop_args){});
	if (err == -EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
	snprintf(name, sizeof(name), "loop%d", self->lo.nr);
	EXPECT_TRUE(klog_wait(fd, name, IMAGE_NAME, SOON));
	write_device(_metadata, &self->lo, SIZE, NEW);
	check_device(_metadata, &self->lo, SIZE, NEW);
	ASSERT_EQ(loop_detach(&self->lo), 0);
	EXPECT_FALSE(klog_wait(fd, name, IMAGE_NAME, 0));
	close(fd);
}

/* No window is made for a file that needs none. */
TEST_F(methods, no_log)
{
	struct loop_args args = { .mode = O_RDWR };
	int fd = klog_open();
	char name[32];

	ASSERT_GE(fd, 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "io=mixed"), 0);
	args.file = open(IMAGE, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(args.file, 0);
	ASSERT_EQ(loop_attach(&self->lo, &args), 0);
	close(args.file);
	EXPECT_EQ(is_read_only(self->lo.fd), 1);
	snprintf(name, sizeof(name), "loop%d", self->lo.nr);
	EXPECT_FALSE(klog_wait(fd, name, IMAGE_NAME, 0));
	close(fd);
}

/* Filesystems that are not for data: only iter methods are called. */
TEST_F(methods, pseudo)
{
	static const struct {
		const char *io;
		int flags, result;
	} cases[] = {
		{ "iter",  O_RDWR,   0 },
		{ "iter",  O_RDONLY, 0 },
		{ "write", O_RDWR,   -EINVAL },
		{ "write", O_RDONLY, -EINVAL },
		{ "mixed", O_RDWR,   -EINVAL },
		{ "mixed", O_RDONLY, 0 },
		{ "none",  O_RDWR,   0 },
		{ "read",  O_RDONLY, -EINVAL },
	};
	const char *dir = BASE "/pseudo", *image = BASE "/pseudo/image";
	struct loop_args args = { .mode = O_RDWR };

	ASSERT_EQ(mount_faultfs(_metadata, dir, "pseudo"), 0);
	close(make_image(_metadata, image, SIZE, NEW, O_RDWR));
	for (unsigned int i = 0; i < ARRAY_SIZE(cases); i++) {
		ASSERT_EQ(remount_faultfs(dir, "io=%s", cases[i].io), 0);
		args.file = open(image, cases[i].flags | O_CLOEXEC);
		ASSERT_GE(args.file, 0);
		EXPECT_EQ(loop_attach(&self->lo, &args), cases[i].result)
			TH_LOG("io=%s", cases[i].io);
		close(args.file);
		EXPECT_EQ(loop_detach(&self->lo), 0);
	}
	EXPECT_EQ(umount_soon(dir), 0);
}

/*
 * Files of procfs act on what is written. Most have no size, but some have, such
 * as the configuration space of PCI devices.
 */
TEST_F(methods, procfs)
{
	struct loop_args args = { .mode = O_RDWR };
	glob_t found = {};

	args.file = open("/proc/self/comm", O_RDWR | O_CLOEXEC);
	ASSERT_GE(args.file, 0);
	EXPECT_EQ(loop_attach(&self->lo, &args), -EINVAL);
	close(args.file);
	glob("/proc/bus/pci/*/*", 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc; i++) {
		args.file = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
		ASSERT_GE(args.file, 0);
		EXPECT_EQ(loop_attach(&self->lo, &args), -EINVAL)
			TH_LOG("%s", found.gl_pathv[i]);
		close(args.file);
	}
	globfree(&found);
}

TEST_HARNESS_MAIN
