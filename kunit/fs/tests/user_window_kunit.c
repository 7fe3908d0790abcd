// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of user windows.
 *
 * Run them with
 *	tools/testing/kunit/kunit.py run \
 *		--kconfig_add CONFIG_USER_WINDOW_KUNIT_TEST=y user_window
 *
 * The properties enforced:
 *  - every byte goes where it belongs and no other byte changes, whatever the
 *    layout of the iterator, and the iterator ends up behind the last byte that
 *    was transferred;
 *  - the method is called until all is done, with a user pointer, with the credentials of
 *    the file, and under freeze protection if it writes;
 *  - it does not fault, not even at its first call: the file here copies with
 *    page faults disabled;
 *  - files that have iter methods and callers that are not kernel threads are
 *    turned away before any method is called;
 *  - whatever happened, no page and no user of the mm is left behind.
 *    window_exit() counts them.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/kthread.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mount.h>
#include <linux/pgtable.h>
#include <linux/prandom.h>
#include <linux/pseudo_fs.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/umh.h>
#include <linux/user_window.h>
#include <linux/vmalloc.h>
#include <linux/vmstat.h>

#include "../internal.h"

#define WIN_PAGES	4
#define WIN_SIZE	(WIN_PAGES * PAGE_SIZE)
#define STORE_SIZE	(4 * WIN_SIZE)
#define MAX_WINDOWS	3
#define MAX_SEGS	128
#define NR_WORKERS	8
#define STORE_POISON	0xa5
#define MEM_POISON	0x5a
/* Generous: nothing here takes this long unless it is deadlocked. */
#define WIN_TIMEOUT	(10 * HZ)

struct window_test {
	struct user_window *wins[MAX_WINDOWS];
	struct file *file;
	u8 *mem;			/* what the iterators point to */
	u8 *expected;			/* what should be there */
	u8 *pattern;
	struct bio_vec bvecs[MAX_SEGS];
	struct kvec kvecs[MAX_SEGS];

	/* For the stub of user_window_alloc_page(): */
	struct page *pages[MAX_WINDOWS * WIN_PAGES];
	int nr_pages;
	int fail_at;			/* which allocation fails, or -1 */

	/* How the file behaves: */
	size_t limit;			/* the most it transfers at once */
	bool forced;			/* transfer nothing, return .result */
	ssize_t result;
	struct completion *entered;	/* wait in the method */
	struct completion *leave;

	/* What its methods saw: */
	spinlock_t lock;
	int calls;
	int kernel_pointers;
	int faults;
	int unprotected;
	size_t count;
	loff_t pos;
	kuid_t fsuid;
	struct mm_struct *mm;		/* of the first call */

	u8 store[];
};

/* A file that has ->read() and ->write(), and a filesystem for it. */

static struct vfsmount *window_mnt;

static int window_init_fs_context(struct fs_context *fc)
{
	return init_pseudo(fc, 0x77696e64) ? 0 : -ENOMEM;
}

static struct file_system_type window_fs_type = {
	.name = "user_window_kunit",
	.init_fs_context = window_init_fs_context,
	.kill_sb = kill_anon_super,
};

static void store_record(struct window_test *t, const char __user *buf,
			 size_t count, loff_t pos)
{
	struct completion *entered, *leave;

	spin_lock(&t->lock);
	t->calls++;
	t->count = count;
	t->pos = pos;
	t->fsuid = current_fsuid();
	if (!access_ok(buf, count) || (unsigned long)buf >= TASK_SIZE ||
	    !current->mm)
		t->kernel_pointers++;
	if (current->mm && !t->mm) {
		t->mm = current->mm;
		mmgrab(t->mm);
	}
	entered = t->entered;
	leave = t->leave;
	t->entered = NULL;
	spin_unlock(&t->lock);

	if (entered) {
		complete(entered);
		wait_for_completion(leave);
	}
}

static ssize_t store_read(struct file *file, char __user *buf, size_t count,
			  loff_t *pos)
{
	struct window_test *t = file->private_data;

	store_record(t, buf, count, *pos);
	if (t->forced)
		return t->result;
	if (*pos >= STORE_SIZE)
		return 0;

	count = min3(count, t->limit, (size_t)(STORE_SIZE - *pos));
	pagefault_disable();
	if (__copy_to_user_inatomic(buf, t->store + *pos, count))
		t->faults++;
	pagefault_enable();
	*pos += count;
	return count;
}

static ssize_t store_write(struct file *file, const char __user *buf,
			   size_t count, loff_t *pos)
{
	struct super_block *sb = file_inode(file)->i_sb;
	struct window_test *t = file->private_data;

	store_record(t, buf, count, *pos);
	if (!percpu_is_read_locked(&sb->s_writers.rw_sem[SB_FREEZE_WRITE - 1]))
		t->unprotected++;
	if (t->forced)
		return t->result;
	if (*pos >= STORE_SIZE)
		return -ENOSPC;

	count = min3(count, t->limit, (size_t)(STORE_SIZE - *pos));
	pagefault_disable();
	if (__copy_from_user_inatomic(t->store + *pos, buf, count))
		t->faults++;
	pagefault_enable();
	*pos += count;
	return count;
}

static ssize_t store_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct window_test *t = iocb->ki_filp->private_data;

	t->calls++;
	return iov_iter_count(iter);
}

static const struct file_operations store_fops = {
	.owner = THIS_MODULE,
	.read = store_read,
	.write = store_write,
};

