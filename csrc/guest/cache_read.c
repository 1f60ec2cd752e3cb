/* SPDX-License-Identifier: MIT */
#include "cache_read.h"

#include <errno.h>
#include <string.h>

#include "cache_ahead.h"
#include "cache_file.h"
#include "cache_page.h"

#define NO_PAGE 1               /* of load() */

/* Pages of one extent, while they are read. */
struct load {
	struct cache_file *file;
	struct cache_extent *x;         /* lives while a page of it is busy, or the lock held */
	unsigned bit, pages;            /* which are busy, by us */
	struct cache_backend backend;
	uint64_t size;
	uint32_t ppn[CACHE_RUN_PAGES];
};

static uint64_t first_index(const struct load *l)
{
	return l->x->number * CACHE_RUN_PAGES + l->bit;
}

/* f: locked. Makes up to `most` pages from the index on busy, which are not there and
 * within the file. The first is neither there nor busy.  -ENOMEM */
static int claim(struct cache_file *f, uint64_t index, uint64_t most, struct load *l)
{
	uint64_t end = (f->size + CACHE_PAGE_BYTES - 1) / CACHE_PAGE_BYTES;
	struct cache_extent *x = cache_extent_make(f, index / CACHE_RUN_PAGES);
	unsigned bit = index % CACHE_RUN_PAGES, free_pages;

	if (!x)
		return -ENOMEM;
	free_pages = cache_ones(~(x->present | x->busy), bit);
	most = most < end - index ? most : end - index;
	*l = (struct load){
		.file = f,
		.x = x,
		.bit = bit,
		.pages = most < free_pages ? (unsigned)most : free_pages,
		.backend = f->backend,
		.size = f->size,
	};
	x->busy |= cache_bits(bit, l->pages);
	return 0;
}

/* The pages from `from` on are nobody's again. */
static void release(struct load *l, unsigned from)
{
	struct cache_file *f = l->file;

	if (from == l->pages)
		return;
	pthread_mutex_lock(&f->lock);
	l->x->busy &= ~cache_bits(l->bit + from, l->pages - from);
	l->pages = from;
	cache_extent_tidy(l->x);
	cache_wake(f);
	pthread_mutex_unlock(&f->lock);
}

/* Takes pages for what was claimed; those without are released, but if there are none at
 * all. How many there are. */
static unsigned take_pages(struct load *l)
{
	struct uvmm_cache *c = l->file->cache;
	unsigned n = 0;

	while (n < l->pages && !cache_page_take(c, &l->ppn[n]))
		n++;
	if (n)
		release(l, n);
	return n;
}

static ssize_t read_pages(const struct load *l, unsigned pages)
{
	struct uvmm_cache *c = l->file->cache;
	struct cache_run run = { .index = first_index(l), .pages = pages };
	ssize_t got;
	unsigned i;

	for (i = 0; i < pages; i++)
		run.at[i] = cache_at(c, l->ppn[i]);
	got = l->backend.ops->read(l->backend.arg, &run, l->size);
	if (got >= 0)
		cache_count(&c->counters.read, pages);
	return got;
}

/* The pages are read and become the file's; the caller gets a reference to the first if he
 * wants it. */
static void enter(struct load *l, unsigned wanted)
{
	struct cache_file *f = l->file;
	uint64_t ahead = cache_bits(l->bit, l->pages);
	unsigned i;

	pthread_mutex_lock(&f->lock);
	for (i = 0; i < l->pages; i++)
		cache_page_enter(l->x, l->bit + i, l->ppn[i], wanted && !i);
	ahead &= wanted ? ~(1ull << l->bit) : UINT64_MAX;
	l->x->ahead |= ahead;
	cache_count(&f->cache->counters.ahead, (uint64_t)__builtin_popcountll(ahead));
	cache_wake(f);
	pthread_mutex_unlock(&f->lock);
}

static void free_from(struct load *l, unsigned from)
{
	unsigned i;

	for (i = from; i < l->pages; i++)
		cache_page_free(l->file->cache, l->ppn[i]);
	release(l, from);
}

/* Reads what was claimed into pages. An error that may be another page's than the first
 * is not told: the first is tried alone. NO_PAGE: there is none; all stay
 * claimed. */
static int load(struct load *l, unsigned wanted)
{
	uint64_t start = first_index(l) * CACHE_PAGE_BYTES, end;
	struct cache_file *f = l->file;
	unsigned n = take_pages(l);
	ssize_t got;

	if (!n)
		return NO_PAGE;
	got = read_pages(l, n);
	if (got < 0 && n > 1) {
		free_from(l, 1);
		got = read_pages(l, 1);
	}
	if (got < 0) {
		free_from(l, 0);
		return (int)got;
	}
	end = start + (uint64_t)l->pages * CACHE_PAGE_BYTES;
	end = end < l->size ? end : l->size;
	enter(l, wanted);
	if (start + (uint64_t)got < end)
		cache_file_shrunk(f);
	return 0;
}

