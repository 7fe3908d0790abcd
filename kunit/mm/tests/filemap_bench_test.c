// SPDX-License-Identifier: GPL-2.0-only
/*
 * Benchmark of filemap_grab_folios().
 *
 * Each case runs the variants in turn, round after round, in one boot, so
 * that only their ratio has to be trusted.  It prints a line for each of them
 * and each round:
 *
 *	bench ROW NR VARIANT ROUND NANOSECONDS FOLIOS
 *
 * where FOLIOS is how many were locked and released in that time, NR at a time
 * (or, in the rows "threads", by NR threads).  Under "qemu -icount shift=0" a
 * nanosecond is an instruction.
 *
 * The variants are
 *	helper		filemap_grab_folios() and filemap_release_folios()
 *	locked		the same around a folio in the middle
 *	per_index	a loop around __filemap_get_folio()
 *	single		filemap_grab_folio()
 *	floor		a reference and the lock of folios that are known
 *	create		folio_alloc() and filemap_add_folio(), of the largest
 *			folios that are allowed
 *	bulk		the same, but alloc_pages_bulk()
 *
 * A case fails when a variant does not lock what it should, and never for
 * the time that it takes.
 */
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/slab.h>

#include "filemap_fixture.h"

#define BENCH_ROUNDS	11
#define BENCH_FOLIOS	65536	/* to lock in a round, of cached ones */
#define BENCH_HOLES	4096	/* the same, of those to be created */
#define BENCH_MAX	65536

struct bench {
	struct inode *inode;
	struct address_space *mapping;
	struct folio **folios;		/* what was locked, by whatever means */
	struct folio **known;		/* what is in the page cache */
	pgoff_t start;
	unsigned int nr;
	fgf_t fgp_flags;
};

struct variant {
	const char *name;
	/* Returns how many folios it has locked, or an error. */
	int (*grab)(struct bench *b);
	void (*release)(struct bench *b, int nr);
};

/* The variants. */

static int helper_grab(struct bench *b)
{
	return filemap_grab_folios(b->mapping, b->start, b->start + b->nr - 1,
				   b->fgp_flags, mapping_gfp_mask(b->mapping),
				   b->folios);
}

static void helper_release(struct bench *b, int nr)
{
	filemap_release_folios(b->folios, nr);
}

/* The folio is locked by whoever calls, so that belongs to the price. */
static struct folio *middle(struct bench *b)
{
	return b->known[b->nr / 2];
}

static int locked_grab(struct bench *b)
{
	struct folio *locked = middle(b);

	folio_get(locked);
	folio_lock(locked);
	return filemap_grab_folios_locked(locked, b->start,
					  b->start + b->nr - 1, b->fgp_flags,
					  mapping_gfp_mask(b->mapping),
					  b->folios);
}

static void locked_release(struct bench *b, int nr)
{
	struct folio *locked = middle(b);

	filemap_release_folios_locked(locked, b->folios, nr);
	folio_unlock(locked);
	folio_put(locked);
}

static int per_index_grab(struct bench *b)
{
	gfp_t gfp = mapping_gfp_mask(b->mapping);

	for (unsigned int i = 0; i < b->nr; i++) {
		struct folio *folio = __filemap_get_folio(b->mapping,
				b->start + i, b->fgp_flags, gfp);

		if (IS_ERR(folio))
			return PTR_ERR(folio);
		b->folios[i] = folio;
	}
	return b->nr;
}

static int single_grab(struct bench *b)
{
	b->folios[0] = filemap_grab_folio(b->mapping, b->start);
	return PTR_ERR_OR_ZERO(b->folios[0]) ?: 1;
}

static int floor_grab(struct bench *b)
{
	for (unsigned int i = 0; i < b->nr; i++) {
		folio_get(b->known[i]);
		folio_lock(b->known[i]);
	}
	return b->nr;
}

