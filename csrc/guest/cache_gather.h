/* SPDX-License-Identifier: MIT
 *
 * cache_gather - pages of files move together, so that what was given back becomes whole
 * large pages.
 *
 *   Eviction gives single pages, wherever they are. A balloon made of these would break
 *   every large page of the guest, and what is left would be mapped page by page. So the
 *   pages that are left in the emptiest chunks go to free pages of the others first.
 *
 *   A page moves as one that is read: it is busy in its file (cache_state.h) from when it
 *   is lifted, under file.lock, until its content is in the new place; its place in the
 *   queues is that of the new page at once. What is dirty, written or in use stays.
 *
 *   Threads  any.
 */
#ifndef CACHE_GATHER_H
#define CACHE_GATHER_H

#include "cache_state.h"

/* Empties up to so many chunks, of those of which nothing but the cache uses anything;
 * how many. */
uint64_t cache_gather(struct uvmm_cache *c, uint64_t chunks);

#endif /* CACHE_GATHER_H */
