/* SPDX-License-Identifier: MIT */
#include "zap.h"

#include <stddef.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"

#define VALID_NS (200 * NS_PER_MS)      /* what was looked at is as it was for so long */
#define SCAN_WAIT_NS (2 * NS_PER_S)

uint32_t zap_send_locked(struct uvmm_engine *e, struct guest *g, struct uvmm_zap *m)
{
	struct zaps *z = &g->activity.zaps;
	size_t bytes = offsetof(struct uvmm_zap, run) + m->runs * sizeof(m->run[0]);

	m->until_ns = clock_ns() + VALID_NS;
	z->seq += z->seq == UINT32_MAX ? 2 : 1;
	return session_send_agent(e, g, UVMM_MSG_ZAP, z->seq, m, bytes, -1) ? 0 : z->seq;
}

bool zap_scan_may(struct guest *g, uint64_t now_ns)
{
	struct zaps *z = &g->activity.zaps;
	bool may;

	lock(&g->activity.lock);
	may = !z->scan_seq || now_ns > z->scan_until_ns;
	unlock(&g->activity.lock);
	return may;
}

void zap_scan_send(struct uvmm_engine *e, struct guest *g, struct uvmm_zap *m,
		   uint64_t now_ns)
{
	struct zaps *z = &g->activity.zaps;

	lock(&g->activity.lock);
	z->scan_seq = zap_send_locked(e, g, m);
	z->scan_until_ns = now_ns + SCAN_WAIT_NS;
	unlock(&g->activity.lock);
}

bool zap_answered(struct guest *g, uint32_t seq, const struct uvmm_zapped *answer)
{
	struct zaps *z = &g->activity.zaps;
	bool asked;

	lock(&g->activity.lock);
	/* Late is no fault of the agent's. */
	asked = seq && seq <= z->seq;
	if (asked)
		atomic_store(&z->agent_ns, answer->agent_ns);
	if (asked && seq == z->scan_seq)
		z->scan_seq = 0;
	else if (asked)
		sample_zapped_locked(g, seq, answer->done);
	unlock(&g->activity.lock);
	return asked;
}

void zap_clear(struct zaps *z)
{
	z->scan_seq = 0;
	atomic_store(&z->agent_ns, 0);
}
