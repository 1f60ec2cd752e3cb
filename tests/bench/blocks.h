/* SPDX-License-Identifier: MIT
 *
 * blocks - guest memory by way of its page allocator. Each operation prints one line of
 * JSON with its figures to stdout.
 *
 *   Units    nanoseconds of CLOCK_MONOTONIC; pages of 4 KiB.
 *   Errors   0 or a negative errno; the reason has been printed to stderr.
 */
#ifndef BENCH_BLOCKS_H
#define BENCH_BLOCKS_H

#include <stdint.h>

#include "memory.h"

/* Takes all memory in blocks of `pages`, writes to each page, and frees one block in
 * `one_in`, for good. "free" is how many pages are free then. */
int blocks_use(const struct memory *m, uint64_t pages, uint64_t one_in);

/* Takes `count` blocks of `pages`, and frees them: the median time of taking one, and the
 * longest. */
int blocks_take(const struct memory *m, uint64_t count, uint64_t pages);

#endif /* BENCH_BLOCKS_H */
