/* SPDX-License-Identifier: MIT */
#include "cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache_page.h"
#include "cache_plain.h"
#include "cache_write.h"

#define OWN_DEVICE UINT64_MAX   /* no filesystem's number */

/* --- the table ------------------------------------------------------------------ */

static uint64_t key_of(uint64_t device, uint64_t inode)
{
	uint64_t key = device * 0xff51afd7ed558ccdu ^ (inode + 1) * 0x9e3779b97f4a7c15u;

	return key ^ key >> 29;
}

static struct cache_file **bucket_of(struct uvmm_cache *c, const struct cache_file *f)
{
	return &c->bucket[f->key % CACHE_FILE_BUCKETS];
}

static struct cache_file *find(struct uvmm_cache *c, uint64_t device, uint64_t inode)
{
	struct cache_file *f = c->bucket[key_of(device, inode) % CACHE_FILE_BUCKETS];

	while (f && !(f->named && f->device == device && f->inode == inode))
		f = f->next;
	return f;
}

static struct cache_file *add(struct uvmm_cache *c, bool named, uint64_t device, uint64_t inode)
{
	struct cache_file *f = cache_slab_get(&c->file_slab), **bucket;

	if (!f)
		return NULL;
	f->cache = c;
	f->named = named;
	f->device = device;
	f->inode = inode;
	f->key = key_of(device, inode);
	cache_index_init(&f->extents, &c->nodes);
	pthread_mutex_init(&f->write_lock, NULL);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->moved, NULL);
	bucket = bucket_of(c, f);
	f->next = *bucket;
	*bucket = f;
	c->files++;
	return f;
}

static void remove_file(struct cache_file *f)
{
	struct uvmm_cache *c = f->cache;
	struct cache_file **at = bucket_of(c, f);

	while (*at != f)
		at = &(*at)->next;
	*at = f->next;
	c->files--;
	pthread_mutex_destroy(&f->write_lock);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->moved);
	cache_slab_put(&c->file_slab, f);
}

static struct cache_file *after(struct uvmm_cache *c, const struct cache_file *f)
{
	struct cache_file **bucket = f ? bucket_of(c, f) + 1 : c->bucket;

	if (f && f->next)
		return f->next;
	while (bucket < c->bucket + CACHE_FILE_BUCKETS && !*bucket)
		bucket++;
	return bucket < c->bucket + CACHE_FILE_BUCKETS ? *bucket : NULL;
}

/* --- backends ------------------------------------------------------------------- */

static void close_backend(struct cache_backend *b)
{
	if (b->ops)
		b->ops->close(b->arg);
	b->ops = NULL;
}

static int identify(const struct cache_backend *b, struct cache_identity *out, bool *gone)
{
	*gone = false;
	return b->ops && b->ops->identify ? b->ops->identify(b->arg, out, gone) : -ENOSYS;
}

static bool is_same(const struct cache_identity *a, const struct cache_identity *b)
{
	return a->size_bytes == b->size_bytes && a->modified_ns == b->modified_ns &&
	       a->changed_ns == b->changed_ns;
}

void cache_file_drop(struct cache_file *f, uint64_t from_index)
{
	uint64_t number = from_index / CACHE_RUN_PAGES, which = UINT64_MAX;
	struct cache_extent *x;

	while ((x = cache_index_next(&f->extents, &number))) {
		which = number == from_index / CACHE_RUN_PAGES ?
			UINT64_MAX << from_index % CACHE_RUN_PAGES : UINT64_MAX;
		cache_pages_leave(x, which);
		number++;
	}
}

void cache_file_left(struct cache_file *f, const struct cache_backend *b)
{
	struct cache_identity now;
	bool gone;

	if (identify(b, &now, &gone))
		return;
	pthread_mutex_lock(&f->lock);
	/* What another thread has seen later is newer. */
	if (now.changed_ns >= f->identity.changed_ns)
		f->identity = now;
	pthread_mutex_unlock(&f->lock);
}

void cache_file_shrunk(struct cache_file *f)
{
	struct cache_identity now;
	bool gone;

	/* A writer knows better how long the file is. */
	if (pthread_mutex_trylock(&f->write_lock))
		return;
	pthread_mutex_lock(&f->lock);
	if (!f->dirty_pages && !f->writing_pages && !identify(&f->backend, &now, &gone) &&
	    now.size_bytes < f->size) {
		f->size = now.size_bytes;
		cache_file_drop(f, now.size_bytes / CACHE_PAGE_BYTES);
	}
	pthread_mutex_unlock(&f->lock);
	pthread_mutex_unlock(&f->write_lock);
}

/* --- nobody has it open ----------------------------------------------------------- */

/* With files_lock, of a file that nobody uses. f: locked. All that is left of it is what
 * others may find. True: then nothing is. */
