/* SPDX-License-Identifier: MIT */
#include "physmem.h"

#include <errno.h>
#include <sys/mman.h>

#include "physmem_sets.h"
#include "uvmm/protocol.h"

#define NEAR_STEPS 48

static uint64_t dirty_words(uint64_t pages)
{
	return (pages + WORD - 1) / WORD;
}

static uint64_t blocks(uint64_t pages, unsigned order)
{
	return (pages + (1ull << order) - 1) >> order;
}

int physmem_init(struct physmem *m, uint64_t pages)
{
	uint64_t *at;
	unsigned o;

	*m = (struct physmem){ .pages = pages };
	m->memory_bytes = (pages + dirty_words(pages)) * sizeof(uint64_t);
	for (o = 0; o < PHYSMEM_ORDERS; o++)
		m->memory_bytes += bits_bytes(blocks(pages, o));
	m->memory_bytes += bits_bytes(pages);
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
	bits_init(&m->balloon, pages, at);
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->trimmed, NULL);
	m->free_pages = pages;
	physmem_insert(m, 0, pages);
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

void physmem_insert(struct physmem *m, uint64_t page, uint64_t n)
{
	while (n) {
		unsigned order = largest_order(page, n);

		insert_block(m, page, order);
		page += 1ull << order;
		n -= 1ull << order;
	}
}

unsigned physmem_block_at(const struct physmem *m, uint64_t page)
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

