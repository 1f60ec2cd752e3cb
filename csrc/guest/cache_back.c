/* SPDX-License-Identifier: MIT */
#include "cache_back.h"

#include <errno.h>

#include "cache_clock.h"
#include "cache_file.h"
#include "cache_give.h"
#include "cache_page.h"
#include "cache_thread.h"

#define TICK_NS (250 * CACHE_MS_NS)
#define OLD_NS (5 * CACHE_S_NS)
#define OLD_CLOSED_NS CACHE_S_NS
#define RETRY_NS (5 * CACHE_S_NS)
#define SWEEP_NS CACHE_S_NS
#define BACKGROUND_PART 10u     /* of what may be cached */
#define HARD_PART 4u
#define DIRTY_MIN 16u           /* pages that may be dirty in any case */

/* --- the list of files with dirty pages ------------------------------------------- */

static void link_newest(struct cache_file *f)
{
	struct cache_back *b = &f->cache->back;

	f->dirtier = NULL;
	f->older = b->newest;
	if (b->newest)
		b->newest->dirtier = f;
	else
		b->oldest = f;
	b->newest = f;
	f->listed = true;
	f->dirty_since_ns = cache_now_ns();
}

static void unlink_file(struct cache_file *f)
{
	struct cache_back *b = &f->cache->back;

	if (f->older)
		f->older->dirtier = f->dirtier;
	else
		b->oldest = f->dirtier;
	if (f->dirtier)
		f->dirtier->older = f->older;
	else
		b->newest = f->older;
	f->listed = false;
}

void cache_back_list(struct cache_file *f)
{
	struct cache_back *b = &f->cache->back;

	pthread_mutex_lock(&b->lock);
	link_newest(f);
	pthread_mutex_unlock(&b->lock);
}

void cache_back_unlist(struct cache_file *f)
{
	struct cache_back *b = &f->cache->back;

	pthread_mutex_lock(&b->lock);
	unlink_file(f);
	pthread_mutex_unlock(&b->lock);
}

/* --- writing ------------------------------------------------------------------------ */

struct job {
	struct cache_file *file;
	struct cache_extent *x;         /* lives while a page of it is writing */
	unsigned bit, pages;
	uint64_t size;
	struct cache_backend backend;
};

/* f: locked. The next run of dirty pages from *index on, which becomes writing; *index
 * moves behind it. With `all`, what others write is waited for before. */
static bool claim(struct cache_file *f, uint64_t *index, bool all, struct job *j)
{
	uint64_t number = *index / CACHE_RUN_PAGES;
	struct cache_extent *x;

	while (f->resizing)
		cache_wait(f);
	while ((x = cache_index_next(&f->extents, &number))) {
		uint64_t after = number == *index / CACHE_RUN_PAGES ?
				 UINT64_MAX << *index % CACHE_RUN_PAGES : UINT64_MAX;
		uint64_t dirty = x->dirty & ~x->writing & after;

		if (all && x->writing & after) {
			cache_wait(f);
			continue;
		}
		if (dirty) {
			unsigned bit = (unsigned)__builtin_ctzll(dirty);

			*j = (struct job){ f, x, bit, cache_ones(dirty, bit), f->size,
					   f->backend };
			*index = number * CACHE_RUN_PAGES + bit + j->pages;
			return true;
		}
		*index = ++number * CACHE_RUN_PAGES;
	}
	return false;
}

/* f: locked. Pages that wait aside for that are clean. */
static void bring_back(struct job *j, uint64_t which)
{
	struct uvmm_cache *c = j->file->cache;
	uint64_t left = j->x->hurried & which;

	j->x->hurried &= ~which;
	for (; left; left &= left - 1) {
		pthread_mutex_lock(&c->policy_lock);
		cache_policy_return(&c->policy, j->x->ppn[__builtin_ctzll(left)]);
		pthread_mutex_unlock(&c->policy_lock);
	}
}

static void count_write(struct cache_back *b)
{
	pthread_mutex_lock(&b->lock);
	b->writes++;
	pthread_cond_broadcast(&b->progress);
	pthread_mutex_unlock(&b->lock);
}

/* f: locked, and again at the end. */
static int write_claimed(struct job *j)
{
	struct cache_file *f = j->file;
	struct uvmm_cache *c = f->cache;
	uint64_t which = cache_bits(j->bit, j->pages);
	struct cache_run run = {
		.index = j->x->number * CACHE_RUN_PAGES + j->bit,
		.pages = j->pages,
	};
	unsigned i;
	int rc;

	for (i = 0; i < j->pages; i++)
		run.at[i] = cache_at(c, j->x->ppn[j->bit + i]);
	j->x->writing |= which;
	f->writing_pages += j->pages;
	atomic_fetch_add(&c->dirty_pages, j->pages);
	atomic_fetch_add(&c->writing_pages, j->pages);
	cache_set_clean(j->x, which);
	pthread_mutex_unlock(&f->lock);

	rc = j->backend.ops->write(j->backend.arg, &run, j->size);
	if (!rc)
		cache_file_left(f, &j->backend);

	pthread_mutex_lock(&f->lock);
	j->x->writing &= ~which;
	f->writing_pages -= j->pages;
	atomic_fetch_sub(&c->dirty_pages, j->pages);
	atomic_fetch_sub(&c->writing_pages, j->pages);
	f->failing = rc;
	if (rc) {
		f->error = rc;
		f->errors++;
		f->told = false;
		cache_set_dirty(j->x, which);
		cache_count(&c->counters.write_errors, 1);
	} else {
		bring_back(j, which & ~j->x->dirty);
		cache_count(&c->counters.written, j->pages);
	}
	cache_wake(f);
	count_write(&c->back);
	return rc;
}

