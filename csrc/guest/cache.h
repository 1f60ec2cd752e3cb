/* SPDX-License-Identifier: MIT
 *
 * cache - a file cache on some memory, whoever's it is; uvmm/cache.h has it on a guest's.
 *
 *   Errors   0 or a negative errno.
 */
#ifndef CACHE_H
#define CACHE_H

#include "cache_state.h"

/* Makes a cache with its threads. bounds: checked, max_pages not 0.  -ENOMEM, -EAGAIN */
int cache_new(const struct cache_memory *m, const struct uvmm_cache_bounds *bounds,
	      struct uvmm_cache **out);
/* Frees it; no handle is open, nobody calls. An error of writing back: that was lost. */
int cache_free(struct uvmm_cache *c);

/* Writes back all files, and flushes those that are open. The first error. */
int cache_write_all(struct uvmm_cache *c);
int cache_flush_all(struct uvmm_cache *c);

#endif /* CACHE_H */
