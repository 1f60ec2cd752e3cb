/* SPDX-License-Identifier: MIT
 * Pages move into low memory and out of it; see low.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "share.h"
#include "uffd.h"

#define CHUNK UVMM_CHUNK_PAGES
#define STEP 16u                /* pages that are protected at once: a writer waits for so many */
#define OUT_PAGES 256u          /* raised by one order */

struct moving {
	struct uvmm_engine *e;
	struct guest *g;
	uint64_t ppn;
	uint32_t pages;
	uint64_t first;         /* of low memory, for those that go there */
	bool in;
};

static uint64_t first_chunk(const struct moving *m)
{
	return m->ppn / CHUNK;
}

static uint64_t end_chunk(const struct moving *m)
{
	return (m->ppn + m->pages - 1) / CHUNK + 1;
}

static void release_chunks(const struct moving *m, uint64_t end)
{
	uint64_t c;

	for (c = first_chunk(m); c < end; c++)
		pmap_chunk_release(&m->g->pmap, c);
}

static bool claim_chunks(const struct moving *m)
{
	uint64_t c;

	for (c = first_chunk(m); c < end_chunk(m); c++)
		if (!pmap_chunk_claim(&m->g->pmap, c)) {
			release_chunks(m, c);
			return false;
		}
	return true;
}

/* Counted before it is on its way: nobody opens its chunk then. */
static bool claim_page(const struct moving *m, uint32_t i)
{
	struct pmap *map = &m->g->pmap;
	uint64_t ppn = m->ppn + i;
	pmap_entry e = pmap_get(map, ppn), want;

	if (m->in) {
		if (e != pmap_make(PAGE_PRESENT, 0))
			return false;
		pmap_chunk_mark(map, ppn / CHUNK);
		pmap_chunk_add_away(map, ppn, 1);
		want = pmap_low(PAGE_REMAPPING, m->first + i);
	} else {
		if (pmap_state(e) != PAGE_LOW || pmap_low_holds(e) || pmap_pins(e))
			return false;
		want = pmap_with_state(e, PAGE_REMAPPING);
	}
	pmap_chunk_add(map, ppn, 1);
	if (pmap_move(map, ppn, &e, want))
		return true;
	pmap_chunk_sub(map, ppn, 1);
	if (m->in)
		pmap_chunk_sub_away(map, ppn, 1);
	return false;
}

static void add_to_run(const struct moving *m, uint32_t i, struct uvmm_remap *r)
{
	struct uvmm_remap_run *run = r->runs ? &r->run[r->runs - 1] : NULL;

	if (!run || run->ppn + run->pages != m->ppn + i || (m->ppn + i) % STEP == 0) {
		run = &r->run[r->runs++];
		*run = (struct uvmm_remap_run){
			.ppn = m->ppn + i,
			.frame = m->in ? m->first + i : UVMM_FRAME_HOME,
		};
	}
	run->pages++;
}

/* The order's pages: all of them for what goes in, else those that may go. */
static uint32_t claim_pages(const struct moving *m, struct uvmm_remap *r)
{
	uint32_t i, n = 0;

	for (i = 0; i < m->pages && r->runs < UVMM_REMAP_RUNS; i++) {
		if (claim_page(m, i)) {
			add_to_run(m, i, r);
			n++;
		} else if (m->in) {
			break;
		}
	}
	return n;
}

/* The chunks are not mapped as large pages from now on: the agent protects a few pages of
 * them at a time, and would break those in a race with whoever uses them. */
static void break_chunks(const struct moving *m)
{
	static const uint64_t none[CHUNK / 64];
	uint64_t c;

	for (c = first_chunk(m); c < end_chunk(m); c++) {
		activity_breaks(m->g, c);
		activity_break(m->g, c, none, false);
	}
}

/* With the agent attending. *rest: pages that were not claimed, from the last on. */
static int order_move(const struct moving *m, uint32_t *claimed)
{
	static const struct uvmm_remapped none = { { 0 } };
	struct uvmm_remap *r = &m->g->order.remap;

	*claimed = 0;
	r->runs = 0;
	if (!claim_chunks(m)) {
		order_cancel(m->g);
		return -EAGAIN;
	}
	m->g->order.low = true;
	if (m->in)
		break_chunks(m);
	*claimed = claim_pages(m, r);
	release_chunks(m, end_chunk(m));
	if (r->runs && (!m->in || *claimed == m->pages) && !share_may_not_order(m->g) &&
	    order_is_attended(m->g) && !order_send(m->e, m->g))
		return 0;
	low_finish(m->e, m->g, r, &none);
	order_cancel(m->g);
	return -EAGAIN;
}

int low_lower(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint32_t pages,
	      uint64_t first)
{
	struct moving m = { .e = e, .g = g, .ppn = ppn, .pages = pages, .first = first,
			    .in = true };
	uint32_t claimed = 0;
	int rc = -EAGAIN;

	/* What other devices of the guest's may write is not stopped by protection. */
	if (guest_direct_io(g) == DIRECT_IO_NONE && !share_call(e, g))
		rc = order_move(&m, &claimed);
	/* Those that were claimed are free already, or will be by the answer. */
	if (rc)
		low_free(&g->low, first + claimed, pages - claimed);
	return rc;
}

