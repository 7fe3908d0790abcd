// SPDX-License-Identifier: GPL-2.0
/*
 * Writes to compressed files of the ntfs driver.
 *
 * A compressed file is made of compression blocks of 16 clusters. Every write
 * goes block by block through ntfs_compress_write(): take the folios of the
 * block, copy from the user's buffer, compress, allocate clusters, write. What
 * write() returned must be what the file holds, in the page cache and on disk,
 * wherever the block is and whatever happens to the buffer in between.
 *
 * Everything is on a tmpfs in a mount namespace of the test's own: an NTFS
 * image made by mkntfs, behind a loop device that clears itself. A test that is
 * killed leaves nothing behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>
#include <linux/aio_abi.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/userfaultfd.h>

#include "../../kselftest_harness.h"

#define BASE		"/tmp"		/* a tmpfs of our own is mounted on it */
#define FAULTFS		BASE "/faultfs"
#define IMAGE		FAULTFS "/image"	/* on a tmpfs, or on faultfs */
#define MNT		BASE "/mnt"
#define LOG		BASE "/log"
#define IMAGE_SIZE	(16 << 20)

#define KIB(n)		((off_t)(n) << 10)
#define MIB(n)		((off_t)(n) << 20)
#define GIB(n)		((off_t)(n) << 30)

/* FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_COMPRESSED */
#define ATTR_COMPRESSED	0x820U

/* What freed memory is filled with, and no test writes to a file. */
#define POISON		0xa5
/* What is in the clusters that no file has had. */
#define STALE		0xaa

struct volume {
	int loop;		/* keeps the device bound while not mounted */
	char dev[32];
	size_t block;		/* bytes in a compression block */
	size_t page;
};

/* Run a command with its output in LOG; its exit status, 127 if not found. */
static int run(const char *command)
{
	char line[256];
	int status;

	snprintf(line, sizeof(line),
		 "PATH=/usr/sbin:/usr/bin:/sbin:/bin; %s > %s 2>&1", command,
		 LOG);
	status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void print_log(void)
{
	char line[256];
	FILE *f;

	f = fopen(LOG, "r");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		ksft_print_msg("%s", line);
	fclose(f);
}

/* Bind a free loop device to IMAGE; others may be doing the same. */
static int loop_bind(struct volume *vol)
{
	struct loop_config config = {
		.block_size = 512,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR,
	};
	int ctl, image, n, tries, fd = -1;

	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		return -1;
	image = open(IMAGE, O_RDWR | O_CLOEXEC);
	config.fd = image;
	for (tries = 0; image >= 0 && fd < 0 && tries < 20; tries++) {
		n = ioctl(ctl, LOOP_CTL_GET_FREE);
		if (n < 0)
			break;
		snprintf(vol->dev, sizeof(vol->dev), "/dev/loop%d", n);
		fd = open(vol->dev, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			break;
		if (ioctl(fd, LOOP_CONFIGURE, &config)) {
			close(fd);
			fd = -1;
			if (errno != EBUSY)
				break;
		}
	}
	if (image >= 0)
		close(image);
	close(ctl);
	return fd;
}

/* A file of IMAGE_SIZE bytes, none of which is zero. */
static int make_image(void)
{
	size_t len = MIB(1);
	unsigned char *buf = malloc(len);
	off_t pos = 0;
	int fd;

	fd = open(IMAGE, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (!buf || fd < 0)
		return -1;
	memset(buf, STALE, len);
	while (pos < IMAGE_SIZE && pwrite(fd, buf, len, pos) == len)
		pos += len;
	free(buf);
	return close(fd) || pos < IMAGE_SIZE ? -1 : 0;
}

/*
 * A fresh volume, mounted on MNT. Whatever was done is gone with the process.
 * With @faultfs, the image is on a filesystem that fails on request.
 */
static void __volume_setup(struct __test_metadata *_metadata,
			   struct volume *vol, unsigned int cluster,
			   bool faultfs)
{
	char mkntfs[64];
	int ret;

	vol->loop = -1;
	vol->block = 16 * cluster;
	vol->page = sysconf(_SC_PAGESIZE);

	if (geteuid())
		SKIP(return, "needs root");
	if (access("/dev/loop-control", R_OK | W_OK))
		SKIP(return, "needs /dev/loop-control");

	ASSERT_EQ(unshare(CLONE_NEWNS), 0);
	ASSERT_EQ(mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	ASSERT_EQ(mount("tmpfs", BASE, "tmpfs", 0, NULL), 0);
	ASSERT_EQ(mkdir(MNT, 0700), 0);
	ASSERT_EQ(mkdir(FAULTFS, 0700), 0);
	if (faultfs && mount("none", FAULTFS, "faultfs", 0, NULL)) {
		ASSERT_EQ(errno, ENODEV);
		SKIP(return, "needs CONFIG_TEST_FAULTFS");
	}
	ASSERT_EQ(make_image(), 0);

	snprintf(mkntfs, sizeof(mkntfs), "mkntfs -q -f -F -s 512 -c %u %s",
		 cluster, IMAGE);
	ret = run(mkntfs);
	if (ret == 127)
		SKIP(return, "needs mkntfs");
	if (ret)
		print_log();
	ASSERT_EQ(ret, 0);

	vol->loop = loop_bind(vol);
	ASSERT_GE(vol->loop, 0)
		TH_LOG("no loop device: %s", strerror(errno));
	ret = mount(vol->dev, MNT, "ntfs", 0, NULL);
	if (ret && errno == ENODEV)
		SKIP(return, "needs CONFIG_NTFS_FS");
	ASSERT_EQ(ret, 0)
		TH_LOG("mount: %s", strerror(errno));
}

static void volume_setup(struct __test_metadata *_metadata, struct volume *vol,
			 unsigned int cluster)
{
	__volume_setup(_metadata, vol, cluster, false);
}

static void volume_remount(struct __test_metadata *_metadata,
			   struct volume *vol)
{
	ASSERT_EQ(umount(MNT), 0)
		TH_LOG("umount: %s", strerror(errno));
	/* our open file would keep the page cache of the device */
	ASSERT_EQ(ioctl(vol->loop, BLKFLSBUF), 0);
	ASSERT_EQ(mount(vol->dev, MNT, "ntfs", 0, NULL), 0)
		TH_LOG("mount: %s", strerror(errno));
}

static void set_faults(struct __test_metadata *_metadata, const char *options)
{
	ASSERT_EQ(mount("none", FAULTFS, "faultfs", MS_REMOUNT, options), 0);
}

/*
 * Unmount and let ntfs-3g look at the volume. ntfsresize walks all runlists and
 * compares them with the cluster bitmap, so it sees lost and shared clusters.
 */
static void volume_check(struct __test_metadata *_metadata, struct volume *vol)
{
	static const char * const checks[] = {
		"ntfsfix -n " IMAGE,
		"ntfsresize -i " IMAGE,
	};
	unsigned int i;
	int ret;

	ASSERT_EQ(umount(MNT), 0);
	ASSERT_EQ(fsync(vol->loop), 0);
	for (i = 0; i < 2; i++) {
		ret = run(checks[i]);
		if (!ret || ret == 127)
			continue;
		print_log();
		EXPECT_EQ(ret, 0)
			TH_LOG("%s", checks[i]);
	}
}

static void volume_teardown(struct volume *vol)
{
	umount2(MNT, MNT_DETACH);
	if (vol->loop >= 0)
		close(vol->loop);
	umount2(FAULTFS, MNT_DETACH);
	umount2(BASE, MNT_DETACH);
}

static int open_compressed(const char *path)
{
	uint32_t attr = ATTR_COMPRESSED;
	struct stat st;
	int fd;

	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	if (!fstat(fd, &st) && !st.st_size &&
	    fsetxattr(fd, "system.ntfs_attrib", &attr, sizeof(attr), 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Data that says where it belongs and compresses well. Never zero or POISON. */
static void fill(unsigned char *buf, size_t len, off_t pos, unsigned char tag)
{
	size_t i;

	for (i = 0; i < len; i++, pos++)
		buf[i] = tag + ((pos >> 9) + (pos >> 30)) % 8;
}

/* Data that does not compress. Never POISON. */
static void fill_random(unsigned char *buf, size_t len, unsigned int *seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		buf[i] = (rand_r(seed) >> 7) % POISON;
}

/* The file has to hold @want at @pos. The first difference is reported. */
static void expect_data(struct __test_metadata *_metadata, int fd,
			const unsigned char *want, size_t len, off_t pos,
			const char *when)
{
	unsigned char *got;
	size_t i, bad = 0, poison = 0, first = 0;

	got = malloc(len);
	ASSERT_NE(got, NULL);
	ASSERT_EQ(pread(fd, got, len, pos), len)
		TH_LOG("%s: read at 0x%llx", when, (long long)pos);
	for (i = 0; i < len; i++) {
		if (got[i] == want[i])
			continue;
		if (!bad++)
			first = i;
		poison += got[i] == POISON;
	}
	EXPECT_EQ(bad, 0)
		TH_LOG("%s: %zu of %zu bytes wrong, at 0x%llx 0x%02x, not 0x%02x",
		       when, bad, len, (long long)pos + first, got[first],
		       want[first]);
	EXPECT_EQ(poison, 0)
		TH_LOG("%s: %zu bytes of somebody's freed memory", when, poison);
	free(got);
}

static void expect_size(struct __test_metadata *_metadata, int fd, off_t size,
			const char *when)
{
	struct stat st;

	ASSERT_EQ(fstat(fd, &st), 0);
	EXPECT_EQ(st.st_size, size)
		TH_LOG("%s", when);
}

/*
 * The same from the page cache, from disk, and from a new mount, which has to
 * find the size, too.
 */
static int expect_data_everywhere(struct __test_metadata *_metadata,
				  struct volume *vol, int fd,
				  const unsigned char *want, size_t len,
				  off_t pos)
{
	struct stat st;

	expect_data(_metadata, fd, want, len, pos, "warm");
	ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	expect_data(_metadata, fd, want, len, pos, "cold");
	ASSERT_EQ(fstat(fd, &st), 0);
	ASSERT_EQ(close(fd), 0);
	volume_remount(_metadata, vol);
	fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	expect_size(_metadata, fd, st.st_size, "size after remount");
	expect_data(_metadata, fd, want, len, pos, "after remount");
	return fd;
}

/*
 * What happens to the user's buffer, and how much is written: three blocks
 * hold old data, and the write goes to the second and third.
 */
FIXTURE(buffer) {
	struct volume vol;
	int fd;
	int memfd;
	size_t len;		/* of the buffer: two blocks */
	unsigned char *user;	/* the buffer: unreadable past the end of memfd */
	unsigned char *want;	/* what the file has to hold: three blocks */
};

FIXTURE_VARIANT(buffer) {
	unsigned int cluster;
};

FIXTURE_VARIANT_ADD(buffer, cluster_1024) { .cluster = 1024 };
FIXTURE_VARIANT_ADD(buffer, cluster_4096) { .cluster = 4096 };

FIXTURE_SETUP(buffer)
{
	size_t block = 16 * variant->cluster;

	volume_setup(_metadata, &self->vol, variant->cluster);
	if (_metadata->exit_code)
		return;
	if (block < 3 * self->vol.page)
		SKIP(return, "needs three pages in a compression block");

	self->len = 2 * block;
	self->want = malloc(3 * block);
	ASSERT_NE(self->want, NULL);
	self->memfd = memfd_create("buffer", MFD_CLOEXEC);
	ASSERT_GE(self->memfd, 0);
	ASSERT_EQ(ftruncate(self->memfd, self->len), 0);
	self->user = mmap(NULL, self->len, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->memfd, 0);
	ASSERT_NE(self->user, MAP_FAILED);
	fill(self->user, self->len, block, 'a');

	self->fd = open_compressed(MNT "/file");
	ASSERT_GE(self->fd, 0)
		TH_LOG("compressed file: %s", strerror(errno));
}

FIXTURE_TEARDOWN(buffer)
{
	volume_teardown(&self->vol);
}

/* Leave a recognisable pattern in the memory that is handed out next. */
static void poison_free_memory(void)
{
	size_t len = MIB(32);
	void *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		return;
	memset(p, POISON, len);
	munmap(p, len);
}

/* Three blocks of old data on disk, none of them in the page cache. */
static void write_old_data(struct __test_metadata *_metadata,
			   FIXTURE_DATA(buffer) * self)
{
	size_t len = 3 * self->vol.block;

	fill(self->want, len, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want, len, 0), len);
	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	poison_free_memory();
}

/* @n bytes of the buffer have been written behind the first block. */
static void expect_written(struct __test_metadata *_metadata,
			   FIXTURE_DATA(buffer) * self, size_t n)
{
	fill(self->want + self->vol.block, n, self->vol.block, 'a');
	expect_size(_metadata, self->fd, 3 * self->vol.block, "size");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, 3 * self->vol.block, 0);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(buffer, unreadable_from_second_block_on)
{
	write_old_data(_metadata, self);
	ASSERT_EQ(ftruncate(self->memfd, self->vol.block), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, self->vol.block),
		  self->vol.block);
	expect_written(_metadata, self, self->vol.block);
}

TEST_F(buffer, unreadable_last_page_of_block)
{
	size_t n = self->vol.block - self->vol.page;

	write_old_data(_metadata, self);
	ASSERT_EQ(ftruncate(self->memfd, n), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->vol.block,
			 self->vol.block), n);
	expect_written(_metadata, self, n);
}

TEST_F(buffer, unreadable_from_the_start)
{
	write_old_data(_metadata, self);
	ASSERT_EQ(ftruncate(self->memfd, 0), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, self->vol.block), -1);
	EXPECT_EQ(errno, EFAULT);
	expect_written(_metadata, self, 0);
}

/*
 * A thread that does something to a page of the buffer at the worst moment:
 * when write() has already faulted it in and is about to fault in the last one.
 * That one is registered with userfaultfd, so write() waits for us there.
 */
struct saboteur {
	int uffd;
	pthread_t thread;
	void *last;		/* page the write faults on */
	void *data;		/* what is in it */
	size_t page;
	void *victim;		/* page to take away during the write */
	bool unmap;		/* or only until the next access */
	int error;
};

static void *sabotage(void *arg)
{
	struct saboteur *s = arg;
	struct pollfd pfd = { .fd = s->uffd, .events = POLLIN };
	struct uffd_msg msg;
	struct uffdio_copy copy = {
		.dst = (unsigned long)s->last,
		.src = (unsigned long)s->data,
		.len = s->page,
	};

	if (poll(&pfd, 1, 10000) != 1 ||
	    read(s->uffd, &msg, sizeof(msg)) != sizeof(msg) ||
	    msg.event != UFFD_EVENT_PAGEFAULT) {
		s->error = ETIMEDOUT;
		return NULL;
	}
	if (s->unmap ? munmap(s->victim, s->page) :
		       madvise(s->victim, s->page, MADV_DONTNEED))
		s->error = errno;
	if (ioctl(s->uffd, UFFDIO_COPY, &copy) && !s->error)
		s->error = errno;
	return NULL;
}

/* Returns a userfaultfd that reports an access to the page, which is missing. */
static int watch_page(struct __test_metadata *_metadata, void *addr,
		      size_t page)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { .start = (unsigned long)addr, .len = page },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int uffd;

	if (access("/proc/sys/vm/unprivileged_userfaultfd", F_OK))
		SKIP(exit(KSFT_SKIP), "needs CONFIG_USERFAULTFD");
	uffd = syscall(__NR_userfaultfd, O_CLOEXEC);
	ASSERT_GE(uffd, 0);
	ASSERT_EQ(ioctl(uffd, UFFDIO_API, &api), 0);
	ASSERT_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	return uffd;
}

/* Write two blocks while page @victim of the first is taken away. */
static ssize_t write_with_sabotage(struct __test_metadata *_metadata,
				   FIXTURE_DATA(buffer) * self,
				   unsigned int victim, bool unmap, off_t pos)
{
	struct volume *vol = &self->vol;
	struct saboteur s = {
		.page = vol->page,
		.last = self->user + vol->block - vol->page,
		.victim = self->user + victim * vol->page,
		.unmap = unmap,
	};
	ssize_t n;

	s.data = malloc(vol->page);
	ASSERT_NE(s.data, NULL);
	memcpy(s.data, s.last, vol->page);
	ASSERT_EQ(mmap(s.last, vol->page, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), s.last);
	s.uffd = watch_page(_metadata, s.last, vol->page);
	ASSERT_EQ(pthread_create(&s.thread, NULL, sabotage, &s), 0);

	n = pwrite(self->fd, self->user, self->len, pos);
	if (n < 0)
		n = -errno;

	ASSERT_EQ(pthread_join(s.thread, NULL), 0);
	ASSERT_EQ(s.error, 0)
		TH_LOG("the buffer was not taken away: %s", strerror(s.error));
	close(s.uffd);
	free(s.data);
	return n;
}

TEST_F(buffer, second_page_unmapped_before_the_copy)
{
	write_old_data(_metadata, self);
	EXPECT_EQ(write_with_sabotage(_metadata, self, 1, true,
				      self->vol.block), self->vol.page);
	expect_written(_metadata, self, self->vol.page);
}

TEST_F(buffer, first_page_unmapped_before_the_copy)
{
	write_old_data(_metadata, self);
	EXPECT_EQ(write_with_sabotage(_metadata, self, 0, true,
				      self->vol.block), -EFAULT);
	expect_written(_metadata, self, 0);
}

/* As if reclaim had taken the page: the data is still there for the asking. */
TEST_F(buffer, second_page_reclaimed_before_the_copy)
{
	write_old_data(_metadata, self);
	EXPECT_EQ(write_with_sabotage(_metadata, self, 1, false,
				      self->vol.block), self->len);
	expect_written(_metadata, self, self->len);
}

TEST_F(buffer, first_page_reclaimed_before_the_copy)
{
	write_old_data(_metadata, self);
	EXPECT_EQ(write_with_sabotage(_metadata, self, 0, false,
				      self->vol.block), self->len);
	expect_written(_metadata, self, self->len);
}

/* The same where the file had no data: nobody else's may appear. */
TEST_F(buffer, page_unmapped_before_the_copy_into_a_hole)
{
	size_t block = self->vol.block;

	memset(self->want, 0, 3 * block);
	self->want[3 * block - 1] = 'x';
	ASSERT_EQ(pwrite(self->fd, "x", 1, 3 * block - 1), 1);
	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	poison_free_memory();
	EXPECT_EQ(write_with_sabotage(_metadata, self, 1, true, block),
		  self->vol.page);
	expect_written(_metadata, self, self->vol.page);
}

/* ... and where the file ended. */
TEST_F(buffer, page_unmapped_before_the_copy_past_end_of_file)
{
	size_t block = self->vol.block, size = block + self->vol.page;

	fill(self->want, size, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want, block, 0), block);
	poison_free_memory();
	EXPECT_EQ(write_with_sabotage(_metadata, self, 1, true, block),
		  self->vol.page);
	fill(self->want + block, self->vol.page, block, 'a');
	expect_size(_metadata, self->fd, size, "size");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, size, 0);
	expect_size(_metadata, self->fd, size, "size after remount");
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* Without userfaultfd: another thread that is sometimes lucky. */
struct racer {
	pthread_t thread;
	void *page;
	size_t size;
	int memfd;
	off_t offset;
	bool stop;
};

static void *race(void *arg)
{
	struct racer *r = arg;

	while (!__atomic_load_n(&r->stop, __ATOMIC_RELAXED)) {
		if (mmap(r->page, r->size, PROT_READ, MAP_SHARED | MAP_FIXED,
			 r->memfd, r->offset) != r->page)
			break;
		usleep(50);
		/* not munmap(): the address would be free for others */
		if (mmap(r->page, r->size, PROT_READ, MAP_SHARED | MAP_FIXED,
			 r->memfd, MIB(1)) != r->page)
			break;
		usleep(50);
	}
	return NULL;
}

#define RACE_ROUNDS	50

TEST_F(buffer, unmapped_and_mapped_by_another_thread)
{
	struct volume *vol = &self->vol;
	size_t block = vol->block;
	struct racer r = {
		.page = self->user + block - vol->page,
		.size = vol->page,
		.memfd = self->memfd,
		.offset = block - vol->page,
	};
	unsigned int i, cut = 0;
	ssize_t n;

	ASSERT_EQ(pthread_create(&r.thread, NULL, race, &r), 0);
	for (i = 0; i < RACE_ROUNDS && !_metadata->exit_code; i++) {
		fill(self->want, 3 * block, 0, 'A');
		ASSERT_EQ(pwrite(self->fd, self->want, 3 * block, 0),
			  3 * block);
		posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
		n = pwrite(self->fd, self->user, block, block);
		if (n < 0) {
			ASSERT_EQ(errno, EFAULT);
			n = 0;
		}
		cut += n < block;
		fill(self->want + block, n, block, 'a');
		expect_data(_metadata, self->fd, self->want, 3 * block, 0,
			    "warm");
		posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
		expect_data(_metadata, self->fd, self->want, 3 * block, 0,
			    "cold");
	}
	__atomic_store_n(&r.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(pthread_join(r.thread, NULL), 0);
	TH_LOG("%u of %u writes were cut short", cut, i);
	close(self->fd);
	volume_check(_metadata, vol);
}

/* A write that fails leaves the size alone, and the next one gets it right. */
TEST_F(buffer, failed_write_past_end_of_file_keeps_the_size)
{
	size_t block = self->vol.block;

	fill(self->want, 3 * block, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want, block, 0), block);
	ASSERT_EQ(ftruncate(self->memfd, 0), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, block), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, 9 * block), -1);
	EXPECT_EQ(errno, EFAULT);
	expect_size(_metadata, self->fd, block, "after the failed write");
	ASSERT_EQ(close(self->fd), 0);
	volume_remount(_metadata, &self->vol);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	expect_size(_metadata, self->fd, block, "after remount");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, block, 0);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(buffer, write_after_failed_write_past_end_of_file)
{
	size_t block = self->vol.block;

	fill(self->want, 3 * block, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want, block, 0), block);
	ASSERT_EQ(ftruncate(self->memfd, 0), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, block), -1);
	ASSERT_EQ(pwrite(self->fd, self->want + block, 2 * block, block),
		  2 * block);
	expect_size(_metadata, self->fd, 3 * block, "size");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, 3 * block, 0);
	expect_size(_metadata, self->fd, 3 * block, "size after remount");
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(buffer, failed_first_write_keeps_the_file_empty)
{
	ASSERT_EQ(ftruncate(self->memfd, 0), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	expect_size(_metadata, self->fd, 0, "after the failed write");
	ASSERT_EQ(close(self->fd), 0);
	volume_remount(_metadata, &self->vol);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	expect_size(_metadata, self->fd, 0, "after remount");
	fill(self->want, 3 * self->vol.block, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want, 3 * self->vol.block, 0),
		  3 * self->vol.block);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, 3 * self->vol.block, 0);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(buffer, short_write_past_end_of_file_sets_the_size)
{
	size_t block = self->vol.block;

	fill(self->want, block, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want, block, 0), block);
	ASSERT_EQ(ftruncate(self->memfd, block), 0);
	EXPECT_EQ(pwrite(self->fd, self->user, self->len, block), block);
	fill(self->want + block, block, block, 'a');
	expect_size(_metadata, self->fd, 2 * block, "size");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, 2 * block, 0);
	expect_size(_metadata, self->fd, 2 * block, "size after remount");
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/*
 * KiB in slab caches, without what can be reclaimed, what is free in a slab, and
 * what KASAN keeps of them although it has been freed.
 */
