// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading squashfs through ->read_folio.
 *
 * A read of one page decompresses a whole block, and fills all pages of it that
 * are available without waiting. Where that matters a mapping with MADV_RANDOM is
 * used: what is not a fault in such a mapping goes through ->readahead.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <endian.h>
#include <pthread.h>
#include <sys/mman.h>

#include "image_test.h"

#define BLOCK		KIB(128)
#define BLOCK_LARGE	MIB(1)

struct volume {
	struct image im;
	size_t page;
	/* the file that is read */
	int fd;
	off_t size;
	off_t data;		/* up to here it is pattern(), then zeros */
	unsigned int seed;
};

/* Non-zero if the test has been marked as skipped. */
static int volume_setup(struct __test_metadata *_metadata, struct volume *vol)
{
	memset(vol, 0, sizeof(*vol));
	vol->fd = -1;
	vol->page = sysconf(_SC_PAGESIZE);
	return image_setup(&vol->im, _metadata, 0);
}

static void volume_teardown(struct volume *vol)
{
	if (vol->fd >= 0)
		close(vol->fd);
	image_teardown(&vol->im);
}

static int volume_mount(struct __test_metadata *_metadata, struct volume *vol)
{
	int err = image_mount(&vol->im, "squashfs", MS_RDONLY, NULL);
	char path[64];

	if (err == -ENODEV)
		SKIP(return err, "no squashfs (CONFIG_SQUASHFS)");
	ASSERT_EQ(0, err);
	snprintf(path, sizeof(path), "%s/file", vol->im.mnt);
	vol->fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(vol->fd, 0);
	return 0;
}

static void write_file(struct __test_metadata *_metadata, struct volume *vol,
		       const char *name, off_t size, off_t data,
		       unsigned int seed)
{
	uint8_t *buf = malloc(data);
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/src/%s", vol->im.dir, name);
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
	ASSERT_NE(NULL, buf);
	ASSERT_GE(fd, 0);
	pattern_fill(buf, data, 0, seed);
	ASSERT_EQ(data, write(fd, buf, data));
	ASSERT_EQ(0, ftruncate(fd, size));
	ASSERT_EQ(0, close(fd));
	free(buf);
}

/* Mount an image with our file, and others that may share a fragment with it. */
static int volume_make(struct __test_metadata *_metadata, struct volume *vol,
		       off_t size, off_t data)
{
	char path[64];

	if (!image_have("mksquashfs"))
		SKIP(return -1, "no mksquashfs");
	snprintf(path, sizeof(path), "%s/src", vol->im.dir);
	ASSERT_EQ(0, mkdir(path, 0755));
	vol->size = size;
	vol->data = data;
	vol->seed = 2;
	write_file(_metadata, vol, "a", KIB(30), KIB(30), 3);
	write_file(_metadata, vol, "file", size, data, vol->seed);
	write_file(_metadata, vol, "z", KIB(30), KIB(30), 5);
	ASSERT_EQ(0, image_run("mksquashfs %s %s -noappend -b %ld", path,
			       vol->im.path, BLOCK));
	return volume_mount(_metadata, vol);
}

static bool right(const struct volume *vol, const uint8_t *buf, size_t len,
		  off_t pos)
{
	size_t data = pos >= vol->data ? 0 :
		      pos + len > vol->data ? vol->data - pos : len;

	if (pattern_verify(buf, data, pos, vol->seed) >= 0)
		return false;
	for (; data < len; data++)
		if (buf[data])
			return false;
	return true;
}

/* For in_child(). */
static void read_file(void *arg)
{
	const struct volume *vol = arg;
	uint8_t buf[4096];
	off_t pos = 0;
	ssize_t n;

	while ((n = pread(vol->fd, buf, sizeof(buf), pos)) > 0) {
		if (!right(vol, buf, n, pos))
			_exit(1);
		pos += n;
	}
	if (n || pos != vol->size)
		_exit(2);
}

/* Map @len bytes for faults that are not to bring in the neighbourhood. */
static void *map_file(const struct volume *vol, off_t pos, size_t len)
{
	void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, vol->fd, pos);

	if (p == MAP_FAILED)
		return NULL;
	if (madvise(p, len, MADV_RANDOM)) {
		munmap(p, len);
		return NULL;
	}
	return p;
}

FIXTURE(squashfs)
{
	struct volume vol;
};

