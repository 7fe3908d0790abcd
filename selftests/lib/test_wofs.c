// SPDX-License-Identifier: GPL-2.0-only
/*
 * wofs - a filesystem in memory whose files misbehave on request
 *
 * Kernel code that does I/O on files, such as the loop driver, meets files
 * without ->write_iter, short transfers and errors too seldom to be tested
 * with real filesystems.  Here the mount options say which methods a file has
 * and how they fail:
 *
 *	mount -t wofs none DIR -o OPTIONS
 *
 * io=iter|write|mixed|none|read|noread
 *		the methods of files opened from now on, see wofs_fops[]
 * short=N	a read or write transfers at most N bytes (0: no limit)
 * fail=none|zero|eio|enospc|eintr|eacces
 * fail_op=read|write|fsync|getattr|fallocate
 * fail_at=OFFSET
 *		calls of that kind (default: write) transfer what lies before
 *		byte OFFSET of the file, and fail from there on; with zero they
 *		return 0.  fallocate either fails or does all of its range,
 *		fsync and getattr fail whatever OFFSET is.
 * cut=N	power cut: after N more successful writes all writes, fsyncs
 *		and fallocates fail with EIO (0: off)
 * delay=MS	every read and write sleeps that long first
 * dio_align=N	O_DIRECT is possible with offsets aligned to N bytes (0: it is
 *		not); files opened while it is 0 do not allow it at all
 * dio_mem_align=N
 *		and memory aligned to N bytes (0: as dio_align)
 * aio, noaio	asynchronous direct I/O on kernel memory completes from a
 *		workqueue.  (The VFS keeps the name "async" for itself.)
 * fallocate, nofallocate
 *		files opened from now on have ->fallocate
 * punch, nopunch
 *		->fallocate works, or returns EOPNOTSUPP
 * pseudo	not for data, as procfs and sysfs are (SB_I_NOEXEC); only at mount
 *
 * A remount changes only the options that it names; because mount(8) repeats
 * those that it finds in /proc/self/mountinfo, none are shown there.
 *
 * The file "calls" in the root directory has the number of calls since mount.
 * Data is neither in the page cache nor can it be mapped.
 */

#include <linux/cred.h>
#include <linux/delay.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/pagemap.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/stat.h>
#include <linux/uaccess.h>
#include <linux/uio.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#define WOFS_MAGIC	0x776f6673	/* "wofs" */

/* The value of fail= that is not the result of a call */
#define WOFS_FAIL_NONE	1

enum wofs_io {
	WOFS_IO_ITER,
	WOFS_IO_WRITE,
	WOFS_IO_MIXED,
	WOFS_IO_NONE,
	WOFS_IO_READ,
	WOFS_IO_NOREAD,
};

/* What is counted; the first are also what fail_op= can be */
enum wofs_counter {
	WOFS_READ,
	WOFS_WRITE,
	WOFS_READ_ITER,
	WOFS_WRITE_ITER,
	WOFS_DIRECT,
	WOFS_FSYNC,
	WOFS_DATASYNC,
	WOFS_FALLOCATE,
	WOFS_GETATTR,
	WOFS_READ_BYTES,
	WOFS_WRITE_BYTES,
	WOFS_FAULTS,
	WOFS_NOIO,
	WOFS_NR_COUNTERS,
};

static const char * const wofs_counter_names[] = {
	[WOFS_READ]		= "read",
	[WOFS_WRITE]		= "write",
	[WOFS_READ_ITER]	= "read_iter",
	[WOFS_WRITE_ITER]	= "write_iter",
	[WOFS_DIRECT]		= "direct",
	[WOFS_FSYNC]		= "fsync",
	[WOFS_DATASYNC]		= "datasync",
	[WOFS_FALLOCATE]	= "fallocate",
	[WOFS_GETATTR]		= "getattr",
	[WOFS_READ_BYTES]	= "read_bytes",
	[WOFS_WRITE_BYTES]	= "write_bytes",
	[WOFS_FAULTS]		= "faults",
	[WOFS_NOIO]		= "noio",
};

