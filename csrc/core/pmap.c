/* SPDX-License-Identifier: MIT */
#include "pmap.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t page_align(uint64_t bytes)
{
	return (bytes + UVMM_PAGE_SIZE - 1) & ~(uint64_t)(UVMM_PAGE_SIZE - 1);
}

int pmap_init(struct pmap *p, int fd, uint64_t pages)
{
	uint64_t chunks = (pages + UVMM_CHUNK_PAGES - 1) / UVMM_CHUNK_PAGES;
	uint64_t entry_bytes = page_align(pages * sizeof(uint64_t));
	uint64_t bytes = entry_bytes + page_align(chunks * sizeof(uint32_t));
	char *map;

	if (ftruncate(fd, (off_t)bytes))
		return -errno;
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return -errno;
	/* Most of it is never used. */
	madvise(map, bytes, MADV_NOHUGEPAGE);
	*p = (struct pmap){
		.pages = pages,
		.chunks = chunks,
		.entries = (void *)map,
		.chunk = (void *)(map + entry_bytes),
		.map_bytes = bytes,
	};
	return 0;
}

void pmap_fini(struct pmap *p)
{
	if (p->entries)
		munmap((void *)p->entries, p->map_bytes);
	*p = (struct pmap){ 0 };
}

int pmap_clear(struct pmap *p)
{
	return madvise((void *)p->entries, p->map_bytes, MADV_REMOVE) ? -errno : 0;
}
