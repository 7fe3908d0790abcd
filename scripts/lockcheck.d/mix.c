// SPDX-License-Identifier: GPL-2.0
// mix FILE SECONDS PROCESSES SIZE SEED [ro | noclone]: random operations on one file,
// by all processes; "ro" leaves out those that write
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

#define BUFFER (2 << 20)
#define PAGE 4096L
#define UNIT 0x10000L	/* of what is cloned, collapsed and inserted */

static const char *path;
static unsigned long size;
static int read_only, no_clone;
static int fd, direct_fd, null_fd, pipe_fd[2];
static char *buf, *map;
static sigjmp_buf env;

static void on_signal(int sig)
{
	siglongjmp(env, sig);
}

static unsigned int rnd(unsigned int below)
{
	return (((unsigned int)random() << 1) ^ random()) % below;
}

static size_t random_length(void)
{
	unsigned int k = rnd(10);

	return 1 + rnd(k < 5 ? 16384 : k < 8 ? 131072 : 1 << 20);
}

static void do_map(void)
{
	size_t len = (size + PAGE - 1) & -PAGE;

	if (map != MAP_FAILED)
		munmap(map, len);
	map = read_only ? MAP_FAILED :
	      mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
}

static void op_write(off_t pos, size_t len) { (void)!pwrite(fd, buf, len, pos); }
static void op_read(off_t pos, size_t len) { (void)!pread(fd, buf, len, pos); }

static void op_store(off_t pos, size_t len)
{
	for (size_t i = 0; map != MAP_FAILED && i < len; i += 1024)
		map[pos + i] = i;
}

static void op_load(off_t pos, size_t len)
{
	for (size_t i = 0; map != MAP_FAILED && i < len; i += PAGE)
		(void)*(volatile char *)&map[pos + i];
}

static void op_truncate(off_t pos, size_t len)
{
	(void)len;
	if (!rnd(8))
		(void)!ftruncate(fd, rnd(3) ? (off_t)size : pos);
}

static void op_punch(off_t pos, size_t len)
{
	fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, pos, len);
}

static void op_collapse(off_t pos, size_t len)
{
	(void)len;
	fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, pos & -UNIT, UNIT);
}

/* for operations that make the file larger */
static off_t size_to_grow(void)
{
	struct stat st;

	return !fstat(fd, &st) && st.st_size < 2 * (off_t)size ? st.st_size : -1;
}

static void op_insert(off_t pos, size_t len)
{
	(void)len;
	if (size_to_grow() >= 0)
		fallocate(fd, FALLOC_FL_INSERT_RANGE, pos & -UNIT, UNIT);
}

static void op_append(off_t pos, size_t len)
{
	pos = size_to_grow();
	if (pos >= 0)
		(void)!pwrite(fd, buf, len, pos);
}

static void op_zero(off_t pos, size_t len)
{
	fallocate(fd, FALLOC_FL_ZERO_RANGE | (rnd(2) ? FALLOC_FL_KEEP_SIZE : 0), pos, len);
}

static void op_allocate(off_t pos, size_t len)
{
	fallocate(fd, rnd(2) ? FALLOC_FL_KEEP_SIZE : 0, pos, len);
}

static void op_readahead(off_t pos, size_t len) { readahead(fd, pos, len); }
static void op_willneed(off_t pos, size_t len) { posix_fadvise(fd, pos, len, POSIX_FADV_WILLNEED); }

static void op_dontneed(off_t pos, size_t len)
{
	posix_fadvise(fd, rnd(2) ? pos : 0, rnd(2) ? len : 0, POSIX_FADV_DONTNEED);
}

static void op_direct_read(off_t pos, size_t len)
{
	(void)!pread(direct_fd, buf, (len + PAGE - 1) & -PAGE, pos & -PAGE);
}

static void op_direct_write(off_t pos, size_t len)
{
	(void)!pwrite(direct_fd, buf, (len + PAGE - 1) & -PAGE, pos & -PAGE);
}

static void op_drop_caches(off_t pos, size_t len)
{
	int drop;

	(void)pos, (void)len;
	if (rnd(8))
		return;
	drop = open("/proc/sys/vm/drop_caches", O_WRONLY);
	(void)!write(drop, rnd(2) ? "1" : "3", 1);
	close(drop);
}

static void op_fsync(off_t pos, size_t len)
{
	(void)pos, (void)len;
	if (rnd(2))
		fsync(fd);
	else
		fdatasync(fd);
}

static void op_sync(off_t pos, size_t len)
{
	(void)pos, (void)len;
	if (!rnd(8))
		sync();
}

static void op_syncfs(off_t pos, size_t len)
{
	(void)pos, (void)len;
	if (!rnd(8))
		syncfs(fd);
}

static void op_sync_range(off_t pos, size_t len) { sync_file_range(fd, pos, len, rnd(8)); }

static void op_clone(off_t pos, size_t len)
{
	struct file_clone_range range = { fd, pos & -UNIT, UNIT, rnd(size) & -UNIT };

	(void)len;
	if (!no_clone)
		ioctl(fd, FICLONERANGE, &range);
}

static void op_dedupe(off_t pos, size_t len)
{
	struct {
		struct file_dedupe_range range;
		struct file_dedupe_range_info info;
	} d = {
		.range = { .src_offset = pos & -UNIT, .src_length = UNIT, .dest_count = 1 },
		.info = { .dest_fd = fd, .dest_offset = rnd(size) & -UNIT },
	};

	(void)len;
	if (rnd(2)) {	/* make them equal */
		(void)!pwrite(fd, buf, UNIT, d.range.src_offset);
		(void)!pwrite(fd, buf, UNIT, d.info.dest_offset);
	}
	ioctl(fd, FIDEDUPERANGE, &d);
}

