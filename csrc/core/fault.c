/* SPDX-License-Identifier: MIT */
#include "fault.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "load.h"
#include "share.h"
#include "uffd.h"

#define MESSAGES 16
#define SLICE_NS NS_PER_MS
#define REFUSE_AFTER_NS (100 * NS_PER_MS)
#define IN_VAIN_MAX 4
#define MINOR_WINDOW 64u        /* pages */
#define EVENTS 16

void fault_poison(struct guest *g, uint64_t ppn)
{
	uint64_t addr = guest_addr(g, ppn);

	/* A write-protect marker that is left there would keep poison out. */
	uffd_unprotect(g->uffd, addr, UVMM_PAGE_SIZE);
	uffd_poison(g->uffd, addr, UVMM_PAGE_SIZE);
	guest_wake(g, ppn, 1);
}

static bool is_owned(enum page_state s)
{
	return s == PAGE_PUNCHING || s == PAGE_LOADING || s == PAGE_HELD ||
	       s == PAGE_DISCARDING || s == PAGE_REMAPPING;
}

/* The page's owner, or the bringer of memory, will wake the thread. If it has
 * done so meanwhile it did not know of this stall. */
static void wait_for_owner(struct guest *g, uint64_t ppn, const struct uffd_message *m,
			   uint64_t now_ns)
{
	guest_stall_begin(g, m->tid, m->addr, now_ns);
	if (!is_owned(pmap_state(pmap_get(&g->pmap, ppn))))
		guest_wake(g, ppn, 1);
}

/* Pages around one that is mapped again. If it was unmapped as its large page was broken
 * they were, too; what the scan has unmapped is to be seen to come back, by itself, or in
 * a stream. */
static void map_around(struct guest *g, uint64_t ppn)
{
	uint64_t hi = (ppn | (MINOR_WINDOW - 1)) + 1, lo = ppn, to = ppn + 1;

	if (activity_is_unmapped(g, ppn)) {
		stream_window(&g->streams, ppn, g->max_pages, &lo, &to);
		activity_returned(g, lo, to - lo);
		load_mappings(g, lo, ppn);
	} else {
		while (to < hi && !activity_is_unmapped(g, to))
			to++;
	}
	load_mappings(g, ppn + 1, to);
}

/* A page that is in the file, but may not be written, or is not mapped. */
static void let_through(struct guest *g, uint64_t ppn, const struct uffd_message *m,
			uint64_t now_ns)
{
	pmap_entry e = pmap_get(&g->pmap, ppn), held;
	uint64_t done;
	bool evicting;

	do {
		evicting = pmap_state(e) == PAGE_EVICTING;
		if (!evicting && pmap_state(e) != PAGE_PRESENT) {
			if (is_owned(pmap_state(e)))
				wait_for_owner(g, ppn, m, now_ns);
			else if (!pmap_is_home(e))
				share_stale_fault(g, ppn);
			else
				guest_wake(g, ppn, 1);
			return;
		}
		held = pmap_with_state(e, PAGE_HELD);
	} while (!pmap_move(&g->pmap, ppn, &e, held));

	if (evicting)
		atomic_fetch_add(&g->aborted, 1);
	uffd_unprotect(g->uffd, m->addr, UVMM_PAGE_SIZE);
	if (m->fault == UFFD_FAULT_MINOR)
		uffd_continue(g->uffd, m->addr, UVMM_PAGE_SIZE, &done);
	pmap_set(&g->pmap, ppn, pmap_with_state(held, PAGE_PRESENT));
	guest_wake(g, ppn, 1);
	if (m->fault == UFFD_FAULT_MINOR)
		map_around(g, ppn);
}

static void refuse(struct uvmm_engine *e, struct guest *g, uint64_t ppn)
{
	uint64_t slots = 0, used = 0;

	e->tier[UVMM_TIER_SWAP]->ops->usage(e->tier[UVMM_TIER_SWAP], &slots, &used);
	atomic_fetch_add(&e->refused, 1);
	events_add(&e->events, UVMM_EVENT_REFUSED, g->id,
		   "guest %s was refused a page: machine memory (%llu MiB) and swap (%llu MiB) are full",
		   g->name, (unsigned long long)e->pressure.total_pages >> 8,
		   (unsigned long long)slots >> 8);
	session_notice(e, g, UVMM_NOTICE_REFUSED,
		       "%s was refused more memory: machine memory (%llu MiB) and swap (%llu MiB) are both full; give the daemon more of either, or run fewer guests",
		       g->name, (unsigned long long)e->pressure.total_pages >> 8,
		       (unsigned long long)slots >> 8);
	fault_poison(g, ppn);
}