int low_raise(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint32_t pages)
{
	struct moving m = { .e = e, .g = g, .ppn = ppn, .pages = pages };
	uint32_t claimed;
	int rc;

	/* Twice there until the agent has answered. */
	if (!pressure_take(&e->pressure, pages, PRESSURE_LOAD))
		return -EAGAIN;
	rc = share_call(e, g) ? -EAGAIN : order_move(&m, &claimed);
	pressure_refresh(e);
	return rc;
}

/* --- the coldest --------------------------------------------------------------------- */

struct cold {
	uint32_t ppn, idle_ms;
};

static int by_idle(const void *a, const void *b)
{
	const struct cold *x = a, *y = b;

	if (x->idle_ms != y->idle_ms)
		return x->idle_ms < y->idle_ms ? 1 : -1;
	return x->ppn < y->ppn ? -1 : x->ppn > y->ppn;
}

static int by_page(const void *a, const void *b)
{
	const struct cold *x = a, *y = b;

	return x->ppn < y->ppn ? -1 : x->ppn > y->ppn;
}

static size_t find_cold(struct low *l, uint32_t idle_ms, struct cold *out)
{
	uint32_t now = (uint32_t)(clock_ns() / NS_PER_MS);
	uint64_t page, pages = (uint64_t)l->chunks * CHUNK;
	size_t n = 0;

	lock(&l->lock);
	for (page = 0; page < pages; page++) {
		uint32_t idle = now - l->last_ms[page];

		if ((l->bits[page / 64] >> (page % 64) & 1) && idle >= idle_ms)
			out[n++] = (struct cold){ l->owner[page], idle };
	}
	unlock(&l->lock);
	return n;
}

uint64_t low_raise_cold(struct uvmm_engine *e, struct guest *g, uint64_t pages, uint32_t idle_ms)
{
	uint64_t before = atomic_load(&g->low.pages), now;
	struct cold *cold;
	size_t n, at = 0, end;

	if (g->low.fd < 0 || !before)
		return 0;
	cold = calloc((size_t)g->low.chunks * CHUNK, sizeof(*cold));
	if (!cold)
		return 0;
	n = find_cold(&g->low, idle_ms, cold);
	qsort(cold, n, sizeof(*cold), by_idle);
	n = n < pages ? n : (size_t)pages;
	qsort(cold, n, sizeof(*cold), by_page);
	for (; at < n; at = end) {
		for (end = at + 1; end < n && cold[end].ppn == cold[end - 1].ppn + 1 &&
				   end - at < OUT_PAGES; end++)
			;
		if (low_raise(e, g, cold[at].ppn, (uint32_t)(end - at)))
			break;
	}
	free(cold);
	now = atomic_load(&g->low.pages);
	return before > now ? before - now : 0;
}

/* --- what came of it ------------------------------------------------------------------ */

static void lowered(struct guest *g, const struct uvmm_remap_run *run)
{
	uint64_t i;

	share_punch(g, run->ppn, run->pages);
	activity_emptied(g, run->ppn, run->pages);
	for (i = run->ppn; i < run->ppn + run->pages; i++) {
		sharing_forget_print(&g->sharing, i);
		pmap_set(&g->pmap, i, pmap_with_state(pmap_get(&g->pmap, i), PAGE_LOW));
	}
	pmap_chunk_sub(&g->pmap, run->ppn, (uint32_t)run->pages);
	atomic_fetch_add(&g->low.remaps_in, run->pages);
}

static void lower_refused(struct guest *g, const struct uvmm_remap_run *run)
{
	low_free(&g->low, run->frame, run->pages);
	guest_watch_again(g, run->ppn, run->pages);
	share_set_home(g, run->ppn, run->pages);
	atomic_fetch_add(&g->low.refused, run->pages);
}

static void raised(struct guest *g, const struct uvmm_remap_run *run)
{
	uint64_t i;

	guest_watch_again(g, run->ppn, run->pages);
	for (i = run->ppn; i < run->ppn + run->pages; i++)
		low_free(&g->low, pmap_low_page(pmap_get(&g->pmap, i)), 1);
	share_set_home(g, run->ppn, run->pages);
	atomic_fetch_add(&g->low.remaps_out, run->pages);
}

static void raise_refused(struct guest *g, const struct uvmm_remap_run *run)
{
	uint64_t i;

	share_punch(g, run->ppn, run->pages);
	uffd_unregister(g->uffd, guest_addr(g, run->ppn), run->pages << UVMM_PAGE_SHIFT);
	for (i = run->ppn; i < run->ppn + run->pages; i++)
		pmap_set(&g->pmap, i, pmap_with_state(pmap_get(&g->pmap, i), PAGE_LOW));
	pmap_chunk_sub(&g->pmap, run->ppn, (uint32_t)run->pages);
	atomic_fetch_add(&g->low.refused, run->pages);
}

void low_finish(struct uvmm_engine *e, struct guest *g, const struct uvmm_remap *remap,
		const struct uvmm_remapped *answer)
{
	uint64_t i;

	(void)e;
	for (i = 0; i < remap->runs; i++) {
		const struct uvmm_remap_run *run = &remap->run[i];
		bool done = answer->done[i / 64] >> (i % 64) & 1;

		if (run->frame == UVMM_FRAME_HOME)
			(done ? raised : raise_refused)(g, run);
		else
			(done ? lowered : lower_refused)(g, run);
		guest_wake(g, run->ppn, run->pages);
	}
}
