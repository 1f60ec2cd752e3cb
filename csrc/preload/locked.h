/* SPDX-License-Identifier: MIT
 *
 * locked - what the program has locked by mlock(2), most of it secrets: pinned, so
 * that the daemon never stores it.
 *
 *   As the kernel has it, a page is locked or not, however often it was; it is
 *   unlocked when it is unmapped, and not locked in a forked child.
 *
 *   Units    bytes, multiples of the page size; addresses of pages in guest memory.
 *   Threads  any. The lock is taken after jemalloc's, before that of attach_ask().
 */
#ifndef LOCKED_H
#define LOCKED_H

#include <stddef.h>

/* -ENOMEM  the daemon cannot keep so much; some of it may be locked */
int locked_add(void *at, size_t bytes);
void locked_remove(void *at, size_t bytes);
/* In a forked child, where nothing is. */
void locked_forked(void);

#endif /* LOCKED_H */
