/* SPDX-License-Identifier: MIT
 *
 * pages_book - what every byte of guest memory has to be, kept in ordinary memory.
 *
 *   A page is four quarters, each written as a whole: with zeros, or with a
 *   pattern of a version. Versions come from one counter, so each is written once
 *   and a lower one is older. The pattern says itself which guest, quarter and
 *   version it is of, and ends with a checksum of the rest: a wrong quarter tells
 *   whether it is stale, someone else's, or nobody's.
 *   Common pages are what all guests write: COMMON_PAGES different ones, each quarter
 *   with the tag 0 and a version and an origin of its own.
 *
 *   Units    quarters, numbered from 0 at the base: page * 4 + quarter of the page.
 *   Threads  a quarter and its entry belong to whoever holds its lock. Locks are
 *            taken lowest lock first; book_clip() keeps ranges in that order.
 */
#ifndef PAGES_BOOK_H
#define PAGES_BOOK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uvmm/guest.h"

#define PAGE_BYTES 4096u
#define QUARTERS 4u             /* of a page */
#define QUARTER_BYTES (PAGE_BYTES / QUARTERS)
#define QUARTER_WORDS (QUARTER_BYTES / sizeof(uint64_t))
#define LOCKS (512u * QUARTERS)
#define RANGE_MAX (64u * QUARTERS)
#define COMMON_PAGES 200u
#define COMMON_TAG 0u

struct entry {
	uint64_t version;
	uint32_t origin;        /* the quarter it was first written to */
	uint32_t tag;           /* of the guest that wrote it, or COMMON_TAG */
	bool zero;              /* all zeros instead of a pattern */
	const char *by;         /* operation that wrote it; NULL: none did */
};

struct book {
	uvmm_guest *guest;              /* this and what follows: immutable */
	char *base;
	uint32_t tag;                   /* tells this guest's patterns from others' */
	uint32_t pages;                 /* those in the book, from the base */
	bool share;                     /* writes common pages, and half of all seldom */
	_Atomic uint64_t versions;      /* given out */
	_Atomic uint64_t written, verified;     /* quarters */
	pthread_mutex_t lock[LOCKS];
	struct entry *entries;          /* [pages * QUARTERS] guarded by its lock */
};

/* Attaches and puts three quarters of the guest's memory into the book. Exits with
 * the reason on stderr if that fails. */
void book_open(struct book *b, uint32_t tag, bool share);

static inline uint64_t *book_at(const struct book *b, uint32_t quarter)
{
	return (uint64_t *)(void *)(b->base + (uint64_t)quarter * QUARTER_BYTES);
}

/* Shortens a range at `first` such that its locks ascend. */
uint32_t book_clip(const struct book *b, uint32_t first, uint32_t n);
void book_lock(struct book *b, uint32_t first, uint32_t n);
void book_unlock(struct book *b, uint32_t first, uint32_t n);

/* A version that was not used before for each of n quarters at `first`, which the
 * caller has locked or owns; entries[] is told. */
void book_next(struct book *b, uint32_t first, uint32_t n, bool zero, struct entry *entries);

/* Of a quarter of the common page, 0 to COMMON_PAGES - 1. */
struct entry book_common(uint32_t page, uint32_t quarter);

/* What a quarter with that entry holds. */
void book_expect(struct entry e, uint64_t *words);

/* Writes the pattern of the entry to a quarter. */
void book_write(struct book *b, uint32_t quarter, struct entry e);

/* Compares words that are, or were read from, a quarter with what the entry says;
 * does not return if they differ. */
void book_check(struct book *b, uint32_t quarter, struct entry e, const uint64_t *words);

/* Checks n quarters of the book in place; they are locked. */
void book_check_range(struct book *b, uint32_t first, uint32_t n);

/* What the words of a quarter say that they are; false if they are no pattern. */
bool book_decode(const uint64_t *words, struct entry *e);

#endif /* PAGES_BOOK_H */
