// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for CONFIG_DEBUG_FOLIO_LOCK.
 *
 * Run them with
 *	tools/testing/kunit/kunit.py run --kconfig_add CONFIG_DEBUG_KERNEL=y \
 *		--kconfig_add CONFIG_DEBUG_FOLIO_LOCK=y \
 *		--kconfig_add CONFIG_FOLIO_LOCK_DEBUG_KUNIT_TEST=y folio_lock_debug
 *
 * Most replace folio_lock_report(), so that the same places can be found at
 * fault again and again.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/buffer_head.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/interrupt.h>
#include <linux/kthread.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/pseudo_fs.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "../folio_lock_debug.h"
#include "../internal.h"

#define NR_FOLIOS	8
#define NO_REPORT	-1

struct lock_test {
	struct inode *inode;
	struct address_space *mapping;
	struct folio *folios[NR_FOLIOS];
	/* what folio_lock_report() or folio_lock_print() was called with */
	int nr_reports;
	struct folio_lock_report last;
	pgoff_t held_index;
	struct completion reported;
	/* for ->read_folio() and ->readahead() */
	int read_error;
};

/* A filesystem that has an inode and nothing else. */

static struct vfsmount *lock_mnt;

static int lock_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x6c6f636b) ? 0 : -ENOMEM;
}

static struct file_system_type lock_fs_type = {
	.name = "folio_lock_debug_kunit",
	.init_fs_context = lock_init_fs_context,
	.kill_sb = kill_anon_super,
};

static int lock_suite_init(struct kunit_suite *suite)
{
	lock_mnt = kern_mount(&lock_fs_type);
	return PTR_ERR_OR_ZERO(lock_mnt);
}

static void lock_suite_exit(struct kunit_suite *suite)
{
	if (!suite->suite_init_err)
		kern_unmount(lock_mnt);
}

/* Locks the folio after the one to read, as if that were in the same unit. */
static int lock_read_folio(struct file *file, struct folio *folio)
{
	struct lock_test *t = kunit_get_current_test()->priv;

	folio_lock(t->folios[folio->index + 1]);
	if (!t->read_error)
		folio_mark_uptodate(folio);
	folio_unlock(folio);
	return t->read_error;
}

/* Starts to read the folios asked for, and one more. */
static void lock_readahead(struct readahead_control *rac)
{
	struct lock_test *t = kunit_get_current_test()->priv;

	while (readahead_folio(rac))
		;
	folio_trylock(t->folios[0]);
}

static const struct address_space_operations lock_aops = {
	.read_folio = lock_read_folio,
	.readahead = lock_readahead,
};

/* Keep what was reported.  This runs in the task of the test, or in a helper. */
static void keep_report(const struct folio_lock_report *r)
{
	struct kunit *test = kunit_get_current_test();
	struct lock_test *t = test->priv;

	t->nr_reports++;
	t->last = *r;
	t->held_index = r->held->folio->index;
	complete(&t->reported);
}

static int lock_init(struct kunit *test)
{
	struct lock_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	if (!current->folio_locks || !folio_lock_state.enabled)
		kunit_skip(test, "the checker is off");
	init_completion(&t->reported);
	t->inode = alloc_anon_inode(lock_mnt->mnt_sb);
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->inode));
	t->inode->i_mode = S_IFREG | 0600;
	t->mapping = t->inode->i_mapping;
	t->mapping->a_ops = &lock_aops;
	mapping_set_gfp_mask(t->mapping, GFP_KERNEL);
	test->priv = t;
	for (int i = 0; i < NR_FOLIOS; i++) {
		struct folio *folio = folio_alloc(GFP_KERNEL, 0);

		KUNIT_ASSERT_NOT_NULL(test, folio);
		KUNIT_ASSERT_EQ(test, 0, filemap_add_folio(t->mapping, folio, i, GFP_KERNEL));
		folio_unlock(folio);
		t->folios[i] = folio;
	}
	kunit_activate_static_stub(test, folio_lock_report, keep_report);
	return 0;
}

