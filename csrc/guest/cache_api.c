/* SPDX-License-Identifier: MIT
 * The public calls of uvmm/cache.h. */
#include "uvmm/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache.h"
#include "cache_back.h"
#include "cache_disk.h"
#include "cache_file.h"
#include "cache_give.h"
#include "cache_page.h"
#include "cache_read.h"
#include "cache_write.h"
#include "disk_link.h"
#include "guest_memory.h"

/* A cache is written back when the process exits. */
struct at_exit {
	struct uvmm_cache *cache;
	uvmm_guest *guest;
	pid_t pid;
	struct at_exit *next;
};

static pthread_mutex_t exit_lock = PTHREAD_MUTEX_INITIALIZER;
static struct at_exit *caches;  /* guarded by exit_lock */

/* What an errno means, in words that say what was done. */
static int64_t told(int64_t rc, const char *doing)
{
	if (rc >= 0)
		guest_succeed();
	else
		guest_fail(0, "%s: %s", doing, strerror((int)-rc));
	return rc;
}

/* --- a cache ------------------------------------------------------------------------ */

static void write_back_at_exit(void)
{
	struct at_exit *e;

	pthread_mutex_lock(&exit_lock);
	for (e = caches; e; e = e->next)
		if (e->pid == getpid())
			cache_write_all(e->cache);
	pthread_mutex_unlock(&exit_lock);
}

static int remember(uvmm_guest *g, struct uvmm_cache *c)
{
	static bool registered;
	struct at_exit *e = malloc(sizeof(*e));

	if (!e)
		return -ENOMEM;
	pthread_mutex_lock(&exit_lock);
	if (!registered)
		registered = !atexit(write_back_at_exit);
	*e = (struct at_exit){ c, g, getpid(), caches };
	caches = e;
	pthread_mutex_unlock(&exit_lock);
	return 0;
}

static uvmm_guest *guest_of(const struct uvmm_cache *c)
{
	struct at_exit *e;
	uvmm_guest *g;

	pthread_mutex_lock(&exit_lock);
	for (e = caches; e->cache != c; e = e->next)
		;
	g = e->guest;
	pthread_mutex_unlock(&exit_lock);
	return g;
}

/* The guest that it was made on. */
static uvmm_guest *forget(struct uvmm_cache *c)
{
	struct at_exit **at = &caches, *e;
	uvmm_guest *g;

	pthread_mutex_lock(&exit_lock);
	while ((*at)->cache != c)
		at = &(*at)->next;
	e = *at;
	*at = e->next;
	pthread_mutex_unlock(&exit_lock);
	g = e->guest;
	free(e);
	return g;
}

static void trim(void *arg)
{
	uvmm_trim(arg, NULL);
}

static int check_bounds(uvmm_guest *g, struct uvmm_cache_bounds *b)
{
	uint64_t pages = uvmm_size_bytes(g) / CACHE_PAGE_BYTES;

	b->max_pages = b->max_pages && b->max_pages < pages ? b->max_pages : pages;
	if (b->min_pages <= b->max_pages)
		return 0;
	return guest_fail(-EINVAL, "min of %llu pages is over %llu",
			  (unsigned long long)b->min_pages,
			  (unsigned long long)b->max_pages);
}

int uvmm_cache_create(uvmm_guest *g, const struct uvmm_cache_bounds *bounds, uvmm_cache **out)
{
	struct uvmm_cache_bounds b = bounds ? *bounds : (struct uvmm_cache_bounds){ 0, 0 };
	struct cache_memory memory = { uvmm_base(g), guest_physmem(g), trim, g };
	int rc = check_bounds(g, &b);

	*out = NULL;
	if (rc)
		return rc;
	rc = cache_new(&memory, &b, out);
	if (rc)
		return (int)told(rc == -EAGAIN ? -ENOMEM : rc, "a cache's tables and threads");
	rc = remember(g, *out);
	if (rc) {
		cache_free(*out);
		*out = NULL;
		return (int)told(rc, "a cache");
	}
	rc = guest_on_pressure_last(g, cache_on_pressure, *out);
	if (!rc) {
		rc = shortage_add(guest_shortage(g), cache_on_shortage, *out);
		if (!rc)
			return 0;
		uvmm_off_pressure(g, cache_on_pressure, *out);
		guest_fail(rc, "there are %d caches already", SHORTAGE_GIVERS_MAX);
	}
	forget(*out);
	cache_free(*out);
	*out = NULL;
	return rc;
}

int uvmm_cache_destroy(uvmm_cache *c)
{
	uint64_t handles;
	uvmm_guest *g;

	pthread_mutex_lock(&c->files_lock);
	handles = c->handles;
	pthread_mutex_unlock(&c->files_lock);
	if (handles)
		return guest_fail(-EBUSY, "%llu files are open", (unsigned long long)handles);
	g = forget(c);
	shortage_remove(guest_shortage(g), cache_on_shortage, c);
	uvmm_off_pressure(g, cache_on_pressure, c);
	return (int)told(cache_free(c), "writing a cache back");
}

