// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit scenario: several tasks use the filesystem of units_fs.c, on a disk that
 * is full of STALE bytes.
 *
 * Run it with
 *	tools/testing/kunit/kunit.py run --kconfig_add CONFIG_SMP=y \
 *		--kconfig_add CONFIG_FILEMAP_KUNIT_TEST=y filemap_units
 *
 * The properties checked:
 *  - neither a read nor a clean block of an allocated unit ever shows STALE;
 *  - no update is lost: a page contains what was last stored in it, in memory
 *    under its lock, and on disk whenever it is clean;
 *  - cleaning a page adds none to the page cache;
 *  - no task deadlocks, and no lock and no reference is left behind.
 */
#include <linux/backing-dev.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/prandom.h>
#include <linux/sched/debug.h>
#include <linux/sched/task.h>
#include <linux/vmalloc.h>

#include "filemap_fixture.h"
#include "units_fs.h"

#define MAX_THREADS	8
#define TEST_SLOT	MAX_THREADS
/* In the second unit: the test also notices what happens to its neighbours. */
#define MIDDLE		24

/* What a page begins with, one slot for each writer.  The rest stays zero. */
struct units_record {
	u32 stamp[MAX_THREADS + 1];
};

struct units_thread {
	struct units_test *t;
	struct task_struct *task;
	struct rnd_state rnd;
	char role;		/* see units_ops */
	char op;		/* what it does now, 0 at the end */
	pgoff_t page;		/* where */
};

struct units_test {
	struct units u;
	struct kunit *test;
	struct inode *inode;

	/* What the pages should contain; changes under the folio lock. */
	struct units_record expected[PAGES];
	atomic_t stamp;

	/* The first thing that went wrong. */
	atomic_t wrong;
	const char *what;
	pgoff_t where;

	u64 seed;
	int rounds;
	bool deadlock;
	atomic_t running;
	struct completion done;
	struct units_thread threads[MAX_THREADS];
};

static struct units_test *test_of(struct units *u)
{
	return container_of(u, struct units_test, u);
}

/* May be called by any task, unlike KUNIT_FAIL(). */
static void units_wrong(struct units *u, const char *what, pgoff_t page)
{
	struct units_test *t = test_of(u);

	if (atomic_fetch_inc(&t->wrong))
		return;
	t->what = what;
	t->where = page;
}

/* What the filesystem calls. */

void units_store(struct units *u, struct folio *folio, int slot)
{
	struct units_record *record = kmap_local_folio(folio, 0);
	struct units_test *t = test_of(u);
	u32 stamp = atomic_inc_return(&t->stamp);

	record->stamp[slot] = stamp;
	t->expected[folio->index].stamp[slot] = stamp;
	kunmap_local(record);
}

void units_punched(struct units *u, pgoff_t page)
{
	memset(&test_of(u)->expected[unit_start(page)], 0,
	       UNIT_PAGES * sizeof(struct units_record));
}

/* What its users do. */

static bool units_page_is(const struct units_record *record, const void *data)
{
	return !memcmp(data, record, sizeof(*record)) &&
	       !memchr_inv(data + sizeof(*record), 0,
			   PAGE_SIZE - sizeof(*record));
}

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
	if (folio->mapping && !units_page_is(&test_of(u)->expected[page], data))
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

/*
 * With invalidate_lock held exclusively, no folio is added.  Clean ones are as
 * on disk, and in a hole they are zero.
 */
static void units_check_page(struct units *u, pgoff_t page)
{
	const struct units_record *expected = &test_of(u)->expected[page];
	struct folio *folio = filemap_lock_folio(u->mapping, page);
	bool dirty = false;

	if (!IS_ERR(folio))
		dirty = folio_test_dirty(folio);
	if (!dirty && unit_is_hole(u, page)) {
		if (memchr_inv(expected, 0, sizeof(*expected)))
			units_wrong(u, "lost, in a hole", page);
	} else if (!dirty && !units_page_is(expected, units_block(u, page))) {
		units_wrong(u, "wrong on disk", page);
	}
	if (!IS_ERR(folio)) {
		folio_unlock(folio);
		folio_put(folio);
	}
}

static int units_check_disk(struct units *u)
{
	filemap_invalidate_lock(u->mapping);
	for (pgoff_t page = 0; page < PAGES; page++)
		units_check_page(u, page);
	filemap_invalidate_unlock(u->mapping);
	return 0;
}

