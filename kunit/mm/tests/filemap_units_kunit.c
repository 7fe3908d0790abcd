// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit scenario: a filesystem whose allocation unit is larger than a page.
 *
 * Run it with
 *	tools/testing/kunit/kunit.py run --kconfig_add CONFIG_SMP=y \
 *		--kconfig_add CONFIG_FILEMAP_UNITS_KUNIT_TEST=y filemap_units
 *
 * A unit is allocated as a whole, and what its blocks contained before must not
 * be seen.  So whoever allocates one, to write a single page of it, has to zero
 * the others, while readers, faults, writeback and truncation go on.  The first
 * part of this file is such a filesystem, made with filemap_grab_folios() and
 * filemap_grab_folios_locked(), on a disk that is full of STALE bytes.  The
 * second part uses it.  The properties enforced:
 *  - neither a reader nor a block of an allocated unit that is not about to be
 *    written ever shows STALE;
 *  - no update is lost: a page contains what was last stored in it, in memory
 *    under its lock, and on disk whenever it is clean;
 *  - cleaning a page adds none to the page cache;
 *  - nobody waits forever, and no lock and no reference is left behind.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/backing-dev.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/iopoll.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/debug.h>
#include <linux/sched/task.h>
#include <linux/swap.h>
#include <linux/vmalloc.h>
#include <linux/writeback.h>

#include "../internal.h"

#define STALE		0xaa
#define UNIT_PAGES	16
#define UNITS		3
#define PAGES		(UNITS * UNIT_PAGES)
#define MAX_THREADS	8
#define TEST_SLOT	MAX_THREADS
/* Of the second unit: the test also notices what happens to its neighbours. */
#define MIDDLE		24
/* Far longer than anything here takes: who waits longer is deadlocked. */
#define UNITS_TIMEOUT	(20 * HZ)

/* What a page begins with, one slot for each writer.  The rest stays zero. */
struct units_record {
	u32 stamp[MAX_THREADS + 1];
};

struct units_thread {
	struct units *u;
	struct task_struct *task;
	struct rnd_state rnd;
	char role;		/* see units_op() */
	char op;		/* what it does now, 0 at the end */
	pgoff_t page;		/* where */
};

struct units {
	struct kunit *test;
	struct inode *inode;
	struct address_space *mapping;
	void *disk;

	/*
	 * Which units are allocated.  Allocating one takes the locks of all its
	 * folios, and invalidate_lock to keep those out that are not present:
	 * shared if there are none.  Freeing one takes it exclusively.
	 */
	DECLARE_BITMAP(allocated, UNITS);

	/* What the pages should contain; changes under the folio lock. */
	struct units_record expected[PAGES];
	atomic_t stamp;

	/* The first thing that went wrong. */
	atomic_t wrong;
	const char *what;
	pgoff_t where;

	u64 seed;
	int rounds;
	atomic_t running;
	struct completion done;
	struct units_thread threads[MAX_THREADS];
};

/* May be called by any task, unlike KUNIT_FAIL(). */
static void units_wrong(struct units *u, const char *what, pgoff_t page)
{
	if (atomic_fetch_inc(&u->wrong))
		return;
	u->what = what;
	u->where = page;
}

/* The filesystem. */

static pgoff_t unit_start(pgoff_t page)
{
	return round_down(page, UNIT_PAGES);
}

static pgoff_t unit_end(pgoff_t page)
{
	return unit_start(page) + UNIT_PAGES - 1;
}

static bool unit_is_hole(const struct units *u, pgoff_t page)
{
	return !test_bit(page / UNIT_PAGES, u->allocated);
}

/* From here on, whoever reads a page of the unit from disk gets STALE bytes. */
static bool unit_allocate(struct units *u, pgoff_t page)
{
	return !test_and_set_bit(page / UNIT_PAGES, u->allocated);
}

static void *units_block(struct units *u, pgoff_t page)
{
	return u->disk + page * PAGE_SIZE;
}

