/* SPDX-License-Identifier: MIT
 *
 * raw - the system calls behind functions that the preloaded library stands in for.
 *
 *   Errors   a negative errno; for a mapping as a pointer, see raw_failed().
 */
#ifndef RAW_H
#define RAW_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static inline long raw_result(long rc)
{
	return rc < 0 ? -errno : rc;
}

/* errno stays what it was for whoever asked; it tells of its own failures. */
static inline long raw_call(long number, long a, long b, long c, long d, long e, long f)
{
	int saved = errno;
	long rc = raw_result(syscall(number, a, b, c, d, e, f));

	errno = saved;
	return rc;
}

static inline bool raw_failed(const void *mapping)
{
	return (uintptr_t)mapping >= (uintptr_t)-4095;
}

static inline void *raw_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t off)
{
	return (void *)raw_call(SYS_mmap, (long)at, (long)bytes, prot, flags, fd, off);
}

static inline int raw_munmap(void *at, size_t bytes)
{
	return (int)raw_call(SYS_munmap, (long)at, (long)bytes, 0, 0, 0, 0);
}

static inline int raw_mprotect(void *at, size_t bytes, int prot)
{
	return (int)raw_call(SYS_mprotect, (long)at, (long)bytes, prot, 0, 0, 0);
}

static inline int raw_madvise(void *at, size_t bytes, int advice)
{
	return (int)raw_call(SYS_madvise, (long)at, (long)bytes, advice, 0, 0, 0);
}

static inline void *raw_mremap(void *at, size_t bytes, size_t wanted, int flags, void *to)
{
	return (void *)raw_call(SYS_mremap, (long)at, (long)bytes, (long)wanted, flags,
				(long)to, 0);
}

#endif /* RAW_H */