int uvmm_cache_flush(uvmm_cache *c)
{
	return (int)told(cache_flush_all(c), "flushing a cache");
}

uint64_t uvmm_cache_shrink(uvmm_cache *c, uint64_t pages)
{
	guest_succeed();
	return cache_give_written(c, pages);
}

void uvmm_cache_get_statistics(uvmm_cache *c, struct uvmm_cache_statistics *out)
{
	struct cache_counters *n = &c->counters;

	guest_succeed();
	*out = (struct uvmm_cache_statistics){
		.min_pages = c->min_pages,
		.max_pages = c->max_pages,
		.pages = atomic_load(&c->held_pages),
		.dirty_pages = atomic_load(&c->dirty_pages),
		.hits = n->hits,
		.misses = n->misses,
		.ghost_hits = n->ghost_hits,
		.evicted = n->evicted,
		.read_pages = n->read,
		.written_pages = n->written,
		.ahead_pages = n->ahead,
		.ahead_used = n->ahead_used,
		.given_pages = n->given,
		.lost_pages = n->lost,
		.write_errors = n->write_errors,
	};
	pthread_mutex_lock(&c->files_lock);
	out->files = c->files;
	pthread_mutex_unlock(&c->files_lock);
}

/* --- a file ------------------------------------------------------------------------- */

int uvmm_file_open(uvmm_cache *c, const char *path, int flags, mode_t mode, uvmm_file **out)
{
	int rc = cache_file_open(c, path, flags, mode, out);

	if (rc == -EINVAL)
		return guest_fail(rc, "%s: expected a regular file, and flags to open it", path);
	return (int)told(rc, path);
}

int uvmm_file_open_disk(uvmm_cache *c, const char *disk, int flags, uvmm_file **out)
{
	bool writes = (flags & O_ACCMODE) != O_RDONLY;
	struct cache_backend backend;
	uvmm_disk *d;
	int rc;

	*out = NULL;
	if ((flags & O_ACCMODE) == O_ACCMODE || flags & ~(O_ACCMODE | O_SYNC | O_DSYNC))
		return guest_fail(-EINVAL, "disk %s: expected an access, O_SYNC or O_DSYNC, got flags 0%o",
				  disk, (unsigned)flags);
	rc = uvmm_disk_open(guest_of(c), disk, &d);
	if (rc)
		return rc;
	if (writes && uvmm_disk_read_only(d)) {
		uvmm_disk_close(d);
		return guest_fail(-EROFS, "disk %s is read-only", disk);
	}
	rc = cache_disk_open(d, &backend);
	if (rc)
		uvmm_disk_close(d);
	else
		rc = cache_file_open_own(c, d->number, &backend, d->size_bytes, flags, out);
	return (int)told(rc, disk);
}

int uvmm_file_close(uvmm_file *f)
{
	int rc = cache_file_error(f);

	cache_file_close(f);
	return (int)told(rc, "writing back before the close");
}

static int access_of(const uvmm_file *f)
{
	return f->flags & O_ACCMODE;
}

/* What is wrong with a call; bytes are cut to what a call may return. */
static int check(const uvmm_file *f, bool writes, int64_t offset, size_t *bytes)
{
	*bytes = *bytes < SSIZE_MAX ? *bytes : SSIZE_MAX;
	if (access_of(f) == (writes ? O_RDONLY : O_WRONLY))
		return -EBADF;
	if (offset < 0)
		return -EINVAL;
	if (!writes)
		return 0;
	if (f->file->size_max) {
		uint64_t max = f->file->size_max, at = (uint64_t)offset;

		if (*bytes && at >= max)
			return -ENOSPC;
		*bytes = *bytes < max - at ? *bytes : (size_t)(max - at);
	}
	return *bytes > (uint64_t)(INT64_MAX - offset) ? -EFBIG : 0;
}

static ssize_t pread_at(uvmm_file *f, void *buffer, size_t bytes, int64_t offset)
{
	int rc = check(f, false, offset, &bytes);

	return rc ? rc : cache_read_at(f, buffer, bytes, (uint64_t)offset);
}

/* *offset becomes the end of the file if it is to be appended to. */
static ssize_t write_locked(uvmm_file *f, const void *buffer, size_t bytes, int64_t *offset)
{
	int rc;

	if (f->flags & O_APPEND)
		*offset = (int64_t)f->file->size;
	rc = check(f, true, *offset, &bytes);
	return rc ? rc : cache_write_at(f, buffer, bytes, (uint64_t)*offset);
}

/* What O_SYNC adds to a write that returned n. */
static ssize_t synced(uvmm_file *f, ssize_t n)
{
	int rc;

	if (n <= 0 || !(f->flags & (O_SYNC | O_DSYNC)))
		return n;
	cache_back_flush(f->file);
	rc = cache_file_error(f);
	return rc ? rc : n;
}

static ssize_t pwrite_at(uvmm_file *f, const void *buffer, size_t bytes, int64_t *offset)
{
	ssize_t n;

	pthread_mutex_lock(&f->file->write_lock);
	n = write_locked(f, buffer, bytes, offset);
	pthread_mutex_unlock(&f->file->write_lock);
	return synced(f, n);
}