/* Up to so many pages from *index on; *written is how many. */
static int write_some(struct cache_file *f, uint64_t *index, uint64_t most, bool all,
		      uint64_t *written)
{
	struct job j;
	int rc = 0;

	*written = 0;
	pthread_mutex_lock(&f->lock);
	while (!rc && *written < most && claim(f, index, all, &j)) {
		rc = write_claimed(&j);
		*written += rc ? 0 : j.pages;
	}
	pthread_mutex_unlock(&f->lock);
	return rc;
}

int cache_back_write(struct cache_file *f)
{
	uint64_t index = 0, written;

	return write_some(f, &index, UINT64_MAX, true, &written);
}

int cache_back_flush(struct cache_file *f)
{
	struct cache_backend backend;
	int rc = cache_back_write(f);

	if (rc)
		return rc;
	pthread_mutex_lock(&f->lock);
	backend = f->backend;
	pthread_mutex_unlock(&f->lock);
	rc = backend.ops ? backend.ops->flush(backend.arg) : 0;
	if (!rc)
		return 0;
	pthread_mutex_lock(&f->lock);
	f->error = rc;
	f->errors++;
	f->told = false;
	pthread_mutex_unlock(&f->lock);
	return rc;
}

/* --- how much may be dirty ------------------------------------------------------------ */

static bool is_over(struct uvmm_cache *c, uint64_t part)
{
	uint64_t dirty = atomic_load(&c->dirty_pages);

	if (dirty <= DIRTY_MIN || dirty * part <= atomic_load(&c->held_pages))
		return false;
	return dirty > cache_pages_possible(c) / part;
}

/* Waits until something is written, by whomever. False: there is nothing that can be. */
static bool await_write(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;
	uint64_t writes, rounds;
	bool written;

	pthread_mutex_lock(&b->lock);
	writes = b->writes;
	/* A round that goes on may have begun before. */
	rounds = b->rounds + 2;
	while (b->writes == writes && !b->stop &&
	       (b->rounds < rounds || atomic_load(&c->writing_pages))) {
		b->kicked = b->kicked || b->rounds < rounds;
		pthread_cond_signal(&b->kick);
		pthread_cond_wait(&b->progress, &b->lock);
	}
	written = b->writes != writes || !b->stuck;
	pthread_mutex_unlock(&b->lock);
	return written;
}

bool cache_back_makes_room(struct cache_file *f)
{
	struct uvmm_cache *c = f->cache;
	uint64_t index = 0, written;

	while (is_over(c, HARD_PART)) {
		if (write_some(f, &index, CACHE_RUN_PAGES, false, &written))
			return false;
		if (!written && !await_write(c))
			return false;
	}
	return true;
}

/* --- the thread ----------------------------------------------------------------------- */

void cache_back_hurry(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;

	pthread_mutex_lock(&b->lock);
	b->hurry = true;
	if (!b->kicked) {
		b->kicked = true;
		pthread_cond_signal(&b->kick);
	}
	pthread_mutex_unlock(&b->lock);
}

/* With back.lock. */
static bool is_due(const struct cache_file *f, uint64_t now, bool hurry)
{
	/* Handles are looked at without files_lock: a moment earlier or later is the same. */
	uint64_t old = atomic_load(&f->handles) ? OLD_NS : OLD_CLOSED_NS;

	return now >= f->retry_ns && (hurry || now - f->dirty_since_ns >= old);
}

/* The oldest file that is to be written, with a reference; or NULL. */
static struct cache_file *next_due(struct cache_back *b, bool hurry)
{
	uint64_t now = cache_now_ns();
	struct cache_file *f;

	pthread_mutex_lock(&b->lock);
	for (f = b->oldest; f && !is_due(f, now, hurry); f = f->dirtier)
		;
	if (f)
		atomic_fetch_add(&f->refs, 1);
	pthread_mutex_unlock(&b->lock);
	return f;
}

/* It was written, or has failed. */
static void requeue(struct cache_file *f, bool failed)
{
	struct cache_back *b = &f->cache->back;

	pthread_mutex_lock(&b->lock);
	f->retry_ns = failed ? cache_now_ns() + RETRY_NS : 0;
	if (f->listed) {
		unlink_file(f);
		link_newest(f);
	}
	pthread_mutex_unlock(&b->lock);
}

