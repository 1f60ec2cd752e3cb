/* SPDX-License-Identifier: MIT
 *
 * cache_ahead - reads what a stream will ask for next, by threads of its own.
 *
 *   A handle that asks for pages one after the other is a stream. Its window doubles from
 *   4 pages to 128, or to a 64th of what the cache can have. While a window is used the
 *   next one is read, in whole runs. A handle that asks for other pages is no stream
 *   from then on.
 *
 *   What a stream has passed by itself is not read ahead any more: it would come back, and
 *   look like something that is used again and again.
 *
 *   Threads  any. With more asked for than the queue holds, some is not read ahead.
 */
#ifndef CACHE_AHEAD_H
#define CACHE_AHEAD_H

#include "cache_state.h"

/* Starts the threads.  -EAGAIN */
int cache_ahead_start(struct uvmm_cache *c);
/* Ends them; what is in the queue is forgotten. */
void cache_ahead_stop(struct uvmm_cache *c);

/* The handle uses the pages [index, used): has those after them read, if it is a stream.
 * Returns how many pages from index on are worth reading at once. */
uint32_t cache_ahead_note(struct uvmm_file *h, uint64_t index, uint64_t used);

#endif /* CACHE_AHEAD_H */