struct wofs_opts {
	enum wofs_io io;
	u64 max_bytes;
	int fail;
	enum wofs_counter fail_op;
	u64 fail_at;
	u64 cut_at;		/* in terms of wofs_info.written, 0: never */
	unsigned int delay;
	unsigned int dio_align;
	unsigned int dio_mem_align;
	bool aio;
	bool fallocate;
	bool punch;
	bool pseudo;
};

struct wofs_info {
	spinlock_t lock;	/* a call sees all of a remount or nothing */
	struct wofs_opts opts;
	atomic64_t written;	/* successful writes */
	uid_t uid;
	atomic64_t counters[WOFS_NR_COUNTERS];
};

struct wofs_aio {
	struct work_struct work;
	struct kiocb *iocb;
	struct iov_iter iter;
};

static struct workqueue_struct *wofs_wq;

static struct wofs_info *wofs_info(const struct inode *inode)
{
	return inode->i_sb->s_fs_info;
}

static struct wofs_opts wofs_opts(struct wofs_info *info)
{
	guard(spinlock)(&info->lock);
	return info->opts;
}

static void wofs_count(struct wofs_info *info, enum wofs_counter counter)
{
	atomic64_inc(&info->counters[counter]);
}

/*
 * How much of @len bytes at @pos a call may transfer, or what it returns
 * instead.  Everything that goes wrong on purpose is decided here.
 */
static ssize_t wofs_allow(struct wofs_info *info, enum wofs_counter op,
			  loff_t pos, size_t len)
{
	struct wofs_opts opts = wofs_opts(info);
	bool modifies = op == WOFS_WRITE || op == WOFS_FSYNC ||
			op == WOFS_FALLOCATE;

	if (modifies && opts.cut_at &&
	    atomic64_read(&info->written) >= opts.cut_at)
		return -EIO;
	if (opts.fail != WOFS_FAIL_NONE && opts.fail_op == op) {
		if (pos >= opts.fail_at)
			return opts.fail;
		len = min(len, opts.fail_at - pos);
	}
	if (opts.max_bytes)
		len = min(len, opts.max_bytes);
	return len;
}

/* For calls that cannot be cut short: 0, or the error that they return */
static int wofs_allow_all(struct wofs_info *info, enum wofs_counter op,
			  loff_t last)
{
	return min(wofs_allow(info, op, last, 1), 0);
}

/*
 * The data of a file: an xarray of zeroed pages.  The inode lock is held for
 * writing by those who change it, and for reading by those who look.
 */
static void *wofs_get_page(struct inode *inode, pgoff_t index)
{
	return xa_load(inode->i_private, index);
}

static void *wofs_grab_page(struct inode *inode, pgoff_t index)
{
	/* The loop driver restricts it for its backing files. */
	gfp_t gfp = mapping_gfp_mask(inode->i_mapping);
	void *page = wofs_get_page(inode, index);

	if (page)
		return page;
	if (!(gfp & __GFP_IO) && !(gfp & __GFP_FS))
		wofs_count(wofs_info(inode), WOFS_NOIO);
	page = (void *)get_zeroed_page(gfp);
	if (!page)
		return NULL;
	if (xa_err(xa_store(inode->i_private, index, page, gfp))) {
		free_page((unsigned long)page);
		return NULL;
	}
	inode_add_bytes(inode, PAGE_SIZE);
	return page;
}

/* Zero the bytes from @start to @last, inclusive; @punch frees whole pages. */
static void wofs_zero_range(struct inode *inode, loff_t start, loff_t last,
			    bool punch)
{
	struct xarray *pages = inode->i_private;
	unsigned long index;
	void *page;

	xa_for_each_range(pages, index, page, start >> PAGE_SHIFT,
			  last >> PAGE_SHIFT) {
		loff_t pos = (loff_t)index << PAGE_SHIFT;
		size_t from = max(start, pos) - pos;
		size_t to = min_t(loff_t, last - pos, PAGE_SIZE - 1) + 1;

		if (punch && to - from == PAGE_SIZE) {
			xa_erase(pages, index);
			free_page((unsigned long)page);
			inode_sub_bytes(inode, PAGE_SIZE);
		} else {
			memset(page + from, 0, to - from);
		}
	}
}