/* A test is a string of these, one for each task. */
static const struct units_op {
	char op;
	const char *name;
} units_ops[] = {
	{ 'r', "read a page" },
	{ 'w', "write(2) to some pages" },
	{ 'f', "store through a mapping: ->page_mkwrite allocates the unit" },
	{ 's', "the same as before 2.6.18: writeback allocates the unit" },
	{ 'c', "clean all pages" },
	{ 'd', "drop clean folios, as direct I/O and reclaim do" },
	{ 'p', "punch a hole" },
	{ 'F', "flush, with invalidate_lock held exclusively" },
	{ 'a', "fallocate(2), with invalidate_lock held exclusively" },
	{ 'k', "compare clean pages with the disk" },
	{ 'x', "any of them" },
};

static const char *units_op_name(char op)
{
	for (int i = 0; i < ARRAY_SIZE(units_ops); i++)
		if (units_ops[i].op == op)
			return units_ops[i].name;
	return "?";
}

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
	case 's':
		return units_fault(u, page, slot, true);
	case 'c':
		return filemap_write_and_wait(u->mapping);
	case 'd':
		invalidate_inode_pages2_range(u->mapping, page,
					      min(page + 4, end));
		invalidate_mapping_pages(u->mapping, unit_start(page), end);
		return 0;
	case 'p':
		units_punch(u, page);
		return 0;
	case 'F':
		return units_flush(u);
	case 'a':
		return units_fallocate(u, page);
	case 'k':
		return units_check_disk(u);
	}
	return -EINVAL;
}

/* Set up, take down. */

static int units_init(struct kunit *test)
{
	/* Not allocated by KUnit: deadlocked threads keep using it. */
	struct units_test *t = kzalloc_obj(*t);
	struct units *u = &t->u;
	void *memory;

	KUNIT_ASSERT_NOT_NULL(test, t);
	test->priv = t;
	t->test = test;
	init_completion(&t->done);
	mutex_init(&u->map_lock);
	u->disk = vmalloc(PAGES * PAGE_SIZE);
	KUNIT_ASSERT_NOT_NULL(test, u->disk);
	memset(u->disk, STALE, PAGES * PAGE_SIZE);

	/* Make the memory that is allocated now as stale as the disk. */
	memory = alloc_pages_exact(2 * PAGES * PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, memory);
	memset(memory, STALE, 2 * PAGES * PAGE_SIZE);
	free_pages_exact(memory, 2 * PAGES * PAGE_SIZE);

	t->inode = ft_inode(test);
	t->inode->i_private = u;
	u->mapping = t->inode->i_mapping;
	u->mapping->a_ops = &units_aops;
	return 0;
}

static void units_exit(struct kunit *test)
{
	struct units_test *t = test->priv;

	if (!t)
		return;
	if (t->inode) {
		KUNIT_EXPECT_EQ_MSG(test, atomic_read(&t->wrong), 0,
				    "%s: page %lu, seed %llu", t->what,
				    t->where, t->seed);
		if (rwsem_is_locked(&t->u.mapping->invalidate_lock) ||
		    t->deadlock) {
			KUNIT_FAIL(test, "invalidate_lock or a task is left");
			ft_keep_mount();
			return;
		}
		ft_evict(test, t->inode);
	}
	vfree(t->u.disk);
	kfree(t);
}

/* Tasks. */

static int units_thread_fn(void *data)
{
	struct units_thread *thread = data;
	struct units_test *t = thread->t;

	/* Tasks that only write back use the stub of the test. */
	if (strchr("cFa", thread->role))
		current->kunit_test = t->test;

	for (int i = 0; i < t->rounds; i++) {
		static const char any[16] __nonstring = "rrrwwfssscddpFak";
		u32 random = prandom_u32_state(&thread->rnd);
		char op = thread->role;

		if (op == 'x')
			op = any[random % 16];
		WRITE_ONCE(thread->op, op);
		if (units_op(&t->u, op, thread->page, thread - t->threads))
			units_wrong(&t->u, "unexpected error", thread->page);
		thread->page = random / 16 % PAGES;
	}
	WRITE_ONCE(thread->op, 0);
	if (atomic_dec_and_test(&t->running))
		complete(&t->done);
	return 0;
}

