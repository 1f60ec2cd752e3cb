/* SPDX-License-Identifier: MIT
 *
 * What the file cache keeps: the queues and the index against trivial models, and
 * S3-FIFO against LRU where a scan meets a hot set.
 */
#include "cache_index.h"
#include "cache_policy.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

static uint64_t state = 1;

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static uint64_t below(uint64_t n)
{
	return mix(state += 0x9e3779b97f4a7c15u) % n;
}

/* --- the index ------------------------------------------------------------------ */

#define NUMBERS 300u

static void test_index(void)
{
	static uint64_t number[NUMBERS];
	static bool there[NUMBERS];
	struct cache_slab nodes;
	struct cache_index x;
	int round;
	unsigned i;

	cache_slab_init(&nodes, sizeof(struct cache_index_node));
	cache_index_init(&x, &nodes);
	/* Near each other, and at all distances. */
	for (i = 0; i < NUMBERS; i++)
		number[i] = i < 100 ? i * 3 : mix(i) >> (i % 64);
	for (round = 0; round < 20000; round++) {
		uint64_t from = below(2) ? number[below(NUMBERS)] : mix(below(1000)) >> below(64);
		uint64_t found = from, least = UINT64_MAX;
		void *got;
		bool any = false;

		i = (unsigned)below(NUMBERS);
		got = cache_index_get(&x, number[i]);
		if (got && below(20) < 9u + (unsigned)(round / 4000) % 3) {
			cache_index_remove(&x, *(uint64_t *)got);
			there[(uint64_t *)got - number] = false;
		} else if (!got) {
			CHECK(!there[i]);
			CHECK(!cache_index_put(&x, number[i], &number[i]));
			there[i] = true;
		}
		for (i = 0; i < NUMBERS; i++) {
			if (!there[i] || number[i] < from || number[i] > least)
				continue;
			least = number[i];
			any = true;
		}
		got = cache_index_next(&x, &found);
		CHECK(any == (got != NULL));
		CHECK(!any || (found == least && *(uint64_t *)got == least));
	}
	for (i = 0; i < NUMBERS; i++)
		if (there[i])
			cache_index_remove(&x, number[i]);
	CHECK(!x.root && !x.levels);
	cache_slab_fini(&nodes);
}

/* --- the queues ------------------------------------------------------------------ */

#define ENTRIES 512u

static void test_queues_hold_what_joined(void)
{
	static bool in[ENTRIES];
	struct cache_policy p;
	uint64_t count = 0;
	int round;

	CHECK(!cache_policy_init(&p, ENTRIES));
	CHECK(cache_policy_victim(&p, 0) == CACHE_POLICY_NONE);
	for (round = 0; round < 200000; round++) {
		uint32_t i = (uint32_t)below(ENTRIES);

		switch (below(4)) {
		case 0:
			if (in[i])
				break;
			cache_policy_join(&p, i, mix(below(5000)));
			in[i] = true;
			count++;
			break;
		case 1:
			if (in[i])
				cache_policy_use(&p, i);
			break;
		case 2:
			if (!in[i])
				break;
			if (below(2)) {
				cache_policy_return(&p, i);
				break;
			}
			cache_policy_leave(&p, i);
			in[i] = false;
			count--;
			break;
		default:
			i = cache_policy_victim(&p, 0);
			CHECK((i == CACHE_POLICY_NONE) == !count);
			if (!count)
				break;
			CHECK(in[i]);
			if (below(4)) {
				cache_policy_give_up(&p, i, mix(below(5000)));
				in[i] = false;
				count--;
			} else if (below(2)) {
				cache_policy_put_off(&p, i);
			} else {
				cache_policy_set_aside(&p, i);
			}
		}
		CHECK(cache_policy_pages(&p) == count);
	}
	cache_policy_fini(&p);
}

static void test_ghosts(void)
{
	struct cache_policy p;
	uint32_t i;

	CHECK(!cache_policy_init(&p, ENTRIES));
	for (i = 0; i < ENTRIES; i++)
		CHECK(!cache_policy_join(&p, i, mix(i)));
	CHECK(cache_policy_victim(&p, 0) == 0);
	cache_policy_give_up(&p, 0, mix(0));
	CHECK(cache_policy_join(&p, 0, mix(0)));
	CHECK(p.page[0].queue == CACHE_QUEUE_MAIN);
	/* A ghost is used once, and gone after as many others as there are pages. */
	cache_policy_leave(&p, 0);
	CHECK(!cache_policy_join(&p, 0, mix(0)));
	for (i = 0; i < 2 * ENTRIES; i++) {
		uint32_t victim = cache_policy_victim(&p, 0);

		cache_policy_give_up(&p, victim, mix(1000 + i));
		CHECK(!cache_policy_join(&p, victim, mix(100000 + i)));
	}
	cache_policy_leave(&p, 1);
	CHECK(!cache_policy_join(&p, 1, mix(1000)));
	cache_policy_leave(&p, 1);
	CHECK(cache_policy_join(&p, 1, mix(1000 + 2 * ENTRIES - 1)));
	cache_policy_fini(&p);
}

