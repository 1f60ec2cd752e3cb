/* SPDX-License-Identifier: MIT
 *
 * Pages that go from the page allocator into the balloon and back, against a model that
 * knows where each page is; and the sets of numbers that they are in.
 */
#include "physmem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGES 4096u
#define HELD_MAX 300u
#define RUNS 8u

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

enum place { FREE = 0, USED, IN };

struct model {
	struct physmem m;
	enum place at[PAGES];
	bool dirty[PAGES];
	struct uvmm_range held[HELD_MAX];
	size_t n_held;
	uint64_t rescues;
};

static void move(struct model *o, const struct uvmm_range *r, enum place from, enum place to)
{
	uint64_t i;

	CHECK(r->pages && r->ppn + r->pages <= PAGES);
	for (i = r->ppn; i < r->ppn + r->pages; i++) {
		CHECK(o->at[i] == from);
		o->at[i] = to;
	}
}

static void move_all(struct model *o, const struct uvmm_range *r, uint32_t n, enum place from,
		     enum place to)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		move(o, &r[i], from, to);
}

static uint64_t sum(const struct uvmm_range *r, uint32_t n)
{
	uint64_t pages = 0;

	while (n--)
		pages += r[n].pages;
	return pages;
}

/* As the driver does, with a daemon that agrees. */
static int rescue(void *arg, const struct physmem_want *w, uint64_t *page)
{
	struct uvmm_range run[RUNS];
	struct model *o = arg;
	uint32_t n;
	int rc;

	o->rescues++;
	while ((rc = physmem_try(&o->m, w, page)) == -ENOMEM &&
	       physmem_deflate_for(&o->m, w, run, RUNS, &n)) {
		move_all(o, run, n, IN, FREE);
		if (n)
			physmem_deflated(&o->m, run, n, true);
	}
	return rc;
}

static struct model *new_model(void)
{
	struct model *o = calloc(1, sizeof(*o));

	CHECK(o && !physmem_init(&o->m, PAGES));
	o->m.rescue = rescue;
	o->m.rescue_arg = o;
	return o;
}

/* The longest run of pages that are not in use. */
static uint64_t longest(const struct model *o)
{
	uint64_t best = 0, run = 0, i;

	for (i = 0; i < PAGES; i++) {
		run = o->at[i] == USED ? 0 : run + 1;
		best = run > best ? run : best;
	}
	return best;
}

static void check_dirty(struct model *o)
{
	uint64_t page = 0, n, at = 0;

	for (; physmem_next_dirty(&o->m, &page, PAGES, &n); page += n) {
		for (; at < page; at++)
			CHECK(!o->dirty[at]);
		for (; at < page + n; at++)
			CHECK(o->dirty[at]);
	}
	for (; at < PAGES; at++)
		CHECK(!o->dirty[at]);
}

static void check(struct model *o)
{
	uint64_t count[3] = { 0 }, i, page = 0, n, used = 0;

	for (i = 0; i < PAGES; i++)
		count[o->at[i]]++;
	CHECK(physmem_free_pages(&o->m) == count[FREE]);
	CHECK(physmem_balloon_pages(&o->m) == count[IN]);
	for (; physmem_next_run(&o->m, &page, &n); page += n)
		used += n;
	CHECK(used == count[USED]);
	check_dirty(o);
}

static void take(struct model *o)
{
	struct uvmm_range r = { .pages = 1 + (uint64_t)rand() % (rand() % 4 ? 16 : 900) };
	uint64_t longest_run = longest(o);
	bool block = rand() % 4 == 0;
	unsigned order = (unsigned)rand() % 9;
	int rc;

	if (o->n_held == HELD_MAX)
		return;
	if (block)
		r.pages = 1ull << order;
	rc = block ? physmem_alloc_block(&o->m, order, &r.ppn) :
		     physmem_alloc_run(&o->m, r.pages, &r.ppn);
	if (!block)
		CHECK(rc == (longest_run < r.pages ? -ENOMEM : 0));
	/* A run of twice the length has such a block in it. */
	CHECK(!rc || longest_run < 2 * r.pages);
	if (rc)
		return;
	CHECK(!block || r.ppn % r.pages == 0);
	move(o, &r, FREE, USED);
	memset(o->dirty + r.ppn, true, r.pages);
	o->held[o->n_held++] = r;
}