static size_t __wofs_copy(void *page, size_t offset, size_t bytes,
			  struct iov_iter *iter)
{
	if (!page)
		return iov_iter_zero(bytes, iter);
	if (iov_iter_rw(iter) == WRITE)
		return copy_from_iter(page + offset, bytes, iter);
	return copy_to_iter(page + offset, bytes, iter);
}

/* @faulted: set if user memory had to be faulted in, NULL if nobody asks */
static size_t wofs_copy(void *page, size_t offset, size_t bytes,
			struct iov_iter *iter, bool *faulted)
{
	size_t copied;

	if (!faulted)
		return __wofs_copy(page, offset, bytes, iter);

	pagefault_disable();
	copied = __wofs_copy(page, offset, bytes, iter);
	pagefault_enable();
	if (copied == bytes)
		return copied;

	*faulted = true;
	return copied + __wofs_copy(page, offset + copied, bytes - copied,
				    iter);
}

/* Transfer @len bytes at ki_pos, as many as possible. */
static ssize_t wofs_transfer(struct kiocb *iocb, struct iov_iter *iter,
			     size_t len, bool *faulted)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	size_t done = 0;

	while (done < len) {
		pgoff_t index = iocb->ki_pos >> PAGE_SHIFT;
		size_t offset = offset_in_page(iocb->ki_pos);
		size_t bytes = min(len - done, PAGE_SIZE - offset);
		size_t copied;
		void *page;

		if (iov_iter_rw(iter) == WRITE) {
			page = wofs_grab_page(inode, index);
			if (!page)
				return done ?: -ENOMEM;
		} else {
			page = wofs_get_page(inode, index);
		}

		copied = wofs_copy(page, offset, bytes, iter, faulted);
		iocb->ki_pos += copied;
		done += copied;
		if (copied < bytes)
			return done ?: -EFAULT;
	}
	return done;
}

static ssize_t wofs_do_read(struct kiocb *iocb, struct iov_iter *to,
			    bool *faulted)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct wofs_info *info = wofs_info(inode);
	ssize_t ret;

	if (!iov_iter_count(to))
		return 0;

	inode_lock_shared(inode);
	ret = wofs_allow(info, WOFS_READ, iocb->ki_pos, iov_iter_count(to));
	if (ret > 0)
		ret = clamp(i_size_read(inode) - iocb->ki_pos, 0, ret);
	if (ret > 0)
		ret = wofs_transfer(iocb, to, ret, faulted);
	inode_unlock_shared(inode);

	if (ret > 0)
		atomic64_add(ret, &info->counters[WOFS_READ_BYTES]);
	file_accessed(iocb->ki_filp);
	return ret;
}

static ssize_t wofs_do_write(struct kiocb *iocb, struct iov_iter *from,
			     bool *faulted)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct wofs_info *info = wofs_info(inode);
	ssize_t ret, err;

	inode_lock(inode);
	ret = generic_write_checks(iocb, from);
	if (ret > 0)
		ret = wofs_allow(info, WOFS_WRITE, iocb->ki_pos, ret);
	if (ret > 0) {
		err = kiocb_modified(iocb);
		ret = err ?: wofs_transfer(iocb, from, ret, faulted);
	}
	if (ret > 0) {
		if (iocb->ki_pos > i_size_read(inode))
			i_size_write(inode, iocb->ki_pos);
		atomic64_inc(&info->written);
		atomic64_add(ret, &info->counters[WOFS_WRITE_BYTES]);
	}
	inode_unlock(inode);

	if (ret > 0)
		ret = generic_write_sync(iocb, ret);
	return ret;
}

static ssize_t wofs_rw(struct kiocb *iocb, struct iov_iter *iter, bool *faulted)
{
	struct wofs_opts opts = wofs_opts(wofs_info(file_inode(iocb->ki_filp)));

	if (opts.delay)
		msleep(opts.delay);
	if (iov_iter_rw(iter) == WRITE)
		return wofs_do_write(iocb, iter, faulted);
	return wofs_do_read(iocb, iter, faulted);
}