static const struct file_operations store_both_fops = {
	.owner = THIS_MODULE,
	.read = store_read,
	.read_iter = store_iter,
	.write = store_write,
	.write_iter = store_iter,
};

/* Positions are unsigned, as those of /dev/mem. */
static const struct file_operations store_unsigned_fops = {
	.owner = THIS_MODULE,
	.read = store_read,
	.write = store_write,
	.fop_flags = FOP_UNSIGNED_OFFSET,
};

static const struct file_operations store_iter_fops = {
	.owner = THIS_MODULE,
	.read_iter = store_iter,
	.write_iter = store_iter,
};

static const struct file_operations store_no_fops = {
	.owner = THIS_MODULE,
};

static struct file *store_open(struct window_test *t, int flags,
			       const struct file_operations *fops)
{
	struct inode *inode = alloc_anon_inode(window_mnt->mnt_sb);
	struct file *file;

	if (IS_ERR(inode))
		return ERR_CAST(inode);
	inode->i_mode = S_IFREG | 0600;

	file = alloc_file_pseudo(inode, window_mnt, "store", flags, fops);
	if (IS_ERR(file)) {
		iput(inode);
		return file;
	}
	file->f_mode |= FMODE_PREAD | FMODE_PWRITE;
	file->private_data = t;
	return file;
}

/* The setup of each test, and what has to be left after it. */

static struct page *alloc_page_stub(void)
{
	struct window_test *t = kunit_get_current_test()->priv;
	struct page *page;

	if (t->nr_pages == t->fail_at ||
	    WARN_ON_ONCE(t->nr_pages == ARRAY_SIZE(t->pages)))
		return NULL;
	page = alloc_page(GFP_KERNEL | __GFP_HIGHMEM | __GFP_ZERO);
	if (page) {
		get_page(page);
		t->pages[t->nr_pages++] = page;
	}
	return page;
}

static int window_suite_init(struct kunit_suite *suite)
{
	window_mnt = kern_mount(&window_fs_type);
	return PTR_ERR_OR_ZERO(window_mnt);
}

static void window_suite_exit(struct kunit_suite *suite)
{
	/* KUnit calls this after a failed window_suite_init(), too. */
	if (!suite->suite_init_err)
		kern_unmount(window_mnt);
}

KUNIT_DEFINE_ACTION_WRAPPER(window_vfree, vfree, void *);

static u8 *window_vmalloc(struct kunit *test, size_t size)
{
	u8 *p = vzalloc(size);

	KUNIT_ASSERT_NOT_NULL(test, p);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, window_vfree,
							   p));
	return p;
}

static int window_init(struct kunit *test)
{
	struct window_test *t;
	struct rnd_state rnd;

	t = (void *)window_vmalloc(test, sizeof(*t) + STORE_SIZE);
	t->expected = window_vmalloc(test, STORE_SIZE);
	t->pattern = window_vmalloc(test, STORE_SIZE);
	prandom_seed_state(&rnd, 20050202);
	prandom_bytes_state(&rnd, t->pattern, STORE_SIZE);
	t->mem = alloc_pages_exact(STORE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->mem);
	test->priv = t;

	spin_lock_init(&t->lock);
	t->limit = SIZE_MAX;
	t->fail_at = -1;
	t->file = store_open(t, O_RDWR, &store_fops);
	KUNIT_ASSERT_FALSE(test, IS_ERR(t->file));
	kunit_activate_static_stub(test, user_window_alloc_page,
				   alloc_page_stub);
	return 0;
}

static void window_exit(struct kunit *test)
{
	struct window_test *t = test->priv;

	if (!t)
		return;

	for (int i = 0; i < MAX_WINDOWS; i++)
		user_window_destroy(t->wins[i]);
	if (!IS_ERR_OR_NULL(t->file))
		__fput_sync(t->file);
	free_pages_exact(t->mem, STORE_SIZE);

	for (int i = 0; i < t->nr_pages; i++) {
		KUNIT_EXPECT_EQ_MSG(test, page_count(t->pages[i]), 1,
				    "page %d", i);
		KUNIT_EXPECT_FALSE_MSG(test, folio_mapped(page_folio(t->pages[i])),
				       "page %d", i);
		put_page(t->pages[i]);
	}
	if (t->mm) {
		KUNIT_EXPECT_EQ(test, atomic_read(&t->mm->mm_users), 0);
#ifdef CONFIG_MEMCG
		/* The task that created the window may be gone. */
		KUNIT_EXPECT_NULL(test, rcu_access_pointer(t->mm->owner));
#endif
		mmdrop(t->mm);
	}
	KUNIT_EXPECT_EQ(test, t->kernel_pointers, 0);
	KUNIT_EXPECT_EQ(test, t->faults, 0);
	KUNIT_EXPECT_EQ(test, t->unprotected, 0);
}

static struct user_window *create_window(struct kunit *test)
{
	struct window_test *t = test->priv;
	struct user_window *win = user_window_create(WIN_SIZE);

	KUNIT_ASSERT_FALSE(test, IS_ERR(win));
	for (int i = 0; i < MAX_WINDOWS; i++) {
		if (!t->wins[i]) {
			t->wins[i] = win;
			return win;
		}
	}
	user_window_destroy(win);
	KUNIT_FAIL_AND_ABORT(test, "too many windows");
	return NULL;
}

static ssize_t transfer(struct user_window *win, struct file *file,
			unsigned int dir, struct iov_iter *iter, loff_t pos)
{
	if (dir == ITER_SOURCE)
		return user_window_write(win, file, iter, pos);
	return user_window_read(win, file, iter, pos);
}

