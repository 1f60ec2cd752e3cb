/* SPDX-License-Identifier: MIT
 *
 * driver - of the balloon: pages of the guest that it hands back for as long as the daemon
 * wants them (protocol.h: BALLOON); out of its page allocator, told to the daemon, and back.
 *
 *   Into it  free pages, from the largest runs on, and of these the last: allocations are made
 *            from the first page on, so that what is in use stays together. Those that hold
 *            nothing keep the guest from growing, but free no memory: it owes as many
 *            then, and gives what other free pages hold, which stay its own. If the
 *            free pages do not do, the heap is asked to give up what it keeps unused (spare()),
 *            and then the program to release some (agent.h).
 *   Out      the lowest pages first, when the daemon wants a smaller one; and those in the
 *            way of an allocation for which there is no other room, at once, by the thread
 *            that allocates. After that no more is taken into it until the daemon asks anew.
 *
 *   Units    pages.
 *   Threads  any; driver.lock is taken before physmem.lock and the connection's.
 *   Memory   none from the heap.
 */
#ifndef DRIVER_H
#define DRIVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "physmem.h"
#include "remap.h"
#include "uvmm/protocol.h"

struct driver_ops {
	/* Asks the daemon, as attach_ask(). */
	int (*ask)(void *arg, struct rpc_call *call, char why[UVMM_TEXT_BYTES]);
	/* Has the heap give up what it does not use. NULL: there is nothing of that kind */
	void (*spare)(void *arg);
};

struct driver {
	/* Immutable after init. */
	struct physmem *physmem;
	struct remap *remap;
	const struct driver_ops *ops;
	void *arg;

	/* Those of the agent thread alone: */
	uint64_t goal;                  /* how many pages are to be in it */
	uint64_t owed;                  /* that went into it and freed nothing */
	bool more;                      /* the last time it was not done */

	_Atomic uint64_t rescues;       /* rises when an allocation takes pages back */
	pthread_mutex_t lock;           /* of one exchange with the daemon at a time */
};

/* From now on an allocation that finds no room takes it from the balloon. */
void driver_init(struct driver *d, struct physmem *m, struct remap *r,
		  const struct driver_ops *ops, void *arg);
/* In a forked child, whose balloon is empty (physmem_thaw). */
void driver_forked(struct driver *d);

/* What of [page, page + n) is in the balloon is in use instead. */
void driver_use(struct driver *d, uint64_t page, uint64_t n);

/* How far to go in a moment, by what is free. */
enum driver_pieces {
	DRIVER_WHOLE,           /* whole chunks alone: others could make more of the rest */
	DRIVER_ANY,
};

/* What can be done in a moment. How many pages the guest lacks for it, besides those that
 * are free in smaller pieces; with DRIVER_WHOLE at least 1 if there is something to be done
 * with these. The program is asked for them, after which this is called again, with NULL, for
 * what is still to be done. */
uint64_t driver_serve(struct driver *d, const struct uvmm_balloon *wanted,
		      enum driver_pieces pieces, struct uvmm_ballooned *out);

#endif /* DRIVER_H */
