/* SPDX-License-Identifier: MIT
 *
 * victims - the order in which chunks of a guest are reclaimed from: by the grades that
 * were counted in them (activity.h), the longest idle first, at random among equals.
 *
 *   A list that is made anew when it is old, or used up, holds a chunk once for each grade from
 *   RESTING of which it has pages. It only says where to look: what is taken there
 *   is decided by a look at that moment. Another list has all chunks that are used, for when
 *   no idle pages are known.
 *
 *   Lock     activity.lock
 *   Cost     4 bytes an entry.
 */
#ifndef VICTIMS_H
#define VICTIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guest;

struct victim_list {
	uint32_t *entry;
	size_t n, at, room;
	uint64_t made_ns;
};

struct victims {
	struct victim_list idle;        /* chunk, and the grade in the upper 4 bits */
	struct victim_list used;        /* chunk; goes round */
	uint64_t random;
};

/* The next chunk, and the lowest grade to take there; false: there is no more. *lists is 0
 * at first: how many lists the caller has seen the end of. */
bool victims_next(struct guest *g, unsigned *lists, uint64_t *chunk, unsigned *grade);

/* The next of all chunks that are used, or with `away` have pages that are not home;
 * `fresh`: as they are now. *tried is 0 at first: how many the caller has had. False: that
 * were all. */
bool victims_next_used(struct guest *g, bool fresh, bool away, size_t *tried, uint64_t *chunk);

/* A number below `below`, at random. */
uint64_t victims_random(struct guest *g, uint64_t below);

void victims_clear(struct victims *v);
void victims_fini(struct victims *v);

#endif /* VICTIMS_H */
