/* SPDX-License-Identifier: MIT
 *
 * A guest whose threads write into pages that its disk's requests read into, while these
 * are moved: nothing may be lost, on either side.
 *
 *   disk_race   until its input ends; the disk "data" has as 64-bit words their numbers,
 *               times MARK
 *
 * The first half of each page is the disk's, the second the writers'. Each second another
 * half of the pages is used, so that the others become cold.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "check.h"
#include "uvmm/disk.h"

#define PAGES 2048u
#define LARGE_PAGES 512u        /* at the end, read as a whole */
#define PAGE_BYTES 4096u
#define WORDS (PAGE_BYTES / 8)
#define WRITERS 3u
#define READERS 2u
#define MARK 0x9e3779b97f4a7c15ull
#define SLOW_NS 20000u
#define SLOW_MAX 4096u

static uvmm_disk *disk;
static uint64_t *memory;
static _Atomic bool stop;
static _Atomic uint64_t requests, stores;
static _Atomic unsigned slow;
static uint64_t slow_ns[SLOW_MAX];
static struct timespec begin;

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)(t.tv_sec - begin.tv_sec) * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void *write_all(void *arg)
{
	uint64_t own = (uint64_t)(uintptr_t)arg, round, i;

	for (round = 0; !stop; round++)
		for (i = own; i < PAGES; i += WRITERS) {
			volatile uint64_t *word = memory + i * WORDS + WORDS / 2 + round % (WORDS / 2);
			uint64_t expected = round / (WORDS / 2) + (round / (WORDS / 2)) * i;
			uint64_t since = now_ns(), took;

			CHECK(*word == expected);
			*word = expected + 1 + i;
			took = now_ns() - since;
			if (took > SLOW_NS && slow < SLOW_MAX)
				slow_ns[atomic_fetch_add(&slow, 1) % SLOW_MAX] = took;
			stores++;
		}
	return NULL;
}

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* First halves of n pages from `page`, which are those of the disk at n * 2048. */
static void read_halves(uint64_t page, unsigned n)
{
	struct iovec v[64];
	unsigned i, w;

	for (i = 0; i < n; i++)
		v[i] = (struct iovec){ memory + (page + i) * WORDS, PAGE_BYTES / 2 };
	CHECK(!uvmm_disk_readv(disk, v, (int)n, page * PAGE_BYTES / 2));
	for (i = 0; i < n; i++)
		for (w = 0; w < WORDS / 2; w++)
			CHECK(memory[(page + i) * WORDS + w] ==
			      ((page + i) * WORDS / 2 + w) * MARK);
}

static void *read_all(void *arg)
{
	uint64_t x = 88172645463325252ull + (uint64_t)(uintptr_t)arg;
	uint64_t part = PAGES / READERS, first = (uint64_t)(uintptr_t)arg * part;

	while (!stop) {
		uint64_t half = now_ns() / 1500000000ull % 2 * (part / 2);
		unsigned n = 1 + (unsigned)(next(&x) % 64);
		uint64_t page = first + half + next(&x) % (part / 2 - n);

		read_halves(page, n);
		requests++;
	}
	return NULL;
}

/* A large buffer, as a whole. */
static void *read_large(void *arg)
{
	uint64_t *large = memory + (uint64_t)PAGES * WORDS, words = LARGE_PAGES * WORDS, w;

	(void)arg;
	while (!stop) {
		large[next(&(uint64_t){ now_ns() | 1 }) % words] = 1;
		CHECK(!uvmm_disk_read(disk, large, LARGE_PAGES * PAGE_BYTES, 0));
		for (w = 0; w < words; w++)
			CHECK(large[w] == w * MARK);
		requests++;
	}
	return NULL;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

int main(void)
{
	pthread_t thread[WRITERS + READERS + 1];
	uvmm_guest *guest;
	unsigned i, n = 0;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	CHECK(!uvmm_attach(&guest));
	CHECK(!uvmm_disk_open(guest, "data", &disk));
	CHECK(!uvmm_alloc(guest, (PAGES + LARGE_PAGES) * PAGE_BYTES, (void **)&memory));
	for (i = 0; i < WRITERS; i++)
		CHECK(!pthread_create(&thread[n++], NULL, write_all, (void *)(uintptr_t)i));
	for (i = 0; i < READERS; i++)
		CHECK(!pthread_create(&thread[n++], NULL, read_all, (void *)(uintptr_t)i));
	CHECK(!pthread_create(&thread[n++], NULL, read_large, NULL));
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	stop = true;
	for (i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	qsort(slow_ns, slow, sizeof(slow_ns[0]), by_size);
	printf("requests %llu stores %llu slow %u longest %llu us\n",
	       (unsigned long long)requests, (unsigned long long)stores, slow,
	       (unsigned long long)(slow ? slow_ns[slow - 1] / 1000 : 0));
	uvmm_disk_close(disk);
	return 0;
}