/* Ways for an iterator to point to the memory. */

static const struct window_layout {
	const char *name;
	bool bvec;
	size_t start;		/* of the first segment */
	size_t seg;		/* bytes in a segment */
	size_t gap;		/* bytes between segments */
	size_t skip;		/* bytes already consumed */
} window_layouts[] = {
	{ "one kvec", false, 0, STORE_SIZE, 0, 0 },
	{ "one unaligned kvec", false, 123, STORE_SIZE, 0, 0 },
	{ "many kvecs", false, 5, PAGE_SIZE / 4 - 247, 13, 0 },
	{ "kvecs used in part", false, 5, 2 * PAGE_SIZE - 1, 1, 4000 },
	{ "one bvec", true, 0, STORE_SIZE, 0, 0 },
	{ "one unaligned bvec", true, 512, STORE_SIZE, 0, 0 },
	{ "bvecs of a page", true, 0, PAGE_SIZE, 0, 0 },
	{ "bvecs across pages", true, PAGE_SIZE - 1, PAGE_SIZE + 2, 7, 0 },
	{ "many bvecs", true, 5, PAGE_SIZE / 4 - 247, 13, 0 },
	{ "bvecs used in part", true, 512, 2 * PAGE_SIZE, 0, 1536 },
};

KUNIT_ARRAY_PARAM_DESC(window_layout, window_layouts, name);

/* Where in the memory is byte @i of the data? */
static size_t layout_offset(const struct window_layout *l, size_t i)
{
	i += l->skip;
	return l->start + i / l->seg * (l->seg + l->gap) + i % l->seg;
}

static void layout_iter(struct kunit *test, const struct window_layout *l,
			unsigned int dir, size_t size, struct iov_iter *iter)
{
	struct window_test *t = test->priv;
	size_t total = l->skip + size;
	unsigned int nr = 0;

	for (size_t done = 0; done < total; nr++) {
		size_t len = min(total - done, l->seg);
		void *p = t->mem + l->start + nr * (l->seg + l->gap);

		KUNIT_ASSERT_LT(test, nr, MAX_SEGS);
		KUNIT_ASSERT_LE(test, p + len - (void *)t->mem, STORE_SIZE);
		bvec_set_virt(&t->bvecs[nr], p, len);
		t->kvecs[nr].iov_base = p;
		t->kvecs[nr].iov_len = len;
		done += len;
	}
	if (l->bvec)
		iov_iter_bvec(iter, dir, t->bvecs, nr, total);
	else
		iov_iter_kvec(iter, dir, t->kvecs, nr, total);
	iov_iter_advance(iter, l->skip);
}

static const struct window_layout plain_layout = { .seg = STORE_SIZE };

static void expect_image(struct kunit *test, const u8 *image,
			 const u8 *expected, const char *what)
{
	for (size_t i = 0; i < STORE_SIZE; i++) {
		if (image[i] != expected[i])
			KUNIT_FAIL_AND_ABORT(test, "%s: %02x instead of %02x at %zu",
					     what, image[i], expected[i], i);
	}
}

/*
 * Transfer @size bytes at @pos until they are through, and compare all of the
 * memory or of the file with what it should be.
 */
static void do_transfer(struct kunit *test, const struct window_layout *l,
			unsigned int dir, size_t size, loff_t pos)
{
	struct window_test *t = test->priv;
	size_t step = min(WIN_SIZE, t->limit);
	struct iov_iter iter;
	size_t done = 0;
	int calls = 0;

	t->calls = 0;
	memset(t->mem, MEM_POISON, STORE_SIZE);
	if (dir == ITER_SOURCE) {
		memset(t->store, STORE_POISON, STORE_SIZE);
		memset(t->expected, STORE_POISON, STORE_SIZE);
		memcpy(t->expected + pos, t->pattern, size);
		for (size_t i = 0; i < size; i++)
			t->mem[layout_offset(l, i)] = t->pattern[i];
	} else {
		memcpy(t->store, t->pattern, STORE_SIZE);
		memset(t->expected, MEM_POISON, STORE_SIZE);
		for (size_t i = 0; i < size; i++)
			t->expected[layout_offset(l, i)] = t->pattern[pos + i];
	}

	layout_iter(test, l, dir, size, &iter);
	do {
		size_t asked = min(WIN_SIZE, size - done);
		size_t last = asked ? (asked - 1) % step + 1 : 0;
		ssize_t ret = transfer(t->wins[0], t->file, dir, &iter,
				       pos + done);

		KUNIT_ASSERT_EQ(test, ret, asked);
		done += ret;
		calls += max(1, DIV_ROUND_UP(asked, step));
		/* what the last of them got */
		KUNIT_ASSERT_EQ(test, t->count, last);
		KUNIT_ASSERT_EQ(test, t->pos, pos + done - last);
		KUNIT_ASSERT_EQ(test, iov_iter_count(&iter), size - done);
	} while (done < size);
	KUNIT_EXPECT_EQ(test, t->calls, calls);

	if (dir == ITER_SOURCE)
		expect_image(test, t->store, t->expected, "file");
	else
		expect_image(test, t->mem, t->expected, "memory");
}

static void transfer_all_sizes(struct kunit *test, unsigned int dir)
{
	static const size_t sizes[] = {
		0, 1, 512, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1,
		WIN_SIZE - 1, WIN_SIZE, WIN_SIZE + 1, 2 * WIN_SIZE - 1,
		3 * WIN_SIZE - 4 * PAGE_SIZE / 5,
	};
	static const loff_t positions[] = { 0, 1, 512, PAGE_SIZE - 1 };

	create_window(test);
	for (int i = 0; i < ARRAY_SIZE(sizes); i++) {
		for (int j = 0; j < ARRAY_SIZE(positions); j++)
			do_transfer(test, test->param_value, dir, sizes[i],
				    positions[j]);
	}
}

