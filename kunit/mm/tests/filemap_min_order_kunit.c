// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measures how often the folio of a minimum order cannot be allocated when
 * memory is fragmented, and how long it takes.  Not for merging.
 *
 * Memory is filled with clean page cache, and with one page in 16 that cannot
 * be moved, as those of slabs and page tables.  Then half of the page cache, at
 * random places, is freed, and a quarter of memory allocated in folios of one
 * order, with the flags that __filemap_get_folio() uses for the minimum order.
 * The allocator may reclaim and migrate the other half of the page cache.
 */
#include <kunit/test.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/swap.h>

#define PINNED_EVERY	16
#define ROUNDS		5

struct order_result {
	unsigned long tries, failures;
	u64 ns;
};

static int order_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x6f726465) ? 0 : -ENOMEM;
}

static struct file_system_type order_fs_type = {
	.name = "filemap_min_order_kunit",
	.init_fs_context = order_init_fs_context,
	.kill_sb = kill_anon_super,
};

static const struct address_space_operations order_aops = {
	.dirty_folio = filemap_dirty_folio,
	.migrate_folio = filemap_migrate_folio,
};

/* Returns how many pages of the page cache were added. */
static pgoff_t order_fill(struct address_space *mapping, struct list_head *pinned)
{
	const gfp_t gfp = __GFP_NORETRY | __GFP_NOWARN;
	pgoff_t index = 0;

	/* Leave an eighth of memory, so that nobody is killed. */
	while (si_mem_available() > totalram_pages() / 8 &&
	       index < totalram_pages()) {
		struct folio *folio;

		if (index % PINNED_EVERY == 0) {
			struct page *page = alloc_page(GFP_KERNEL | gfp);

			if (!page)
				break;
			list_add(&page->lru, pinned);
		}
		folio = folio_alloc(GFP_HIGHUSER_MOVABLE | gfp, 0);
		if (!folio)
			break;
		if (filemap_add_folio(mapping, folio, index, GFP_KERNEL)) {
			folio_put(folio);
			break;
		}
		folio_mark_uptodate(folio);
		folio_unlock(folio);
		folio_put(folio);
		index++;
		/* Clean page cache counts as available: stop when it is used up. */
		if (global_zone_page_state(NR_FREE_PAGES) < totalram_pages() / 16)
			break;
		cond_resched();
	}
	return index;
}

static void order_measure(struct kunit *test, struct vfsmount *mnt,
			  unsigned int order, struct rnd_state *rnd,
			  struct order_result *res)
{
	unsigned long nr = (totalram_pages() / 4) >> order;
	struct inode *inode = alloc_anon_inode(mnt->mnt_sb);
	struct address_space *mapping;
	LIST_HEAD(pinned);
	LIST_HEAD(got);
	struct page *page, *next;
	pgoff_t index, filled;
	u64 start;

	KUNIT_ASSERT_FALSE(test, IS_ERR(inode));
	inode->i_mode = S_IFREG | 0600;
	mapping = inode->i_mapping;
	mapping->a_ops = &order_aops;
	mapping_set_gfp_mask(mapping, GFP_HIGHUSER_MOVABLE);

	filled = order_fill(mapping, &pinned);
	for (index = 0; index < filled; index++)
		if (prandom_u32_state(rnd) & 1)
			invalidate_mapping_pages(mapping, index, index);
	lru_add_drain_all();

	start = ktime_get_ns();
	for (unsigned long i = 0; i < nr; i++) {
		struct folio *folio = folio_alloc(GFP_HIGHUSER_MOVABLE |
						  __GFP_NOWARN, order);

		res->tries++;
		if (folio)
			list_add(&folio->lru, &got);
		else
			res->failures++;
		cond_resched();
	}
	res->ns += ktime_get_ns() - start;

	list_for_each_entry_safe(page, next, &got, lru) {
		list_del(&page->lru);
		folio_put(page_folio(page));
	}
	list_for_each_entry_safe(page, next, &pinned, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
	truncate_inode_pages(mapping, 0);
	iput(inode);
}

static void order_fragmented(struct kunit *test)
{
	static const unsigned int orders[] = { 0, 4, 8 };
	struct order_result res[ARRAY_SIZE(orders)] = {};
	struct vfsmount *mnt = kern_mount(&order_fs_type);
	struct rnd_state rnd;

	KUNIT_ASSERT_FALSE(test, IS_ERR(mnt));
	prandom_seed_state(&rnd, 1);
	for (int round = 0; round < ROUNDS; round++)
		for (int i = 0; i < ARRAY_SIZE(orders); i++)
			order_measure(test, mnt, orders[i], &rnd, &res[i]);
	for (int i = 0; i < ARRAY_SIZE(orders); i++)
		pr_info("order %u: %lu tries, %lu failures, %llu ns a page\n",
			orders[i], res[i].tries, res[i].failures,
			div64_u64(res[i].ns, (u64)res[i].tries << orders[i]));
	kern_unmount(mnt);
}

static struct kunit_case order_cases[] = {
	KUNIT_CASE_SLOW(order_fragmented),
	{}
};

static struct kunit_suite order_suite = {
	.name = "filemap_min_order",
	.test_cases = order_cases,
};

kunit_test_suite(order_suite);

MODULE_DESCRIPTION("KUnit benchmark of a minimum folio order");
MODULE_LICENSE("GPL");
