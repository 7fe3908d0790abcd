// SPDX-License-Identifier: GPL-2.0-only
/*
 * faultfs - a filesystem in memory whose files misbehave on request
 *
 * Kernel code that does I/O on files, such as the loop driver, meets files
 * without ->write_iter, short transfers and errors too seldom to be tested
 * with real filesystems.  Here the mount options say which methods a file has
 * and how they fail:
 *
 *	mount -t faultfs none DIR -o OPTIONS
 *
 * io=iter|write|mixed|none|read|noread
 *		the methods of files opened from now on, see faultfs_fops[]
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

#define FAULTFS_MAGIC	0x666c7473	/* "flts" */

/* The value of fail= that is not the result of a call */
#define FAULTFS_FAIL_NONE	1

enum faultfs_io {
	FAULTFS_IO_ITER,
	FAULTFS_IO_WRITE,
	FAULTFS_IO_MIXED,
	FAULTFS_IO_NONE,
	FAULTFS_IO_READ,
	FAULTFS_IO_NOREAD,
};

/* What is counted; the first are also what fail_op= can be */
enum faultfs_counter {
	FAULTFS_READ,
	FAULTFS_WRITE,
	FAULTFS_READ_ITER,
	FAULTFS_WRITE_ITER,
	FAULTFS_DIRECT,
	FAULTFS_FSYNC,
	FAULTFS_DATASYNC,
	FAULTFS_FALLOCATE,
	FAULTFS_GETATTR,
	FAULTFS_READ_BYTES,
	FAULTFS_WRITE_BYTES,
	FAULTFS_FAULTS,
	FAULTFS_NOIO,
	FAULTFS_NR_COUNTERS,
};

static const char * const faultfs_counter_names[] = {
	[FAULTFS_READ]		= "read",
	[FAULTFS_WRITE]		= "write",
	[FAULTFS_READ_ITER]	= "read_iter",
	[FAULTFS_WRITE_ITER]	= "write_iter",
	[FAULTFS_DIRECT]	= "direct",
	[FAULTFS_FSYNC]		= "fsync",
	[FAULTFS_DATASYNC]	= "datasync",
	[FAULTFS_FALLOCATE]	= "fallocate",
	[FAULTFS_GETATTR]	= "getattr",
	[FAULTFS_READ_BYTES]	= "read_bytes",
	[FAULTFS_WRITE_BYTES]	= "write_bytes",
	[FAULTFS_FAULTS]	= "faults",
	[FAULTFS_NOIO]		= "noio",
};

struct faultfs_opts {
	enum faultfs_io io;
	u64 max_bytes;
	int fail;
	enum faultfs_counter fail_op;
	u64 fail_at;
	u64 cut_at;		/* in terms of faultfs_info.written, 0: never */
	unsigned int delay;
	unsigned int dio_align;
	unsigned int dio_mem_align;
	bool aio;
	bool fallocate;
	bool punch;
	bool pseudo;
};

struct faultfs_info {
	spinlock_t lock;	/* a call sees all of a remount or nothing */
	struct faultfs_opts opts;
	atomic64_t written;	/* successful writes */
	uid_t uid;
	atomic64_t counters[FAULTFS_NR_COUNTERS];
};

struct faultfs_aio {
	struct work_struct work;
	struct kiocb *iocb;
	struct iov_iter iter;
};

static struct workqueue_struct *faultfs_wq;

static struct faultfs_info *faultfs_info(const struct inode *inode)
{
	return inode->i_sb->s_fs_info;
}

static struct faultfs_opts faultfs_opts(struct faultfs_info *info)
{
	guard(spinlock)(&info->lock);
	return info->opts;
}

static void faultfs_count(struct faultfs_info *info,
			  enum faultfs_counter counter)
{
	atomic64_inc(&info->counters[counter]);
}

/*
 * How much of @len bytes at @pos a call may transfer, or what it returns
 * instead.  Everything that goes wrong on purpose is decided here.
 */
