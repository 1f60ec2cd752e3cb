/* SPDX-License-Identifier: MIT
 *
 * A guest that keeps the descriptor of its low memory, and takes from that what it was not
 * given: its size cannot be changed, and what it touched besides is dropped again.
 *
 *   low_thief       the disk "data" has a MiB to be read
 */
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "uvmm/disk.h"

#define CHUNK (2u << 20)
#define LOW (8u << 20)          /* the machine's */
#define BLOCK (1u << 20)
#define WAIT_S 60

static _Atomic int stolen = -1;

static void look_at(int fd)
{
	char link[64], path[PATH_MAX] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, ".low-") && stolen < 0)
		stolen = dup(fd);
}

/* What the library receives goes through here. */
ssize_t recvmsg(int socket, struct msghdr *msg, int flags)
{
	ssize_t got = syscall(SYS_recvmsg, socket, msg, flags);
	struct cmsghdr *c;
	int fd;

	for (c = got > 0 ? CMSG_FIRSTHDR(msg) : NULL; c; c = CMSG_NXTHDR(msg, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
			look_at(fd);
		}
	return got;
}

static void rest(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
}

int main(void)
{
	time_t until = time(NULL) + WAIT_S;
	uvmm_guest *guest;
	uvmm_disk *disk;
	char *buffer, *low;

	CHECK(!uvmm_attach(&guest));
	CHECK(!uvmm_disk_open(guest, "data", &disk));
	CHECK(!uvmm_alloc(guest, BLOCK, (void **)&buffer));
	while (stolen < 0 && time(NULL) < until) {
		CHECK(!uvmm_disk_read(disk, buffer, BLOCK, 0));
		rest();
	}
	CHECK(stolen >= 0);
	CHECK(ftruncate(stolen, 2 * LOW) && ftruncate(stolen, 0));
	CHECK(pwrite(stolen, "x", 1, LOW) < 0);
	CHECK(fallocate(stolen, 0, LOW, CHUNK));
	low = mmap(NULL, LOW, PROT_READ | PROT_WRITE, MAP_SHARED, stolen, 0);
	CHECK(low != MAP_FAILED);
	low += LOW - CHUNK;
	memset(low, 1, CHUNK);
	while (low[0] && time(NULL) < until) {
		CHECK(!uvmm_disk_read(disk, buffer, BLOCK, 0));
		rest();
	}
	CHECK(!low[0]);
	uvmm_disk_close(disk);
	puts("in vain");
	return 0;
}