static bool settle_locked(struct cache_file *f, struct cache_backend *unused)
{
	struct cache_identity now;
	bool gone = false, known;

	if (f->writing_pages)
		return false;
	cache_wait_for_busy(f, 0);
	known = !identify(&f->backend, &now, &gone);
	if (f->dirty_pages && !gone)
		return false;
	if (f->backend.ops && (!f->named || !known || gone || !is_same(&now, &f->identity)))
		cache_file_drop(f, 0);
	*unused = f->backend;
	f->backend.ops = NULL;
	return !f->pages;
}

/* With files_lock. */
static void settle(struct cache_file *f)
{
	struct cache_backend unused = { .ops = NULL };
	bool empty;

	if (f->handles || atomic_load(&f->refs))
		return;
	pthread_mutex_lock(&f->lock);
	/* Who writes back may have taken it meanwhile, as long as it had dirty pages. */
	empty = settle_locked(f, &unused) && !atomic_load(&f->refs);
	pthread_mutex_unlock(&f->lock);
	if (unused.ops)
		close_backend(&f->former);
	close_backend(&unused);
	if (empty)
		remove_file(f);
}

void cache_file_put(struct cache_file *f)
{
	struct uvmm_cache *c = f->cache;

	pthread_mutex_lock(&c->files_lock);
	atomic_fetch_sub(&f->refs, 1);
	settle(f);
	pthread_mutex_unlock(&c->files_lock);
}

struct cache_file *cache_file_next(struct uvmm_cache *c, struct cache_file *f)
{
	struct cache_file *next;

	pthread_mutex_lock(&c->files_lock);
	next = after(c, f);
	if (next)
		atomic_fetch_add(&next->refs, 1);
	if (f) {
		atomic_fetch_sub(&f->refs, 1);
		settle(f);
	}
	pthread_mutex_unlock(&c->files_lock);
	return next;
}

void cache_file_sweep(struct uvmm_cache *c)
{
	struct cache_file *f, *next;

	pthread_mutex_lock(&c->files_lock);
	for (f = after(c, NULL); f; f = next) {
		next = after(c, f);
		settle(f);
	}
	pthread_mutex_unlock(&c->files_lock);
}

void cache_file_free_all(struct uvmm_cache *c)
{
	struct cache_file *f;

	while ((f = after(c, NULL))) {
		pthread_mutex_lock(&f->lock);
		cache_file_drop(f, 0);
		pthread_mutex_unlock(&f->lock);
		close_backend(&f->backend);
		close_backend(&f->former);
		remove_file(f);
	}
}

/* --- opening ------------------------------------------------------------------------ */

/* With files_lock, of a file that nobody has open. What others have changed is seen from
 * now on, unless there is something of ours to be written. */
static void look_anew(struct cache_file *f)
{
	struct cache_identity now;
	bool gone;

	pthread_mutex_lock(&f->lock);
	cache_wait_for_busy(f, 0);
	if (!f->dirty_pages && !f->writing_pages && !identify(&f->backend, &now, &gone) &&
	    !is_same(&now, &f->identity)) {
		cache_file_drop(f, 0);
		f->identity = now;
		f->size = now.size_bytes;
	}
	pthread_mutex_unlock(&f->lock);
}

/* With files_lock. fd, taken over, is what the file is read by from now on if it can do
 * more than what it had. */
static int adopt(struct cache_file *f, int fd, bool writable)
{
	struct cache_backend b;

	bool enough = f->backend.ops && (f->backend.writable || !writable);

	if (!enough && cache_plain_open(fd, writable, &f->cache->plains, &f->cache->bounces, &b)) {
		close(fd);
		return -ENOMEM;
	}
	if (enough) {
		close(fd);
	} else {
		/* Whoever reads by the former one at this moment may go on. */
		pthread_mutex_lock(&f->lock);
		f->former = f->backend;
		f->backend = b;
		pthread_mutex_unlock(&f->lock);
	}
	if (!f->handles)
		look_anew(f);
	return 0;
}

static struct uvmm_file *handle_for(struct cache_file *f, int flags)
{
	struct uvmm_file *h = cache_slab_get(&f->cache->handle_slab);

	if (!h)
		return NULL;
	h->file = f;
	h->flags = flags;
	pthread_mutex_init(&h->position_lock, NULL);
	pthread_mutex_init(&h->ahead_lock, NULL);
	pthread_mutex_lock(&f->lock);
	/* An error that nobody was told of is for whoever comes next. */
	h->errors_seen = f->errors && !f->told ? f->errors - 1 : f->errors;
	f->abandoned = false;
	pthread_mutex_unlock(&f->lock);
	f->handles++;
	f->cache->handles++;
	return h;
}