static ssize_t faultfs_allow(struct faultfs_info *info, enum faultfs_counter op,
			     loff_t pos, size_t len)
{
	struct faultfs_opts opts = faultfs_opts(info);
	bool modifies = op == FAULTFS_WRITE || op == FAULTFS_FSYNC ||
			op == FAULTFS_FALLOCATE;

	if (modifies && opts.cut_at &&
	    atomic64_read(&info->written) >= opts.cut_at)
		return -EIO;
	if (opts.fail != FAULTFS_FAIL_NONE && opts.fail_op == op) {
		if (pos >= opts.fail_at)
			return opts.fail;
		len = min(len, opts.fail_at - pos);
	}
	if (opts.max_bytes)
		len = min(len, opts.max_bytes);
	return len;
}

/* For calls that cannot be cut short: 0, or the error that they return */
static int faultfs_allow_all(struct faultfs_info *info, enum faultfs_counter op,
			     loff_t last)
{
	return min(faultfs_allow(info, op, last, 1), 0);
}

/*
 * The data of a file: an xarray of zeroed pages.  The inode lock is held for
 * writing by those who change it, and for reading by those who look.
 */
static void *faultfs_get_page(struct inode *inode, pgoff_t index)
{
	return xa_load(inode->i_private, index);
}

static void *faultfs_grab_page(struct inode *inode, pgoff_t index)
{
	/* The loop driver restricts it for its backing files. */
	gfp_t gfp = mapping_gfp_mask(inode->i_mapping);
	void *page = faultfs_get_page(inode, index);

	if (page)
		return page;
	if (!(gfp & __GFP_IO) && !(gfp & __GFP_FS))
		faultfs_count(faultfs_info(inode), FAULTFS_NOIO);
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
static void faultfs_zero_range(struct inode *inode, loff_t start, loff_t last,
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

static size_t __faultfs_copy(void *page, size_t offset, size_t bytes,
			     struct iov_iter *iter)
{
	if (!page)
		return iov_iter_zero(bytes, iter);
	if (iov_iter_rw(iter) == WRITE)
		return copy_from_iter(page + offset, bytes, iter);
	return copy_to_iter(page + offset, bytes, iter);
}

/* @faulted: set if user memory had to be faulted in, NULL if nobody asks */
static size_t faultfs_copy(void *page, size_t offset, size_t bytes,
			   struct iov_iter *iter, bool *faulted)
{
	size_t copied;

	if (!faulted)
		return __faultfs_copy(page, offset, bytes, iter);

	pagefault_disable();
	copied = __faultfs_copy(page, offset, bytes, iter);
	pagefault_enable();
	if (copied == bytes)
		return copied;

	*faulted = true;
	return copied + __faultfs_copy(page, offset + copied, bytes - copied,
				       iter);
}

/* Transfer @len bytes at ki_pos, as many as possible. */
static ssize_t faultfs_transfer(struct kiocb *iocb, struct iov_iter *iter,
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
			page = faultfs_grab_page(inode, index);
			if (!page)
				return done ?: -ENOMEM;
		} else {
			page = faultfs_get_page(inode, index);
		}

		copied = faultfs_copy(page, offset, bytes, iter, faulted);
		iocb->ki_pos += copied;
		done += copied;
		if (copied < bytes)
			return done ?: -EFAULT;
	}
	return done;
}

static ssize_t faultfs_do_read(struct kiocb *iocb, struct iov_iter *to,
			       bool *faulted)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct faultfs_info *info = faultfs_info(inode);
	ssize_t ret;

	if (!iov_iter_count(to))
		return 0;

	inode_lock_shared(inode);
	ret = faultfs_allow(info, FAULTFS_READ, iocb->ki_pos,
			    iov_iter_count(to));
	if (ret > 0)
		ret = clamp(i_size_read(inode) - iocb->ki_pos, 0, ret);
	if (ret > 0)
		ret = faultfs_transfer(iocb, to, ret, faulted);
	inode_unlock_shared(inode);

	if (ret > 0)
		atomic64_add(ret, &info->counters[FAULTFS_READ_BYTES]);
	file_accessed(iocb->ki_filp);
	return ret;
}

