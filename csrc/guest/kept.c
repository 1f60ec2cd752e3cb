/* SPDX-License-Identifier: MIT */
#include "kept.h"

#include <fcntl.h>
#include <sys/resource.h>
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

struct kept_fd kept_take(int fd)
{
	struct kept_fd k = { .fd = move_high(fd) };
	struct stat st;

	if (!fstat(k.fd, &st)) {
		k.dev = st.st_dev;
		k.ino = st.st_ino;
	}
	return k;
}

bool kept_is_ours(const struct kept_fd *k)
{
	struct stat st;

	return k->fd >= 0 && !fstat(k->fd, &st) && st.st_dev == k->dev && st.st_ino == k->ino;
}

void kept_close(struct kept_fd *k)
{
	if (kept_is_ours(k))
		close(k->fd);
	k->fd = -1;
}
