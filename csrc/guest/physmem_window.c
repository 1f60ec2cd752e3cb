/* SPDX-License-Identifier: MIT
 * Where a run of free pages could be; see physmem.h. */
#include "physmem.h"
#include "physmem_sets.h"

bool physmem_window(struct physmem *m, const struct physmem_want *w, uint64_t from,
		    const struct physmem_giver *g, uint64_t *page)
{
	uint64_t align = w->block ? 1ull << w->order : 1;
	uint64_t at = 0, start = (from + align - 1) / align * align;
	bool found = false;

	pthread_mutex_lock(&m->lock);
	while (at < m->pages && !found) {
		unsigned order = physmem_block_at(m, at);
		bool aside = order == PHYSMEM_ORDERS && m->run[at] & RUN_ASIDE;
		uint64_t run = order == PHYSMEM_ORDERS ? m->run[at] & ~RUN_ASIDE : 1ull << order;
		bool usable = order < PHYSMEM_ORDERS ||
			      (aside && (g->balloon || !bits_has(&m->balloon, at))) ||
			      (!aside && run == 1 && g->yields(g->arg, at));

		at += run;
		if (!usable && at > start)
			start = (at + align - 1) / align * align;
		found = at >= start && at - start >= w->n;
	}
	pthread_mutex_unlock(&m->lock);
	*page = start;
	return found;
}