FIXTURE_SETUP(squashfs)
{
	volume_setup(_metadata, &self->vol);
}

FIXTURE_TEARDOWN(squashfs)
{
	volume_teardown(&self->vol);
}

/* On disk */
struct super_block {
	uint32_t magic, inodes, mkfs_time, block_size, fragments;
	uint16_t compression, block_log, flags, no_ids, major, minor;
	uint64_t root_inode, bytes_used, id_table, xattr_id_table, inode_table,
		 directory_table, fragment_table, lookup_table;
};

struct dir_inode {
	uint16_t type, mode, uid, gid;
	uint32_t mtime, inode_number, start_block, nlink;
	uint16_t file_size, offset;
	uint32_t parent_inode;
};

struct lreg_inode {
	uint16_t type, mode, uid, gid;
	uint32_t mtime, inode_number;
	uint64_t start_block, file_size, sparse;
	uint32_t nlink, fragment, offset, xattr;
};

struct directory {
	uint32_t count, start_block, inode_number;
	uint16_t offset, inode_number_delta, type, size;
	char name[4];
};

#define METADATA	8192

/* Append @len bytes as metadata blocks that are not compressed. */
static bool put_metadata(FILE *f, const void *buf, size_t len)
{
	for (size_t n; len; len -= n, buf += n) {
		uint16_t header;

		n = len < METADATA ? len : METADATA;
		header = htole16(0x8000 | n);
		if (fwrite(&header, sizeof(header), 1, f) != 1 ||
		    fwrite(buf, n, 1, f) != 1)
			return false;
	}
	return true;
}

/* mksquashfs would have to read all of the file: make the image by hand. */
static bool make_sparse(const struct volume *vol)
{
	static const uint32_t id;
	size_t blocks = vol->size / BLOCK_LARGE;
	size_t len = sizeof(struct dir_inode) + sizeof(struct lreg_inode) +
		     blocks * sizeof(uint32_t);
	struct directory dir = {
		.inode_number = htole32(1),
		.offset = htole16(sizeof(struct dir_inode)),
		.inode_number_delta = htole16(1),
		.type = htole16(2),
		.size = htole16(sizeof(dir.name) - 1),
		.name = { 'f', 'i', 'l', 'e' },
	};
	struct super_block sb = {
		.magic = htole32(0x73717368),
		.inodes = htole32(2),
		.block_size = htole32(BLOCK_LARGE),
		.compression = htole16(1),
		.block_log = htole16(20),
		.no_ids = htole16(1),
		.major = htole16(4),
		.xattr_id_table = -1,
		.inode_table = htole64(sizeof(sb)),
		.fragment_table = -1,
		.lookup_table = -1,
	};
	void *inodes = calloc(1, len);
	struct dir_inode *root = inodes;
	struct lreg_inode *file = inodes + sizeof(*root);
	FILE *f = fopen(vol->im.path, "r+");
	uint64_t ids;
	bool ok;

	if (!inodes || !f)
		return false;

	root->type = htole16(1);
	root->mode = htole16(0755);
	root->inode_number = htole32(1);
	root->nlink = htole32(2);
	root->file_size = htole16(sizeof(dir) + 3);
	root->parent_inode = htole32(3);

	file->type = htole16(9);
	file->mode = htole16(0644);
	file->inode_number = htole32(2);
	file->start_block = htole64(sizeof(sb));
	file->file_size = htole64(vol->size);
	file->sparse = htole64(vol->size);
	file->nlink = htole32(1);
	file->fragment = -1;
	file->xattr = -1;

	ok = !fseek(f, sizeof(sb), SEEK_SET) && put_metadata(f, inodes, len);
	sb.directory_table = htole64(ftell(f));
	ok = ok && put_metadata(f, &dir, sizeof(dir));
	ids = htole64(ftell(f));
	ok = ok && put_metadata(f, &id, sizeof(id));
	sb.id_table = htole64(ftell(f));
	ok = ok && fwrite(&ids, sizeof(ids), 1, f) == 1;
	sb.bytes_used = htole64(ftell(f));
	ok = ok && !fseek(f, 0, SEEK_SET) &&
	     fwrite(&sb, sizeof(sb), 1, f) == 1;
	ok = !fclose(f) && ok;
	free(inodes);
	return ok && !truncate(vol->im.path, (le64toh(sb.bytes_used) | 4095) + 1);
}