static ssize_t faultfs_do_write(struct kiocb *iocb, struct iov_iter *from,
				bool *faulted)
{
	struct inode *inode = file_inode(iocb->ki_filp);
	struct faultfs_info *info = faultfs_info(inode);
	ssize_t ret, err;

	inode_lock(inode);
	ret = generic_write_checks(iocb, from);
	if (ret > 0)
		ret = faultfs_allow(info, FAULTFS_WRITE, iocb->ki_pos, ret);
	if (ret > 0) {
		err = kiocb_modified(iocb);
		ret = err ?: faultfs_transfer(iocb, from, ret, faulted);
	}
	if (ret > 0) {
		if (iocb->ki_pos > i_size_read(inode))
			i_size_write(inode, iocb->ki_pos);
		atomic64_inc(&info->written);
		atomic64_add(ret, &info->counters[FAULTFS_WRITE_BYTES]);
	}
	inode_unlock(inode);

	if (ret > 0)
		ret = generic_write_sync(iocb, ret);
	return ret;
}

static ssize_t faultfs_rw(struct kiocb *iocb, struct iov_iter *iter,
			  bool *faulted)
{
	struct faultfs_opts opts =
		faultfs_opts(faultfs_info(file_inode(iocb->ki_filp)));

	if (opts.delay)
		msleep(opts.delay);
	if (iov_iter_rw(iter) == WRITE)
		return faultfs_do_write(iocb, iter, faulted);
	return faultfs_do_read(iocb, iter, faulted);
}

static void faultfs_count_write(struct faultfs_info *info,
				enum faultfs_counter method)
{
	faultfs_count(info, method);
	WRITE_ONCE(info->uid, from_kuid_munged(&init_user_ns, current_fsuid()));
}

/* What ->read and ->write have in common: they get a user buffer. */
static ssize_t faultfs_rw_user(struct file *file, struct iov_iter *iter,
			       loff_t *ppos)
{
	struct kiocb iocb;
	bool faulted = false;
	ssize_t ret;

	init_sync_kiocb(&iocb, file);
	iocb.ki_pos = *ppos;
	ret = faultfs_rw(&iocb, iter, &faulted);
	if (ret > 0)
		*ppos = iocb.ki_pos;
	if (faulted)
		faultfs_count(faultfs_info(file_inode(file)), FAULTFS_FAULTS);
	return ret;
}

static ssize_t faultfs_read(struct file *file, char __user *buf, size_t len,
			    loff_t *ppos)
{
	struct iov_iter to;

	faultfs_count(faultfs_info(file_inode(file)), FAULTFS_READ);
	iov_iter_ubuf(&to, ITER_DEST, buf, len);
	return faultfs_rw_user(file, &to, ppos);
}

static ssize_t faultfs_write(struct file *file, const char __user *buf,
			     size_t len, loff_t *ppos)
{
	struct iov_iter from;

	faultfs_count_write(faultfs_info(file_inode(file)), FAULTFS_WRITE);
	iov_iter_ubuf(&from, ITER_SOURCE, (void __user *)buf, len);
	return faultfs_rw_user(file, &from, ppos);
}

static void faultfs_aio_work(struct work_struct *work)
{
	struct faultfs_aio *aio = container_of(work, struct faultfs_aio, work);
	struct kiocb *iocb = aio->iocb;
	ssize_t ret;

	ret = faultfs_rw(iocb, &aio->iter, NULL);
	kfree(aio);
	iocb->ki_complete(iocb, ret);
}

/*
 * The submitter's iterator is gone when we return; what it points to stays
 * until ki_complete().
 */
static ssize_t faultfs_queue_aio(struct kiocb *iocb, struct iov_iter *iter)
{
	struct faultfs_aio *aio = kmalloc_obj(*aio);

	if (!aio)
		return -ENOMEM;
	INIT_WORK(&aio->work, faultfs_aio_work);
	aio->iocb = iocb;
	aio->iter = *iter;
	queue_work(faultfs_wq, &aio->work);
	return -EIOCBQUEUED;
}

static ssize_t faultfs_rw_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	struct faultfs_opts opts =
		faultfs_opts(faultfs_info(file_inode(iocb->ki_filp)));

	if (iocb->ki_flags & IOCB_DIRECT) {
		faultfs_count(faultfs_info(file_inode(iocb->ki_filp)),
			      FAULTFS_DIRECT);
		if (!opts.dio_align ||
		    !IS_ALIGNED(iocb->ki_pos | iov_iter_count(iter),
				opts.dio_align) ||
		    !IS_ALIGNED(iov_iter_alignment(iter),
				opts.dio_mem_align ?: opts.dio_align))
			return -EINVAL;
		/* User memory would have to be pinned to be used later. */
		if (opts.aio && !is_sync_kiocb(iocb) && iov_iter_is_bvec(iter))
			return faultfs_queue_aio(iocb, iter);
	}
	return faultfs_rw(iocb, iter, NULL);
}

