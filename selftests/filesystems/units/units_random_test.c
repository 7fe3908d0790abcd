// SPDX-License-Identifier: GPL-2.0
/*
 * Random operations on files whose allocation unit is larger than a page,
 * compared with a model in memory.
 *
 * Compression blocks, clusters and frames make a filesystem lock, fill, zero
 * and write several folios of the page cache at once: more than what the caller
 * asked for. So what is read must be what the model says, and the file must be
 * the model after a new mount. The second test adds threads that read, and so
 * take the folios of one unit from all ends. In the third the volume is nearly
 * full: a write that fails must leave what was there, and a short one must have
 * written what it says.
 *
 * UNITS_TEST_OPS=N    operations per test
 * UNITS_TEST_SEED=N   repeat the run which printed that seed
 */
#include "image_test.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/xattr.h>

#define MAX_SIZE	MIB(4)		/* of the file */
#define IMAGE_SIZE	MIB(64)
#define DEFAULT_OPS	200
#define OPS_PER_MOUNT	100
#define NR_READERS	3

/* What is written is one of these; the first one is zeroes. */
#define NR_VERSIONS	5

/* The operations between two mounts never take that many seconds. */
#define HANG_SECONDS	60

/* FILE_ATTRIBUTE_ARCHIVE | FILE_ATTRIBUTE_COMPRESSED */
#define ATTR_COMPRESSED	0x820U

enum {
	CAN_WRITE	= 1 << 0,
	CAN_TRUNCATE	= 1 << 1,
	CAN_PUNCH	= 1 << 2,
	PUNCH_UNITS	= 1 << 3,	/* only whole ones */
	CAN_MMAP	= 1 << 4,
	CAN_MMAP_WRITE	= 1 << 5,
	COMPRESSED	= 1 << 6,
	NTFS_ATTRIB	= 1 << 7,	/* ... which is an attribute of the file */
	REFUSED_GROWS	= 1 << 8,	/* by zeros, up to the refused write */
};

/* Shared with the child that runs the operations, and its threads. */
struct state {
	unsigned int flags;
	unsigned int readers;
	bool full;		/* there may be no space for a write */
	unsigned long refused;
	size_t unit;
	uint64_t seed;
	uint64_t rng;
	int fd;
	unsigned long op;
	char what[96];		/* the current operation */
	char reading[NR_READERS][96];
	off_t size;
	uint8_t model[MAX_SIZE];
	uint8_t data[NR_VERSIONS][MAX_SIZE];
	uint8_t buf[MAX_SIZE];
};

FIXTURE(units)
{
	struct image im;
	struct state *st;
};

FIXTURE_VARIANT(units)
{
	const char *type;
	const char *options;
	const char *make;	/* shell; $I: image, $D: directory with the file */
	const char *check;	/* shell; $I: image */
	const char *needs[4];	/* programs of .make */
	size_t unit;
	unsigned int flags;
};

/* fsck.ocfs2 takes whatever memory there is for its cache, and clears it. */
#define OCFS2(size)							\
	.type = "ocfs2",						\
	.options = "heartbeat=none",					\
	.make = "mkfs.ocfs2 -q -x -M local --fs-features=local -b 4096 -C " \
		size " $I",						\
	.check = "ulimit -v 40000; fsck.ocfs2 -fn $I",			\
	.needs = { "mkfs.ocfs2" },					\
	.flags = CAN_WRITE | CAN_TRUNCATE | CAN_PUNCH | CAN_MMAP |	\
		 CAN_MMAP_WRITE | REFUSED_GROWS

FIXTURE_VARIANT_ADD(units, ocfs2_4k) { OCFS2("4096"), .unit = KIB(4) };
FIXTURE_VARIANT_ADD(units, ocfs2_1m) { OCFS2("1M"), .unit = MIB(1) };

/* Compressed files of f2fs don't support any fallocate() but preallocation. */
#define F2FS(options_)							\
	.type = "f2fs",							\
	.options = "compress_extension=*," options_,			\
	.make = "mkfs.f2fs -q -f -O extra_attr,compression $I",		\
	.check = "fsck.f2fs --dry-run -f $I",				\
	.needs = { "mkfs.f2fs" },					\
	.flags = CAN_WRITE | CAN_TRUNCATE | CAN_MMAP | CAN_MMAP_WRITE |	\
		 COMPRESSED

