// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of filemap_grab_folios().
 *
 * Run them with
 *	tools/testing/kunit/kunit.py run --kconfig_add CONFIG_SMP=y \
 *		--kconfig_add CONFIG_FILEMAP_GRAB_KUNIT_TEST=y filemap_grab
 *
 * The properties enforced:
 *  - every index of the range is covered, by locked and referenced folios, in
 *    ascending order, or left out if it is a hole and FGP_CREAT is not given;
 *  - locks are taken in ascending order, and nobody is waited for with a lock
 *    of a higher index in hand;
 *  - a folio that is truncated, added or put under writeback by somebody else
 *    at any moment does not end up in the result without a recheck;
 *  - whatever is returned, no lock, no reference and no page is left behind.
 *    grab_exit() and expect_cache() count them.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/backing-dev.h>
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/file.h>
#include <linux/folio_batch.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/mount.h>
#include <linux/page_idle.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/sched.h>
#include <linux/shmem_fs.h>
#include <linux/swap.h>
#include <linux/writeback.h>

#include "../internal.h"

#define GRAB_MAX	64
#define GRAB_CREAT	(FGP_LOCK | FGP_CREAT)
/* The last page index of the largest file. */
#define GRAB_LAST	((pgoff_t)((u64)(MAX_LFS_FILESIZE - 1) >> PAGE_SHIFT))
/* Far longer than anything here takes: who waits longer is deadlocked. */
#define GRAB_TIMEOUT	(10 * HZ)

struct grab_test {
	struct inode *inode;
	struct address_space *mapping;
	struct folio *folios[GRAB_MAX];	/* what the call under test returned */

	/* For the stub of filemap_grab_create(): */
	int creates;			/* how often it was called */
	int fail_at;			/* at which call it interferes, or -1 */
	fgf_t fgp_flags;		/* what it was called with last */
	bool nofs;
};

/* A filesystem that has an inode and nothing else. */

static struct vfsmount *grab_mnt;

static int grab_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x67726162) ? 0 : -ENOMEM;
}

static struct file_system_type grab_fs_type = {
	.name = "filemap_grab_kunit",
	.init_fs_context = grab_init_fs_context,
	.kill_sb = kill_anon_super,
};

/* Writeback that has somewhere to go, for mapping_can_writeback(). */
static int grab_suite_init(struct kunit_suite *suite)
{
	int err;

	grab_mnt = kern_mount(&grab_fs_type);
	if (IS_ERR(grab_mnt))
		return PTR_ERR(grab_mnt);

	err = super_setup_bdi(grab_mnt->mnt_sb);
	if (err)
		kern_unmount(grab_mnt);
	return err;
}

static void grab_suite_exit(struct kunit_suite *suite)
{
	/* KUnit calls this after a failed grab_suite_init(), too. */
	if (!suite->suite_init_err)
		kern_unmount(grab_mnt);
}

/* Nothing is read here; filemap_grab_folios_locked() wants to see it. */
static void grab_readahead(struct readahead_control *rac)
{
}

static const struct address_space_operations grab_aops = {
	.readahead = grab_readahead,
	.dirty_folio = filemap_dirty_folio,
	.migrate_folio = filemap_migrate_folio,
};

static int grab_init(struct kunit *test)
{
	struct grab_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->inode = alloc_anon_inode(grab_mnt->mnt_sb);
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->inode));
	t->inode->i_mode = S_IFREG | 0600;
	t->mapping = t->inode->i_mapping;
	t->mapping->a_ops = &grab_aops;
	mapping_set_gfp_mask(t->mapping, GFP_KERNEL);
	/* Without a dirty folio nobody else does, and writeback counts there. */
	inode_attach_wb(t->inode, NULL);
	t->fail_at = -1;
	test->priv = t;
	return 0;
}

static void remove_folio(struct kunit *test, struct folio *folio)
{
	struct grab_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, generic_error_remove_folio(t->mapping, folio), 0);
}

/* Under the lock nobody can replace and free what is looked at. */
static bool cache_is_idle(struct address_space *mapping)
{
	unsigned long index;
	struct folio *folio;
	bool idle = true;

	xa_lock_irq(&mapping->i_pages);
	xa_for_each(&mapping->i_pages, index, folio) {
		if (!xa_is_value(folio) &&
		    (folio->mapping != mapping || folio_test_locked(folio) ||
		     folio_ref_count(folio) != folio_nr_pages(folio)))
			idle = false;
	}
	xa_unlock_irq(&mapping->i_pages);
	return idle;
}

/*
 * Is it unlocked, with no reference but its own?  Compaction, or whoever takes
 * memory offline, has both for a moment; what was forgotten stays.
 */
static bool cache_becomes_idle(struct address_space *mapping)
{
	bool idle;

	/* New and accessed folios have a reference of the per-CPU batches. */
	lru_add_drain_all();
	read_poll_timeout(cache_is_idle, idle, idle, USEC_PER_MSEC,
			  200 * USEC_PER_MSEC, false, mapping);
	return idle;
}

/* Report what is still locked, and let go of it, so that the next test runs. */
static void grab_exit(struct kunit *test)
{
	struct grab_test *t = test->priv;
	struct folio_batch fbatch;
	unsigned long index;
	struct folio *folio;
	bool freed = false;
	pgoff_t start = 0;

	if (!t || IS_ERR_OR_NULL(t->inode))
		return;

	if (!cache_becomes_idle(t->mapping)) {
		xa_for_each(&t->mapping->i_pages, index, folio) {
			if (xa_is_value(folio))
				continue;
			if (folio->mapping != t->mapping ||
			    !folio_ref_count(folio)) {
				KUNIT_FAIL(test, "folio %lu freed", index);
				freed = true;
			} else if (folio_test_locked(folio)) {
				KUNIT_FAIL(test, "folio %lu left locked",
					   index);
				folio_unlock(folio);
			}
		}
	}
	if (freed) {
		/* Whoever looks it up waits for a reference: keep the inode. */
		mntget(grab_mnt);
		return;
	}
	/* truncate_inode_pages() would wait if writeback has been forgotten. */
	folio_batch_init(&fbatch);
	while (filemap_get_folios(t->mapping, &start, ULONG_MAX, &fbatch)) {
		for (int i = 0; i < folio_batch_count(&fbatch); i++) {
			folio = fbatch.folios[i];
			folio_lock(folio);
			if (folio->mapping == t->mapping)
				remove_folio(test, folio);
			else	/* It has been migrated, and there is another. */
				start = 0;
			folio_unlock(folio);
		}
		folio_batch_release(&fbatch);
	}
	KUNIT_EXPECT_EQ(test, t->mapping->nrpages, 0UL);
	iput(t->inode);
}

/* Helpers: the state before. */

static struct folio *add_folio_order(struct kunit *test, pgoff_t index,
				     unsigned int order)
{
	struct grab_test *t = test->priv;
	struct folio *folio = folio_alloc(GFP_KERNEL, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test,
			filemap_add_folio(t->mapping, folio, index, GFP_KERNEL),
			0);
	folio_unlock(folio);
	folio_put(folio);
	return folio;
}

static struct folio *add_folio(struct kunit *test, pgoff_t index)
{
	return add_folio_order(test, index, 0);
}

static void add_folios(struct kunit *test, pgoff_t start, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		add_folio(test, start + i);
	/* New folios have a reference of the per-CPU batches. */
	lru_add_drain_all();
}

