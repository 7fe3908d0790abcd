// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading files that Windows has compressed ("compact.exe /exe", WOF).
 *
 * A read of one page decompresses a chunk of 4 to 32 KiB, and fills all pages
 * of the chunk that are available without waiting.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <linux/fiemap.h>

#include "wof_image.h"

/* Not a multiple of any chunk or page. */
#define SIZE	(MIB(1) + 12345)

#define THREADS	4
#define CLUSTER	4096

struct volume {
	struct image im;
	size_t page;
	int fd;			/* the file that is read */
	const uint8_t *data;	/* and what it holds */
};

FIXTURE(ntfs_wof)
{
	struct volume vol;
};

FIXTURE_VARIANT(ntfs_wof)
{
	const char *compress;	/* options of wimlib-imagex */
	off_t chunk;
	uint32_t format;	/* on disk */
};

FIXTURE_VARIANT_ADD(ntfs_wof, xpress4k)
{
	.compress = "XPRESS --chunk-size=4K",
	.chunk = KIB(4),
	.format = 0,
};

FIXTURE_VARIANT_ADD(ntfs_wof, xpress8k)
{
	.compress = "XPRESS --chunk-size=8K",
	.chunk = KIB(8),
	.format = 2,
};

FIXTURE_VARIANT_ADD(ntfs_wof, xpress16k)
{
	.compress = "XPRESS --chunk-size=16K",
	.chunk = KIB(16),
	.format = 3,
};

FIXTURE_VARIANT_ADD(ntfs_wof, lzx)
{
	.compress = "LZX --chunk-size=32K",
	.chunk = KIB(32),
	.format = 1,
};

/*
 * Text, noise and what looks like x86 calls, which LZX treats apart.  The first
 * page is that of swap space.
 */
static void make_data(uint8_t *buf)
{
	static const char text[] = "the quick brown fox ";
	size_t page = sysconf(_SC_PAGESIZE);
	uint32_t *info = (uint32_t *)(buf + 1024);

	for (off_t pos = 0; pos < SIZE; pos++) {
		if (pos % 16 < 8)
			buf[pos] = text[(pos / 16 + pos) % (sizeof(text) - 1)];
		else if (pos % 16 == 8)
			buf[pos] = 0xe8;
		else if (pos % 16 < 11)
			buf[pos] = pattern(pos, 1);
		else
			buf[pos] = 0;
	}
	memset(buf + 1024, 0, page - 1024);
	info[0] = 1;			/* version */
	info[1] = SIZE / page - 1;	/* last page */
	memcpy(buf + page - 10, "SWAPSPACE2", 10);
}

/*
 * The data of the file itself is a hole.  Non-zero if the test has been marked
 * as skipped.
 */
static int make_image(struct __test_metadata *_metadata, struct image *im,
		      const char *compress, uint32_t format,
		      const uint8_t *data)
{
	const uint32_t attributes = htole32(0x420);
	char path[64];
	int err;

	ASSERT_EQ(0, image_run("mkntfs -q -f -F -s 512 -c %d %s", CLUSTER,
			       im->path));
	ASSERT_EQ(0, image_run("truncate -s %ld %s/hole && ntfscp -q %s %s/hole file",
			       SIZE, im->dir, im->path, im->dir));
	wof_compress(_metadata, im, "file", data, SIZE, compress, format);

	err = image_mount(im, "ntfs", 0, NULL);
	if (err == -ENODEV)
		SKIP(return err, "no ntfs (CONFIG_NTFS_FS)");
	ASSERT_EQ(0, err);
	snprintf(path, sizeof(path), "%s/file", im->mnt);
	ASSERT_EQ(0, setxattr(path, "system.ntfs_attrib", &attributes,
			      sizeof(attributes), 0));
	ASSERT_EQ(0, image_umount(im));
	return 0;
}

FIXTURE_SETUP(ntfs_wof)
{
	struct volume *vol = &self->vol;
	uint8_t *data = malloc(SIZE);
	char path[64];

	vol->fd = -1;
	vol->page = sysconf(_SC_PAGESIZE);
	ASSERT_NE(NULL, data);
	make_data(data);
	vol->data = data;

	if (!image_have("wimlib-imagex"))
		SKIP(return, "no wimlib-imagex");
	if (!image_have("mkntfs") || !image_have("ntfscp"))
		SKIP(return, "no mkntfs or ntfscp");
	if (image_setup(&vol->im, _metadata, MIB(16)))
		return;
	if (make_image(_metadata, &vol->im, variant->compress, variant->format,
		       data))
		return;

	ASSERT_EQ(0, image_mount(&vol->im, "ntfs", MS_RDONLY, NULL));
	snprintf(path, sizeof(path), "%s/file", vol->im.mnt);
	vol->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (vol->fd < 0 && errno == EOPNOTSUPP)
		SKIP(return, "no CONFIG_NTFS_FS_WOF_COMPRESSION");
	ASSERT_GE(vol->fd, 0);
}

