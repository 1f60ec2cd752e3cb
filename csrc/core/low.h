/* SPDX-License-Identifier: MIT
 *
 * low - low memory: the small part of machine memory that devices reach without a copy. Pages
 * and buffers of a guest that requests come back to are moved there (paper section 7).
 *
 *   Each guest has a file of its own for its part, so that it maps nobody else's. The file
 *   is granted in chunks of 2 MiB, large pages where the kernel has them, out of what the
 *   machine has; each is registered with the guest's io_uring once and stays pinned. A run of
 *   up to a chunk lies within one, a longer one begins a chunk.
 *
 *   In (low_lower), for pages that are PRESENT, and not pinned:
 *     1  -> REMAPPING with the page of low memory, counted absent and away
 *     2  the order (LOWER): the agent protects each run of 16 pages, copies it, maps low
 *        memory there, and wakes who waits to write
 *     3  done: what the guest's file has there is punched, -> LOW; refused: -> PRESENT
 *   Out (low_raise), from LOW pages that are neither pinned nor held, likewise: done: watched as
 *   before, -> PRESENT, the page of low memory is free; refused: -> LOW.
 *
 *   The guest gets the file by the memory filesystem (memfs.h), so that it can map it, but not
 *   change its size: it is there under a name of its own (`.low-NUMBER`), which is not listed,
 *   and which only the daemon may open. What the guest touches of chunks that were not granted
 *   is dropped again by low_tidy().
 *
 *   A device's request holds a LOW page (low_hold): it is not raised, nor discarded.
 *
 *   Lock     low.lock, a leaf.
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  low_alloc, low_lower, low_raise, low_tidy: the guest's disk thread alone; it has
 *            entered the guest for lower and raise. The others: any, who has entered it.
 */
#ifndef LOW_H
#define LOW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"

#define LOW_RUN_PAGES_MAX 1024u         /* 4 MiB: the largest buffer that moves as one */

struct uvmm_engine;
struct guest;

/* Of the machine. */
struct low_pool {
	uint64_t chunks;                /* immutable */
	_Atomic uint64_t granted;
	_Atomic uint64_t files;         /* made so far, for their numbers */
};

/* What a new chunk of low memory is registered with, and unregistered before it goes. */
struct low_ops {
	int (*add)(void *arg, uint32_t chunk, void *at);
	void (*drop)(void *arg, uint32_t chunk);
};

struct low {
	/* Immutable while the disk thread runs. */
	int fd;                         /* -1: the guest has no low memory */
	int guest_fd;                   /* the same, as the guest gets it; -1: not yet */
	uint64_t file;                  /* its number, never another's */
	char *map;                      /* for devices alone: without memfs the guest could cut
					 * the file off */
	uint32_t chunks;                /* size of the file */
	const struct low_ops *ops;
	void *arg;

	_Atomic uint64_t limit_pages;   /* what the policy allows the guest */
	_Atomic uint64_t pages;         /* in use */
	_Atomic uint64_t wanted_back;   /* pages that are to be raised, if they are cold */
	_Atomic uint64_t remaps_in, remaps_out, refused;        /* pages, in all */

	bool offered;                   /* by memfs; guarded by the registry's lock */

	pthread_mutex_t lock;           /* guards below */
	bool *granted;                  /* [chunks] */
	uint16_t *used;                 /* [chunks] pages in use */
	uint64_t *bits;                 /* pages in use */
	uint32_t *owner;                /* [pages] the guest's page, if it is in use */
	_Atomic uint32_t *last_ms;      /* [pages] when it was held last; not guarded */
};

void low_init(struct low *l);
/* Makes the file, of `chunks`.  -ENOMEM, ... */
int low_open(struct uvmm_engine *e, struct guest *g, const struct low_ops *ops, void *arg);
/* The guest is detached, and nothing is under way. */
void low_close(struct uvmm_engine *e, struct guest *g);

static inline char *low_at(const struct low *l, uint64_t page)
{
	return l->map + (page << UVMM_PAGE_SHIFT);
}

/* A run for pages from ppn on.  -ENOSPC  there is none within what the guest may have */
int low_alloc(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint32_t pages,
	      uint64_t *first);
void low_free(struct low *l, uint64_t first, uint64_t pages);
/* Chunks that are empty go back to the machine, and what the guest took besides. */
void low_tidy(struct uvmm_engine *e, struct guest *g);

/* Holds pages from ppn on that lie in low memory one after another, in one chunk, up to
 * `pages`; how many, and where the first is. */
uint32_t low_hold(struct guest *g, uint64_t ppn, uint32_t pages, uint64_t *low);
void low_drop(struct guest *g, uint64_t ppn, uint32_t pages);

/* Moves pages in, to where low_alloc() had room, or out.
 *   -EAGAIN  not now: pages are elsewhere or pinned, the agent is busy, ...; the run is free */
int low_lower(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint32_t pages,
	      uint64_t first);
int low_raise(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint32_t pages);
/* Raises about so many pages that were not held for idle_ms, the coldest first; how many. */
uint64_t low_raise_cold(struct uvmm_engine *e, struct guest *g, uint64_t pages,
			uint32_t idle_ms);

/* What the agent made of an order. */
void low_finish(struct uvmm_engine *e, struct guest *g, const struct uvmm_remap *remap,
		const struct uvmm_remapped *answer);

/* --- its file (low_file.c) ------------------------------------------------------- */

/* Makes the file and opens it for the guest.  -errno, and then there is none */
int low_file_open(struct uvmm_engine *e, struct guest *g);
/* Emptied, for a process that has it mapped still; it can never grow again. */
void low_file_close(struct uvmm_engine *e, struct guest *g);
/* Drops what is in chunks that were not granted. The disk thread's. */
void low_file_police(struct low *l);

struct memfs_file;
/* Whether memfs has it under that name (or with NULL: number); under the registry's lock. */
bool low_file_is(const struct guest *g, const char *name, uint64_t ino);
void low_file_describe(const struct guest *g, struct memfs_file *out);

#endif /* LOW_H */
