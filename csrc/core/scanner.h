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
 *   What guests read from images that others may read, too, comes before all that, at once, so
 *   that the same blocks are one frame as soon as they are there (as paper section 8 says of
 *   Disco).
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

#define SCAN_READS_MAX 256u

/* Pages that a guest has just read from an image which others may read, too. */
struct scan_read {
	struct guest *g;
	uint64_t id, ppn, pages;        /* id: the guest's number at that time */
};

struct scanner {
	pthread_t thread;
	bool runs;
	_Atomic uint32_t cpu_permille;  /* of one CPU, at most */
	uint32_t worth;                 /* of it, in 1/1024: the thread's own */
	struct cpus cpus;               /* likewise */
	bool modest;                    /* likewise: nobody is to notice */
	_Atomic int asked;              /* passes on request that go on: it rests meanwhile */
	pthread_mutex_t lock;           /* guards what follows */
	pthread_cond_t wake;
	bool stop;
	bool hurry;                     /* something was read since the thread has looked */
	struct scan_read read[SCAN_READS_MAX];
	size_t reads;
	struct scan_buffer *buffer;
};

/* With 0 permille nothing is scanned but on request. */
int scanner_start(struct uvmm_engine *e, uint32_t cpu_permille);
void scanner_stop(struct uvmm_engine *e);

/* One pass over all of the guest, whom the caller has entered, without a pause. */
void scanner_pass(struct uvmm_engine *e, struct guest *g, struct scan_buffer *b,
		  struct scan_result *r);

/* The guest, whom the caller has entered, has just read them from an image that others may
 * read as well: they are looked up before anything else, with a budget of its own, which is as
 * large; if there is too much of it, the next pass finds them. */
void scanner_note_read(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t pages);

#endif /* SCANNER_H */
