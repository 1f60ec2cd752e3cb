/* SPDX-License-Identifier: MIT
 *
 * balloon - pages that the guest itself has handed back: how large that is to be, what
 * its agent was asked for and made of it.
 *
 *   Units    pages.
 *   Threads  any; balloon.lock is a leaf.
 */
#ifndef BALLOON_H
#define BALLOON_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "uvmm_core.h"

struct balloon {
	_Atomic uint64_t ballooned_pages, popped_pages;

	pthread_mutex_t lock;           /* guards below */
	uint64_t target_pages;
	uint64_t asked_pages, given_pages;      /* by requests that are over */
};

void balloon_init(struct balloon *b);
void balloon_fini(struct balloon *b);
/* Empty, and nothing asked for. Exclusive. */
void balloon_clear(struct balloon *b);

/* Adds its figures to *s. */
void balloon_fill(struct balloon *b, struct uvmm_guest_stats *s);

#endif /* BALLOON_H */