static ssize_t faultfs_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	faultfs_count(faultfs_info(file_inode(iocb->ki_filp)),
		      FAULTFS_READ_ITER);
	return faultfs_rw_iter(iocb, to);
}

static ssize_t faultfs_write_iter(struct kiocb *iocb, struct iov_iter *from)
{
	faultfs_count_write(faultfs_info(file_inode(iocb->ki_filp)),
			    FAULTFS_WRITE_ITER);
	return faultfs_rw_iter(iocb, from);
}

static int faultfs_fsync(struct file *file, loff_t start, loff_t end,
			 int datasync)
{
	struct faultfs_info *info = faultfs_info(file_inode(file));

	faultfs_count(info, FAULTFS_FSYNC);
	if (datasync)
		faultfs_count(info, FAULTFS_DATASYNC);
	return faultfs_allow_all(info, FAULTFS_FSYNC, LLONG_MAX);
}

static long faultfs_fallocate(struct file *file, int mode, loff_t offset,
			      loff_t len)
{
	struct inode *inode = file_inode(file);
	struct faultfs_info *info = faultfs_info(inode);
	loff_t last = offset + len - 1;
	int err;

	faultfs_count(info, FAULTFS_FALLOCATE);
	if (!faultfs_opts(info).punch)
		return -EOPNOTSUPP;
	if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE) &&
	    mode != (FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;

	inode_lock(inode);
	err = faultfs_allow_all(info, FAULTFS_FALLOCATE, last);
	if (!err)
		err = file_modified(file);
	if (!err)
		faultfs_zero_range(inode, offset, last,
				   mode & FALLOC_FL_PUNCH_HOLE);
	inode_unlock(inode);
	return err;
}

#define FAULTFS_COMMON					\
	.owner		= THIS_MODULE,			\
	.llseek		= generic_file_llseek,		\
	.fsync		= faultfs_fsync

#define FAULTFS_FOPS(methods...) {					\
	{ FAULTFS_COMMON, methods },					\
	{ FAULTFS_COMMON, methods, .fallocate = faultfs_fallocate },	\
}

/* The methods that a file gets when it is opened, without ->fallocate and with */
static const struct file_operations faultfs_fops[][2] = {
	[FAULTFS_IO_ITER] = FAULTFS_FOPS(.read_iter = faultfs_read_iter,
					 .write_iter = faultfs_write_iter),
	[FAULTFS_IO_WRITE] = FAULTFS_FOPS(.read = faultfs_read,
					  .write = faultfs_write),
	[FAULTFS_IO_MIXED] = FAULTFS_FOPS(.read_iter = faultfs_read_iter,
					  .write = faultfs_write),
	[FAULTFS_IO_NONE] = FAULTFS_FOPS(.read_iter = faultfs_read_iter),
	[FAULTFS_IO_READ] = FAULTFS_FOPS(.read = faultfs_read),
	[FAULTFS_IO_NOREAD] = FAULTFS_FOPS(.write_iter = faultfs_write_iter),
};

static int faultfs_open(struct inode *inode, struct file *file)
{
	struct faultfs_opts opts = faultfs_opts(faultfs_info(inode));

	/* The owner is the same, and so is the reference to it. */
	file->f_op = &faultfs_fops[opts.io][opts.fallocate];
	if (opts.dio_align && (file->f_op->read_iter || file->f_op->write_iter))
		file->f_mode |= FMODE_CAN_ODIRECT;
	return generic_file_open(inode, file);
}

static const struct file_operations faultfs_open_fops = {
	.owner		= THIS_MODULE,
	.open		= faultfs_open,
};