static void floor_release(struct bench *b, int nr)
{
	for (int i = 0; i < nr; i++) {
		folio_unlock(b->known[i]);
		folio_put(b->known[i]);
	}
}

static int add_new(struct bench *b, struct folio *folio, pgoff_t index)
{
	int err;

	if (!folio)
		return -ENOMEM;
	err = filemap_add_folio(b->mapping, folio, index, GFP_KERNEL);
	if (err)
		folio_put(folio);
	return err;
}

static int create_grab(struct bench *b)
{
	unsigned int order = mapping_large_folio_support(b->mapping) ?
				ilog2(b->nr) : 0;
	int nr = b->nr >> order;

	for (int i = 0; i < nr; i++) {
		struct folio *folio = folio_alloc(GFP_KERNEL, order);
		int err = add_new(b, folio, (pgoff_t)i << order);

		if (err)
			return err;
		b->folios[i] = folio;
	}
	return nr;
}

static int bulk_grab(struct bench *b)
{
	struct page **pages = (struct page **)b->known;

	memset(pages, 0, b->nr * sizeof(*pages));
	if (alloc_pages_bulk(GFP_KERNEL, b->nr, pages) != b->nr)
		return -ENOMEM;
	for (unsigned int i = 0; i < b->nr; i++) {
		int err = add_new(b, page_folio(pages[i]), i);

		if (err)
			return err;
		b->folios[i] = page_folio(pages[i]);
	}
	return b->nr;
}

static const struct variant helper = {
	"helper", helper_grab, helper_release
};

static const struct variant locked = {
	"locked", locked_grab, locked_release
};

static const struct variant per_index = {
	"per_index", per_index_grab, helper_release
};

static const struct variant single = {
	"single", single_grab, helper_release
};

static const struct variant floor = {
	"floor", floor_grab, floor_release
};

static const struct variant create = {
	"create", create_grab, helper_release
};

static const struct variant bulk = {
	"bulk", bulk_grab, helper_release
};

/* Set up, take down. */

static int bench_init(struct kunit *test)
{
	struct bench *b = kunit_kzalloc(test, sizeof(*b), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, b);
	b->folios = kvcalloc(BENCH_MAX, sizeof(*b->folios), GFP_KERNEL);
	b->known = kvcalloc(BENCH_MAX, sizeof(*b->known), GFP_KERNEL);
	test->priv = b;
	KUNIT_ASSERT_NOT_NULL(test, b->folios);
	KUNIT_ASSERT_NOT_NULL(test, b->known);
	b->inode = ft_inode(test);
	b->mapping = b->inode->i_mapping;
	b->fgp_flags = FGP_LOCK | FGP_CREAT;
	return 0;
}

static void bench_exit(struct kunit *test)
{
	struct bench *b = test->priv;

	if (!b)
		return;
	if (b->inode)
		iput(b->inode);
	kvfree(b->known);
	kvfree(b->folios);
}

/* Fill the page cache from index 0 on. */
static void populate(struct kunit *test, unsigned int nr)
{
	struct bench *b = test->priv;

	for (unsigned int i = 0; i < nr; i++) {
		struct folio *folio = filemap_grab_folio(b->mapping, i);

		KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
		b->known[i] = folio;
		folio_mark_uptodate(folio);
		folio_unlock(folio);
		folio_put(folio);
	}
}

/* Measurement. */

static void report(struct kunit *test, const char *row, unsigned int nr,
		   const struct variant *c, int round, u64 ns,
		   unsigned long folios)
{
	kunit_info(test, "bench %s %u %s %d %llu %lu\n", row, nr, c->name,
		   round, ns, folios);
}

/* Returns the time for @reps times of @c, or 0 if one was not complete. */
static u64 time_cached(struct bench *b, const struct variant *c,
		       unsigned int reps)
{
	u64 start = ktime_get_ns();

	for (unsigned int i = 0; i < reps; i++) {
		int nr = c->grab(b);

		if (nr != b->nr)
			return 0;
		c->release(b, nr);
	}
	return ktime_get_ns() - start;
}

