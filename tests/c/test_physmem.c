/* SPDX-License-Identifier: MIT
 *
 * The page allocator against a model that knows who has which page, and by
 * several threads at once with trims going on.
 */
#include "physmem.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 4096u
#define HELD_MAX 500u

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

struct held {
	uint64_t page, n;
};

static void test_edges(void)
{
	struct physmem m;
	uint64_t page, other;

	CHECK(!physmem_init(&m, PAGES));
	CHECK(physmem_alloc_block(&m, PHYSMEM_ORDER_MAX + 1, &page) == -EINVAL);
	CHECK(physmem_alloc_block(&m, PHYSMEM_ORDER_MAX, &page) == -ENOMEM);
	CHECK(physmem_alloc_run(&m, 0, &page) == -EINVAL);
	CHECK(physmem_alloc_run(&m, PAGES + 1, &page) == -ENOMEM);
	CHECK(!physmem_alloc_run(&m, PAGES, &page) && page == 0);
	CHECK(physmem_free_pages(&m) == 0);
	CHECK(physmem_alloc_run(&m, 1, &other) == -ENOMEM);
	CHECK(physmem_free(&m, 0, PAGES - 1) == -EINVAL);
	CHECK(physmem_free(&m, 1, 1) == -EINVAL);
	CHECK(physmem_free(&m, PAGES, 1) == -EINVAL);
	CHECK(!physmem_free(&m, 0, PAGES));
	CHECK(physmem_free(&m, 0, PAGES) == -EINVAL);
	CHECK(physmem_free_pages(&m) == PAGES);
	/* The tail of a power of two is not wasted. */
	CHECK(!physmem_alloc_run(&m, 5, &page) && page == 0);
	CHECK(!physmem_alloc_run(&m, 5, &page) && page == 5);
	CHECK(!physmem_alloc_run(&m, 3, &page) && page == 10);
	CHECK(!physmem_free(&m, 5, 5));
	CHECK(!physmem_alloc_run(&m, 3, &page) && page == 5);
	CHECK(!physmem_alloc_run(&m, 2, &page) && page == 8);
	physmem_fini(&m);
}

static int count_discard(void *arg, uint64_t page, uint64_t n)
{
	uint64_t *sum = arg;

	(void)page;
	*sum += n;
	return 0;
}

static int fail_discard(void *arg, uint64_t page, uint64_t n)
{
	(void)arg, (void)page, (void)n;
	return -ECONNRESET;
}

static void test_trim(void)
{
	struct physmem m;
	uint64_t a, b, pages, sum = 0;

	CHECK(!physmem_init(&m, PAGES));
	CHECK(!physmem_alloc_run(&m, 100, &a));
	CHECK(!physmem_alloc_run(&m, 50, &b));
	CHECK(!physmem_free(&m, a, 100));
	CHECK(physmem_trim(&m, 1, fail_discard, NULL, &pages) == -ECONNRESET && !pages);
	CHECK(!physmem_trim(&m, 1, count_discard, &sum, &pages));
	CHECK(pages == 100 && sum == 100);
	CHECK(!physmem_trim(&m, 1, count_discard, &sum, &pages) && !pages);
	CHECK(!physmem_free(&m, b, 50));
	CHECK(!physmem_trim(&m, 1, count_discard, &sum, &pages) && pages == 50);
	CHECK(!physmem_alloc_run(&m, PAGES, &a));
	physmem_fini(&m);
}

/* Refuses what has this page in it. */
struct pinned {
	uint64_t page;
	uint64_t sum;
};

static int refuse_pinned(void *arg, uint64_t page, uint64_t n)
{
	struct pinned *p = arg;

	if (p->page >= page && p->page < page + n)
		return -EBUSY;
	p->sum += n;
	return 0;
}

