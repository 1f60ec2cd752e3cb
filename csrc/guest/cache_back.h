/* SPDX-License-Identifier: MIT
 *
 * cache_back - writing dirty pages back: by a thread, by writers when too much is dirty,
 * and when somebody flushes.
 *
 *   The thread writes a file back when its oldest dirty page is 5 s old, 1 s when nobody
 *   has the file open, and at once while more than a tenth of what may be cached is dirty,
 *   oldest file first. A file that cannot be written it tries again every 5 s. It also
 *   cleans and gives back pages for a pressure callback, keeps the free pages that
 *   are left to the program, and looks after closed files.
 *
 *   Errors   0 or a negative errno. An error of a page leaves it dirty, and is kept with
 *            the file (cache_file_error).
 *   Threads  any.
 */
#ifndef CACHE_BACK_H
#define CACHE_BACK_H

#include "cache_state.h"

/* Starts the thread.  -EAGAIN */
int cache_back_start(struct uvmm_cache *c);
void cache_back_stop(struct uvmm_cache *c);
/* After that, when there are no files any more. */
void cache_back_fini(struct uvmm_cache *c);

/* f: locked. Its first page has become dirty; it has none any more. */
void cache_back_list(struct cache_file *f);
void cache_back_unlist(struct cache_file *f);
/* Dirty pages are in the way of eviction. */
void cache_back_hurry(struct uvmm_cache *c);

/* A writer is about to make pages of the file dirty: helps to write back while too much is
 * dirty. False: in vain, write past the cache. */
bool cache_back_makes_room(struct cache_file *f);

/* Writes back all that is dirty now, in order, and waits for what others write. Stops at
 * the first error, which is counted. */
int cache_back_write(struct cache_file *f);
/* That, and has the backend make it durable. */
int cache_back_flush(struct cache_file *f);

/* Has the thread clean and give back so many pages, waits for at most timeout_ns; how many
 * it has given by then. It goes on after that. */
uint64_t cache_back_owe(struct uvmm_cache *c, uint64_t pages, uint64_t timeout_ns);

#endif /* CACHE_BACK_H */
