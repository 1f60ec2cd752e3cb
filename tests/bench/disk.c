/* SPDX-License-Identifier: MIT
 *
 * disk - a guest that reads its disk "data", as told on stdin.
 *
 *   disk BLOCK DEPTH
 *
 * It has DEPTH buffers of BLOCK bytes. The image holds 64-bit words, each its own number. Each
 * line on stdin is answered by one line of JSON:
 *
 *   stream MS     reads of a buffer each, in order, DEPTH under way
 *   random MS     the same at random places
 *   pause MS      reads of a buffer each, one at a time, of ever new buffers, 64 times each,
 *                 so that they are remapped, while a thread stores to every page of that
 *                 buffer; the stores that took longest
 *
 * The first word of each read is compared. It ends with stdin.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dice.h"
#include "uvmm/disk.h"

#define PAGE_BYTES 4096u
#define DEPTH_MAX 4096u
#define NS_PER_MS 1000000ull
#define TIMES 64u               /* reads of a buffer in a row, of `pause` */
#define HELD_UP_NS 5000u        /* longer than a store that waits for nothing but the cache */
#define PAUSES_MAX 65536u

struct bench {
	uvmm_guest *guest;
	uvmm_disk *disk;
	char *memory;
	size_t block;
	unsigned depth;
	uint64_t blocks;        /* of the disk */
	uint64_t requests;
};

struct writer {
	pthread_t thread;
	char *_Atomic buffer;   /* whose pages it stores to */
	size_t bytes;
	_Atomic bool stop;
	uint64_t pause_ns[PAUSES_MAX];
	size_t pauses;
	uint64_t stores;
};

static int failed(const char *what, int rc)
{
	fprintf(stderr, "disk: %s: %s\n", what, rc ? uvmm_error() : "other contents than expected");
	return rc ? rc : -EILSEQ;
}

static bool is_right(const void *at, uint64_t offset)
{
	uint64_t word;

	memcpy(&word, at, sizeof(word));
	return word == offset / sizeof(word);
}

/* --- many under way --------------------------------------------------------- */

struct flight {
	struct uvmm_disk_task task[DEPTH_MAX];
	struct iovec v[DEPTH_MAX];
	uint64_t x, place;      /* of random places; of the next in order */
	bool random;
};

static void aim(struct bench *b, struct flight *f, unsigned i)
{
	uint64_t place = f->random ? next(&f->x) % b->blocks : f->place++ % b->blocks;

	f->v[i] = (struct iovec){ b->memory + i * b->block, b->block };
	f->task[i] = (struct uvmm_disk_task){
		.what = UVMM_DISK_DO_READ, .n = 1, .v = &f->v[i], .offset = place * b->block,
	};
}

static int submit(struct bench *b, struct flight *f, struct uvmm_disk_task **done, unsigned n)
{
	unsigned i;

	for (i = 0; i < n; i++)
		aim(b, f, (unsigned)(done[i] - f->task));
	return uvmm_disk_submit(b->disk, done, n);
}

/* Takes what is done: how many, or an error. */
static int take(struct bench *b, struct flight *f, struct uvmm_disk_task **done, unsigned least)
{
	int n = uvmm_disk_wait(b->disk, done, b->depth, least, -1), i;

	for (i = 0; i < n; i++) {
		if (done[i]->status || !is_right(f->v[done[i] - f->task].iov_base, done[i]->offset))
			return failed("read", done[i]->status);
	}
	b->requests += n > 0 ? (uint64_t)n : 0;
	return n;
}

static int fly(struct bench *b, bool random, uint64_t ms)
{
	static struct flight f;
	struct uvmm_disk_task *done[DEPTH_MAX];
	uint64_t begin = now_ns(), until = begin + ms * NS_PER_MS;
	unsigned i, left = b->depth;
	int n = (int)b->depth, rc;

	f.random = random;
	f.x = begin | 1;
	b->requests = 0;
	for (i = 0; i < b->depth; i++)
		done[i] = &f.task[i];
	while (now_ns() < until) {
		rc = submit(b, &f, done, (unsigned)n);
		if (rc)
			return failed("submit", rc);
		n = take(b, &f, done, 1);
		if (n < 0)
			return n;
	}
	for (left -= (unsigned)n; left; left -= (unsigned)n) {
		n = take(b, &f, done, left);
		if (n < 0)
			return n;
	}
	printf("{\"op\": \"read\", \"bytes\": %" PRIu64 ", \"requests\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n",
	       b->requests * b->block, b->requests, now_ns() - begin);
	return 0;
}

/* --- stores meanwhile ------------------------------------------------------- */

