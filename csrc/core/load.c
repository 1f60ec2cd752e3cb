/* SPDX-License-Identifier: MIT */
#include "load.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "clock.h"
#include "engine.h"
#include "uffd.h"

#define ZERO_WINDOW_MAX 64u
#define AGAIN_TRIES 200000      /* of 5 us: a second */
#define AGAIN_SLEEP_NS 5000

struct load_buffer *load_buffer_new(void)
{
	struct load_buffer *b = calloc(1, sizeof(*b));
	void *data;

	if (!b)
		return NULL;
	data = mmap(NULL, TIER_BATCH_MAX * UVMM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED || view_init(&b->view)) {
		if (data != MAP_FAILED)
			munmap(data, TIER_BATCH_MAX * UVMM_PAGE_SIZE);
		free(b);
		return NULL;
	}
	b->data = data;
	return b;
}

void load_buffer_free(struct load_buffer *b)
{
	if (!b)
		return;
	view_fini(&b->view);
	munmap(b->data, TIER_BATCH_MAX * UVMM_PAGE_SIZE);
	free(b);
}

bool load_claim(struct guest *g, uint64_t ppn, struct load_buffer *b, size_t *n)
{
	pmap_entry e = pmap_get(&g->pmap, ppn);

	if (pmap_state(e) != PAGE_STORED ||
	    !pmap_move(&g->pmap, ppn, &e, pmap_with_state(e, PAGE_LOADING)))
		return false;
	b->ppn[*n] = ppn;
	b->handles[*n] = pmap_handle(e);
	b->seeds[*n] = load_seed(g, ppn);
	(*n)++;
	return true;
}

/* The same, without waking who waits for the page `quiet`: for memory, now. */
static void put_back(struct guest *g, struct load_buffer *b, size_t from, size_t to,
		     uint64_t quiet)
{
	size_t i;

	for (i = from; i < to; i++) {
		pmap_entry e = pmap_get(&g->pmap, b->ppn[i]);

		pmap_set(&g->pmap, b->ppn[i], pmap_with_state(e, PAGE_STORED));
	}
	for (i = from; i < to; i++)
		if (b->ppn[i] != quiet)
			guest_wake(g, b->ppn[i], 1);
}

void load_unclaim(struct guest *g, struct load_buffer *b, size_t from, size_t to)
{
	put_back(g, b, from, to, UINT64_MAX);
}

void load_damage(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t handle,
		 int why)
{
	pmap_entry entry = pmap_get(&g->pmap, ppn);

	pmap_set(&g->pmap, ppn, pmap_with_state(entry, PAGE_DAMAGED));
	atomic_fetch_add(&g->damaged_pages, 1);
	atomic_fetch_add(&e->damaged_pages, 1);
	events_add(&e->events, UVMM_EVENT_DAMAGED, g->id,
		   "guest %s: page %llu is lost: slot %llu of the %s tier %s; accesses get SIGBUS",
		   g->name, (unsigned long long)ppn, (unsigned long long)handle,
		   e->tier[pmap_tier(entry)]->ops->name,
		   why == -EBADMSG ? "fails its checksum" : "cannot be read");
	session_notice(e, g, UVMM_NOTICE_DAMAGED,
		       "page %llu of %s is lost (%s); accesses to it get SIGBUS",
		       (unsigned long long)ppn, g->name,
		       why == -EBADMSG ? "its stored copy fails the checksum" :
					 "its stored copy cannot be read");
	fault_poison(g, ppn);
}

/* Pages [from, to) of the buffer are in: commit. */
static void committed(struct uvmm_engine *e, struct guest *g, struct load_buffer *b,
		      size_t from, size_t to)
{
	size_t i;

	activity_loaded(g, b->ppn[from], to - from);
	for (i = from; i < to; i++) {
		pmap_set(&g->pmap, b->ppn[i], pmap_make(PAGE_PRESENT, 0));
		pmap_chunk_sub(&g->pmap, b->ppn[i], 1);
	}
	atomic_fetch_sub(&g->stored_pages, to - from);
	atomic_fetch_add(&g->pages_in, to - from);
	tier_drop(e->tier[UVMM_TIER_SWAP], b->handles + from, to - from);
	/* A page that was unmapped as soon as it was in may have been missed after those who wait
	 * for it were woken, and before this: such a thread waits for the owner, for us. */
	if (atomic_load(&g->waiting))
		guest_wake(g, b->ppn[from], b->ppn[to - 1] + 1 - b->ppn[from]);
}

/* Copies a run of good pages with consecutive numbers in. How many are in (or
 * were there already), with rc set if it stopped early. */
static size_t put_run(struct guest *g, struct load_buffer *b, size_t from, size_t to,
		      int *rc)
{
	size_t at = from, step = to - from;
	int tries = 0;

	while (at < to) {
		uint64_t done = 0;
		enum uffd_result res;

		step = step < to - at ? step : to - at;
		res = uffd_copy(g->uffd, guest_addr(g, b->ppn[at]),
				b->data + at * UVMM_PAGE_SIZE, step * UVMM_PAGE_SIZE, &done);
		at += done >> UVMM_PAGE_SHIFT;
		if (res == UFFD_OK || at == to)
			continue;
		if (res == UFFD_SPLIT && step > 1) {
			step = 1;
		} else if (res == UFFD_EXISTS) {
			guest_wake(g, b->ppn[at++], 1);
		} else if (res == UFFD_AGAIN && tries++ < AGAIN_TRIES) {
			clock_sleep_ns(AGAIN_SLEEP_NS);
		} else {
			*rc = res == UFFD_GONE || res == UFFD_SPLIT ? -ESRCH : -ENOMEM;
			break;
		}
	}
	return at;
}