static void window_writes(struct kunit *test)
{
	transfer_all_sizes(test, ITER_SOURCE);
}

static void window_reads(struct kunit *test)
{
	transfer_all_sizes(test, ITER_DEST);
}

static void transfer_in_pieces(struct kunit *test, unsigned int dir)
{
	static const size_t limits[] = {
		1, 511, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, WIN_SIZE - 1,
	};
	struct window_test *t = test->priv;

	create_window(test);
	for (int i = 0; i < ARRAY_SIZE(limits); i++) {
		t->limit = limits[i];
		do_transfer(test, test->param_value, dir,
			    min(40 * limits[i], 2 * WIN_SIZE + 1), 512);
	}
}

static void window_short_writes(struct kunit *test)
{
	transfer_in_pieces(test, ITER_SOURCE);
}

static void window_short_reads(struct kunit *test)
{
	transfer_in_pieces(test, ITER_DEST);
}

/* What else holds for both methods. */

static const struct window_method {
	const char *name;
	unsigned int dir;
} window_methods[] = {
	{ "write", ITER_SOURCE },
	{ "read", ITER_DEST },
};

KUNIT_ARRAY_PARAM_DESC(window_method, window_methods, name);

/* The method returns @result, and @expected is all that comes of it. */
static void expect_no_transfer(struct kunit *test, ssize_t result,
			       ssize_t expected)
{
	const struct window_layout l = {
		.bvec = true, .start = 512, .seg = PAGE_SIZE,
	};
	const struct window_method *m = test->param_value;
	struct window_test *t = test->priv;
	struct iov_iter iter, before;

	t->calls = 0;
	t->forced = true;
	t->result = result;
	memset(t->mem, MEM_POISON, STORE_SIZE);
	memset(t->expected, MEM_POISON, STORE_SIZE);
	layout_iter(test, &l, m->dir, WIN_SIZE + 512, &iter);
	iov_iter_advance(&iter, PAGE_SIZE + 100);
	before = iter;
	KUNIT_EXPECT_EQ(test, expected,
			transfer(t->wins[0], t->file, m->dir, &iter, 0));
	KUNIT_EXPECT_EQ(test, t->calls, 1);
	KUNIT_EXPECT_EQ(test, t->count, iov_iter_count(&before));
	KUNIT_EXPECT_EQ(test, iov_iter_count(&iter), iov_iter_count(&before));
	KUNIT_EXPECT_EQ(test, iter.iov_offset, before.iov_offset);
	KUNIT_EXPECT_PTR_EQ(test, iter.bvec, before.bvec);
	expect_image(test, t->mem, t->expected, "memory");

	/* And nothing of it is left over for the next call. */
	t->forced = false;
	do_transfer(test, &l, m->dir, WIN_SIZE + 512, 512);
}

static void window_passes_results_on(struct kunit *test)
{
	static const ssize_t results[] = {
		0, -EIO, -ENOSPC, -EDQUOT, -EINVAL, -EFAULT, -EINTR, -EAGAIN,
		-ENOMEM, -EOPNOTSUPP, -EROFS,
	};

	create_window(test);
	for (int i = 0; i < ARRAY_SIZE(results); i++)
		expect_no_transfer(test, results[i], results[i]);
}

/* An error after a part is not returned: the next call gets it again. */
static void window_stops_after_a_part(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct iov_iter iter;

	layout_iter(test, &plain_layout, m->dir, 512, &iter);
	KUNIT_EXPECT_EQ(test, 100, transfer(win, t->file, m->dir, &iter,
					    STORE_SIZE - 100));
	KUNIT_EXPECT_EQ(test, t->calls, 2);
	KUNIT_EXPECT_EQ(test, iov_iter_count(&iter), 412);
	KUNIT_EXPECT_EQ(test, m->dir == ITER_SOURCE ? -ENOSPC : 0,
			transfer(win, t->file, m->dir, &iter, STORE_SIZE));
	KUNIT_EXPECT_EQ(test, iov_iter_count(&iter), 412);
}

/* The mm has one mapping, which is not executable and not at address 0. */
static void window_is_all_there_is(struct kunit *test)
{
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct vm_area_struct *vma;
	struct iov_iter iter;

	layout_iter(test, &plain_layout, ITER_DEST, 512, &iter);
	KUNIT_ASSERT_EQ(test, 512,
			transfer(win, t->file, ITER_DEST, &iter, 0));
	KUNIT_ASSERT_EQ(test, t->mm->map_count, 1);
	KUNIT_ASSERT_EQ(test, 0, mmap_read_lock_killable(t->mm));
	vma = find_vma(t->mm, 0);
	KUNIT_EXPECT_GE(test, vma->vm_start, SZ_64K);
	KUNIT_EXPECT_EQ(test, vma->vm_end - vma->vm_start, WIN_SIZE);
	KUNIT_EXPECT_EQ(test, VM_READ | VM_WRITE | VM_SHARED |
			      VM_MAYREAD | VM_MAYWRITE | VM_MAYSHARE,
			vma->vm_flags &
			(VM_ACCESS_FLAGS | VM_SHARED | VM_MAYSHARE |
			 VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC));
	KUNIT_EXPECT_STREQ(test, "[user_window]", vma->vm_ops->name(vma));
	mmap_read_unlock(t->mm);
}

