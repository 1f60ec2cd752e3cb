/* SPDX-License-Identifier: MIT */
#include "cache_write.h"

#include <errno.h>
#include <string.h>

#include "cache_back.h"
#include "cache_file.h"
#include "cache_page.h"

/* What is to be written, within one extent. */
struct part {
	struct cache_file *file;
	struct cache_extent *x;
	unsigned bit, pages;            /* busy by us, or referenced */
	unsigned from;                  /* in the first page */
	const char *buffer;
	size_t bytes;
	uint64_t end;                   /* in the file */
	struct cache_backend backend;
	uint64_t size;                  /* of the file, before */
	uint32_t ppn[CACHE_RUN_PAGES];
};

static uint64_t first_index(const struct part *p)
{
	return p->x->number * CACHE_RUN_PAGES + p->bit;
}

/* f: locked. What was copied into the pages counts from now on. */
static void commit(struct part *p)
{
	struct cache_file *f = p->file;

	cache_set_dirty(p->x, cache_bits(p->bit, p->pages));
	if (p->end > f->size)
		f->size = p->end;
}

static void copy_in(const struct part *p)
{
	size_t done = 0, from = p->from;
	unsigned i;

	for (i = 0; i < p->pages; i++) {
		size_t n = CACHE_PAGE_BYTES - from;

		n = n < p->bytes - done ? n : p->bytes - done;
		memcpy((char *)cache_at(p->file->cache, p->ppn[i]) + from, p->buffer + done, n);
		done += n;
		from = 0;
	}
}

/* Bounds the part to its pages. */
static void set_pages(struct part *p, unsigned pages)
{
	size_t most = (size_t)pages * CACHE_PAGE_BYTES - p->from;

	p->pages = pages;
	p->bytes = p->bytes < most ? p->bytes : most;
	p->end = first_index(p) * CACHE_PAGE_BYTES + p->from + p->bytes;
}

static unsigned pages_of(const struct part *p)
{
	return (unsigned)((p->from + p->bytes + CACHE_PAGE_BYTES - 1) / CACHE_PAGE_BYTES);
}

/* --- pages that are there -------------------------------------------------------- */

/* f: locked, then not. */
static ssize_t overwrite(struct uvmm_file *h, struct part *p)
{
	struct uvmm_cache *c = p->file->cache;
	unsigned n = cache_ones(p->x->present, p->bit), want = pages_of(p), i;
	uint64_t last = first_index(p);

	set_pages(p, n < want ? n : want);
	last = atomic_exchange_explicit(&h->last, last + p->pages, memory_order_relaxed);
	for (i = 0; i < p->pages; i++) {
		p->ppn[i] = p->x->ppn[p->bit + i];
		if (first_index(p) + i + 1 != last && !(p->x->ahead >> (p->bit + i) & 1))
			cache_policy_use(&c->policy, p->ppn[i]);
	}
	cache_pages_ref(p->x, p->bit, p->pages);
	pthread_mutex_unlock(&p->file->lock);
	cache_count(&c->counters.hits, p->pages);
	copy_in(p);
	pthread_mutex_lock(&p->file->lock);
	/* No one truncates it meanwhile, nor takes a page with a reference. */
	commit(p);
	pthread_mutex_unlock(&p->file->lock);
	for (i = 0; i < p->pages; i++)
		cache_page_unref(c, p->ppn[i]);
	return (ssize_t)p->bytes;
}

/* --- pages that are not ------------------------------------------------------------ */

/* f: locked. Makes pages busy: as many as are written whole, or one. */
static void claim(struct part *p)
{
	unsigned n = cache_ones(~(p->x->present | p->x->busy), p->bit);
	unsigned whole = p->from ? 0 : (unsigned)(p->bytes / CACHE_PAGE_BYTES);

	whole = whole ? whole : 1;
	set_pages(p, n < whole ? n : whole);
	p->backend = p->file->backend;
	p->size = p->file->size;
	p->x->busy |= cache_bits(p->bit, p->pages);
}

/* From `from` on they are busy no more, and not written. */
static void release(struct part *p, unsigned from)
{
	struct cache_file *f = p->file;

	if (from == p->pages)
		return;
	pthread_mutex_lock(&f->lock);
	p->x->busy &= ~cache_bits(p->bit + from, p->pages - from);
	if (from)
		set_pages(p, from);
	else
		cache_extent_tidy(p->x);
	cache_wake(f);
	pthread_mutex_unlock(&f->lock);
}

/* The page at `at` as it is before it is written in part. */
static int fill(const struct part *p, char *at)
{
	struct cache_run run = { .index = first_index(p), .pages = 1, .at = { at } };
	ssize_t got;

	if (first_index(p) * CACHE_PAGE_BYTES >= p->size) {
		memset(at, 0, CACHE_PAGE_BYTES);
		return 0;
	}
	got = p->backend.ops->read(p->backend.arg, &run, p->size);
	if (got >= 0)
		cache_count(&p->file->cache->counters.read, 1);
	return got < 0 ? (int)got : 0;
}

/* Of a page that is written in part the run has a copy in `page`, else what the caller has. */
static int make_run(const struct part *p, struct cache_run *run, char page[CACHE_PAGE_BYTES])
{
	unsigned i;
	int rc;

	run->index = first_index(p);
	run->pages = p->pages;
	/* It is not written to. */
	for (i = 0; i < p->pages; i++)
		run->at[i] = (void *)(uintptr_t)(p->buffer + (size_t)i * CACHE_PAGE_BYTES);
	if (p->bytes >= CACHE_PAGE_BYTES)
		return 0;
	rc = fill(p, page);
	memcpy(page + p->from, p->buffer, p->bytes);
	run->at[0] = page;
	return rc;
}