/* Memory may be about to come back, from a guest that has just ended: growth is
 * refused only if it was in vain for a while. */
static bool is_hopeless(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	uint64_t since = 0;

	if (atomic_compare_exchange_strong(&g->growth_failed_ns, &since, now_ns))
		return false;
	return atomic_load(&e->pressure.exhausted) && now_ns > since + REFUSE_AFTER_NS;
}

static void no_memory(struct uvmm_engine *e, struct guest *g, uint64_t ppn,
		      const struct uffd_message *m, bool growth, uint64_t now_ns)
{
	if (growth && is_hopeless(e, g, now_ns)) {
		refuse(e, g, ppn);
		return;
	}
	guest_stall_begin(g, m->tid, m->addr, now_ns);
	pressure_wait(e, g, growth);
}

static void listen_to(const struct fault_thread *t, struct guest *g, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = g };

	epoll_ctl(t->epoll, EPOLL_CTL_MOD, g->uffd, &ev);
}

static void all_listen(struct faults *f, struct guest *g)
{
	uint64_t quiet = atomic_load(&g->quiet) ? atomic_exchange(&g->quiet, 0) : 0;

	for (; quiet; quiet &= quiet - 1)
		listen_to(&f->thread[__builtin_ctzll(quiet)], g, EPOLLIN);
}

/* What nobody waits for. The guest runs on meanwhile, and others serve it. */
static uint64_t load_unasked(struct fault_thread *t, struct guest *g, uint64_t lo,
			     uint64_t hi)
{
	uint64_t loaded;

	all_listen(&t->engine->faults, g);
	load_pages(t->engine, g, lo, hi, UINT64_MAX, t->buffer, &loaded);
	return loaded;
}

/* The page, and in a stream its window; of a whole chunk that cannot come as one,
 * first the half in which somebody waits. */
static int load(struct fault_thread *t, struct guest *g, uint64_t ppn, uint64_t lo,
		uint64_t hi)
{
	uint64_t half = UVMM_CHUNK_PAGES / 2, near, loaded;
	int rc;

	if (hi - lo < UVMM_CHUNK_PAGES)
		return load_pages(t->engine, g, lo, hi, ppn, t->buffer, &loaded);
	if (load_chunk(t->engine, g, lo / UVMM_CHUNK_PAGES, t->buffer))
		return 0;
	near = ppn - ppn % half;
	rc = load_pages(t->engine, g, near, near + half, ppn, t->buffer, &loaded);
	if (!rc)
		load_unasked(t, g, near == lo ? lo + half : lo, near == lo ? hi : near);
	return rc;
}

/* True if the thread waits now for the end of its guest's block. */
static bool is_blocked(struct guest *g, uint64_t ppn, const struct uffd_message *m,
		       uint64_t now_ns)
{
	if (!pressure_blocks(g))
		return false;
	guest_stall_begin(g, m->tid, m->addr, now_ns);
	/* Released meanwhile: all were woken before this stall was known. */
	if (!pressure_blocks(g))
		guest_wake(g, ppn, 1);
	return true;
}

/* True if the thread waits now until its guest may have memory again. */
static bool comes_last(struct uvmm_engine *e, struct guest *g, const struct uffd_message *m,
		       uint64_t now_ns)
{
	if (!pressure_comes_last(e, g))
		return false;
	guest_stall_begin(g, m->tid, m->addr, now_ns);
	pressure_wait_last(e, g);
	/* It may be over, and all were woken before this wait was known. */
	if (!pressure_comes_last(e, g))
		pressure_wake_waiting(e);
	return true;
}

static void missing(struct fault_thread *t, struct guest *g, uint64_t ppn,
		    const struct uffd_message *m, uint64_t now_ns)
{
	struct uvmm_engine *e = t->engine;
	enum page_state s = pmap_state(pmap_get(&g->pmap, ppn));
	uint64_t lo, hi;
	int rc;

	switch (s) {
	case PAGE_STORED:
	case PAGE_PRESENT:
		if (is_blocked(g, ppn, m, now_ns) || comes_last(e, g, m, now_ns))
			break;
		atomic_fetch_add(&g->loads, s == PAGE_STORED);
		stream_window(&g->streams, ppn, g->max_pages, &lo, &hi);
		rc = s == PAGE_STORED ? load(t, g, ppn, lo, hi) : load_zeros(e, g, ppn, hi);
		if (rc == -ENOMEM)
			no_memory(e, g, ppn, m, s == PAGE_PRESENT, now_ns);
		else if (s == PAGE_PRESENT && atomic_load(&g->growth_failed_ns))
			atomic_store(&g->growth_failed_ns, 0);
		if (!rc && pmap_state(pmap_get(&g->pmap, ppn)) == PAGE_LOADING)
			wait_for_owner(g, ppn, m, now_ns);
		break;
	case PAGE_DAMAGED:
		fault_poison(g, ppn);
		break;
	case PAGE_SHARED:
	case PAGE_SPLIT:
	case PAGE_LOW:
		share_stale_fault(g, ppn);
		break;
	case PAGE_EVICTING:
		/* Its content is in the file: the fault is older than that. */
		guest_wake(g, ppn, 1);
		break;
	default:
		wait_for_owner(g, ppn, m, now_ns);
	}
}