static struct units *units_of(const struct address_space *mapping)
{
	return mapping->host->i_private;
}

static void units_fill_folio(struct units *u, struct folio *folio, bool hole)
{
	if (folio_test_uptodate(folio))
		return;
	if (hole)
		folio_zero_range(folio, 0, PAGE_SIZE);
	else
		memcpy_to_folio(folio, 0, units_block(u, folio->index),
				PAGE_SIZE);
	folio_mark_uptodate(folio);
}

/* Reads the whole unit, as if it were compressed. */
static int units_read_folio(struct file *file, struct folio *folio)
{
	struct units *u = units_of(folio->mapping);
	struct folio *folios[UNIT_PAGES];
	int nr;

	nr = filemap_grab_folios_locked(folio, unit_start(folio->index),
					unit_end(folio->index),
					FGP_LOCK | FGP_CREAT,
					mapping_gfp_mask(u->mapping), folios);
	if (nr > 0) {
		/* Some are uptodate, and @folio may have become it meanwhile. */
		for (int i = 0; i < nr; i++)
			units_fill_folio(u, folios[i],
					 unit_is_hole(u, folio->index));
		filemap_release_folios_locked(folio, folios, nr);
	}
	folio_unlock(folio);
	return nr == -ESTALE ? AOP_TRUNCATED_PAGE : min(nr, 0);
}

/* filemap_grab_folios_locked() wants to see it; only ->read_folio is used. */
static void units_readahead(struct readahead_control *rac)
{
}

/* All @folios of a unit that was a hole are locked.  Is it still one? */
static void units_instantiate(struct units *u, struct folio **folios, int nr)
{
	bool hole = unit_allocate(u, folios[0]->index);

	for (int i = 0; i < nr; i++) {
		units_fill_folio(u, folios[i], hole);
		if (hole)
			folio_mark_dirty(folios[i]);
	}
}

static void units_store(struct units *u, struct folio *folio, int slot)
{
	struct units_record *record = kmap_local_folio(folio, 0);
	u32 stamp = atomic_inc_return(&u->stamp);

	record->stamp[slot] = stamp;
	u->expected[folio->index].stamp[slot] = stamp;
	kunmap_local(record);
}

/* write(2) to a part of each of the pages @page..@last of a unit. */
static int units_write(struct units *u, pgoff_t page, pgoff_t last, int slot)
{
	struct address_space *mapping = u->mapping;
	struct folio *folios[UNIT_PAGES];
	pgoff_t start = page, end = last;
	bool hole;
	int nr;

	filemap_invalidate_lock_shared(mapping);
	hole = unit_is_hole(u, page);
	if (hole) {
		start = unit_start(page);
		end = unit_end(page);
	}
	nr = filemap_grab_folios(mapping, start, end, FGP_WRITEBEGIN,
				 mapping_gfp_mask(mapping), folios);
	if (hole && nr > 0)
		units_instantiate(u, folios, nr);
	for (int i = 0; i < nr; i++) {
		if (folios[i]->index < page || folios[i]->index > last)
			continue;
		units_fill_folio(u, folios[i], false);
		units_store(u, folios[i], slot);
		folio_mark_dirty(folios[i]);
	}
	filemap_release_folios(folios, max(nr, 0));
	filemap_invalidate_unlock_shared(mapping);
	return min(nr, 0);
}

/*
 * Like ->page_mkwrite.  If @delay, the unit remains a hole with a dirty folio,
 * and writeback allocates it.
 */
