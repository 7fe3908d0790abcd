// SPDX-License-Identifier: GPL-2.0
/*
 * Random operations on a loop device, compared with a model in memory.
 *
 * The model is the content of the backing file. Reads, writes, zeroout, discard
 * and flush go through the device, direct and through its page cache; between
 * them the backing file is truncated and extended, the device detached and
 * attached again at another offset, and the number of bytes that one call of
 * the backing file transfers is changed. What is read must be what the model
 * says; after each detach the whole backing file must be.
 *
 * LOOP_TEST_OPS=N    operations per variant (default 100000)
 * LOOP_TEST_SEED=N   repeat the run which printed that seed
 */
#include "loop_test.h"
#include "loop_more.h"

#include <sys/uio.h>

#define MIN_SIZE	MIB(1)		/* of the backing file */
#define MAX_SIZE	MIB(4)
#define MAX_IO		MIB(1)

/* Nothing takes that many seconds; the alarm kills what hangs. */
#define HANG_SECONDS	300

struct state {
	__u64 seed;
	__u64 rng;
	unsigned char *model;	/* the file */
	unsigned char *buf;
	size_t file_size;
	size_t offset;		/* of the device in the file */
	size_t size;		/* of the device */
	struct loop loop;	/* opened with O_DIRECT */
	int cached;		/* and without */
	int image;
	bool direct;
	bool fallocate;
	unsigned long op;
	char what[96];		/* the current operation */
};

FIXTURE(random)
{
	struct state state;
};

FIXTURE_VARIANT(random)
{
	const char *options;
	bool direct;
	bool fallocate;
};

FIXTURE_VARIANT_ADD(random, buffered)
{
	.options = "io=iter",
};

FIXTURE_VARIANT_ADD(random, direct)
{
	.options = "io=iter,dio_align=512",
	.direct = true,
};

FIXTURE_VARIANT_ADD(random, direct_aio)
{
	.options = "io=iter,dio_align=512,aio",
	.direct = true,
};

FIXTURE_VARIANT_ADD(random, fallocate)
{
	.options = "io=iter,fallocate",
	.fallocate = true,
};

/* files without iter methods */
FIXTURE_VARIANT_ADD(random, write)
{
	.options = "io=write",
};

FIXTURE_VARIANT_ADD(random, write_fallocate)
{
	.options = "io=write,fallocate",
	.fallocate = true,
};

FIXTURE_VARIANT_ADD(random, mixed)
{
	.options = "io=mixed",
};

static void fill(struct state *st, size_t len)
{
	__u64 *word = (__u64 *)st->buf;
	size_t i;

	for (i = 0; i < (len + 7) / 8; i++)
		word[i] = rnd(&st->rng);
}

static size_t below(struct state *st, size_t n)
{
	return rnd(&st->rng) % n;
}

/* Mostly short, now and then long: where in the device, and how much of it. */
static void pick_range(struct state *st, size_t unit, size_t *pos,
		       size_t *len)
{
	size_t max = SECTOR * 8;

	if (!below(st, 512))
		max = MAX_IO;
	else if (!below(st, 16))
		max = SECTOR * 64;

	*len = (1 + below(st, max / unit)) * unit;
	if (*len > st->size)
		*len = st->size;
	*pos = below(st, (st->size - *len) / unit + 1) * unit;
}

#define SET_WHAT(st, ...) \
	snprintf((st)->what, sizeof((st)->what), __VA_ARGS__)

/* Does @buf hold what the file has at @pos? */
static void compare(struct __test_metadata *_metadata,
		    struct state *st, const unsigned char *buf,
		    size_t pos, size_t len)
{
	const unsigned char *expected = st->model + pos;
	size_t i;

	if (!memcmp(buf, expected, len))
		return;
	for (i = 0; buf[i] == expected[i]; i++)
		;
	ASSERT_EQ(expected[i], buf[i])
		TH_LOG("byte %zu of the file", pos + i);
}

/* The result of a system call; a failed one's is the negative errno. */
#define CALL(call)							\
({									\
	long long __ret = (call);					\
									\
	__ret < 0 ? -errno : __ret;					\
})

typedef void op_fn(struct __test_metadata *_metadata, struct state *st);

/* The device is the whole sectors of the file behind the offset. */
static void check_size(struct __test_metadata *_metadata, struct state *st)
{
	st->size = (st->file_size - st->offset) / SECTOR * SECTOR;
	ASSERT_EQ(st->size, device_size(st->loop.fd));
}

static void check_file(struct __test_metadata *_metadata, struct state *st)
{
	struct stat stat;
	size_t pos, len;

	/* not a system call for every 511 bytes of this file */
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=0"));
	ASSERT_EQ(0, CALL(fstat(st->image, &stat)));
	ASSERT_EQ(st->file_size, stat.st_size);
	for (pos = 0; pos < st->file_size; pos += len) {
		len = st->file_size - pos;
		if (len > MAX_IO)
			len = MAX_IO;
		ASSERT_EQ(len, pread_full(st->image, st->buf, len, pos));
		compare(_metadata, st, st->buf, pos, len);
	}
}

