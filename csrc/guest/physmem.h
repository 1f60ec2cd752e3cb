/* SPDX-License-Identifier: MIT
 *
 * physmem - the page allocator over guest physical memory: a buddy system, lowest
 * address first, with runs of any length on top of it. Short runs are packed, across
 * the blocks that they are made of, so that few large pages hold them.
 *
 *   What it knows lies in ordinary memory, never in guest memory: looking for a
 *   page touches none, so it never waits for one.
 *
 *   State    every page belongs to a free block (a member of its order's set), to a run
 *            in use, or to a run set aside: out of the sets while its memory is handed
 *            back (in trim), or for as long as it is in the balloon. A run's first page
 *            has the length in `run`.
 *   Balloon  physmem_inflate() takes free runs out, and physmem_deflate() runs of the
 *            balloon; both are under way until physmem_inflated() or physmem_deflated()
 *            says what has become of them; a fork waits for that, and who finds no memory. When there is none, but the balloon has some, `rescue` is
 *            called, without the lock.
 *   Units    pages, numbered from 0. Orders are powers of two of pages.
 *   Errors   0 or a negative errno.
 *   Threads  any.
 *   Source   Knowlton, A Fast Storage Allocator, CACM 8(10), 1965.
 */
#ifndef PHYSMEM_H
#define PHYSMEM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bits.h"
#include "uvmm/protocol.h"

#define PHYSMEM_ORDER_MAX 18u
#define PHYSMEM_ORDERS (PHYSMEM_ORDER_MAX + 1)

/* What is asked for: n pages; or a block of that order, of whose pages n are used. */
struct physmem_want {
	uint64_t n;
	unsigned order;
	bool block;
	bool used;              /* they count as used from now */
};

struct physmem {
	uint64_t pages;                         /* immutable after init */
	/* After physmem_try() has failed: has others give pages; true if that should be tried
	 * again. NULL: nobody. Immutable after it was set, as the next. */
	bool (*ask)(void *arg, const struct physmem_want *w);
	void *ask_arg;
	/* As physmem_try(), after that; NULL: none. */
	int (*rescue)(void *arg, const struct physmem_want *w, uint64_t *page);
	void *rescue_arg;
	void *memory;                           /* all tables; immutable */
	size_t memory_bytes;

	pthread_mutex_t lock;                   /* guards all below */
	pthread_cond_t trimmed;
	struct bits free_blocks[PHYSMEM_ORDERS];
	uint64_t *run;                          /* [pages] see State */
	uint64_t *dirty;                        /* bitmap: used since trimmed */
	uint64_t near[PHYSMEM_ORDERS];          /* where to look for a run first */
	uint64_t free_pages;                    /* in the sets or in trim */
	struct bits balloon;                    /* first pages of runs in the balloon */
	uint64_t balloon_pages;                 /* with those under way */
	unsigned trims;                         /* going on, and runs under way */
};

/* All pages free and clean.  -ENOMEM */
int physmem_init(struct physmem *m, uint64_t pages);
void physmem_fini(struct physmem *m);

/* A block of 2^order pages, aligned to its size.  -EINVAL, -ENOMEM */
int physmem_alloc_block(struct physmem *m, unsigned order, uint64_t *page);
/* A run of n pages.  -EINVAL n is 0   -ENOMEM no free run is that long */
int physmem_alloc_run(struct physmem *m, uint64_t n, uint64_t *page);
/* Gives back what was taken as n pages at `page`.  -EINVAL it was not */
int physmem_free(struct physmem *m, uint64_t page, uint64_t n);

/* The same at a multiple of `align` pages (a power of two), contents unknown: the
 * caller looks with physmem_next_dirty() and says physmem_set_dirty(), both with
 * the lock held. Errors as physmem_alloc_run. */
int physmem_take(struct physmem *m, uint64_t n, uint64_t align, uint64_t *page);
/* The same, for the pages [page, page + n) alone.  -ENOMEM one of them is not free */
int physmem_take_at(struct physmem *m, uint64_t page, uint64_t n);
/* All of [page, page + n) is in use. */
bool physmem_is_used(struct physmem *m, uint64_t page, uint64_t n);
/* Gives back whatever of [page, page + n) is in use, cutting runs; how many. */
uint64_t physmem_give(struct physmem *m, uint64_t page, uint64_t n);

/* The next pages in [*page, end) that were used since they were handed back: *n
 * from *page; false if there are none. With the lock held. */