FIXTURE_VARIANT_ADD(units, f2fs_lz4_16k)
{
	F2FS("compress_algorithm=lz4,compress_log_size=2"), .unit = KIB(16)
};

FIXTURE_VARIANT_ADD(units, f2fs_lz4_1m)
{
	F2FS("compress_algorithm=lz4,compress_log_size=8"), .unit = MIB(1)
};

FIXTURE_VARIANT_ADD(units, f2fs_zstd_1m)
{
	F2FS("compress_algorithm=zstd,compress_log_size=8"), .unit = MIB(1)
};

#define NTFS(type_)							\
	.type = type_,							\
	.make = "mkntfs -q -f -F -s 512 -c 4096 $I",			\
	.check = "ntfsfix -n $I",					\
	.needs = { "mkntfs" },						\
	.unit = KIB(64)

/* ntfs neither changes the size of a compressed file nor maps it. */
FIXTURE_VARIANT_ADD(units, ntfs)
{
	NTFS("ntfs"), .flags = CAN_WRITE | COMPRESSED | NTFS_ATTRIB
};

/*
 * ntfs3 maps it read-only. A hole in a part of a unit does not work: either it
 * is -EOPNOTSUPP or zeroes in the page cache that are never written, since
 * ntfs_aops_cmpr has no ->writepages().
 */
FIXTURE_VARIANT_ADD(units, ntfs3)
{
	NTFS("ntfs3"),
	.flags = CAN_WRITE | CAN_TRUNCATE | CAN_PUNCH | PUNCH_UNITS |
		 CAN_MMAP | COMPRESSED | NTFS_ATTRIB
};

#define SQUASHFS(size)							\
	.type = "squashfs",						\
	.make = "mksquashfs $D $I -noappend -always-use-fragments -b " size, \
	.needs = { "mksquashfs" },					\
	.flags = CAN_MMAP

FIXTURE_VARIANT_ADD(units, squashfs_128k) { SQUASHFS("128K"), .unit = KIB(128) };
FIXTURE_VARIANT_ADD(units, squashfs_1m) { SQUASHFS("1M"), .unit = MIB(1) };

FIXTURE_VARIANT_ADD(units, zisofs)
{
	.type = "iso9660",
	.make = "mkzftree $D $D.z && genisoimage -quiet -R -z -o $I $D.z",
	.needs = { "mkzftree", "genisoimage" },
	.unit = KIB(32),
	.flags = CAN_MMAP,
};

/*
 * A file that the Windows Overlay Filter has compressed is empty but for its
 * size and two more attributes: a reparse point with the format's number, and a
 * stream that looks like a file's data in a WIM archive. And it has a flag in
 * its standard information. ntfs doesn't map it.
 */
#define WOF(type_, compression, chunk_size, number)			\
	.type = type_,							\
	.make =								\
	"cd $D/.. && size=$(stat -c %s $D/file) && "			\
	"mkntfs -q -f -F -s 512 $I && "					\
	"wimlib-imagex capture $D wim --compress=" compression		\
	"	--chunk-size=" chunk_size " && "			\
	"set -- $(wimlib-imagex info --blobs wim | awk -v size=$size '"	\
	"	/^Uncompressed size/ { uncompressed = $4 } "		\
	"	/^Compressed size/ { compressed = $4 } "		\
	"	/^Offset in WIM/ && uncompressed == size { print $5, compressed }') && " \
	"tail -c +$(($1 + 1)) wim | head -c $2 >stream && "		\
	"truncate -s $size zeroes && "					\
	"printf '\\027\\0\\0\\200\\020\\0\\0\\0\\001\\0\\0\\0\\002\\0\\0\\0' >reparse && " \
	"printf '\\001\\0\\0\\0\\00" #number "\\0\\0\\0' >>reparse && "	\
	"printf '%032d\\040\\004\\0\\0%012d' 0 0 | tr 0 '\\0' >info && "	\
	"ntfscp -f -q $I zeroes file && "				\
	"ntfscp -f -q -N WofCompressedData $I stream file && "		\
	"ntfscp -f -q -a 192 $I reparse file && "			\
	"ntfscp -f -q -a 16 $I info file",				\
	.check = "ntfsfix -n $I",					\
	.needs = { "mkntfs", "wimlib-imagex", "ntfscp" }

