/* SPDX-License-Identifier: MIT */
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "remap.h"
#include "rpc.h"

/* The callbacks are the program's, maybe a Python's; what is not used of it costs
 * addresses only. */
#define STACK_BYTES (1u << 20)
#define LEAVE_AGAIN_MS 1000

struct message {
	struct uvmm_msg_head head;
	union {
		struct uvmm_pressure pressure;
		struct uvmm_remap remap;
		struct uvmm_zap zap;
		char body[sizeof(struct uvmm_zap)];     /* room for each of them */
		struct uvmm_balloon balloon;
	};
	size_t bytes;           /* of the body */
	bool with_file;
	int file;               /* -1: none came, or there was no number for it */
};

/* The callback that comes after `number`, marked as running: of the last ones, or of those
 * before them. */
static bool next_callback(struct agent *a, bool last, uint64_t number,
			  struct agent_callback *out)
{
	bool found = false;
	size_t i;

	pthread_mutex_lock(&a->lock);
	a->running = 0;
	for (i = 0; i < a->callbacks && !found; i++) {
		found = a->callback[i].number > number && a->callback[i].last == last;
		if (found) {
			*out = a->callback[i];
			a->running = out->number;
		}
	}
	pthread_cond_broadcast(&a->idle);
	pthread_mutex_unlock(&a->lock);
	return found;
}

static uint64_t call_all(struct agent *a, bool last, int level, uint64_t wanted_pages)
{
	struct agent_callback c = { .number = 0 };
	uint64_t sum = 0;

	while (next_callback(a, last, c.number, &c))
		sum += c.fn(c.arg, level, wanted_pages);
	return sum;
}

static bool has_last(struct agent *a)
{
	bool found = false;
	size_t i;

	pthread_mutex_lock(&a->lock);
	for (i = 0; i < a->callbacks; i++)
		found |= a->callback[i].last;
	pthread_mutex_unlock(&a->lock);
	return found;
}

