/* SPDX-License-Identifier: MIT
 *
 * reclaim - takes pages out of guests: on request, and in the background when
 * the budget asks for it (pressure.h).
 *
 *   Pages of one chunk, whose busy bit the reclaimer holds:
 *     1  PRESENT -> EVICTING; count them absent
 *     2  shield the chunk, write-protect: from here a writer faults, and wins. A
 *        guest with direct I/O is given time to finish it (direct_io.h)
 *   then in batches of neighbours:
 *     3  look at the pages in place (view.h): zero pages need no store, the
 *        others go to the tier with their checksum
 *     4  take the checksum once more: direct I/O that had pinned a page before 2
 *        writes without a fault
 *     5  EVICTING -> PUNCHING, the commit; lost if a writer came
 *     6  punch the holes; PUNCHING -> STORED, or PRESENT for a zero page
 *   and for all:
 *     7  take the protection off, which wakes all who wait in the range
 *
 *   The shield is there because a part of a large page cannot be punched while
 *   somebody else uses another part of it: the kernel then puts zeros there, says
 *   nothing, and would let the guest see them. So that a hole is looked for
 *   after punching; if there is none for long, the page comes back from its tier.
 *   The busy bit is held through 7, so that no other reclaimer protects a page
 *   which 7 would then lay open.
 *
 *   Before that, what can be shared is shared, in a guest where that was worth while, and
 *   splits come home (share.h, split.h). Shared pages are left alone, but for `unshare`:
 *   then they come home, too, and go to the tier as others do. What is shared by several
 *   is free only once all of them have lost it.
 *
 *   Which pages: those that have been idle the longest first, as far as that is known
 *   (activity.h), at random among equals (victims.h). When no idle ones are known any more:
 *   those of which nothing is known, and in the end what is in use, of chunks
 *   in any order. Which guest (in the background): the one furthest
 *   above its target.
 *
 *   Threads  any number at once; each needs its own buffer.
 */
#ifndef RECLAIM_H
#define RECLAIM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "guest.h"
#include "tier.h"

struct uvmm_engine;
struct reclaim_buffer;

struct reclaimer {
	pthread_t thread;
	bool runs;
	struct reclaim_buffer *buffer;
	size_t turn;                    /* of guests that wait for their own pages */
	_Atomic uint64_t pages;         /* taken in the background */
};

int reclaim_start(struct uvmm_engine *e);
/* After pressure_stop(). */
void reclaim_stop(struct uvmm_engine *e);

struct reclaim_buffer *reclaim_buffer_new(void);       /* NULL: no memory */
void reclaim_buffer_free(struct reclaim_buffer *b);

/* Takes up to `want` pages of g, which the caller has entered, after it has tried
 * all of them once, with `unshare` shared ones, too; res->pages and zero_pages are added to.
 *   -ENOSPC  the tier is full    -EIO  it failed    -ENOMEM  cannot arm */
int reclaim_guest(struct uvmm_engine *e, struct guest *g, uint64_t want, bool unshare,
		  struct tier *tier, struct reclaim_buffer *b,
		  struct uvmm_job_result *res);

/* --- between reclaim.c and reclaim_guest.c ------------------------------------- */

/* The steps above for a chunk whose busy bit the caller holds: up to `want` pages, of those with
 * a bit in allowed[]. */
int reclaim_pages(struct uvmm_engine *e, struct guest *g, uint64_t chunk,
		  const uint64_t *allowed, uint64_t want, struct tier *tier,
		  struct reclaim_buffer *b, struct uvmm_job_result *res);
/* Room to look for pages to share, made at its first use; NULL: no memory. */
struct scan_buffer *reclaim_scan_buffer(struct reclaim_buffer *b);

#endif /* RECLAIM_H */
