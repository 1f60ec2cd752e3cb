/* SPDX-License-Identifier: MIT
 *
 * sharing - what is known and counted of shared pages, by guest and for all.
 *
 *   Sum over guests of shared_pages = references to frames, but for those of pages on
 *   their way; saved = references - frames.
 *
 *   A print is a short hash of a page when it was last scanned, of 31 bits, so that a page
 *   that has not changed is not looked up again; 0 is no print. PRINT_KNOWN: and
 *   other pages can find it, by a hint.
 *
 *   Threads  prints and counters are atomic; struct guest_pass is the scanner's own.
 *   Cost     4 bytes a page and 8 a chunk, where pages were scanned.
 */
#ifndef SHARING_H
#define SHARING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Why a page that has a twin is not shared now. */
enum share_refusal {
	SHARE_REFUSED_BUSY,     /* in use by the guest, pinned, or reclaimed */
	SHARE_REFUSED_CHANGED,  /* it was written meanwhile */
	SHARE_REFUSED_AGENT,    /* the agent did not answer, or could not */
	SHARE_REFUSED_MAPPINGS, /* the guest has as many mappings as it may have */
	SHARE_REFUSED_MEMORY,   /* no room for a frame */
	SHARE_REFUSALS,
};

/* Whether reclaim should try to share first: what the last passes found. */
enum share_worth { SHARE_WORTH_UNKNOWN = 0, SHARE_WORTH_IT, SHARE_NOT_WORTH_IT };

#define PRINT_KNOWN 1u

/* How far the scanner has come with a guest. */
struct guest_pass {
	uint64_t chunk;         /* where it goes on */
	uint64_t due_ns;        /* not before */
	uint64_t passes;        /* done */
	uint64_t scanned, found;        /* in this one; up to now after a reset */
	uint64_t file_pages;    /* that the guest's file held when it began */
	uint64_t splits;        /* that there had been by then */
	unsigned slow;          /* passes in a row that found little */
	uint64_t look_ns;       /* when to look for splits again */
	uint64_t walk_ns;       /* and when to do so without a sign of any */
	uint64_t cold_ns;       /* when to look for cold ones */
};

struct guest_sharing {
	_Atomic uint32_t *prints;       /* [max_pages]; NULL: it is in no group */
	_Atomic uint64_t *looked_ns;    /* [chunks] when a look through it last began, or 0 */
	struct guest_pass pass;
	_Atomic uint32_t worth;         /* enum share_worth */
	_Atomic uint64_t shared_pages;  /* SHARED, or on their way home from it */
	_Atomic uint64_t split_pages;   /* noticed: SPLIT, likewise */
	_Atomic uint64_t merged;        /* pages shared since the start */
	_Atomic uint64_t zero;          /* and punched */
	_Atomic uint64_t splits;        /* noticed since the start */
	_Atomic uint64_t mappings;      /* about so many has sharing made */
	_Atomic uint64_t scanned;       /* pages looked at */
	_Atomic uint64_t own_pages;     /* of the process, not guest memory, when last looked */
	_Atomic uint64_t unseen_pages;  /* so many more has it since: splits, maybe */
	_Atomic uint64_t deaf_until_ns; /* its agent did not answer */
	_Atomic uint32_t discards;      /* that go on: no order is sent (share.h) */
};

struct sharing {
	_Atomic uint64_t merged, zero, splits, homed, scanned, passes;
	_Atomic uint64_t cpu_ns;        /* of all threads, for sharing */
	_Atomic uint64_t answers_ns;    /* of these, for what agents answer */
	_Atomic uint64_t shared_pages, split_pages, unseen_pages;       /* now */
	_Atomic uint64_t refused[SHARE_REFUSALS];
};

/* pages: a multiple of UVMM_CHUNK_PAGES.  -ENOMEM */
int sharing_init(struct guest_sharing *s, uint64_t pages);
void sharing_fini(struct guest_sharing *s, uint64_t pages);
/* The contents were dropped. Exclusive. */
void sharing_clear(struct guest_sharing *s, uint64_t pages);

/* The page is to be looked up anew. */
static inline void sharing_forget_print(struct guest_sharing *s, uint64_t ppn)
{
	if (s->prints)
		atomic_store_explicit(&s->prints[ppn], 0, memory_order_relaxed);
}

/* So many more pages are shared now, or less. */
static inline void sharing_count(struct sharing *all, struct guest_sharing *s, int64_t pages)
{
	atomic_fetch_add(&s->shared_pages, (uint64_t)pages);
	atomic_fetch_add(&all->shared_pages, (uint64_t)pages);
}

#endif /* SHARING_H */
