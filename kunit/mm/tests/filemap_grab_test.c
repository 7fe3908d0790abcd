// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for filemap_grab_folios(): its results, flags and errors.
 *
 * Run them with
 *	tools/testing/kunit/kunit.py run --kconfig_add CONFIG_SMP=y \
 *		--kconfig_add CONFIG_FILEMAP_KUNIT_TEST=y 'filemap_grab*'
 *
 * The properties checked:
 *  - every index of the range is covered, by locked and referenced folios, in
 *    ascending order, or left out if it is a hole and FGP_CREAT is not given;
 *  - the result does not exceed the range or the array;
 *  - on error, no lock, no reference and no page is left behind.
 * See filemap_race_test.c for what other tasks do.
 */
#include <linux/backing-dev.h>
#include <linux/debug_locks.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/gfp.h>
#include <linux/page_idle.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>
#include <linux/writeback.h>

#include "filemap_fixture.h"

/* The last page index of the largest file. */
#define LAST	((pgoff_t)((u64)(MAX_LFS_FILESIZE - 1) >> PAGE_SHIFT))

KUNIT_ARRAY_PARAM(place, ft_places, ft_place_desc);

/* Helpers: the state before. */

static void add_shadow(struct kunit *test, pgoff_t index, unsigned int order)
{
	struct ft *t = test->priv;
	XA_STATE_ORDER(xas, &t->mapping->i_pages, index, order);

	do {
		xas_lock_irq(&xas);
		xas_store(&xas, xa_mk_value(0));
		xas_unlock_irq(&xas);
	} while (xas_nomem(&xas, GFP_KERNEL));
	KUNIT_ASSERT_EQ(test, xas_error(&xas), 0);
}

enum pattern { PRESENT, HOLES, ALTERNATING, SHADOWS, MIXED };

static const struct grab_range {
	const char *name;
	pgoff_t start;
	unsigned int nr;
	enum pattern pattern;
} ranges[] = {
	{ "one page present", 5, 1, PRESENT },
	{ "one page absent", 5, 1, HOLES },
	{ "one shadow entry", 5, 1, SHADOWS },
	{ "16 present", 0, 16, PRESENT },
	{ "16 holes", 0, 16, HOLES },
	{ "16 alternating", 0, 16, ALTERNATING },
	{ "16 shadow entries", 0, 16, SHADOWS },
	{ "16 mixed", 16, 16, MIXED },
	{ "a full batch present", 7, FOLIO_BATCH_SIZE, PRESENT },
	{ "one more than a batch present", 7, FOLIO_BATCH_SIZE + 1, PRESENT },
	{ "one more than two batches present", 0, 2 * FOLIO_BATCH_SIZE + 1,
	  PRESENT },
	{ "63 present", 64, 63, PRESENT },
	{ "present over a node boundary at 64", 63, 2, PRESENT },
	{ "holes over a node boundary at 64", 63, 2, HOLES },
	{ "mixed over a node boundary at 64", 60, 9, MIXED },
	{ "present over a node boundary at 4096", 4095, 2, PRESENT },
	{ "holes over a node boundary at 4096", 4095, 2, HOLES },
	{ "alternating over a node boundary at 4096", 4090, 13, ALTERNATING },
	{ "present up to the end of the largest file", LAST - 15, 16, PRESENT },
	{ "holes up to the end of the largest file", LAST - 15, 16, HOLES },
	{ "present up to the last index", ULONG_MAX - 7, 8, PRESENT },
	{ "holes up to the last index", ULONG_MAX - 7, 8, HOLES },
	{ "mixed up to the last index", ULONG_MAX - 7, 8, MIXED },
	{ "only the last index", ULONG_MAX, 1, HOLES },
};

KUNIT_ARRAY_PARAM_DESC(range, ranges, name);

static bool add_one(struct kunit *test, const struct grab_range *range,
		    unsigned int i)
{
	enum pattern state = range->pattern;

	if (state == ALTERNATING)
		state = i % 2 ? HOLES : PRESENT;
	else if (state == MIXED)
		state = i % 3 == 0 ? SHADOWS : i % 3 == 1 ? PRESENT : HOLES;

	if (state == PRESENT)
		ft_add(test, range->start + i);
	else if (state == SHADOWS)
		add_shadow(test, range->start + i, 0);
	return state == PRESENT;
}

