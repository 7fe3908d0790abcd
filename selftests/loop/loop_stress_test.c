// SPDX-License-Identifier: GPL-2.0
/*
 * I/O on loop devices while everything about them changes, and while what the
 * kernel does for them fails.
 *
 * Each writer has another part of the device, and knows for each block which
 * version of its data may be there: the last one that was written with success,
 * or one of those that failed since. Whatever is read must be one of them, both
 * during the test and at its end, from the device and from the backing file. So
 * errors that are not reported are found, and bytes from elsewhere, too.
 *
 * LOOP_TEST_SECONDS=N  for each test without faults (default 10); one with
 *			faults takes a fifth of that
 * LOOP_TEST_SEED=N     what the threads choose is as in the run which printed
 *			that seed; when they run is not
 */
#include "loop_test.h"
#include "loop_more.h"

#include <pthread.h>
#include <sys/xattr.h>

#define MNT		BASE "/mnt"	/* the filesystem between two devices */

#define WRITERS		3
#define BLOCK		KIB(4)
#define BLOCKS		64		/* of each writer */
#define MAX_BLOCKS	24		/* of one read or write */
#define SPAN		(WRITERS * BLOCKS * BLOCK)
#define LOWER_SIZE	MIB(48)

/* The contents of files that nobody writes. */
#define OLD		1

/* A device that comes and goes. */
#define SPARE		700

/* Nothing takes that many seconds; the alarm kills what hangs. */
#define HANG_SECONDS	120

struct stress;

struct writer {
	struct stress *st;
	unsigned int nr;
	__u64 rng;
	unsigned char *buf;
	aio_context_t aio;
	/* versions are numbered from 1, 0 is a block of zeroes */
	unsigned int version, sure[BLOCKS], last[BLOCKS];
	unsigned long calls, failed;
};

struct stress {
	__u64 seed;
	bool faults;		/* reads and writes may fail */
	bool dio;		/* faultfs wants transfers of whole sectors */
	struct loop lower;	/* what a filesystem on MNT is on */
	struct loop main;	/* what the writers have, open with O_DIRECT */
	struct loop fixed;	/* read-only: one of files[], which are the same */
	struct loop moving;	/* bound to files[0] for a moment */
	int image;		/* backing file of main */
	int files[2];
	struct writer writers[WRITERS];
	unsigned long changes;
	bool go;
	bool stop;
	pthread_mutex_t lock;	/* of: */
	char failure[256];	/* the first one */
};

static __printf(2, 3)
void complain(struct stress *st, const char *format, ...)
{
	va_list args;

	pthread_mutex_lock(&st->lock);
	if (!st->failure[0]) {
		va_start(args, format);
		vsnprintf(st->failure, sizeof(st->failure), format, args);
		va_end(args);
	}
	pthread_mutex_unlock(&st->lock);
	__atomic_store_n(&st->stop, true, __ATOMIC_RELAXED);
}

static bool stopped(struct stress *st)
{
	return __atomic_load_n(&st->stop, __ATOMIC_RELAXED);
}

/* --- the model ------------------------------------------------------------ */

static off_t block_pos(const struct writer *w, unsigned int block)
{
	return ((off_t)w->nr * BLOCKS + block) * BLOCK;
}

/* Each sector begins with its version: it is what can be torn. */
static void fill_block(unsigned char *buf, off_t pos, unsigned int version)
{
	pattern_fill(buf, BLOCK, pos, version);
	for (size_t i = 0; i < BLOCK; i += SECTOR)
		memcpy(buf + i, &version, sizeof(version));
}

static bool check_sector(const unsigned char *buf, off_t pos, unsigned int sure,
			 unsigned int last)
{
	unsigned int version;
	size_t i;

	memcpy(&version, buf, sizeof(version));
	if (version < sure || version > last)
		return false;
	for (i = sizeof(version); i < SECTOR; i++)
		if (buf[i] != (version ? pattern_byte(pos + i, version) : 0))
			return false;
	return true;
}

