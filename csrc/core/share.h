/* SPDX-License-Identifier: MIT
 *
 * share - pages of a guest become shared frames, and guest memory again, by orders
 * to its agent (order.h).
 *
 *   To a frame (share_pages), in a chunk whose busy bit the caller holds meanwhile:
 *     1  PRESENT -> EVICTING, counted absent and away: nobody opens the chunk
 *     2  shield the chunk, write-protect: from here a writer faults, and wins. Direct
 *        I/O that goes on is waited for (guest_stop_writes)
 *     3  compare all bytes of each page with those of its frame
 *     4  EVICTING -> REMAPPING with the frame, whose reference the page has now: the
 *        commit. Writers wait
 *     5  the order; it maps the frame, and the content is the same before and after
 *     6  done: the page's own copy is punched, -> SHARED; refused: -> PRESENT
 *   A zero page goes EVICTING -> PUNCHING -> PRESENT, as in reclaim, without an order.
 *
 *   Home (share_home), from SHARED and SPLIT:
 *     1  -> REMAPPING with the frame of a SHARED page, else PMAP_NO_FRAME
 *     2  register what is mapped there for write protection, and protect
 *     3  copy the content from the process into the file
 *     4  the order; it maps guest memory
 *     5  done: watch the range as the chunk is, -> PRESENT, the frame's reference is
 *        dropped; refused: as it was
 *
 *   A discard (range.h) says so, then waits for pages that are REMAPPING; an order is
 *   made, then looks whether there is a discard, and is taken back if so. So one of them
 *   sees the other, and a discard waits for the agent only before it has dropped anything.
 *
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  any, one order a guest at a time; each needs a buffer. The caller has
 *            entered the guest.
 */
#ifndef SHARE_H
#define SHARE_H

#include <stddef.h>
#include <stdint.h>

#include "guest.h"
#include "view.h"

struct uvmm_engine;

#define SHARE_ZERO (UINT64_MAX - 1)     /* instead of a frame: the page is all zeros */

/* A page that may be shared. The frame's reference is taken over. */
struct share_page {
	uint64_t ppn;
	uint64_t frame;
};

#define SHARE_PIECE 64u         /* pages: they stay in a CPU's cache */

struct share_buffer {
	struct view view;
	char data[SHARE_PIECE * UVMM_PAGE_SIZE];
};

/* -ENOMEM */
static inline int share_buffer_init(struct share_buffer *b)
{
	return view_init(&b->view);
}

static inline void share_buffer_fini(struct share_buffer *b)
{
	view_fini(&b->view);
}

struct share_result {
	uint64_t shared;        /* became SHARED, or will when the agent answers */
	uint64_t zero;          /* punched */
};

/* Shares pages with ascending numbers. What could not be shared now stays as it is.
 * r is added to.  -EAGAIN  the agent is busy or has gone: not all was tried */
int share_pages(struct uvmm_engine *e, struct guest *g, const struct share_page *p, size_t n,
		struct share_buffer *b, struct share_result *r);
/* Frees pages whose frame is SHARE_ZERO, if they are zeros still. */
void share_zeros(struct uvmm_engine *e, struct guest *g, const struct share_page *p, size_t n,
		 struct share_buffer *b, struct share_result *r);

/* Brings pages of a chunk home that are SPLIT, and with `all` those that are SHARED, too;
 * of these only the ones with a bit in only[], if that is not NULL. How many were ordered.
 *   -EAGAIN  not now, for one reason or another */
int share_home(struct uvmm_engine *e, struct guest *g, uint64_t chunk, const uint64_t *only,
	       bool all, struct share_buffer *b, uint64_t *pages);

/* The guest discards something: the order that was made is not to be sent. */
static inline bool share_may_not_order(const struct guest *g)
{
	return atomic_load(&g->sharing.discards);
}
/* As order_call, but an agent that has not answered is left alone for a while. */
int share_call(struct uvmm_engine *e, struct guest *g);
bool share_is_deaf(const struct guest *g);
/* What the agent made of an order. */
void share_finish(struct uvmm_engine *e, struct guest *g, const struct uvmm_remap *remap,
		  const struct uvmm_remapped *answer);

/* A fault where something else is mapped: it was on its way when that came, or the range
 * was registered with its neighbours. */
void share_stale_fault(struct guest *g, uint64_t ppn);

/* The process has mapped [ppn, ppn + pages) as guest memory again: watched as before. */
int share_homed(struct guest *g, uint64_t ppn, uint64_t pages);

/* The guest discards a page that was SHARED, SPLIT or LOW, and will map it home. */
void share_discarded(struct uvmm_engine *e, struct guest *g, uint64_t ppn, pmap_entry former);

/* Pages [ppn, ppn + n), which were absent and away, are home. */
void share_set_home(struct guest *g, uint64_t ppn, uint64_t n);

/* Frees the page's copy in the guest's file, if nobody holds on to it. */
void share_punch(const struct guest *g, uint64_t ppn, uint64_t pages);

/* The guest is detached: its frames are nobody's. */
void share_forget(struct uvmm_engine *e, struct guest *g);

#endif /* SHARE_H */