FIXTURE_VARIANT_ADD(units, ntfs_xpress)
{
	WOF("ntfs", "xpress", "8K", 2), .unit = KIB(8)
};

FIXTURE_VARIANT_ADD(units, ntfs_lzx)
{
	WOF("ntfs", "lzx", "32K", 1), .unit = KIB(32)
};

FIXTURE_VARIANT_ADD(units, ntfs3_xpress)
{
	WOF("ntfs3", "xpress", "8K", 2), .unit = KIB(8), .flags = CAN_MMAP
};

FIXTURE_VARIANT_ADD(units, ntfs3_lzx)
{
	WOF("ntfs3", "lzx", "32K", 1), .unit = KIB(32), .flags = CAN_MMAP
};

/* splitmix64 */
static uint64_t below(uint64_t *rng, uint64_t n)
{
	uint64_t z = *rng += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return (z ^ (z >> 31)) % n;
}

#define SET_WHAT(st, ...) \
	snprintf((st)->what, sizeof((st)->what), __VA_ARGS__)

/* In the child: say what went wrong in which operation, and end. */
static __noreturn __printf(3, 4)
void fail(struct state *st, const char *what, const char *format, ...)
{
	char reason[128];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	printf("UNITS_TEST_SEED=%llu, operation %lu: %s: %s\n",
	       (unsigned long long)st->seed, st->op, what, reason);
	fflush(stdout);
	_exit(KSFT_FAIL);
}

/* A call must succeed, and transfer all. */
static void must(struct state *st, long long expected, long long ret)
{
	if (ret != expected)
		fail(st, st->what, "%lld, not %lld (%s)", ret, expected,
		     ret < 0 ? strerror(errno) : "no error");
}

/* Does @buf hold what the file has at @pos? */
static void compare(struct state *st, const uint8_t *buf, off_t pos, size_t len)
{
	const uint8_t *expected = st->model + pos;
	size_t i, bad = 0, first = 0;

	if (!memcmp(buf, expected, len))
		return;
	for (i = len; i-- > 0;) {
		if (buf[i] == expected[i])
			continue;
		first = i;
		bad++;
	}
	fail(st, st->what, "byte %lld of the file is 0x%02x, not 0x%02x, %zu are wrong",
	     (long long)pos + first, buf[first], expected[first], bad);
}

/* Mostly a few pages, now and then whole units or long: a range below @end. */
static void pick_range(struct state *st, uint64_t *rng, off_t end, off_t *pos,
		       size_t *len)
{
	off_t unit = st->unit;

	*pos = below(rng, end);
	*len = 1 + below(rng, below(rng, 16) ? KIB(12) : KIB(256));
	switch (below(rng, 8)) {
	case 0:
		*pos -= *pos % unit;
		*len = unit * (1 + below(rng, 2));
		break;
	case 1:
		*pos -= *pos % KIB(4);
		*len += -*len % KIB(4);
		break;
	}
	if (*len > end - *pos)
		*len = end - *pos;
}

/* There was no space for a write at @pos. */
static void refused_at(struct state *st, off_t pos)
{
	struct stat stat;

	st->refused++;
	must(st, 0, fstat(st->fd, &stat));
	if (st->flags & REFUSED_GROWS && stat.st_size > st->size &&
	    stat.st_size <= pos)
		st->size = stat.st_size;
	must(st, st->size, stat.st_size);
}

static void op_write(struct state *st)
{
	uint64_t version = below(&st->rng, NR_VERSIONS);
	ssize_t ret;
	off_t pos;
	size_t len;

	pick_range(st, &st->rng, MAX_SIZE, &pos, &len);
	SET_WHAT(st, "write of %zu at %lld, size %lld", len, (long long)pos,
		 (long long)st->size);
	ret = pwrite(st->fd, st->data[version] + pos, len, pos);
	if (st->full && ret < 0 && errno == ENOSPC) {
		refused_at(st, pos);
		return;
	}
	if (st->full && ret > 0 && ret < len) {
		st->refused++;
		len = ret;
	}
	must(st, len, ret);
	memcpy(st->model + pos, st->data[version] + pos, len);
	if (st->size < pos + len)
		st->size = pos + len;
}