static void check_block(struct writer *w, const unsigned char *buf,
			unsigned int block, const char *where)
{
	off_t pos = block_pos(w, block);
	unsigned int version;

	for (size_t i = 0; i < BLOCK; i += SECTOR) {
		if (check_sector(buf + i, pos + i, w->sure[block],
				 w->last[block]))
			continue;
		memcpy(&version, buf + i, sizeof(version));
		complain(w->st, "%s: sector at %lld: version %u, not %u to %u",
			 where, (long long)(pos + i), version, w->sure[block],
			 w->last[block]);
		return;
	}
}

/*
 * Read or write @n blocks at @block from or to @w->buf, at once or one by one but
 * submitted together: those are merged into requests of many bios, for which loop
 * has to allocate memory.  @done[i]: is that of the i-th block?
 */
static void transfer(struct writer *w, bool write, unsigned int block,
		     unsigned int n, bool done[MAX_BLOCKS])
{
	unsigned int step = rnd(&w->rng) % 2 ? 1 : n, all = 0;
	struct piece pieces[MAX_BLOCKS], *piece = pieces;
	int err;

	for (unsigned int i = 0; i < n; i += step)
		*piece++ = (struct piece){
			.buf = w->buf + i * BLOCK,
			.len = step * BLOCK,
			.pos = block_pos(w, block + i),
		};
	err = rw_pieces(w->aio, w->st->main.fd,
			write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD, pieces,
			piece - pieces);
	for (unsigned int i = 0; i < n; i++) {
		piece = &pieces[i / step];
		done[i] = piece->ret >= (ssize_t)((i % step + 1) * BLOCK);
		all += done[i];
		if (!err && piece->ret < 0)
			err = piece->ret;
	}
	w->calls++;
	if (all == n)
		return;
	w->failed++;
	if (!w->st->faults)
		complain(w->st, "%s of %u blocks at %lld: %s",
			 write ? "write" : "read", n,
			 (long long)block_pos(w, block),
			 err ? strerror(-err) : "short");
}

static void write_blocks(struct writer *w, unsigned int block, unsigned int n)
{
	bool done[MAX_BLOCKS];

	for (unsigned int i = 0; i < n; i++) {
		w->last[block + i] = ++w->version;
		fill_block(w->buf + i * BLOCK, block_pos(w, block + i),
			   w->version);
	}
	transfer(w, true, block, n, done);
	for (unsigned int i = 0; i < n; i++)
		if (done[i])
			w->sure[block + i] = w->last[block + i];
}

static void read_blocks(struct writer *w, unsigned int block, unsigned int n)
{
	bool done[MAX_BLOCKS];

	transfer(w, false, block, n, done);
	for (unsigned int i = 0; i < n; i++)
		if (done[i])
			check_block(w, w->buf + i * BLOCK, block + i, "device");
}

static void *run_writer(void *arg)
{
	struct writer *w = arg;
	unsigned int block, n;

	while (!stopped(w->st)) {
		if (!__atomic_load_n(&w->st->go, __ATOMIC_RELAXED)) {
			poll(NULL, 0, 1);
			continue;
		}
		block = rnd(&w->rng) % BLOCKS;
		n = 1 + rnd(&w->rng) % MAX_BLOCKS;
		if (n > BLOCKS - block)
			n = BLOCKS - block;
		if (rnd(&w->rng) % 2)
			write_blocks(w, block, n);
		else
			read_blocks(w, block, n);
	}
	return NULL;
}

/* All blocks, from @fd; there are no faults any more. */
static void check_all(struct stress *st, int fd, const char *where)
{
	unsigned char *buf = alloc_pages(BLOCK);
	ssize_t n;

	for (struct writer *w = st->writers; w < st->writers + WRITERS; w++) {
		for (unsigned int i = 0; i < BLOCKS; i++) {
			n = pread_full(fd, buf, BLOCK, block_pos(w, i));
			if (n == (ssize_t)BLOCK)
				check_block(w, buf, i, where);
			else
				complain(st, "%s: read at %lld: %zd", where,
					 (long long)block_pos(w, i), n);
		}
	}
	free(buf);
}