/* What was claimed is read past the cache: whole pages to where they are wanted, else the
 * first one. How many bytes. */
static ssize_t read_past(struct load *l, char *buffer, size_t bytes, unsigned from)
{
	struct cache_run run = { .index = first_index(l) };
	_Alignas(64) char page[CACHE_PAGE_BYTES];
	size_t whole = from ? 0 : bytes / CACHE_PAGE_BYTES;
	unsigned i;
	ssize_t got;

	release(l, !whole ? 1 : whole < l->pages ? (unsigned)whole : l->pages);
	run.pages = l->pages;
	for (i = 0; i < run.pages; i++)
		run.at[i] = buffer + (size_t)i * CACHE_PAGE_BYTES;
	if (!whole)
		run.at[0] = page;
	got = l->backend.ops->read(l->backend.arg, &run, l->size);
	if (got < 0 && run.pages > 1) {
		release(l, 1);
		run.pages = 1;
		got = l->backend.ops->read(l->backend.arg, &run, l->size);
	}
	release(l, 0);
	if (got < 0)
		return got;
	cache_count(&l->file->cache->counters.read, run.pages);
	if (whole)
		return (ssize_t)run.pages * CACHE_PAGE_BYTES;
	bytes = bytes < CACHE_PAGE_BYTES - from ? bytes : CACHE_PAGE_BYTES - from;
	memcpy(buffer, page + from, bytes);
	return (ssize_t)bytes;
}

/* --- using pages ---------------------------------------------------------------- */

/* f: locked. Uses count for eviction, but one who goes through a page in steps, or is the
 * first to see it, uses it once. */
static void note_uses(struct uvmm_file *h, const struct cache_extent *x, unsigned bit, unsigned n)
{
	struct uvmm_cache *c = h->file->cache;
	uint64_t index = x->number * CACHE_RUN_PAGES + bit;
	uint64_t last = atomic_exchange_explicit(&h->last, index + n, memory_order_relaxed);
	unsigned i;

	for (i = 0; i < n; i++)
		if (index + i + 1 != last && !(x->ahead >> (bit + i) & 1))
			cache_policy_use(&c->policy, x->ppn[bit + i]);
}

/* f: locked, then not. Copies from pages of the extent that are there. */
static size_t copy_out(struct uvmm_file *h, struct cache_extent *x, unsigned bit, char *buffer,
		       size_t bytes, unsigned from)
{
	struct cache_file *f = h->file;
	struct uvmm_cache *c = f->cache;
	unsigned n = cache_ones(x->present, bit), i;
	unsigned want = (unsigned)((from + bytes + CACHE_PAGE_BYTES - 1) / CACHE_PAGE_BYTES);
	uint32_t ppn[CACHE_RUN_PAGES];
	size_t done = 0;

	n = n < want ? n : want;
	note_uses(h, x, bit, n);
	cache_pages_ref(x, bit, n);
	memcpy(ppn, x->ppn + bit, n * sizeof(ppn[0]));
	pthread_mutex_unlock(&f->lock);
	cache_count(&c->counters.hits, n);
	for (i = 0; i < n; i++) {
		size_t part = CACHE_PAGE_BYTES - from;

		part = part < bytes - done ? part : bytes - done;
		memcpy(buffer + done, (char *)cache_at(c, ppn[i]) + from, part);
		cache_page_unref(c, ppn[i]);
		done += part;
		from = 0;
	}
	return done;
}

/* f: locked, then not. Reads what is not there, and copies from its first page. */
static ssize_t copy_loaded(struct uvmm_file *h, uint64_t index, uint64_t worth, char *buffer,
			   size_t bytes, unsigned from)
{
	struct cache_file *f = h->file;
	size_t part = CACHE_PAGE_BYTES - from;
	struct load l;
	int rc;

	part = part < bytes ? part : bytes;
	rc = claim(f, index, worth, &l);
	pthread_mutex_unlock(&f->lock);
	if (rc)
		return rc;
	cache_count(&f->cache->counters.misses, 1);
	rc = load(&l, 1);
	if (rc == NO_PAGE)
		return read_past(&l, buffer, bytes, from);
	if (rc)
		return rc;
	atomic_store_explicit(&h->last, index + 1, memory_order_relaxed);
	memcpy(buffer, (char *)cache_at(f->cache, l.ppn[0]) + from, part);
	cache_page_unref(f->cache, l.ppn[0]);
	return (ssize_t)part;
}