/* No access faults, also where software sets these bits of the entries. */
static void window_entries(struct kunit *test)
{
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct vm_area_struct *vma;
	unsigned long addr;
	struct iov_iter iter;

	if (IS_ENABLED(CONFIG_HIGHPTE))
		kunit_skip(test, "page tables in high memory");
	layout_iter(test, &plain_layout, ITER_DEST, 512, &iter);
	KUNIT_ASSERT_EQ(test, 512,
			transfer(win, t->file, ITER_DEST, &iter, 0));
	mmap_read_lock(t->mm);
	vma = find_vma(t->mm, 0);
	for (int i = 0; i < WIN_PAGES; i++) {
		pte_t pte;

		addr = vma->vm_start + i * PAGE_SIZE;
		pte = ptep_get(pte_offset_kernel(pmd_off(t->mm, addr), addr));
		KUNIT_EXPECT_TRUE(test, pte_present(pte));
		KUNIT_EXPECT_TRUE(test, pte_write(pte));
		KUNIT_EXPECT_TRUE(test, pte_dirty(pte));
		KUNIT_EXPECT_TRUE(test, pte_young(pte));
		KUNIT_EXPECT_PTR_EQ(test, t->pages[i], pte_page(pte));
	}
	mmap_read_unlock(t->mm);
}

/* A method that returns more than it was asked for. */
static void window_rejects_too_much(struct kunit *test)
{
	create_window(test);
	kunit_warning_suppress(test) {
		expect_no_transfer(test, WIN_SIZE - PAGE_SIZE + 413, -EIO);
		expect_no_transfer(test, WIN_SIZE + 1, -EIO);
		expect_no_transfer(test, LONG_MAX, -EIO);
	}
}

/* The position goes to the method as it is. */
static void window_positions(struct kunit *test)
{
	static const struct {
		loff_t pos;
		ssize_t ret;
	} cases[] = {
		{ 0, 0 }, { S32_MAX, 0 }, { U32_MAX, 0 }, { 1LL << 32, 0 },
		{ LLONG_MAX - WIN_SIZE, 0 },
		{ LLONG_MAX - WIN_SIZE + 1, -EINVAL },
		{ LLONG_MAX, -EINVAL }, { -1, -EINVAL }, { LLONG_MIN, -EINVAL },
	};
	const struct window_method *m = test->param_value;
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct iov_iter iter;

	t->forced = true;
	for (int i = 0; i < ARRAY_SIZE(cases); i++) {
		t->calls = 0;
		layout_iter(test, &plain_layout, m->dir, WIN_SIZE, &iter);
		KUNIT_EXPECT_EQ_MSG(test, cases[i].ret,
				    transfer(win, t->file, m->dir, &iter,
					     cases[i].pos),
				    "at %lld", cases[i].pos);
		KUNIT_EXPECT_EQ(test, t->calls, !cases[i].ret);
		if (!cases[i].ret)
			KUNIT_EXPECT_EQ(test, t->pos, cases[i].pos);
	}
}

/* vfs_read() and vfs_write() accept these. */
static void window_refuses_unsigned_positions(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct file *file = store_open(t, O_RDWR, &store_unsigned_fops);
	struct iov_iter iter;

	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	layout_iter(test, &plain_layout, m->dir, 512, &iter);
	KUNIT_EXPECT_EQ(test, -EINVAL,
			transfer(win, file, m->dir, &iter, -4096));
	KUNIT_EXPECT_EQ(test, 0, t->calls);
	KUNIT_EXPECT_EQ(test, 512, iov_iter_count(&iter));
	__fput_sync(file);
}

static void window_has_the_files_credentials(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	const struct cred *mine = current_cred();
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct cred *cred = prepare_creds();
	struct iov_iter iter;
	struct file *file;

	KUNIT_ASSERT_NOT_NULL(test, cred);
	cred->fsuid = KUIDT_INIT(4711);
	scoped_with_creds(cred)
		file = store_open(t, O_RDWR, &store_fops);
	put_cred(cred);
	KUNIT_ASSERT_FALSE(test, IS_ERR(file));

	layout_iter(test, &plain_layout, m->dir, 512, &iter);
	KUNIT_EXPECT_EQ(test, transfer(win, file, m->dir, &iter, 0), 512);
	KUNIT_EXPECT_EQ(test, __kuid_val(t->fsuid), 4711);
	KUNIT_EXPECT_PTR_EQ(test, current_cred(), mine);
	KUNIT_EXPECT_NULL(test, current->mm);
	__fput_sync(file);
}

/* Files that are refused without a call. */

static const struct window_refusal {
	const char *name;
	unsigned int dir;
	const struct file_operations *fops;
	int flags;
	fmode_t without;
	ssize_t ret;
} window_refusals[] = {
	{ "write_iter and write", ITER_SOURCE, &store_both_fops, O_RDWR, 0,
	  -EINVAL },
	{ "write_iter", ITER_SOURCE, &store_iter_fops, O_RDWR, 0, -EINVAL },
	{ "no write method", ITER_SOURCE, &store_no_fops, O_RDWR, 0, -EINVAL },
	{ "write, but read-only", ITER_SOURCE, &store_fops, O_RDONLY, 0,
	  -EBADF },
	{ "write, but append", ITER_SOURCE, &store_fops, O_RDWR | O_APPEND, 0,
	  -EINVAL },
	{ "write, but no positions", ITER_SOURCE, &store_fops, O_RDWR,
	  FMODE_PWRITE, -ESPIPE },
	{ "read_iter and read", ITER_DEST, &store_both_fops, O_RDWR, 0,
	  -EINVAL },
	{ "read_iter", ITER_DEST, &store_iter_fops, O_RDWR, 0, -EINVAL },
	{ "no read method", ITER_DEST, &store_no_fops, O_RDWR, 0, -EINVAL },
	{ "read, but write-only", ITER_DEST, &store_fops, O_WRONLY, 0, -EBADF },
	{ "read, but no positions", ITER_DEST, &store_fops, O_RDWR, FMODE_PREAD,
	  -ESPIPE },
};

