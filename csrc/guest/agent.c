/* SPDX-License-Identifier: MIT */
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "rpc.h"

/* The callbacks are the program's, maybe a Python's; what is not used of it costs
 * addresses only. */
#define STACK_BYTES (1u << 20)

/* The callback that comes after `number`, marked as running. */
static bool next_callback(struct agent *a, uint64_t number, struct agent_callback *out)
{
	bool found = false;
	size_t i;

	pthread_mutex_lock(&a->lock);
	a->running = 0;
	for (i = 0; i < a->callbacks && !found; i++) {
		found = a->callback[i].number > number;
		if (found) {
			*out = a->callback[i];
			a->running = out->number;
		}
	}
	pthread_cond_broadcast(&a->idle);
	pthread_mutex_unlock(&a->lock);
	return found;
}

static uint64_t call_all(struct agent *a, int level, uint64_t wanted_pages)
{
	struct agent_callback c = { .number = 0 };
	uint64_t sum = 0;

	while (next_callback(a, c.number, &c))
		sum += c.fn(c.arg, level, wanted_pages);
	return sum;
}

static int connect_link(struct agent *a)
{
	int fd = a->ops->connect(a->arg);

	if (fd < 0)
		return fd;
	a->link = kept_take(fd);
	return 0;
}

/* Ticks until a message waits; false if the program has closed the connection. */
static bool await_message(struct agent *a)
{
	struct pollfd p = { .fd = a->link.fd, .events = POLLIN };

	if (!a->ops->tick)
		return true;
	while (!poll(&p, 1, a->tick_ms)) {
		a->tick_ms = a->ops->tick(a->arg);
		if (!kept_is_ours(&a->link))
			return false;
	}
	return kept_is_ours(&a->link);
}

/* Hears and answers one message; false when there will be no more. */
static bool serve_one(struct agent *a)
{
	struct uvmm_released r = { 0 };
	struct uvmm_msg_head head;
	struct uvmm_pressure p;
	size_t got;

	if (!await_message(a))
		return true;
	if (rpc_receive(a->link.fd, &head, &p, sizeof(p), &got) ||
	    head.type != UVMM_MSG_PRESSURE || got != sizeof(p) || p.level > UVMM_PRESSURE_FULL)
		return false;
	r.pages = call_all(a, (int)p.level, p.wanted_pages);
	if (p.level != UVMM_PRESSURE_NONE)
		r.pages += a->ops->trim(a->arg);
	/* The answer to a connection that the program closed is lost with it. */
	return !kept_is_ours(&a->link) ||
	       !rpc_answer(a->link.fd, head.seq, UVMM_MSG_RELEASED, &r, sizeof(r));
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;

	pthread_setname_np(pthread_self(), "uvmm-agent");
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
	a->tick_ms = AGENT_TICK_MS;
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

int agent_add(struct agent *a, uvmm_pressure_fn fn, void *arg)
{
	int rc = -ENOSPC;

	pthread_mutex_lock(&a->lock);
	if (a->callbacks < AGENT_CALLBACKS_MAX) {
		a->callback[a->callbacks++] =
			(struct agent_callback){ fn, arg, ++a->last_number };
		rc = 0;
	}
	pthread_mutex_unlock(&a->lock);
	return rc;
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
