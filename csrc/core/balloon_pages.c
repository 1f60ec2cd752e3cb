/* SPDX-License-Identifier: MIT
 * Pages into the balloon and out of it; see balloon.h. */
#include <errno.h>
#include <fcntl.h>

#include "balloon.h"
#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "range.h"
#include "share.h"

#define PIECE_CHUNKS 8u         /* are taken together: 16 MiB */
#define PIECE_PAGES (PIECE_CHUNKS * UVMM_CHUNK_PAGES)
#define OWNER_SLEEP_NS 20000
#define FAULTS_MAX 4u           /* of different threads, then it pops */
#define PUNCH_TRIES 100         /* others' use of a page lasts microseconds */
#define PUNCH_SLEEP_NS 20000

/* Pages [lo, hi) on their way into the balloon. */
struct piece {
	struct uvmm_engine *e;
	struct guest *g;
	uint64_t lo, hi;
	bool keep;              /* they are to be ballooned, not just freed */
	bool watched;           /* and accesses to holes are seen */
	struct uvmm_count *count;
	bool mine[PIECE_PAGES]; /* DISCARDING by us */
	uint64_t handles[UVMM_CHUNK_PAGES];
	size_t stored;
};

static uint64_t first_chunk(uint64_t lo)
{
	return lo / UVMM_CHUNK_PAGES;
}

static uint64_t end_chunk(uint64_t hi)
{
	return (hi + UVMM_CHUNK_PAGES - 1) / UVMM_CHUNK_PAGES;
}

/* The end of the part of [at, hi) that lies in one chunk. */
static uint64_t chunk_stop(uint64_t at, uint64_t hi)
{
	uint64_t stop = (at / UVMM_CHUNK_PAGES + 1) * UVMM_CHUNK_PAGES;

	return stop < hi ? stop : hi;
}

/* Whoever holds a chunk does not wait for others. */
static int hold_chunks(const struct piece *p)
{
	uint64_t chunk, first = first_chunk(p->lo), end = end_chunk(p->hi);

	for (chunk = first; chunk < end; chunk++) {
		while (!pmap_chunk_claim(&p->g->pmap, chunk)) {
			if (!atomic_load(&p->g->attached)) {
				while (chunk > first)
					pmap_chunk_release(&p->g->pmap, --chunk);
				return -ESRCH;
			}
			clock_sleep_ns(OWNER_SLEEP_NS);
		}
	}
	return 0;
}

static void release_chunks(const struct piece *p)
{
	uint64_t chunk;

	for (chunk = first_chunk(p->lo); chunk < end_chunk(p->hi); chunk++)
		pmap_chunk_release(&p->g->pmap, chunk);
}

/* Counted absent first, so that the chunks stay armed. */
static void watch(struct piece *p)
{
	uint64_t at, stop;

	for (at = p->lo; at < p->hi; at = stop) {
		stop = chunk_stop(at, p->hi);
		pmap_chunk_mark(&p->g->pmap, first_chunk(at));
		pmap_chunk_add(&p->g->pmap, at, (uint32_t)(stop - at));
	}
	p->watched = p->keep && !guest_arm_chunks(p->g, first_chunk(p->lo),
				       end_chunk(p->hi) - first_chunk(p->lo));
}

/* Makes the page DISCARDING; false if it stays as it is. */
static bool claim(struct piece *p, uint64_t ppn)
{
	struct guest *g = p->g;

	for (;;) {
		pmap_entry e = pmap_get(&g->pmap, ppn);

		switch (pmap_state(e)) {
		case PAGE_DAMAGED:
		case PAGE_BALLOONED:
			return false;
		case PAGE_PRESENT:
			if (pmap_pins(e))
				return false;
			if (pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_DISCARDING, 0)))
				return true;
			break;
		case PAGE_STORED:
			if (!pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_DISCARDING, 0)))
				break;
			p->handles[p->stored++] = pmap_handle(e);
			return true;
		case PAGE_LOW:
			if (pmap_low_holds(e))
				return false;
			/* fall through */
		case PAGE_SHARED:
		case PAGE_SPLIT:
			/* The guest maps it home, whatever comes of it. */
			if (!pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_DISCARDING, pmap_pins(e))))
				break;
			share_discarded(p->e, g, ppn, e);
			p->count->freed_pages += pmap_state(e) != PAGE_SHARED;
			pmap_chunk_sub_away(&g->pmap, ppn, 1);
			return true;
		default:
			clock_sleep_ns(OWNER_SLEEP_NS);
		}
	}
}

