/* SPDX-License-Identifier: MIT */
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "uvmm/protocol.h"

/* Newer than the headers of Debian 12. */
#ifndef UFFD_FEATURE_POISON
#define UFFD_FEATURE_POISON (1 << 14)
#define _UFFDIO_POISON 0x08
#define UFFDIO_POISON _IOWR(UFFDIO, _UFFDIO_POISON, struct uffdio_poison)
struct uffdio_poison {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#endif

#define FEATURES_NEEDED (UFFD_FEATURE_PAGEFAULT_FLAG_WP | \
			 UFFD_FEATURE_WP_HUGETLBFS_SHMEM | \
			 UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | \
			 UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_POISON)
#define READ_MAX 16

static enum uffd_result outcome(void)
{
	switch (errno) {
	case EEXIST:
		return UFFD_EXISTS;
	case EAGAIN:
	case EINTR:
	case EBUSY:
		return UFFD_AGAIN;
	case ENOMEM:
	case ENOSPC:
		return UFFD_FULL;
	case ENOENT:
		return UFFD_SPLIT;
	default:
		return UFFD_GONE;
	}
}

static int check_kind(int fd)
{
	static const char kind[] = "anon_inode:[userfaultfd]";
	char path[32], target[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	return strcmp(target, kind) ? -EINVAL : 0;
}

int uffd_init(int fd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES_NEEDED };
	int flags, rc;

	rc = check_kind(fd);
	if (rc)
		return rc;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	if (!ioctl(fd, UFFDIO_API, &api))
		return 0;
	/* The kernel answers EINVAL both for a feature it lacks and for a
	 * second UFFDIO_API; asking for what it has tells them apart. */
	return api.features && (api.features & FEATURES_NEEDED) != FEATURES_NEEDED ?
		-EOPNOTSUPP : -EINVAL;
}

enum uffd_result uffd_register(int fd, uint64_t addr, uint64_t len, unsigned catch)
{
	struct uffdio_register r = {
		.range = { .start = addr, .len = len },
		.mode = UFFDIO_REGISTER_MODE_WP |
			(catch & UFFD_CATCH_MISSING ? UFFDIO_REGISTER_MODE_MISSING : 0) |
			(catch & UFFD_CATCH_MINOR ? UFFDIO_REGISTER_MODE_MINOR : 0),
	};

	return ioctl(fd, UFFDIO_REGISTER, &r) ? outcome() : UFFD_OK;
}

enum uffd_result uffd_unregister(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { .start = addr, .len = len };

	return ioctl(fd, UFFDIO_UNREGISTER, &r) ? outcome() : UFFD_OK;
}

int uffd_read(int fd, struct uffd_message *out, int n)
{
	struct uffd_msg raw[READ_MAX];
	struct iovec iov = { .iov_base = raw };
	ssize_t got;
	int i, k = 0;

	iov.iov_len = sizeof(raw[0]) * (size_t)(n < READ_MAX ? n : READ_MAX);
	got = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);
	if (got < 0 && errno == EOPNOTSUPP && !fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK))
		got = readv(fd, &iov, 1);
	if (got < (ssize_t)sizeof(raw[0]))
		return 0;
	for (i = 0; i < (int)(got / (ssize_t)sizeof(raw[0])); i++) {
		uint64_t flags = raw[i].arg.pagefault.flags;

		if (raw[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		out[k++] = (struct uffd_message){
			.fault = flags & UFFD_PAGEFAULT_FLAG_WP ?
				UFFD_FAULT_WRITE_PROTECTED :
				flags & UFFD_PAGEFAULT_FLAG_MINOR ?
				UFFD_FAULT_MINOR : UFFD_FAULT_MISSING,
			.write = flags & UFFD_PAGEFAULT_FLAG_WRITE,
			.addr = raw[i].arg.pagefault.address &
				~(uint64_t)(UVMM_PAGE_SIZE - 1),
			.tid = raw[i].arg.pagefault.feat.ptid,
		};
	}
	return k;
}

static enum uffd_result writeprotect(int fd, uint64_t addr, uint64_t len, uint64_t mode)
{
	struct uffdio_writeprotect w = {
		.range = { .start = addr, .len = len },
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &w) ? outcome() : UFFD_OK;
}

enum uffd_result uffd_protect(int fd, uint64_t addr, uint64_t len)
{
	return writeprotect(fd, addr, len, UFFDIO_WRITEPROTECT_MODE_WP);
}

enum uffd_result uffd_unprotect(int fd, uint64_t addr, uint64_t len)
{
	return writeprotect(fd, addr, len, 0);
}

enum uffd_result uffd_copy(int fd, uint64_t addr, const void *src, uint64_t len,
			   uint64_t *done)
{
	struct uffdio_copy c = {
		.dst = addr,
		.src = (uint64_t)(uintptr_t)src,
		.len = len,
	};
	enum uffd_result res = UFFD_OK;

	if (ioctl(fd, UFFDIO_COPY, &c))
		res = outcome();
	*done = c.copy > 0 ? (uint64_t)c.copy : 0;
	return res;
}

enum uffd_result uffd_zero(int fd, uint64_t addr, uint64_t len, uint64_t *done)
{
	struct uffdio_zeropage z = { .range = { .start = addr, .len = len } };
	enum uffd_result res = UFFD_OK;

	if (ioctl(fd, UFFDIO_ZEROPAGE, &z))
		res = outcome();
	*done = z.zeropage > 0 ? (uint64_t)z.zeropage : 0;
	return res;
}

enum uffd_result uffd_continue(int fd, uint64_t addr, uint64_t len, uint64_t *done)
{
	struct uffdio_continue c = {
		.range = { .start = addr, .len = len },
		.mode = UFFDIO_CONTINUE_MODE_DONTWAKE,
	};
	enum uffd_result res = UFFD_OK;

	if (ioctl(fd, UFFDIO_CONTINUE, &c))
		res = outcome();
	*done = c.mapped > 0 ? (uint64_t)c.mapped : 0;
	return res;
}

enum uffd_result uffd_poison(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_poison p = { .range = { .start = addr, .len = len } };

	return ioctl(fd, UFFDIO_POISON, &p) ? outcome() : UFFD_OK;
}

enum uffd_result uffd_wake(int fd, uint64_t addr, uint64_t len)
{
	struct uffdio_range r = { .start = addr, .len = len };

	return ioctl(fd, UFFDIO_WAKE, &r) ? outcome() : UFFD_OK;
}
