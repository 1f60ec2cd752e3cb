/* SPDX-License-Identifier: MIT */
#include "heat.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "uvmm/protocol.h"

static uint64_t chunks_of(const struct heat *h)
{
	return (h->pages + UVMM_CHUNK_PAGES - 1) / UVMM_CHUNK_PAGES;
}

static void *zeros(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return at == MAP_FAILED ? NULL : at;
}

int heat_init(struct heat *h, uint64_t pages)
{
	*h = (struct heat){ .pages = pages };
	h->count = zeros(chunks_of(h) * UVMM_CHUNK_PAGES);
	h->since = zeros(chunks_of(h) * sizeof(*h->since));
	if (h->count && h->since)
		return 0;
	heat_fini(h);
	return -ENOMEM;
}

void heat_fini(struct heat *h)
{
	if (h->count)
		munmap(h->count, chunks_of(h) * UVMM_CHUNK_PAGES);
	if (h->since)
		munmap(h->since, chunks_of(h) * sizeof(*h->since));
	h->count = NULL;
	h->since = NULL;
}

static void bring_up_to_date(struct heat *h, uint64_t chunk, uint32_t now)
{
	uint8_t *count = h->count + chunk * UVMM_CHUNK_PAGES;
	uint32_t halves = now - h->since[chunk], i;

	h->since[chunk] = now;
	if (halves >= 8)
		memset(count, 0, UVMM_CHUNK_PAGES);
	else if (halves)
		for (i = 0; i < UVMM_CHUNK_PAGES; i++)
			count[i] = (uint8_t)(count[i] >> halves);
}

uint8_t heat_add(struct heat *h, uint64_t ppn, uint32_t n, uint64_t now_ns)
{
	uint32_t now = (uint32_t)(now_ns / (HEAT_HALF_S * NS_PER_S));
	uint64_t end = ppn + n;
	uint8_t least = UINT8_MAX;

	for (; ppn < end; ppn++) {
		uint64_t chunk = ppn / UVMM_CHUNK_PAGES;

		if (h->since[chunk] != now)
			bring_up_to_date(h, chunk, now);
		h->count[ppn] = (uint8_t)(h->count[ppn] + (h->count[ppn] < UINT8_MAX));
		least = h->count[ppn] < least ? h->count[ppn] : least;
	}
	return least;
}

void heat_clear(struct heat *h, uint64_t ppn, uint32_t n)
{
	memset(h->count + ppn, 0, n);
}
