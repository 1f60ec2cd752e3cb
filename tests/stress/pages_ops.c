/* SPDX-License-Identifier: MIT */
#include "pages_ops.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pages_fail.h"

#define HOT_PAGES 48u           /* all threads meet on them */
#define SWEEP_PAGES 1024u       /* long enough to count as a stream */
#define PIPE_QUARTERS 64u       /* the pipe takes them without a reader */
#define PINNED_PAGES 16u

typedef void operation(struct worker *w, uint32_t first, uint32_t n);

uint32_t worker_random(struct worker *w, uint32_t bound)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (uint32_t)((w->random >> 32) * bound >> 32);
}

/* --- locked by worker_step -------------------------------------------------- */

static void write_new(struct worker *w, uint32_t first, uint32_t n)
{
	uint32_t i;

	book_next(w->book, first, n, false, w->book->entries + first);
	for (i = 0; i < n; i++)
		book_write(w->book, first + i, w->book->entries[first + i]);
}

/* Each word is read and changed where it is, so that a change that gets lost, or
 * was made to an old copy, cannot go unseen. */
static void modify(struct worker *w, uint32_t first, uint32_t n)
{
	uint64_t old[QUARTER_WORDS], new[QUARTER_WORDS];
	struct entry *entries = w->book->entries + first;
	uint32_t i;
	size_t k;

	for (i = 0; i < n; i++) {
		volatile uint64_t *words = book_at(w->book, first + i);

		book_expect(entries[i], old);
		book_next(w->book, first + i, 1, false, &entries[i]);
		book_expect(entries[i], new);
		for (k = 0; k < QUARTER_WORDS; k++)
			words[k] += new[k] - old[k];
	}
	atomic_fetch_add(&w->book->written, n);
}

static void check(struct worker *w, uint32_t first, uint32_t n)
{
	book_check_range(w->book, first, n);
}

static void zero(struct worker *w, uint32_t first, uint32_t n)
{
	memset(book_at(w->book, first), 0, (size_t)n * QUARTER_BYTES);
	book_next(w->book, first, n, true, w->book->entries + first);
	atomic_fetch_add(&w->book->written, n);
}

/* The kernel writes to guest memory. */
static void read_in(struct worker *w, uint32_t first, uint32_t n)
{
	struct entry *entries = w->book->entries + first;
	size_t bytes = (size_t)n * QUARTER_BYTES;
	ssize_t rc;
	uint32_t i;

	book_next(w->book, first, n, false, entries);
	for (i = 0; i < n; i++)
		book_expect(entries[i],
			    (uint64_t *)(void *)(w->buffer + (size_t)i * QUARTER_BYTES));
	rc = pwrite(w->file, w->buffer, bytes, 0);
	if (rc != (ssize_t)bytes)
		fail_call(w->book, "pwrite of the file", first, rc);
	rc = pread(w->file, book_at(w->book, first), bytes, 0);
	if (rc != (ssize_t)bytes)
		fail_call(w->book, "pread into guest memory", first, rc);
	atomic_fetch_add(&w->book->written, n);
}

static void check_buffer(struct worker *w, uint32_t first, uint32_t n)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		book_check(w->book, first + i, w->book->entries[first + i],
			   (uint64_t *)(void *)(w->buffer + (size_t)i * QUARTER_BYTES));
}

/* The kernel reads from guest memory. */
static void write_out(struct worker *w, uint32_t first, uint32_t n)
{
	size_t bytes = (size_t)n * QUARTER_BYTES;
	ssize_t rc = pwrite(w->file, book_at(w->book, first), bytes, 0);

	if (rc != (ssize_t)bytes)
		fail_call(w->book, "pwrite from guest memory", first, rc);
	rc = pread(w->file, w->buffer, bytes, 0);
	if (rc != (ssize_t)bytes)
		fail_call(w->book, "pread of the file", first, rc);
	check_buffer(w, first, n);
}

static void write_pipe(struct worker *w, uint32_t first, uint32_t n)
{
	size_t bytes, done = 0;
	ssize_t rc;

	n = n < PIPE_QUARTERS ? n : PIPE_QUARTERS;
	bytes = (size_t)n * QUARTER_BYTES;
	rc = write(w->pipe[1], book_at(w->book, first), bytes);
	if (rc != (ssize_t)bytes)
		fail_call(w->book, "write from guest memory to a pipe", first, rc);
	for (; done < bytes; done += (size_t)rc) {
		rc = read(w->pipe[0], w->buffer + done, bytes - done);
		if (rc <= 0)
			fail_call(w->book, "read of the pipe", first, rc);
	}
	check_buffer(w, first, n);
}

