/* SPDX-License-Identifier: MIT */
#include "watcher.h"

#include "clock.h"
#include "engine.h"
#include "locks.h"

#define TICK_NS (50 * NS_PER_MS)
#define PAUSE_MAX_NS NS_PER_S
#define CPU_PERMILLE 5u
#define CPU_SHORT_PERMILLE 20u

static bool pause_ns(struct watcher *w, uint64_t ns)
{
	uint64_t until = clock_ns() + ns;
	struct timespec t = {
		.tv_sec = (time_t)(until / NS_PER_S),
		.tv_nsec = (long)(until % NS_PER_S),
	};
	bool stop;

	lock(&w->lock);
	while (!w->stop && clock_ns() < until)
		pthread_cond_timedwait(&w->wake, &w->lock, &t);
	stop = w->stop;
	unlock(&w->lock);
	return !stop;
}

static unsigned count_guests(struct uvmm_engine *e)
{
	unsigned n = 0;
	struct guest *g;
	size_t at = 0;

	for (; (g = guest_next_entered(&e->registry, &at)); n++)
		guest_leave(g);
	return n;
}

static void look_after(struct uvmm_engine *e, struct guest *g, unsigned guests)
{
	sample_look(e, g, clock_ns(), guests);
	idle_scan(e, g, clock_ns());
}

/* All guests once. */
static void look_at_all(struct uvmm_engine *e)
{
	unsigned guests = count_guests(e);
	struct guest *g;
	size_t at = 0;

	while ((g = guest_next_entered(&e->registry, &at))) {
		look_after(e, g, guests);
		guest_leave(g);
	}
}

static void *watcher_main(void *arg)
{
	struct uvmm_engine *e = arg;
	uint64_t wait = TICK_NS, since, used, permille;

	pthread_setname_np(pthread_self(), "uvmm-watcher");
	while (pause_ns(&e->watcher, wait)) {
		since = clock_thread_ns();
		look_at_all(e);
		used = clock_thread_ns() - since;
		permille = pressure_is_short(&e->pressure) ? CPU_SHORT_PERMILLE : CPU_PERMILLE;
		wait = used * 1000 / permille;
		wait = wait < TICK_NS ? TICK_NS : wait < PAUSE_MAX_NS ? wait : PAUSE_MAX_NS;
	}
	return NULL;
}

int watcher_start(struct uvmm_engine *e)
{
	struct watcher *w = &e->watcher;
	pthread_condattr_t attr;
	int rc;

	pthread_mutex_init(&w->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&w->wake, &attr);
	pthread_condattr_destroy(&attr);
	rc = -pthread_create(&w->thread, NULL, watcher_main, e);
	w->runs = !rc;
	return rc;
}

void watcher_stop(struct uvmm_engine *e)
{
	struct watcher *w = &e->watcher;

	if (!w->runs)
		return;
	lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->wake);
	unlock(&w->lock);
	pthread_join(w->thread, NULL);
	w->runs = false;
}
