// SPDX-License-Identifier: GPL-2.0-only
/*
 * Data through loop devices, and what becomes of the errors and the short
 * transfers of the backing file.
 *
 * Each test of the fixture io is run with buffered and with direct I/O to the
 * backing file. The data that was written is compared with what the device
 * returns and with the backing file.
 */
#include <pthread.h>

#include "loop_test.h"

#define IMAGE		FAULTFS "/image"
#define SIZE		MIB(4)

/* Seeds of what the image holds at first, and of what is written then. */
#define OLD		1
#define NEW		2

FIXTURE(io) {
	struct loop lo;
	int file;			/* the backing file, as loop has it */
	int direct;			/* the device, open with O_DIRECT */
	unsigned char *shadow;		/* what it should hold */
	unsigned char *buf;
};

FIXTURE_VARIANT(io) {
	const char *options;		/* of faultfs */
	bool direct;			/* loop does direct I/O */
	bool window;			/* the file has no iter methods */
};

FIXTURE_VARIANT_ADD(io, iter) {
	.options = "io=iter",
};

FIXTURE_VARIANT_ADD(io, iter_direct) {
	.options = "io=iter,dio_align=512",
	.direct = true,
};

/* memory need not be aligned as offsets are */
FIXTURE_VARIANT_ADD(io, iter_direct_mem) {
	.options = "io=iter,dio_align=512,dio_mem_align=4",
	.direct = true,
};

FIXTURE_VARIANT_ADD(io, iter_aio) {
	.options = "io=iter,dio_align=512,aio",
	.direct = true,
};

/* files without iter methods */
FIXTURE_VARIANT_ADD(io, write) {
	.options = "io=write",
	.window = true,
};

FIXTURE_VARIANT_ADD(io, mixed) {
	.options = "io=mixed",
	.window = true,
};

static int detach(FIXTURE_DATA(io) * self)
{
	if (self->direct >= 0)
		close(self->direct);
	if (self->file >= 0)
		close(self->file);
	self->direct = -1;
	self->file = -1;
	return loop_detach(&self->lo);
}

/* Open the image and bind a device to it, as @args says. */
static int attach(FIXTURE_DATA(io) * self, const FIXTURE_VARIANT(io) * variant,
		  struct loop_args args)
{
	int err;

	self->file = open(IMAGE, O_RDWR | O_CLOEXEC);
	if (self->file < 0)
		return -errno;
	args.file = self->file;
	args.mode = O_RDWR;
	if (variant->direct)
		args.flags |= LO_FLAGS_DIRECT_IO;
	err = loop_attach(&self->lo, &args);
	if (err)
		return err;
	self->direct = open(self->lo.dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	return self->direct < 0 ? -errno : 0;
}

static void check_direct(struct __test_metadata *_metadata,
			 FIXTURE_DATA(io) * self, bool direct)
{
	struct loop_info64 info;

	ASSERT_EQ(loop_status(&self->lo, &info), 0);
	ASSERT_EQ(!!(info.lo_flags & LO_FLAGS_DIRECT_IO), direct);
}

static void reattach(struct __test_metadata *_metadata, FIXTURE_DATA(io) * self,
		     const FIXTURE_VARIANT(io) * variant, struct loop_args args)
{
	ASSERT_EQ(detach(self), 0);
	ASSERT_EQ(attach(self, variant, args), 0);
}

/* Fill the whole image with a pattern, not through the device. */
static void fill_image(struct __test_metadata *_metadata,
		       FIXTURE_DATA(io) * self, unsigned int seed)
{
	int fd = open(IMAGE, O_WRONLY | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	pattern_fill(self->shadow, SIZE, 0, seed);
	ASSERT_EQ(pwrite_full(fd, self->shadow, SIZE, 0), (ssize_t)SIZE);
	close(fd);
}

static void read_image(struct __test_metadata *_metadata, void *buf)
{
	int fd = open(IMAGE, O_RDONLY | O_CLOEXEC);

	ASSERT_GE(fd, 0);
	ASSERT_EQ(pread_full(fd, buf, SIZE, 0), (ssize_t)SIZE);
	close(fd);
}

/* Neither the image nor the device may differ from the shadow anywhere. */
static void check_image(struct __test_metadata *_metadata,
			FIXTURE_DATA(io) * self)
{
	read_image(_metadata, self->buf);
	ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1)
		TH_LOG("the backing file differs");
	ASSERT_EQ(pread_full(self->direct, self->buf, SIZE, 0), (ssize_t)SIZE);
	ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1)
		TH_LOG("what the device returns differs");
}

FIXTURE_SETUP(io)
{
	int fd, err;

	self->lo.fd = -1;
	self->file = -1;
	self->direct = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	self->shadow = alloc_pages(SIZE);
	self->buf = alloc_pages(SIZE);
	ASSERT_NE(self->shadow, NULL);
	ASSERT_NE(self->buf, NULL);
	fd = make_file(IMAGE, SIZE);
	ASSERT_GE(fd, 0);
	close(fd);
	fill_image(_metadata, self, OLD);
	err = attach(self, variant, (struct loop_args){});
	if (err == -EINVAL && variant->window && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(err, 0);
	check_direct(_metadata, self, variant->direct);
}

FIXTURE_TEARDOWN(io)
{
	EXPECT_EQ(remount_faultfs(FAULTFS, "fail=none,short=0,delay=0"), 0);
	EXPECT_EQ(detach(self), 0);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
	free(self->shadow);
	free(self->buf);
}

TEST_F(io, sizes)
{
	static const size_t sizes[] = {
		512, 1024, 2560, KIB(4), KIB(4) + 512, KIB(64), KIB(64) + 1536,
		KIB(512), MIB(1),
	};
	static const off_t offsets[] = {
		0, 512, 3584, KIB(4), KIB(128) + 512, MIB(1) + 1024,
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (unsigned int j = 0; j <= ARRAY_SIZE(offsets); j++) {
			unsigned int seed = NEW + i * 16 + j;
			ssize_t len = sizes[i];
			/* the last one ends where the device ends */
			off_t pos = j < ARRAY_SIZE(offsets) ? offsets[j] :
							(off_t)SIZE - len;

			pattern_fill(self->shadow + pos, len, pos, seed);
			ASSERT_EQ(pwrite(self->direct, self->shadow + pos, len,
					 pos), len);
			memset(self->buf, 0, len);
			ASSERT_EQ(pread(self->direct, self->buf, len, pos),
				  len);
			ASSERT_EQ(pattern_verify(self->buf, len, pos, seed), -1)
				TH_LOG("%zd bytes at %lld", len,
				       (long long)pos);
		}
	}
	check_image(_metadata, self);
}

TEST_F(io, buffered)
{
	static const size_t sizes[] = {
		1, 511, 513, 4095, KIB(4), KIB(64) + 1, MIB(1) + 100,
	};
	unsigned int seed = NEW;

	for (off_t pos = 0; pos < 3000; pos += 999) {
		for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++, seed++) {
			ssize_t len = sizes[i];
			off_t at = pos + i * KIB(300);

			pattern_fill(self->shadow + at, len, at, seed);
			ASSERT_EQ(pwrite(self->lo.fd, self->shadow + at, len,
					 at), len);
		}
		ASSERT_EQ(fsync(self->lo.fd), 0);
		read_image(_metadata, self->buf);
		ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1);
	}
	ASSERT_EQ(ioctl(self->lo.fd, BLKFLSBUF), 0);
	ASSERT_EQ(pread_full(self->lo.fd, self->buf, SIZE, 0), (ssize_t)SIZE);
	ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1);
}