/* Returns how many folios the range has.  There are some outside of it, too. */
static int populate(struct kunit *test, const struct grab_range *range,
		    int *outside)
{
	pgoff_t end = range->start + (range->nr - 1);
	int nr = 0;

	*outside = 0;
	for (unsigned int i = 0; i < range->nr; i++)
		nr += add_one(test, range, i);
	if (range->start) {
		ft_add(test, range->start - 1);
		++*outside;
	}
	if (end != ULONG_MAX) {
		ft_add(test, end + 1);
		++*outside;
	}
	lru_add_drain_all();
	return nr;
}

/* Which folios are found, and which created. */

static void grab_creates_missing_folios(struct kunit *test)
{
	const struct grab_range *range = test->param_value;
	pgoff_t end = range->start + (range->nr - 1);
	struct folio *before[FT_FOLIOS];
	struct ft *t = test->priv;
	int outside, nr;

	populate(test, range, &outside);
	for (unsigned int i = 0; i < range->nr; i++)
		before[i] = ft_at(test, range->start + i);

	nr = ft_grab(test, range->start, end, FT_CREAT);
	KUNIT_ASSERT_EQ(test, nr, range->nr);
	ft_expect_covered(test, t->folios, nr, range->start, end);
	for (int i = 0; i < nr; i++) {
		if (!before[i])
			continue;
		KUNIT_EXPECT_PTR_EQ(test, t->folios[i], before[i]);
		KUNIT_EXPECT_EQ(test, folio_ref_count(before[i]), 2);
	}
	ft_release(test, nr);
	ft_expect_cache(test, range->nr + outside);
}

static void grab_without_creat_skips_holes(struct kunit *test)
{
	const struct grab_range *range = test->param_value;
	pgoff_t end = range->start + (range->nr - 1);
	struct ft *t = test->priv;
	int outside, present = populate(test, range, &outside);
	int nr, i = 0;

	nr = ft_grab(test, range->start, end, FGP_LOCK);
	KUNIT_ASSERT_EQ(test, nr, present);
	for (unsigned int j = 0; j < range->nr; j++) {
		struct folio *folio = ft_at(test, range->start + j);

		if (!folio)
			continue;
		KUNIT_EXPECT_PTR_EQ(test, t->folios[i++], folio);
		KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 2);
	}
	ft_release(test, nr);
	ft_expect_cache(test, present + outside);
}

/* The largest range allowed.  The lookup skips the hole as a whole. */
static void grab_without_creat_skips_a_wide_hole(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_add(test, 1);
	ft_add(test, INT_MAX - 1);
	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, INT_MAX - 1, FGP_LOCK), 2);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 1);
	KUNIT_EXPECT_EQ(test, t->folios[1]->index, INT_MAX - 1);
	ft_release(test, 2);
	ft_expect_cache(test, 2);
}

/* FGP_LOCK is implied. */
static void grab_locks_without_fgp_lock(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_add(test, 1);
	ft_add(test, 2);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 3, FGP_CREAT), 4);
	ft_expect_covered(test, t->folios, 4, 0, 3);
	ft_release(test, 4);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 1, 3, 0), 3);
	ft_expect_covered(test, t->folios, 3, 1, 3);
	ft_release(test, 3);
	ft_expect_cache(test, 4);
}

/* The largest folio that fits is not known before: the range is passed on. */
static void grab_passes_the_rest_of_the_range(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_add(test, 2);
	ft_interfere(test, 0, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, 7, FT_CREAT), -ENOMEM);
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	KUNIT_EXPECT_EQ(test, t->pages, 8);
	ft_interfere(test, 0, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 2, 7, FT_CREAT), -ENOMEM);
	KUNIT_EXPECT_EQ(test, t->pages, 5);
	ft_interfere(test, 0, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 7, 7, FT_CREAT), -ENOMEM);
	KUNIT_EXPECT_EQ(test, t->pages, 1);
	ft_expect_cache(test, 1);
}

/* Multi-index shadows, as reclaim of a large folio leaves them. */

static void multi_or_skip(struct kunit *test)
{
	if (!IS_ENABLED(CONFIG_XARRAY_MULTI))
		kunit_skip(test, "needs CONFIG_XARRAY_MULTI");
}

/* filemap_add_folio() splits the shadow, and adds a folio below the range. */
static struct folio *add_below(struct kunit *test, pgoff_t index)
{
	if (!ft_at(test, 64))
		ft_add(test, 64);
	return NULL;
}