static void add_shadow(struct kunit *test, pgoff_t index)
{
	struct grab_test *t = test->priv;

	KUNIT_ASSERT_NULL(test, xa_store_irq(&t->mapping->i_pages, index,
					     xa_mk_value(0), GFP_KERNEL));
}

static struct folio *folio_at(struct kunit *test, pgoff_t index)
{
	struct grab_test *t = test->priv;
	struct folio *folio = xa_load(&t->mapping->i_pages, index);

	return xa_is_value(folio) ? NULL : folio;
}

/* Helpers: the state after. */

/*
 * All of the page cache is unlocked, has no reference but its own, and is
 * @nrpages large.
 */
static void expect_cache(struct kunit *test, unsigned long nrpages)
{
	struct grab_test *t = test->priv;
	bool idle = cache_becomes_idle(t->mapping);
	unsigned long index, nr = 0;
	struct folio *folio;

	xa_for_each(&t->mapping->i_pages, index, folio) {
		if (xa_is_value(folio))
			continue;
		nr += folio_nr_pages(folio);
		if (idle)
			continue;
		KUNIT_EXPECT_FALSE_MSG(test, folio_test_locked(folio),
				       "folio %lu", index);
		KUNIT_EXPECT_EQ_MSG(test, folio_ref_count(folio),
				    folio_nr_pages(folio), "folio %lu", index);
	}
	KUNIT_EXPECT_EQ(test, nr, nrpages);
	KUNIT_EXPECT_EQ(test, t->mapping->nrpages, nrpages);
}

static bool folio_is_from(struct folio *folio, struct address_space *mapping)
{
	return folio_test_locked(folio) && folio->mapping == mapping;
}

/* @folios are locked, of this mapping, and cover start..end without a gap. */
static void expect_covered(struct kunit *test, struct folio **folios, int nr,
			   pgoff_t start, pgoff_t end)
{
	struct grab_test *t = test->priv;
	pgoff_t index = start;

	KUNIT_ASSERT_GT(test, nr, 0);
	for (int i = 0; i < nr; i++) {
		KUNIT_ASSERT_TRUE_MSG(test,
				      folio_is_from(folios[i], t->mapping),
				      "folio %d", i);
		KUNIT_EXPECT_TRUE_MSG(test, folio_contains(folios[i], index),
				      "folio %d is at %lu, not at %lu", i,
				      folios[i]->index, index);
		KUNIT_EXPECT_GT(test, folio_ref_count(folios[i]),
				folio_nr_pages(folios[i]));
		index = folio_next_index(folios[i]);
	}
	KUNIT_EXPECT_GE(test, index - 1, end);
	KUNIT_EXPECT_LE(test, folios[nr - 1]->index, end);
}

static int grab(struct kunit *test, pgoff_t start, pgoff_t end, fgf_t fgp_flags)
{
	struct grab_test *t = test->priv;

	memset(t->folios, 0xa5, sizeof(t->folios));
	return filemap_grab_folios(t->mapping, start, end, fgp_flags,
				   mapping_gfp_mask(t->mapping), t->folios);
}

/* Which folios are found, and which created. */

enum pattern { PRESENT, HOLES, ALTERNATING, SHADOWS, MIXED };

static const struct grab_range {
	const char *name;
	pgoff_t start;
	unsigned int nr;
	enum pattern pattern;
} grab_ranges[] = {
	{ "one page present", 5, 1, PRESENT },
	{ "one page absent", 5, 1, HOLES },
	{ "one shadow entry", 5, 1, SHADOWS },
	{ "16 present", 0, 16, PRESENT },
	{ "16 holes", 0, 16, HOLES },
	{ "16 alternating", 0, 16, ALTERNATING },
	{ "16 shadow entries", 0, 16, SHADOWS },
	{ "16 mixed", 16, 16, MIXED },
	{ "64 present", 64, 64, PRESENT },
	{ "present over a node boundary at 64", 63, 2, PRESENT },
	{ "holes over a node boundary at 64", 63, 2, HOLES },
	{ "mixed over a node boundary at 64", 60, 9, MIXED },
	{ "present over a node boundary at 4096", 4095, 2, PRESENT },
	{ "holes over a node boundary at 4096", 4095, 2, HOLES },
	{ "alternating over a node boundary at 4096", 4090, 13, ALTERNATING },
	{ "present up to the end of the largest file", GRAB_LAST - 15, 16,
	  PRESENT },
	{ "holes up to the end of the largest file", GRAB_LAST - 15, 16,
	  HOLES },
	{ "present up to the last index", ULONG_MAX - 7, 8, PRESENT },
	{ "holes up to the last index", ULONG_MAX - 7, 8, HOLES },
	{ "mixed up to the last index", ULONG_MAX - 7, 8, MIXED },
	{ "only the last index", ULONG_MAX, 1, HOLES },
};

static void grab_range_desc(const struct grab_range *range, char *desc)
{
	strscpy(desc, range->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(grab_range, grab_ranges, grab_range_desc);

/* Returns how many folios there are. */
static int populate(struct kunit *test, const struct grab_range *range)
{
	int nr = 0;

	for (unsigned int i = 0; i < range->nr; i++) {
		enum pattern state = range->pattern;

		if (state == ALTERNATING)
			state = i % 2 ? HOLES : PRESENT;
		else if (state == MIXED)
			state = i % 3 == 0 ? SHADOWS :
				i % 3 == 1 ? PRESENT : HOLES;

		if (state == PRESENT) {
			add_folio(test, range->start + i);
			nr++;
		} else if (state == SHADOWS) {
			add_shadow(test, range->start + i);
		}
	}
	lru_add_drain_all();
	return nr;
}

static void grab_creates_what_is_missing(struct kunit *test)
{
	const struct grab_range *range = test->param_value;
	pgoff_t end = range->start + (range->nr - 1);
	struct grab_test *t = test->priv;
	struct folio **before =
		kunit_kcalloc(test, range->nr, sizeof(*before), GFP_KERNEL);
	int present = populate(test, range);
	int nr;

	KUNIT_ASSERT_NOT_NULL(test, before);
	KUNIT_ASSERT_EQ(test, t->mapping->nrpages, present);
	for (unsigned int i = 0; i < range->nr; i++)
		before[i] = folio_at(test, range->start + i);

	nr = grab(test, range->start, end, GRAB_CREAT);
	KUNIT_ASSERT_EQ(test, nr, range->nr);
	expect_covered(test, t->folios, nr, range->start, end);
	for (int i = 0; i < nr; i++) {
		if (!before[i])
			continue;
		KUNIT_EXPECT_PTR_EQ(test, t->folios[i], before[i]);
		KUNIT_EXPECT_EQ(test, folio_ref_count(before[i]), 2);
	}

	filemap_release_folios(t->folios, nr);
	expect_cache(test, range->nr);
}

static void grab_without_creat_skips_holes(struct kunit *test)
{
	const struct grab_range *range = test->param_value;
	pgoff_t end = range->start + (range->nr - 1);
	struct grab_test *t = test->priv;
	int present = populate(test, range);
	int nr, i = 0;

	nr = grab(test, range->start, end, FGP_LOCK);
	KUNIT_ASSERT_EQ(test, nr, present);
	for (unsigned int j = 0; j < range->nr; j++) {
		struct folio *folio = folio_at(test, range->start + j);

		if (!folio)
			continue;
		KUNIT_EXPECT_PTR_EQ(test, t->folios[i], folio);
		KUNIT_EXPECT_TRUE(test, folio_is_from(folio, t->mapping));
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 2);
		i++;
	}

	filemap_release_folios(t->folios, nr);
	expect_cache(test, present);
}

/* A hole of more indices than there is memory for is skipped in no time. */
static void grab_without_creat_skips_a_wide_hole(struct kunit *test)
{
	struct grab_test *t = test->priv;

	add_folio(test, 1);
	add_folio(test, INT_MAX - 1);
	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, grab(test, 0, INT_MAX - 1, FGP_LOCK), 2);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 1);
	KUNIT_EXPECT_EQ(test, t->folios[1]->index, INT_MAX - 1);
	filemap_release_folios(t->folios, 2);
	expect_cache(test, 2);
}