static void op_write(struct __test_metadata *_metadata, struct state *st)
{
	struct iovec iov[3];
	size_t pos, len, cut[2];

	pick_range(st, SECTOR, &pos, &len);
	SET_WHAT(st, "write of %zu at %zu", len, pos);
	fill(st, len);

	/* three segments, so that the request is more than one bio_vec */
	cut[0] = below(st, len / SECTOR + 1) * SECTOR;
	cut[1] = cut[0] + below(st, (len - cut[0]) / SECTOR + 1) * SECTOR;
	iov[0].iov_base = st->buf;
	iov[0].iov_len = cut[0];
	iov[1].iov_base = st->buf + cut[0];
	iov[1].iov_len = cut[1] - cut[0];
	iov[2].iov_base = st->buf + cut[1];
	iov[2].iov_len = len - cut[1];
	ASSERT_EQ(len, CALL(pwritev(st->loop.fd, iov, 3, pos)));
	memcpy(st->model + st->offset + pos, st->buf, len);
}

static void op_write_cached(struct __test_metadata *_metadata, struct state *st)
{
	size_t pos, len;

	pick_range(st, 1, &pos, &len);
	SET_WHAT(st, "write of %zu at %zu through the page cache", len, pos);
	fill(st, len);
	ASSERT_EQ(len, CALL(pwrite(st->cached, st->buf, len, pos)));
	memcpy(st->model + st->offset + pos, st->buf, len);
}

static void op_read(struct __test_metadata *_metadata, struct state *st)
{
	size_t pos, len;

	pick_range(st, SECTOR, &pos, &len);
	SET_WHAT(st, "read of %zu at %zu", len, pos);
	ASSERT_EQ(len, CALL(pread(st->loop.fd, st->buf, len, pos)));
	compare(_metadata, st, st->buf, st->offset + pos, len);
}

static void op_read_cached(struct __test_metadata *_metadata, struct state *st)
{
	size_t pos, len;

	pick_range(st, 1, &pos, &len);
	SET_WHAT(st, "read of %zu at %zu through the page cache", len, pos);
	ASSERT_EQ(len, CALL(pread(st->cached, st->buf, len, pos)));
	compare(_metadata, st, st->buf, st->offset + pos, len);
}

static void op_zero(struct __test_metadata *_metadata, struct state *st)
{
	__u64 range[2];
	size_t pos, len;

	pick_range(st, SECTOR, &pos, &len);
	SET_WHAT(st, "zeroout of %zu at %zu", len, pos);
	range[0] = pos;
	range[1] = len;
	ASSERT_EQ(0, CALL(ioctl(st->loop.fd, BLKZEROOUT, range)));
	memset(st->model + st->offset + pos, 0, len);
}

static void op_discard(struct __test_metadata *_metadata, struct state *st)
{
	__u64 range[2];
	size_t pos, len;

	pick_range(st, SECTOR, &pos, &len);
	SET_WHAT(st, "discard of %zu at %zu", len, pos);
	range[0] = pos;
	range[1] = len;
	if (!st->fallocate) {
		ASSERT_EQ(-EOPNOTSUPP,
			  CALL(ioctl(st->loop.fd, BLKDISCARD, range)));
		return;
	}
	/* loop punches a hole, which reads as zeroes */
	ASSERT_EQ(0, CALL(ioctl(st->loop.fd, BLKDISCARD, range)));
	memset(st->model + st->offset + pos, 0, len);
}

static void op_flush(struct __test_metadata *_metadata, struct state *st)
{
	long long calls = faultfs_calls(FAULTFS, "fsync");

	SET_WHAT(st, "flush");
	ASSERT_EQ(0, CALL(fsync(st->loop.fd)));
	ASSERT_EQ(true, faultfs_calls(FAULTFS, "fsync") > calls);
}

/* Bind a device to the file, at an offset that direct I/O can do if need be. */
static int attach(struct state *st)
{
	static const size_t offsets[] = { 0, 512, 4096, 65536, 1, 513 };
	struct loop_args args = {
		.file = st->image,
		.mode = O_RDWR | O_DIRECT,
		.flags = st->direct ? LO_FLAGS_DIRECT_IO : 0,
		.block_size = SECTOR,
	};
	int err;

	st->offset = offsets[below(st, st->direct ? 4 : 6)];
	args.offset = st->offset;
	err = loop_attach(&st->loop, &args);
	if (err)
		return err;
	st->cached = open(st->loop.dev, O_RDWR | O_CLOEXEC);
	return st->cached < 0 ? -errno : 0;
}

static void check_attached(struct __test_metadata *_metadata, struct state *st)
{
	struct loop_info64 info;

	check_size(_metadata, st);
	ASSERT_EQ(0, loop_status(&st->loop, &info));
	ASSERT_EQ(st->direct, !!(info.lo_flags & LO_FLAGS_DIRECT_IO));
}