static void wofs_count_write(struct wofs_info *info, enum wofs_counter method)
{
	wofs_count(info, method);
	WRITE_ONCE(info->uid, from_kuid_munged(&init_user_ns, current_fsuid()));
}

/* What ->read and ->write have in common: they get a user buffer. */
static ssize_t wofs_rw_user(struct file *file, struct iov_iter *iter,
			    loff_t *ppos)
{
	struct kiocb iocb;
	bool faulted = false;
	ssize_t ret;

	init_sync_kiocb(&iocb, file);
	iocb.ki_pos = *ppos;
	ret = wofs_rw(&iocb, iter, &faulted);
	if (ret > 0)
		*ppos = iocb.ki_pos;
	if (faulted)
		wofs_count(wofs_info(file_inode(file)), WOFS_FAULTS);
	return ret;
}

static ssize_t wofs_read(struct file *file, char __user *buf, size_t len,
			 loff_t *ppos)
{
	struct iov_iter to;

	wofs_count(wofs_info(file_inode(file)), WOFS_READ);
	iov_iter_ubuf(&to, ITER_DEST, buf, len);
	return wofs_rw_user(file, &to, ppos);
}

static ssize_t wofs_write(struct file *file, const char __user *buf, size_t len,
			  loff_t *ppos)
{
	struct iov_iter from;

	wofs_count_write(wofs_info(file_inode(file)), WOFS_WRITE);
	iov_iter_ubuf(&from, ITER_SOURCE, (void __user *)buf, len);
	return wofs_rw_user(file, &from, ppos);
}

static void wofs_aio_work(struct work_struct *work)
{
	struct wofs_aio *aio = container_of(work, struct wofs_aio, work);
	struct kiocb *iocb = aio->iocb;
	ssize_t ret;

	ret = wofs_rw(iocb, &aio->iter, NULL);
	kfree(aio);
	iocb->ki_complete(iocb, ret);
}

/*
 * The submitter's iterator is gone when we return; what it points to stays
 * until ki_complete().
 */
static ssize_t wofs_queue_aio(struct kiocb *iocb, struct iov_iter *iter)
{
	struct wofs_aio *aio = kmalloc_obj(*aio);

	if (!aio)
		return -ENOMEM;
	INIT_WORK(&aio->work, wofs_aio_work);
	aio->iocb = iocb;
	aio->iter = *iter;
	queue_work(wofs_wq, &aio->work);
	return -EIOCBQUEUED;
}

static ssize_t wofs_rw_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct wofs_opts opts = wofs_opts(wofs_info(file_inode(iocb->ki_filp)));

	if (iocb->ki_flags & IOCB_DIRECT) {
		wofs_count(wofs_info(file_inode(iocb->ki_filp)), WOFS_DIRECT);
		if (!opts.dio_align ||
		    !IS_ALIGNED(iocb->ki_pos | iov_iter_count(iter),
				opts.dio_align) ||
		    !IS_ALIGNED(iov_iter_alignment(iter),
				opts.dio_mem_align ?: opts.dio_align))
			return -EINVAL;
		/* User memory would have to be pinned to be used later. */
		if (opts.aio && !is_sync_kiocb(iocb) && iov_iter_is_bvec(iter))
			return wofs_queue_aio(iocb, iter);
	}
	return wofs_rw(iocb, iter, NULL);
}

static ssize_t wofs_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	wofs_count(wofs_info(file_inode(iocb->ki_filp)), WOFS_READ_ITER);
	return wofs_rw_iter(iocb, to);
}

static ssize_t wofs_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	wofs_count_write(wofs_info(file_inode(iocb->ki_filp)), WOFS_WRITE_ITER);
	return wofs_rw_iter(iocb, from);
}

static int wofs_fsync(struct file *file, loff_t start, loff_t end, int datasync)
{
	struct wofs_info *info = wofs_info(file_inode(file));

	wofs_count(info, WOFS_FSYNC);
	if (datasync)
		wofs_count(info, WOFS_DATASYNC);
	return wofs_allow_all(info, WOFS_FSYNC, LLONG_MAX);
}

