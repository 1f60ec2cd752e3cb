/* SPDX-License-Identifier: MIT */
#include "pressure.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "split.h"

/* Faster than two CPUs touch fresh large pages (8 GB/s each were measured). */
#define TOUCH_PAGES_PER_S (16ull * 1000 * 1000 * 1000 / UVMM_PAGE_SIZE)
#define LOOK_MIN_NS (NS_PER_MS / 2)
#define LOOK_MAX_NS (50 * NS_PER_MS)
#define DAEMON_LOOK_NS (250 * NS_PER_MS)
#define DAEMON_LOOK_TIGHT_NS (10 * NS_PER_MS)
#define GROWTH_AHEAD_NS (100 * NS_PER_MS)
#define BLOCK_MAX_NS NS_PER_S
#define YIELD_PART 32                   /* of its target a guest may have above it */
#define YIELD_MIN 512
#define YIELD_MAX 4096
#define FRUITLESS_NS (NS_PER_S / 2)
#define SPLIT_AHEAD 8                   /* one shared page of so many */
#define SPLIT_UNSEEN 16                 /* the same, at least, until it is noticed */
#define SUSPECT_NS (5 * NS_PER_MS)
#define SUSPECT_EACH_NS (NS_PER_MS / 4) /* for each guest: a twentieth of the time at most */
#define SMALLEST_PAGES 2048u            /* 8 MiB */

static int64_t clamp(int64_t v, int64_t lo, int64_t hi)
{
	return v < lo ? lo : v > hi ? hi : v;
}

/* There is room for one more page, as pressure_take sees it. */
static bool may_grow(int64_t headroom, const struct pressure *p)
{
	return headroom - 1 >= p->low;
}

bool pressure_take(struct pressure *p, int64_t pages, enum pressure_use use)
{
	int64_t floor = use == PRESSURE_AHEAD ? 2 * p->low :
			use == PRESSURE_GROWTH ? p->low : p->reserve;

	/* A load frees its slot, with which reclaim can go on: when everything is
	 * full, it must not wait for reclaim. */
	if (use == PRESSURE_LOAD && atomic_load(&p->exhausted))
		floor = -p->reserve;

	if (atomic_fetch_sub(&p->headroom, pages) - pages >= floor)
		return true;
	atomic_fetch_add(&p->headroom, pages);
	return false;
}

void pressure_give(struct pressure *p, int64_t pages)
{
	atomic_fetch_add(&p->headroom, pages);
}

/* Pages that were split and are not in the books yet, as far as is known. */
static int64_t unseen_splits(struct uvmm_engine *e)
{
	uint64_t unseen = atomic_load(&e->sharing.unseen_pages);
	uint64_t least = atomic_load(&e->sharing.shared_pages) / SPLIT_UNSEEN;

	return (int64_t)(unseen > least ? unseen : least);
}

/* Reclaim starts the earlier the more guests share: any of that may be written at once,
 * and nobody is asked before. */
static int64_t start_for(struct uvmm_engine *e, int64_t growth_ahead)
{
	const struct pressure *p = &e->pressure;
	int64_t splits_ahead = (int64_t)(atomic_load(&e->sharing.shared_pages) / SPLIT_AHEAD);

	return clamp(p->start_min + growth_ahead + splits_ahead, p->start_min, p->start_max);
}

static int64_t left_now(struct uvmm_engine *e)
{
	return (int64_t)e->pressure.total_pages -
	       (int64_t)atomic_load(&e->pressure.daemon_pages) -
	       (int64_t)atomic_load(&e->sharing.split_pages) - unseen_splits(e) -
	       (int64_t)machine_used_pages(&e->machine);
}

void pressure_fill(struct uvmm_engine *e, struct uvmm_machine_stats *m)
{
	int64_t left = left_now(e);

	m->headroom_pages = left > 0 ? (uint64_t)left : 0;
	m->net_pages = (uint64_t)start_for(e, 0);
	m->wait_pages = (uint64_t)e->pressure.low;
}

int64_t pressure_refresh(struct uvmm_engine *e)
{
	int64_t left = left_now(e);

	atomic_store(&e->pressure.headroom, left);
	return left;
}

void pressure_wait(struct uvmm_engine *e, struct guest *g, bool growth)
{
	struct pressure *p = &e->pressure;

	if (growth)
		atomic_store(&g->wants_growth, true);
	atomic_store(&g->wants_memory, true);
	lock(&p->lock);
	p->kicked = true;
	pthread_cond_signal(&p->kick);
	unlock(&p->lock);
}

