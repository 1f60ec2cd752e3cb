/* SPDX-License-Identifier: MIT */
#include "cache_page.h"

#include <errno.h>
#include <sched.h>

#include "cache_back.h"
#include "cache_clock.h"

#define TRIES_MAX 4096u /* pages looked at to evict one, if the cache has so many more */
#define YIELDS_MAX 1000u /* to those who have a file's lock */

/* --- taking and giving -------------------------------------------------------- */

/* More than what the program is left, and nobody wants memory. */
static bool may_grow(struct uvmm_cache *c)
{
	uint64_t held = atomic_load(&c->held_pages), until;

	if (held >= c->max_pages)
		return false;
	if (held < c->min_pages)
		return true;
	until = atomic_load(&c->shrinking_until_ns);
	if (until && cache_now_ns() < until)
		return false;
	return physmem_free_pages(c->memory.physmem) > c->reserve_pages;
}

uint64_t cache_pages_possible(struct uvmm_cache *c)
{
	uint64_t n = atomic_load(&c->held_pages);
	uint64_t unused = physmem_free_pages(c->memory.physmem);

	n += unused > c->reserve_pages ? unused - c->reserve_pages : 0;
	return n < c->max_pages ? n : c->max_pages;
}

int cache_page_take(struct uvmm_cache *c, uint32_t *ppn)
{
	static const struct physmem_want one = { .n = 1, .block = true, .used = true };
	uint64_t page;

	/* Nobody is asked to give pages for a cache, nor is the balloon. */
	if (may_grow(c) && !physmem_try(c->memory.physmem, &one, &page)) {
		atomic_fetch_add(&c->held_pages, 1);
		*ppn = (uint32_t)page;
		return 0;
	}
	return cache_page_evict(c, ppn) ? 0 : -ENOMEM;
}

void cache_page_free(struct uvmm_cache *c, uint32_t ppn)
{
	atomic_store(&c->page[ppn].refs, 0);
	physmem_free(c->memory.physmem, ppn, 1);
	atomic_fetch_sub(&c->held_pages, 1);
}

/* --- extents ------------------------------------------------------------------ */

struct cache_extent *cache_extent_make(struct cache_file *f, uint64_t number)
{
	struct cache_extent *x = cache_index_get(&f->extents, number);

	if (x)
		return x;
	x = cache_slab_get(&f->cache->extents);
	if (!x)
		return NULL;
	x->file = f;
	x->number = number;
	if (cache_index_put(&f->extents, number, x)) {
		cache_slab_put(&f->cache->extents, x);
		return NULL;
	}
	return x;
}

void cache_extent_tidy(struct cache_extent *x)
{
	struct cache_file *f = x->file;

	if (x->present | x->busy)
		return;
	cache_index_remove(&f->extents, x->number);
	cache_slab_put(&f->cache->extents, x);
}

void cache_wait(struct cache_file *f)
{
	f->waiters++;
	pthread_cond_wait(&f->moved, &f->lock);
	f->waiters--;
}

void cache_wake(struct cache_file *f)
{
	if (f->waiters)
		pthread_cond_broadcast(&f->moved);
}

void cache_wait_for_busy(struct cache_file *f, uint64_t index)
{
	uint64_t number = index / CACHE_RUN_PAGES;
	struct cache_extent *x;

	while ((x = cache_index_next(&f->extents, &number))) {
		uint64_t which = UINT64_MAX;

		if (number == index / CACHE_RUN_PAGES)
			which <<= index % CACHE_RUN_PAGES;
		if (x->busy & which)
			cache_wait(f);  /* the extent may be gone after it */
		else
			number++;
	}
}

/* --- pages of files ------------------------------------------------------------ */

static uint64_t key_of(const struct cache_extent *x, unsigned bit)
{
	uint64_t key = x->file->key ^ (x->number * CACHE_RUN_PAGES + bit) * 0x9e3779b97f4a7c15u;

	/* The finish of MurmurHash3. */
	key = (key ^ key >> 33) * 0xff51afd7ed558ccdu;
	key = (key ^ key >> 33) * 0xc4ceb9fe1a85ec53u;
	return key ^ key >> 33;
}

void cache_page_enter(struct cache_extent *x, unsigned bit, uint32_t ppn, uint32_t refs)
{
	struct uvmm_cache *c = x->file->cache;

	atomic_store(&c->page[ppn].refs, 1 + refs);
	x->ppn[bit] = ppn;
	x->present |= 1ull << bit;
	x->busy &= ~(1ull << bit);
	x->file->pages++;
	pthread_mutex_lock(&c->policy_lock);
	c->page[ppn].extent = x;
	c->page[ppn].at = bit;
	if (cache_policy_join(&c->policy, ppn, key_of(x, bit)))
		cache_count(&c->counters.ghost_hits, 1);
	pthread_mutex_unlock(&c->policy_lock);
}

void cache_pages_ref(struct cache_extent *x, unsigned bit, unsigned n)
{
	struct uvmm_cache *c = x->file->cache;
	uint64_t which = cache_bits(bit, n), first = x->ahead & which;
	unsigned i;

	for (i = bit; i < bit + n; i++)
		atomic_fetch_add(&c->page[x->ppn[i]].refs, 1);
	if (!first)
		return;
	x->ahead &= ~which;
	cache_count(&c->counters.ahead_used, (uint64_t)__builtin_popcountll(first));
}

void cache_page_unref(struct uvmm_cache *c, uint32_t ppn)
{
	if (atomic_fetch_sub(&c->page[ppn].refs, 1) == 1)
		cache_page_free(c, ppn);
}

