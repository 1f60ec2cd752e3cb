/* SPDX-License-Identifier: MIT */
#include "cache_ahead.h"

#include <errno.h>

#include "cache_file.h"
#include "cache_page.h"
#include "cache_read.h"
#include "cache_thread.h"

#define WINDOW_MIN 4u
#define WINDOW_MAX 128u
#define WINDOW_PART 64u         /* of the pages that the cache can have */

/* --- the threads --------------------------------------------------------------- */

static bool next_job(struct cache_ahead *a, struct cache_ahead_job *out)
{
	bool more;

	pthread_mutex_lock(&a->lock);
	while (!a->stop && !a->jobs)
		pthread_cond_wait(&a->kick, &a->lock);
	more = !a->stop;
	if (more) {
		*out = a->job[a->first];
		a->first = (a->first + 1) % CACHE_AHEAD_JOBS;
		a->jobs--;
	}
	pthread_mutex_unlock(&a->lock);
	return more;
}

static void *ahead_main(void *arg)
{
	struct uvmm_cache *c = arg;
	struct cache_ahead_job job;

	while (next_job(&c->ahead, &job)) {
		cache_read_ahead(job.file, job.index, job.end);
		cache_file_put(job.file);
	}
	return NULL;
}

int cache_ahead_start(struct uvmm_cache *c)
{
	struct cache_ahead *a = &c->ahead;

	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->kick, NULL);
	while (a->threads < CACHE_AHEAD_THREADS &&
	       !cache_thread_start(&a->thread[a->threads], "uvmm-ahead", ahead_main, c))
		a->threads++;
	return a->threads ? 0 : -EAGAIN;
}

void cache_ahead_stop(struct uvmm_cache *c)
{
	struct cache_ahead *a = &c->ahead;

	pthread_mutex_lock(&a->lock);
	a->stop = true;
	pthread_cond_broadcast(&a->kick);
	pthread_mutex_unlock(&a->lock);
	while (a->threads)
		pthread_join(a->thread[--a->threads], NULL);
	for (; a->jobs; a->jobs--) {
		cache_file_put(a->job[a->first].file);
		a->first = (a->first + 1) % CACHE_AHEAD_JOBS;
	}
	pthread_mutex_destroy(&a->lock);
	pthread_cond_destroy(&a->kick);
}

/* With the lock. What waits for that handle. */
static struct cache_ahead_job *job_of(struct cache_ahead *a, const struct uvmm_file *h)
{
	unsigned i;

	for (i = 0; i < a->jobs; i++) {
		struct cache_ahead_job *j = &a->job[(a->first + i) % CACHE_AHEAD_JOBS];

		if (j->handle == h && j->file == h->file)
			return j;
	}
	return NULL;
}

/* The handle has used all before `used`. */
static bool ask(struct uvmm_file *h, uint64_t index, uint64_t end, uint64_t used)
{
	struct cache_ahead *a = &h->file->cache->ahead;
	struct cache_ahead_job *j;
	bool room = true;

	pthread_mutex_lock(&a->lock);
	j = job_of(a, h);
	if (j) {
		/* No longer what it has passed meanwhile. */
		index = j->end == index ? j->index : index;
		j->index = index > used ? index : used;
		j->end = end;
	} else if (a->jobs < CACHE_AHEAD_JOBS) {
		atomic_fetch_add(&h->file->refs, 1);
		a->job[(a->first + a->jobs++) % CACHE_AHEAD_JOBS] =
			(struct cache_ahead_job){ h->file, h, index, end };
		pthread_cond_signal(&a->kick);
	} else {
		room = false;
	}
	pthread_mutex_unlock(&a->lock);
	return room;
}

/* --- streams --------------------------------------------------------------------- */

static uint32_t window_max(struct uvmm_cache *c)
{
	uint64_t part = cache_pages_possible(c) / WINDOW_PART;

	return part < WINDOW_MIN ? WINDOW_MIN : part < WINDOW_MAX ? (uint32_t)part : WINDOW_MAX;
}

/* With ahead_lock; of a stream that has used all pages before `used`: what to ask for. */
static bool extend(struct uvmm_file *h, uint64_t used, uint64_t *index, uint64_t *end)
{
	uint32_t max;

	*index = h->ahead_end > used ? h->ahead_end : used;
	*end = used + h->window;
	/* Not in small bits. */
	if (*end <= *index || *end - *index < (h->window + 1) / 2 ||
	    *index * CACHE_PAGE_BYTES >= atomic_load(&h->file->size))
		return false;
	h->ahead_end = *end;
	max = window_max(h->file->cache);
	h->window = h->window * 2 < max ? h->window * 2 : max;
	return true;
}

uint32_t cache_ahead_note(struct uvmm_file *h, uint64_t index, uint64_t used)
{
	uint64_t from, to;
	uint32_t worth;
	bool more;

	pthread_mutex_lock(&h->ahead_lock);
	if (index != h->next && index + 1 != h->next) {
		h->window = 0;
		h->ahead_end = 0;
	} else if (!h->window) {
		h->window = WINDOW_MIN;
	}
	worth = h->window;
	h->next = used;
	more = h->window && extend(h, used, &from, &to);
	pthread_mutex_unlock(&h->ahead_lock);
	if (more && !ask(h, from, to, used)) {
		pthread_mutex_lock(&h->ahead_lock);
		h->ahead_end = h->ahead_end == to ? from : h->ahead_end;
		pthread_mutex_unlock(&h->ahead_lock);
	}
	return worth;
}