static uint64_t above_target(const struct guest *g)
{
	uint64_t held = machine_file_pages(g->memfd) + atomic_load(&g->sharing.split_pages);
	uint64_t target = atomic_load(&g->target_pages);

	return held > target ? held - target : 0;
}

static uint64_t yield_slack(const struct guest *g)
{
	int64_t part = (int64_t)(atomic_load(&g->target_pages) / YIELD_PART);

	return (uint64_t)clamp(part, YIELD_MIN, YIELD_MAX);
}

bool pressure_comes_last(struct uvmm_engine *e, const struct guest *g)
{
	const struct pressure *p = &e->pressure;

	return atomic_load(&p->headroom) < atomic_load(&p->aim) && above_target(g) > yield_slack(g) &&
	       (!atomic_load(&p->fruitless_until_ns) ||
		clock_ns() > atomic_load(&p->fruitless_until_ns));
}

void pressure_wait_last(struct uvmm_engine *e, struct guest *g)
{
	atomic_store(&e->pressure.yields, true);
	pressure_wait(e, g, false);
}

struct guest *pressure_next_yielding(struct uvmm_engine *e, size_t *turn, uint64_t *pages)
{
	struct guest *g;
	int round;

	for (round = 0; round < 2; round++) {
		while ((g = guest_next_entered(&e->registry, turn))) {
			if (atomic_load(&g->wants_memory) && pressure_comes_last(e, g)) {
				*pages = above_target(g);
				return g;
			}
			guest_leave(g);
		}
		*turn = 0;
	}
	return NULL;
}

void pressure_wake_waiting(struct uvmm_engine *e)
{
	struct pressure *p = &e->pressure;
	bool room = may_grow(atomic_load(&p->headroom), p);
	bool refuse = atomic_load(&p->exhausted);
	struct guest *g;
	size_t at = 0;

	if (atomic_load(&p->headroom) < p->reserve && !refuse)
		return;
	while ((g = guest_next_entered(&e->registry, &at))) {
		/* Waiting loads may go on below `low`, waiting growth may not. */
		bool growth = atomic_load(&g->wants_growth);

		if (atomic_load(&g->wants_memory) && (room || refuse || !growth) &&
		    !pressure_comes_last(e, g)) {
			atomic_store(&g->wants_growth, false);
			atomic_store(&g->wants_memory, false);
			guest_wake(g, 0, g->max_pages);
		}
		guest_leave(g);
	}
}

int pressure_attached(struct uvmm_engine *e, struct guest *g)
{
	return atomic_load(&e->pressure.is_tight) ? guest_arm_all(g) : 0;
}

static void become_tight(struct uvmm_engine *e)
{
	struct guest *g;
	size_t at = 0;

	/* First the word, then the deed: a guest that attaches in between arms
	 * itself or is armed here. */
	atomic_store(&e->pressure.is_tight, true);
	while ((g = guest_next_entered(&e->registry, &at))) {
		guest_arm_all(g);
		guest_leave(g);
	}
}

static void become_roomy(struct uvmm_engine *e)
{
	struct guest *g;
	size_t at = 0;

	atomic_store(&e->pressure.is_tight, false);
	while ((g = guest_next_entered(&e->registry, &at))) {
		if (!pressure_blocks(g))
			guest_open_idle(g);
		guest_leave(g);
	}
}

void pressure_block(struct uvmm_engine *e, struct guest *g, uint64_t until_ns)
{
	uint64_t now = clock_ns(), end = atomic_load(&e->pressure.blocks_end_ns);

	if (until_ns > now + BLOCK_MAX_NS)
		until_ns = now + BLOCK_MAX_NS;
	if (until_ns <= now && !pressure_blocks(g))
		return;
	atomic_fetch_add(&g->blocks, until_ns > now);
	atomic_store(&g->blocked_until_ns, until_ns ? until_ns : 1);
	while (end < until_ns &&
	       !atomic_compare_exchange_weak(&e->pressure.blocks_end_ns, &end, until_ns))
		;
	if (until_ns > now)
		guest_arm_all(g);
}