/* Writes a file back, or a part of it when others wait. False: none is due. */
static bool write_file(struct uvmm_cache *c, bool hurry, uint64_t most)
{
	struct cache_file *f = next_due(&c->back, hurry);
	uint64_t index = 0, written;
	int rc;

	if (!f)
		return false;
	rc = write_some(f, &index, most, false, &written);
	/* What is left of it comes next, as the oldest. */
	if (rc || written < most)
		requeue(f, rc);
	cache_file_put(f);
	return true;
}

/* A round: something for each who waits. */
static void finish_round(struct uvmm_cache *c, bool idle)
{
	struct cache_back *b = &c->back;

	pthread_mutex_lock(&b->lock);
	b->rounds++;
	b->stuck = idle && !atomic_load(&c->writing_pages);
	pthread_cond_broadcast(&b->progress);
	pthread_mutex_unlock(&b->lock);
}

/* Pays what is owed under pressure. */
static void pay(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;
	uint64_t debt, paid;
	bool more = true, awaited;

	for (;;) {
		pthread_mutex_lock(&b->lock);
		debt = b->debt_pages;
		pthread_mutex_unlock(&b->lock);
		if (!debt)
			return;
		paid = cache_give(c, debt);
		pthread_mutex_lock(&b->lock);
		b->paid_pages += paid;
		b->debt_pages = more && b->debt_pages > paid ? b->debt_pages - paid : 0;
		debt = b->debt_pages;
		awaited = b->awaited;
		pthread_cond_broadcast(&b->progress);
		pthread_mutex_unlock(&b->lock);
		if (!debt)
			break;
		more = write_file(c, true, CACHE_RUN_PAGES * 4);
	}
	/* Nobody else hands the pages over when whoever asked has gone on. */
	if (!awaited && c->memory.trim)
		c->memory.trim(c->memory.arg);
}

uint64_t cache_back_owe(struct uvmm_cache *c, uint64_t pages, uint64_t timeout_ns)
{
	struct cache_back *b = &c->back;
	struct timespec t = cache_timespec(cache_now_ns() + timeout_ns);
	uint64_t paid;

	pthread_mutex_lock(&b->lock);
	b->debt_pages = pages;
	b->paid_pages = 0;
	b->awaited = true;
	b->kicked = true;
	pthread_cond_signal(&b->kick);
	while (b->debt_pages && !b->stop &&
	       !pthread_cond_timedwait(&b->progress, &b->lock, &t))
		;
	b->awaited = false;
	paid = b->paid_pages;
	pthread_mutex_unlock(&b->lock);
	return paid;
}

/* The program finds some free pages, without having to ask. */
static void keep_reserve(struct uvmm_cache *c)
{
	uint64_t unused = physmem_free_pages(c->memory.physmem);

	if (unused < c->reserve_pages / 2)
		cache_give(c, c->reserve_pages - unused);
}

/* Until there is something to do; false: to stop. */
static bool rest(struct cache_back *b)
{
	struct timespec t = cache_timespec(cache_now_ns() + TICK_NS);
	bool stop;

	pthread_mutex_lock(&b->lock);
	while (!b->kicked && !b->stop &&
	       !pthread_cond_timedwait(&b->kick, &b->lock, &t))
		;
	b->kicked = false;
	stop = b->stop;
	pthread_mutex_unlock(&b->lock);
	return !stop;
}

static bool is_hurry(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;
	bool hurry;

	pthread_mutex_lock(&b->lock);
	hurry = b->hurry;
	b->hurry = false;
	pthread_mutex_unlock(&b->lock);
	return hurry || is_over(c, BACKGROUND_PART);
}

static void *back_main(void *arg)
{
	struct uvmm_cache *c = arg;
	uint64_t swept_ns = 0;
	bool more;

	while (rest(&c->back)) {
		do {
			pay(c);
			more = write_file(c, is_hurry(c), CACHE_RUN_PAGES * 16);
			finish_round(c, !more);
		} while (more);
		keep_reserve(c);
		if (cache_now_ns() - swept_ns >= SWEEP_NS) {
			cache_file_sweep(c);
			swept_ns = cache_now_ns();
		}
	}
	return NULL;
}

int cache_back_start(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;
	pthread_condattr_t clock;

	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->kick, &clock);
	pthread_cond_init(&b->progress, &clock);
	pthread_condattr_destroy(&clock);
	return cache_thread_start(&b->thread, "uvmm-writeback", back_main, c);
}

void cache_back_stop(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;

	pthread_mutex_lock(&b->lock);
	b->stop = true;
	pthread_cond_broadcast(&b->kick);
	pthread_cond_broadcast(&b->progress);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
}

void cache_back_fini(struct uvmm_cache *c)
{
	struct cache_back *b = &c->back;

	pthread_mutex_destroy(&b->lock);
	pthread_cond_destroy(&b->kick);
	pthread_cond_destroy(&b->progress);
}
