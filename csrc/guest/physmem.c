/* SPDX-License-Identifier: MIT */
#include "physmem.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define WORD 64u
#define RUN_IN_TRIM (1ull << 63)
#define PINNED_KEEPS 64u        /* pages that one pinned page keeps from a trim */

struct range {
	uint64_t page, n;
};

struct discarder {
	int (*discard)(void *arg, uint64_t page, uint64_t n);
	void *arg;
	uint64_t *sum;          /* of pages that were handed back */
};

static uint64_t dirty_words(uint64_t pages)
{
	return (pages + WORD - 1) / WORD;
}

static uint64_t blocks(uint64_t pages, unsigned order)
{
	return (pages + (1ull << order) - 1) >> order;
}

static void insert_range(struct physmem *m, uint64_t page, uint64_t n);

int physmem_init(struct physmem *m, uint64_t pages)
{
	uint64_t *at;
	unsigned o;

	*m = (struct physmem){ .pages = pages };
	m->memory_bytes = (pages + dirty_words(pages)) * sizeof(uint64_t);
	for (o = 0; o < PHYSMEM_ORDERS; o++)
		m->memory_bytes += bits_bytes(blocks(pages, o));
	m->memory = mmap(NULL, m->memory_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (m->memory == MAP_FAILED)
		return -ENOMEM;
	at = m->memory;
	m->run = at;
	at += pages;
	m->dirty = at;
	at += dirty_words(pages);
	for (o = 0; o < PHYSMEM_ORDERS; o++) {
		bits_init(&m->free_blocks[o], blocks(pages, o), at);
		at += bits_bytes(blocks(pages, o)) / sizeof(uint64_t);
	}
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->trimmed, NULL);
	m->free_pages = pages;
	insert_range(m, 0, pages);
	return 0;
}

void physmem_fini(struct physmem *m)
{
	munmap(m->memory, m->memory_bytes);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->trimmed);
}

/* --- blocks in the sets ----------------------------------------------------- */

/* Puts a block in, with its buddy if that is free. */
static void insert_block(struct physmem *m, uint64_t page, unsigned order)
{
	uint64_t block = page >> order;

	while (order < PHYSMEM_ORDER_MAX && bits_has(&m->free_blocks[order], block ^ 1)) {
		bits_remove(&m->free_blocks[order], block ^ 1);
		block >>= 1;
		order++;
	}
	bits_add(&m->free_blocks[order], block);
}

/* The largest block that begins at page and is no longer than n. */
static unsigned largest_order(uint64_t page, uint64_t n)
{
	unsigned order = page ? (unsigned)__builtin_ctzll(page) : PHYSMEM_ORDER_MAX;
	unsigned fits = 63u - (unsigned)__builtin_clzll(n);

	order = order < fits ? order : fits;
	return order < PHYSMEM_ORDER_MAX ? order : PHYSMEM_ORDER_MAX;
}

static void insert_range(struct physmem *m, uint64_t page, uint64_t n)
{
	while (n) {
		unsigned order = largest_order(page, n);

		insert_block(m, page, order);
		page += 1ull << order;
		n -= 1ull << order;
	}
}

/* The order of the free block that begins at page, or PHYSMEM_ORDERS. */
static unsigned block_at(const struct physmem *m, uint64_t page)
{
	unsigned order;

	for (order = 0; order < PHYSMEM_ORDERS; order++) {
		if (page & ((1ull << order) - 1))
			break;
		if (bits_has(&m->free_blocks[order], page >> order))
			return order;
	}
	return PHYSMEM_ORDERS;
}

/* Takes [page, page + n) out; it is all free and begins with a block. */
static void remove_range(struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t at = page, end = page + n;

	while (at < end) {
		unsigned order = block_at(m, at);

		bits_remove(&m->free_blocks[order], at >> order);
		at += 1ull << order;
	}
	if (at > end)
		insert_range(m, end, at - end);
}

/* --- runs ------------------------------------------------------------------- */

static int find_block(const struct physmem *m, unsigned order, uint64_t *page)
{
	for (; order < PHYSMEM_ORDERS; order++) {
		uint64_t block = bits_first(&m->free_blocks[order]);

		if (block != BITS_NONE) {
			*page = block << order;
			return 0;
		}
	}
	return -ENOMEM;
}

/* The lowest run of n free pages that begins with a block, whatever blocks it is
 * made of: goes over all blocks and runs. */
static int find_run(const struct physmem *m, uint64_t n, uint64_t *page)
{
	uint64_t at = 0, from = 0;

	while (at < m->pages) {
		unsigned order = block_at(m, at);

		if (order == PHYSMEM_ORDERS) {
			at += m->run[at] & ~RUN_IN_TRIM;
			from = at;
			continue;
		}
		at += 1ull << order;
		if (at - from >= n) {
			*page = from;
			return 0;
		}
	}
	return -ENOMEM;
}

static void set_dirty(struct physmem *m, uint64_t page, uint64_t n)
{
	for (; n && page % WORD; page++, n--)
		m->dirty[page / WORD] |= 1ull << (page % WORD);
	for (; n >= WORD; page += WORD, n -= WORD)
		m->dirty[page / WORD] = UINT64_MAX;
	for (; n; page++, n--)
		m->dirty[page / WORD] |= 1ull << (page % WORD);
}

static unsigned order_for(uint64_t n)
{
	return n > 1 ? 64u - (unsigned)__builtin_clzll(n - 1) : 0;
}

