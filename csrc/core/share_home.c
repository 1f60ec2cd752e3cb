/* SPDX-License-Identifier: MIT
 * Pages come home; see share.h. */
#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "engine.h"
#include "share.h"
#include "uffd.h"

/* Pages are there twice until the agent has answered. So many at least may be: what is home
 * can be taken out. */
#define ALWAYS_PAGES 64u

/* A run of pages that are to come home, in an order with others. */
struct coming {
	struct uvmm_engine *e;
	struct guest *g;
	const uint64_t *only;
	bool all;
	uint64_t lo, n;
	uint64_t room;          /* for so many more */
	struct share_buffer *b;
};

/* Step 1, one page. */
static bool claim(const struct coming *c, uint64_t ppn)
{
	struct guest *g = c->g;
	pmap_entry e = pmap_get(&g->pmap, ppn), want;
	uint64_t i = ppn % UVMM_CHUNK_PAGES;

	if (c->only && !(c->only[i / 64] >> (i % 64) & 1))
		return false;
	switch (pmap_state(e)) {
	case PAGE_SPLIT:
		want = pmap_remapped(PAGE_REMAPPING, PMAP_NO_FRAME);
		break;
	case PAGE_SHARED:
		want = pmap_with_state(e, PAGE_REMAPPING);
		break;
	default:
		return false;
	}
	return !pmap_pins(e) && (c->all || pmap_state(e) == PAGE_SPLIT) &&
	       pmap_move(&g->pmap, ppn, &e, want);
}

/* Step 2. */
static int protect(const struct coming *c)
{
	uint64_t at = guest_addr(c->g, c->lo), bytes = c->n << UVMM_PAGE_SHIFT;

	if (uffd_register(c->g->uffd, at, bytes, 0) || uffd_protect(c->g->uffd, at, bytes))
		return -EAGAIN;
	return guest_stop_writes(c->g);
}

static int write_piece(const struct coming *c, uint64_t ppn, uint64_t n)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		const char *page = c->b->data + i * UVMM_PAGE_SIZE;

		/* The hole is there. */
		if (uvmm_is_zero(page, UVMM_PAGE_SIZE))
			continue;
		if (pwrite(c->g->memfd, page, UVMM_PAGE_SIZE,
			   (off_t)((ppn + i) << UVMM_PAGE_SHIFT)) != (ssize_t)UVMM_PAGE_SIZE)
			return -EAGAIN;
	}
	return 0;
}

/* Step 3. */
static int copy(const struct coming *c)
{
	struct iovec here = { .iov_base = c->b->data }, there;
	uint64_t at = c->lo, end = c->lo + c->n, n;
	int rc = 0;

	for (; at < end && !rc; at += n) {
		n = end - at < SHARE_PIECE ? end - at : SHARE_PIECE;
		here.iov_len = n << UVMM_PAGE_SHIFT;
		there = (struct iovec){ (void *)(uintptr_t)guest_addr(c->g, at), here.iov_len };
		if (process_vm_readv(c->g->pid, &here, 1, &there, 1, 0) != (ssize_t)here.iov_len)
			return -EAGAIN;
		rc = write_piece(c, at, n);
	}
	return rc;
}

/* Steps 1 to 3 for the next run in [*at, hi) that can come. False: there is none. */
static bool prepare(struct coming *c, uint64_t *at, uint64_t hi, struct uvmm_remap *r)
{
	static const struct uvmm_remapped none = { { 0 } };
	struct uvmm_remap refused = { .runs = 1 };

	if (!c->room)
		return false;
	while (*at < hi && !claim(c, *at))
		(*at)++;
	c->lo = *at;
	while (*at < hi && (*at == c->lo || (*at - c->lo < c->room && claim(c, *at))))
		(*at)++;
	c->n = *at - c->lo;
	if (!c->n)
		return false;
	c->room -= c->n;
	pmap_chunk_add(&c->g->pmap, c->lo, (uint32_t)c->n);
	refused.run[0] = (struct uvmm_remap_run){ c->lo, UVMM_FRAME_HOME, c->n };
	if (protect(c) || copy(c))
		share_finish(c->e, c->g, &refused, &none);
	else
		r->run[r->runs++] = refused.run[0];
	return true;
}

int share_home(struct uvmm_engine *e, struct guest *g, uint64_t chunk, const uint64_t *only,
	       bool all, struct share_buffer *b, uint64_t *pages)
{
	static const struct uvmm_remapped none = { { 0 } };
	struct coming c = { .e = e, .g = g, .only = only, .all = all, .b = b };
	struct uvmm_remap *r = &g->order.remap;
	uint64_t at = chunk * UVMM_CHUNK_PAGES, hi = at + UVMM_CHUNK_PAGES, i;
	bool roomy;

	*pages = 0;
	if (share_call(e, g))
		return -EAGAIN;
	r->runs = 0;
	if (!pmap_chunk_claim(&g->pmap, chunk)) {
		order_cancel(g);
		return -EAGAIN;
	}
	roomy = pressure_take(&e->pressure, UVMM_CHUNK_PAGES, PRESSURE_LOAD);
	c.room = roomy ? UVMM_CHUNK_PAGES : ALWAYS_PAGES;
	while (r->runs < UVMM_REMAP_RUNS && prepare(&c, &at, hi, r))
		;
	for (i = 0; i < r->runs; i++)
		*pages += r->run[i].pages;
	pmap_chunk_release(&g->pmap, chunk);
	if (!r->runs || share_may_not_order(g) || !order_is_attended(g) || order_send(e, g)) {
		share_finish(e, g, r, &none);
		order_cancel(g);
	}
	if (roomy)
		pressure_refresh(e);
	return 0;
}
