/* SPDX-License-Identifier: MIT
 * Loading a whole chunk at once, into a large page; see load.h. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "load.h"

#define LARGE_SLOW_NS (UVMM_CHUNK_PAGES * 1000ull)
#define CHUNKS_BY_PAGE 256
#define PUNCH_TRIES 100
#define PUNCH_SLEEP_NS 20000

/* All pages of the chunk are ours, or none. */
static bool claim_all(struct guest *g, uint64_t lo, struct load_buffer *b)
{
	size_t n = 0;
	uint64_t ppn;

	for (ppn = lo; ppn < lo + UVMM_CHUNK_PAGES && load_claim(g, ppn, b, &n); ppn++)
		;
	if (n == UVMM_CHUNK_PAGES)
		return true;
	load_unclaim(g, b, 0, n);
	return false;
}

/* Has the chunk mapped to be filled. A fresh large page may cost far more than 512
 * small ones that were used lately, where the machine is virtual and its memory
 * has to come from the host first: then chunks come page by page for a while. */
static int map(struct uvmm_engine *e, struct guest *g, uint64_t lo, struct load_buffer *b,
	       char **at)
{
	uint64_t since = clock_ns();
	int rc;

	rc = view_map(&b->view, g->memfd, lo, UVMM_CHUNK_PAGES, VIEW_FILL, at);
	if (clock_ns() - since > LARGE_SLOW_NS)
		atomic_store(&e->chunks_by_page, CHUNKS_BY_PAGE);
	return rc;
}

/* Puts the contents into the file. 0 if all are good. */
static int fill(struct uvmm_engine *e, struct guest *g, uint64_t lo, struct load_buffer *b)
{
	char *at;
	size_t i;
	int rc;

	rc = map(e, g, lo, b, &at);
	if (rc)
		return rc;
	tier_load(e->tier[UVMM_TIER_SWAP], b->handles, b->seeds, UVMM_CHUNK_PAGES, at, b->bad);
	view_unmap(&b->view);
	for (i = 0; i < UVMM_CHUNK_PAGES && !rc; i++)
		rc = b->bad[i];
	return rc;
}

/* The file has a hole there again; false if there is no way. */
static bool empty(struct guest *g, uint64_t lo)
{
	int tries;

	for (tries = 0; tries < PUNCH_TRIES; tries++) {
		if (!fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)(lo << UVMM_PAGE_SHIFT), UVMM_CHUNK_SIZE) &&
		    machine_seek_data(g->memfd, lo) >= lo + UVMM_CHUNK_PAGES)
			return true;
		clock_sleep_ns(PUNCH_SLEEP_NS);
	}
	return false;
}

static void commit(struct uvmm_engine *e, struct guest *g, uint64_t lo,
		   struct load_buffer *b)
{
	uint64_t ppn;

	activity_loaded(g, lo, UVMM_CHUNK_PAGES);
	for (ppn = lo; ppn < lo + UVMM_CHUNK_PAGES; ppn++)
		pmap_set(&g->pmap, ppn, pmap_make(PAGE_PRESENT, 0));
	pmap_chunk_sub(&g->pmap, lo, UVMM_CHUNK_PAGES);
	atomic_fetch_sub(&g->stored_pages, UVMM_CHUNK_PAGES);
	atomic_fetch_add(&g->pages_in, UVMM_CHUNK_PAGES);
	tier_drop(e->tier[UVMM_TIER_SWAP], b->handles, UVMM_CHUNK_PAGES);
}

/* The chunk has no absent page: native again, unless memory is tight. */
static void open_chunk(struct uvmm_engine *e, struct guest *g, uint64_t chunk)
{
	bool tight = atomic_load(&e->pressure.is_tight);

	if (!tight)
		guest_open_chunk(g, chunk);
	/* It may have become so in between, and all chunks armed but this. */
	if (!tight && atomic_load(&e->pressure.is_tight))
		guest_arm_chunk(g, chunk);
}

/* The chunk is shielded and all its pages are ours. */
static uint64_t load_shielded(struct uvmm_engine *e, struct guest *g, uint64_t lo,
			      struct load_buffer *b)
{
	uint64_t chunk = lo / UVMM_CHUNK_PAGES;

	if (!fill(e, g, lo, b)) {
		commit(e, g, lo, b);
		open_chunk(e, g, chunk);
		return UVMM_CHUNK_PAGES;
	}
	/* What cannot be made a hole again, with pages in it that are right and
	 * others that are not, must not be seen. */
	while (!empty(g, lo) && atomic_load(&g->attached))
		;
	load_unclaim(g, b, 0, UVMM_CHUNK_PAGES);
	return 0;
}

uint64_t load_chunk(struct uvmm_engine *e, struct guest *g, uint64_t chunk,
		    struct load_buffer *b)
{
	uint64_t lo = chunk * UVMM_CHUNK_PAGES, loaded = 0;

	if (atomic_load(&e->chunks_by_page) > 0) {
		atomic_fetch_sub(&e->chunks_by_page, 1);
		return 0;
	}
	if (e->cfg.via || pmap_chunk_absent(&g->pmap, chunk) != UVMM_CHUNK_PAGES ||
	    !pressure_take(&e->pressure, UVMM_CHUNK_PAGES, PRESSURE_AHEAD))
		return 0;
	if (pmap_chunk_claim(&g->pmap, chunk)) {
		if (claim_all(g, lo, b)) {
			if (!guest_shield_chunk(g, chunk))
				loaded = load_shielded(e, g, lo, b);
			else
				load_unclaim(g, b, 0, UVMM_CHUNK_PAGES);
			guest_wake(g, lo, UVMM_CHUNK_PAGES);
		}
		pmap_chunk_release(&g->pmap, chunk);
	}
	if (!loaded)
		pressure_give(&e->pressure, UVMM_CHUNK_PAGES);
	return loaded;
}
