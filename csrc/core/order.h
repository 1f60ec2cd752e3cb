/* SPDX-License-Identifier: MIT
 *
 * order - what the agent of a guest is told to map, one order at a time (protocol.h:
 * ATTEND, REMAP).
 *
 *   NONE -----------> CALLED --------> ATTENDED -----------> SENT ---------> ANSWERED -> NONE
 *        order_call          ATTENDS            order_send        REMAPPED
 *
 *   An agent that has attended for long says LEAVE, and does nothing that may touch guest
 *   memory until it hears LEFT or the REMAP that was under way: it would wait for a page
 *   which waits for its answer.
 *
 *   An agent that does not answer ATTEND in time (its process is stopped, or it runs a
 *   callback of the program) costs nothing: back to NONE. Once REMAP is sent the pages
 *   of its runs are the order's (PAGE_REMAPPING) until the agent answers or the
 *   guest is detached, as nobody else knows what is mapped. If the connection to the
 *   agent ends before that, the order is sent again on the next one: the agent knows
 *   which one it did last, and what came of it.
 *
 *   Lock     order.lock, a leaf but for session.lock's; not held while anybody waits
 *            for the agent but in the condition.
 *   Errors   0 or a negative errno.
 */
#ifndef ORDER_H
#define ORDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"

struct uvmm_engine;
struct guest;

enum order_state { ORDER_NONE = 0, ORDER_CALLED, ORDER_ATTENDED, ORDER_SENT,
		   ORDER_ANSWERED };

struct order {
	pthread_mutex_t lock;           /* guards all below */
	pthread_cond_t changed;
	enum order_state state;
	uint32_t seq;
	uint64_t attended_ns;
	bool left;                      /* ATTENDED, and no more */
	bool low;                       /* it is of low memory (low.h); likewise */
	struct uvmm_remap remap;        /* immutable while SENT */
};

void order_init(struct order *o);
void order_fini(struct order *o);

/* The agent of g attends, and the order is the caller's, who calls order_send() or
 * order_cancel() soon.
 *   -EAGAIN  no agent, or it is busy or stopped   -EBUSY  another order goes on */
int order_call(struct uvmm_engine *e, struct guest *g);
void order_cancel(struct guest *g);
/* It does so still, for long enough. */
bool order_is_attended(struct guest *g);
/* Sends the runs in remap, which map frames, or take home. Waits until they were done
 * or refused and the books are right (share_finish), for a second at most: then that
 * happens later.  -EAGAIN  not sent: the order is the caller's still, to be cancelled */
int order_send(struct uvmm_engine *e, struct guest *g);

/* What the agent says; false if nobody asked for it. */
bool order_attends(struct guest *g, uint32_t seq);
bool order_leaves(struct uvmm_engine *e, struct guest *g, uint32_t seq);
bool order_remapped(struct uvmm_engine *e, struct guest *g, uint32_t seq,
		    const struct uvmm_remapped *answer);
/* The agent has connected again: it is sent what it has not answered. */
void order_repeat(struct uvmm_engine *e, struct guest *g);
/* The guest is being detached: nobody waits for its agent any more. */
void order_abandon(struct guest *g);
/* It was, and its pages have been forgotten. */
void order_forget(struct guest *g);

#endif /* ORDER_H */
