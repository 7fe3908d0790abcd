// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for filemap_grab_folios_locked(): the caller has a folio of the
 * range locked.
 *
 * The properties checked, beyond those of filemap_grab_folios():
 *  - @locked is locked on return, whatever is returned;
 *  - it is unlocked before a lower folio is waited for, and never with
 *    FGP_NOWAIT;
 *  - it is not returned if it was truncated before it was locked.
 */
#include <linux/backing-dev.h>
#include <linux/delay.h>
#include <linux/prandom.h>
#include <linux/swap.h>

#include "filemap_fixture.h"

/* The place of @locked, unless the parameter is about it. */
#define LOCKED	4

KUNIT_ARRAY_PARAM(place, ft_places, ft_place_desc);

static const int lowers[] = { 0, LOCKED - 1 };

KUNIT_ARRAY_PARAM(lower, lowers, ft_place_desc);

/* Helpers. */

static int grab_locked(struct kunit *test, struct folio *locked, pgoff_t start,
		       pgoff_t end, fgf_t fgp_flags)
{
	struct ft *t = test->priv;
	int nr;

	memset(t->folios, 0xa5, sizeof(t->folios));
	nr = filemap_grab_folios_locked(locked, start, end, fgp_flags,
					mapping_gfp_mask(t->mapping),
					t->folios);
	if (start <= end && end - start < FT_FOLIOS)
		ft_expect_poison(test, end - start + 1);
	if (nr >= 0)
		ft_expect_poison(test, nr);
	return nr;
}

static void release_locked(struct kunit *test, struct folio *locked, int nr)
{
	struct ft *t = test->priv;

	filemap_release_folios_locked(locked, t->folios, nr);
}

/* The caller's part: find the folio, reference it, lock it. */
static struct folio *get_and_lock(struct kunit *test, pgoff_t index)
{
	struct folio *folio = ft_at(test, index);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio_get(folio);
	folio_lock(folio);
	return folio;
}

/* @folio is still locked and has the caller's reference: drop both. */
static void put_and_unlock(struct kunit *test, struct folio *folio)
{
	lru_add_drain_all();
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio),
			folio->mapping ? 1 + folio_nr_pages(folio) : 1);
	if (folio_test_locked(folio))
		folio_unlock(folio);
	folio_put(folio);
}

static int grab_locked_fn(void *data)
{
	struct ft_worker *w = data;

	/* The worker uses the stubs of the test. */
	current->kunit_test = w->test;
	folio_get(w->locked);
	folio_lock(w->locked);
	w->nr = filemap_grab_folios_locked(w->locked, w->start, w->end,
					   w->fgp_flags, GFP_KERNEL, w->folios);
	w->lost = !folio_test_locked(w->locked);
	complete_all(&w->grabbed);
	wait_for_completion(&w->release);
	if (w->nr > 0)
		filemap_release_folios_locked(w->locked, w->folios, w->nr);
	if (!w->lost)
		folio_unlock(w->locked);
	folio_put(w->locked);
	complete(&w->done);
	return 0;
}

/* Notice each unlock of @locked, also one that is followed by a lock at once. */
static int watcher_fn(void *data)
{
	struct ft_worker *w = data;

	folio_wait_locked(w->locked);
	complete_all(&w->grabbed);
	wait_for_completion(&w->release);
	complete(&w->done);
	return 0;
}

/*
 * A worker has unlocked @locked, since the test holds a lower folio, which is
 * returned.
 */
static struct folio *worker_unlocks(struct kunit *test, fgf_t fgp_flags,
				    struct ft_worker **w)
{
	struct folio *folio;

	ft_add_all(test, FT_PLACES);
	folio = ft_at(test, ft_place(test));
	folio_lock(folio);
	*w = ft_start(test, grab_locked_fn, ft_at(test, LOCKED), FT_PLACES - 1,
		      fgp_flags);
	ft_wait_for_waiter(test, &folio, 1);
	KUNIT_EXPECT_FALSE(test, folio_test_locked((*w)->locked));
	return folio;
}