/* --- what changes at the same time ---------------------------------------- */

struct change {
	const char *name;
	/* 0, or the errno that tells what went wrong */
	int (*fn)(struct stress *st, __u64 *rng);
};

static int result(int ret)
{
	return ret < 0 ? errno : 0;
}

static int change_limit(struct stress *st, __u64 *rng)
{
	struct loop_info64 info;
	int err = loop_status(&st->main, &info);

	if (err)
		return -err;
	info.lo_sizelimit = rnd(rng) % 2 ? SPAN + rnd(rng) % 8 * BLOCK : 0;
	info.lo_flags ^= LO_FLAGS_PARTSCAN & (rnd(rng) % 2 - 1);
	return result(ioctl(st->main.fd, LOOP_SET_STATUS64, &info));
}

static int change_size(struct stress *st, __u64 *rng)
{
	if (ftruncate(st->image, SPAN + rnd(rng) % 16 * BLOCK))
		return errno;
	return result(ioctl(st->main.fd, LOOP_SET_CAPACITY));
}

static int change_direct(struct stress *st, __u64 *rng)
{
	int err = result(ioctl(st->main.fd, LOOP_SET_DIRECT_IO, rnd(rng) % 2));

	return err == EINVAL && !st->dio ? 0 : err;
}

static int change_block_size(struct stress *st, __u64 *rng)
{
	unsigned long size = SECTOR << rnd(rng) % 4;
	int err = result(ioctl(st->main.fd, LOOP_SET_BLOCK_SIZE, size));

	return err == EBUSY ? 0 : err;	/* somebody reads the partition table */
}

static int flush(struct stress *st, __u64 *rng)
{
	if (rnd(rng) % 2)
		return result(fsync(st->main.fd));
	return result(ioctl(st->main.fd, BLKFLSBUF));
}

static int change_short(struct stress *st, __u64 *rng)
{
	static const unsigned int any[] = { 0, 513, 4095, 20001 };
	static const unsigned int aligned[] = { 0, 512, 4608, 19968 };

	return -remount_faultfs(FAULTFS, "short=%u",
				(st->dio ? aligned : any)[rnd(rng) % 4]);
}

static int check_old(int fd, __u64 *rng, bool may_be_gone)
{
	off_t pos = rnd(rng) % (SPAN / BLOCK) * BLOCK;
	unsigned char buf[BLOCK];
	ssize_t n = pread(fd, buf, BLOCK, pos);

	if (n == (ssize_t)BLOCK)
		return pattern_verify(buf, BLOCK, pos, OLD) < 0 ? 0 : EILSEQ;
	if (may_be_gone && (!n || errno == EIO || errno == ENXIO))
		return 0;
	return n < 0 ? errno : EPIPE;
}

static int change_file(struct stress *st, __u64 *rng)
{
	return result(ioctl(st->fixed.fd, LOOP_CHANGE_FD,
			    st->files[rnd(rng) % 2]));
}

static int read_changed(struct stress *st, __u64 *rng)
{
	return check_old(st->fixed.fd, rng, false);
}

static int attach_moving(struct stress *st, __u64 *rng)
{
	struct loop_args args = { .file = st->files[0], .mode = O_RDONLY };
	int err;

	if (rnd(rng) % 2)
		args.flags = LO_FLAGS_PARTSCAN;
	err = loop_attach(&st->moving, &args);
	if (err)
		return -err;
	poll(NULL, 0, rnd(rng) % 3);
	if (rnd(rng) % 2 && ioctl(st->moving.fd, LOOP_CLR_FD))
		return errno;
	return -loop_detach(&st->moving);
}