static void grab_within_a_shadow(struct kunit *test)
{
	struct ft *t = test->priv;

	multi_or_skip(test);
	add_shadow(test, 0, 9);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 300, 315, FGP_LOCK), 0);

	ft_interfere(test, 0, add_below);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 300, 315, FGP_LOCK), 0);
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	ft_expect_cache(test, 1);

	KUNIT_ASSERT_EQ(test, ft_grab(test, 300, 315, FT_CREAT), 16);
	ft_expect_covered(test, t->folios, 16, 300, 315);
	ft_release(test, 16);
	KUNIT_EXPECT_NOT_NULL(test, ft_at(test, 64));
	ft_expect_cache(test, 17);
}

/* The walk of filemap_get_folios(), with the split in between. */
static void grab_lookup_does_not_go_back(struct kunit *test)
{
	struct ft *t = test->priv;
	XA_STATE(xas, &t->mapping->i_pages, 300);

	multi_or_skip(test);
	add_shadow(test, 0, 9);
	ft_add(test, 1000);
	rcu_read_lock();
	KUNIT_EXPECT_TRUE(test, xa_is_value(xas_find(&xas, ULONG_MAX)));
	rcu_read_unlock();
	/* No node is freed: the walk remains valid without RCU. */
	ft_add(test, 64);
	rcu_read_lock();
	do {
		void *entry = xas_find(&xas, ULONG_MAX);

		KUNIT_EXPECT_GT(test, xas.xa_index, 300UL);
		KUNIT_EXPECT_NOT_NULL(test, entry);
		if (!xa_is_value(entry))
			break;
	} while (xas.xa_index < 1000);
	rcu_read_unlock();
	KUNIT_EXPECT_EQ(test, xas.xa_index, 1000UL);
	ft_expect_cache(test, 2);
}

/* Refusals. */

static const struct file_operations hugetlb_fops = {
	.fop_flags = FOP_HUGE_PAGES,
};

static const struct bad {
	const char *name;
	pgoff_t start, end;
	fgf_t fgp_flags;
	unsigned int i_flags;
	const struct file_operations *i_fop;
} bads[] = {
	{ "empty range", 8, 7 },
	{ "backward range", 8, 0 },
	{ "backward range over all indices", ULONG_MAX, 0 },
	{ "all indices", 0, ULONG_MAX },
	{ "one page more than fits the result", 1, (pgoff_t)INT_MAX + 1 },
	{ "FGP_FOR_MMAP", 0, 7, FGP_FOR_MMAP },
	{ "order 1", 0, 7, (__force fgf_t)(1 << 26) },
	{ "order 32", 0, 7, (__force fgf_t)(32U << 26) },
	{ "hugetlb mapping", 0, 7, .i_fop = &hugetlb_fops },
#ifdef CONFIG_FS_DAX
	{ "DAX mapping", 0, 7, .i_flags = S_DAX },
#endif
};

KUNIT_ARRAY_PARAM_DESC(bad, bads, name);

/*
 * A refusal is reported by one warning.  Without CONFIG_GENERIC_BUG, a
 * suppressed WARN_ON_ONCE() is not repeated before the next boot.
 */
static void expect_refused(struct kunit *test, struct address_space *mapping,
			   pgoff_t start, pgoff_t end, fgf_t fgp_flags)
{
	struct ft *t = test->priv;
	static int warnings;

	if (IS_ENABLED(CONFIG_GENERIC_BUG))
		warnings = 0;
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test,
				filemap_grab_folios(mapping, start, end,
						    fgp_flags, GFP_KERNEL,
						    t->folios),
				-EINVAL);
		warnings += KUNIT_SUPPRESSED_WARNING_COUNT();
	}
	KUNIT_EXPECT_EQ(test, warnings, 1);
}

static void grab_refuses(struct kunit *test)
{
	const struct bad *bad = test->param_value;
	const struct file_operations *i_fop;
	struct ft *t = test->priv;

	ft_add_all(test, FT_PLACES);
	i_fop = t->inode->i_fop;
	t->inode->i_flags |= bad->i_flags;
	if (bad->i_fop)
		t->inode->i_fop = bad->i_fop;
	memset(t->folios, 0xa5, sizeof(t->folios));
	expect_refused(test, t->mapping, bad->start, bad->end,
		       FT_CREAT | bad->fgp_flags);
	ft_expect_poison(test, 0);
	t->inode->i_flags &= ~bad->i_flags;
	t->inode->i_fop = i_fop;
	ft_expect_cache(test, FT_PLACES);
}

