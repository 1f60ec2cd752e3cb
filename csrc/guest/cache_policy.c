/* SPDX-License-Identifier: MIT */
#include "cache_policy.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>

#define USES_MAX 3u
#define SMALL_PART 10u          /* one in so many pages */
#define BUCKET 8u
#define GHOSTS_MIN 256u         /* also of a cache that has become very small */

static uint64_t buckets_for(uint64_t entries)
{
	uint64_t n = 1;

	while (n * BUCKET < entries)
		n *= 2;
	return n;
}

int cache_policy_init(struct cache_policy *p, uint64_t entries)
{
	size_t pages_bytes = (entries * sizeof(struct cache_policy_page) + 63) / 64 * 64;
	int q;

	*p = (struct cache_policy){ .entries = entries, .ghost_buckets = buckets_for(entries) };
	p->memory_bytes = pages_bytes + p->ghost_buckets * BUCKET * sizeof(uint64_t);
	p->memory = mmap(NULL, p->memory_bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p->memory == MAP_FAILED)
		return -ENOMEM;
	p->page = p->memory;
	p->ghost = (uint64_t *)(void *)((char *)p->memory + pages_bytes);
	for (q = 0; q < CACHE_QUEUES; q++)
		p->queue[q] = (struct cache_queue){ CACHE_POLICY_NONE, CACHE_POLICY_NONE, 0 };
	return 0;
}

void cache_policy_fini(struct cache_policy *p)
{
	munmap(p->memory, p->memory_bytes);
}

uint64_t cache_policy_pages(const struct cache_policy *p)
{
	return p->queue[CACHE_QUEUE_SMALL].pages + p->queue[CACHE_QUEUE_MAIN].pages +
	       p->queue[CACHE_QUEUE_ASIDE].pages;
}

/* --- queues ----------------------------------------------------------------- */

static void push_newest(struct cache_policy *p, uint8_t name, uint32_t i)
{
	struct cache_queue *q = &p->queue[name];
	struct cache_policy_page *page = &p->page[i];

	page->newer = CACHE_POLICY_NONE;
	page->older = q->newest;
	page->queue = name;
	if (q->newest == CACHE_POLICY_NONE)
		q->oldest = i;
	else
		p->page[q->newest].newer = i;
	q->newest = i;
	q->pages++;
}

static void push_oldest(struct cache_policy *p, uint8_t name, uint32_t i)
{
	struct cache_queue *q = &p->queue[name];
	struct cache_policy_page *page = &p->page[i];

	page->older = CACHE_POLICY_NONE;
	page->newer = q->oldest;
	page->queue = name;
	if (q->oldest == CACHE_POLICY_NONE)
		q->newest = i;
	else
		p->page[q->oldest].older = i;
	q->oldest = i;
	q->pages++;
}

static void take_out(struct cache_policy *p, uint32_t i)
{
	struct cache_policy_page *page = &p->page[i];
	struct cache_queue *q = &p->queue[page->queue];

	if (page->newer == CACHE_POLICY_NONE)
		q->newest = page->older;
	else
		p->page[page->newer].older = page->older;
	if (page->older == CACHE_POLICY_NONE)
		q->oldest = page->newer;
	else
		p->page[page->older].newer = page->newer;
	page->queue = CACHE_QUEUE_NONE;
	q->pages--;
}

void cache_policy_replace(struct cache_policy *p, uint32_t page, uint32_t by)
{
	struct cache_policy_page *old = &p->page[page], *new = &p->page[by];
	struct cache_queue *q = &p->queue[old->queue];

	new->newer = old->newer;
	new->older = old->older;
	new->queue = old->queue;
	new->former = old->former;
	atomic_store(&new->uses, atomic_load(&old->uses));
	if (new->newer == CACHE_POLICY_NONE)
		q->newest = by;
	else
		p->page[new->newer].older = by;
	if (new->older == CACHE_POLICY_NONE)
		q->oldest = by;
	else
		p->page[new->older].newer = by;
	old->queue = CACHE_QUEUE_NONE;
}

/* --- ghosts ----------------------------------------------------------------- */

static uint64_t *bucket_of(struct cache_policy *p, uint64_t key)
{
	return p->ghost + (key & (p->ghost_buckets - 1)) * BUCKET;
}

/* Never 0, so that no ghost is an empty place. */
static uint32_t fingerprint(uint64_t key)
{
	return (uint32_t)(key >> 32) | 1u;
}

static uint32_t age(const struct cache_policy *p, uint64_t ghost)
{
	return p->ghosts_made - (uint32_t)(ghost >> 32);
}