/* All pages in a chunk that can be had. */
static void claim_part(struct piece *p, uint64_t lo, uint64_t hi)
{
	uint64_t ppn;
	uint32_t stays = 0;

	p->stored = 0;
	for (ppn = lo; ppn < hi; ppn++) {
		p->mine[ppn - p->lo] = claim(p, ppn);
		stays += !p->mine[ppn - p->lo];
	}
	/* Stored pages are counted twice by now. */
	pmap_chunk_sub(&p->g->pmap, lo, stays + (uint32_t)p->stored);
	atomic_fetch_sub(&p->g->stored_pages, p->stored);
	tier_drop(p->e->tier[UVMM_TIER_SWAP], p->handles, p->stored);
}

/* True if there is a hole now, instead of zeros where somebody uses a part of a large
 * page. */
static bool punch(const struct guest *g, uint64_t lo, uint64_t hi)
{
	int tries;

	for (tries = 0; tries < PUNCH_TRIES; tries++) {
		if (machine_seek_data(g->memfd, lo) >= hi)
			return true;
		if (tries)
			clock_sleep_ns(PUNCH_SLEEP_NS);
		fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)(lo << UVMM_PAGE_SHIFT), (off_t)((hi - lo) << UVMM_PAGE_SHIFT));
	}
	return false;
}

/* Pages [lo, hi) in a chunk, which are ours, are holes, or hold zeros: how many are
 * ballooned. */
static uint64_t commit_part(struct piece *p, uint64_t lo, uint64_t hi, bool hole)
{
	struct guest *g = p->g;
	uint64_t ppn, n = 0;

	activity_emptied(g, lo, hi - lo);
	for (ppn = lo; ppn < hi; ppn++) {
		unsigned pins = pmap_pins(pmap_get(&g->pmap, ppn));
		bool in = p->watched && !pins && (hole || machine_seek_data(g->memfd, ppn) != ppn);

		pmap_set(&g->pmap, ppn, pmap_make(in ? PAGE_BALLOONED : PAGE_PRESENT, pins));
		n += in;
	}
	pmap_chunk_sub(&g->pmap, lo, (uint32_t)(hi - lo - n));
	return n;
}

/* Pages [lo, hi), which are ours, become holes. How many are ballooned. */
static uint64_t take_run(struct piece *p, uint64_t lo, uint64_t hi)
{
	uint64_t held = machine_count_pages(p->g->memfd, lo, hi), at, stop, n = 0;
	bool hole = punch(p->g, lo, hi);

	p->count->freed_pages += held;

	atomic_fetch_add(&p->g->balloon.ballooned_pages, hi - lo);
	for (at = lo; at < hi; at = stop) {
		stop = chunk_stop(at, hi);
		n += commit_part(p, at, stop, hole);
	}
	atomic_fetch_sub(&p->g->balloon.ballooned_pages, hi - lo - n);
	return n;
}

/* Of [lo, hi), at most a piece. */
static int take_piece(struct piece *p)
{
	uint64_t at, to, n;
	int rc = hold_chunks(p);

	if (rc)
		return rc;
	watch(p);
	for (at = p->lo; at < p->hi; at = to) {
		to = chunk_stop(at, p->hi);
		claim_part(p, at, to);
	}
	for (at = p->lo; at < p->hi; at = to > at ? to : to + 1) {
		for (to = at; to < p->hi && p->mine[to - p->lo]; to++)
			;
		if (to == at)
			continue;
		n = take_run(p, at, to);
		p->count->pages += p->keep ? n : to - at;
	}
	release_chunks(p);
	guest_wake(p->g, p->lo, p->hi - p->lo);
	return 0;
}

static int take_range(struct uvmm_engine *e, struct guest *g, const struct uvmm_range *r,
		      bool keep, struct uvmm_count *count)
{
	struct piece p = { .e = e, .g = g, .hi = r->ppn, .keep = keep, .count = count };
	uint64_t end = r->ppn + r->pages;
	int rc = 0;

	while (p.hi < end && !rc) {
		p.lo = p.hi;
		p.hi = (first_chunk(p.lo) + PIECE_CHUNKS) * UVMM_CHUNK_PAGES;
		p.hi = p.hi < end ? p.hi : end;
		rc = take_piece(&p);
	}
	return rc;
}

static bool is_room_for(struct guest *g, const struct uvmm_ranges *r)
{
	uint64_t sum = atomic_load(&g->balloon.ballooned_pages), target;
	uint32_t i;

	for (i = 0; i < r->ranges; i++)
		sum += r->range[i].pages;
	lock(&g->balloon.lock);
	target = g->balloon.target_pages;
	unlock(&g->balloon.lock);
	return sum <= target;
}

/* Once all ranges are settled, no order is made while the discard goes on (share.h). */
static int settle(const struct guest *g, const struct uvmm_ranges *r)
{
	int rc = 0;
	uint32_t i;

	for (i = 0; i < r->ranges && !rc; i++)
		rc = range_settle(g, r->range[i].ppn, r->range[i].ppn + r->range[i].pages, true,
				  true);
	return rc;
}

