/* SPDX-License-Identifier: MIT
 *
 * cache_give - the cache gives pages back: to the daemon under pressure, to the program.
 *
 *   Threads  any.
 */
#ifndef CACHE_GIVE_H
#define CACHE_GIVE_H

#include "cache_state.h"

/* Gives up to so many clean pages to physmem, least valuable first, but keeps
 * min_pages; how many. */
uint64_t cache_give(struct uvmm_cache *c, uint64_t pages);
/* And when these are not enough, writes back and gives those, too. */
uint64_t cache_give_written(struct uvmm_cache *c, uint64_t pages);

/* A callback as of uvmm_on_pressure; arg is the cache. */
uint64_t cache_on_pressure(void *arg, int level, uint64_t wanted_pages);
/* An allocation of the program has found no free pages. True if it should be tried again.
 * arg is the cache. */
bool cache_on_shortage(void *arg, const struct physmem_want *w);

#endif /* CACHE_GIVE_H */
