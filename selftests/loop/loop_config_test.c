// SPDX-License-Identifier: GPL-2.0-only
/*
 * Configuration of loop devices: what is accepted and refused, and what a
 * refused request leaves behind.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <linux/blkpg.h>
#include <linux/netlink.h>

#include "loop_test.h"

/* A name that nothing else in the kernel log has. */
#define IMAGE_NAME	"loop_config_image"
#define IMAGE		FAULTFS "/" IMAGE_NAME
#define SIZE		MIB(1)

#define OLD		1
#define NEW		2

/* What LOOP_CONFIGURE refuses leaves the device and the file as they were. */
FIXTURE(refused) {
	struct loop lo;
	int file;
};

FIXTURE_SETUP(refused)
{
	self->lo.fd = -1;
	if (private_mounts(_metadata))
		return;
	self->file = make_image(_metadata, BASE "/image", SIZE, OLD, O_RDONLY);
	ASSERT_EQ(loop_add(&self->lo, O_RDONLY), 0);
}

FIXTURE_TEARDOWN(refused)
{
	EXPECT_EQ(loop_remove(&self->lo), 0);
	close(self->file);
}

static int refuse(FIXTURE_DATA(refused) * self)
{
	return loop_configure(self->lo.fd, &(struct loop_args){
			.file = self->file,
			.block_size = 3,
			.offset = SECTOR,
	});
}

TEST_F(refused, read_only)
{
	ASSERT_EQ(is_read_only(self->lo.fd), 0);
	ASSERT_EQ(refuse(self), -EINVAL);
	ASSERT_EQ(is_read_only(self->lo.fd), 0);
	ASSERT_EQ(device_size(self->lo.fd), 0);
}

/* Wait for a uevent of the device. */
static bool uevent_arrives(int fd, const struct loop *lo, double seconds)
{
	double deadline = now() + seconds;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char event[4096], name[32];

	snprintf(name, sizeof(name), "/block/loop%d", lo->nr);
	while (poll(&p, 1, (deadline - now()) * 1000) == 1) {
		ssize_t n = recv(fd, event, sizeof(event) - 1, 0);

		if (n < 0)
			return false;
		event[n] = '\0';
		n = strlen(event) - strlen(name);
		if (n >= 0 && !strcmp(event + n, name))
			return true;
	}
	return false;
}

/* Uevents from now on; negative if there are none. */
static int uevent_open(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC,
			NETLINK_KOBJECT_UEVENT);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		return -1;
	}
	return fd;
}

TEST_F(refused, uevents)
{
	char path[64];
	int fd;

	ASSERT_EQ(refuse(self), -EINVAL);
	fd = uevent_open();
	if (fd < 0 && !kernel_config("NET"))
		SKIP(return, "no uevents (CONFIG_NET)");
	ASSERT_GE(fd, 0);
	snprintf(path, sizeof(path), "/sys/block/loop%d/uevent", self->lo.nr);
	ASSERT_EQ(write_text(path, "change"), 0);
	EXPECT_TRUE(uevent_arrives(fd, &self->lo, 2));
	close(fd);
}

/* One uevent for one change, sent when the device is bound. */
TEST_F(refused, then_one_uevent)
{
	struct loop_args args = { .file = self->file };
	__u64 before, after;
	int fd = uevent_open();

	if (fd < 0 && !kernel_config("NET"))
		SKIP(return, "no uevents (CONFIG_NET)");
	ASSERT_GE(fd, 0);
	ASSERT_EQ(refuse(self), -EINVAL);
	ASSERT_EQ(ioctl(self->lo.fd, BLKGETDISKSEQ, &before), 0);
	ASSERT_EQ(loop_configure(self->lo.fd, &args), 0);
	EXPECT_TRUE(uevent_arrives(fd, &self->lo, 0));
	EXPECT_FALSE(uevent_arrives(fd, &self->lo, 0));
	/* another medium */
	ASSERT_EQ(ioctl(self->lo.fd, BLKGETDISKSEQ, &after), 0);
	EXPECT_GT(after, before);
	close(fd);
}