static vm_fault_t units_page_mkwrite(struct units *u, struct folio *folio,
				     bool delay)
{
	struct address_space *mapping = u->mapping;
	struct folio *folios[UNIT_PAGES];
	vm_fault_t ret = VM_FAULT_NOPAGE;
	int nr;

	filemap_invalidate_lock_shared(mapping);
	folio_lock(folio);
	if (folio->mapping != mapping)
		goto unlock;

	if (!delay && unit_is_hole(u, folio->index)) {
		nr = filemap_grab_folios_locked(folio, unit_start(folio->index),
						unit_end(folio->index),
						FGP_WRITEBEGIN,
						mapping_gfp_mask(mapping),
						folios);
		if (nr < 0) {
			/* Truncated?  Then the fault is to be repeated. */
			if (nr != -ESTALE)
				ret = vmf_error(nr);
			goto unlock;
		}
		units_instantiate(u, folios, nr);
		filemap_release_folios_locked(folio, folios, nr);
	}
	folio_mark_dirty(folio);
	filemap_invalidate_unlock_shared(mapping);
	return VM_FAULT_LOCKED;

unlock:
	folio_unlock(folio);
	filemap_invalidate_unlock_shared(mapping);
	return ret;
}

static void units_write_folio(struct units *u, struct folio *folio, bool hole)
{
	if (hole)
		units_fill_folio(u, folio, hole);
	if (!folio_clear_dirty_for_io(folio) && !hole)
		return;

	folio_start_writeback(folio);
	memcpy_from_folio(units_block(u, folio->index), folio, 0, PAGE_SIZE);
	folio_end_writeback(folio);
}

/*
 * Adding folios must not be a condition for cleaning one.  What is not present
 * is zeroed on disk, and invalidate_lock sees to it that it remains absent.
 */
static int units_write_unit(struct units *u, pgoff_t page)
{
	unsigned long nrpages = u->mapping->nrpages;
	pgoff_t end = unit_end(page);
	struct folio *folios[UNIT_PAGES];
	bool hole;
	int nr, i = 0;

	nr = filemap_grab_folios(u->mapping, unit_start(page), end, FGP_LOCK, 0,
				 folios);
	if (nr < 0)
		return nr;

	hole = unit_allocate(u, page);
	for (page = unit_start(page); page <= end; page++) {
		if (i < nr && folios[i]->index == page)
			units_write_folio(u, folios[i++], hole);
		else if (hole)
			memset(units_block(u, page), 0, PAGE_SIZE);
	}
	filemap_release_folios(folios, nr);

	/* Reclaim may have taken some, but nobody adds any. */
	if (u->mapping->nrpages > nrpages)
		units_wrong(u, "writeback is not alone", end);
	return 0;
}

static bool units_page_is(const struct units_record *record, const void *data)
{
	return !memcmp(data, record, sizeof(*record)) &&
	       !memchr_inv(data + sizeof(*record), 0,
			   PAGE_SIZE - sizeof(*record));
}

/*
 * Whoever holds invalidate_lock exclusively sees a disk on which nobody works.
 * What is clean is as on disk, and in a hole it is zero.
 */
static void units_check_disk(struct units *u, pgoff_t page)
{
	pgoff_t end = unit_end(page);

	lockdep_assert_held_write(&u->mapping->invalidate_lock);
	for (page = unit_start(page); page <= end; page++) {
		const struct units_record *expected = &u->expected[page];

		if (xa_get_mark(&u->mapping->i_pages, page,
				PAGECACHE_TAG_DIRTY))
			continue;
		if (unit_is_hole(u, page) ?
		    !!memchr_inv(expected, 0, sizeof(*expected)) :
		    !units_page_is(expected, units_block(u, page)))
			units_wrong(u, "wrong on disk", page);
	}
}

static int units_writepages(struct address_space *mapping,
			    struct writeback_control *wbc)
{
	struct units *u = units_of(mapping);
	pgoff_t page = 0;
	int err = 0;

	while (!err && page < PAGES) {
		filemap_invalidate_lock(mapping);
		if (xa_find(&mapping->i_pages, &page, PAGES - 1,
			    PAGECACHE_TAG_DIRTY)) {
			err = units_write_unit(u, page);
			units_check_disk(u, page);
			page = unit_end(page) + 1;
		} else {
			page = PAGES;
		}
		filemap_invalidate_unlock(mapping);
	}
	return err;
}