/* As time_cached(), but the page cache is empty each time. */
static u64 time_holes(struct bench *b, const struct variant *c,
		      unsigned int reps)
{
	u64 ns = 0;

	for (unsigned int i = 0; i < reps; i++) {
		u64 start = ktime_get_ns();
		int nr = c->grab(b);

		ns += ktime_get_ns() - start;
		if (nr <= 0 || b->mapping->nrpages != b->nr)
			return 0;
		c->release(b, nr);
		truncate_inode_pages(b->mapping, 0);
	}
	return ns;
}

/*
 * As if no test ran, so that the static stub in filemap_grab_one() is no more
 * expensive than elsewhere.
 */
static u64 time_as_nobody(struct kunit *test, const struct variant *c,
			  u64 (*time)(struct bench *b,
				      const struct variant *c,
				      unsigned int reps),
			  unsigned int reps)
{
	u64 ns;

	static_branch_dec(&kunit_running);
	ns = time(test->priv, c, reps);
	static_branch_inc(&kunit_running);
	return ns;
}

static void compare(struct kunit *test, const char *row,
		    const struct variant *const *variants,
		    u64 (*time)(struct bench *b, const struct variant *c,
				unsigned int reps),
		    unsigned int folios)
{
	struct bench *b = test->priv;
	unsigned int reps = max(folios / b->nr, 1);

	/* Round 0 warms up. */
	for (int round = 0; round <= BENCH_ROUNDS; round++) {
		for (int i = 0; variants[i]; i++) {
			u64 ns = time_as_nobody(test, variants[i], time,
						reps);

			KUNIT_ASSERT_NE_MSG(test, ns, 0, "%s of %u",
					    variants[i]->name, b->nr);
			if (round)
				report(test, row, b->nr, variants[i], round,
				       ns, (unsigned long)reps * b->nr);
			cond_resched();
		}
	}
}

static void compare_cached(struct kunit *test, const char *row,
			   const struct variant *const *variants)
{
	compare(test, row, variants, time_cached, BENCH_FOLIOS);
}

static void compare_holes(struct kunit *test, const char *row,
			  const struct variant *const *variants)
{
	compare(test, row, variants, time_holes, BENCH_HOLES);
}

/* The cases. */

static const unsigned int sizes[] = { 16, 64, 512 };

static void size_desc(const unsigned int *size, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%u folios", *size);
}

KUNIT_ARRAY_PARAM(size, sizes, size_desc);

/* Folios that are there: from 1 to 65536 of them. */
static void bench_cached(struct kunit *test)
{
	static const struct variant *const variants[] = {
		&per_index, &helper, &floor, NULL
	};
	struct bench *b = test->priv;

	populate(test, BENCH_MAX);
	for (b->nr = 1; b->nr <= BENCH_MAX; b->nr *= 2)
		compare_cached(test, "cached", variants);
}

static void bench_single(struct kunit *test)
{
	static const struct variant *const variants[] = {
		&single, &helper, NULL
	};
	struct bench *b = test->priv;

	populate(test, 64);
	b->start = 5;
	b->nr = 1;
	b->fgp_flags = FGP_LOCK | FGP_ACCESSED | FGP_CREAT;
	compare_cached(test, "single", variants);
}

static void bench_locked(struct kunit *test)
{
	static const struct variant *const variants[] = {
		&helper, &locked, NULL
	};
	struct bench *b = test->priv;

	b->nr = *(const unsigned int *)test->param_value;
	populate(test, b->nr);
	compare_cached(test, "locked", variants);
}

static void bench_holes(struct kunit *test)
{
	static const struct variant *const variants[] = {
		&per_index, &helper, &create, &bulk, NULL
	};
	struct bench *b = test->priv;

	b->nr = *(const unsigned int *)test->param_value;
	b->fgp_flags = FGP_LOCK | FGP_CREAT;
	compare_holes(test, "holes", variants);
}

