/* SPDX-License-Identifier: MIT */
#include "victims.h"

#include <stdlib.h>
#include <string.h>

#include "activity.h"
#include "clock.h"
#include "guest.h"
#include "locks.h"
#include "machine.h"

#define LIST_NS NS_PER_S                /* so long a list is believed */
#define LISTS_MAX 2u                    /* that one user goes through */
#define GRADE_SHIFT 28u
#define CHUNK_MASK ((1u << GRADE_SHIFT) - 1)

static uint64_t random_locked(struct victims *v, uint64_t below)
{
	uint64_t x = v->random ? v->random : clock_ns() | 1;

	/* xorshift64 */
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	v->random = x;
	return x % below;
}

uint64_t victims_random(struct guest *g, uint64_t below)
{
	uint64_t found;

	lock(&g->activity.lock);
	found = random_locked(&g->activity.victims, below);
	unlock(&g->activity.lock);
	return found;
}

/* What was of that grade so long ago is of a higher one now. */
static unsigned grade_now(unsigned grade, unsigned age_ticks)
{
	uint64_t age = age_ticks / IDLE_TICKS_PER_S, k;

	if (grade < GRADE_IDLE)
		return age ? GRADE_IDLE : grade;
	k = grade - GRADE_IDLE;
	for (age += 1ull << k; k + 1 < UVMM_IDLE_AGES && age >> (k + 1); k++)
		;
	return (unsigned)(GRADE_IDLE + k);
}

static bool add(struct victim_list *l, uint32_t entry)
{
	size_t room = l->room ? 2 * l->room : 256;
	uint32_t *more;

	if (l->n == l->room) {
		more = realloc(l->entry, room * sizeof(*more));
		if (!more)
			return false;
		l->entry = more;
		l->room = room;
	}
	l->entry[l->n++] = entry;
	return true;
}

static void begin_list(struct victim_list *l)
{
	l->n = l->at = 0;
	l->made_ns = clock_ns();
}

static bool is_old(const struct victim_list *l)
{
	return clock_ns() > l->made_ns + LIST_NS;
}

static void shuffle(struct victims *v, struct victim_list *l)
{
	size_t n, i;

	for (n = l->n; n > 1; n--) {
		uint32_t last = l->entry[n - 1];

		i = random_locked(v, n);
		l->entry[n - 1] = l->entry[i];
		l->entry[i] = last;
	}
}

static void clear_list(struct victim_list *l)
{
	l->n = l->at = 0;
	l->made_ns = 0;
}

/* --- what is idle ------------------------------------------------------------------- */

static void add_chunk(const struct guest *g, struct victim_list *l, uint64_t c, uint16_t tick)
{
	const struct activity_chunk *chunk = &g->activity.chunk[c];
	uint32_t grades = atomic_load(&chunk->grades);
	unsigned age = idle_age(tick, atomic_load(&chunk->tick));

	for (; grades; grades &= grades - 1)
		if (!add(l, (uint32_t)c | grade_now((unsigned)__builtin_ctz(grades), age) <<
				  GRADE_SHIFT))
			return;
}

static int by_grade(const void *a, const void *b)
{
	uint32_t p = *(const uint32_t *)a >> GRADE_SHIFT, q = *(const uint32_t *)b >> GRADE_SHIFT;

	return (p < q) - (p > q);
}

static void list_idle(const struct guest *g, struct victims *v)
{
	uint16_t tick = idle_tick(clock_ns());
	struct victim_list *l = &v->idle;
	uint64_t c;

	begin_list(l);
	for (c = 0; c < g->pmap.chunks; c++)
		add_chunk(g, l, c, tick);
	shuffle(v, l);
	if (l->n)
		qsort(l->entry, l->n, sizeof(*l->entry), by_grade);
}

bool victims_next(struct guest *g, unsigned *lists, uint64_t *chunk, unsigned *grade)
{
	struct victims *v = &g->activity.victims;
	struct victim_list *l = &v->idle;
	bool found;

	lock(&g->activity.lock);
	if (l->at == l->n || is_old(l)) {
		*lists += l->at == l->n;
		if (*lists <= LISTS_MAX)
			list_idle(g, v);
	}
	found = l->at < l->n;
	if (found) {
		*chunk = l->entry[l->at] & CHUNK_MASK;
		*grade = l->entry[l->at++] >> GRADE_SHIFT;
	}
	unlock(&g->activity.lock);
	return found;
}

/* --- what is used -------------------------------------------------------------------- */

static void list_used(const struct guest *g, struct victims *v, bool away)
{
	struct victim_list *l = &v->used;
	uint64_t c, data = 0;

	begin_list(l);
	for (c = 0; c < g->pmap.chunks; c++) {
		if (data < c * UVMM_CHUNK_PAGES || !c)
			data = machine_seek_data(g->memfd, c * UVMM_CHUNK_PAGES);
		/* What is away is in no file: then each chunk is looked at. */
		if (!away && data == UINT64_MAX)
			break;
		if (!away)
			c = data / UVMM_CHUNK_PAGES;
		if (data / UVMM_CHUNK_PAGES == c || pmap_chunk_away(&g->pmap, c))
			if (!add(l, (uint32_t)c))
				break;
	}
	shuffle(v, l);
}

bool victims_next_used(struct guest *g, bool fresh, bool away, size_t *tried, uint64_t *chunk)
{
	struct victims *v = &g->activity.victims;
	struct victim_list *l = &v->used;
	bool found;

	lock(&g->activity.lock);
	if (!*tried && (fresh || is_old(l)))
		list_used(g, v, away);
	found = *tried < l->n;
	if (found) {
		*chunk = l->entry[l->at % l->n];
		l->at = (l->at + 1) % l->n;
		(*tried)++;
	}
	unlock(&g->activity.lock);
	return found;
}

void victims_clear(struct victims *v)
{
	clear_list(&v->idle);
	clear_list(&v->used);
}

void victims_fini(struct victims *v)
{
	free(v->idle.entry);
	free(v->used.entry);
	*v = (struct victims){ 0 };
}
