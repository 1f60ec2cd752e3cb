/* SPDX-License-Identifier: MIT
 *
 * transfer - bytes between a buffer of the daemon's and guest memory, wherever its pages
 * are: what a device would do.
 *
 *   Pages are pinned for the time of the copy, and so loaded first; then a page is in the
 *   guest's file, or mapped from a frame or split: that one is reached through the
 *   process's memory, as a store of its own would, and the kernel splits it.
 *
 *   Units    bytes; addresses are of guest physical memory.
 *   Threads  any; the caller has entered the guest, and may wait for seconds.
 *   Errors   -EIO     a page is damaged
 *            -ENOMEM  machine memory has no room for ten seconds   -EBUSY  a page is
 *                     being remapped for that long     -ESRCH  the guest is going away
 *            of a transfer that fails, any part may be done
 */
#ifndef TRANSFER_H
#define TRANSFER_H

#include <stdint.h>

#include "guest.h"

struct uvmm_engine;

int transfer_to_guest(struct uvmm_engine *e, struct guest *g, uint64_t address,
		      const void *from, uint32_t bytes);
int transfer_from_guest(struct uvmm_engine *e, struct guest *g, uint64_t address, void *to,
			uint32_t bytes);

#endif /* TRANSFER_H */