bool physmem_next_dirty(const struct physmem *m, uint64_t *page, uint64_t end, uint64_t *n);
void physmem_set_dirty(struct physmem *m, uint64_t page, uint64_t n);
/* The next run in use from *page, which is no page within one: *n pages from *page;
 * false if there is none. With the lock held. */
bool physmem_next_run(struct physmem *m, uint64_t *page, uint64_t *n);

/* Takes the lock with no trim going on, so that a forked child finds all in order; it
 * calls physmem_thaw too, and then has the lock and the condition anew, and all of the
 * balloon is free: it has none. */
void physmem_freeze(struct physmem *m);
void physmem_thaw(struct physmem *m, bool in_child);

/* Hands each run of free pages that were used since to discard(), which is called
 * without the lock, and forgets that they were. Free blocks of less than `least` pages are
 * left: each hole breaks a large page. *pages is how many. Stops at the
 * first error of discard() and returns it; but goes round what is -EBUSY. */
int physmem_trim(struct physmem *m, uint64_t least,
		 int (*discard)(void *arg, uint64_t page, uint64_t n), void *arg, uint64_t *pages);

uint64_t physmem_free_pages(struct physmem *m);

/* --- balloon (physmem_balloon.c) ------------------------------------------------ */

/* Takes what is wanted if it is free, without a rescue.  -ENOMEM */
int physmem_try(struct physmem *m, const struct physmem_want *w, uint64_t *page);

/* Where physmem_inflate() goes on: with blocks of that order before that one. */
struct physmem_hand {
	unsigned least;         /* none smaller than of that order */
	unsigned order;
	uint64_t before;
};

/* From the largest blocks to the smallest, the last ones first. */
struct physmem_hand physmem_largest(const struct physmem *m);
/* The same, but only whole chunks. */
struct physmem_hand physmem_whole(const struct physmem *m);
/* Takes up to `want` free pages out, in up to `room` runs; with `dirty` only
 * 2 MiB pieces, or smaller blocks, with pages that were used since they were handed back.
 * How many runs; 0: none are left behind the hand. */
uint32_t physmem_inflate(struct physmem *m, uint64_t want, bool dirty, struct physmem_hand *h,
			 struct uvmm_range *run, uint32_t room);
/* They are in the balloon, and read as zeros if `clean`. */
void physmem_inflated(struct physmem *m, const struct uvmm_range *run, uint32_t runs,
		      bool clean);

/* Takes up to `want` pages out of the balloon, the lowest first. How many runs. */
uint32_t physmem_deflate(struct physmem *m, uint64_t want, struct uvmm_range *run,
			 uint32_t room);
/* The same with those in [page, page + n). */
uint32_t physmem_deflate_at(struct physmem *m, uint64_t page, uint64_t n,
			    struct uvmm_range *run, uint32_t room);
/* The same with those that are in the way of what is wanted, and with their neighbours; false
 * if it cannot be had even so. Once there is room *runs is 0. */
bool physmem_deflate_for(struct physmem *m, const struct physmem_want *w,
			 struct uvmm_range *run, uint32_t room, uint32_t *runs);
/* They are free; not known to read as zeros unless `clean`. Also for runs that were on
 * their way into it. */
void physmem_deflated(struct physmem *m, const struct uvmm_range *run, uint32_t runs,
		      bool clean);

/* They are in use. */
void physmem_use(struct physmem *m, const struct uvmm_range *run, uint32_t runs);

uint64_t physmem_balloon_pages(struct physmem *m);

/* --- who uses memory that is of use to others, too (physmem_window.c) -------------- */

struct physmem_giver {
	/* A run in use of one page could be given. Asked with the lock held. */
	bool (*yields)(void *arg, uint64_t page);
	void *arg;
	bool balloon;           /* and runs in the balloon, by others */
};

/* A place, from `from` on, where there could be what is wanted: all of it is free, or could
 * be given. */
bool physmem_window(struct physmem *m, const struct physmem_want *w, uint64_t from,
		    const struct physmem_giver *g, uint64_t *page);

#define PHYSMEM_NOT_TO_BE_HAD UINT16_MAX

/* Of each chunk, how many pages are free, or in the balloon, if all others could be given;
 * else PHYSMEM_NOT_TO_BE_HAD. */
void physmem_unused(struct physmem *m, const struct physmem_giver *g, uint16_t *unused);

#endif /* PHYSMEM_H */