static void lock_exit(struct kunit *test)
{
	struct lock_test *t = test->priv;

	if (!t)
		return;
	for (int i = 0; i < NR_FOLIOS; i++) {
		if (!t->folios[i])
			continue;
		if (folio_test_locked(t->folios[i]))
			folio_unlock(t->folios[i]);
		folio_put(t->folios[i]);
	}
	truncate_inode_pages(t->mapping, 0);
	iput(t->inode);
}

/* One report more than before, or none if @rule is NO_REPORT. */
static void expect_report(struct kunit *test, int rule, pgoff_t held)
{
	struct lock_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, rule == NO_REPORT ? 0 : 1, t->nr_reports);
	if (t->nr_reports && rule != NO_REPORT) {
		KUNIT_EXPECT_EQ(test, rule, (int)t->last.rule);
		KUNIT_EXPECT_EQ(test, held, t->held_index);
	}
	t->nr_reports = 0;
}

static void expect_leak(struct kunit *test, int rule, pgoff_t held)
{
	debug_folio_none_held("the end of the test", NULL);
	expect_report(test, rule, held);
}

/* Order: what a task may do with a folio of a lower index. */

static void op_lock(struct lock_test *t, pgoff_t index)
{
	folio_lock(t->folios[index]);
	folio_unlock(t->folios[index]);
}

static void op_lock_page(struct lock_test *t, pgoff_t index)
{
	lock_page(&t->folios[index]->page);
	unlock_page(&t->folios[index]->page);
}

static void op_lock_killable(struct lock_test *t, pgoff_t index)
{
	if (!folio_lock_killable(t->folios[index]))
		folio_unlock(t->folios[index]);
}

static void lookup(struct lock_test *t, pgoff_t index, fgf_t fgp_flags)
{
	struct folio *folio = __filemap_get_folio(t->mapping, index, fgp_flags, GFP_KERNEL);

	if (IS_ERR(folio))
		return;
	if (fgp_flags & FGP_LOCK)
		folio_unlock(folio);
	folio_put(folio);
}

static void op_lookup(struct lock_test *t, pgoff_t index)
{
	lookup(t, index, FGP_LOCK);
}

/* A new folio is born locked, but if another task is faster it is waited for. */
static void op_create(struct lock_test *t, pgoff_t index)
{
	lookup(t, index, FGP_LOCK | FGP_CREAT);
}

static void op_lookup_nowait(struct lock_test *t, pgoff_t index)
{
	lookup(t, index, FGP_LOCK | FGP_NOWAIT);
}

static void op_lookup_unlocked(struct lock_test *t, pgoff_t index)
{
	lookup(t, index, 0);
}

static void op_trylock(struct lock_test *t, pgoff_t index)
{
	if (folio_trylock(t->folios[index]))
		folio_unlock(t->folios[index]);
}

static void op_wait(struct lock_test *t, pgoff_t index)
{
	folio_wait_locked(t->folios[index]);
}

static void op_wait_killable(struct lock_test *t, pgoff_t index)
{
	folio_wait_locked_killable(t->folios[index]);
}

static void op_no_writeback(struct lock_test *t, pgoff_t index)
{
	folio_wait_writeback(t->folios[index]);
	folio_wait_writeback_killable(t->folios[index]);
}

static const struct order_op {
	const char *name;
	void (*op)(struct lock_test *t, pgoff_t index);
	int rule;
} order_ops[] = {
	{ "lock", op_lock, FOLIO_LOCK_ORDER },
	{ "lock_page", op_lock_page, FOLIO_LOCK_ORDER },
	{ "lock_killable", op_lock_killable, FOLIO_LOCK_ORDER },
	{ "lookup", op_lookup, FOLIO_LOCK_ORDER },
	{ "create", op_create, FOLIO_LOCK_ORDER },
	{ "lookup_nowait", op_lookup_nowait, NO_REPORT },
	{ "lookup_unlocked", op_lookup_unlocked, NO_REPORT },
	{ "trylock", op_trylock, NO_REPORT },
	{ "wait_locked", op_wait, FOLIO_WAIT_ORDER },
	{ "wait_locked_killable", op_wait_killable, FOLIO_WAIT_ORDER },
	{ "no_writeback", op_no_writeback, NO_REPORT },
};

