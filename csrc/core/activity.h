/* SPDX-License-Identifier: MIT
 *
 * activity - what is known of when a guest last touched each of its pages.
 *
 *   The scan (idle.h) unmaps pages from time to time (zap.h) and notes when it did. The
 *   guest's next access maps the page again, by a fault that the kernel serves alone. So:
 *     not mapped     not touched since the note
 *     mapped         touched since, if it was the scan that unmapped it; of any other
 *                    page nothing is known
 *   A note is written, too, when a page is loaded, and when something else than the
 *   scan is about to unmap mapped pages (activity_keep).
 *
 *   Grades, by which victims are chosen, the highest first:
 *     HOT        has come back to the scan
 *     UNKNOWN    mapped, and no more is known: it was loaded lately, or never looked at
 *     RESTING    not mapped, for less than a second
 *     IDLE + k   not mapped for 2^k seconds or more
 *
 *   Notes    a tick of an eighth of a second in 12 bits, which go round in 512 seconds: what
 *            is older than half of that is kept at it by the scan. How often it has come
 *            back in a row, in 3: the scan leaves it mapped the more often, the more it
 *            did. And UNMAPPED: by the scan. 0: nothing was noted.
 *   Units    pages, ticks.
 *   Threads  notes and counters are atomic. What concerns a chunk as a whole (account) is
 *            for the holder of its busy bit.
 *   Cost     2 bytes a page and 26 a chunk, where something was noted.
 */
#ifndef ACTIVITY_H
#define ACTIVITY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "idle.h"
#include "sample.h"
#include "uvmm/protocol.h"
#include "uvmm_core.h"
#include "victims.h"
#include "zap.h"

struct guest;

enum activity_grade {
	GRADE_HOT = 0,
	GRADE_UNKNOWN,
	GRADE_RESTING,
	GRADE_IDLE,
};

#define ACTIVITY_GRADES (GRADE_IDLE + UVMM_IDLE_AGES)

struct activity_chunk {
	/* When it was last looked at: pages by grade from IDLE, counted from high to low;
	 * bit i of grades is set if there were pages of grade i. */
	_Atomic uint16_t idle[UVMM_IDLE_AGES];
	_Atomic uint16_t grades;
	_Atomic uint16_t tick;          /* 0: never */
	/* The scan's own; see idle.c. */
	uint16_t unmapped;              /* at the last visit */
	uint8_t returns, rest;
};

struct guest_activity {
	_Atomic uint16_t *note;                 /* [max_pages] */
	struct activity_chunk *chunk;           /* [chunks] */
	_Atomic uint64_t idle[UVMM_IDLE_AGES];  /* sums of chunk[].idle */

	pthread_mutex_t lock;           /* guards below, but for what is atomic; a leaf but for
					 * session.lock's */
	struct zaps zaps;
	struct sample sample;
	struct victims victims;
	struct idle_scan scan;          /* the watcher's own */
};

/* Of a guest that is made, or freed.  -ENOMEM */
int activity_init(struct guest_activity *a, uint64_t pages);
void activity_fini(struct guest_activity *a, uint64_t pages);
/* The contents were dropped. Exclusive. */
void activity_clear(struct guest_activity *a, uint64_t pages);

/* The figures that are told of it. */
void activity_fill(const struct guest_activity *a, struct uvmm_guest_stats *s);

/* The pages were loaded, or come from frames. */
void activity_loaded(struct guest *g, uint64_t ppn, uint64_t pages);
/* The pages, which the scan has unmapped, are mapped again. */
void activity_returned(struct guest *g, uint64_t ppn, uint64_t pages);
/* There is nothing in these pages any more. */
void activity_emptied(struct guest *g, uint64_t ppn, uint64_t pages);
/* The page is watched, and not mapped, or about to be unmapped. */
void activity_watched(struct guest *g, uint64_t ppn, bool was_mapped);
/* The page is watched, or the scan has unmapped it, as far as that is known. */
bool activity_is_unmapped(const struct guest *g, uint64_t ppn);

/* What a chunk's pages are now. */
struct activity_look {
	uint64_t chunk;
	uint64_t mapped[UVMM_CHUNK_PAGES / 64];
	uint32_t pages;                 /* that are mapped */
	uint16_t tick;                  /* now */
	bool known;                     /* else all is UNKNOWN */
	bool foreign;                   /* something else is mapped over a part of it */
};

void activity_look(const struct guest *g, uint64_t chunk, struct activity_look *l);
static inline bool activity_is_mapped(const struct activity_look *l, uint64_t ppn)
{
	ppn %= UVMM_CHUNK_PAGES;
	return l->mapped[ppn / 64] >> (ppn % 64) & 1;
}

/* Of a page in that chunk, which is home and in the file. */
enum activity_grade activity_grade(const struct guest *g, uint64_t ppn,
				   const struct activity_look *l);

/* The page was not touched since `since_ns`, as far as that is known. */
bool activity_rests_since(const struct guest *g, uint64_t ppn, const struct activity_look *l,
			  uint64_t since_ns);

/* Counts the chunk's pages anew. */
void activity_account(struct guest *g, const struct activity_look *l);

/* The mapped pages of the chunk are noted as touched now: a large page that is broken is
 * unmapped as a whole. */
void activity_keep(struct guest *g, const struct activity_look *l);

/* The scan's look at a chunk: notes what it sees, and which pages it unmaps now. */
struct activity_visit {
	struct activity_look look;
	uint32_t returned;              /* pages that were unmapped and are mapped */
	uint64_t left[UVMM_CHUNK_PAGES / 64];   /* mapped pages that are left so */
	uint32_t lefts;                 /* how many */
};

/* look is there already. With `all` none is left. */
void activity_visit(struct guest *g, uint32_t round, bool all, struct activity_visit *v);

/* Before a part of the chunk is protected: what may be unmapped by that is kept. */
void activity_breaks(struct guest *g, uint64_t chunk);

/* Has a chunk that is mapped as a large page, and whose busy bit the caller holds, mapped
 * page by page: the pages with a bit in left[] not at all, the others at once, or with
 * `bare` when they are touched. Nothing is lost or copied.
 *   -EAGAIN  not now, or it is no large page */
int activity_break(struct guest *g, uint64_t chunk, const uint64_t *left, bool bare);

/* The page, which is not mapped, will not be mapped as a part of a large page when another
 * part of that is touched. The caller holds the chunk's busy bit. */
void activity_keep_small(struct guest *g, uint64_t ppn);

#endif /* ACTIVITY_H */