KUNIT_ARRAY_PARAM_DESC(window_refusal, window_refusals, name);

static void window_refuses_files(struct kunit *test)
{
	const struct window_refusal *r = test->param_value;
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct file *file = store_open(t, r->flags, r->fops);
	struct iov_iter iter;

	KUNIT_ASSERT_FALSE(test, IS_ERR(file));
	file->f_mode &= ~r->without;
	layout_iter(test, &plain_layout, r->dir, 512, &iter);
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test, transfer(win, file, r->dir, &iter, 0),
				r->ret);
	}
	KUNIT_EXPECT_EQ(test, t->calls, 0);
	KUNIT_EXPECT_EQ(test, iov_iter_count(&iter), 512);
	__fput_sync(file);
}

static void window_refuses_iterators(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct iov_iter iter;

	kunit_warning_suppress(test) {
		iov_iter_ubuf(&iter, m->dir, (void __user *)PAGE_SIZE, 512);
		KUNIT_EXPECT_EQ(test, transfer(win, t->file, m->dir, &iter, 0),
				-EINVAL);
		layout_iter(test, &plain_layout, !m->dir, 512, &iter);
		KUNIT_EXPECT_EQ(test, transfer(win, t->file, m->dir, &iter, 0),
				-EINVAL);
	}
	KUNIT_EXPECT_EQ(test, t->calls, 0);
}

/* A task that has an mm would lose it, and might have a reason to use it. */
static void window_refuses_tasks_with_an_mm(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	struct window_test *t = test->priv;
	struct user_window *win = create_window(test);
	struct iov_iter iter;

	KUNIT_ASSERT_EQ(test, kunit_attach_mm(), 0);
	layout_iter(test, &plain_layout, m->dir, 512, &iter);
	kunit_warning_suppress(test) {
		KUNIT_EXPECT_EQ(test, transfer(win, t->file, m->dir, &iter, 0),
				-EINVAL);
	}
	KUNIT_EXPECT_EQ(test, t->calls, 0);
}

struct window_process {
	struct kunit *test;
	struct iov_iter iter;
	unsigned int dir;
	bool called;
	ssize_t ret;
};

static int window_process_init(struct subprocess_info *info, struct cred *cred)
{
	struct window_process *p = info->data;
	struct window_test *t = p->test->priv;

	p->called = true;
	kunit_warning_suppress(p->test)
		p->ret = transfer(t->wins[0], t->file, p->dir, &p->iter, 0);
	return -ECANCELED;
}

/* A task that is going to be a process is one that is not a kernel thread. */
static void window_refuses_processes(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	struct window_process p = { .test = test, .dir = m->dir };
	struct window_test *t = test->priv;
	struct subprocess_info *info;

	create_window(test);
	layout_iter(test, &plain_layout, m->dir, 512, &p.iter);
	info = call_usermodehelper_setup("/nonexistent", NULL, NULL, GFP_KERNEL,
					 window_process_init, NULL, &p);
	KUNIT_ASSERT_NOT_NULL(test, info);
	call_usermodehelper_exec(info, UMH_WAIT_EXEC);
	if (!p.called)
		kunit_skip(test, "no user mode helpers");
	KUNIT_EXPECT_EQ(test, p.ret, -EINVAL);
	KUNIT_EXPECT_EQ(test, t->calls, 0);
}

/* Nothing in a window is for reclaim, swap or migration to find. */
static void window_pages_are_its_own(struct kunit *test)
{
	struct window_test *t = test->priv;

	create_window(test);
	KUNIT_ASSERT_EQ(test, t->nr_pages, WIN_PAGES);
	for (int i = 0; i < WIN_PAGES; i++) {
		struct folio *folio = page_folio(t->pages[i]);

		/* Of the window, of its mapping, and of alloc_page_stub(). */
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 3);
		KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 1);
		KUNIT_EXPECT_FALSE(test, folio_test_lru(folio));
		KUNIT_EXPECT_FALSE(test, folio_test_anon(folio));
		KUNIT_EXPECT_NULL(test, folio->mapping);
	}
}

/*
 * A ->read() that returns more than it has copied does not show what was in the
 * memory before it became the window's.
 */
static void window_shows_no_old_memory(struct kunit *test)
{
	struct window_test *t = test->priv;
	struct page *pages[64];
	struct iov_iter iter;

	for (int i = 0; i < ARRAY_SIZE(pages); i++) {
		pages[i] = alloc_page(GFP_KERNEL);
		if (pages[i])
			memset(page_address(pages[i]), MEM_POISON, PAGE_SIZE);
	}
	for (int i = 0; i < ARRAY_SIZE(pages); i++)
		if (pages[i])
			__free_page(pages[i]);

	/* The stub zeroes by itself. */
	kunit_deactivate_static_stub(test, user_window_alloc_page);
	create_window(test);
	t->forced = true;
	t->result = WIN_SIZE;
	memset(t->mem, MEM_POISON, STORE_SIZE);
	layout_iter(test, &plain_layout, ITER_DEST, WIN_SIZE, &iter);
	KUNIT_EXPECT_EQ(test, WIN_SIZE,
			transfer(t->wins[0], t->file, ITER_DEST, &iter, 0));
	KUNIT_EXPECT_NULL(test, memchr_inv(t->mem, 0, WIN_SIZE));
}

