/* SPDX-License-Identifier: MIT
 *
 * engine - the parts of the data plane and the order of their lives: start in
 * the order of the fields, stop in its mirror.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include "events.h"
#include "fault.h"
#include "guest.h"
#include "machine.h"
#include "memfs.h"
#include "pressure.h"
#include "reclaim.h"
#include "session.h"
#include "tier.h"
#include "uvmm_core.h"

#define ENGINE_TIERS 1u         /* indexed by enum uvmm_tier */

struct uvmm_engine {
	struct uvmm_engine_config cfg;
	struct events events;
	struct registry registry;
	struct machine machine;
	struct tier *tier[ENGINE_TIERS];
	struct pressure pressure;
	struct faults faults;
	struct reclaimer reclaimer;
	struct memfs *memfs;
	struct session *session;
	_Atomic uint64_t refused;
	_Atomic uint64_t damaged_pages;
};

/* The guest's process has gone: detach it, free all it had, tell of it. Called
 * by the session thread only. */
void engine_guest_ended(struct uvmm_engine *e, struct guest *g);
/* Its program executed another, which attaches now: the old contents go. */
int engine_guest_emptied(struct uvmm_engine *e, struct guest *g);

#endif /* ENGINE_H */