TEST_F(io, offset_sizelimit)
{
	/* the last one is not possible with direct I/O to the file */
	static const size_t offsets[] = { KIB(4), 1536, 1001 };
	ssize_t len = KIB(64) + SECTOR;

	for (unsigned int i = 0; i < ARRAY_SIZE(offsets); i++) {
		size_t offset = offsets[i];

		reattach(_metadata, self, variant, (struct loop_args){
				.offset = offset,
				.sizelimit = len,
		});
		check_direct(_metadata, self,
			     variant->direct && !(offset % SECTOR));
		ASSERT_EQ(device_size(self->lo.fd), len);

		pattern_fill(self->buf, len, 0, NEW + i);
		memcpy(self->shadow + offset, self->buf, len);
		ASSERT_EQ(pwrite(self->direct, self->buf, len, 0), len);
		ASSERT_EQ(pwrite(self->direct, self->buf, SECTOR, len), -1);
		ASSERT_EQ(errno, ENOSPC);
		ASSERT_EQ(pread(self->direct, self->buf, SECTOR, len), 0);
		memset(self->buf, 0, len);
		ASSERT_EQ(pread(self->direct, self->buf, len, 0), len);
		ASSERT_EQ(pattern_verify(self->buf, len, 0, NEW + i), -1);

		read_image(_metadata, self->buf);
		ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1)
			TH_LOG("offset %zu", offset);
	}
}

TEST_F(io, block_size)
{
	static const ssize_t sizes[] = { 512, 4096 };

	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		ssize_t bs = sizes[i];
		off_t pos = 5 * bs;
		int size;

		reattach(_metadata, self, variant, (struct loop_args){
				.block_size = bs,
		});
		check_direct(_metadata, self, variant->direct);
		ASSERT_EQ(ioctl(self->lo.fd, BLKSSZGET, &size), 0);
		ASSERT_EQ(size, bs);

		ASSERT_EQ(pwrite(self->direct, self->buf, bs / 2, pos), -1);
		ASSERT_EQ(errno, EINVAL);
		ASSERT_EQ(pread(self->direct, self->buf, bs, bs / 2), -1);
		ASSERT_EQ(errno, EINVAL);
		pattern_fill(self->shadow + pos, bs, pos, NEW + i);
		ASSERT_EQ(pwrite(self->direct, self->shadow + pos, bs, pos),
			  bs);
		check_image(_metadata, self);
	}
}

TEST_F(io, partition)
{
	unsigned int start = 63, sectors = 2000;
	char attr[64], path[64];
	unsigned char *mbr = self->shadow, *entry = mbr + 446;
	ssize_t len = sectors * SECTOR;
	int fd;

	memset(mbr, 0, SECTOR);
	entry[4] = 0x83;
	for (int i = 0; i < 4; i++) {
		entry[8 + i] = start >> (8 * i);
		entry[12 + i] = sectors >> (8 * i);
	}
	mbr[510] = 0x55;
	mbr[511] = 0xaa;
	ASSERT_EQ(pwrite(self->direct, mbr, SECTOR, 0), SECTOR);

	reattach(_metadata, self, variant, (struct loop_args){
			.flags = LO_FLAGS_PARTSCAN,
	});
	snprintf(attr, sizeof(attr), "loop%dp1/size", self->lo.nr);
	ASSERT_TRUE(wait_for(loop_attr(&self->lo, attr) >= 0, SOON));
	ASSERT_EQ(loop_attr(&self->lo, attr), sectors);
	snprintf(attr, sizeof(attr), "loop%dp1/start", self->lo.nr);
	ASSERT_EQ(loop_attr(&self->lo, attr), start);

	snprintf(path, sizeof(path), "%sp1", self->lo.dev);
	ASSERT_TRUE(wait_for((fd = open(path, O_RDWR | O_DIRECT)) >= 0, SOON));
	ASSERT_EQ(device_size(fd), len);
	pattern_fill(self->buf, len, 0, NEW);
	memcpy(self->shadow + start * SECTOR, self->buf, len);
	ASSERT_EQ(pwrite(fd, self->buf, len, 0), len);
	memset(self->buf, 0, len);
	ASSERT_EQ(pread(fd, self->buf, len, 0), len);
	ASSERT_EQ(pattern_verify(self->buf, len, 0, NEW), -1);
	close(fd);
	check_image(_metadata, self);

	ASSERT_EQ(detach(self), 0);
	ASSERT_EQ(loop_attr(&self->lo, attr), -1);
}

#define NR_WRITERS	4

struct writer {
	pthread_t thread;
	int fd;
	unsigned int seed;
	off_t first;		/* where to write first, bytes */
	off_t step;		/* from one write to the next, bytes */
	size_t len;		/* bytes of each write */
	unsigned int count;	/* of writes */
	unsigned int done;
	int err;
};

static void *write_pattern(void *arg)
{
	struct writer *w = arg;
	void *buf = alloc_pages(w->len);

	if (!buf)
		w->err = -ENOMEM;
	while (!w->err && w->done < w->count) {
		off_t pos = w->first + w->done * w->step;
		ssize_t n;

		pattern_fill(buf, w->len, pos, w->seed);
		n = pwrite(w->fd, buf, w->len, pos);
		if (n != (ssize_t)w->len)
			w->err = n < 0 ? -errno : -EIO;
		else
			__atomic_add_fetch(&w->done, 1, __ATOMIC_SEQ_CST);
	}
	free(buf);
	return NULL;
}

TEST_F(io, concurrent_writers)
{
	static struct writer w[NR_WRITERS];
	size_t len = 3 * SECTOR, count = 200;

	/* disjoint: each has every fourth place */
	for (unsigned int i = 0; i < NR_WRITERS; i++) {
		w[i] = (struct writer){
			.fd = self->direct,
			.seed = NEW + i,
			.first = i * len,
			.step = NR_WRITERS * len,
			.len = len,
			.count = count,
		};
		for (unsigned int j = 0; j < count; j++) {
			off_t pos = w[i].first + j * w[i].step;

			pattern_fill(self->shadow + pos, len, pos, w[i].seed);
		}
		ASSERT_EQ(pthread_create(&w[i].thread, NULL, write_pattern,
					 &w[i]), 0);
	}
	for (unsigned int i = 0; i < NR_WRITERS; i++) {
		ASSERT_EQ(pthread_join(w[i].thread, NULL), 0);
		ASSERT_EQ(w[i].err, 0);
	}
	check_image(_metadata, self);
}

