/* SPDX-License-Identifier: MIT
 * MurmurHash3 x64 128 of a page. Source: Austin Appleby's MurmurHash3.cpp, which is in
 * the public domain; without its tail, which a page does not have. */
#include <string.h>

#include "uvmm/protocol.h"
#include "uvmm_core.h"

static uint64_t rotate(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static uint64_t finish(uint64_t x)
{
	x = (x ^ x >> 33) * 0xff51afd7ed558ccdull;
	x = (x ^ x >> 33) * 0xc4ceb9fe1a85ec53ull;
	return x ^ x >> 33;
}

#pragma GCC visibility push(default)

void uvmm_page_hash(const void *page, uint64_t hash[2])
{
	const uint64_t c1 = 0x87c37b91114253d5ull, c2 = 0x4cf5ad432745937full;
	uint64_t a = 0, b = 0, k[2];
	const char *at = page, *end = at + UVMM_PAGE_SIZE;

	for (; at < end; at += sizeof(k)) {
		memcpy(k, at, sizeof(k));
		a ^= rotate(k[0] * c1, 31) * c2;
		a = (rotate(a, 27) + b) * 5 + 0x52dce729;
		b ^= rotate(k[1] * c2, 33) * c1;
		b = (rotate(b, 31) + a) * 5 + 0x38495ab5;
	}
	a ^= UVMM_PAGE_SIZE;
	b ^= UVMM_PAGE_SIZE;
	a += b;
	b += a;
	a = finish(a);
	b = finish(b);
	hash[0] = a + b;
	hash[1] = b + hash[0];
}

#pragma GCC visibility pop
