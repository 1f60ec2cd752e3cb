/* SPDX-License-Identifier: MIT
 *
 * fork - a child's own copy of guest memory.
 *
 *   Guest memory is not inherited: a child would put zeros into the parent's file
 *   where pages are absent. So between its fork and its first access to it a child
 *   becomes a guest of its own, kin to the parent, maps fresh memory at the same
 *   place, and the parent, which waits in fork() for that, sends it all pages that
 *   hold anything.
 *
 *     parent: prepare()  allocator frozen, SIGSEGV caught, a socket pair
 *             clone
 *     child:  the first access (the C library's own, mostly) is a SIGSEGV, whose
 *             handler attaches and receives; or the child handler does so
 *     parent: sends until the child has all, or has gone; goes on
 *
 *   What other threads of the parent write meanwhile the child may get or not, as
 *   if they had written a little later or earlier; what is done under locks that
 *   an atfork handler takes is never seen half done.
 *   vfork() and posix_spawn() need nothing of this.
 *   Handlers run before jemalloc's in the child and after them in the parent's
 *   preparation: fork_register() has to come first.
 */
#ifndef FORK_H
#define FORK_H

/* Registers the handlers; once, further calls do nothing. */
void fork_register(void);
/* Registers what a child does at the end, when it may allocate. */
void fork_register_last(void (*in_child)(void));

#endif /* FORK_H */
