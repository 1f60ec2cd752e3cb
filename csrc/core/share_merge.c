/* SPDX-License-Identifier: MIT
 * Pages become shared frames; see share.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "share.h"
#include "uffd.h"

#define RUNS_PLANNED (UVMM_REMAP_RUNS / 2)      /* some are broken by lost pages */
#define VIEW_MIN 16u            /* pages: fewer are read faster than mapped */
#define GAP_MAX 4u      /* pages in between that are protected with their neighbours */

/* The pages of one chunk on their way. */
struct batch {
	struct uvmm_engine *e;
	struct guest *g;
	const struct share_page *p;
	size_t n;
	struct share_buffer *b;
	struct share_result *r;
	bool mine[UVMM_CHUNK_PAGES];    /* [n] EVICTING by us; of one chunk */
};

static void refuse_page(struct uvmm_engine *e, struct guest *g, const struct share_page *p,
			enum share_refusal why)
{
	if (p->frame != SHARE_ZERO)
		group_drop_frame(g->group, p->frame);
	atomic_fetch_add(&e->sharing.refused[why], 1);
	sharing_forget_print(&g->sharing, p->ppn);
}

static void refuse(struct batch *t, size_t i, enum share_refusal why)
{
	refuse_page(t->e, t->g, &t->p[i], why);
	t->mine[i] = false;
}

/* Page i, EVICTING, stays as it is; no matter if a writer took it. */
static void give_up(struct batch *t, size_t i, enum share_refusal why)
{
	pmap_entry e = pmap_make(PAGE_EVICTING, 0);

	if (!t->mine[i])
		return;
	pmap_move(&t->g->pmap, t->p[i].ppn, &e, pmap_make(PAGE_PRESENT, 0));
	pmap_chunk_sub_away(&t->g->pmap, t->p[i].ppn, 1);
	pmap_chunk_sub(&t->g->pmap, t->p[i].ppn, 1);
	refuse(t, i, why);
}

/* Step 1. */
static size_t claim(struct batch *t)
{
	size_t i, n = 0;

	pmap_chunk_add(&t->g->pmap, t->p[0].ppn, (uint32_t)t->n);
	pmap_chunk_add_away(&t->g->pmap, t->p[0].ppn, (uint32_t)t->n);
	for (i = 0; i < t->n; i++) {
		pmap_entry e = pmap_make(PAGE_PRESENT, 0);

		t->mine[i] = pmap_move(&t->g->pmap, t->p[i].ppn, &e,
				       pmap_make(PAGE_EVICTING, 0));
		n += t->mine[i];
		if (t->mine[i])
			continue;
		pmap_chunk_sub_away(&t->g->pmap, t->p[i].ppn, 1);
		pmap_chunk_sub(&t->g->pmap, t->p[i].ppn, 1);
		refuse(t, i, SHARE_REFUSED_BUSY);
	}
	return n;
}

static bool is_all_home(const struct guest *g, uint64_t lo, uint64_t hi)
{
	while (lo < hi && pmap_is_home(pmap_get(&g->pmap, lo)))
		lo++;
	return lo == hi;
}

/* The next pages, from *i, that are protected in one call: [*lo, *hi). */
static bool next_range(const struct batch *t, size_t *i, uint64_t *lo, uint64_t *hi)
{
	while (*i < t->n && !t->mine[*i])
		(*i)++;
	if (*i == t->n)
		return false;
	*lo = t->p[*i].ppn;
	*hi = *lo + 1;
	for ((*i)++; *i < t->n; (*i)++) {
		uint64_t ppn = t->p[*i].ppn;

		if (!t->mine[*i])
			continue;
		if (ppn > *hi + GAP_MAX || !is_all_home(t->g, *hi, ppn))
			break;
		*hi = ppn + 1;
	}
	return true;
}

/* Step 2. */
static int protect(struct batch *t)
{
	struct guest *g = t->g;
	uint64_t lo, hi;
	size_t i = 0;

	activity_breaks(g, t->p[0].ppn / UVMM_CHUNK_PAGES);
	if (guest_shield_chunk(g, t->p[0].ppn / UVMM_CHUNK_PAGES))
		return -EAGAIN;
	while (next_range(t, &i, &lo, &hi))
		if (uffd_protect(g->uffd, guest_addr(g, lo), (hi - lo) << UVMM_PAGE_SHIFT))
			return -EAGAIN;
	return guest_stop_writes(g);
}