/* Whole pages only; the rest of the range is left alone. */
static void discard(struct worker *w, uint32_t first, uint32_t n)
{
	uint32_t lo = (first + QUARTERS - 1) / QUARTERS * QUARTERS;
	uint32_t hi = (first + n) / QUARTERS * QUARTERS;
	int rc;

	if (lo >= hi)
		return;
	rc = uvmm_discard(w->book->guest, book_at(w->book, lo), (size_t)(hi - lo) * QUARTER_BYTES);
	if (rc && rc != -EBUSY)
		fail_call(w->book, "uvmm_discard", lo, rc);
	/* A page of it is pinned, or on its way: then all of it has to be as before. */
	if (!rc)
		book_next(w->book, lo, hi - lo, true, w->book->entries + lo);
	if (rc || worker_random(w, 2))
		book_check_range(w->book, lo, hi - lo);
}

/* Whole pages as all guests have them, in a run as others may have it. */
static void write_common(struct worker *w, uint32_t first, uint32_t n)
{
	uint32_t lo = (first + QUARTERS - 1) / QUARTERS * QUARTERS, hi = first + n, q;
	uint32_t start = worker_random(w, COMMON_PAGES);

	for (q = lo; q < hi / QUARTERS * QUARTERS; q++) {
		uint32_t page = (start + (q - lo) / QUARTERS) % COMMON_PAGES;

		w->book->entries[q] = book_common(page, q % QUARTERS);
		book_write(w->book, q, w->book->entries[q]);
	}
}

/* Pins whole pages, for as long as it takes until this worker comes here again. */
static void pin(struct worker *w, uint32_t first, uint32_t n)
{
	struct pinned *p = &w->pinned[worker_random(w, PINNED_MAX)];
	uint32_t page = first / QUARTERS, pages = (n + QUARTERS - 1) / QUARTERS;
	int rc;

	if (p->pages) {
		rc = uvmm_unpin(w->book->guest, book_at(w->book, p->page * QUARTERS),
				(size_t)p->pages * PAGE_BYTES);
		if (rc)
			fail_call(w->book, "uvmm_unpin", p->page * QUARTERS, rc);
		p->pages = 0;
		return;
	}
	pages = pages < PINNED_PAGES ? pages : PINNED_PAGES;
	rc = uvmm_pin(w->book->guest, book_at(w->book, page * QUARTERS),
		      (size_t)pages * PAGE_BYTES);
	if (!rc)
		*p = (struct pinned){ page, pages };
	else if (rc != -ENOMEM && rc != -EOVERFLOW && rc != -EBUSY)
		fail_call(w->book, "uvmm_pin", first, rc);
	book_check_range(w->book, first, n);
}

/* --- with locks of their own ------------------------------------------------ */

/* memcpy of a quarter or a page to another place. */
static void copy(struct worker *w, uint32_t from, uint32_t to, uint32_t n)
{
	struct book *b = w->book;
	bool ascending = from % LOCKS < to % LOCKS;
	uint32_t gap = ascending ? to % LOCKS - from % LOCKS : from % LOCKS - to % LOCKS;

	/* They must have no lock in common, which cannot be taken twice. */
	if (gap < n)
		return;
	book_lock(b, ascending ? from : to, n);
	book_lock(b, ascending ? to : from, n);
	memcpy(book_at(b, to), book_at(b, from), (size_t)n * QUARTER_BYTES);
	memcpy(b->entries + to, b->entries + from, n * sizeof(struct entry));
	atomic_fetch_add(&b->written, n);
	if (worker_random(w, 2))
		book_check_range(b, to, n);
	book_unlock(b, to, n);
	book_unlock(b, from, n);
}

/* Goes over many pages in order, as a program that streams does. */
static void sweep(struct worker *w, uint32_t page)
{
	operation *op = worker_random(w, 2) ? check : write_new;
	uint32_t end = page + 1 + worker_random(w, SWEEP_PAGES);

	end = end < w->book->pages ? end : w->book->pages;
	fail_operation = op == check ? "sweep reading" : "sweep writing";
	for (; page < end; page++) {
		book_lock(w->book, page * QUARTERS, QUARTERS);
		op(w, page * QUARTERS, QUARTERS);
		book_unlock(w->book, page * QUARTERS, QUARTERS);
	}
}

/* --- choice ----------------------------------------------------------------- */