/* One task for each of @roles.  All begin with MIDDLE. */
static void start_threads(struct kunit *test, const char *roles, int rounds)
{
	struct units_test *t = test->priv;
	int nr = strlen(roles);

	reinit_completion(&t->done);
	atomic_set(&t->running, nr);
	t->rounds = rounds;
	for (int i = 0; i < nr; i++) {
		struct units_thread *thread = &t->threads[i];

		thread->t = t;
		thread->role = roles[i];
		thread->page = MIDDLE;
		prandom_seed_state(&thread->rnd, t->seed + i);
		thread->task = kthread_create(units_thread_fn, thread,
					      "filemap_units/%c", roles[i]);
		if (IS_ERR(thread->task)) {
			while (i--)
				kthread_stop_put(t->threads[i].task);
			KUNIT_FAIL_AND_ABORT(test, "no thread");
		}
		get_task_struct(thread->task);
	}
	for (int i = 0; i < nr; i++)
		wake_up_process(t->threads[i].task);
}

static void finish_threads(struct kunit *test)
{
	struct units_test *t = test->priv;
	bool done = wait_for_completion_timeout(&t->done, 2 * FT_TIMEOUT);

	for (int i = 0; i < MAX_THREADS && t->threads[i].task; i++) {
		struct units_thread *thread = &t->threads[i];
		char op = READ_ONCE(thread->op);

		if (done) {
			kthread_stop_put(thread->task);
			thread->task = NULL;
		} else if (op) {
			kunit_err(test, "task %d waits: %s, page %lu\n", i,
				  units_op_name(op), thread->page);
			sched_show_task(thread->task);
		}
	}
	t->deadlock = !done;
	if (!done)
		KUNIT_FAIL_AND_ABORT(test, "deadlock, seed %llu", t->seed);
}

/* Helpers. */

/* For tasks that only write back. */
static struct folio *stub_grab_one(struct address_space *mapping, pgoff_t index,
				   unsigned long pages, fgf_t fgp_flags,
				   gfp_t gfp)
{
	if (!(fgp_flags & FGP_CREAT))
		return __filemap_get_folio(mapping, index, fgp_flags, gfp);
	units_wrong(units_of(mapping), "writeback adds folios", index);
	/* do_writepages() would repeat what fails with -ENOMEM. */
	return ERR_PTR(-EIO);
}

static void clean(struct kunit *test)
{
	struct units_test *t = test->priv;

	kunit_activate_static_stub(test, filemap_grab_one, stub_grab_one);
	KUNIT_EXPECT_EQ(test, filemap_write_and_wait(t->u.mapping), 0);
	kunit_deactivate_static_stub(test, filemap_grab_one);
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
	struct units_test *t = test->priv;
	struct units *u = &t->u;

	for (int pass = 0; pass < 2; pass++) {
		units_check_disk(u);
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
	struct units_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, count_dirty(&t->u), dirty);
	clean(test);
	KUNIT_EXPECT_EQ(test, count_dirty(&t->u), 0);
	KUNIT_EXPECT_EQ(test, *t->u.allocated, 2UL);
	expect_consistent(test);
}

/* Find or add a folio that is locked and referenced.  A new one is STALE. */
static struct folio *add_locked(struct kunit *test, pgoff_t page)
{
	struct units_test *t = test->priv;
	struct folio *folio = filemap_grab_folio(t->u.mapping, page);

	KUNIT_ASSERT_FALSE(test, IS_ERR(folio));
	if (!folio_test_uptodate(folio)) {
		void *data = kmap_local_folio(folio, 0);

		memset(data, STALE, PAGE_SIZE);
		kunmap_local(data);
	}
	return folio;
}

/* One task. */

static const int units_pages[] = { 16, MIDDLE, 31 };

static void units_page_desc(const int *page, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "page %d of %d",
		 *page % UNIT_PAGES, UNIT_PAGES);
}

KUNIT_ARRAY_PARAM(units_page, units_pages, units_page_desc);

static void units_hole(struct kunit *test)
{
	struct units_test *t = test->priv;
	struct units *u = &t->u;

	KUNIT_EXPECT_EQ(test, units_read(u, ft_place(test)), 0);
	KUNIT_EXPECT_EQ(test, u->mapping->nrpages, UNIT_PAGES);
	expect_consistent(test);
	u->single = true;
	KUNIT_EXPECT_EQ(test, units_read(u, ft_place(test)), 0);
	KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 1);
	expect_consistent(test);
	KUNIT_EXPECT_TRUE(test, bitmap_empty(u->allocated, UNITS));
	KUNIT_EXPECT_NULL(test, memchr_inv(u->disk, STALE, PAGES * PAGE_SIZE));
}