KUNIT_ARRAY_PARAM_DESC(order_ops, order_ops, name);

static void lower_index(struct kunit *test)
{
	const struct order_op *o = test->param_value;
	struct lock_test *t = test->priv;

	if (o->op == op_create) {
		folio_lock(t->folios[2]);
		filemap_remove_folio(t->folios[2]);
		folio_unlock(t->folios[2]);
	}
	folio_lock(t->folios[5]);
	o->op(t, 2);
	expect_report(test, o->rule, 5);
	if (o->rule != NO_REPORT)
		KUNIT_EXPECT_EQ(test, 2, t->last.index);
	folio_unlock(t->folios[5]);
	t->nr_reports = 0;
	o->op(t, 3);
	expect_report(test, NO_REPORT, 0);
}

static void higher_index(struct kunit *test)
{
	const struct order_op *o = test->param_value;
	struct lock_test *t = test->priv;

	folio_lock(t->folios[1]);
	folio_lock(t->folios[2]);
	o->op(t, 5);
	expect_report(test, NO_REPORT, 0);
}

static void other_file(struct kunit *test)
{
	const struct order_op *o = test->param_value;
	struct lock_test *t = test->priv;
	struct address_space other = { };

	folio_lock(t->folios[5]);
	t->folios[5]->mapping = &other;
	o->op(t, 2);
	t->folios[5]->mapping = t->mapping;
	expect_report(test, NO_REPORT, 0);
}

/* Without waiting no deadlock; but from then on the folio is held. */
static void trylocked_is_held(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[2]);
	KUNIT_ASSERT_TRUE(test, folio_trylock(t->folios[5]));
	expect_report(test, NO_REPORT, 0);
	op_lock(t, 3);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
}

static void new_is_held(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio *folio = __filemap_get_folio(t->mapping, NR_FOLIOS,
						  FGP_LOCK | FGP_CREAT, GFP_KERNEL);

	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	op_lock(t, 3);
	expect_report(test, FOLIO_LOCK_ORDER, NR_FOLIOS);
	folio_unlock(folio);
	folio_put(folio);
}

/* Recursion */

static int lock_again(void *data)
{
	struct kunit *test = data;
	struct lock_test *t = test->priv;

	current->kunit_test = test;
	folio_lock(t->folios[2]);
	folio_lock(t->folios[2]);
	folio_unlock(t->folios[2]);
	return 0;
}

/* Reported before it hangs; this test is what unlocks the folio for it. */
static void recursion(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct task_struct *task = kthread_run(lock_again, test, "folio_lock_again");

	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	get_task_struct(task);
	KUNIT_EXPECT_NE(test, 0UL, wait_for_completion_timeout(&t->reported, 10 * HZ));
	folio_unlock(t->folios[2]);
	kthread_stop_put(task);
	expect_report(test, FOLIO_LOCK_RECURSION, 2);
}

/* A synchronous read: whatever ends it unlocks the folio. */
static void wait_for_own_read(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[2]);
	debug_folio_wait_locked(t->folios[2]);
	debug_folio_lock(t->folios[2]);
	expect_report(test, NO_REPORT, 0);
	expect_leak(test, NO_REPORT, 0);
}

/* Unlocked by another */

struct unlocker {
	struct work_struct work;
	struct timer_list timer;
	struct folio *folio;
	struct completion done;
};

static void unlock_by_work(struct work_struct *work)
{
	struct unlocker *u = container_of(work, struct unlocker, work);

	folio_unlock(u->folio);
	complete(&u->done);
}

static void unlock_by_timer(struct timer_list *timer)
{
	struct unlocker *u = timer_container_of(u, timer, timer);

	folio_end_read(u->folio, true);
	complete(&u->done);
}

