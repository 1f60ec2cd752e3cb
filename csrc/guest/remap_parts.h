/* SPDX-License-Identifier: MIT
 *
 * remap_parts - what remap.c and remap_lower.c have in common; all with remap.lock held.
 */
#ifndef REMAP_PARTS_H
#define REMAP_PARTS_H

#include "kept.h"
#include "remap.h"

/* What the first REMAP makes.  -errno */
int remap_open(struct remap *r);
/* The run may be changed: all in guest memory, nobody keeps it, all mapped as usual. */
bool remap_may_change(struct remap *r, uint64_t page, uint64_t n);
/* A second mapping of the pages' home, somewhere, without access rights; as raw_mremap(). */
void *remap_copy_of_home(const struct remap *r, uint64_t page, uint64_t n);
/* Puts the stage, a mapping of n pages, in place of the pages, or unmaps it.  -errno */
int remap_commit(const struct remap *r, void *stage, uint64_t page, uint64_t n);
void remap_mark(struct remap *r, uint64_t page, uint64_t n, bool away);

#endif /* REMAP_PARTS_H */
