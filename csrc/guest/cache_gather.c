/* SPDX-License-Identifier: MIT */
#include "cache_gather.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "cache_file.h"
#include "cache_page.h"
#include "uvmm/protocol.h"

#define YIELDS_MAX 100u         /* to those who have a file's lock */

/* --- one page ----------------------------------------------------------------------- */

/* With policy_lock and file.lock: the page is `to` from now on, and busy. */
static void lift_locked(struct uvmm_cache *c, struct cache_extent *x, uint32_t from,
			uint32_t to)
{
	unsigned bit = c->page[from].at;

	cache_policy_replace(&c->policy, from, to);
	c->page[to].extent = x;
	c->page[to].at = bit;
	/* One is the mover's: it is not evicted. */
	atomic_store(&c->page[to].refs, 2);
	x->ppn[bit] = to;
	x->present &= ~(1ull << bit);
	x->busy |= 1ull << bit;
	atomic_fetch_add(&x->file->refs, 1);
}

/* -ENOENT: it is no page of a file  -EBUSY: in use, or dirty  -EAGAIN: somebody has the file's
 * lock, for a moment */
static int lift(struct uvmm_cache *c, uint32_t from, uint32_t to)
{
	struct cache_extent *x;
	int rc = -ENOENT;

	pthread_mutex_lock(&c->policy_lock);
	if (c->policy.page[from].queue != CACHE_QUEUE_NONE) {
		x = c->page[from].extent;
		rc = pthread_mutex_trylock(&x->file->lock) ? -EAGAIN : 0;
		if (!rc) {
			if (atomic_load(&c->page[from].refs) > 1 ||
			    (x->dirty | x->writing) >> c->page[from].at & 1)
				rc = -EBUSY;
			else
				lift_locked(c, x, from, to);
			pthread_mutex_unlock(&x->file->lock);
		}
	}
	pthread_mutex_unlock(&c->policy_lock);
	return rc;
}

/* The page is there, unless the file has become too short for it. */
static void put_down(struct uvmm_cache *c, uint32_t to)
{
	struct cache_extent *x = c->page[to].extent;
	struct cache_file *f = x->file;
	unsigned bit = c->page[to].at;
	uint64_t which = 1ull << bit;

	pthread_mutex_lock(&f->lock);
	x->busy &= ~which;
	x->present |= which;
	cache_page_unref(c, to);
	if ((x->number * CACHE_RUN_PAGES + bit) * CACHE_PAGE_BYTES >= atomic_load(&f->size))
		cache_pages_leave(x, which);
	cache_wake(f);
	pthread_mutex_unlock(&f->lock);
	cache_file_put(f);
}

/* 0: `from` is free, `to` is used; else it is the other way round. */
static int move(struct uvmm_cache *c, uint32_t from, uint32_t to)
{
	unsigned yields = 0;
	int rc;

	while ((rc = lift(c, from, to)) == -EAGAIN && yields++ < YIELDS_MAX)
		sched_yield();
	if (rc)
		return rc;
	memcpy(cache_at(c, to), cache_at(c, from), CACHE_PAGE_BYTES);
	put_down(c, to);
	return 0;
}

/* --- a chunk ------------------------------------------------------------------------- */

struct gathering {
	struct uvmm_cache *c;
	uint16_t *unused;               /* [chunks] see physmem_unused(); or it has been tried */
	uint64_t chunks;
	uint32_t kept[UVMM_CHUNK_PAGES];        /* free pages of the chunk itself */
	uint32_t keeps;
};

/* A free page in another chunk. */
static bool take_elsewhere(struct gathering *g, uint64_t chunk, uint32_t *ppn)
{
	static const struct physmem_want one = { .n = 1, .block = true, .used = true };
	struct uvmm_cache *c = g->c;
	uint64_t page;

	while (!physmem_try(c->memory.physmem, &one, &page)) {
		atomic_fetch_add(&c->held_pages, 1);
		*ppn = (uint32_t)page;
		if (page / UVMM_CHUNK_PAGES != chunk)
			return true;
		if (g->keeps == UVMM_CHUNK_PAGES) {
			cache_page_free(c, *ppn);
			return false;
		}
		g->kept[g->keeps++] = *ppn;
	}
	return false;
}

/* True: all of it is free. */
static bool empty(struct gathering *g, uint64_t chunk)
{
	uint64_t page = chunk * UVMM_CHUNK_PAGES, end = page + UVMM_CHUNK_PAGES;
	struct uvmm_cache *c = g->c;
	bool done = true;
	uint32_t to;
	int rc;

	g->keeps = 0;
	for (; page < end && done; page++) {
		if (!atomic_load(&c->page[page].refs))
			continue;
		done = take_elsewhere(g, chunk, &to);
		if (!done)
			break;
		rc = move(c, (uint32_t)page, to);
		cache_page_free(c, rc ? to : (uint32_t)page);
		done = !rc || rc == -ENOENT;
	}
	while (g->keeps)
		cache_page_free(c, g->kept[--g->keeps]);
	return done;
}

/* --- which ---------------------------------------------------------------------------- */

static bool is_ours(void *arg, uint64_t page)
{
	const struct uvmm_cache *c = arg;

	return atomic_load(&c->page[page].refs) == 1;
}

/* The emptiest that is left; UINT64_MAX: none. */
static uint64_t emptiest(struct gathering *g)
{
	uint64_t best = UINT64_MAX, i;

	for (i = 0; i < g->chunks; i++)
		if (g->unused[i] && g->unused[i] < UVMM_CHUNK_PAGES &&
		    (best == UINT64_MAX || g->unused[i] > g->unused[best]))
			best = i;
	return best;
}

uint64_t cache_gather(struct uvmm_cache *c, uint64_t chunks)
{
	const struct physmem_giver giver = { .yields = is_ours, .arg = c };
	struct gathering *g = calloc(1, sizeof(*g));
	uint64_t n = 0, chunk;

	if (!g)
		return 0;
	g->c = c;
	g->chunks = c->memory.physmem->pages / UVMM_CHUNK_PAGES;
	g->unused = calloc(g->chunks + 1, sizeof(*g->unused));
	if (g->unused)
		physmem_unused(c->memory.physmem, &giver, g->unused);
	while (g->unused && n < chunks && (chunk = emptiest(g)) != UINT64_MAX) {
		g->unused[chunk] = PHYSMEM_NOT_TO_BE_HAD;
		n += empty(g, chunk);
	}
	free(g->unused);
	free(g);
	return n;
}
