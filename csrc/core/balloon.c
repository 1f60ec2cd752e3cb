/* SPDX-License-Identifier: MIT
 * What the agent is asked, and what came of it; see balloon.h. */
#include "balloon.h"

#include <errno.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"

#define OVERDUE_NS (NS_PER_S / 2)
#define UNHEARD_NS NS_PER_S       /* then it may be tried again */

void balloon_init(struct balloon *b)
{
	*b = (struct balloon){ .state = BALLOON_IDLE };
	pthread_mutex_init(&b->lock, NULL);
}

void balloon_fini(struct balloon *b)
{
	pthread_mutex_destroy(&b->lock);
}

void balloon_reset(struct balloon *b)
{
	balloon_clear(b);
	lock(&b->lock);
	atomic_store(&b->popped_pages, 0);
	atomic_store(&b->needed_pages, 0);
	atomic_store(&b->agents, 0);
	b->asked_pages = b->given_pages = 0;
	unlock(&b->lock);
}

void balloon_clear(struct balloon *b)
{
	lock(&b->lock);
	atomic_store(&b->ballooned_pages, 0);
	b->state = BALLOON_IDLE;
	b->unheard = false;
	b->target_pages = 0;
	unlock(&b->lock);
}

static uint64_t pages_now(const struct guest *g)
{
	return atomic_load(&g->balloon.ballooned_pages);
}

static void send_locked(struct uvmm_engine *e, struct guest *g)
{
	struct balloon *b = &g->balloon;
	struct uvmm_balloon m = { .target_pages = b->target_pages, .pages = pages_now(g) };

	b->sent_pages = m.target_pages;
	b->step_pages = m.pages;
	b->sent_ns = clock_ns();
	b->unheard = session_send_agent(e, g, UVMM_MSG_BALLOON, b->seq, &m, sizeof(m), -1);
	if (b->unheard)
		b->state = BALLOON_IDLE;
}

static void ask_locked(struct uvmm_engine *e, struct guest *g)
{
	g->balloon.seq++;
	g->balloon.state = BALLOON_ASKED;
	send_locked(e, g);
}

static void note_begin_locked(struct guest *g)
{
	g->balloon.begin_pages = pages_now(g);
	g->balloon.begin_freed = atomic_load(&g->balloon.freed_pages);
}

static void begin_locked(struct uvmm_engine *e, struct guest *g)
{
	note_begin_locked(g);
	if (g->balloon.begin_pages != g->balloon.target_pages)
		ask_locked(e, g);
}

/* The request is over. */
static void settle_locked(struct guest *g, enum balloon_state becomes)
{
	struct balloon *b = &g->balloon;
	uint64_t now = pages_now(g), goal = b->target_pages > now ? b->target_pages : now;
	uint64_t asked = goal > b->begin_pages ? goal - b->begin_pages : 0;
	uint64_t freed = atomic_load(&b->freed_pages) - b->begin_freed;

	b->asked_pages += asked;
	b->given_pages += freed < asked ? freed : asked;
	b->state = becomes;
}

static void look_at_clock_locked(struct guest *g)
{
	struct balloon *b = &g->balloon;
	uint64_t now = clock_ns();

	if (b->state == BALLOON_ASKED && now > b->sent_ns + OVERDUE_NS)
		settle_locked(g, BALLOON_OVERDUE);
	if (b->unheard && now > b->sent_ns + UNHEARD_NS)
		b->unheard = false;
}

void balloon_set(struct uvmm_engine *e, struct guest *g, uint64_t pages)
{
	struct balloon *b = &g->balloon;

	lock(&b->lock);
	look_at_clock_locked(g);
	b->target_pages = pages < g->max_pages ? pages : g->max_pages;
	if (b->state == BALLOON_IDLE)
		begin_locked(e, g);
	unlock(&b->lock);
}

void balloon_repeat(struct uvmm_engine *e, struct guest *g)
{
	lock(&g->balloon.lock);
	g->balloon.unheard = false;
	if (g->balloon.state != BALLOON_IDLE)
		send_locked(e, g);
	else
		begin_locked(e, g);
	unlock(&g->balloon.lock);
}

/* The agent has done what it could in a moment. With no step towards the target it is
 * not believed that it could do more. What it let go may have popped before, and then it
 * has more to let go. */
static void go_on_locked(struct uvmm_engine *e, struct guest *g, bool more)
{
	struct balloon *b = &g->balloon;
	uint64_t now = pages_now(g);
	bool shrank = b->sent_pages < b->step_pages;
	bool could_grow = now >= b->sent_pages || (more && now > b->step_pages);
	bool could_shrink = b->target_pages < b->sent_pages || now < b->step_pages;

	if (now < b->target_pages && could_grow) {
		if (shrank || b->state == BALLOON_OVERDUE)
			note_begin_locked(g);
		ask_locked(e, g);
		return;
	}
	if (b->state == BALLOON_OVERDUE)
		b->state = BALLOON_IDLE;        /* that was settled */
	else
		settle_locked(g, BALLOON_IDLE);
	if (now > b->target_pages && could_shrink)
		begin_locked(e, g);
}

bool balloon_answered(struct uvmm_engine *e, struct guest *g, uint32_t seq,
		      const struct uvmm_ballooned *answer)
{
	struct balloon *b = &g->balloon;
	bool asked;

	lock(&b->lock);
	/* Twice, or before the memory was dropped, is no fault of the agent's. */
	asked = seq <= b->seq && answer->pages <= g->max_pages && answer->more <= 1;
	if (asked && seq == b->seq && b->state != BALLOON_IDLE)
		go_on_locked(e, g, answer->more);
	unlock(&b->lock);
	return asked;
}

void balloon_fill(struct guest *g, struct uvmm_guest_stats *s)
{
	struct balloon *b = &g->balloon;

	lock(&b->lock);
	look_at_clock_locked(g);
	s->balloon_able = atomic_load(&g->attached) && atomic_load(&b->agents) &&
			  !b->unheard && b->state != BALLOON_OVERDUE;
	s->popped_pages = atomic_load(&b->popped_pages);
	s->balloon_needed_pages = atomic_load(&b->needed_pages);
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
	balloon_set(e, g, pages);
	guest_leave(g);
	return 0;
}

#pragma GCC visibility pop
