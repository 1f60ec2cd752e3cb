/* SPDX-License-Identifier: MIT */
#include "cache_disk.h"

#include <errno.h>
#include <string.h>

#include "disk_link.h"

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

static int move_by_buffer(uvmm_disk *d, const struct cache_run *r, size_t bytes, bool writes)
{
	uvmm_guest *g = disk_link_guest(d->link);
	uint64_t offset = r->index * CACHE_PAGE_BYTES;
	void *buffer;
	int rc = uvmm_alloc(g, bytes, &buffer);

	if (rc)
		return rc;
	if (writes)
		copy(r, buffer, bytes, false);
	rc = writes ? uvmm_disk_write(d, buffer, bytes, offset) :
		      uvmm_disk_read(d, buffer, bytes, offset);
	if (!rc && !writes)
		copy(r, buffer, bytes, true);
	uvmm_free(g, buffer, bytes);
	return rc;
}

static int move(uvmm_disk *d, const struct cache_run *r, size_t bytes, bool writes)
{
	uint64_t offset = r->index * CACHE_PAGE_BYTES;
	struct iovec v[CACHE_RUN_PAGES];
	int n = pieces_of(d, r, bytes, v);

	if (!n)
		return bytes ? move_by_buffer(d, r, bytes, writes) : 0;
	return writes ? uvmm_disk_writev(d, v, n, offset) : uvmm_disk_readv(d, v, n, offset);
}

static ssize_t disk_read(void *arg, const struct cache_run *r, uint64_t size_bytes)
{
	uvmm_disk *d = arg;
	size_t bytes = bytes_of(d, r), all = (size_t)r->pages * CACHE_PAGE_BYTES, n;
	uint64_t at = r->index * CACHE_PAGE_BYTES;
	int rc = move(d, r, bytes, false);

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
	uvmm_disk *d = arg;

	(void)size_bytes;
	return move(d, r, bytes_of(d, r), true);
}

static int disk_flush(void *arg)
{
	return uvmm_disk_flush(arg);
}

static int disk_resize(void *arg, uint64_t size_bytes)
{
	return size_bytes == uvmm_disk_size_bytes(arg) ? 0 : -EINVAL;
}

/* Nobody else can have changed it. */
static int disk_identify(void *arg, struct cache_identity *out, bool *gone)
{
	*out = (struct cache_identity){ .size_bytes = uvmm_disk_size_bytes(arg) };
	*gone = false;
	return 0;
}

static void disk_close(void *arg)
{
	uvmm_disk_close(arg);
}

void cache_disk_open(uvmm_disk *d, struct cache_backend *out)
{
	static const struct cache_backend_ops ops = {
		.read = disk_read,
		.write = disk_write,
		.flush = disk_flush,
		.resize = disk_resize,
		.identify = disk_identify,
		.close = disk_close,
	};

	*out = (struct cache_backend){ &ops, d, !uvmm_disk_read_only(d) };
}