/* The value entries of shmem are data that is swapped out. */
static void grab_refuses_shmem(struct kunit *test)
{
	struct file *file;

	if (!IS_ENABLED(CONFIG_SHMEM))
		kunit_skip(test, "needs CONFIG_SHMEM");

	file = shmem_file_setup("filemap_grab", PAGE_SIZE,
				mk_vma_flags(VMA_NORESERVE_BIT));
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	expect_refused(test, file->f_mapping, 0, 0, FT_CREAT);
	KUNIT_EXPECT_EQ(test, file->f_mapping->nrpages, 0UL);
	fput(file);
}

/* Flags. */

static void grab_passes_flags_and_forbids_fs_reclaim(struct kunit *test)
{
	fgf_t fgp_flags = FT_CREAT | FGP_WRITE | FGP_DONTCACHE;
	struct ft *t = test->priv;

	ft_interfere(test, 0, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, 3, fgp_flags), -ENOMEM);
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	KUNIT_EXPECT_TRUE(test, t->fgp_flags == (fgp_flags | FGP_NOFS));

	/* FGP_NOWAIT allocates without direct reclaim: nor may it be dropped. */
	fgp_flags = FT_CREAT | FGP_NOWAIT;
	ft_interfere(test, 0, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, 3, fgp_flags), -EAGAIN);
	KUNIT_EXPECT_TRUE(test, t->fgp_flags == (fgp_flags | FGP_NOFS));
	ft_expect_cache(test, 0);
}

/* lockdep reports an allocation that may wait for what waits for @lock. */
static void grab_does_not_wait_for_fs_reclaim(struct kunit *test)
{
	static DEFINE_MUTEX(lock);
	struct ft *t = test->priv;

	if (!IS_ENABLED(CONFIG_PROVE_LOCKING) || !debug_locks)
		kunit_skip(test, "needs lockdep");
	KUNIT_ASSERT_TRUE(test, mapping_gfp_mask(t->mapping) & __GFP_FS);

	fs_reclaim_acquire(GFP_KERNEL);
	mutex_lock(&lock);
	mutex_unlock(&lock);
	fs_reclaim_release(GFP_KERNEL);

	mutex_lock(&lock);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, 3, FT_CREAT), 4);
	mutex_unlock(&lock);
	ft_release(test, 4);
	KUNIT_EXPECT_TRUE(test, debug_locks);
}

/* With the LRU that has two lists, one mark is "referenced", two are "active". */
static void expect_marked_once(struct kunit *test, struct folio *folio)
{
	KUNIT_EXPECT_TRUE(test, folio_test_referenced(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_active(folio));
}

static void grab_accessed(struct kunit *test)
{
	struct ft *t = test->priv;
	struct folio *folio = ft_add(test, 0);

	lru_add_drain_all();
	KUNIT_ASSERT_FALSE(test, folio_test_referenced(folio));
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 1, FT_CREAT), 2);
	KUNIT_EXPECT_FALSE(test, folio_test_referenced(t->folios[0]));
	KUNIT_EXPECT_FALSE(test, folio_test_referenced(t->folios[1]));
	ft_release(test, 2);
	lru_add_drain_all();

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 2, FT_CREAT | FGP_ACCESSED), 3);
	for (int i = 0; i < 3; i++)
		expect_marked_once(test, t->folios[i]);
	ft_release(test, 3);
	ft_expect_cache(test, 3);
}

static void grab_write_clears_idle(struct kunit *test)
{
	struct folio *folio = ft_add(test, 0);

	if (!IS_ENABLED(CONFIG_PAGE_IDLE_FLAG))
		kunit_skip(test, "needs CONFIG_PAGE_IDLE_FLAG");

	ft_add(test, 1);
	folio_set_idle(folio);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 1, FT_CREAT), 2);
	KUNIT_EXPECT_TRUE(test, folio_test_idle(folio));
	ft_release(test, 2);

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 1, FT_CREAT | FGP_WRITE), 2);
	KUNIT_EXPECT_FALSE(test, folio_test_idle(folio));
	ft_release(test, 2);
	ft_expect_cache(test, 2);
}