static void release_one(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	uint64_t until = atomic_load(&g->blocked_until_ns);

	if (!until || until > now_ns ||
	    !atomic_compare_exchange_strong(&g->blocked_until_ns, &until, 0))
		return;
	if (!atomic_load(&e->pressure.is_tight))
		guest_open_idle(g);
	guest_wake(g, 0, g->max_pages);
}

/* Those whose time has come. */
static void release(struct uvmm_engine *e)
{
	uint64_t now = clock_ns(), end = atomic_load(&e->pressure.blocks_end_ns);
	struct guest *g;
	size_t at = 0;

	if (!end)
		return;
	while ((g = guest_next_entered(&e->registry, &at))) {
		release_one(e, g, now);
		guest_leave(g);
	}
	if (end <= now)
		atomic_compare_exchange_strong(&e->pressure.blocks_end_ns, &end, 0);
}

static void set_level(struct uvmm_engine *e, uint32_t level, int64_t left)
{
	struct pressure *p = &e->pressure;

	if (atomic_exchange(&p->level, level) == level)
		return;
	session_send_pressure(e, level, left < p->start_max ?
			      (uint64_t)(p->start_max - left) : 0);
}

static void kick_reclaimer(struct pressure *p)
{
	lock(&p->lock);
	if (!p->kicked) {
		p->kicked = true;
		pthread_cond_signal(&p->kick);
	}
	unlock(&p->lock);
}

/* And the faster they grow. */
static void move_start(struct uvmm_engine *e, int64_t growth_per_s)
{
	int64_t ahead = growth_per_s * (int64_t)(GROWTH_AHEAD_NS / NS_PER_MS) / 1000;

	atomic_store(&e->pressure.start, start_for(e, ahead));
}

static void sound_alarm(struct uvmm_engine *e, int64_t left)
{
	struct pressure *p = &e->pressure;

	if (left < atomic_load(&p->alarm) && atomic_exchange(&p->alarm, 0))
		events_add(&e->events, UVMM_EVENT_SHORT, 0, "memory is short");
}

static void look(struct uvmm_engine *e, int64_t left)
{
	struct pressure *p = &e->pressure;

	if (left <= p->tight && !atomic_load(&p->is_tight))
		become_tight(e);
	else if (left > p->roomy && atomic_load(&p->is_tight))
		become_roomy(e);
	if (left < atomic_load(&p->start))
		kick_reclaimer(p);
	if (may_grow(left, p))
		atomic_store(&p->exhausted, false);
	pressure_wake_waiting(e);
	sound_alarm(e, left);
	release(e);
	set_level(e, left < p->low ? UVMM_PRESSURE_FULL :
		     left < atomic_load(&p->start) ? UVMM_PRESSURE_SOME :
		     left > atomic_load(&p->start) + p->hysteresis ? UVMM_PRESSURE_NONE :
		     atomic_load(&p->level), left);
}

static uint64_t next_look_ns(const struct pressure *p, int64_t left)
{
	int64_t mark = left > p->tight ? left - p->tight : 0;
	uint64_t ns = (uint64_t)mark * NS_PER_S / TOUCH_PAGES_PER_S;

	if (atomic_load(&p->is_tight))
		ns = 4 * LOOK_MIN_NS;   /* growth asks: no hurry */
	if (atomic_load(&p->blocks_end_ns) && ns > 4 * LOOK_MIN_NS)
		ns = 4 * LOOK_MIN_NS;
	return ns < LOOK_MIN_NS ? LOOK_MIN_NS : ns > LOOK_MAX_NS ? LOOK_MAX_NS : ns;
}

/* Shared pages are split without a word to anybody: when memory is short, that is looked for
 * here, as the scanner may not get a CPU. When to do so again. */
static uint64_t suspect(struct uvmm_engine *e, uint64_t now_ns)
{
	uint64_t pause_ns = SUSPECT_NS;
	struct guest *g;
	size_t at = 0;

	if (!atomic_load(&e->pressure.is_tight) || !atomic_load(&e->sharing.shared_pages))
		return now_ns + pause_ns;
	while ((g = guest_next_entered(&e->registry, &at))) {
		split_suspect(e, g);
		guest_leave(g);
		pause_ns += SUSPECT_EACH_NS;
	}
	return now_ns + pause_ns;
}