static int faultfs_getattr(struct mnt_idmap *idmap, const struct path *path,
			   struct kstat *stat, u32 request_mask,
			   unsigned int query_flags)
{
	struct inode *inode = d_inode(path->dentry);
	struct faultfs_info *info = faultfs_info(inode);
	struct faultfs_opts opts = faultfs_opts(info);
	int err;

	faultfs_count(info, FAULTFS_GETATTR);
	err = faultfs_allow_all(info, FAULTFS_GETATTR, LLONG_MAX);
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

static int faultfs_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
			   struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	int err;

	err = setattr_prepare(idmap, dentry, attr);
	if (err)
		return err;

	if (attr->ia_valid & ATTR_SIZE) {
		faultfs_zero_range(inode, attr->ia_size, LLONG_MAX, true);
		i_size_write(inode, attr->ia_size);
		inode_set_mtime_to_ts(inode, inode_set_ctime_current(inode));
	}
	setattr_copy(idmap, inode, attr);
	return 0;
}

static const struct inode_operations faultfs_file_iops = {
	.getattr	= faultfs_getattr,
	.setattr	= faultfs_setattr,
};

static const struct inode_operations faultfs_dir_iops;

static struct inode *faultfs_new_inode(struct super_block *sb,
				       struct inode *dir, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode_init_owner(&nop_mnt_idmap, inode, dir, mode);
	simple_inode_init_ts(inode);

	if (S_ISDIR(mode)) {
		inode->i_op = &faultfs_dir_iops;
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
	inode->i_op = &faultfs_file_iops;
	inode->i_fop = &faultfs_open_fops;
	return inode;
}

static int faultfs_make(struct inode *dir, struct dentry *dentry, umode_t mode)
{
	struct inode *inode = faultfs_new_inode(dir->i_sb, dir, mode);

	if (!inode)
		return -ENOMEM;
	d_make_persistent(dentry, inode);
	inode_set_mtime_to_ts(dir, inode_set_ctime_current(dir));
	return 0;
}

static int faultfs_create(struct mnt_idmap *idmap, struct inode *dir,
			  struct dentry *dentry, umode_t mode)
{
	return faultfs_make(dir, dentry, mode | S_IFREG);
}

static struct dentry *faultfs_mkdir(struct mnt_idmap *idmap, struct inode *dir,
				    struct dentry *dentry, umode_t mode)
{
	int err = faultfs_make(dir, dentry, mode | S_IFDIR);

	if (!err)
		inc_nlink(dir);
	return ERR_PTR(err);
}

static const struct inode_operations faultfs_dir_iops = {
	.create		= faultfs_create,
	.lookup		= simple_lookup,
	.unlink		= simple_unlink,
	.mkdir		= faultfs_mkdir,
	.rmdir		= simple_rmdir,
	.rename		= simple_rename,
};

static int faultfs_calls_show(struct seq_file *m, void *v)
{
	struct faultfs_info *info = m->private;
	int i;

	for (i = 0; i < FAULTFS_NR_COUNTERS; i++)
		seq_printf(m, "%s %lld\n", faultfs_counter_names[i],
			   atomic64_read(&info->counters[i]));
	seq_printf(m, "uid %u\n", READ_ONCE(info->uid));
	return 0;
}

static int faultfs_calls_open(struct inode *inode, struct file *file)
{
	return single_open(file, faultfs_calls_show, faultfs_info(inode));
}

static const struct file_operations faultfs_calls_fops = {
	.owner		= THIS_MODULE,
	.open		= faultfs_calls_open,
	.read_iter	= seq_read_iter,
	.llseek		= seq_lseek,
	.release	= single_release,
};

static int faultfs_make_calls(struct super_block *sb)
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
	inode->i_fop = &faultfs_calls_fops;
	d_make_persistent(dentry, inode);
	dput(dentry);
	return 0;
}

static void faultfs_evict_inode(struct inode *inode)
{
	if (inode->i_private) {
		faultfs_zero_range(inode, 0, LLONG_MAX, true);
		kfree(inode->i_private);
	}
	clear_inode(inode);
}

/* Nothing to do, but without it FIFREEZE is refused. */
static int faultfs_freeze(struct super_block *sb)
{
	return 0;
}

static const struct super_operations faultfs_super_ops = {
	.statfs		= simple_statfs,
	.drop_inode	= inode_just_drop,
	.evict_inode	= faultfs_evict_inode,
	.freeze_fs	= faultfs_freeze,
};