/* Results. */

static void locked_uncontended(struct kunit *test)
{
	int place = ft_place(test);
	struct ft *t = test->priv;
	struct folio *locked;

	/* Holes and folios on both sides, and outside. */
	for (int i = 0; i <= FT_PLACES; i++)
		if (i == place || i % 3 || i == FT_PLACES)
			ft_add(test, i);
	locked = get_and_lock(test, place);

	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES - 1, FT_CREAT),
			FT_PLACES);
	ft_expect_covered(test, t->folios, FT_PLACES, 0, FT_PLACES - 1);
	KUNIT_EXPECT_PTR_EQ(test, t->folios[place], locked);
	release_locked(test, locked, FT_PLACES);
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES + 1);
}

/* Without FGP_CREAT, @locked is returned, too. */
static void locked_without_creat(struct kunit *test)
{
	int place = ft_place(test);
	struct ft *t = test->priv;
	struct folio *locked;

	ft_add(test, place);
	locked = get_and_lock(test, place);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES - 1, FGP_LOCK),
			1);
	KUNIT_EXPECT_PTR_EQ(test, t->folios[0], locked);
	release_locked(test, locked, 1);
	put_and_unlock(test, locked);
	ft_expect_cache(test, 1);
}

static void locked_at_the_last_index(struct kunit *test)
{
	struct ft *t = test->priv;
	struct folio *locked;

	ft_add(test, ULONG_MAX);
	locked = get_and_lock(test, ULONG_MAX);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, ULONG_MAX - 7, ULONG_MAX,
				    FT_CREAT),
			8);
	ft_expect_covered(test, t->folios, 8, ULONG_MAX - 7, ULONG_MAX);
	release_locked(test, locked, 8);
	put_and_unlock(test, locked);
	ft_expect_cache(test, 8);
}

/* @locked is larger than a page, and larger than the range. */
static void locked_is_large(struct kunit *test)
{
	struct ft *t = test->priv;
	struct folio *locked;

	ft_large_folios_or_skip(test);
	ft_add_order(test, 4, 2);
	locked = get_and_lock(test, 4);
	KUNIT_ASSERT_EQ(test, grab_locked(test, locked, 3, 8, FT_CREAT), 3);
	ft_expect_covered(test, t->folios, 3, 3, 8);
	release_locked(test, locked, 3);
	KUNIT_ASSERT_EQ(test, grab_locked(test, locked, 5, 6, FT_CREAT), 1);
	KUNIT_EXPECT_PTR_EQ(test, t->folios[0], locked);
	KUNIT_ASSERT_EQ(test, grab_locked(test, locked, 7, 7, FT_CREAT), 1);
	KUNIT_ASSERT_EQ(test, grab_locked(test, locked, 4, 4, FT_CREAT), 1);
	put_and_unlock(test, locked);
	ft_expect_cache(test, 6);
}

/* One warning for each; see expect_refused() in filemap_grab_test.c. */
static void locked_refuses(struct kunit *test)
{
	static const struct {
		pgoff_t start, end;
		fgf_t fgp_flags;
	} bad[] = {
		{ 0, LOCKED - 1 },
		{ LOCKED + 1, FT_PLACES },
		{ FT_PLACES, 0 },
		{ 0, FT_PLACES, FGP_FOR_MMAP },
		{ 0, (pgoff_t)INT_MAX + 1 },
	};
	struct folio *locked;
	static int warnings;

	ft_add_all(test, FT_PLACES);
	locked = get_and_lock(test, LOCKED);
	for (int i = 0; i < ARRAY_SIZE(bad); i++) {
		if (IS_ENABLED(CONFIG_GENERIC_BUG))
			warnings = 0;
		kunit_warning_suppress(test) {
			KUNIT_EXPECT_EQ(test,
					grab_locked(test, locked, bad[i].start,
						    bad[i].end,
						    FT_CREAT | bad[i].fgp_flags),
					-EINVAL);
			warnings += KUNIT_SUPPRESSED_WARNING_COUNT();
		}
		KUNIT_EXPECT_EQ(test, warnings, 1);
		ft_expect_poison(test, 0);
	}
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES);
}