static void op_read(struct state *st)
{
	off_t pos;
	size_t len;

	if (!st->size)
		return;
	pick_range(st, &st->rng, st->size, &pos, &len);
	SET_WHAT(st, "read of %zu at %lld, size %lld", len, (long long)pos,
		 (long long)st->size);
	must(st, len, pread(st->fd, st->buf, len, pos));
	compare(st, st->buf, pos, len);
}

static void op_map(struct state *st)
{
	bool write = st->flags & CAN_MMAP_WRITE && below(&st->rng, 2);
	uint64_t version = below(&st->rng, NR_VERSIONS);
	size_t len, in_page;
	uint8_t *p;
	off_t pos;

	if (!st->size)
		return;
	pick_range(st, &st->rng, st->size, &pos, &len);
	SET_WHAT(st, "%s of %zu at %lld through a mapping, size %lld",
		 write ? "write" : "read", len, (long long)pos,
		 (long long)st->size);
	in_page = pos % sysconf(_SC_PAGESIZE);
	p = mmap(NULL, len + in_page, PROT_READ | (write ? PROT_WRITE : 0),
		 MAP_SHARED, st->fd, pos - in_page);
	if (p == MAP_FAILED)
		fail(st, st->what, "%s", strerror(errno));
	/* no readahead: what else is read along is up to ->read_folio() */
	if (below(&st->rng, 2))
		madvise(p, len + in_page, MADV_RANDOM);
	if (write) {
		memcpy(p + in_page, st->data[version] + pos, len);
		memcpy(st->model + pos, st->data[version] + pos, len);
	} else {
		compare(st, p + in_page, pos, len);
	}
	must(st, 0, munmap(p, len + in_page));
}

static void op_truncate(struct state *st)
{
	off_t size = below(&st->rng, MAX_SIZE);

	if (!below(&st->rng, 4))
		size -= size % st->unit;
	SET_WHAT(st, "truncate from %lld to %lld", (long long)st->size,
		 (long long)size);
	must(st, 0, ftruncate(st->fd, size));
	if (size < st->size)
		memset(st->model + size, 0, st->size - size);
	st->size = size;
}

static void op_punch(struct state *st)
{
	off_t pos;
	size_t len;

	pick_range(st, &st->rng, MAX_SIZE, &pos, &len);
	if (st->flags & PUNCH_UNITS) {
		len += pos % st->unit;
		len += -len % st->unit;
		pos -= pos % st->unit;
	}
	SET_WHAT(st, "hole of %zu at %lld, size %lld", len, (long long)pos,
		 (long long)st->size);
	must(st, 0, fallocate(st->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			      pos, len));
	memset(st->model + pos, 0, len);
}

static void op_fsync(struct state *st)
{
	SET_WHAT(st, "fsync");
	must(st, 0, fsync(st->fd));
}

static void op_evict(struct state *st)
{
	SET_WHAT(st, "evict");
	if (st->flags & CAN_WRITE)
		must(st, 0, fsync(st->fd));
	if (below(&st->rng, 16))
		posix_fadvise(st->fd, 0, 0, POSIX_FADV_DONTNEED);
	else
		drop_clean_caches();
}

static void op_readahead(struct state *st)
{
	off_t pos;
	size_t len;

	if (!st->size)
		return;
	pick_range(st, &st->rng, st->size, &pos, &len);
	SET_WHAT(st, "readahead of %zu at %lld, size %lld", len,
		 (long long)pos, (long long)st->size);
	/* It does nothing about what is cached. */
	if (below(&st->rng, 2))
		posix_fadvise(st->fd, 0, 0, POSIX_FADV_DONTNEED);
	must(st, 0, readahead(st->fd, pos, len));
}