/* fallocate(2) with FALLOC_FL_PUNCH_HOLE. */
static void units_punch(struct units *u, pgoff_t page)
{
	loff_t start = unit_start(page) * PAGE_SIZE;
	size_t size = UNIT_PAGES * PAGE_SIZE;

	filemap_invalidate_lock(u->mapping);
	truncate_inode_pages_range(u->mapping, start, start + size - 1);
	memset(u->disk + start, STALE, size);
	clear_bit(page / UNIT_PAGES, u->allocated);
	memset(&u->expected[unit_start(page)], 0,
	       UNIT_PAGES * sizeof(*u->expected));
	filemap_invalidate_unlock(u->mapping);
}

static const struct address_space_operations units_aops = {
	.read_folio = units_read_folio,
	.readahead = units_readahead,
	.writepages = units_writepages,
	.dirty_folio = filemap_dirty_folio,
	.migrate_folio = filemap_migrate_folio,
};

/* Its users. */

/* Returns an uptodate folio, as filemap_read() and filemap_fault() get it. */
static struct folio *units_get_folio(struct units *u, pgoff_t page)
{
	struct folio *folio = filemap_get_folio(u->mapping, page);

	if (!IS_ERR(folio)) {
		if (folio_test_uptodate(folio))
			return folio;
		folio_put(folio);
	}

	filemap_invalidate_lock_shared(u->mapping);
	folio = read_mapping_folio(u->mapping, page, NULL);
	filemap_invalidate_unlock_shared(u->mapping);
	return folio;
}

static int units_read(struct units *u, pgoff_t page)
{
	struct folio *folio = units_get_folio(u, page);
	void *data;

	if (IS_ERR(folio))
		return PTR_ERR(folio);

	/* read(2) does not lock it. */
	data = kmap_local_folio(folio, 0);
	if (memchr_inv(data + sizeof(struct units_record), 0,
		       PAGE_SIZE - sizeof(struct units_record)))
		units_wrong(u, "stale data read", page);

	folio_lock(folio);
	if (folio->mapping && !units_page_is(&u->expected[page], data))
		units_wrong(u, "wrong data read", page);
	folio_unlock(folio);
	kunmap_local(data);
	folio_put(folio);
	return 0;
}

/* A store through a shared mapping of the page that is not writable yet. */
static int units_fault(struct units *u, pgoff_t page, int slot, bool delay)
{
	struct folio *folio;
	vm_fault_t ret;

	do {
		folio = units_get_folio(u, page);
		if (IS_ERR(folio))
			return PTR_ERR(folio);
		ret = units_page_mkwrite(u, folio, delay);
		if (ret == VM_FAULT_LOCKED) {
			units_store(u, folio, slot);
			folio_unlock(folio);
		}
		folio_put(folio);
	} while (ret == VM_FAULT_NOPAGE);

	return ret == VM_FAULT_LOCKED ? 0 : -EFAULT;
}

/* Set up, take down. */

static struct vfsmount *units_mnt;

static int units_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x756e6974) ? 0 : -ENOMEM;
}

static struct file_system_type units_fs_type = {
	.name = "filemap_units_kunit",
	.init_fs_context = units_init_fs_context,
	.kill_sb = kill_anon_super,
};

static int units_suite_init(struct kunit_suite *suite)
{
	int err;

	units_mnt = kern_mount(&units_fs_type);
	if (IS_ERR(units_mnt))
		return PTR_ERR(units_mnt);

	err = super_setup_bdi(units_mnt->mnt_sb);
	if (err)
		kern_unmount(units_mnt);
	return err;
}

static void units_suite_exit(struct kunit_suite *suite)
{
	/* KUnit calls this after a failed units_suite_init(), too. */
	if (!suite->suite_init_err)
		kern_unmount(units_mnt);
}

