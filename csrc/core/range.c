/* SPDX-License-Identifier: MIT */
#include "range.h"

#include <errno.h>
#include <fcntl.h>

#include "clock.h"
#include "engine.h"
#include "load.h"
#include "share.h"

#define BATCH TIER_BATCH_MAX
#define OWNER_SLEEP_NS 20000
#define MEMORY_SLEEP_NS NS_PER_MS
#define MEMORY_TRIES 1000
#define AGENT_WAIT_NS (250 * NS_PER_MS)

struct discard {
	bool homes;
	uint64_t handles[BATCH];
	size_t stored;
	uint32_t away;
};

/* An agent may be stopped: nobody waits for it for long. */
static bool waited_too_long(uint64_t *since_ns)
{
	uint64_t now = clock_ns();

	*since_ns = *since_ns ? *since_ns : now;
	return now - *since_ns > AGENT_WAIT_NS;
}

/* By a request of a device that is under way. */
static bool is_held(pmap_entry e)
{
	return pmap_state(e) == PAGE_LOW && pmap_low_holds(e);
}

/* Makes the page DISCARDING, with the pins that have come meanwhile. False if it stays:
 * damaged, ballooned, or with *rc set. */
static bool claim(struct uvmm_engine *engine, struct guest *g, uint64_t ppn,
		  struct discard *d, int *rc)
{
	for (;;) {
		pmap_entry e = pmap_get(&g->pmap, ppn);

		switch (pmap_state(e)) {
		case PAGE_DAMAGED:
		case PAGE_BALLOONED:
			return false;
		case PAGE_PRESENT:
			if (pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_DISCARDING, pmap_pins(e))))
				return true;
			break;
		case PAGE_STORED:
			if (!pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_DISCARDING, 0)))
				break;
			d->handles[d->stored++] = pmap_handle(e);
			return true;
		case PAGE_LOW:
		case PAGE_SHARED:
		case PAGE_SPLIT:
			if (!d->homes || is_held(e)) {
				*rc = -EBUSY;
				return false;
			}
			if (!pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_DISCARDING, pmap_pins(e))))
				break;
			share_discarded(engine, g, ppn, e);
			d->away++;
			return true;
		default:
			clock_sleep_ns(OWNER_SLEEP_NS);
		}
	}
}

static int punch_and_release(struct uvmm_engine *e, struct guest *g, uint64_t lo,
			      uint64_t n, struct discard *d)
{
	uint64_t ppn;
	int rc = 0;

	if (!n)
		return 0;
	if (fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(lo << UVMM_PAGE_SHIFT), (off_t)(n << UVMM_PAGE_SHIFT)))
		rc = -EIO;
	for (ppn = lo; ppn < lo + n; ppn++)
		pmap_set(&g->pmap, ppn, pmap_make(PAGE_PRESENT, pmap_pins(pmap_get(&g->pmap, ppn))));
	activity_emptied(g, lo, n);
	pmap_chunk_sub_away(&g->pmap, lo, d->away);
	d->away = 0;
	if (d->stored) {
		tier_drop(e->tier[UVMM_TIER_SWAP], d->handles, d->stored);
		atomic_fetch_sub(&g->stored_pages, d->stored);
		pmap_chunk_sub(&g->pmap, lo, (uint32_t)d->stored);
		d->stored = 0;
	}
	guest_wake(g, lo, n);
	return rc;
}

int range_settle(const struct guest *g, uint64_t lo, uint64_t hi, bool homes, bool pins)
{
	bool any_pins = !pins && atomic_load(&g->pinned_pages);
	uint64_t ppn, since_ns = 0;

	for (ppn = lo; ppn < hi; ppn++) {
		uint64_t chunk = ppn / UVMM_CHUNK_PAGES;
		pmap_entry e;

		if (!any_pins && !pmap_chunk_away(&g->pmap, chunk)) {
			ppn = (chunk + 1) * UVMM_CHUNK_PAGES - 1;
			continue;
		}
		e = pmap_get(&g->pmap, ppn);
		if (is_held(e) ||
		    (pmap_pins(e) ? !pins || !pmap_is_home(e) : !homes && !pmap_is_home(e)))
			return -EBUSY;
		for (; pmap_state(e) == PAGE_REMAPPING; e = pmap_get(&g->pmap, ppn)) {
			if (waited_too_long(&since_ns))
				return -EBUSY;
			clock_sleep_ns(OWNER_SLEEP_NS);
		}
	}
	return 0;
}

/* Nothing is in the file, and nothing was ever taken out: no need to fill the page
 * map. In this order: what is taken out meanwhile was marked before. */
static bool is_untouched(const struct guest *g, uint64_t lo, uint64_t hi)
{
	return machine_seek_data(g->memfd, lo) >= hi &&
	       !pmap_chunk_marked(&g->pmap, lo / UVMM_CHUNK_PAGES);
}

static int discard(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t end,
		   bool homes)
{
	uint64_t at = ppn, lo;
	struct discard d = { .homes = homes };
	int rc = range_settle(g, ppn, end, homes, false), failed = 0;

	while (at < end && !rc) {
		/* Runs end with their chunk, whose books they are in. */
		uint64_t stop = (at / UVMM_CHUNK_PAGES + 1) * UVMM_CHUNK_PAGES;

		if (!atomic_load(&g->attached))
			return -ESRCH;
		stop = stop < end ? stop : end;
		if (is_untouched(g, at, stop)) {
			at = stop;
			continue;
		}
		for (lo = at; at < stop && claim(e, g, at, &d, &rc); at++)
			;
		/* The rest all the same: what was away the guest maps home if any was dropped. */
		if (punch_and_release(e, g, lo, at - lo, &d))
			failed = -EIO;
		if (at < stop)
			at++;   /* one that stays, or the end */
	}
	return rc ? rc : failed;
}