/* None of these filesystems has FALLOC_FL_ZERO_RANGE for such a file. */
static const struct {
	void (*fn)(struct state *st);
	unsigned int weight;
	unsigned int needs;
} ops[] = {
	{ op_read, 30 },
	{ op_write, 30, CAN_WRITE },
	{ op_map, 10, CAN_MMAP },
	{ op_truncate, 4, CAN_TRUNCATE },
	{ op_punch, 4, CAN_PUNCH },
	{ op_fsync, 2, CAN_WRITE },
	{ op_evict, 12 },
	{ op_readahead, 8 },
};

static void run_op(struct state *st)
{
	unsigned int i, total = 0, pick;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		if ((ops[i].needs & st->flags) == ops[i].needs)
			total += ops[i].weight;
	pick = below(&st->rng, total);
	for (i = 0;; i++) {
		if ((ops[i].needs & st->flags) != ops[i].needs)
			continue;
		if (pick < ops[i].weight)
			break;
		pick -= ops[i].weight;
	}
	ops[i].fn(st);
}

/* While the file is being changed, a byte is of any version. */
static void check_read(struct state *st, char *what, const uint8_t *buf,
		       off_t pos, size_t len)
{
	size_t i;
	int v;

	for (i = 0; i < len; i++) {
		if (!(st->flags & CAN_WRITE)) {
			if (buf[i] == st->model[pos + i])
				continue;
		} else {
			for (v = 0; v < NR_VERSIONS; v++)
				if (buf[i] == st->data[v][pos + i])
					break;
			if (v < NR_VERSIONS)
				continue;
		}
		fail(st, what, "byte %lld of the file is 0x%02x, which nobody wrote",
		     (long long)pos + i, buf[i]);
	}
}

struct reader {
	struct state *st;
	pthread_t thread;
	unsigned int nr;
};

/* All readers prefer one unit for a while, and throw it out of the cache. */
static void *read_along(void *arg)
{
	struct reader *reader = arg;
	struct state *st = reader->st;
	char *what = st->reading[reader->nr];
	uint64_t rng = st->seed + (reader->nr + 1) * 1000003 + st->op;
	off_t pos, hot;
	ssize_t ret;
	uint8_t *buf;
	size_t len;
	int fd, n;
	off_t max = st->flags & CAN_WRITE ? MAX_SIZE : st->size;
	/* Each of them may well mean a whole unit. */
	int reads = st->unit > KIB(128) ? 40 : 300;

	buf = malloc(MAX_SIZE);
	fd = open(IMAGE_DIR "/mnt/file", O_RDONLY | O_CLOEXEC);
	if (!buf || fd < 0)
		fail(st, "reader", "%s", strerror(errno));
	for (n = 0; n < reads; n++) {
		if (below(&rng, 8)) {
			hot = __atomic_load_n(&st->op, __ATOMIC_RELAXED) / 16;
			hot = hot * st->unit % max;
			pos = hot + below(&rng, st->unit);
			len = 1 + below(&rng, KIB(4));
			if (!below(&rng, 4))
				posix_fadvise(fd, hot, st->unit,
					      POSIX_FADV_DONTNEED);
		} else {
			pick_range(st, &rng, max, &pos, &len);
		}
		snprintf(what, sizeof(st->reading[0]),
			 "reader %u: read of %zu at %lld", reader->nr, len,
			 (long long)pos);
		ret = pread(fd, buf, len, pos);
		if (ret < 0)
			fail(st, what, "%s", strerror(errno));
		check_read(st, what, buf, pos, ret);
	}
	snprintf(what, sizeof(st->reading[0]), "reader %u: done", reader->nr);
	close(fd);
	free(buf);
	return NULL;
}

