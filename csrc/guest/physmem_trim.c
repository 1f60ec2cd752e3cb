/* SPDX-License-Identifier: MIT
 * Handing free pages back; see physmem.h. */
#include <errno.h>

#include "physmem.h"
#include "physmem_sets.h"

#define PINNED_KEEPS 64u        /* pages that one pinned page keeps from a trim */

struct range {
	uint64_t page, n;
};

struct discarder {
	int (*discard)(void *arg, uint64_t page, uint64_t n);
	void *arg;
	uint64_t *sum;          /* of pages that were handed back */
};

static bool is_dirty(const struct physmem *m, uint64_t page)
{
	return m->dirty[page / WORD] >> (page % WORD) & 1;
}

bool physmem_next_dirty(const struct physmem *m, uint64_t *page, uint64_t end, uint64_t *n)
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

/* The next free block of at least so many pages with used ones, from *page. */
static bool next_dirty_block(const struct physmem *m, uint64_t least, uint64_t *page,
			     uint64_t *n)
{
	uint64_t at = *page, first, dirty;

	while (at < m->pages) {
		unsigned order = physmem_block_at(m, at);
		uint64_t len = order == PHYSMEM_ORDERS ? m->run[at] & ~RUN_ASIDE :
							 1ull << order;

		first = at;
		if (order < PHYSMEM_ORDERS && len >= least &&
		    physmem_next_dirty(m, &first, at + len, &dirty)) {
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
		physmem_set_clean(m, r.page, r.n);
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

	while ((!rc || rc == -EBUSY) && physmem_next_dirty(m, &r.page, end, &r.n)) {
		rc = discard_range(m, r, d);
		busy = rc == -EBUSY ? rc : busy;
		r.page += r.n;
	}
	return rc ? rc : busy;
}

int physmem_trim(struct physmem *m, uint64_t least,
		 int (*discard)(void *arg, uint64_t page, uint64_t n), void *arg, uint64_t *pages)
{
	uint64_t page = 0, n, sum = 0;
	struct discarder d = { discard, arg, &sum };
	int rc = 0, busy = 0;

	pthread_mutex_lock(&m->lock);
	while ((!rc || rc == -EBUSY) && next_dirty_block(m, least, &page, &n)) {
		physmem_remove(m, page, n);
		m->run[page] = n | RUN_ASIDE;
		m->trims++;
		rc = discard_dirty(m, page, page + n, &d);
		busy = rc == -EBUSY ? rc : busy;
		m->trims--;
		m->run[page] = 0;
		physmem_insert(m, page, n);
		physmem_freed(m, page, n);
		pthread_cond_broadcast(&m->trimmed);
		page = resume_at(m, page + n);
	}
	pthread_mutex_unlock(&m->lock);
	if (pages)
		*pages = sum;
	return rc ? rc : busy;
}
