/* SPDX-License-Identifier: MIT */
#include "order.h"

#include <errno.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "share.h"

#define ATTEND_WAIT_NS (50 * NS_PER_MS)
#define ATTENDED_NS (UVMM_ATTEND_MS * NS_PER_MS / 2)
#define ANSWER_WAIT_NS NS_PER_S

void order_init(struct order *o)
{
	pthread_condattr_t attr;

	*o = (struct order){ .state = ORDER_NONE };
	pthread_mutex_init(&o->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&o->changed, &attr);
	pthread_condattr_destroy(&attr);
}

void order_fini(struct order *o)
{
	pthread_mutex_destroy(&o->lock);
	pthread_cond_destroy(&o->changed);
}

/* Until that is the state, for so long at most. */
static void wait_locked(struct guest *g, enum order_state becomes, uint64_t ns)
{
	uint64_t until = clock_ns() + ns;
	struct order *o = &g->order;
	struct timespec t = {
		.tv_sec = (time_t)(until / NS_PER_S),
		.tv_nsec = (long)(until % NS_PER_S),
	};

	while (o->state != becomes && atomic_load(&g->attached))
		if (pthread_cond_timedwait(&o->changed, &o->lock, &t) == ETIMEDOUT)
			break;
}

int order_call(struct uvmm_engine *e, struct guest *g)
{
	struct order *o = &g->order;
	int rc = -EBUSY;

	lock(&o->lock);
	if (o->state == ORDER_NONE) {
		o->state = ORDER_CALLED;
		o->left = o->low = false;
		o->seq++;
		if (session_send_agent(e, g, UVMM_MSG_ATTEND, o->seq, NULL, 0, -1))
			o->state = ORDER_NONE;
		else
			wait_locked(g, ORDER_ATTENDED, ATTEND_WAIT_NS);
		if (o->state == ORDER_CALLED)
			o->state = ORDER_NONE;
		rc = o->state == ORDER_ATTENDED ? 0 : -EAGAIN;
	}
	unlock(&o->lock);
	return rc;
}

void order_cancel(struct guest *g)
{
	lock(&g->order.lock);
	if (g->order.state == ORDER_ATTENDED)
		g->order.state = ORDER_NONE;
	unlock(&g->order.lock);
}

static bool is_attended_locked(const struct order *o)
{
	return o->state == ORDER_ATTENDED && !o->left &&
	       clock_ns() < o->attended_ns + ATTENDED_NS;
}

bool order_is_attended(struct guest *g)
{
	bool attended;

	lock(&g->order.lock);
	attended = is_attended_locked(&g->order);
	unlock(&g->order.lock);
	return attended;
}

static int send_remap(struct uvmm_engine *e, struct guest *g)
{
	const struct uvmm_remap *m = &g->order.remap;
	size_t bytes = sizeof(m->runs) + m->runs * sizeof(m->run[0]);
	int fd = -1;
	uint64_t i;

	for (i = 0; i < m->runs; i++)
		if (m->run[i].frame != UVMM_FRAME_HOME)
			fd = g->order.low ? g->low.guest_fd : g->group->reader_fd;
	return session_send_agent(e, g, g->order.low ? UVMM_MSG_LOWER : UVMM_MSG_REMAP,
				  g->order.seq, m, bytes, fd);
}

int order_send(struct uvmm_engine *e, struct guest *g)
{
	struct order *o = &g->order;
	int rc = -EAGAIN;

	lock(&o->lock);
	if (is_attended_locked(o) && !send_remap(e, g)) {
		o->state = ORDER_SENT;
		wait_locked(g, ORDER_NONE, ANSWER_WAIT_NS);
		rc = 0;
	}
	unlock(&o->lock);
	return rc;
}

void order_repeat(struct uvmm_engine *e, struct guest *g)
{
	lock(&g->order.lock);
	if (g->order.state == ORDER_SENT)
		send_remap(e, g);
	unlock(&g->order.lock);
}

void order_abandon(struct guest *g)
{
	lock(&g->order.lock);
	pthread_cond_broadcast(&g->order.changed);
	unlock(&g->order.lock);
}

bool order_attends(struct guest *g, uint32_t seq)
{
	struct order *o = &g->order;
	bool asked;

	lock(&o->lock);
	/* Late is no fault of the agent's. */
	asked = seq <= o->seq;
	if (o->state == ORDER_CALLED && seq == o->seq) {
		o->state = ORDER_ATTENDED;
		o->attended_ns = clock_ns();
		pthread_cond_broadcast(&o->changed);
	}
	unlock(&o->lock);
	return asked;
}

bool order_leaves(struct uvmm_engine *e, struct guest *g, uint32_t seq)
{
	struct order *o = &g->order;
	bool asked;

	lock(&o->lock);
	asked = seq <= o->seq;
	if (asked && !(o->state == ORDER_SENT && seq == o->seq)) {
		/* The order is still whose it is: it is only not sent any more. */
		o->left = o->left || seq == o->seq;
		session_send_agent(e, g, UVMM_MSG_LEFT, seq, NULL, 0, -1);
	}
	unlock(&o->lock);
	return asked;
}

bool order_remapped(struct uvmm_engine *e, struct guest *g, uint32_t seq,
		    const struct uvmm_remapped *answer)
{
	struct order *o = &g->order;
	uint64_t since, used;
	bool asked;

	lock(&o->lock);
	asked = o->state == ORDER_SENT && seq == o->seq;
	if (asked)
		o->state = ORDER_ANSWERED;
	unlock(&o->lock);
	if (!asked)
		return false;
	since = clock_thread_ns();
	(o->low ? low_finish : share_finish)(e, g, &o->remap, answer);
	used = clock_thread_ns() - since;
	atomic_fetch_add(&e->sharing.answers_ns, used);
	atomic_fetch_add(&e->sharing.cpu_ns, used);
	lock(&o->lock);
	o->state = ORDER_NONE;
	pthread_cond_broadcast(&o->changed);
	unlock(&o->lock);
	return true;
}

void order_forget(struct guest *g)
{
	lock(&g->order.lock);
	g->order.state = ORDER_NONE;
	g->order.seq++;
	pthread_cond_broadcast(&g->order.changed);
	unlock(&g->order.lock);
}
