/* SPDX-License-Identifier: MIT */
#include "sample.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "pagemap.h"

#define TRIES 64u               /* for each page, at most */
#define FIRST_LOOK_NS (20 * NS_PER_MS)
#define LOOK_NS (500 * NS_PER_MS)
#define GUEST_LOOK_NS (2 * NS_PER_MS)   /* for each of many guests */
#define FROZEN_NS NS_PER_S

/* --- drawing ------------------------------------------------------------------------ */

struct draw {
	struct guest *g;
	uint32_t *chunk;        /* with contents, in the file or elsewhere */
	size_t chunks;
	struct sample_page *page;
	uint32_t n;
};

static bool has_contents(const struct guest *g, uint64_t chunk)
{
	return pmap_chunk_absent(&g->pmap, chunk) || pmap_chunk_away(&g->pmap, chunk);
}

static int list_chunks(struct draw *d)
{
	struct guest *g = d->g;
	uint64_t c, data = 0;

	d->chunk = malloc(g->pmap.chunks * sizeof(*d->chunk));
	if (!d->chunk)
		return -ENOMEM;
	for (c = 0; c < g->pmap.chunks; c++) {
		if (data < c * UVMM_CHUNK_PAGES || !c)
			data = machine_seek_data(g->memfd, c * UVMM_CHUNK_PAGES);
		if (data / UVMM_CHUNK_PAGES == c || has_contents(g, c))
			d->chunk[d->chunks++] = (uint32_t)c;
	}
	return 0;
}

/* How the page could be watched; SAMPLE_REFUSED: not at all, or there is nothing in it. */
static enum sample_state state_of(const struct guest *g, uint64_t ppn)
{
	uint64_t word, chunk = ppn / UVMM_CHUNK_PAGES;
	enum page_state s = PAGE_PRESENT;

	if (pmap_chunk_marked(&g->pmap, chunk) || pmap_chunk_away(&g->pmap, chunk))
		s = pmap_state(pmap_get(&g->pmap, ppn));
	if (s == PAGE_STORED)
		return SAMPLE_STORED;
	if ((s != PAGE_PRESENT && s != PAGE_SHARED) ||
	    !pagemap_read(g->pagemap_fd, guest_addr(g, ppn), 1, &word))
		return SAMPLE_REFUSED;
	if (s == PAGE_SHARED)
		return pagemap_is_mapped(word) ? SAMPLE_REFUSED : SAMPLE_UNMAPPED;
	if (pagemap_is_mapped(word))
		return pagemap_is_anonymous(word) ? SAMPLE_REFUSED : SAMPLE_PENDING;
	return machine_seek_data(g->memfd, ppn) == ppn ? SAMPLE_UNMAPPED : SAMPLE_REFUSED;
}

static int by_ppn(const void *a, const void *b)
{
	uint64_t p = ((const struct sample_page *)a)->ppn, q = ((const struct sample_page *)b)->ppn;

	return (p > q) - (p < q);
}

/* Sorts, and leaves out what was drawn twice. */
static void order_pages(struct draw *d)
{
	uint32_t i, n = 0;

	qsort(d->page, d->n, sizeof(*d->page), by_ppn);
	for (i = 0; i < d->n; i++)
		if (!n || d->page[n - 1].ppn != d->page[i].ppn)
			d->page[n++] = d->page[i];
	d->n = n;
}

static void draw_pages(struct draw *d, uint32_t pages)
{
	uint64_t tries = (uint64_t)pages * TRIES, c, ppn;
	enum sample_state s;

	while (d->chunks && d->n < pages && tries) {
		for (; d->n < pages && tries; tries--) {
			c = d->chunk[victims_random(d->g, d->chunks)];
			ppn = c * UVMM_CHUNK_PAGES + victims_random(d->g, UVMM_CHUNK_PAGES);
			s = state_of(d->g, ppn);
			if (s != SAMPLE_REFUSED)
				d->page[d->n++] = (struct sample_page){ .ppn = ppn, .state = s };
		}
		order_pages(d);
	}
}

/* --- unmapping ---------------------------------------------------------------------- */