static int put_all(struct uvmm_engine *e, struct guest *g, struct load_buffer *b,
		   size_t n, uint64_t *loaded)
{
	size_t i = 0, to, in;
	int rc = 0, damaged = 0;

	while (i < n && !rc) {
		if (b->bad[i]) {
			load_damage(e, g, b->ppn[i], b->handles[i], b->bad[i]);
			tier_drop(e->tier[UVMM_TIER_SWAP], b->handles + i, 1);
			damaged = -EIO;
			i++;
			continue;
		}
		for (to = i + 1; to < n && !b->bad[to] && b->ppn[to] == b->ppn[to - 1] + 1; to++)
			;
		in = put_run(g, b, i, to, &rc);
		if (in > i)
			committed(e, g, b, i, in);
		*loaded += in - i;
		i = in;
	}
	if (i < n)
		load_unclaim(g, b, i, n);
	return rc ? rc : damaged;
}

/* Room for the n claimed pages, or for the first alone if it is waited for. */
static size_t room_for(struct uvmm_engine *e, size_t n, bool waited_for)
{
	if (pressure_take(&e->pressure, (int64_t)n, PRESSURE_AHEAD))
		return n;
	if (waited_for && pressure_take(&e->pressure, 1, PRESSURE_LOAD))
		return 1;
	return 0;
}

int load_pages(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint64_t hi,
	       uint64_t must, struct load_buffer *b, uint64_t *loaded)
{
	bool waited_for = must != UINT64_MAX;
	size_t n = 0, room;
	uint64_t ppn;

	*loaded = 0;
	for (ppn = lo; ppn < hi; ppn++)
		load_claim(g, ppn, b, &n);
	if (!n)
		return 0;
	room = room_for(e, n, waited_for);
	if (room < n && n > 1 && waited_for) {
		/* Only the one that is waited for: let all go, take it alone. */
		put_back(g, b, 0, n, room ? UINT64_MAX : must);
		n = 0;
		if (!room || !load_claim(g, must, b, &n)) {
			pressure_give(&e->pressure, (int64_t)room);
			return room ? 0 : -ENOMEM;
		}
	} else if (!room) {
		put_back(g, b, 0, n, must);
		return -ENOMEM;
	}
	tier_load(e->tier[UVMM_TIER_SWAP], b->handles, b->seeds, n, b->data, b->bad);
	return put_all(e, g, b, n, loaded);
}

static uint64_t hold_run(struct guest *g, uint64_t lo, uint64_t hi)
{
	uint64_t ppn;

	for (ppn = lo; ppn < hi; ppn++) {
		pmap_entry e = pmap_get(&g->pmap, ppn);

		if (pmap_state(e) != PAGE_PRESENT ||
		    !pmap_move(&g->pmap, ppn, &e, pmap_with_state(e, PAGE_HELD)))
			break;
	}
	return ppn - lo;
}

static void unhold_run(struct guest *g, uint64_t lo, uint64_t n)
{
	uint64_t ppn;

	for (ppn = lo; ppn < lo + n; ppn++) {
		pmap_entry e = pmap_get(&g->pmap, ppn);

		pmap_set(&g->pmap, ppn, pmap_with_state(e, PAGE_PRESENT));
	}
}

static int zero_run(struct guest *g, uint64_t ppn, uint64_t n)
{
	uint64_t at = ppn, end = ppn + n, step = n;
	int tries = 0;

	while (at < end) {
		uint64_t done = 0;
		enum uffd_result res;

		step = step < end - at ? step : end - at;
		res = uffd_zero(g->uffd, guest_addr(g, at), step << UVMM_PAGE_SHIFT, &done);
		at += done >> UVMM_PAGE_SHIFT;
		if (res == UFFD_OK || at == end)
			continue;
		if (res == UFFD_SPLIT && step > 1)
			step = 1;
		else if (res == UFFD_EXISTS)
			at++;
		else if (res == UFFD_AGAIN && tries++ < AGAIN_TRIES)
			clock_sleep_ns(AGAIN_SLEEP_NS);
		else
			return res == UFFD_GONE || res == UFFD_SPLIT ? -ESRCH : -ENOMEM;
	}
	return 0;
}

int load_zeros(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t hi)
{
	uint64_t n;
	int rc;

	n = hold_run(g, ppn, hi < ppn + ZERO_WINDOW_MAX ? hi : ppn + ZERO_WINDOW_MAX);
	if (!n)
		return 0;
	if (n > 1 && !pressure_take(&e->pressure, (int64_t)n, PRESSURE_AHEAD)) {
		unhold_run(g, ppn + 1, n - 1);
		guest_wake(g, ppn + 1, n - 1);
		n = 0;
	}
	if (n <= 1 && !pressure_take(&e->pressure, 1, PRESSURE_GROWTH)) {
		/* Not woken: whoever waits for the page waits for memory now. */
		unhold_run(g, ppn, 1);
		return -ENOMEM;
	}
	n = n ? n : 1;
	rc = zero_run(g, ppn, n);
	unhold_run(g, ppn, n);
	guest_wake(g, ppn, n);
	return rc;
}

void load_mappings(struct guest *g, uint64_t lo, uint64_t hi)
{
	uint64_t n = lo < hi ? hold_run(g, lo, hi) : 0, done;

	if (!n)
		return;
	uffd_continue(g->uffd, guest_addr(g, lo), n << UVMM_PAGE_SHIFT, &done);
	unhold_run(g, lo, n);
	guest_wake(g, lo, n);
}