static void give(struct model *o)
{
	size_t k;

	if (!o->n_held)
		return;
	k = (size_t)rand() % o->n_held;
	move(o, &o->held[k], USED, FREE);
	CHECK(!physmem_free(&o->m, o->held[k].ppn, o->held[k].pages));
	o->held[k] = o->held[--o->n_held];
}

static void inflate(struct model *o)
{
	uint64_t want = 1 + (uint64_t)rand() % 1000, before = physmem_free_pages(&o->m), i;
	struct physmem_hand h = physmem_largest(&o->m);
	bool dirty = rand() % 2, clean = rand() % 4, any = false;
	struct uvmm_range run[RUNS];
	uint32_t n = physmem_inflate(&o->m, want, dirty, &h, run, RUNS), k;

	CHECK(sum(run, n) <= want && physmem_free_pages(&o->m) == before - sum(run, n));
	CHECK(n == RUNS || dirty || sum(run, n) == (want < before ? want : before));
	move_all(o, run, n, FREE, IN);
	for (k = 0; k < n; k++) {
		for (i = run[k].ppn; i < run[k].ppn + run[k].pages; i++)
			any |= o->dirty[i];
		CHECK(!dirty || any || run[k].pages < 512);
		any = false;
	}
	if (!n)
		return;
	if (rand() % 8) {
		physmem_inflated(&o->m, run, n, clean);
		for (k = 0; k < n && clean; k++)
			memset(o->dirty + run[k].ppn, false, run[k].pages);
	} else {
		physmem_deflated(&o->m, run, n, true);
		move_all(o, run, n, IN, FREE);
	}
}

static void deflate(struct model *o)
{
	uint64_t want = 1 + (uint64_t)rand() % 700, held = physmem_balloon_pages(&o->m);
	uint64_t page = (uint64_t)rand() % PAGES, k;
	struct uvmm_range run[RUNS];
	bool clean = rand() % 4;
	uint32_t n;

	if (rand() % 4) {
		n = physmem_deflate(&o->m, want, run, RUNS);
		CHECK(n == RUNS || sum(run, n) == (want < held ? want : held));
	} else {
		want = want < PAGES - page ? want : PAGES - page;
		n = physmem_deflate_at(&o->m, page, want, run, RUNS);
		for (k = 0; k < n; k++)
			CHECK(run[k].ppn >= page && run[k].ppn + run[k].pages <= page + want);
	}
	if (!n)
		return;
	move_all(o, run, n, IN, FREE);
	physmem_deflated(&o->m, run, n, clean);
	for (k = 0; k < n && !clean; k++)
		memset(o->dirty + run[k].ppn, true, run[k].pages);
}

static void test_against_model(void)
{
	struct model *o = new_model();
	struct uvmm_range run[RUNS];
	uint32_t n;
	int step;

	srand(3);
	for (step = 0; step < 40000; step++) {
		switch (rand() % 6) {
		case 0:
		case 1:
			take(o);
			break;
		case 2:
			give(o);
			break;
		case 3:
		case 4:
			inflate(o);
			break;
		default:
			deflate(o);
		}
		check(o);
	}
	CHECK(o->rescues > 100);
	while (o->n_held)
		give(o);
	while ((n = physmem_deflate(&o->m, PAGES, run, RUNS)))
		physmem_deflated(&o->m, run, n, true);
	CHECK(physmem_free_pages(&o->m) == PAGES);
	physmem_fini(&o->m);
	free(o);
}

