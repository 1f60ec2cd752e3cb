/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"

#define TEXT_BYTES (PAGE_BYTES / 2)
#define WINDOW_PAGES 16u        /* one page of each window is read */
#define THREADS_MAX 64u

static uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

/* Any seed is fine for the caller, but xorshift must not start from 0. */
static uint64_t random_start(uint64_t seed)
{
	return (seed + 1) * 0x9e3779b97f4a7c15u | 1u;
}

static uint64_t cpu_ns_by(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t thread_cpu_ns(void)
{
	return cpu_ns_by(CLOCK_THREAD_CPUTIME_ID);
}

/* Of all threads: with uvmm's own. */
static uint64_t process_cpu_ns(void)
{
	return cpu_ns_by(CLOCK_PROCESS_CPUTIME_ID);
}

static int failed(const char *what, int error)
{
	fprintf(stderr, "touch: %s: %s\n", what, strerror(error));
	return -error;
}

static void fill_page(char *page, uint64_t index)
{
	static const char words[] = "the quick brown fox %06" PRIu64 " over ";
	uint64_t state = random_start(index), word;
	char text[48];
	size_t length, at;

	length = (size_t)snprintf(text, sizeof(text), words, index);
	for (at = 0; at + length <= TEXT_BYTES; at += length)
		memcpy(page + at, text, length);
	memset(page + at, 0, TEXT_BYTES - at);
	for (at = TEXT_BYTES; at < PAGE_BYTES; at += sizeof(word)) {
		word = next_random(&state);
		memcpy(page + at, &word, sizeof(word));
	}
}

static uint64_t sum_words(const char *at, size_t bytes)
{
	const uint64_t *word = (const uint64_t *)(const void *)at;
	uint64_t sum = 0;
	size_t i;

	for (i = 0; i < bytes / sizeof(*word); i++)
		sum += word[i];
	return sum;
}

int measure_fill(const struct memory *m)
{
	uint64_t sum = 0, start = clock_ns();
	char page[PAGE_BYTES] __attribute__((aligned(8)));
	size_t at;

	for (at = 0; at < m->bytes; at += PAGE_BYTES) {
		fill_page(page, at / PAGE_BYTES);
		memcpy(m->base + at, page, PAGE_BYTES);
		sum += sum_words(page, PAGE_BYTES);
	}
	printf("{\"op\": \"fill\", \"ns\": %" PRIu64 ", \"sum\": %" PRIu64 "}\n",
	       clock_ns() - start, sum);
	return 0;
}

int measure_first_touch(const struct memory *m)
{
	uint64_t start = clock_ns(), ns;
	size_t at;

	for (at = 0; at < m->bytes; at += PAGE_BYTES)
		*(volatile char *)(m->base + at) = 1;
	ns = clock_ns() - start;
	printf("{\"op\": \"first-touch\", \"ns\": %" PRIu64 ", \"ns_per_page\": %.2f}\n",
	       ns, (double)ns / (double)(m->bytes / PAGE_BYTES));
	return 0;
}

int measure_random(const struct memory *m, uint64_t count)
{
	uint64_t state = random_start(0), sum = 0, start, ns, cpu_ns, i, place;
	const uint64_t words = m->bytes / sizeof(uint64_t);
	const uint64_t *memory = (const uint64_t *)(const void *)m->base;

	if (!count)
		return failed("random needs a count", EINVAL);
	cpu_ns = process_cpu_ns();
	start = clock_ns();
	for (i = 0; i < count; i++) {
		/* The high half scaled: no division, no need of a power of two. */
		place = (next_random(&state) >> 32) * words >> 32;
		sum += memory[place];
	}
	ns = clock_ns() - start;
	cpu_ns = process_cpu_ns() - cpu_ns;
	printf("{\"op\": \"random\", \"ns\": %" PRIu64 ", \"ns_per_access\": %.3f, "
	       "\"cpu_ns_per_access\": %.3f, \"sum\": %" PRIu64 "}\n", ns,
	       (double)ns / (double)count, (double)cpu_ns / (double)count, sum);
	return 0;
}

int measure_hot(const struct memory *m, uint64_t count, uint64_t step, uint64_t ms)
{
	uint64_t start = clock_ns(), rounds = 0, ns, at;

	if (!step || count > m->bytes / PAGE_BYTES)
		return failed("hot needs pages of the memory, and a step", EINVAL);
	do {
		for (at = 0; at < count; at += step)
			(void)*(const volatile char *)(m->base + at * PAGE_BYTES);
		rounds++;
		ns = clock_ns() - start;
	} while (ns < ms * 1000000);
	printf("{\"op\": \"hot\", \"ns\": %" PRIu64 ", \"rounds\": %" PRIu64 "}\n", ns,
	       rounds);
	return 0;
}

int measure_mix(const struct memory *m, uint64_t count, uint64_t step, uint64_t cold_in)
{
	uint64_t pages = m->bytes / PAGE_BYTES, start = clock_ns(), state, i, page, ns;

	if (!step || step > pages || !cold_in)
		return failed("mix needs a step, and how many of the reads are cold", EINVAL);
	state = random_start(start);
	for (i = 0; i < count; i++) {
		page = next_random(&state) >> 16;
		page = i % cold_in ? page % (pages / step) * step : page % pages;
		(void)*(const volatile char *)(m->base + page * PAGE_BYTES);
	}
	ns = clock_ns() - start;
	printf("{\"op\": \"mix\", \"ns\": %" PRIu64 ", \"ns_per_access\": %.3f}\n", ns,
	       (double)ns / (double)count);
	return 0;
}

/* --- latency ---------------------------------------------------------------- */

struct reader {
	pthread_t thread;
	pthread_barrier_t *barrier;
	const struct memory *m;
	const uint64_t *pages;  /* which to read, in order */
	uint64_t *taken_ns;     /* out: one for each page */
	uint64_t count;
	uint64_t from_ns, to_ns;        /* out: when it read */
};

static void *read_pages(void *arg)
{
	struct reader *r = arg;
	uint64_t i, start;

	pthread_barrier_wait(r->barrier);
	r->from_ns = clock_ns();
	for (i = 0; i < r->count; i++) {
		start = clock_ns();
		(void)*(const volatile uint64_t *)(const void *)
			(r->m->base + r->pages[i] * PAGE_BYTES);
		r->taken_ns[i] = clock_ns() - start;
	}
	r->to_ns = clock_ns();
	return NULL;
}

static int by_value(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* One random page of each of `count` windows, the windows in random order. */
static void choose_pages(uint64_t *pages, uint64_t windows, uint64_t seed)
{
	uint64_t state = random_start(seed), i, j, swap;

	for (i = 0; i < windows; i++)
		pages[i] = i;
	for (i = windows - 1; i > 0; i--) {
		j = next_random(&state) % (i + 1);
		swap = pages[i];
		pages[i] = pages[j];
		pages[j] = swap;
	}
	for (i = 0; i < windows; i++)
		pages[i] = pages[i] * WINDOW_PAGES + next_random(&state) % WINDOW_PAGES;
}

/* From the first read to the end of the last: starting threads is not counted. */
static uint64_t elapsed_ns(const struct reader *readers, unsigned threads)
{
	uint64_t from_ns = readers[0].from_ns, to_ns = readers[0].to_ns;
	unsigned i;

	for (i = 1; i < threads; i++) {
		from_ns = readers[i].from_ns < from_ns ? readers[i].from_ns : from_ns;
		to_ns = readers[i].to_ns > to_ns ? readers[i].to_ns : to_ns;
	}
	return to_ns - from_ns;
}

static void run_readers(struct reader *readers, unsigned threads)
{
	unsigned i;
	int err = 0;

	for (i = 0; i < threads && !err; i++)
		err = pthread_create(&readers[i].thread, NULL, read_pages, &readers[i]);
	if (err) {
		/* The started ones wait at the barrier for ever: give up whole. */
		failed("pthread_create", err);
		exit(1);
	}
	for (i = 0; i < threads; i++)
		pthread_join(readers[i].thread, NULL);
}

static void print_latency(uint64_t *taken_ns, uint64_t count, unsigned threads,
			  uint64_t whole_ns)
{
	qsort(taken_ns, count, sizeof(*taken_ns), by_value);
	printf("{\"op\": \"latency\", \"threads\": %u, \"samples\": %" PRIu64
	       ", \"p50_ns\": %" PRIu64 ", \"p99_ns\": %" PRIu64
	       ", \"ns\": %" PRIu64 "}\n",
	       threads, count, taken_ns[count / 2], taken_ns[count * 99 / 100], whole_ns);
}

int measure_latency(const struct memory *m, unsigned threads, uint64_t count,
		    uint64_t seed)
{
	const uint64_t windows = m->bytes / PAGE_BYTES / WINDOW_PAGES;
	struct reader readers[THREADS_MAX];
	pthread_barrier_t barrier;
	uint64_t *pages, *taken_ns, each;
	unsigned i;
	int err = 0;

	if (!threads || threads > THREADS_MAX || !count || !windows)
		return failed("latency needs threads and a count", EINVAL);
	each = (count < windows ? count : windows) / threads;
	if (!each)
		return failed("latency needs a page for each thread", EINVAL);
	pages = calloc(windows, sizeof(*pages));
	taken_ns = calloc(windows, sizeof(*taken_ns));
	if (!pages || !taken_ns) {
		err = failed("latency", ENOMEM);
		goto out;
	}
	choose_pages(pages, windows, seed);
	/* The array of results must not fault while it is timed. */
	memset(taken_ns, 1, windows * sizeof(*taken_ns));
	pthread_barrier_init(&barrier, NULL, threads);
	for (i = 0; i < threads; i++)
		readers[i] = (struct reader){
			.barrier = &barrier,
			.m = m,
			.pages = pages + i * each,
			.taken_ns = taken_ns + i * each,
			.count = each,
		};
	run_readers(readers, threads);
	print_latency(taken_ns, each * threads, threads, elapsed_ns(readers, threads));
	pthread_barrier_destroy(&barrier);
out:
	free(pages);
	free(taken_ns);
	return err;
}

/* --- whole range ------------------------------------------------------------ */

int measure_sequential(const struct memory *m)
{
	uint64_t start = clock_ns(), sum = 0, ns;
	size_t at;

	for (at = 0; at < m->bytes; at += PAGE_BYTES)
		sum += sum_words(m->base + at, PAGE_BYTES);
	ns = clock_ns() - start;
	printf("{\"op\": \"sequential\", \"ns\": %" PRIu64 ", \"ns_per_page\": %.2f, "
	       "\"sum\": %" PRIu64 "}\n",
	       ns, (double)ns / (double)(m->bytes / PAGE_BYTES), sum);
	return 0;
}

int measure_pageout(const struct memory *m)
{
	uint64_t start = clock_ns(), cpu = thread_cpu_ns();

	if (madvise(m->base, m->bytes, MADV_PAGEOUT))
		return failed("MADV_PAGEOUT", errno);
	printf("{\"op\": \"pageout\", \"ns\": %" PRIu64 ", \"cpu_ns\": %" PRIu64 "}\n",
	       clock_ns() - start, thread_cpu_ns() - cpu);
	return 0;
}

int measure_resident(const struct memory *m)
{
	const uint64_t present = 1ull << 63;
	uint64_t entries[512], resident = 0;
	const uint64_t first = (uintptr_t)m->base / PAGE_BYTES;
	const uint64_t pages = m->bytes / PAGE_BYTES;
	uint64_t page = 0;
	size_t want, i;
	ssize_t got;
	int err = 0, fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return failed("/proc/self/pagemap", errno);
	while (page < pages) {
		want = pages - page < 512 ? pages - page : 512;
		got = pread(fd, entries, want * 8, (off_t)((first + page) * 8));
		if (got < 8) {
			err = failed("/proc/self/pagemap", got < 0 ? errno : EIO);
			goto out;
		}
		for (i = 0; i < (size_t)got / 8; i++)
			resident += entries[i] & present ? 1 : 0;
		page += (size_t)got / 8;
	}
	printf("{\"op\": \"resident\", \"pages\": %" PRIu64 "}\n", resident);
out:
	close(fd);
	return err;
}

int measure_save(const struct memory *m, const char *path)
{
	size_t done = 0;
	ssize_t wrote;
	int err = 0, fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return failed(path, errno);
	while (done < m->bytes) {
		wrote = write(fd, m->base + done, m->bytes - done);
		if (wrote < 0) {
			err = failed(path, errno);
			goto out;
		}
		done += (size_t)wrote;
	}
	printf("{\"op\": \"save\", \"bytes\": %zu}\n", done);
out:
	close(fd);
	return err;
}
