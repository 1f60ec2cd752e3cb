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

static void count_unused(uint16_t *unused, uint64_t lo, uint64_t hi, bool usable)
{
	uint64_t chunk, to;

	for (; lo < hi; lo = to) {
		chunk = lo / UVMM_CHUNK_PAGES;
		to = (chunk + 1) * UVMM_CHUNK_PAGES;
		to = to < hi ? to : hi;
		if (!usable)
			unused[chunk] = PHYSMEM_NOT_TO_BE_HAD;
		else if (unused[chunk] != PHYSMEM_NOT_TO_BE_HAD)
			unused[chunk] = (uint16_t)(unused[chunk] + to - lo);
	}
}

void physmem_unused(struct physmem *m, const struct physmem_giver *g, uint16_t *unused)
{
	uint64_t at = 0, chunk;

	for (chunk = 0; chunk * UVMM_CHUNK_PAGES < m->pages; chunk++)
		unused[chunk] = 0;
	pthread_mutex_lock(&m->lock);
	while (at < m->pages) {
		unsigned order = physmem_block_at(m, at);
		bool used = order == PHYSMEM_ORDERS, aside = used && m->run[at] & RUN_ASIDE;
		uint64_t run = used ? m->run[at] & ~RUN_ASIDE : 1ull << order;

		if (!used || aside)
			count_unused(unused, at, at + run, !used || bits_has(&m->balloon, at));
		else if (run != 1 || !g->yields(g->arg, at))
			count_unused(unused, at, at + run, false);
		at += run;
	}
	pthread_mutex_unlock(&m->lock);
}