/* It may be free, or another one by now, which has the same contents. */
static int read_moving(struct stress *st, __u64 *rng)
{
	struct loop_info64 info;
	struct stat stat;
	char dev[32];
	int fd, err;

	snprintf(dev, sizeof(dev), "/dev/loop%d",
		 __atomic_load_n(&st->moving.nr, __ATOMIC_RELAXED));
	fd = open(dev, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENXIO || errno == ENOENT ? 0 : errno;
	err = check_old(fd, rng, true);
	/* Another process may have bound the device, and cannot clear it now. */
	if (err == EILSEQ && !ioctl(fd, LOOP_GET_STATUS64, &info) &&
	    !fstat(st->files[0], &stat) && info.lo_inode != stat.st_ino)
		err = 0;
	close(fd);
	return err;
}

static int add_remove(struct stress *st, __u64 *rng)
{
	int ret = loop_control(rnd(rng) % 2 ? LOOP_CTL_ADD : LOOP_CTL_REMOVE,
			       SPARE);

	/* there or not there already, or attach_moving() is using it */
	return ret >= 0 || ret == -EEXIST || ret == -ENODEV || ret == -EBUSY ?
	       0 : -ret;
}

static void remove_spare(const void *unused)
{
	wait_for(loop_control(LOOP_CTL_REMOVE, SPARE) != -EBUSY, SOON);
}

static int shake_memory(struct stress *st, __u64 *rng)
{
	if (rnd(rng) % 2)
		return -write_text("/proc/sys/vm/drop_caches", "1");
	if (!access("/proc/sys/vm/compact_memory", F_OK))
		return -write_text("/proc/sys/vm/compact_memory", "1");
	return 0;
}

static const struct change changes[] = {
	{ "LOOP_SET_STATUS64", change_limit },
	{ "LOOP_SET_CAPACITY", change_size },
	{ "LOOP_SET_DIRECT_IO", change_direct },
	{ "LOOP_SET_BLOCK_SIZE", change_block_size },
	{ "flush", flush },
	{ "short transfers", change_short },
	{ "LOOP_CHANGE_FD", change_file },
	{ "read after LOOP_CHANGE_FD", read_changed },
	{ "attach and detach", attach_moving },
	{ "read while it is detached", read_moving },
	{ "LOOP_CTL_ADD and LOOP_CTL_REMOVE", add_remove },
	{ "memory", shake_memory },
};

struct changer {
	struct stress *st;
	const struct change *change;
	__u64 rng;
};

static void *run_changer(void *arg)
{
	struct changer *c = arg;
	int err;

	while (!stopped(c->st)) {
		err = c->change->fn(c->st, &c->rng);
		if (err)
			complain(c->st, "%s: %s", c->change->name,
				 strerror(err));
		__atomic_fetch_add(&c->st->changes, 1, __ATOMIC_RELAXED);
		poll(NULL, 0, rnd(&c->rng) % 8);
	}
	return NULL;
}

/* --- setting up, and looking at the result -------------------------------- */

static void init_stress(struct stress *st)
{
	st->lower.fd = -1;
	st->main.fd = -1;
	st->fixed.fd = -1;
	st->moving.fd = -1;
	st->moving.nr = -1;
	st->image = -1;
	pthread_mutex_init(&st->lock, NULL);
	st->seed = env_number("LOOP_TEST_SEED", time(NULL));
	for (unsigned int i = 0; i < WRITERS; i++) {
		st->writers[i].st = st;
		st->writers[i].nr = i;
		st->writers[i].rng = st->seed + i;
	}
}

/* They work while st->go is set: no thread can be created during faults. */
static void start_writers(struct __test_metadata *_metadata, struct stress *st,
			  pthread_t threads[WRITERS])
{
	for (unsigned int i = 0; i < WRITERS; i++) {
		struct writer *w = &st->writers[i];

		w->buf = alloc_pages(MAX_BLOCKS * BLOCK);
		ASSERT_NE(w->buf, NULL);
		ASSERT_EQ(syscall(SYS_io_setup, MAX_BLOCKS, &w->aio), 0);
		ASSERT_EQ(pthread_create(&threads[i], NULL, run_writer, w), 0);
	}
}

/* Returns how many reads and writes have failed. */
static unsigned long join_writers(struct stress *st, pthread_t threads[WRITERS],
				  unsigned long *calls)
{
	unsigned long failed = 0;

	*calls = 0;
	for (unsigned int i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], NULL);
		failed += st->writers[i].failed;
		*calls += st->writers[i].calls;
		syscall(SYS_io_destroy, st->writers[i].aio);
		free(st->writers[i].buf);
	}
	return failed;
}

