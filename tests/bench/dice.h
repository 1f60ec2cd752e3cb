/* SPDX-License-Identifier: MIT
 *
 * dice - the time, and numbers at random (xorshift64; the seed is not 0), for programs that
 * measure.
 */
#ifndef BENCH_DICE_H
#define BENCH_DICE_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S 1000000000ull

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static inline uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

#endif /* BENCH_DICE_H */