static void units_allocation(struct kunit *test)
{
	struct units_test *t = test->priv;
	int page = ft_place(test);
	struct units *u = &t->u;

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

/* What was stored and not written back yet survives a write to its unit. */
static void units_write_keeps_dirty_data(struct kunit *test)
{
	struct units_test *t = test->priv;
	int page = ft_place(test);
	struct units *u = &t->u;

	KUNIT_EXPECT_EQ(test, units_op(u, 's', 20, 0), 0);
	KUNIT_EXPECT_EQ(test, units_op(u, 'w', page, 1), 0);
	KUNIT_EXPECT_EQ(test, units_read(u, 20), 0);
	expect_second_unit(test, UNIT_PAGES);
}

/* One folio is dirty, another one perhaps not even read, the rest is absent. */
static void units_writeback_of_a_hole(struct kunit *test)
{
	struct units_test *t = test->priv;
	int page = ft_place(test);
	struct units *u = &t->u;

	for (int others = 0; others < 2; others++) {
		KUNIT_EXPECT_EQ(test, units_fault(u, page, 0, true), 0);
		invalidate_inode_pages2(u->mapping);
		if (others) {
			struct folio *folio = add_locked(test, 20);

			folio_unlock(folio);
			folio_put(folio);
		}
		KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 1UL + others);
		expect_second_unit(test, 1);
		units_punch(u, page);
	}
}

/* Writeback of a hole that has no dirty folio any more leaves the hole. */
static void units_writeback_without_dirty_folio(struct kunit *test)
{
	struct units_test *t = test->priv;
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, units_fault(&t->u, MIDDLE, 0, true), 0);
	folio = add_locked(test, MIDDLE);
	start_threads(test, "c", 1);
	ft_wait_for_waiter(test, &folio, 1);
	generic_error_remove_folio(t->u.mapping, folio);
	units_punched(&t->u, MIDDLE);
	folio_unlock(folio);
	folio_put(folio);
	finish_threads(test);
	KUNIT_EXPECT_TRUE(test, bitmap_empty(t->u.allocated, UNITS));
	expect_consistent(test);
}

/* Tasks that hold invalidate_lock exclusively start writeback. */
static void units_exclusive(struct kunit *test)
{
	struct units_test *t = test->priv;
	struct units *u = &t->u;

	for (const char *role = "Fa"; *role; role++) {
		KUNIT_ASSERT_EQ(test, units_fault(u, MIDDLE, 0, true), 0);
		start_threads(test, (const char[]){ *role, 0 }, 1);
		finish_threads(test);
		expect_second_unit(test, 0);
		units_punch(u, MIDDLE);
	}
	/* Nothing is dirty or present: fallocate() allocates the unit. */
	KUNIT_EXPECT_EQ(test, units_fallocate(u, MIDDLE), 0);
	KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 0UL);
	expect_second_unit(test, 0);
}

/* Interleavings. */

/*
 * A folio that writeback did not see becomes present, and is modified, while
 * writeback waits for another one.
 */
static void units_added_during_writeback(struct kunit *test)
{
	struct units_test *t = test->priv;
	struct units *u = &t->u;
	int page = ft_place(test);
	struct folio *folio;

	if (page == MIDDLE)
		page++;
	u->single = true;
	KUNIT_ASSERT_EQ(test, units_fault(u, MIDDLE, TEST_SLOT, true), 0);
	folio = add_locked(test, MIDDLE);
	start_threads(test, "c", 1);
	ft_wait_for_waiter(test, &folio, 1);

	/* Writeback holds no invalidate_lock, and no lock of another folio. */
	KUNIT_EXPECT_FALSE(test, rwsem_is_locked(&u->mapping->invalidate_lock));
	if (!rwsem_is_locked(&u->mapping->invalidate_lock)) {
		KUNIT_EXPECT_EQ(test, units_read(u, 20), 0);
		KUNIT_EXPECT_EQ(test, units_fault(u, page, 0, true), 0);
		KUNIT_EXPECT_EQ(test, u->mapping->nrpages, 3UL);
	}
	folio_unlock(folio);
	folio_put(folio);
	finish_threads(test);
	KUNIT_EXPECT_EQ(test, units_read(u, page), 0);
	/* Below MIDDLE, it is left to the next writeback. */
	expect_second_unit(test, page < MIDDLE);
}

/* One task reads or faults, another one stores to the page, or drops it. */
static const struct units_roles {
	const char *roles;
} units_meanwhiles[] = {
	{ "rs" }, { "rd" }, { "fs" }, { "fd" },
};

