/* SPDX-License-Identifier: MIT
 * mmap(2) and its kin, with private anonymous mappings in guest memory. A call that
 * has nothing to do with those goes to the kernel as it is.
 *
 *   Left to the kernel, and so no guest memory: mappings of files, shared ones, at a
 *   fixed place outside guest memory, on huge pages, that grow down, and reservations
 *   (no access) of more than half of the guest memory that is free. */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "locked.h"
#include "raw.h"
#include "rlimits.h"
#include "space.h"

#define EXPORT __attribute__((visibility("default")))
#define FIXED (MAP_FIXED | MAP_FIXED_NOREPLACE)
#define OUTSIDE_MAX 64u         /* arenas have tables, each of them twice at most */
#define FOREIGN (FIXED | MAP_HUGETLB | MAP_GROWSDOWN | MAP_32BIT)

static size_t pages_of(size_t bytes)
{
	return (bytes + UVMM_PAGE_SIZE - 1) / UVMM_PAGE_SIZE * UVMM_PAGE_SIZE;
}

static bool is_place(const void *at)
{
	return (uintptr_t)at % UVMM_PAGE_SIZE == 0;
}

static bool is_anonymous(int flags)
{
	return (flags & (MAP_TYPE | MAP_ANONYMOUS)) == (MAP_PRIVATE | MAP_ANONYMOUS);
}

static void *answer(void *mapping)
{
	if (!raw_failed(mapping))
		return mapping;
	errno = -(int)(intptr_t)mapping;
	return MAP_FAILED;
}

static int status(int rc)
{
	if (!rc)
		return 0;
	errno = -rc;
	return -1;
}

/* --- mmap ------------------------------------------------------------------- */

static bool is_for_guest(size_t bytes, int prot, int flags)
{
	if (!is_anonymous(flags) || flags & FOREIGN || !bytes ||
	    prot & ~(PROT_READ | PROT_WRITE | PROT_EXEC))
		return false;
	if (!space_open())
		return false;
	return prot != PROT_NONE ||
	       bytes / UVMM_PAGE_SIZE <= space_free_pages() / 2;
}

static void *map_fresh(size_t bytes, int prot, int flags)
{
	bool zero = true;
	void *at = space_take(pages_of(bytes), UVMM_PAGE_SIZE, prot, &zero);

	if (!at)
		return (void *)-ENOMEM;
	if (flags & MAP_LOCKED)
		mlock(at, bytes);
	return at;
}

/* A fixed mapping over guest memory: what lies there is given up, and the mapping is
 * made of the same pages if it can be. Else they are lost to the guest for as long
 * as the process lives, as something else has their place. */
static void *map_over(void *at, size_t bytes, int prot, int flags, int fd, off_t off)
{
	size_t all = pages_of(bytes), clipped;
	unsigned kept;
	char *from;
	void *got;

	space_clip(at, all, &from, &clipped);
	if (!(flags & MAP_FIXED))
		return (void *)-EEXIST;
	locked_remove(from, clipped);
	if (clipped == all && is_anonymous(flags) && !(flags & (MAP_HUGETLB | MAP_GROWSDOWN)) &&
	    !space_take_again(from, clipped, prot))
		return at;
	kept = space_keep(from, clipped);
	got = raw_mmap(at, bytes, prot, flags, fd, off);
	space_lose(from, clipped, kept, !raw_failed(got));
	return got;
}

/* Of what is not guest memory. */
static bool may_map(size_t bytes, int prot, int flags)
{
	bool data = prot & PROT_WRITE && flags & MAP_PRIVATE;

	return !space_is_open() || flags & FIXED ||
	       rlimits_allow(pages_of(bytes), data ? pages_of(bytes) : 0);
}

EXPORT void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t off)
{
	size_t clipped;
	char *from;

	if (is_for_guest(bytes, prot, flags)) {
		void *got = map_fresh(bytes, prot, flags);

		/* In one piece there may be less than is free. */
		if (!raw_failed(got) || prot != PROT_NONE)
			return answer(got);
	}
	if (flags & FIXED && is_place(at) && bytes &&
	    space_clip(at, pages_of(bytes), &from, &clipped))
		return answer(map_over(at, bytes, prot, flags, fd, off));
	if (!may_map(bytes, prot, flags))
		return answer((void *)-ENOMEM);
	return answer(raw_mmap(at, bytes, prot, flags, fd, off));
}