int balloon_inflate(struct uvmm_engine *e, struct guest *g, const struct uvmm_ranges *r,
		    bool keep, struct uvmm_count *count)
{
	uint32_t i;
	int rc;

	*count = (struct uvmm_count){ 0 };
	if (keep && !is_room_for(g, r))
		return -EDQUOT;
	atomic_fetch_add(&g->sharing.discards, 1);
	rc = settle(g, r);
	for (i = 0; i < r->ranges && !rc; i++)
		rc = take_range(e, g, &r->range[i], keep, count);
	atomic_fetch_sub(&g->sharing.discards, 1);
	atomic_fetch_add(&g->balloon.freed_pages, count->freed_pages);
	pressure_refresh(e);
	pressure_wake_waiting(e);
	return rc;
}

/* --- out of it ----------------------------------------------------------------------- */

/* True if it was ballooned. */
static bool let_go(struct guest *g, uint64_t ppn)
{
	pmap_entry e = pmap_get(&g->pmap, ppn);

	while (pmap_state(e) == PAGE_BALLOONED)
		if (pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_PRESENT, 0)))
			return true;
	return false;
}

static uint64_t let_go_part(struct guest *g, uint64_t lo, uint64_t hi)
{
	uint64_t ppn, n = 0;

	if (!pmap_chunk_absent(&g->pmap, first_chunk(lo)))
		return 0;
	for (ppn = lo; ppn < hi; ppn++)
		n += let_go(g, ppn);
	pmap_chunk_sub(&g->pmap, lo, (uint32_t)n);
	atomic_fetch_sub(&g->balloon.ballooned_pages, n);
	return n;
}

/* Unless memory is tight first touch is native again. */
static void open_range(struct uvmm_engine *e, struct guest *g, const struct uvmm_range *r)
{
	uint64_t chunk = first_chunk(r->ppn), n = end_chunk(r->ppn + r->pages) - chunk;

	if (atomic_load(&e->pressure.is_tight))
		return;
	guest_open_idle_chunks(g, chunk, n);
	/* It may have become so in between. */
	if (atomic_load(&e->pressure.is_tight))
		guest_arm_all(g);
}

void balloon_deflate(struct uvmm_engine *e, struct guest *g, const struct uvmm_ranges *r,
		     struct uvmm_count *count)
{
	uint64_t at, stop, end;
	uint32_t i;

	*count = (struct uvmm_count){ 0 };
	for (i = 0; i < r->ranges; i++) {
		end = r->range[i].ppn + r->range[i].pages;
		for (at = r->range[i].ppn; at < end; at = stop) {
			stop = chunk_stop(at, end);
			count->pages += let_go_part(g, at, stop);
		}
		open_range(e, g, &r->range[i]);
	}
	if (r->why == UVMM_DEFLATE_NEEDED)
		atomic_fetch_add(&g->balloon.needed_pages, count->pages);
}

void balloon_pop(struct guest *g, uint64_t ppn)
{
	if (!let_go(g, ppn))
		return;
	pmap_chunk_sub(&g->pmap, ppn, 1);
	atomic_fetch_sub(&g->balloon.ballooned_pages, 1);
	atomic_fetch_add(&g->balloon.popped_pages, 1);
}

/* The handle of a ballooned page: who faulted there last, and how many times somebody did. */
static uint32_t fault_tid(pmap_entry e)
{
	return (uint32_t)pmap_handle(e);
}

static uint32_t fault_times(pmap_entry e)
{
	return (uint32_t)(pmap_handle(e) >> 32);
}

static pmap_entry faulted(uint32_t tid, uint32_t times)
{
	return pmap_remapped(PAGE_BALLOONED, (uint64_t)times << 32 | tid);
}

bool balloon_fault(struct guest *g, uint64_t ppn, uint32_t tid)
{
	pmap_entry e = pmap_get(&g->pmap, ppn);

	while (pmap_state(e) == PAGE_BALLOONED) {
		uint32_t times = fault_times(e) + 1;

		if (times > 1 && (fault_tid(e) == tid || times > FAULTS_MAX)) {
			balloon_pop(g, ppn);
			return false;
		}
		if (pmap_move(&g->pmap, ppn, &e, faulted(tid, times))) {
			guest_wake(g, ppn, 1);
			return true;
		}
	}
	return false;
}

void balloon_homed(struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint64_t at = ppn, end = ppn + pages, stop;

	if (!atomic_load(&g->balloon.ballooned_pages))
		return;
	while (machine_next_data(g->memfd, &at, &stop, end))
		for (; at < stop; at++)
			balloon_pop(g, at);
}