TEST_F(io, overlapping_writers)
{
	static struct writer w[NR_WRITERS];
	size_t len = KIB(64), count = 50;

	for (unsigned int i = 0; i < NR_WRITERS; i++) {
		w[i] = (struct writer){
			.fd = self->direct,
			.seed = NEW + i,
			.len = len,
			.count = count,
		};
		ASSERT_EQ(pthread_create(&w[i].thread, NULL, write_pattern,
					 &w[i]), 0);
	}
	for (unsigned int i = 0; i < NR_WRITERS; i++) {
		ASSERT_EQ(pthread_join(w[i].thread, NULL), 0);
		ASSERT_EQ(w[i].err, 0);
	}

	/* Each sector is from one of them. */
	read_image(_metadata, self->buf);
	for (size_t pos = 0; pos < len; pos += SECTOR) {
		int i = 0;

		while (i < NR_WRITERS &&
		       pattern_verify(self->buf + pos, SECTOR, pos,
				      NEW + i) != -1)
			i++;
		ASSERT_LT(i, NR_WRITERS)
			TH_LOG("torn sector at %zu", pos);
	}
	ASSERT_EQ(find_difference(self->buf + len, self->shadow + len,
				  SIZE - len), -1);
}

TEST_F(io, flush)
{
	long long before = faultfs_calls(FAULTFS, "fsync");

	ASSERT_GE(before, 0);
	pattern_fill(self->shadow, KIB(64), 0, NEW);
	ASSERT_EQ(pwrite(self->lo.fd, self->shadow, KIB(64), 0),
		  (ssize_t)KIB(64));
	ASSERT_EQ(fsync(self->lo.fd), 0);
	ASSERT_GT(faultfs_calls(FAULTFS, "fsync"), before);
	check_image(_metadata, self);

	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio,fail_op=fsync"), 0);
	ASSERT_EQ(fsync(self->lo.fd), -1);
	ASSERT_EQ(errno, EIO);
	ASSERT_EQ(fdatasync(self->direct), -1);
	ASSERT_EQ(errno, EIO);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	ASSERT_EQ(fsync(self->lo.fd), 0);
}

/*
 * What a call transfers at most, bytes. Direct I/O that has stopped within a
 * sector is continued in another way.
 */
static const unsigned int shorts[] = {
	1, 511, 512, 513, 516, 1536, 4095, KIB(64), KIB(64) + 1,
};

/* The length of a transfer of which a call does @max bytes at most. */
static ssize_t short_len(unsigned int max)
{
	return max < 512 ? KIB(6) : KIB(192) + 512;
}

TEST_F(io, short_write)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(shorts); i++) {
		ssize_t len = short_len(shorts[i]);
		off_t pos = SECTOR * i;

		pattern_fill(self->shadow + pos, len, pos, NEW + i);
		ASSERT_EQ(remount_faultfs(FAULTFS, "short=%u", shorts[i]), 0);
		ASSERT_EQ(pwrite(self->direct, self->shadow + pos, len, pos),
			  len);
		ASSERT_EQ(remount_faultfs(FAULTFS, "short=0"), 0);
		read_image(_metadata, self->buf);
		ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1)
			TH_LOG("%u bytes at a time", shorts[i]);
	}
}

TEST_F(io, short_read)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(shorts); i++) {
		ssize_t len = short_len(shorts[i]);
		off_t pos = SECTOR * i;

		ASSERT_EQ(remount_faultfs(FAULTFS, "short=%u", shorts[i]), 0);
		memset(self->buf, 0, len);
		ASSERT_EQ(pread(self->direct, self->buf, len, pos), len);
		ASSERT_EQ(pattern_verify(self->buf, len, pos, OLD), -1)
			TH_LOG("%u bytes at a time", shorts[i]);
	}
}

TEST_F(io, odd_pieces)
{
	static const unsigned int limits[] = { 0, 3584, 3591, KIB(64) + 1 };
	static struct iovec iov[512];
	ssize_t len = MIB(1) + 5 * SECTOR;
	void *memory = alloc_pages(2 * len);
	off_t pos = 3 * SECTOR, at;
	int nr;

	ASSERT_NE(memory, NULL);
	nr = odd_pieces(iov, ARRAY_SIZE(iov), memory, len);
	ASSERT_GT(nr, 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(limits); i++) {
		ASSERT_EQ(remount_faultfs(FAULTFS, "short=%u", limits[i]), 0);
		at = pos;
		for (int j = 0; j < nr; j++) {
			pattern_fill(iov[j].iov_base, iov[j].iov_len, at,
				     NEW + i);
			at += iov[j].iov_len;
		}
		pattern_fill(self->shadow + pos, len, pos, NEW + i);
		ASSERT_EQ(pwritev(self->direct, iov, nr, pos), len);

		memset(memory, 0, 2 * len);
		ASSERT_EQ(preadv(self->direct, iov, nr, pos), len);
		at = pos;
		for (int j = 0; j < nr; j++) {
			ASSERT_EQ(pattern_verify(iov[j].iov_base,
						 iov[j].iov_len, at, NEW + i),
				  -1)
				TH_LOG("piece %d, %u bytes at a time", j,
				       limits[i]);
			at += iov[j].iov_len;
		}
		ASSERT_EQ(remount_faultfs(FAULTFS, "short=0"), 0);
		check_image(_metadata, self);
	}
	free(memory);
}

/*
 * Submit all pieces at once and wait for all. The number of those that were
 * transferred entirely, or a negative errno.
 */
static int rw_at_once(int fd, int opcode, struct piece *pieces, int nr)
{
	aio_context_t ctx = 0;
	int done = 0, err;

	if (syscall(SYS_io_setup, nr, &ctx))
		return -errno;
	err = rw_pieces(ctx, fd, opcode, pieces, nr);
	for (int i = 0; i < nr; i++)
		if (pieces[i].ret == (ssize_t)pieces[i].len)
			done++;
	syscall(SYS_io_destroy, ctx);
	return err ? err : done;
}

/* How many bios were merged into requests until now. */
static long long merges(const struct loop *lo)
{
	char path[64], text[256];
	long long r, w;

	snprintf(path, sizeof(path), "/sys/block/loop%d/stat", lo->nr);
	if (read_text(path, text, sizeof(text)) ||
	    sscanf(text, "%*s %lld %*s %*s %*s %lld", &r, &w) != 2)
		return -1;
	return r + w;
}

/* Requests of many bios, of which calls transfer a part. */
TEST_F(io, merged_requests)
{
	static const unsigned int limits[] = { 0, 512, 513, 5632, 5635 };
	struct piece pieces[24];
	size_t len = 9 * SECTOR;
	off_t pos = SECTOR;
	long long before;
	char *memory = alloc_pages(ARRAY_SIZE(pieces) * KIB(8));

	ASSERT_NE(memory, NULL);
	for (unsigned int i = 0; i < ARRAY_SIZE(pieces); i++) {
		pieces[i].buf = memory + i * KIB(8) + (i % 7) * SECTOR;
		pieces[i].len = len;
		pieces[i].pos = pos + i * len;
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(limits); i++) {
		ASSERT_EQ(remount_faultfs(FAULTFS, "short=%u", limits[i]), 0);
		for (unsigned int j = 0; j < ARRAY_SIZE(pieces); j++) {
			pattern_fill(pieces[j].buf, len, pieces[j].pos,
				     NEW + i);
			memcpy(self->shadow + pieces[j].pos, pieces[j].buf,
			       len);
		}
		before = merges(&self->lo);
		ASSERT_EQ(rw_at_once(self->direct, IOCB_CMD_PWRITE, pieces,
				     ARRAY_SIZE(pieces)),
			  (int)ARRAY_SIZE(pieces));
		ASSERT_GT(merges(&self->lo), before);

		memset(memory, 0, ARRAY_SIZE(pieces) * KIB(8));
		before = merges(&self->lo);
		ASSERT_EQ(rw_at_once(self->direct, IOCB_CMD_PREAD, pieces,
				     ARRAY_SIZE(pieces)),
			  (int)ARRAY_SIZE(pieces));
		ASSERT_GT(merges(&self->lo), before);
		for (unsigned int j = 0; j < ARRAY_SIZE(pieces); j++) {
			ASSERT_EQ(pattern_verify(pieces[j].buf, len,
						 pieces[j].pos, NEW + i), -1)
				TH_LOG("piece %u, %u bytes at a time", j,
				       limits[i]);
		}
		ASSERT_EQ(remount_faultfs(FAULTFS, "short=0"), 0);
		check_image(_metadata, self);
	}
	free(memory);
}

