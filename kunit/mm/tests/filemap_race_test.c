// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for filemap_grab_folios(): interference by other tasks.
 *
 * Races in this code are rare in practice, so the tests force each interleaving.
 * The properties checked:
 *  - locks are taken in ascending order, and a task that waits for a folio
 *    holds no lock of a higher one;
 *  - a folio that another task truncates, adds or writes back at any moment is
 *    not returned without a recheck.
 */
#include <linux/swap.h>

#include "filemap_fixture.h"

KUNIT_ARRAY_PARAM(place, ft_places, ft_place_desc);

/* Order of locks. */

/*
 * With all folios locked by the test, record which one the worker waits for,
 * unlock that one, and so on.
 */
static void race_locks_in_ascending_order(struct kunit *test)
{
	struct folio *folios[FT_PLACES];
	struct ft_worker *w;

	ft_add_all(test, FT_PLACES);
	for (int i = 0; i < FT_PLACES; i++) {
		folios[i] = ft_at(test, i);
		folio_lock(folios[i]);
	}
	w = ft_start(test, ft_grab_fn, NULL, FT_PLACES - 1, FT_CREAT);
	for (int i = 0; i < FT_PLACES; i++) {
		int next = ft_wait_for_waiter(test, folios, FT_PLACES);

		KUNIT_EXPECT_EQ(test, next, i);
		if (next < 0)
			next = i;
		if (folios[next])
			folio_unlock(folios[next]);
		folios[next] = NULL;
	}
	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* A worker waits for the lock of a folio, which is returned referenced. */
static struct folio *worker_waits(struct kunit *test, fgf_t fgp_flags,
				  struct ft_worker **w)
{
	struct folio *folio;

	ft_add_all(test, FT_PLACES);
	folio = ft_at(test, ft_place(test));
	folio_get(folio);
	folio_lock(folio);
	*w = ft_start(test, ft_grab_fn, NULL, FT_PLACES - 1, fgp_flags);
	ft_wait_for_waiter(test, &folio, 1);
	return folio;
}

/* While it waits for one folio, it has the lower ones and no higher one. */
static void race_holds_no_higher_lock(struct kunit *test)
{
	struct ft_worker *w;
	struct folio *folio = worker_waits(test, FT_CREAT, &w);

	for (int i = 0; i < FT_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(ft_at(test, i)),
				    i <= ft_place(test), "folio %d", i);
	folio_unlock(folio);
	folio_put(folio);
	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* FGP_STABLE waits for writeback of one folio before the next is locked. */
static void race_stable_waits_before_the_next_lock(struct kunit *test)
{
	int place = ft_place(test);
	struct ft *t = test->priv;
	struct ft_worker *w;
	struct folio *folio;

	mapping_set_stable_writes(t->mapping);
	ft_add_all(test, FT_PLACES);
	folio = ft_at(test, place);
	ft_start_writeback(folio);

	w = ft_start(test, ft_grab_fn, NULL, FT_PLACES - 1,
		     FT_CREAT | FGP_STABLE | FGP_ACCESSED);
	ft_wait_for_waiter(test, &folio, 1);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	for (int i = 0; i < FT_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(ft_at(test, i)),
				    i <= place, "folio %d", i);
	folio_end_writeback(folio);
	KUNIT_EXPECT_EQ(test, ft_finish(test, w), FT_PLACES);
	KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* A folio that was waited for is marked like the others. */
static void race_marks_accessed_after_the_wait(struct kunit *test)
{
	struct ft_worker *w;
	struct folio *folio = worker_waits(test, FT_CREAT | FGP_ACCESSED, &w);

	KUNIT_EXPECT_FALSE(test, folio_test_referenced(folio));
	folio_unlock(folio);
	folio_put(folio);
	KUNIT_ASSERT_EQ(test, ft_finish(test, w), FT_PLACES);
	for (int i = 0; i < FT_PLACES; i++)
		KUNIT_EXPECT_TRUE(test, folio_test_referenced(w->folios[i]));
	ft_expect_grabbed(test, w, FT_PLACES - 1);
}

/* It is cached from then on, unless FGP_DONTCACHE is given. */
static void race_caches_after_the_wait(struct kunit *test)
{
	for (int dontcache = 1; dontcache >= 0; dontcache--) {
		struct ft_worker *w;
		struct folio *folio;

		KUNIT_ASSERT_EQ(test, ft_grab(test, 0, FT_PLACES - 1,
					      FT_CREAT | FGP_DONTCACHE),
				FT_PLACES);
		ft_release(test, FT_PLACES);
		folio = ft_at(test, ft_place(test));
		folio_lock(folio);
		w = ft_start(test, ft_grab_fn, NULL, FT_PLACES - 1,
			     FT_CREAT | (dontcache ? FGP_DONTCACHE : 0));
		ft_wait_for_waiter(test, &folio, 1);
		folio_unlock(folio);
		KUNIT_ASSERT_EQ(test, ft_finish(test, w), FT_PLACES);
		for (int i = 0; i < FT_PLACES; i++)
			KUNIT_EXPECT_EQ(test,
					folio_test_dropbehind(w->folios[i]),
					dontcache);
		ft_expect_grabbed(test, w, FT_PLACES - 1);
	}
}

/* Truncation. */

/* The folio that is waited for is truncated: another one is created. */
static void race_rechecks_after_truncation(struct kunit *test)
{
	int place = ft_place(test);
	struct ft_worker *w;
	struct folio *folio = worker_waits(test, FT_CREAT, &w);

	ft_remove(test, folio);
	folio_unlock(folio);
	KUNIT_ASSERT_EQ(test, ft_finish(test, w), FT_PLACES);
	KUNIT_EXPECT_PTR_NE(test, w->folios[place], folio);
	ft_expect_grabbed(test, w, FT_PLACES - 1);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	folio_put(folio);
}

/* Without FGP_CREAT, it leaves a hole. */
static void race_without_creat_skips_truncated(struct kunit *test)
{
	struct ft_worker *w;
	struct folio *folio = worker_waits(test, FGP_LOCK, &w);

	ft_remove(test, folio);
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, ft_finish(test, w), FT_PLACES - 1);
	ft_release_worker(test, w);
	ft_expect_cache(test, FT_PLACES - 1);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	folio_put(folio);
}

/*
 * A folio is truncated after it was looked up, while a lower one is waited for.
 * Its lock is free then: only the recheck notices.
 */
static void race_rechecks_without_contention(struct kunit *test)
{
	int place = ft_place(test) ?: 1;

	for (int creat = 0; creat < 2; creat++) {
		struct folio *low, *folio;
		struct ft_worker *w;

		for (int i = 0; i < FT_PLACES; i++)
			if (!ft_at(test, i))
				ft_add(test, i);
		lru_add_drain_all();
		low = ft_at(test, 0);
		folio = ft_at(test, place);
		folio_get(folio);
		folio_lock(low);
		w = ft_start(test, ft_grab_fn, NULL, FT_PLACES - 1,
			     FGP_LOCK | (creat ? FGP_CREAT : 0));
		ft_wait_for_waiter(test, &low, 1);
		/* Page cache, test, and the lookup of the worker. */
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 3);
		folio_lock(folio);
		ft_remove(test, folio);
		folio_unlock(folio);
		folio_unlock(low);

		KUNIT_ASSERT_EQ(test, ft_finish(test, w), FT_PLACES - !creat);
		for (int i = 0; i < w->nr; i++) {
			KUNIT_EXPECT_PTR_NE(test, w->folios[i], folio);
			KUNIT_EXPECT_EQ(test, w->folios[i]->index,
					i + (!creat && i >= place));
		}
		ft_release_worker(test, w);
		ft_expect_cache(test, FT_PLACES - !creat);
		KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
		folio_put(folio);
	}
}

static int get_folio_fn(void *data)
{
	struct ft_worker *w = data;

	w->folios[0] = __filemap_get_folio(w->t->mapping, 0, w->fgp_flags,
					   GFP_KERNEL);
	complete_all(&w->grabbed);
	wait_for_completion(&w->release);
	complete(&w->done);
	return 0;
}

/* The step that __filemap_get_folio() shares with filemap_grab_folios(). */
static void race_get_folio_rechecks(struct kunit *test)
{
	for (int creat = 0; creat < 2; creat++) {
		struct folio *folio = ft_add(test, 0);
		struct ft_worker *w;

		lru_add_drain_all();
		folio_get(folio);
		folio_lock(folio);
		w = ft_start(test, get_folio_fn, NULL, 0,
			     FGP_LOCK | (creat ? FGP_CREAT : 0));
		ft_wait_for_waiter(test, &folio, 1);
		ft_remove(test, folio);
		folio_unlock(folio);
		ft_finish(test, w);
		KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
		folio_put(folio);
		if (creat) {
			KUNIT_ASSERT_FALSE(test, IS_ERR(w->folios[0]));
			KUNIT_EXPECT_PTR_NE(test, w->folios[0], folio);
			filemap_release_folios(w->folios, 1);
		} else {
			KUNIT_EXPECT_PTR_EQ(test, w->folios[0],
					    ERR_PTR(-ENOENT));
		}
		ft_release_worker(test, w);
		ft_expect_cache(test, creat);
	}
}

/* Races left to chance. */

static const int stress_threads[] = { 2, 4 };

static void stress_desc(const int *threads, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%d threads", *threads);
}

KUNIT_ARRAY_PARAM(stress, stress_threads, stress_desc);

static void race_stress(struct kunit *test)
{
	ft_stress(test, *(const int *)test->param_value, ft_stress_grab);
}

static struct kunit_case race_cases[] = {
	KUNIT_CASE(race_locks_in_ascending_order),
	KUNIT_CASE_PARAM(race_holds_no_higher_lock, place_gen_params),
	KUNIT_CASE_PARAM(race_stable_waits_before_the_next_lock,
			 place_gen_params),
	KUNIT_CASE_PARAM(race_marks_accessed_after_the_wait, place_gen_params),
	KUNIT_CASE_PARAM(race_caches_after_the_wait, place_gen_params),
	KUNIT_CASE_PARAM(race_rechecks_after_truncation, place_gen_params),
	KUNIT_CASE_PARAM(race_without_creat_skips_truncated, place_gen_params),
	KUNIT_CASE_PARAM(race_rechecks_without_contention, place_gen_params),
	KUNIT_CASE(race_get_folio_rechecks),
	KUNIT_CASE_PARAM(race_stress, stress_gen_params),
	{}
};

static struct kunit_suite race_suite = {
	.name = "filemap_grab_race",
	.suite_init = ft_suite_init,
	.suite_exit = ft_suite_exit,
	.init = ft_init,
	.exit = ft_exit,
	.test_cases = race_cases,
};

kunit_test_suite(race_suite);
