/* SPDX-License-Identifier: MIT
 * What follows from an order, and what else happens to pages that are not home; see
 * share.h. */
#include "share.h"

#include <errno.h>
#include <fcntl.h>

#include "clock.h"
#include "engine.h"
#include "uffd.h"

#define PUNCH_TRIES 100         /* others' use of a page lasts microseconds */
#define PUNCH_SLEEP_NS 20000
#define DEAF_NS NS_PER_S        /* waiting for an agent costs time, if no more */

void share_punch(const struct guest *g, uint64_t ppn, uint64_t pages)
{
	int tries;

	for (tries = 0; tries < PUNCH_TRIES; tries++) {
		if (!fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)(ppn << UVMM_PAGE_SHIFT), (off_t)(pages << UVMM_PAGE_SHIFT)) &&
		    machine_seek_data(g->memfd, ppn) >= ppn + pages)
			return;
		clock_sleep_ns(PUNCH_SLEEP_NS);
	}
}

void share_set_home(struct guest *g, uint64_t ppn, uint64_t n)
{
	uint64_t i;

	activity_loaded(g, ppn, n);
	for (i = ppn; i < ppn + n; i++) {
		sharing_forget_print(&g->sharing, i);
		pmap_set(&g->pmap, i, pmap_make(PAGE_PRESENT, 0));
	}
	pmap_chunk_sub_away(&g->pmap, ppn, (uint32_t)n);
	pmap_chunk_sub(&g->pmap, ppn, (uint32_t)n);
}

/* --- to frames --------------------------------------------------------------- */

static void shared(struct uvmm_engine *e, struct guest *g, const struct uvmm_remap_run *run)
{
	uint64_t i;

	share_punch(g, run->ppn, run->pages);
	for (i = run->ppn; i < run->ppn + run->pages; i++)
		pmap_set(&g->pmap, i, pmap_with_state(pmap_get(&g->pmap, i), PAGE_SHARED));
	pmap_chunk_sub(&g->pmap, run->ppn, (uint32_t)run->pages);
	sharing_count(&e->sharing, &g->sharing, (int64_t)run->pages);
	atomic_fetch_add(&g->sharing.mappings, 2);
	atomic_fetch_add(&e->sharing.merged, run->pages);
	atomic_fetch_add(&g->sharing.merged, run->pages);
}

static void share_refused(struct uvmm_engine *e, struct guest *g,
			  const struct uvmm_remap_run *run)
{
	uint64_t i;

	uffd_unprotect(g->uffd, guest_addr(g, run->ppn), run->pages << UVMM_PAGE_SHIFT);
	for (i = 0; i < run->pages; i++)
		group_drop_frame(g->group, run->frame + i);
	share_set_home(g, run->ppn, run->pages);
	atomic_fetch_add(&e->sharing.refused[SHARE_REFUSED_AGENT], run->pages);
}

/* --- home -------------------------------------------------------------------- */

static void drop_frame_of(struct guest *g, pmap_entry e)
{
	if (pmap_handle(e) != PMAP_NO_FRAME && !pmap_handle_is_low(pmap_handle(e)))
		group_drop_frame(g->group, pmap_handle(e));
}

static void came_home(struct uvmm_engine *e, struct guest *g, const struct uvmm_remap_run *run)
{
	uint64_t i, split = 0;

	guest_watch_again(g, run->ppn, run->pages);
	for (i = run->ppn; i < run->ppn + run->pages; i++) {
		pmap_entry entry = pmap_get(&g->pmap, i);

		split += pmap_handle(entry) == PMAP_NO_FRAME;
		drop_frame_of(g, entry);
	}
	share_set_home(g, run->ppn, run->pages);
	atomic_fetch_sub(&g->sharing.split_pages, split);
	atomic_fetch_sub(&e->sharing.split_pages, split);
	atomic_fetch_sub(&g->sharing.own_pages, split);
	sharing_count(&e->sharing, &g->sharing, -(int64_t)(run->pages - split));
	atomic_fetch_add(&e->sharing.homed, run->pages);
}

