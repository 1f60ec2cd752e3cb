/* SPDX-License-Identifier: MIT
 *
 * toucher - an ordinary program that uses a part of its memory, as told on stdin.
 *
 *   toucher BYTES
 *
 * It allocates BYTES, fills them with what no two pages have in common, and prints a line.
 * A thread then reads and writes pages at random among those that it is to use. Each line
 * on stdin is answered by one line of JSON:
 *
 *   use PAGES    from now on the first PAGES pages; 0: the thread sleeps
 *   count        how many it read and wrote, and how long ago that began, since the last
 *                count
 *
 * It ends with stdin.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dice.h"

#define PAGE_BYTES 4096u
#define WORDS (PAGE_BYTES / sizeof(uint64_t))
#define BLOCK_PAGES 256u
#define BATCH 64u               /* between two looks at what is to be used */

static uint64_t **block;        /* of BLOCK_PAGES each, as programs have many */
static uint64_t pages;
static _Atomic uint64_t used, operations;
static uint64_t checksum;       /* the thread's own */

static uint64_t *page_at(uint64_t i)
{
	return block[i / BLOCK_PAGES] + i % BLOCK_PAGES * WORDS;
}

static int fill(void)
{
	uint64_t i, word, x = now_ns() | 1;

	block = calloc(pages / BLOCK_PAGES + 1, sizeof(*block));
	if (!block)
		return -1;
	for (i = 0; i < pages; i++) {
		if (i % BLOCK_PAGES == 0)
			block[i / BLOCK_PAGES] = malloc(BLOCK_PAGES * PAGE_BYTES);
		if (!block[i / BLOCK_PAGES])
			return -1;
		for (word = 0; word < WORDS; word++)
			page_at(i)[word] = next(&x);
	}
	return 0;
}

static void operate(uint64_t *page)
{
	unsigned i;

	for (i = 0; i < WORDS; i++)
		checksum += page[i];
	page[checksum % WORDS] += checksum;
}

static void *touch(void *arg)
{
	const struct timespec nap = { .tv_nsec = 10 * 1000 * 1000 };
	uint64_t x = 88172645463325252ull, n;
	unsigned i;

	(void)arg;
	for (;;) {
		n = atomic_load(&used);
		if (!n) {
			nanosleep(&nap, NULL);
			continue;
		}
		for (i = 0; i < BATCH; i++)
			operate(page_at(next(&x) % n));
		atomic_fetch_add(&operations, BATCH);
	}
	return NULL;
}

static int answer(char *line)
{
	static uint64_t last_ops, last_ns;
	uint64_t n, ops = atomic_load(&operations), ns = now_ns();

	if (sscanf(line, "use %" SCNu64, &n) == 1 && n <= pages) {
		atomic_store(&used, n);
		printf("{\"op\": \"use\"}\n");
	} else if (line[0] == 'c') {
		printf("{\"op\": \"count\", \"operations\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n",
		       ops - last_ops, last_ns ? ns - last_ns : 0);
		last_ops = ops;
		last_ns = ns;
	} else {
		fprintf(stderr, "toucher: what is %s?\n", line);
		return 1;
	}
	fflush(stdout);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t bytes = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
	pthread_t thread;
	char line[64];

	pages = bytes / PAGE_BYTES;
	if (!pages) {
		fprintf(stderr, "usage: toucher BYTES\n");
		return 2;
	}
	if (fill()) {
		fprintf(stderr, "toucher: there is no memory\n");
		return 1;
	}
	if (pthread_create(&thread, NULL, touch, NULL))
		return 1;
	printf("{\"op\": \"open\"}\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		if (answer(line))
			return 1;
	return 0;
}