static void *write_pages(void *arg)
{
	const struct timespec nap = { .tv_nsec = 50000 };
	struct writer *w = arg;
	size_t at;

	while (!w->stop) {
		char *buffer = w->buffer;

		for (at = PAGE_BYTES / 2; at < w->bytes && buffer == w->buffer; at += PAGE_BYTES) {
			uint64_t since = now_ns(), took;

			*(volatile char *)(buffer + at) = 1;
			took = now_ns() - since;
			w->stores++;
			if (took >= HELD_UP_NS && w->pauses < PAUSES_MAX)
				w->pause_ns[w->pauses++] = took;
		}
		/* The CPU is not its own alone. */
		nanosleep(&nap, NULL);
	}
	return NULL;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double part_us(const struct writer *w, unsigned percent)
{
	return w->pauses ? (double)w->pause_ns[(w->pauses - 1) * percent / 100] / 1000 : 0;
}

/* Ahead of all others on its CPU: what it waits for is memory. */
static int start_writer(struct writer *w)
{
	struct sched_param first = { .sched_priority = 1 };
	pthread_attr_t attr;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	pthread_attr_setschedparam(&attr, &first);
	rc = -pthread_create(&w->thread, &attr, write_pages, w);
	pthread_attr_destroy(&attr);
	return rc;
}

static int read_in_turn(struct bench *b, struct writer *w, uint64_t until)
{
	uint64_t n, offset = 0;
	int rc = 0;

	for (n = 0; !rc && now_ns() < until; n++) {
		w->buffer = b->memory + n / TIMES % b->depth * b->block;
		offset = n % b->blocks * b->block;
		rc = uvmm_disk_read(b->disk, w->buffer, b->block, offset);
		if (!rc && !is_right(w->buffer, offset))
			rc = -EILSEQ;
	}
	b->requests = n;
	return rc;
}

/* What comes first of all, memory that is the guest's alone, is not what is measured. */
static int pause_stores(struct bench *b, uint64_t ms)
{
	static struct writer w;
	uint64_t i;
	int rc;

	for (i = 0; i < b->depth * b->block / sizeof(i); i++)
		memcpy(b->memory + i * sizeof(i), &i, sizeof(i));
	w.stop = false;
	w.buffer = b->memory;
	w.bytes = b->block;
	w.pauses = w.stores = 0;
	rc = start_writer(&w);
	if (rc)
		return failed("thread", rc);
	rc = read_in_turn(b, &w, now_ns() + ms * NS_PER_MS);
	w.stop = true;
	pthread_join(w.thread, NULL);
	if (rc)
		return failed("read", rc);
	qsort(w.pause_ns, w.pauses, sizeof(w.pause_ns[0]), by_size);
	printf("{\"op\": \"pause\", \"stores\": %" PRIu64 ", \"held_up\": %zu, \"p50_us\": %.1f, "
	       "\"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       w.stores, w.pauses, part_us(&w, 50), part_us(&w, 99), part_us(&w, 100));
	return 0;
}

/* --- life ------------------------------------------------------------------- */

static int run_command(struct bench *b, const char *line)
{
	uint64_t ms;

	if (sscanf(line, "stream %" SCNu64, &ms) == 1)
		return fly(b, false, ms);
	if (sscanf(line, "random %" SCNu64, &ms) == 1)
		return fly(b, true, ms);
	if (sscanf(line, "pause %" SCNu64, &ms) == 1)
		return pause_stores(b, ms);
	fprintf(stderr, "disk: unknown command: %s\n", line);
	return -EINVAL;
}

static int open_all(struct bench *b)
{
	int rc = uvmm_attach(&b->guest);

	if (!rc)
		rc = uvmm_disk_open(b->guest, "data", &b->disk);
	if (!rc)
		rc = uvmm_alloc(b->guest, b->depth * b->block, (void **)&b->memory);
	if (rc)
		return failed("open", rc);
	b->blocks = uvmm_disk_size_bytes(b->disk) / b->block;
	return b->blocks ? 0 : failed("the image is too small", -EINVAL);
}

int main(int argc, char **argv)
{
	static struct bench b;
	char line[100];

	b.block = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
	b.depth = argc == 3 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	if (!b.block || b.block % PAGE_BYTES || !b.depth || b.depth > DEPTH_MAX) {
		fprintf(stderr, "usage: disk BLOCK DEPTH\n");
		return 2;
	}
	if (open_all(&b))
		return 1;
	printf("{\"op\": \"open\"}\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (run_command(&b, line))
			return 1;
		fflush(stdout);
	}
	return 0;
}
