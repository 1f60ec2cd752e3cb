/* SPDX-License-Identifier: MIT
 *
 * agent - the guest's agent thread: hears of pressure from the daemon, calls the
 * program's callbacks, hands free pages back, answers; maps pages and serves the balloon
 * as it is told.
 *
 *   After ATTEND, until the REMAP or for UVMM_ATTEND_MS, it does nothing but wait for
 *   that, and zap: threads of the program may stand still meanwhile, and callbacks with them.
 *   When the time is over it says LEAVE, and goes on so until the daemon has heard that, also
 *   on a new connection: what callbacks and the heap do may touch guest memory, and must not
 *   wait for a page that waits for this thread.
 *   Of the pressure that it hears of then, the last is what callbacks are told
 *   after it; all of it is answered. Of BALLOON the last is served after it.
 *
 *   When free pages do not do for the balloon the callbacks are asked for what is missing,
 *   as under pressure, and what they have released goes into it. The last ones (file caches)
 *   are asked only for what is missing after that.
 *
 *   The thread has all signals blocked and never touches guest memory itself. It
 *   ends when the daemon has gone; when the program has closed the connection, it
 *   makes a new one.
 *
 *   Errors   0 or a negative errno.
 *   Threads  callbacks run one at a time on the agent thread, without any lock;
 *            agent_remove waits for the one that runs, unless it is called by it.
 */
#ifndef AGENT_H
#define AGENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "driver.h"
#include "kept.h"
#include "uvmm/guest.h"
#include "uvmm/protocol.h"

#define AGENT_CALLBACKS_MAX 16
#define AGENT_TICK_MS 250

struct agent_callback {
	uvmm_pressure_fn fn;
	void *arg;
	uint64_t number;        /* rises; never used again */
	bool last;
};

struct agent_ops {
	int (*connect)(void *arg);      /* a new AGENT connection, or -errno */
	void (*begin)(void *arg);       /* the first call on its thread; NULL: none */
	uint64_t (*trim)(void *arg);    /* hands free pages back: how many */
	/* Called between messages, first after AGENT_TICK_MS; returns in how many ms
	 * it is to be called again. NULL: never. */
	int (*tick)(void *arg);
	/* As remap_serve(). */
	void (*remap)(void *arg, const struct uvmm_remap *m, int frames,
		      struct uvmm_remapped *out);
	/* As remap_lower(); NULL: all runs are refused. */
	void (*lower)(void *arg, const struct uvmm_remap *m, int low,
		      struct uvmm_remapped *out);
	/* As remap_zap(). */
	void (*zap)(void *arg, const struct uvmm_zap *m, struct uvmm_zapped *out);
	/* As driver_serve(). */
	uint64_t (*balloon)(void *arg, const struct uvmm_balloon *m, enum driver_pieces pieces,
			    struct uvmm_ballooned *out);
};

struct agent {
	const struct agent_ops *ops;    /* immutable after start */
	void *arg;
	struct kept_fd link;            /* the thread's own after start */
	int64_t tick_due_ms;            /* likewise; of CLOCK_MONOTONIC */
	uint32_t attended;              /* likewise: the number of the ATTEND, or 0 */
	uint32_t remap_seq;             /* likewise: of the last REMAP; 0: none yet */
	struct uvmm_remapped remapped;  /* likewise: what came of it */

	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t idle;
	struct agent_callback callback[AGENT_CALLBACKS_MAX];
	size_t callbacks;
	uint64_t last_number;
	uint64_t running;               /* number of the callback that runs, or 0 */
	pthread_t thread;
};

/* Connects and serves; arg is for ops.
 *   -EAGAIN  no thread, else as connect() */
int agent_start(struct agent *a, const struct agent_ops *ops, void *arg);

/* -ENOSPC */
int agent_add(struct agent *a, uvmm_pressure_fn fn, void *arg);
/* To be called after all that are not; whoever gives by itself, and only what it has to. */
int agent_add_last(struct agent *a, uvmm_pressure_fn fn, void *arg);
/* -ENOENT */
int agent_remove(struct agent *a, uvmm_pressure_fn fn, void *arg);

#endif /* AGENT_H */
