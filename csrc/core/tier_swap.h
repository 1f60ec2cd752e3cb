/* SPDX-License-Identifier: MIT
 *
 * tier_swap - the swap file as a tier: a file of fixed size, its slots handed
 * out in runs (next fit), a 32-bit checksum a slot, one write or read a run.
 *
 *   The file is written through the page cache: a slot read back soon costs no
 *   disk access, and the kernel writes and drops its pages as it sees fit.
 *   Cost: 4 bytes and 1 bit of the daemon's memory a slot.
 */
#ifndef TIER_SWAP_H
#define TIER_SWAP_H

#include "tier.h"

/* Creates the file (0600) with all its space allocated; handles are slots. The
 * file is removed by close. slots 0 gives a tier that is always full, and no
 * file.
 *   -ENOSPC  the disk cannot hold it    -EEXIST  there is such a file
 *   -ENOMEM and what open(2) says */
int tier_swap_open(const char *path, uint64_t slots, struct tier **out);

#endif /* TIER_SWAP_H */