/* What open(2) is asked for. */
static int kernel_flags(int flags)
{
	int access = flags & O_ACCMODE;

	flags &= ~(O_ACCMODE | O_TRUNC | O_DIRECT | O_APPEND | O_SYNC | O_DSYNC | O_NOATIME);
	/* A FIFO is not to be waited for. */
	return flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY |
	       (access == O_RDONLY ? O_RDONLY : O_RDWR);
}

static int open_regular(const char *path, int flags, mode_t mode, struct stat *st)
{
	int fd, rc = 0;

	if ((flags & O_ACCMODE) == O_ACCMODE || flags & O_PATH ||
	    (flags & O_TRUNC && (flags & O_ACCMODE) == O_RDONLY))
		return -EINVAL;
	fd = open(path, kernel_flags(flags), mode);
	if (fd < 0)
		return -errno;
	if (fstat(fd, st))
		rc = -errno;
	else if (!S_ISREG(st->st_mode))
		rc = S_ISDIR(st->st_mode) ? -EISDIR : -EINVAL;
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

int cache_file_open(struct uvmm_cache *c, const char *path, int flags, mode_t mode,
		    struct uvmm_file **out)
{
	struct stat st;
	int fd = open_regular(path, flags, mode, &st), rc = -ENOMEM;
	bool writable = (flags & O_ACCMODE) != O_RDONLY;
	struct uvmm_file *h = NULL;
	struct cache_file *f;

	if (fd < 0)
		return fd;
	pthread_mutex_lock(&c->files_lock);
	f = find(c, st.st_dev, st.st_ino);
	f = f ? f : add(c, true, st.st_dev, st.st_ino);
	if (f)
		rc = adopt(f, fd, writable);
	else
		close(fd);
	h = rc ? NULL : handle_for(f, flags);
	if (f && !h)
		settle(f);
	pthread_mutex_unlock(&c->files_lock);
	if (!h)
		return -ENOMEM;
	rc = 0;
	if (flags & O_TRUNC) {
		pthread_mutex_lock(&f->write_lock);
		rc = cache_write_resize(f, 0);
		pthread_mutex_unlock(&f->write_lock);
	}
	if (rc)
		cache_file_close(h);
	*out = rc ? NULL : h;
	return rc;
}

int cache_file_open_backend(struct uvmm_cache *c, const struct cache_backend *backend,
			    uint64_t size, int flags, struct uvmm_file **out)
{
	struct cache_file *f;

	*out = NULL;
	pthread_mutex_lock(&c->files_lock);
	f = add(c, false, 0, (uint64_t)(uintptr_t)backend->arg);
	if (f) {
		*out = handle_for(f, flags);
		f->backend = *backend;
		f->size = size;
		if (!*out)
			remove_file(f);
	}
	pthread_mutex_unlock(&c->files_lock);
	return *out ? 0 : -ENOMEM;
}

/* With files_lock. */
static struct cache_file *find_own(struct uvmm_cache *c, uint64_t number, uint64_t size)
{
	struct cache_file *f = find(c, OWN_DEVICE, number);

	if (f)
		return f;
	f = add(c, true, OWN_DEVICE, number);
	if (f)
		f->size_max = size;
	return f;
}

int cache_file_open_own(struct uvmm_cache *c, uint64_t number,
			const struct cache_backend *backend, uint64_t size, int flags,
			struct uvmm_file **out)
{
	struct cache_backend unused = *backend;
	struct cache_file *f;

	*out = NULL;
	pthread_mutex_lock(&c->files_lock);
	f = find_own(c, number, size);
	if (f && !f->backend.ops) {
		pthread_mutex_lock(&f->lock);
		f->backend = *backend;
		pthread_mutex_unlock(&f->lock);
		unused.ops = NULL;
		look_anew(f);
	}
	*out = f ? handle_for(f, flags) : NULL;
	if (f && !*out)
		settle(f);
	pthread_mutex_unlock(&c->files_lock);
	close_backend(&unused);
	return *out ? 0 : -ENOMEM;
}

int cache_file_error(struct uvmm_file *h)
{
	struct cache_file *f = h->file;
	int rc = 0;

	pthread_mutex_lock(&f->lock);
	if (h->errors_seen != f->errors) {
		h->errors_seen = f->errors;
		f->told = true;
		rc = f->error;
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

void cache_file_close(struct uvmm_file *h)
{
	struct cache_file *f = h->file;
	struct uvmm_cache *c = f->cache;

	pthread_mutex_lock(&c->files_lock);
	f->handles--;
	c->handles--;
	pthread_mutex_lock(&f->lock);
	f->abandoned = !f->handles && f->failing && f->told;
	pthread_mutex_unlock(&f->lock);
	settle(f);
	pthread_mutex_unlock(&c->files_lock);
	pthread_mutex_destroy(&h->position_lock);
	pthread_mutex_destroy(&h->ahead_lock);
	cache_slab_put(&c->handle_slab, h);
}
