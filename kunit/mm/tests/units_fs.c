// SPDX-License-Identifier: GPL-2.0-only
/*
 * A filesystem in memory whose allocation unit is larger than a page, as an
 * example for the use of filemap_grab_folios().
 *
 * A unit is allocated as a whole, and its blocks contain stale data before that.
 * A task that allocates a unit to write one page of it has to zero the others,
 * while other tasks read, fault, write back and truncate.
 *
 * The locks, in the order in which they are taken:
 *  - invalidate_lock: exclusive to free a unit, which must not have folios in the
 *    page cache then; shared to add folios.  Writeback does not take it, since
 *    fallocate(2) and others start writeback while they hold it exclusively.
 *  - folio locks, ascending: ->write and ->page_mkwrite allocate a unit with all
 *    of its folios locked, absent ones added.  Writeback adds none.
 *  - map_lock, as for a map of extents: writeback allocates a unit with it held.
 */
#include <linux/delay.h>
#include <linux/mm.h>
#include <linux/writeback.h>

#include "units_fs.h"

/* Returns whether it was a hole.  Orders what was written to disk before. */
static bool unit_allocate(struct units *u, pgoff_t page)
{
	return !test_and_set_bit(page / UNIT_PAGES, u->allocated);
}

static void units_zero_block(struct units *u, pgoff_t page)
{
	if (u->slow)
		usleep_range(50, 100);
	memset(units_block(u, page), 0, PAGE_SIZE);
}

/* Folios that are uptodate may have newer data than the disk: leave them alone. */
void units_fill_folio(struct units *u, struct folio *folio, bool hole)
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

/* Reads the whole unit, as if it were compressed, or a single folio. */
static int units_read_folio(struct file *file, struct folio *folio)
{
	struct units *u = units_of(folio->mapping);
	struct folio *folios[UNIT_PAGES] = { folio };
	int nr = 1;

	if (!u->single)
		nr = filemap_grab_folios_locked(folio,
						unit_start(folio->index),
						unit_end(folio->index),
						FGP_LOCK | FGP_CREAT,
						mapping_gfp_mask(u->mapping),
						folios);
	if (nr > 0) {
		/*
		 * With only one folio locked, writeback may allocate the unit
		 * now: see units_write_unit().
		 */
		bool hole = unit_is_hole(u, folio->index);

		/* @folio may have become uptodate while it was unlocked. */
		for (int i = 0; i < nr; i++)
			units_fill_folio(u, folios[i], hole);
		filemap_release_folios_locked(folio, folios, nr);
	}
	folio_unlock(folio);
	return nr == -ESTALE ? AOP_TRUNCATED_PAGE : min(nr, 0);
}

/* ->read_folio may wait for folios only if the mapping has ->readahead. */
static void units_readahead(struct readahead_control *rac)
{
}

/*
 * All folios of a unit that was a hole are locked.  It may have been allocated
 * before they were.
 */
static void units_instantiate(struct units *u, struct folio **folios, int nr)
{
	bool hole = unit_allocate(u, folios[0]->index);

	for (int i = 0; i < nr; i++) {
		units_fill_folio(u, folios[i], hole);
		if (hole)
			folio_mark_dirty(folios[i]);
	}
}

/*
 * write(2) to a part of each of the pages @page..@last of a unit.  No fault may
 * happen while the folios are locked: what is copied to them is copied
 * atomically, as by copy_folio_from_iter_atomic(), or from the kernel.
 */
int units_write(struct units *u, pgoff_t page, pgoff_t last, int slot)
{
	struct address_space *mapping = u->mapping;
	struct folio *folios[UNIT_PAGES];
	pgoff_t start = page, end = last;
	bool hole;
	int nr;

	/* What is allocated now is not freed before it is unlocked. */
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
vm_fault_t units_page_mkwrite(struct units *u, struct folio *folio, bool delay)
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
			/* After truncation, the fault is repeated. */
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
	if (!folio_clear_dirty_for_io(folio) && !hole)
		return;

	folio_start_writeback(folio);
	memcpy_from_folio(units_block(u, folio->index), folio, 0, PAGE_SIZE);
	folio_end_writeback(folio);
}