static void read_last_page(void *arg)
{
	const struct volume *vol = arg;
	off_t pos = vol->size - vol->page;
	uint8_t buf[vol->page];

	memset(buf, 0xff, vol->page);
	if (pread(vol->fd, buf, vol->page, pos) != vol->page ||
	    !right(vol, buf, vol->page, pos))
		_exit(1);
}

/* The page index does not fit into an int. */
TEST_F(squashfs, hole_past_2_to_31_pages)
{
	struct volume *vol = &self->vol;

	vol->size = (off_t)vol->page << 31;
	if (sizeof(long) == 4)
		SKIP(return, "no files as large on 32 bits");
	/* the block list of the file that is read is about 4 bytes per MiB */
	vol->size += BLOCK_LARGE;
	ASSERT_TRUE(make_sparse(vol));
	if (volume_mount(_metadata, vol))
		return;
	EXPECT_EQ(0, in_child(read_last_page, vol, SOON));
}

#define FAILSLAB	"/sys/kernel/debug/failslab/"

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

/* What a file ends with. */
FIXTURE(squashfs_tail)
{
	struct volume vol;
};

FIXTURE_VARIANT(squashfs_tail)
{
	off_t size;
	off_t data;
};

/* Part of a fragment, which has data of other files behind it. */
FIXTURE_VARIANT_ADD(squashfs_tail, fragment_in_page)
{
	.size = 100,
	.data = 100,
};

FIXTURE_VARIANT_ADD(squashfs_tail, fragment)
{
	.size = KIB(20) + 100,
	.data = KIB(20) + 100,
};

FIXTURE_VARIANT_ADD(squashfs_tail, block)
{
	.size = BLOCK + KIB(20) + 100,
	.data = BLOCK + KIB(20) + 100,
};

FIXTURE_VARIANT_ADD(squashfs_tail, hole)
{
	.size = BLOCK + KIB(20) + 100,
	.data = BLOCK,
};

FIXTURE_SETUP(squashfs_tail)
{
	if (!volume_setup(_metadata, &self->vol))
		volume_make(_metadata, &self->vol, variant->size,
			    variant->data);
}

FIXTURE_TEARDOWN(squashfs_tail)
{
	if (!access(FAILSLAB, F_OK)) {
		write_string(FAILSLAB "ignore-gfp-wait", "Y");
		write_string(FAILSLAB "verbose", "2");
	}
	volume_teardown(&self->vol);
}

/* A fault in the last block makes all of it resident, and nothing past EOF. */
TEST_F(squashfs_tail, resident)
{
	struct volume *vol = &self->vol;
	off_t start = (vol->size - 1) & ~(BLOCK - 1);
	size_t pages = BLOCK / vol->page;
	size_t used = (vol->size - start + vol->page - 1) / vol->page;
	size_t inside = 0, past = 0;
	unsigned char *vec = calloc(1, pages);
	void *p = map_file(vol, start, BLOCK);

	ASSERT_NE(NULL, vec);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(0, madvise(p, vol->page, MADV_POPULATE_READ));
	ASSERT_EQ(0, mincore(p, BLOCK, vec));
	for (size_t i = 0; i < pages; i++)
		*(i < used ? &inside : &past) += vec[i] & 1;
	EXPECT_EQ(used, inside);
	EXPECT_EQ(0, past);
	ASSERT_EQ(0, munmap(p, BLOCK));
	free(vec);
	EXPECT_EQ(0, in_child(read_file, vol, SOON));
}

struct failing {
	const struct volume *vol;
	off_t pos;
	unsigned int nth;	/* which allocation is to fail */
};

enum { NONE_LEFT, FAILED, TROUBLE };

static void touch_page_failing(void *arg)
{
	const struct failing *failing = arg;
	char left[16] = "", value[16];
	size_t page = failing->vol->page;
	int fd, n;
	void *p;

	p = map_file(failing->vol, failing->pos, page);
	fd = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC);
	n = sprintf(value, "%u", failing->nth);
	if (!p || fd < 0 || write(fd, value, n) != n)
		_exit(TROUBLE);
	/* the fault may succeed all the same: it is tried again */
	madvise(p, page, MADV_POPULATE_READ);
	if (pread(fd, left, sizeof(left) - 1, 0) <= 0 ||
	    pwrite(fd, "0", 1, 0) != 1)
		_exit(TROUBLE);
	_exit(atoi(left) ? NONE_LEFT : FAILED);
}