/* --- against LRU --------------------------------------------------------------------- */

#define CACHE_PAGES 1000u
#define WORLD 64000u

struct cached {
	uint32_t entry_of[WORLD];       /* + 1; 0: not there */
	uint32_t page_of[CACHE_PAGES];
	uint64_t used[CACHE_PAGES];     /* of LRU */
	uint32_t held;
	uint64_t now;
};

static bool use_lru(struct cached *c, uint32_t page)
{
	uint32_t i, oldest = 0;
	bool hit = c->entry_of[page];

	if (!hit && c->held < CACHE_PAGES) {
		oldest = c->held++;
	} else if (!hit) {
		for (i = 1; i < CACHE_PAGES; i++)
			oldest = c->used[i] < c->used[oldest] ? i : oldest;
		c->entry_of[c->page_of[oldest]] = 0;
	}
	if (!hit) {
		c->entry_of[page] = oldest + 1;
		c->page_of[oldest] = page;
	}
	c->used[c->entry_of[page] - 1] = ++c->now;
	return hit;
}

static bool use_s3(struct cache_policy *p, struct cached *c, uint32_t page)
{
	uint32_t i;

	if (c->entry_of[page]) {
		cache_policy_use(p, c->entry_of[page] - 1);
		return true;
	}
	i = c->held;
	if (i < CACHE_PAGES) {
		c->held++;
	} else {
		i = cache_policy_victim(p, 0);
		cache_policy_give_up(p, i, mix(c->page_of[i]));
		c->entry_of[c->page_of[i]] = 0;
	}
	cache_policy_join(p, i, mix(page));
	c->entry_of[page] = i + 1;
	c->page_of[i] = page;
	return false;
}

enum trace { HOT_AND_SCAN, SKEWED, LOOP };

/* Page 0 to 799: hot. */
static uint32_t next_page(enum trace t, uint32_t step)
{
	switch (t) {
	case HOT_AND_SCAN:
		/* Two of three accesses go on through all pages, as a backup does. */
		return step % 3 ? 800 + (step - step / 3) % (WORLD - 800) : (uint32_t)below(800);
	case SKEWED:
		return (uint32_t)(below(below(below(WORLD) + 1) + 1));
	default:
		return step % 1500;
	}
}

/* Percent of hits, of the hot pages where there are such. */
static void compare(enum trace t, uint32_t steps, double *lru, double *s3)
{
	static struct cached a, b;
	struct cache_policy p;
	uint64_t hits_lru = 0, hits_s3 = 0, counted = 0;
	uint32_t step;

	memset(&a, 0, sizeof(a));
	memset(&b, 0, sizeof(b));
	CHECK(!cache_policy_init(&p, CACHE_PAGES));
	for (step = 0; step < steps; step++) {
		uint32_t page = next_page(t, step);
		bool hit_lru = use_lru(&a, page), hit_s3 = use_s3(&p, &b, page);

		if (step < steps / 4 || (t == HOT_AND_SCAN && page >= 800))
			continue;
		counted++;
		hits_lru += hit_lru;
		hits_s3 += hit_s3;
	}
	*lru = 100.0 * (double)hits_lru / (double)counted;
	*s3 = 100.0 * (double)hits_s3 / (double)counted;
	cache_policy_fini(&p);
}

static void test_against_lru(void)
{
	static const char *const name[] = { "hot set and scan", "skewed", "loop" };
	/* What S3-FIFO has to do better by, in points. */
	static const double better[] = { 40, 0, 20 };
	double lru, s3;
	int t;

	for (t = HOT_AND_SCAN; t <= LOOP; t++) {
		compare((enum trace)t, 60000, &lru, &s3);
		printf("%s: hits LRU %.1f %%, S3-FIFO %.1f %%\n", name[t], lru, s3);
		CHECK(s3 >= lru + better[t]);
	}
}

int main(void)
{
	test_index();
	test_queues_hold_what_joined();
	test_ghosts();
	test_against_lru();
	return 0;
}
