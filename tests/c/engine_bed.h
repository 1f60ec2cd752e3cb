/* SPDX-License-Identifier: MIT
 *
 * engine_bed - a whole data plane with real guests, for tests: processes of the same
 * program that obey script_guest.h. Whatever goes wrong ends the test. Needs root.
 */
#ifndef ENGINE_BED_H
#define ENGINE_BED_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "script_guest.h"
#include "uvmm_core.h"

#define MIB_PAGES 256u

/* A sanitizer's memory is the daemon's own, and leaves none for guests. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

#define CHECK(cond, ...) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond); \
			fprintf(stderr, __VA_ARGS__); \
			fprintf(stderr, "\n"); \
			_exit(1); \
		} \
	} while (0)

struct peer {
	pid_t pid;
	uint64_t id;
	char name[32];
	FILE *to, *from;
};

extern char plane_swap[128];      /* path of the swap file */
extern uint32_t plane_idle_permille;    /* idle_cost_permille of engines that are started */

uvmm_engine *plane_start(uint64_t memory_mib, uint64_t swap_mib, uint32_t via);
struct peer plane_guest(uvmm_engine *e, const char *name, uint64_t max_mib, const char *group);
/* Ends it, or kills it, and waits for that. */
void plane_end(struct peer *p, bool kill_it);

/* Its answer to the line, until the next; NULL: it has died. */
char *plane_ask(struct peer *p, const char *line);
/* The answer must be "ok". */
void plane_tell(struct peer *p, const char *line);

struct uvmm_guest_stats plane_stats(uvmm_engine *e, const struct peer *p);
struct uvmm_machine_stats plane_machine(uvmm_engine *e, size_t *guests);
void plane_wait_for_no_guests(uvmm_engine *e);
/* Takes events up to one of that kind; false: there is none. */
bool plane_next_event(uvmm_engine *e, enum uvmm_event_kind kind);

/* main(): a guest, or all tests in a process of their own, after which nothing may be
 * left. */
int plane_main(int argc, char **argv, void (*run_all)(void));

#endif /* ENGINE_BED_H */