static bool is_same(const struct batch *t, size_t i, const char *page)
{
	if (t->p[i].frame == SHARE_ZERO)
		return uvmm_is_zero(page, UVMM_PAGE_SIZE);
	return !memcmp(page, group_frame(t->g->group, t->p[i].frame), UVMM_PAGE_SIZE);
}

/* Step 3, for pages [i, to), which are neighbours and ours, and are at `pages`. */
static void compare_pages(struct batch *t, size_t i, size_t to, const char *pages)
{
	for (; i < to; i++, pages += UVMM_PAGE_SIZE)
		if (!is_same(t, i, pages))
			give_up(t, i, SHARE_REFUSED_CHANGED);
}

/* In a copy, a piece after the other. */
static void compare_read(struct batch *t, size_t i, size_t to)
{
	size_t end, bytes;

	for (; i < to; i = end) {
		end = to - i < SHARE_PIECE ? to : i + SHARE_PIECE;
		bytes = (end - i) * UVMM_PAGE_SIZE;
		if (pread(t->g->memfd, t->b->data, bytes,
			  (off_t)(t->p[i].ppn * UVMM_PAGE_SIZE)) == (ssize_t)bytes)
			compare_pages(t, i, end, t->b->data);
		else
			for (; i < end; i++)
				give_up(t, i, SHARE_REFUSED_CHANGED);
	}
}

static void compare_run(struct batch *t, size_t i, size_t to)
{
	char *at;

	if (t->e->cfg.via || to - i < VIEW_MIN ||
	    view_map(&t->b->view, t->g->memfd, t->p[i].ppn, to - i, VIEW_LOOK, &at)) {
		compare_read(t, i, to);
		return;
	}
	compare_pages(t, i, to, at);
	view_unmap(&t->b->view);
}

/* Nobody else's page is looked at: where it is stored a mapping would put zeros. */
static void compare(struct batch *t)
{
	size_t i = 0, from;

	while (i < t->n) {
		for (from = i; i < t->n && t->mine[i] && t->p[i].ppn == t->p[from].ppn + (i - from); i++)
			;
		if (i > from)
			compare_run(t, from, i);
		else
			i++;
	}
}

/* Step 4 of a zero page, and all that is left of it. */
static void drop_zero(struct batch *t, size_t i)
{
	struct guest *g = t->g;
	uint64_t ppn = t->p[i].ppn;
	pmap_entry e = pmap_make(PAGE_EVICTING, 0);

	if (!pmap_move(&g->pmap, ppn, &e, pmap_make(PAGE_PUNCHING, 0))) {
		give_up(t, i, SHARE_REFUSED_CHANGED);
		return;
	}
	share_punch(g, ppn, 1);
	activity_emptied(g, ppn, 1);
	pmap_set(&g->pmap, ppn, pmap_make(PAGE_PRESENT, 0));
	pmap_chunk_sub_away(&g->pmap, ppn, 1);
	pmap_chunk_sub(&g->pmap, ppn, 1);
	atomic_fetch_add(&g->zero_dropped, 1);
	atomic_fetch_add(&t->e->sharing.zero, 1);
	atomic_fetch_add(&t->g->sharing.zero, 1);
	t->r->zero++;
	t->mine[i] = false;
}

/* The order's last run, if the page goes on with it, or a new one; NULL: it is full. */
static struct uvmm_remap_run *run_for(struct uvmm_remap *remap, const struct share_page *p)
{
	struct uvmm_remap_run *run = remap->runs ? &remap->run[remap->runs - 1] : NULL;

	/* The books are kept by chunk. */
	if (run && run->ppn + run->pages == p->ppn && run->frame + run->pages == p->frame &&
	    p->ppn % UVMM_CHUNK_PAGES)
		return run;
	if (remap->runs == UVMM_REMAP_RUNS)
		return NULL;
	run = &remap->run[remap->runs++];
	*run = (struct uvmm_remap_run){ .ppn = p->ppn, .frame = p->frame };
	return run;
}

/* Step 4. */
static void commit(struct batch *t, size_t i, struct uvmm_remap *remap)
{
	pmap_entry e = pmap_make(PAGE_EVICTING, 0);
	struct uvmm_remap_run *run;

	if (!pmap_move(&t->g->pmap, t->p[i].ppn, &e,
		       pmap_remapped(PAGE_REMAPPING, t->p[i].frame))) {
		give_up(t, i, SHARE_REFUSED_CHANGED);
		return;
	}
	run = run_for(remap, &t->p[i]);
	run->pages++;
	t->r->shared++;
}

