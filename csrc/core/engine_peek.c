/* SPDX-License-Identifier: MIT
 * A guest's memory as it is: the engine's side of uvmm_guest_peek().
 *
 * Pages of one chunk are read while its busy bit is held, so that none is taken away from
 * the guest's file meanwhile (pmap.h); a chunk of which none ever was is simply read, and
 * then looked at whether that is so still. Where a page is elsewhere:
 *
 *   STORED              LOADING for as long as its copy is read, and STORED again
 *   SHARED              its frame, held by a reference, if the process has no copy of its
 *                       own (pagemap) and the page is SHARED before and after that was asked
 *   SHARED, split; SPLIT   out of the process, if the page is that still afterwards
 *   REMAPPING           like SHARED or SPLIT; when its agent has mapped guest memory, the file
 *   LOW, REMAPPING to or from there   out of the process, likewise
 *   BALLOONED           zeros
 *
 * A page that somebody has on its way is waited for, with the busy bit given back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "load.h"
#include "pagemap.h"

#define WAIT_NS 50000
#define WAIT_MAX_NS (5 * NS_PER_S)
#define REMAPPED_NS (100 * NS_PER_MS)   /* by then its content is in the file */

struct peek {
	struct uvmm_engine *e;
	struct guest *g;
	uint64_t lo;            /* dst is its page */
	char *dst;
	struct load_buffer *b;  /* NULL until it is needed; of its pages none is used */
	uint64_t waiting_ns;    /* since when, for one page; 0: not */
};

static char *place(const struct peek *p, uint64_t ppn)
{
	return p->dst + ((ppn - p->lo) << UVMM_PAGE_SHIFT);
}