static int faultfs_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct faultfs_info *info = sb->s_fs_info;
	struct faultfs_opts *opts = fc->fs_private;

	info->opts = *opts;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_magic = FAULTFS_MAGIC;
	sb->s_op = &faultfs_super_ops;
	sb->s_d_flags = DCACHE_DONTCACHE;
	sb->s_time_gran = 1;
	if (opts->pseudo)
		sb->s_iflags |= SB_I_NOEXEC;
	sb->s_root = d_make_root(faultfs_new_inode(sb, NULL, S_IFDIR | 0755));
	if (!sb->s_root)
		return -ENOMEM;
	return faultfs_make_calls(sb);
}

static int faultfs_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, faultfs_fill_super);
}

static int faultfs_reconfigure(struct fs_context *fc)
{
	struct faultfs_info *info = fc->root->d_sb->s_fs_info;
	struct faultfs_opts *opts = fc->fs_private;

	guard(spinlock)(&info->lock);
	info->opts = *opts;
	return 0;
}

enum faultfs_param {
	FAULTFS_OPT_IO,
	FAULTFS_OPT_SHORT,
	FAULTFS_OPT_FAIL,
	FAULTFS_OPT_FAIL_OP,
	FAULTFS_OPT_FAIL_AT,
	FAULTFS_OPT_CUT,
	FAULTFS_OPT_DELAY,
	FAULTFS_OPT_DIO_ALIGN,
	FAULTFS_OPT_DIO_MEM_ALIGN,
	FAULTFS_OPT_AIO,
	FAULTFS_OPT_FALLOCATE,
	FAULTFS_OPT_PUNCH,
	FAULTFS_OPT_PSEUDO,
};

static const struct constant_table faultfs_param_io[] = {
	{ "iter",	FAULTFS_IO_ITER },
	{ "write",	FAULTFS_IO_WRITE },
	{ "mixed",	FAULTFS_IO_MIXED },
	{ "none",	FAULTFS_IO_NONE },
	{ "read",	FAULTFS_IO_READ },
	{ "noread",	FAULTFS_IO_NOREAD },
	{}
};

static const struct constant_table faultfs_param_fail[] = {
	{ "none",	FAULTFS_FAIL_NONE },
	{ "zero",	0 },
	{ "eio",	-EIO },
	{ "enospc",	-ENOSPC },
	{ "eintr",	-EINTR },
	{ "eacces",	-EACCES },
	{}
};

static const struct constant_table faultfs_param_fail_op[] = {
	{ "read",	FAULTFS_READ },
	{ "write",	FAULTFS_WRITE },
	{ "fsync",	FAULTFS_FSYNC },
	{ "getattr",	FAULTFS_GETATTR },
	{ "fallocate",	FAULTFS_FALLOCATE },
	{}
};

static const struct fs_parameter_spec faultfs_parameters[] = {
	fsparam_enum("io",		FAULTFS_OPT_IO,	faultfs_param_io),
	fsparam_u64("short",		FAULTFS_OPT_SHORT),
	fsparam_enum("fail",		FAULTFS_OPT_FAIL, faultfs_param_fail),
	fsparam_enum("fail_op",		FAULTFS_OPT_FAIL_OP, faultfs_param_fail_op),
	fsparam_u64("fail_at",		FAULTFS_OPT_FAIL_AT),
	fsparam_u64("cut",		FAULTFS_OPT_CUT),
	fsparam_u32("delay",		FAULTFS_OPT_DELAY),
	fsparam_u32("dio_align",	FAULTFS_OPT_DIO_ALIGN),
	fsparam_u32("dio_mem_align",	FAULTFS_OPT_DIO_MEM_ALIGN),
	fsparam_flag_no("aio",		FAULTFS_OPT_AIO),
	fsparam_flag_no("fallocate",	FAULTFS_OPT_FALLOCATE),
	fsparam_flag_no("punch",	FAULTFS_OPT_PUNCH),
	fsparam_flag("pseudo",		FAULTFS_OPT_PSEUDO),
	{}
};

static int faultfs_parse_param(struct fs_context *fc,
			       struct fs_parameter *param)
{
	struct faultfs_opts *opts = fc->fs_private;
	struct fs_parse_result result;
	struct faultfs_info *info;
	int opt;

