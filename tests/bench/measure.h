/* SPDX-License-Identifier: MIT
 *
 * measure - the operations that are timed. Each prints one line of JSON with
 * its figures to stdout.
 *
 *   Units    nanoseconds of CLOCK_MONOTONIC; pages of 4 KiB.
 *   Errors   0 or a negative errno; the reason has been printed to stderr.
 */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <stdint.h>

#include "memory.h"

/* Writes half-compressible contents into each page: 2 KiB of repeating text,
 * 2 KiB of noise; every page differs. */
int measure_fill(const struct memory *m);

/* Writes one byte into each page, in order. */
int measure_first_touch(const struct memory *m);

/* `count` reads of 8 bytes at random places, each a new one. */
int measure_random(const struct memory *m, uint64_t count);

/* Reads a word of each `step`-th of the first `count` pages, over and over for `ms`; at
 * least once. */
int measure_hot(const struct memory *m, uint64_t count, uint64_t step, uint64_t ms);

/* `count` reads of random pages: each `cold_in`-th of any page, the others of each `step`-th
 * page. */
int measure_mix(const struct memory *m, uint64_t count, uint64_t step, uint64_t cold_in);

/* Reads one word of `count` random pages, none twice and no two within 64 KiB,
 * so that the provider's read-ahead does not serve the next one; by `threads`
 * threads. Reports the distribution of the single reads. */
int measure_latency(const struct memory *m, unsigned threads, uint64_t count,
		    uint64_t seed);

/* Reads all of it once, in order; also reports the sum of its 64-bit words, the
 * same that measure_fill reported if the contents are what they were. */
int measure_sequential(const struct memory *m);

/* MADV_PAGEOUT: what the kernel's own swap does with this memory. */
int measure_pageout(const struct memory *m);

/* Pages that are mapped now, by /proc/self/pagemap. */
int measure_resident(const struct memory *m);

/* Writes all of it into a file, for a filesystem to serve. */
int measure_save(const struct memory *m, const char *path);

#endif /* BENCH_MEASURE_H */
