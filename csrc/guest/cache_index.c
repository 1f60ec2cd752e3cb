/* SPDX-License-Identifier: MIT */
#include "cache_index.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#define SHIFT 6u
#define LEVELS_MAX 11u          /* 64^11 > 2^64 */

void cache_index_init(struct cache_index *x, struct cache_slab *nodes)
{
	*x = (struct cache_index){ .nodes = nodes };
}

/* level 0 is the bottom. */
static unsigned branch_at(uint64_t number, unsigned level)
{
	return (unsigned)(number >> (level * SHIFT)) & (CACHE_INDEX_BRANCHES - 1);
}

/* A tree of so many levels has a place for the number. */
static bool reaches(unsigned levels, uint64_t number)
{
	return levels && (levels * SHIFT >= 64 || !(number >> (levels * SHIFT)));
}

void *cache_index_get(const struct cache_index *x, uint64_t number)
{
	void *at = x->root;
	unsigned level = x->levels;

	if (!reaches(x->levels, number))
		return NULL;
	while (at && level--)
		at = ((struct cache_index_node *)at)->branch[branch_at(number, level)];
	return at;
}

/* The first branch from `from` on that is used, or BRANCHES. */
static unsigned next_used(const struct cache_index_node *n, unsigned from)
{
	uint64_t rest = from < CACHE_INDEX_BRANCHES ? n->used >> from << from : 0;

	return rest ? (unsigned)__builtin_ctzll(rest) : CACHE_INDEX_BRANCHES;
}

/* As cache_index_next, below a node. No node is empty: from the first branch on that
 * is not the number's own, there is something. */
static void *next_below(const struct cache_index_node *node, unsigned level, uint64_t *number)
{
	unsigned shift = level * SHIFT, from = branch_at(*number, level), branch;
	uint64_t above = shift + SHIFT < 64 ? *number >> (shift + SHIFT) << (shift + SHIFT) : 0;
	void *found;

	for (branch = next_used(node, from); branch < CACHE_INDEX_BRANCHES;
	     branch = next_used(node, branch + 1)) {
		if (branch != from)
			*number = above | (uint64_t)branch << shift;
		found = node->branch[branch];
		if (level)
			found = next_below(found, level - 1, number);
		if (found)
			return found;
	}
	return NULL;
}

void *cache_index_next(const struct cache_index *x, uint64_t *number)
{
	if (!reaches(x->levels, *number))
		return NULL;
	return next_below(x->root, x->levels - 1, number);
}

/* Adds a level above until the number has a place. */
static int heighten(struct cache_index *x, uint64_t number)
{
	while (!reaches(x->levels, number)) {
		struct cache_index_node *node = cache_slab_get(x->nodes);

		if (!node)
			return -ENOMEM;
		if (x->root) {
			node->branch[0] = x->root;
			node->used = 1;
		}
		x->root = node;
		x->levels++;
	}
	return 0;
}

/* Takes nodes that are empty away, from below the number up. */
static void prune(struct cache_index *x, uint64_t number)
{
	struct cache_index_node *path[LEVELS_MAX], *node = x->root;
	unsigned level = x->levels;

	while (level-- && node) {
		path[level] = node;
		node = level ? node->branch[branch_at(number, level)] : NULL;
	}
	for (level++; level < x->levels && !path[level]->used; level++) {
		cache_slab_put(x->nodes, path[level]);
		if (level + 1 == x->levels) {
			x->root = NULL;
			x->levels = 0;
			return;
		}
		node = path[level + 1];
		node->branch[branch_at(number, level + 1)] = NULL;
		node->used &= ~(1ull << branch_at(number, level + 1));
	}
}

int cache_index_put(struct cache_index *x, uint64_t number, void *pointer)
{
	struct cache_index_node *node;
	unsigned level;
	int rc = heighten(x, number);

	node = x->root;
	for (level = x->levels; !rc && level-- > 1;) {
		unsigned branch = branch_at(number, level);

		if (!node->branch[branch]) {
			node->branch[branch] = cache_slab_get(x->nodes);
			if (!node->branch[branch]) {
				rc = -ENOMEM;
				break;
			}
			node->used |= 1ull << branch;
		}
		node = node->branch[branch];
	}
	if (rc) {
		if (x->levels)
			prune(x, number);
		return rc;
	}
	node->branch[branch_at(number, 0)] = pointer;
	node->used |= 1ull << branch_at(number, 0);
	return 0;
}

void cache_index_remove(struct cache_index *x, uint64_t number)
{
	struct cache_index_node *node = x->root;
	unsigned level;

	for (level = x->levels - 1; level; level--)
		node = node->branch[branch_at(number, level)];
	node->branch[branch_at(number, 0)] = NULL;
	node->used &= ~(1ull << branch_at(number, 0));
	prune(x, number);
}
