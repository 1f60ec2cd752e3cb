/* SPDX-License-Identifier: MIT
 *
 * cache_index - a sparse array of pointers: a tree of nodes with 64 branches each, as
 * high as the largest number in it needs.
 *
 *   Threads  exclusive. Nodes come from a slab that others use at the same time.
 *   Errors   0 or a negative errno.
 */
#ifndef CACHE_INDEX_H
#define CACHE_INDEX_H

#include <stdint.h>

#include "cache_slab.h"

#define CACHE_INDEX_BRANCHES 64u

struct cache_index_node {
	uint64_t used;          /* bitmap of branches that are not NULL */
	void *branch[CACHE_INDEX_BRANCHES];     /* nodes; at the bottom the pointers */
};

struct cache_index {
	struct cache_slab *nodes;       /* of struct cache_index_node */
	struct cache_index_node *root;
	unsigned levels;                /* 0: empty */
};

/* Nothing in it. */
void cache_index_init(struct cache_index *x, struct cache_slab *nodes);

void *cache_index_get(const struct cache_index *x, uint64_t number);
/* The pointer with the lowest number from *number on, which is set to it; or NULL. */
void *cache_index_next(const struct cache_index *x, uint64_t *number);
/* The place must be free.  -ENOMEM */
int cache_index_put(struct cache_index *x, uint64_t number, void *pointer);
/* Takes out what is there. */
void cache_index_remove(struct cache_index *x, uint64_t number);

#endif /* CACHE_INDEX_H */
