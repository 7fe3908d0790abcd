/* SPDX-License-Identifier: GPL-2.0-only */
/* What the KUnit tests for ranges of the page cache share. */
#ifndef _MM_TESTS_FILEMAP_FIXTURE_H
#define _MM_TESTS_FILEMAP_FIXTURE_H

#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/pagemap.h>

#include "../internal.h"

#define FT_FOLIOS		64
#define FT_CREAT	(FGP_LOCK | FGP_CREAT)
/* Nothing here takes this long unless it is deadlocked. */
#define FT_TIMEOUT	(10 * HZ)

/* The folios of most tests, and those at which another task interferes. */
#define FT_PLACES	8
static const int ft_places[] __maybe_unused = { 0, 3, 7 };

static inline int ft_place(struct kunit *test)
{
	return *(const int *)test->param_value;
}

static inline void ft_place_desc(const int *place, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "folio %d of %d", *place + 1,
		 FT_PLACES);
}

struct ft {
	struct inode *inode;
	struct address_space *mapping;
	struct folio *folios[FT_FOLIOS];	/* what the call under test returned */

	/* See ft_interfere(). */
	int calls, at;
	struct folio *(*interfere)(struct kunit *test, pgoff_t index);
	/* What filemap_grab_one() was called with last. */
	unsigned long pages;
	fgf_t fgp_flags;
};

/* A filesystem that has inodes and nothing else. */
int ft_suite_init(struct kunit_suite *suite);
void ft_suite_exit(struct kunit_suite *suite);
struct inode *ft_inode(struct kunit *test);
void ft_evict(struct kunit *test, struct inode *inode);
void ft_keep_mount(void);
int ft_init(struct kunit *test);
void ft_exit(struct kunit *test);
void ft_large_folios_or_skip(struct kunit *test);

/* The state before. */
struct folio *ft_add_order(struct kunit *test, pgoff_t index,
			   unsigned int order);
struct folio *ft_add(struct kunit *test, pgoff_t index);
void ft_add_all(struct kunit *test, unsigned int nr);
struct folio *ft_at(struct kunit *test, pgoff_t index);
void ft_remove(struct kunit *test, struct folio *folio);
void ft_start_writeback(struct folio *folio);
void ft_interfere(struct kunit *test, int at,
		  struct folio *(*interfere)(struct kunit *, pgoff_t));
struct folio *ft_enomem(struct kunit *test, pgoff_t index);
struct folio *ft_eexist(struct kunit *test, pgoff_t index);

/* The call. */
int ft_grab(struct kunit *test, pgoff_t start, pgoff_t end, fgf_t fgp_flags);
void ft_release(struct kunit *test, int nr);

/* The state after. */
bool ft_becomes_idle(struct address_space *mapping);
void ft_expect_cache(struct kunit *test, unsigned long nrpages);
void ft_expect_covered(struct kunit *test, struct folio **folios, int nr,
		       pgoff_t start, pgoff_t end);
void ft_expect_poison(struct kunit *test, int nr);

/* Calls in another task. */
struct ft_worker {
	struct kunit *test;
	struct ft *t;
	struct folio *locked;
	pgoff_t start, end;
	fgf_t fgp_flags;
	int nr;				/* what the call returned */
	bool lost;			/* @locked was not locked after it */
	struct folio *folios[FT_FOLIOS];
	struct completion grabbed, release, done;
};

struct ft_worker *ft_start(struct kunit *test, int (*fn)(void *),
			   struct folio *locked, pgoff_t end, fgf_t fgp_flags);
int ft_grab_fn(void *data);
int ft_finish(struct kunit *test, struct ft_worker *w);
void ft_release_worker(struct kunit *test, struct ft_worker *w);
void ft_expect_grabbed(struct kunit *test, struct ft_worker *w, pgoff_t end);
int ft_wait_for_waiter(struct kunit *test, struct folio **folios, int nr);

/* Many calls in several tasks. */
#define FT_STRESS_PAGES	32
#define FT_STRESS_ROUNDS 2000

struct rnd_state;

struct ft_stress {
	struct address_space *mapping;
	void (*grab)(struct ft_stress *s, struct rnd_state *rnd);
	atomic_t owners[FT_STRESS_PAGES]; /* who has the lock: one at most */
	atomic_t wrong;			/* how often a result was not right */
	atomic_t running;
	struct completion done;
};

void ft_stress_range(struct rnd_state *rnd, pgoff_t *start, pgoff_t *end);
void ft_stress_check(struct ft_stress *s, struct folio **folios, int nr,
		     pgoff_t start, pgoff_t end, bool creat);
void ft_stress_grab(struct ft_stress *s, struct rnd_state *rnd);
void ft_stress(struct kunit *test, int threads,
	       void (*grab)(struct ft_stress *, struct rnd_state *));

#endif