static int connect_link(struct agent *a)
{
	int fd = a->ops->connect(a->arg);

	if (fd < 0)
		return fd;
	a->link = kept_take(fd);
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* False, too, when the program has closed the connection. */
static bool comes_until(const struct agent *a, int64_t until_ms)
{
	struct pollfd p = { .fd = a->link.fd, .events = POLLIN };
	int64_t left = until_ms - now_ms();

	return left > 0 && poll(&p, 1, (int)left) > 0 && kept_is_ours(&a->link);
}

/* Ticks until a message waits, even if messages never cease; false if the program has
 * closed the connection. */
static bool await_message(struct agent *a)
{
	if (!a->ops->tick)
		return true;
	while (!comes_until(a, a->tick_due_ms)) {
		if (now_ms() >= a->tick_due_ms)
			a->tick_due_ms = a->ops->tick(a->arg) + now_ms();
		if (!kept_is_ours(&a->link))
			return false;
	}
	return true;
}

/* To what the program has closed an answer is lost, and no more is. */
static bool answer(struct agent *a, uint32_t seq, uint16_t type, const void *body,
		   size_t bytes)
{
	return !kept_is_ours(&a->link) || !rpc_answer(a->link.fd, seq, type, body, bytes);
}

static bool is_sound(const struct message *m)
{
	switch (m->head.type) {
	case UVMM_MSG_PRESSURE:
		return m->bytes == sizeof(m->pressure) && !m->with_file &&
		       m->pressure.level <= UVMM_PRESSURE_FULL;
	case UVMM_MSG_ATTEND:
	case UVMM_MSG_LEFT:
		return !m->bytes && !m->with_file;
	case UVMM_MSG_REMAP:
	case UVMM_MSG_LOWER:
		return remap_is_sound(&m->remap, m->bytes, m->with_file);
	case UVMM_MSG_ZAP:
		return remap_zap_is_sound(&m->zap, m->bytes) && !m->with_file;
	case UVMM_MSG_BALLOON:
		return m->bytes == sizeof(m->balloon) && !m->with_file;
	default:
		return false;
	}
}

/* False if nothing came, or nonsense. */
static bool hear(struct agent *a, struct message *m)
{
	int rc = rpc_receive(a->link.fd, &m->head, m->body, sizeof(m->body), &m->bytes, &m->file);

	m->with_file = m->file >= 0 || rc == -EMFILE;
	if ((!rc || rc == -EMFILE) && is_sound(m))
		return true;
	if (m->file >= 0)
		close(m->file);
	return false;
}

static bool serve_pressure(struct agent *a, const struct message *m)
{
	uint64_t wanted = m->pressure.wanted_pages;
	int level = (int)m->pressure.level;
	struct uvmm_released r = { call_all(a, false, level, wanted) };

	r.pages += call_all(a, true, level, r.pages < wanted ? wanted - r.pages : 0);
	if (m->pressure.level != UVMM_PRESSURE_NONE)
		r.pages += a->ops->trim(a->arg);
	return answer(a, m->head.seq, UVMM_MSG_RELEASED, &r, sizeof(r));
}

static bool serve_remap(struct agent *a, const struct message *m)
{
	bool lower = m->head.type == UVMM_MSG_LOWER;

	/* Sent twice when the connection was lost on the way: pages that it mapped may have
	 * been written since. */
	if (m->head.seq == a->remap_seq || (lower && !a->ops->lower)) {
		if (m->file >= 0)
			close(m->file);
	} else {
		a->remap_seq = m->head.seq;
		a->remapped = (struct uvmm_remapped){ { 0 } };
		/* Without a number for the file nothing can be done, but said. */
		if (m->file >= 0 || !m->with_file)
			(lower ? a->ops->lower : a->ops->remap)(a->arg, &m->remap, m->file,
								&a->remapped);
	}
	return answer(a, m->head.seq, UVMM_MSG_REMAPPED, &a->remapped, sizeof(a->remapped));
}

static bool serve_zap(struct agent *a, const struct message *m)
{
	struct uvmm_zapped done;

	a->ops->zap(a->arg, &m->zap, &done);
	return answer(a, m->head.seq, UVMM_MSG_ZAPPED, &done, sizeof(done));
}

static bool serve_balloon(struct agent *a, const struct message *m)
{
	enum driver_pieces first = has_last(a) ? DRIVER_WHOLE : DRIVER_ANY;
	struct uvmm_ballooned b = { 0 };
	uint64_t lacking = a->ops->balloon(a->arg, &m->balloon, first, &b);

	if (lacking && call_all(a, false, UVMM_PRESSURE_SOME, lacking))
		lacking = a->ops->balloon(a->arg, NULL, first, &b);
	/* The last ones also make whole chunks of what is free. */
	if (lacking && (call_all(a, true, UVMM_PRESSURE_SOME, lacking) || first == DRIVER_WHOLE))
		a->ops->balloon(a->arg, NULL, DRIVER_ANY, &b);
	return answer(a, m->head.seq, UVMM_MSG_BALLOONED, &b, sizeof(b));
}

/* For after the attention. */
struct late {
	struct message pressure, balloon;       /* 0 bytes: none */
};

/* Instead of what was put off before. */
static bool put_off(struct agent *a, struct late *late, const struct message *m)
{
	static const struct uvmm_released nothing;
	uint32_t former = late->pressure.head.seq;
	bool first = !late->pressure.bytes;

	if (m->head.type == UVMM_MSG_BALLOON) {
		late->balloon = *m;
		return true;
	}
	late->pressure = *m;
	return first || answer(a, former, UVMM_MSG_RELEASED, &nothing, sizeof(nothing));
}

static bool serve_late(struct agent *a, const struct late *late)
{
	return (!late->pressure.bytes || serve_pressure(a, &late->pressure)) &&
	       (!late->balloon.bytes || serve_balloon(a, &late->balloon));
}

/* One message while it attends. False as serve_one. */
static bool serve_attending(struct agent *a, const struct message *m, struct late *late)
{
	switch (m->head.type) {
	case UVMM_MSG_REMAP:
	case UVMM_MSG_LOWER:
		a->attended = 0;
		return serve_remap(a, m);
	case UVMM_MSG_ATTEND:
		a->attended = m->head.seq;
		return answer(a, m->head.seq, UVMM_MSG_ATTENDS, NULL, 0);
	case UVMM_MSG_LEFT:
		/* Of a former one, too. */
		if (m->head.seq == a->attended)
			a->attended = 0;
		return true;
	case UVMM_MSG_ZAP:
		return serve_zap(a, m);
	default:
		return put_off(a, late, m);
	}
}

/* Until the REMAP, or the daemon knows that it is not waited for any more. False as
 * serve_one. */
static bool attend(struct agent *a, int64_t until_ms)
{
	struct late late = { .pressure = { .bytes = 0 }, .balloon = { .bytes = 0 } };
	struct message m;
	bool more = true;

	while (more && a->attended) {
		if (comes_until(a, until_ms)) {
			if (!hear(a, &m))
				return false;
			more = serve_attending(a, &m, &late);
			if (m.head.type == UVMM_MSG_ATTEND)
				until_ms = now_ms() + UVMM_ATTEND_MS;
			continue;
		}
		if (!kept_is_ours(&a->link))
			return true;
		more = answer(a, a->attended, UVMM_MSG_LEAVE, NULL, 0);
		until_ms = now_ms() + LEAVE_AGAIN_MS;
	}
	return more && serve_late(a, &late);
}

/* Hears and answers one message; false when there will be no more. */
static bool serve_one(struct agent *a)
{
	struct message m;

	/* On a new connection. */
	if (a->attended)
		return attend(a, now_ms());
	if (!await_message(a))
		return true;
	if (!hear(a, &m))
		return false;
	switch (m.head.type) {
	case UVMM_MSG_ATTEND:
		a->attended = m.head.seq;
		return answer(a, m.head.seq, UVMM_MSG_ATTENDS, NULL, 0) &&
		       attend(a, now_ms() + UVMM_ATTEND_MS);
	case UVMM_MSG_LEFT:
		return true;
	case UVMM_MSG_REMAP:
	case UVMM_MSG_LOWER:
		return serve_remap(a, &m);
	case UVMM_MSG_ZAP:
		return serve_zap(a, &m);
	case UVMM_MSG_BALLOON:
		return serve_balloon(a, &m);
	default:
		return serve_pressure(a, &m);
	}
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;

	pthread_setname_np(pthread_self(), "uvmm-agent");
	if (a->ops->begin)
		a->ops->begin(a->arg);
	while ((kept_is_ours(&a->link) || !connect_link(a)) && serve_one(a))
		;
	kept_close(&a->link);
	return NULL;
}

static int start_thread(struct agent *a)
{
	sigset_t all, former;
	pthread_attr_t attr;
	int rc;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	rc = pthread_create(&a->thread, &attr, agent_main, a);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	pthread_attr_destroy(&attr);
	return rc ? -EAGAIN : 0;
}

int agent_start(struct agent *a, const struct agent_ops *ops, void *arg)
{
	int rc;

	memset(a, 0, sizeof(*a));
	a->ops = ops;
	a->arg = arg;
	a->tick_due_ms = now_ms() + AGENT_TICK_MS;
	rc = connect_link(a);
	if (rc)
		return rc;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->idle, NULL);
	rc = start_thread(a);
	if (rc)
		kept_close(&a->link);
	return rc;
}

