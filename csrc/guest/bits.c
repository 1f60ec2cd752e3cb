/* SPDX-License-Identifier: MIT */
#include "bits.h"

#define WORD 64u

static uint64_t words(uint64_t count)
{
	return (count + WORD - 1) / WORD;
}

size_t bits_bytes(uint64_t count)
{
	size_t sum = 0;

	do {
		count = words(count);
		sum += count;
	} while (count > 1);
	return sum * sizeof(uint64_t);
}

void bits_init(struct bits *b, uint64_t count, uint64_t *memory)
{
	b->count = count;
	b->levels = 0;
	do {
		count = words(count);
		b->level[b->levels++] = memory;
		memory += count;
	} while (count > 1);
}

bool bits_has(const struct bits *b, uint64_t i)
{
	return i < b->count && b->level[0][i / WORD] >> (i % WORD) & 1;
}

void bits_add(struct bits *b, uint64_t i)
{
	int l;

	for (l = 0; l < b->levels; l++, i /= WORD) {
		uint64_t *w = &b->level[l][i / WORD], before = *w;

		*w |= 1ull << (i % WORD);
		if (before)
			break;
	}
}

void bits_remove(struct bits *b, uint64_t i)
{
	int l;

	for (l = 0; l < b->levels; l++, i /= WORD) {
		uint64_t *w = &b->level[l][i / WORD];

		*w &= ~(1ull << (i % WORD));
		if (*w)
			break;
	}
}

uint64_t bits_first(const struct bits *b)
{
	uint64_t i = 0;
	int l;

	for (l = b->levels - 1; l >= 0; l--) {
		uint64_t w = b->level[l][i];

		if (!w)
			return BITS_NONE;
		i = i * WORD + (uint64_t)__builtin_ctzll(w);
	}
	return i;
}

/* The lowest, or the highest, member below the i-th word of level l. */
static uint64_t descend(const struct bits *b, int l, uint64_t i, bool highest)
{
	for (; l >= 0; l--) {
		uint64_t w = b->level[l][i];

		i = i * WORD + (uint64_t)(highest ? 63 - __builtin_clzll(w) : __builtin_ctzll(w));
	}
	return i;
}

uint64_t bits_next(const struct bits *b, uint64_t i)
{
	uint64_t at = i, w;
	int l;

	if (i >= b->count)
		return BITS_NONE;
	for (l = 0; l < b->levels; l++) {
		/* At level 0 from `at` on, above that behind it. */
		if (l && at % WORD == WORD - 1)
			w = 0;
		else
			w = b->level[l][at / WORD] & UINT64_MAX << (at % WORD + (l > 0));
		if (w)
			return descend(b, l - 1, at / WORD * WORD + (uint64_t)__builtin_ctzll(w), false);
		at /= WORD;
	}
	return BITS_NONE;
}

uint64_t bits_before(const struct bits *b, uint64_t i)
{
	uint64_t at = i < b->count ? i : b->count - 1, w;
	int l;

	if (i >= b->count && bits_has(b, at))
		return at;
	for (l = 0; l < b->levels; l++) {
		w = b->level[l][at / WORD] & ((1ull << at % WORD) - 1);
		if (w)
			return descend(b, l - 1, at / WORD * WORD + 63u -
				       (uint64_t)__builtin_clzll(w), true);
		at /= WORD;
	}
	return BITS_NONE;
}