/* Until there is a failure, or for @seconds. */
static void wait_seconds(struct stress *st, double seconds)
{
	double start = now(), reported = start;

	while (!wait_for(stopped(st), 0.1) && now() < start + seconds) {
		if (now() < reported + 5)
			continue;
		reported = now();
		ksft_print_msg("%.0f of %.0f seconds\n", now() - start,
			       seconds);
	}
	__atomic_store_n(&st->stop, true, __ATOMIC_RELAXED);
}

static void check_result(struct __test_metadata *_metadata, struct stress *st,
			 const char *path)
{
	int fd;

	check_all(st, st->main.fd, "device");
	ASSERT_EQ(loop_detach(&st->main), 0);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ASSERT_GE(fd, 0);
	check_all(st, fd, "backing file");
	close(fd);
	ASSERT_STREQ(st->failure, "")
		TH_LOG("LOOP_TEST_SEED=%llu", (unsigned long long)st->seed);
}

static unsigned long test_seconds(void)
{
	return env_number("LOOP_TEST_SECONDS", 10);
}

/* --- changes -------------------------------------------------------------- */

FIXTURE(changes)
{
	struct stress st;
};

FIXTURE_VARIANT(changes)
{
	const char *options;	/* of faultfs */
	bool dio;
};

FIXTURE_VARIANT_ADD(changes, iter)
{
	.options = "io=iter",
};

FIXTURE_VARIANT_ADD(changes, direct)
{
	.options = "io=iter,dio_align=512",
	.dio = true,
};

FIXTURE_VARIANT_ADD(changes, direct_aio)
{
	.options = "io=iter,dio_align=512,aio",
	.dio = true,
};

/* files without iter methods */
FIXTURE_VARIANT_ADD(changes, write)
{
	.options = "io=write",
};

static const char * const old_files[] = { FAULTFS "/old0", FAULTFS "/old1" };

FIXTURE_SETUP(changes)
{
	struct stress *st = &self->st;
	unsigned char *buf = malloc(SPAN);
	struct loop_args args = {};

	init_stress(st);
	st->dio = variant->dio;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	st->image = make_file(FAULTFS "/image", SPAN);
	ASSERT_GE(st->image, 0);
	if (loop_attach_path(_metadata, &st->main, FAULTFS "/image",
			     O_RDWR | O_DIRECT,
			     st->dio ? LO_FLAGS_DIRECT_IO : 0))
		return;

	pattern_fill(buf, SPAN, 0, OLD);
	for (int i = 0; i < 2; i++) {
		st->files[i] = make_file(old_files[i], 0);
		ASSERT_GE(st->files[i], 0);
		ASSERT_EQ(pwrite_full(st->files[i], buf, SPAN, 0), SPAN);
	}
	free(buf);
	args.file = st->files[0];
	args.flags = LO_FLAGS_READ_ONLY;
	ASSERT_EQ(loop_attach(&st->fixed, &args), 0);
}

FIXTURE_TEARDOWN(changes)
{
	struct stress *st = &self->st;

	EXPECT_EQ(loop_detach(&st->main), 0);
	EXPECT_EQ(loop_detach(&st->fixed), 0);
	EXPECT_EQ(loop_detach(&st->moving), 0);
	close(st->image);
	close(st->files[0]);
	close(st->files[1]);
	EXPECT_EQ(umount_soon(FAULTFS), 0)
		TH_LOG("a file is still in use");
}

