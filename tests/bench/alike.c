/* SPDX-License-Identifier: MIT */
#include "alike.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOBODYS 0u      /* the seed of common pages */

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int failed(const char *what)
{
	int error = errno;

	fprintf(stderr, "touch: %s: %s\n", what, strerror(error));
	return -error;
}

static void fill_page(char *page, uint64_t index, uint64_t seed)
{
	uint64_t state = (seed << 32 | index) * 0x9e3779b97f4a7c15u | 1u;
	size_t at;

	for (at = 0; at < PAGE_BYTES; at += sizeof(state)) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		memcpy(page + at, &state, sizeof(state));
	}
}

int alike_fill(const struct memory *m, uint64_t common, uint64_t zero, uint64_t seed)
{
	uint64_t pages = m->bytes / PAGE_BYTES, i;

	if (common > pages || zero > pages - common || !seed) {
		fprintf(stderr, "touch: alike: at most %" PRIu64 " pages, and a seed\n", pages);
		return -EINVAL;
	}
	for (i = 0; i < pages; i++) {
		char *page = m->base + i * PAGE_BYTES;

		if (i >= common && i < common + zero)
			memset(page, 0, PAGE_BYTES);
		else
			fill_page(page, i, i < common ? NOBODYS : seed);
	}
	printf("{\"op\": \"alike\", \"pages\": %" PRIu64 "}\n", pages);
	return 0;
}

int alike_mergeable(const struct memory *m)
{
	if (madvise(m->base, m->bytes, MADV_MERGEABLE))
		return failed("MADV_MERGEABLE");
	printf("{\"op\": \"mergeable\"}\n");
	return 0;
}

static uint64_t write_pages(const struct memory *m, uint64_t count, uint64_t step)
{
	uint64_t start = clock_ns(), i;

	for (i = 0; i < count; i++)
		*(volatile uint64_t *)(void *)(m->base + i * step * PAGE_BYTES) += 1;
	return clock_ns() - start;
}

static bool is_inside(const struct memory *m, uint64_t count, uint64_t step)
{
	uint64_t pages = m->bytes / PAGE_BYTES;

	return count && step && step <= pages && count - 1 <= (pages - 1) / step;
}

static int told(const char *op, uint64_t ns, uint64_t count)
{
	printf("{\"op\": \"%s\", \"ns_per_page\": %.2f}\n", op, (double)ns / (double)count);
	return 0;
}

int alike_write(const struct memory *m, uint64_t count, uint64_t step)
{
	if (!is_inside(m, count, step))
		return -EINVAL;
	return told("write", write_pages(m, count, step), count);
}

int alike_fork_write(const struct memory *m, uint64_t count, uint64_t step)
{
	uint64_t ns = 0;
	int ends[2], status;
	bool got;
	pid_t pid;

	if (!is_inside(m, count, step))
		return -EINVAL;
	if (pipe(ends))
		return failed("pipe");
	pid = fork();
	if (pid < 0)
		return failed("fork");
	if (!pid) {
		ns = write_pages(m, count, step);
		_exit(write(ends[1], &ns, sizeof(ns)) != (ssize_t)sizeof(ns));
	}
	close(ends[1]);
	got = read(ends[0], &ns, sizeof(ns)) == (ssize_t)sizeof(ns);
	close(ends[0]);
	if (waitpid(pid, &status, 0) != pid || status || !got) {
		fprintf(stderr, "touch: the forked child failed\n");
		return -ECHILD;
	}
	return told("fork-write", ns, count);
}
