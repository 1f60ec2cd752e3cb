/* SPDX-License-Identifier: MIT
 *
 * scanner - the thread that scans guests for pages to share (scan.h), within a budget of
 * CPU time.
 *
 *   Guests that are new (after half a second), or have grown, come first, in turns, so that those which were
 *   started together are compared while they are alike. A pass over a guest that finds
 *   little is followed by a longer and longer pause. All CPU time that sharing takes
 *   anywhere in the daemon counts; what is not used is saved up, for a second of CPU.
 *   All of the budget is used where one page of four that are looked at is shared, and
 *   less where it is fewer, down to an eighth. While all CPUs are busy and memory is not
 *   short, a tenth of that, and passes are seconds apart, so that what changes all the time
 *   is left alone: nobody should notice it (cpus.h).
 *
 *   Units    pages. Errors 0 or a negative errno.
 */
#ifndef SCANNER_H
#define SCANNER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "cpus.h"
#include "scan.h"

struct scanner {
	pthread_t thread;
	bool runs;
	_Atomic uint32_t cpu_permille;  /* of one CPU, at most */
	uint32_t worth;                 /* of it, in 1/1024: the thread's own */
	struct cpus cpus;               /* likewise */
	bool modest;                    /* likewise: nobody is to notice */
	_Atomic int asked;              /* passes on request that go on: it rests meanwhile */
	pthread_mutex_t lock;           /* guards stop */
	pthread_cond_t wake;
	bool stop;
	struct scan_buffer *buffer;
};

/* With 0 permille nothing is scanned but on request. */
int scanner_start(struct uvmm_engine *e, uint32_t cpu_permille);
void scanner_stop(struct uvmm_engine *e);

/* One pass over all of the guest, whom the caller has entered, without a pause. */
void scanner_pass(struct uvmm_engine *e, struct guest *g, struct scan_buffer *b,
		  struct scan_result *r);

#endif /* SCANNER_H */
