/* SPDX-License-Identifier: MIT
 *
 * pages_ops - what a thread does to the pages of the book, one operation at a time.
 *
 *   Threads  a worker belongs to one thread; all workers share the book.
 *   Errors   no operation returns if a byte was wrong or a call failed.
 */
#ifndef PAGES_OPS_H
#define PAGES_OPS_H

#include "pages_book.h"

#define PINNED_MAX 2u
#define BLOCKS_MAX 8u

struct pinned {
	uint32_t page, pages;           /* pages is 0 if there is none */
};

/* A block of the page allocator, outside the book. */
struct block {
	void *at;
	uint32_t pages;                 /* 0 if there is none */
	uint64_t version;               /* of its first quarter, the next one has the next */
};

struct worker {
	struct book *book;
	uint64_t random;                /* state of the generator */
	int file, pipe[2];              /* a temporary file; an empty pipe */
	char *buffer;                   /* RANGE_MAX quarters */
	struct pinned pinned[PINNED_MAX];
	struct block blocks[BLOCKS_MAX];
};

void worker_init(struct worker *w, struct book *b, uint64_t seed);
/* Unpins and frees what it holds, after a check. */
void worker_fini(struct worker *w);

/* A number below `bound`. */
uint32_t worker_random(struct worker *w, uint32_t bound);

/* One operation, chosen by chance. */
void worker_step(struct worker *w);

/* Takes, checks, fills or frees a block of the page allocator; or trims. */
void worker_use_blocks(struct worker *w);
void worker_free_blocks(struct worker *w);

#endif /* PAGES_OPS_H */