static void run_ops(void *arg)
{
	struct state *st = arg;
	struct reader readers[NR_READERS];
	unsigned int i, n;

	st->fd = open(IMAGE_DIR "/mnt/file",
		      (st->flags & CAN_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (st->fd < 0)
		fail(st, "open", "%s", strerror(errno));
	for (i = 0; i < st->readers; i++) {
		readers[i].st = st;
		readers[i].nr = i;
		if (pthread_create(&readers[i].thread, NULL, read_along,
				   &readers[i]))
			fail(st, "reader", "cannot create a thread");
	}
	for (n = 0; n < OPS_PER_MOUNT; n++) {
		__atomic_store_n(&st->op, st->op + 1, __ATOMIC_RELAXED);
		run_op(st);
	}
	SET_WHAT(st, "wait for the readers");
	for (i = 0; i < st->readers; i++)
		pthread_join(readers[i].thread, NULL);
	close(st->fd);
}

static void compare_all(void *arg)
{
	struct state *st = arg;
	struct stat stat;

	SET_WHAT(st, "read all");
	st->fd = open(IMAGE_DIR "/mnt/file", O_RDONLY | O_CLOEXEC);
	if (st->fd < 0)
		fail(st, "open", "%s", strerror(errno));
	must(st, 0, fstat(st->fd, &stat));
	must(st, st->size, stat.st_size);
	must(st, st->size, pread(st->fd, st->buf, MAX_SIZE, 0));
	compare(st, st->buf, 0, st->size);
	close(st->fd);
}

static void in_child_of(struct __test_metadata *_metadata, struct state *st,
			void (*fn)(void *), const char *when)
{
	long ret = in_child(fn, st, HANG_SECONDS);
	unsigned int i;

	if (ret == -ETIMEDOUT) {
		TH_LOG("UNITS_TEST_SEED=%llu, operation %lu: %s: hangs",
		       (unsigned long long)st->seed, st->op, st->what);
		for (i = 0; i < st->readers; i++)
			TH_LOG("%s", st->reading[i]);
	}
	ASSERT_EQ(0, ret)
		TH_LOG("%s", when);
}

/* For images that are made of files: the first of them is the model. */
static void make_source(struct __test_metadata *_metadata, struct state *st,
			const char *dir)
{
	char path[64];
	off_t pos;
	size_t len;
	int fd, i;

	ASSERT_EQ(0, mkdir(dir, 0755));
	st->size = MIB(2) + 54321;
	for (pos = 0; pos < st->size; pos += len) {
		len = 1 + below(&st->rng, KIB(100));
		if (len > st->size - pos)
			len = st->size - pos;
		memcpy(st->model + pos,
		       st->data[below(&st->rng, NR_VERSIONS)] + pos, len);
	}
	/* The small ones share a fragment with the end of the first. */
	for (i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), i ? "%s/small%d" : "%s/file", dir, i);
		fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		ASSERT_GE(fd, 0);
		len = i ? i * 1234 : st->size;
		ASSERT_EQ(len, write(fd, i ? st->data[i] : st->model, len));
		ASSERT_EQ(0, close(fd));
	}
}

static void make_file(struct __test_metadata *_metadata, struct state *st,
		      const char *mnt)
{
	uint32_t attr = ATTR_COMPRESSED;
	struct statx stx;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "%s/file", mnt);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	ASSERT_GE(fd, 0);
	if (st->flags & NTFS_ATTRIB)
		ASSERT_EQ(0, fsetxattr(fd, "system.ntfs_attrib", &attr,
				       sizeof(attr), 0));
	ASSERT_EQ(0, statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &stx));
	ASSERT_EQ(!!(st->flags & COMPRESSED),
		  !!(stx.stx_attributes & STATX_ATTR_COMPRESSED));
	ASSERT_EQ(0, close(fd));
}

/* A file takes the space of the volume, but for some that any write may get. */
static void fill_volume(struct __test_metadata *_metadata, struct state *st,
			const char *mnt)
{
	off_t left = st->unit > KIB(128) ? 2 * st->unit : KIB(256);
	off_t size = 0;
	char path[64];
	ssize_t ret;
	size_t len;
	int fd;

	snprintf(path, sizeof(path), "%s/filler", mnt);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	ASSERT_GE(fd, 0);
	for (len = KIB(256); len >= KIB(4); len /= 4) {
		while ((ret = pwrite(fd, st->data[1], len, size)) > 0)
			size += ret;
		ASSERT_EQ(-1, ret);
		ASSERT_EQ(ENOSPC, errno);
	}
	ASSERT_LT(left, size);
	ASSERT_EQ(0, ftruncate(fd, size - left));
	ASSERT_EQ(0, fsync(fd));
	ASSERT_EQ(0, close(fd));
}

