/* SPDX-License-Identifier: MIT */
#include "pages_book.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pages_fail.h"

#define NOISE_SPARSE 16u        /* words of noise in a quarter that compresses well */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

void book_open(struct book *b, uint32_t tag, bool share)
{
	void *block = NULL;
	size_t i, bytes;

	memset(b, 0, sizeof(*b));
	if (uvmm_attach(&b->guest)) {
		fprintf(stderr, "pages_guest: %s\n", uvmm_error());
		exit(STATUS_CALL);
	}
	bytes = uvmm_size_bytes(b->guest) / 4 * 3 / PAGE_BYTES * PAGE_BYTES;
	b->base = uvmm_base(b->guest);
	b->tag = tag;
	b->share = share;
	b->pages = (uint32_t)(bytes / PAGE_BYTES);
	b->entries = calloc((size_t)b->pages * QUARTERS, sizeof(*b->entries));
	for (i = 0; b->entries && i < (size_t)b->pages * QUARTERS; i++)
		b->entries[i].zero = true;
	if (!b->entries || uvmm_alloc(b->guest, bytes, &block) || block != b->base) {
		fprintf(stderr, "pages_guest: cannot take the lower part of the memory\n");
		exit(STATUS_CALL);
	}
	for (i = 0; i < LOCKS; i++)
		pthread_mutex_init(&b->lock[i], NULL);
}

uint32_t book_clip(const struct book *b, uint32_t first, uint32_t n)
{
	uint32_t left = b->pages * QUARTERS - first, ascending = LOCKS - first % LOCKS;

	n = n < RANGE_MAX ? n : RANGE_MAX;
	n = n < left ? n : left;
	return n < ascending ? n : ascending;
}

void book_lock(struct book *b, uint32_t first, uint32_t n)
{
	uint32_t q;

	for (q = first; q < first + n; q++)
		pthread_mutex_lock(&b->lock[q % LOCKS]);
}

void book_unlock(struct book *b, uint32_t first, uint32_t n)
{
	uint32_t q;

	for (q = first; q < first + n; q++)
		pthread_mutex_unlock(&b->lock[q % LOCKS]);
}

void book_next(struct book *b, uint32_t first, uint32_t n, bool zero, struct entry *entries)
{
	uint64_t version = atomic_fetch_add(&b->versions, n) + 1;
	uint32_t i;

	for (i = 0; i < n; i++)
		entries[i] = (struct entry){ version + i, first + i, b->tag, zero, fail_operation };
}

struct entry book_common(uint32_t page, uint32_t quarter)
{
	return (struct entry){ page + 1, page * QUARTERS + quarter, COMMON_TAG, false,
			       fail_operation };
}

static uint64_t sum(const uint64_t *words)
{
	uint64_t s = 0;
	size_t i;

	for (i = 0; i < QUARTER_WORDS - 1; i++)
		s = (s << 7 | s >> 57) + words[i];
	return mix(s);
}

static void fill(struct entry e, uint64_t *words)
{
	uint64_t key = mix((uint64_t)e.tag << 32 ^ e.origin) ^ e.version;
	size_t i, noise = e.version % 4 ? QUARTER_WORDS - 1 : NOISE_SPARSE;

	words[0] = e.version;
	words[1] = (uint64_t)e.tag << 32 | e.origin;
	for (i = 2; i < QUARTER_WORDS - 1; i++)
		words[i] = i < noise ? mix(key + i) : key;
	words[i] = sum(words);
}

void book_expect(struct entry e, uint64_t *words)
{
	if (e.zero)
		memset(words, 0, QUARTER_BYTES);
	else
		fill(e, words);
}

void book_write(struct book *b, uint32_t quarter, struct entry e)
{
	book_expect(e, book_at(b, quarter));
	atomic_fetch_add_explicit(&b->written, 1, memory_order_relaxed);
}

void book_check(struct book *b, uint32_t quarter, struct entry e, const uint64_t *words)
{
	uint64_t want[QUARTER_WORDS];

	book_expect(e, want);
	if (memcmp(want, words, sizeof(want)))
		fail_wrong(b, quarter, e, want, words);
	atomic_fetch_add_explicit(&b->verified, 1, memory_order_relaxed);
}

void book_check_range(struct book *b, uint32_t first, uint32_t n)
{
	uint32_t q;

	for (q = first; q < first + n; q++)
		book_check(b, q, b->entries[q], book_at(b, q));
}

bool book_decode(const uint64_t *words, struct entry *e)
{
	uint64_t want[QUARTER_WORDS];

	*e = (struct entry){ words[0], (uint32_t)words[1], (uint32_t)(words[1] >> 32), !words[0],
			     NULL };
	book_expect(*e, want);
	return !memcmp(want, words, sizeof(want));
}