static long long slab_kib(void)
{
	long long kib = -1;
	char line[128];
	FILE *f;

	run("{ echo 3 >/proc/sys/vm/drop_caches; }");
	run("for f in /sys/kernel/slab/*/shrink; do echo 1 >$f; done");
	f = fopen("/proc/meminfo", "re");
	while (f && kib < 0 && fgets(line, sizeof(line), f))
		sscanf(line, "SUnreclaim: %lld kB", &kib);
	if (kib < 0)
		ksft_exit_fail_perror("/proc/meminfo: SUnreclaim");
	fclose(f);
	return kib;
}

/* What RCU has not freed yet is not leaked: give it time. */
static long long slab_left(long long used, unsigned int limit)
{
	long long left = 0;
	int i;

	for (i = 0; i < 100; i++) {
		left = slab_kib() - used;
		if (left < limit)
			break;
		usleep(100000);
	}
	return left;
}

static unsigned int leak_rounds(void)
{
	const char *env = getenv("NTFS_TEST_ROUNDS");

	return env ? atoi(env) : 0;
}

/* A volume that is full, or full of small holes. */
FIXTURE(space) {
	struct volume vol;
	int fd;
};

FIXTURE_VARIANT(space) {
	unsigned int cluster;
};

FIXTURE_VARIANT_ADD(space, cluster_2048) { .cluster = 2048 };
FIXTURE_VARIANT_ADD(space, cluster_4096) { .cluster = 4096 };

FIXTURE_SETUP(space)
{
	volume_setup(_metadata, &self->vol, variant->cluster);
	if (_metadata->exit_code)
		return;
	self->fd = open_compressed(MNT "/file");
	ASSERT_GE(self->fd, 0)
		TH_LOG("compressed file: %s", strerror(errno));
}

FIXTURE_TEARDOWN(space)
{
	volume_teardown(&self->vol);
}

/* Blocks go to clusters that held other data, which may still be cached. */
TEST_F_TIMEOUT(space, reads_back_what_reused_clusters_hold, 120)
{
	size_t block = self->vol.block;
	unsigned int i, rounds = 2 * IMAGE_SIZE / block, seed = 1;
	unsigned char *data;

	data = malloc(block);
	ASSERT_NE(data, NULL);
	for (i = 0; i < rounds && !_metadata->exit_code; i++) {
		fill_random(data, block, &seed);
		ASSERT_EQ(pwrite(self->fd, data, block, 0), block);
		ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED),
			  0);
		expect_data(_metadata, self->fd, data, block, 0, "cold");
	}
	if (_metadata->exit_code)
		TH_LOG("in round %u", i);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F_TIMEOUT(space, returns_what_fitted_on_the_volume, 120)
{
	unsigned int i, seed = 1, rounds = leak_rounds() / 2;
	long long used = 0;
	unsigned char *data;
	struct stat st;
	ssize_t n;
	int other;

	data = malloc(IMAGE_SIZE);
	ASSERT_NE(data, NULL);
	fill_random(data, IMAGE_SIZE, &seed);
	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	ASSERT_EQ(write(other, data, IMAGE_SIZE / 2), IMAGE_SIZE / 2);
	ASSERT_EQ(fsync(other), 0);
	ASSERT_EQ(close(other), 0);
	n = pwrite(self->fd, data, IMAGE_SIZE, 0);
	EXPECT_GT(n, 0)
		TH_LOG("write: %s", strerror(errno));
	EXPECT_LT(n, IMAGE_SIZE);
	if (n < 0)
		n = 0;
	ASSERT_EQ(fstat(self->fd, &st), 0);
	EXPECT_EQ(st.st_size, n);
	for (i = 0; i <= 2 * rounds && !_metadata->exit_code; i++) {
		if (i == rounds + 1)
			used = slab_kib();
		EXPECT_EQ(pwrite(self->fd, data, self->vol.block, st.st_size),
			  -1);
		EXPECT_EQ(errno, ENOSPC);
	}
	if (rounds)
		EXPECT_LT(slab_left(used, rounds / 16), rounds / 16)
			TH_LOG("KiB in %u rounds", rounds);
	EXPECT_EQ(pwrite(self->fd, data, IMAGE_SIZE, st.st_size), -1);
	EXPECT_EQ(errno, ENOSPC);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  data, n, 0);
	expect_size(_metadata, self->fd, n, "size after remount");
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* Write @path until the volume is full; how much. */
static off_t fill_volume(struct __test_metadata *_metadata, int fd)
{
	size_t len = KIB(64);
	unsigned char *data;
	off_t size = 0;
	ssize_t n;

	data = malloc(len);
	ASSERT_NE(data, NULL);
	while (len >= 512) {
		fill(data, len, size, 'A');
		n = pwrite(fd, data, len, size);
		if (n > 0) {
			size += n;
			continue;
		}
		ASSERT_EQ(errno, ENOSPC);
		len /= 2;
	}
	free(data);
	ASSERT_EQ(fsync(fd), 0);
	return size;
}

/* A file that has the whole volume, but for single clusters, and its data */
struct solid {
	int fd;
	off_t size;
	unsigned char *want;
};

static void leave_single_clusters(struct __test_metadata *_metadata,
				  struct solid *solid, size_t cluster)
{
	unsigned int i, holes = 60;
	off_t pos;

