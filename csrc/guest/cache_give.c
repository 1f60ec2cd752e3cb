/* SPDX-License-Identifier: MIT */
#include "cache_give.h"

#include <errno.h>

#include "cache_back.h"
#include "cache_clock.h"
#include "cache_file.h"
#include "cache_gather.h"
#include "cache_page.h"

#define GROWS_AFTER_NS CACHE_S_NS       /* of no pressure */
#define PRESSURE_WAIT_NS (50 * CACHE_MS_NS)
#define BATCH 32u               /* given for one page: the next few need not ask */
#define WINDOW_TRIES 64

/* The cache keeps min_pages without another page, which counts as given. */
static bool may_give(struct uvmm_cache *c)
{
	uint64_t held = atomic_load(&c->held_pages);

	while (held > c->min_pages)
		if (atomic_compare_exchange_weak(&c->held_pages, &held, held - 1))
			return true;
	return false;
}

uint64_t cache_give(struct uvmm_cache *c, uint64_t pages)
{
	uint64_t n = 0;
	uint32_t ppn;

	while (n < pages && may_give(c)) {
		bool given = cache_page_evict(c, &ppn);

		/* Freeing it counts it, too. */
		atomic_fetch_add(&c->held_pages, 1);
		if (!given)
			break;
		cache_page_free(c, ppn);
		n++;
	}
	cache_count(&c->counters.given, n);
	return n;
}

/* Writes files back until one of them has cleaned something; *f is where to go on. */
static bool clean_some(struct uvmm_cache *c, struct cache_file **f)
{
	while ((*f = cache_file_next(c, *f))) {
		uint64_t dirty;

		pthread_mutex_lock(&(*f)->lock);
		dirty = (*f)->dirty_pages + (*f)->writing_pages;
		pthread_mutex_unlock(&(*f)->lock);
		if (!dirty)
			continue;
		cache_back_write(*f);
		return true;
	}
	return false;
}

uint64_t cache_give_written(struct uvmm_cache *c, uint64_t pages)
{
	struct cache_file *f = NULL;
	uint64_t n = cache_give(c, pages);

	while (n < pages && atomic_load(&c->held_pages) > c->min_pages && clean_some(c, &f))
		n += cache_give(c, pages - n);
	if (f)
		cache_file_put(f);
	return n;
}

/* --- the daemon ------------------------------------------------------------------- */

uint64_t cache_on_pressure(void *arg, int level, uint64_t wanted_pages)
{
	struct uvmm_cache *c = arg;
	uint64_t n;

	if (level == UVMM_CALM) {
		atomic_store(&c->shrinking_until_ns, 0);
		return 0;
	}
	atomic_store(&c->shrinking_until_ns, cache_now_ns() + GROWS_AFTER_NS);
	n = cache_give(c, wanted_pages);
	cache_gather(c, physmem_free_pages(c->memory.physmem) / UVMM_CHUNK_PAGES);
	/* The rest is dirty, or was when it was looked at. */
	if (n < wanted_pages && atomic_load(&c->held_pages) > c->min_pages)
		n += cache_back_owe(c, wanted_pages - n, PRESSURE_WAIT_NS);
	return n;
}

/* --- the program ------------------------------------------------------------------- */

/* A page of a file that only the cache uses; it may be dirty. */
static bool is_ours(void *arg, uint64_t page)
{
	struct uvmm_cache *c = arg;

	return atomic_load(&c->page[page].refs) == 1;
}

/* Empties the pages [page, page + n), which are free or were ours. *stop is the first
 * that cannot go. */
static bool empty(struct uvmm_cache *c, uint64_t page, uint64_t n, uint64_t *stop)
{
	uint64_t at;

	for (at = page; at < page + n; at++) {
		int rc = cache_page_evict_at(c, (uint32_t)at);

		if (rc == -EBUSY || rc == -EINPROGRESS) {
			*stop = at;
			return false;
		}
		if (rc)
			continue;
		cache_page_free(c, (uint32_t)at);
		cache_count(&c->counters.given, 1);
	}
	return true;
}

static void write_all(struct uvmm_cache *c)
{
	struct cache_file *f = NULL;

	while (clean_some(c, &f))
		;
}

/* Empties a place for what is wanted. */
static bool make_room(struct uvmm_cache *c, const struct physmem_want *w,
		      const struct physmem_giver *g)
{
	uint64_t page, from = 0, stop;
	bool written = false;
	int tries;

	for (tries = 0; tries < WINDOW_TRIES; tries++) {
		if (!physmem_window(c->memory.physmem, w, from, g, &page))
			return false;
		if (empty(c, page, w->n, &stop))
			return true;
		/* It is dirty, most likely. */
		if (written)
			from = stop + 1;
		else
			write_all(c);
		written = true;
	}
	return false;
}

bool cache_on_shortage(void *arg, const struct physmem_want *w)
{
	struct uvmm_cache *c = arg;
	struct physmem_giver g = { .yields = is_ours, .arg = c };

	if (w->n == 1)
		return cache_give(c, BATCH) || cache_give_written(c, 1);
	if (make_room(c, w, &g))
		return true;
	/* With the balloon there may be; it is asked next. */
	g.balloon = true;
	make_room(c, w, &g);
	return false;
}
