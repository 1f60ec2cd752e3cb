/* SPDX-License-Identifier: MIT
 * Which pages of a guest's low memory are in use; see low.h. */
#include "low.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"

#define CHUNK UVMM_CHUNK_PAGES

/* Newer than the headers of Debian 12. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint32_t now_ms(void)
{
	return (uint32_t)(clock_ns() / NS_PER_MS);
}

void low_init(struct low *l)
{
	memset(l, 0, sizeof(*l));
	l->fd = l->guest_fd = -1;
	pthread_mutex_init(&l->lock, NULL);
}

static int make_tables(struct low *l)
{
	size_t pages = (size_t)l->chunks * CHUNK;

	l->granted = calloc(l->chunks, sizeof(*l->granted));
	l->used = calloc(l->chunks, sizeof(*l->used));
	l->bits = calloc(pages / 64, sizeof(*l->bits));
	l->owner = calloc(pages, sizeof(*l->owner));
	l->last_ms = calloc(pages, sizeof(*l->last_ms));
	return l->granted && l->used && l->bits && l->owner && l->last_ms ? 0 : -ENOMEM;
}

static void free_tables(struct low *l)
{
	free(l->granted);
	free(l->used);
	free(l->bits);
	free(l->owner);
	free((void *)l->last_ms);
	l->granted = NULL;
	l->used = NULL;
	l->bits = NULL;
	l->owner = NULL;
	l->last_ms = NULL;
}

int low_open(struct uvmm_engine *e, struct guest *g, const struct low_ops *ops, void *arg)
{
	struct low *l = &g->low;
	size_t bytes;
	int rc;

	l->chunks = (uint32_t)e->low_pool.chunks;
	if (!l->chunks || g->max_pages > UINT32_MAX)
		return -ENOSPC;
	l->ops = ops;
	l->arg = arg;
	bytes = (size_t)l->chunks * UVMM_CHUNK_SIZE;
	rc = low_file_open(e, g);
	if (rc)
		return rc;
	l->map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, l->fd, 0);
	rc = l->map == MAP_FAILED ? -errno : make_tables(l);
	if (!rc) {
		madvise(l->map, bytes, MADV_HUGEPAGE);
		return 0;
	}
	if (l->map == MAP_FAILED)
		l->map = NULL;
	low_close(e, g);
	return rc;
}

void low_close(struct uvmm_engine *e, struct guest *g)
{
	struct low *l = &g->low;
	uint32_t c, n = 0;

	if (l->fd < 0)
		return;
	for (c = 0; l->granted && c < l->chunks; c++)
		n += l->granted[c];
	atomic_fetch_sub(&e->low_pool.granted, n);
	free_tables(l);
	if (l->map)
		munmap(l->map, (size_t)l->chunks * UVMM_CHUNK_SIZE);
	l->map = NULL;
	low_file_close(e, g);
	atomic_store(&l->pages, 0);
	atomic_store(&l->wanted_back, 0);
}

/* --- chunks ------------------------------------------------------------------- */

static bool take_from_pool(struct low_pool *p)
{
	uint64_t granted = atomic_load(&p->granted);

	do {
		if (granted >= p->chunks)
			return false;
	} while (!atomic_compare_exchange_strong(&p->granted, &granted, granted + 1));
	return true;
}

/* False if there is no memory for it. */
static bool grant(struct uvmm_engine *e, struct low *l, uint32_t chunk)
{
	char *at = low_at(l, (uint64_t)chunk * CHUNK);

	if (!take_from_pool(&e->low_pool))
		return false;
	if (pressure_take(&e->pressure, CHUNK, PRESSURE_AHEAD)) {
		if (!madvise(at, UVMM_CHUNK_SIZE, MADV_POPULATE_WRITE) &&
		    !l->ops->add(l->arg, chunk, at)) {
			lock(&l->lock);
			l->granted[chunk] = true;
			unlock(&l->lock);
			return true;
		}
		fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)chunk * UVMM_CHUNK_SIZE, UVMM_CHUNK_SIZE);
		pressure_refresh(e);
	}
	atomic_fetch_sub(&e->low_pool.granted, 1);
	return false;
}

static void take_back(struct uvmm_engine *e, struct low *l, uint32_t chunk)
{
	l->ops->drop(l->arg, chunk);
	fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  (off_t)chunk * UVMM_CHUNK_SIZE, UVMM_CHUNK_SIZE);
	lock(&l->lock);
	l->granted[chunk] = false;
	unlock(&l->lock);
	atomic_fetch_sub(&e->low_pool.granted, 1);
}

void low_tidy(struct uvmm_engine *e, struct guest *g)
{
	struct low *l = &g->low;
	uint32_t c;

	for (c = 0; c < l->chunks; c++) {
		bool empty;

		lock(&l->lock);
		empty = l->granted[c] && !l->used[c];
		unlock(&l->lock);
		if (empty)
			take_back(e, l, c);
	}
	low_file_police(l);
}

/* --- pages; with the lock held -------------------------------------------------- */

static bool is_used(const struct low *l, uint64_t page)
{
	return l->bits[page / 64] >> (page % 64) & 1;
}