static void detach(struct __test_metadata *_metadata, struct state *st)
{
	ASSERT_EQ(0, CALL(fsync(st->cached)));
	/* with or without, the device is cleared when nobody has it open */
	if (below(st, 2))
		ASSERT_EQ(0, CALL(ioctl(st->loop.fd, LOOP_CLR_FD)));
	ASSERT_EQ(0, CALL(close(st->cached)));
	st->cached = -1;
	ASSERT_EQ(0, loop_detach(&st->loop));
}

static void op_attach(struct __test_metadata *_metadata, struct state *st)
{
	SET_WHAT(st, "detach");
	detach(_metadata, st);
	check_file(_metadata, st);
	SET_WHAT(st, "attach");
	ASSERT_EQ(0, attach(st));
	check_attached(_metadata, st);
}

static void op_resize(struct __test_metadata *_metadata, struct state *st)
{
	size_t size = MIN_SIZE + below(st, MAX_SIZE - MIN_SIZE + 1);

	SET_WHAT(st, "resize from %zu to %zu", st->file_size, size);
	ASSERT_EQ(0, CALL(fsync(st->cached)));
	ASSERT_EQ(0, CALL(ftruncate(st->image, size)));
	ASSERT_EQ(0, CALL(ioctl(st->loop.fd, LOOP_SET_CAPACITY)));
	/* what is cached behind a new end would be there when it moves back */
	ASSERT_EQ(0, CALL(ioctl(st->loop.fd, BLKFLSBUF)));
	if (size < st->file_size)
		memset(st->model + size, 0, st->file_size - size);
	st->file_size = size;
	check_size(_metadata, st);
}

/* From now on one call of the file transfers no more than that. */
static void op_short(struct __test_metadata *_metadata, struct state *st)
{
	static const unsigned int any[] = { 0, 0, 0, 513, 4095, 20001 };
	static const unsigned int aligned[] = { 0, 0, 0, 512, 4096, 19968 };
	unsigned int limit;

	if (st->direct)
		limit = aligned[below(st, ARRAY_SIZE(aligned))];
	else
		limit = any[below(st, ARRAY_SIZE(any))];
	SET_WHAT(st, "short=%u", limit);
	ASSERT_EQ(0, remount_faultfs(FAULTFS, "short=%u", limit));
}

static const struct {
	op_fn *fn;
	unsigned int weight;
} ops[] = {
	{ op_read, 4000 },
	{ op_write, 3500 },
	{ op_read_cached, 800 },
	{ op_write_cached, 800 },
	{ op_zero, 300 },
	{ op_discard, 300 },
	{ op_flush, 20 },
	{ op_resize, 5 },
	{ op_attach, 5 },
	{ op_short, 30 },
};

FIXTURE_SETUP(random)
{
	struct state *st = &self->state;
	int err;

	st->loop.fd = -1;
	st->cached = -1;
	st->direct = variant->direct;
	st->fallocate = variant->fallocate;
	st->seed = env_number("LOOP_TEST_SEED", time(NULL));
	st->rng = st->seed;

	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	st->model = calloc(1, MAX_SIZE);
	ASSERT_NE(NULL, st->model);
	st->buf = alloc_pages(MAX_IO);
	ASSERT_NE(NULL, st->buf);
	st->file_size = MAX_SIZE;
	st->image = make_file(FAULTFS "/image", st->file_size);
	ASSERT_GE(st->image, 0);

	err = attach(st);
	if (err == -EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(return);
	ASSERT_EQ(0, err);
}

FIXTURE_TEARDOWN(random)
{
	struct state *st = &self->state;

	if (_metadata->exit_code == KSFT_FAIL)
		TH_LOG("LOOP_TEST_SEED=%llu, operation %lu: %s",
		       (unsigned long long)st->seed, st->op, st->what);
	close(st->cached);
	loop_detach(&st->loop);
	close(st->image);
	EXPECT_EQ(0, umount_soon(FAULTFS));
}

/* A million operations may be asked for; alarm() ends what hangs. */
TEST_F_TIMEOUT(random, operations, 4 * 3600)
{
	struct state *st = &self->state;
	unsigned long count = env_number("LOOP_TEST_OPS", 100000);
	double start = now(), reported = start;
	unsigned int i, total = 0, pick;

	ksft_print_msg("LOOP_TEST_SEED=%llu LOOP_TEST_OPS=%lu\n",
		       (unsigned long long)st->seed, count);
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		total += ops[i].weight;

	alarm(HANG_SECONDS);
	SET_WHAT(st, "attach");
	check_attached(_metadata, st);
	for (st->op = 1; st->op <= count; st->op++) {
		pick = below(st, total);
		for (i = 0; pick >= ops[i].weight; i++)
			pick -= ops[i].weight;
		ops[i].fn(_metadata, st);

		if (st->op % 1024 || now() < reported + 5)
			continue;
		reported = now();
		alarm(HANG_SECONDS);
		ksft_print_msg("%lu operations, %.0f us each\n", st->op,
			       (reported - start) / st->op * 1e6);
	}
	SET_WHAT(st, "detach");
	detach(_metadata, st);
	check_file(_metadata, st);
	ksft_print_msg("%lu operations, %.0f us each\n", count,
		       (now() - start) / count * 1e6);
}

TEST_HARNESS_MAIN
