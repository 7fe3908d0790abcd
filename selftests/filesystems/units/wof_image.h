/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What Windows makes of a file that it compresses with XPRESS or LZX ("compact
 * /exe"): a stream with the data, and a reparse point of the Windows Overlay
 * Filter.  No tool for Linux does, but a WIM archive has the same format inside.
 */
#ifndef WOF_IMAGE_H
#define WOF_IMAGE_H

#include <endian.h>

#include "image_test.h"

/* A file in a WIM archive; the table of them is one itself. */
struct resource {
	uint64_t size_and_flags, offset, uncompressed_size;
};

#define TABLE_RESOURCE	48	/* its place in the header of the archive */
#define TABLE_ENTRY	50	/* bytes: a resource and more */
#define SIZE_MASK	((1ULL << 56) - 1)

static void save(struct __test_metadata *_metadata, const char *path,
		 const void *data, size_t len)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);

	ASSERT_GE(fd, 0);
	ASSERT_EQ(len, write(fd, data, len));
	ASSERT_EQ(0, close(fd));
}

/*
 * A compressed file in a WIM archive has the format of the stream that holds
 * the data of a compressed file on NTFS: copy that of @len bytes to @path.
 */
static void extract_compressed(struct __test_metadata *_metadata,
			       const char *wim, size_t len, const char *path)
{
	struct resource table, file;
	uint8_t *data;
	off_t pos;
	int fd;

	fd = open(wim, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	ASSERT_EQ(sizeof(table), pread(fd, &table, sizeof(table),
				       TABLE_RESOURCE));
	pos = le64toh(table.offset);
	do {
		ASSERT_EQ(sizeof(file), pread(fd, &file, sizeof(file), pos));
		pos += TABLE_ENTRY;
	} while (le64toh(file.uncompressed_size) != len);

	len = le64toh(file.size_and_flags) & SIZE_MASK;
	data = malloc(len);
	ASSERT_NE(NULL, data);
	ASSERT_EQ(len, pread(fd, data, len, le64toh(file.offset)));
	save(_metadata, path, data, len);
	free(data);
	close(fd);
}

/*
 * Compress the file @name of the unmounted volume @im, of @len bytes, which are
 * @data; @compress is for wimlib-imagex, @format is its number in the reparse
 * point.  The data of the file itself is not used any more.  It still needs
 * FILE_ATTRIBUTE_REPARSE_POINT.
 */
static void wof_compress(struct __test_metadata *_metadata, struct image *im,
			 const char *name, const uint8_t *data, size_t len,
			 const char *compress, uint32_t format)
{
	const uint32_t reparse_point[] = {
		htole32(0x80000017), htole32(16),
		htole32(1), htole32(2), htole32(1), htole32(format),
	};
	char path[64];

	ASSERT_EQ(0, image_run("rm -rf %s/wim %s/tree && mkdir %s/tree",
			       im->dir, im->dir, im->dir));
	snprintf(path, sizeof(path), "%s/tree/%s", im->dir, name);
	save(_metadata, path, data, len);
	ASSERT_EQ(0, image_run("wimlib-imagex capture %s/tree %s/wim --compress=%s",
			       im->dir, im->dir, compress));

	snprintf(path, sizeof(path), "%s/wim", im->dir);
	extract_compressed(_metadata, path, len, IMAGE_DIR "/stream");
	ASSERT_EQ(0, image_run("ntfscp -q -N WofCompressedData %s %s/stream %s",
			       im->path, im->dir, name));
	save(_metadata, IMAGE_DIR "/reparse_point", reparse_point,
	     sizeof(reparse_point));
	ASSERT_EQ(0, image_run("ntfscp -q -a 0xC0 %s %s/reparse_point %s",
			       im->path, im->dir, name));
}

#endif /* WOF_IMAGE_H */
