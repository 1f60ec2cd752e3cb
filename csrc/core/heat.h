/* SPDX-License-Identifier: MIT
 *
 * heat - how often each page of a guest was copied for a device lately (paper section 7 counts
 * copies by page): halved every HEAT_HALF_S seconds.
 *
 *   Units    pages. Threads  one at a time.
 */
#ifndef HEAT_H
#define HEAT_H

#include <stddef.h>
#include <stdint.h>

#define HEAT_HALF_S 10u
#define HEAT_HOT 2u             /* copies lately that make a page hot */

struct heat {
	uint8_t *count;         /* [pages] */
	uint32_t *since;        /* [chunks] the half life in which it was last brought up to date */
	uint16_t *hot_in;       /* [chunks] hot pages */
	uint64_t pages, hot;    /* of these, hot ones at the last look at each chunk */
};

/* All cold.  -ENOMEM */
int heat_init(struct heat *h, uint64_t pages);
void heat_fini(struct heat *h);
/* Pages [ppn, ppn + n) were copied; the smallest count of them with this one. */
uint8_t heat_add(struct heat *h, uint64_t ppn, uint32_t n, uint64_t now_ns);
/* The largest count of them, as of the last copy in their chunks. */
uint8_t heat_most(const struct heat *h, uint64_t ppn, uint64_t n);
/* They start again, as pages that were copied once. */
void heat_restart(struct heat *h, uint64_t ppn, uint32_t n);

/* What was not copied lately is not hot any more. */
void heat_cool(struct heat *h, uint64_t now_ns);

#endif /* HEAT_H */