/* What is refused. */

static const struct file_operations grab_hugetlb_fops = {
	.fop_flags = FOP_HUGE_PAGES,
};

static const struct grab_bad {
	const char *name;
	pgoff_t start, end;
	fgf_t fgp_flags;
	unsigned int i_flags;
	const struct file_operations *i_fop;
} grab_bad[] = {
	{ "empty range", 8, 7 },
	{ "backward range", 8, 0 },
	{ "backward range over all indices", ULONG_MAX, 0 },
	{ "all indices", 0, ULONG_MAX },
	{ "one page more than fits the result", 1, (pgoff_t)INT_MAX + 1 },
	{ "FGP_FOR_MMAP", 0, 7, FGP_FOR_MMAP },
	{ "hugetlb mapping", 0, 7, .i_fop = &grab_hugetlb_fops },
#ifdef CONFIG_FS_DAX
	{ "DAX mapping", 0, 7, .i_flags = S_DAX },
#endif
};

static void grab_bad_desc(const struct grab_bad *bad, char *desc)
{
	strscpy(desc, bad->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(grab_bad, grab_bad, grab_bad_desc);

static void grab_refuses(struct kunit *test)
{
	const struct grab_bad *bad = test->param_value;
	struct grab_test *t = test->priv;

	add_folios(test, 0, 8);
	t->inode->i_flags |= bad->i_flags;
	if (bad->i_fop)
		t->inode->i_fop = bad->i_fop;

	KUNIT_EXPECT_EQ(test,
			grab(test, bad->start, bad->end,
			     GRAB_CREAT | bad->fgp_flags),
			-EINVAL);
	expect_cache(test, 8);
	t->inode->i_flags &= ~bad->i_flags;
}

/* The value entries of shmem are swapped out data: nothing may replace them. */
static void grab_refuses_shmem(struct kunit *test)
{
	struct grab_test *t = test->priv;
	struct file *file;

	if (!IS_ENABLED(CONFIG_SHMEM))
		kunit_skip(test, "needs CONFIG_SHMEM");

	file = shmem_file_setup("filemap_grab", PAGE_SIZE,
				mk_vma_flags(VMA_NORESERVE_BIT));
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	KUNIT_EXPECT_EQ(test,
			filemap_grab_folios(file->f_mapping, 0, 0, GRAB_CREAT,
					    GFP_KERNEL, t->folios),
			-EINVAL);
	KUNIT_EXPECT_EQ(test, file->f_mapping->nrpages, 0UL);
	fput(file);
}

/* Flags. */

static struct folio *stub_create(struct address_space *mapping, pgoff_t index,
				 unsigned int order, fgf_t fgp_flags, gfp_t gfp)
{
	struct grab_test *t = kunit_get_current_test()->priv;

	t->creates++;
	t->fgp_flags = fgp_flags;
	t->nofs = current->flags & PF_MEMALLOC_NOFS;
	return ERR_PTR(-ENOMEM);
}

static void grab_passes_flags_and_forbids_fs_reclaim(struct kunit *test)
{
	struct grab_test *t = test->priv;
	fgf_t fgp_flags = GRAB_CREAT | FGP_WRITE | FGP_NOFS | FGP_DONTCACHE;

	kunit_activate_static_stub(test, filemap_grab_create, stub_create);
	KUNIT_EXPECT_EQ(test, grab(test, 0, 3, fgp_flags), -ENOMEM);
	KUNIT_EXPECT_EQ(test, t->creates, 1);
	KUNIT_EXPECT_TRUE(test, t->fgp_flags == fgp_flags);
	KUNIT_EXPECT_TRUE(test, t->nofs);
	KUNIT_EXPECT_FALSE(test, current->flags & PF_MEMALLOC_NOFS);
	expect_cache(test, 0);
}

static void grab_accessed(struct kunit *test)
{
	struct grab_test *t = test->priv;
	struct folio *folio = add_folio(test, 0);

	lru_add_drain_all();
	KUNIT_ASSERT_FALSE(test, folio_test_referenced(folio));
	KUNIT_ASSERT_EQ(test, grab(test, 0, 1, GRAB_CREAT), 2);
	KUNIT_EXPECT_FALSE(test, folio_test_referenced(t->folios[0]));
	KUNIT_EXPECT_FALSE(test, folio_test_referenced(t->folios[1]));
	filemap_release_folios(t->folios, 2);
	lru_add_drain_all();

	KUNIT_ASSERT_EQ(test, grab(test, 0, 2, GRAB_CREAT | FGP_ACCESSED), 3);
	KUNIT_EXPECT_TRUE(test, folio_test_referenced(t->folios[0]));
	KUNIT_EXPECT_TRUE(test, folio_test_referenced(t->folios[2]));
	/* A new folio was accessed once, and not twice: it stays inactive. */
	KUNIT_EXPECT_FALSE(test, folio_test_active(t->folios[2]));
	filemap_release_folios(t->folios, 3);
	expect_cache(test, 3);
}

static void grab_write_clears_idle(struct kunit *test)
{
	struct grab_test *t = test->priv;
	struct folio *folio = add_folio(test, 0);

	if (!IS_ENABLED(CONFIG_PAGE_IDLE_FLAG))
		kunit_skip(test, "needs CONFIG_PAGE_IDLE_FLAG");

	folio_set_idle(folio);
	KUNIT_ASSERT_EQ(test, grab(test, 0, 0, GRAB_CREAT), 1);
	KUNIT_EXPECT_TRUE(test, folio_test_idle(folio));
	filemap_release_folios(t->folios, 1);

	KUNIT_ASSERT_EQ(test, grab(test, 0, 0, GRAB_CREAT | FGP_WRITE), 1);
	KUNIT_EXPECT_FALSE(test, folio_test_idle(folio));
	filemap_release_folios(t->folios, 1);
	expect_cache(test, 1);
}

static void grab_dontcache(struct kunit *test)
{
	struct grab_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, grab(test, 0, 1, GRAB_CREAT | FGP_DONTCACHE), 2);
	KUNIT_EXPECT_TRUE(test, folio_test_dropbehind(t->folios[0]));
	KUNIT_EXPECT_TRUE(test, folio_test_dropbehind(t->folios[1]));
	filemap_release_folios(t->folios, 2);

	KUNIT_ASSERT_EQ(test, grab(test, 0, 0, GRAB_CREAT | FGP_DONTCACHE), 1);
	KUNIT_EXPECT_TRUE(test, folio_test_dropbehind(t->folios[0]));
	filemap_release_folios(t->folios, 1);

	KUNIT_ASSERT_EQ(test, grab(test, 0, 1, GRAB_CREAT), 2);
	KUNIT_EXPECT_FALSE(test, folio_test_dropbehind(t->folios[0]));
	KUNIT_EXPECT_FALSE(test, folio_test_dropbehind(t->folios[1]));
	filemap_release_folios(t->folios, 2);
	expect_cache(test, 2);
}

/* Errors: at each of 8 places, all that was locked before is let go. */

#define GRAB_PLACES	8

static const int grab_places[] = { 0, 1, 2, 3, 4, 5, 6, 7 };

static void grab_place_desc(const int *place, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "folio %d of %d", *place + 1,
		 GRAB_PLACES);
}