static void test_trim_goes_round_a_pinned_page(void)
{
	struct pinned p = { .page = PAGES / 3 };
	struct physmem m;
	uint64_t page, pages, left;

	CHECK(!physmem_init(&m, PAGES));
	CHECK(!physmem_alloc_run(&m, PAGES, &page) && !physmem_free(&m, page, PAGES));
	CHECK(physmem_trim(&m, 1, refuse_pinned, &p, &pages) == -EBUSY && pages == p.sum);
	CHECK(pages < PAGES && pages >= PAGES - 64);
	CHECK(physmem_free_pages(&m) == PAGES);
	left = PAGES - pages;
	p.page = UINT64_MAX;
	CHECK(!physmem_trim(&m, 1, refuse_pinned, &p, &pages) && pages == left);
	physmem_fini(&m);
}

/* What was never used holds nothing: it is not handed back, nor counted. */
static void test_trim_leaves_clean_pages(void)
{
	struct physmem m;
	uint64_t page, pages, sum = 0;

	CHECK(!physmem_init(&m, PAGES));
	CHECK(!physmem_trim(&m, 1, count_discard, &sum, &pages) && !pages);
	CHECK(!physmem_alloc_run(&m, 3, &page) && !physmem_free(&m, page, 3));
	CHECK(!physmem_trim(&m, 1, count_discard, &sum, &pages) && pages == 3 && sum == 3);
	physmem_fini(&m);
}

/* The longest run of free pages by the model. */
static uint64_t longest(const unsigned char *owned)
{
	uint64_t best = 0, run = 0, i;

	for (i = 0; i < PAGES; i++) {
		run = owned[i] ? 0 : run + 1;
		best = run > best ? run : best;
	}
	return best;
}

static void take(struct physmem *m, unsigned char *owned, struct held *h, size_t *held)
{
	uint64_t n = 1 + (uint64_t)rand() % (rand() % 4 ? 16 : 600), page, i;
	int rc;

	if (rand() % 3) {
		rc = physmem_alloc_run(m, n, &page);
		CHECK(rc == (longest(owned) < n ? -ENOMEM : 0));
	} else {
		unsigned order = (unsigned)rand() % 8;

		n = 1ull << order;
		rc = physmem_alloc_block(m, order, &page);
		CHECK(rc || page % n == 0);
	}
	if (rc)
		return;
	for (i = page; i < page + n; i++) {
		CHECK(i < PAGES && !owned[i]);
		owned[i] = 1;
	}
	h[(*held)++] = (struct held){ page, n };
}

static void test_against_model(void)
{
	static unsigned char owned[PAGES];
	struct held h[HELD_MAX];
	size_t held = 0, k;
	struct physmem m;
	uint64_t used = 0;
	int step;

	srand(1);
	CHECK(!physmem_init(&m, PAGES));
	for (step = 0; step < 20000; step++) {
		if (held < HELD_MAX && rand() % 2) {
			take(&m, owned, h, &held);
		} else if (held) {
			k = (size_t)rand() % held;
			CHECK(physmem_free(&m, h[k].page, h[k].n + 1) == -EINVAL);
			CHECK(!physmem_free(&m, h[k].page, h[k].n));
			memset(owned + h[k].page, 0, h[k].n);
			h[k] = h[--held];
		}
		for (used = 0, k = 0; k < held; k++)
			used += h[k].n;
		CHECK(physmem_free_pages(&m) == PAGES - used);
	}
	while (held--)
		CHECK(!physmem_free(&m, h[held].page, h[held].n));
	CHECK(!physmem_alloc_run(&m, PAGES, &used));
	physmem_fini(&m);
}

struct shared {
	struct physmem m;
	_Atomic unsigned char owned[PAGES];
	_Atomic int stop;
};

/* Marks n pages, all of which are to be in the other state now. */
static void own(unsigned char *owned, uint64_t page, uint64_t n, bool now)
{
	uint64_t i;

	for (i = page; i < page + n; i++) {
		CHECK(owned[i] != now);
		owned[i] = now;
	}
}

