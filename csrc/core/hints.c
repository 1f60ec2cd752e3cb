/* SPDX-License-Identifier: MIT */
#include "hints.h"

#include <errno.h>
#include <sys/mman.h>

#include "locks.h"

#define WAYS 4u                 /* a line of the CPU's cache */
#define LINES_FIRST 256u

struct hint {
	uint64_t hash;
	uint64_t place;         /* 0: none */
};

/* NULL: no memory */
static struct hint *new_table(uint64_t lines)
{
	void *map = mmap(NULL, lines * WAYS * sizeof(struct hint), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

int hints_init(struct hints *h, uint64_t pages)
{
	uint64_t most = pages * 3 / 2 / WAYS + 2;       /* two thirds full */

	*h = (struct hints){ .lines = most < LINES_FIRST ? most : LINES_FIRST, .most = most };
	h->line = new_table(h->lines);
	if (!h->line)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	return 0;
}

void hints_fini(struct hints *h)
{
	munmap(h->line, h->lines * WAYS * sizeof(*h->line));
	pthread_mutex_destroy(&h->lock);
	*h = (struct hints){ 0 };
}

/* The top of the product is as evenly spread as the hash is. */
static uint64_t scale(uint64_t hash, uint64_t lines)
{
	return (uint64_t)((unsigned __int128)hash * lines >> 64);
}

static struct hint *line_of(const struct hints *h, uint64_t hash, int which)
{
	uint64_t other = hash * 0x9e3779b97f4a7c15ull;
	uint64_t line = scale(which ? other : hash, h->lines);

	return h->line + line * WAYS;
}

static unsigned fill_of(const struct hint *line)
{
	unsigned i, n = 0;

	for (i = 0; i < WAYS; i++)
		n += line[i].place != 0;
	return n;
}

static struct hint *exact_locked(struct hints *h, uint64_t hash, uint64_t place)
{
	unsigned i;

	for (i = 0; i < 2 * WAYS; i++) {
		struct hint *at = line_of(h, hash, i >= WAYS) + i % WAYS;

		if (at->place == place && at->hash == hash)
			return at;
	}
	return NULL;
}

static void put_locked(struct hints *h, uint64_t hash, uint64_t place)
{
	struct hint *line = line_of(h, hash, 0), *other = line_of(h, hash, 1);
	unsigned i = 0;

	if (fill_of(other) < fill_of(line))
		line = other;
	while (i < WAYS && line[i].place)
		i++;
	if (i == WAYS) {
		i = h->turn++ % WAYS;
		h->lost++;
	} else {
		h->used++;
	}
	line[i] = (struct hint){ hash, place };
}

/* Where there is no memory for that, hints begin to give way sooner. */
static void grow_locked(struct hints *h)
{
	uint64_t former = h->lines, i;
	struct hint *old = h->line, *new;

	if (former == h->most || h->used < former * WAYS / 2)
		return;
	new = new_table(2 * former < h->most ? 2 * former : h->most);
	if (!new)
		return;
	h->line = new;
	h->lines = 2 * former < h->most ? 2 * former : h->most;
	h->used = 0;
	for (i = 0; i < former * WAYS; i++)
		if (old[i].place)
			put_locked(h, old[i].hash, old[i].place);
	munmap(old, former * WAYS * sizeof(*old));
}

void hints_put(struct hints *h, uint64_t hash, uint64_t place)
{
	lock(&h->lock);
	if (!exact_locked(h, hash, place)) {
		grow_locked(h);
		put_locked(h, hash, place);
	}
	unlock(&h->lock);
}

size_t hints_find(struct hints *h, uint64_t hash, uint64_t place[HINTS_FOUND_MAX])
{
	const struct hint *first, *other;
	unsigned i, both;
	size_t n = 0;

	lock(&h->lock);
	first = line_of(h, hash, 0);
	other = line_of(h, hash, 1);
	both = first == other ? WAYS : 2 * WAYS;
	for (i = 0; i < both; i++) {
		const struct hint *at = (i < WAYS ? first : other) + i % WAYS;

		if (at->place && at->hash == hash)
			place[n++] = at->place;
	}
	unlock(&h->lock);
	return n;
}

void hints_drop(struct hints *h, uint64_t hash, uint64_t place)
{
	struct hint *at;

	lock(&h->lock);
	at = exact_locked(h, hash, place);
	if (at) {
		at->place = 0;
		h->used--;
	}
	unlock(&h->lock);
}

uint64_t hints_used(struct hints *h)
{
	uint64_t used;

	lock(&h->lock);
	used = h->used;
	unlock(&h->lock);
	return used;
}