/*
 * Of a request of many bios those succeed that end before the error. One ends a
 * hundred bytes before it.
 */
TEST_F(io, merged_errors)
{
	static const int good = 5;
	struct piece pieces[24];
	size_t len = 9 * SECTOR;
	long long before;
	char *memory = alloc_pages(ARRAY_SIZE(pieces) * KIB(8));

	ASSERT_NE(memory, NULL);
	for (unsigned int i = 0; i < ARRAY_SIZE(pieces); i++) {
		pieces[i].buf = memory + i * KIB(8);
		pieces[i].len = len;
		pieces[i].pos = i * len;
	}
	for (int write = 0; write < 2; write++) {
		ASSERT_EQ(remount_faultfs(FAULTFS,
					  "fail=eio,fail_op=%s,fail_at=%zu",
					  write ? "write" : "read",
					  good * len + 100), 0);
		before = merges(&self->lo);
		ASSERT_EQ(rw_at_once(self->direct,
				     write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
				     pieces, ARRAY_SIZE(pieces)), good);
		ASSERT_GT(merges(&self->lo), before);
		for (int i = 0; i < (int)ARRAY_SIZE(pieces); i++) {
			ASSERT_EQ(pieces[i].ret, i < good ? (ssize_t)len : -EIO)
				TH_LOG("piece %d", i);
		}
		ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	}
	free(memory);
}

/* What is transferred at once is one call. */
TEST_F(io, one_call)
{
	long long before, direct = faultfs_calls(FAULTFS, "direct");

	before = faultfs_calls(FAULTFS, "write") +
		 faultfs_calls(FAULTFS, "write_iter");
	ASSERT_EQ(pwrite(self->direct, self->shadow, KIB(4), 0),
		  (ssize_t)KIB(4));
	ASSERT_EQ(faultfs_calls(FAULTFS, "write") +
		  faultfs_calls(FAULTFS, "write_iter"),
		  before + 1);
	before = faultfs_calls(FAULTFS, "read") +
		 faultfs_calls(FAULTFS, "read_iter");
	ASSERT_EQ(pread(self->direct, self->buf, KIB(4), 0), (ssize_t)KIB(4));
	ASSERT_EQ(faultfs_calls(FAULTFS, "read") +
		  faultfs_calls(FAULTFS, "read_iter"),
		  before + 1);
	ASSERT_EQ(pattern_verify(self->buf, KIB(4), 0, OLD), -1);
	ASSERT_EQ(faultfs_calls(FAULTFS, "direct"),
		  direct + (variant->direct ? 2 : 0));
}

TEST_F(io, byte_by_byte)
{
	off_t pos = 3 * SECTOR;

	pattern_fill(self->shadow + pos, SECTOR, pos, NEW);
	ASSERT_EQ(remount_faultfs(FAULTFS, "short=1"), 0);
	ASSERT_EQ(pwrite(self->direct, self->shadow + pos, SECTOR, pos),
		  SECTOR);
	ASSERT_EQ(pread(self->direct, self->buf, SECTOR, pos), SECTOR);
	ASSERT_EQ(pattern_verify(self->buf, SECTOR, pos, NEW), -1);
	ASSERT_EQ(remount_faultfs(FAULTFS, "short=0"), 0);
	check_image(_metadata, self);
}

/* Where a transfer of FAIL_LEN bytes from the beginning fails. */
#define FAIL_LEN	KIB(256)
static const off_t fail_at[] = { 0, KIB(64) + 1536, KIB(100) + 100, 7 };

/*
 * A call of @op fails with @fail at an offset: the device has to tell @error,
 * may not claim more than was done, and has to have done what was possible.
 */
static void check_failing(struct __test_metadata *_metadata,
			  FIXTURE_DATA(io) * self, bool write,
			  const char *fail, int error)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(fail_at); i++) {
		off_t at = fail_at[i], whole = at / SECTOR * SECTOR;
		off_t zeroed = strcmp(fail, "zero") ? 0 : FAIL_LEN;
		size_t done = 0;
		ssize_t n;

		fill_image(_metadata, self, OLD);
		pattern_fill(self->shadow, FAIL_LEN, 0, NEW);
		memset(self->buf, 0x55, FAIL_LEN);
		ASSERT_EQ(remount_faultfs(FAULTFS,
					  "fail=%s,fail_op=%s,fail_at=%lld",
					  fail, write ? "write" : "read",
					  (long long)at), 0);
		do {
			n = write ? pwrite(self->direct, self->shadow + done,
					   FAIL_LEN - done, done) :
				    pread(self->direct, self->buf + done,
					  FAIL_LEN - done, done);
			if (n > 0)
				done += n;
		} while (n > 0 && done < FAIL_LEN);
		ASSERT_EQ(n, -1)
			TH_LOG("%s at %lld: success", fail, (long long)at);
		ASSERT_EQ(errno, error)
			TH_LOG("%s at %lld", fail, (long long)at);
		ASSERT_LE((off_t)done, at);
		ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);

		if (!write) {
			ASSERT_EQ(pattern_verify(self->buf, done, 0, OLD), -1);
			/* at EOF: nobody gets what was in the memory before */
			for (off_t j = whole; j < zeroed; j++)
				ASSERT_EQ(self->buf[j], 0);
			continue;
		}
		ASSERT_EQ(pattern_verify(self->shadow, FAIL_LEN, 0, NEW), -1)
			TH_LOG("%s at %lld: the data changed", fail,
			       (long long)at);
		read_image(_metadata, self->buf);
		ASSERT_EQ(pattern_verify(self->buf, whole, 0, NEW), -1)
			TH_LOG("%s at %lld: lost", fail, (long long)at);
		ASSERT_EQ(pattern_verify(self->buf + at, SIZE - at, at, OLD),
			  -1)
			TH_LOG("%s at %lld: written", fail, (long long)at);
	}
}

TEST_F(io, write_enospc)
{
	check_failing(_metadata, self, true, "enospc", ENOSPC);
}

TEST_F(io, write_eio)
{
	check_failing(_metadata, self, true, "eio", EIO);
}

TEST_F(io, write_eintr)
{
	check_failing(_metadata, self, true, "eintr", EIO);
}

TEST_F(io, write_zero)
{
	check_failing(_metadata, self, true, "zero", EIO);
}

TEST_F(io, read_eio)
{
	check_failing(_metadata, self, false, "eio", EIO);
}