static long wofs_fallocate(struct file *file, int mode, loff_t offset,
			   loff_t len)
{
	struct inode *inode = file_inode(file);
	struct wofs_info *info = wofs_info(inode);
	loff_t last = offset + len - 1;
	int err;

	wofs_count(info, WOFS_FALLOCATE);
	if (!wofs_opts(info).punch)
		return -EOPNOTSUPP;
	if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    mode != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;

	inode_lock(inode);
	err = wofs_allow_all(info, WOFS_FALLOCATE, last);
	if (!err)
		err = file_modified(file);
	if (!err)
		wofs_zero_range(inode, offset, last,
				mode & FALLOC_FL_PUNCH_HOLE);
	inode_unlock(inode);
	return err;
}

#define WOFS_COMMON					\
	.owner		= THIS_MODULE,			\
	.llseek		= generic_file_llseek,		\
	.fsync		= wofs_fsync

#define WOFS_FOPS(methods...) {						\
	{ WOFS_COMMON, methods },					\
	{ WOFS_COMMON, methods, .fallocate = wofs_fallocate },		\
}

/* The methods that a file gets when it is opened, without ->fallocate and with */
static const struct file_operations wofs_fops[][2] = {
	[WOFS_IO_ITER]	 = WOFS_FOPS(.read_iter = wofs_read_iter,
				     .write_iter = wofs_write_iter),
	[WOFS_IO_WRITE]	 = WOFS_FOPS(.read = wofs_read,
				     .write = wofs_write),
	[WOFS_IO_MIXED]	 = WOFS_FOPS(.read_iter = wofs_read_iter,
				     .write = wofs_write),
	[WOFS_IO_NONE]	 = WOFS_FOPS(.read_iter = wofs_read_iter),
	[WOFS_IO_READ]	 = WOFS_FOPS(.read = wofs_read),
	[WOFS_IO_NOREAD] = WOFS_FOPS(.write_iter = wofs_write_iter),
};

static int wofs_open(struct inode *inode, struct file *file)
{
	struct wofs_opts opts = wofs_opts(wofs_info(inode));

	/* The owner is the same, and so is the reference to it. */
	file->f_op = &wofs_fops[opts.io][opts.fallocate];
	if (opts.dio_align && (file->f_op->read_iter || file->f_op->write_iter))
		file->f_mode |= FMODE_CAN_ODIRECT;
	return generic_file_open(inode, file);
}

static const struct file_operations wofs_open_fops = {
	.owner		= THIS_MODULE,
	.open		= wofs_open,
};

static int wofs_getattr(struct mnt_idmap *idmap, const struct path *path,
			struct kstat *stat, u32 request_mask,
			unsigned int query_flags)
{
	struct inode *inode = d_inode(path->dentry);
	struct wofs_info *info = wofs_info(inode);
	struct wofs_opts opts = wofs_opts(info);
	int err;

	wofs_count(info, WOFS_GETATTR);
	err = wofs_allow_all(info, WOFS_GETATTR, LLONG_MAX);
	if (err)
		return err;

	generic_fillattr(idmap, request_mask, inode, stat);
	if (!(request_mask & STATX_SIZE)) {
		stat->size = 0;
		stat->result_mask &= ~STATX_SIZE;
	}
	if (request_mask & STATX_DIOALIGN) {
		stat->result_mask |= STATX_DIOALIGN;
		stat->dio_offset_align = opts.dio_align;
		if (opts.dio_align)
			stat->dio_mem_align = opts.dio_mem_align ?:
					      opts.dio_align;
	}
	return 0;
}

static int wofs_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
			struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	int err;

	err = setattr_prepare(idmap, dentry, attr);
	if (err)
		return err;

	if (attr->ia_valid & ATTR_SIZE) {
		wofs_zero_range(inode, attr->ia_size, LLONG_MAX, true);
		i_size_write(inode, attr->ia_size);
		inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
	}
	setattr_copy(idmap, inode, attr);
	return 0;
}