static uint32_t end_of_chunk(const struct sample_page *p, uint32_t i, uint32_t n)
{
	uint64_t chunk = p[i].ppn / UVMM_CHUNK_PAGES;

	while (i < n && p[i].ppn / UVMM_CHUNK_PAGES == chunk)
		i++;
	return i;
}

/* Pages of one chunk: true if it was mapped as a large page, and they are unmapped now. */
static bool break_one(struct guest *g, const struct sample_page *p, uint32_t n)
{
	uint64_t left[UVMM_CHUNK_PAGES / 64] = { 0 }, chunk = p->ppn / UVMM_CHUNK_PAGES;
	bool broke = false, mapped = false;
	uint32_t i;

	if (!pmap_chunk_claim(&g->pmap, chunk))
		return false;
	for (i = 0; i < n; i++) {
		left[p[i].ppn % UVMM_CHUNK_PAGES / 64] |= 1ull << (p[i].ppn % 64);
		mapped |= p[i].state == SAMPLE_PENDING;
	}
	if (mapped) {
		activity_breaks(g, chunk);
		broke = !activity_break(g, chunk, left, false);
	} else if (p->state == SAMPLE_UNMAPPED) {
		activity_keep_small(g, p->ppn);
	}
	pmap_chunk_release(&g->pmap, chunk);
	return broke;
}

/* p are the n pages of the sample that has just begun: a copy, as another may have begun
 * meanwhile. */
static void break_large(struct guest *g, struct sample_page *p, uint32_t n)
{
	uint32_t i, to;
	bool broke;

	for (i = 0; i < n; i = to) {
		to = end_of_chunk(p, i, n);
		broke = break_one(g, p + i, to - i);
		for (; broke && i < to; i++) {
			p[i].broke = true;
			p[i].state = SAMPLE_UNMAPPED;
		}
	}
}

/* What is pending goes out in orders of as many runs as one has. */
static void send_locked(struct uvmm_engine *e, struct guest *g, struct uvmm_zap *m)
{
	struct sample *s = &g->activity.sample;
	uint32_t i, from = 0, seq;

	for (i = 0; i <= s->n; i++) {
		if (i < s->n && s->page[i].state != SAMPLE_PENDING)
			continue;
		if (m->runs && (i == s->n || m->runs == UVMM_ZAP_RUNS)) {
			seq = zap_send_locked(e, g, m);
			for (; from < i; from++)
				if (s->page[from].state == SAMPLE_PENDING)
					s->page[from].seq = seq;
			m->runs = 0;
		}
		if (i < s->n) {
			m->run[m->runs++] = (struct uvmm_range){ s->page[i].ppn, 1 };
			s->pending++;
		}
	}
}

static uint32_t touched_locked(const struct sample *s)
{
	uint32_t i, n = 0;

	for (i = 0; i < s->n; i++)
		n += s->page[i].state == SAMPLE_TOUCHED;
	return n;
}

/* Told is what is known of all pages, or nothing. */
static void tell_locked(struct sample *s, bool all)
{
	uint32_t i, n = 0;

	for (i = 0; i < s->n && all; i++)
		n += s->page[i].state != SAMPLE_REFUSED;
	atomic_store(&s->touched, all ? touched_locked(s) : 0);
	atomic_store(&s->sampled, n);
}

void sample_zapped_locked(struct guest *g, uint32_t seq, const uint64_t *done)
{
	struct sample *s = &g->activity.sample;
	uint32_t i, run = 0;

	for (i = 0; i < s->n && run < UVMM_ZAP_RUNS; i++) {
		struct sample_page *p = &s->page[i];

		if (p->state != SAMPLE_PENDING || p->seq != seq)
			continue;
		p->state = done[run / 64] >> (run % 64) & 1 ? SAMPLE_UNMAPPED : SAMPLE_REFUSED;
		run++;
		s->pending--;
	}
	if (run && !s->pending)
		tell_locked(s, true);
}

/* --- looking ------------------------------------------------------------------------ */