TEST_F(refused, then_usable)
{
	struct loop_args args = { .file = self->file };
	char buf[SECTOR];

	ASSERT_EQ(refuse(self), -EINVAL);
	ASSERT_FALSE(loop_bound(&self->lo));
	ASSERT_EQ(pread(self->file, buf, SECTOR, 0), SECTOR);
	ASSERT_EQ(pattern_verify(buf, SECTOR, 0, OLD), -1);
	ASSERT_EQ(loop_configure(self->lo.fd, &args), 0);
	ASSERT_EQ(is_read_only(self->lo.fd), 1);
	ASSERT_EQ(device_size(self->lo.fd), (long long)SIZE);
	check_device(_metadata, &self->lo, SIZE, OLD);
}

/* A device on a file of faultfs. */
FIXTURE(config) {
	struct loop lo;
	int file;
};

FIXTURE_SETUP(config)
{
	self->lo.fd = -1;
	self->file = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, "io=iter"))
		return;
	self->file = make_image(_metadata, IMAGE, SIZE, OLD, O_RDWR);
}

FIXTURE_TEARDOWN(config)
{
	EXPECT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(loop_detach(&self->lo), 0);
	close(self->file);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
}

static int config_attach(FIXTURE_DATA(config) * self, struct loop_args args)
{
	args.file = self->file;
	args.mode = O_RDWR;
	return loop_attach(&self->lo, &args);
}

TEST_F(config, block_size)
{
	static const unsigned long bad[] = {
		0, 1, 3, 256, 513, 1 << 30, 0x100000400, 0x100000000,
	};
	int size;

	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_BLOCK_SIZE, 2048), 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_BLOCK_SIZE, bad[i]), -1)
			TH_LOG("%#lx was accepted", bad[i]);
		EXPECT_EQ(errno, EINVAL);
		errno = 0;
	}
	ASSERT_EQ(ioctl(self->lo.fd, BLKSSZGET, &size), 0);
	EXPECT_EQ(size, 2048);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_BLOCK_SIZE, 512), 0);
	ASSERT_EQ(ioctl(self->lo.fd, BLKSSZGET, &size), 0);
	EXPECT_EQ(size, 512);
	check_device(_metadata, &self->lo, SIZE, OLD);
}

/* If the size is not known, the ioctl fails and the old size is kept. */
TEST_F(config, set_capacity_getattr)
{
	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio,fail_op=getattr"), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), -1);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE);
}

TEST_F(config, set_status_getattr)
{
	struct loop_info64 info;

	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	info.lo_sizelimit = SIZE / 2;
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio,fail_op=getattr"), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_STATUS64, &info), -1);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_STATUS64, &info), 0);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE / 2);
}

/* The size stays if neither offset nor sizelimit changes, or on an error. */
TEST_F(config, set_status_size)
{
	struct loop_info64 info;

	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	ASSERT_EQ(ftruncate(self->file, 2 * SIZE), 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	strcpy((char *)info.lo_file_name, "name");
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_STATUS64, &info), 0);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE);
	info.lo_offset = SECTOR;
	info.lo_encrypt_type = LO_CRYPT_XOR;
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_STATUS64, &info), -1);
	EXPECT_EQ(errno, EINVAL);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	EXPECT_EQ(info.lo_offset, 0);
	EXPECT_EQ(strcmp((char *)info.lo_file_name, "name"), 0);
}

TEST_F(config, configure_getattr)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio,fail_op=getattr"), 0);
	EXPECT_EQ(config_attach(self, (struct loop_args){}), -EIO);
	EXPECT_FALSE(loop_bound(&self->lo));
}

TEST_F(config, change_fd_getattr)
{
	const char *dir = BASE "/other", *failing[] = { FAULTFS, dir };
	struct loop_args args = { .flags = LO_FLAGS_READ_ONLY };
	int fd;

	ASSERT_EQ(mount_faultfs(_metadata, dir, "io=iter"), 0);
	fd = make_image(_metadata, BASE "/other/image", SIZE, NEW, O_RDONLY);
	ASSERT_EQ(config_attach(self, args), 0);
	/* of the file that is bound, and of the other */
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(remount_faultfs(failing[i],
					  "fail=eio,fail_op=getattr"),
			  0);
		EXPECT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, fd), -1);
		EXPECT_EQ(errno, EIO);
		ASSERT_EQ(remount_faultfs(failing[i], "fail=none"), 0);
		check_device(_metadata, &self->lo, SIZE, OLD);
	}
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, fd), 0);
	check_device(_metadata, &self->lo, SIZE, NEW);
	close(fd);
	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(umount_soon(dir), 0);
}