static const struct inode_operations wofs_file_iops = {
	.getattr	= wofs_getattr,
	.setattr	= wofs_setattr,
};

static const struct inode_operations wofs_dir_iops;

static struct inode *wofs_new_inode(struct super_block *sb, struct inode *dir,
				    umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode_init_owner(&nop_mnt_idmap, inode, dir, mode);
	simple_inode_init_ts(inode);

	if (S_ISDIR(mode)) {
		inode->i_op = &wofs_dir_iops;
		inode->i_fop = &simple_dir_operations;
		inc_nlink(inode);
		/*
		 * The locks of files are taken below another filesystem when a
		 * loop device is in between, those of directories are not.
		 */
		lockdep_annotate_inode_mutex_key(inode);
		return inode;
	}

	inode->i_private = kmalloc_obj(struct xarray);
	if (!inode->i_private) {
		iput(inode);
		return NULL;
	}
	xa_init(inode->i_private);
	mapping_set_gfp_mask(inode->i_mapping, GFP_KERNEL);
	inode->i_op = &wofs_file_iops;
	inode->i_fop = &wofs_open_fops;
	return inode;
}

static int wofs_make(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct inode *inode = wofs_new_inode(dir->i_sb, dir, mode);

	if (!inode)
		return -ENOMEM;
	d_make_persistent(dentry, inode);
	inode_set_mtime_to_ts(dir, inode_set_ctime_current(dir));
	return 0;
}

static int wofs_create(struct mnt_idmap *idmap, struct inode *dir,
		       struct dentry *dentry, umode_t mode)
{
	return wofs_make(dir, dentry, mode | S_IFREG);
}

static struct dentry *wofs_mkdir(struct mnt_idmap *idmap, struct inode *dir,
				 struct dentry *dentry, umode_t mode)
{
	int err = wofs_make(dir, dentry, mode | S_IFDIR);

	if (!err)
		inc_nlink(dir);
	return ERR_PTR(err);
}

static const struct inode_operations wofs_dir_iops = {
	.create		= wofs_create,
	.lookup		= simple_lookup,
	.unlink		= simple_unlink,
	.mkdir		= wofs_mkdir,
	.rmdir		= simple_rmdir,
	.rename		= simple_rename,
};

static int wofs_calls_show(struct seq_file *m, void *v)
{
	struct wofs_info *info = m->private;
	int i;

	for (i = 0; i < WOFS_NR_COUNTERS; i++)
		seq_printf(m, "%s %lld\n", wofs_counter_names[i],
			   atomic64_read(&info->counters[i]));
	seq_printf(m, "uid %u\n", READ_ONCE(info->uid));
	return 0;
}

static int wofs_calls_open(struct inode *inode, struct file *file)
{
	return single_open(file, wofs_calls_show, wofs_info(inode));
}

static const struct file_operations wofs_calls_fops = {
	.owner		= THIS_MODULE,
	.open		= wofs_calls_open,
	.read_iter	= seq_read_iter,
	.llseek		= seq_lseek,
	.release	= single_release,
};

static int wofs_make_calls(struct super_block *sb)
{
	struct dentry *dentry = d_alloc_name(sb->s_root, "calls");
	struct inode *inode;

	if (!dentry)
		return -ENOMEM;
	inode = new_inode(sb);
	if (!inode) {
		dput(dentry);
		return -ENOMEM;
	}
	inode->i_ino = get_next_ino();
	inode->i_mode = S_IFREG | 0444;
	simple_inode_init_ts(inode);
	inode->i_fop = &wofs_calls_fops;
	d_make_persistent(dentry, inode);
	dput(dentry);
	return 0;
}

static void wofs_evict_inode(struct inode *inode)
{
	if (inode->i_private) {
		wofs_zero_range(inode, 0, LLONG_MAX, true);
		kfree(inode->i_private);
	}
	clear_inode(inode);
}

/* Nothing to do, but without it FIFREEZE is refused. */
static int wofs_freeze(struct super_block *sb)
{
	return 0;
}