static void window_sizes(struct kunit *test)
{
	static const struct {
		size_t size;
		int pages;
	} good[] = {
		{ 1, 1 }, { PAGE_SIZE - 1, 1 }, { PAGE_SIZE, 1 },
		{ PAGE_SIZE + 1, 2 }, { WIN_SIZE, WIN_PAGES },
	};
	const size_t bad[] = {
		0, PMD_SIZE + 1, SIZE_MAX - PAGE_SIZE, SIZE_MAX,
	};
	struct window_test *t = test->priv;

	for (int i = 0; i < ARRAY_SIZE(good); i++) {
		int before = t->nr_pages;
		struct user_window *win = user_window_create(good[i].size);

		KUNIT_ASSERT_FALSE(test, IS_ERR(win));
		user_window_destroy(win);
		KUNIT_EXPECT_EQ(test, t->nr_pages - before, good[i].pages);
	}
	for (int i = 0; i < ARRAY_SIZE(bad); i++)
		KUNIT_EXPECT_EQ(test, PTR_ERR(user_window_create(bad[i])),
				-EINVAL);
	user_window_destroy(NULL);

	/* More pages than the stub has room for */
	kunit_deactivate_static_stub(test, user_window_alloc_page);
	t->wins[0] = user_window_create(PMD_SIZE);
	KUNIT_EXPECT_FALSE(test, IS_ERR(t->wins[0]));
	if (IS_ERR(t->wins[0]))
		t->wins[0] = NULL;
}

/*
 * 4096 windows of 128 bytes at least, not counting their pages, would be 512 KiB.
 * The counter is off by less, and others allocate less during that time.
 */
static void window_frees_its_memory(struct kunit *test)
{
	unsigned long before, after;

	if (IS_ENABLED(CONFIG_KASAN_GENERIC))
		kunit_skip(test, "KASAN keeps what was freed in quarantine");

	kunit_deactivate_static_stub(test, user_window_alloc_page);
	before = global_node_page_state_pages(NR_SLAB_UNRECLAIMABLE_B);
	for (int i = 0; i < 4096; i++) {
		struct user_window *win = user_window_create(1);

		KUNIT_ASSERT_FALSE(test, IS_ERR(win));
		user_window_destroy(win);
	}
	rcu_barrier();
	after = global_node_page_state_pages(NR_SLAB_UNRECLAIMABLE_B);
	KUNIT_EXPECT_LT(test, after, before + SZ_512K / PAGE_SIZE);
}

/* window_exit() checks that the pages which were allocated are free again. */
static void window_enomem(struct kunit *test)
{
	struct window_test *t = test->priv;

	for (int i = 0; i < WIN_PAGES; i++) {
		t->fail_at = t->nr_pages + i;
		KUNIT_EXPECT_EQ(test, PTR_ERR(user_window_create(WIN_SIZE)),
				-ENOMEM);
		KUNIT_EXPECT_EQ(test, t->nr_pages, t->fail_at);
	}
	KUNIT_EXPECT_EQ(test, t->nr_pages, WIN_PAGES * (WIN_PAGES - 1) / 2);
}

/* Kernel threads, each with its own region of the file. */

#define REGION_SIZE	(STORE_SIZE / NR_WORKERS)

struct window_worker {
	struct window_test *t;
	struct user_window *win;
	unsigned int dir;
	int id;
	int mismatches;
	int err;
	struct completion done;
};

static int region_transfer(struct window_worker *w, unsigned int dir, u8 *buf,
			   size_t len)
{
	struct kvec kvec = { buf, len };
	struct iov_iter iter;
	loff_t pos = w->id * REGION_SIZE;

	iov_iter_kvec(&iter, dir, &kvec, 1, len);
	while (iov_iter_count(&iter)) {
		ssize_t ret = transfer(w->win, w->t->file, dir, &iter, pos);

		if (ret <= 0)
			return ret ? ret : -EIO;
		pos += ret;
	}
	return 0;
}

static int worker_fn(void *data)
{
	struct window_worker *w = data;
	u8 *in = vmalloc(REGION_SIZE), *out = vmalloc(REGION_SIZE);
	struct rnd_state rnd;

	w->err = in && out ? 0 : -ENOMEM;
	prandom_seed_state(&rnd, w->id);
	for (int i = 0; i < 100 && !w->err; i++) {
		size_t len = 1 + prandom_u32_state(&rnd) % REGION_SIZE;

		prandom_bytes_state(&rnd, out, len);
		w->err = region_transfer(w, ITER_SOURCE, out, len);
		if (!w->err)
			w->err = region_transfer(w, ITER_DEST, in, len);
		if (!w->err && memcmp(in, out, len))
			w->mismatches++;
	}
	vfree(in);
	vfree(out);
	kthread_complete_and_exit(&w->done, 0);
}

static void start_worker(struct kunit *test, struct window_worker *w,
			 int (*fn)(void *data))
{
	struct task_struct *task;

	init_completion(&w->done);
	task = kthread_run(fn, w, "user_window/%d", w->id);
	if (IS_ERR(task)) {
		w->err = PTR_ERR(task);
		complete(&w->done);
	}
}