int range_discard(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages,
		  bool homes)
{
	int rc;

	atomic_fetch_add(&g->sharing.discards, 1);
	rc = discard(e, g, ppn, ppn + pages, homes);
	atomic_fetch_sub(&g->sharing.discards, 1);
	return rc;
}

static void set_stored(const struct guest *g, uint64_t ppn, uint64_t pages, uint64_t *bits)
{
	uint64_t i;

	for (i = 0; i < pages; i++) {
		enum page_state s = pmap_state(pmap_get(&g->pmap, ppn + i));

		if (s != PAGE_PRESENT && s != PAGE_DISCARDING && s != PAGE_BALLOONED)
			bits[i / 64] |= 1ull << (i % 64);
	}
}

void range_content(const struct guest *g, uint64_t ppn, uint64_t pages, uint64_t *bits)
{
	uint64_t at = ppn, end = ppn + pages, stop;

	set_stored(g, ppn, pages, bits);
	while (machine_next_data(g->memfd, &at, &stop, end))
		for (; at < stop; at++)
			bits[(at - ppn) / 64] |= 1ull << ((at - ppn) % 64);
	set_stored(g, ppn, pages, bits);
}

static bool is_room_for_pins(const struct uvmm_engine *e, uint64_t pages)
{
	return atomic_load(&e->pinned_pages) + pages <= e->cfg.memory_pages / 4 * 3;
}

/* *b is made when it is needed first. */
static int bring_in(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t end,
		    struct load_buffer **b, int *tries)
{
	uint64_t loaded, hi = ppn + BATCH < end ? ppn + BATCH : end;
	int rc;

	if (!*b)
		*b = load_buffer_new();
	if (!*b)
		return -ENOMEM;
	rc = load_pages(e, g, ppn, hi, ppn, *b, &loaded);
	if (rc != -ENOMEM)
		return rc == -EIO ? 0 : rc;     /* the page's own state tells */
	pressure_wait(e, g, false);
	if (++*tries > MEMORY_TRIES)
		return -ENOMEM;
	clock_sleep_ns(MEMORY_SLEEP_NS);
	return 0;
}

/* The entry with so many pins; EVICTING is interrupted. */
static pmap_entry pinned(pmap_entry e, unsigned pins)
{
	if (pmap_is_home(e))
		return pmap_make(PAGE_PRESENT, pins);
	return pmap_with_pins(e, pins);
}

static int pin_page(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t end,
		    struct load_buffer **b)
{
	uint64_t since_ns = 0;
	int rc = 0, tries = 0;

	while (!rc) {
		pmap_entry was = pmap_get(&g->pmap, ppn);
		unsigned pins = pmap_pins(was);

		if (!atomic_load(&g->attached))
			return -ESRCH;
		switch (pmap_state(was)) {
		case PAGE_PRESENT:
		case PAGE_EVICTING:
		case PAGE_SHARED:
		case PAGE_SPLIT:
		case PAGE_LOW:
			if (pins == PMAP_PINS_MAX)
				return -EOVERFLOW;
			if (!pmap_move(&g->pmap, ppn, &was, pinned(was, pins + 1)))
				break;
			if (!pins) {
				atomic_fetch_add(&g->pinned_pages, 1);
				atomic_fetch_add(&e->pinned_pages, 1);
			}
			return 0;
		case PAGE_STORED:
			rc = bring_in(e, g, ppn, end, b, &tries);
			break;
		case PAGE_DAMAGED:
			return -EIO;
		case PAGE_BALLOONED:
			balloon_pop(g, ppn);
			break;
		case PAGE_REMAPPING:
			if (waited_too_long(&since_ns))
				return -EBUSY;
			/* fall through */
		default:
			clock_sleep_ns(OWNER_SLEEP_NS);
		}
	}
	return rc;
}

static void unpin_page(struct uvmm_engine *e, struct guest *g, uint64_t ppn)
{
	for (;;) {
		pmap_entry was = pmap_get(&g->pmap, ppn);
		unsigned pins = pmap_pins(was);

		if (!pins)
			return;
		if (pmap_state(was) != PAGE_PRESENT && pmap_is_home(was)) {
			clock_sleep_ns(OWNER_SLEEP_NS);
			continue;
		}
		if (!pmap_move(&g->pmap, ppn, &was, pinned(was, pins - 1)))
			continue;
		if (pins == 1) {
			atomic_fetch_sub(&g->pinned_pages, 1);
			atomic_fetch_sub(&e->pinned_pages, 1);
		}
		return;
	}
}

int range_pin(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages)
{
	struct load_buffer *b = NULL;
	uint64_t at = ppn;
	int rc = 0;

	if (!is_room_for_pins(e, pages))
		return -ENOMEM;
	while (at < ppn + pages && !rc) {
		rc = pin_page(e, g, at, ppn + pages, &b);
		at += !rc;
	}
	if (rc)
		while (at > ppn)
			unpin_page(e, g, --at);
	load_buffer_free(b);
	return rc;
}

int range_unpin(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint64_t at;

	for (at = ppn; at < ppn + pages; at++)
		if (!pmap_pins(pmap_get(&g->pmap, at)))
			return -EINVAL;
	for (at = ppn; at < ppn + pages; at++)
		unpin_page(e, g, at);
	return 0;
}