static const struct super_operations wofs_super_ops = {
	.statfs		= simple_statfs,
	.drop_inode	= inode_just_drop,
	.evict_inode	= wofs_evict_inode,
	.freeze_fs	= wofs_freeze,
};

static int wofs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct wofs_info *info = sb->s_fs_info;
	struct wofs_opts *opts = fc->fs_private;

	info->opts = *opts;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = WOFS_MAGIC;
	sb->s_op = &wofs_super_ops;
	sb->s_d_flags = DCACHE_DONTCACHE;
	sb->s_time_gran = 1;
	if (opts->pseudo)
		sb->s_iflags |= SB_I_NOEXEC;
	sb->s_root = d_make_root(wofs_new_inode(sb, NULL, S_IFDIR | 0755));
	if (!sb->s_root)
		return -ENOMEM;
	return wofs_make_calls(sb);
}

static int wofs_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, wofs_fill_super);
}

static int wofs_reconfigure(struct fs_context *fc)
{
	struct wofs_info *info = fc->root->d_sb->s_fs_info;
	struct wofs_opts *opts = fc->fs_private;

	guard(spinlock)(&info->lock);
	info->opts = *opts;
	return 0;
}

enum wofs_param {
	WOFS_OPT_IO,
	WOFS_OPT_SHORT,
	WOFS_OPT_FAIL,
	WOFS_OPT_FAIL_OP,
	WOFS_OPT_FAIL_AT,
	WOFS_OPT_CUT,
	WOFS_OPT_DELAY,
	WOFS_OPT_DIO_ALIGN,
	WOFS_OPT_DIO_MEM_ALIGN,
	WOFS_OPT_AIO,
	WOFS_OPT_FALLOCATE,
	WOFS_OPT_PUNCH,
	WOFS_OPT_PSEUDO,
};

static const struct constant_table wofs_param_io[] = {
	{ "iter",	WOFS_IO_ITER },
	{ "write",	WOFS_IO_WRITE },
	{ "mixed",	WOFS_IO_MIXED },
	{ "none",	WOFS_IO_NONE },
	{ "read",	WOFS_IO_READ },
	{ "noread",	WOFS_IO_NOREAD },
	{}
};

static const struct constant_table wofs_param_fail[] = {
	{ "none",	WOFS_FAIL_NONE },
	{ "zero",	0 },
	{ "eio",	-EIO },
	{ "enospc",	-ENOSPC },
	{ "eintr",	-EINTR },
	{ "eacces",	-EACCES },
	{}
};

static const struct constant_table wofs_param_fail_op[] = {
	{ "read",	WOFS_READ },
	{ "write",	WOFS_WRITE },
	{ "fsync",	WOFS_FSYNC },
	{ "getattr",	WOFS_GETATTR },
	{ "fallocate",	WOFS_FALLOCATE },
	{}
};

static const struct fs_parameter_spec wofs_parameters[] = {
	fsparam_enum("io",		WOFS_OPT_IO,		wofs_param_io),
	fsparam_u64("short",		WOFS_OPT_SHORT),
	fsparam_enum("fail",		WOFS_OPT_FAIL,	wofs_param_fail),
	fsparam_enum("fail_op",		WOFS_OPT_FAIL_OP,	wofs_param_fail_op),
	fsparam_u64("fail_at",		WOFS_OPT_FAIL_AT),
	fsparam_u64("cut",		WOFS_OPT_CUT),
	fsparam_u32("delay",		WOFS_OPT_DELAY),
	fsparam_u32("dio_align",	WOFS_OPT_DIO_ALIGN),
	fsparam_u32("dio_mem_align",	WOFS_OPT_DIO_MEM_ALIGN),
	fsparam_flag_no("aio",		WOFS_OPT_AIO),
	fsparam_flag_no("fallocate",	WOFS_OPT_FALLOCATE),
	fsparam_flag_no("punch",	WOFS_OPT_PUNCH),
	fsparam_flag("pseudo",		WOFS_OPT_PSEUDO),
	{}
};

