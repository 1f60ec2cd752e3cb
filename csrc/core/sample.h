/* SPDX-License-Identifier: MIT
 *
 * sample - a few pages of a guest, drawn at random, which are watched: how many of them does
 * it touch?
 *
 *   Drawn from all pages with contents, each as likely. Then
 *     mapped               unmapped by the agent (zap.h); touched when it is mapped again.
 *                          In a large page: the page is broken (activity_break), until
 *                          all that is watched of it was touched
 *     not mapped           touched when it is mapped
 *     stored in a tier     touched when it is loaded
 *     shared, not mapped   touched when it is mapped
 *     shared, mapped; split, remapped or being moved
 *                          another page is drawn: it cannot be unmapped without danger
 *                          to what is the process's own
 *   The figures count when all pages that are to be unmapped have been, or refused, which
 *   are then left out. A process that has stopped does not answer; its pages
 *   count, and were not touched, for as long as it has not run.
 *
 *   Lock     activity.lock
 *   Units    pages.
 *   Source   Waldspurger 2002, section 5.3.
 */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"
#include "uvmm_core.h"

struct uvmm_engine;
struct guest;
struct activity_look;

enum sample_state {
	SAMPLE_PENDING,         /* the agent is to unmap it */
	SAMPLE_UNMAPPED,
	SAMPLE_STORED,
	SAMPLE_TOUCHED,
	SAMPLE_REFUSED,
};

struct sample_page {
	uint64_t ppn;
	uint32_t seq;           /* PENDING: the order in which it is */
	uint8_t state;          /* enum sample_state */
	bool broke;             /* its large page was broken for it */
};

struct sample {
	struct sample_page *page;       /* ascending; NULL: none */
	uint32_t n;
	uint32_t pending;               /* pages that are */
	_Atomic bool fine;              /* large pages were broken for it */
	uint64_t ran_ns;                /* the process's CPU time when it began */
	uint64_t began_ns, look_ns;     /* when to look again */
	uint64_t pause_ns;              /* then */
	_Atomic uint32_t sampled, touched;      /* what is told */
	_Atomic uint64_t begun;         /* samples in all */
};

/* As uvmm_guest_sample(); the caller has entered the guest.  -ENOMEM */
int sample_begin(struct uvmm_engine *e, struct guest *g, uint32_t pages);

/* Looks which pages were touched, if it is time; `guests` share the watcher. */
void sample_look(struct uvmm_engine *e, struct guest *g, uint64_t now_ns, unsigned guests);

/* The scan looked at a chunk, and is about to unmap it. True: there are pages that are
 * watched, and would be mapped with a large page of which anything is touched. */
bool sample_saw(struct guest *g, const struct activity_look *l);

/* The agent has done an order; done[] as in struct uvmm_zapped. */
void sample_zapped_locked(struct guest *g, uint32_t seq, const uint64_t *done);

/* What was watched is no more. */
void sample_clear(struct sample *s);

#endif /* SAMPLE_H */
