/* SPDX-License-Identifier: MIT
 *
 * cache_page - pages of guest memory for the cache, and how they belong to a file.
 *
 *   Errors   0 or a negative errno.
 *   Threads  any; "f: locked" is said where the caller has file.lock.
 */
#ifndef CACHE_PAGE_H
#define CACHE_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "cache_state.h"

/* A page for the caller: a free one as long as the cache may grow, else the least
 * valuable. Never waits.  -ENOMEM: all that there is is dirty, or in use */
int cache_page_take(struct uvmm_cache *c, uint32_t *ppn);
/* Gives one that was taken, and is in no file, to physmem. */
void cache_page_free(struct uvmm_cache *c, uint32_t ppn);

/* How many it has, or could have as things are. */
uint64_t cache_pages_possible(struct uvmm_cache *c);

/* Takes the least valuable clean page out of its file; it is the caller's. False: there
 * is none. */
bool cache_page_evict(struct uvmm_cache *c, uint32_t *ppn);
/* The same for this one.  -ENOENT: it is no page of a file  -EINPROGRESS: it is dirty
 *   -EBUSY: in use */
int cache_page_evict_at(struct uvmm_cache *c, uint32_t ppn);

/* f: locked. The extent, made if need be; NULL: no memory. */
struct cache_extent *cache_extent_make(struct cache_file *f, uint64_t number);
/* f: locked. Frees it if nothing is in it. */
void cache_extent_tidy(struct cache_extent *x);
/* f: locked. Waits until something of the file has moved on; the lock is dropped. */
void cache_wait(struct cache_file *f);
/* f: locked. Waits until no page from the index on is busy; others may become busy
 * before it, or after. */
void cache_wait_for_busy(struct cache_file *f, uint64_t index);
/* f: locked. Says so. */
void cache_wake(struct cache_file *f);

/* f: locked. The page, taken before, becomes that of the extent, which was busy there,
 * with one reference for the cache and `refs` for the caller. */
void cache_page_enter(struct cache_extent *x, unsigned bit, uint32_t ppn, uint32_t refs);
/* f: locked. The pages from `bit` on are used; the caller has a reference to each. */
void cache_pages_ref(struct cache_extent *x, unsigned bit, unsigned n);
/* Drops it; frees a page that no file has any more. */
void cache_page_unref(struct uvmm_cache *c, uint32_t ppn);
/* f: locked. They leave the file; none is busy or writing. Extents may be freed. */
void cache_pages_leave(struct cache_extent *x, uint64_t which);

/* f: locked. Marks pages dirty, or clean; the books follow. */
void cache_set_dirty(struct cache_extent *x, uint64_t which);
void cache_set_clean(struct cache_extent *x, uint64_t which);

#endif /* CACHE_PAGE_H */