static int wofs_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct wofs_opts *opts = fc->fs_private;
	struct fs_parse_result result;
	struct wofs_info *info;
	int opt;

	opt = fs_parse(fc, wofs_parameters, param, &result);
	if (opt < 0)
		return opt;

	switch (opt) {
	case WOFS_OPT_IO:
		opts->io = result.uint_32;
		break;
	case WOFS_OPT_SHORT:
		opts->max_bytes = result.uint_64;
		break;
	case WOFS_OPT_FAIL:
		opts->fail = result.int_32;
		break;
	case WOFS_OPT_FAIL_OP:
		opts->fail_op = result.uint_32;
		break;
	case WOFS_OPT_FAIL_AT:
		opts->fail_at = result.uint_64;
		break;
	case WOFS_OPT_CUT:
		info = fc->root ? fc->root->d_sb->s_fs_info : fc->s_fs_info;
		opts->cut_at = result.uint_64;
		if (opts->cut_at)
			opts->cut_at += atomic64_read(&info->written);
		break;
	case WOFS_OPT_DELAY:
		opts->delay = result.uint_32;
		break;
	case WOFS_OPT_DIO_ALIGN:
	case WOFS_OPT_DIO_MEM_ALIGN:
		if (result.uint_32 && !is_power_of_2(result.uint_32))
			return invalf(fc, "%s is not a power of two",
				      param->key);
		if (opt == WOFS_OPT_DIO_ALIGN)
			opts->dio_align = result.uint_32;
		else
			opts->dio_mem_align = result.uint_32;
		break;
	case WOFS_OPT_AIO:
		opts->aio = result.boolean;
		break;
	case WOFS_OPT_FALLOCATE:
		opts->fallocate = result.boolean;
		break;
	case WOFS_OPT_PUNCH:
		opts->punch = result.boolean;
		break;
	case WOFS_OPT_PSEUDO:
		opts->pseudo = true;
		break;
	}
	return 0;
}

static void wofs_free_fc(struct fs_context *fc)
{
	kfree(fc->fs_private);
	kfree(fc->s_fs_info);
}

static const struct fs_context_operations wofs_context_ops = {
	.free		= wofs_free_fc,
	.parse_param	= wofs_parse_param,
	.get_tree	= wofs_get_tree,
	.reconfigure	= wofs_reconfigure,
};

static int wofs_init_fs_context(struct fs_context *fc)
{
	struct wofs_opts *opts = kzalloc_obj(*opts);
	struct wofs_info *info;

	if (!opts)
		return -ENOMEM;

	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE) {
		*opts = wofs_opts(fc->root->d_sb->s_fs_info);
	} else {
		info = kzalloc_obj(*info);
		if (!info) {
			kfree(opts);
			return -ENOMEM;
		}
		spin_lock_init(&info->lock);
		fc->s_fs_info = info;
		opts->io = WOFS_IO_ITER;
		opts->fail = WOFS_FAIL_NONE;
		opts->fail_op = WOFS_WRITE;
		opts->punch = true;
	}
	fc->fs_private = opts;
	fc->ops = &wofs_context_ops;
	return 0;
}

static void wofs_kill_sb(struct super_block *sb)
{
	struct wofs_info *info = sb->s_fs_info;

	kill_anon_super(sb);
	kfree(info);
}

static struct file_system_type wofs_fs_type = {
	.owner			= THIS_MODULE,
	.name			= "wofs",
	.init_fs_context	= wofs_init_fs_context,
	.parameters		= wofs_parameters,
	.kill_sb		= wofs_kill_sb,
};
MODULE_ALIAS_FS("wofs");

static int __init wofs_init(void)
{
	int err;

	wofs_wq = alloc_workqueue("wofs", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!wofs_wq)
		return -ENOMEM;
	err = register_filesystem(&wofs_fs_type);
	if (err)
		destroy_workqueue(wofs_wq);
	return err;
}
module_init(wofs_init);

static void __exit wofs_exit(void)
{
	unregister_filesystem(&wofs_fs_type);
	destroy_workqueue(wofs_wq);
}
module_exit(wofs_exit);

MODULE_DESCRIPTION("Filesystem for tests of the users of file methods");
MODULE_LICENSE("GPL");