static void grab_dontcache(struct kunit *test)
{
	struct ft *t = test->priv;

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 1, FT_CREAT | FGP_DONTCACHE), 2);
	KUNIT_EXPECT_TRUE(test, folio_test_dropbehind(t->folios[0]));
	KUNIT_EXPECT_TRUE(test, folio_test_dropbehind(t->folios[1]));
	ft_release(test, 2);

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 1, FT_CREAT | FGP_DONTCACHE), 2);
	KUNIT_EXPECT_TRUE(test, folio_test_dropbehind(t->folios[0]));
	ft_release(test, 2);

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 1, FT_CREAT), 2);
	KUNIT_EXPECT_FALSE(test, folio_test_dropbehind(t->folios[0]));
	KUNIT_EXPECT_FALSE(test, folio_test_dropbehind(t->folios[1]));
	ft_release(test, 2);
	ft_expect_cache(test, 2);
}

/* Add one folio for start..end, uncached and dirty. */
static void add_dirty_uncached(struct kunit *test, pgoff_t start, pgoff_t end)
{
	struct ft *t = test->priv;

	KUNIT_ASSERT_EQ(test, ft_grab(test, start, end,
				      FT_CREAT | FGP_DONTCACHE), 1);
	folio_mark_uptodate(t->folios[0]);
	folio_mark_dirty(t->folios[0]);
	ft_release(test, 1);
}

/* A dirty folio is counted as uncached as long as it is. */
static void grab_dontcache_dirty(struct kunit *test)
{
	struct ft *t = test->priv;
	struct bdi_writeback *wb = inode_to_wb(t->inode);
	long before, nr = 1;

	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE)) {
		ft_large_folios_or_skip(test);
		nr = 4;
	}
	/* The sum is never negative: let it begin with some. */
	for (int i = 16; i < 32; i += nr)
		add_dirty_uncached(test, i, i + nr - 1);
	before = wb_stat_sum(wb, WB_DONTCACHE_DIRTY);
	KUNIT_EXPECT_GE(test, before, 16);

	/* One dirty, one clean. */
	add_dirty_uncached(test, 0, nr - 1);
	KUNIT_ASSERT_EQ(test, ft_grab(test, nr, nr, FT_CREAT | FGP_DONTCACHE),
			1);
	ft_release(test, 1);
	KUNIT_EXPECT_EQ(test, wb_stat_sum(wb, WB_DONTCACHE_DIRTY), before + nr);

	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, nr, FT_CREAT | FGP_DONTCACHE), 2);
	ft_release(test, 2);
	KUNIT_EXPECT_EQ(test, wb_stat_sum(wb, WB_DONTCACHE_DIRTY), before + nr);

	for (int i = 0; i < 2; i++) {
		KUNIT_ASSERT_EQ(test, ft_grab(test, 0, nr, FT_CREAT), 2);
		KUNIT_EXPECT_FALSE(test, folio_test_dropbehind(t->folios[0]));
		ft_release(test, 2);
		KUNIT_EXPECT_EQ(test, wb_stat_sum(wb, WB_DONTCACHE_DIRTY),
				before);
	}
	ft_expect_cache(test, 16 + nr + 1);
}

/* Without a bdi that writes back, dirty folios are not counted. */
static void grab_dontcache_dirty_without_writeback(struct kunit *test)
{
	struct ft *t = test->priv;
	struct backing_dev_info *bdi = inode_to_bdi(t->inode);
	struct bdi_writeback *wb = inode_to_wb(t->inode);
	long before;

	add_dirty_uncached(test, 8, 8);
	before = wb_stat_sum(wb, WB_DONTCACHE_DIRTY);
	KUNIT_EXPECT_GE(test, before, 1);
	bdi->capabilities &= ~BDI_CAP_WRITEBACK;
	add_dirty_uncached(test, 0, 0);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, 0, FT_CREAT), 1);
	KUNIT_EXPECT_EQ(test, wb_stat_sum(wb, WB_DONTCACHE_DIRTY), before);
	folio_cancel_dirty(t->folios[0]);
	ft_release(test, 1);
	bdi->capabilities |= BDI_CAP_WRITEBACK;
	ft_expect_cache(test, 2);
}

/* FGP_NOWAIT. */

/* Folios have no owner: the test itself holds the lock. */
static void grab_nowait_contended(struct kunit *test)
{
	struct folio *folio;

	ft_add_all(test, FT_PLACES);
	folio = ft_at(test, ft_place(test));
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test,
			ft_grab(test, 0, FT_PLACES - 1, FT_CREAT | FGP_NOWAIT),
			-EAGAIN);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	folio_unlock(folio);
	ft_expect_cache(test, FT_PLACES);
}

