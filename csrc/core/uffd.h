/* SPDX-License-Identifier: MIT
 *
 * uffd - the system calls of userfaultfd on a guest's memory, their errnos
 * turned into a few outcomes; nobody above compares errno.
 *
 *   Units    addresses and lengths in bytes, page-aligned.
 *   Threads  any; the kernel serialises on the guest's address space.
 *   Source   Linux Documentation/admin-guide/mm/userfaultfd.rst
 */
#ifndef UFFD_H
#define UFFD_H

#include <stdbool.h>
#include <stdint.h>

enum uffd_result {
	UFFD_OK = 0,
	UFFD_EXISTS,    /* a page is there already: a lost race, wake and go on */
	UFFD_AGAIN,     /* the address space is changing: try later */
	UFFD_FULL,      /* machine memory (or the kernel's) is exhausted */
	UFFD_SPLIT,     /* not all of the range is in one mapping, or registered */
	UFFD_GONE,      /* the guest's memory has gone, or the kernel refuses */
};

enum uffd_fault {
	UFFD_FAULT_MISSING,
	UFFD_FAULT_WRITE_PROTECTED,
	UFFD_FAULT_MINOR,       /* in the file, and not mapped */
};

/* What faults, besides writes to protected pages. */
#define UFFD_CATCH_MISSING 1u
#define UFFD_CATCH_MINOR 2u

struct uffd_message {
	enum uffd_fault fault;
	bool write;
	uint64_t addr;          /* page-aligned */
	uint32_t tid;           /* thread that waits */
};

/* Checks that fd is a userfaultfd, makes it non-blocking, agrees on features.
 *   -EINVAL      another kind of descriptor, or used before
 *   -EOPNOTSUPP  the kernel lacks a feature that is needed */
int uffd_init(int fd);

/* Registers for write-protect faults and for those in `catch`, besides what is
 * registered there. Once it returns no access that began before is on its
 * way. */
enum uffd_result uffd_register(int fd, uint64_t addr, uint64_t len, unsigned catch);

/* Nothing faults there any more; protection is taken off, and waiters are woken. */
enum uffd_result uffd_unregister(int fd, uint64_t addr, uint64_t len);

/* Reads up to n messages without blocking, whatever the guest has made of its own
 * copy of the descriptor; how many, 0 if there is none. */
int uffd_read(int fd, struct uffd_message *out, int n);

/* Write-protects, or takes protection off; the latter wakes who waits there. */
enum uffd_result uffd_protect(int fd, uint64_t addr, uint64_t len);
enum uffd_result uffd_unprotect(int fd, uint64_t addr, uint64_t len);

/* Puts pages in and wakes who waits for them. *done is how many bytes went in;
 * any other outcome than OK speaks of the page at addr + *done. */
enum uffd_result uffd_copy(int fd, uint64_t addr, const void *src, uint64_t len,
			   uint64_t *done);
enum uffd_result uffd_zero(int fd, uint64_t addr, uint64_t len, uint64_t *done);

/* Maps pages that are in the file, up to the first that is mapped: EXISTS. *done as for
 * uffd_copy(). Does not wake. */
enum uffd_result uffd_continue(int fd, uint64_t addr, uint64_t len, uint64_t *done);

/* Makes accesses to the absent pages fail with SIGBUS, and wakes. */
enum uffd_result uffd_poison(int fd, uint64_t addr, uint64_t len);

enum uffd_result uffd_wake(int fd, uint64_t addr, uint64_t len);

#endif /* UFFD_H */
