/* SPDX-License-Identifier: MIT */
#include "cache_disk.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "disk_link.h"

struct disk_file {
	uvmm_disk *disk;
	pthread_mutex_t lock;           /* guards page */
	void *page;                     /* of guest memory */
};

/* The bytes of the run that the disk has. */
static size_t bytes_of(const uvmm_disk *d, const struct cache_run *r)
{
	uint64_t from = r->index * CACHE_PAGE_BYTES, all = (uint64_t)r->pages * CACHE_PAGE_BYTES;
	uint64_t size = uvmm_disk_size_bytes(d);

	if (size <= from)
		return 0;
	return (size_t)(size - from < all ? size - from : all);
}

/* The first `bytes` of the run's pages as few pieces: how many; 0 if one is not in guest
 * memory. */
static int pieces_of(const uvmm_disk *d, const struct cache_run *r, size_t bytes,
		     struct iovec v[CACHE_RUN_PAGES])
{
	uvmm_guest *g = disk_link_guest(d->link);
	size_t at, n;
	int k = 0;

	for (at = 0; at < bytes; at += n) {
		char *page = r->at[at / CACHE_PAGE_BYTES];

		n = bytes - at < CACHE_PAGE_BYTES ? bytes - at : CACHE_PAGE_BYTES;
		if (!guest_has(g, page, n))
			return 0;
		if (k && (char *)v[k - 1].iov_base + v[k - 1].iov_len == page)
			v[k - 1].iov_len += n;
		else
			v[k++] = (struct iovec){ page, n };
	}
	return k;
}

static void copy(const struct cache_run *r, char *buffer, size_t bytes, bool to_pages)
{
	size_t at, n;

	for (at = 0; at < bytes; at += n) {
		char *page = r->at[at / CACHE_PAGE_BYTES];

		n = bytes - at < CACHE_PAGE_BYTES ? bytes - at : CACHE_PAGE_BYTES;
		memcpy(to_pages ? page : buffer + at, to_pages ? buffer + at : page, n);
	}
}

/* The pages of the run [page, page + n), with so many bytes, by way of a buffer for them. */
static int move_through(uvmm_disk *d, const struct cache_run *r, unsigned page, size_t bytes,
			char *buffer, bool writes)
{
	struct cache_run part = { .index = r->index + page };
	uint64_t offset = part.index * CACHE_PAGE_BYTES;
	int rc;

	memcpy(part.at, r->at + page, (r->pages - page) * sizeof(*r->at));
	if (writes)
		copy(&part, buffer, bytes, false);
	rc = writes ? uvmm_disk_write(d, buffer, bytes, offset) :
		      uvmm_disk_read(d, buffer, bytes, offset);
	if (!rc && !writes)
		copy(&part, buffer, bytes, true);
	return rc;
}

static int move_by_page(struct disk_file *f, const struct cache_run *r, size_t bytes, bool writes)
{
	size_t at, n;
	int rc = 0;

	pthread_mutex_lock(&f->lock);
	for (at = 0; at < bytes && !rc; at += n) {
		n = bytes - at < CACHE_PAGE_BYTES ? bytes - at : CACHE_PAGE_BYTES;
		rc = move_through(f->disk, r, (unsigned)(at / CACHE_PAGE_BYTES), n, f->page, writes);
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

static int move_by_buffer(struct disk_file *f, const struct cache_run *r, size_t bytes,
			  bool writes)
{
	uvmm_guest *g = disk_link_guest(f->disk->link);
	void *buffer;
	int rc;

	if (uvmm_alloc(g, bytes, &buffer))
		return move_by_page(f, r, bytes, writes);
	rc = move_through(f->disk, r, 0, bytes, buffer, writes);
	uvmm_free(g, buffer, bytes);
	return rc;
}

static int move(struct disk_file *f, const struct cache_run *r, size_t bytes, bool writes)
{
	uvmm_disk *d = f->disk;
	uint64_t offset = r->index * CACHE_PAGE_BYTES;
	struct iovec v[CACHE_RUN_PAGES];
	int n = pieces_of(d, r, bytes, v);

	if (!n)
		return bytes ? move_by_buffer(f, r, bytes, writes) : 0;
	return writes ? uvmm_disk_writev(d, v, n, offset) : uvmm_disk_readv(d, v, n, offset);
}

static ssize_t disk_read(void *arg, const struct cache_run *r, uint64_t size_bytes)
{
	struct disk_file *f = arg;
	size_t bytes = bytes_of(f->disk, r), all = (size_t)r->pages * CACHE_PAGE_BYTES, n;
	uint64_t at = r->index * CACHE_PAGE_BYTES;
	int rc = move(f, r, bytes, false);

	if (rc)
		return rc;
	at = size_bytes > at ? size_bytes - at : 0;
	for (at = at < bytes ? at : bytes; at < all; at += n) {
		n = CACHE_PAGE_BYTES - at % CACHE_PAGE_BYTES;
		memset((char *)r->at[at / CACHE_PAGE_BYTES] + at % CACHE_PAGE_BYTES, 0, n);
	}
	return (ssize_t)bytes;
}

/* The disk is never larger than its file in the cache, nor smaller. */
static int disk_write(void *arg, const struct cache_run *r, uint64_t size_bytes)
{
	struct disk_file *f = arg;

	(void)size_bytes;
	return move(f, r, bytes_of(f->disk, r), true);
}

static int disk_flush(void *arg)
{
	struct disk_file *f = arg;

	return uvmm_disk_flush(f->disk);
}

static int disk_resize(void *arg, uint64_t size_bytes)
{
	struct disk_file *f = arg;

	return size_bytes == uvmm_disk_size_bytes(f->disk) ? 0 : -EINVAL;
}

/* Nobody else can have changed it. */
static int disk_identify(void *arg, struct cache_identity *out, bool *gone)
{
	struct disk_file *f = arg;

	*out = (struct cache_identity){ .size_bytes = uvmm_disk_size_bytes(f->disk) };
	*gone = false;
	return 0;
}

static void disk_close(void *arg)
{
	struct disk_file *f = arg;

	uvmm_free(disk_link_guest(f->disk->link), f->page, CACHE_PAGE_BYTES);
	uvmm_disk_close(f->disk);
	pthread_mutex_destroy(&f->lock);
	free(f);
}

int cache_disk_open(uvmm_disk *d, struct cache_backend *out)
{
	static const struct cache_backend_ops ops = {
		.read = disk_read,
		.write = disk_write,
		.flush = disk_flush,
		.resize = disk_resize,
		.identify = disk_identify,
		.close = disk_close,
	};
	struct disk_file *f = malloc(sizeof(*f));

	if (!f || uvmm_alloc(disk_link_guest(d->link), CACHE_PAGE_BYTES, &f->page)) {
		free(f);
		return -ENOMEM;
	}
	f->disk = d;
	pthread_mutex_init(&f->lock, NULL);
	*out = (struct cache_backend){ &ops, f, !uvmm_disk_read_only(d) };
	return 0;
}