	solid->fd = open(MNT "/solid", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(solid->fd, 0);
	solid->size = fill_volume(_metadata, solid->fd);
	ASSERT_GT(solid->size, 4 * holes * cluster);
	solid->want = malloc(solid->size);
	ASSERT_NE(solid->want, NULL);
	fill(solid->want, solid->size, 0, 'A');
	for (i = 0; i < holes; i++) {
		pos = solid->size / holes * i;
		pos -= pos % cluster;
		ASSERT_EQ(fallocate(solid->fd, FALLOC_FL_PUNCH_HOLE |
				    FALLOC_FL_KEEP_SIZE, pos, cluster), 0)
			TH_LOG("punch hole: %s", strerror(errno));
		memset(solid->want + pos, 0, cluster);
	}
	ASSERT_EQ(fsync(solid->fd), 0);
}

/*
 * A block has to go to clusters that are not neighbours, and the ones between
 * belong to another file.
 */
TEST_F(space, uses_only_the_clusters_that_are_free)
{
	size_t block = self->vol.block;
	unsigned int seed = 1;
	struct solid solid;
	unsigned char *data;

	data = malloc(block);
	ASSERT_NE(data, NULL);
	fill_random(data, block, &seed);
	leave_single_clusters(_metadata, &solid, variant->cluster);

	EXPECT_EQ(pwrite(self->fd, data, block, 0), block)
		TH_LOG("write: %s", strerror(errno));
	ASSERT_EQ(posix_fadvise(solid.fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	expect_data(_metadata, solid.fd, solid.want, solid.size, 0,
		    "the other file, cold");
	ASSERT_EQ(close(solid.fd), 0);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  data, block, 0);
	solid.fd = open(MNT "/solid", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(solid.fd, 0);
	expect_data(_metadata, solid.fd, solid.want, solid.size, 0,
		    "the other file, after remount");
	close(solid.fd);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/*
 * Anything in any order against a model in memory, in windows around the
 * places where an offset gets one bit longer. NTFS_TEST_SEED repeats a run.
 */
#define WINDOW		((size_t)256 << 10)
#define NR_WINDOWS	3
#define RANDOM_OPS	150

FIXTURE(random_run) {
	struct volume vol;
	int fd;
	unsigned int seed;
	off_t size;
	unsigned char *model[NR_WINDOWS];
};

FIXTURE_VARIANT(random_run) {
	unsigned int cluster;
	int windows;		/* small blocks far out take minutes */
};

FIXTURE_VARIANT_ADD(random_run, cluster_512) { 512, 1 };
FIXTURE_VARIANT_ADD(random_run, cluster_1024) { 1024, 1 };
FIXTURE_VARIANT_ADD(random_run, cluster_2048) { 2048, 1 };
FIXTURE_VARIANT_ADD(random_run, cluster_4096) { 4096, 1 };
FIXTURE_VARIANT_ADD(random_run, cluster_4096_far) { 4096, NR_WINDOWS };

static const off_t window_pos[NR_WINDOWS] = {
	0, GIB(2) - WINDOW / 2, GIB(4) - WINDOW / 2,
};

FIXTURE_SETUP(random_run)
{
	const char *seed = getenv("NTFS_TEST_SEED");
	int i;

	volume_setup(_metadata, &self->vol, variant->cluster);
	if (_metadata->exit_code)
		return;
	self->seed = seed ? strtoul(seed, NULL, 0) : 20050202;
	TH_LOG("NTFS_TEST_SEED=%u", self->seed);
	for (i = 0; i < NR_WINDOWS; i++) {
		self->model[i] = calloc(1, WINDOW);
		ASSERT_NE(self->model[i], NULL);
	}
	self->fd = open_compressed(MNT "/file");
	ASSERT_GE(self->fd, 0)
		TH_LOG("compressed file: %s", strerror(errno));
}

FIXTURE_TEARDOWN(random_run)
{
	volume_teardown(&self->vol);
}

static void random_range(FIXTURE_DATA(random_run) * self, size_t *off,
			 size_t *len)
{
	size_t max = 2 * self->vol.block + self->vol.block / 2;

	*off = rand_r(&self->seed) % WINDOW;
	*len = 1 + rand_r(&self->seed) % max;
	if (rand_r(&self->seed) % 4 == 0) {
		*off -= *off % self->vol.block;
		*len += self->vol.block - 1;
		*len -= *len % self->vol.block;
	}
	if (*len > WINDOW - *off)
		*len = WINDOW - *off;
}

static void random_write(struct __test_metadata *_metadata,
			 FIXTURE_DATA(random_run) * self, int w)
{
	size_t off, len, part;
	unsigned char *p;
	off_t pos;

	random_range(self, &off, &len);
	p = self->model[w] + off;
	pos = window_pos[w] + off;
	switch (rand_r(&self->seed) % 4) {
	case 0:
		memset(p, 0, len);
		break;
	case 1:
		fill_random(p, len, &self->seed);
		break;
	default:
		fill(p, len, pos, 'A' + rand_r(&self->seed) % 32);
	}
	/* In one piece, or one after the other. */
	part = rand_r(&self->seed) % 3 ? len : 1 + len / 5;
	while (len) {
		if (part > len)
			part = len;
		ASSERT_EQ(pwrite(self->fd, p, part, pos), part)
			TH_LOG("write of %zu at 0x%llx: %s", part,
			       (long long)pos, strerror(errno));
		p += part;
		pos += part;
		len -= part;
	}
	if (pos > self->size)
		self->size = pos;
}

static void compare(struct __test_metadata *_metadata,
		    FIXTURE_DATA(random_run) * self, int w, size_t off,
		    size_t len, const char *when)
{
	off_t pos = window_pos[w] + off;

	if (pos >= self->size)
		return;
	if (len > self->size - pos)
		len = self->size - pos;
	expect_data(_metadata, self->fd, self->model[w] + off, len, pos, when);
}

static void remount_and_compare(struct __test_metadata *_metadata,
				FIXTURE_DATA(random_run) * self)
{
	int i;

	ASSERT_EQ(close(self->fd), 0);
	volume_remount(_metadata, &self->vol);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	expect_size(_metadata, self->fd, self->size, "size after remount");
	for (i = 0; i < NR_WINDOWS; i++)
		compare(_metadata, self, i, 0, WINDOW, "after remount");
}

TEST_F_TIMEOUT(random_run, matches_a_model_in_memory, 60)
{
	size_t off, len;
	int i, w;

	for (i = 0; i < RANDOM_OPS && !_metadata->exit_code; i++) {
		w = rand_r(&self->seed) % variant->windows;
		switch (rand_r(&self->seed) % 16) {
		default:
			random_write(_metadata, self, w);
			break;
		case 8 ... 12:
			random_range(self, &off, &len);
			compare(_metadata, self, w, off, len, "read");
			break;
		case 13 ... 14:
			posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
			break;
		case 15:
			remount_and_compare(_metadata, self);
			break;
		}
	}
	if (_metadata->exit_code)
		TH_LOG("after %d operations", i);
	remount_and_compare(_metadata, self);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/*
 * Where in the file: every case at several places. The last one is the worst:
 * a kernel that gets it wrong has a BUG when the file is evicted.
 */
FIXTURE(place) {
	struct volume vol;
	int fd;
	unsigned char *buf;
	size_t len;		/* four blocks, the second pair begins at .pos */
	off_t start;
};

FIXTURE_VARIANT(place) {
	unsigned int cluster;
	off_t pos;
};

FIXTURE_VARIANT_ADD(place, cluster_512_below_2g) { 512, MIB(1) };
FIXTURE_VARIANT_ADD(place, cluster_1024_below_2g) { 1024, MIB(1) };
FIXTURE_VARIANT_ADD(place, cluster_2048_below_2g) { 2048, MIB(1) };
FIXTURE_VARIANT_ADD(place, cluster_4096_below_2g) { 4096, MIB(1) };
FIXTURE_VARIANT_ADD(place, cluster_4096_across_2g) { 4096, GIB(2) };
FIXTURE_VARIANT_ADD(place, cluster_4096_at_3g) { 4096, GIB(3) };
FIXTURE_VARIANT_ADD(place, cluster_4096_across_4g) { 4096, GIB(4) };

FIXTURE_SETUP(place)
{
	volume_setup(_metadata, &self->vol, variant->cluster);
	if (_metadata->exit_code)
		return;
	self->len = 4 * self->vol.block;
	self->start = variant->pos - 2 * self->vol.block;
	self->buf = malloc(self->len);
	ASSERT_NE(self->buf, NULL);
	self->fd = open_compressed(MNT "/file");
	ASSERT_GE(self->fd, 0)
		TH_LOG("compressed file: %s", strerror(errno));
	fill(self->buf, self->len, self->start, 'A');
	ASSERT_EQ(pwrite(self->fd, self->buf, self->len, self->start),
		  self->len);
}

FIXTURE_TEARDOWN(place)
{
	volume_teardown(&self->vol);
}

TEST_F(place, whole_blocks)
{
	expect_size(_metadata, self->fd, self->start + self->len, "size");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->len, self->start);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(place, whole_blocks_that_do_not_compress)
{
	unsigned int seed = 1;

	fill_random(self->buf, self->len, &seed);
	ASSERT_EQ(pwrite(self->fd, self->buf, self->len, self->start),
		  self->len);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->len, self->start);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(place, whole_blocks_over_cached_ones)
{
	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	expect_data(_metadata, self->fd, self->buf, self->len, self->start,
		    "old data");
	fill(self->buf, self->len, self->start, 'a');
	ASSERT_EQ(pwrite(self->fd, self->buf, self->len, self->start),
		  self->len);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->len, self->start);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* A few bytes in each block, the rest of which has to be read first. */
static void write_parts(struct __test_metadata *_metadata,
			FIXTURE_DATA(place) * self)
{
	size_t off, len = 1000;

	for (off = 700; off < self->len; off += self->vol.block) {
		fill(self->buf + off, len, self->start + off, 'a');
		ASSERT_EQ(pwrite(self->fd, self->buf + off, len,
				 self->start + off), len)
			TH_LOG("write at 0x%llx: %s",
			       (long long)self->start + off, strerror(errno));
	}
}

TEST_F(place, parts_of_cached_blocks)
{
	write_parts(_metadata, self);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->len, self->start);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(place, parts_of_blocks_on_disk)
{
	ASSERT_EQ(close(self->fd), 0);
	volume_remount(_metadata, &self->vol);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	write_parts(_metadata, self);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->len, self->start);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

TEST_F(place, one_write_over_parts_of_all_blocks)
{
	size_t off = self->vol.block / 2 + 1;
	size_t len = self->len - self->vol.block;

	posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
	fill(self->buf + off, len, self->start + off, 'a');
	ASSERT_EQ(pwrite(self->fd, self->buf + off, len, self->start + off),
		  len)
		TH_LOG("write: %s", strerror(errno));
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->len, self->start);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* Offsets that differ by a multiple of 4 GiB are not the same page. */
TEST_F(place, does_not_show_up_at_offset_modulo_4g)
{
	off_t low = (variant->pos + self->vol.block) % GIB(4);
	off_t high = low + GIB(4);
	unsigned char *old;

	old = malloc(self->vol.block);
	ASSERT_NE(old, NULL);
	fill(old, self->vol.block, low, 'a');
	ASSERT_EQ(pwrite(self->fd, old, self->vol.block, low), self->vol.block);
	fill(self->buf, self->vol.block, high, 'M');
	ASSERT_EQ(pwrite(self->fd, self->buf, self->vol.block, high),
		  self->vol.block);
	expect_data(_metadata, self->fd, old, self->vol.block, low,
		    "low offset, warm");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->buf, self->vol.block, high);
	expect_data(_metadata, self->fd, old, self->vol.block, low,
		    "low offset, after remount");
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

static int write_string(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int err = 0;

	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		err = -errno;
	if (fd >= 0)
		close(fd);
	return err;
}

/* Settings of the kernel that a test has changed, and what they were before. */
static struct {
	const char *path;
	char value[16];
} settings[16];

/* Write @value to @path, until restore_settings(). */
static int change_setting(const char *path, const char *value)
{
	unsigned int i = 0;
	ssize_t n;
	int fd;

	while (settings[i].path && strcmp(settings[i].path, path))
		i++;
	if (!settings[i].path) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		n = read(fd, settings[i].value, sizeof(settings[i].value) - 1);
		close(fd);
		if (n <= 0)
			return -EIO;
		settings[i].path = path;
	}
	return write_string(path, value);
}

static void restore_settings(void)
{
	unsigned int i = 0;

	while (settings[i].path)
		i++;
	while (i--)
		write_string(settings[i].path, settings[i].value);
}

#define FAILSLAB	"/sys/kernel/debug/failslab/"
#define FAIL_PAGE	"/sys/kernel/debug/fail_page_alloc/"

/* What fails can be allocations of slab, and if possible those of pages. */
static int prepare_faults(void)
{
	if (access(FAILSLAB, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	change_setting(FAIL_PAGE "min-order", "0");
	change_setting(FAIL_PAGE "verbose", "0");
	/* or each failure counts it down */
	change_setting(FAIL_PAGE "times", "-1");
	return change_setting(FAILSLAB "verbose", "0") ?:
	       change_setting(FAILSLAB "times", "-1");
}

/* Allocations of this thread can fail; a file to say which, or -1. */
static int open_fail_nth(void)
{
	if (prepare_faults() || change_setting(FAILSLAB "ignore-gfp-wait", "N"))
		return -1;
	change_setting(FAIL_PAGE "ignore-gfp-wait", "N");
	return open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
}

/* Or all that cannot wait for memory. */
static int fail_what_cannot_wait(void)
{
	static const char * const these[][2] = {
		{ FAILSLAB "task-filter", "Y" },
		{ FAILSLAB "probability", "100" },
		{ FAIL_PAGE "task-filter", "Y" },
		{ FAIL_PAGE "probability", "100" },
		{ "/proc/thread-self/make-it-fail", "1" },
	};
	int err = prepare_faults();
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(these) && !err; i++)
		err = change_setting(these[i][0], these[i][1]);
	return err;
}

/* The next allocation but @nth - 1 is to fail. */
static void fail_allocation(int fd, unsigned int nth)
{
	char value[16];
	int n = snprintf(value, sizeof(value), "%u", nth);

	if (pwrite(fd, value, n, 0) != n)
		ksft_exit_fail_perror("fail-nth");
}

/* No more; has it failed? */
static bool has_failed(int fd)
{
	char left[16] = "";
	int err = errno;

	if (pread(fd, left, sizeof(left) - 1, 0) <= 0 ||
	    pwrite(fd, "0", 1, 0) != 1)
		ksft_exit_fail_perror("fail-nth");
	errno = err;
	return !atoi(left);
}

/* A new file in place of @old, which is closed. */
static int new_file(struct __test_metadata *_metadata, int old, int flags)
{
	int fd;

	ASSERT_EQ(close(old), 0);
	ASSERT_EQ(unlink(MNT "/file"), 0);
	fd = open(MNT "/file", O_CREAT | O_RDWR | O_CLOEXEC | flags, 0600);
	ASSERT_GE(fd, 0);
	return fd;
}

/* One file of four blocks. */
FIXTURE(file) {
	struct volume vol;
	int fd;
	unsigned char *data;
	size_t len;
};

FIXTURE_VARIANT(file) {
	unsigned int cluster;
};

FIXTURE_VARIANT_ADD(file, cluster_512) { .cluster = 512 };
FIXTURE_VARIANT_ADD(file, cluster_4096) { .cluster = 4096 };

FIXTURE_SETUP(file)
{
	volume_setup(_metadata, &self->vol, variant->cluster);
	if (_metadata->exit_code)
		return;
	/* neither a multiple of a page nor of a cluster */
	self->len = 4 * self->vol.block - 123;
	self->data = malloc(4 * self->vol.block);
	ASSERT_NE(self->data, NULL);
	fill(self->data, 4 * self->vol.block, 0, 'A');
	self->fd = open_compressed(MNT "/file");
	ASSERT_GE(self->fd, 0)
		TH_LOG("compressed file: %s", strerror(errno));
}

FIXTURE_TEARDOWN(file)
{
	restore_settings();
	volume_teardown(&self->vol);
}

/* The clusters that a block saves are no holes of the file: cp skips holes. */
TEST_F(file, data_is_not_reported_as_a_hole)
{
	struct fiemap fiemap = { .fm_length = ~0ULL };
	int block = 0;
	off_t pos;

	ASSERT_EQ(pwrite(self->fd, self->data, self->len, 0), self->len);
	ASSERT_EQ(fsync(self->fd), 0);
	for (pos = 0; pos < self->len; pos += 512) {
		ASSERT_EQ(lseek(self->fd, pos, SEEK_DATA), pos);
		ASSERT_EQ(lseek(self->fd, pos, SEEK_HOLE), self->len);
	}
	EXPECT_EQ(lseek(self->fd, self->len, SEEK_DATA), -1);
	EXPECT_EQ(errno, ENXIO);
	EXPECT_EQ(ioctl(self->fd, FS_IOC_FIEMAP, &fiemap), -1);
	EXPECT_EQ(errno, EOPNOTSUPP);
	EXPECT_EQ(ioctl(self->fd, FIBMAP, &block), 0);
	EXPECT_EQ(block, 0);
}

/* Reads and writes of a block free what they have allocated. */
TEST_F_TIMEOUT(file, no_memory_is_left, 300)
{
	unsigned int i, rounds = leak_rounds();
	size_t block = self->vol.block;
	long long used = 0;
	unsigned char byte;

	if (!rounds)
		SKIP(return,
		     "set NTFS_TEST_ROUNDS=6000 on an idle machine to look for leaks");
	ASSERT_EQ(pwrite(self->fd, self->data, self->len, 0), self->len);
	for (i = 0; i < 2 * rounds; i++) {
		if (i == rounds)
			used = slab_kib();
		fill(self->data + block + i % 100, 10, i, 'a');
		ASSERT_EQ(pwrite(self->fd, self->data + block + i % 100, 10,
				 block + i % 100), 10);
		ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED),
			  0);
		ASSERT_EQ(pread(self->fd, &byte, 1, 2 * block), 1);
	}
	EXPECT_LT(slab_left(used, rounds / 16), rounds / 16)
		TH_LOG("KiB in %u rounds", rounds);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd,
				     self->data, self->len, 0));
	volume_check(_metadata, &self->vol);
}

/* A block of which the page cache has all pages but one, each in turn. */
TEST_F(file, writes_part_of_a_partly_cached_block)
{
	size_t page = self->vol.page, block = self->vol.block;
	size_t i, pages = block / page;
	off_t pos;

	if (pages < 2)
		SKIP(return, "needs two pages in a compression block");
	ASSERT_EQ(pwrite(self->fd, self->data, self->len, 0), self->len);
	for (i = 0; i < pages; i++) {
		ASSERT_EQ(fsync(self->fd), 0);
		expect_data(_metadata, self->fd, self->data, self->len, 0,
			    "warm");
		ASSERT_EQ(posix_fadvise(self->fd, block + i * page, page,
					POSIX_FADV_DONTNEED), 0);
		poison_free_memory();
		pos = block + (i + 1) % pages * page + 100;
		fill(self->data + pos, 1000, pos, 'a' + i % 16);
		ASSERT_EQ(pwrite(self->fd, self->data + pos, 1000, pos), 1000);
	}
	close(expect_data_everywhere(_metadata, &self->vol, self->fd,
				     self->data, self->len, 0));
	volume_check(_metadata, &self->vol);
}

/* A block may move when it is written: swap space may not. */
TEST_F(file, swapfile_is_refused)
{
	size_t page = self->vol.page, len = 16 * page;
	unsigned char *data = malloc(len);
	uint32_t *info = (uint32_t *)(data + 1024);
	unsigned int seed = 1;
	int ret, err;

	if (access("/proc/swaps", F_OK))
		SKIP(return, "needs CONFIG_SWAP");
	ASSERT_NE(data, NULL);
	fill_random(data, len, &seed);
	memset(data, 0, page);
	info[0] = 1;			/* version */
	info[1] = len / page - 1;	/* last page */
	memcpy(data + page - 10, "SWAPSPACE2", 10);
	ASSERT_EQ(pwrite(self->fd, data, len, 0), len);
	ASSERT_EQ(fsync(self->fd), 0);
	ret = swapon(MNT "/file", 0);
	err = ret ? errno : 0;
	if (!ret)
		ASSERT_EQ(swapoff(MNT "/file"), 0);
	EXPECT_EQ(err, EOPNOTSUPP);
}

/* The data of another file has a place, even if it is not written yet. */
TEST_F(file, leaves_reserved_clusters_to_other_files)
{
	size_t len = IMAGE_SIZE / 4;
	unsigned char *want, *data;
	unsigned int seed = 1;
	int other;

	want = malloc(len);
	data = malloc(IMAGE_SIZE);
	ASSERT_NE(want, NULL);
	ASSERT_NE(data, NULL);
	fill_random(want, len, &seed);
	fill_random(data, IMAGE_SIZE, &seed);
	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	ASSERT_EQ(pwrite(other, want, len, 0), len);
	EXPECT_LT(pwrite(self->fd, data, IMAGE_SIZE, 0), IMAGE_SIZE);
	EXPECT_EQ(fsync(other), 0)
		TH_LOG("fsync: %s", strerror(errno));
	ASSERT_EQ(close(other), 0);
	ASSERT_EQ(close(self->fd), 0);
	volume_remount(_metadata, &self->vol);
	other = open(MNT "/other", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(other, 0);
	expect_size(_metadata, other, len, "the other file");
	expect_data(_metadata, other, want, len, 0, "the other file");
	close(other);
	volume_check(_metadata, &self->vol);
}

/* Pages of the device that have ordinary data next to a compressed block. */
TEST_F(file, beside_an_ordinary_file)
{
	size_t cluster = variant->cluster, len = 16 * self->vol.page;
	unsigned char *want = malloc(len);
	unsigned int i;
	int other;

	ASSERT_NE(want, NULL);
	fill(want, len, 0, 'a');
	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	for (i = 0; i < len / cluster; i++) {
		ASSERT_EQ(pwrite(other, want + i * cluster, cluster,
				 i * cluster), cluster);
		ASSERT_EQ(fsync(other), 0);
		ASSERT_EQ(pwrite(self->fd, self->data, self->len, 0),
			  self->len);
		posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
		expect_data(_metadata, self->fd, self->data, self->len, 0,
			    "cold");
	}
	posix_fadvise(other, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, other, want, len, 0, "the other file, cold");
	ASSERT_EQ(close(other), 0);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->data, self->len, 0);
	other = open(MNT "/other", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(other, 0);
	expect_data(_metadata, other, want, len, 0,
		    "the other file, after remount");
	close(other);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* The log of mkntfs: the longest range of bytes that are all 0xff. */
static unsigned char *find_log(unsigned char *image, size_t *len)
{
	unsigned char *p = image, *end = image + IMAGE_SIZE, *start, *log = p;

	for (*len = 0; p < end; p++) {
		for (start = p; p < end && *p == 0xff; p++)
			;
		if (p - start > *len) {
			*len = p - start;
			log = start;
		}
	}
	return log;
}

/*
 * The log was written by chkdsk, and is of no use any more.  Mounting the volume
 * empties it, and changes nothing else.
 */
TEST_F(file, log_is_emptied)
{
	/* a restart page: pages of 4096 bytes, and version 1.1 */
	static const unsigned char restart_page[0x50] = {
		'C', 'H', 'K', 'D', [0x11] = 0x10, [0x15] = 0x10, [0x18] = 0x20,
		[0x1a] = 1, [0x1c] = 1,
		/* the restart area: no clients, and a log of 2 MiB */
		[0x2a] = 0xff, 0xff, 0xff, 0xff, [0x30] = 67 - 22,
		[0x34] = 0x30, [0x36] = 0x30, [0x3a] = 0x20,
	};
	unsigned char *image, *before = malloc(IMAGE_SIZE), *log, page[512];
	size_t len;
	int fd, i;

	ASSERT_NE(before, NULL);
	ASSERT_EQ(close(self->fd), 0);
	ASSERT_EQ(umount(MNT), 0);
	fd = open(IMAGE, O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	image = mmap(NULL, IMAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		     0);
	ASSERT_NE(image, MAP_FAILED);
	/* The second time, nothing is left in the cache of the device. */
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(ioctl(self->vol.loop, BLKFLSBUF), 0);
		memcpy(before, image, IMAGE_SIZE);
		log = find_log(image, &len);
		ASSERT_EQ(len, MIB(2));
		memset(log, 0x55, len);
		memcpy(log, restart_page, sizeof(restart_page));
		ASSERT_EQ(pread(self->vol.loop, page, sizeof(page),
				log - image), sizeof(page));
		EXPECT_EQ(memcmp(page, log, sizeof(page)), 0);
		ASSERT_EQ(mount(self->vol.dev, MNT, "ntfs", 0, NULL), 0);
		ASSERT_EQ(umount(MNT), 0);
		ASSERT_EQ(fsync(self->vol.loop), 0);
		EXPECT_EQ(memcmp(image, before, IMAGE_SIZE), 0);
	}
	ASSERT_EQ(munmap(image, IMAGE_SIZE), 0);
	ASSERT_EQ(close(fd), 0);
	free(before);
}

static void mount_disable_sparse(struct __test_metadata *_metadata,
				 FIXTURE_DATA(file) * self)
{
	ASSERT_EQ(close(self->fd), 0);
	ASSERT_EQ(umount(MNT), 0);
	ASSERT_EQ(mount(self->vol.dev, MNT, "ntfs", 0, "disable_sparse"), 0);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
}

TEST_F(file, extends_by_holes_with_disable_sparse)
{
	mount_disable_sparse(_metadata, self);
	EXPECT_EQ(pwrite(self->fd, self->data, self->len, 0), self->len)
		TH_LOG("write: %s", strerror(errno));
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->data, self->len, 0);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* ... and an ordinary file by clusters, even if they are not neighbours. */
static void expect_extends_by_clusters(struct __test_metadata *_metadata,
				       FIXTURE_DATA(file) * self,
				       unsigned int clusters)
{
	size_t cluster = self->vol.block / 16, page = self->vol.page;
	size_t len = page + clusters * cluster;
	unsigned char *want = calloc(1, len);
	struct solid solid;
	struct stat st;
	int fd;

	ASSERT_NE(want, NULL);
	fill(want, page, 0, 'a');
	fd = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(pwrite(fd, want, page, 0), page);
	ASSERT_EQ(close(fd), 0);
	leave_single_clusters(_metadata, &solid, cluster);
	ASSERT_EQ(close(solid.fd), 0);
	mount_disable_sparse(_metadata, self);
	ASSERT_EQ(close(self->fd), 0);
	ASSERT_EQ(rename(MNT "/other", MNT "/file"), 0);
	fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	EXPECT_EQ(ftruncate(fd, len), 0)
		TH_LOG("ftruncate: %s", strerror(errno));
	ASSERT_EQ(fstat(fd, &st), 0);
	EXPECT_EQ(st.st_blocks, len / 512);
	expect_size(_metadata, fd, len, "size");
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, len, 0));
	volume_check(_metadata, &self->vol);
}

TEST_F(file, extends_by_clusters_with_disable_sparse)
{
	expect_extends_by_clusters(_metadata, self, 2);
}

TEST_F(file, extends_by_many_clusters_with_disable_sparse)
{
	expect_extends_by_clusters(_metadata, self, 40);
}

/* For a child: does a store to @p raise a signal? */
static int store_raises(char *p)
{
	int status;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid < 0)
		return -1;
	if (!pid) {
		__atomic_store_n(p, 'x', __ATOMIC_RELAXED);
		_exit(0);
	}
	if (waitpid(pid, &status, 0) != pid)
		return -1;
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

/* An empty file can be mapped, and compressed afterwards. */
TEST_F(file, refuses_stores_to_an_older_mapping)
{
	uint32_t attr = ATTR_COMPRESSED;
	char *p;

	self->fd = new_file(_metadata, self->fd, 0);
	p = mmap(NULL, self->vol.page, PROT_READ | PROT_WRITE, MAP_SHARED,
		 self->fd, 0);
	ASSERT_NE(p, MAP_FAILED);
	ASSERT_EQ(fsetxattr(self->fd, "system.ntfs_attrib", &attr,
			    sizeof(attr), 0), 0);
	ASSERT_EQ(pwrite(self->fd, self->data, self->len, 0), self->len);
	EXPECT_EQ(p[0], (char)self->data[0]);
	EXPECT_EQ(store_raises(p), SIGBUS);
	ASSERT_EQ(munmap(p, self->vol.page), 0);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->data, self->len, 0);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* An ordinary file, too, ends where a short write has ended. */
TEST_F(file, short_append_to_an_ordinary_file)
{
	size_t page = self->vol.page, size = 3 * page;
	unsigned char *p;
	int fd;

	fd = open(MNT "/other", O_CREAT | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(write(fd, self->data, size), size);
	p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(p, MAP_FAILED);
	memcpy(p, self->data + size, page);
	ASSERT_EQ(munmap(p + page, page), 0);
	EXPECT_EQ(write(fd, p, 2 * page), page);
	expect_size(_metadata, fd, size + page, "after the short write");
	/* nothing is special about one byte */
	p[page - 1] = self->data[size + page];
	EXPECT_EQ(write(fd, p + page - 1, page), 1);
	expect_size(_metadata, fd, size + page + 1, "after one byte");
	ASSERT_EQ(write(fd, self->data + size + page + 1, page - 1), page - 1);
	expect_size(_metadata, fd, size + 2 * page, "after the next one");
	expect_data(_metadata, fd, self->data, size + 2 * page, 0, "warm");
	ASSERT_EQ(fsync(fd), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, fd, self->data, size + 2 * page, 0, "cold");
	close(fd);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* A write of which nothing can be read leaves size and data as they were. */
TEST_F(file, failed_write_to_an_ordinary_file)
{
	size_t page = self->vol.page, len = 8 * page;
	unsigned char *want = calloc(1, len);
	void *unmapped;
	int fd;

	ASSERT_NE(want, NULL);
	unmapped = mmap(NULL, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			0);
	ASSERT_NE(unmapped, MAP_FAILED);
	fd = new_file(_metadata, self->fd, 0);
	EXPECT_EQ(pwrite(fd, unmapped, page, 0), -1);
	EXPECT_EQ(errno, EFAULT);
	expect_size(_metadata, fd, 0, "empty");
	fill(want, 3 * page, 0, 'a');
	ASSERT_EQ(pwrite(fd, want, 3 * page, 0), 3 * page);
	EXPECT_EQ(pwrite(fd, unmapped, page, 5 * page), -1);
	EXPECT_EQ(errno, EFAULT);
	expect_size(_metadata, fd, 3 * page, "past the end");
	ASSERT_EQ(ftruncate(fd, len), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, len, 0));
	volume_check(_metadata, &self->vol);
}

/* ... and what was preallocated behind it still reads as zeros. */
TEST_F(file, short_write_to_preallocated_space)
{
	size_t page = self->vol.page, size = 6 * page;
	unsigned char *p, *want = calloc(1, size);
	int fd;

	ASSERT_NE(want, NULL);
	fd = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(fallocate(fd, 0, 0, size), 0);
	p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(p, MAP_FAILED);
	fill(p, page, page, 'a');
	/* the write ends within a block, the rest of which it has read */
	memcpy(want + page + 300, p + 100, page - 100);
	ASSERT_EQ(munmap(p + page, page), 0);
	EXPECT_EQ(pwrite(fd, p + 100, 2 * page, page + 300), page - 100);
	expect_size(_metadata, fd, size, "after the short write");
	expect_data(_metadata, fd, want, size, 0, "warm");
	ASSERT_EQ(fsync(fd), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, fd, want, size, 0, "cold");
	close(fd);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* An ordinary file that fits into its MFT record */
#define RESIDENT	300

static int create_resident(struct __test_metadata *_metadata,
			   FIXTURE_DATA(file) * self, unsigned char **map)
{
	int fd;

	fd = new_file(_metadata, self->fd, 0);
	fill(self->data, RESIDENT, 0, 'a');
	ASSERT_EQ(pwrite(fd, self->data, RESIDENT, 0), RESIDENT);
	ASSERT_EQ(fsync(fd), 0);
	ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	*map = mmap(NULL, self->vol.page, PROT_READ | PROT_WRITE, MAP_SHARED,
		    fd, 0);
	ASSERT_NE(*map, MAP_FAILED);
	return fd;
}

/* The buffer gets read while the file is written. */
TEST_F(file, writes_a_resident_file_from_a_mapping_of_it)
{
	unsigned char *map;
	int fd, i, status = -1;
	pid_t pid;

	fd = create_resident(_metadata, self, &map);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(pwrite(fd, map, 100, 200) != 100);
	/* No signal ends it if it waits for itself. */
	for (i = 0; i < 1000 && waitpid(pid, &status, WNOHANG) != pid; i++)
		poll(NULL, 0, 10);
	ASSERT_EQ(status, 0);
	memcpy(self->data + 200, self->data, 100);
	ASSERT_EQ(munmap(map, self->vol.page), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, self->data,
				     RESIDENT, 0));
	volume_check(_metadata, &self->vol);
}

TEST_F(file, stores_to_a_mapping_of_a_resident_file)
{
	unsigned char *map;
	int fd;

	fd = create_resident(_metadata, self, &map);
	/* around what is written, there is what was in the record */
	poison_free_memory();
	fill(self->data + 200, 50, 200, 'q');
	ASSERT_EQ(pwrite(fd, self->data + 200, 50, 200), 50);
	expect_data(_metadata, fd, self->data, RESIDENT, 0, "written");
	fill(self->data, 100, 0, 'Q');
	memcpy(map, self->data, 100);
	ASSERT_EQ(msync(map, self->vol.page, MS_SYNC), 0);
	ASSERT_EQ(munmap(map, self->vol.page), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, self->data,
				     RESIDENT, 0));
	volume_check(_metadata, &self->vol);
}

/*
 * A file grows out of its MFT record again and again. Others read it, store to a
 * mapping of it and write that back: all that takes mrec_lock with the folio
 * locked.
 */
#define GROW_SECONDS	10

struct growing {
	int fd;
	int byte;		/* a file with the first byte */
	unsigned char *map;
	const unsigned char *data;
	size_t len;
	int done;
};

static void *read_growing(void *arg)
{
	struct growing *g = arg;
	unsigned char buf[RESIDENT];
	ssize_t n, i;

	while (!__atomic_load_n(&g->done, __ATOMIC_RELAXED)) {
		posix_fadvise(g->fd, 0, 0, POSIX_FADV_DONTNEED);
		n = pread(g->fd, buf, RESIDENT, 0);
		if (n < 0)
			_exit(2);
		/* extended, and not yet written */
		for (i = 0; i < n; i++)
			if (buf[i] && buf[i] != g->data[i])
				_exit(3);
	}
	return NULL;
}

static void *store_growing(void *arg)
{
	struct growing *g = arg;

	/* Not by this thread: while the file is empty, that raises SIGBUS. */
	while (!__atomic_load_n(&g->done, __ATOMIC_RELAXED)) {
		if (pread(g->byte, g->map, 1, 0) != 1 && errno != EFAULT)
			_exit(6);
		sync_file_range(g->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
	}
	return NULL;
}

static void grow_and_read(struct growing *g)
{
	time_t end = time(NULL) + GROW_SECONDS;
	pthread_t thread[3];
	int i;

	for (i = 0; i < 3; i++)
		if (pthread_create(&thread[i], NULL,
				   i ? store_growing : read_growing, g))
			_exit(4);
	while (time(NULL) < end)
		if (ftruncate(g->fd, 0) ||
		    pwrite(g->fd, g->data, RESIDENT, 0) != RESIDENT ||
		    usleep(100) ||
		    pwrite(g->fd, g->data + RESIDENT, g->len - RESIDENT,
			   RESIDENT) != g->len - RESIDENT)
			_exit(5);
	__atomic_store_n(&g->done, 1, __ATOMIC_RELAXED);
	for (i = 0; i < 3; i++)
		pthread_join(thread[i], NULL);
	_exit(0);
}

TEST_F_TIMEOUT(file, resident_file_grows_and_is_read, 120)
{
	struct growing g = {
		.data = self->data,
		.len = 2 * self->vol.page,
	};
	int i, status = -1;
	pid_t pid;

	g.fd = create_resident(_metadata, self, &g.map);
	fill(self->data, g.len, 0, 'a');
	g.byte = open(BASE "/byte", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(g.byte, 0);
	ASSERT_EQ(pwrite(g.byte, self->data, 1, 0), 1);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		grow_and_read(&g);
	/* No signal ends it if it hangs. */
	for (i = 0; i < 6000 && waitpid(pid, &status, WNOHANG) != pid; i++)
		poll(NULL, 0, 10);
	ASSERT_EQ(status, 0);
	ASSERT_EQ(munmap(g.map, self->vol.page), 0);
	ASSERT_EQ(close(g.byte), 0);
	close(expect_data_everywhere(_metadata, &self->vol, g.fd, self->data,
				     g.len, 0));
	volume_check(_metadata, &self->vol);
}

/* A store to a mapping that is not written back when the file grows. */
TEST_F(file, resident_file_grows_after_a_store)
{
	size_t len = 2 * self->vol.page;
	unsigned char *map;
	int fd;

	fd = create_resident(_metadata, self, &map);
	fill(self->data, len, 0, 'a');
	fill(self->data, 100, 0, 'Q');
	memcpy(map, self->data, 100);
	ASSERT_EQ(pwrite(fd, self->data + RESIDENT, len - RESIDENT, RESIDENT),
		  len - RESIDENT);
	ASSERT_EQ(munmap(map, self->vol.page), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, self->data,
				     len, 0));
	volume_check(_metadata, &self->vol);
}

enum grow { BY_FTRUNCATE, BY_FALLOCATE, BY_MREMAP };

/*
 * A file of a page has that page mapped.  File and mapping grow: old contents of
 * the disk are in the clusters between the data and what is stored.
 */
static void expect_grows_mapped(struct __test_metadata *_metadata,
				FIXTURE_DATA(file) * self, enum grow grow)
{
	size_t page = self->vol.page, len = 8 * page;
	unsigned char *map, *want = calloc(1, len);
	int fd;

	ASSERT_NE(want, NULL);
	fd = new_file(_metadata, self->fd, 0);
	fill(want, page, 0, 'a');
	ASSERT_EQ(pwrite(fd, want, page, 0), page);
	if (grow == BY_MREMAP)
		ASSERT_EQ(fallocate(fd, 0, 0, len), 0);
	map = mmap(NULL, grow == BY_MREMAP ? page : len,
		   PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	if (grow == BY_MREMAP)
		map = mremap(map, page, len, MREMAP_MAYMOVE);
	ASSERT_NE(map, MAP_FAILED);
	ASSERT_EQ(grow == BY_FALLOCATE ? fallocate(fd, 0, 0, len) :
					 ftruncate(fd, len), 0);
	fill(want + 5 * page, page, 0, 'Q');
	memcpy(map + 5 * page, want + 5 * page, page);
	ASSERT_EQ(msync(map, len, MS_SYNC), 0);
	ASSERT_EQ(madvise(map, len, MADV_DONTNEED), 0);
	ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	expect_data(_metadata, fd, want, len, 0, "mapped");
	ASSERT_EQ(munmap(map, len), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, len, 0));
	volume_check(_metadata, &self->vol);
}

TEST_F(file, mapped_file_is_extended)
{
	expect_grows_mapped(_metadata, self, BY_FTRUNCATE);
}

/* ftruncate() allocates clusters then. */
TEST_F(file, mapped_file_is_extended_with_disable_sparse)
{
	mount_disable_sparse(_metadata, self);
	expect_grows_mapped(_metadata, self, BY_FTRUNCATE);
}

TEST_F(file, mapped_file_is_preallocated)
{
	expect_grows_mapped(_metadata, self, BY_FALLOCATE);
}

/* mmap() has made the first page valid; mremap() tells the filesystem nothing. */
TEST_F(file, mapping_is_enlarged)
{
	expect_grows_mapped(_metadata, self, BY_MREMAP);
}

/*
 * A write to preallocated space, or to a hole, waits for its buffer.  In the
 * meantime, a mapping is read and stored to in front of the range of the write,
 * in it and past it.  Then the write fails or goes on.
 */
#define WRITE_PAGES	3

struct waiting_write {
	int fd;
	int uffd;
	size_t page;
	unsigned char *buf;	/* the first page is missing */
	ssize_t ret;
};

static void *write_and_wait(void *arg)
{
	struct waiting_write *w = arg;

	w->ret = pwrite(w->fd, w->buf, WRITE_PAGES * w->page,
			WRITE_PAGES * w->page);
	if (w->ret < 0)
		w->ret = -errno;
	return NULL;
}

/* @data fills the first page; NULL unmaps the page, and the write fails. */
static int end_waiting(struct waiting_write *w, const void *data)
{
	struct uffdio_range range = {
		.start = (unsigned long)w->buf,
		.len = w->page,
	};
	struct uffdio_copy copy = {
		.dst = (unsigned long)w->buf,
		.src = (unsigned long)data,
		.len = w->page,
	};

	if (data)
		return ioctl(w->uffd, UFFDIO_COPY, &copy);
	return munmap(w->buf, w->page) ?: ioctl(w->uffd, UFFDIO_WAKE, &range);
}

static void start_waiting(struct __test_metadata *_metadata,
			  struct waiting_write *w, pthread_t *thread)
{
	struct pollfd pfd = { .events = POLLIN };
	struct uffd_msg msg;

	w->buf = mmap(NULL, WRITE_PAGES * w->page, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(w->buf, MAP_FAILED);
	fill(w->buf + w->page, (WRITE_PAGES - 1) * w->page,
	     (WRITE_PAGES + 1) * w->page, 'a');
	w->uffd = watch_page(_metadata, w->buf, w->page);
	ASSERT_EQ(pthread_create(thread, NULL, write_and_wait, w), 0);
	pfd.fd = w->uffd;
	ASSERT_EQ(poll(&pfd, 1, 10000), 1);
	ASSERT_EQ(read(w->uffd, &msg, sizeof(msg)), sizeof(msg));
}

static void expect_stores_around_a_write(struct __test_metadata *_metadata,
					 FIXTURE_DATA(file) * self, int flags,
					 bool hole, bool fails)
{
	size_t page = self->vol.page, len = 9 * page, i, stale = 0;
	static const unsigned int stored[] = { 2, 4, 7 };
	unsigned char *map, *first, *want = calloc(1, len);
	struct waiting_write w = { .page = page };
	pthread_t thread;

	ASSERT_NE(want, NULL);
	first = malloc(page);
	ASSERT_NE(first, NULL);
	w.fd = new_file(_metadata, self->fd, 0);
	fill(want, page, 0, 'a');
	ASSERT_EQ(pwrite(w.fd, want, page, 0), page);
	if (hole) {
		fill(want + len - page, page, len - page, 'a');
		ASSERT_EQ(pwrite(w.fd, want + len - page, page, len - page),
			  page);
	} else {
		ASSERT_EQ(fallocate(w.fd, 0, 0, len), 0);
	}
	ASSERT_EQ(fsync(w.fd), 0);
	map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, w.fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	map = mremap(map, page, len, MREMAP_MAYMOVE);
	ASSERT_NE(map, MAP_FAILED);
	ASSERT_EQ(fcntl(w.fd, F_SETFL, flags), 0);
	start_waiting(_metadata, &w, &thread);

	for (i = page; i < len; i++)
		stale += map[i] == STALE;
	for (i = 0; i < ARRAY_SIZE(stored); i++) {
		/* Direct I/O to clusters may undo stores to its range. */
		if (hole && flags && stored[i] / WRITE_PAGES == 1)
			continue;
		fill(want + stored[i] * page, page, stored[i] * page, 'Q');
		memcpy(map + stored[i] * page, want + stored[i] * page, page);
	}
	if (!fails) {
		fill(first, page, WRITE_PAGES * page, 'a');
		fill(want + WRITE_PAGES * page, WRITE_PAGES * page,
		     WRITE_PAGES * page, 'a');
	}
	ASSERT_EQ(end_waiting(&w, fails ? NULL : first), 0);
	ASSERT_EQ(pthread_join(thread, NULL), 0);
	EXPECT_EQ(w.ret, fails ? -EFAULT : WRITE_PAGES * page);
	EXPECT_EQ(stale, 0)
		TH_LOG("%zu bytes of old disk contents", stale);
	close(w.uffd);
	ASSERT_EQ(fcntl(w.fd, F_SETFL, 0), 0);
	expect_size(_metadata, w.fd, len, "size");
	expect_data(_metadata, w.fd, want, len, 0, "mapped");
	ASSERT_EQ(msync(map, len, MS_SYNC), 0);
	ASSERT_EQ(munmap(map, len), 0);
	close(expect_data_everywhere(_metadata, &self->vol, w.fd, want, len,
				     0));
	volume_check(_metadata, &self->vol);
}

TEST_F(file, stores_around_a_write)
{
	expect_stores_around_a_write(_metadata, self, 0, false, false);
}

TEST_F(file, stores_around_a_write_that_fails)
{
	expect_stores_around_a_write(_metadata, self, 0, false, true);
}

TEST_F(file, stores_around_a_direct_write)
{
	expect_stores_around_a_write(_metadata, self, O_DIRECT, false, false);
}

TEST_F(file, stores_around_a_direct_write_that_fails)
{
	expect_stores_around_a_write(_metadata, self, O_DIRECT, false, true);
}

TEST_F(file, hole_around_a_write)
{
	expect_stores_around_a_write(_metadata, self, 0, true, false);
}

TEST_F(file, hole_around_a_write_that_fails)
{
	expect_stores_around_a_write(_metadata, self, 0, true, true);
}

TEST_F(file, hole_around_a_direct_write)
{
	expect_stores_around_a_write(_metadata, self, O_DIRECT, true, false);
}

TEST_F(file, hole_around_a_direct_write_that_fails)
{
	expect_stores_around_a_write(_metadata, self, O_DIRECT, true, true);
}

static long free_blocks(struct __test_metadata *_metadata)
{
	struct statvfs st;

	ASSERT_EQ(statvfs(MNT, &st), 0);
	return st.f_bfree;
}

/*
 * A hole gets clusters in another way than by write(2) and writeback.  What
 * another file has reserved stays reserved, and its data can be written when
 * the volume is full.
 */
enum hole { BY_PREALLOCATION, BY_STORE, BY_DIRECT_WRITE };

static void expect_keeps_reservations(struct __test_metadata *_metadata,
				      FIXTURE_DATA(file) * self, enum hole hole)
{
	size_t page = self->vol.page, reserved = 32 * page, len = 16 * page, i;
	size_t cluster = self->vol.block / 16, size = 0;
	unsigned char *want, *map;
	int fd, other, third;
	long before;
	void *buf;

	want = malloc(reserved);
	ASSERT_NE(want, NULL);
	fill(want, reserved, 0, 'a');
	ASSERT_EQ(posix_memalign(&buf, page, len), 0);
	fill(buf, len, 0, 'Q');
	fd = new_file(_metadata, self->fd, 0);
	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	third = open(MNT "/third", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(third, 0);
	/* holes between data, so that the files have no other reservations */
	ASSERT_EQ(pwrite(other, buf, page, 0), page);
	ASSERT_EQ(pwrite(other, buf, page, page + len), page);
	ASSERT_EQ(pwrite(third, buf, page, 0), page);
	ASSERT_EQ(pwrite(fd, want, page, 0), page);
	sync();

	before = free_blocks(_metadata);
	ASSERT_EQ(pwrite(fd, want, reserved, 0), reserved);
	EXPECT_EQ(before - free_blocks(_metadata), (reserved - page) / cluster);
	before = free_blocks(_metadata);
	switch (hole) {
	case BY_PREALLOCATION:
		ASSERT_EQ(fallocate(other, 0, page, len), 0);
		break;
	case BY_STORE:
		map = mmap(NULL, page + len, PROT_READ | PROT_WRITE, MAP_SHARED,
			   other, 0);
		ASSERT_NE(map, MAP_FAILED);
		for (i = page; i < page + len; i += page)
			map[i] = 'q';
		ASSERT_EQ(munmap(map, page + len), 0);
		break;
	case BY_DIRECT_WRITE:
		ASSERT_EQ(fcntl(other, F_SETFL, O_DIRECT), 0);
		ASSERT_EQ(pwrite(other, buf, len, page), len);
		break;
	}
	EXPECT_EQ(before - free_blocks(_metadata), len / cluster);
	while (pwrite(third, buf, page, size) == page)
		size += page;
	EXPECT_EQ(fsync(third), 0);
	EXPECT_EQ(fsync(fd), 0)
		TH_LOG("fsync: %s", strerror(errno));
	ASSERT_EQ(close(other), 0);
	ASSERT_EQ(close(third), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, reserved,
				     0));
}

TEST_F(file, preallocation_of_a_hole_keeps_reservations)
{
	expect_keeps_reservations(_metadata, self, BY_PREALLOCATION);
}

TEST_F(file, store_to_a_hole_keeps_reservations)
{
	expect_keeps_reservations(_metadata, self, BY_STORE);
}

TEST_F(file, direct_write_to_a_hole_keeps_reservations)
{
	expect_keeps_reservations(_metadata, self, BY_DIRECT_WRITE);
}

/* Clusters that are reserved for data are free when the data is truncated. */
TEST_F(file, truncation_releases_reservations)
{
	size_t page = self->vol.page, len = 64 * page;
	unsigned char *data = malloc(len);
	long before;
	int fd;

	ASSERT_NE(data, NULL);
	fill(data, len, 0, 'a');
	fd = new_file(_metadata, self->fd, 0);
	ASSERT_EQ(pwrite(fd, data, page, 0), page);
	sync();
	before = free_blocks(_metadata);
	ASSERT_EQ(pwrite(fd, data, len, 0), len);
	EXPECT_LT(free_blocks(_metadata), before);
	ASSERT_EQ(ftruncate(fd, page), 0);
	EXPECT_EQ(free_blocks(_metadata), before);
	close(expect_data_everywhere(_metadata, &self->vol, fd, data, page, 0));
	volume_check(_metadata, &self->vol);
}

/*
 * A file with a hole, to which a write copies a quarter of its buffer: the
 * remainder is not mapped.
 */
struct short_write {
	size_t part, at, len;
	unsigned char *want;
	int fd;
};

static void new_file_with_hole(struct __test_metadata *_metadata,
			       FIXTURE_DATA(file) * self, struct short_write *w)
{
	size_t page = self->vol.page, last = 159 * page;

	w->part = 16 * page;
	w->at = 32 * page;
	w->len = last + page;
	w->want = calloc(1, w->len + w->part);
	ASSERT_NE(w->want, NULL);
	w->fd = new_file(_metadata, self->fd, 0);
	fill(w->want, page, 0, 'a');
	ASSERT_EQ(pwrite(w->fd, w->want, page, 0), page);
	fill(w->want + last, page, last, 'a');
	ASSERT_EQ(pwrite(w->fd, w->want + last, page, last), page);
	sync();
}

static void write_part(struct __test_metadata *_metadata, struct short_write *w)
{
	off_t pos = w->at + 100;
	size_t len = 4 * w->part - 100;
	unsigned char *buf;

	buf = mmap(NULL, len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(buf, MAP_FAILED);
	fill(buf, w->part, pos, 'Q');
	ASSERT_EQ(munmap(buf + w->part, 3 * w->part), 0);
	EXPECT_EQ(pwrite(w->fd, buf, len, pos), w->part);
	memcpy(w->want + pos, buf, w->part);
	ASSERT_EQ(munmap(buf, w->part), 0);
}

static void expect_short_write(struct __test_metadata *_metadata,
			       FIXTURE_DATA(file) * self, struct short_write *w)
{
	expect_size(_metadata, w->fd, w->len, "size");
	close(expect_data_everywhere(_metadata, &self->vol, w->fd, w->want,
				     w->len, 0));
	volume_check(_metadata, &self->vol);
}

/* The cluster that it ends in holds zeros. */
TEST_F(file, short_write_to_a_hole)
{
	struct short_write w;

	new_file_with_hole(_metadata, self, &w);
	write_part(_metadata, &w);
	expect_short_write(_metadata, self, &w);
}

/*
 * Clusters that it has reserved, and not filled, are free.  What is next to them
 * stays reserved.
 */
TEST_F(file, short_write_releases_reservations)
{
	size_t cluster = self->vol.block / 16;
	off_t next_to[2];
	struct short_write w;
	struct stat old, st;
	long before, clusters;
	unsigned int i;

	new_file_with_hole(_metadata, self, &w);
	next_to[0] = w.at - w.part;
	next_to[1] = w.at + 4 * w.part;
	ASSERT_EQ(fstat(w.fd, &old), 0);
	before = free_blocks(_metadata);
	for (i = 0; i < 2; i++) {
		fill(w.want + next_to[i], w.part, next_to[i], 'a');
		ASSERT_EQ(pwrite(w.fd, w.want + next_to[i], w.part, next_to[i]),
			  w.part);
	}
	write_part(_metadata, &w);
	/* one has the last byte, and the last one of the request holds zeros */
	clusters = 3 * w.part / cluster + 2;
	EXPECT_EQ(before - free_blocks(_metadata), clusters);
	EXPECT_EQ(pwrite(w.fd, NULL, 2 * w.part, w.at + 5 * w.part), -1);
	EXPECT_EQ(errno, EFAULT);
	EXPECT_EQ(before - free_blocks(_metadata), clusters);
	ASSERT_EQ(fstat(w.fd, &st), 0);
	EXPECT_EQ(st.st_blocks - old.st_blocks, clusters * cluster / 512);
	ASSERT_EQ(fsync(w.fd), 0);
	EXPECT_EQ(before - free_blocks(_metadata), clusters);
	expect_short_write(_metadata, self, &w);
}

/* fallocate() splits a run of clusters that may be reserved, and not filled. */
static void expect_run_is_split(struct __test_metadata *_metadata,
				FIXTURE_DATA(file) * self, int mode)
{
	size_t at = 64 * self->vol.page;
	struct short_write w;

	new_file_with_hole(_metadata, self, &w);
	write_part(_metadata, &w);
	ASSERT_EQ(fallocate(w.fd, mode, at, w.part), 0);
	if (mode == FALLOC_FL_COLLAPSE_RANGE) {
		w.len -= w.part;
		memmove(w.want + at, w.want + at + w.part, w.len - at);
	} else if (mode == FALLOC_FL_INSERT_RANGE) {
		memmove(w.want + at + w.part, w.want + at, w.len - at);
		w.len += w.part;
	}
	expect_short_write(_metadata, self, &w);
}

TEST_F(file, hole_in_reserved_clusters)
{
	expect_run_is_split(_metadata, self,
			    FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
}

TEST_F(file, range_in_reserved_clusters_is_collapsed)
{
	expect_run_is_split(_metadata, self, FALLOC_FL_COLLAPSE_RANGE);
}

TEST_F(file, range_is_inserted_into_reserved_clusters)
{
	expect_run_is_split(_metadata, self, FALLOC_FL_INSERT_RANGE);
}

/*
 * One thread writes a preallocated file page by page, with writes that fail or
 * are short.  Another thread stores to every 16th page when the first one comes
 * near: the fault zeroes pages in front of the store that are being written.
 */
#define RACE_PAGES	256
#define IS_STORED(i)	((i) % 16 == 15)

struct page_race {
	int fd;
	size_t page;
	unsigned char *map;
	unsigned int seed;
	unsigned int writing;	/* the page that is being written */
	int error;
};

static void *store_pages(void *arg)
{
	struct page_race *r = arg;
	unsigned int i, seed = r->seed;

	for (i = 0; i < RACE_PAGES; i++) {
		if (!IS_STORED(i))
			continue;
		while (__atomic_load_n(&r->writing, __ATOMIC_RELAXED) + 14 < i)
			;
		fill(r->map + i * r->page, r->page, i * r->page, 'Q');
		if (rand_r(&seed) % 8 == 0)
			sync_file_range(r->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
		if (rand_r(&seed) % 8 == 0)
			posix_fadvise(r->fd, 0, 0, POSIX_FADV_DONTNEED);
	}
	return NULL;
}

static void *write_pages(void *arg)
{
	struct page_race *r = arg;
	unsigned int i, seed = ~r->seed;
	size_t page = r->page, off, n;
	unsigned char *buf, *end;
	off_t pos;

	buf = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED || munmap(buf + page, page)) {
		r->error = errno;
		__atomic_store_n(&r->writing, RACE_PAGES, __ATOMIC_RELAXED);
		return NULL;
	}
	end = buf + page;
	for (i = 1; i < RACE_PAGES; i++) {
		__atomic_store_n(&r->writing, i, __ATOMIC_RELAXED);
		if (IS_STORED(i))
			continue;
		for (off = 0; off < page; off += n) {
			n = 1 + rand_r(&seed) % (2 * page);
			if (n > page - off)
				n = page - off;
			pos = i * page + off;
			fill(end - n, n, pos, 'a');
			if (rand_r(&seed) % 4 == 0 &&
			    pwrite(r->fd, end, 3 * page, pos) >= 0)
				r->error = EINVAL;
			/* short, since the buffer ends in front of the range */
			if (pwrite(r->fd, end - n, n + 5 * page, pos) != n)
				r->error = EINVAL;
		}
	}
	munmap(buf, page);
	return NULL;
}

TEST_F_TIMEOUT(file, stores_between_short_writes, 120)
{
	size_t page = self->vol.page, len = RACE_PAGES * page;
	struct page_race r = { .page = page };
	unsigned char *want = malloc(len);
	pthread_t thread[2];
	unsigned int i;

	ASSERT_NE(want, NULL);
	fill(want, page, 0, 'a');
	for (i = 1; i < RACE_PAGES; i++)
		fill(want + i * page, page, i * page, IS_STORED(i) ? 'Q' : 'a');
	r.fd = self->fd;
	for (r.seed = 1; r.seed <= 10 && !_metadata->exit_code; r.seed++) {
		r.fd = new_file(_metadata, r.fd, 0);
		ASSERT_EQ(pwrite(r.fd, want, page, 0), page);
		ASSERT_EQ(fallocate(r.fd, 0, 0, len), 0);
		r.map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED,
			     r.fd, 0);
		ASSERT_NE(r.map, MAP_FAILED);
		r.map = mremap(r.map, page, len, MREMAP_MAYMOVE);
		ASSERT_NE(r.map, MAP_FAILED);
		r.writing = 0;
		ASSERT_EQ(pthread_create(&thread[0], NULL, store_pages, &r), 0);
		ASSERT_EQ(pthread_create(&thread[1], NULL, write_pages, &r), 0);
		ASSERT_EQ(pthread_join(thread[0], NULL), 0);
		ASSERT_EQ(pthread_join(thread[1], NULL), 0);
		ASSERT_EQ(r.error, 0);
		expect_data(_metadata, r.fd, want, len, 0, "warm");
		ASSERT_EQ(msync(r.map, len, MS_SYNC), 0);
		ASSERT_EQ(munmap(r.map, len), 0);
		posix_fadvise(r.fd, 0, 0, POSIX_FADV_DONTNEED);
		expect_data(_metadata, r.fd, want, len, 0, "cold");
		if (_metadata->exit_code)
			TH_LOG("seed %u", r.seed);
	}
	close(expect_data_everywhere(_metadata, &self->vol, r.fd, want, len,
				     0));
	volume_check(_metadata, &self->vol);
}

/*
 * Each allocation fails in turn while an ordinary file is mapped, extended or
 * truncated.  The file keeps its size and data.  It never shows old contents of
 * the disk.
 */
enum change { MAP, EXTEND, TRUNCATE };

static bool change_fails(FIXTURE_DATA(file) * self, enum change change, int fd)
{
	size_t len = 8 * self->vol.page;
	void *map;

	switch (change) {
	case MAP:
		map = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			   0);
		if (map == MAP_FAILED)
			return true;
		munmap(map, len);
		return false;
	case EXTEND:
		return fallocate(fd, 0, 0, 2 * len);
	default:
		return ftruncate(fd, self->vol.page + 100);
	}
}

static void expect_no_memory_for(struct __test_metadata *_metadata,
				 FIXTURE_DATA(file) * self, enum change change)
{
	size_t page = self->vol.page, len = 8 * page, written;
	size_t cut = page + 100;
	unsigned char *want = calloc(1, len), *zeros = calloc(1, len);
	unsigned char *got = malloc(2 * len);
	bool more = true, fails, kept;
	unsigned int nth, failed = 0;
	int fail, fd;
	ssize_t n;

	ASSERT_NE(want, NULL);
	ASSERT_NE(zeros, NULL);
	ASSERT_NE(got, NULL);
	fail = open_fail_nth();
	if (fail < 0)
		SKIP(return, "needs CONFIG_FAILSLAB");
	written = change == TRUNCATE ? len : page;
	fill(want, written, 0, 'a');
	fd = self->fd;
	for (nth = 1; more && nth < 1000 && !_metadata->exit_code; nth++) {
		fd = new_file(_metadata, fd, 0);
		ASSERT_EQ(fallocate(fd, 0, 0, len), 0);
		ASSERT_EQ(pwrite(fd, want, written, 0), written);
		fail_allocation(fail, nth);
		fails = change_fails(self, change, fd);
		if (fails)
			EXPECT_TRUE(errno == ENOMEM || errno == EIO);
		more = has_failed(fail);
		if (!fails)
			continue;
		failed++;
		n = pread(fd, got, 2 * len, 0);
		kept = n == len && !memcmp(got, want, len);
		/* A truncation may zero the end, or have shortened the file. */
		if (change == TRUNCATE && !kept)
			kept = (n == len || n == cut) &&
			       !memcmp(got, want, cut) &&
			       !memcmp(got + cut, zeros, n - cut);
		EXPECT_TRUE(kept)
			TH_LOG("allocation %u: size %zd", nth, n);
		ASSERT_EQ(fsync(fd), 0);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		expect_data(_metadata, fd, got, n, 0, "cold");
		expect_size(_metadata, fd, n, "size");
	}
	EXPECT_LT(nth, 1000);
	EXPECT_GT(failed, 0);
	close(fail);
	close(fd);
	volume_check(_metadata, &self->vol);
}

TEST_F_TIMEOUT(file, failed_allocation_of_a_mapping, 120)
{
	expect_no_memory_for(_metadata, self, MAP);
}

TEST_F_TIMEOUT(file, failed_allocation_of_an_extension, 120)
{
	expect_no_memory_for(_metadata, self, EXTEND);
}

TEST_F_TIMEOUT(file, failed_allocation_of_a_truncation, 120)
{
	expect_no_memory_for(_metadata, self, TRUNCATE);
}

/*
 * An ordinary resident file is written, or a store to a mapping of it is written
 * back, and each allocation fails in turn.  What is said to be there is there.
 */
static void expect_no_memory_resident(struct __test_metadata *_metadata,
				      FIXTURE_DATA(file) * self, bool store)
{
	unsigned char *map, *new = self->data + RESIDENT;
	size_t page = self->vol.page;
	unsigned int i, failed = 0;
	bool more = true;
	int fd, nth, ret;

	fd = create_resident(_metadata, self, &map);
	nth = open_fail_nth();
	if (nth < 0)
		SKIP(return, "needs CONFIG_FAILSLAB");
	for (i = 1; more && i < 1000; i++) {
		fill(new, RESIDENT, 0, 'A' + i % 2);
		if (store)
			memcpy(map, new, RESIDENT);
		ASSERT_EQ(munmap(map, page), 0);
		fail_allocation(nth, i);
		ret = store ? sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) :
			      pwrite(fd, new, RESIDENT, 0) != RESIDENT;
		if (ret)
			EXPECT_EQ(errno, ENOMEM)
				TH_LOG("allocation %u", i);
		more = has_failed(nth);
		failed += !!ret;
		if (!ret)
			memcpy(self->data, new, RESIDENT);
		if (store) {
			EXPECT_EQ(fsync(fd), ret);
			EXPECT_EQ(fsync(fd), 0);
		}
		expect_size(_metadata, fd, RESIDENT, "size");
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		expect_data(_metadata, fd, self->data, RESIDENT, 0, "data");
		map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			   0);
		ASSERT_NE(map, MAP_FAILED);
	}
	EXPECT_LT(i, 1000);
	EXPECT_GT(failed, 0);
	ASSERT_EQ(munmap(map, page), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, self->data,
				     RESIDENT, 0));
	volume_check(_metadata, &self->vol);
}

