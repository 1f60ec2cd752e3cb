/* SPDX-License-Identifier: MIT */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "rpc.h"

#define STACK_BYTES (256u << 10)        /* callbacks are the program's */

/* The callback that comes after `number`, marked as running. */
static bool next_callback(struct agent *a, uint64_t number, struct agent_callback *out)
{
	size_t i;

	pthread_mutex_lock(&a->lock);
	a->running = 0;
	for (i = 0; i < a->callbacks; i++) {
		if (a->callback[i].number > number) {
			*out = a->callback[i];
			a->running = out->number;
			break;
		}
	}
	pthread_cond_broadcast(&a->idle);
	pthread_mutex_unlock(&a->lock);
	return i < a->callbacks;
}

static uint64_t call_all(struct agent *a, int level, uint64_t wanted_pages)
{
	struct agent_callback c = { .number = 0 };
	uint64_t sum = 0;

	while (next_callback(a, c.number, &c))
		sum += c.fn(c.arg, level, wanted_pages);
	return sum;
}

static void *agent_main(void *arg)
{
	struct agent *a = arg;
	struct uvmm_pressure p;
	struct uvmm_msg_head head;
	size_t got;

	pthread_setname_np(pthread_self(), "uvmm-agent");
	while (!rpc_receive(a->fd, &head, &p, sizeof(p), &got)) {
		struct uvmm_released r = { 0 };

		if (head.type != UVMM_MSG_PRESSURE || got != sizeof(p) ||
		    p.level > UVMM_PRESSURE_FULL)
			break;
		r.pages = call_all(a, (int)p.level, p.wanted_pages);
		if (p.level != UVMM_PRESSURE_NONE)
			r.pages += a->trim(a->trim_arg);
		if (rpc_send(a->fd, UVMM_MSG_RELEASED, &r, sizeof(r)))
			break;
	}
	close(a->fd);
	return NULL;
}

int agent_start(struct agent *a, int fd, uint64_t (*trim)(void *arg), void *trim_arg)
{
	sigset_t all, former;
	pthread_attr_t attr;
	int rc;

	memset(a, 0, sizeof(*a));
	a->fd = fd;
	a->trim = trim;
	a->trim_arg = trim_arg;
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->idle, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	rc = pthread_create(&a->thread, &attr, agent_main, a);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	pthread_attr_destroy(&attr);
	a->runs = !rc;
	return rc ? -EAGAIN : 0;
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
