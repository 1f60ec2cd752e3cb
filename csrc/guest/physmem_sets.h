/* SPDX-License-Identifier: MIT
 *
 * physmem_sets - the sets of free blocks, between physmem.c and physmem_trim.c;
 * all under physmem.lock.
 */
#ifndef PHYSMEM_SETS_H
#define PHYSMEM_SETS_H

#include <stdbool.h>
#include <stdint.h>

#include "physmem.h"

#define WORD 64u                        /* pages in a word of the bitmap */
#define RUN_ASIDE (1ull << 63)          /* in a run's length: nobody uses it */

/* Puts a range in, as the largest blocks that it is made of. */
void physmem_insert(struct physmem *m, uint64_t page, uint64_t n);
/* Takes [page, page + n) out; it is all free and begins with a block. */
void physmem_remove(struct physmem *m, uint64_t page, uint64_t n);
/* The pages read as zeros. */
void physmem_set_clean(struct physmem *m, uint64_t page, uint64_t n);
/* All of the balloon is free, as it is not the daemon's. */
void physmem_forget_balloon(struct physmem *m);
/* Short runs are to be looked for there. */
void physmem_freed(struct physmem *m, uint64_t page, uint64_t n);
/* The order of the free block that begins at page, or PHYSMEM_ORDERS. */
unsigned physmem_block_at(const struct physmem *m, uint64_t page);

#endif /* PHYSMEM_SETS_H */