	opt = fs_parse(fc, faultfs_parameters, param, &result);
	if (opt < 0)
		return opt;

	switch (opt) {
	case FAULTFS_OPT_IO:
		opts->io = result.uint_32;
		break;
	case FAULTFS_OPT_SHORT:
		opts->max_bytes = result.uint_64;
		break;
	case FAULTFS_OPT_FAIL:
		opts->fail = result.int_32;
		break;
	case FAULTFS_OPT_FAIL_OP:
		opts->fail_op = result.uint_32;
		break;
	case FAULTFS_OPT_FAIL_AT:
		opts->fail_at = result.uint_64;
		break;
	case FAULTFS_OPT_CUT:
		info = fc->root ? fc->root->d_sb->s_fs_info : fc->s_fs_info;
		opts->cut_at = result.uint_64;
		if (opts->cut_at)
			opts->cut_at += atomic64_read(&info->written);
		break;
	case FAULTFS_OPT_DELAY:
		opts->delay = result.uint_32;
		break;
	case FAULTFS_OPT_DIO_ALIGN:
	case FAULTFS_OPT_DIO_MEM_ALIGN:
		if (result.uint_32 && !is_power_of_2(result.uint_32))
			return invalf(fc, "%s is not a power of two",
				      param->key);
		if (opt == FAULTFS_OPT_DIO_ALIGN)
			opts->dio_align = result.uint_32;
		else
			opts->dio_mem_align = result.uint_32;
		break;
	case FAULTFS_OPT_AIO:
		opts->aio = result.boolean;
		break;
	case FAULTFS_OPT_FALLOCATE:
		opts->fallocate = result.boolean;
		break;
	case FAULTFS_OPT_PUNCH:
		opts->punch = result.boolean;
		break;
	case FAULTFS_OPT_PSEUDO:
		opts->pseudo = true;
		break;
	}
	return 0;
}

static void faultfs_free_fc(struct fs_context *fc)
{
	kfree(fc->fs_private);
	kfree(fc->s_fs_info);
}

static const struct fs_context_operations faultfs_context_ops = {
	.free		= faultfs_free_fc,
	.parse_param	= faultfs_parse_param,
	.get_tree	= faultfs_get_tree,
	.reconfigure	= faultfs_reconfigure,
};

static int faultfs_init_fs_context(struct fs_context *fc)
{
	struct faultfs_opts *opts = kzalloc_obj(*opts);
	struct faultfs_info *info;

	if (!opts)
		return -ENOMEM;

	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE) {
		*opts = faultfs_opts(fc->root->d_sb->s_fs_info);
	} else {
		info = kzalloc_obj(*info);
		if (!info) {
			kfree(opts);
			return -ENOMEM;
		}
		spin_lock_init(&info->lock);
		fc->s_fs_info = info;
		opts->io = FAULTFS_IO_ITER;
		opts->fail = FAULTFS_FAIL_NONE;
		opts->fail_op = FAULTFS_WRITE;
		opts->punch = true;
	}
	fc->fs_private = opts;
	fc->ops = &faultfs_context_ops;
	return 0;
}

static void faultfs_kill_sb(struct super_block *sb)
{
	struct faultfs_info *info = sb->s_fs_info;

	kill_anon_super(sb);
	kfree(info);
}

static struct file_system_type faultfs_fs_type = {
	.owner			= THIS_MODULE,
	.name			= "faultfs",
	.init_fs_context	= faultfs_init_fs_context,
	.parameters		= faultfs_parameters,
	.kill_sb		= faultfs_kill_sb,
};
MODULE_ALIAS_FS("faultfs");

static int __init faultfs_init(void)
{
	int err;

	faultfs_wq = alloc_workqueue("faultfs", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!faultfs_wq)
		return -ENOMEM;
	err = register_filesystem(&faultfs_fs_type);
	if (err)
		destroy_workqueue(faultfs_wq);
	return err;
}
module_init(faultfs_init);

static void __exit faultfs_exit(void)
{
	unregister_filesystem(&faultfs_fs_type);
	destroy_workqueue(faultfs_wq);
}
module_exit(faultfs_exit);

MODULE_DESCRIPTION("Filesystem for tests of the users of file methods");
MODULE_LICENSE("GPL");