/* More threads fault here than there are CPUs. */
static bool is_crowded(const struct fault_thread *t)
{
	int i, k, distinct = 0;

	for (i = 0; i < FAULT_RECENT; i++) {
		for (k = 0; k < i && t->recent[k] != t->recent[i]; k++)
			;
		distinct += k == i && t->recent[i];
	}
	return distinct > t->engine->faults.threads;
}

static bool somebody_waits(const struct fault_thread *t)
{
	struct epoll_event ev;

	return epoll_wait(t->epoll, &ev, 1, 0) != 0;
}

/* In a long stream, on a CPU that has nothing better to do: what the guest will
 * want next, while it is busy with what it has got, or waits for another thread
 * that loads that. */
static void run_ahead(struct fault_thread *t, struct guest *g, uint64_t ppn)
{
	uint64_t half = UVMM_CHUNK_PAGES / 2, mid;
	struct stream_ahead a;

	if (!stream_run_ahead(&g->streams, ppn, g->max_pages, &a))
		return;
	mid = a.lo + half < a.hi ? a.lo + half : a.hi;
	all_listen(&t->engine->faults, g);
	if (is_crowded(t) || somebody_waits(t) ||
	    (!load_chunk(t->engine, g, a.lo / UVMM_CHUNK_PAGES, t->buffer) &&
	     load_unasked(t, g, a.lo, mid) + load_unasked(t, g, mid, a.hi) == 0))
		stream_fall_back(&g->streams, &a);
}

static void serve_one(struct fault_thread *t, struct guest *g, const struct uffd_message *m,
		      uint64_t since_ns)
{
	uint64_t ppn = (m->addr - g->base) >> UVMM_PAGE_SHIFT;

	if (m->addr < g->base || ppn >= g->max_pages)
		return;
	if (balloon_fault(g, ppn, m->tid))
		return;
	t->recent[t->faults++ % FAULT_RECENT] = m->tid;
	atomic_fetch_add(&g->faults, 1);
	if (m->fault == UFFD_FAULT_MISSING)
		missing(t, g, ppn, m, since_ns);
	else
		let_through(g, ppn, m, since_ns);
	if (!guest_stall_goes_on(g, m->tid))
		atomic_fetch_add(&g->stall_ns, clock_ns() - since_ns);
	if (m->fault == UFFD_FAULT_MISSING && !pressure_blocks(g) &&
	    !pressure_comes_last(t->engine, g))
		run_ahead(t, g, ppn);
}

/* How many messages were there; *dry: and there are no more. Takes one at a time, so
 * that other fault threads take the next ones; whoever was woken runs before
 * this one looks for more, since it may fault next.
 *
 * In a crowd the newest message goes first: its thread goes on faulting at full
 * speed for a slice while the others wait, as they would for a CPU. Serving all
 * in turn would have each of them wait for all others at every fault. */
static int serve_all(struct fault_thread *t, struct guest *g, bool *dry)
{
	uint64_t now = clock_ns(), until = now + SLICE_NS, since_ns[MESSAGES];
	struct uffd_message m[MESSAGES];
	int n = 0, served = 0;

	for (;;) {
		int room = is_crowded(t) ? MESSAGES - n : !n;
		bool look = room && now < until;
		int got = look ? uffd_read(g->uffd, m + n, room) : 0;

		for (; got; got--)
			since_ns[n++] = now;
		if (!n) {
			*dry = look;
			return served;
		}
		n--;
		serve_one(t, g, &m[n], since_ns[n]);
		served++;
		sched_yield();
		now = clock_ns();
	}
}

/* Another thread serves the guest, and does it better alone: this one looks in vain,
 * or in a crowd half of the CPUs serve already and the crowd needs the others.
 * Being woken for a message costs the faulting CPU an interrupt, and taking one
 * on another CPU costs the guest a wake-up across CPUs. */