static void *guard_main(void *arg)
{
	struct uvmm_engine *e = arg;
	struct pressure *p = &e->pressure;
	struct sched_param rt = { .sched_priority = 1 };
	uint64_t daemon_at = 0, suspect_at = 0, last_at = clock_ns();
	int64_t last = pressure_refresh(e), growth = 0;

	/* The guard works for microseconds at a time, and a guest that keeps all
	 * CPUs busy must not keep it from looking. Without the right to this,
	 * the marks still hold, only with less to spare. */
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &rt);
	while (!atomic_load(&p->stop)) {
		uint64_t now = clock_ns();
		int64_t left;

		if (now - daemon_at >= (atomic_load(&p->is_tight) ? DAEMON_LOOK_TIGHT_NS :
								   DAEMON_LOOK_NS)) {
			atomic_store(&p->daemon_pages, machine_daemon_pages());
			daemon_at = now;
		}
		if (now >= suspect_at)
			suspect_at = suspect(e, now);
		left = pressure_refresh(e);
		if (now > last_at) {
			int64_t rate = (last - left) * (int64_t)(NS_PER_S / 1000) /
				       (int64_t)((now - last_at) / 1000 + 1);

			growth = rate > growth ? rate : growth - (growth - rate) / 16;
		}
		last = left;
		last_at = now;
		move_start(e, growth > 0 ? growth : 0);
		look(e, left);
		clock_sleep_ns(next_look_ns(p, left));
	}
	return NULL;
}

bool pressure_reclaim_wanted(struct uvmm_engine *e, uint64_t *pages)
{
	struct pressure *p = &e->pressure;
	int64_t left;

	for (*pages = 0;;) {
		left = pressure_refresh(e);
		if (atomic_load(&p->stop))
			return false;
		if (left < atomic_load(&p->start)) {
			*pages = (uint64_t)(atomic_load(&p->start) + p->hysteresis - left);
			return true;
		}
		if (atomic_exchange(&p->yields, false))
			return true;
		lock(&p->lock);
		while (!p->kicked && !atomic_load(&p->stop))
			pthread_cond_wait(&p->kick, &p->lock);
		p->kicked = false;
		unlock(&p->lock);
	}
}

void pressure_reclaim_done(struct uvmm_engine *e, uint64_t taken)
{
	struct pressure *p = &e->pressure;

	pressure_refresh(e);
	atomic_store(&p->fruitless_until_ns, taken ? 0 : clock_ns() + FRUITLESS_NS);
	if (taken)
		atomic_store(&p->exhausted, false);
	else if (!may_grow(atomic_load(&p->headroom), p))
		atomic_store(&p->exhausted, true);
	pressure_wake_waiting(e);
}

/* Parts of what guests can have. Where little is, they are armed at any time: to
 * be in time for what they touch without asking would take a good part of it. */
static void set_marks(struct pressure *p, int64_t t)
{
	p->reserve = clamp(t / 128, 128, 1024);
	p->low = p->reserve + clamp(t / 64, 256, 16384);
	p->tight = p->low + clamp(t / 16, 4096, 65536);
	p->start_min = p->tight + t / 128;
	if (p->start_min > t / 3) {
		p->tight = t;
		p->start_min = p->low + t / 16;
	}
	p->start_max = p->tight == t ? p->start_min : clamp(t / 5, p->start_min, INT64_MAX);
	p->hysteresis = t / 32;
	p->roomy = p->tight == t ? INT64_MAX : p->start_min + p->hysteresis;
}

int pressure_start(struct uvmm_engine *e, uint64_t total_pages)
{
	struct pressure *p = &e->pressure;
	int rc;

	p->total_pages = total_pages;
	atomic_store(&p->daemon_pages, machine_daemon_pages());
	if (total_pages < atomic_load(&p->daemon_pages) + SMALLEST_PAGES)
		return -ENOMEM;
	set_marks(p, (int64_t)(total_pages - atomic_load(&p->daemon_pages)));
	atomic_store(&p->start, p->start_min);
	atomic_store(&p->aim, p->start_min);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->kick, NULL);
	pressure_refresh(e);
	rc = pthread_create(&p->guard, NULL, guard_main, e);
	p->guard_runs = !rc;
	return -rc;
}

void pressure_stop(struct uvmm_engine *e)
{
	struct pressure *p = &e->pressure;

	atomic_store(&p->stop, true);
	lock(&p->lock);
	pthread_cond_broadcast(&p->kick);
	unlock(&p->lock);
	if (p->guard_runs)
		pthread_join(p->guard, NULL);
	p->guard_runs = false;
}
