/* SPDX-License-Identifier: MIT */
#include "memfs_backing.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct memfs_backing {
	uint64_t ino;
	int32_t id;
	uint32_t open_files;    /* > 0 */
};

int memfs_backings_init(struct memfs_backings *b, const struct memfs_registry *r)
{
	*b = (struct memfs_backings){ .registry = *r };
	return -pthread_mutex_init(&b->lock, NULL);
}

void memfs_backings_fini(struct memfs_backings *b)
{
	for (size_t i = 0; i < b->n; i++)
		b->registry.remove(b->registry.ctx, b->v[i].id);
	free(b->v);
	pthread_mutex_destroy(&b->lock);
}

/* A walk over all: files are opened once in a guest's life, or little more. */
static struct memfs_backing *find_locked(struct memfs_backings *b, uint64_t ino)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->v[i].ino == ino)
			return &b->v[i];
	return NULL;
}

static void remove_locked(struct memfs_backings *b, struct memfs_backing *e)
{
	b->registry.remove(b->registry.ctx, e->id);
	*e = b->v[--b->n];
}

static int add_locked(struct memfs_backings *b, uint64_t ino, int fd, int32_t *id)
{
	if (b->n == b->cap) {
		size_t cap = b->cap ? 2 * b->cap : 16;
		struct memfs_backing *v = reallocarray(b->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		b->v = v;
		b->cap = cap;
	}

	int rc = b->registry.add(b->registry.ctx, fd);

	if (rc <= 0)
		return rc ? rc : -EIO;
	b->v[b->n++] = (struct memfs_backing){ .ino = ino, .id = rc, .open_files = 1 };
	*id = rc;
	return 0;
}

/* Whether there is one already, counted once more. */
static int share_locked(struct memfs_backings *b, uint64_t ino, int32_t *id)
{
	struct memfs_backing *e = find_locked(b, ino);

	if (!e)
		return 0;
	e->open_files++;
	*id = e->id;
	return 1;
}

int memfs_backing_get(struct memfs_backings *b, uint64_t ino,
		      int (*open)(void *ctx, uint64_t ino), void *ctx, int32_t *id)
{
	pthread_mutex_lock(&b->lock);
	int shared = share_locked(b, ino, id);
	pthread_mutex_unlock(&b->lock);
	if (shared)
		return 0;

	int fd = open(ctx, ino);
	int rc = 0;

	if (fd < 0)
		return fd;
	/* Another thread may have been quicker: then ours is not needed. */
	pthread_mutex_lock(&b->lock);
	if (!share_locked(b, ino, id))
		rc = add_locked(b, ino, fd, id);
	pthread_mutex_unlock(&b->lock);
	close(fd);
	return rc;
}

void memfs_backing_put(struct memfs_backings *b, uint64_t ino)
{
	pthread_mutex_lock(&b->lock);
	struct memfs_backing *e = find_locked(b, ino);

	if (e && --e->open_files == 0)
		remove_locked(b, e);
	pthread_mutex_unlock(&b->lock);
}

void memfs_backing_drop(struct memfs_backings *b, uint64_t ino)
{
	pthread_mutex_lock(&b->lock);
	struct memfs_backing *e = find_locked(b, ino);

	if (e)
		remove_locked(b, e);
	pthread_mutex_unlock(&b->lock);
}

size_t memfs_backings_count(struct memfs_backings *b)
{
	pthread_mutex_lock(&b->lock);
	size_t n = b->n;
	pthread_mutex_unlock(&b->lock);
	return n;
}