FIXTURE_TEARDOWN(ntfs_wof)
{
	if (self->vol.fd >= 0)
		close(self->vol.fd);
	image_teardown(&self->vol.im);
	free((void *)self->vol.data);
}

/* Read [pos, pos + len) and compare. */
static bool reads_right(const struct volume *vol, off_t pos, size_t len)
{
	uint8_t buf[len];
	ssize_t n;

	n = pread(vol->fd, buf, len, pos);
	return n == (pos + (off_t)len > SIZE ? SIZE - pos : (off_t)len) &&
	       !memcmp(buf, vol->data + pos, n);
}

static void forget(const struct volume *vol, off_t pos, off_t len)
{
	if (posix_fadvise(vol->fd, pos, len, POSIX_FADV_DONTNEED))
		ksft_exit_fail_perror("fadvise");
}

TEST_F(ntfs_wof, sequential)
{
	static const size_t sizes[] = { 1000, 4096, 65536 };

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		drop_clean_caches();
		for (off_t pos = 0; pos < SIZE; pos += sizes[i]) {
			ASSERT_TRUE(reads_right(&self->vol, pos, sizes[i]))
				TH_LOG("%zu bytes at %lld", sizes[i],
				       (long long)pos);
		}
	}
}

struct reader {
	const struct volume *vol;
	unsigned int seed;
	bool wrong;
};

/* Read pages here and there, and forget others. */
static void *read_randomly(void *arg)
{
	struct reader *reader = arg;
	size_t page = reader->vol->page;
	off_t pages = SIZE / page;

	for (int i = 0; i < 300 && !reader->wrong; i++) {
		off_t pos = rand_r(&reader->seed) % pages * page;
		off_t old = rand_r(&reader->seed) % pages * page;

		forget(reader->vol, old, (1 + rand_r(&reader->seed) % 3) * page);
		reader->wrong = !reads_right(reader->vol, pos, page);
	}
	return NULL;
}

TEST_F(ntfs_wof, random)
{
	struct reader reader = { .vol = &self->vol, .seed = 1 };

	read_randomly(&reader);
	EXPECT_FALSE(reader.wrong);
}

/* For in_child(). */
static void read_concurrently(void *arg)
{
	struct reader readers[THREADS];
	pthread_t threads[THREADS];
	bool wrong = false;

	for (int i = 0; i < THREADS; i++) {
		readers[i] = (struct reader) { .vol = arg, .seed = i };
		if (pthread_create(&threads[i], NULL, read_randomly,
				   &readers[i]))
			_exit(2);
	}
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		wrong |= readers[i].wrong;
	}
	_exit(wrong);
}

TEST_F_TIMEOUT(ntfs_wof, concurrent, 5 * SOON)
{
	EXPECT_EQ(0, in_child(read_concurrently, &self->vol, 4 * SOON));
}

/* Does the page cache have the data of page @index? */
static bool is_cached(const struct volume *vol, off_t index)
{
	uint8_t byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };

	return preadv2(vol->fd, &iov, 1, index * vol->page, RWF_NOWAIT) == 1;
}

/* A read of one page fills the others of its chunk, and none of another one. */
TEST_F(ntfs_wof, fills_the_chunk)
{
	struct volume *vol = &self->vol;
	off_t pages = (variant->chunk + vol->page - 1) / vol->page;

	for (off_t first = pages; first < 2 * pages; first++) {
		drop_clean_caches();
		ASSERT_TRUE(reads_right(vol, first * vol->page, 1));
		for (off_t i = 0; i < 3 * pages; i++)
			EXPECT_EQ(i / pages == 1, is_cached(vol, i));
		EXPECT_TRUE(reads_right(vol, 0, 3 * pages * vol->page));
	}
}

/* Each allocation of a read fails in turn: the read does not, or says so. */
TEST_F(ntfs_wof, allocation_fails)
{
	struct volume *vol = &self->vol;
	bool failed = true;
	int fd, nth;
	char byte;

	if (image_faults(FAILSLAB))
		SKIP(return, "needs CONFIG_FAILSLAB");
	for (nth = 1; failed && nth < 1000; nth++) {
		forget(vol, 0, SIZE);
		fd = image_fail_nth(nth);
		if (pread(vol->fd, &byte, 1, variant->chunk) != 1)
			EXPECT_EQ(ENOMEM, errno)
				TH_LOG("allocation %d", nth);
		failed = image_has_failed(fd);
		EXPECT_TRUE(reads_right(vol, 0, 3 * variant->chunk));
	}
	EXPECT_GT(nth, 2);
	EXPECT_LT(nth, 1000);
}

/* What is on disk is not the data: FIBMAP and FIEMAP do not report it. */
TEST_F(ntfs_wof, has_no_map)
{
	struct fiemap fiemap = { .fm_length = ~0ULL };
	int block = 0;

	EXPECT_EQ(-1, ioctl(self->vol.fd, FS_IOC_FIEMAP, &fiemap));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(0, ioctl(self->vol.fd, FIBMAP, &block));
	EXPECT_EQ(0, block);
	EXPECT_EQ(-1, lseek(self->vol.fd, 0, SEEK_DATA));
	EXPECT_EQ(EOPNOTSUPP, errno);
	EXPECT_EQ(-1, lseek(self->vol.fd, 0, SEEK_HOLE));
	EXPECT_EQ(EOPNOTSUPP, errno);
}

