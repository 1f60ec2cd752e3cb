/* SPDX-License-Identifier: MIT */
#include "balloon.h"

#include <errno.h>

#include "engine.h"
#include "locks.h"

void balloon_init(struct balloon *b)
{
	*b = (struct balloon){ 0 };
	pthread_mutex_init(&b->lock, NULL);
}

void balloon_fini(struct balloon *b)
{
	pthread_mutex_destroy(&b->lock);
}

void balloon_clear(struct balloon *b)
{
	lock(&b->lock);
	atomic_store(&b->ballooned_pages, 0);
	b->target_pages = 0;
	unlock(&b->lock);
}

void balloon_fill(struct balloon *b, struct uvmm_guest_stats *s)
{
	lock(&b->lock);
	s->ballooned_pages = atomic_load(&b->ballooned_pages);
	s->popped_pages = atomic_load(&b->popped_pages);
	s->balloon_target_pages = b->target_pages;
	s->balloon_asked_pages = b->asked_pages;
	s->balloon_given_pages = b->given_pages;
	unlock(&b->lock);
}

#pragma GCC visibility push(default)

int uvmm_guest_set_balloon(uvmm_engine *e, uint64_t id, uint64_t pages)
{
	struct guest *g = guest_enter_id(&e->registry, id);

	if (!g)
		return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
	lock(&g->balloon.lock);
	g->balloon.target_pages = pages < g->max_pages ? pages : g->max_pages;
	unlock(&g->balloon.lock);
	guest_leave(g);
	return 0;
}

#pragma GCC visibility pop
