/* SPDX-License-Identifier: MIT */
#include "view.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#include "uvmm/protocol.h"

/* Linux 5.14. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

int view_init(struct view *v)
{
	uintptr_t at;

	v->reserved = mmap(NULL, 2ull * UVMM_CHUNK_SIZE, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (v->reserved == MAP_FAILED) {
		v->reserved = NULL;
		return -ENOMEM;
	}
	at = (uintptr_t)v->reserved + UVMM_CHUNK_SIZE - 1;
	v->window = (char *)(at / UVMM_CHUNK_SIZE * UVMM_CHUNK_SIZE);
	return 0;
}

void view_fini(struct view *v)
{
	if (v->reserved)
		munmap(v->reserved, 2ull * UVMM_CHUNK_SIZE);
	v->reserved = NULL;
}

int view_map(struct view *v, int fd, uint64_t ppn, uint64_t n, enum view_use use,
	     char **at)
{
	char *to = v->window + ppn % UVMM_CHUNK_PAGES * UVMM_PAGE_SIZE;
	size_t bytes = n * UVMM_PAGE_SIZE;

	if (mmap(to, bytes, use != VIEW_LOOK ? PROT_READ | PROT_WRITE : PROT_READ,
		 MAP_SHARED | MAP_FIXED, fd, (off_t)(ppn * UVMM_PAGE_SIZE)) == MAP_FAILED)
		return -errno;
	if (use == VIEW_FILL)
		madvise(to, bytes, MADV_HUGEPAGE);
	if (madvise(to, bytes, use != VIEW_LOOK ? MADV_POPULATE_WRITE : MADV_POPULATE_READ)) {
		int rc = -errno;

		view_unmap(v);
		return rc;
	}
	*at = to;
	return 0;
}

void view_unmap(struct view *v)
{
	/* Reserved still, so that nothing else gets these addresses. */
	mmap(v->window, UVMM_CHUNK_SIZE, PROT_NONE,
	     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}