ssize_t uvmm_file_pread(uvmm_file *f, void *buffer, size_t bytes, int64_t offset)
{
	return told(pread_at(f, buffer, bytes, offset), "reading a file");
}

ssize_t uvmm_file_pwrite(uvmm_file *f, const void *buffer, size_t bytes, int64_t offset)
{
	return told(pwrite_at(f, buffer, bytes, &offset), "writing a file");
}

ssize_t uvmm_file_read(uvmm_file *f, void *buffer, size_t bytes)
{
	ssize_t n;

	pthread_mutex_lock(&f->position_lock);
	n = pread_at(f, buffer, bytes, (int64_t)f->position);
	if (n > 0)
		f->position += (uint64_t)n;
	pthread_mutex_unlock(&f->position_lock);
	return told(n, "reading a file");
}

ssize_t uvmm_file_write(uvmm_file *f, const void *buffer, size_t bytes)
{
	int64_t offset;
	ssize_t n;

	pthread_mutex_lock(&f->position_lock);
	offset = (int64_t)f->position;
	n = pwrite_at(f, buffer, bytes, &offset);
	if (n > 0)
		f->position = (uint64_t)(offset + n);
	pthread_mutex_unlock(&f->position_lock);
	return told(n, "writing a file");
}

ssize_t uvmm_file_preadv(uvmm_file *f, const struct iovec *v, int n, int64_t offset)
{
	ssize_t sum = 0, got;
	int i;

	for (i = 0; i < n; i++) {
		got = pread_at(f, v[i].iov_base, v[i].iov_len, offset + sum);
		if (got < 0)
			return told(sum ? sum : got, "reading a file");
		sum += got;
		if ((size_t)got < v[i].iov_len)
			break;
	}
	return told(n < 0 ? -EINVAL : sum, "reading a file");
}

/* All parts follow one another in the file, also when others write it. */
ssize_t uvmm_file_pwritev(uvmm_file *f, const struct iovec *v, int n, int64_t offset)
{
	ssize_t sum = 0, got = 0;
	int i;

	pthread_mutex_lock(&f->file->write_lock);
	for (i = 0; i < n && got >= 0; i++) {
		int64_t at = offset + sum;

		got = write_locked(f, v[i].iov_base, v[i].iov_len, &at);
		sum += got > 0 ? got : 0;
		if (got >= 0 && (size_t)got < v[i].iov_len)
			break;
	}
	pthread_mutex_unlock(&f->file->write_lock);
	if (n < 0)
		got = -EINVAL;
	return told(synced(f, got < 0 && !sum ? got : sum), "writing a file");
}

int64_t uvmm_file_seek(uvmm_file *f, int64_t offset, int whence)
{
	int64_t base = 0, to = -EINVAL;

	pthread_mutex_lock(&f->position_lock);
	if (whence == SEEK_CUR)
		base = (int64_t)f->position;
	else if (whence == SEEK_END)
		base = (int64_t)f->file->size;
	if ((whence == SEEK_SET || whence == SEEK_CUR || whence == SEEK_END) &&
	    !__builtin_add_overflow(base, offset, &to) && to >= 0)
		f->position = (uint64_t)to;
	else
		to = -EINVAL;
	pthread_mutex_unlock(&f->position_lock);
	return told(to, "seeking in a file");
}

int64_t uvmm_file_size(uvmm_file *f)
{
	guest_succeed();
	return (int64_t)f->file->size;
}

int uvmm_file_truncate(uvmm_file *f, int64_t bytes)
{
	int rc = access_of(f) == O_RDONLY ? -EBADF : bytes < 0 ? -EINVAL : 0;

	if (!rc) {
		pthread_mutex_lock(&f->file->write_lock);
		rc = cache_write_resize(f->file, (uint64_t)bytes);
		pthread_mutex_unlock(&f->file->write_lock);
	}
	return (int)told(rc, "truncating a file");
}

int uvmm_file_flush(uvmm_file *f)
{
	/* Its errors are counted, as those before it. */
	cache_back_flush(f->file);
	return (int)told(cache_file_error(f), "flushing a file");
}

int uvmm_file_pin(uvmm_file *f, uint64_t index, const void **page, size_t *bytes)
{
	uint32_t ppn;
	int rc = access_of(f) == O_WRONLY ? -EBADF : cache_read_pin(f, index, &ppn, bytes);

	*page = rc ? NULL : cache_at(f->file->cache, ppn);
	return (int)told(rc, "pinning a page of a file");
}

int uvmm_file_unpin(uvmm_file *f, const void *page)
{
	struct uvmm_cache *c = f->file->cache;
	uint64_t ppn = (uint64_t)((const char *)page - c->memory.base) / CACHE_PAGE_BYTES;

	if ((const char *)page < c->memory.base || ppn >= c->memory.physmem->pages ||
	    !atomic_load(&c->page[ppn].refs))
		return guest_fail(-EINVAL, "%p is no page that is pinned", page);
	cache_page_unref(c, (uint32_t)ppn);
	guest_succeed();
	return 0;
}
