/* SPDX-License-Identifier: MIT
 *
 * pressure - the budget: how much machine memory is left, and what follows.
 *
 *   headroom = budget - what the tmpfs holds - splits, which are the processes' own (split.h),
 *   and an allowance for those that are noticed only later - what the daemon holds, in
 *   pages.
 *   It is read anew by the guard thread, and lowered in between by those who put
 *   pages in. The first touch of fresh memory does not ask anybody (that is why
 *   it is fast), so the guard looks so often that at the highest rate at which
 *   memory can be touched it sees each mark before the next one is reached:
 *
 *     start    the background reclaimer runs (20 % free while guests grow fast,
 *              less while they do not). It is the net below the policy, which takes
 *              memory from guests a little above that mark (docs/policy.md)
 *     tight    all guest memory is armed: growth now asks for each page
 *     low      growth waits
 *     reserve  loads of stored pages wait only here, and not when all is full: they
 *              free their slot
 *
 *   Memory returns in the other direction with hysteresis: disarmed, and the reclaimer
 *   stops, a little above `start`.
 *
 *   A guest that holds more than its target waits already below `aim`, which is the
 *   policy's and above all marks, until the reclaimer has taken as much from it, or finds
 *   nothing to take. Else who touches the most would have the most, whatever the policy says.
 *
 *   Exhausted: the reclaimer found nothing that it could take while growth was
 *   waiting. Then waiting growth is refused: SIGBUS to that thread alone.
 *
 *   Threads  all calls from any thread; pressure.lock is a leaf.
 */
#ifndef PRESSURE_H
#define PRESSURE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest.h"

struct uvmm_engine;

enum pressure_use {
	PRESSURE_AHEAD,         /* could be done later: read-around, restore */
	PRESSURE_GROWTH,        /* a fresh page that a thread waits for */
	PRESSURE_LOAD,          /* a stored page that a thread waits for */
};

struct pressure {
	uint64_t total_pages;           /* immutable after start, as the marks */
	int64_t reserve, low, tight, roomy, start_min, start_max, hysteresis;

	_Atomic int64_t headroom;
	_Atomic int64_t start;          /* between start_min and start_max */
	_Atomic uint64_t daemon_pages;
	_Atomic bool is_tight;
	_Atomic bool exhausted;
	_Atomic uint64_t fruitless_until_ns;    /* the reclaimer found nothing */
	_Atomic bool yields;            /* a guest waits for pages of its own */
	_Atomic uint32_t level;         /* enum uvmm_pressure_level */
	_Atomic int64_t aim;            /* below it nobody grows above its target */
	_Atomic int64_t alarm;          /* below it there is one event; 0: none */
	_Atomic uint64_t blocks_end_ns; /* when the last block does; 0: none goes on */
	_Atomic bool stop;

	pthread_t guard;
	bool guard_runs;
	pthread_mutex_t lock;           /* guards kicked */
	pthread_cond_t kick;
	bool kicked;
};

/* The budget must exceed what the daemon holds already by 8 MiB. -ENOMEM, or
 * what pthread_create says. */
int pressure_start(struct uvmm_engine *e, uint64_t total_pages);
void pressure_stop(struct uvmm_engine *e);

/* Takes pages of headroom; false if that use may not have them now. */
bool pressure_take(struct pressure *p, int64_t pages, enum pressure_use use);
/* Gives back what was taken and not used. */
void pressure_give(struct pressure *p, int64_t pages);

/* So little is left that reclaim may begin soon. */
static inline bool pressure_is_short(const struct pressure *p)
{
	return atomic_load(&p->is_tight) || atomic_load(&p->headroom) < 2 * p->start_max;
}

/* Fills in the marks that the policy has to know. */
void pressure_fill(struct uvmm_engine *e, struct uvmm_machine_stats *m);

/* Reads the headroom anew; returns it. */
int64_t pressure_refresh(struct uvmm_engine *e);

/* A thread of g waits for memory: it is woken when there is some. */
void pressure_wait(struct uvmm_engine *e, struct guest *g, bool growth);
/* g holds more than its target, and others come first: it has to wait, and to give. */
bool pressure_comes_last(struct uvmm_engine *e, const struct guest *g);
void pressure_wait_last(struct uvmm_engine *e, struct guest *g);
/* Wakes those who wait, if there is memory now. */
void pressure_wake_waiting(struct uvmm_engine *e);

/* Until then, at most a second, threads of g wait for each page that is not in memory;
 * ends the block before. Its memory is armed meanwhile, so that growth asks, too. */
void pressure_block(struct uvmm_engine *e, struct guest *g, uint64_t until_ns);
/* While it is, who needs a page waits: released by the guard, who wakes all. */
static inline bool pressure_blocks(const struct guest *g)
{
	return atomic_load(&g->blocked_until_ns);
}

/* g has just attached: it is armed if memory is tight. */
int pressure_attached(struct uvmm_engine *e, struct guest *g);

/* For the reclaimer: sleeps until there is something to reclaim; false when it is time to
 * end. *pages are those that are short: 0 if only a guest waits for its own. */
bool pressure_reclaim_wanted(struct uvmm_engine *e, uint64_t *pages);
/* Entered: one that waits for its own pages, and how many it is to give. NULL: nobody. They
 * take turns: *turn is the reclaimer's, 0 at first. */
struct guest *pressure_next_yielding(struct uvmm_engine *e, size_t *turn, uint64_t *pages);
/* What came of it: with nothing taken while growth waits, memory is exhausted. */
void pressure_reclaim_done(struct uvmm_engine *e, uint64_t taken);

#endif /* PRESSURE_H */