/* Flags: @locked is treated like the others. */

static void locked_is_marked(struct kunit *test)
{
	struct folio *locked;

	ft_add_all(test, FT_PLACES);
	locked = get_and_lock(test, LOCKED);
	KUNIT_ASSERT_EQ(test, grab_locked(test, locked, 0, FT_PLACES - 1,
					  FT_CREAT | FGP_ACCESSED), FT_PLACES);
	for (int i = 0; i < FT_PLACES; i++) {
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(ft_at(test, i)));
		KUNIT_EXPECT_FALSE(test, folio_test_active(ft_at(test, i)));
	}
	release_locked(test, locked, FT_PLACES);
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES);
}

static void locked_dontcache(struct kunit *test)
{
	struct folio *locked;

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, FT_PLACES - 1,
				      FT_CREAT | FGP_DONTCACHE), FT_PLACES);
	ft_release(test, FT_PLACES);
	lru_add_drain_all();
	locked = get_and_lock(test, LOCKED);
	for (int dontcache = 1; dontcache >= 0; dontcache--) {
		fgf_t fgp_flags = FT_CREAT | (dontcache ? FGP_DONTCACHE : 0);

		KUNIT_ASSERT_EQ(test,
				grab_locked(test, locked, 0, FT_PLACES - 1,
					    fgp_flags),
				FT_PLACES);
		for (int i = 0; i < FT_PLACES; i++)
			KUNIT_EXPECT_EQ(test,
					folio_test_dropbehind(ft_at(test, i)),
					dontcache);
		release_locked(test, locked, FT_PLACES);
	}
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES);
}

/* @locked or another folio is under writeback, and the mapping needs FGP_STABLE. */
static void locked_nowait_writeback(struct kunit *test)
{
	fgf_t fgp_flags = FT_CREAT | FGP_STABLE | FGP_NOWAIT;
	struct ft *t = test->priv;
	struct folio *locked;

	mapping_set_stable_writes(t->mapping);
	ft_add_all(test, FT_PLACES);
	for (int place = 0; place < FT_PLACES; place++) {
		struct folio *folio = ft_at(test, place);

		ft_start_writeback(folio);
		locked = get_and_lock(test, LOCKED);
		KUNIT_EXPECT_EQ(test,
				grab_locked(test, locked, 0, FT_PLACES - 1,
					    fgp_flags),
				place < LOCKED ? -EDEADLK : -EAGAIN);
		put_and_unlock(test, locked);
		folio_end_writeback(folio);
	}
	locked = get_and_lock(test, LOCKED);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES - 1, fgp_flags),
			FT_PLACES);
	release_locked(test, locked, FT_PLACES);
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES);
}

/* @locked is waited for before a higher folio is locked. */
static void locked_under_writeback(struct kunit *test)
{
	struct ft *t = test->priv;
	struct folio *locked;
	struct ft_worker *w;

	mapping_set_stable_writes(t->mapping);
	ft_add_all(test, FT_PLACES);
	locked = ft_at(test, LOCKED);
	ft_start_writeback(locked);
	w = ft_start(test, grab_locked_fn, locked, FT_PLACES - 1,
		     FT_CREAT | FGP_STABLE);
	ft_wait_for_waiter(test, &locked, 1);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	for (int i = 0; i < FT_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(ft_at(test, i)),
				    i <= LOCKED, "folio %d", i);
	folio_end_writeback(locked);
	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* Contention. */

/* Another task holds the folio at the parameter's place. */
static void locked_nowait_contended(struct kunit *test)
{
	fgf_t fgp_flags = FT_CREAT | FGP_NOWAIT;
	struct folio *locked, *other;
	int place = ft_place(test);
	struct ft_worker *w;

	ft_add_all(test, FT_PLACES);
	locked = get_and_lock(test, LOCKED);
	other = get_and_lock(test, place);
	w = ft_start(test, watcher_fn, locked, 0, 0);
	ft_wait_for_waiter(test, &locked, 1);

	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES - 1, fgp_flags),
			place < LOCKED ? -EDEADLK : -EAGAIN);
	msleep(20);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	put_and_unlock(test, other);

	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES - 1, fgp_flags),
			FT_PLACES);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	release_locked(test, locked, FT_PLACES);

	folio_unlock(locked);
	ft_finish(test, w);
	ft_release_worker(test, w);
	folio_put(locked);
	ft_expect_cache(test, FT_PLACES);
}

