/* SPDX-License-Identifier: MIT
 *
 * cache_slab - objects of one size, in ordinary memory that comes from the kernel: may be
 * asked with locks held, as the program's malloc() may not.
 *
 *   Memory that was freed is used again, and returned at the end.
 *
 *   Threads  any; its lock is a leaf.
 */
#ifndef CACHE_SLAB_H
#define CACHE_SLAB_H

#include <pthread.h>
#include <stddef.h>

struct cache_slab {
	size_t object_bytes;    /* immutable; a multiple of 8 */

	pthread_mutex_t lock;   /* guards below */
	void *freed;            /* a list, through the objects */
	void *regions;          /* a list, through the regions */
	char *fresh;            /* never used yet, of the newest region */
	size_t fresh_bytes;
};

void cache_slab_init(struct cache_slab *s, size_t object_bytes);
/* All objects of it with it. */
void cache_slab_fini(struct cache_slab *s);

/* Zeroed; NULL: no memory. */
void *cache_slab_get(struct cache_slab *s);
void cache_slab_put(struct cache_slab *s, void *object);

#endif /* CACHE_SLAB_H */