static void unlocked_by_another(struct kunit *test, bool interrupt)
{
	struct lock_test *t = test->priv;
	struct unlocker u = { .folio = t->folios[5] };

	init_completion(&u.done);
	folio_lock(t->folios[5]);
	if (interrupt) {
		timer_setup_on_stack(&u.timer, unlock_by_timer, 0);
		mod_timer(&u.timer, jiffies + 1);
	} else {
		INIT_WORK_ONSTACK(&u.work, unlock_by_work);
		schedule_work(&u.work);
	}
	wait_for_completion(&u.done);
	if (interrupt) {
		timer_delete_sync(&u.timer);
		timer_destroy_on_stack(&u.timer);
	} else {
		flush_work(&u.work);
		destroy_work_on_stack(&u.work);
	}
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	expect_leak(test, NO_REPORT, 0);
}

static void unlocked_by_task(struct kunit *test)
{
	unlocked_by_another(test, false);
}

static void unlocked_by_interrupt(struct kunit *test)
{
	unlocked_by_another(test, true);
}

/* ... and locked again by that one: PG_locked says nothing about the owner. */
static void relocked_by_another(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[5]);
	folio_unlock(t->folios[5]);
	/* an interrupt locks it */
	set_bit(PG_locked, &t->folios[5]->flags.f);
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
}

/* Hand-off */

static void end_async(struct bio *bio)
{
}

static void submit_stub(struct bio *bio, void *priv)
{
	debug_folio_submit_bio(bio);
	bio->bi_end_io(bio);
}

static void bio_for_folio(struct bio *bio, struct bio_vec *bv, struct folio *folio,
			  blk_opf_t opf)
{
	bio_init(bio, NULL, bv, 1, opf);
	bio_add_folio_nofail(bio, folio, PAGE_SIZE, 0);
}

static void bio_read(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct bio_vec bv;
	struct bio bio;

	folio_lock(t->folios[5]);
	bio_for_folio(&bio, &bv, t->folios[5], REQ_OP_READ);
	bio.bi_end_io = end_async;
	debug_folio_submit_bio(&bio);
	bio_uninit(&bio);
	op_lock(t, 2);
	debug_folio_lock(t->folios[5]);
	expect_report(test, NO_REPORT, 0);
	expect_leak(test, NO_REPORT, 0);
}

/* As btrfs and drivers split them: a clone has no bi_vcnt. */
static void bio_clone_read(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct bio_vec bv;
	struct bio bio, clone;

	folio_lock(t->folios[5]);
	bio_for_folio(&bio, &bv, t->folios[5], REQ_OP_READ);
	KUNIT_ASSERT_EQ(test, 0, bio_init_clone(NULL, &clone, &bio, GFP_KERNEL));
	debug_folio_submit_bio(&clone);
	bio_uninit(&clone);
	bio_uninit(&bio);
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	expect_leak(test, NO_REPORT, 0);
}

static void bio_write(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct bio_vec bv;
	struct bio bio;

	folio_lock(t->folios[5]);
	bio_for_folio(&bio, &bv, t->folios[5], REQ_OP_WRITE);
	bio.bi_end_io = end_async;
	debug_folio_submit_bio(&bio);
	bio_uninit(&bio);
	op_lock(t, 2);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
}

/* Completions that unlock nothing */
static void bio_sync_read(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct block_device *bdev = kunit_kzalloc(test, sizeof(*bdev), GFP_KERNEL);
	struct gendisk *disk = kunit_kzalloc(test, sizeof(*disk), GFP_KERNEL);
	struct bio_vec bv;
	struct bio bio;

	KUNIT_ASSERT_NOT_NULL(test, bdev);
	KUNIT_ASSERT_NOT_NULL(test, disk);
	bdev->bd_disk = disk;
	folio_lock(t->folios[5]);
	bio_for_folio(&bio, &bv, t->folios[5], REQ_OP_READ);
	bio.bi_bdev = bdev;
	bio_await(&bio, NULL, submit_stub);
	bio.bi_bdev = NULL;
	bio_uninit(&bio);
	op_lock(t, 2);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
	expect_leak(test, FOLIO_LOCK_LEAK, 5);
}