/*
 * A lower folio is contended: @locked is unlocked before it is waited for, and
 * locked again.  A higher one: @locked is kept.
 */
static void locked_waits_in_order(struct kunit *test)
{
	int place = ft_place(test);
	struct ft_worker *w;
	struct folio *folio;

	ft_add_all(test, FT_PLACES);
	folio = ft_at(test, place);
	folio_lock(folio);

	w = ft_start(test, grab_locked_fn, ft_at(test, LOCKED), FT_PLACES - 1,
		     FT_CREAT);
	ft_wait_for_waiter(test, &folio, 1);
	for (int i = 0; i < FT_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(ft_at(test, i)),
				    i <= place, "folio %d", i);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	folio_unlock(folio);

	KUNIT_ASSERT_EQ(test, ft_finish(test, w), FT_PLACES);
	KUNIT_EXPECT_PTR_EQ(test, w->folios[LOCKED], w->locked);
	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* Another task has @locked then, and is waited for before higher folios. */
static void locked_waits_for_locked(struct kunit *test)
{
	struct ft_worker *w;
	struct folio *folio = worker_unlocks(test, FT_CREAT, &w);

	folio_lock(w->locked);
	folio_unlock(folio);
	ft_wait_for_waiter(test, &w->locked, 1);
	for (int i = 0; i < FT_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(ft_at(test, i)),
				    i <= LOCKED, "folio %d", i);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	folio_unlock(w->locked);

	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* Truncation. */

/* The result is -ESTALE, also if a lower folio could not be allocated, too. */
static void locked_truncated(struct kunit *test)
{
	for (int enomem = 0; enomem < 2; enomem++) {
		struct folio *folio, *locked;
		struct ft_worker *w;

		for (int i = 0; i < FT_PLACES; i++)
			if (!ft_at(test, i))
				ft_add(test, i);
		lru_add_drain_all();
		folio = ft_at(test, 0);
		locked = ft_at(test, LOCKED);
		if (enomem) {
			struct folio *absent = get_and_lock(test, 1);

			ft_remove(test, absent);
			folio_unlock(absent);
			folio_put(absent);
			ft_interfere(test, 0, ft_enomem);
		}
		folio_lock(folio);
		w = ft_start(test, grab_locked_fn, locked, FT_PLACES - 1,
			     FT_CREAT);
		ft_wait_for_waiter(test, &folio, 1);
		folio_get(locked);
		folio_lock(locked);
		ft_remove(test, locked);
		folio_unlock(locked);
		folio_unlock(folio);

		KUNIT_EXPECT_EQ(test, ft_finish(test, w), -ESTALE);
		ft_expect_cache(test, FT_PLACES - 1 - enomem);
		KUNIT_EXPECT_TRUE(test, folio_test_locked(locked));
		/* Of the test, and of the worker. */
		KUNIT_EXPECT_EQ(test, folio_ref_count(locked), 2);
		ft_release_worker(test, w);
		KUNIT_EXPECT_FALSE(test, folio_test_locked(locked));
		KUNIT_EXPECT_EQ(test, folio_ref_count(locked), 1);
		folio_put(locked);
	}
}

/* Truncated, and there is another folio in its place. */
static void locked_replaced(struct kunit *test)
{
	struct ft_worker *w;
	struct folio *folio = worker_unlocks(test, FT_CREAT, &w);

	folio_lock(w->locked);
	ft_remove(test, w->locked);
	folio_unlock(w->locked);
	ft_add(test, LOCKED);
	folio_unlock(folio);

	KUNIT_EXPECT_EQ(test, ft_finish(test, w), -ESTALE);
	ft_expect_cache(test, FT_PLACES);
	ft_release_worker(test, w);
}

static void locked_stale_on_entry(struct kunit *test)
{
	struct folio *locked;

	ft_add_all(test, FT_PLACES);
	locked = get_and_lock(test, LOCKED);
	ft_remove(test, locked);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES - 1, FT_CREAT),
			-ESTALE);
	ft_expect_poison(test, 0);
	ft_expect_cache(test, FT_PLACES - 1);
	put_and_unlock(test, locked);
}