static void grab_nowait_uncontended(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_add(test, 1);
	ft_add(test, 2);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, 3, FT_CREAT | FGP_NOWAIT), 4);
	ft_expect_covered(test, t->folios, 4, 0, 3);
	ft_release(test, 4);
	ft_expect_cache(test, 4);
}

/* Only FGP_STABLE waits for writeback, only if the mapping needs it. */
static void grab_nowait_writeback(struct kunit *test)
{
	fgf_t fgp_flags = FT_CREAT | FGP_STABLE | FGP_NOWAIT;
	struct ft *t = test->priv;
	struct folio *folio;

	ft_add_all(test, FT_PLACES);
	folio = ft_at(test, ft_place(test));
	ft_start_writeback(folio);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, FT_PLACES - 1, fgp_flags),
			FT_PLACES);
	ft_release(test, FT_PLACES);

	mapping_set_stable_writes(t->mapping);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, FT_PLACES - 1, fgp_flags),
			-EAGAIN);
	KUNIT_ASSERT_EQ(test,
			ft_grab(test, 0, FT_PLACES - 1, fgp_flags & ~FGP_STABLE),
			FT_PLACES);
	ft_release(test, FT_PLACES);

	folio_end_writeback(folio);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, FT_PLACES - 1, fgp_flags),
			FT_PLACES);
	ft_release(test, FT_PLACES);
	ft_expect_cache(test, FT_PLACES);
}

/* The step that __filemap_get_folio() shares with filemap_grab_folios(). */
static void get_folio_nowait_writeback(struct kunit *test)
{
	fgf_t fgp_flags = FGP_STABLE | FGP_NOWAIT;
	struct ft *t = test->priv;
	struct folio *folio = ft_add(test, 0);

	lru_add_drain_all();
	mapping_set_stable_writes(t->mapping);
	ft_start_writeback(folio);
	for (int creat = 0; creat < 2; creat++) {
		if (creat)
			fgp_flags |= FGP_CREAT;
		KUNIT_EXPECT_PTR_EQ(test,
				    __filemap_get_folio(t->mapping, 0,
							fgp_flags | FGP_LOCK,
							GFP_KERNEL),
				    ERR_PTR(-EAGAIN));
		KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
		/* Without FGP_LOCK, the lock of another task is left alone. */
		folio_lock(folio);
		KUNIT_EXPECT_PTR_EQ(test,
				    __filemap_get_folio(t->mapping, 0, fgp_flags,
							GFP_KERNEL),
				    ERR_PTR(-EAGAIN));
		KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
		folio_unlock(folio);
	}
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	folio_end_writeback(folio);
	ft_expect_cache(test, 1);
}

/* Errors: at the first, a middle and the last place, all is released. */

static void grab_enomem(struct kunit *test)
{
	int place = ft_place(test);
	struct ft *t = test->priv;

	ft_interfere(test, place, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, FT_PLACES - 1, FT_CREAT),
			-ENOMEM);
	KUNIT_EXPECT_EQ(test, t->calls, place + 1);
	ft_expect_cache(test, place);
}

/*
 * With a folio present before and behind each hole.  After the first hole, each
 * index has a call.
 */
static void grab_enomem_alternating(struct kunit *test)
{
	int place = ft_place(test);
	struct ft *t = test->priv;

	for (int i = 0; i < FT_PLACES; i++)
		ft_add(test, 2 * i);
	ft_interfere(test, 2 * place, ft_enomem);
	KUNIT_EXPECT_EQ(test, ft_grab(test, 0, 2 * FT_PLACES - 1, FT_CREAT),
			-ENOMEM);
	KUNIT_EXPECT_EQ(test, t->calls, 2 * place + 1);
	ft_expect_cache(test, FT_PLACES + place);
}

static void grab_eexist(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_interfere(test, ft_place(test), ft_eexist);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 0, FT_PLACES - 1, FT_CREAT),
			FT_PLACES);
	ft_expect_covered(test, t->folios, FT_PLACES, 0, FT_PLACES - 1);
	ft_release(test, FT_PLACES);
	ft_expect_cache(test, FT_PLACES);
}

/* Without FGP_CREAT: added after the lookup, and found by the last look. */
static void grab_without_creat_eexist(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_interfere(test, 0, ft_eexist);
	KUNIT_ASSERT_EQ(test, ft_grab(test, 4, 7, FGP_LOCK), 1);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 4);
	ft_release(test, 1);
	ft_expect_cache(test, 1);
}

