/* SPDX-License-Identifier: MIT
 *
 * extents - jemalloc on guest memory: the hooks by which its arenas take extents
 * and give them back.
 *
 *   An extent that an arena has not used for half a second goes back to the page
 *   allocator (jemalloc's decay), and a moment later to the daemon.
 *
 *   Source   jemalloc(3), arena.<i>.extent_hooks
 *   Threads  any; jemalloc holds no lock that another hook needs.
 */
#ifndef EXTENTS_H
#define EXTENTS_H

/* Has the arenas that are in use by now take their extents by the hooks. What one has
 * from before lies in guest memory, too (maps.c), and is given back like the rest. */
void extents_hook(void);
/* Lets arenas that nobody allocates in give up what they do not use. */
void extents_decay(void);
/* Has all arenas give up what they do not use, now. */
void extents_purge(void);

#endif /* EXTENTS_H */
