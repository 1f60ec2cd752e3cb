/* SPDX-License-Identifier: MIT
 *
 * fault - the fault threads: one pinned to each CPU, all waiting on all guests.
 *
 *   A guest's thread that touches an absent or protected page sleeps in the
 *   kernel; waking an idle CPU to serve it costs more than all else, so that
 *   there is a thread on the CPU where the fault happened, and the first one
 *   that reads the message serves it.
 *
 *   What a fault meets, by the page's state (pmap.h):
 *     write-protect fault   EVICTING   the guest wins: -> HELD, protection off
 *                           PRESENT    the same (the message is late)
 *     minor fault           the same, and the page is mapped: its chunk is shielded
 *     missing fault         STORED     load.h
 *                           PRESENT    zeros, if memory allows: load.h
 *                           DAMAGED    poisoned again
 *     either                owned      nothing: the owner will wake it
 *                           BALLOONED  comes again, and pops it (balloon.h): PRESENT
 *
 *   Threads  its own. None takes Python's lock, or any lock during I/O.
 */
#ifndef FAULT_H
#define FAULT_H

#include <pthread.h>
#include <stdint.h>

#include "guest.h"

#define FAULT_THREADS_MAX 64
#define FAULT_RECENT 16

struct uvmm_engine;

struct fault_thread {
	struct uvmm_engine *engine;
	struct load_buffer *buffer;
	int cpu;                /* -1: not pinned */
	uint32_t recent[FAULT_RECENT];  /* whose faults it served last */
	uint64_t faults;
	int in_vain;            /* times that it found no message, in a row */
	int epoll;
	pthread_t thread;
	bool runs;
};

struct faults {
	struct fault_thread thread[FAULT_THREADS_MAX];
	int threads;
	int stop_fd;            /* eventfd */
};

/* One thread for each CPU that this process may run on. */
int fault_start(struct uvmm_engine *e);
void fault_stop(struct uvmm_engine *e);

/* Begins or ends serving an attached guest's faults. */
int fault_add(struct uvmm_engine *e, struct guest *g);
void fault_remove(struct uvmm_engine *e, struct guest *g);

/* Accesses to the page, which is absent, get SIGBUS from now on. */
void fault_poison(struct guest *g, uint64_t ppn);

#endif /* FAULT_H */