/* Where the compressed data begins in the image. */
static off_t find_stream(struct __test_metadata *_metadata,
			 const struct volume *vol, int image)
{
	uint8_t want[512], got[sizeof(want)];
	int fd = open(IMAGE_DIR "/stream", O_RDONLY | O_CLOEXEC);
	off_t pos = 0;

	ASSERT_GE(fd, 0);
	ASSERT_EQ(sizeof(want), read(fd, want, sizeof(want)));
	close(fd);
	for (;; pos += CLUSTER) {
		ASSERT_EQ(sizeof(got), pread(image, got, sizeof(got), pos));
		if (!memcmp(got, want, sizeof(got)))
			return pos;
	}
}

/*
 * To fill a page of a chunk, ntfs decompresses the chunk.  It must not do so into
 * the uptodate pages of it, which others may read.  The test sees that because
 * the image has other data by then.
 */
TEST_F(ntfs_wof, uptodate_pages_are_stable)
{
	struct volume *vol = &self->vol;
	off_t chunks = (SIZE + variant->chunk - 1) / variant->chunk;
	/* where a page is a chunk, the neighbour is of another */
	bool alone = variant->chunk <= (off_t)vol->page;
	off_t lost = alone ? 0 : variant->chunk - vol->page;
	off_t kept = alone ? vol->page : 0;
	uint8_t good[64], bad[sizeof(good)], buf[vol->page];
	int image = open(vol->im.path, O_RDWR | O_CLOEXEC);
	off_t pos;

	ASSERT_GE(image, 0);
	/* a table of all chunks but the first comes before the chunks */
	pos = find_stream(_metadata, vol, image) + 4 * (chunks - 1);
	ASSERT_EQ(sizeof(good), pread(image, good, sizeof(good), pos));
	for (size_t i = 0; i < sizeof(bad); i++)
		bad[i] = ~good[i];

	ASSERT_TRUE(reads_right(vol, lost, vol->page));
	ASSERT_TRUE(reads_right(vol, kept, vol->page));
	ASSERT_EQ(sizeof(bad), pwrite(image, bad, sizeof(bad), pos));
	forget(vol, lost, vol->page);
	if (pread(vol->fd, buf, vol->page, lost) == (ssize_t)vol->page)
		EXPECT_NE(0, memcmp(buf, vol->data + lost, vol->page));
	EXPECT_TRUE(reads_right(vol, kept, vol->page));

	ASSERT_EQ(sizeof(good), pwrite(image, good, sizeof(good), pos));
	close(image);
	drop_clean_caches();
	EXPECT_TRUE(reads_right(vol, lost, vol->page));
	EXPECT_TRUE(reads_right(vol, kept, vol->page));
}

/* A chunk that cannot be decompressed is an error for each of its pages. */
TEST_F(ntfs_wof, corrupt_chunk)
{
	struct volume *vol = &self->vol;
	off_t chunks = (SIZE + variant->chunk - 1) / variant->chunk;
	uint8_t good[512], bad[sizeof(good)], byte;
	int image = open(vol->im.path, O_RDWR | O_CLOEXEC);
	off_t pos, at;

	ASSERT_GE(image, 0);
	pos = find_stream(_metadata, vol, image) + 4 * (chunks - 1);
	ASSERT_EQ(sizeof(good), pread(image, good, sizeof(good), pos));
	memset(bad, 0xff, sizeof(bad));
	ASSERT_EQ(sizeof(bad), pwrite(image, bad, sizeof(bad), pos));
	drop_clean_caches();
	for (at = 0; at < variant->chunk; at += vol->page) {
		EXPECT_EQ(-1, pread(vol->fd, &byte, 1, at));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_TRUE(reads_right(vol, variant->chunk, variant->chunk));

	ASSERT_EQ(sizeof(good), pwrite(image, good, sizeof(good), pos));
	close(image);
	EXPECT_TRUE(reads_right(vol, 0, variant->chunk));
}

/* The runlist of the file is a hole. */
TEST_F(ntfs_wof, swapfile_is_refused)
{
	struct volume *vol = &self->vol;
	char path[64];

	if (access("/proc/swaps", F_OK))
		SKIP(return, "no CONFIG_SWAP");
	ASSERT_EQ(0, close(vol->fd));
	vol->fd = -1;
	ASSERT_EQ(0, image_umount(&vol->im));
	ASSERT_EQ(0, image_mount(&vol->im, "ntfs", 0, NULL));
	snprintf(path, sizeof(path), "%s/file", vol->im.mnt);
	EXPECT_EQ(-1, swapon(path, 0));
	EXPECT_EQ(EOPNOTSUPP, errno);
}

TEST_HARNESS_MAIN