TEST_F(io, read_eintr)
{
	check_failing(_metadata, self, false, "eintr", EIO);
}

TEST_F(io, read_zero)
{
	check_failing(_metadata, self, false, "zero", EIO);
}

/* The error of a buffered write comes with fsync(). */
TEST_F(io, buffered_enospc)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(fail_at); i++) {
		off_t at = fail_at[i];

		fill_image(_metadata, self, OLD);
		pattern_fill(self->shadow, FAIL_LEN, 0, NEW);
		ASSERT_EQ(remount_faultfs(FAULTFS,
					  "fail=enospc,fail_op=write,fail_at=%lld",
					  (long long)at), 0);
		ASSERT_EQ(pwrite(self->lo.fd, self->shadow, FAIL_LEN, 0),
			  (ssize_t)FAIL_LEN);
		ASSERT_EQ(fsync(self->lo.fd), -1)
			TH_LOG("enospc at %lld: success", (long long)at);
		/* buffer heads don't keep which error it was */
		ASSERT_TRUE(errno == ENOSPC || errno == EIO);
		ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
		read_image(_metadata, self->buf);
		ASSERT_EQ(pattern_verify(self->buf + at, SIZE - at, at, OLD),
			  -1);
		/* It is reported once, and a new write is tried again. */
		ASSERT_EQ(pwrite(self->lo.fd, self->shadow, FAIL_LEN, 0),
			  (ssize_t)FAIL_LEN);
		ASSERT_EQ(fsync(self->lo.fd), 0);
		read_image(_metadata, self->buf);
		ASSERT_EQ(pattern_verify(self->buf, FAIL_LEN, 0, NEW), -1);
	}
}

/* The file has become smaller: there is nothing to return. */
TEST_F(io, truncated)
{
	static const off_t sizes[] = { 1024, 612, 100, 0 };

	for (unsigned int i = 0; i < ARRAY_SIZE(sizes); i++) {
		ASSERT_EQ(ftruncate(self->file, sizes[i]), 0);
		ASSERT_EQ(pread(self->direct, self->buf, KIB(4), 0), -1)
			TH_LOG("success with a file of %lld bytes",
			       (long long)sizes[i]);
		ASSERT_EQ(errno, EIO);
		ASSERT_EQ(device_size(self->lo.fd), (long long)SIZE);
	}
}

TEST_F(io, many_in_flight)
{
	struct piece pieces[32];
	size_t len = 5 * SECTOR;

	/* apart from each other: each is a separate request */
	for (unsigned int i = 0; i < ARRAY_SIZE(pieces); i++) {
		pieces[i].pos = i * KIB(64);
		pieces[i].len = len;
		pieces[i].buf = self->shadow + pieces[i].pos;
		pattern_fill(pieces[i].buf, len, pieces[i].pos, NEW);
	}
	ASSERT_EQ(remount_faultfs(FAULTFS, "delay=10"), 0);
	ASSERT_EQ(rw_at_once(self->direct, IOCB_CMD_PWRITE, pieces,
			     ARRAY_SIZE(pieces)), (int)ARRAY_SIZE(pieces));
	for (unsigned int i = 0; i < ARRAY_SIZE(pieces); i++) {
		pieces[i].buf = self->buf + pieces[i].pos;
		memset(pieces[i].buf, 0, len);
	}
	ASSERT_EQ(rw_at_once(self->direct, IOCB_CMD_PREAD, pieces,
			     ARRAY_SIZE(pieces)), (int)ARRAY_SIZE(pieces));
	for (unsigned int i = 0; i < ARRAY_SIZE(pieces); i++)
		ASSERT_EQ(pattern_verify(pieces[i].buf, len, pieces[i].pos,
					 NEW), -1);
	ASSERT_EQ(remount_faultfs(FAULTFS, "delay=0"), 0);
	check_image(_metadata, self);
}

/* LOOP_CLR_FD takes effect when the last one has closed the device. */
TEST_F(io, clear_while_writing)
{
	static struct writer w;

	w = (struct writer){
		.fd = open(self->lo.dev, O_RDWR | O_DIRECT | O_CLOEXEC),
		.seed = NEW,
		.step = KIB(16),
		.len = KIB(16),
		.count = 64,
	};
	ASSERT_GE(w.fd, 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "delay=5"), 0);
	ASSERT_EQ(pthread_create(&w.thread, NULL, write_pattern, &w), 0);
	EXPECT_TRUE(wait_for(__atomic_load_n(&w.done, __ATOMIC_SEQ_CST) > 3,
			     SOON));
	EXPECT_EQ(ioctl(self->lo.fd, LOOP_CLR_FD), 0);
	close(self->lo.fd);
	close(self->direct);
	self->lo.fd = -1;
	self->direct = -1;
	EXPECT_TRUE(loop_bound(&self->lo));
	ASSERT_EQ(pthread_join(w.thread, NULL), 0);
	EXPECT_EQ(w.err, 0);
	EXPECT_EQ(w.done, w.count);
	EXPECT_TRUE(loop_bound(&self->lo));
	close(w.fd);
	EXPECT_TRUE(wait_for(!loop_bound(&self->lo), SOON));

	ASSERT_EQ(remount_faultfs(FAULTFS, "delay=0"), 0);
	pattern_fill(self->shadow, w.count * w.len, 0, NEW);
	read_image(_metadata, self->buf);
	ASSERT_EQ(find_difference(self->buf, self->shadow, SIZE), -1);
}

static int zero_range(int fd, unsigned long request, off_t pos, size_t len)
{
	__u64 range[2] = { pos, len };

	return ioctl(fd, request, range) ? -errno : 0;
}

#define ZERO_POS	KIB(64)
#define ZERO_LEN	KIB(128)

static void check_zeroed(struct __test_metadata *_metadata,
			 FIXTURE_DATA(io) * self)
{
	memset(self->shadow + ZERO_POS, 0, ZERO_LEN);
	check_image(_metadata, self);
}

TEST_F(io, discard_unsupported)
{
	ASSERT_EQ(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKDISCARD, ZERO_POS, ZERO_LEN),
		  -EOPNOTSUPP);
	check_image(_metadata, self);
}

TEST_F(io, zeroout_unsupported)
{
	ASSERT_EQ(loop_attr(&self->lo, "queue/write_zeroes_max_bytes"), 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN), 0);
	check_zeroed(_metadata, self);
	ASSERT_EQ(faultfs_calls(FAULTFS, "fallocate"), 0);
}

TEST_F(io, discard)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "fallocate"), 0);
	reattach(_metadata, self, variant, (struct loop_args){});
	ASSERT_GT(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKDISCARD, ZERO_POS, ZERO_LEN), 0);
	ASSERT_GT(faultfs_calls(FAULTFS, "fallocate"), 0);
	check_zeroed(_metadata, self);
	ASSERT_GT(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
}

TEST_F(io, zeroout)
{
	long long writes;

	ASSERT_EQ(remount_faultfs(FAULTFS, "fallocate"), 0);
	reattach(_metadata, self, variant, (struct loop_args){});
	writes = faultfs_calls(FAULTFS, "write_bytes");
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN), 0);
	ASSERT_GT(faultfs_calls(FAULTFS, "fallocate"), 0);
	ASSERT_EQ(faultfs_calls(FAULTFS, "write_bytes"), writes);
	check_zeroed(_metadata, self);
}