KUNIT_ARRAY_PARAM(grab_place, grab_places, grab_place_desc);

/* Folios have no owner: it is all the same who holds the lock. */
static void grab_nowait_contended(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct folio *folio;

	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test,
			grab(test, 0, GRAB_PLACES - 1, GRAB_CREAT | FGP_NOWAIT),
			-EAGAIN);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	folio_unlock(folio);
	expect_cache(test, GRAB_PLACES);
}

static void grab_nowait_uncontended(struct kunit *test)
{
	struct grab_test *t = test->priv;

	add_folio(test, 1);
	KUNIT_ASSERT_EQ(test, grab(test, 0, 3, GRAB_CREAT | FGP_NOWAIT), 4);
	expect_covered(test, t->folios, 4, 0, 3);
	filemap_release_folios(t->folios, 4);
	expect_cache(test, 4);
}

/* FGP_STABLE alone waits for writeback, and FGP_NOWAIT forbids to. */
static void grab_nowait_writeback(struct kunit *test)
{
	fgf_t fgp_flags = GRAB_CREAT | FGP_STABLE | FGP_NOWAIT;
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct folio *folio;

	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_lock(folio);
	folio_start_writeback(folio);
	folio_unlock(folio);

	KUNIT_ASSERT_EQ(test, grab(test, 0, GRAB_PLACES - 1, fgp_flags),
			GRAB_PLACES);
	filemap_release_folios(t->folios, GRAB_PLACES);

	mapping_set_stable_writes(t->mapping);
	KUNIT_EXPECT_EQ(test, grab(test, 0, GRAB_PLACES - 1, fgp_flags),
			-EAGAIN);
	folio_end_writeback(folio);
	expect_cache(test, GRAB_PLACES);
}

/* Fails the creation at t->fail_at; before that, creates. */
static struct folio *stub_create_enomem(struct address_space *mapping,
					pgoff_t index, unsigned int order,
					fgf_t fgp_flags, gfp_t gfp)
{
	struct kunit *test = kunit_get_current_test();
	struct grab_test *t = test->priv;
	struct folio *folio;

	if (t->creates++ == t->fail_at)
		return ERR_PTR(-ENOMEM);

	kunit_deactivate_static_stub(test, filemap_grab_create);
	folio = filemap_grab_create(mapping, index, order, fgp_flags, gfp);
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_enomem);
	return folio;
}

static void grab_enomem(struct kunit *test)
{
	struct grab_test *t = test->priv;

	t->fail_at = *(const int *)test->param_value;
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_enomem);
	KUNIT_EXPECT_EQ(test, grab(test, 0, GRAB_PLACES - 1, GRAB_CREAT),
			-ENOMEM);
	KUNIT_EXPECT_EQ(test, t->creates, t->fail_at + 1);
	expect_cache(test, t->fail_at);
}

/* With a folio present before and behind each hole. */
static void grab_enomem_alternating(struct kunit *test)
{
	struct grab_test *t = test->priv;

	t->fail_at = *(const int *)test->param_value;
	for (int i = 0; i < GRAB_PLACES; i++)
		add_folio(test, 2 * i);
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_enomem);
	KUNIT_EXPECT_EQ(test, grab(test, 0, 2 * GRAB_PLACES - 1, GRAB_CREAT),
			-ENOMEM);
	expect_cache(test, GRAB_PLACES + t->fail_at);
}

/* Somebody else adds a folio at the index that is about to be filled. */
static struct folio *stub_create_eexist(struct address_space *mapping,
					pgoff_t index, unsigned int order,
					fgf_t fgp_flags, gfp_t gfp)
{
	struct kunit *test = kunit_get_current_test();
	struct grab_test *t = test->priv;
	struct folio *folio;

	kunit_deactivate_static_stub(test, filemap_grab_create);
	if (t->creates++ == t->fail_at)
		add_folio(test, index);
	folio = filemap_grab_create(mapping, index, order, fgp_flags, gfp);
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_eexist);
	return folio;
}

static void grab_eexist(struct kunit *test)
{
	struct grab_test *t = test->priv;

	t->fail_at = *(const int *)test->param_value;
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_eexist);
	KUNIT_ASSERT_EQ(test, grab(test, 0, GRAB_PLACES - 1, GRAB_CREAT),
			GRAB_PLACES);
	/* The one that lost the race is not tried again. */
	KUNIT_EXPECT_EQ(test, t->creates, GRAB_PLACES);
	expect_covered(test, t->folios, GRAB_PLACES, 0, GRAB_PLACES - 1);
	filemap_release_folios(t->folios, GRAB_PLACES);
	expect_cache(test, GRAB_PLACES);
}

/* Races with another task, made to happen. */

struct grab_worker {
	struct kunit *test;
	struct address_space *mapping;
	struct folio *locked;
	pgoff_t start, end;
	fgf_t fgp_flags;
	int nr;				/* what the call returned */
	bool lost;			/* @locked was not locked after it */
	struct folio *folios[GRAB_MAX];
	struct completion grabbed, release, done;
};

static int grab_worker_fn(void *data)
{
	struct grab_worker *w = data;

	w->nr = filemap_grab_folios(w->mapping, w->start, w->end, w->fgp_flags,
				    GFP_KERNEL, w->folios);
	complete_all(&w->grabbed);
	wait_for_completion(&w->release);
	if (w->nr > 0)
		filemap_release_folios(w->folios, w->nr);
	complete(&w->done);
	return 0;
}

static int grab_locked_worker_fn(void *data)
{
	struct grab_worker *w = data;

	/* The stubs of the test are those of the worker. */
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

/*
 * Notice that somebody unlocks @locked.  Whoever waits for the lock itself would
 * not: it can be taken again before the waiter gets there.
 */
static int grab_watcher_fn(void *data)
{
	struct grab_worker *w = data;

	folio_wait_locked(w->locked);
	complete_all(&w->grabbed);
	wait_for_completion(&w->release);
	complete(&w->done);
	return 0;
}

static void grab_worker_free(void *data)
{
	struct grab_worker *w = data;

	complete_all(&w->release);
	/* A worker that is deadlocked keeps its memory. */
	if (wait_for_completion_timeout(&w->done, GRAB_TIMEOUT))
		kfree(w);
}

/* Start one of the above in another task. */
static struct grab_worker *start_task(struct kunit *test, int (*fn)(void *),
				      struct folio *locked, pgoff_t start,
				      pgoff_t end, fgf_t fgp_flags)
{
	struct grab_worker *w = kzalloc_obj(*w);
	struct grab_test *t = test->priv;
	struct task_struct *task;

	KUNIT_ASSERT_NOT_NULL(test, w);
	w->test = test;
	w->mapping = t->mapping;
	w->locked = locked;
	w->start = start;
	w->end = end;
	w->fgp_flags = fgp_flags;
	init_completion(&w->grabbed);
	init_completion(&w->release);
	init_completion(&w->done);

	task = kthread_run(fn, w, "filemap_grab");
	if (IS_ERR(task))
		complete(&w->done);	/* nobody else will */
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, grab_worker_free, w),
			0);
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	return w;
}

static struct grab_worker *start_worker(struct kunit *test, pgoff_t start,
					pgoff_t end, fgf_t fgp_flags)
{
	return start_task(test, grab_worker_fn, NULL, start, end, fgp_flags);
}