TEST_F(file, failed_allocation_of_a_resident_write)
{
	expect_no_memory_resident(_metadata, self, false);
}

TEST_F(file, failed_allocation_of_a_resident_writeback)
{
	expect_no_memory_resident(_metadata, self, true);
}

/*
 * An ordinary file grows out of its MFT record while the device is slow, and
 * mrec_lock is held all that time.  What waits for that lock, and has seen that
 * the file is resident, has to look again.
 */
#define SLOW_MS		200
#define SLOW		"delay=200"

enum waiter { SPLICE, FIEMAP, STORE, SYNC };

FIXTURE(slow) {
	struct volume vol;
	int fd;
	unsigned char *map, *data;
};

FIXTURE_VARIANT(slow) {
	enum waiter waiter;
};

FIXTURE_VARIANT_ADD(slow, splice) { .waiter = SPLICE };
FIXTURE_VARIANT_ADD(slow, fiemap) { .waiter = FIEMAP };
FIXTURE_VARIANT_ADD(slow, store) { .waiter = STORE };
FIXTURE_VARIANT_ADD(slow, sync) { .waiter = SYNC };

FIXTURE_SETUP(slow)
{
	__volume_setup(_metadata, &self->vol, 4096, true);
	if (_metadata->exit_code)
		return;
	self->data = malloc(2 * self->vol.page);
	ASSERT_NE(self->data, NULL);
	fill(self->data, 2 * self->vol.page, 0, 'a');
	self->fd = open(MNT "/file", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(self->fd, 0);
	ASSERT_EQ(pwrite(self->fd, self->data, RESIDENT, 0), RESIDENT);
	ASSERT_EQ(fsync(self->fd), 0);
	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	self->map = mmap(NULL, self->vol.page, PROT_READ | PROT_WRITE,
			 MAP_SHARED, self->fd, 0);
	ASSERT_NE(self->map, MAP_FAILED);
}

FIXTURE_TEARDOWN(slow)
{
	mount("none", FAULTFS, "faultfs", MS_REMOUNT, "delay=0");
	volume_teardown(&self->vol);
}

/* Is @len bytes of @data anywhere on the disk? */
static bool on_disk(const unsigned char *data, size_t len)
{
	unsigned char *image = malloc(IMAGE_SIZE);
	int fd = open(IMAGE, O_RDONLY | O_CLOEXEC);
	off_t pos = 0;
	ssize_t n = 1;
	bool found;

	while (image && n > 0 && pos < IMAGE_SIZE) {
		n = pread(fd, image + pos, IMAGE_SIZE - pos, pos);
		pos += n;
	}
	found = n > 0 && memmem(image, IMAGE_SIZE, data, len);
	free(image);
	close(fd);
	return found;
}

/* For a child */
static void wait_and_access(FIXTURE_DATA(slow) * self, enum waiter waiter)
{
	struct fiemap fiemap = { .fm_length = ~0ULL };
	unsigned char buf[RESIDENT];
	int p[2];

	poll(NULL, 0, SLOW_MS / 2);
	switch (waiter) {
	case SPLICE:		/* read() would wait for the inode lock */
		_exit(pipe(p) ||
		      splice(self->fd, NULL, p[1], NULL, RESIDENT, 0) !=
		      RESIDENT ||
		      read(p[0], buf, RESIDENT) != RESIDENT ||
		      memcmp(buf, self->data, RESIDENT));
	case FIEMAP:
		_exit(ioctl(self->fd, FS_IOC_FIEMAP, &fiemap) ||
		      !fiemap.fm_mapped_extents);
	case STORE:
		self->map[0] = 'Q';
		_exit(0);
	case SYNC:
		_exit(sync_file_range(self->fd, 0, 0,
				      SYNC_FILE_RANGE_WRITE |
				      SYNC_FILE_RANGE_WAIT_AFTER) != 0);
	}
}

TEST_F(slow, resident_file_grows)
{
	size_t len = 2 * self->vol.page;
	int status = -1;
	pid_t pid;

	if (variant->waiter == SYNC) {
		memset(self->map, 'Q', RESIDENT);
		memset(self->data, 'Q', RESIDENT);
	} else if (variant->waiter == STORE) {
		/* else it waits for the data, and then for nothing */
		ASSERT_EQ(__atomic_load_n(self->map, __ATOMIC_RELAXED),
			  self->data[0]);
	}
	set_faults(_metadata, SLOW);
	fflush(NULL);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid)
		wait_and_access(self, variant->waiter);
	ASSERT_EQ(pwrite(self->fd, self->data + RESIDENT, len - RESIDENT,
			 RESIDENT), len - RESIDENT);
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	set_faults(_metadata, "delay=0");
	EXPECT_EQ(status, 0);
	if (variant->waiter == SYNC)
		EXPECT_TRUE(on_disk(self->data, RESIDENT));
	if (variant->waiter == STORE)
		self->data[0] = 'Q';
	ASSERT_EQ(munmap(self->map, self->vol.page), 0);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd,
				     self->data, len, 0));
	volume_check(_metadata, &self->vol);
}

