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
	h->hot_in = zeros(chunks_of(h) * sizeof(*h->hot_in));
	if (h->count && h->since && h->hot_in)
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
	if (h->hot_in)
		munmap(h->hot_in, chunks_of(h) * sizeof(*h->hot_in));
	*h = (struct heat){ 0 };
}

static uint32_t half_life_of(uint64_t now_ns)
{
	return (uint32_t)(now_ns / (HEAT_HALF_S * NS_PER_S));
}

static void count_hot(struct heat *h, uint64_t chunk)
{
	const uint8_t *count = h->count + chunk * UVMM_CHUNK_PAGES;
	uint16_t hot = 0;
	unsigned i;

	for (i = 0; i < UVMM_CHUNK_PAGES; i++)
		hot = (uint16_t)(hot + (count[i] >= HEAT_HOT));
	h->hot = h->hot - h->hot_in[chunk] + hot;
	h->hot_in[chunk] = hot;
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
	if (h->hot_in[chunk])
		count_hot(h, chunk);
}

static void copied(struct heat *h, uint64_t ppn)
{
	if (h->count[ppn] == UINT8_MAX)
		return;
	if (++h->count[ppn] == HEAT_HOT) {
		h->hot_in[ppn / UVMM_CHUNK_PAGES]++;
		h->hot++;
	}
}

uint8_t heat_add(struct heat *h, uint64_t ppn, uint32_t n, uint64_t now_ns)
{
	uint32_t now = half_life_of(now_ns);
	uint64_t end = ppn + n;
	uint8_t least = UINT8_MAX;

	for (; ppn < end; ppn++) {
		uint64_t chunk = ppn / UVMM_CHUNK_PAGES;

		if (h->since[chunk] != now)
			bring_up_to_date(h, chunk, now);
		copied(h, ppn);
		least = h->count[ppn] < least ? h->count[ppn] : least;
	}
	return least;
}

uint8_t heat_most(const struct heat *h, uint64_t ppn, uint64_t n)
{
	uint8_t most = 0;

	for (; n; n--, ppn++)
		most = h->count[ppn] > most ? h->count[ppn] : most;
	return most;
}

void heat_restart(struct heat *h, uint64_t ppn, uint32_t n)
{
	uint64_t chunk;

	memset(h->count + ppn, 1, n);
	for (chunk = ppn / UVMM_CHUNK_PAGES; chunk <= (ppn + n - 1) / UVMM_CHUNK_PAGES; chunk++)
		count_hot(h, chunk);
}

void heat_cool(struct heat *h, uint64_t now_ns)
{
	uint32_t now = half_life_of(now_ns);
	uint64_t chunk;

	for (chunk = 0; h->hot && chunk < chunks_of(h); chunk++)
		if (h->hot_in[chunk] && h->since[chunk] != now)
			bring_up_to_date(h, chunk, now);
}