/* Finds by find(), after trims that go on if there is none before. */
static int take(struct physmem *m, uint64_t n, bool block, uint64_t *page)
{
	unsigned order = order_for(n);
	int rc;

	pthread_mutex_lock(&m->lock);
	for (;;) {
		rc = -ENOMEM;
		/* What is in trim counts as free: waiting for it would not help. */
		if (n > m->free_pages)
			break;
		rc = order < PHYSMEM_ORDERS ? find_block(m, order, page) : -ENOMEM;
		if (rc && !block)
			rc = find_run(m, n, page);
		if (!rc || !m->trims)
			break;
		pthread_cond_wait(&m->trimmed, &m->lock);
	}
	if (!rc) {
		remove_range(m, *page, n);
		m->run[*page] = n;
		m->free_pages -= n;
		set_dirty(m, *page, n);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

int physmem_alloc_block(struct physmem *m, unsigned order, uint64_t *page)
{
	return order > PHYSMEM_ORDER_MAX ? -EINVAL : take(m, 1ull << order, true, page);
}

int physmem_alloc_run(struct physmem *m, uint64_t n, uint64_t *page)
{
	if (!n)
		return -EINVAL;
	return n > m->pages ? -ENOMEM : take(m, n, false, page);
}

int physmem_free(struct physmem *m, uint64_t page, uint64_t n)
{
	int rc = -EINVAL;

	pthread_mutex_lock(&m->lock);
	if (n && page < m->pages && m->run[page] == n) {
		m->run[page] = 0;
		m->free_pages += n;
		insert_range(m, page, n);
		rc = 0;
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

/* --- trim ------------------------------------------------------------------- */

static bool is_dirty(const struct physmem *m, uint64_t page)
{
	return m->dirty[page / WORD] >> (page % WORD) & 1;
}

static void set_clean(struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t i;

	for (i = page; i < page + n; i++)
		m->dirty[i / WORD] &= ~(1ull << (i % WORD));
}

/* The next used pages in [*page, end), as *n from *page; false if none are. */
static bool next_dirty(const struct physmem *m, uint64_t *page, uint64_t end, uint64_t *n)
{
	uint64_t at = *page;

	while (at < end && !is_dirty(m, at)) {
		bool skip = at % WORD == 0 && !m->dirty[at / WORD];

		at += skip ? WORD : 1;
	}
	*page = at;
	while (at < end && is_dirty(m, at))
		at++;
	*n = at - *page;
	return *n;
}

/* The next free block with used pages, from *page. */
static bool next_dirty_block(const struct physmem *m, uint64_t *page, uint64_t *n)
{
	uint64_t at = *page, first, dirty;

	while (at < m->pages) {
		unsigned order = block_at(m, at);
		uint64_t len = order == PHYSMEM_ORDERS ? m->run[at] & ~RUN_IN_TRIM :
							 1ull << order;

		first = at;
		if (order < PHYSMEM_ORDERS && next_dirty(m, &first, at + len, &dirty)) {
			*page = at;
			*n = len;
			return true;
		}
		at += len;
	}
	return false;
}

/* page was the end of a run in trim, now inserted: the end of the free block that
 * it lies within now, or page itself. */
static uint64_t resume_at(const struct physmem *m, uint64_t page)
{
	unsigned order;

	for (order = 0; order < PHYSMEM_ORDERS && page < m->pages; order++) {
		uint64_t block = page >> order;

		if (bits_has(&m->free_blocks[order], block) && block << order < page)
			return (block + 1) << order;
	}
	return page;
}

/* Hands a range back; the lock is released meanwhile. What is refused because of a
 * page that is pinned still is tried in halves: few pages stay because of one. */
static int discard_range(struct physmem *m, struct range r, const struct discarder *d)
{
	uint64_t half = r.n / 2;
	int rc, other;

	pthread_mutex_unlock(&m->lock);
	rc = d->discard(d->arg, r.page, r.n);
	pthread_mutex_lock(&m->lock);
	if (!rc) {
		set_clean(m, r.page, r.n);
		*d->sum += r.n;
	}
	if (rc != -EBUSY || r.n <= PINNED_KEEPS)
		return rc;
	rc = discard_range(m, (struct range){ r.page, half }, d);
	if (rc && rc != -EBUSY)
		return rc;
	other = discard_range(m, (struct range){ r.page + half, r.n - half }, d);
	return other ? other : rc;
}

/* Hands the used pages of a run in trim back. */
static int discard_dirty(struct physmem *m, uint64_t page, uint64_t end,
			 const struct discarder *d)
{
	struct range r = { .page = page };
	int rc = 0, busy = 0;

	while ((!rc || rc == -EBUSY) && next_dirty(m, &r.page, end, &r.n)) {
		rc = discard_range(m, r, d);
		busy = rc == -EBUSY ? rc : busy;
		r.page += r.n;
	}
	return rc ? rc : busy;
}

int physmem_trim(struct physmem *m, int (*discard)(void *arg, uint64_t page, uint64_t n),
		 void *arg, uint64_t *pages)
{
	uint64_t page = 0, n, sum = 0;
	struct discarder d = { discard, arg, &sum };
	int rc = 0, busy = 0;

	pthread_mutex_lock(&m->lock);
	while ((!rc || rc == -EBUSY) && next_dirty_block(m, &page, &n)) {
		remove_range(m, page, n);
		m->run[page] = n | RUN_IN_TRIM;
		m->trims++;
		rc = discard_dirty(m, page, page + n, &d);
		busy = rc == -EBUSY ? rc : busy;
		m->trims--;
		m->run[page] = 0;
		insert_range(m, page, n);
		pthread_cond_broadcast(&m->trimmed);
		page = resume_at(m, page + n);
	}
	pthread_mutex_unlock(&m->lock);
	if (pages)
		*pages = sum;
	return rc ? rc : busy;
}

uint64_t physmem_free_pages(struct physmem *m)
{
	uint64_t n;

	pthread_mutex_lock(&m->lock);
	n = m->free_pages;
	pthread_mutex_unlock(&m->lock);
	return n;
}