static int units_init(struct kunit *test)
{
	/* Not of KUnit: deadlocked threads keep using it. */
	struct units *u = kzalloc_obj(*u);
	void *memory;

	KUNIT_ASSERT_NOT_NULL(test, u);
	test->priv = u;
	u->test = test;
	init_completion(&u->done);
	u->disk = vmalloc(PAGES * PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, u->disk);
	memset(u->disk, STALE, PAGES * PAGE_SIZE);

	/* Memory that is allocated now is not any cleaner than the disk. */
	memory = alloc_pages_exact(2 * PAGES * PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, memory);
	memset(memory, STALE, 2 * PAGES * PAGE_SIZE);
	free_pages_exact(memory, 2 * PAGES * PAGE_SIZE);

	u->inode = alloc_anon_inode(units_mnt->mnt_sb);
	KUNIT_ASSERT_FALSE(test, IS_ERR(u->inode));
	u->inode->i_mode = S_IFREG | 0600;
	u->inode->i_private = u;
	u->mapping = u->inode->i_mapping;
	u->mapping->a_ops = &units_aops;
	mapping_set_gfp_mask(u->mapping, GFP_KERNEL);
	/* Writeback counts there, also without a dirty folio. */
	inode_attach_wb(u->inode, NULL);
	return 0;
}

/* Under the lock nobody can replace and free what is looked at. */
static bool units_idle(struct units *u)
{
	unsigned long index;
	struct folio *folio;
	bool idle = true;

	xa_lock_irq(&u->mapping->i_pages);
	xa_for_each(&u->mapping->i_pages, index, folio) {
		if (!xa_is_value(folio) &&
		    (folio->mapping != u->mapping ||
		     folio_test_locked(folio) || folio_ref_count(folio) != 1))
			idle = false;
	}
	xa_unlock_irq(&u->mapping->i_pages);
	return idle;
}

/* What is left locked or referenced? */
static void units_exit(struct kunit *test)
{
	struct units *u = test->priv;
	unsigned long index;
	struct folio *folio;
	bool busy, idle;

	if (!u || IS_ERR_OR_NULL(u->inode))
		goto free;

	KUNIT_EXPECT_EQ_MSG(test, atomic_read(&u->wrong), 0,
			    "%s: page %lu, seed %llu", u->what, u->where,
			    u->seed);
	busy = rwsem_is_locked(&u->mapping->invalidate_lock);
	/* New and accessed folios have a reference of the per-CPU batches. */
	lru_add_drain_all();
	/*
	 * Compaction, or whoever takes memory offline, has one for a moment, and
	 * the lock; what was forgotten stays.
	 */
	read_poll_timeout(units_idle, idle, idle, USEC_PER_MSEC,
			  200 * USEC_PER_MSEC, false, u);
	if (!idle) {
		xa_for_each(&u->mapping->i_pages, index, folio) {
			if (xa_is_value(folio))
				continue;
			KUNIT_EXPECT_EQ_MSG(test, folio_ref_count(folio), 1,
					    "folio %lu", index);
			busy |= folio_test_locked(folio) ||
				folio->mapping != u->mapping ||
				!folio_ref_count(folio);
		}
	}
	if (busy) {
		/* Somebody may still use it: keep all of it. */
		KUNIT_FAIL(test,
			   "a folio or invalidate_lock left locked, or freed");
		mntget(units_mnt);
		return;
	}
	truncate_inode_pages(u->mapping, 0);
	KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 0UL);
	iput(u->inode);
free:
	if (u)
		vfree(u->disk);
	kfree(u);
}

/* Tasks. */

static int units_op(struct units *u, char op, pgoff_t page, int slot)
{
	pgoff_t end = unit_end(page);

	switch (op) {
	case 'r':
		return units_read(u, page);
	case 'w':
		return units_write(u, page, min(page + slot, end), slot);
	case 'f':
		return units_fault(u, page, slot, false);
	case 's':	/* a store that nobody is told about, as in 2005 */
		return units_fault(u, page, slot, true);
	case 'c':	/* clean everything */
		return filemap_write_and_wait(u->mapping);
	case 'd':	/* drop clean folios: as direct I/O does, and reclaim */
		invalidate_inode_pages2_range(u->mapping, page,
					      min(page + 4, end));
		invalidate_mapping_pages(u->mapping, unit_start(page), end);
		return 0;
	case 'p':	/* punch a hole */
		units_punch(u, page);
		return 0;
	}
	return -EINVAL;
}

