/* SPDX-License-Identifier: MIT
 *
 * bounce - buffers of ordinary memory, a run of pages each, between a file and guest
 * memory.
 *
 *   A device that reads or writes guest memory itself (O_DIRECT) would do so past the
 *   page tables, while the daemon may take the page out: it had to be pinned first, by
 *   two messages to the daemon, which cost more than the copy (docs/architecture.md).
 *   Ordinary memory nobody takes.
 *
 *   Threads  any. Its lock is a leaf; waiting for a buffer is for whoever does I/O.
 */
#ifndef BOUNCE_H
#define BOUNCE_H

#include <pthread.h>
#include <stddef.h>

#define BOUNCES_MAX 16u         /* 4 MiB */

struct bounces {
	size_t bytes;                   /* of each; immutable */

	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t returned;
	void *free[BOUNCES_MAX];
	unsigned frees;                 /* in free */
	unsigned made;
};

void bounces_init(struct bounces *b, size_t bytes);
void bounces_fini(struct bounces *b);

/* A page-aligned buffer; waits while all are in use. NULL: there is no memory for one. */
void *bounces_get(struct bounces *b);
void bounces_put(struct bounces *b, void *buffer);

#endif /* BOUNCE_H */
