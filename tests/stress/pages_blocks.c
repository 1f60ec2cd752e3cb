/* SPDX-License-Identifier: MIT
 *
 * The part of guest memory that is not in the book belongs to the page allocator.
 * A block has one owner, so its versions are all that must be known of it. */
#include <errno.h>

#include "pages_fail.h"
#include "pages_ops.h"

#define BLOCK_PAGES_MAX 96u

static uint32_t quarter_of(const struct worker *w, const void *at)
{
	return (uint32_t)((uint64_t)((const char *)at - w->book->base) / QUARTER_BYTES);
}

static struct entry entry_of(const struct worker *w, const struct block *k, uint32_t i)
{
	return (struct entry){ k->version + i, quarter_of(w, k->at) + i, w->book->tag, false,
			       "filling of a block" };
}

/* A block holds what a former owner wrote to that very place, or zeros. */
static void check_left_over(struct worker *w, const struct block *k)
{
	uint32_t i, first = quarter_of(w, k->at);
	const struct entry free_page = { .zero = true, .by = "nobody or a former owner" };
	struct entry e;

	for (i = 0; i < k->pages * QUARTERS; i++) {
		const uint64_t *words = book_at(w->book, first + i);
		uint64_t zeros[QUARTER_WORDS] = { 0 };

		if (!book_decode(words, &e) ||
		    (!e.zero && (e.tag != w->book->tag || e.origin != first + i)))
			fail_wrong(w->book, first + i, free_page, zeros, words);
	}
	atomic_fetch_add(&w->book->verified, k->pages * QUARTERS);
}

static void fill_block(struct worker *w, struct block *k)
{
	uint32_t i, n = k->pages * QUARTERS;

	k->version = atomic_fetch_add(&w->book->versions, n) + 1;
	for (i = 0; i < n; i++)
		book_write(w->book, quarter_of(w, k->at) + i, entry_of(w, k, i));
}

static void check_block(struct worker *w, const struct block *k)
{
	uint32_t i, first = quarter_of(w, k->at);

	for (i = 0; i < k->pages * QUARTERS; i++)
		book_check(w->book, first + i, entry_of(w, k, i), book_at(w->book, first + i));
}

static void take(struct worker *w, struct block *k)
{
	uint32_t pages = 1 + worker_random(w, BLOCK_PAGES_MAX);
	int rc = uvmm_alloc(w->book->guest, (size_t)pages * PAGE_BYTES, &k->at);

	if (rc == -ENOMEM)
		return;
	if (rc)
		fail_call(w->book, "uvmm_alloc", w->book->pages * QUARTERS, rc);
	k->pages = pages;
	fail_operation = "check of a new block";
	check_left_over(w, k);
	fail_operation = "filling of a block";
	fill_block(w, k);
}

static void give_back(struct worker *w, struct block *k)
{
	int rc;

	fail_operation = "check of a block before it is freed";
	check_block(w, k);
	rc = uvmm_free(w->book->guest, k->at, (size_t)k->pages * PAGE_BYTES);
	if (rc)
		fail_call(w->book, "uvmm_free", quarter_of(w, k->at), rc);
	k->pages = 0;
}

void worker_use_blocks(struct worker *w)
{
	struct block *k = &w->blocks[worker_random(w, BLOCKS_MAX)];
	int rc;

	fail_operation = "blocks";
	if (!worker_random(w, 16)) {
		fail_operation = "uvmm_trim";
		rc = uvmm_trim(w->book->guest, NULL);
		if (rc)
			fail_call(w->book, "uvmm_trim", w->book->pages * QUARTERS, rc);
	} else if (!k->pages) {
		take(w, k);
	} else if (worker_random(w, 2)) {
		fail_operation = "check of a block";
		check_block(w, k);
	} else {
		give_back(w, k);
	}
}

void worker_free_blocks(struct worker *w)
{
	uint32_t i;

	for (i = 0; i < BLOCKS_MAX; i++)
		if (w->blocks[i].pages)
			give_back(w, &w->blocks[i]);
}