static int units_thread_fn(void *data)
{
	struct units_thread *thread = data;
	struct units *u = thread->u;

	/* The stub of the test is that of whoever only cleans. */
	if (thread->role == 'c')
		current->kunit_test = u->test;

	for (int i = 0; i < u->rounds; i++) {
		static const char any[16] __nonstring = "rrrwwwfffssscddp";
		u32 random = prandom_u32_state(&thread->rnd);
		char op = thread->role;

		if (op == 'x')
			op = any[random % 16];
		WRITE_ONCE(thread->op, op);
		if (units_op(u, op, thread->page, thread - u->threads))
			units_wrong(u, "unexpected error", thread->page);
		thread->page = random / 16 % PAGES;
	}
	WRITE_ONCE(thread->op, 0);
	if (atomic_dec_and_test(&u->running))
		complete(&u->done);
	return 0;
}

/* One task for each of @roles.  All begin with MIDDLE. */
static void start_threads(struct kunit *test, const char *roles, int rounds)
{
	struct units *u = test->priv;
	int nr = strlen(roles);

	reinit_completion(&u->done);
	atomic_set(&u->running, nr);
	u->rounds = rounds;
	for (int i = 0; i < nr; i++) {
		struct units_thread *thread = &u->threads[i];

		thread->u = u;
		thread->role = roles[i];
		thread->page = MIDDLE;
		prandom_seed_state(&thread->rnd, u->seed + i);
		thread->task = kthread_create(units_thread_fn, thread,
					      "filemap_units/%c", roles[i]);
		if (IS_ERR(thread->task)) {
			while (i--)
				kthread_stop_put(u->threads[i].task);
			KUNIT_FAIL_AND_ABORT(test, "no thread");
		}
		get_task_struct(thread->task);
	}
	for (int i = 0; i < nr; i++)
		wake_up_process(u->threads[i].task);
}

static void finish_threads(struct kunit *test)
{
	struct units *u = test->priv;
	bool done = wait_for_completion_timeout(&u->done, UNITS_TIMEOUT);

	for (int i = 0; i < MAX_THREADS && u->threads[i].task; i++) {
		struct units_thread *thread = &u->threads[i];
		char op = READ_ONCE(thread->op);

		if (done) {
			kthread_stop_put(thread->task);
			thread->task = NULL;
		} else if (op) {
			kunit_err(test, "task %d waits: '%c' of page %lu\n", i,
				  op, thread->page);
			sched_show_task(thread->task);
		}
	}
	if (!done)
		KUNIT_FAIL_AND_ABORT(test, "deadlock, seed %llu", u->seed);
}

/* Helpers of the cases. */

static struct folio *stub_create(struct address_space *mapping, pgoff_t index,
				 unsigned int order, fgf_t fgp_flags, gfp_t gfp)
{
	units_wrong(units_of(mapping), "writeback allocates page cache", index);
	/* do_writepages() would repeat what fails with -ENOMEM. */
	return ERR_PTR(-EIO);
}

static void clean(struct kunit *test)
{
	struct units *u = test->priv;

	kunit_activate_static_stub(test, filemap_grab_create, stub_create);
	KUNIT_EXPECT_EQ(test, filemap_write_and_wait(u->mapping), 0);
	kunit_deactivate_static_stub(test, filemap_grab_create);
}

static int count_dirty(struct units *u)
{
	struct folio *folio;
	unsigned long index;
	int nr = 0;

	xa_for_each_marked(&u->mapping->i_pages, index, folio,
			   PAGECACHE_TAG_DIRTY)
		nr++;
	return nr;
}