/* Errors. */

/* @locked is surrounded by holes: FT_PLACES of them. */
static struct folio *only_locked(struct kunit *test)
{
	ft_add(test, LOCKED);
	return get_and_lock(test, LOCKED);
}

static void locked_enomem(struct kunit *test)
{
	struct folio *locked = only_locked(test);
	int place = ft_place(test);

	ft_interfere(test, place, ft_enomem);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES, FT_CREAT),
			-ENOMEM);
	put_and_unlock(test, locked);
	ft_expect_cache(test, place + 1);
}

/* With FGP_NOWAIT, an allocation that fails is treated like contention. */
static void locked_nowait_enomem(struct kunit *test)
{
	struct folio *locked = only_locked(test);
	int place = ft_place(test);

	ft_interfere(test, place, ft_enomem);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES,
				    FT_CREAT | FGP_NOWAIT),
			place < LOCKED ? -EDEADLK : -EAGAIN);
	put_and_unlock(test, locked);
	ft_expect_cache(test, place + 1);
}

static struct folio *enomem_with_nowait(struct kunit *test, pgoff_t index)
{
	struct ft *t = test->priv;

	return t->fgp_flags & FGP_NOWAIT ? ERR_PTR(-ENOMEM) : NULL;
}

/* If only the attempt without waiting fails, the second one does not. */
static void locked_allocates_when_unlocked(struct kunit *test)
{
	struct folio *locked = only_locked(test);
	struct ft *t = test->priv;

	ft_interfere(test, 0, enomem_with_nowait);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES, FT_CREAT),
			FT_PLACES + 1);
	ft_expect_covered(test, t->folios, FT_PLACES + 1, 0, FT_PLACES);
	release_locked(test, locked, FT_PLACES + 1);
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES + 1);
}

static void locked_eexist(struct kunit *test)
{
	struct folio *locked = only_locked(test);
	struct ft *t = test->priv;

	ft_interfere(test, ft_place(test), ft_eexist);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, FT_PLACES, FT_CREAT),
			FT_PLACES + 1);
	ft_expect_covered(test, t->folios, FT_PLACES + 1, 0, FT_PLACES);
	release_locked(test, locked, FT_PLACES + 1);
	put_and_unlock(test, locked);
	ft_expect_cache(test, FT_PLACES + 1);
}

