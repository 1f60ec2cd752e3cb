/* SPDX-License-Identifier: MIT
 * libuvmm_heap.so: preloaded by `uvmm run`, it makes a program that knows nothing of
 * uvmm a guest. See space.h (memory), extents.h (malloc), maps.c (mmap), image.h
 * (exec), fork.h. */
#include "agent.h"
#include "extents.h"
#include "fork.h"
#include "image.h"
#include "space.h"

#define TICK_MS 250
#define IDLE_TICK_MS 1000

/* What the guest library looks for: it cannot have the memory as well. */
__attribute__((visibility("default"))) extern const char uvmm_heap_is_guest_memory;
const char uvmm_heap_is_guest_memory = 1;

static struct agent the_agent;

static int connect_agent(void *arg)
{
	char why[UVMM_TEXT_BYTES];

	(void)arg;
	return attach_role(&the_space.attachment, UVMM_ROLE_AGENT, why);
}

/* jemalloc has tables for each thread that has called it, and crashes if it finds no room for
 * them: so while there is some. */
static void begin(void *arg)
{
	(void)arg;
	extents_hook();
}

static uint64_t trim(void *arg)
{
	(void)arg;
	extents_hook();
	extents_decay();
	return space_trim();
}

static void remap(void *arg, const struct uvmm_remap *m, int frames,
		  struct uvmm_remapped *out)
{
	(void)arg;
	remap_serve(&the_space.remap, m, frames, out);
}

static void zap(void *arg, const struct uvmm_zap *m, struct uvmm_zapped *out)
{
	(void)arg;
	remap_zap(&the_space.remap, m, out);
}

static uint64_t balloon(void *arg, const struct uvmm_balloon *m, enum driver_pieces pieces,
			struct uvmm_ballooned *out)
{
	(void)arg;
	extents_hook();
	return driver_serve(&the_space.balloon, m, pieces, out);
}

/* What was freed a moment ago goes back though nothing else happens. */
static int tick(void *arg)
{
	return trim(arg) ? TICK_MS : IDLE_TICK_MS;
}

/* A guest without an agent only keeps what it has freed. */
static void start_agent(void)
{
	static const struct agent_ops ops = {
		.connect = connect_agent,
		.begin = begin,
		.trim = trim,
		.tick = tick,
		.remap = remap,
		.zap = zap,
		.balloon = balloon,
	};

	if (space_is_open())
		agent_start(&the_agent, &ops, NULL);
}

__attribute__((constructor(101))) static void start(void)
{
	if (!space_open())
		return;
	fork_register();
	image_open();
	extents_hook();
	fork_register_last(start_agent);
	start_agent();
}
