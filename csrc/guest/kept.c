/* SPDX-License-Identifier: MIT */
#include "kept.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define HIGH_FD 1000

static int move_high(int fd)
{
	struct rlimit limit;
	int high = HIGH_FD, moved;

	if (!getrlimit(RLIMIT_NOFILE, &limit) && limit.rlim_cur <= HIGH_FD)
		high = (int)limit.rlim_cur / 2;
	moved = fcntl(fd, F_DUPFD_CLOEXEC, high);
	if (moved < 0)
		return fd;
	close(fd);
	return moved;
}

/* Which file it is, without a question to whoever serves it: that may be the daemon, which
 * may wait for us. */
static bool identify(struct kept_fd *k)
{
	struct statx x;
	struct stat st;

	if (!statx(k->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &x)) {
		k->dev = makedev(x.stx_dev_major, x.stx_dev_minor);
		k->ino = x.stx_ino;
		return true;
	}
	/* A program may have forbidden itself what it does not know. */
	if (errno == EBADF || fstat(k->fd, &st))
		return false;
	k->dev = st.st_dev;
	k->ino = st.st_ino;
	return true;
}

struct kept_fd kept_take(int fd)
{
	struct kept_fd k = { .fd = move_high(fd) };

	identify(&k);
	return k;
}

bool kept_is_ours(const struct kept_fd *k)
{
	struct kept_fd now = { .fd = k->fd };

	return k->fd >= 0 && identify(&now) && now.dev == k->dev && now.ino == k->ino;
}

void kept_close(struct kept_fd *k)
{
	if (kept_is_ours(k))
		close(k->fd);
	k->fd = -1;
}