/* So does FUSE for a file that another user has opened. */
TEST_F(config, getattr_eacces)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eacces,fail_op=getattr"), 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	EXPECT_EQ(device_size(self->lo.fd), (long long)SIZE);
	ASSERT_EQ(ftruncate(self->file, 2 * SIZE), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);
	EXPECT_EQ(device_size(self->lo.fd), 2 * (long long)SIZE);
}

/* How a device can be bound to the image when it is opened with @flags */
static int attach_opened(FIXTURE_DATA(config) * self, int flags)
{
	close(self->file);
	self->file = open(IMAGE, flags | O_CLOEXEC);
	if (self->file < 0)
		return -errno;
	return config_attach(self, (struct loop_args){});
}

TEST_F(config, open_write_only)
{
	EXPECT_EQ(attach_opened(self, O_WRONLY), -EBADF);
}

TEST_F(config, append_only)
{
	EXPECT_EQ(attach_opened(self, O_RDWR | O_APPEND), -EINVAL);
	/* it cannot be written to, anyway */
	EXPECT_EQ(attach_opened(self, O_RDONLY | O_APPEND), 0);
	EXPECT_EQ(is_read_only(self->lo.fd), 1);
}

TEST_F(config, dsync)
{
	long long before, data;

	ASSERT_EQ(attach_opened(self, O_RDWR), 0);
	before = faultfs_calls(FAULTFS, "fsync");
	write_device(_metadata, &self->lo, KIB(4), NEW);
	EXPECT_EQ(faultfs_calls(FAULTFS, "fsync"), before);
	ASSERT_EQ(loop_detach(&self->lo), 0);

	ASSERT_EQ(attach_opened(self, O_RDWR | O_DSYNC), 0);
	before = faultfs_calls(FAULTFS, "datasync");
	write_device(_metadata, &self->lo, KIB(4), NEW);
	EXPECT_GT(faultfs_calls(FAULTFS, "datasync"), before);
	ASSERT_EQ(loop_detach(&self->lo), 0);

	/* the metadata, too */
	ASSERT_EQ(attach_opened(self, O_RDWR | O_SYNC), 0);
	before = faultfs_calls(FAULTFS, "fsync");
	data = faultfs_calls(FAULTFS, "datasync");
	write_device(_metadata, &self->lo, KIB(4), NEW);
	EXPECT_GT(faultfs_calls(FAULTFS, "fsync"), before);
	EXPECT_EQ(faultfs_calls(FAULTFS, "datasync"), data);
}

/* statx() says that the file has no direct I/O, open() does not know. */
TEST_F(config, no_dio_alignment)
{
	struct loop_args args = { .flags = LO_FLAGS_DIRECT_IO };
	struct loop_info64 info;

	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=512"), 0);
	close(self->file);
	self->file = open(IMAGE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=0"), 0);
	ASSERT_EQ(config_attach(self, args), 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	EXPECT_FALSE(info.lo_flags & LO_FLAGS_DIRECT_IO);
	EXPECT_EQ(loop_attr(&self->lo, "queue/logical_block_size"), 512);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_DIRECT_IO, 1), -1);
	EXPECT_EQ(errno, EINVAL);
	check_device(_metadata, &self->lo, SIZE, OLD);
}

/* tmpfs does direct I/O, has no block device, and tells no alignment. */
TEST_F(config, no_statx_dioalign)
{
	struct loop_args args = {
		.mode = O_RDWR,
		.flags = LO_FLAGS_DIRECT_IO,
	};
	struct loop_info64 info;

	args.file = make_file(BASE "/image", SIZE);
	ASSERT_GE(args.file, 0);
	ASSERT_EQ(loop_attach(&self->lo, &args), 0);
	close(args.file);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	EXPECT_TRUE(info.lo_flags & LO_FLAGS_DIRECT_IO);
	EXPECT_EQ(loop_attr(&self->lo, "queue/dma_alignment"), SECTOR - 1);
	EXPECT_EQ(loop_attr(&self->lo, "queue/logical_block_size"), SECTOR);
	write_device(_metadata, &self->lo, SIZE, NEW);
	check_device(_metadata, &self->lo, SIZE, NEW);
}