/* Whether a file can do it is known only after the first try. */
TEST_F(io, discard_nopunch)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "fallocate,nopunch"), 0);
	reattach(_metadata, self, variant, (struct loop_args){});
	ASSERT_GT(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
	/* the ioctl hides that one */
	ASSERT_EQ(zero_range(self->lo.fd, BLKDISCARD, ZERO_POS, ZERO_LEN), 0);
	ASSERT_TRUE(wait_for(!loop_attr(&self->lo, "queue/discard_max_bytes"),
			     SOON));
	ASSERT_GT(loop_attr(&self->lo, "queue/write_zeroes_max_bytes"), 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKDISCARD, ZERO_POS, ZERO_LEN),
		  -EOPNOTSUPP);
	check_image(_metadata, self);
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN), 0);
	check_zeroed(_metadata, self);
}

TEST_F(io, zeroout_nopunch)
{
	long long calls;

	ASSERT_EQ(remount_faultfs(FAULTFS, "fallocate,nopunch"), 0);
	reattach(_metadata, self, variant, (struct loop_args){});
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN), 0);
	check_zeroed(_metadata, self);
	ASSERT_TRUE(wait_for(!loop_attr(&self->lo,
					"queue/write_zeroes_max_bytes"), SOON));
	/* and then it is not tried any more */
	calls = faultfs_calls(FAULTFS, "fallocate");
	ASSERT_GT(calls, 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS + ZERO_LEN,
			     ZERO_LEN), 0);
	ASSERT_EQ(faultfs_calls(FAULTFS, "fallocate"), calls);
}

/*
 * A limit of discards is not one of zeroing. It is that of a new device, which is
 * removed: once it is 0, sysfs accepts no other value.
 */
TEST_F(io, zeroout_nodiscard)
{
	long long writes;
	struct loop lo;
	char path[64];

	ASSERT_EQ(remount_faultfs(FAULTFS, "fallocate"), 0);
	reattach(_metadata, self, variant, (struct loop_args){});
	ASSERT_EQ(loop_add(&lo, O_RDWR), 0);
	ASSERT_EQ(loop_configure(lo.fd, &(struct loop_args){
			.file = self->file,
	}), 0);
	snprintf(path, sizeof(path), "/sys/block/loop%d/queue/discard_max_bytes",
		 lo.nr);
	EXPECT_EQ(write_text(path, "0"), 0);
	writes = faultfs_calls(FAULTFS, "write_bytes");
	EXPECT_EQ(zero_range(lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN), 0);
	EXPECT_EQ(faultfs_calls(FAULTFS, "write_bytes"), writes);
	ASSERT_EQ(loop_remove(&lo), 0);
	check_zeroed(_metadata, self);
}

/* An error of ->fallocate() is not treated as "not supported". */
TEST_F(io, zeroout_eio)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "fallocate"), 0);
	reattach(_metadata, self, variant, (struct loop_args){});
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio,fail_op=fallocate"), 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN),
		  -EIO);
	ASSERT_EQ(zero_range(self->lo.fd, BLKDISCARD, ZERO_POS, ZERO_LEN),
		  -EIO);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	ASSERT_GT(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, ZERO_POS, ZERO_LEN), 0);
	check_zeroed(_metadata, self);
}

/*
 * A filesystem that becomes full: a sparse file on a tmpfs with room for 16
 * requests and a part of the next.
 */
FIXTURE(tmpfs) {
	struct loop lo;
	int direct;
	unsigned char *buf;
};

#define FULL		BASE "/full"
#define CHUNK		KIB(512)

FIXTURE_SETUP(tmpfs)
{
	struct loop_args args = { .mode = O_RDWR };

	self->lo.fd = -1;
	if (private_mounts(_metadata))
		return;
	self->buf = alloc_pages(CHUNK);
	ASSERT_NE(self->buf, NULL);
	ASSERT_EQ(mkdir(FULL, 0755), 0);
	ASSERT_EQ(mount("tmpfs", FULL, "tmpfs", 0, "size=8492k"), 0);
	args.file = make_file(FULL "/image", MIB(64));
	ASSERT_GE(args.file, 0);
	ASSERT_EQ(loop_attach(&self->lo, &args), 0);
	close(args.file);
	self->direct = open(self->lo.dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(self->direct, 0);
}

FIXTURE_TEARDOWN(tmpfs)
{
	close(self->direct);
	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(umount_soon(FULL), 0);
	free(self->buf);
}

TEST_F(tmpfs, full)
{
	off_t pos;
	int i;

	for (i = 0; i < 16; i++) {
		pos = i * CHUNK;
		pattern_fill(self->buf, CHUNK, pos, NEW);
		ASSERT_EQ(pwrite(self->direct, self->buf, CHUNK, pos),
			  (ssize_t)CHUNK);
	}
	ASSERT_EQ(pwrite(self->direct, self->buf, CHUNK, i * CHUNK), -1);
	ASSERT_EQ(errno, ENOSPC);
	for (i = 0; i < 16; i++) {
		pos = i * CHUNK;
		ASSERT_EQ(pread(self->direct, self->buf, CHUNK, pos),
			  (ssize_t)CHUNK);
		ASSERT_EQ(pattern_verify(self->buf, CHUNK, pos, NEW), -1);
	}
}

TEST_F(tmpfs, full_buffered)
{
	for (int i = 0; i < 17; i++) {
		pattern_fill(self->buf, CHUNK, i * CHUNK, NEW);
		ASSERT_EQ(pwrite(self->lo.fd, self->buf, CHUNK, i * CHUNK),
			  (ssize_t)CHUNK);
	}
	ASSERT_EQ(fsync(self->lo.fd), -1);
	/* buffer heads don't keep which error it was */
	ASSERT_TRUE(errno == ENOSPC || errno == EIO);
}

/* tmpfs punches holes, and does not zero a range that is to stay allocated. */
TEST_F(tmpfs, punches_only)
{
	struct stat st;
	int file;

	pattern_fill(self->buf, CHUNK, 0, NEW);
	ASSERT_EQ(pwrite(self->direct, self->buf, CHUNK, 0), (ssize_t)CHUNK);
	ASSERT_EQ(zero_range(self->lo.fd, BLKZEROOUT, 0, CHUNK / 2), 0);
	ASSERT_TRUE(wait_for(!loop_attr(&self->lo,
					"queue/write_zeroes_max_bytes"), SOON));
	ASSERT_GT(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
	file = open(FULL "/image", O_RDONLY | O_CLOEXEC);
	ASSERT_GE(file, 0);
	ASSERT_EQ(fstat(file, &st), 0);
	ASSERT_EQ(st.st_blocks * SECTOR, CHUNK);
	ASSERT_EQ(pread(file, self->buf, CHUNK, 0), (ssize_t)CHUNK);
	for (size_t i = 0; i < CHUNK / 2; i++)
		ASSERT_EQ(self->buf[i], 0);

	ASSERT_EQ(zero_range(self->lo.fd, BLKDISCARD, CHUNK / 2, CHUNK / 2), 0);
	ASSERT_EQ(fstat(file, &st), 0);
	ASSERT_EQ(st.st_blocks * SECTOR, CHUNK / 2);
	ASSERT_GT(loop_attr(&self->lo, "queue/discard_max_bytes"), 0);
	close(file);
}

/* The file of a device is on a filesystem that is frozen. */
FIXTURE(freeze) {
	struct loop lo;
	pid_t thaw;
};

static void thaw_faultfs(const void *arg)
{
	int fd = open(FAULTFS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ioctl(fd, FITHAW, 0);
	close(fd);
}

FIXTURE_SETUP(freeze)
{
	struct loop_args args = { .mode = O_RDWR };
	int fd;

	self->lo.fd = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, "fallocate"))
		return;
	args.file = make_file(IMAGE, SIZE);
	ASSERT_GE(args.file, 0);
	ASSERT_EQ(loop_attach(&self->lo, &args), 0);
	close(args.file);
	fd = open(FAULTFS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	self->thaw = undo_later(_metadata, thaw_faultfs, NULL);
	ASSERT_EQ(ioctl(fd, FIFREEZE, 0), 0);
	close(fd);
}

FIXTURE_TEARDOWN(freeze)
{
	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
}

/* ->fallocate() is called when the filesystem has been thawed. */
static void check_waits(struct __test_metadata *_metadata,
			FIXTURE_DATA(freeze) * self, unsigned long request)
{
	pid_t pid = fork();
	int status, fd;

	ASSERT_GE(pid, 0);
	if (!pid)
		_exit(!!zero_range(self->lo.fd, request, 0, KIB(64)));
	EXPECT_FALSE(wait_for(faultfs_calls(FAULTFS, "fallocate") > 0, 0.3));
	undo_now(_metadata, self->thaw);
	ASSERT_TRUE(wait_child(pid, &status, SOON));
	EXPECT_EQ(status, 0);
	EXPECT_GT(faultfs_calls(FAULTFS, "fallocate"), 0);

	/* and it is no writer any more, for which the next freezer would wait */
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		fd = open(FAULTFS, O_RDONLY | O_CLOEXEC);
		_exit(ioctl(fd, FIFREEZE, 0) || ioctl(fd, FITHAW, 0));
	}
	ASSERT_TRUE(wait_child(pid, &status, SOON));
	EXPECT_EQ(status, 0);
}

TEST_F(freeze, discard)
{
	check_waits(_metadata, self, BLKDISCARD);
}

TEST_F(freeze, zeroout)
{
	check_waits(_metadata, self, BLKZEROOUT);
}

/* A loop device on a loop device: a block device whose file goes wrong. */
FIXTURE(stacked) {
	struct loop lower, upper;
	int file;			/* lower, as upper has it */
	unsigned char *buf;
};

FIXTURE_SETUP(stacked)
{
	struct loop_args args = { .mode = O_RDWR, .block_size = 4096 };

	self->lower.fd = -1;
	self->upper.fd = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, "fallocate"))
		return;
	self->buf = alloc_pages(KIB(8));
	ASSERT_NE(self->buf, NULL);
	pattern_fill(self->buf, KIB(8), 0, OLD);
	args.file = make_file(IMAGE, SIZE);
	ASSERT_GE(args.file, 0);
	ASSERT_EQ(pwrite(args.file, self->buf, KIB(8), 0), (ssize_t)KIB(8));
	ASSERT_EQ(loop_attach(&self->lower, &args), 0);
	close(args.file);
	self->file = open(self->lower.dev, O_RDWR | O_CLOEXEC);
	ASSERT_GE(self->file, 0);
}

