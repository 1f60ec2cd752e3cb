/* SPDX-License-Identifier: MIT
 *
 * shortage - who gives pages when an allocation of the program finds none: asked before
 * the balloon is.
 *
 *   Threads  any. A giver is called on the thread that allocates, without locks of the
 *            library; it must not be removed by itself.
 *   Errors   0 or a negative errno.
 */
#ifndef SHORTAGE_H
#define SHORTAGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "physmem.h"

#define SHORTAGE_GIVERS_MAX 8

/* True if it has given something, so that what is wanted may be there. */
typedef bool (*shortage_fn)(void *arg, const struct physmem_want *w);

struct shortage {
	pthread_rwlock_t lock;          /* guards below; held while they are called */
	struct {
		shortage_fn fn;
		void *arg;
	} giver[SHORTAGE_GIVERS_MAX];
	unsigned givers;
};

/* From now on they are asked by the allocator. */
void shortage_init(struct shortage *s, struct physmem *m);
/* -ENOSPC */
int shortage_add(struct shortage *s, shortage_fn fn, void *arg);
/* Once it returns the giver does not run any more. */
void shortage_remove(struct shortage *s, shortage_fn fn, void *arg);
#endif /* SHORTAGE_H */