/* The disk is right as it is, and so is the file, even if read from disk. */
static void expect_consistent(struct kunit *test)
{
	struct units *u = test->priv;

	for (int pass = 0; pass < 2; pass++) {
		filemap_invalidate_lock(u->mapping);
		for (pgoff_t page = 0; page < PAGES; page += UNIT_PAGES)
			units_check_disk(u, page);
		filemap_invalidate_unlock(u->mapping);

		for (pgoff_t page = 0; page < PAGES; page++)
			KUNIT_EXPECT_EQ(test, units_read(u, page), 0);
		clean(test);
		KUNIT_EXPECT_EQ(test, invalidate_inode_pages2(u->mapping), 0);
		KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 0UL);
	}
}

/* There are @dirty folios, and the second unit is the only one allocated. */
static void expect_second_unit(struct kunit *test, int dirty)
{
	struct units *u = test->priv;

	KUNIT_EXPECT_EQ(test, count_dirty(u), dirty);
	clean(test);
	KUNIT_EXPECT_EQ(test, count_dirty(u), 0);
	KUNIT_EXPECT_EQ(test, *u->allocated, 2UL);
	expect_consistent(test);
}

static void wait_for_waiter(struct kunit *test, struct folio *folio)
{
	bool waits;

	KUNIT_EXPECT_EQ_MSG(test,
			    read_poll_timeout(folio_test_waiters, waits, waits,
					      100, 20 * USEC_PER_SEC, false,
					      folio),
			    0, "nobody waits");
}

/* The cases. */

static const int units_pages[] = { 16, 17, MIDDLE, 31 };

static void units_page_desc(const int *page, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "page %d of %d",
		 *page % UNIT_PAGES, UNIT_PAGES);
}

KUNIT_ARRAY_PARAM(units_page, units_pages, units_page_desc);

static void units_hole(struct kunit *test)
{
	int page = *(const int *)test->param_value;
	struct units *u = test->priv;

	KUNIT_EXPECT_EQ(test, units_read(u, page), 0);
	KUNIT_EXPECT_EQ(test, u->mapping->nrpages, UNIT_PAGES);
	expect_consistent(test);
	KUNIT_EXPECT_TRUE(test, bitmap_empty(u->allocated, UNITS));
	KUNIT_EXPECT_NULL(test, memchr_inv(u->disk, STALE, PAGES * PAGE_SIZE));
}

static void units_allocation(struct kunit *test)
{
	int page = *(const int *)test->param_value;
	struct units *u = test->priv;

	for (const char *op = "wfs"; *op; op++) {
		/* A hole, by the second time a unit with a page of data. */
		KUNIT_EXPECT_EQ(test, units_op(u, *op, page, 0), 0);
		KUNIT_EXPECT_EQ(test, u->mapping->nrpages, UNIT_PAGES);
		expect_second_unit(test, *op == 's' ? 1 : UNIT_PAGES);
		KUNIT_EXPECT_EQ(test, units_op(u, *op, page, 0), 0);
		expect_second_unit(test, 1);

		units_punch(u, page);
		KUNIT_EXPECT_TRUE(test, bitmap_empty(u->allocated, UNITS));
		KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 0UL);
		expect_consistent(test);
	}
}

/* One folio is dirty, another one perhaps not even read, the rest is absent. */
static void units_writeback_of_a_hole(struct kunit *test)
{
	int page = *(const int *)test->param_value;
	struct units *u = test->priv;

	for (int others = 0; others < 2; others++) {
		KUNIT_EXPECT_EQ(test, units_fault(u, page, 0, true), 0);
		invalidate_inode_pages2(u->mapping);
		if (others) {
			struct folio *folio = filemap_grab_folio(u->mapping, 20);

			KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
			folio_unlock(folio);
			folio_put(folio);
		}
		KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 1UL + others);
		expect_second_unit(test, 1);
		units_punch(u, page);
	}
}