static int read_file(const struct peek *p, uint64_t lo, uint64_t hi)
{
	size_t len = (hi - lo) << UVMM_PAGE_SHIFT, done = 0;

	while (done < len) {
		ssize_t got = pread(p->g->memfd, place(p, lo) + done, len - done,
				    (off_t)(lo << UVMM_PAGE_SHIFT) + (off_t)done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -EIO;
		done += (size_t)got;
	}
	return 0;
}

static int read_process(const struct peek *p, uint64_t ppn)
{
	struct iovec here = { place(p, ppn), UVMM_PAGE_SIZE };
	struct iovec there = { (void *)(uintptr_t)guest_addr(p->g, ppn), UVMM_PAGE_SIZE };

	return process_vm_readv(p->g->pid, &here, 1, &there, 1, 0) ==
	       (ssize_t)UVMM_PAGE_SIZE ? 0 : -EAGAIN;
}

static bool is_own(const struct peek *p, uint64_t ppn)
{
	uint64_t word;

	return pagemap_read(p->g->pagemap_fd, guest_addr(p->g, ppn), 1, &word) == 1 &&
	       pagemap_is_anonymous(word);
}

static bool is_still(const struct peek *p, uint64_t ppn, pmap_entry e)
{
	return pmap_get(&p->g->pmap, ppn) == e;
}

/* SHARED, or REMAPPING from or to a frame.  -EAGAIN  it is not any more */
static int peek_frame(const struct peek *p, uint64_t ppn, pmap_entry e)
{
	struct group *group = p->g->group;
	uint64_t frame = pmap_handle(e);
	int rc = -EAGAIN;

	if (!group || frames_hold(&group->frames, frame))
		return -EAGAIN;
	if (is_still(p, ppn, e)) {
		if (is_own(p, ppn)) {
			rc = read_process(p, ppn);
		} else {
			memcpy(place(p, ppn), group_frame(group, frame), UVMM_PAGE_SIZE);
			rc = 0;
		}
		if (!is_still(p, ppn, e))
			rc = -EAGAIN;
	}
	group_drop_frame(group, frame);
	return rc;
}

/* SPLIT, or REMAPPING home from it. */
static int peek_own(const struct peek *p, uint64_t ppn, pmap_entry e)
{
	bool home = false;
	int rc;

	if (pmap_state(e) == PAGE_REMAPPING && !is_own(p, ppn)) {
		/* Its copy may be on its way into the file; not for long. */
		if (!p->waiting_ns || clock_ns() - p->waiting_ns < REMAPPED_NS)
			return -EAGAIN;
		home = true;
	}
	rc = home ? read_file(p, ppn, ppn + 1) : read_process(p, ppn);
	if (rc)
		return rc;
	e = pmap_get(&p->g->pmap, ppn) ^ e;
	return pmap_state(e) ? -EAGAIN : 0;
}

/* Both mappings of one that moves have the same content. What holds it does not matter. */
static int peek_low(const struct peek *p, uint64_t ppn, pmap_entry e)
{
	int rc = read_process(p, ppn);
	pmap_entry now = pmap_get(&p->g->pmap, ppn);

	return rc ? rc : pmap_state(now) != pmap_state(e) ? -EAGAIN : 0;
}

/* Stored pages from lo on; how many. */
static int peek_stored(struct peek *p, uint64_t lo, uint64_t hi)
{
	size_t n = 0, i;
	int rc = 0;

	if (!p->b)
		p->b = calloc(1, sizeof(*p->b));
	if (!p->b)
		return -ENOMEM;
	while (lo + n < hi && load_claim(p->g, lo + n, p->b, &n))
		;
	if (!n)
		return -EAGAIN;
	tier_load(p->e->tier[UVMM_TIER_SWAP], p->b->handles, p->b->seeds, n, place(p, lo),
		  p->b->bad);
	load_unclaim(p->g, p->b, 0, n);
	for (i = 0; i < n; i++)
		if (p->b->bad[i])
			rc = -EIO;
	return rc ? rc : (int)n;
}

static bool in_file(pmap_entry e)
{
	enum page_state s = pmap_state(e);

	return s == PAGE_PRESENT || s == PAGE_HELD || s == PAGE_DISCARDING;
}

/* Some pages from lo on, by what the first is; how many.  -EAGAIN  it is on its way */
static int peek_some(struct peek *p, uint64_t lo, uint64_t hi)
{
	pmap_entry e = pmap_get(&p->g->pmap, lo);
	uint64_t to = lo + 1;
	int rc;

	if (in_file(e)) {
		while (to < hi && in_file(pmap_get(&p->g->pmap, to)))
			to++;
		rc = read_file(p, lo, to);
		return rc ? rc : (int)(to - lo);
	}
	switch (pmap_state(e)) {
	case PAGE_STORED:
		return peek_stored(p, lo, hi);
	case PAGE_BALLOONED:
		memset(place(p, lo), 0, UVMM_PAGE_SIZE);
		return 1;
	case PAGE_DAMAGED:
		return -EIO;
	case PAGE_SHARED:
		rc = peek_frame(p, lo, e);
		break;
	case PAGE_LOW:
		rc = peek_low(p, lo, e);
		break;
	case PAGE_REMAPPING:
		rc = pmap_handle_is_low(pmap_handle(e)) ? peek_low(p, lo, e) : pmap_handle(e) == PMAP_NO_FRAME ? peek_own(p, lo, e) :
						       peek_frame(p, lo, e);
		break;
	case PAGE_SPLIT:
		rc = peek_own(p, lo, e);
		break;
	default:
		rc = -EAGAIN;
	}
	return rc ? rc : 1;
}

/* False: it has taken too long. */
static bool wait_on(struct peek *p)
{
	uint64_t now = clock_ns();

	if (!p->waiting_ns)
		p->waiting_ns = now;
	if (now - p->waiting_ns > WAIT_MAX_NS || !atomic_load(&p->g->attached))
		return false;
	clock_sleep_ns(WAIT_NS);
	return true;
}

/* As far as it goes without waiting; *at is where it stopped. */
static int peek_held(struct peek *p, uint64_t *at, uint64_t hi)
{
	int n = 0;

	while (*at < hi && n >= 0) {
		n = peek_some(p, *at, hi);
		if (n > 0) {
			*at += (uint64_t)n;
			p->waiting_ns = 0;
		}
	}
	return n < 0 ? n : 0;
}

/* [lo, hi) lies in one chunk. */
static int peek_chunk(struct peek *p, uint64_t lo, uint64_t hi)
{
	struct pmap *map = &p->g->pmap;
	uint64_t chunk = lo / UVMM_CHUNK_PAGES;
	int rc;

	if (!pmap_chunk_marked(map, chunk)) {
		rc = read_file(p, lo, hi);
		if (rc || !pmap_chunk_marked(map, chunk))
			return rc;
	}
	p->waiting_ns = 0;
	for (;;) {
		rc = -EAGAIN;
		if (pmap_chunk_claim(map, chunk)) {
			rc = peek_held(p, &lo, hi);
			pmap_chunk_release(map, chunk);
		}
		if (rc != -EAGAIN || !wait_on(p))
			return rc;
	}
}

#pragma GCC visibility push(default)

int uvmm_guest_peek(uvmm_engine *e, uint64_t id, uint64_t ppn, uint32_t pages, void *dst)
{
	struct guest *g = guest_enter_id(&e->registry, id);
	struct peek p = { .e = e, .g = g, .lo = ppn, .dst = dst };
	uint64_t end = ppn + pages, to;
	int rc = -EINVAL;

	if (!g)
		return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
	if (pages && pages <= UVMM_PEEK_PAGES_MAX && ppn < g->max_pages &&
	    pages <= g->max_pages - ppn)
		rc = 0;
	for (; !rc && ppn < end; ppn = to) {
		to = (ppn / UVMM_CHUNK_PAGES + 1) * UVMM_CHUNK_PAGES;
		to = to < end ? to : end;
		rc = peek_chunk(&p, ppn, to);
	}
	free(p.b);
	guest_leave(g);
	return rc;
}

#pragma GCC visibility pop
