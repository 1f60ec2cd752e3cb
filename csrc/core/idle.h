/* SPDX-License-Identifier: MIT
 *
 * idle - the scan that finds out which pages of a guest are idle, within a bound on what that
 * costs the guest.
 *
 *   A visit to a chunk looks which pages are mapped, notes those as touched now, and has
 *   them unmapped (activity.h). What came back since the last visit cost the guest a soft
 *   fault each; in a chunk that is shielded (guest.h) a message to the daemon. That is
 *   what is bounded: idle_cost_permille of the guest's CPU time, or of one CPU if it uses
 *   less; half of that while memory is plentiful and nothing is reclaimed from the guest.
 *   Where a guest waits for stored pages, that pays for more. Chunks of which all comes back
 *   each time are left out of more and more rounds, and so are pages (activity.h).
 *
 *   A chunk that is mapped as a large page is unmapped as one, and comes back as one with
 *   one fault. Only in a guest that is being reclaimed from, or is above its target while
 *   memory is short, it is broken, to see which pages of it are used; when that is
 *   over it becomes large again.
 *
 *   Threads  the watcher's.
 */
#ifndef IDLE_H
#define IDLE_H

#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"

struct uvmm_engine;
struct guest;

#define IDLE_TICKS_PER_S 8u
#define IDLE_TICKS 0x0fffu              /* they go round, from 1 */

static inline uint16_t idle_tick(uint64_t now_ns)
{
	return (uint16_t)(1 + now_ns / (1000000000u / IDLE_TICKS_PER_S) % IDLE_TICKS);
}

/* Ticks from then to now. */
static inline unsigned idle_age(uint16_t now, uint16_t then)
{
	return (now + IDLE_TICKS - then) % IDLE_TICKS;
}

struct idle_scan {
	uint64_t chunk;                 /* where it goes on */
	uint64_t round_ns;              /* when this round began */
	uint64_t at_ns, ran_ns;         /* when it was last paid, and the guest's CPU time then */
	int64_t credit_ns;
	uint64_t loads;                 /* faults for stored pages until then */
	uint32_t round;
	uint64_t moved, moved_ns;       /* pages reclaimed from it in all, and when last */
	uint32_t returned, returned_soon;       /* of what was unmapped, in 1/1024: until the
						 * next visit, and until the next turn */
	uint64_t last;                  /* the chunk that was visited last */
	uint32_t last_pages;            /* and how much of it was unmapped; 0: seen to already */
	_Atomic uint64_t scanned;       /* pages that were mapped when it looked */
};

/* Goes on with the scan of the guest, as far as its credit goes. */
void idle_scan(struct uvmm_engine *e, struct guest *g, uint64_t now_ns);

/* Visits one chunk as a whole: it becomes a large page again, if it was one. By any thread:
 * nothing is learned or paid. */
void idle_mend(struct guest *g, uint64_t chunk, struct uvmm_zap *m);

void idle_clear(struct idle_scan *s);

#endif /* IDLE_H */