static void run_workers(struct kunit *test, int nr_windows)
{
	struct window_worker *workers;
	struct window_test *t = test->priv;

	workers = kunit_kcalloc(test, NR_WORKERS, sizeof(*workers), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, workers);
	for (int i = 0; i < nr_windows; i++)
		create_window(test);

	t->limit = PAGE_SIZE + 1;
	for (int i = 0; i < NR_WORKERS; i++) {
		workers[i].t = t;
		workers[i].win = t->wins[i % nr_windows];
		workers[i].id = i;
		start_worker(test, &workers[i], worker_fn);
	}
	for (int i = 0; i < NR_WORKERS; i++) {
		wait_for_completion(&workers[i].done);
		KUNIT_EXPECT_EQ_MSG(test, workers[i].err, 0, "worker %d", i);
		KUNIT_EXPECT_EQ_MSG(test, workers[i].mismatches, 0, "worker %d",
				    i);
	}
}

static void window_shared_by_workers(struct kunit *test)
{
	run_workers(test, 1);
}

static void window_several_on_one_file(struct kunit *test)
{
	run_workers(test, MAX_WINDOWS);
}

static int one_transfer_fn(void *data)
{
	struct window_worker *w = data;
	u8 *buf = vzalloc(REGION_SIZE);

	w->err = buf ? region_transfer(w, w->dir, buf, REGION_SIZE) : -ENOMEM;
	vfree(buf);
	kthread_complete_and_exit(&w->done, 0);
}

/* A method that waits holds up its own window, and no other. */
static void window_waits_alone(struct kunit *test)
{
	const struct window_method *m = test->param_value;
	DECLARE_COMPLETION_ONSTACK(entered);
	DECLARE_COMPLETION_ONSTACK(leave);
	struct window_test *t = test->priv;
	struct window_worker first = {
		.t = t, .win = create_window(test), .dir = m->dir,
	};
	struct window_worker second = {
		.t = t, .win = first.win, .dir = m->dir, .id = 1,
	};
	struct user_window *other = create_window(test);
	unsigned long early = 1;
	struct iov_iter iter;

	t->entered = &entered;
	t->leave = &leave;
	start_worker(test, &first, one_transfer_fn);
	if (wait_for_completion_timeout(&entered, WIN_TIMEOUT)) {
		layout_iter(test, &plain_layout, m->dir, WIN_SIZE, &iter);
		KUNIT_EXPECT_EQ(test, transfer(other, t->file, m->dir, &iter,
					       2 * REGION_SIZE), WIN_SIZE);
		KUNIT_EXPECT_FALSE(test, completion_done(&first.done));

		/* If it did not wait, it would be through by then. */
		start_worker(test, &second, one_transfer_fn);
		early = wait_for_completion_timeout(&second.done, HZ / 5);
		KUNIT_EXPECT_EQ(test, early, 0);
		KUNIT_EXPECT_EQ(test, t->calls, 2);
	} else {
		KUNIT_FAIL(test, "the method was not called");
	}
	complete(&leave);
	wait_for_completion(&first.done);
	if (!early)
		wait_for_completion(&second.done);
	KUNIT_EXPECT_EQ(test, first.err, 0);
	KUNIT_EXPECT_EQ(test, second.err, 0);
}

static struct kunit_case window_cases[] = {
	KUNIT_CASE_PARAM(window_writes, window_layout_gen_params),
	KUNIT_CASE_PARAM(window_reads, window_layout_gen_params),
	KUNIT_CASE_PARAM(window_short_writes, window_layout_gen_params),
	KUNIT_CASE_PARAM(window_short_reads, window_layout_gen_params),
	KUNIT_CASE_PARAM(window_passes_results_on, window_method_gen_params),
	KUNIT_CASE_PARAM(window_stops_after_a_part, window_method_gen_params),
	KUNIT_CASE(window_is_all_there_is),
	KUNIT_CASE(window_entries),
	KUNIT_CASE_PARAM(window_rejects_too_much, window_method_gen_params),
	KUNIT_CASE_PARAM(window_positions, window_method_gen_params),
	KUNIT_CASE_PARAM(window_refuses_unsigned_positions,
			 window_method_gen_params),
	KUNIT_CASE_PARAM(window_has_the_files_credentials,
			 window_method_gen_params),
	KUNIT_CASE_PARAM(window_refuses_files, window_refusal_gen_params),
	KUNIT_CASE_PARAM(window_refuses_iterators, window_method_gen_params),
	KUNIT_CASE_PARAM(window_refuses_tasks_with_an_mm,
			 window_method_gen_params),
	KUNIT_CASE_PARAM(window_refuses_processes, window_method_gen_params),
	KUNIT_CASE(window_pages_are_its_own),
	KUNIT_CASE(window_shows_no_old_memory),
	KUNIT_CASE(window_sizes),
	KUNIT_CASE(window_frees_its_memory),
	KUNIT_CASE(window_enomem),
	KUNIT_CASE(window_shared_by_workers),
	KUNIT_CASE(window_several_on_one_file),
	KUNIT_CASE_PARAM(window_waits_alone, window_method_gen_params),
	{}
};

static struct kunit_suite window_suite = {
	.name = "user_window",
	.suite_init = window_suite_init,
	.suite_exit = window_suite_exit,
	.init = window_init,
	.exit = window_exit,
	.test_cases = window_cases,
};

kunit_test_suite(window_suite);

MODULE_DESCRIPTION("KUnit tests of user windows");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
MODULE_LICENSE("GPL");
