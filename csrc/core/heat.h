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

struct heat {
	uint8_t *count;         /* [pages] */
	uint32_t *since;        /* [chunks] the half life in which it was last brought up to date */
	uint64_t pages;
};

/* All cold.  -ENOMEM */
int heat_init(struct heat *h, uint64_t pages);
void heat_fini(struct heat *h);
/* Pages [ppn, ppn + n) were copied; the smallest count of them with this one. */
uint8_t heat_add(struct heat *h, uint64_t ppn, uint32_t n, uint64_t now_ns);
/* They start from nothing again. */
void heat_clear(struct heat *h, uint64_t ppn, uint32_t n);

#endif /* HEAT_H */
