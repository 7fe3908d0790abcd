// SPDX-License-Identifier: GPL-2.0-only
/* What the KUnit tests for ranges of the page cache share. */
#include <linux/backing-dev.h>
#include <linux/folio_batch.h>
#include <linux/fs_context.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/mount.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/swap.h>
#include <linux/writeback.h>

#include "filemap_fixture.h"

/* A filesystem that has inodes and nothing else. */

static struct vfsmount *ft_mnt;

static int ft_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x66696c65) ? 0 : -ENOMEM;
}

static struct file_system_type ft_fs_type = {
	.name = "filemap_kunit",
	.init_fs_context = ft_init_fs_context,
	.kill_sb = kill_anon_super,
};

/* A bdi that can write back, for mapping_can_writeback(). */
int ft_suite_init(struct kunit_suite *suite)
{
	int err;

	ft_mnt = kern_mount(&ft_fs_type);
	if (IS_ERR(ft_mnt))
		return PTR_ERR(ft_mnt);

	err = super_setup_bdi(ft_mnt->mnt_sb);
	if (err)
		kern_unmount(ft_mnt);
	return err;
}

void ft_suite_exit(struct kunit_suite *suite)
{
	/* KUnit calls this after a failed ft_suite_init(), too. */
	if (!suite->suite_init_err)
		kern_unmount(ft_mnt);
}

static const struct address_space_operations ft_aops = {
	.dirty_folio = filemap_dirty_folio,
	.migrate_folio = filemap_migrate_folio,
};

struct inode *ft_inode(struct kunit *test)
{
	struct inode *inode = alloc_anon_inode(ft_mnt->mnt_sb);

	KUNIT_ASSERT_FALSE(test, IS_ERR(inode));
	inode->i_mode = S_IFREG | 0600;
	inode->i_mapping->a_ops = &ft_aops;
	mapping_set_gfp_mask(inode->i_mapping, GFP_KERNEL);
	/* Writeback counts there, also without a dirty folio. */
	inode_attach_wb(inode, NULL);
	return inode;
}

/* The lock keeps the folios from being replaced and freed. */
static bool ft_idle(struct address_space *mapping)
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
 * Are all folios unlocked, with no reference but that of the page cache?
 * Compaction and memory hot-unplug take both for a moment: wait for them.
 */
bool ft_becomes_idle(struct address_space *mapping)
{
	bool idle;

	/* New and accessed folios have a reference of the per-CPU batches. */
	lru_add_drain_all();
	read_poll_timeout(ft_idle, idle, idle, USEC_PER_MSEC,
			  200 * USEC_PER_MSEC, false, mapping);
	return idle;
}

/* Deadlocked tasks keep using inodes. */
void ft_keep_mount(void)
{
	mntget(ft_mnt);
}

