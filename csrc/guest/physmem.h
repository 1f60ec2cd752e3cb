/* SPDX-License-Identifier: MIT
 *
 * physmem - the page allocator over guest physical memory: a buddy system, lowest
 * address first, with runs of any length on top of it. Short runs are packed, across
 * the blocks that they are made of, so that few large pages hold them.
 *
 *   What it knows lies in ordinary memory, never in guest memory: looking for a
 *   page touches none, so it never waits for one.
 *
 *   State    every page belongs to a free block (a member of its order's set), to
 *            a run in use, or to a run in trim (out of the sets while its memory
 *            is handed back); a run's first page has the length in `run`.
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

#define PHYSMEM_ORDER_MAX 18u
#define PHYSMEM_ORDERS (PHYSMEM_ORDER_MAX + 1)

struct physmem {
	uint64_t pages;                         /* immutable after init */
	void *memory;                           /* all tables; immutable */
	size_t memory_bytes;

	pthread_mutex_t lock;                   /* guards all below */
	pthread_cond_t trimmed;
	struct bits free_blocks[PHYSMEM_ORDERS];
	uint64_t *run;                          /* [pages] see State */
	uint64_t *dirty;                        /* bitmap: used since trimmed */
	uint64_t near[PHYSMEM_ORDERS];          /* where to look for a run first */
	uint64_t free_pages;                    /* in the sets or in trim */
	unsigned trims;                         /* going on */
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
 * calls physmem_thaw too, and then has the lock and the condition anew. */
void physmem_freeze(struct physmem *m);
void physmem_thaw(struct physmem *m, bool in_child);

/* Hands each run of free pages that were used since to discard(), which is called
 * without the lock, and forgets that they were. *pages is how many. Stops at the
 * first error of discard() and returns it; but goes round what is -EBUSY. */
int physmem_trim(struct physmem *m, int (*discard)(void *arg, uint64_t page, uint64_t n),
		 void *arg, uint64_t *pages);

uint64_t physmem_free_pages(struct physmem *m);

#endif /* PHYSMEM_H */