/*
 * Whatever allocation of a fault fails, it can be read afterwards: the page that
 * was wanted, those that were locked along with it, and those that need the same
 * metadata or fragment.
 */
TEST_F(squashfs_tail, failed_allocation)
{
	struct volume *vol = &self->vol;
	struct failing failing = {
		.vol = vol,
		.pos = (vol->size - 1) & ~(BLOCK - 1),
	};
	long ret;

	if (access(FAILSLAB, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	if (access(FAILSLAB, F_OK))
		SKIP(return, "no " FAILSLAB " (CONFIG_FAILSLAB)");
	ASSERT_EQ(0, write_string(FAILSLAB "ignore-gfp-wait", "N"));
	ASSERT_EQ(0, write_string(FAILSLAB "verbose", "0"));

	do {
		/* with all caches cold, those of squashfs, too */
		ASSERT_EQ(0, close(vol->fd));
		ASSERT_EQ(0, image_umount(&vol->im));
		ASSERT_EQ(0, volume_mount(_metadata, vol));
		failing.nth++;
		ret = in_child(touch_page_failing, &failing, SOON);
		ASSERT_TRUE(ret == FAILED || ret == NONE_LEFT)
			TH_LOG("touch_page_failing: %ld", ret);
		ASSERT_EQ(0, in_child(read_file, vol, SOON))
			TH_LOG("after allocation %u had failed", failing.nth);
	} while (ret != NONE_LEFT && failing.nth < 1000);
	EXPECT_EQ(NONE_LEFT, ret);
	EXPECT_GT(failing.nth, 1);
}

#define NAMES	3000	/* more metadata than squashfs caches */

/* The number of names in our directory, or a negative errno. */
static int count_names(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;
	int n = 0;

	if (!dir)
		return -errno;
	for (errno = 0; (entry = readdir(dir)); errno = 0)
		n += entry->d_name[0] != '.';
	if (errno)
		n = -errno;
	closedir(dir);
	return n;
}

/*
 * While the medium cannot be read, neither can a file or a directory; the error
 * is not the end of the directory.  Afterwards, both can be read again.
 */
TEST_F(squashfs, medium_fails_for_a_while)
{
	struct volume *vol = &self->vol;
	char path[24], buf[100];
	int dir;

	if (!image_have("mksquashfs"))
		SKIP(return, "no mksquashfs");
	snprintf(path, sizeof(path), "%s/wofs", vol->im.dir);
	ASSERT_EQ(0, mkdir(path, 0755));
	if (mount("none", path, "wofs", 0, NULL)) {
		ASSERT_EQ(ENODEV, errno);
		SKIP(return, "no wofs (CONFIG_TEST_WOFS)");
	}
	snprintf(vol->im.path, sizeof(vol->im.path), "%s/image", path);
	ASSERT_EQ(0, image_run("mkdir -p %s/src/dir", vol->im.dir));
	ASSERT_EQ(0, image_run("cd %s/src/dir && seq -f %%060g %d | xargs touch",
			       vol->im.dir, NAMES));
	vol->size = KIB(20) + 100;
	vol->data = vol->size;
	vol->seed = 2;
	write_file(_metadata, vol, "file", vol->size, vol->data, vol->seed);
	ASSERT_EQ(0, image_run("mksquashfs %s/src %s/made -noappend -noI -b %ld && cp %s/made %s",
			       vol->im.dir, vol->im.dir, BLOCK, vol->im.dir,
			       vol->im.path));
	if (volume_mount(_metadata, vol))
		return;
	snprintf(buf, sizeof(buf), "%s/dir", vol->im.mnt);
	dir = open(buf, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(dir, 0);

	ASSERT_EQ(0, mount("none", path, "wofs", MS_REMOUNT,
			   "fail=eio,fail_op=read"));
	EXPECT_EQ(-1, pread(vol->fd, buf, sizeof(buf), 0));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-EIO, count_names(dir));

	ASSERT_EQ(0, mount("none", path, "wofs", MS_REMOUNT, "fail=none"));
	EXPECT_EQ(NAMES, count_names(dir));
	EXPECT_EQ(0, in_child(read_file, vol, SOON));
	ASSERT_EQ(0, close(dir));
}

TEST_HARNESS_MAIN