#ifdef CONFIG_BUFFER_HEAD
static void bio_buffer_read(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct bio_vec bv;
	struct bio bio;

	folio_lock(t->folios[5]);
	bio_for_folio(&bio, &bv, t->folios[5], REQ_OP_READ);
	bio.bi_end_io = bh_end_read;
	debug_folio_submit_bio(&bio);
	bio_uninit(&bio);
	op_lock(t, 2);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
}
#endif

static void read_folio_success(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio *folio = read_mapping_folio(t->mapping, 3, NULL);

	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	folio_put(folio);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(t->folios[4]));
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	expect_leak(test, NO_REPORT, 0);
}

/* An error starts no I/O: what is locked then stays so. */
static void read_folio_error(struct kunit *test)
{
	struct lock_test *t = test->priv;

	t->read_error = -EIO;
	KUNIT_ASSERT_TRUE(test, IS_ERR(read_mapping_folio(t->mapping, 3, NULL)));
	expect_leak(test, FOLIO_LOCK_LEAK, 4);
}

/* The leak of the first call is not forgotten when the second one succeeds. */
static void read_folio_error_and_retry(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio *folio;

	t->read_error = -EIO;
	KUNIT_ASSERT_TRUE(test, IS_ERR(read_mapping_folio(t->mapping, 3, NULL)));
	t->read_error = 0;
	folio = read_mapping_folio(t->mapping, 5, NULL);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	folio_put(folio);
	expect_leak(test, FOLIO_LOCK_LEAK, 4);
}

static void readahead_outside_of_range(struct kunit *test)
{
	struct lock_test *t = test->priv;
	DEFINE_READAHEAD(rac, NULL, NULL, t->mapping, NR_FOLIOS);
	struct folio *folio;

	page_cache_ra_unbounded(&rac, 2, 0);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(t->folios[0]));
	expect_leak(test, NO_REPORT, 0);
	for (int i = 0; i < 2; i++) {
		folio = filemap_get_folio(t->mapping, NR_FOLIOS + i);
		KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
		KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
		folio_unlock(folio);
		folio_put(folio);
	}
}

/* The annotation: only folios of the range, and only those of the file. */
static void disowned(struct kunit *test)
{
	struct lock_test *t = test->priv;

	for (int i = 3; i < 7; i++)
		folio_lock(t->folios[i]);
	folio_lock_disown(t->mapping, 4, 5);
	folio_lock_disown(lock_mnt->mnt_root->d_inode->i_mapping, 0, ULONG_MAX);
	debug_folio_none_held("", NULL);
	KUNIT_EXPECT_EQ(test, 2, t->nr_reports);
	KUNIT_EXPECT_EQ(test, 6, t->held_index);
}

/* Leaks */

static int exit_with_lock(void *data)
{
	struct kunit *test = data;
	struct lock_test *t = test->priv;

	current->kunit_test = test;
	folio_lock(t->folios[4]);
	return 0;
}

static void leak_at_exit(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct task_struct *task = kthread_run(exit_with_lock, test, "folio_lock_exit");

	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	get_task_struct(task);
	KUNIT_EXPECT_NE(test, 0UL, wait_for_completion_timeout(&t->reported, 10 * HZ));
	kthread_stop_put(task);
	expect_report(test, FOLIO_LOCK_LEAK, 4);
}

struct leak_work {
	struct work_struct work;
	struct kunit *test;
	struct task_struct *worker;
};

static void leak_by_work(struct work_struct *work)
{
	struct leak_work *w = container_of(work, struct leak_work, work);
	struct lock_test *t = w->test->priv;

	w->worker = current;
	current->kunit_test = w->test;
	folio_lock(t->folios[4]);
}

static void leak_in_work(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct leak_work w = { .test = test };

	INIT_WORK_ONSTACK(&w.work, leak_by_work);
	schedule_work(&w.work);
	flush_work(&w.work);
	w.worker->kunit_test = NULL;
	destroy_work_on_stack(&w.work);
	KUNIT_EXPECT_PTR_EQ(test, (const void *)leak_by_work, t->last.function);
	expect_report(test, FOLIO_LOCK_LEAK, 4);
}

