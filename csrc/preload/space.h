/* SPDX-License-Identifier: MIT
 *
 * space - guest physical memory as the place where an unmodified program keeps its
 * heap and its private anonymous mappings.
 *
 *   The process becomes a guest at its first large allocation, mostly before
 *   main() and within malloc: nothing here allocates, or uses what does.
 *
 *   Contents  A range that is given back keeps its pages until they are handed to
 *             the daemon (space_trim, a moment later); one that is taken reads as
 *             zeros if asked for.
 *   Rights    What mprotect() made of a page is remembered, and undone when the
 *             page is given back.
 *   Units     bytes, multiples of the page size; addresses of pages.
 *   Errors    0 or a negative errno.
 *   Threads   any. Locks, outer first: jemalloc's, driver.lock, physmem.lock, remap.lock.
 */
#ifndef SPACE_H
#define SPACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attach.h"
#include "driver.h"
#include "physmem.h"
#include "remap.h"

enum space_state {
	SPACE_CLOSED,           /* not tried yet */
	SPACE_OPENING,
	SPACE_OPEN,
	SPACE_NONE,             /* an ordinary process */
};

struct space {
	_Atomic int state;      /* enum space_state */
	_Atomic bool given;     /* something, since the last trim */
	struct attachment attachment;
	struct physmem physmem;
	struct remap remap;
	struct driver balloon;
	uint8_t *rights;        /* [pages] PROT_* ^ SPACE_RW, or LOST */
};

#define SPACE_RW (1 | 2)        /* PROT_READ | PROT_WRITE: what pages have at first */
#define SPACE_LOST 0x80         /* another mapping has the page's place */

/* The process's own. */
extern struct space the_space;

/* Attaches, the first time that the environment can be read. True if the process
 * is a guest. Ends the process, with the reason on stderr, if it should be one and
 * cannot: it is never given memory that is not the guest's. */
bool space_open(void);

bool space_is_open(void);
/* Some of [at, at + bytes) is guest memory: clipped to it. */
bool space_clip(const void *at, size_t bytes, char **from, size_t *clipped);
/* All of it is. */
bool space_has(const void *at, size_t bytes);

/* Takes `bytes` at a multiple of align (a power of two, a page at least), with those
 * rights. *zero: has to read as zeros; out: does.  NULL: there is no such room */
void *space_take(size_t bytes, size_t align, int rights, bool *zero);
/* The same at that place in guest memory.  -ENOMEM  it is in use */
int space_take_at(void *at, size_t bytes, int rights, bool *zero);
/* The same if it is in use, all of it: as if given and taken.  -ENOMEM it is not */
int space_take_again(void *at, size_t bytes, int rights);
/* Gives back whatever of the range is in use; what is lost is unmapped. */
void space_give(void *at, size_t bytes);
/* The program is about to map something of its own there. Pair with space_lose(). */
unsigned space_keep(void *at, size_t bytes);
/* It has, if `done`: until it unmaps that; the place is not used again. */
void space_lose(void *at, size_t bytes, unsigned kept, bool done);
bool space_is_lost(const void *at, size_t bytes);

/* The range reads as zeros from now, and holds nothing. */
void space_discard(void *at, size_t bytes);
/* mprotect() of anything; what of it is guest memory and not lost is remembered. */
int space_protect(void *at, size_t bytes, int rights);
int space_rights(const void *at);

/* Hands all free pages to the daemon; how many. */
uint64_t space_trim(void);
/* Free pages, with those in the balloon, which an allocation can have. */
uint64_t space_free_pages(void);

/* Prints it to stderr, one line, and ends the process. */
void space_die(const char *why) __attribute__((noreturn));

#endif /* SPACE_H */