FIXTURE_TEARDOWN(stacked)
{
	EXPECT_EQ(loop_detach(&self->upper), 0);
	close(self->file);
	EXPECT_EQ(loop_detach(&self->lower), 0);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
	free(self->buf);
}

static int stack(FIXTURE_DATA(stacked) * self, unsigned int block_size)
{
	return loop_attach(&self->upper, &(struct loop_args){
			.file = self->file,
			.mode = O_RDWR,
			.block_size = block_size,
	});
}

/* Sectors of 512 bytes on sectors of 4096 bytes */
TEST_F(stacked, zeroout)
{
	char dev[32];
	int log;

	ASSERT_EQ(stack(self, 512), 0);
	ASSERT_GT(loop_attr(&self->upper, "queue/write_zeroes_max_bytes"), 0);
	log = klog_open();
	ASSERT_GE(log, 0);
	ASSERT_EQ(zero_range(self->upper.fd, BLKZEROOUT, 512, 512), 0);
	ASSERT_EQ(zero_range(self->upper.fd, BLKDISCARD, 1536, 512), 0);
	/* the fallback is not worth a line in the log */
	snprintf(dev, sizeof(dev), "dev loop%d,", self->upper.nr);
	EXPECT_EQ(klog_count(log, dev, ""), 0);
	close(log);
	/* and that has not become the rule */
	ASSERT_GT(loop_attr(&self->upper, "queue/write_zeroes_max_bytes"), 0);
	ASSERT_GT(loop_attr(&self->upper, "queue/discard_max_bytes"), 0);
	ASSERT_EQ(zero_range(self->upper.fd, BLKZEROOUT, KIB(4), KIB(4)), 0);
	ASSERT_EQ(fsync(self->upper.fd), 0);

	ASSERT_EQ(pread(self->upper.fd, self->buf, KIB(8), 0), (ssize_t)KIB(8));
	ASSERT_EQ(pattern_verify(self->buf, 512, 0, OLD), -1);
	for (size_t i = 512; i < 1024; i++)
		ASSERT_EQ(self->buf[i], 0);
	ASSERT_EQ(pattern_verify(self->buf + 1024, KIB(3), 1024, OLD), -1);
	for (size_t i = KIB(4); i < KIB(8); i++)
		ASSERT_EQ(self->buf[i], 0);
}