static void leak_reported_once(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[4]);
	expect_leak(test, FOLIO_LOCK_LEAK, 4);
	expect_leak(test, NO_REPORT, 0);
}

/* Anonymous memory: no order, but no leaks. */
static void leak_of_anon(struct kunit *test)
{
	struct lock_test *t = test->priv;

	t->folios[4]->mapping = (void *)((unsigned long)t->mapping | FOLIO_MAPPING_ANON);
	folio_lock(t->folios[4]);
	debug_folio_lock(t->folios[4]);
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	t->folios[4]->mapping = t->mapping;
	expect_leak(test, FOLIO_LOCK_LEAK, 4);
}

/* Folios that have no order */

static const struct address_space_operations lock_no_read_aops = { };

static void metadata_has_no_order(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[5]);
	t->inode->i_mode = S_IFDIR | 0700;
	op_lock(t, 2);
	t->inode->i_mode = S_IFREG | 0600;
	t->mapping->a_ops = &lock_no_read_aops;
	op_lock(t, 2);
	t->mapping->a_ops = &lock_aops;
	expect_report(test, NO_REPORT, 0);
	op_lock(t, 2);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
}

/* The owner of a folio outside of the page cache uses PG_locked as it likes. */
static void without_mapping(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio *folio = folio_alloc(GFP_KERNEL, 0);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio_lock(folio);
	folio->index = 5;
	folio->mapping = t->mapping;	/* f2fs does that later */
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	expect_leak(test, NO_REPORT, 0);
	folio->mapping = NULL;
	folio_unlock(folio);
	folio_put(folio);
}

static void truncated_while_held(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[5]);
	filemap_remove_folio(t->folios[5]);
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	folio_unlock(t->folios[5]);
	expect_leak(test, NO_REPORT, 0);
}

/* Large folios are compared by their first index. */
static struct folio *add_large(struct kunit *test, pgoff_t index)
{
	struct lock_test *t = test->priv;
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "no large folios");
	mapping_set_large_folios(t->mapping);
	folio = folio_alloc(GFP_KERNEL, 2);
	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test, 0, filemap_add_folio(t->mapping, folio, index, GFP_KERNEL));
	return folio;
}

static void large_folio(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio *folio = add_large(test, 8), *next;

	op_lock(t, 7);
	expect_report(test, FOLIO_LOCK_ORDER, 8);
	next = add_large(test, 12);
	debug_folio_lookup(t->mapping, 14);
	expect_report(test, NO_REPORT, 0);
	debug_folio_lookup(t->mapping, 10);
	expect_report(test, FOLIO_LOCK_ORDER, 12);
	folio_unlock(next);
	folio_unlock(folio);
	debug_folio_lookup(t->mapping, 0);
	expect_report(test, NO_REPORT, 0);
	folio_put(next);
	folio_put(folio);
}

/* After a split the head is held, the other parts are not. */
static void split_while_held(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio *folio = add_large(test, 8);

	folio_mark_uptodate(folio);
	lru_add_drain_all();
	KUNIT_ASSERT_EQ(test, 0, split_folio(folio));
	debug_folio_lookup(t->mapping, 9);
	expect_report(test, NO_REPORT, 0);
	op_lock(t, 7);
	expect_report(test, FOLIO_LOCK_ORDER, 8);
	folio_unlock(folio);
	folio_put(folio);
	expect_leak(test, NO_REPORT, 0);
}

/* What is forgotten */

