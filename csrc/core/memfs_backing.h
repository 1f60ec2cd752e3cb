/* SPDX-License-Identifier: MIT
 *
 * memfs_backing - the backing files registered with the kernel: one a guest,
 * whatever number of times its file is open, since the kernel refuses a second
 * one for an inode that is open.
 *
 *   Errors   0 or a negative errno.
 *   Threads  every call locks for itself; the lock is a leaf, and not held
 *            while `open` is called.
 */
#ifndef MEMFS_BACKING_H
#define MEMFS_BACKING_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

/* The kernel's side, replaced in tests. */
struct memfs_registry {
	int (*add)(void *ctx, int fd);          /* an id > 0, or -errno */
	void (*remove)(void *ctx, int32_t id);
	void *ctx;
};

struct memfs_backing;

struct memfs_backings {
	struct memfs_registry registry;         /* immutable after init */

	pthread_mutex_t lock;                   /* guards everything below */
	struct memfs_backing *v;                /* those in use, in no order */
	size_t n, cap;
};

int memfs_backings_init(struct memfs_backings *b, const struct memfs_registry *r);
/* Removes what is left. */
void memfs_backings_fini(struct memfs_backings *b);

/* The id for one more open file of `ino`. If it has none yet, open(ctx, ino)
 * gives a descriptor to register (closed here) or -errno. */
int memfs_backing_get(struct memfs_backings *b, uint64_t ino,
		      int (*open)(void *ctx, uint64_t ino), void *ctx, int32_t *id);
/* One open file less; the last one removes the id. Unknown ones are ignored: a
 * file may be closed after its guest was dropped. */
void memfs_backing_put(struct memfs_backings *b, uint64_t ino);
/* Removes the id of `ino`, open or not. The kernel lets open files keep it. */
void memfs_backing_drop(struct memfs_backings *b, uint64_t ino);

/* How many are registered. */
size_t memfs_backings_count(struct memfs_backings *b);

#endif /* MEMFS_BACKING_H */
