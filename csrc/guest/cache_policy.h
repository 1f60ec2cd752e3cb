/* SPDX-License-Identifier: MIT
 *
 * cache_policy - which page of a cache is worth least: S3-FIFO.
 *
 *   Three queues. A new page joins `small`, a tenth of all. At its end, a page that was
 *   used again more than once moves to `main`, another is given up and leaves a ghost:
 *   its key without a page. A page that comes while its ghost is there joins main at
 *   once. At the end of main a page that was used since goes round again. So what is
 *   read once, however much it is, passes through small and takes nothing from main.
 *   A use is counted in the page, no queue changes: it needs no lock.
 *
 *   A page whose turn it is while it is dirty waits aside until it is written: in its
 *   queue it would be in the way of those that can go, and of knowing how many they are.
 *
 *   Chosen over LRU, which a scan of the cache's size empties (test_cache_policy prints
 *   both), and over ARC, CLOCK-Pro and LIRS, which move pages at each use or keep
 *   more state for no more hits on the traces of the paper.
 *
 *   Ghosts are fingerprints of keys with the time they were made, counted in ghosts, in
 *   buckets of a hash table: as many live as there are pages now.
 *
 *   Units    pages are numbers below `entries`. A key is a hash of what a page holds.
 *   Errors   0 or a negative errno.
 *   Threads  exclusive, but cache_policy_use.
 *   Source   Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache
 *            eviction, SOSP 2023.
 */
#ifndef CACHE_POLICY_H
#define CACHE_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CACHE_POLICY_NONE UINT32_MAX

enum cache_queue_name {
	CACHE_QUEUE_NONE,
	CACHE_QUEUE_SMALL,
	CACHE_QUEUE_MAIN,
	CACHE_QUEUE_ASIDE,
	CACHE_QUEUES,
};

struct cache_policy_page {
	uint32_t newer, older;
	uint8_t queue;          /* enum cache_queue_name */
	uint8_t former;         /* queue, of one that is aside */
	_Atomic uint8_t uses;   /* since it joined, at most 3 */
};

struct cache_queue {
	uint32_t newest, oldest;
	uint64_t pages;
};

struct cache_policy {
	uint64_t entries;               /* immutable */
	void *memory;
	size_t memory_bytes;
	struct cache_policy_page *page; /* [entries]; costs memory where it is used */
	struct cache_queue queue[CACHE_QUEUES];
	uint64_t *ghost;                /* buckets of 8: time, fingerprint */
	uint64_t ghost_buckets;         /* a power of two */
	uint32_t ghosts_made;
};

/* -ENOMEM */
int cache_policy_init(struct cache_policy *p, uint64_t entries);
void cache_policy_fini(struct cache_policy *p);

/* A page joins; true if its ghost was there. */
bool cache_policy_join(struct cache_policy *p, uint32_t page, uint64_t key);
/* A page was used, again. Any thread, while the page is in a queue. */
void cache_policy_use(struct cache_policy *p, uint32_t page);
/* A page leaves, as what it held is no more. */
void cache_policy_leave(struct cache_policy *p, uint32_t page);

/* The second, which is in no queue, has the place of the first from now on. */
void cache_policy_replace(struct cache_policy *p, uint32_t page, uint32_t by);

/* The page to give up next, or CACHE_POLICY_NONE: cache_policy_give_up() follows; or
 * cache_policy_put_off() if it is in use, or cache_policy_set_aside() if it is dirty. So many
 * pages are about to join: they count as small, or reading ahead would take from main. */
uint32_t cache_policy_victim(struct cache_policy *p, uint64_t coming);
void cache_policy_give_up(struct cache_policy *p, uint32_t page, uint64_t key);
void cache_policy_put_off(struct cache_policy *p, uint32_t page);
void cache_policy_set_aside(struct cache_policy *p, uint32_t page);
/* It is no longer dirty: it is next, if it was not used meanwhile. */
void cache_policy_return(struct cache_policy *p, uint32_t page);

uint64_t cache_policy_pages(const struct cache_policy *p);

#endif /* CACHE_POLICY_H */