/* Two blocks with data on disk, one of them written with failures. */
FIXTURE(failing) {
	struct volume vol;
	int fd;
	unsigned char *old, *new;
};

FIXTURE_VARIANT(failing) {
	bool compresses;
};

FIXTURE_VARIANT_ADD(failing, compressible) { .compresses = true };
FIXTURE_VARIANT_ADD(failing, random) { .compresses = false };

FIXTURE_SETUP(failing)
{
	unsigned int seed = 1;
	size_t len;

	__volume_setup(_metadata, &self->vol, 4096, true);
	if (_metadata->exit_code)
		return;
	len = 2 * self->vol.block;
	self->old = malloc(len);
	self->new = malloc(len);
	ASSERT_NE(self->old, NULL);
	ASSERT_NE(self->new, NULL);
	if (variant->compresses) {
		fill(self->old, len, 0, 'A');
		fill(self->new, len, 0, 'a');
	} else {
		fill_random(self->old, len, &seed);
		fill_random(self->new, len, &seed);
	}
	self->fd = open_compressed(MNT "/file");
	ASSERT_GE(self->fd, 0)
		TH_LOG("compressed file: %s", strerror(errno));
	ASSERT_EQ(pwrite(self->fd, self->old, len, 0), len);
	ASSERT_EQ(fsync(self->fd), 0);
}