/* The write is lost when loop writes back what the page cache has. */
TEST_F(stacked, set_direct_io)
{
	int direct;

	ASSERT_EQ(stack(self, 4096), 0);
	direct = open(self->upper.dev, O_RDWR | O_DIRECT | O_CLOEXEC);
	ASSERT_GE(direct, 0);
	ASSERT_EQ(pwrite(direct, self->buf, KIB(4), 0), (ssize_t)KIB(4));
	close(direct);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio"), 0);
	ASSERT_EQ(ioctl(self->upper.fd, LOOP_SET_DIRECT_IO, 1), 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(fsync(self->upper.fd), -1);
	EXPECT_EQ(errno, EIO);
	EXPECT_EQ(fsync(self->upper.fd), 0);
}

/* The same, and the process that has written before it binds the device */
TEST_F(stacked, configure)
{
	ASSERT_EQ(pwrite(self->file, self->buf, KIB(4), 0), (ssize_t)KIB(4));
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio"), 0);
	ASSERT_EQ(stack(self, 4096), 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(fsync(self->file), -1);
	EXPECT_EQ(errno, EIO);
	EXPECT_EQ(fsync(self->file), 0);
}

/* The same for a device that gets another file */
TEST_F(stacked, change_fd)
{
	ASSERT_EQ(loop_attach(&self->upper, &(struct loop_args){
			.file = self->file,
			.mode = O_RDWR,
			.flags = LO_FLAGS_READ_ONLY,
	}), 0);
	ASSERT_EQ(pwrite(self->file, self->buf, KIB(4), 0), (ssize_t)KIB(4));
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=eio"), 0);
	ASSERT_EQ(ioctl(self->upper.fd, LOOP_CHANGE_FD, self->file), 0);
	ASSERT_EQ(remount_faultfs(FAULTFS, "fail=none"), 0);
	EXPECT_EQ(fsync(self->file), -1);
	EXPECT_EQ(errno, EIO);
	EXPECT_EQ(fsync(self->file), 0);
}

/* The first 8 KiB have the pattern @seed, in the page cache and below it. */
static void check_lower(struct __test_metadata *_metadata,
			FIXTURE_DATA(stacked) * self, unsigned int seed)
{
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(pread(self->file, self->buf, KIB(8), 0),
			  (ssize_t)KIB(8));
		ASSERT_EQ(pattern_verify(self->buf, KIB(8), 0, seed), -1);
		ASSERT_EQ(fsync(self->file), 0);
		ASSERT_EQ(ioctl(self->file, BLKFLSBUF), 0);
	}
}

/* A request that is refused leaves the page cache alone. */
TEST_F(stacked, refused_zeroout)
{
	check_lower(_metadata, self, OLD);
	pattern_fill(self->buf, KIB(8), 0, NEW);
	ASSERT_EQ(pwrite(self->file, self->buf, KIB(8), 0), (ssize_t)KIB(8));
	EXPECT_EQ(zero_range(self->file, BLKZEROOUT, 512, 512), -EINVAL);
	EXPECT_EQ(zero_range(self->file, BLKZEROOUT, 0, 512), -EINVAL);
	EXPECT_EQ(zero_range(self->file, BLKZEROOUT, 0, 0), -EINVAL);
	EXPECT_EQ(zero_range(self->file, BLKZEROOUT, SIZE - KIB(4), KIB(8)),
		  -EINVAL);
	EXPECT_EQ(zero_range(self->file, BLKZEROOUT, -KIB(4), KIB(8)), -EINVAL);
	check_lower(_metadata, self, NEW);
}

TEST_F(stacked, read_only_zeroout)
{
	int ro = 1;

	pattern_fill(self->buf, KIB(8), 0, NEW);
	ASSERT_EQ(pwrite(self->file, self->buf, KIB(8), 0), (ssize_t)KIB(8));
	ASSERT_EQ(ioctl(self->file, BLKROSET, &ro), 0);
	EXPECT_EQ(zero_range(self->file, BLKZEROOUT, 0, KIB(4)), -EPERM);
	EXPECT_EQ(fallocate(self->file, FALLOC_FL_ZERO_RANGE, KIB(4), KIB(4)),
		  -1);
	EXPECT_EQ(errno, EPERM);
	ro = 0;
	ASSERT_EQ(ioctl(self->file, BLKROSET, &ro), 0);
	check_lower(_metadata, self, NEW);
}

/* What was written before is not lost if the device cannot punch holes. */
TEST_F(stacked, refused_punch)
{
	ASSERT_EQ(remount_faultfs(FAULTFS, "nopunch"), 0);
	pattern_fill(self->buf, KIB(8), 0, NEW);
	ASSERT_EQ(pwrite(self->file, self->buf, KIB(8), 0), (ssize_t)KIB(8));
	/* the second time the device is not asked */
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(fallocate(self->file, FALLOC_FL_PUNCH_HOLE |
				    FALLOC_FL_KEEP_SIZE, i * KIB(4), KIB(4)),
			  -1);
		EXPECT_EQ(errno, EOPNOTSUPP);
	}
	check_lower(_metadata, self, NEW);
	ASSERT_EQ(remount_faultfs(FAULTFS, "punch"), 0);
}

/*
 * The last one: if the driver deadlocks, there are tasks that cannot be killed,
 * and a device that cannot be used any more.
 */
FIXTURE(limits) {
	struct loop lo;
	bool hung;
};

FIXTURE_SETUP(limits)
{
	struct loop_args args = { .mode = O_RDWR };

	self->lo.fd = -1;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, "fallocate,nopunch"))
		return;
	args.file = make_file(IMAGE, SIZE);
	ASSERT_GE(args.file, 0);
	ASSERT_EQ(loop_attach(&self->lo, &args), 0);
	close(args.file);
}

FIXTURE_TEARDOWN(limits)
{
	if (self->hung)
		return;
	EXPECT_EQ(loop_detach(&self->lo), 0);
	EXPECT_EQ(umount_soon(FAULTFS), 0);
}

static void *change_max_sectors(void *arg)
{
	const struct loop *lo = arg;
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/loop%d/queue/max_sectors_kb",
		 lo->nr);
	for (;;) {
		write_text(path, "64");
		write_text(path, "128");
	}
	return NULL;
}

/*
 * ->fallocate() that is not supported makes loop change the queue limits, while
 * others change them, and wait for all requests with the limits locked. Setting
 * the block size makes loop try ->fallocate() again.
 */
static int change_limits(struct loop *lo)
{
	double end = now() + 3;
	pthread_t thread;

	for (int i = 0; i < 2; i++)
		if (pthread_create(&thread, NULL, change_max_sectors, lo))
			return 1;
	for (int i = 0; i < 10 || now() < end; i++)
		if (zero_range(lo->fd, BLKZEROOUT, 0, KIB(64)) ||
		    ioctl(lo->fd, LOOP_SET_BLOCK_SIZE, i % 2 ? 1024 : 2048))
			return 2;
	return 0;
}

/* A request of 64 GiB becomes 17: the first is logged, the others are not. */
TEST_F(limits, one_line)
{
	off_t size = 64LL << 30;
	char dev[32];
	int fd;

	ASSERT_EQ(truncate(IMAGE, size), 0);
	ASSERT_EQ(ioctl(self->lo.fd, LOOP_SET_CAPACITY), 0);
	ASSERT_EQ(device_size(self->lo.fd), size);
	/* Errors of other tests may have used up what is logged in 5 seconds. */
	poll(NULL, 0, 6000);
	fd = klog_open();
	ASSERT_GE(fd, 0);
	snprintf(dev, sizeof(dev), "dev loop%d,", self->lo.nr);
	for (int i = 0; i < 2; i++) {
		ASSERT_EQ(fallocate(self->lo.fd, FALLOC_FL_PUNCH_HOLE |
				    FALLOC_FL_KEEP_SIZE, 0, size), -1);
		EXPECT_EQ(errno, EOPNOTSUPP);
	}
	EXPECT_EQ(klog_count(fd, dev, "WRITE_ZEROES"), 1);
	close(fd);
}

TEST_F_TIMEOUT(limits, no_deadlock, 60)
{
	int status;
	pid_t pid;

	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		/* Whoever reads our output doesn't wait for it, either. */
		int null = open("/dev/null", O_RDWR);

		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		_exit(change_limits(&self->lo));
	}
	if (!wait_child(pid, &status, 20)) {
		self->hung = true;
		kill(pid, SIGKILL);
		ASSERT_FALSE(self->hung)
			TH_LOG("the device hangs");
	}
	ASSERT_TRUE(WIFEXITED(status));
	ASSERT_EQ(WEXITSTATUS(status), 0);
}

TEST_HARNESS_MAIN