static struct grab_worker *start_locked_worker(struct kunit *test,
					       struct folio *locked,
					       pgoff_t start, pgoff_t end,
					       fgf_t fgp_flags)
{
	return start_task(test, grab_locked_worker_fn, locked, start, end,
			  fgp_flags);
}

static int finish_worker(struct kunit *test, struct grab_worker *w)
{
	if (!wait_for_completion_timeout(&w->grabbed, GRAB_TIMEOUT))
		KUNIT_FAIL_AND_ABORT(test, "the worker hangs");
	KUNIT_EXPECT_FALSE(test, w->lost);
	return w->nr;
}

static void release_worker(struct kunit *test, struct grab_worker *w)
{
	kunit_release_action(test, grab_worker_free, w);
}

/* The worker got all of 0..@end; it lets go, and nothing is left behind. */
static void expect_grabbed(struct kunit *test, struct grab_worker *w,
			   pgoff_t end)
{
	KUNIT_EXPECT_EQ(test, finish_worker(test, w), end + 1);
	expect_covered(test, w->folios, w->nr, 0, end);
	release_worker(test, w);
	expect_cache(test, end + 1);
}

/* Returns the first of @folios that somebody waits for. */
static int wait_for_waiter(struct kunit *test, struct folio **folios, int nr)
{
	unsigned long timeout = jiffies + GRAB_TIMEOUT;

	do {
		for (int i = 0; i < nr; i++)
			if (folios[i] && folio_test_waiters(folios[i]))
				return i;
		usleep_range(100, 1000);
	} while (time_before(jiffies, timeout));

	KUNIT_FAIL(test, "nobody waits");
	return -1;
}

static void lock_all(struct kunit *test, struct folio **folios, int nr)
{
	for (int i = 0; i < nr; i++) {
		folios[i] = folio_at(test, i);
		KUNIT_ASSERT_NOT_NULL(test, folios[i]);
		folio_lock(folios[i]);
	}
}

/*
 * With all folios locked by the test, record which one the worker waits for,
 * unlock that one, and so on.
 */
static void grab_locks_in_ascending_order(struct kunit *test)
{
	struct folio *folios[GRAB_PLACES];
	struct grab_worker *w;

	add_folios(test, 0, GRAB_PLACES);
	lock_all(test, folios, GRAB_PLACES);

	w = start_worker(test, 0, GRAB_PLACES - 1, GRAB_CREAT);
	for (int i = 0; i < GRAB_PLACES; i++) {
		int next = wait_for_waiter(test, folios, GRAB_PLACES);

		KUNIT_EXPECT_EQ(test, next, i);
		if (next < 0)
			next = i;
		if (folios[next])
			folio_unlock(folios[next]);
		folios[next] = NULL;
	}
	expect_grabbed(test, w, GRAB_PLACES - 1);
}

/* While it waits for one folio, it has the lower ones and none of the rest. */
static void grab_holds_no_higher_lock_while_waiting(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_worker *w;
	struct folio *folio;

	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_lock(folio);

	w = start_worker(test, 0, GRAB_PLACES - 1, GRAB_CREAT);
	wait_for_waiter(test, &folio, 1);
	for (int i = 0; i < GRAB_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(folio_at(test, i)),
				    i <= place, "folio %d", i);
	folio_unlock(folio);

	expect_grabbed(test, w, GRAB_PLACES - 1);
}

/* The same for writeback: see filemap_grab_wait(). */
static void grab_stable_waits_before_the_next_lock(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct grab_worker *w;
	struct folio *folio;

	mapping_set_stable_writes(t->mapping);
	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_lock(folio);
	folio_start_writeback(folio);
	folio_unlock(folio);

	w = start_worker(test, 0, GRAB_PLACES - 1, GRAB_CREAT | FGP_STABLE);
	wait_for_waiter(test, &folio, 1);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	for (int i = place + 1; i < GRAB_PLACES; i++)
		KUNIT_EXPECT_FALSE_MSG(test,
				       folio_test_locked(folio_at(test, i)),
				       "folio %d", i);
	folio_end_writeback(folio);

	expect_grabbed(test, w, GRAB_PLACES - 1);
}

/* The folio that is waited for is truncated: it is not what is returned. */
static void grab_rechecks_after_truncation(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_worker *w;
	struct folio *folio;

	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_get(folio);
	folio_lock(folio);

	w = start_worker(test, 0, GRAB_PLACES - 1, GRAB_CREAT);
	wait_for_waiter(test, &folio, 1);
	remove_folio(test, folio);
	folio_unlock(folio);

	KUNIT_ASSERT_EQ(test, finish_worker(test, w), GRAB_PLACES);
	KUNIT_EXPECT_PTR_NE(test, w->folios[place], folio);
	expect_grabbed(test, w, GRAB_PLACES - 1);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	folio_put(folio);
}

/* Without FGP_CREAT, truncated means a hole. */
static void grab_without_creat_skips_the_truncated(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_worker *w;
	struct folio *folio;

	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_get(folio);
	folio_lock(folio);

	w = start_worker(test, 0, GRAB_PLACES - 1, FGP_LOCK);
	wait_for_waiter(test, &folio, 1);
	remove_folio(test, folio);
	folio_unlock(folio);

	KUNIT_EXPECT_EQ(test, finish_worker(test, w), GRAB_PLACES - 1);
	release_worker(test, w);
	expect_cache(test, GRAB_PLACES - 1);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	folio_put(folio);
}

/* @locked: the caller comes with one folio of the range locked. */

/* @locked is folio 4 of 8, if the parameter is not about where @locked is. */
#define GRAB_LOCKED	4

static int grab_locked(struct kunit *test, struct folio *locked, pgoff_t start,
		       pgoff_t end, fgf_t fgp_flags)
{
	struct grab_test *t = test->priv;

	memset(t->folios, 0xa5, sizeof(t->folios));
	return filemap_grab_folios_locked(locked, start, end, fgp_flags,
					  mapping_gfp_mask(t->mapping),
					  t->folios);
}

/* The caller's part: find the folio, lock it, keep a reference. */
static struct folio *get_and_lock(struct kunit *test, pgoff_t index)
{
	struct folio *folio = folio_at(test, index);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio_get(folio);
	folio_lock(folio);
	return folio;
}

/* @locked is locked, has the caller's reference, and is let go by the test. */
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

static void grab_locked_uncontended(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct folio *locked;

	/* Holes and folios on both sides. */
	for (int i = 0; i < GRAB_PLACES; i++)
		if (i == place || i % 3)
			add_folio(test, i);
	locked = get_and_lock(test, place);

	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES - 1, GRAB_CREAT),
			GRAB_PLACES);
	expect_covered(test, t->folios, GRAB_PLACES, 0, GRAB_PLACES - 1);
	KUNIT_EXPECT_PTR_EQ(test, t->folios[place], locked);
	filemap_release_folios_locked(locked, t->folios, GRAB_PLACES);
	put_and_unlock(test, locked);
	expect_cache(test, GRAB_PLACES);
}

/* Without FGP_CREAT, @locked is found all the same. */
static void grab_locked_without_creat(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct folio *locked;

	add_folio(test, place);
	locked = get_and_lock(test, place);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES - 1, FGP_LOCK),
			1);
	KUNIT_EXPECT_PTR_EQ(test, t->folios[0], locked);
	filemap_release_folios_locked(locked, t->folios, 1);
	put_and_unlock(test, locked);
	expect_cache(test, 1);
}

