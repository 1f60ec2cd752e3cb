/* SPDX-License-Identifier: MIT
 * A picture of a guest's memory: the engine's side of uvmm_guest_map(), _pages() and _runs().
 *
 * What the page map does not say (pages that never left) the file does. Page map and
 * file are read one after the other while pages move: the parts are made to add up. */
#include <errno.h>
#include <string.h>

#include "engine.h"
#include "machine.h"

_Static_assert(UVMM_MAP_STATES == UVMM_MAP_LOW + 1, "a state has no column");

static enum uvmm_map_state state_of_tier(pmap_entry e)
{
	switch ((enum uvmm_tier)pmap_tier(e)) {
	case UVMM_TIER_SWAP:
		break;
	}
	return UVMM_MAP_SWAPPED;
}

static enum uvmm_map_state state_of(pmap_entry e)
{
	switch (pmap_state(e)) {
	case PAGE_PUNCHING:
	case PAGE_STORED:
	case PAGE_LOADING:
		return state_of_tier(e);
	case PAGE_DAMAGED:
		return UVMM_MAP_DAMAGED;
	case PAGE_SHARED:
		return UVMM_MAP_SHARED;
	case PAGE_SPLIT:
		return UVMM_MAP_SPLIT;
	case PAGE_BALLOONED:
		return UVMM_MAP_BALLOONED;
	case PAGE_REMAPPING:
		if (pmap_handle(e) != PMAP_NO_FRAME && !pmap_handle_is_low(pmap_handle(e)))
			return UVMM_MAP_SHARED;
		break;
	case PAGE_LOW:
		return UVMM_MAP_LOW;
	case PAGE_PRESENT:
	case PAGE_EVICTING:
	case PAGE_HELD:
	case PAGE_DISCARDING:
		break;
	}
	return UVMM_MAP_RESIDENT;
}

/* Those pages that the page map says are elsewhere; returns how many. Where nothing ever
 * moved its entries are not looked at, since a look would allocate them. */
static uint64_t count_elsewhere(const struct pmap *p, uint64_t lo, uint64_t hi,
				struct uvmm_map_cell *cell)
{
	uint64_t at = lo, stop, elsewhere = 0;

	for (; at < hi; at = stop) {
		uint64_t chunk = at / UVMM_CHUNK_PAGES;

		stop = (chunk + 1) * UVMM_CHUNK_PAGES;
		if (stop > hi)
			stop = hi;
		if (!pmap_chunk_marked(p, chunk))
			continue;
		for (; at < stop; at++) {
			enum uvmm_map_state s = state_of(pmap_get(p, at));

			if (s == UVMM_MAP_RESIDENT)
				continue;
			cell->pages[s]++;
			elsewhere++;
		}
	}
	return elsewhere;
}

static void fill_cell(const struct guest *g, uint64_t lo, uint64_t hi,
		      struct uvmm_map_cell *cell)
{
	uint64_t in_file = machine_range_pages(g->memfd, lo, hi);
	uint64_t rest = hi - lo - count_elsewhere(&g->pmap, lo, hi, cell);

	cell->pages[UVMM_MAP_RESIDENT] = in_file < rest ? in_file : rest;
	cell->pages[UVMM_MAP_UNTOUCHED] = rest - cell->pages[UVMM_MAP_RESIDENT];
}

/* --- page by page -------------------------------------------------------------- */

static uint64_t word_of(pmap_entry e)
{
	enum uvmm_map_state s = state_of(e);
	uint64_t word = (uint64_t)s | (uint64_t)pmap_pins(e) << 4;

	if (s == UVMM_MAP_SHARED || s == UVMM_MAP_SWAPPED)
		word |= (uint64_t)pmap_tier(e) << 8 | pmap_handle(e) << 12;
	return word;
}

/* [lo, hi) lies in one chunk. */
static void fill_words(const struct guest *g, uint64_t lo, uint64_t hi, uint64_t *word)
{
	bool marked = pmap_chunk_marked(&g->pmap, lo / UVMM_CHUNK_PAGES);
	uint64_t from = lo, to, at;

	for (at = lo; at < hi; at++)
		word[at - lo] = UVMM_MAP_UNTOUCHED;
	for (; machine_next_data(g->memfd, &from, &to, hi); from = to)
		for (at = from; at < to; at++)
			word[at - lo] = UVMM_MAP_RESIDENT;
	for (at = lo; marked && at < hi; at++) {
		uint64_t w = word_of(pmap_get(&g->pmap, at));

		word[at - lo] = w & 0xf ? w : word[at - lo] | w;
	}
}

struct runs {
	struct uvmm_page_run *run;
	size_t cap, n;
};

/* False: there is no room for the page. */
static bool add_page(struct runs *r, uint64_t ppn, uint64_t state)
{
	if (r->n && r->run[r->n - 1].state == state) {
		r->run[r->n - 1].pages++;
		return true;
	}
	if (r->n == r->cap)
		return false;
	r->run[r->n++] = (struct uvmm_page_run){ ppn, 1, state };
	return true;
}

static uint64_t end_of_chunk(uint64_t ppn, uint64_t end)
{
	uint64_t to = (ppn / UVMM_CHUNK_PAGES + 1) * UVMM_CHUNK_PAGES;

	return to < end ? to : end;
}

#pragma GCC visibility push(default)

int uvmm_guest_pages(uvmm_engine *e, uint64_t id, uint64_t ppn, uint64_t pages,
		     uint64_t *word)
{
	struct guest *g = guest_enter_id(&e->registry, id);
	uint64_t at = ppn, end = ppn + pages, to;
	int rc = -EINVAL;

	if (!g)
		return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
	if (ppn <= g->max_pages && pages <= g->max_pages - ppn)
		rc = 0;
	for (; !rc && at < end; at = to) {
		to = end_of_chunk(at, end);
		fill_words(g, at, to, word + (at - ppn));
	}
	guest_leave(g);
	return rc;
}

int uvmm_guest_runs(uvmm_engine *e, uint64_t id, uint64_t *ppn, struct uvmm_page_run *run,
		    size_t cap, size_t *n)
{
	struct guest *g = guest_enter_id(&e->registry, id);
	struct runs r = { .run = run, .cap = cap };
	uint64_t word[UVMM_CHUNK_PAGES], at = *ppn, from, to;
	bool room = true;

	*n = 0;
	if (!g)
		return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
	if (at > g->max_pages) {
		guest_leave(g);
		return -EINVAL;
	}
	while (room && at < g->max_pages) {
		from = at;
		to = end_of_chunk(at, g->max_pages);
		fill_words(g, at, to, word);
		while (room && at < to) {
			room = add_page(&r, at, word[at - from] & 0xf);
			at += room;
		}
	}
	guest_leave(g);
	*ppn = at;
	*n = r.n;
	return 0;
}

int uvmm_guest_map(uvmm_engine *e, uint64_t id, struct uvmm_map_cell *map, uint32_t cells)
{
	struct guest *g = guest_enter_id(&e->registry, id);
	uint64_t lo = 0, hi, size, larger;
	int rc = -EINVAL;
	uint32_t i;

	if (!g)
		return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
	if (!cells || cells > UVMM_MAP_CELLS_MAX || cells > g->max_pages)
		goto out;
	memset(map, 0, cells * sizeof(*map));
	size = g->max_pages / cells;
	larger = g->max_pages % cells;
	for (i = 0; i < cells; i++, lo = hi) {
		hi = lo + size + (i < larger);
		fill_cell(g, lo, hi, &map[i]);
	}
	rc = 0;
out:
	guest_leave(g);
	return rc;
}

#pragma GCC visibility pop