FIXTURE_TEARDOWN(failing)
{
	restore_settings();
	mount("none", FAULTFS, "faultfs", MS_REMOUNT,
	      "cut=0,fail=none,delay=0");
	volume_teardown(&self->vol);
}

/* The block holds old data or new data, and nothing else. */
static bool holds(FIXTURE_DATA(failing) * self, const unsigned char *want,
		  unsigned char *buf)
{
	return pread(self->fd, buf, self->vol.block, 0) == self->vol.block &&
	       !memcmp(buf, want, self->vol.block);
}

/* Each allocation of a write fails in turn. */
static void expect_no_memory(struct __test_metadata *_metadata,
			     FIXTURE_DATA(failing) * self, size_t pos)
{
	size_t block = self->vol.block;
	unsigned char *buf = malloc(block);
	unsigned int nth, failed = 0;
	bool more = true;
	ssize_t n;
	int fd;

	ASSERT_NE(buf, NULL);
	fd = open_fail_nth();
	if (fd < 0)
		SKIP(return, "needs CONFIG_FAILSLAB");

	memcpy(self->new, self->old, pos);
	for (nth = 1; more && nth < 1000; nth++) {
		ASSERT_EQ(pwrite(self->fd, self->old, block, 0), block);
		ASSERT_EQ(fsync(self->fd), 0);
		if (pos)
			posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
		fail_allocation(fd, nth);
		n = pwrite(self->fd, self->new + pos, block - pos, pos);
		if (n < 0)
			EXPECT_EQ(errno, ENOMEM)
				TH_LOG("allocation %u", nth);
		more = has_failed(fd);
		failed += n < 0;

		posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
		EXPECT_TRUE(holds(self, n < 0 ? self->old : self->new, buf))
			TH_LOG("allocation %u failed, write returned %zd: first byte 0x%02x",
			       nth, n, buf[0]);
	}
	EXPECT_LT(nth, 1000);
	EXPECT_GT(failed, 0);
	ASSERT_EQ(close(fd), 0);
	memcpy(self->new + block, self->old + block, block);
	ASSERT_EQ(close(self->fd), 0);
	/* nothing of that is an error of the volume: the next mount forgets those */
	volume_check(_metadata, &self->vol);
	ASSERT_EQ(mount(self->vol.dev, MNT, "ntfs", 0, NULL), 0);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd, self->new,
				     2 * block, 0));
}