TEST_F_TIMEOUT(changes, model, 4 * 3600)
{
	struct stress *st = &self->st;
	pthread_t writers[WRITERS], threads[ARRAY_SIZE(changes)];
	struct changer changers[ARRAY_SIZE(changes)];
	unsigned long seconds = test_seconds(), calls;
	pid_t undo;

	ksft_print_msg("LOOP_TEST_SEED=%llu LOOP_TEST_SECONDS=%lu\n",
		       (unsigned long long)st->seed, seconds);
	alarm(seconds + HANG_SECONDS);
	undo = undo_later(_metadata, remove_spare, NULL);
	start_writers(_metadata, st, writers);
	__atomic_store_n(&st->go, true, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < ARRAY_SIZE(changes); i++) {
		changers[i].st = st;
		changers[i].change = &changes[i];
		changers[i].rng = st->seed + WRITERS + i;
		ASSERT_EQ(pthread_create(&threads[i], NULL, run_changer,
					 &changers[i]), 0);
	}
	wait_seconds(st, seconds);
	for (unsigned int i = 0; i < ARRAY_SIZE(changes); i++)
		pthread_join(threads[i], NULL);
	join_writers(st, writers, &calls);
	undo_now(_metadata, undo);
	alarm(HANG_SECONDS);
	ASSERT_EQ(remount_faultfs(FAULTFS, "short=0"), 0);
	check_result(_metadata, st, FAULTFS "/image");
	ksft_print_msg("%lu reads and writes, %lu changes, %lu seconds\n",
		       calls, st->changes, seconds);
	/* Otherwise nothing was tried. */
	EXPECT_GT(calls, seconds);
	EXPECT_GT(st->changes, seconds);
}

/* --- faults --------------------------------------------------------------- */

#define DEBUG		"/sys/kernel/debug"
#define TIMES		1000000		/* more than there can be */
#define FUNCTION	"__filemap_add_folio"

FIXTURE(faults)
{
	struct stress st;
};

FIXTURE_VARIANT(faults)
{
	const char *fault;	/* a directory in debugfs */
	const char *percent;
	const char *options;	/* of faultfs */
	const char *mkfs;	/* on a loop device on faultfs */
	const char *type;
	__u32 flags;		/* of the device for the writers */
};

#define FAULTFS_DIRECT	"io=iter,dio_align=512,aio"

FIXTURE_VARIANT_ADD(faults, slab_iter)
{
	.fault = "failslab", .percent = "3", .options = "io=iter",
};

FIXTURE_VARIANT_ADD(faults, slab_direct)
{
	.fault = "failslab", .percent = "3", .options = FAULTFS_DIRECT,
	.flags = LO_FLAGS_DIRECT_IO,
};

FIXTURE_VARIANT_ADD(faults, slab_write)
{
	.fault = "failslab", .percent = "3", .options = "io=write",
};

FIXTURE_VARIANT_ADD(faults, page_iter)
{
	.fault = "fail_page_alloc", .percent = "10", .options = "io=iter",
};

FIXTURE_VARIANT_ADD(faults, page_write)
{
	.fault = "fail_page_alloc", .percent = "10", .options = "io=write",
};

/* Without a journal: ext4 is to go on. */
#define EXT4							\
	.options = "io=iter",					\
	.mkfs = "mkfs.ext4 -q -F -O ^has_journal -E lazy_itable_init=0", \
	.type = "ext4"

FIXTURE_VARIANT_ADD(faults, request_ext4)
{
	.fault = "fail_make_request", .percent = "10", EXT4,
	.flags = LO_FLAGS_DIRECT_IO,
};

FIXTURE_VARIANT_ADD(faults, add_folio_ext4)
{
	.fault = "fail_function", .percent = "10", EXT4,
};

/* These use filemap_grab_folios(). */
#define NTFS(type_)						\
	.options = "io=iter", .mkfs = "mkntfs -q -f -F -s 512 -c 4096", \
	.type = type_

FIXTURE_VARIANT_ADD(faults, add_folio_ntfs)
{
	.fault = "fail_function", .percent = "3", NTFS("ntfs"),
};