static void grab_locked_at_the_last_index(struct kunit *test)
{
	struct grab_test *t = test->priv;
	struct folio *locked;

	add_folio(test, ULONG_MAX);
	locked = get_and_lock(test, ULONG_MAX);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, ULONG_MAX - 7, ULONG_MAX,
				    GRAB_CREAT),
			8);
	expect_covered(test, t->folios, 8, ULONG_MAX - 7, ULONG_MAX);
	filemap_release_folios_locked(locked, t->folios, 8);
	put_and_unlock(test, locked);
	expect_cache(test, 8);
}

static void grab_locked_refuses_what_is_outside(struct kunit *test)
{
	struct folio *locked;

	add_folios(test, 0, GRAB_PLACES);
	locked = get_and_lock(test, GRAB_LOCKED);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, GRAB_LOCKED - 1, GRAB_CREAT),
			-EINVAL);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, GRAB_LOCKED + 1, GRAB_PLACES,
				    GRAB_CREAT),
			-EINVAL);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, GRAB_PLACES, 0, GRAB_CREAT),
			-EINVAL);
	put_and_unlock(test, locked);
	expect_cache(test, GRAB_PLACES);
}

/* The folio at the parameter's place is locked by somebody else. */
static void grab_locked_nowait_contended(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct folio *locked, *other;
	struct grab_worker *w;

	if (place == GRAB_LOCKED)
		place = GRAB_PLACES; /* above, behind the end of the others */
	add_folios(test, 0, GRAB_PLACES + 1);
	locked = get_and_lock(test, GRAB_LOCKED);
	other = get_and_lock(test, place);

	w = start_task(test, grab_watcher_fn, locked, 0, 0, 0);
	wait_for_waiter(test, &locked, 1);

	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES,
				    GRAB_CREAT | FGP_NOWAIT),
			place < GRAB_LOCKED ? -EDEADLK : -EAGAIN);
	msleep(20);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	put_and_unlock(test, other);

	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES,
				    GRAB_CREAT | FGP_NOWAIT),
			GRAB_PLACES + 1);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	filemap_release_folios_locked(locked, t->folios, GRAB_PLACES + 1);

	folio_unlock(locked);
	finish_worker(test, w);
	release_worker(test, w);
	folio_put(locked);
	expect_cache(test, GRAB_PLACES + 1);
}

/*
 * A lower folio is contended: @locked is let go before it is waited for, and
 * locked again.  A higher one: @locked is kept.
 */
static void grab_locked_waits_in_order(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_worker *w;
	struct folio *folio;

	if (place == GRAB_LOCKED)
		place = GRAB_PLACES;
	add_folios(test, 0, GRAB_PLACES + 1);
	folio = folio_at(test, place);
	folio_lock(folio);

	w = start_locked_worker(test, folio_at(test, GRAB_LOCKED), 0,
				GRAB_PLACES, GRAB_CREAT);
	wait_for_waiter(test, &folio, 1);
	for (int i = 0; i <= GRAB_PLACES; i++)
		KUNIT_EXPECT_EQ_MSG(test, folio_test_locked(folio_at(test, i)),
				    i <= place, "folio %d", i);
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	folio_unlock(folio);

	KUNIT_ASSERT_EQ(test, finish_worker(test, w), GRAB_PLACES + 1);
	KUNIT_EXPECT_PTR_EQ(test, w->folios[GRAB_LOCKED], w->locked);
	expect_grabbed(test, w, GRAB_PLACES);
}

static const int grab_lower[] = { 0, 1, GRAB_LOCKED - 1 };

KUNIT_ARRAY_PARAM(grab_lower, grab_lower, grab_place_desc);

/*
 * A worker has let go of @locked, since the test holds a lower folio, which is
 * returned.
 */
static struct folio *worker_lets_go(struct kunit *test, fgf_t fgp_flags,
				    struct grab_worker **w)
{
	int place = *(const int *)test->param_value;
	struct folio *folio;

	add_folios(test, 0, GRAB_PLACES);
	folio = folio_at(test, place);
	folio_lock(folio);
	*w = start_locked_worker(test, folio_at(test, GRAB_LOCKED), 0,
				 GRAB_PLACES - 1, fgp_flags);
	wait_for_waiter(test, &folio, 1);
	return folio;
}

/* Meanwhile somebody else has @locked, and is waited for in its turn. */
static void grab_locked_waits_for_locked(struct kunit *test)
{
	struct grab_worker *w;
	struct folio *folio = worker_lets_go(test, GRAB_CREAT, &w);

	folio_lock(w->locked);
	folio_unlock(folio);
	wait_for_waiter(test, &w->locked, 1);
	KUNIT_EXPECT_TRUE(test,
			  folio_test_locked(folio_at(test, GRAB_LOCKED - 1)));
	KUNIT_EXPECT_FALSE(test,
			   folio_test_locked(folio_at(test, GRAB_LOCKED + 1)));
	KUNIT_EXPECT_FALSE(test, completion_done(&w->grabbed));
	folio_unlock(w->locked);

	expect_grabbed(test, w, GRAB_PLACES - 1);
}

/* Truncated while it was let go: -ESTALE, nothing held but @locked. */
static void grab_locked_truncated(struct kunit *test)
{
	struct grab_worker *w;
	struct folio *folio = worker_lets_go(test, GRAB_CREAT, &w);
	struct folio *locked = w->locked;

	folio_get(locked);
	folio_lock(locked);
	remove_folio(test, locked);
	folio_unlock(locked);
	folio_unlock(folio);

	KUNIT_EXPECT_EQ(test, finish_worker(test, w), -ESTALE);
	expect_cache(test, GRAB_PLACES - 1);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(locked));
	/* Of the test, and of the worker. */
	KUNIT_EXPECT_EQ(test, folio_ref_count(locked), 2);
	release_worker(test, w);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(locked));
	KUNIT_EXPECT_EQ(test, folio_ref_count(locked), 1);
	folio_put(locked);
}

/* Truncated, and there is another folio in its place. */
static void grab_locked_replaced(struct kunit *test)
{
	struct grab_worker *w;
	struct folio *folio = worker_lets_go(test, GRAB_CREAT, &w);

	folio_lock(w->locked);
	remove_folio(test, w->locked);
	folio_unlock(w->locked);
	add_folio(test, GRAB_LOCKED);
	folio_unlock(folio);

	KUNIT_EXPECT_EQ(test, finish_worker(test, w), -ESTALE);
	expect_cache(test, GRAB_PLACES);
	release_worker(test, w);
}

static void grab_locked_stale_on_entry(struct kunit *test)
{
	struct folio *locked;

	add_folios(test, 0, GRAB_PLACES);
	locked = get_and_lock(test, GRAB_LOCKED);
	remove_folio(test, locked);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES - 1, GRAB_CREAT),
			-ESTALE);
	expect_cache(test, GRAB_PLACES - 1);
	put_and_unlock(test, locked);
}

static void grab_locked_enomem(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct folio *locked;

	/* GRAB_PLACES holes around it. */
	add_folio(test, GRAB_LOCKED);
	locked = get_and_lock(test, GRAB_LOCKED);
	t->fail_at = place;
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_enomem);
	KUNIT_EXPECT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES, GRAB_CREAT),
			-ENOMEM);
	put_and_unlock(test, locked);
	expect_cache(test, place + 1);
}