/*
 * Write the dirty folios of a unit.  If the unit is a hole, it is allocated
 * first, if it has a dirty folio or @allocate is set.
 *
 * Cleaning a folio must not require allocating others: only present folios are
 * locked.  Absent ones may be added at any moment, and nothing prevents that:
 *
 * 1. Lock the present folios.  A dirty one among them keeps away tasks that lock
 *    all folios of the unit, and the one that truncates them to free the unit.
 *    With @allocate, invalidate_lock does.
 * 2. Zero the blocks of the absent folios on disk.
 * 3. Mark the unit as allocated.
 * 4. Write the folios that are locked.  In a hole, all of them, since their
 *    blocks are still stale.
 *
 * A folio that is added after step 1, by ->read_folio with only its own lock, is
 * zeroed before step 3, because the unit is a hole, and read from its block
 * after step 3, which step 2 has zeroed.  Both give zeroes.
 *
 * The folio may then be modified, and another task may write it back, which may
 * have looked up its folios before ours were added: map_lock is what keeps one
 * of the two from zeroing blocks that the other has written.
 */
static int units_write_unit(struct units *u, pgoff_t page, bool allocate)
{
	pgoff_t start = unit_start(page), end = unit_end(page);
	struct folio *folios[UNIT_PAGES];
	bool hole;
	int nr, i;

	/* 1 */
	nr = filemap_grab_folios(u->mapping, start, end, FGP_LOCK, 0, folios);
	if (nr < 0)
		return nr;
	for (i = 0; i < nr; i++)
		allocate |= folio_test_dirty(folios[i]);

	mutex_lock(&u->map_lock);
	hole = allocate && unit_is_hole(u, start);
	if (hole) {
		/* 2 */
		for (i = 0, page = start; page <= end; page++) {
			if (i < nr && folios[i]->index == page)
				units_fill_folio(u, folios[i++], true);
			else
				units_zero_block(u, page);
		}
		/* 3 */
		unit_allocate(u, start);
	}
	mutex_unlock(&u->map_lock);

	/* 4 */
	for (i = 0; i < nr; i++)
		units_write_folio(u, folios[i], hole);
	filemap_release_folios(folios, nr);
	return 0;
}

static int units_writepages(struct address_space *mapping,
			    struct writeback_control *wbc)
{
	struct units *u = units_of(mapping);
	pgoff_t page = wbc->range_start >> PAGE_SHIFT;
	pgoff_t last = min_t(pgoff_t, PAGES - 1, wbc->range_end >> PAGE_SHIFT);
	int err = 0;

	while (!err && page <= last &&
	       xa_find(&mapping->i_pages, &page, last, PAGECACHE_TAG_DIRTY)) {
		err = units_write_unit(u, page, false);
		page = unit_end(page) + 1;
	}
	return err;
}

/* fallocate(2) with FALLOC_FL_PUNCH_HOLE. */
void units_punch(struct units *u, pgoff_t page)
{
	loff_t start = unit_start(page) * PAGE_SIZE;
	size_t size = UNIT_PAGES * PAGE_SIZE;

	filemap_invalidate_lock(u->mapping);
	truncate_inode_pages_range(u->mapping, start, start + size - 1);
	memset(u->disk + start, STALE, size);
	clear_bit(page / UNIT_PAGES, u->allocated);
	units_punched(u, page);
	filemap_invalidate_unlock(u->mapping);
}

/* fallocate(2): write back what is dirty, and allocate the unit. */
int units_fallocate(struct units *u, pgoff_t page)
{
	loff_t start = unit_start(page) * PAGE_SIZE;
	loff_t size = UNIT_PAGES * PAGE_SIZE;
	int err;

	filemap_invalidate_lock(u->mapping);
	err = filemap_write_and_wait_range(u->mapping, start, start + size - 1);
	if (!err)
		err = units_write_unit(u, page, true);
	filemap_invalidate_unlock(u->mapping);
	return err;
}

/* As before an operation on the disk, such as to collapse a range. */
int units_flush(struct units *u)
{
	int err;

	filemap_invalidate_lock(u->mapping);
	err = filemap_write_and_wait(u->mapping);
	filemap_invalidate_unlock(u->mapping);
	return err;
}

const struct address_space_operations units_aops = {
	.read_folio = units_read_folio,
	.readahead = units_readahead,
	.writepages = units_writepages,
	.dirty_folio = filemap_dirty_folio,
	.migrate_folio = filemap_migrate_folio,
};
