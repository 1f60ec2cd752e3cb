/* SPDX-License-Identifier: MIT
 * What the control plane asks about a guest's activity, and what it does to it. */
#include <errno.h>

#include "engine.h"

static int enter(struct uvmm_engine *e, uint64_t id, struct guest **g)
{
	*g = guest_enter_id(&e->registry, id);
	if (*g)
		return 0;
	return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
}

#pragma GCC visibility push(default)

int uvmm_guest_sample(uvmm_engine *e, uint64_t id, uint32_t pages)
{
	struct guest *g;
	int rc;

	if (!pages || pages > UVMM_SAMPLE_PAGES_MAX)
		return -EINVAL;
	rc = enter(e, id, &g);
	if (rc)
		return rc;
	rc = sample_begin(e, g, pages);
	guest_leave(g);
	return rc;
}

int uvmm_set_idle_cost(uvmm_engine *e, uint32_t permille)
{
	if (permille > 1000)
		return -EINVAL;
	atomic_store(&e->idle_cost_permille, permille);
	return 0;
}

int uvmm_guest_block(uvmm_engine *e, uint64_t id, uint64_t until_ns)
{
	struct guest *g;
	int rc = enter(e, id, &g);

	if (rc)
		return rc;
	pressure_block(e, g, until_ns);
	guest_leave(g);
	return 0;
}

#pragma GCC visibility pop
