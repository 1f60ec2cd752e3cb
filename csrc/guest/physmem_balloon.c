/* SPDX-License-Identifier: MIT
 * Pages for the balloon, and back; see physmem.h. */
#include <errno.h>

#include "physmem.h"
#include "physmem_sets.h"

#define CHUNK_ORDER 9u

_Static_assert(1u << CHUNK_ORDER == UVMM_CHUNK_PAGES, "a chunk is no such block");

/* --- into it ---------------------------------------------------------------------- */

struct physmem_hand physmem_largest(const struct physmem *m)
{
	return (struct physmem_hand){ .order = PHYSMEM_ORDER_MAX, .before = m->pages };
}

struct physmem_hand physmem_whole(const struct physmem *m)
{
	struct physmem_hand h = physmem_largest(m);

	h.least = CHUNK_ORDER;
	return h;
}

static bool has_dirty(const struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t found;

	return physmem_next_dirty(m, &page, page + n, &found);
}

/* The last pages of the free block at [lo, hi) that are to be had; false: none. */
static bool pick(const struct physmem *m, uint64_t lo, uint64_t hi, uint64_t want, bool dirty,
		 struct uvmm_range *out)
{
	uint64_t unit = hi - lo < UVMM_CHUNK_PAGES ? hi - lo : UVMM_CHUNK_PAGES, at;

	if (dirty) {
		while (hi > lo && !has_dirty(m, hi - unit, unit))
			hi -= unit;
		for (at = hi; at > lo && hi - at < want && has_dirty(m, at - unit, unit);)
			at -= unit;
		lo = at;
	}
	if (lo == hi)
		return false;
	out->pages = hi - lo < want ? hi - lo : want;
	out->ppn = hi - out->pages;
	return true;
}

/* Sets a part of the free block at [lo, hi) aside. */
static void take_out(struct physmem *m, uint64_t lo, uint64_t hi, const struct uvmm_range *r)
{
	uint64_t end = r->ppn + r->pages;

	physmem_remove(m, lo, hi - lo);
	physmem_insert(m, lo, r->ppn - lo);
	physmem_insert(m, end, hi - end);
	m->run[r->ppn] = r->pages | RUN_ASIDE;
	m->free_pages -= r->pages;
	m->balloon_pages += r->pages;
	m->trims++;
}

/* The next free block; false: there are no more. */
static bool next_block(const struct physmem *m, struct physmem_hand *h, uint64_t *lo,
		       uint64_t *hi)
{
	uint64_t block;

	for (;;) {
		block = bits_before(&m->free_blocks[h->order], h->before);
		if (block != BITS_NONE)
			break;
		if (h->order == h->least)
			return false;
		h->order--;
		h->before = m->pages;
	}
	h->before = block;
	*lo = block << h->order;
	*hi = (block + 1) << h->order;
	return true;
}

uint32_t physmem_inflate(struct physmem *m, uint64_t want, bool dirty, struct physmem_hand *h,
			 struct uvmm_range *run, uint32_t room)
{
	uint64_t lo, hi;
	uint32_t runs = 0;

	pthread_mutex_lock(&m->lock);
	while (runs < room && want && next_block(m, h, &lo, &hi)) {
		if (!pick(m, lo, hi, want, dirty, &run[runs]))
			continue;
		take_out(m, lo, hi, &run[runs]);
		want -= run[runs++].pages;
	}
	pthread_mutex_unlock(&m->lock);
	return runs;
}

void physmem_inflated(struct physmem *m, const struct uvmm_range *run, uint32_t runs,
		      bool clean)
{
	uint32_t i;

	pthread_mutex_lock(&m->lock);
	for (i = 0; i < runs; i++) {
		bits_add(&m->balloon, run[i].ppn);
		if (clean)
			physmem_set_clean(m, run[i].ppn, run[i].pages);
	}
	m->trims -= runs;
	pthread_cond_broadcast(&m->trimmed);
	pthread_mutex_unlock(&m->lock);
}

/* --- out of it -------------------------------------------------------------------- */

static uint64_t end_of(const struct physmem *m, uint64_t page)
{
	return page + (m->run[page] & ~RUN_ASIDE);
}

/* The run in the balloon becomes two. */
static void cut(struct physmem *m, uint64_t page, uint64_t at)
{
	uint64_t end = end_of(m, page);

	m->run[page] = (at - page) | RUN_ASIDE;
	m->run[at] = (end - at) | RUN_ASIDE;
	bits_add(&m->balloon, at);
}

static void take_back(struct physmem *m, uint64_t page, struct uvmm_range *out)
{
	bits_remove(&m->balloon, page);
	*out = (struct uvmm_range){ .ppn = page, .pages = end_of(m, page) - page };
	m->trims++;
}

uint32_t physmem_deflate(struct physmem *m, uint64_t want, struct uvmm_range *run,
			 uint32_t room)
{
	uint64_t page;
	uint32_t runs = 0;

	pthread_mutex_lock(&m->lock);
	while (runs < room && want && (page = bits_first(&m->balloon)) != BITS_NONE) {
		if (end_of(m, page) - page > want)
			cut(m, page, page + want);
		take_back(m, page, &run[runs]);
		want -= run[runs++].pages;
	}
	pthread_mutex_unlock(&m->lock);
	return runs;
}

