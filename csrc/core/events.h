/* SPDX-License-Identifier: MIT
 *
 * events - what the control plane is to hear: a bounded queue and a descriptor
 * that polls readable while it is not empty.
 *
 *   Threads  any; events.lock is a leaf.
 */
#ifndef EVENTS_H
#define EVENTS_H

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/types.h>

#include "uvmm_core.h"

#define EVENTS_MAX 1024u

struct events {
	int fd;                         /* eventfd; immutable after init */
	pthread_mutex_t lock;           /* guards all below */
	struct uvmm_event ring[EVENTS_MAX];
	uint32_t first, count;
	uint64_t dropped;               /* LOG events lost since last told */
};

int events_init(struct events *ev);
void events_fini(struct events *ev);

/* Adds one. When the queue is full a LOG is dropped and counted, any other kind
 * takes the place of the oldest. */
void events_add(struct events *ev, enum uvmm_event_kind kind, uint64_t guest_id,
		const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Adds a KIN for the process, unless one waits already or the queue is full: it asks
 * again. */
void events_add_kin(struct events *ev, uint64_t guest_id, pid_t pid);

/* -EAGAIN if there is none. */
int events_take(struct events *ev, struct uvmm_event *out);

#endif /* EVENTS_H */