/* f: locked. The books of pages that are no longer the file's. */
static void forget(struct cache_extent *x, uint64_t which)
{
	x->present &= ~which;
	x->ahead &= ~which;
	x->hurried &= ~which;
	x->file->pages -= (uint64_t)__builtin_popcountll(which);
}

void cache_pages_leave(struct cache_extent *x, uint64_t which)
{
	struct uvmm_cache *c = x->file->cache;
	uint64_t left;

	which &= x->present;
	cache_set_clean(x, which);
	for (left = which; left; left &= left - 1) {
		uint32_t ppn = x->ppn[__builtin_ctzll(left)];

		pthread_mutex_lock(&c->policy_lock);
		cache_policy_leave(&c->policy, ppn);
		pthread_mutex_unlock(&c->policy_lock);
		cache_page_unref(c, ppn);
	}
	forget(x, which);
	cache_extent_tidy(x);
}

void cache_set_dirty(struct cache_extent *x, uint64_t which)
{
	struct cache_file *f = x->file;
	uint64_t n = (uint64_t)__builtin_popcountll(which & ~x->dirty);

	x->dirty |= which;
	f->dirty_pages += n;
	atomic_fetch_add(&f->cache->dirty_pages, n);
	if (n && f->dirty_pages == n)
		cache_back_list(f);
}

void cache_set_clean(struct cache_extent *x, uint64_t which)
{
	struct cache_file *f = x->file;
	uint64_t n = (uint64_t)__builtin_popcountll(which & x->dirty);

	x->dirty &= ~which;
	f->dirty_pages -= n;
	atomic_fetch_sub(&f->cache->dirty_pages, n);
	if (n && !f->dirty_pages)
		cache_back_unlist(f);
}

/* --- eviction ------------------------------------------------------------------- */

/* f: locked, as is policy_lock. 0 if the page can go: it is clean, or may be lost, and nobody
 * uses it.  -EBUSY: he does  -EINPROGRESS: once it is written */
static int may_go(struct cache_extent *x, unsigned bit, uint32_t ppn)
{
	struct uvmm_cache *c = x->file->cache;
	uint64_t which = 1ull << bit;

	if (atomic_load(&c->page[ppn].refs) > 1)
		return -EBUSY;
	if (!((x->dirty | x->writing) & which))
		return 0;
	if (!x->file->abandoned || x->writing & which) {
		x->hurried |= which;
		return -EINPROGRESS;
	}
	cache_set_clean(x, which);
	cache_count(&c->counters.lost, 1);
	return 0;
}

/* With policy_lock, of a page in a queue. Errors as may_go().  -EAGAIN: somebody has the
 * file's lock, for a moment */
static int evict(struct uvmm_cache *c, uint32_t ppn)
{
	struct cache_extent *x = c->page[ppn].extent;
	struct cache_file *f = x->file;
	unsigned bit = c->page[ppn].at;
	int rc;

	if (pthread_mutex_trylock(&f->lock))
		return -EAGAIN;
	rc = may_go(x, bit, ppn);
	if (!rc) {
		/* That it comes again says nothing if nobody has used it yet. */
		if (x->ahead >> bit & 1)
			cache_policy_leave(&c->policy, ppn);
		else
			cache_policy_give_up(&c->policy, ppn, key_of(x, bit));
		forget(x, 1ull << bit);
		cache_extent_tidy(x);
		atomic_store(&c->page[ppn].refs, 0);
		cache_count(&c->counters.evicted, 1);
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

/* With policy_lock. Pages that are read or written first at this moment. */
static uint64_t coming(struct uvmm_cache *c)
{
	uint64_t held = atomic_load(&c->held_pages), queued = cache_policy_pages(&c->policy);

	return held > queued ? held - queued : 0;
}

/* With policy_lock, which is dropped: whoever has a file's lock may wait for it. */
static void yield(struct uvmm_cache *c)
{
	pthread_mutex_unlock(&c->policy_lock);
	sched_yield();
	pthread_mutex_lock(&c->policy_lock);
}

bool cache_page_evict(struct uvmm_cache *c, uint32_t *ppn)
{
	unsigned yields = 0;
	bool dirty = false;
	uint64_t tries;
	int rc = -EBUSY;

	pthread_mutex_lock(&c->policy_lock);
	tries = cache_policy_pages(&c->policy);
	tries = tries < TRIES_MAX ? tries : TRIES_MAX + tries / 4;
	while (rc && tries) {
		*ppn = cache_policy_victim(&c->policy, coming(c));
		if (*ppn == CACHE_POLICY_NONE)
			break;
		rc = evict(c, *ppn);
		if (rc == -EAGAIN && yields++ < YIELDS_MAX) {
			yield(c);
			continue;
		}
		if (rc == -EINPROGRESS)
			cache_policy_set_aside(&c->policy, *ppn);
		else if (rc)
			cache_policy_put_off(&c->policy, *ppn);
		dirty = dirty || rc == -EINPROGRESS;
		tries--;
	}
	pthread_mutex_unlock(&c->policy_lock);
	if (dirty)
		cache_back_hurry(c);
	return !rc;
}

int cache_page_evict_at(struct uvmm_cache *c, uint32_t ppn)
{
	int rc;

	do {
		pthread_mutex_lock(&c->policy_lock);
		rc = c->policy.page[ppn].queue == CACHE_QUEUE_NONE ? -ENOENT : evict(c, ppn);
		pthread_mutex_unlock(&c->policy_lock);
		if (rc == -EAGAIN)
			sched_yield();
	} while (rc == -EAGAIN);
	return rc;
}