static bool is_live(const struct cache_policy *p, uint64_t ghost)
{
	uint64_t pages = cache_policy_pages(p);

	return ghost && age(p, ghost) <= (pages < GHOSTS_MIN ? GHOSTS_MIN : pages);
}

static void make_ghost(struct cache_policy *p, uint64_t key)
{
	uint64_t *bucket = bucket_of(p, key);
	unsigned i, at = 0;

	for (i = 0; i < BUCKET && is_live(p, bucket[i]); i++)
		if (age(p, bucket[i]) > age(p, bucket[at]))
			at = i;
	at = i < BUCKET ? i : at;
	bucket[at] = (uint64_t)p->ghosts_made++ << 32 | fingerprint(key);
}

static bool take_ghost(struct cache_policy *p, uint64_t key)
{
	uint64_t *bucket = bucket_of(p, key);
	unsigned i;

	for (i = 0; i < BUCKET; i++) {
		if ((uint32_t)bucket[i] != fingerprint(key) || !is_live(p, bucket[i]))
			continue;
		bucket[i] = 0;
		return true;
	}
	return false;
}

/* --- pages ------------------------------------------------------------------ */

bool cache_policy_join(struct cache_policy *p, uint32_t i, uint64_t key)
{
	bool known = take_ghost(p, key);

	atomic_store_explicit(&p->page[i].uses, 0, memory_order_relaxed);
	push_newest(p, known ? CACHE_QUEUE_MAIN : CACHE_QUEUE_SMALL, i);
	return known;
}

void cache_policy_use(struct cache_policy *p, uint32_t i)
{
	_Atomic uint8_t *uses = &p->page[i].uses;
	uint8_t n = atomic_load_explicit(uses, memory_order_relaxed);

	/* Two at once may count as one: nobody needs to know. */
	if (n < USES_MAX)
		atomic_store_explicit(uses, (uint8_t)(n + 1), memory_order_relaxed);
}

void cache_policy_leave(struct cache_policy *p, uint32_t i)
{
	take_out(p, i);
}

/* The oldest of small is to go before that of main. */
static bool is_small_large(const struct cache_policy *p, uint64_t coming)
{
	uint64_t small = p->queue[CACHE_QUEUE_SMALL].pages;

	return small && ((small + coming) * SMALL_PART >= cache_policy_pages(p) + coming ||
			 !p->queue[CACHE_QUEUE_MAIN].pages);
}

/* The queue whose oldest page is next. */
static enum cache_queue_name next_queue(const struct cache_policy *p, uint64_t coming)
{
	if (is_small_large(p, coming))
		return CACHE_QUEUE_SMALL;
	return p->queue[CACHE_QUEUE_MAIN].pages ? CACHE_QUEUE_MAIN : CACHE_QUEUE_ASIDE;
}

uint32_t cache_policy_victim(struct cache_policy *p, uint64_t coming)
{
	for (;;) {
		enum cache_queue_name q = next_queue(p, coming);
		uint32_t i = p->queue[q].oldest;
		_Atomic uint8_t *uses;
		uint8_t n;

		if (i == CACHE_POLICY_NONE || q == CACHE_QUEUE_ASIDE)
			return i;
		uses = &p->page[i].uses;
		n = atomic_load_explicit(uses, memory_order_relaxed);
		if (q == CACHE_QUEUE_SMALL ? n <= 1 : !n)
			return i;
		take_out(p, i);
		atomic_store_explicit(uses, q == CACHE_QUEUE_SMALL ? 0 : (uint8_t)(n - 1),
				      memory_order_relaxed);
		push_newest(p, CACHE_QUEUE_MAIN, i);
	}
}

void cache_policy_give_up(struct cache_policy *p, uint32_t i, uint64_t key)
{
	bool small = p->page[i].queue == CACHE_QUEUE_SMALL;

	take_out(p, i);
	if (small)
		make_ghost(p, key);
}

void cache_policy_put_off(struct cache_policy *p, uint32_t i)
{
	uint8_t queue = p->page[i].queue;

	take_out(p, i);
	push_newest(p, queue, i);
}

void cache_policy_set_aside(struct cache_policy *p, uint32_t i)
{
	if (p->page[i].queue != CACHE_QUEUE_ASIDE)
		p->page[i].former = p->page[i].queue;
	take_out(p, i);
	push_newest(p, CACHE_QUEUE_ASIDE, i);
}

void cache_policy_return(struct cache_policy *p, uint32_t i)
{
	if (p->page[i].queue != CACHE_QUEUE_ASIDE)
		return;
	take_out(p, i);
	push_oldest(p, p->page[i].former, i);
}