/* Memory is aligned for direct I/O while the device does it. */
TEST_F(config, dma_alignment)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=512,dio_mem_align=1024"),
		  0);
	ASSERT_EQ(attach_opened(self, O_RDWR), 0);
	EXPECT_EQ(loop_attr(&self->lo, "queue/dma_alignment"), SECTOR - 1);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_DIRECT_IO, 1), 0);
	EXPECT_EQ(loop_attr(&self->lo, "queue/dma_alignment"), 1023);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_DIRECT_IO, 0), 0);
	EXPECT_EQ(loop_attr(&self->lo, "queue/dma_alignment"), SECTOR - 1);
	check_device(_metadata, &self->lo, SIZE, OLD);
}

/* The smallest block that direct I/O can transfer, if the device does it. */
TEST_F(config, default_block_size)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=4096"), 0);
	ASSERT_EQ(attach_opened(self, O_RDWR), 0);
	EXPECT_EQ(loop_attr(&self->lo, "queue/logical_block_size"), SECTOR);
	ASSERT_EQ(loop_detach(&self->lo), 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_DIRECT_IO,
	}), 0);
	EXPECT_EQ(loop_attr(&self->lo, "queue/logical_block_size"), 4096);
}

/*
 * Memory for the file is allocated without I/O while it is bound, and no longer.
 */
TEST_F(config, gfp_mask)
{
	const long page = sysconf(_SC_PAGESIZE);
	struct loop_args args = { .block_size = 3 };
	int fd = make_file(FAULTFS "/empty", 8 * page);

	ASSERT_GE(fd, 0);
	close(self->file);
	self->file = fd;
	ASSERT_EQ(pwrite(fd, "x", 1, 0), 1);
	EXPECT_EQ(faultfs_calls(FAULTFS, "noio"), 0);
	EXPECT_EQ(config_attach(self, args), -EINVAL);
	ASSERT_EQ(pwrite(fd, "x", 1, page), 1);
	EXPECT_EQ(faultfs_calls(FAULTFS, "noio"), 0);
	args.block_size = 0;
	ASSERT_EQ(config_attach(self, args), 0);
	ASSERT_EQ(pwrite(fd, "x", 1, 2 * page), 1);
	EXPECT_EQ(faultfs_calls(FAULTFS, "noio"), 1);
	ASSERT_EQ(loop_detach(&self->lo), 0);
	ASSERT_EQ(pwrite(fd, "x", 1, 3 * page), 1);
	EXPECT_EQ(faultfs_calls(FAULTFS, "noio"), 1);
}

/* It has no size, and that is not an error. */
TEST_F(config, empty_file)
{
	struct loop_info64 info;
	struct stat st;
	int other = make_file(FAULTFS "/other", 0);

	ASSERT_GE(other, 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_READ_ONLY,
	}), 0);
	ASSERT_EQ(ftruncate(self->file, 0), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);
	EXPECT_EQ(device_size(self->lo.fd), 0);

	ASSERT_EQ(loop_detach(&self->lo), 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_READ_ONLY,
	}), 0);
	EXPECT_EQ(device_size(self->lo.fd), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, other), 0);
	ASSERT_EQ(fstat(other, &st), 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	EXPECT_EQ(info.lo_inode, st.st_ino);
	info.lo_offset = SECTOR;
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_SET_STATUS64, &info), 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	EXPECT_EQ(info.lo_offset, SECTOR);
	EXPECT_EQ(device_size(self->lo.fd), 0);
	close(other);
}

TEST_F(config, change_fd_of_another_size)
{
	int other = make_file(FAULTFS "/other", SIZE - SECTOR);

	ASSERT_GE(other, 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_READ_ONLY,
	}), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, other), -1);
	EXPECT_EQ(errno, EINVAL);
	check_device(_metadata, &self->lo, SIZE, OLD);
	close(other);
}