/* A free run within a chunk that is granted. */
static bool find_in(const struct low *l, uint32_t chunk, uint32_t pages, uint64_t *first)
{
	uint64_t at = (uint64_t)chunk * CHUNK, end = at + CHUNK, from = at;

	if (!l->granted[chunk] || CHUNK - l->used[chunk] < pages)
		return false;
	for (; at < end; at++) {
		if (is_used(l, at))
			from = at + 1;
		else if (at + 1 - from == pages)
			break;
	}
	*first = from;
	return at < end;
}

static void use(struct low *l, uint64_t first, uint64_t ppn, uint32_t pages)
{
	uint32_t now = now_ms(), i;

	for (i = 0; i < pages; i++) {
		uint64_t page = first + i;

		l->bits[page / 64] |= 1ull << (page % 64);
		l->used[page / CHUNK]++;
		l->owner[page] = (uint32_t)(ppn + i);
		l->last_ms[page] = now;
	}
	atomic_fetch_add(&l->pages, pages);
}

void low_free(struct low *l, uint64_t first, uint64_t pages)
{
	uint64_t page;

	lock(&l->lock);
	for (page = first; page < first + pages; page++) {
		l->bits[page / 64] &= ~(1ull << (page % 64));
		l->used[page / CHUNK]--;
	}
	unlock(&l->lock);
	atomic_fetch_sub(&l->pages, pages);
}

/* --- runs -------------------------------------------------------------------------- */

static int alloc_within(struct uvmm_engine *e, struct low *l, uint64_t ppn, uint32_t pages,
			uint64_t *first)
{
	uint32_t c, bare = l->chunks;
	bool found = false;

	lock(&l->lock);
	for (c = 0; c < l->chunks && !found; c++) {
		found = find_in(l, c, pages, first);
		if (!l->granted[c] && bare == l->chunks)
			bare = c;
	}
	if (found)
		use(l, *first, ppn, pages);
	unlock(&l->lock);
	if (found)
		return 0;
	if (bare == l->chunks || !grant(e, l, bare))
		return -ENOSPC;
	*first = (uint64_t)bare * CHUNK;
	lock(&l->lock);
	use(l, *first, ppn, pages);
	unlock(&l->lock);
	return 0;
}

/* All of them empty, so that the run is one. */
static int alloc_chunks(struct uvmm_engine *e, struct low *l, uint64_t ppn, uint32_t pages,
			uint64_t *first)
{
	uint32_t need = (pages + CHUNK - 1) / CHUNK, c, n = 0;

	lock(&l->lock);
	for (c = 0; c < l->chunks && n < need; c++)
		n = l->used[c] ? 0 : n + 1;
	unlock(&l->lock);
	if (n < need)
		return -ENOSPC;
	c -= need;
	for (n = 0; n < need; n++)
		if (!l->granted[c + n] && !grant(e, l, c + n))
			return -ENOSPC;
	*first = (uint64_t)c * CHUNK;
	lock(&l->lock);
	use(l, *first, ppn, pages);
	unlock(&l->lock);
	return 0;
}

int low_alloc(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint32_t pages,
	      uint64_t *first)
{
	struct low *l = &g->low;

	if (l->fd < 0 || pages > LOW_RUN_PAGES_MAX ||
	    atomic_load(&l->pages) + pages > atomic_load(&l->limit_pages))
		return -ENOSPC;
	return pages <= CHUNK ? alloc_within(e, l, ppn, pages, first) :
				alloc_chunks(e, l, ppn, pages, first);
}

/* --- holds ------------------------------------------------------------------------- */

static bool hold_one(struct guest *g, uint64_t ppn, uint64_t *low)
{
	pmap_entry e = pmap_get(&g->pmap, ppn);

	do {
		if (pmap_state(e) != PAGE_LOW || pmap_low_holds(e) == PMAP_LOW_HOLDS_MAX)
			return false;
	} while (!pmap_move(&g->pmap, ppn, &e, pmap_with_low_holds(e, pmap_low_holds(e) + 1)));
	*low = pmap_low_page(e);
	return true;
}

uint32_t low_hold(struct guest *g, uint64_t ppn, uint32_t pages, uint64_t *low)
{
	uint32_t n = 0, now;
	uint64_t next;

	if (!atomic_load_explicit(&g->low.pages, memory_order_relaxed) ||
	    !hold_one(g, ppn, low))
		return 0;
	now = now_ms();
	g->low.last_ms[*low] = now;
	for (n = 1; n < pages && (*low + n) % CHUNK && hold_one(g, ppn + n, &next); n++) {
		if (next != *low + n) {
			low_drop(g, ppn + n, 1);
			break;
		}
		g->low.last_ms[next] = now;
	}
	return n;
}

void low_drop(struct guest *g, uint64_t ppn, uint32_t pages)
{
	uint64_t end = ppn + pages;

	for (; ppn < end; ppn++) {
		pmap_entry e = pmap_get(&g->pmap, ppn);

		while (!pmap_move(&g->pmap, ppn, &e,
				  pmap_with_low_holds(e, pmap_low_holds(e) - 1)))
			;
	}
}
