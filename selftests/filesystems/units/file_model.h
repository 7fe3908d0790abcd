/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A file on an image, and a model of it in memory. They are compared in the page
 * cache, on disk, and on a new mount, between which the filesystem's checker
 * looks at the volume.
 */
#ifndef FILE_MODEL_H
#define FILE_MODEL_H

#include <pthread.h>
#include <sys/mman.h>

#include "image_test.h"

struct file_model {
	struct image im;
	const char *fstype;
	char options[64];
	const char *check;	/* a shell command for the image $I */
	int fd;
	size_t page;
	size_t unit;		/* of allocation or compression, in bytes */
	size_t max;		/* size of the file, at most */
	size_t size;		/* of the file */
	uint8_t *want;		/* what has to be in it */
	uint8_t *buf;		/* @max bytes, page aligned */
	unsigned int seed;	/* even: the data compress */
};

/* A file of @units units of @unit bytes. Non-zero if the test is skipped. */
static __maybe_unused int model_setup(struct file_model *m,
				      struct __test_metadata *_metadata,
				      off_t image_size, size_t unit,
				      size_t units)
{
	m->fd = -1;
	if (image_setup(&m->im, _metadata, image_size))
		return -1;
	image_prefill(_metadata, &m->im, image_size);
	m->page = sysconf(_SC_PAGESIZE);
	m->unit = unit;
	m->max = units * unit;
	m->want = calloc(units, unit);
	ASSERT_NE(NULL, m->want);
	m->buf = mmap(NULL, m->max, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, m->buf);
	return 0;
}

static __maybe_unused void model_teardown(struct file_model *m)
{
	if (m->fd >= 0)
		close(m->fd);
	image_teardown(&m->im);
}

static __maybe_unused int model_mount(struct file_model *m)
{
	return image_mount(&m->im, m->fstype, 0, m->options);
}

static __maybe_unused int model_open(struct file_model *m, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/file", m->im.mnt);
	return open(path, O_RDWR | O_CLOEXEC | flags, 0600);
}

/* Close the file and unmount. */
static __maybe_unused void model_umount(struct __test_metadata *_metadata,
					struct file_model *m)
{
	ASSERT_EQ(0, close(m->fd));
	m->fd = -1;
	ASSERT_EQ(0, image_umount(&m->im));
}

/* Compare the file with the model; the first difference is reported. */
static __maybe_unused void model_verify(struct __test_metadata *_metadata,
					struct file_model *m, const char *when)
{
	size_t bad = 0, first = 0, stale = 0;
	struct stat st;

	ASSERT_EQ(0, fstat(m->fd, &st));
	ASSERT_EQ(m->size, st.st_size)
		TH_LOG("%s", when);
	ASSERT_EQ(m->size, pread(m->fd, m->buf, m->max, 0))
		TH_LOG("%s: %s", when, strerror(errno));
	for (size_t i = 0; i < m->size; i++) {
		if (m->buf[i] == m->want[i])
			continue;
		if (!bad++)
			first = i;
		stale += m->buf[i] == STALE;
	}
	ASSERT_EQ(0, bad)
		TH_LOG("%s: at 0x%zx 0x%02x, not 0x%02x; %zu of %zu from the disk",
		       when, first, m->buf[first], m->want[first], stale, bad);
}

/* Compare now, read from disk, and after a check of the unmounted volume. */
static __maybe_unused void
model_verify_everywhere(struct __test_metadata *_metadata,
			struct file_model *m)
{
	int ret;

	model_verify(_metadata, m, "page cache");
	ASSERT_EQ(0, fsync(m->fd));
	drop_clean_caches();
	model_verify(_metadata, m, "disk");
	model_umount(_metadata, m);
	ret = image_run("I=%s; %s", m->im.path, m->check);
	if (ret != 127)
		ASSERT_EQ(0, ret)
			TH_LOG("%s", m->check);
	ASSERT_EQ(0, model_mount(m));
	m->fd = model_open(m, 0);
	ASSERT_GE(m->fd, 0);
	model_verify(_metadata, m, "new mount");
}

/* New data at @pos in the model; returns them. */
static __maybe_unused uint8_t *model_fill(struct file_model *m, off_t pos,
					  size_t len)
{
	m->seed += 2;
	pattern_fill(m->want + pos, len, pos, m->seed);
	if (m->size < pos + len)
		m->size = pos + len;
	return m->want + pos;
}

static __maybe_unused void model_write(struct __test_metadata *_metadata,
				       struct file_model *m, off_t pos,
				       size_t len)
{
	ASSERT_EQ(len, pwrite(m->fd, model_fill(m, pos, len), len, pos))
		TH_LOG("%zu bytes at 0x%llx: %s", len, (long long)pos,
		       strerror(errno));
}

static __maybe_unused void model_truncate(struct __test_metadata *_metadata,
					  struct file_model *m, size_t size)
{
	if (size < m->size)
		memset(m->want + size, 0, m->size - size);
	m->size = size;
	ASSERT_EQ(0, ftruncate(m->fd, size));
}

/* Have the file on disk, and not in the page cache. */
static __maybe_unused void model_evict(struct __test_metadata *_metadata,
				       struct file_model *m)
{
	ASSERT_EQ(0, fsync(m->fd));
	ASSERT_EQ(0, posix_fadvise(m->fd, 0, 0, POSIX_FADV_DONTNEED));
}

struct model_writer {
	struct file_model *m;
	pthread_barrier_t *barrier;
	unsigned int nr;
	unsigned int writers;
	size_t len;
	pthread_t thread;
	bool failed;
};

/* In each unit, every writer writes its own pieces, all at once. */
static __maybe_unused void *model_write_pieces(void *arg)
{
	struct model_writer *w = arg;
	struct file_model *m = w->m;

	for (size_t pos = 0; pos < m->size; pos += w->len) {
		if (pos % m->unit == 0)
			pthread_barrier_wait(w->barrier);
		if (pos / w->len % w->writers == w->nr &&
		    pwrite(m->fd, m->want + pos, w->len, pos) != w->len)
			w->failed = true;
	}
	return NULL;
}

/* Replace all of the file by new data, in pieces of @len by @nr writers. */
static __maybe_unused void
model_write_together(struct __test_metadata *_metadata, struct file_model *m,
		     unsigned int nr, size_t len)
{
	struct model_writer writers[nr];
	pthread_barrier_t barrier;

	model_fill(m, 0, m->size);
	ASSERT_EQ(0, pthread_barrier_init(&barrier, NULL, nr));
	for (unsigned int i = 0; i < nr; i++) {
		writers[i] = (struct model_writer) {
			.m = m,
			.barrier = &barrier,
			.nr = i,
			.writers = nr,
			.len = len,
		};
		ASSERT_EQ(0, pthread_create(&writers[i].thread, NULL,
					    model_write_pieces, &writers[i]));
	}
	for (unsigned int i = 0; i < nr; i++) {
		ASSERT_EQ(0, pthread_join(writers[i].thread, NULL));
		EXPECT_FALSE(writers[i].failed);
	}
	pthread_barrier_destroy(&barrier);
}

#endif /* FILE_MODEL_H */
