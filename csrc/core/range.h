/* SPDX-License-Identifier: MIT
 *
 * range - what a guest asks for a range of its pages: forget them, or keep them
 * resident for a while.
 *
 *   Units    pages; the range lies in guest memory.
 *   Threads  any; the caller has entered the guest. A call waits for pages that
 *            others own (pmap.h), in ascending order, holding no lock.
 */
#ifndef RANGE_H
#define RANGE_H

#include <stdint.h>

#include "guest.h"

struct uvmm_engine;

/* Drops the contents: zero from now. Damaged pages stay so. With `homes` the guest maps
 * those as guest memory that are not home, and says HOMED.
 *   -EBUSY  a page is pinned, or is being remapped and the agent does not answer; nothing
 *           was dropped. Without `homes` also if a page is not home; should that come
 *           about meanwhile, some of it is dropped
 *   -EIO    the kernel refused to free a part, all else is dropped
 *   -ESRCH  the guest goes away */
int range_discard(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages,
		  bool homes);

/* Waits until no page of [lo, hi) is REMAPPING: from then none is while the caller counts in
 * g->sharing.discards (share.h).
 *   -EBUSY  it lasts too long, or a page is pinned and not home; with `homes` unset if one
 *           is not home, with `pins` unset if one is pinned */
int range_settle(const struct guest *g, uint64_t lo, uint64_t hi, bool homes, bool pins);

/* Sets bit i for each page ppn + i that holds anything; the others are zero. bits has
 * room for `pages`, and is zero. What is taken out or brought in meanwhile is told
 * right, too: a page's state is looked at before and after the file. */
void range_content(const struct guest *g, uint64_t ppn, uint64_t pages, uint64_t *bits);

/* Loads the pages and keeps reclaim off them, until as many unpins; all or none.
 *   -ENOMEM     more than three quarters of machine memory would be pinned, or
 *               none is free within a second
 *   -EOVERFLOW  a page is pinned PMAP_PINS_MAX times
 *   -EIO        a page is damaged       -ESRCH
 *   -EBUSY      a page is being remapped, and the agent does not answer */
int range_pin(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages);
/* -EINVAL  a page was not pinned; none was unpinned */
int range_unpin(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages);

#endif /* RANGE_H */