/* Ranges cut and joined as a program does with mappings. */
static void test_ranges_against_model(void)
{
	static unsigned char owned[PAGES];
	struct physmem m;
	uint64_t round, page, n, i, held = 0, runs;

	CHECK(!physmem_init(&m, PAGES));
	CHECK(physmem_take(&m, 1, 3, &page) == -EINVAL && physmem_take(&m, 0, 1, &page) == -EINVAL);
	CHECK(physmem_take_at(&m, PAGES, 1) == -ENOMEM && physmem_take_at(&m, 1, PAGES) == -ENOMEM);
	srandom(11);
	for (round = 0; round < 200000; round++) {
		n = 1 + (uint64_t)random() % 90;
		page = (uint64_t)random() % (PAGES - n);
		switch (random() % 4) {
		case 0: {
			uint64_t align = 1ull << random() % 8;

			if (!physmem_take(&m, n, align, &page)) {
				CHECK(page % align == 0);
				own(owned, page, n, true);
				held += n;
			}
			break;
		}
		case 1: {
			for (i = page; i < page + n && owned[i]; i++)
				;
			CHECK(physmem_is_used(&m, page, n) == (i == page + n));
			for (i = page; i < page + n && !owned[i]; i++)
				;
			CHECK(physmem_take_at(&m, page, n) == (i < page + n ? -ENOMEM : 0));
			if (i == page + n) {
				own(owned, page, n, true);
				held += n;
			}
			break;
		}
		default: {
			uint64_t given = 0;

			for (i = page; i < page + n; i++) {
				given += owned[i];
				owned[i] = false;
			}
			CHECK(physmem_give(&m, page, n) == given);
			held -= given;
		}
		}
		CHECK(physmem_free_pages(&m) == PAGES - held);
		for (page = 0, runs = 0; physmem_next_run(&m, &page, &n); page += n) {
			for (i = page; i < page + n; i++)
				CHECK(owned[i]);
			runs += n;
		}
		CHECK(runs == held);
	}
	physmem_give(&m, 0, PAGES);
	CHECK(!physmem_alloc_run(&m, PAGES, &page));
	physmem_fini(&m);
}

static int check_discard(void *arg, uint64_t page, uint64_t n)
{
	struct shared *s = arg;
	uint64_t i;

	for (i = page; i < page + n; i++)
		CHECK(!s->owned[i]);
	return 0;
}

static void *churn(void *arg)
{
	struct shared *s = arg;
	unsigned seed = (unsigned)(uintptr_t)&seed;
	int step;

	for (step = 0; step < 5000; step++) {
		uint64_t n = 1 + (uint64_t)rand_r(&seed) % 300, page, i;

		if (physmem_alloc_run(&s->m, n, &page))
			continue;
		for (i = page; i < page + n; i++)
			CHECK(!s->owned[i]++);
		for (i = page; i < page + n; i++)
			s->owned[i]--;
		CHECK(!physmem_free(&s->m, page, n));
	}
	return NULL;
}

static void *trim(void *arg)
{
	struct shared *s = arg;

	while (!s->stop)
		CHECK(!physmem_trim(&s->m, 1, check_discard, s, NULL));
	return NULL;
}

static void test_threads(void)
{
	static struct shared s;
	pthread_t t[4], trimmer[2];
	uint64_t page;
	int i;

	CHECK(!physmem_init(&s.m, PAGES));
	for (i = 0; i < 2; i++)
		pthread_create(&trimmer[i], NULL, trim, &s);
	for (i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, churn, &s);
	for (i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	s.stop = 1;
	for (i = 0; i < 2; i++)
		pthread_join(trimmer[i], NULL);
	CHECK(!physmem_alloc_run(&s.m, PAGES, &page));
	physmem_fini(&s.m);
}

int main(void)
{
	test_edges();
	test_trim();
	test_trim_goes_round_a_pinned_page();
	test_trim_leaves_clean_pages();
	test_against_model();
	test_ranges_against_model();
	test_threads();
	printf("physmem: ok\n");
	return 0;
}
