/* SPDX-License-Identifier: MIT
 *
 * cache_state - what the file cache is made of, and who may touch it when.
 *
 *   Contents of pages lie in guest memory; all that is below in ordinary memory.
 *
 *   Life of a page of a file, by its bits in the extent that it belongs to:
 *
 *     nothing          not in the cache
 *     busy             one thread has it: it is read, or first written, or written past
 *                      the cache. Others wait for file.moved. No page of it is there.
 *     present          its page has the content. References keep the page from
 *                      eviction; whoever has one may read it, and write it if he has
 *                      file.write_lock.
 *     present, dirty   and its content is to be written. Set after the bytes are there.
 *     + writing        its content is being written. May be read and written, and so
 *                      become dirty again. Not evicted, not written twice at once.
 *
 *     nothing -> busy -> present [dirty]     reading, writing
 *     dirty -> writing -> -, or dirty        write-back; the latter when it failed
 *     present, neither dirty nor writing, no reference but the cache's -> nothing
 *                                            eviction
 *     present -> nothing                     truncation, once it is not writing; a page
 *                                            with references lives on until the last goes
 *
 *   Locks, in this order:
 *
 *     uvmm_file.position_lock
 *       cache.files_lock                     which files there are; opening, closing
 *         file.write_lock                    one writer a file; truncation
 *           file.lock                        extents, and their bits; size; errors
 *             cache.policy_lock, back.lock, ahead.lock, uvmm_file.ahead_lock, slabs,
 *             bounces, physmem.lock                leaves
 *
 *     The two on top are held across I/O and uses of guest memory, which may wait for the
 *     daemon; file.lock and below never are. Eviction comes from policy_lock and only
 *     tries file.lock. files_lock and file.lock are held for short calls as fstat(),
 *     close().
 */
#ifndef CACHE_STATE_H
#define CACHE_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bounce.h"
#include "cache_backend.h"
#include "cache_index.h"
#include "cache_policy.h"
#include "cache_slab.h"
#include "physmem.h"
#include "uvmm/cache.h"

#define CACHE_FILE_BUCKETS 1024u
#define CACHE_AHEAD_JOBS 64u
#define CACHE_AHEAD_THREADS 2u

/* CACHE_RUN_PAGES pages of a file. Guarded by file.lock. */
struct cache_extent {
	struct cache_file *file;        /* immutable */
	uint64_t number;                /* immutable: its first page / CACHE_RUN_PAGES */
	uint64_t present, busy, dirty, writing;
	uint64_t ahead;                 /* present, read ahead, not used yet */
	uint64_t hurried;               /* aside in the policy, until they are written */
	uint32_t ppn[CACHE_RUN_PAGES];  /* where present */
};

/* A page of guest memory that the cache has. */
struct cache_page {
	struct cache_extent *extent;    /* while in a queue; changed with policy_lock, too */
	_Atomic uint32_t refs;          /* one is the file's; raised with file.lock held. 0: the
					 * page is no file's, and nobody uses it */
	uint32_t at;                    /* as extent: which of its pages */
};

struct cache_file {
	struct uvmm_cache *cache;       /* immutable, as the next three */
	uint64_t device, inode;
	uint64_t key;                   /* of its pages in the policy */
	bool named;                     /* others may open it: by device and inode */
	uint64_t size_max;              /* immutable; 0: none */
	_Atomic uint32_t refs;          /* uvmm_files, and jobs that use it */

	/* Guarded by cache.files_lock. */
	struct cache_file *next;        /* in its bucket */
	_Atomic uint32_t handles;       /* uvmm_files; read anywhere */
	struct cache_backend former;    /* of reading alone, replaced by one that writes */

	pthread_mutex_t write_lock;     /* see above */

	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t moved;           /* busy, writing or resizing has ended */
	uint32_t waiters;
	struct cache_backend backend;   /* ops NULL: closed, nobody uses it, all is clean */
	struct cache_index extents;
	_Atomic uint64_t size;          /* changed with the lock */
	uint64_t pages, dirty_pages, writing_pages;
	bool resizing;                  /* no write-back may begin */
	bool failing;                   /* the last write-back failed */
	bool told;                      /* that error was reported */
	bool abandoned;                 /* closed after that: what is dirty may be lost */
	int error;                      /* of the last write-back that failed */
	uint64_t errors;                /* how many have */
	struct cache_identity identity; /* as we last left it */

