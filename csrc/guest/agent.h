/* SPDX-License-Identifier: MIT
 *
 * agent - the guest's agent thread: hears of pressure from the daemon, calls the
 * program's callbacks, hands free pages back, answers.
 *
 *   The thread has all signals blocked and never touches guest memory itself. It
 *   ends when the daemon has gone.
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

#include "uvmm/guest.h"

#define AGENT_CALLBACKS_MAX 16

struct agent_callback {
	uvmm_pressure_fn fn;
	void *arg;
	uint64_t number;        /* rises; never used again */
};

struct agent {
	int fd;                         /* immutable after start */
	uint64_t (*trim)(void *arg);    /* hands free pages back: how many */
	void *trim_arg;

	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t idle;
	struct agent_callback callback[AGENT_CALLBACKS_MAX];
	size_t callbacks;
	uint64_t last_number;
	uint64_t running;               /* number of the callback that runs, or 0 */
	pthread_t thread;
	bool runs;
};

/* Serves the AGENT connection fd, which it takes over.  -EAGAIN  no thread */
int agent_start(struct agent *a, int fd, uint64_t (*trim)(void *arg), void *trim_arg);

/* -ENOSPC */
int agent_add(struct agent *a, uvmm_pressure_fn fn, void *arg);
/* -ENOENT */
int agent_remove(struct agent *a, uvmm_pressure_fn fn, void *arg);

#endif /* AGENT_H */
