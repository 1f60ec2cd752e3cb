/* SPDX-License-Identifier: MIT
 *
 * How far faults read around: alone at random, growing in order, ahead in a long
 * stream, back where nothing came.
 */
#include "stream.h"

#include <stdio.h>
#include <stdlib.h>

#include "uvmm/protocol.h"

#define MAX_PAGES (10u * UVMM_CHUNK_PAGES + 100)
#define CHUNK ((uint64_t)UVMM_CHUNK_PAGES)

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

static uint64_t window(struct streams *s, uint64_t ppn, uint64_t *hi)
{
	uint64_t lo;

	stream_window(s, ppn, MAX_PAGES, &lo, hi);
	CHECK(lo <= ppn && ppn < *hi && *hi <= MAX_PAGES);
	CHECK(lo / CHUNK == (*hi - 1) / CHUNK);
	return *hi - lo;
}

static void random_faults_stay_alone(void)
{
	struct streams s = { 0 };
	uint64_t hi, ppn, i;

	for (i = 0; i < 1000; i++) {
		/* Steps over many pages. */
		ppn = i * 1009 % MAX_PAGES;
		CHECK(window(&s, ppn, &hi) == 1);
	}
}

/* The page after a stream that has come to windows of a chunk. */
static uint64_t long_stream(struct streams *s)
{
	uint64_t at = 0, size = 0, last = 0;

	while (size < CHUNK) {
		last = size;
		size = window(s, at, &at);
		CHECK(size >= last);
	}
	return at;
}

static void streams_grow(void)
{
	struct streams s = { 0 };
	uint64_t at = long_stream(&s), hi;

	CHECK(at % CHUNK == 0);
	CHECK(window(&s, at, &hi) == CHUNK && hi == at + CHUNK);
	/* Evicted again under the reader. */
	CHECK(window(&s, at + 77, &hi) == CHUNK && hi == at + CHUNK);
	/* The last one is cut short. */
	for (at = hi; at < MAX_PAGES; at = hi)
		window(&s, at, &hi);
	CHECK(hi == MAX_PAGES);
}

static void runs_ahead_of_long_streams_alone(void)
{
	struct streams s = { 0 };
	struct stream_ahead a, b;
	uint64_t hi, at;

	window(&s, 0, &hi);
	window(&s, hi, &hi);
	CHECK(!stream_run_ahead(&s, hi - 1, MAX_PAGES, &a));
	at = long_stream(&s);
	CHECK(stream_run_ahead(&s, at - CHUNK, MAX_PAGES, &a));
	CHECK(a.lo == at && a.hi == at + CHUNK);
	/* The same fault asks for no more than one chunk. */
	CHECK(!stream_run_ahead(&s, at - CHUNK, MAX_PAGES, &b));
	/* The reader has come to the chunk ahead. */
	CHECK(stream_run_ahead(&s, at, MAX_PAGES, &b));
	CHECK(b.lo == at + CHUNK);
	/* Nothing came: the reader's next fault is where the stream goes on. */
	stream_fall_back(&s, &b);
	CHECK(window(&s, at + CHUNK, &hi) == CHUNK);
	/* Not beyond the end. */
	for (at = hi; at < MAX_PAGES; at = hi)
		window(&s, at, &hi);
	CHECK(!stream_run_ahead(&s, MAX_PAGES - 1, MAX_PAGES, &a));
}

int main(void)
{
	random_faults_stay_alone();
	streams_grow();
	runs_ahead_of_long_streams_alone();
	printf("stream: ok\n");
	return 0;
}
