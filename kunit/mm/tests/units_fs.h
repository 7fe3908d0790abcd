/* SPDX-License-Identifier: GPL-2.0-only */
/* A filesystem in memory whose allocation unit is larger than a page. */
#ifndef _MM_TESTS_UNITS_FS_H
#define _MM_TESTS_UNITS_FS_H

#include <linux/bitmap.h>
#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>

#define STALE		0xaa
#define UNIT_PAGES	16
#define UNITS		3
#define PAGES		(UNITS * UNIT_PAGES)

struct units {
	struct address_space *mapping;
	/* The disk, and whether writing zeroes to it takes time. */
	void *disk;
	bool slow;
	/* ->read_folio reads one page only, and not the unit. */
	bool single;
	/* Which units are allocated.  The others are holes. */
	struct mutex map_lock;
	DECLARE_BITMAP(allocated, UNITS);
};

static inline pgoff_t unit_start(pgoff_t page)
{
	return round_down(page, UNIT_PAGES);
}

static inline pgoff_t unit_end(pgoff_t page)
{
	return unit_start(page) + UNIT_PAGES - 1;
}

/* Pairs with unit_allocate(): what was zeroed before that reads as zeroes. */
static inline bool unit_is_hole(const struct units *u, pgoff_t page)
{
	return !test_bit_acquire(page / UNIT_PAGES, u->allocated);
}

static inline void *units_block(struct units *u, pgoff_t page)
{
	return u->disk + page * PAGE_SIZE;
}

static inline struct units *units_of(const struct address_space *mapping)
{
	return mapping->host->i_private;
}

extern const struct address_space_operations units_aops;

void units_fill_folio(struct units *u, struct folio *folio, bool hole);
int units_write(struct units *u, pgoff_t page, pgoff_t last, int slot);
vm_fault_t units_page_mkwrite(struct units *u, struct folio *folio, bool delay);
void units_punch(struct units *u, pgoff_t page);
int units_fallocate(struct units *u, pgoff_t page);
int units_flush(struct units *u);

/* By the test: change @folio, which is locked and uptodate. */
void units_store(struct units *u, struct folio *folio, int slot);
/* By the test: the page cache of the unit at @page is empty, and locked. */
void units_punched(struct units *u, pgoff_t page);

#endif