/* As cache_read_at, but within one extent. */
static ssize_t read_some(struct uvmm_file *h, char *buffer, size_t bytes, uint64_t offset,
			 uint64_t worth)
{
	struct cache_file *f = h->file;
	uint64_t index = offset / CACHE_PAGE_BYTES;
	unsigned bit = index % CACHE_RUN_PAGES, from = offset % CACHE_PAGE_BYTES;
	struct cache_extent *x;

	pthread_mutex_lock(&f->lock);
	for (;;) {
		if (offset >= f->size) {
			pthread_mutex_unlock(&f->lock);
			return 0;
		}
		x = cache_index_get(&f->extents, index / CACHE_RUN_PAGES);
		if (!x || !(x->busy >> bit & 1))
			break;
		cache_wait(f);
	}
	bytes = bytes < f->size - offset ? bytes : f->size - offset;
	if (x && x->present >> bit & 1)
		return (ssize_t)copy_out(h, x, bit, buffer, bytes, from);
	return copy_loaded(h, index, worth, buffer, bytes, from);
}

ssize_t cache_read_at(struct uvmm_file *h, char *buffer, size_t bytes, uint64_t offset)
{
	uint64_t size = h->file->size, end, worth;
	size_t done = 0;

	if (!bytes || offset >= size)
		return 0;
	bytes = bytes < size - offset ? bytes : size - offset;
	end = (offset + bytes + CACHE_PAGE_BYTES - 1) / CACHE_PAGE_BYTES;
	worth = offset / CACHE_PAGE_BYTES +
		cache_ahead_note(h, offset / CACHE_PAGE_BYTES, end);
	worth = worth > end ? worth : end;
	while (done < bytes) {
		uint64_t index = (offset + done) / CACHE_PAGE_BYTES;
		ssize_t n = read_some(h, buffer + done, bytes - done, offset + done, worth - index);

		if (n < 0 && !done)
			return n;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int cache_read_pin(struct uvmm_file *h, uint64_t index, uint32_t *ppn, size_t *valid)
{
	struct cache_file *f = h->file;
	unsigned bit = index % CACHE_RUN_PAGES;
	struct cache_extent *x;
	struct load l;
	uint64_t size;
	int rc = 0;

	pthread_mutex_lock(&f->lock);
	for (;;) {
		size = f->size;
		if (index > size / CACHE_PAGE_BYTES || index * CACHE_PAGE_BYTES >= size) {
			pthread_mutex_unlock(&f->lock);
			return -ENODATA;
		}
		x = cache_index_get(&f->extents, index / CACHE_RUN_PAGES);
		if (!x || !(x->busy >> bit & 1))
			break;
		cache_wait(f);
	}
	size -= index * CACHE_PAGE_BYTES;
	*valid = size < CACHE_PAGE_BYTES ? size : CACHE_PAGE_BYTES;
	if (x && x->present >> bit & 1) {
		note_uses(h, x, bit, 1);
		cache_pages_ref(x, bit, 1);
		*ppn = x->ppn[bit];
		pthread_mutex_unlock(&f->lock);
		cache_count(&f->cache->counters.hits, 1);
		return 0;
	}
	rc = claim(f, index, 1, &l);
	pthread_mutex_unlock(&f->lock);
	if (rc)
		return rc;
	cache_count(&f->cache->counters.misses, 1);
	rc = load(&l, 1);
	if (rc == NO_PAGE)
		release(&l, 0);
	*ppn = rc ? 0 : l.ppn[0];
	return rc == NO_PAGE ? -ENOMEM : rc;
}

/* f: locked. The next page from *index on that is not there, before end. */
static bool next_missing(struct cache_file *f, uint64_t *index, uint64_t end)
{
	while (*index < end && *index * CACHE_PAGE_BYTES < f->size) {
		struct cache_extent *x = cache_index_get(&f->extents, *index / CACHE_RUN_PAGES);
		unsigned bit = *index % CACHE_RUN_PAGES;

		if (!x || !((x->present | x->busy) >> bit & 1))
			return true;
		*index += cache_ones(x->present | x->busy, bit);
	}
	return false;
}

void cache_read_ahead(struct cache_file *f, uint64_t index, uint64_t end)
{
	struct load l;
	int rc = 0;

	while (!rc) {
		pthread_mutex_lock(&f->lock);
		rc = !f->backend.ops || !next_missing(f, &index, end) ? -ENODATA :
			claim(f, index, end - index, &l);
		pthread_mutex_unlock(&f->lock);
		if (rc)
			break;
		index += l.pages;
		rc = load(&l, 0);
		if (rc == NO_PAGE)
			release(&l, 0);
	}
}
