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
#include "scanner.h"
#include "session.h"
#include "sharing.h"
#include "tier.h"
#include "watcher.h"
#include "uvmm_core.h"

#define ENGINE_TIERS 1u         /* indexed by enum uvmm_tier */

struct uvmm_engine {
	struct uvmm_engine_config cfg;
	struct events events;
	struct registry registry;
	struct machine machine;
	struct low_pool low_pool;
	struct tier *tier[ENGINE_TIERS];
	struct pressure pressure;
	struct faults faults;
	struct reclaimer reclaimer;
	struct scanner scanner;
	struct watcher watcher;
	struct memfs *memfs;
	struct session *session;
	_Atomic int64_t chunks_by_page; /* to load before a large page is tried again */
	_Atomic uint32_t idle_cost_permille;    /* see idle.h */
	_Atomic uint64_t refused;
	_Atomic uint64_t damaged_pages;
	_Atomic uint64_t pinned_pages;
	struct sharing sharing;         /* counters */
};

/* --- the life of a guest (engine_guest.c) ----------------------------------- */

/* Its process has mapped the memory and handed uffd over, which is closed on
 * failure too. What an earlier image of the process had there is dropped: it
 * executed another program.
 *   -ESRCH  the guest with that number has ended    -EINVAL  not such a mapping */
int engine_guest_attach(struct uvmm_engine *e, struct guest *g, uint64_t id, int uffd,
			uint64_t base);
/* A connection of its process has gone. If the process has dropped its mapping (it
 * executes another program), the contents are freed. */
void engine_guest_left(struct uvmm_engine *e, struct guest *g, uint64_t id);
/* Its process has gone: detach it, free all it had, tell of it. Once a guest. */
void engine_guest_ended(struct uvmm_engine *e, struct guest *g);

extern const struct memfs_ops engine_memfs_ops;         /* ctx is the engine */

#endif /* ENGINE_H */
