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
#include <sys/syscall.h>

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

/* Of the inode that follows the root's. */
static struct directory file_entry(void)
{
	return (struct directory) {
		.inode_number = htole32(1),
		.offset = htole16(sizeof(struct dir_inode)),
		.inode_number_delta = htole16(1),
		.type = htole16(2),
		.size = htole16(3),
		.name = { 'f', 'i', 'l', 'e' },
	};
}

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

/*
 * mksquashfs would have to read all of the file, and makes no broken directory:
 * make the image by hand. If @more is not NULL it follows the file's entry.
 */
static bool make_sparse(const struct volume *vol, const struct directory *more)
{
	static const uint32_t id;
	size_t blocks = vol->size / BLOCK_LARGE;
	size_t len = sizeof(struct dir_inode) + sizeof(struct lreg_inode) +
		     blocks * sizeof(uint32_t);
	struct directory dir[] = { file_entry(), more ? *more : file_entry() };
	size_t dir_len = more ? sizeof(dir) : sizeof(dir[0]);
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
	root->file_size = htole16(dir_len + 3);
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
	ok = ok && put_metadata(f, dir, dir_len);
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
	ASSERT_TRUE(make_sparse(vol, NULL));
	if (volume_mount(_metadata, vol))
		return;
	EXPECT_EQ(0, in_child(read_last_page, vol, SOON));
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

/*
 * Part of a fragment, which has data of other files behind it.  What is longer than
 * a page is longer than half a block, too.
 */
FIXTURE_VARIANT_ADD(squashfs_tail, fragment_in_page)
{
	.size = 100,
	.data = 100,
};

FIXTURE_VARIANT_ADD(squashfs_tail, fragment)
{
	.size = KIB(66) + 100,
	.data = KIB(66) + 100,
};

FIXTURE_VARIANT_ADD(squashfs_tail, block)
{
	.size = BLOCK + KIB(66) + 100,
	.data = BLOCK + KIB(66) + 100,
};

FIXTURE_VARIANT_ADD(squashfs_tail, hole)
{
	.size = BLOCK + KIB(66) + 100,
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
	volume_teardown(&self->vol);
}

/* A fault in the last block makes all of it resident, and nothing past EOF. */
TEST_F(squashfs_tail, resident)
{
	struct volume *vol = &self->vol;
	off_t start = (vol->size - 1) & ~(BLOCK - 1);
	size_t pages = BLOCK / vol->page;
	size_t used = (vol->size - start + vol->page - 1) / vol->page;
	const size_t faults[] = { 0, used - 1 };
	unsigned char *vec = calloc(1, pages);

	ASSERT_NE(NULL, vec);
	for (size_t n = 0; n < ARRAY_SIZE(faults); n++) {
		size_t inside = 0, past = 0;
		void *p = map_file(vol, start, BLOCK);

		ASSERT_NE(NULL, p);
		ASSERT_EQ(0, madvise(p + faults[n] * vol->page, vol->page,
				     MADV_POPULATE_READ));
		ASSERT_EQ(0, mincore(p, BLOCK, vec));
		for (size_t i = 0; i < pages; i++)
			*(i < used ? &inside : &past) += vec[i] & 1;
		EXPECT_EQ(used, inside);
		EXPECT_EQ(0, past);
		ASSERT_EQ(0, munmap(p, BLOCK));
		EXPECT_EQ(0, in_child(read_file, vol, SOON));
		ASSERT_EQ(0, posix_fadvise(vol->fd, 0, 0, POSIX_FADV_DONTNEED));
	}
	free(vec);
}

struct failing {
	const struct volume *vol;
	off_t pos;
	unsigned int nth;	/* which allocation is to fail */
};

enum { NONE_LEFT, TROUBLE = KSFT_FAIL, FAILED };

static void touch_page_failing(void *arg)
{
	const struct failing *failing = arg;
	size_t page = failing->vol->page;
	int fd;
	void *p;

	p = map_file(failing->vol, failing->pos, page);
	if (!p)
		_exit(TROUBLE);
	fd = image_fail_nth(failing->nth);
	/* the fault may succeed all the same: it is tried again */
	madvise(p, page, MADV_POPULATE_READ);
	_exit(image_has_failed(fd) ? FAILED : NONE_LEFT);
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

	if (image_faults(FAILSLAB))
		SKIP(return, "no " FAILSLAB " (CONFIG_FAILSLAB)");
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

struct listing {
	int dir;
	unsigned int nth;	/* which allocation is to fail */
};

static int list(int dir, void *buf, size_t len)
{
	return syscall(SYS_getdents64, dir, buf, len) < 0 ? -errno : 0;
}

static void list_failing(void *arg)
{
	const struct listing *listing = arg;
	char entries[4096];
	int fd, err;

	/* once without: all that page faults allocate is there then */
	if (lseek(listing->dir, 0, SEEK_SET) ||
	    list(listing->dir, entries, sizeof(entries)) ||
	    lseek(listing->dir, 0, SEEK_SET))
		_exit(TROUBLE);
	fd = image_fail_nth(listing->nth);
	err = list(listing->dir, entries, sizeof(entries));
	if (!image_has_failed(fd))
		_exit(NONE_LEFT);
	_exit(err == -ENOMEM ? FAILED : TROUBLE);
}

/* A directory that there is no memory to list is not an empty one. */
TEST_F(squashfs, list_without_memory)
{
	struct volume *vol = &self->vol;
	struct listing listing = {};
	long ret;

	vol->size = BLOCK_LARGE;
	ASSERT_TRUE(make_sparse(vol, NULL));
	if (volume_mount(_metadata, vol))
		return;
	if (image_faults(FAILSLAB))
		SKIP(return, "no " FAILSLAB " (CONFIG_FAILSLAB)");
	listing.dir = open(vol->im.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_EQ(1, count_names(listing.dir));
	do {
		listing.nth++;
		ret = in_child(list_failing, &listing, SOON);
	} while (ret == FAILED && listing.nth < 100);
	EXPECT_EQ(NONE_LEFT, ret);
	EXPECT_GT(listing.nth, 1);
	ASSERT_EQ(0, close(listing.dir));
}

/* An entry that is not valid ends the listing with EIO: later ones are missing. */
TEST_F(squashfs, broken_directory)
{
	struct volume *vol = &self->vol;
	struct directory more[4];

	for (int i = 0; i < ARRAY_SIZE(more); i++)
		more[i] = file_entry();
	more[1].count = htole32(256);
	more[2].size = htole16(256);
	more[3].type = htole16(8);

	vol->size = BLOCK_LARGE;
	for (int i = 0; i < ARRAY_SIZE(more); i++) {
		int dir;

		more[i].name[0] = 'm';
		ASSERT_TRUE(make_sparse(vol, &more[i]));
		if (volume_mount(_metadata, vol))
			return;
		dir = open(vol->im.mnt, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		EXPECT_EQ(i ? -EIO : 2, count_names(dir))
			TH_LOG("%d", i);
		ASSERT_EQ(0, close(dir));
		ASSERT_EQ(0, close(vol->fd));
		vol->fd = -1;
		ASSERT_EQ(0, image_umount(&vol->im));
	}
}

#define NAMES	3000	/* more metadata than squashfs caches */

/*
 * A fragment that cannot be read says nothing about the one in block 0; that is not
 * a block mksquashfs would use.
 */
TEST_F(squashfs, broken_fragment)
{
	struct volume *vol = &self->vol;
	struct {
		uint64_t start;
		uint32_t size, unused;
	} fragments[2];
	uint8_t want[KIB(4)], buf[KIB(4)];
	struct super_block sb;
	uint64_t pos;
	int image, other;

	if (!image_have("mksquashfs"))
		SKIP(return, "no mksquashfs");
	ASSERT_EQ(0, image_run("mkdir %s/src", vol->im.dir));
	/* not both in one fragment */
	write_file(_metadata, vol, "file", BLOCK - 1, BLOCK - 1, 3);
	write_file(_metadata, vol, "other", BLOCK - 1, BLOCK - 1, 5);
	ASSERT_EQ(0, image_run("mksquashfs %s/src %s -noappend -noF -b %ld",
			       vol->im.dir, vol->im.path, BLOCK));
	image = open(vol->im.path, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(sizeof(sb), pread(image, &sb, sizeof(sb), 0));
	ASSERT_EQ(sizeof(pos), pread(image, &pos, sizeof(pos),
				     le64toh(sb.fragment_table)));
	pos = le64toh(pos) + 2;
	ASSERT_EQ(sizeof(fragments), pread(image, fragments, sizeof(fragments),
					   pos));
	ASSERT_EQ(htole32(1 << 24 | (BLOCK - 1)), fragments[0].size);
	fragments[0].start = 0;
	fragments[1].start = sb.bytes_used;
	ASSERT_EQ(sizeof(fragments), pwrite(image, fragments, sizeof(fragments),
					    pos));
	ASSERT_EQ(sizeof(want), pread(image, want, sizeof(want), 0));
	ASSERT_EQ(0, close(image));
	if (volume_mount(_metadata, vol))
		return;

	snprintf((char *)buf, sizeof(buf), "%s/other", vol->im.mnt);
	other = open((char *)buf, O_RDONLY | O_CLOEXEC);
	EXPECT_EQ(-1, pread(other, buf, sizeof(buf), 0));
	EXPECT_EQ(EIO, errno);
	ASSERT_EQ(0, close(other));
	ASSERT_EQ(sizeof(buf), pread(vol->fd, buf, sizeof(buf), 0));
	EXPECT_EQ(0, memcmp(want, buf, sizeof(buf)));
}

/* For in_child(). Each failure takes an entry of a cache, if it does not put it. */
static void readlink_failing(void *arg)
{
	char target[8];

	for (int i = 0; i < 20; i++)
		if (readlinkat(*(int *)arg, "", target, sizeof(target)) >= 0 ||
		    errno != EIO)
			_exit(1);
}

/*
 * While the medium cannot be read, neither can a file, a link or a directory; the
 * error is not the end of the directory.  Afterwards, they can be read again.
 */
TEST_F(squashfs, medium_fails_for_a_while)
{
	struct volume *vol = &self->vol;
	char path[24], buf[100];
	int dir, link;

	if (!image_have("mksquashfs"))
		SKIP(return, "no mksquashfs");
	snprintf(path, sizeof(path), "%s/faultfs", vol->im.dir);
	ASSERT_EQ(0, mkdir(path, 0755));
	if (mount("none", path, "faultfs", 0, NULL)) {
		ASSERT_EQ(ENODEV, errno);
		SKIP(return, "no faultfs (CONFIG_TEST_FAULTFS)");
	}
	snprintf(vol->im.path, sizeof(vol->im.path), "%s/image", path);
	ASSERT_EQ(0, image_run("mkdir -p %s/src/dir && ln -s file %s/src/dir/+link",
			       vol->im.dir, vol->im.dir));
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
	snprintf(buf, sizeof(buf), "%s/dir/+link", vol->im.mnt);
	link = open(buf, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	ASSERT_GE(link, 0);
	/* the metadata of the link, which are far from those of dir, get evicted */
	ASSERT_EQ(NAMES + 1, count_names(dir));

	ASSERT_EQ(0, mount("none", path, "faultfs", MS_REMOUNT,
			   "fail=eio,fail_op=read"));
	EXPECT_EQ(0, in_child(readlink_failing, &link, SOON));
	EXPECT_EQ(-1, pread(vol->fd, buf, sizeof(buf), 0));
	EXPECT_EQ(EIO, errno);
	EXPECT_EQ(-EIO, count_names(dir));

	ASSERT_EQ(0, mount("none", path, "faultfs", MS_REMOUNT, "fail=none"));
	EXPECT_EQ(NAMES + 1, count_names(dir));
	EXPECT_EQ(0, in_child(read_file, vol, SOON));
	EXPECT_EQ(4, readlinkat(link, "", buf, sizeof(buf)));
	ASSERT_EQ(0, close(link));
	ASSERT_EQ(0, close(dir));
}

TEST_HARNESS_MAIN