FIXTURE_VARIANT_ADD(faults, add_folio_ntfs3)
{
	.fault = "fail_function", .percent = "3", NTFS("ntfs3"),
};

FIXTURE_VARIANT_ADD(faults, add_folio_ocfs2)
{
	.fault = "fail_function", .percent = "3", .options = "io=iter",
	.mkfs = "mkfs.ocfs2 -q -x -M local --fs-features=local -b 4096 -C 32768",
	.type = "ocfs2",
};

static int set_fault(const char *fault, const char *name, const char *value)
{
	char path[128];
	int err;

	snprintf(path, sizeof(path), DEBUG "/%s/%s", fault, name);
	err = write_text(path, value);
	return err == -ENOENT ? 0 : err;	/* not all have all */
}

/* The first one stops the faults. */
static int save_faults(const char *fault)
{
	static const char * const names[] = {
		"probability", "task-filter", "ignore-gfp-wait", "min-order",
		"verbose", "interval", "times",
	};
	char path[128];

	for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
		int err;

		snprintf(path, sizeof(path), DEBUG "/%s/%s", fault, names[i]);
		err = save_setting(path);
		if (err && err != -ENOENT)
			return err;
	}
	return 0;
}

static int start_faults(const char *fault, const char *percent)
{
	char times[16];

	snprintf(times, sizeof(times), "%d", TIMES);
	return set_fault(fault, "task-filter", "N") ?:
	       set_fault(fault, "ignore-gfp-wait", "N") ?:
	       set_fault(fault, "min-order", "0") ?:
	       set_fault(fault, "verbose", "0") ?:
	       set_fault(fault, "interval", "1") ?:
	       set_fault(fault, "inject", FUNCTION) ?:
	       set_fault(fault, FUNCTION "/retval", "0xfffffffffffffff4") ?:
	       set_fault(fault, "times", times) ?:
	       set_fault(fault, "probability", percent);
}

/* As long as there are faults that can fail as well. */
static void stop_faults(const char *fault)
{
	wait_for(!set_fault(fault, "probability", "0"), SOON);
}

static void undo_faults(const void *fault)
{
	stop_faults(fault);
	restore_settings(NULL);
	set_fault(fault, "inject", "");
}

static long faults_so_far(const char *fault)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), DEBUG "/%s/times", fault);
	return read_text(path, text, sizeof(text)) ? -1 : TIMES - atol(text);
}

/*
 * A file of zeroes: a hole on faultfs, which has to allocate memory then; on others
 * not, when they can do without, as they are to see errors of data only.
 */
static void make_stress_image(struct __test_metadata *_metadata,
			      struct stress *st, const char *path)
{
	unsigned int compressed = 0x820;	/* and FILE_ATTRIBUTE_ARCHIVE */
	unsigned char *zeroes;

	st->image = make_file(path, SPAN);
	ASSERT_GE(st->image, 0);
	if (st->lower.fd < 0)
		return;
	zeroes = calloc(1, SPAN);
	if (fsetxattr(st->image, "system.ntfs_attrib", &compressed,
		      sizeof(compressed), 0))
		ASSERT_EQ(errno, EOPNOTSUPP);
	ASSERT_EQ(pwrite_full(st->image, zeroes, SPAN, 0), SPAN);
	ASSERT_EQ(fsync(st->image), 0);
	free(zeroes);
}