/* An allocator without memory: one with a zone that the test has emptied. */
static void grab_allocation_fails(struct kunit *test)
{
	gfp_t gfp = GFP_DMA | __GFP_NORETRY | __GFP_NOWARN;
	struct ft *t = test->priv;
	struct page *page, *next;
	LIST_HEAD(pages);

	if (!IS_ENABLED(CONFIG_ZONE_DMA) || !IS_ENABLED(CONFIG_X86))
		kunit_skip(test, "needs a small CONFIG_ZONE_DMA");

	ft_add_all(test, 1);
	while ((page = alloc_page(gfp | GFP_KERNEL)))
		list_add(&page->lru, &pages);

	memset(t->folios, 0xa5, sizeof(t->folios));
	KUNIT_EXPECT_EQ(test,
			filemap_grab_folios(t->mapping, 0, 1, FT_CREAT,
					    gfp | GFP_KERNEL, t->folios),
			-ENOMEM);
	/* It would not fail without __GFP_NORETRY, but reclaim. */
	KUNIT_EXPECT_EQ(test,
			filemap_grab_folios(t->mapping, 0, 1,
					    FT_CREAT | FGP_NOWAIT,
					    GFP_DMA | GFP_KERNEL, t->folios),
			-EAGAIN);
	ft_expect_poison(test, 1);
	list_for_each_entry_safe(page, next, &pages, lru)
		__free_page(page);
	ft_expect_cache(test, 1);
}

/* Large folios. */

/* A large folio counts once, wherever the range begins and ends in it. */
static void grab_present_large_folios(struct kunit *test)
{
	struct ft *t = test->priv;

	ft_large_folios_or_skip(test);
	ft_add_order(test, 0, 2);
	ft_add(test, 4);
	ft_add_order(test, 8, 3);
	lru_add_drain_all();

	/* In the middle of the first, in the middle of the last. */
	KUNIT_ASSERT_EQ(test, ft_grab(test, 1, 9, FGP_LOCK), 3);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 0);
	KUNIT_EXPECT_EQ(test, t->folios[1]->index, 4);
	KUNIT_EXPECT_EQ(test, t->folios[2]->index, 8);
	ft_release(test, 3);

	KUNIT_ASSERT_EQ(test, ft_grab(test, 2, 3, FGP_LOCK), 1);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 0);
	ft_release(test, 1);
	ft_expect_cache(test, 13);
}

static const struct large {
	const char *name;
	unsigned int order;
	pgoff_t start, end;
	int creat, found;		/* how many folios with, without FGP_CREAT */
} larges[] = {
	/* One of @order at 1 << @order, one at the next index, and one before. */
	{ "order 6, all", 6, 63, 128, 3, 3 },
	{ "order 6, its last page", 6, 127, 127, 1, 1 },
	{ "order 6, its last page and the next", 6, 127, 130, 4, 2 },
	{ "order 6, the page before", 6, 62, 64, 3, 2 },
	{ "order 7, inside", 7, 150, 200, 1, 1 },
	{ "order 7, all", 7, 127, 256, 3, 3 },
	{ "order 9, from its middle", 9, 800, 1026, 4, 2 },
	{ "order 9, all", 9, 511, 1024, 3, 3 },
};

KUNIT_ARRAY_PARAM_DESC(large, larges, name);

static void grab_present_very_large_folios(struct kunit *test)
{
	const struct large *large = test->param_value;
	pgoff_t size = 1UL << large->order;
	struct ft *t = test->priv;

	ft_large_folios_or_skip(test);
	if (large->order > MAX_PAGECACHE_ORDER)
		kunit_skip(test, "needs a larger MAX_PAGECACHE_ORDER");
	ft_add(test, size - 1);
	ft_add_order(test, size, large->order);
	ft_add(test, 2 * size);

	KUNIT_ASSERT_EQ(test, ft_grab(test, large->start, large->end, FGP_LOCK),
			large->found);
	ft_release(test, large->found);
	ft_expect_cache(test, size + 2);
	/* New folios of one page each, since order 0 is the largest that fits. */
	KUNIT_ASSERT_EQ(test, ft_grab(test, large->start, large->end, FT_CREAT),
			large->creat);
	ft_expect_covered(test, t->folios, large->creat, large->start,
			  large->end);
	ft_release(test, large->creat);
	ft_expect_cache(test, size + 2 + large->creat - large->found);
}