/* Until writeback that has to wait is done with the unit, none is added. */
static void units_writeback_keeps_others_out(struct kunit *test)
{
	struct units *u = test->priv;
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, units_fault(u, MIDDLE, TEST_SLOT, true), 0);
	folio = filemap_lock_folio(u->mapping, MIDDLE);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	start_threads(test, "c", 1);
	wait_for_waiter(test, folio);
	if (filemap_invalidate_trylock_shared(u->mapping)) {
		KUNIT_FAIL(test, "others could add folios");
		filemap_invalidate_unlock_shared(u->mapping);
	}
	folio_unlock(folio);
	folio_put(folio);
	finish_threads(test);
	expect_second_unit(test, 0);
}

static void units_roles_desc(const char * const *roles, char *desc)
{
	strscpy(desc, *roles, KUNIT_PARAM_DESC_SIZE);
}

/* One task reads or faults, another one stores to the page, or drops it. */
static const char * const units_meanwhiles[] = { "rs", "rd", "fs", "fd" };

KUNIT_ARRAY_PARAM(units_meanwhile, units_meanwhiles, units_roles_desc);

/* The one waits for a lower folio, and has let go of its own meanwhile. */
static void units_meanwhile(struct kunit *test)
{
	const char *roles = *(const char * const *)test->param_value;
	const char role[] = { roles[0], 0 };
	struct units *u = test->priv;
	struct folio *low, *folio;

	if (roles[0] == 'f')
		KUNIT_ASSERT_EQ(test, units_read(u, MIDDLE), 0);
	low = filemap_grab_folio(u->mapping, MIDDLE - 5);
	KUNIT_ASSERT_FALSE(test, IS_ERR(low));
	start_threads(test, role, 1);
	wait_for_waiter(test, low);
	KUNIT_EXPECT_TRUE(test, rwsem_is_locked(&u->mapping->invalidate_lock));

	folio = filemap_lock_folio(u->mapping, MIDDLE);
	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	if (roles[1] == 'd') {
		generic_error_remove_folio(u->mapping, folio);
	} else {
		units_fill_folio(u, folio, true);
		units_store(u, folio, TEST_SLOT);
		folio_mark_dirty(folio);
	}
	folio_unlock(folio);
	folio_put(folio);

	folio_unlock(low);
	folio_put(low);
	finish_threads(test);
	KUNIT_EXPECT_EQ(test, u->mapping->nrpages, UNIT_PAGES);
	expect_consistent(test);
}

/* See units_op().  An x does any of it. */
static const char * const units_races[] = {
	"ww", "rw", "ff", "rf", "sc", "wfc", "rsc", "rwcp", "rfdp", "xxx",
	"wfsrcd", "wwffrrcd", "ssrrccdp", "wfsrrcdp", "xxxxxxxx",
};

KUNIT_ARRAY_PARAM(units_race, units_races, units_roles_desc);

static void units_race(struct kunit *test)
{
	const char *roles = *(const char * const *)test->param_value;
	struct units *u = test->priv;

	for (u->seed = 1; u->seed <= 2; u->seed++) {
		kunit_activate_static_stub(test, filemap_grab_create,
					   stub_create);
		start_threads(test, roles, 800 / strlen(roles));
		finish_threads(test);
		kunit_deactivate_static_stub(test, filemap_grab_create);

		clean(test);
		expect_consistent(test);
		if (atomic_read(&u->wrong))
			break;
	}
}

static struct kunit_case units_cases[] = {
	KUNIT_CASE_PARAM(units_hole, units_page_gen_params),
	KUNIT_CASE_PARAM(units_allocation, units_page_gen_params),
	KUNIT_CASE_PARAM(units_writeback_of_a_hole, units_page_gen_params),
	KUNIT_CASE(units_writeback_keeps_others_out),
	KUNIT_CASE_PARAM(units_meanwhile, units_meanwhile_gen_params),
	KUNIT_CASE_PARAM(units_race, units_race_gen_params),
	{}
};

static struct kunit_suite units_suite = {
	.name = "filemap_units",
	.suite_init = units_suite_init,
	.suite_exit = units_suite_exit,
	.init = units_init,
	.exit = units_exit,
	.test_cases = units_cases,
};

kunit_test_suite(units_suite);

MODULE_DESCRIPTION("KUnit scenario of a filesystem with large units");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