FIXTURE_SETUP(faults)
{
	struct stress *st = &self->st;
	const char *image = FAULTFS "/image";
	char path[64];
	int status;

	init_stress(st);
	st->faults = true;
	if (private_mounts(_metadata) ||
	    mount_faultfs(_metadata, FAULTFS, variant->options))
		return;
	if (!env_number("LOOP_TEST_FAULTS", 0))
		SKIP_NO_FAULTS(return);
	snprintf(path, sizeof(path), DEBUG "/%s", variant->fault);
	if (access(path, F_OK))
		SKIP(return, "no %s", path);
	if (variant->type) {
		close(make_file(FAULTFS "/lower", LOWER_SIZE));
		if (loop_attach_path(_metadata, &st->lower, FAULTFS "/lower",
				     O_RDWR, 0))
			return;
		status = run("%s %s", variant->mkfs, st->lower.dev);
		if (status == 127)
			SKIP(return, "needs %s", variant->mkfs);
		ASSERT_EQ(status, 0)
			print_log();
		ASSERT_EQ(mkdir(MNT, 0755), 0);
		if (mount(st->lower.dev, MNT, variant->type, 0,
			  strcmp(variant->type, "ocfs2") ? NULL :
			  "heartbeat=none")) {
			ASSERT_EQ(errno, ENODEV);
			SKIP(return, "no filesystem %s", variant->type);
		}
		image = MNT "/image";
	}
	make_stress_image(_metadata, st, image);
	loop_attach_path(_metadata, &st->main, image, O_RDWR | O_DIRECT,
			 variant->flags);
}

FIXTURE_TEARDOWN(faults)
{
	struct stress *st = &self->st;

	EXPECT_EQ(loop_detach(&st->main), 0);
	close(st->image);
	if (st->lower.fd >= 0) {
		EXPECT_EQ(umount_soon(MNT), 0)
			TH_LOG("a file is still in use");
		EXPECT_EQ(loop_detach(&st->lower), 0);
	}
	EXPECT_EQ(umount_soon(FAULTFS), 0)
		TH_LOG("a file is still in use");
}

/* Only one device has its requests fail. */
static int fail_requests_of(const struct loop *lo, const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/block/loop%d/make-it-fail", lo->nr);
	return write_text(path, value);
}

/*
 * Nobody prints or starts a program while there are faults: they are for all
 * that runs on the machine.
 */
TEST_F_TIMEOUT(faults, model, 4 * 3600)
{
	bool requests = !strcmp(variant->fault, "fail_make_request");
	struct stress *st = &self->st;
	double end = now() + (test_seconds() + 4) / 5;
	unsigned long calls, failed;
	pthread_t writers[WRITERS];
	long faults;
	pid_t undo;

	ksft_print_msg("LOOP_TEST_SEED=%llu\n", (unsigned long long)st->seed);
	alarm(test_seconds() + HANG_SECONDS);
	if (requests)
		ASSERT_EQ(fail_requests_of(&st->lower, "1"), 0);
	start_writers(_metadata, st, writers);
	ASSERT_EQ(save_faults(variant->fault), 0);
	undo = undo_later(_metadata, undo_faults, variant->fault);
	poll(NULL, 0, 200);	/* what was printed is through all pipes */
	ASSERT_EQ(start_faults(variant->fault, variant->percent), 0);
	while (now() < end && !stopped(st)) {
		/* What is cached is read anew; what is dirty cannot be. */
		fsync(st->image);
		posix_fadvise(st->image, 0, 0, POSIX_FADV_DONTNEED);
		write_text("/proc/sys/vm/drop_caches", "1");
		__atomic_store_n(&st->go, true, __ATOMIC_RELAXED);
		poll(NULL, 0, 100);
		__atomic_store_n(&st->go, false, __ATOMIC_RELAXED);
		poll(NULL, 0, 10);
	}
	stop_faults(variant->fault);
	faults = faults_so_far(variant->fault);
	undo_now(_metadata, undo);
	if (requests)
		ASSERT_EQ(fail_requests_of(&st->lower, "0"), 0);
	__atomic_store_n(&st->stop, true, __ATOMIC_RELAXED);
	failed = join_writers(st, writers, &calls);

	alarm(HANG_SECONDS);
	/* What failed before may be said only now. */
	fsync(st->main.fd);
	check_result(_metadata, st, variant->type ? MNT "/image" :
		     FAULTFS "/image");
	ksft_print_msg("%ld faults, %lu of %lu reads and writes failed\n",
		       faults, failed, calls);
	EXPECT_GT(faults, 0);
}

TEST_HARNESS_MAIN