/* The largest runs that hold something, then the others. */
static void test_largest_first(void)
{
	struct uvmm_range run[RUNS];
	struct physmem_hand h;
	struct physmem m;
	uint64_t a, b, c;

	CHECK(!physmem_init(&m, PAGES));
	CHECK(!physmem_alloc_run(&m, 20, &a) && !physmem_alloc_run(&m, 100, &b));
	CHECK(!physmem_alloc_run(&m, 500, &c));
	CHECK(!physmem_free(&m, a, 20) && !physmem_free(&m, c, 500));
	h = physmem_largest(&m);
	/* The blocks from 1024, from 512, and so on; the last has not been used. */
	CHECK(physmem_inflate(&m, PAGES, true, &h, run, RUNS) >= 2 && run[0].pages == 512 &&
	      run[0].ppn == 512 && run[1].pages == 256);
	h = physmem_largest(&m);
	CHECK(physmem_inflate(&m, 1000, false, &h, run, RUNS) == 1 && run[0].ppn == PAGES - 1000);
	physmem_fini(&m);
}

/* A child has no balloon. */
static void test_fork(void)
{
	struct physmem_hand h;
	struct uvmm_range run;
	struct physmem m;
	uint64_t page;
	int status;
	pid_t pid;

	CHECK(!physmem_init(&m, PAGES) && !physmem_alloc_run(&m, 10, &page));
	h = physmem_largest(&m);
	CHECK(physmem_inflate(&m, 2000, false, &h, &run, 1) == 1);
	physmem_inflated(&m, &run, 1, true);
	physmem_freeze(&m);
	pid = fork();
	physmem_thaw(&m, !pid);
	if (!pid) {
		CHECK(!physmem_balloon_pages(&m) && physmem_free_pages(&m) == PAGES - 10);
		CHECK(!physmem_alloc_run(&m, PAGES - 10, &page));
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && !status);
	CHECK(physmem_balloon_pages(&m) == 2000);
	physmem_fini(&m);
}

/* What is in the balloon at a place where something else is mapped is in use from then. */
static void test_use(void)
{
	struct physmem_hand h;
	struct uvmm_range run;
	struct physmem m;

	CHECK(!physmem_init(&m, PAGES));
	h = physmem_largest(&m);
	CHECK(physmem_inflate(&m, PAGES, false, &h, &run, 1) == 1 && run.pages == PAGES);
	physmem_inflated(&m, &run, 1, true);
	CHECK(physmem_deflate_at(&m, 100, 50, &run, 1) == 1);
	physmem_use(&m, &run, 1);
	CHECK(physmem_is_used(&m, 100, 50) && physmem_balloon_pages(&m) == PAGES - 50);
	CHECK(physmem_give(&m, 0, PAGES) == 50 && physmem_free_pages(&m) == 50);
	physmem_fini(&m);
}

static uint64_t next_by_hand(const bool *in, uint64_t count, uint64_t i)
{
	while (i < count && !in[i])
		i++;
	return i < count ? i : BITS_NONE;
}

static uint64_t before_by_hand(const bool *in, uint64_t count, uint64_t i)
{
	i = i < count ? i : count;
	while (i && !in[i - 1])
		i--;
	return i ? i - 1 : BITS_NONE;
}

static void test_bits(uint64_t count)
{
	static bool in[300000];
	uint64_t *memory = calloc(1, bits_bytes(count)), i;
	struct bits b;
	int step;

	memset(in, false, sizeof(in));
	bits_init(&b, count, memory);
	for (step = 0; step < 3000; step++) {
		i = (uint64_t)rand() % count;
		if (rand() % 3) {
			bits_remove(&b, i);
			in[i] = false;
		} else {
			bits_add(&b, i);
			in[i] = true;
		}
		i = (uint64_t)rand() % (count + 2);
		CHECK(bits_next(&b, i) == next_by_hand(in, count, i));
		CHECK(bits_before(&b, i) == before_by_hand(in, count, i));
		CHECK(bits_first(&b) == next_by_hand(in, count, 0));
	}
	free(memory);
}

int main(void)
{
	test_bits(1);
	test_bits(64);
	test_bits(65);
	test_bits(5000);
	test_bits(300000);
	test_largest_first();
	test_fork();
	test_use();
	test_against_model();
	printf("physmem_balloon: ok\n");
	return 0;
}
