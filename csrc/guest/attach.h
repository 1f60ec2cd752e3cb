/* SPDX-License-Identifier: MIT
 *
 * attach - how a process becomes a guest: finds its daemon in the environment,
 * maps guest physical memory, hands over its userfaultfd; and keeps the
 * connection on which it asks.
 *
 *   A connection that was lost is made again at the next question.
 *   Allocates nothing; usable before main() and from a preloaded library.
 *
 *   Errors   0 or a negative errno (as uvmm_attach in uvmm/guest.h), words in why.
 *   Threads  attach_open once; attach_ask from any thread, one at a time inside.
 */
#ifndef ATTACH_H
#define ATTACH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kept.h"
#include "rpc.h"
#include "uvmm/protocol.h"

struct attachment {
	/* Immutable after attach_open. */
	char *base;
	uint64_t pages;
	char socket[108];
	struct uvmm_hello hello;        /* of CONTROL */
	struct kept_fd userfault;       /* so that faults wait if the daemon dies */

	pthread_mutex_t lock;   /* guards below */
	struct kept_fd control;
};

int attach_open(struct attachment *a, char why[UVMM_TEXT_BYTES]);
/* In a forked child, which has nothing of it: memory of its own at the same place, all
 * zero, as a guest that is kin to the parent. *a is what the parent's was. Nothing
 * is locked after it. */
int attach_again(struct attachment *a, char why[UVMM_TEXT_BYTES]);
/* Undoes it, for a process that cannot be a guest after all. */
void attach_close(struct attachment *a);

/* Asks on the CONTROL connection. -ECONNRESET if the daemon is gone. */
int attach_ask(struct attachment *a, struct rpc_call *call, char why[UVMM_TEXT_BYTES]);

/* Asks that for a range. */
int attach_ask_range(struct attachment *a, const struct uvmm_range *range, uint16_t type,
		     char why[UVMM_TEXT_BYTES]);

/* A new connection in that role; a descriptor. */
int attach_role(const struct attachment *a, enum uvmm_role role,
		char why[UVMM_TEXT_BYTES]);

#endif /* ATTACH_H */
