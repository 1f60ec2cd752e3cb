/* SPDX-License-Identifier: MIT */
#include "sharing.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "uvmm/protocol.h"

/* Sparse: what is never scanned costs addresses only. */
static void *map_sparse(size_t bytes)
{
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

static size_t print_bytes(uint64_t pages)
{
	return pages * sizeof(uint32_t);
}

static size_t looked_bytes(uint64_t pages)
{
	return pages / UVMM_CHUNK_PAGES * sizeof(uint64_t);
}

int sharing_init(struct guest_sharing *s, uint64_t pages)
{
	memset(s, 0, sizeof(*s));
	s->prints = map_sparse(print_bytes(pages));
	s->looked_ns = map_sparse(looked_bytes(pages));
	if (s->prints && s->looked_ns)
		return 0;
	sharing_fini(s, pages);
	return -ENOMEM;
}

void sharing_fini(struct guest_sharing *s, uint64_t pages)
{
	if (s->prints)
		munmap((void *)s->prints, print_bytes(pages));
	if (s->looked_ns)
		munmap((void *)s->looked_ns, looked_bytes(pages));
	memset(s, 0, sizeof(*s));
}

void sharing_clear(struct guest_sharing *s, uint64_t pages)
{
	if (s->prints) {
		madvise((void *)s->prints, print_bytes(pages), MADV_DONTNEED);
		madvise((void *)s->looked_ns, looked_bytes(pages), MADV_DONTNEED);
	}
	s->pass = (struct guest_pass){ 0 };
	atomic_store(&s->worth, SHARE_WORTH_UNKNOWN);
	atomic_store(&s->shared_pages, 0);
	atomic_store(&s->split_pages, 0);
	atomic_store(&s->mappings, 0);
	atomic_store(&s->own_pages, 0);
	atomic_store(&s->deaf_until_ns, 0);
}