TEST_F(config, set_capacity)
{
	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	ASSERT_EQ(ftruncate(self->file, 2 * SIZE), 0);
	ASSERT_EQ(device_size(self->lo.fd), (long long)SIZE);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);
	ASSERT_EQ(device_size(self->lo.fd), 2 * (long long)SIZE);
	write_device(_metadata, &self->lo, 2 * SIZE, NEW);
	check_device(_metadata, &self->lo, 2 * SIZE, NEW);
	/* what is not a whole sector doesn't count */
	ASSERT_EQ(ftruncate(self->file, SIZE / 2 + 100), 0);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);
	ASSERT_EQ(device_size(self->lo.fd), (long long)SIZE / 2);
	check_device(_metadata, &self->lo, SIZE / 2, NEW);
}

/*
 * A file whose direct I/O needs another alignment of memory: what is aligned as
 * the device asks for has to work.
 */
TEST_F(config, change_fd_alignment)
{
	const char *dir = BASE "/faultfs4k";
	char *buf = alloc_pages(KIB(8));
	struct loop_info64 info;
	struct statx stx;
	int fd, device;

	ASSERT_NE(buf, NULL);
	close(self->file);
	ASSERT_EQ(remount_faultfs(FAULTFS, "dio_align=512"), 0);
	self->file = open(IMAGE, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
	ASSERT_EQ(mount_faultfs(_metadata, dir, "io=iter,dio_align=4096"), 0);
	fd = make_image(_metadata, BASE "/faultfs4k/image", SIZE, NEW,
			O_RDONLY | O_DIRECT);

	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_READ_ONLY | LO_FLAGS_DIRECT_IO,
			.block_size = 4096,
	}), 0);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	ASSERT_TRUE(info.lo_flags & LO_FLAGS_DIRECT_IO);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, fd), 0);
	close(fd);
	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	ASSERT_TRUE(info.lo_flags & LO_FLAGS_DIRECT_IO);

	device = open(self->lo.dev, O_RDONLY | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(device, 0);
	ASSERT_EQ(statx(device, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx), 0);
	ASSERT_TRUE(stx.stx_mask & STATX_DIOALIGN);
	EXPECT_EQ(pread(device, buf + stx.stx_dio_mem_align % KIB(4), KIB(4),
			KIB(4)), (ssize_t)KIB(4))
		TH_LOG("memory alignment %u", stx.stx_dio_mem_align);
	close(device);
	check_device(_metadata, &self->lo, SIZE, NEW);

	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(umount_soon(dir), 0);
	free(buf);
}

TEST_F(config, no_read_method)
{
	close(self->file);
	ASSERT_EQ(remount_faultfs(FAULTFS, "io=noread"), 0);
	self->file = open(IMAGE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){}), -EINVAL);
}

static void check_read_only(struct __test_metadata *_metadata,
			    FIXTURE_DATA(config) * self)
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

