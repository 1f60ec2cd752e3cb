/* SPDX-License-Identifier: MIT
 *
 * balloon - pages that a guest has taken out of its own allocator and handed back: how
 * many these are to be, what its agent is asked for (protocol.h: BALLOON), and what becomes
 * of the pages (balloon_pages.c).
 *
 *   What the agent is asked
 *
 *     IDLE --------------------> ASKED --------------------------> IDLE
 *           balloon_set              |  BALLOONED: the target is reached, or the guest
 *           BALLOON is sent          |  has no more; else the next BALLOON is sent
 *                                    |
 *                                    +--> OVERDUE -----------------> IDLE
 *                                         no answer for OVERDUE_NS     BALLOONED
 *
 *     A request begins in IDLE and ends when it is settled: when the target is reached,
 *     the guest has no more, or it is overdue. It was asked for the difference between
 *     the target at its end and what was ballooned at its beginning, and has given what
 *     came of that in machine memory: these are the sums asked_pages and given_pages. What
 *     was freed may be pages that stay the guest's own, instead of some that went in and
 *     held nothing (GIVE). A target
 *     that changes meanwhile changes the request; what was given before it was lowered was
 *     asked for. One that is settled is not begun again before the next
 *     balloon_set: nobody is asked for ever for what he has not got.
 *     An agent that does not answer costs nothing but one message: none is sent to it
 *     before it has answered, or connected again.
 *
 *   Pages
 *
 *     PRESENT, STORED, SHARED, SPLIT --> DISCARDING --> BALLOONED   balloon_inflate
 *     BALLOONED --> PRESENT (a hole)        balloon_deflate, balloon_pop
 *
 *     A ballooned page counts as absent in its chunk, so that nobody opens that; it is
 *     counted, and the chunk armed, before its hole is punched, under the chunk's busy bit.
 *     It is in the sum before it is BALLOONED, and until it is not any more. A touch is a
 *     missing fault, on which the page pops, and is then served as any hole is. No page is
 *     popped that was not touched or pinned.
 *     What cannot be ballooned stays as it is: pages that are pinned or damaged. Where
 *     something else is mapped over a part of the chunk no access would be seen: the page
 *     is freed then, but not ballooned; and so it is where the kernel makes no hole.
 *
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  any. Nobody waits under balloon.lock.
 */
#ifndef BALLOON_H
#define BALLOON_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"
#include "uvmm_core.h"

struct uvmm_engine;
struct guest;

enum balloon_state { BALLOON_IDLE = 0, BALLOON_ASKED, BALLOON_OVERDUE };

struct balloon {
	_Atomic uint64_t ballooned_pages, popped_pages, needed_pages;
	_Atomic uint64_t freed_pages;   /* of machine memory, by INFLATE and GIVE */
	_Atomic int agents;             /* connections; changed under session.lock */

	pthread_mutex_t lock;           /* guards below */
	enum balloon_state state;
	bool unheard;                   /* the last BALLOON could not be sent */
	uint32_t seq;                   /* of the last BALLOON */
	uint64_t target_pages, sent_pages;      /* the target, and that of the last BALLOON */
	uint64_t sent_ns;
	uint64_t begin_freed;           /* freed_pages when the request began, */
	uint64_t begin_pages;           /* what was ballooned then, */
	uint64_t step_pages;            /* and when the last BALLOON was sent */
	uint64_t asked_pages, given_pages;
};

void balloon_init(struct balloon *b);
void balloon_fini(struct balloon *b);
/* Of a new guest: all sums are 0. Exclusive. */
void balloon_reset(struct balloon *b);
/* The guest's memory is empty: nothing is ballooned, nor asked for. */
void balloon_clear(struct balloon *b);

/* The balloon of g, who has been entered, is to be of so many pages. */
void balloon_set(struct uvmm_engine *e, struct guest *g, uint64_t pages);
/* What the agent answers; false if nobody asked for that. */
bool balloon_answered(struct uvmm_engine *e, struct guest *g, uint32_t seq,
		      const struct uvmm_ballooned *answer);
/* The agent has connected: it is asked what it has not answered. */
void balloon_repeat(struct uvmm_engine *e, struct guest *g);
/* The balloon's figures of now. */
void balloon_fill(struct guest *g, struct uvmm_guest_stats *s);

/* --- pages; the caller has entered the guest, the ranges are guest memory ------------ */

/* INFLATE, or GIVE if not `keep`: then no page is ballooned.
 *   -EDQUOT  more would be ballooned than the target
 *   -EBUSY   a page is not home, and pinned, or being remapped and the agent does not
 *            answer; as with the former, nothing was done
 *   -ESRCH   the guest goes away */
int balloon_inflate(struct uvmm_engine *e, struct guest *g, const struct uvmm_ranges *r,
		    bool keep, struct uvmm_count *count);
/* DEFLATE. */
void balloon_deflate(struct uvmm_engine *e, struct guest *g, const struct uvmm_ranges *r,
		     struct uvmm_count *count);
/* The page, if it is ballooned, is touched. */
void balloon_pop(struct guest *g, uint64_t ppn);
/* The thread has faulted at the page. True if it has been woken, and that is all: its
 * fault may be older than the balloon, which is only popped if the thread faults again. */
bool balloon_fault(struct guest *g, uint64_t ppn, uint32_t tid);
/* The guest has mapped the pages home, and they are watched again: pops those which it
 * touched in between. */
void balloon_homed(struct guest *g, uint64_t ppn, uint64_t pages);

#endif /* BALLOON_H */