	/* Guarded by cache.back.lock. */
	struct cache_file *dirtier, *older;     /* neighbours in the list */
	bool listed;
	uint64_t dirty_since_ns;
	uint64_t retry_ns;              /* failing: not before */
};

/* What the caller of the cache has open. */
struct uvmm_file {
	struct cache_file *file;        /* immutable, as flags */
	int flags;                      /* of open(2) */

	pthread_mutex_t position_lock;  /* guards position; held by read() and write() */
	uint64_t position;

	pthread_mutex_t ahead_lock;     /* guards below */
	uint64_t next;                  /* page that a stream would ask for */
	uint64_t ahead_end;             /* all before it was asked to be read ahead */
	uint32_t window;                /* pages; 0: no stream */

	_Atomic uint64_t last;          /* page that was used last + 1 */
	_Atomic uint64_t errors_seen;   /* of file.errors */
};

/* Write-back, see cache_back.h. */
struct cache_back {
	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t kick, progress;
	struct cache_file *oldest, *newest;     /* with dirty pages, by dirty_since_ns */
	uint64_t debt_pages;            /* to be cleaned and given back */
	uint64_t paid_pages;
	bool awaited;                   /* whoever asked for it waits */
	uint64_t rounds;                /* of the thread */
	uint64_t writes;                /* runs of pages that have been written, or failed */
	bool stuck;                     /* the last one found nothing that can be written */
	bool kicked, stop;
	bool hurry;                     /* dirty pages are in the way of eviction */
	pthread_t thread;
};

struct cache_ahead_job {
	struct cache_file *file;        /* with a reference */
	const struct uvmm_file *handle; /* that asked: only compared */
	uint64_t index, end;
};

/* Reading ahead, see cache_ahead.h. */
struct cache_ahead {
	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t kick;
	struct cache_ahead_job job[CACHE_AHEAD_JOBS];
	unsigned first, jobs;
	bool stop;
	unsigned threads;
	pthread_t thread[CACHE_AHEAD_THREADS];
};

/* All are pages but the last; see uvmm_cache_statistics. */
struct cache_counters {
	_Atomic uint64_t hits, misses, ghost_hits, evicted, read, written, ahead, ahead_used;
	_Atomic uint64_t given, lost, write_errors;
};

/* Where the pages come from. */
struct cache_memory {
	char *base;
	struct physmem *physmem;
	/* Hands free pages back to the daemon; NULL: there is none. */
	void (*trim)(void *arg);
	void *arg;
};

struct uvmm_cache {
	struct cache_memory memory;     /* immutable, as the next two */
	uint64_t min_pages, max_pages;
	uint64_t reserve_pages;         /* free ones that are left to the program */
	struct cache_page *page;        /* [physmem->pages], by number */
	struct cache_slab extents, nodes, plains, file_slab, handle_slab;
	struct bounces bounces;

	_Atomic uint64_t held_pages;    /* taken from physmem */
	_Atomic uint64_t dirty_pages;   /* and those being written */
	_Atomic uint64_t writing_pages; /* these alone */
	_Atomic uint64_t shrinking_until_ns;    /* does not grow before */
	struct cache_counters counters;

	pthread_mutex_t files_lock;     /* guards below */
	struct cache_file *bucket[CACHE_FILE_BUCKETS];
	uint64_t files, handles;

	pthread_mutex_t policy_lock;    /* guards below */
	struct cache_policy policy;

	struct cache_back back;
	struct cache_ahead ahead;
};

static inline void *cache_at(const struct uvmm_cache *c, uint32_t ppn)
{
	return c->memory.base + (uint64_t)ppn * CACHE_PAGE_BYTES;
}

/* n bits from `bit` on. */
static inline uint64_t cache_bits(unsigned bit, unsigned n)
{
	return (n < 64 ? (1ull << n) - 1 : UINT64_MAX) << bit;
}

/* How many bits from `bit` on are set. */
static inline unsigned cache_ones(uint64_t bits, unsigned bit)
{
	uint64_t rest = ~(bits >> bit);

	return rest ? (unsigned)__builtin_ctzll(rest) : 64;
}

static inline void cache_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

#endif /* CACHE_STATE_H */