static void grab_locked_eexist(struct kunit *test)
{
	int place = *(const int *)test->param_value;
	struct grab_test *t = test->priv;
	struct folio *locked;

	add_folio(test, GRAB_LOCKED);
	locked = get_and_lock(test, GRAB_LOCKED);
	t->fail_at = place;
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_eexist);
	KUNIT_ASSERT_EQ(test,
			grab_locked(test, locked, 0, GRAB_PLACES, GRAB_CREAT),
			GRAB_PLACES + 1);
	expect_covered(test, t->folios, GRAB_PLACES + 1, 0, GRAB_PLACES);
	filemap_release_folios_locked(locked, t->folios, GRAB_PLACES + 1);
	put_and_unlock(test, locked);
	expect_cache(test, GRAB_PLACES + 1);
}

/* Memory runs out after @locked was let go: it is locked again all the same. */
static void grab_locked_enomem_after_letting_go(struct kunit *test)
{
	struct grab_test *t = test->priv;
	struct folio *folio, *locked;
	struct grab_worker *w;

	add_folio(test, 0);
	add_folio(test, GRAB_LOCKED);
	lru_add_drain_all();
	folio = folio_at(test, 0);
	locked = folio_at(test, GRAB_LOCKED);
	folio_lock(folio);

	t->fail_at = *(const int *)test->param_value;
	kunit_activate_static_stub(test, filemap_grab_create,
				   stub_create_enomem);
	w = start_locked_worker(test, locked, 0, GRAB_PLACES, GRAB_CREAT);
	wait_for_waiter(test, &folio, 1);
	KUNIT_EXPECT_FALSE(test, folio_test_locked(locked));
	folio_unlock(folio);

	if (t->fail_at < GRAB_PLACES - 1) {
		KUNIT_EXPECT_EQ(test, finish_worker(test, w), -ENOMEM);
		KUNIT_EXPECT_TRUE(test, folio_test_locked(locked));
		KUNIT_EXPECT_FALSE(test, folio_test_locked(folio));
		release_worker(test, w);
		expect_cache(test, 2 + t->fail_at);
	} else {
		KUNIT_EXPECT_EQ(test, finish_worker(test, w), GRAB_PLACES + 1);
		release_worker(test, w);
		expect_cache(test, GRAB_PLACES + 1);
	}
}

/* Large folios. */

static void grab_large_folios_or_skip(struct kunit *test)
{
	struct grab_test *t = test->priv;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "needs CONFIG_TRANSPARENT_HUGEPAGE");
	mapping_set_large_folios(t->mapping);
}

/* A large folio counts once, wherever the range begins and ends in it. */
static void grab_present_large_folios(struct kunit *test)
{
	struct grab_test *t = test->priv;

	grab_large_folios_or_skip(test);
	add_folio_order(test, 0, 2);
	add_folio(test, 4);
	add_folio_order(test, 8, 3);
	lru_add_drain_all();

	/* In the middle of the first, in the middle of the last. */
	KUNIT_ASSERT_EQ(test, grab(test, 1, 9, FGP_LOCK), 3);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 0);
	KUNIT_EXPECT_EQ(test, t->folios[1]->index, 4);
	KUNIT_EXPECT_EQ(test, t->folios[2]->index, 8);
	filemap_release_folios(t->folios, 3);

	KUNIT_ASSERT_EQ(test, grab(test, 2, 3, FGP_LOCK), 1);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 0);
	filemap_release_folios(t->folios, 1);
	expect_cache(test, 13);
}

/* 0..31 with a folio at 5 takes orders 2, 0, (5), 1, 3, 4. */
static void grab_fills_holes_with_large_folios(struct kunit *test)
{
	static const pgoff_t want[] = { 0, 4, 5, 6, 8, 16 };
	struct grab_test *t = test->priv;
	int nr;

	grab_large_folios_or_skip(test);
	add_folio(test, 5);
	lru_add_drain_all();
	nr = grab(test, 0, 31, GRAB_CREAT);
	KUNIT_ASSERT_EQ(test, nr, ARRAY_SIZE(want));
	expect_covered(test, t->folios, nr, 0, 31);
	for (int i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ(test, t->folios[i]->index, want[i]);
	filemap_release_folios(t->folios, nr);
	expect_cache(test, 32);
}

/* New folios do not reach out of the range ... */
static void grab_new_large_folios_fit(struct kunit *test)
{
	struct grab_test *t = test->priv;
	int nr;

	grab_large_folios_or_skip(test);
	nr = grab(test, 3, 12, GRAB_CREAT);
	KUNIT_ASSERT_GT(test, nr, 0);
	expect_covered(test, t->folios, nr, 3, 12);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 3);
	KUNIT_EXPECT_EQ(test, folio_next_index(t->folios[nr - 1]), 13);
	filemap_release_folios(t->folios, nr);
	expect_cache(test, 10);
}

/* ... unless the mapping has no smaller ones. */
static void grab_respects_the_minimum_order(struct kunit *test)
{
	struct grab_test *t = test->priv;
	int nr;

	grab_large_folios_or_skip(test);
	mapping_set_folio_min_order(t->mapping, 2);
	nr = grab(test, 3, 12, GRAB_CREAT);
	KUNIT_ASSERT_GT(test, nr, 0);
	expect_covered(test, t->folios, nr, 3, 12);
	KUNIT_EXPECT_EQ(test, t->folios[0]->index, 0);
	KUNIT_EXPECT_EQ(test, folio_next_index(t->folios[nr - 1]), 16);
	filemap_release_folios(t->folios, nr);
	expect_cache(test, 16);
}

/* Races with other tasks, left to chance. */

#define STRESS_PAGES	32
#define STRESS_ROUNDS	2000

struct grab_stress {
	struct address_space *mapping;
	atomic_t owners[STRESS_PAGES];	/* who has the lock: one at most */
	atomic_t wrong;			/* how often that was not so */
	atomic_t running;
	struct completion done;
};

struct grab_stress_thread {
	struct grab_stress *stress;
	u32 seed;
};

/* @folios are ours, and nobody else's; all @nr of them, if they must be. */
static void stress_check(struct grab_stress *s, struct folio **folios, int nr,
			 int want)
{
	if (nr < 0 || (want && nr != want))
		atomic_inc(&s->wrong);
	for (int i = 0; i < nr; i++) {
		if (folios[i]->mapping != s->mapping ||
		    atomic_inc_return(&s->owners[folios[i]->index]) != 1)
			atomic_inc(&s->wrong);
	}
	cond_resched();
	for (int i = 0; i < nr; i++)
		atomic_dec(&s->owners[folios[i]->index]);
}

static void stress_grab(struct grab_stress *s, struct rnd_state *rnd)
{
	pgoff_t start = prandom_u32_state(rnd) % STRESS_PAGES;
	pgoff_t end = start + prandom_u32_state(rnd) % (STRESS_PAGES - start);
	bool creat = prandom_u32_state(rnd) % 4;
	struct folio *folios[STRESS_PAGES];
	int nr;

	nr = filemap_grab_folios(s->mapping, start, end,
				 FGP_LOCK | (creat ? FGP_CREAT : 0), GFP_KERNEL,
				 folios);
	stress_check(s, folios, nr, creat ? end - start + 1 : 0);
	if (nr > 0)
		filemap_release_folios(folios, nr);
}