void physmem_remove(struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t at = page, end = page + n;

	while (at < end) {
		unsigned order = physmem_block_at(m, at);

		bits_remove(&m->free_blocks[order], at >> order);
		at += 1ull << order;
	}
	if (at > end)
		physmem_insert(m, end, at - end);
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

/* The free block that page lies in: its order, or PHYSMEM_ORDERS. */
static unsigned block_around(const struct physmem *m, uint64_t page)
{
	unsigned order;

	for (order = 0; order < PHYSMEM_ORDERS; order++)
		if (bits_has(&m->free_blocks[order], page >> order))
			return order;
	return PHYSMEM_ORDERS;
}

/* A place where blocks and runs can be walked from, at or before *at. */
static bool find_start(const struct physmem *m, uint64_t *at)
{
	unsigned order;

	if (*at >= m->pages)
		return false;
	order = block_around(m, *at);
	if (order < PHYSMEM_ORDERS)
		*at = *at >> order << order;
	return order < PHYSMEM_ORDERS || m->run[*at];
}

/* A run of n free pages in [*from, to), within so many steps over blocks and runs.
 * Without one *from is where to go on. */
static bool walk(const struct physmem *m, uint64_t n, uint64_t *from, uint64_t steps)
{
	uint64_t at = *from;

	while (at < m->pages && steps--) {
		unsigned order = physmem_block_at(m, at);

		if (order == PHYSMEM_ORDERS) {
			at += m->run[at] & ~RUN_ASIDE;
			*from = at;
			continue;
		}
		at += 1ull << order;
		if (at - *from >= n)
			return true;
	}
	return false;
}

/* A short run, behind the last one of about its length or where one was freed. */
static int find_near(struct physmem *m, uint64_t n, unsigned order, uint64_t *page)
{
	uint64_t from = m->near[order];
	bool found;

	if (!find_start(m, &from))
		from = 0;
	found = walk(m, n, &from, NEAR_STEPS);
	*page = from;
	m->near[order] = found ? from + n : from;
	return found ? 0 : -ENOMEM;
}

void physmem_freed(struct physmem *m, uint64_t page, uint64_t n)
{
	unsigned order;

	for (order = 0; order < PHYSMEM_ORDERS && n > (1ull << order) / 2; order++)
		if (page < m->near[order])
			m->near[order] = page;
}

/* The lowest run of n free pages that begins with a block: goes over all blocks and
 * runs. */
static int find_run(const struct physmem *m, uint64_t n, uint64_t *page)
{
	*page = 0;
	return walk(m, n, page, UINT64_MAX) ? 0 : -ENOMEM;
}

static void set_words(uint64_t *bits, uint64_t page, uint64_t n, bool set)
{
	uint64_t bit;

	for (; n && (page % WORD || n < WORD); page++, n--) {
		bit = 1ull << (page % WORD);
		bits[page / WORD] = set ? bits[page / WORD] | bit : bits[page / WORD] & ~bit;
	}
	for (; n >= WORD; page += WORD, n -= WORD)
		bits[page / WORD] = set ? UINT64_MAX : 0;
	if (n)
		set_words(bits, page, n, set);
}

void physmem_set_dirty(struct physmem *m, uint64_t page, uint64_t n)
{
	set_words(m->dirty, page, n, true);
}

void physmem_set_clean(struct physmem *m, uint64_t page, uint64_t n)
{
	set_words(m->dirty, page, n, false);
}

static unsigned order_for(uint64_t n)
{
	return n > 1 ? 64u - (unsigned)__builtin_clzll(n - 1) : 0;
}

static int find_locked(struct physmem *m, const struct physmem_want *w, uint64_t *page)
{
	int rc = -ENOMEM;

	if (!w->block && w->n < UVMM_CHUNK_PAGES)
		rc = find_near(m, w->n, w->order, page);
	if (rc && w->order < PHYSMEM_ORDERS)
		rc = find_block(m, w->order, page);
	/* A run that is no block may begin at any page. */
	if (rc && !w->block)
		rc = find_run(m, w->n, page);
	return rc;
}

/* After trims that go on if there is none before. */
int physmem_try(struct physmem *m, const struct physmem_want *w, uint64_t *page)
{
	int rc = -ENOMEM;

	pthread_mutex_lock(&m->lock);
	/* What is in trim counts as free: waiting for it would not help. */
	while (w->n <= m->free_pages) {
		rc = find_locked(m, w, page);
		if (!rc || !m->trims)
			break;
		pthread_cond_wait(&m->trimmed, &m->lock);
	}
	if (!rc) {
		physmem_remove(m, *page, w->n);
		m->run[*page] = w->n;
		m->free_pages -= w->n;
		if (w->used)
			physmem_set_dirty(m, *page, w->n);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static int take(struct physmem *m, const struct physmem_want *w, uint64_t *page)
{
	int rc = physmem_try(m, w, page);

	/* First those who use memory because it was free. */
	while (rc == -ENOMEM && m->ask && m->ask(m->ask_arg, w))
		rc = physmem_try(m, w, page);
	if (rc == -ENOMEM && m->rescue && physmem_balloon_pages(m))
		rc = m->rescue(m->rescue_arg, w, page);
	return rc;
}

int physmem_alloc_block(struct physmem *m, unsigned order, uint64_t *page)
{
	const struct physmem_want w = {
		.n = 1ull << (order & 63), .order = order, .block = true, .used = true,
	};

	return order > PHYSMEM_ORDER_MAX ? -EINVAL : take(m, &w, page);
}

int physmem_alloc_run(struct physmem *m, uint64_t n, uint64_t *page)
{
	const struct physmem_want w = { .n = n, .order = order_for(n), .used = true };

	if (!n)
		return -EINVAL;
	return n > m->pages ? -ENOMEM : take(m, &w, page);
}

int physmem_take(struct physmem *m, uint64_t n, uint64_t align, uint64_t *page)
{
	const struct physmem_want w = {
		.n = n, .order = order_for(n > align ? n : align), .block = align > 1,
	};

	if (!n || !align || align & (align - 1))
		return -EINVAL;
	return n > m->pages || align > m->pages ? -ENOMEM : take(m, &w, page);
}

int physmem_free(struct physmem *m, uint64_t page, uint64_t n)
{
	int rc = -EINVAL;

	pthread_mutex_lock(&m->lock);
	if (n && page < m->pages && m->run[page] == n) {
		m->run[page] = 0;
		m->free_pages += n;
		physmem_insert(m, page, n);
		physmem_freed(m, page, n);
		rc = 0;
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

/* The run in use that page lies in, or false. */
static bool run_of(const struct physmem *m, uint64_t page, uint64_t *first)
{
	uint64_t at = page;

	while (at && !m->run[at])
		at--;
	*first = at;
	return m->run[at] && !(m->run[at] & RUN_ASIDE) && at + m->run[at] > page;
}

bool physmem_is_used(struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t at = page, first;

	pthread_mutex_lock(&m->lock);
	while (at < page + n && run_of(m, at, &first))
		at = first + m->run[first];
	pthread_mutex_unlock(&m->lock);
	return at >= page + n;
}

uint64_t physmem_give(struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t at = page, end = page + n, first, stop, sum = 0;

	pthread_mutex_lock(&m->lock);
	while (at < end) {
		if (!run_of(m, at, &first)) {
			at++;
			continue;
		}
		stop = first + m->run[first];
		m->run[first] = at - first;
		if (stop > end) {
			m->run[end] = stop - end;
			stop = end;
		}
		physmem_insert(m, at, stop - at);
		physmem_freed(m, at, stop - at);
		sum += stop - at;
		at = stop;
	}
	m->free_pages += sum;
	pthread_mutex_unlock(&m->lock);
	return sum;
}

int physmem_take_at(struct physmem *m, uint64_t page, uint64_t n)
{
	uint64_t at = page, first = page;
	unsigned order = 0;

	if (!n)
		return -EINVAL;
	if (page >= m->pages || n > m->pages - page)
		return -ENOMEM;
	pthread_mutex_lock(&m->lock);
	while (at < page + n && (order = block_around(m, at)) < PHYSMEM_ORDERS)
		at = ((at >> order) + 1) << order;
	if (order < PHYSMEM_ORDERS) {
		order = block_around(m, page);
		first = page >> order << order;
		physmem_remove(m, first, page + n - first);
		physmem_insert(m, first, page - first);
		m->run[page] = n;
		m->free_pages -= n;
	}
	pthread_mutex_unlock(&m->lock);
	return order < PHYSMEM_ORDERS ? 0 : -ENOMEM;
}

bool physmem_next_run(struct physmem *m, uint64_t *page, uint64_t *n)
{
	while (*page < m->pages) {
		unsigned order = physmem_block_at(m, *page);

		if (order == PHYSMEM_ORDERS && !(m->run[*page] & RUN_ASIDE)) {
			*n = m->run[*page];
			return true;
		}
		*page += order == PHYSMEM_ORDERS ? m->run[*page] & ~RUN_ASIDE : 1ull << order;
	}
	return false;
}

void physmem_freeze(struct physmem *m)
{
	pthread_mutex_lock(&m->lock);
	while (m->trims)
		pthread_cond_wait(&m->trimmed, &m->lock);
}

void physmem_thaw(struct physmem *m, bool in_child)
{
	if (in_child) {
		pthread_mutex_init(&m->lock, NULL);
		pthread_cond_init(&m->trimmed, NULL);
		physmem_forget_balloon(m);
	} else {
		pthread_mutex_unlock(&m->lock);
	}
}

uint64_t physmem_free_pages(struct physmem *m)
{
	uint64_t n;

	pthread_mutex_lock(&m->lock);
	n = m->free_pages;
	pthread_mutex_unlock(&m->lock);
	return n;
}