/* Report folios that are still locked and unlock them for the next test. */
void ft_evict(struct kunit *test, struct inode *inode)
{
	struct address_space *mapping = inode->i_mapping;
	struct folio_batch fbatch;
	unsigned long index;
	struct folio *folio;
	bool freed = false;
	pgoff_t start = 0;

	if (!ft_becomes_idle(mapping)) {
		xa_for_each(&mapping->i_pages, index, folio) {
			if (xa_is_value(folio))
				continue;
			if (folio->mapping != mapping ||
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
		/* A lookup would spin on the refcount of 0: keep the inode. */
		ft_keep_mount();
		return;
	}
	/* truncate_inode_pages() would wait for forgotten writeback. */
	folio_batch_init(&fbatch);
	while (filemap_get_folios(mapping, &start, ULONG_MAX, &fbatch)) {
		for (int i = 0; i < folio_batch_count(&fbatch); i++) {
			folio = fbatch.folios[i];
			folio_lock(folio);
			if (folio->mapping == mapping)
				generic_error_remove_folio(mapping, folio);
			else	/* It was migrated, and its index has another. */
				start = 0;
			folio_unlock(folio);
		}
		folio_batch_release(&fbatch);
	}
	KUNIT_EXPECT_EQ(test, mapping->nrpages, 0UL);
	iput(inode);
}

int ft_init(struct kunit *test)
{
	struct ft *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	t->inode = ft_inode(test);
	t->mapping = t->inode->i_mapping;
	t->at = -1;
	test->priv = t;
	return 0;
}

void ft_exit(struct kunit *test)
{
	struct ft *t = test->priv;

	if (t)
		ft_evict(test, t->inode);
}

void ft_large_folios_or_skip(struct kunit *test)
{
	struct ft *t = test->priv;

	if (!IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE))
		kunit_skip(test, "needs CONFIG_TRANSPARENT_HUGEPAGE");
	mapping_set_large_folios(t->mapping);
}

/* The state before. */

struct folio *ft_add_order(struct kunit *test, pgoff_t index,
			   unsigned int order)
{
	struct ft *t = test->priv;
	struct folio *folio = folio_alloc(GFP_KERNEL, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test,
			filemap_add_folio(t->mapping, folio, index, GFP_KERNEL),
			0);
	folio_unlock(folio);
	folio_put(folio);
	return folio;
}

struct folio *ft_add(struct kunit *test, pgoff_t index)
{
	return ft_add_order(test, index, 0);
}

void ft_add_all(struct kunit *test, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		ft_add(test, i);
	/* New folios have a reference of the per-CPU batches. */
	lru_add_drain_all();
}

struct folio *ft_at(struct kunit *test, pgoff_t index)
{
	struct ft *t = test->priv;
	struct folio *folio = xa_load(&t->mapping->i_pages, index);

	return xa_is_value(folio) ? NULL : folio;
}

void ft_remove(struct kunit *test, struct folio *folio)
{
	struct ft *t = test->priv;

	KUNIT_EXPECT_EQ(test, generic_error_remove_folio(t->mapping, folio), 0);
}

void ft_start_writeback(struct folio *folio)
{
	folio_lock(folio);
	folio_start_writeback(folio);
	folio_unlock(folio);
}

static struct folio *ft_stub(struct address_space *mapping, pgoff_t index,
			     unsigned long pages, fgf_t fgp_flags, gfp_t gfp)
{
	struct kunit *test = kunit_get_current_test();
	struct ft *t = test->priv;
	struct folio *folio = NULL;

	t->pages = pages;
	t->fgp_flags = fgp_flags;
	if (t->calls++ >= t->at)
		folio = t->interfere(test, index);
	if (folio) {
		/* As __filemap_get_folio() does. */
		if (folio == ERR_PTR(-ENOMEM) && (fgp_flags & FGP_NOWAIT))
			folio = ERR_PTR(-EAGAIN);
		return folio;
	}

	kunit_deactivate_static_stub(test, filemap_grab_one);
	folio = filemap_grab_one(mapping, index, pages, fgp_flags, gfp);
	kunit_activate_static_stub(test, filemap_grab_one, ft_stub);
	return folio;
}

/*
 * From its call number @at on, filemap_grab_one() calls @interfere first, and
 * returns its result unless it is NULL.
 */
void ft_interfere(struct kunit *test, int at,
		  struct folio *(*interfere)(struct kunit *, pgoff_t))
{
	struct ft *t = test->priv;

	t->calls = 0;
	t->at = at;
	t->interfere = interfere;
	kunit_activate_static_stub(test, filemap_grab_one, ft_stub);
}

struct folio *ft_enomem(struct kunit *test, pgoff_t index)
{
	return ERR_PTR(-ENOMEM);
}

/* Another task adds a folio at the index that is about to be filled. */
struct folio *ft_eexist(struct kunit *test, pgoff_t index)
{
	struct ft *t = test->priv;

	if (t->calls == t->at + 1)
		ft_add(test, index);
	return NULL;
}

/* The call. */

static void ft_poison(struct ft *t)
{
	memset(t->folios, 0xa5, sizeof(t->folios));
}

int ft_grab(struct kunit *test, pgoff_t start, pgoff_t end, fgf_t fgp_flags)
{
	struct ft *t = test->priv;
	int nr;

	ft_poison(t);
	nr = filemap_grab_folios(t->mapping, start, end, fgp_flags,
				 mapping_gfp_mask(t->mapping), t->folios);
	/* No more than there is room for, whatever is returned. */
	if (start <= end && end - start < FT_FOLIOS)
		ft_expect_poison(test, end - start + 1);
	if (nr >= 0)
		ft_expect_poison(test, nr);
	return nr;
}

void ft_release(struct kunit *test, int nr)
{
	struct ft *t = test->priv;

	filemap_release_folios(t->folios, nr);
}

/* The state after. */

/* The array of the result was not written from @nr on. */
void ft_expect_poison(struct kunit *test, int nr)
{
	struct ft *t = test->priv;

	KUNIT_EXPECT_NULL(test, memchr_inv(t->folios + nr, 0xa5,
					   (FT_FOLIOS - nr) * sizeof(*t->folios)));
}

/* The page cache is idle, and it has @nrpages pages. */
void ft_expect_cache(struct kunit *test, unsigned long nrpages)
{
	struct ft *t = test->priv;
	bool idle = ft_becomes_idle(t->mapping);
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

/* @folios are locked, of this mapping, and cover start..end without a gap. */
void ft_expect_covered(struct kunit *test, struct folio **folios, int nr,
		       pgoff_t start, pgoff_t end)
{
	struct ft *t = test->priv;
	pgoff_t index = start;

	KUNIT_ASSERT_GT(test, nr, 0);
	for (int i = 0; i < nr; i++) {
		struct folio *folio = folios[i];

		KUNIT_ASSERT_TRUE_MSG(test, folio_test_locked(folio) &&
				      folio->mapping == t->mapping,
				      "folio %d", i);
		KUNIT_EXPECT_TRUE_MSG(test, folio_contains(folio, index),
				      "folio %d is at %lu, not at %lu", i,
				      folio->index, index);
		KUNIT_EXPECT_GT(test, folio_ref_count(folio),
				folio_nr_pages(folio));
		index = folio_next_index(folio);
	}
	KUNIT_EXPECT_GE(test, index - 1, end);
	KUNIT_EXPECT_LE(test, folios[nr - 1]->index, end);
}

/* Calls in another task. */

int ft_grab_fn(void *data)
{
	struct ft_worker *w = data;

	w->nr = filemap_grab_folios(w->t->mapping, w->start, w->end,
				    w->fgp_flags, GFP_KERNEL, w->folios);
	complete_all(&w->grabbed);
	wait_for_completion(&w->release);
	if (w->nr > 0)
		filemap_release_folios(w->folios, w->nr);
	complete(&w->done);
	return 0;
}

static void ft_worker_free(void *data)
{
	struct ft_worker *w = data;

	complete_all(&w->release);
	/* A worker that is deadlocked keeps its memory. */
	if (wait_for_completion_timeout(&w->done, FT_TIMEOUT))
		kfree(w);
}

/* Call @fn in another task, for the range 0..@end. */
struct ft_worker *ft_start(struct kunit *test, int (*fn)(void *),
			   struct folio *locked, pgoff_t end, fgf_t fgp_flags)
{
	struct ft_worker *w = kzalloc_obj(*w);
	struct task_struct *task;

	KUNIT_ASSERT_NOT_NULL(test, w);
	w->test = test;
	w->t = test->priv;
	w->locked = locked;
	w->end = end;
	w->fgp_flags = fgp_flags;
	init_completion(&w->grabbed);
	init_completion(&w->release);
	init_completion(&w->done);

	task = kthread_run(fn, w, "filemap_kunit");
	if (IS_ERR(task))
		complete(&w->done);	/* no task will */
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, ft_worker_free, w),
			0);
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	return w;
}