TEST_F_TIMEOUT(failing, allocation_keeps_the_old_data, 120)
{
	expect_no_memory(_metadata, self, 0);
}

/* The block is read first. */
TEST_F_TIMEOUT(failing, allocation_keeps_the_old_data_around, 120)
{
	expect_no_memory(_metadata, self, 1000);
}

/*
 * A write to a part of a block that cannot be read changes nothing, nor does one
 * that the device refuses.
 */
TEST_F(failing, error_keeps_the_old_data)
{
	size_t block = self->vol.block;

	set_faults(_metadata, "fail=eio");
	EXPECT_EQ(pwrite(self->fd, self->new, block, 0), -1);
	EXPECT_EQ(errno, EIO);
	set_faults(_metadata, "fail=none");
	expect_data(_metadata, self->fd, self->old, 2 * block, 0, "refused");
	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	set_faults(_metadata, "fail=eio,fail_op=read");
	EXPECT_EQ(pwrite(self->fd, self->new, 1000, 100), -1);
	EXPECT_EQ(errno, EIO);
	/* the first block is written, the second one is not */
	EXPECT_EQ(pwrite(self->fd, self->new, block + 1000, 0), block);
	set_faults(_metadata, "fail=none");
	memcpy(self->old, self->new, block);
	expect_size(_metadata, self->fd, 2 * block, "size");
	close(expect_data_everywhere(_metadata, &self->vol, self->fd, self->old,
				     2 * block, 0));
	volume_check(_metadata, &self->vol);
}

/*
 * The data of a resident file cannot be written to clusters: they are freed, and
 * the file stays as it is.
 */
TEST_F_TIMEOUT(failing, error_leaves_it_in_the_record, 120)
{
	unsigned int i, rounds = leak_rounds();
	long long used = 0;
	long free;
	int other;

	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	ASSERT_EQ(pwrite(other, self->new, RESIDENT, 0), RESIDENT);
	ASSERT_EQ(fsync(other), 0);
	free = free_blocks(_metadata);
	set_faults(_metadata, "fail=eio");
	for (i = 0; i <= 2 * rounds && !_metadata->exit_code; i++) {
		if (i == rounds + 1)
			used = slab_kib();
		EXPECT_EQ(pwrite(other, self->new, self->vol.page, RESIDENT),
			  -1);
		EXPECT_EQ(errno, EIO);
	}
	if (rounds)
		EXPECT_LT(slab_left(used, rounds / 16), rounds / 16)
			TH_LOG("KiB in %u rounds", rounds);
	set_faults(_metadata, "fail=none");
	EXPECT_EQ(free_blocks(_metadata), free);
	expect_size(_metadata, other, RESIDENT, "size");
	posix_fadvise(other, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, other, self->new, RESIDENT, 0, "resident");
	ASSERT_EQ(pwrite(other, self->new + RESIDENT, self->vol.page, RESIDENT),
		  self->vol.page);
	ASSERT_EQ(fsync(other), 0);
	posix_fadvise(other, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, other, self->new, RESIDENT + self->vol.page, 0,
		    "not resident");
	close(other);
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/*
 * A page of a block is reclaimed while another one is read, before all of them
 * are locked: it has to be read again.
 */
TEST_F(failing, reads_again_what_was_reclaimed)
{
	size_t page = self->vol.page, block = self->vol.block;
	int status = -1;
	pid_t pid;

	expect_data(_metadata, self->fd, self->old, 2 * block, 0, "warm");
	ASSERT_EQ(posix_fadvise(self->fd, page, block - page,
				POSIX_FADV_DONTNEED), 0);
	poison_free_memory();
	set_faults(_metadata, SLOW);
	fflush(NULL);
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		poll(NULL, 0, SLOW_MS / 2);
		_exit(posix_fadvise(self->fd, 0, page, POSIX_FADV_DONTNEED));
	}
	memcpy(self->old + 2 * page, self->new, 100);
	ASSERT_EQ(pwrite(self->fd, self->new, 100, 2 * page), 100);
	set_faults(_metadata, "delay=0");
	ASSERT_EQ(waitpid(pid, &status, 0), pid);
	ASSERT_EQ(status, 0);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd, self->old,
				     2 * block, 0));
	volume_check(_metadata, &self->vol);
}

/* A write waits for memory, in whatever way it writes. */
TEST_F(failing, allocations_wait)
{
	size_t block = self->vol.block, page = self->vol.page;
	int other;

	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	ASSERT_EQ(pwrite(other, self->old, RESIDENT, 0), RESIDENT);
	ASSERT_EQ(posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	if (fail_what_cannot_wait())
		SKIP(return, "needs CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC");
	EXPECT_EQ(pwrite(self->fd, self->new, block, 0), block);
	EXPECT_EQ(pwrite(self->fd, self->new + block, 100, block), 100);
	EXPECT_EQ(pwrite(other, self->new, RESIDENT, 0), RESIDENT);
	EXPECT_EQ(pwrite(other, self->new + RESIDENT, 2 * page, RESIDENT),
		  2 * page);
	EXPECT_EQ(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    page, page), 0);
	EXPECT_EQ(fsync(other), 0);
	restore_settings();
	memcpy(self->new + block + 100, self->old + block + 100, block - 100);
	posix_fadvise(other, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, other, self->new, page, 0, "ordinary");
	close(other);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd, self->new,
				     2 * block, 0));
	volume_check(_metadata, &self->vol);
}

/* What an allocation that fails leaves is freed. */
TEST_F_TIMEOUT(failing, no_memory_is_left_by_failed_allocations, 300)
{
	unsigned int i, nth, rounds = leak_rounds() / 2;
	size_t block = self->vol.block;
	long long used = 0;
	int fd;

	if (!rounds)
		SKIP(return,
		     "set NTFS_TEST_ROUNDS=6000 on an idle machine to look for leaks");
	fd = open_fail_nth();
	if (fd < 0)
		SKIP(return, "needs CONFIG_FAILSLAB");
	for (nth = 0; nth <= 20; nth++) {
		if (nth == 1)
			used = slab_kib();
		for (i = 0; i < rounds; i++) {
			fail_allocation(fd, nth);
			pwrite(self->fd, self->new, block, 0);
			if (nth && !has_failed(fd))
				break;
		}
	}
	fail_allocation(fd, 0);
	EXPECT_LT(slab_left(used, rounds / 16), rounds / 16)
		TH_LOG("KiB in %u rounds", rounds);
	ASSERT_EQ(close(fd), 0);
	ASSERT_EQ(pwrite(self->fd, self->new, block, 0), block);
	memcpy(self->new + block, self->old + block, block);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd, self->new,
				     2 * block, 0));
	volume_check(_metadata, &self->vol);
}

/*
 * The device fails from the n-th write on: write(2) or fsync(2) report it, and
 * the block has the old data or the new.  The metadata is not checked: some of
 * it could not be written, and ntfs does not replay the log.
 */
TEST_F_TIMEOUT(failing, device_is_reported, 120)
{
	size_t block = self->vol.block;
	unsigned char *buf = malloc(block);
	unsigned int cut, errors = 0;
	char options[16];
	bool written, synced;

	ASSERT_NE(buf, NULL);
	for (cut = 1; cut < 100; cut++) {
		ASSERT_EQ(pwrite(self->fd, self->old, block, 0), block);
		ASSERT_EQ(fsync(self->fd), 0);
		snprintf(options, sizeof(options), "cut=%u", cut);
		set_faults(_metadata, options);
		written = pwrite(self->fd, self->new, block, 0) == block;
		synced = !fsync(self->fd);
		set_faults(_metadata, "cut=0");
		errors += !written || !synced;

		/* what was not written stays dirty, or is lost: as reported */
		fsync(self->fd);
		ASSERT_EQ(close(self->fd), 0);
		volume_remount(_metadata, &self->vol);
		self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
		ASSERT_GE(self->fd, 0);
		expect_size(_metadata, self->fd, 2 * block, "size");
		EXPECT_TRUE(holds(self, self->new, buf) ||
			    (!(written && synced) &&
			     holds(self, self->old, buf)))
			TH_LOG("after %u writes: write %d, fsync %d, first byte 0x%02x",
			       cut, written, synced, buf[0]);
		if (written && synced)
			break;
	}
	EXPECT_LT(cut, 100);
	EXPECT_GT(errors, 0);
	memcpy(self->new + block, self->old + block, block);
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->new, 2 * block, 0);
	close(self->fd);
}

/*
 * Small compressed files whose data is in the MFT record, as Windows makes
 * them. The driver does not: flags of ordinary ones are changed on the disk.
 */
#define RESIDENT_SIZE	200
#define RESIDENT_FILES	100
#define RECORD_SIZE	1024

/*
 * A hole that cannot be made leaves all of an ordinary file as it is, in memory
 * and on disk.  With more holes the runlist needs a second MFT record.
 */
TEST_F_TIMEOUT(failing, failed_allocation_of_a_hole, 120)
{
	size_t cluster = 4096, len = 500 * cluster, pos;
	unsigned char *want = malloc(len);
	unsigned int i, nth = 1, failed = 0, holes = 120;
	int fd, ret;

	ASSERT_NE(want, NULL);
	fd = open_fail_nth();
	if (fd < 0)
		SKIP(return, "needs CONFIG_FAILSLAB");
	self->fd = new_file(_metadata, self->fd, 0);
	fill(want, len, 0, 'a');
	ASSERT_EQ(pwrite(self->fd, want, len, 0), len);
	ASSERT_EQ(fsync(self->fd), 0);
	for (i = 1; i < 2 * holes && !_metadata->exit_code; i++) {
		pos = 2 * i * cluster;
		fail_allocation(fd, i < holes ? 0 : nth);
		ret = fallocate(self->fd, FALLOC_FL_PUNCH_HOLE |
				FALLOC_FL_KEEP_SIZE, pos, cluster);
		if (i >= holes)
			nth = has_failed(fd) ? nth + 1 : 1;
		if (!ret) {
			memset(want + pos, 0, cluster);
			continue;
		}
		ASSERT_GE(i, holes);
		EXPECT_TRUE(errno == ENOMEM || errno == EIO);
		failed++;
		/* which looks for the end of the runlist */
		EXPECT_EQ(pwrite(self->fd, want + len - 10, 10, len - 10), 10);
		close(expect_data_everywhere(_metadata, &self->vol, self->fd,
					     want, len, 0));
		self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
		ASSERT_GE(self->fd, 0);
	}
	EXPECT_GT(failed, 0);
	ASSERT_EQ(close(fd), 0);
	close(expect_data_everywhere(_metadata, &self->vol, self->fd, want, len,
				     0));
	volume_check(_metadata, &self->vol);
}

/* Clusters that cannot be freed are lost: the volume wants to be checked. */
TEST_F(failing, hole_that_does_not_free_its_clusters)
{
	size_t page = self->vol.page, len = 4 * page;
	int other;

	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	ASSERT_EQ(pwrite(other, self->new, len, 0), len);
	ASSERT_EQ(fsync(other), 0);
	/* the bitmap is not in memory then */
	sync();
	ASSERT_EQ(run("{ echo 1 >/proc/sys/vm/drop_caches; }"), 0);
	set_faults(_metadata, "fail=eio,fail_op=read");
	EXPECT_EQ(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			    page, page), 0)
		TH_LOG("punch hole: %s", strerror(errno));
	set_faults(_metadata, "fail=none");
	memset(self->new + page, 0, page);
	posix_fadvise(other, 0, 0, POSIX_FADV_DONTNEED);
	expect_data(_metadata, other, self->new, len, 0, "cold");
	close(other);
	close(self->fd);
	ASSERT_EQ(umount(MNT), 0);
	if (run("ntfsresize -V") == 127)
		return;
	EXPECT_EQ(run("ntfsresize -i " IMAGE " 2>&1 | grep 'for check'"), 0);
}

/*
 * What a store would make valid, but cannot be zeroed, stays what it is: space
 * that reads as zeros.
 */
TEST_F(failing, store_behind_space_that_cannot_be_zeroed)
{
	size_t page = self->vol.page, len = 8 * page;
	unsigned char *map, *want = calloc(1, len);
	int fd;

	ASSERT_NE(want, NULL);
	fd = new_file(_metadata, self->fd, 0);
	/* the end of the data is in a block that has to be read */
	fill(want, page + 100, 0, 'a');
	ASSERT_EQ(pwrite(fd, want, page + 100, 0), page + 100);
	ASSERT_EQ(fallocate(fd, 0, 0, len), 0);
	ASSERT_EQ(fsync(fd), 0);
	ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(map, MAP_FAILED);
	map = mremap(map, page, len, MREMAP_MAYMOVE);
	ASSERT_NE(map, MAP_FAILED);
	set_faults(_metadata, "fail=eio,fail_op=read");
	EXPECT_EQ(store_raises((char *)map + 5 * page), SIGBUS);
	set_faults(_metadata, "fail=none");
	ASSERT_EQ(munmap(map, len), 0);
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, len, 0));
	volume_check(_metadata, &self->vol);
}

