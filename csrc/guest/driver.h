/* SPDX-License-Identifier: MIT
 *
 * driver - of the balloon: pages of the guest that it hands back for as long as the daemon
 * wants them (protocol.h: BALLOON); out of its page allocator, told to the daemon, and back.
 *
 *   Into it  free pages that hold something, from the largest runs on; what the heap keeps
 *            unused (spare()); then free pages that hold nothing: those save no memory now,
 *            but keep the guest from growing. Only then the program is asked to
 *            release some (agent.h).
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

/* What can be done in a moment. How many pages the guest lacks for more. */
uint64_t driver_serve(struct driver *d, const struct uvmm_balloon *wanted,
		      struct uvmm_ballooned *out);

#endif /* DRIVER_H */