EXPORT void *mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t off)
	__attribute__((alias("mmap")));

/* jemalloc's own calls (Makefile). It takes a large page for the tables of an arena when a
 * thread first calls it, and crashes if there is none: when guest memory is full that is
 * ordinary memory. What is mapped to be aligned is up to twice as large. */
void *jemalloc_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t off)
{
	static atomic_uint outside;
	void *got = mmap(at, bytes, prot, flags, fd, off);

	if (got != MAP_FAILED || bytes < UVMM_CHUNK_SIZE || bytes >= 2 * UVMM_CHUNK_SIZE ||
	    !is_anonymous(flags) || flags & FOREIGN || atomic_fetch_add(&outside, 1) >= OUTSIDE_MAX)
		return got;
	return answer(raw_mmap(at, bytes, prot, flags, fd, off));
}

/* --- munmap, mprotect, madvise ---------------------------------------------- */

/* What of the range lies before and behind guest memory. */
static int unmap_outside(char *at, size_t bytes, char *from, size_t clipped)
{
	int rc = 0;

	if (from > at)
		rc = raw_munmap(at, (size_t)(from - at));
	if (!rc && from + clipped < at + bytes)
		rc = raw_munmap(from + clipped, (size_t)(at + bytes - from) - clipped);
	return rc;
}

EXPORT int munmap(void *at, size_t bytes)
{
	size_t clipped, all = pages_of(bytes);
	char *from;

	if (!is_place(at) || !all || !space_clip(at, all, &from, &clipped))
		return status(raw_munmap(at, bytes));
	space_give(from, clipped);
	return status(unmap_outside(at, all, from, clipped));
}

EXPORT int mprotect(void *at, size_t bytes, int prot)
{
	return status(space_protect(at, bytes, prot));
}

/* Advice that would lose or leak the contents of a shared mapping, which guest
 * memory is under the program's private one. */
static bool is_taken_over(int advice)
{
	return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE;
}

static bool is_ignored(int advice)
{
	return advice == MADV_DOFORK || advice == MADV_DONTFORK ||
	       advice == MADV_MERGEABLE || advice == MADV_UNMERGEABLE;
}

/* To the ends of the chunks that it begins and ends in: a large page lies within one
 * mapping or is none. */
static int advise_large(char *at, size_t bytes)
{
	size_t before = (uintptr_t)at % UVMM_CHUNK_SIZE, clipped;
	size_t chunks = (before + bytes + UVMM_CHUNK_SIZE - 1) / UVMM_CHUNK_SIZE;
	char *from;

	/* What is mapped around it may take no such advice. */
	if (space_clip(at - before, chunks * UVMM_CHUNK_SIZE, &from, &clipped) &&
	    !space_is_lost(from, clipped) && !raw_madvise(from, clipped, MADV_HUGEPAGE))
		return 0;
	return raw_madvise(at, bytes, MADV_HUGEPAGE);
}

EXPORT int madvise(void *at, size_t bytes, int advice)
{
	size_t clipped, all = pages_of(bytes);
	char *from, *end = (char *)at + all;
	int rc;

	if (!is_place(at) || !space_clip(at, all, &from, &clipped))
		return status(raw_madvise(at, bytes, advice));
	if (space_is_lost(from, clipped))
		return status(raw_madvise(at, bytes, advice));
	if (advice == MADV_HUGEPAGE && from == at && clipped == all && all >= UVMM_CHUNK_SIZE)
		return status(advise_large(from, all));
	if (is_taken_over(advice))
		space_discard(from, clipped);
	else if (!is_ignored(advice))
		return status(raw_madvise(at, bytes, advice));
	rc = from > (char *)at ? raw_madvise(at, (size_t)(from - (char *)at), advice) : 0;
	if (!rc && from + clipped < end)
		rc = raw_madvise(from + clipped, (size_t)(end - from) - clipped, advice);
	return status(rc);
}