/* As a reader does: find a folio, lock it, and want its neighbours as well. */
static void stress_grab_locked(struct grab_stress *s, struct rnd_state *rnd)
{
	pgoff_t start = prandom_u32_state(rnd) % STRESS_PAGES;
	pgoff_t end = start + prandom_u32_state(rnd) % (STRESS_PAGES - start);
	pgoff_t index = start + prandom_u32_state(rnd) % (end - start + 1);
	struct folio *folios[STRESS_PAGES];
	struct folio *locked;
	int nr;

	locked = __filemap_get_folio(s->mapping, index, GRAB_CREAT, GFP_KERNEL);
	if (IS_ERR(locked)) {
		atomic_inc(&s->wrong);
		return;
	}
	nr = filemap_grab_folios_locked(locked, start, end, GRAB_CREAT,
					GFP_KERNEL, folios);
	if (nr != -ESTALE)
		stress_check(s, folios, nr, end - start + 1);
	if (nr > 0)
		filemap_release_folios_locked(locked, folios, nr);
	if (!folio_test_locked(locked))
		atomic_inc(&s->wrong);
	folio_unlock(locked);
	folio_put(locked);
}

static void stress_thread_done(struct grab_stress *s)
{
	if (atomic_dec_and_test(&s->running))
		complete(&s->done);
}

static int stress_grab_fn(void *data)
{
	struct grab_stress_thread *thread = data;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, thread->seed);
	for (int i = 0; i < STRESS_ROUNDS; i++)
		stress_grab(thread->stress, &rnd);
	stress_thread_done(thread->stress);
	return 0;
}

static int stress_grab_locked_fn(void *data)
{
	struct grab_stress_thread *thread = data;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, thread->seed);
	for (int i = 0; i < STRESS_ROUNDS; i++) {
		if (prandom_u32_state(&rnd) % 2)
			stress_grab_locked(thread->stress, &rnd);
		else
			stress_grab(thread->stress, &rnd);
	}
	stress_thread_done(thread->stress);
	return 0;
}

static int stress_truncate_fn(void *data)
{
	struct grab_stress_thread *thread = data;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, thread->seed);
	for (int i = 0; i < STRESS_ROUNDS; i++) {
		loff_t from = prandom_u32_state(&rnd) % STRESS_PAGES;
		loff_t to = from + prandom_u32_state(&rnd) % 8;

		truncate_inode_pages_range(thread->stress->mapping,
					   from << PAGE_SHIFT,
					   ((to + 1) << PAGE_SHIFT) - 1);
	}
	stress_thread_done(thread->stress);
	return 0;
}

static int stress_reclaim_fn(void *data)
{
	struct grab_stress_thread *thread = data;

	for (int i = 0; i < STRESS_ROUNDS; i++) {
		invalidate_mapping_pages(thread->stress->mapping, 0,
					 STRESS_PAGES);
		cond_resched();
	}
	stress_thread_done(thread->stress);
	return 0;
}

static const int grab_stress_threads[] = { 2, 4 };

static void grab_stress_desc(const int *threads, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%d threads", *threads);
}

KUNIT_ARRAY_PARAM(grab_stress, grab_stress_threads, grab_stress_desc);

static void run_stress(struct kunit *test, int threads, int (*fn)(void *))
{
	struct grab_test *t = test->priv;
	/* Not of KUnit: deadlocked threads keep using it. */
	struct grab_stress *s = kzalloc_obj(*s);
	struct grab_stress_thread *thread = kzalloc_objs(*thread, threads + 2);
	struct task_struct *task[6];

	KUNIT_ASSERT_NOT_NULL(test, s);
	KUNIT_ASSERT_NOT_NULL(test, thread);
	KUNIT_ASSERT_LE(test, threads + 2, ARRAY_SIZE(task));
	s->mapping = t->mapping;
	init_completion(&s->done);
	atomic_set(&s->running, threads + 2);

	for (int i = 0; i < threads + 2; i++) {
		thread[i].stress = s;
		thread[i].seed = i + 1;
		task[i] = kthread_create(i == 0 ? stress_truncate_fn :
					 i == 1 ? stress_reclaim_fn : fn,
					 &thread[i], "filemap_grab/%d", i);
		KUNIT_ASSERT_FALSE(test, IS_ERR(task[i]));
	}
	for (int i = 0; i < threads + 2; i++)
		wake_up_process(task[i]);

	if (!wait_for_completion_timeout(&s->done, 6 * GRAB_TIMEOUT))
		KUNIT_FAIL_AND_ABORT(test, "deadlock");
	KUNIT_EXPECT_EQ(test, atomic_read(&s->wrong), 0);
	expect_cache(test, t->mapping->nrpages);
	kfree(thread);
	kfree(s);
}

static void grab_stress(struct kunit *test)
{
	run_stress(test, *(const int *)test->param_value, stress_grab_fn);
}

static void grab_locked_stress(struct kunit *test)
{
	run_stress(test, *(const int *)test->param_value,
		   stress_grab_locked_fn);
}

static struct kunit_case grab_cases[] = {
	KUNIT_CASE_PARAM(grab_creates_what_is_missing, grab_range_gen_params),
	KUNIT_CASE_PARAM(grab_without_creat_skips_holes, grab_range_gen_params),
	KUNIT_CASE(grab_without_creat_skips_a_wide_hole),
	KUNIT_CASE_PARAM(grab_refuses, grab_bad_gen_params),
	KUNIT_CASE(grab_refuses_shmem),
	KUNIT_CASE(grab_passes_flags_and_forbids_fs_reclaim),
	KUNIT_CASE(grab_accessed),
	KUNIT_CASE(grab_write_clears_idle),
	KUNIT_CASE(grab_dontcache),
	KUNIT_CASE_PARAM(grab_nowait_contended, grab_place_gen_params),
	KUNIT_CASE(grab_nowait_uncontended),
	KUNIT_CASE_PARAM(grab_nowait_writeback, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_enomem, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_enomem_alternating, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_eexist, grab_place_gen_params),
	KUNIT_CASE(grab_locks_in_ascending_order),
	KUNIT_CASE_PARAM(grab_holds_no_higher_lock_while_waiting,
			 grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_stable_waits_before_the_next_lock,
			 grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_rechecks_after_truncation, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_without_creat_skips_the_truncated,
			 grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_locked_uncontended, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_locked_without_creat, grab_place_gen_params),
	KUNIT_CASE(grab_locked_at_the_last_index),
	KUNIT_CASE(grab_locked_refuses_what_is_outside),
	KUNIT_CASE_PARAM(grab_locked_nowait_contended, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_locked_waits_in_order, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_locked_waits_for_locked, grab_lower_gen_params),
	KUNIT_CASE_PARAM(grab_locked_truncated, grab_lower_gen_params),
	KUNIT_CASE_PARAM(grab_locked_replaced, grab_lower_gen_params),
	KUNIT_CASE(grab_locked_stale_on_entry),
	KUNIT_CASE_PARAM(grab_locked_enomem, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_locked_eexist, grab_place_gen_params),
	KUNIT_CASE_PARAM(grab_locked_enomem_after_letting_go,
			 grab_place_gen_params),
	KUNIT_CASE(grab_present_large_folios),
	KUNIT_CASE(grab_fills_holes_with_large_folios),
	KUNIT_CASE(grab_new_large_folios_fit),
	KUNIT_CASE(grab_respects_the_minimum_order),
	KUNIT_CASE_PARAM(grab_stress, grab_stress_gen_params),
	KUNIT_CASE_PARAM(grab_locked_stress, grab_stress_gen_params),
	{}
};

static struct kunit_suite grab_suite = {
	.name = "filemap_grab",
	.suite_init = grab_suite_init,
	.suite_exit = grab_suite_exit,
	.init = grab_init,
	.exit = grab_exit,
	.test_cases = grab_cases,
};

kunit_test_suite(grab_suite);

MODULE_DESCRIPTION("KUnit tests of filemap_grab_folios()");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
