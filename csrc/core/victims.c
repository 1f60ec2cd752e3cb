/* SPDX-License-Identifier: MIT */
#include "victims.h"

#include <stdlib.h>
#include <string.h>

#include "activity.h"
#include "clock.h"
#include "guest.h"
#include "locks.h"

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

static bool add(struct victims *v, uint32_t entry)
{
	size_t room = v->room ? 2 * v->room : 256;
	uint32_t *more;

	if (v->n == v->room) {
		more = realloc(v->entry, room * sizeof(*more));
		if (!more)
			return false;
		v->entry = more;
		v->room = room;
	}
	v->entry[v->n++] = entry;
	return true;
}

static void add_chunk(const struct guest *g, struct victims *v, uint64_t c, uint16_t tick)
{
	const struct activity_chunk *chunk = &g->activity.chunk[c];
	uint32_t grades = atomic_load(&chunk->grades);
	unsigned age = idle_age(tick, atomic_load(&chunk->tick));

	for (; grades; grades &= grades - 1)
		if (!add(v, (uint32_t)c | grade_now((unsigned)__builtin_ctz(grades), age) <<
				  GRADE_SHIFT))
			return;
}

static void shuffle(struct victims *v, uint32_t *entry, size_t n)
{
	for (; n > 1; n--) {
		size_t i = random_locked(v, n);
		uint32_t last = entry[n - 1];

		entry[n - 1] = entry[i];
		entry[i] = last;
	}
}

static int by_grade(const void *a, const void *b)
{
	uint32_t p = *(const uint32_t *)a >> GRADE_SHIFT, q = *(const uint32_t *)b >> GRADE_SHIFT;

	return (p < q) - (p > q);
}

static void make_list(const struct guest *g, struct victims *v)
{
	uint16_t tick = idle_tick(clock_ns());
	uint64_t c;

	v->n = v->at = 0;
	v->made_ns = clock_ns();
	for (c = 0; c < g->pmap.chunks; c++)
		add_chunk(g, v, c, tick);
	shuffle(v, v->entry, v->n);
	if (v->n)
		qsort(v->entry, v->n, sizeof(*v->entry), by_grade);
}

bool victims_next(struct guest *g, unsigned *lists, uint64_t *chunk, unsigned *grade)
{
	struct victims *v = &g->activity.victims;
	bool found = false;

	lock(&g->activity.lock);
	if (v->at == v->n || clock_ns() > v->made_ns + LIST_NS) {
		*lists += v->at == v->n;
		if (*lists <= LISTS_MAX)
			make_list(g, v);
	}
	if (v->at < v->n) {
		*chunk = v->entry[v->at] & CHUNK_MASK;
		*grade = v->entry[v->at++] >> GRADE_SHIFT;
		found = true;
	}
	unlock(&g->activity.lock);
	return found;
}

void victims_clear(struct victims *v)
{
	v->n = v->at = 0;
	v->made_ns = 0;
}

void victims_fini(struct victims *v)
{
	free(v->entry);
	*v = (struct victims){ 0 };
}
