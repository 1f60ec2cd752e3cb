/* SPDX-License-Identifier: MIT */
#include "stream.h"

#include "uvmm/protocol.h"

#define WINDOW_MAX UVMM_CHUNK_PAGES
#define NEAR 4u         /* pages: threads that share a stream */

/* Goes on upwards, or downwards, or lies in a long stream's last window. */
static bool goes_on(uint64_t ppn, uint64_t end, uint64_t n)
{
	return n && (ppn - end < NEAR || end - n - 1 - ppn < NEAR ||
		     (n == WINDOW_MAX && end - 1 - ppn < n));
}

void stream_window(struct streams *s, uint64_t ppn, uint64_t max_pages, uint64_t *lo,
		   uint64_t *hi)
{
	uint64_t size = 1;
	size_t i, at = STREAMS;

	for (i = 0; i < STREAMS; i++) {
		uint64_t n = atomic_load_explicit(&s->pages[i], memory_order_relaxed);
		uint64_t end = atomic_load_explicit(&s->end[i], memory_order_relaxed);

		if (goes_on(ppn, end, n)) {
			size = n * 4 > WINDOW_MAX ? WINDOW_MAX : n * 4;
			at = i;
			break;
		}
	}
	*lo = ppn & ~(size - 1);
	*hi = *lo + size;
	if (*hi > max_pages)
		*hi = max_pages;
	if (at == STREAMS)
		at = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed) % STREAMS;
	atomic_store_explicit(&s->end[at], *hi, memory_order_relaxed);
	atomic_store_explicit(&s->pages[at], size, memory_order_relaxed);
}

bool stream_run_ahead(struct streams *s, uint64_t ppn, uint64_t max_pages,
		      struct stream_ahead *a)
{
	size_t i;

	for (i = 0; i < STREAMS; i++) {
		uint64_t n = atomic_load_explicit(&s->pages[i], memory_order_relaxed);
		uint64_t end = atomic_load_explicit(&s->end[i], memory_order_relaxed);

		if (n != WINDOW_MAX || end - 1 - ppn >= n || end >= max_pages)
			continue;
		a->lo = end;
		a->hi = end + WINDOW_MAX < max_pages ? end + WINDOW_MAX : max_pages;
		a->stream = i;
		return atomic_compare_exchange_strong(&s->end[i], &end, a->hi);
	}
	return false;
}

void stream_fall_back(struct streams *s, const struct stream_ahead *a)
{
	uint64_t end = a->hi;

	atomic_compare_exchange_strong(&s->end[a->stream], &end, a->lo);
}
