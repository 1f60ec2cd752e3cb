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

/* Has all automatic arenas use the hooks; once, before there are other threads. The
 * few extents from before lie in guest memory too if it was open (maps.c). */
void extents_hook(void);
/* Lets arenas that nobody allocates in give up what they do not use. */
void extents_decay(void);

#endif /* EXTENTS_H */