static bool was_touched(const struct guest *g, struct sample_page *p)
{
	uint64_t word, chunk = p->ppn / UVMM_CHUNK_PAGES;
	enum page_state s = PAGE_PRESENT;

	if (pmap_chunk_marked(&g->pmap, chunk) || pmap_chunk_away(&g->pmap, chunk))
		s = pmap_state(pmap_get(&g->pmap, p->ppn));
	if (s == PAGE_BALLOONED) {
		/* It has no contents any more. */
		p->state = SAMPLE_REFUSED;
		return false;
	}
	if (s == PAGE_STORED)
		p->state = SAMPLE_STORED;
	else if (p->state == SAMPLE_STORED && s == PAGE_PRESENT)
		return true;
	if (!pagemap_read(g->pagemap_fd, guest_addr(g, p->ppn), 1, &word) ||
	    !pagemap_is_mapped(word))
		return false;
	/* Mapped with its neighbours, whichever of them was touched. */
	if (g->activity.sample.fine &&
	    pagemap_is_large(g->pagemap_fd, guest_addr(g, p->ppn))) {
		p->state = SAMPLE_REFUSED;
		return false;
	}
	return true;
}

/* Chunks that are to become large pages again. */
struct mending {
	uint32_t chunk[UVMM_SAMPLE_PAGES_MAX];
	uint32_t n;
	struct uvmm_zap order;
};

/* Those of which all that is watched was touched; with `all` whatever was broken. */
static void find_broken(struct sample_page *p, uint32_t n, bool all, struct mending *m)
{
	uint32_t i, k, to;
	bool broke, waits;

	for (i = 0; i < n; i = to) {
		to = end_of_chunk(p, i, n);
		broke = waits = false;
		for (k = i; k < to; k++) {
			broke |= p[k].broke;
			waits |= p[k].state != SAMPLE_TOUCHED && p[k].state != SAMPLE_REFUSED;
		}
		if (!broke || (waits && !all))
			continue;
		for (k = i; k < to; k++)
			p[k].broke = false;
		m->chunk[m->n++] = (uint32_t)(p[i].ppn / UVMM_CHUNK_PAGES);
	}
}

static void mend(struct uvmm_engine *e, struct guest *g, struct mending *m)
{
	uint32_t i;

	m->order.runs = 0;
	for (i = 0; i < m->n && m->order.runs < UVMM_ZAP_RUNS; i++)
		idle_mend(g, m->chunk[i], &m->order);
	if (m->order.runs)
		zap_scan_send(e, g, &m->order, clock_ns());
}

/* The process has not run since the sample began. */
static bool is_frozen_locked(const struct guest *g, uint64_t now_ns)
{
	const struct sample *s = &g->activity.sample;

	return now_ns > s->began_ns + FROZEN_NS && clock_process_ns(g->pid) == s->ran_ns;
}

static void look_locked(struct guest *g, uint64_t now_ns)
{
	struct sample *s = &g->activity.sample;
	uint32_t i;

	for (i = 0; i < s->n; i++) {
		struct sample_page *p = &s->page[i];

		if ((p->state == SAMPLE_UNMAPPED || p->state == SAMPLE_STORED) && was_touched(g, p))
			p->state = SAMPLE_TOUCHED;
	}
	tell_locked(s, !s->pending || is_frozen_locked(g, now_ns));
}

void sample_look(struct uvmm_engine *e, struct guest *g, uint64_t now_ns, unsigned guests)
{
	struct sample *s = &g->activity.sample;
	uint64_t most = LOOK_NS > guests * GUEST_LOOK_NS ? LOOK_NS : guests * GUEST_LOOK_NS;
	struct mending m;

	m.n = 0;
	lock(&g->activity.lock);
	if (s->n && now_ns >= s->look_ns) {
		look_locked(g, now_ns);
		find_broken(s->page, s->n, false, &m);
		s->pause_ns = 2 * s->pause_ns < most ? 2 * s->pause_ns : most;
		s->look_ns = now_ns + s->pause_ns;
	}
	unlock(&g->activity.lock);
	mend(e, g, &m);
}

