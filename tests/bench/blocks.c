/* SPDX-License-Identifier: MIT */
#include "blocks.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "uvmm/guest.h"

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int failed(void)
{
	fprintf(stderr, "touch: %s\n", uvmm_error());
	return -EINVAL;
}

/* This process's own; it is attached already. */
static uvmm_guest *the_guest(void)
{
	uvmm_guest *g = NULL;

	uvmm_attach(&g);
	return g;
}

static void touch(char *at, uint64_t pages)
{
	uint64_t i;

	for (i = 0; i < pages; i++)
		at[i * PAGE_BYTES] = 1;
}

int blocks_use(const struct memory *m, uint64_t pages, uint64_t one_in)
{
	size_t bytes = pages * PAGE_BYTES, n = pages ? m->bytes / bytes : 0, i;
	void **block = calloc(n + 1, sizeof(*block));
	uvmm_guest *g = the_guest();
	uint64_t freed = 0;
	int err = !g || !n || !one_in || !block ? failed() : 0;

	for (i = 0; i < n && !err; i++) {
		err = uvmm_alloc(g, bytes, &block[i]) ? failed() : 0;
		if (!err)
			touch(block[i], pages);
	}
	for (i = 0; i < n && !err; i += one_in) {
		err = uvmm_free(g, block[i], bytes) ? failed() : 0;
		freed += pages;
	}
	free(block);
	if (!err)
		printf("{\"op\": \"use\", \"free\": %" PRIu64 "}\n", freed);
	return err;
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int blocks_take(const struct memory *m, uint64_t count, uint64_t pages)
{
	uint64_t *ns = calloc(count + 1, sizeof(*ns)), since, i, taken = 0;
	void **block = calloc(count + 1, sizeof(*block));
	uvmm_guest *g = the_guest();
	size_t bytes = pages * PAGE_BYTES;
	int err = !g || !ns || !block || !count || bytes > m->bytes ? failed() : 0;

	for (i = 0; i < count && !err; i++) {
		since = clock_ns();
		err = uvmm_alloc(g, bytes, &block[i]) ? failed() : 0;
		ns[i] = clock_ns() - since;
		taken += !err;
	}
	for (i = 0; i < taken; i++)
		uvmm_free(g, block[i], bytes);
	if (!err) {
		qsort(ns, count, sizeof(*ns), by_value);
		printf("{\"op\": \"take\", \"p50\": %" PRIu64 ", \"max\": %" PRIu64 "}\n",
		       ns[count / 2], ns[count - 1]);
	}
	free(block);
	free(ns);
	return err;
}
