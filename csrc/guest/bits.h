/* SPDX-License-Identifier: MIT
 *
 * bits - a set of small integers as a bitmap with summaries above it: add, remove and
 * find, each in a step or two a level (64 to the power of 6 numbers).
 *
 *   Threads  exclusive.
 */
#ifndef BITS_H
#define BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BITS_LEVELS 6
#define BITS_NONE UINT64_MAX

struct bits {
	uint64_t count;                 /* numbers 0 to count - 1 */
	int levels;
	uint64_t *level[BITS_LEVELS];   /* level[0] is the set itself */
};

/* Bytes that a set of `count` numbers needs. */
size_t bits_bytes(uint64_t count);
/* An empty set in zeroed memory of that size, which stays the caller's. */
void bits_init(struct bits *b, uint64_t count, uint64_t *memory);

bool bits_has(const struct bits *b, uint64_t i);
void bits_add(struct bits *b, uint64_t i);
void bits_remove(struct bits *b, uint64_t i);
/* The lowest member, or BITS_NONE. */
uint64_t bits_first(const struct bits *b);
/* The lowest member from i on, and the highest before i; or BITS_NONE. */
uint64_t bits_next(const struct bits *b, uint64_t i);
uint64_t bits_before(const struct bits *b, uint64_t i);

#endif /* BITS_H */
