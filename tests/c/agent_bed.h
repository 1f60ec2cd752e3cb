/* SPDX-License-Identifier: MIT
 *
 * agent_bed - an agent thread with the test as its daemon.
 */
#ifndef AGENT_BED_H
#define AGENT_BED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent.h"

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

#define TRIMMED 1000u           /* pages that it hands back, each time */
#define WANTED 77u
#define ROOM 500u               /* pages that its balloon has room for */
#define TICK_MS 5
#define DONE_MASK 0xa5u         /* the runs that it does; done[1] is how many came */

struct daemon {
	struct agent agent;
	atomic_int fd;          /* its end of the newest connection */
	atomic_int link;        /* the agent's end, by tell_link */
	atomic_int connects, trims, ticks, remaps, zaps, balloons;
	int refuse;             /* connections are refused with this */
};

/* The newest: one for each test, as the thread of the last may still be about to end. */
extern struct daemon *d;
extern char order[512];         /* the arguments with which note was called */

extern const struct agent_ops ops, ticking;

void start_with(const struct agent_ops *o);
void start(void);
void stop(void);
/* The agent has ended by itself. */
void expect_end(void);

void press(int fd, uint32_t level, uint32_t seq);
/* Receives RELEASED. */
uint64_t released(uint32_t seq);
/* Sends BALLOON; receives BALLOONED, and returns its pages. */
void wish(int fd, uint64_t pages, uint32_t seq);
uint64_t ballooned(uint32_t seq);
/* A callback: writes arg, a letter, into order. */
uint64_t note(void *arg, int level, uint64_t wanted_pages);

#endif /* AGENT_BED_H */