int ft_finish(struct kunit *test, struct ft_worker *w)
{
	if (!wait_for_completion_timeout(&w->grabbed, FT_TIMEOUT))
		KUNIT_FAIL_AND_ABORT(test, "the worker hangs");
	KUNIT_EXPECT_FALSE(test, w->lost);
	return w->nr;
}

void ft_release_worker(struct kunit *test, struct ft_worker *w)
{
	kunit_release_action(test, ft_worker_free, w);
}

/* The worker got all of 0..@end.  Once it has released it, the cache is idle. */
void ft_expect_grabbed(struct kunit *test, struct ft_worker *w, pgoff_t end)
{
	KUNIT_EXPECT_EQ(test, ft_finish(test, w), end + 1);
	ft_expect_covered(test, w->folios, w->nr, 0, end);
	ft_release_worker(test, w);
	ft_expect_cache(test, end + 1);
}

/* Returns the first of @folios that has a waiter. */
int ft_wait_for_waiter(struct kunit *test, struct folio **folios, int nr)
{
	unsigned long timeout = jiffies + FT_TIMEOUT;

	do {
		for (int i = 0; i < nr; i++)
			if (folios[i] && folio_test_waiters(folios[i]))
				return i;
		usleep_range(100, 1000);
	} while (time_before(jiffies, timeout));

	KUNIT_FAIL(test, "no task waits");
	return -1;
}

/* Many calls in several tasks. */

void ft_stress_range(struct rnd_state *rnd, pgoff_t *start, pgoff_t *end)
{
	*start = prandom_u32_state(rnd) % FT_STRESS_PAGES;
	*end = *start + prandom_u32_state(rnd) % (FT_STRESS_PAGES - *start);
}