KUNIT_ARRAY_PARAM_DESC(units_meanwhile, units_meanwhiles, roles);

/* A task waits for a lower folio, and has unlocked the one that it had. */
static void units_meanwhile(struct kunit *test)
{
	const char *roles = ((const struct units_roles *)test->param_value)->roles;
	struct units_test *t = test->priv;
	struct units *u = &t->u;
	struct folio *low, *folio;

	if (roles[0] == 'f')
		KUNIT_ASSERT_EQ(test, units_read(u, MIDDLE), 0);
	low = add_locked(test, MIDDLE - 5);
	start_threads(test, (const char[]){ roles[0], 0 }, 1);
	ft_wait_for_waiter(test, &low, 1);
	KUNIT_EXPECT_TRUE(test, rwsem_is_locked(&u->mapping->invalidate_lock));

	folio = add_locked(test, MIDDLE);
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

/*
 * While a write or a fault that saw a hole waits for a folio, another task
 * allocates the unit, and a page of it is written back and reclaimed.
 */
static void units_allocated_meanwhile(struct kunit *test)
{
	struct units_test *t = test->priv;
	struct units *u = &t->u;

	for (const char *role = "wf"; *role; role++) {
		struct folio *low;

		u->single = true;
		KUNIT_ASSERT_EQ(test, units_read(u, MIDDLE), 0);
		low = add_locked(test, 20);
		start_threads(test, (const char[]){ *role, 0 }, 1);
		ft_wait_for_waiter(test, &low, 1);

		memset(units_block(u, 16), 0, UNIT_PAGES * PAGE_SIZE);
		t->expected[28].stamp[TEST_SLOT] = 1;
		memcpy(units_block(u, 28), &t->expected[28],
		       sizeof(t->expected[28]));
		set_bit(1, u->allocated);
		folio_unlock(low);
		folio_put(low);
		finish_threads(test);
		KUNIT_EXPECT_EQ(test, units_read(u, 28), 0);
		expect_second_unit(test, 1);
		units_punch(u, MIDDLE);
	}
}

/* Races left to chance. */

static const struct units_roles units_races[] = {
	{ "ww" }, { "rw" }, { "ff" }, { "rf" }, { "sc" }, { "wfc" }, { "rsc" },
	{ "rrscdp" }, { "rwcp" }, { "rfdp" }, { "sF" }, { "sa" }, { "rsFap" },
	{ "xxx" }, { "wfsrcdk" }, { "wwffrrcd" }, { "ssrrccdp" }, { "wfsrrcFa" },
	{ "xxxxxxxx" },
};

KUNIT_ARRAY_PARAM_DESC(units_race, units_races, roles);

static void units_race(struct kunit *test)
{
	const char *roles = ((const struct units_roles *)test->param_value)->roles;
	struct units_test *t = test->priv;

	for (t->seed = 1; t->seed <= 2; t->seed++) {
		t->u.single = t->seed == 2;
		t->u.slow = t->u.single;
		kunit_activate_static_stub(test, filemap_grab_one,
					   stub_grab_one);
		start_threads(test, roles, 600 / strlen(roles));
		finish_threads(test);
		kunit_deactivate_static_stub(test, filemap_grab_one);

		clean(test);
		expect_consistent(test);
		if (atomic_read(&t->wrong))
			break;
	}
}

static struct kunit_case units_cases[] = {
	KUNIT_CASE_PARAM(units_hole, units_page_gen_params),
	KUNIT_CASE_PARAM(units_allocation, units_page_gen_params),
	KUNIT_CASE_PARAM(units_write_keeps_dirty_data, units_page_gen_params),
	KUNIT_CASE_PARAM(units_writeback_of_a_hole, units_page_gen_params),
	KUNIT_CASE(units_writeback_without_dirty_folio),
	KUNIT_CASE(units_exclusive),
	KUNIT_CASE_PARAM(units_added_during_writeback, units_page_gen_params),
	KUNIT_CASE_PARAM(units_meanwhile, units_meanwhile_gen_params),
	KUNIT_CASE(units_allocated_meanwhile),
	KUNIT_CASE_PARAM(units_race, units_race_gen_params),
	{}
};

static struct kunit_suite units_suite = {
	.name = "filemap_units",
	.suite_init = ft_suite_init,
	.suite_exit = ft_suite_exit,
	.init = units_init,
	.exit = units_exit,
	.test_cases = units_cases,
};

kunit_test_suite(units_suite);
