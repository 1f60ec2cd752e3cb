/* SPDX-License-Identifier: MIT
 *
 * view - a piece of a guest's file mapped into the daemon for a moment, so that
 * pages go to and from a tier without a copy in between.
 *
 *   Reading a hole through a mapping would allocate it, and a file that is cut
 *   short under it would be a SIGBUS: so only pages are looked at that the
 *   caller owns (pmap.h) and that nobody can take away, which means that guests
 *   must not have a descriptor of the file that can change its size.
 *
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  a view is for one thread at a time.
 */
#ifndef VIEW_H
#define VIEW_H

#include <stdint.h>

struct view {
	char *window;           /* a large page of addresses, on its boundary */
	void *reserved;
};

/* Reserves the addresses.  -ENOMEM */
int view_init(struct view *v);
void view_fini(struct view *v);

enum view_use {
	VIEW_LOOK,              /* read-only */
	VIEW_FILL,              /* to be written, as a large page where possible */
};

/* Maps [ppn, ppn + n) of one chunk, and has all of it there. *at is the first page.
 *   -ENOMEM, -ENOSPC, -EFAULT  it cannot all be there */
int view_map(struct view *v, int fd, uint64_t ppn, uint64_t n, enum view_use use,
	     char **at);
void view_unmap(struct view *v);

#endif /* VIEW_H */