static void more_than_fit(struct kunit *test)
{
	struct lock_test *t = test->priv;
	unsigned long overflows = folio_lock_stat(FOLIO_STAT_OVERFLOWS);
	struct folio *folio;
	const int nr = FOLIO_LOCK_MAX_HELD + 1;

	for (int i = 0; i < nr; i++) {
		folio = __filemap_get_folio(t->mapping, NR_FOLIOS + i, FGP_LOCK | FGP_CREAT,
					    GFP_KERNEL);
		KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
		folio_put(folio);
	}
	KUNIT_EXPECT_EQ(test, overflows + 1, folio_lock_stat(FOLIO_STAT_OVERFLOWS));
	expect_report(test, NO_REPORT, 0);
	debug_folio_lookup(t->mapping, NR_FOLIOS + nr - 2);
	expect_report(test, FOLIO_LOCK_ORDER, NR_FOLIOS + nr - 1);
	/* the older half is forgotten */
	debug_folio_lookup(t->mapping, 0);
	KUNIT_EXPECT_EQ(test, FOLIO_LOCK_MAX_HELD / 2 + 1, t->nr_reports);
	for (int i = 0; i < nr; i++)
		folio_unlock(xa_load(&t->mapping->i_pages, NR_FOLIOS + i));
}

/* A task does not run into the cookies of the next one. */
static void more_locks_than_cookies(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio_lock_task *ft = current->folio_locks;
	const unsigned long next = (2UL << 32) + 1;

	ft->cookie = (2UL << 32) - 1;	/* the last one of the first task */
	folio_lock(t->folios[5]);
	folio_lock(t->folios[6]);
	KUNIT_EXPECT_GT(test, ft->cookie, next);
	folio_unlock(t->folios[5]);
	op_lock(t, 2);
	expect_report(test, FOLIO_LOCK_ORDER, 6);
	folio_lock_disown(t->mapping, 0, ULONG_MAX);
	expect_leak(test, NO_REPORT, 0);
}

/* Two folios with one entry of the table; there are none, so make them up. */
static void collision(struct kunit *test)
{
	struct lock_test *t = test->priv;
	unsigned long collisions = folio_lock_stat(FOLIO_STAT_COLLISIONS);
	/* hash_long() of so many consecutive numbers leaves out no entry. */
	const size_t nr = 2 << FOLIO_LOCK_OWNER_BITS;
	unsigned long *owner = folio_lock_owner(t->folios[5]);
	struct page *pages = vzalloc((nr + 4) * sizeof(*pages));
	struct folio *folio = NULL;

	KUNIT_ASSERT_NOT_NULL(test, pages);
	for (size_t i = 0; i < nr && !folio; i++)
		if (folio_lock_owner((struct folio *)&pages[i]) == owner)
			folio = (struct folio *)&pages[i];
	KUNIT_ASSERT_NOT_NULL(test, folio);
	folio->mapping = t->mapping;
	folio->index = 6;

	folio_lock(t->folios[5]);
	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, collisions + 1, folio_lock_stat(FOLIO_STAT_COLLISIONS));
	/* the first one is forgotten */
	op_lock(t, 2);
	expect_report(test, FOLIO_LOCK_ORDER, 6);
	folio_unlock(folio);
	op_lock(t, 2);
	expect_report(test, NO_REPORT, 0);
	/* and so is the second one if the first is unlocked */
	folio_lock(folio);
	folio_unlock(t->folios[5]);
	op_lock(t, 2);
	expect_leak(test, NO_REPORT, 0);
	folio_unlock(folio);
	vfree(pages);
}

/* Reports: what is printed */

static noinline void wrong_here(struct lock_test *t)
{
	folio_lock(t->folios[5]);
	op_lock(t, 2);
	folio_unlock(t->folios[5]);
}

static noinline void wrong_there(struct lock_test *t)
{
	folio_lock(t->folios[6]);
	op_lock(t, 3);
	barrier();
	folio_unlock(t->folios[6]);
}

/* As if there had been @nr_keys reports; returns the state before. */
static struct folio_lock_state *print_reports(struct kunit *test, unsigned int nr_keys)
{
	struct folio_lock_state *old = kunit_kmalloc(test, sizeof(*old), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, old);
	*old = folio_lock_state;
	memset(folio_lock_state.keys, 0, sizeof(folio_lock_state.keys));
	folio_lock_state.nr_keys = nr_keys;
	kunit_deactivate_static_stub(test, folio_lock_report);
	kunit_activate_static_stub(test, folio_lock_print, keep_report);
	return old;
}