static void op_copy(off_t pos, size_t len)
{
	off_t to = rnd(size);

	(void)!copy_file_range(fd, &pos, fd, &to, len, 0);
}

/* The source is the page cache of the file that is written to. */
static void op_write_mapped(off_t pos, size_t len)
{
	if (map != MAP_FAILED)
		(void)!pwrite(fd, map + pos, len, rnd(size));
}

static void op_msync(off_t pos, size_t len)
{
	if (map != MAP_FAILED)
		msync(map + (pos & -PAGE), len, rnd(2) ? MS_SYNC : MS_ASYNC);
}

static void op_splice(off_t pos, size_t len)
{
	off_t to = rnd(size);
	ssize_t n = splice(fd, &pos, pipe_fd[1], NULL, len < UNIT ? len : UNIT, SPLICE_F_NONBLOCK);

	if (n <= 0)
		return;
	if (!read_only && rnd(2)) {
		ssize_t written = splice(pipe_fd[0], NULL, fd, &to, n, 0);

		n -= written > 0 ? written : 0;
	}
	while (n > 0) {
		ssize_t got = read(pipe_fd[0], buf, n);

		if (got <= 0)
			break;
		n -= got;
	}
}

static void op_madvise(off_t pos, size_t len)
{
	static const int advice[] = {
		MADV_WILLNEED, MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ,
		MADV_POPULATE_WRITE, MADV_RANDOM, MADV_SEQUENTIAL, MADV_NORMAL };

	if (map != MAP_FAILED)
		madvise(map + (pos & -PAGE), len, advice[rnd(9)]);
}

static void op_reopen(off_t pos, size_t len)
{
	int new = open(path, read_only ? O_RDONLY : O_RDWR | (rnd(16) ? 0 : O_TRUNC));

	(void)pos, (void)len;
	if (new < 0)	/* an error has made the filesystem read-only */
		return;
	close(fd);
	fd = new;
}

static void op_evict(off_t pos, size_t len)
{
	(void)pos, (void)len;
	do_map();
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

static void op_sendfile(off_t pos, size_t len) { (void)!sendfile(null_fd, fd, &pos, len); }

static const struct {
	void (*op)(off_t pos, size_t len);
	int writes;
} ops[] = {
	{ op_read, 0 }, { op_load, 0 }, { op_readahead, 0 }, { op_willneed, 0 },
	{ op_dontneed, 0 }, { op_direct_read, 0 }, { op_drop_caches, 0 }, { op_splice, 0 },
	{ op_madvise, 0 }, { op_reopen, 0 }, { op_evict, 0 }, { op_sendfile, 0 },
	{ op_write, 1 }, { op_store, 1 }, { op_truncate, 1 }, { op_punch, 1 },
	{ op_collapse, 1 }, { op_insert, 1 }, { op_append, 1 }, { op_zero, 1 },
	{ op_allocate, 1 }, { op_direct_write, 1 }, { op_fsync, 1 }, { op_sync, 1 },
	{ op_syncfs, 1 }, { op_sync_range, 1 }, { op_clone, 1 }, { op_dedupe, 1 },
	{ op_copy, 1 }, { op_write_mapped, 1 }, { op_msync, 1 },
};

/* SIGBUS past EOF, SIGSEGV where the mapping is not writable */
static void try(unsigned int i, off_t pos, size_t len)
{
	if (!sigsetjmp(env, 1))
		ops[i].op(pos, len);
}

static void run(time_t end)
{
	unsigned int nr = sizeof(ops) / sizeof(ops[0]);

	while (time(NULL) < end) {
		unsigned int i = rnd(nr);
		off_t pos = rnd(size);
		size_t len = random_length();

		if (read_only && ops[i].writes)
			continue;
		if (pos + len > size)
			len = size - pos;
		try(i, pos, len);
	}
}

int main(int argc, char **argv)
{
	int processes, seed;
	time_t end;

	if (argc < 6)
		return 1;
	path = argv[1];
	end = time(NULL) + atoi(argv[2]);
	processes = atoi(argv[3]);
	size = strtoul(argv[4], NULL, 0);
	seed = atoi(argv[5]);
	read_only = argc > 6 && !strcmp(argv[6], "ro");
	no_clone = argc > 6 && !strcmp(argv[6], "noclone");
	for (int i = 0; i < processes; i++) {
		if (fork())
			continue;
		srandom(seed * 100 + i);
		signal(SIGBUS, on_signal);
		signal(SIGSEGV, on_signal);
		fd = open(path, read_only ? O_RDONLY : O_RDWR | O_CREAT, 0644);
		direct_fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_DIRECT);
		null_fd = open("/dev/null", O_WRONLY);
		if (fd < 0 || pipe(pipe_fd) || posix_memalign((void **)&buf, PAGE, BUFFER)) {
			perror(path);
			_exit(1);
		}
		for (int j = 0; j < BUFFER; j++)	/* compressible */
			buf[j] = rnd(4) ? 'a' : rnd(256);
		map = MAP_FAILED;
		do_map();
		run(end);
		_exit(0);
	}
	for (int status, bad = 0;;) {
		if (wait(&status) < 0)
			return bad;
		bad |= status != 0;
	}
}
