/* SPDX-License-Identifier: MIT
 *
 * hints - where a content was seen: a page with that hash was at that place, and may
 * be there no more. Whoever finds a hint looks at the page.
 *
 *   Each hint may be in one of two lines of four, and goes to the emptier one; when both
 *   are full it takes the place of another. The table grows with the hints, up to the size
 *   that it is made for; with as many hints as that less than one of 200 is lost so.
 *
 *   Place    any number but 0, the caller's.
 *   Errors   0 or a negative errno.
 *   Threads  any; one lock inside, which is the innermost.
 *   Cost     32 to 64 bytes a hint, 24 when there are as many as it was made for.
 *   Source   Waldspurger 2002, section 4 (hint frames).
 */
#ifndef HINTS_H
#define HINTS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define HINTS_FOUND_MAX 8u

struct hint;

struct hints {
	pthread_mutex_t lock;           /* guards all below */
	struct hint *line;              /* [lines][4] */
	uint64_t lines;
	uint64_t most;                  /* lines; immutable */
	uint64_t used;
	uint64_t lost;                  /* gave way to another one */
	unsigned turn;
};

/* For about so many pages, at least 1.  -ENOMEM */
int hints_init(struct hints *h, uint64_t pages);
void hints_fini(struct hints *h);

/* One that is there is not put twice. */
void hints_put(struct hints *h, uint64_t hash, uint64_t place);
/* Places where that hash was seen; how many. */
size_t hints_find(struct hints *h, uint64_t hash, uint64_t place[HINTS_FOUND_MAX]);
/* It is not there any more; nothing if it is unknown. */
void hints_drop(struct hints *h, uint64_t hash, uint64_t place);
uint64_t hints_used(struct hints *h);

#endif /* HINTS_H */