TEST_F(config, no_write_method)
{
	close(self->file);
	ASSERT_EQ(remount_faultfs(FAULTFS, "io=none"), 0);
	self->file = open(IMAGE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	check_read_only(_metadata, self);
}

TEST_F(config, read_only_mount)
{
	close(self->file);
	ASSERT_EQ(mkdir(BASE "/ro", 0755), 0);
	ASSERT_EQ(mount(FAULTFS, BASE "/ro", NULL, MS_BIND, NULL), 0);
	ASSERT_EQ(mount(NULL, BASE "/ro", NULL,
			MS_REMOUNT | MS_BIND | MS_RDONLY, NULL), 0);
	ASSERT_EQ(open(BASE "/ro/" IMAGE_NAME, O_RDWR | O_CLOEXEC), -1);
	ASSERT_EQ(errno, EROFS);
	self->file = open(BASE "/ro/" IMAGE_NAME, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
	ASSERT_EQ(config_attach(self, (struct loop_args){}), 0);
	check_read_only(_metadata, self);
	ASSERT_EQ(loop_detach(&self->lo), 0);
	close(self->file);
	self->file = -1;
	ASSERT_EQ(umount_soon(BASE "/ro"), 0);
}

/*
 * A store to memory that was mapped before the device was bound: only the
 * driver is left to refuse it.
 */
TEST_F(config, read_only_mapped)
{
	struct loop_args args = {
		.file = self->file,
		.flags = LO_FLAGS_READ_ONLY,
	};
	struct loop lo;
	char *memory;

	ASSERT_EQ(loop_add(&lo, O_RDWR), 0);
	memory = mmap(NULL, KIB(64), PROT_READ | PROT_WRITE, MAP_SHARED, lo.fd,
		      0);
	ASSERT_NE(memory, MAP_FAILED);
	ASSERT_EQ(loop_configure(lo.fd, &args), 0);
	memset(memory, 'x', KIB(64));
	EXPECT_EQ(msync(memory, KIB(64), MS_SYNC), -1);
	EXPECT_EQ(errno, EIO);
	check_device(_metadata, &lo, SIZE, OLD);
	ASSERT_EQ(munmap(memory, KIB(64)), 0);
	EXPECT_EQ(loop_remove(&lo), 0);
}

/* Neither a device itself, nor what is on it, nor one that is not bound. */
TEST_F(config, recursion)
{
	struct loop_args args = { .flags = LO_FLAGS_READ_ONLY };
	struct loop upper, fresh;

	ASSERT_EQ(loop_add(&fresh, O_RDWR), 0);
	args.file = fresh.fd;
	EXPECT_EQ(loop_configure(fresh.fd, &args), -EBADF);
	EXPECT_EQ(loop_attach(&upper, &args), -EINVAL);
	EXPECT_EQ(loop_remove(&fresh), 0);

	ASSERT_EQ(config_attach(self, args), 0);
	args.file = self->lo.fd;
	ASSERT_EQ(loop_attach(&upper, &args), 0);
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, upper.fd), -1);
	EXPECT_EQ(errno, EBADF);
	check_device(_metadata, &upper, SIZE, OLD);
	EXPECT_EQ(loop_detach(&upper), 0);
}

/* A partition, which has another major number, is on the device, too. */
TEST_F(config, own_partition)
{
	struct blkpg_partition part = { .length = SIZE, .pno = 1 };
	struct blkpg_ioctl_arg arg = {
		.op = BLKPG_ADD_PARTITION,
		.datalen = sizeof(part),
		.data = &part,
	};
	char path[64];
	int fd;

	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_READ_ONLY,
	}), 0);
	ASSERT_EQ(ioctl(self->lo.fd, BLKPG, &arg), 0);
	snprintf(path, sizeof(path), "%sp1", self->lo.dev);
	ASSERT_TRUE(wait_for((fd = open(path, O_RDONLY | O_CLOEXEC)) >= 0,
			     SOON));
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, fd), -1);
	EXPECT_EQ(errno, EBADF);
	/* or else nothing could be read, and the device never be cleared */
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, self->file), 0);
	close(fd);
	check_device(_metadata, &self->lo, SIZE, OLD);
}

static void *read_backing_file(void *arg)
{
	const struct loop *lo = arg;
	char path[64], name[256];

	snprintf(path, sizeof(path), "/sys/block/loop%d/loop/backing_file",
		 lo->nr);
	/* The attribute is empty or gone once the device is detached. */
	while (!read_text(path, name, sizeof(name)) && *name)
		if (strcmp(name, IMAGE) && strcmp(name, FAULTFS "/other"))
			return strdup(name);
	return NULL;
}

/* Reads of the attribute hold no reference to the file. */
TEST_F_TIMEOUT(config, change_fd_backing_file, 60)
{
	int fd;
	pthread_t reader;
	void *other;

	fd = make_image(_metadata, FAULTFS "/other", SIZE, OLD, O_RDONLY);
	close(fd);
	ASSERT_EQ(config_attach(self, (struct loop_args){
			.flags = LO_FLAGS_READ_ONLY,
	}), 0);
	ASSERT_EQ(pthread_create(&reader, NULL, read_backing_file, &self->lo),
		  0);
	for (int i = 0; i < 100; i++) {
		/* opened for this, so that the device has the last reference */
		fd = open(i % 2 ? IMAGE : FAULTFS "/other",
			  O_RDONLY | O_CLOEXEC);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(ioctl(self->lo.fd, LOOP_CHANGE_FD, fd), 0);
		close(fd);
	}
	ASSERT_EQ(loop_detach(&self->lo), 0);
	ASSERT_EQ(pthread_join(reader, &other), 0);
	EXPECT_EQ(other, NULL)
		TH_LOG("%s", (char *)other);
}

TEST_HARNESS_MAIN