static void home_refused(struct uvmm_engine *e, struct guest *g,
			 const struct uvmm_remap_run *run)
{
	uint64_t i;

	share_punch(g, run->ppn, run->pages);
	uffd_unregister(g->uffd, guest_addr(g, run->ppn), run->pages << UVMM_PAGE_SHIFT);
	for (i = run->ppn; i < run->ppn + run->pages; i++) {
		pmap_entry entry = pmap_get(&g->pmap, i);
		bool split = pmap_handle(entry) == PMAP_NO_FRAME;

		pmap_set(&g->pmap, i, split ? pmap_remapped(PAGE_SPLIT, 0) :
					      pmap_with_state(entry, PAGE_SHARED));
	}
	pmap_chunk_sub(&g->pmap, run->ppn, (uint32_t)run->pages);
	atomic_fetch_add(&e->sharing.refused[SHARE_REFUSED_AGENT], run->pages);
}

bool share_is_deaf(const struct guest *g)
{
	return clock_ns() < atomic_load(&g->sharing.deaf_until_ns);
}

int share_call(struct uvmm_engine *e, struct guest *g)
{
	int rc = share_is_deaf(g) ? -EAGAIN : order_call(e, g);

	if (rc == -EAGAIN && !share_is_deaf(g))
		atomic_store(&g->sharing.deaf_until_ns, clock_ns() + DEAF_NS);
	return rc;
}

void share_finish(struct uvmm_engine *e, struct guest *g, const struct uvmm_remap *remap,
		  const struct uvmm_remapped *answer)
{
	uint64_t i;

	for (i = 0; i < remap->runs; i++) {
		const struct uvmm_remap_run *run = &remap->run[i];
		bool done = answer->done[i / 64] >> (i % 64) & 1;

		if (run->frame == UVMM_FRAME_HOME)
			(done ? came_home : home_refused)(e, g, run);
		else
			(done ? shared : share_refused)(e, g, run);
		guest_wake(g, run->ppn, run->pages);
	}
}

/* --- faults, ends ------------------------------------------------------------- */

static bool is_away(const struct guest *g, uint64_t ppn)
{
	enum page_state s = pmap_state(pmap_get(&g->pmap, ppn));

	return s == PAGE_SHARED || s == PAGE_SPLIT || s == PAGE_LOW;
}

void share_stale_fault(struct guest *g, uint64_t ppn)
{
	uint64_t first = ppn - ppn % UVMM_CHUNK_PAGES, lo = ppn, hi = ppn + 1;

	while (lo > first && is_away(g, lo - 1))
		lo--;
	while (hi < first + UVMM_CHUNK_PAGES && is_away(g, hi))
		hi++;
	uffd_unregister(g->uffd, guest_addr(g, lo), (hi - lo) << UVMM_PAGE_SHIFT);
	guest_wake(g, ppn, 1);
}

int share_homed(struct guest *g, uint64_t ppn, uint64_t pages)
{
	int rc = guest_watch_again(g, ppn, pages);

	guest_wake(g, ppn, pages);
	return rc;
}

void share_discarded(struct uvmm_engine *e, struct guest *g, uint64_t ppn, pmap_entry former)
{
	if (pmap_state(former) == PAGE_LOW) {
		low_free(&g->low, pmap_low_page(former), 1);
	} else if (pmap_state(former) == PAGE_SHARED) {
		drop_frame_of(g, former);
		sharing_count(&e->sharing, &g->sharing, -1);
	} else {
		atomic_fetch_sub(&g->sharing.split_pages, 1);
		atomic_fetch_sub(&e->sharing.split_pages, 1);
	}
	sharing_forget_print(&g->sharing, ppn);
}

static void forget_chunk(struct guest *g, uint64_t chunk)
{
	uint64_t ppn = chunk * UVMM_CHUNK_PAGES, end = ppn + UVMM_CHUNK_PAGES;

	for (; ppn < end; ppn++) {
		pmap_entry e = pmap_get(&g->pmap, ppn);
		enum page_state s = pmap_state(e);

		if (s == PAGE_SHARED || s == PAGE_REMAPPING)
			drop_frame_of(g, e);
	}
}

void share_forget(struct uvmm_engine *e, struct guest *g)
{
	uint64_t chunk;

	order_forget(g);
	atomic_fetch_sub(&e->sharing.split_pages, atomic_load(&g->sharing.split_pages));
	atomic_fetch_sub(&e->sharing.shared_pages, atomic_load(&g->sharing.shared_pages));
	atomic_fetch_sub(&e->sharing.unseen_pages, atomic_exchange(&g->sharing.unseen_pages, 0));
	for (chunk = 0; chunk < g->pmap.chunks; chunk++)
		if (pmap_chunk_away(&g->pmap, chunk))
			forget_chunk(g, chunk);
}