/* 0..31 with a folio at 5 takes orders 2, 0, (5), 1, 3, 4. */
static void grab_fills_holes_with_large_folios(struct kunit *test)
{
	static const pgoff_t want[] = { 0, 4, 5, 6, 8, 16 };
	struct ft *t = test->priv;
	int nr;

	ft_large_folios_or_skip(test);
	ft_add(test, 5);
	lru_add_drain_all();
	nr = ft_grab(test, 0, 31, FT_CREAT);
	KUNIT_ASSERT_EQ(test, nr, ARRAY_SIZE(want));
	ft_expect_covered(test, t->folios, nr, 0, 31);
	for (int i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ(test, t->folios[i]->index, want[i]);
	ft_release(test, nr);
	ft_expect_cache(test, 32);
}

/* New folios end within the range ... */
static void grab_new_large_folios_fit(struct kunit *test)
{
	struct ft *t = test->priv;
	int nr;

	ft_large_folios_or_skip(test);
	nr = ft_grab(test, 3, 12, FT_CREAT);
	KUNIT_ASSERT_EQ(test, nr, 4);
	ft_expect_covered(test, t->folios, nr, 3, 12);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 3);
	KUNIT_EXPECT_EQ(test, folio_next_index(t->folios[nr - 1]), 13);
	ft_release(test, nr);
	ft_expect_cache(test, 10);
}

/* ... unless the mapping has no smaller ones. */
static void grab_respects_the_minimum_order(struct kunit *test)
{
	struct ft *t = test->priv;
	int nr;

	ft_large_folios_or_skip(test);
	mapping_set_folio_min_order(t->mapping, 2);
	nr = ft_grab(test, 3, 12, FT_CREAT);
	KUNIT_ASSERT_GT(test, nr, 0);
	ft_expect_covered(test, t->folios, nr, 3, 12);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 0);
	KUNIT_EXPECT_EQ(test, folio_next_index(t->folios[nr - 1]), 16);
	ft_release(test, nr);
	ft_expect_cache(test, 16);
}

static struct kunit_case grab_cases[] = {
	KUNIT_CASE_PARAM(grab_creates_missing_folios, range_gen_params),
	KUNIT_CASE_PARAM(grab_without_creat_skips_holes, range_gen_params),
	KUNIT_CASE(grab_without_creat_skips_a_wide_hole),
	KUNIT_CASE(grab_locks_without_fgp_lock),
	KUNIT_CASE(grab_passes_the_rest_of_the_range),
	KUNIT_CASE(grab_within_a_shadow),
	KUNIT_CASE(grab_lookup_does_not_go_back),
	KUNIT_CASE_PARAM(grab_refuses, bad_gen_params),
	KUNIT_CASE(grab_refuses_shmem),
	KUNIT_CASE(grab_passes_flags_and_forbids_fs_reclaim),
	KUNIT_CASE(grab_does_not_wait_for_fs_reclaim),
	KUNIT_CASE(grab_accessed),
	KUNIT_CASE(grab_write_clears_idle),
	KUNIT_CASE(grab_dontcache),
	KUNIT_CASE(grab_dontcache_dirty),
	KUNIT_CASE(grab_dontcache_dirty_without_writeback),
	KUNIT_CASE_PARAM(grab_nowait_contended, place_gen_params),
	KUNIT_CASE(grab_nowait_uncontended),
	KUNIT_CASE_PARAM(grab_nowait_writeback, place_gen_params),
	KUNIT_CASE(get_folio_nowait_writeback),
	KUNIT_CASE_PARAM(grab_enomem, place_gen_params),
	KUNIT_CASE_PARAM(grab_enomem_alternating, place_gen_params),
	KUNIT_CASE_PARAM(grab_eexist, place_gen_params),
	KUNIT_CASE(grab_without_creat_eexist),
	KUNIT_CASE(grab_allocation_fails),
	KUNIT_CASE(grab_present_large_folios),
	KUNIT_CASE_PARAM(grab_present_very_large_folios, large_gen_params),
	KUNIT_CASE(grab_fills_holes_with_large_folios),
	KUNIT_CASE(grab_new_large_folios_fit),
	KUNIT_CASE(grab_respects_the_minimum_order),
	{}
};

static struct kunit_suite grab_suite = {
	.name = "filemap_grab",
	.suite_init = ft_suite_init,
	.suite_exit = ft_suite_exit,
	.init = ft_init,
	.exit = ft_exit,
	.test_cases = grab_cases,
};

kunit_test_suite(grab_suite);
