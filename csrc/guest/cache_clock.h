/* SPDX-License-Identifier: MIT
 *
 * cache_clock - the time of the file cache: nanoseconds that never go back.
 */
#ifndef CACHE_CLOCK_H
#define CACHE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CACHE_MS_NS 1000000ull
#define CACHE_S_NS (1000 * CACHE_MS_NS)

static inline uint64_t cache_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * CACHE_S_NS + (uint64_t)t.tv_nsec;
}

static inline struct timespec cache_timespec(uint64_t ns)
{
	return (struct timespec){ (time_t)(ns / CACHE_S_NS), (long)(ns % CACHE_S_NS) };
}

#endif /* CACHE_CLOCK_H */