static void commit_all(struct batch *t, struct uvmm_remap *remap)
{
	bool attended = remap && order_is_attended(t->g);
	size_t i;

	for (i = 0; i < t->n; i++) {
		if (!t->mine[i])
			continue;
		if (!remap)
			drop_zero(t, i);
		else if (!attended)
			give_up(t, i, SHARE_REFUSED_AGENT);
		else if (remap->runs == UVMM_REMAP_RUNS)
			give_up(t, i, SHARE_REFUSED_BUSY);
		else
			commit(t, i, remap);
	}
}

/* Takes the protection off where no order is to come: [lo, hi) and what of it is not
 * REMAPPING. */
static void unprotect(struct guest *g, uint64_t lo, uint64_t hi)
{
	uint64_t to;

	for (; lo < hi; lo = to + 1) {
		for (to = lo; to < hi && pmap_is_home(pmap_get(&g->pmap, to)); to++)
			;
		if (to == lo)
			continue;
		uffd_unprotect(g->uffd, guest_addr(g, lo), (to - lo) << UVMM_PAGE_SHIFT);
		guest_wake(g, lo, to - lo);
	}
}

/* Steps 1 to 4 for the pages of a chunk; without an order they are to be zeros. */
static void share_chunk(struct batch *t, struct uvmm_remap *remap)
{
	uint64_t chunk = t->p[0].ppn / UVMM_CHUNK_PAGES;
	size_t i;
	int rc;

	if (!pmap_chunk_claim(&t->g->pmap, chunk)) {
		for (i = 0; i < t->n; i++)
			refuse(t, i, SHARE_REFUSED_BUSY);
		return;
	}
	pmap_chunk_mark(&t->g->pmap, chunk);
	rc = claim(t) ? protect(t) : 0;

	if (!rc)
		compare(t);
	for (i = 0; rc && i < t->n; i++)
		give_up(t, i, SHARE_REFUSED_BUSY);
	commit_all(t, remap);
	unprotect(t->g, t->p[0].ppn, t->p[t->n - 1].ppn + 1);
	pmap_chunk_release(&t->g->pmap, chunk);
}

/* How many of the pages lie in the first one's chunk, and make no more than `runs`. */
static size_t part(const struct share_page *p, size_t n, uint64_t runs)
{
	uint64_t chunk = p->ppn / UVMM_CHUNK_PAGES;
	size_t i;

	n = n < UVMM_CHUNK_PAGES ? n : UVMM_CHUNK_PAGES;
	for (i = 0; i < n && p[i].ppn / UVMM_CHUNK_PAGES == chunk; i++) {
		bool goes_on = i && p[i].ppn == p[i - 1].ppn + 1 && p[i].frame == p[i - 1].frame + 1;

		if (!goes_on && !runs--)
			break;
	}
	return i;
}

static void not_sent(struct uvmm_engine *e, struct guest *g)
{
	static const struct uvmm_remapped none = { { 0 } };

	share_finish(e, g, &g->order.remap, &none);
	order_cancel(g);
}

/* One order's worth of pages: how many. */
static size_t share_some(struct uvmm_engine *e, struct guest *g, const struct share_page *p,
			 size_t n, struct share_buffer *b, struct share_result *r)
{
	struct uvmm_remap *remap = &g->order.remap;
	size_t at = 0;

	remap->runs = 0;
	while (at < n && remap->runs < RUNS_PLANNED) {
		struct batch t = { .e = e, .g = g, .p = p + at, .b = b, .r = r };

		t.n = part(p + at, n - at, RUNS_PLANNED - remap->runs);
		share_chunk(&t, remap);
		at += t.n;
	}
	if (!remap->runs)
		order_cancel(g);
	else if (share_may_not_order(g) || order_send(e, g))
		not_sent(e, g);
	return at;
}

int share_pages(struct uvmm_engine *e, struct guest *g, const struct share_page *p, size_t n,
		struct share_buffer *b, struct share_result *r)
{
	size_t at = 0, i;

	while (at < n && !share_call(e, g))
		at += share_some(e, g, p + at, n - at, b, r);
	for (i = at; i < n; i++)
		refuse_page(e, g, &p[i], SHARE_REFUSED_AGENT);
	return at < n ? -EAGAIN : 0;
}

void share_zeros(struct uvmm_engine *e, struct guest *g, const struct share_page *p, size_t n,
		 struct share_buffer *b, struct share_result *r)
{
	size_t at = 0;

	while (at < n) {
		struct batch t = { .e = e, .g = g, .p = p + at, .b = b, .r = r };

		t.n = part(p + at, n - at, UINT64_MAX);
		share_chunk(&t, NULL);
		at += t.n;
	}
}
