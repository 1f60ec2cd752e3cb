/* SPDX-License-Identifier: MIT
 * Shared frames, and who maps them: the engine's side of uvmm_frames() and its kin. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"

struct search {
	uint64_t lo, hi;        /* frames */
	struct uvmm_frame_ref *ref;
	size_t cap, n;
};

static void add(struct search *s, uint64_t frame, uint64_t guest, uint64_t ppn)
{
	if (s->n < s->cap)
		s->ref[s->n] = (struct uvmm_frame_ref){ frame, guest, ppn };
	s->n++;
}

static void search_chunk(struct search *s, const struct guest *g, uint64_t lo)
{
	uint64_t ppn;

	for (ppn = lo; ppn < lo + UVMM_CHUNK_PAGES; ppn++) {
		pmap_entry e = pmap_get(&g->pmap, ppn);
		uint64_t frame = pmap_handle(e);

		if ((pmap_state(e) == PAGE_SHARED || pmap_state(e) == PAGE_REMAPPING) && !pmap_handle_is_low(pmap_handle(e)) &&
		    frame >= s->lo && frame < s->hi)
			add(s, frame, g->id, ppn);
	}
}

static void search_guest(struct search *s, const struct guest *g)
{
	uint64_t chunk;

	for (chunk = 0; chunk < g->pmap.chunks; chunk++)
		if (pmap_chunk_away(&g->pmap, chunk))
			search_chunk(s, g, chunk * UVMM_CHUNK_PAGES);
}

static int compare(const void *a, const void *b)
{
	const struct uvmm_frame_ref *x = a, *y = b;

	if (x->frame != y->frame)
		return x->frame < y->frame ? -1 : 1;
	if (x->guest != y->guest)
		return x->guest < y->guest ? -1 : 1;
	return x->ppn < y->ppn ? -1 : x->ppn > y->ppn;
}

#pragma GCC visibility push(default)

void uvmm_groups(uvmm_engine *e, struct uvmm_group *group, size_t cap, size_t *n)
{
	*n = groups_list(&e->registry.groups, group, cap);
}

int uvmm_frames(uvmm_engine *e, const char *group, uint64_t from, struct uvmm_frame *frame,
		size_t cap, size_t *n)
{
	return groups_frames(&e->registry.groups, group, from, frame, cap, n);
}

int uvmm_frame_peek(uvmm_engine *e, const char *group, uint64_t frame, uint64_t hash,
		    void *dst)
{
	return groups_read(&e->registry.groups, group, frame, hash, dst);
}

void uvmm_frame_refs(uvmm_engine *e, const char *group, uint64_t lo, uint64_t hi,
		     struct uvmm_frame_ref *ref, size_t cap, size_t *n)
{
	struct search s = { .lo = lo, .hi = hi, .ref = ref, .cap = cap };
	struct guest *g;
	size_t at = 0;

	while ((g = guest_next_entered(&e->registry, &at))) {
		if (g->group && !strcmp(g->group->name, group))
			search_guest(&s, g);
		guest_leave(g);
	}
	qsort(ref, s.n < cap ? s.n : cap, sizeof(*ref), compare);
	*n = s.n;
}

#pragma GCC visibility pop
