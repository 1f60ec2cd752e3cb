/* SPDX-License-Identifier: MIT
 *
 * extsort - sorts numbers that do not fit into the machine memory it gets.
 *
 *   uvmm run --max 272M -- build/examples/extsort --mib 128
 *
 * As programs sort files that are larger than memory: runs are sorted one by one
 * (each fits), then all runs are merged into a second array of the same size.
 * The sorted array is checked for its order, and its numbers against the
 * generator, by two sums that do not depend on the order.
 */
#include "example.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define RUN_NUMBERS (EXAMPLE_MIB * 4 / sizeof(uint64_t))

/* A part of the first array that is sorted and not yet merged. */
struct run {
	const uint64_t *next, *end;
};

/* Of the numbers as a multiset. */
struct sums {
	uint64_t plain, mixed;
};

struct sort {
	uint64_t seed;
	uint64_t n;
	uint64_t *from, *to;    /* guest memory */
	struct run *heap;       /* ordinary memory; the smallest number on top */
	size_t runs;
};

static uint64_t generate(const struct sort *s, uint64_t i)
{
	return example_mix(s->seed + i);
}

static void count(struct sums *sums, uint64_t number)
{
	sums->plain += number;
	sums->mixed += example_mix(number);
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void fill(struct sort *s)
{
	for (uint64_t i = 0; i < s->n; i++)
		s->from[i] = generate(s, i);
}

static void sort_runs(struct sort *s)
{
	for (uint64_t at = 0; at < s->n; at += RUN_NUMBERS) {
		uint64_t n = s->n - at < RUN_NUMBERS ? s->n - at : RUN_NUMBERS;

		qsort(s->from + at, n, sizeof(*s->from), compare);
		s->heap[s->runs++] = (struct run){ s->from + at, s->from + at + n };
	}
}

static void sift_down(struct sort *s, size_t i)
{
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= s->runs)
			return;
		if (child + 1 < s->runs && *s->heap[child + 1].next < *s->heap[child].next)
			child++;
		if (*s->heap[i].next <= *s->heap[child].next)
			return;

		struct run moved = s->heap[i];

		s->heap[i] = s->heap[child];
		s->heap[child] = moved;
		i = child;
	}
}

static void merge(struct sort *s)
{
	for (size_t i = s->runs / 2; i-- > 0;)
		sift_down(s, i);
	for (uint64_t *to = s->to; s->runs > 0; to++) {
		*to = *s->heap[0].next++;
		if (s->heap[0].next == s->heap[0].end)
			s->heap[0] = s->heap[--s->runs];
		sift_down(s, 0);
	}
}

/* How many neighbours are in the wrong order, and 1 if numbers are not those
 * that were generated. */
static uint64_t check(const struct sort *s)
{
	struct sums want = { 0 }, got = { 0 };
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < s->n; i++) {
		count(&want, generate(s, i));
		count(&got, s->to[i]);
		wrong += i > 0 && s->to[i - 1] > s->to[i];
	}
	return wrong + (want.plain != got.plain || want.mixed != got.mixed);
}

int main(int argc, char **argv)
{
	uint64_t mib = 64, seed = 1;
	const struct example_option options[] = {
		{ "--mib", &mib, 1, 1u << 20 },
		{ "--seed", &seed, 0, UINT64_MAX },
	};
	char summary[80];

	example_options(argc, argv, options, sizeof(options) / sizeof(options[0]));

	uvmm_guest *g = example_attach();
	size_t bytes = mib * EXAMPLE_MIB;
	struct sort s = {
		.seed = example_mix(seed),
		.n = bytes / sizeof(uint64_t),
		.from = example_alloc(g, bytes),
		.to = example_alloc(g, bytes),
		.heap = example_ordinary(bytes / RUN_NUMBERS + 1, sizeof(struct run)),
	};

	example_doing("generating");
	fill(&s);
	example_doing("sorting runs");
	sort_runs(&s);
	example_doing("merging");
	merge(&s);
	example_doing("checking");
	snprintf(summary, sizeof(summary), "%" PRIu64 " numbers sorted", s.n);
	return example_finish(bytes, check(&s), summary);
}
