/* SPDX-License-Identifier: MIT */
#include "sharing.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

int sharing_init(struct guest_sharing *s, uint64_t pages)
{
	/* Sparse: what is never scanned costs addresses only. */
	void *map = mmap(NULL, pages * sizeof(*s->prints), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (map == MAP_FAILED)
		return -ENOMEM;
	memset(s, 0, sizeof(*s));
	s->prints = map;
	return 0;
}

void sharing_fini(struct guest_sharing *s, uint64_t pages)
{
	if (s->prints)
		munmap((void *)s->prints, pages * sizeof(*s->prints));
	memset(s, 0, sizeof(*s));
}

void sharing_clear(struct guest_sharing *s, uint64_t pages)
{
	if (s->prints)
		madvise((void *)s->prints, pages * sizeof(*s->prints), MADV_DONTNEED);
	s->pass = (struct guest_pass){ 0 };
	atomic_store(&s->worth, SHARE_WORTH_UNKNOWN);
	atomic_store(&s->shared_pages, 0);
	atomic_store(&s->split_pages, 0);
	atomic_store(&s->mappings, 0);
	atomic_store(&s->own_pages, 0);
	atomic_store(&s->deaf_until_ns, 0);
}