/* Such a write has not written anything when it returns, and has not failed. */
TEST_F(failing, asynchronous_direct_append)
{
	size_t page = self->vol.page, len = 4 * page;
	struct iocb iocb = { .aio_lio_opcode = IOCB_CMD_PWRITE };
	struct iocb *iocbs[] = { &iocb };
	struct io_event event = {};
	aio_context_t ctx = 0;
	void *buf;
	int fd;

	ASSERT_EQ(posix_memalign(&buf, page, len), 0);
	memcpy(buf, self->new, len);
	fd = new_file(_metadata, self->fd, O_DIRECT);
	ASSERT_EQ(pwrite(fd, buf, page, 0), page);
	if (syscall(__NR_io_setup, 1, &ctx))
		SKIP(return, "needs CONFIG_AIO");
	iocb.aio_fildes = fd;
	iocb.aio_buf = (uintptr_t)buf + page;
	iocb.aio_nbytes = len - page;
	iocb.aio_offset = page;
	set_faults(_metadata, SLOW);
	ASSERT_EQ(syscall(__NR_io_submit, ctx, 1, iocbs), 1);
	ASSERT_EQ(syscall(__NR_io_getevents, ctx, 1, 1, &event, NULL), 1);
	set_faults(_metadata, "delay=0");
	EXPECT_EQ(event.res, len - page);
	ASSERT_EQ(syscall(__NR_io_destroy, ctx), 0);
	ASSERT_EQ(fcntl(fd, F_SETFL, 0), 0);
	expect_size(_metadata, fd, len, "size");
	close(expect_data_everywhere(_metadata, &self->vol, fd, buf, len, 0));
	volume_check(_metadata, &self->vol);
}

/*
 * The device refuses such a write: the file keeps its size and data.  The write
 * to preallocated space begins with the page that is there.
 */
static void expect_failed_async_write(struct __test_metadata *_metadata,
				      FIXTURE_DATA(failing) * self,
				      bool preallocate)
{
	size_t page = self->vol.page, len = preallocate ? 4 * page : page;
	size_t start = preallocate ? 0 : page;
	struct iocb iocb = { .aio_lio_opcode = IOCB_CMD_PWRITE };
	unsigned char *want = calloc(1, len);
	struct iocb *iocbs[] = { &iocb };
	struct io_event event = {};
	aio_context_t ctx = 0;
	void *buf;
	int fd;

	ASSERT_NE(want, NULL);
	ASSERT_EQ(posix_memalign(&buf, page, 3 * page), 0);
	memcpy(buf, self->new, 3 * page);
	memcpy(want, buf, page);
	fd = new_file(_metadata, self->fd, O_DIRECT);
	if (preallocate)
		ASSERT_EQ(fallocate(fd, 0, 0, len), 0);
	ASSERT_EQ(pwrite(fd, buf, page, 0), page);
	ASSERT_EQ(fsync(fd), 0);
	if (syscall(__NR_io_setup, 1, &ctx))
		SKIP(return, "needs CONFIG_AIO");
	iocb.aio_fildes = fd;
	iocb.aio_buf = (uintptr_t)buf + start;
	iocb.aio_nbytes = 3 * page - start;
	iocb.aio_offset = start;
	set_faults(_metadata, SLOW ",fail=eio,fail_op=write");
	ASSERT_EQ(syscall(__NR_io_submit, ctx, 1, iocbs), 1);
	ASSERT_EQ(syscall(__NR_io_getevents, ctx, 1, 1, &event, NULL), 1);
	set_faults(_metadata, "delay=0,fail=none");
	EXPECT_EQ(event.res, -EIO);
	ASSERT_EQ(syscall(__NR_io_destroy, ctx), 0);
	ASSERT_EQ(fcntl(fd, F_SETFL, 0), 0);
	expect_size(_metadata, fd, len, "size");
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, len, 0));
	volume_check(_metadata, &self->vol);
}

TEST_F(failing, asynchronous_direct_append_is_refused)
{
	expect_failed_async_write(_metadata, self, false);
}

TEST_F(failing, asynchronous_direct_write_to_preallocated_space_is_refused)
{
	expect_failed_async_write(_metadata, self, true);
}

/* The device refuses to zero the clusters for a hole: it still reads as zeros. */
static void expect_failed_fill(struct __test_metadata *_metadata,
			       FIXTURE_DATA(failing) * self, bool preallocate)
{
	size_t page = self->vol.page, len = 4 * page;
	unsigned char *want = calloc(1, len);
	void *buf;
	int fd;

	ASSERT_NE(want, NULL);
	ASSERT_EQ(posix_memalign(&buf, page, page), 0);
	memcpy(buf, self->new, page);
	fd = new_file(_metadata, self->fd, 0);
	memcpy(want, self->new, page);
	memcpy(want + 3 * page, self->new, page);
	ASSERT_EQ(pwrite(fd, want, page, 0), page);
	ASSERT_EQ(pwrite(fd, want + 3 * page, page, 3 * page), page);
	ASSERT_EQ(fsync(fd), 0);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	set_faults(_metadata, "fail=eio,fail_op=write");
	if (preallocate) {
		EXPECT_EQ(fallocate(fd, 0, page, 2 * page), -1);
	} else {
		ASSERT_EQ(fcntl(fd, F_SETFL, O_DIRECT), 0);
		EXPECT_EQ(pwrite(fd, buf, 512, page + 512), -1);
		ASSERT_EQ(fcntl(fd, F_SETFL, 0), 0);
	}
	EXPECT_EQ(errno, EIO);
	set_faults(_metadata, "fail=none");
	close(expect_data_everywhere(_metadata, &self->vol, fd, want, len, 0));
	volume_check(_metadata, &self->vol);
}

TEST_F(failing, preallocation_of_a_hole_is_refused)
{
	expect_failed_fill(_metadata, self, true);
}

TEST_F(failing, direct_write_to_a_part_of_a_hole_is_refused)
{
	expect_failed_fill(_metadata, self, false);
}

/* What one file has reserved stays so when an allocation of another fails. */
TEST_F(failing, allocation_leaves_the_reservations)
{
	size_t block = self->vol.block;
	long before, reserved;
	int other, third, fd;

	other = open(MNT "/other", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(other, 0);
	third = open(MNT "/third", O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	ASSERT_GE(third, 0);
	ASSERT_EQ(pwrite(other, self->new, block, 0), block);
	ASSERT_EQ(pwrite(third, self->new, block, 0), block);
	sync();
	/* the bitmap is not in memory then */
	fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(write(fd, "1", 1), 1);
	ASSERT_EQ(close(fd), 0);

	before = free_blocks(_metadata);
	ASSERT_EQ(pwrite(other, self->new, 2 * block, 16 * block), 2 * block);
	reserved = before - free_blocks(_metadata);
	ASSERT_GE(reserved, 32);
	set_faults(_metadata, "fail=eio,fail_op=read");
	EXPECT_EQ(fallocate(third, 0, 16 * block, block), -1);
	EXPECT_EQ(errno, EIO);
	set_faults(_metadata, "fail=none");
	EXPECT_EQ(before - free_blocks(_metadata), reserved);
	ASSERT_EQ(fsync(other), 0);
	EXPECT_EQ(before - free_blocks(_metadata), reserved);
	expect_data(_metadata, other, self->new, 2 * block, 16 * block, "other");
	close(other);
	close(third);
	close(self->fd);
}

FIXTURE(resident) {
	struct volume vol;
	int fd;
	off_t record;		/* the MFT record of the file in the image */
	unsigned char *want;
};

FIXTURE_VARIANT(resident) {
	unsigned int cluster;
};

FIXTURE_VARIANT_ADD(resident, cluster_1024) { .cluster = 1024 };
FIXTURE_VARIANT_ADD(resident, cluster_4096) { .cluster = 4096 };

static uint32_t get32(const unsigned char *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

/* The attribute @type of an MFT record, NULL if there is none. */
static unsigned char *find_attr(unsigned char *record, uint32_t type)
{
	unsigned int off = record[0x14] | record[0x15] << 8;

	while (off + 24 < RECORD_SIZE && get32(record + off) != 0xffffffff) {
		if (get32(record + off) == type)
			return record + off;
		if (!get32(record + off + 4))
			break;
		off += get32(record + off + 4);
	}
	return NULL;
}

/* Make the files of RESIDENT_SIZE compressed; how many, and where the first is. */
static int compress_resident(off_t *first)
{
	unsigned char *image, *r, *info, *data;
	int fd, n = 0;
	off_t pos;

	fd = open(IMAGE, O_RDWR | O_CLOEXEC);
	image = mmap(NULL, IMAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		     0);
	close(fd);
	if (image == MAP_FAILED)
		return -1;
	for (pos = 0; pos < IMAGE_SIZE; pos += RECORD_SIZE) {
		r = image + pos;
		if (memcmp(r, "FILE", 4))
			continue;
		info = find_attr(r, 0x10);
		data = find_attr(r, 0x80);
		if (!info || !data || data[8] || data[9] ||
		    get32(data + 16) != RESIDENT_SIZE)
			continue;
		info[info[0x14] + 0x21] |= ATTR_COMPRESSED >> 8;
		data[0x0c] |= 1;
		if (!n++)
			*first = pos;
	}
	munmap(image, IMAGE_SIZE);
	return n;
}

FIXTURE_SETUP(resident)
{
	char path[32];
	int i, fd;

	volume_setup(_metadata, &self->vol, variant->cluster);
	if (_metadata->exit_code)
		return;
	self->want = calloc(4, self->vol.block);
	ASSERT_NE(self->want, NULL);
	fill(self->want, RESIDENT_SIZE, 0, 'A');
	for (i = 0; i < RESIDENT_FILES; i++) {
		snprintf(path, sizeof(path), i ? MNT "/file%d" : MNT "/file",
			 i);
		fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(pwrite(fd, self->want, RESIDENT_SIZE, 0),
			  RESIDENT_SIZE);
		ASSERT_EQ(close(fd), 0);
	}
	ASSERT_EQ(umount(MNT), 0);
	ASSERT_EQ(fsync(self->vol.loop), 0);
	ASSERT_EQ(compress_resident(&self->record), RESIDENT_FILES);
	ASSERT_EQ(ioctl(self->vol.loop, BLKFLSBUF), 0);
	ASSERT_EQ(mount(self->vol.dev, MNT, "ntfs", 0, NULL), 0);
	self->fd = open(MNT "/file", O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->fd, 0);
	expect_data(_metadata, self->fd, self->want, RESIDENT_SIZE, 0,
		    "resident");
}

FIXTURE_TEARDOWN(resident)
{
	restore_settings();
	volume_teardown(&self->vol);
}

static void expect_resident(struct __test_metadata *_metadata,
			    FIXTURE_DATA(resident) * self, size_t size)
{
	expect_size(_metadata, self->fd, size, "size");
	self->fd = expect_data_everywhere(_metadata, &self->vol, self->fd,
					  self->want, size, 0);
	expect_size(_metadata, self->fd, size, "size after remount");
	close(self->fd);
	volume_check(_metadata, &self->vol);
}

/* The allocated size of the $DATA attribute on disk. */
static uint64_t allocated_size(struct __test_metadata *_metadata,
			       FIXTURE_DATA(resident) * self)
{
	unsigned char record[RECORD_SIZE], *data;
	int fd = open(IMAGE, O_RDONLY | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	ASSERT_EQ(pread(fd, record, sizeof(record), self->record),
		  sizeof(record));
	close(fd);
	data = find_attr(record, 0x80);
	ASSERT_NE(data, NULL);
	ASSERT_EQ(data[8], 1);
	return get32(data + 0x28) | (uint64_t)get32(data + 0x2c) << 32;
}

TEST_F(resident, stays_so_when_it_grows_a_little)
{
	fill(self->want, RESIDENT_SIZE + 50, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want + RESIDENT_SIZE, 50,
			 RESIDENT_SIZE), 50);
	expect_resident(_metadata, self, RESIDENT_SIZE + 50);
}

TEST_F(resident, grows_by_what_is_appended)
{
	size_t block = self->vol.block;

	fill(self->want, RESIDENT_SIZE + block, 0, 'A');
	ASSERT_EQ(pwrite(self->fd, self->want + RESIDENT_SIZE, block,
			 RESIDENT_SIZE), block);
	expect_resident(_metadata, self, RESIDENT_SIZE + block);
	EXPECT_EQ(allocated_size(_metadata, self), 2 * block);
}

/* Each allocation fails in turn, each time with another file. */
TEST_F(resident, failed_allocation_leaves_it_in_the_record)
{
	size_t len = self->vol.block - RESIDENT_SIZE;
	unsigned int i, failed = 0;
	bool more = true;
	char path[32];
	ssize_t n;
	int nth;

	nth = open_fail_nth();
	if (nth < 0)
		SKIP(return, "needs CONFIG_FAILSLAB");
	fill(self->want, self->vol.block, 0, 'A');
	ASSERT_EQ(close(self->fd), 0);
	for (i = 0; more && i < RESIDENT_FILES; i++) {
		snprintf(path, sizeof(path), i ? MNT "/file%d" : MNT "/file",
			 i);
		self->fd = open(path, O_RDWR | O_CLOEXEC);
		ASSERT_GE(self->fd, 0);
		fail_allocation(nth, i + 1);
		n = pwrite(self->fd, self->want + RESIDENT_SIZE, len,
			   RESIDENT_SIZE);
		if (n < 0)
			EXPECT_EQ(errno, ENOMEM)
				TH_LOG("allocation %u", i + 1);
		more = has_failed(nth);
		failed += n < 0;
		EXPECT_EQ(n, n < 0 ? -1 : len);
		n = n < 0 ? RESIDENT_SIZE : self->vol.block;
		expect_size(_metadata, self->fd, n, path);
		posix_fadvise(self->fd, 0, 0, POSIX_FADV_DONTNEED);
		expect_data(_metadata, self->fd, self->want, n, 0, path);
		ASSERT_EQ(close(self->fd), 0);
	}
	EXPECT_LT(i, RESIDENT_FILES);
	EXPECT_GT(failed, 0);
	volume_check(_metadata, &self->vol);
}

/* What the clusters between the two held before is nobody's business. */
TEST_F(resident, reads_as_zeros_up_to_a_write_to_another_block)
{
	size_t pos = 2 * self->vol.block + 100;

	self->want[pos] = 'x';
	ASSERT_EQ(pwrite(self->fd, "x", 1, pos), 1);
	expect_resident(_metadata, self, pos + 1);
	EXPECT_EQ(allocated_size(_metadata, self), 3 * self->vol.block);
}

TEST_F(resident, failed_write_keeps_the_size)
{
	size_t size[] = { RESIDENT_SIZE + 50, 2 * self->vol.block };
	char *unreadable;
	int i;

	unreadable = mmap(NULL, 2 * self->vol.block, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(unreadable, MAP_FAILED);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(pwrite(self->fd, unreadable, size[i] - RESIDENT_SIZE,
				 RESIDENT_SIZE), -1);
		EXPECT_EQ(errno, EFAULT);
		expect_size(_metadata, self->fd, RESIDENT_SIZE,
			    i ? "large write" : "small write");
	}
	expect_resident(_metadata, self, RESIDENT_SIZE);
}

static long dirty_pages(void)
{
	FILE *f = fopen("/proc/vmstat", "re");
	char line[128];
	long n = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "nr_dirty %ld", &n) == 1)
			break;
	if (f)
		fclose(f);
	return n;
}

/* The folio that is dirty when the data leaves the record gets clean again. */
TEST_F(resident, leaves_no_dirty_folio)
{
	size_t block = self->vol.block;
	char path[32];
	long before;
	int i, fd;

	fill(self->want, block, 0, 'A');
	sync();
	before = dirty_pages();
	ASSERT_GE(before, 0);
	for (i = 0; i < RESIDENT_FILES; i++) {
		snprintf(path, sizeof(path), i ? MNT "/file%d" : MNT "/file",
			 i);
		fd = open(path, O_RDWR | O_CLOEXEC);
		ASSERT_GE(fd, 0);
		ASSERT_EQ(pwrite(fd, self->want + RESIDENT_SIZE,
				 block - RESIDENT_SIZE, RESIDENT_SIZE),
			  block - RESIDENT_SIZE);
		ASSERT_EQ(close(fd), 0);
	}
	sync();
	/* counted per CPU, so not exactly */
	EXPECT_LT(dirty_pages(), before + RESIDENT_FILES / 2);
	expect_resident(_metadata, self, block);
}

TEST_HARNESS_MAIN