FIXTURE_SETUP(units)
{
	const char *seed = getenv("UNITS_TEST_SEED");
	struct image *im = &self->im;
	struct state *st;
	char source[32];
	int i, err;

	if (image_setup(im, _metadata, IMAGE_SIZE))
		return;
	for (i = 0; variant->needs[i]; i++)
		if (!image_have(variant->needs[i]))
			SKIP(return, "needs %s", variant->needs[i]);

	st = mmap(NULL, sizeof(*st), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, st);
	self->st = st;
	st->flags = variant->flags;
	st->unit = variant->unit;
	st->seed = seed && *seed ? strtoull(seed, NULL, 0) : time(NULL);
	st->rng = st->seed;
	for (i = 1; i < NR_VERSIONS; i++)
		pattern_fill(st->data[i], MAX_SIZE, 0, i);

	snprintf(source, sizeof(source), "%s/source", im->dir);
	if (!(st->flags & CAN_WRITE))
		make_source(_metadata, st, source);
	ASSERT_EQ(0, image_run("I=%s D=%s; %s", im->path, source,
			       variant->make));

	err = image_mount(im, variant->type,
			  st->flags & CAN_WRITE ? 0 : MS_RDONLY,
			  variant->options);
	if (err == -ENODEV)
		SKIP(return, "no filesystem %s in this kernel", variant->type);
	ASSERT_EQ(0, err);
	if (st->flags & CAN_WRITE)
		make_file(_metadata, st, im->mnt);
}

FIXTURE_TEARDOWN(units)
{
	image_teardown(&self->im);
}

static void random_run(struct __test_metadata *_metadata,
		       FIXTURE_DATA(units) * self,
		       const FIXTURE_VARIANT(units) * variant)
{
	const char *env = getenv("UNITS_TEST_OPS");
	unsigned long count = env && *env ? strtoul(env, NULL, 0) : DEFAULT_OPS;
	struct image *im = &self->im;
	struct state *st = self->st;
	double start = now();
	int ret;

	/*
	 * A full volume has to refuse something; in 200 operations ntfs3 on
	 * UML refused nothing with 12 of 60 seeds.
	 */
	while (st->op < count ||
	       (st->full && !st->refused && st->op < 20 * count)) {
		in_child_of(_metadata, st, run_ops, "random operations");
		in_child_of(_metadata, st, compare_all, "before unmounting");
		ASSERT_EQ(0, image_umount(im));
		ASSERT_EQ(0, image_mount(im, variant->type,
					 st->flags & CAN_WRITE ? 0 : MS_RDONLY,
					 variant->options));
		in_child_of(_metadata, st, compare_all, "after mounting again");
	}
	ASSERT_EQ(0, image_umount(im));
	ksft_print_msg("%lu operations, %.1f s\n", st->op, now() - start);
	if (!variant->check)
		return;
	ret = image_run("I=%s; %s", im->path, variant->check);
	if (ret == 127)
		ksft_print_msg("not checked: %s\n", variant->check);
	else
		EXPECT_EQ(0, ret)
			TH_LOG("UNITS_TEST_SEED=%llu: %s",
			       (unsigned long long)st->seed, variant->check);
}

/* Any number of operations may be asked for; what hangs is noticed anyway. */
TEST_F_TIMEOUT(units, matches_a_model, 4 * 3600)
{
	random_run(_metadata, self, variant);
}

TEST_F_TIMEOUT(units, matches_a_model_with_readers, 4 * 3600)
{
	self->st->readers = NR_READERS;
	random_run(_metadata, self, variant);
}

/* Stores through a mapping have nobody to tell. */
TEST_F_TIMEOUT(units, matches_a_model_when_full, 4 * 3600)
{
	if (!(variant->flags & CAN_WRITE))
		SKIP(return, "read-only");
	self->st->flags &= ~CAN_MMAP_WRITE;
	self->st->full = true;
	fill_volume(_metadata, self->st, self->im.mnt);
	random_run(_metadata, self, variant);
	EXPECT_NE(0, self->st->refused);
}

TEST_HARNESS_MAIN