/* The first pages that would do for what is wanted if none were in the balloon. */
static bool find_room(const struct physmem *m, const struct physmem_want *w, uint64_t *lo,
		      uint64_t *hi)
{
	uint64_t align = w->block ? 1ull << w->order : 1, n = w->block ? align : w->n, at = 0;

	*lo = 0;
	while (at < m->pages) {
		unsigned order = physmem_block_at(m, at);
		bool in_the_way = order == PHYSMEM_ORDERS && !bits_has(&m->balloon, at);

		at = order == PHYSMEM_ORDERS ? end_of(m, at) : at + (1ull << order);
		if (in_the_way)
			*lo = (at + align - 1) / align * align;
		*hi = *lo + n;
		if (at >= *hi)
			return true;
	}
	return false;
}

/* More comes back than is needed if that is little: it is not to be asked for page by page. */
static void widen(const struct physmem *m, uint64_t *lo, uint64_t *hi)
{
	*lo -= *lo % UVMM_CHUNK_PAGES;
	*hi = (*hi + UVMM_CHUNK_PAGES - 1) / UVMM_CHUNK_PAGES * UVMM_CHUNK_PAGES;
	*hi = *hi < m->pages ? *hi : m->pages;
}

/* What of the balloon lies in [lo, hi) is a run, or runs, that ends there; the first one
 * from lo on. */
static uint64_t first_within(struct physmem *m, uint64_t lo, uint64_t hi)
{
	uint64_t page = bits_before(&m->balloon, lo);

	if (page != BITS_NONE && end_of(m, page) > lo)
		cut(m, page, lo);
	page = bits_next(&m->balloon, lo);
	if (page == BITS_NONE || page >= hi)
		return BITS_NONE;
	if (end_of(m, page) > hi)
		cut(m, page, hi);
	return page;
}

static uint32_t take_within(struct physmem *m, uint64_t lo, uint64_t hi,
			    struct uvmm_range *run, uint32_t room)
{
	uint64_t page;
	uint32_t runs = 0;

	while (runs < room && (page = first_within(m, lo, hi)) != BITS_NONE)
		take_back(m, page, &run[runs++]);
	return runs;
}

uint32_t physmem_deflate_at(struct physmem *m, uint64_t page, uint64_t n,
			    struct uvmm_range *run, uint32_t room)
{
	uint32_t runs;

	pthread_mutex_lock(&m->lock);
	runs = take_within(m, page, page + n, run, room);
	pthread_mutex_unlock(&m->lock);
	return runs;
}

bool physmem_deflate_for(struct physmem *m, const struct physmem_want *w,
			 struct uvmm_range *run, uint32_t room, uint32_t *runs)
{
	uint64_t lo, hi;
	bool found;

	*runs = 0;
	if (w->block && w->order >= PHYSMEM_ORDERS)
		return false;
	pthread_mutex_lock(&m->lock);
	found = find_room(m, w, &lo, &hi);
	if (found) {
		widen(m, &lo, &hi);
		*runs = take_within(m, lo, hi, run, room);
	}
	pthread_mutex_unlock(&m->lock);
	return found;
}

/* A run set aside is free. */
static void set_free(struct physmem *m, uint64_t page)
{
	uint64_t n = m->run[page] & ~RUN_ASIDE;

	m->run[page] = 0;
	m->free_pages += n;
	m->balloon_pages -= n;
	physmem_insert(m, page, n);
	physmem_freed(m, page, n);
}

void physmem_deflated(struct physmem *m, const struct uvmm_range *run, uint32_t runs,
		      bool clean)
{
	uint32_t i;

	pthread_mutex_lock(&m->lock);
	for (i = 0; i < runs; i++) {
		if (!clean)
			physmem_set_dirty(m, run[i].ppn, run[i].pages);
		set_free(m, run[i].ppn);
	}
	m->trims -= runs;
	pthread_cond_broadcast(&m->trimmed);
	pthread_mutex_unlock(&m->lock);
}

void physmem_use(struct physmem *m, const struct uvmm_range *run, uint32_t runs)
{
	uint32_t i;

	pthread_mutex_lock(&m->lock);
	for (i = 0; i < runs; i++) {
		m->run[run[i].ppn] = run[i].pages;
		m->balloon_pages -= run[i].pages;
		physmem_set_dirty(m, run[i].ppn, run[i].pages);
	}
	m->trims -= runs;
	pthread_cond_broadcast(&m->trimmed);
	pthread_mutex_unlock(&m->lock);
}

void physmem_forget_balloon(struct physmem *m)
{
	uint64_t page;

	while ((page = bits_first(&m->balloon)) != BITS_NONE) {
		bits_remove(&m->balloon, page);
		set_free(m, page);
	}
}

uint64_t physmem_balloon_pages(struct physmem *m)
{
	uint64_t n;

	pthread_mutex_lock(&m->lock);
	n = m->balloon_pages;
	pthread_mutex_unlock(&m->lock);
	return n;
}