/* @folios are locked by this task only, in order, and all that there must be. */
void ft_stress_check(struct ft_stress *s, struct folio **folios, int nr,
		     pgoff_t start, pgoff_t end, bool creat)
{
	if (nr < 0 || (creat && nr != end - start + 1))
		atomic_inc(&s->wrong);
	for (int i = 0; i < nr; i++) {
		pgoff_t index = folios[i]->index;

		if (folios[i]->mapping != s->mapping || index < start ||
		    index > end || (creat && index != start + i) ||
		    (i && index <= folios[i - 1]->index) ||
		    atomic_inc_return(&s->owners[index]) != 1)
			atomic_inc(&s->wrong);
	}
	cond_resched();
	for (int i = 0; i < nr; i++)
		atomic_dec(&s->owners[folios[i]->index]);
}

void ft_stress_grab(struct ft_stress *s, struct rnd_state *rnd)
{
	bool creat = prandom_u32_state(rnd) % 4;
	struct folio *folios[FT_STRESS_PAGES];
	pgoff_t start, end;
	int nr;

	ft_stress_range(rnd, &start, &end);
	nr = filemap_grab_folios(s->mapping, start, end,
				 FGP_LOCK | (creat ? FGP_CREAT : 0), GFP_KERNEL,
				 folios);
	ft_stress_check(s, folios, nr, start, end, creat);
	if (nr > 0)
		filemap_release_folios(folios, nr);
}

static void ft_stress_call(struct ft_stress *s, struct rnd_state *rnd)
{
	s->grab(s, rnd);
}

static void ft_stress_truncate(struct ft_stress *s, struct rnd_state *rnd)
{
	loff_t from = prandom_u32_state(rnd) % FT_STRESS_PAGES;
	loff_t to = from + prandom_u32_state(rnd) % 8;

	truncate_inode_pages_range(s->mapping, from << PAGE_SHIFT,
				   ((to + 1) << PAGE_SHIFT) - 1);
}

static void ft_stress_reclaim(struct ft_stress *s, struct rnd_state *rnd)
{
	invalidate_mapping_pages(s->mapping, 0, FT_STRESS_PAGES);
	cond_resched();
}

static const struct ft_stress_thread {
	const char *name;
	void (*op)(struct ft_stress *s, struct rnd_state *rnd);
} ft_stress_threads[] = {
	{ "truncate", ft_stress_truncate },
	{ "reclaim", ft_stress_reclaim },
	{ "grab/1", ft_stress_call },
	{ "grab/2", ft_stress_call },
	{ "grab/3", ft_stress_call },
	{ "grab/4", ft_stress_call },
};

struct ft_stress_task {
	struct ft_stress *s;
	const struct ft_stress_thread *thread;
};

static int ft_stress_fn(void *data)
{
	struct ft_stress_task *task = data;
	struct ft_stress *s = task->s;
	struct rnd_state rnd;

	prandom_seed_state(&rnd, task->thread - ft_stress_threads + 1);
	for (int i = 0; i < FT_STRESS_ROUNDS; i++)
		task->thread->op(s, &rnd);
	kfree(task);
	if (atomic_dec_and_test(&s->running))
		complete(&s->done);
	return 0;
}

/* @threads tasks call @grab, one truncates, and one reclaims. */
void ft_stress(struct kunit *test, int threads,
	       void (*grab)(struct ft_stress *, struct rnd_state *))
{
	struct ft *t = test->priv;
	/* Not allocated by KUnit: deadlocked threads keep using it. */
	struct ft_stress *s = kzalloc_obj(*s);

	KUNIT_ASSERT_NOT_NULL(test, s);
	s->mapping = t->mapping;
	s->grab = grab;
	init_completion(&s->done);
	atomic_set(&s->running, threads + 2);

	for (int i = 0; i < threads + 2; i++) {
		struct ft_stress_task *task = kzalloc_obj(*task);

		KUNIT_ASSERT_NOT_NULL(test, task);
		task->s = s;
		task->thread = &ft_stress_threads[i];
		KUNIT_ASSERT_FALSE(test,
				   IS_ERR(kthread_run(ft_stress_fn, task, "%s",
						      task->thread->name)));
	}
	if (!wait_for_completion_timeout(&s->done, 6 * FT_TIMEOUT))
		KUNIT_FAIL_AND_ABORT(test, "deadlock");
	KUNIT_EXPECT_EQ(test, atomic_read(&s->wrong), 0);
	ft_expect_cache(test, t->mapping->nrpages);
	kfree(s);
}

MODULE_DESCRIPTION("KUnit tests for ranges of the page cache");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