static int add(struct agent *a, uvmm_pressure_fn fn, void *arg, bool last)
{
	int rc = -ENOSPC;

	pthread_mutex_lock(&a->lock);
	if (a->callbacks < AGENT_CALLBACKS_MAX) {
		a->callback[a->callbacks++] =
			(struct agent_callback){ fn, arg, ++a->last_number, last };
		rc = 0;
	}
	pthread_mutex_unlock(&a->lock);
	return rc;
}

int agent_add(struct agent *a, uvmm_pressure_fn fn, void *arg)
{
	return add(a, fn, arg, false);
}

int agent_add_last(struct agent *a, uvmm_pressure_fn fn, void *arg)
{
	return add(a, fn, arg, true);
}

int agent_remove(struct agent *a, uvmm_pressure_fn fn, void *arg)
{
	uint64_t number = 0;
	size_t i;

	pthread_mutex_lock(&a->lock);
	for (i = 0; i < a->callbacks && !number; i++)
		if (a->callback[i].fn == fn && a->callback[i].arg == arg)
			number = a->callback[i].number;
	if (number) {
		memmove(&a->callback[i - 1], &a->callback[i],
			(a->callbacks - i) * sizeof(a->callback[0]));
		a->callbacks--;
		while (a->running == number && !pthread_equal(pthread_self(), a->thread))
			pthread_cond_wait(&a->idle, &a->lock);
	}
	pthread_mutex_unlock(&a->lock);
	return number ? 0 : -ENOENT;
}