bool sample_saw(struct guest *g, const struct activity_look *l)
{
	struct sample *s = &g->activity.sample;
	struct sample_page *p;
	uint32_t lo = 0, hi, mid;
	bool watched = false, large;

	/* What is mapped as one tells nothing: see was_touched(). */
	large = l->pages == UVMM_CHUNK_PAGES && g->activity.sample.fine &&
		pagemap_is_large(g->pagemap_fd, guest_addr(g, l->chunk * UVMM_CHUNK_PAGES));
	lock(&g->activity.lock);
	for (hi = s->n; lo < hi;) {
		mid = (lo + hi) / 2;
		if (s->page[mid].ppn / UVMM_CHUNK_PAGES < l->chunk)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < s->n && s->page[lo].ppn / UVMM_CHUNK_PAGES == l->chunk; lo++) {
		p = &s->page[lo];
		if (p->state == SAMPLE_UNMAPPED && !large && activity_is_mapped(l, p->ppn))
			p->state = SAMPLE_TOUCHED;
		watched |= p->state != SAMPLE_TOUCHED && p->state != SAMPLE_REFUSED;
	}
	unlock(&g->activity.lock);
	return watched;
}

/* --- beginning and end ---------------------------------------------------------------- */

/* The drawn pages are watched from now on, so that the scan knows of them before large pages
 * are broken. The former ones are the caller's. */
static struct sample_page *exchange(struct guest *g, const struct draw *d, bool fine,
				    uint64_t *number, struct mending *m)
{
	struct sample *s = &g->activity.sample;
	struct sample_page *former;

	lock(&g->activity.lock);
	former = s->page;
	find_broken(former, s->n, true, m);
	s->page = d->page;
	s->n = s->pending = d->n;
	s->fine = fine;
	s->began_ns = clock_ns();
	s->pause_ns = FIRST_LOOK_NS;
	s->look_ns = s->began_ns + s->pause_ns;
	s->ran_ns = clock_process_ns(g->pid);
	tell_locked(s, false);
	*number = atomic_fetch_add(&s->begun, 1) + 1;
	unlock(&g->activity.lock);
	return former;
}

/* Large pages are broken, and the agent is to do the rest. */
static void go_on(struct uvmm_engine *e, struct guest *g, const struct sample_page *p,
		  uint64_t number, struct uvmm_zap *order)
{
	struct sample *s = &g->activity.sample;
	uint32_t i;

	order->runs = 0;
	lock(&g->activity.lock);
	if (atomic_load(&s->begun) == number) {
		memcpy(s->page, p, s->n * sizeof(*p));
		for (i = 0; i < s->n; i++)
			if (p[i].state != SAMPLE_STORED)
				activity_watched(g, p[i].ppn,
						 p[i].broke || p[i].state == SAMPLE_PENDING);
		s->pending = 0;
		send_locked(e, g, order);
		tell_locked(s, !s->pending);
	}
	unlock(&g->activity.lock);
}

static int draw(struct draw *d, uint32_t pages)
{
	d->page = calloc(pages, sizeof(*d->page));
	if (!d->page || list_chunks(d)) {
		free(d->page);
		return -ENOMEM;
	}
	draw_pages(d, pages);
	free(d->chunk);
	return 0;
}

int sample_begin(struct uvmm_engine *e, struct guest *g, uint32_t pages)
{
	bool fine = e->machine.mends_large;
	struct draw d = { .g = g };
	struct sample_page *copy;
	struct mending m;
	uint64_t number;
	int rc = draw(&d, pages);

	if (rc)
		return rc;
	copy = malloc(pages * sizeof(*copy));
	if (!copy) {
		free(d.page);
		return -ENOMEM;
	}
	memcpy(copy, d.page, d.n * sizeof(*copy));
	m.n = 0;
	free(exchange(g, &d, fine, &number, &m));
	if (fine)
		break_large(g, copy, d.n);
	go_on(e, g, copy, number, &m.order);
	free(copy);
	mend(e, g, &m);
	return 0;
}

void sample_clear(struct sample *s)
{
	free(s->page);
	s->page = NULL;
	s->n = s->pending = 0;
	atomic_store(&s->sampled, 0);
	atomic_store(&s->touched, 0);
}