EXPORT int posix_madvise(void *at, size_t bytes, int advice)
{
	int rc;

	/* As glibc does: this advice is no promise to lose the contents. */
	if (advice == POSIX_MADV_DONTNEED)
		return 0;
	rc = raw_madvise(at, bytes, advice);
	return -rc;
}

/* --- mremap ----------------------------------------------------------------- */

static bool grow_in_place(char *at, size_t bytes, size_t wanted)
{
	bool zero = true;

	return !space_take_at(at + bytes, wanted - bytes,
			      space_rights(at + bytes - UVMM_PAGE_SIZE), &zero);
}

static void copy(char *to, char *at, size_t bytes)
{
	int rights = space_rights(at);

	if (!(rights & PROT_READ) && raw_mprotect(at, bytes, PROT_READ))
		return;
	memcpy(to, at, bytes);
}

static void *map_at(void *to, size_t bytes)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	size_t clipped;
	char *from;

	if (space_clip(to, bytes, &from, &clipped))
		return map_over(to, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
	return raw_mmap(to, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
}

/* The pages of a place in guest memory are that place's: what moves is copied. */
static void *move(char *at, size_t bytes, size_t wanted, int flags, void *to)
{
	size_t kept = bytes < wanted ? bytes : wanted;
	int rights = space_rights(at);
	bool zero = true;
	void *got;

	if (flags & MREMAP_FIXED)
		got = map_at(to, wanted);
	else
		got = space_take(wanted, UVMM_PAGE_SIZE, SPACE_RW, &zero);
	if (!got)
		return (void *)-ENOMEM;
	if (raw_failed(got))
		return got;
	copy(got, at, kept);
	if (rights != SPACE_RW)
		space_protect(got, wanted, rights);
	if (!(flags & MREMAP_DONTUNMAP))
		space_give(at, bytes);
	else
		space_discard(at, bytes);
	return got;
}

static void *remap(char *at, size_t bytes, size_t wanted, int flags, void *to)
{
	if (!is_place(at) || !bytes || !wanted ||
	    flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP) ||
	    (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) && !(flags & MREMAP_MAYMOVE)) ||
	    (flags & MREMAP_FIXED && !is_place(to)))
		return (void *)-EINVAL;
	if (!space_has(at, bytes))
		return (void *)-EFAULT;
	if (space_is_lost(at, bytes))
		return raw_mremap(at, bytes, wanted, flags, to);
	if (flags & (MREMAP_FIXED | MREMAP_DONTUNMAP))
		return move(at, bytes, wanted, flags, to);
	if (wanted <= bytes) {
		if (wanted < bytes)
			space_give(at + wanted, bytes - wanted);
		return at;
	}
	if (grow_in_place(at, bytes, wanted))
		return at;
	return flags & MREMAP_MAYMOVE ? move(at, bytes, wanted, flags, to) : (void *)-ENOMEM;
}

/* Of what is not guest memory, to where guest memory perhaps is. */
static void *remap_foreign(void *at, size_t bytes, size_t wanted, int flags, void *to)
{
	size_t clipped;
	unsigned kept;
	char *from;
	void *got;

	if (!(flags & MREMAP_FIXED) || !is_place(to) || !wanted ||
	    !space_clip(to, pages_of(wanted), &from, &clipped))
		return raw_mremap(at, bytes, wanted, flags, to);
	kept = space_keep(from, clipped);
	got = raw_mremap(at, bytes, wanted, flags, to);
	space_lose(from, clipped, kept, !raw_failed(got));
	return got;
}

EXPORT void *mremap(void *at, size_t bytes, size_t wanted, int flags, ...)
{
	size_t clipped;
	void *to = NULL;
	char *from;

	if (flags & MREMAP_FIXED) {
		va_list args;

		va_start(args, flags);
		to = va_arg(args, void *);
		va_end(args);
	}
	if (!space_clip(at, bytes ? pages_of(bytes) : 1, &from, &clipped))
		return answer(remap_foreign(at, bytes, wanted, flags, to));
	return answer(remap(at, pages_of(bytes), pages_of(wanted), flags, to));
}