/* An allocation fails after @locked was unlocked: it is locked again. */
static void locked_enomem_after_unlock(struct kunit *test)
{
	struct folio *folio, *locked;
	int place = ft_place(test);
	struct ft_worker *w;
	bool fails;

	ft_add(test, 0);
	ft_add(test, LOCKED);
	lru_add_drain_all();
	folio = ft_at(test, 0);
	locked = ft_at(test, LOCKED);
	folio_lock(folio);

	ft_interfere(test, place, ft_enomem);
	w = ft_start(test, grab_locked_fn, locked, FT_PLACES, FT_CREAT);
	ft_wait_for_waiter(test, &folio, 1);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(locked));
	folio_unlock(folio);

	/* Seven folios are absent. */
	fails = place < FT_PLACES - 1;
	KUNIT_EXPECT_EQ(test, ft_finish(test, w),
			fails ? -ENOMEM : FT_PLACES + 1);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(locked));
	KUNIT_EXPECT_EQ(test, folio_test_locked(folio), !fails);
	ft_release_worker(test, w);
	ft_expect_cache(test, 2 + place);
}

/* Races left to chance. */

/* As a reader does: find a folio, lock it, then lock the range around it. */
static void stress_grab_locked(struct ft_stress *s, struct rnd_state *rnd)
{
	struct folio *folios[FT_STRESS_PAGES];
	pgoff_t start, end, index;
	struct folio *locked;
	int nr;

	if (prandom_u32_state(rnd) % 2) {
		ft_stress_grab(s, rnd);
		return;
	}
	ft_stress_range(rnd, &start, &end);
	index = start + prandom_u32_state(rnd) % (end - start + 1);
	locked = __filemap_get_folio(s->mapping, index, FT_CREAT, GFP_KERNEL);
	if (IS_ERR(locked)) {
		atomic_inc(&s->wrong);
		return;
	}
	nr = filemap_grab_folios_locked(locked, start, end, FT_CREAT,
					GFP_KERNEL, folios);
	if (nr != -ESTALE)
		ft_stress_check(s, folios, nr, start, end, true);
	if (nr > 0)
		filemap_release_folios_locked(locked, folios, nr);
	if (!folio_test_locked(locked))
		atomic_inc(&s->wrong);
	folio_unlock(locked);
	folio_put(locked);
}

static const int stress_threads[] = { 2, 4 };

static void stress_desc(const int *threads, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%d threads", *threads);
}

KUNIT_ARRAY_PARAM(stress, stress_threads, stress_desc);

static void locked_stress(struct kunit *test)
{
	ft_stress(test, *(const int *)test->param_value, stress_grab_locked);
}

static struct kunit_case locked_cases[] = {
	KUNIT_CASE_PARAM(locked_uncontended, place_gen_params),
	KUNIT_CASE_PARAM(locked_without_creat, place_gen_params),
	KUNIT_CASE(locked_at_the_last_index),
	KUNIT_CASE(locked_is_large),
	KUNIT_CASE(locked_refuses),
	KUNIT_CASE(locked_is_marked),
	KUNIT_CASE(locked_dontcache),
	KUNIT_CASE(locked_nowait_writeback),
	KUNIT_CASE(locked_under_writeback),
	KUNIT_CASE_PARAM(locked_nowait_contended, place_gen_params),
	KUNIT_CASE_PARAM(locked_waits_in_order, place_gen_params),
	KUNIT_CASE_PARAM(locked_waits_for_locked, lower_gen_params),
	KUNIT_CASE(locked_truncated),
	KUNIT_CASE_PARAM(locked_replaced, lower_gen_params),
	KUNIT_CASE(locked_stale_on_entry),
	KUNIT_CASE_PARAM(locked_enomem, place_gen_params),
	KUNIT_CASE_PARAM(locked_nowait_enomem, place_gen_params),
	KUNIT_CASE(locked_allocates_when_unlocked),
	KUNIT_CASE_PARAM(locked_eexist, place_gen_params),
	KUNIT_CASE_PARAM(locked_enomem_after_unlock, place_gen_params),
	KUNIT_CASE_PARAM(locked_stress, stress_gen_params),
	{}
};

static struct kunit_suite locked_suite = {
	.name = "filemap_grab_locked",
	.suite_init = ft_suite_init,
	.suite_exit = ft_suite_exit,
	.init = ft_init,
	.exit = ft_exit,
	.test_cases = locked_cases,
};

kunit_test_suite(locked_suite);
