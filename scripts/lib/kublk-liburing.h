/* SPDX-License-Identifier: GPL-2.0 */
/*
 * scripts/bench includes this before each file of kublk.
 *
 * kublk opens its file with O_DIRECT, which a file without iter methods does not
 * support.  And kublk needs liburing 2.4; Debian 12 has 2.3.
 */
#include <fcntl.h>
#undef O_DIRECT
#define O_DIRECT 0

#include <linux/io_uring.h>	/* of the kernel tree, not the older copy in liburing */
#include <liburing.h>

#ifndef IO_URING_VERSION_MAJOR	/* before 2.4: only UBLK_F_BATCH_IO needs these */
static inline struct io_uring_buf_ring *
io_uring_setup_buf_ring(struct io_uring *ring, unsigned int entries, int group,
			unsigned int flags, int *ret)
{
	*ret = -EOPNOTSUPP;
	return NULL;
}

static inline int
io_uring_free_buf_ring(struct io_uring *ring, struct io_uring_buf_ring *br,
		       unsigned int entries, int group)
{
	return -EOPNOTSUPP;
}
#endif