static void bench_large_holes(struct kunit *test)
{
	static const struct variant *const variants[] = {
		&per_index, &helper, &create, NULL
	};
	struct bench *b = test->priv;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "no large folios");
	b->nr = *(const unsigned int *)test->param_value;
	b->fgp_flags = FGP_LOCK | FGP_CREAT;
	mapping_set_large_folios(b->mapping);
	compare_holes(test, "large_holes", variants);
}

/* Threads in one mapping, each on another range. */

#define BENCH_THREADS	4
#define BENCH_RANGE	16

struct bench_thread {
	struct bench b;
	const struct variant *variant;
	struct completion *go;
	struct completion done;
	bool complete;
};

static int bench_thread(void *data)
{
	struct bench_thread *thread = data;

	wait_for_completion(thread->go);
	thread->complete = time_cached(&thread->b, thread->variant,
				       BENCH_FOLIOS / BENCH_RANGE);
	complete(&thread->done);
	return 0;
}

static u64 time_threads(struct kunit *test, const struct variant *c, int nr)
{
	struct bench_thread *threads =
		kunit_kcalloc(test, nr, sizeof(*threads), GFP_KERNEL);
	DECLARE_COMPLETION_ONSTACK(go);
	struct bench *b = test->priv;
	int started;
	u64 ns;

	KUNIT_ASSERT_NOT_NULL(test, threads);
	for (started = 0; started < nr; started++) {
		struct bench_thread *thread = &threads[started];
		struct task_struct *task;

		thread->b = *b;
		thread->b.start = started * BENCH_RANGE;
		thread->b.folios += thread->b.start;
		thread->variant = c;
		thread->go = &go;
		init_completion(&thread->done);
		task = kthread_run(bench_thread, thread, "bench/%d", started);
		if (IS_ERR(task))
			break;
	}

	ns = ktime_get_ns();
	complete_all(&go);
	for (int i = 0; i < started; i++)
		wait_for_completion(&threads[i].done);
	ns = ktime_get_ns() - ns;

	KUNIT_ASSERT_EQ(test, started, nr);
	for (int i = 0; i < nr; i++)
		KUNIT_ASSERT_TRUE(test, threads[i].complete);
	kunit_kfree(test, threads);
	return ns;
}

static void bench_threads(struct kunit *test)
{
	static const struct variant *const variants[] = {
		&per_index, &helper
	};
	struct bench *b = test->priv;

	b->nr = BENCH_RANGE;
	populate(test, BENCH_THREADS * BENCH_RANGE);
	for (int round = 0; round <= BENCH_ROUNDS; round++) {
		for (int nr = 1; nr <= BENCH_THREADS; nr *= 2) {
			for (int i = 0; i < ARRAY_SIZE(variants); i++) {
				u64 ns = time_threads(test, variants[i], nr);

				if (round)
					report(test, "threads", nr,
					       variants[i], round, ns,
					       (unsigned long)nr * BENCH_FOLIOS);
			}
		}
	}
}

static const struct kunit_attributes slow = { .speed = KUNIT_SPEED_SLOW };

static struct kunit_case bench_cases[] = {
	KUNIT_CASE_SLOW(bench_cached),
	KUNIT_CASE_SLOW(bench_single),
	KUNIT_CASE_PARAM_ATTR(bench_locked, size_gen_params, slow),
	KUNIT_CASE_PARAM_ATTR(bench_holes, size_gen_params, slow),
	KUNIT_CASE_PARAM_ATTR(bench_large_holes, size_gen_params, slow),
	KUNIT_CASE_SLOW(bench_threads),
	{}
};

static struct kunit_suite bench_suite = {
	.name = "filemap_grab_bench",
	.suite_init = ft_suite_init,
	.suite_exit = ft_suite_exit,
	.init = bench_init,
	.exit = bench_exit,
	.test_cases = bench_cases,
};

kunit_test_suite(bench_suite);
