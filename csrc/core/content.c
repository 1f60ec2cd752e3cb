/* SPDX-License-Identifier: MIT */
#include "uvmm_core.h"

#include <xxhash.h>
#ifdef __x86_64__
/* XXH3 for the widest vectors that this CPU has: twice as fast for a page. */
#include <xxh_x86dispatch.h>
#endif

#include "uvmm/protocol.h"

#pragma GCC visibility push(default)

int uvmm_is_zero(const void *data, size_t bytes)
{
	const uint64_t *w = data;
	size_t i, n = bytes / sizeof(*w);

	for (i = 0; i < n; i += 8) {
		uint64_t any = w[i] | w[i + 1] | w[i + 2] | w[i + 3] |
			       w[i + 4] | w[i + 5] | w[i + 6] | w[i + 7];
		if (any)
			return 0;
	}
	return 1;
}

uint32_t uvmm_checksum(const void *page, uint64_t seed)
{
	uint64_t h = XXH3_64bits_withSeed(page, UVMM_PAGE_SIZE, seed);

	return (uint32_t)(h ^ h >> 32);
}

#pragma GCC visibility pop