static const struct choice {
	const char *name;
	operation *op;
	uint32_t weight, quarters_max;
} choices[] = {
	{ "check", check, 30, QUARTERS },
	{ "write", write_new, 24, QUARTERS },
	{ "read-modify-write", modify, 14, QUARTERS },
	{ "check of a range", check, 4, RANGE_MAX },
	{ "pread into guest memory", read_in, 6, RANGE_MAX },
	{ "pwrite from guest memory", write_out, 4, RANGE_MAX },
	{ "write from guest memory to a pipe", write_pipe, 4, PIPE_QUARTERS },
	{ "zeroing", zero, 3, 4 * QUARTERS },
	{ "uvmm_discard", discard, 3, RANGE_MAX },
	{ "pin or unpin", pin, 2, PINNED_PAGES * QUARTERS },
};

#define CHOICES (sizeof(choices) / sizeof(*choices))
#define WEIGHT_SUM 94u          /* of the choices */
#define WEIGHT_COPY 5u
#define WEIGHT_SWEEP 1u
#define WEIGHT_BLOCKS 2u
#define WEIGHT_COMMON 6u        /* of guests that share */
#define CALM_IN 32u             /* of so many choices one is in the calm half */

static const struct choice common_choice = {
	"writing of common pages", write_common, WEIGHT_COMMON, RANGE_MAX
};

static uint32_t random_page(struct worker *w)
{
	uint32_t pages = w->book->pages;

	if (w->book->share && worker_random(w, CALM_IN))
		pages /= 2;
	return worker_random(w, worker_random(w, 4) ? pages : HOT_PAGES);
}

/* Half of the ranges begin with a page; the others anywhere in it. */
static uint32_t random_quarter(struct worker *w)
{
	return random_page(w) * QUARTERS +
		(worker_random(w, 2) ? 0 : worker_random(w, QUARTERS));
}

static void locked_step(struct worker *w, const struct choice *c)
{
	uint32_t first = random_quarter(w);
	uint32_t n = book_clip(w->book, first, 1 + worker_random(w, c->quarters_max));

	fail_operation = c->name;
	book_lock(w->book, first, n);
	/* Now and then only afterwards, so that the operation itself takes the fault. */
	if (!worker_random(w, 3))
		book_check_range(w->book, first, n);
	c->op(w, first, n);
	if (!worker_random(w, 3))
		book_check_range(w->book, first, n);
	book_unlock(w->book, first, n);
}

void worker_step(struct worker *w)
{
	uint32_t pick = worker_random(w, WEIGHT_SUM + WEIGHT_COPY + WEIGHT_SWEEP + WEIGHT_BLOCKS +
				      (w->book->share ? WEIGHT_COMMON : 0));
	size_t i;

	for (i = 0; i < CHOICES; i++) {
		if (pick < choices[i].weight) {
			locked_step(w, &choices[i]);
			return;
		}
		pick -= choices[i].weight;
	}
	if (pick < WEIGHT_COPY) {
		uint32_t offset = worker_random(w, 2) ? 0 : worker_random(w, QUARTERS);

		fail_operation = "memcpy between guest pages";
		copy(w, random_page(w) * QUARTERS + offset, random_page(w) * QUARTERS + offset,
		     offset ? 1 : QUARTERS);
	} else if (pick < WEIGHT_COPY + WEIGHT_SWEEP) {
		sweep(w, random_page(w));
	} else if (pick >= WEIGHT_COPY + WEIGHT_SWEEP + WEIGHT_BLOCKS) {
		locked_step(w, &common_choice);
	} else {
		worker_use_blocks(w);
	}
}

void worker_init(struct worker *w, struct book *b, uint64_t seed)
{
	FILE *file = tmpfile();

	*w = (struct worker){ .book = b, .random = seed * 2 + 1 };
	w->buffer = aligned_alloc(PAGE_BYTES, (size_t)RANGE_MAX * QUARTER_BYTES);
	if (!file || !w->buffer || pipe(w->pipe)) {
		perror("pages_guest: a temporary file, a buffer and a pipe");
		exit(STATUS_CALL);
	}
	w->file = fileno(file);
	for (uint32_t i = 0; i < 8; i++)
		worker_random(w, 1);
}

void worker_fini(struct worker *w)
{
	uint32_t i;

	for (i = 0; i < PINNED_MAX; i++) {
		uint32_t first = w->pinned[i].page * QUARTERS;
		int rc;

		if (!w->pinned[i].pages)
			continue;
		fail_operation = "last unpin";
		rc = uvmm_unpin(w->book->guest, book_at(w->book, first),
				(size_t)w->pinned[i].pages * PAGE_BYTES);
		if (rc)
			fail_call(w->book, "uvmm_unpin", first, rc);
	}
	fail_operation = "last free of blocks";
	worker_free_blocks(w);
}