/* The pages, which are busy, are written past the cache. */
static ssize_t write_past(struct part *p)
{
	_Alignas(64) char page[CACHE_PAGE_BYTES];
	struct cache_file *f = p->file;
	struct cache_run run;
	int rc = make_run(p, &run, page);

	if (!rc)
		rc = p->backend.ops->write(p->backend.arg, &run,
					   p->end > p->size ? p->end : p->size);
	if (!rc) {
		cache_count(&f->cache->counters.written, p->pages);
		cache_file_left(f, &p->backend);
		pthread_mutex_lock(&f->lock);
		if (p->end > f->size)
			f->size = p->end;
		pthread_mutex_unlock(&f->lock);
	}
	release(p, 0);
	return rc ? rc : (ssize_t)p->bytes;
}

/* f: locked, then not. */
static ssize_t add(struct uvmm_file *h, struct part *p, bool past)
{
	struct cache_file *f = p->file;
	struct uvmm_cache *c = f->cache;
	unsigned n = 0, i;
	int rc = 0;

	claim(p);
	pthread_mutex_unlock(&f->lock);
	cache_count(&c->counters.misses, p->pages);
	while (!past && n < p->pages && !cache_page_take(c, &p->ppn[n]))
		n++;
	if (!n)
		return write_past(p);
	release(p, n);
	if (p->bytes < CACHE_PAGE_BYTES)
		rc = fill(p, cache_at(c, p->ppn[0]));
	if (rc) {
		cache_page_free(c, p->ppn[0]);
		release(p, 0);
		return rc;
	}
	copy_in(p);
	pthread_mutex_lock(&f->lock);
	for (i = 0; i < n; i++)
		cache_page_enter(p->x, p->bit + i, p->ppn[i], 0);
	commit(p);
	cache_wake(f);
	atomic_store_explicit(&h->last, first_index(p) + n, memory_order_relaxed);
	pthread_mutex_unlock(&f->lock);
	return (ssize_t)p->bytes;
}

/* --- a write ------------------------------------------------------------------------ */

static ssize_t write_some(struct uvmm_file *h, const char *buffer, size_t bytes,
			  uint64_t offset, bool past)
{
	struct cache_file *f = h->file;
	uint64_t index = offset / CACHE_PAGE_BYTES;
	struct part p = {
		.file = f,
		.bit = index % CACHE_RUN_PAGES,
		.from = offset % CACHE_PAGE_BYTES,
		.buffer = buffer,
		.bytes = bytes,
	};

	pthread_mutex_lock(&f->lock);
	for (;;) {
		p.x = cache_extent_make(f, index / CACHE_RUN_PAGES);
		if (!p.x || !(p.x->busy >> p.bit & 1))
			break;
		cache_wait(f);
	}
	if (!p.x) {
		pthread_mutex_unlock(&f->lock);
		return -ENOMEM;
	}
	if (p.x->present >> p.bit & 1)
		return overwrite(h, &p);
	return add(h, &p, past);
}

ssize_t cache_write_at(struct uvmm_file *h, const char *buffer, size_t bytes, uint64_t offset)
{
	size_t done = 0;

	while (done < bytes) {
		bool past = !cache_back_makes_room(h->file);
		ssize_t n = write_some(h, buffer + done, bytes - done, offset + done, past);

		if (n < 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* --- size ---------------------------------------------------------------------------- */

/* f: locked, and again at the end. What is in a cached page behind the end is zero. */
static void zero_tail(struct cache_file *f, uint64_t size)
{
	uint64_t index = size / CACHE_PAGE_BYTES;
	unsigned bit = index % CACHE_RUN_PAGES, from = size % CACHE_PAGE_BYTES;
	struct cache_extent *x = cache_index_get(&f->extents, index / CACHE_RUN_PAGES);
	uint32_t ppn;

	if (!from || !x || !(x->present >> bit & 1))
		return;
	cache_pages_ref(x, bit, 1);
	ppn = x->ppn[bit];
	pthread_mutex_unlock(&f->lock);
	memset((char *)cache_at(f->cache, ppn) + from, 0, CACHE_PAGE_BYTES - from);
	cache_page_unref(f->cache, ppn);
	pthread_mutex_lock(&f->lock);
}

int cache_write_resize(struct cache_file *f, uint64_t size)
{
	struct cache_backend backend;
	int rc;

	pthread_mutex_lock(&f->lock);
	f->resizing = true;
	while (f->writing_pages)
		cache_wait(f);
	backend = f->backend;
	pthread_mutex_unlock(&f->lock);
	rc = backend.ops->resize(backend.arg, size);
	if (!rc)
		cache_file_left(f, &backend);
	pthread_mutex_lock(&f->lock);
	if (!rc && size < f->size) {
		/* From now on nobody reads beyond it; who has begun to is waited for. */
		f->size = size;
		cache_wait_for_busy(f, size / CACHE_PAGE_BYTES);
		cache_file_drop(f, (size + CACHE_PAGE_BYTES - 1) / CACHE_PAGE_BYTES);
		zero_tail(f, size);
	} else if (!rc) {
		f->size = size;
	}
	f->resizing = false;
	cache_wake(f);
	pthread_mutex_unlock(&f->lock);
	return rc;
}