static bool is_one_too_many(const struct fault_thread *t, const struct guest *g)
{
	int servers = atomic_load(&g->servers), enough = t->engine->faults.threads / 2;

	return servers > 1 && (t->in_vain >= IN_VAIN_MAX ||
			       (servers > enough && is_crowded(t)));
}

static void be_quiet(struct fault_thread *t, struct guest *g)
{
	struct faults *f = &t->engine->faults;

	listen_to(t, g, 0);
	atomic_fetch_or(&g->quiet, 1ull << (t - f->thread));
	if (atomic_load(&g->servers) < 2)
		all_listen(f, g);
}

/* Somebody listens at any time: be_quiet() looks for another server after it has
 * marked the thread quiet, and the last server looks for such marks after it has
 * left; it may leave the others quiet if it goes on listening itself. */
static void serve(struct fault_thread *t, struct guest *g)
{
	struct faults *f = &t->engine->faults;
	uint64_t mine = 1ull << (t - f->thread), quiet;
	bool dry;

	if (!guest_enter(g))
		return;
	atomic_fetch_add(&g->servers, 1);
	t->in_vain = serve_all(t, g, &dry) ? 0 : t->in_vain + 1;
	if (is_one_too_many(t, g))
		be_quiet(t, g);
	if (atomic_fetch_sub(&g->servers, 1) == 1) {
		quiet = atomic_load(&g->quiet);
		if (quiet && (dry || quiet & mine))
			all_listen(f, g);
	}
	guest_leave(g);
}

static void pin(const struct fault_thread *t)
{
	cpu_set_t set;

	if (t->cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET((size_t)t->cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

static void *fault_main(void *arg)
{
	struct fault_thread *t = arg;
	struct epoll_event ev[EVENTS];
	char name[16];
	int i, n;

	pin(t);
	snprintf(name, sizeof(name), "uvmm-fault/%d", t->cpu);
	pthread_setname_np(pthread_self(), name);
	for (;;) {
		n = epoll_wait(t->epoll, ev, EVENTS, -1);
		for (i = 0; i < n; i++) {
			if (!ev[i].data.ptr)
				return NULL;
			serve(t, ev[i].data.ptr);
		}
	}
}

static int start_thread(struct uvmm_engine *e, int cpu)
{
	struct fault_thread *t = &e->faults.thread[e->faults.threads];
	struct epoll_event ev = { .events = EPOLLIN };

	*t = (struct fault_thread){ .engine = e, .cpu = cpu, .epoll = -1 };
	e->faults.threads++;
	t->buffer = load_buffer_new();
	if (!t->buffer)
		return -ENOMEM;
	t->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (t->epoll < 0 || epoll_ctl(t->epoll, EPOLL_CTL_ADD, e->faults.stop_fd, &ev))
		return -errno;
	if (pthread_create(&t->thread, NULL, fault_main, t))
		return -EAGAIN;
	t->runs = true;
	return 0;
}

int fault_start(struct uvmm_engine *e)
{
	cpu_set_t set;
	int cpu, rc = 0;

	e->faults.threads = 0;
	e->faults.stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->faults.stop_fd < 0)
		return -errno;
	if (sched_getaffinity(0, sizeof(set), &set))
		CPU_ZERO(&set);
	for (cpu = 0; !rc && cpu < CPU_SETSIZE && e->faults.threads < FAULT_THREADS_MAX; cpu++)
		if (CPU_ISSET((size_t)cpu, &set))
			rc = start_thread(e, cpu);
	if (!rc && !e->faults.threads)
		rc = start_thread(e, -1);
	if (rc)
		fault_stop(e);
	return rc;
}

void fault_stop(struct uvmm_engine *e)
{
	int i;

	eventfd_write(e->faults.stop_fd, 1);
	for (i = 0; i < e->faults.threads; i++) {
		struct fault_thread *t = &e->faults.thread[i];

		if (t->runs)
			pthread_join(t->thread, NULL);
		if (t->epoll >= 0)
			close(t->epoll);
		load_buffer_free(t->buffer);
	}
	e->faults.threads = 0;
	close(e->faults.stop_fd);
}

int fault_add(struct uvmm_engine *e, struct guest *g)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = g };
	int i;

	for (i = 0; i < e->faults.threads; i++) {
		if (epoll_ctl(e->faults.thread[i].epoll, EPOLL_CTL_ADD, g->uffd, &ev)) {
			int rc = -errno;

			fault_remove(e, g);
			return rc;
		}
	}
	return 0;
}

void fault_remove(struct uvmm_engine *e, struct guest *g)
{
	int i;

	for (i = 0; i < e->faults.threads; i++)
		epoll_ctl(e->faults.thread[i].epoll, EPOLL_CTL_DEL, g->uffd, NULL);
}