static void same_places_once(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio_lock_state *old = print_reports(test, 0);
	int times = 3;

	/* The calls of an unrolled loop are different places. */
	OPTIMIZER_HIDE_VAR(times);
	for (int i = 0; i < times; i++)
		wrong_here(t);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
	for (int i = 0; i < times; i++)
		wrong_there(t);
	expect_report(test, FOLIO_LOCK_ORDER, 6);
	folio_lock_state = *old;
}

/* After the last report the checker turns itself off. */
static void limit_of_reports(struct kunit *test)
{
	struct lock_test *t = test->priv;
	struct folio_lock_state *old = print_reports(test, FOLIO_LOCK_MAX_REPORTS - 1);

	wrong_here(t);
	expect_report(test, FOLIO_LOCK_ORDER, 5);
	KUNIT_EXPECT_FALSE(test, folio_lock_state.enabled);
	folio_lock_state.enabled = true;
	wrong_there(t);
	expect_report(test, NO_REPORT, 0);
	folio_lock_state = *old;
}

/* Writeback of a lower folio, and of the folio that is held itself */
static void under_writeback(struct kunit *test)
{
	struct lock_test *t = test->priv;

	folio_lock(t->folios[5]);
	set_bit(PG_writeback, &t->folios[2]->flags.f);
	set_bit(PG_writeback, &t->folios[5]->flags.f);
	debug_folio_wait_writeback(t->folios[2]);
	expect_report(test, FOLIO_WRITEBACK_ORDER, 5);
	debug_folio_wait_writeback(t->folios[5]);
	expect_report(test, NO_REPORT, 0);
	clear_bit(PG_writeback, &t->folios[2]->flags.f);
	clear_bit(PG_writeback, &t->folios[5]->flags.f);
	op_no_writeback(t, 2);
	expect_report(test, NO_REPORT, 0);
}

static struct kunit_case lock_cases[] = {
	KUNIT_CASE_PARAM(lower_index, order_ops_gen_params),
	KUNIT_CASE_PARAM(higher_index, order_ops_gen_params),
	KUNIT_CASE_PARAM(other_file, order_ops_gen_params),
	KUNIT_CASE(trylocked_is_held),
	KUNIT_CASE(new_is_held),
	KUNIT_CASE(recursion),
	KUNIT_CASE(wait_for_own_read),
	KUNIT_CASE(unlocked_by_task),
	KUNIT_CASE(unlocked_by_interrupt),
	KUNIT_CASE(relocked_by_another),
	KUNIT_CASE(bio_read),
	KUNIT_CASE(bio_clone_read),
	KUNIT_CASE(bio_write),
	KUNIT_CASE(bio_sync_read),
#ifdef CONFIG_BUFFER_HEAD
	KUNIT_CASE(bio_buffer_read),
#endif
	KUNIT_CASE(read_folio_success),
	KUNIT_CASE(read_folio_error),
	KUNIT_CASE(read_folio_error_and_retry),
	KUNIT_CASE(readahead_outside_of_range),
	KUNIT_CASE(disowned),
	KUNIT_CASE(leak_at_exit),
	KUNIT_CASE(leak_in_work),
	KUNIT_CASE(leak_reported_once),
	KUNIT_CASE(leak_of_anon),
	KUNIT_CASE(metadata_has_no_order),
	KUNIT_CASE(without_mapping),
	KUNIT_CASE(truncated_while_held),
	KUNIT_CASE(large_folio),
	KUNIT_CASE(split_while_held),
	KUNIT_CASE(more_than_fit),
	KUNIT_CASE(more_locks_than_cookies),
	KUNIT_CASE(collision),
	KUNIT_CASE(same_places_once),
	KUNIT_CASE(limit_of_reports),
	KUNIT_CASE(under_writeback),
	{}
};

static struct kunit_suite lock_suite = {
	.name = "folio_lock_debug",
	.suite_init = lock_suite_init,
	.suite_exit = lock_suite_exit,
	.init = lock_init,
	.exit = lock_exit,
	.test_cases = lock_cases,
};

kunit_test_suite(lock_suite);
