/* SPDX-License-Identifier: MIT */
#include "idle.h"

#include <string.h>

#include "clock.h"
#include "engine.h"
#include "pagemap.h"

#define SOFT_FAULT_NS 4500              /* a page that comes back: by the kernel alone, in a
					 * guest with caches to lose */
#define MESSAGE_NS 12000                /* and in a shielded chunk */
#define VISIT_NS 40000                  /* unmapping a chunk of small pages */
#define VISIT_LARGE_NS 20000            /* a large page, with its return */
#define ROUND_NS (16 * NS_PER_S)        /* not quicker than that by the permille that it may cost */
#define ROUND_EAGER_NS (2 * NS_PER_S)
#define MOVED_NS (10 * NS_PER_S)        /* so long a guest was reclaimed from lately */
#define SAVED_NS ((int64_t)NS_PER_S)    /* of the guest's time, whose part may be saved up */
#define CHUNKS_AT_ONCE 64u
#define RETURNS_MAX 3u                  /* then one round of eight */
#define FULL 1024u

struct visit {
	struct guest *g;
	bool fine;              /* large pages are broken */
	bool eager;
	uint64_t permille;
	struct uvmm_zap *order;
	uint64_t cost_ns;
};

/* --- one chunk ---------------------------------------------------------------------- */

/* How many of so many pages that were unmapped are mapped again, in 1/FULL. */
static uint32_t part_of(uint32_t mapped, uint32_t unmapped)
{
	return mapped < unmapped ? mapped * FULL / unmapped : FULL;
}

/* What is to be unmapped: all that is home. A chunk that is to be looked at page by page in
 * halves, so that it keeps its page table and does not become large by that. */
static void add_runs(const struct visit *v, uint64_t chunk, bool whole)
{
	uint64_t at = chunk * UVMM_CHUNK_PAGES, end = at + UVMM_CHUNK_PAGES, to, half;
	bool away = pmap_chunk_away(&v->g->pmap, chunk);
	struct uvmm_zap *m = v->order;

	half = whole ? end : at + UVMM_CHUNK_PAGES / 2;
	for (; at < end && m->runs < UVMM_ZAP_RUNS; at = to > at ? to : to + 1) {
		for (to = at; to < (at < half ? half : end) &&
			      (!away || pmap_is_home(pmap_get(&v->g->pmap, to))); to++)
			;
		if (to > at)
			m->run[m->runs++] = (struct uvmm_range){ at, to - at };
	}
}

static uint64_t cost_of(const struct guest *g, uint64_t chunk, uint32_t pages)
{
	const struct idle_scan *s = &g->activity.scan;
	uint64_t each = atomic_load(&g->armed[chunk]) == CHUNK_SHIELDED ? MESSAGE_NS :
									 SOFT_FAULT_NS;
	uint32_t all = s->returned, soon = s->returned_soon, part = all > soon ? all : soon;

	return VISIT_NS + pages * each * part / FULL;
}

/* Has the mapped pages unmapped. */
static void unmap(struct visit *v, const struct activity_look *l, bool fine)
{
	static const uint64_t one[UVMM_CHUNK_PAGES / 64] = { 1 };
	uint64_t addr = guest_addr(v->g, l->chunk * UVMM_CHUNK_PAGES);
	bool large = l->pages == UVMM_CHUNK_PAGES && pagemap_is_large(v->g->pagemap_fd, addr);

	v->cost_ns += large && !fine ? VISIT_LARGE_NS : cost_of(v->g, l->chunk, l->pages);
	if (!large || !fine || activity_break(v->g, l->chunk, one, true))
		add_runs(v, l->chunk, !fine);
}

/* Learns how much comes back, and how soon the chunk is worth a look again. */
static void learn(struct visit *v, const struct activity_look *l)
{
	struct activity_chunk *c = &v->g->activity.chunk[l->chunk];
	struct idle_scan *s = &v->g->activity.scan;
	uint32_t part;

	if (c->unmapped) {
		part = part_of(l->pages, c->unmapped);
		s->returned = (7 * s->returned + part) / 8;
		if (part < 3 * FULL / 4)
			c->returns = 0;
		else if (c->returns < RETURNS_MAX)
			c->returns++;
		c->rest = (uint8_t)((1u << (v->eager ? c->returns / 2 : c->returns)) - 1);
	}
	c->unmapped = (uint16_t)l->pages;
	if (l->pages) {
		s->last = l->chunk;
		s->last_pages = l->pages;
	}
}

/* The same, of the last chunk that was visited, some time later. */
static void learn_soon(struct guest *g)
{
	struct idle_scan *s = &g->activity.scan;
	struct activity_look l;

	if (!s->last_pages)
		return;
	activity_look(g, s->last, &l);
	s->returned_soon = (s->returned_soon + part_of(l.pages, s->last_pages)) / 2;
	s->last_pages = 0;
}

static void visit(struct visit *v, uint64_t chunk)
{
	struct guest *g = v->g;
	struct activity_look l;
	bool watched;

	if (!pmap_chunk_claim(&g->pmap, chunk))
		return;
	activity_look(g, chunk, &l);
	if (l.known && !l.foreign) {
		learn(v, &l);
		atomic_fetch_add(&g->activity.scan.scanned, l.pages);
		watched = sample_saw(g, &l);
		activity_keep(g, &l, true);
		activity_account(g, &l);
		if (l.pages)
			unmap(v, &l, v->fine || watched);
	}
	pmap_chunk_release(&g->pmap, chunk);
}

void idle_mend(struct guest *g, uint64_t chunk, struct uvmm_zap *m)
{
	struct visit v = { .g = g, .order = m };

	visit(&v, chunk);
}

/* --- a guest's turn ------------------------------------------------------------------- */

static bool was_moved_lately(struct guest *g, uint64_t now_ns)
{
	uint64_t moved = atomic_load(&g->pages_out) + atomic_load(&g->zero_dropped);
	struct idle_scan *s = &g->activity.scan;

	if (moved != s->moved)
		s->moved_ns = now_ns;
	s->moved = moved;
	return s->moved_ns && now_ns < s->moved_ns + MOVED_NS;
}

/* It has been reclaimed from, or will be soon. */
static bool is_pressed(const struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	return was_moved_lately(g, now_ns) ||
	       (pressure_is_short(&e->pressure) &&
		machine_file_pages(g->memfd) > atomic_load(&g->target_pages));
}

static void pay(struct guest *g, uint64_t permille, uint64_t now_ns)
{
	struct idle_scan *s = &g->activity.scan;
	uint64_t ran = clock_process_ns(g->pid), most = (uint64_t)SAVED_NS * permille / 1000;
	uint64_t used = ran > s->ran_ns ? ran - s->ran_ns : 0;

	if (!s->at_ns)
		s->at_ns = now_ns;
	used = used > now_ns - s->at_ns ? used : now_ns - s->at_ns;
	s->credit_ns += (int64_t)(used * permille / 1000);
	if (s->credit_ns > (int64_t)most)
		s->credit_ns = (int64_t)most;
	s->at_ns = now_ns;
	s->ran_ns = ran;
}

/* The next chunk that may have mapped pages, and is not left out; false: the round is over. */
static bool next_chunk(struct guest *g, uint64_t *chunk)
{
	struct idle_scan *s = &g->activity.scan;

	while (s->chunk < g->pmap.chunks) {
		uint64_t data = machine_seek_data(g->memfd, s->chunk * UVMM_CHUNK_PAGES);
		struct activity_chunk *c;

		s->chunk = data == UINT64_MAX ? g->pmap.chunks : data / UVMM_CHUNK_PAGES + 1;
		if (data == UINT64_MAX)
			break;
		*chunk = s->chunk - 1;
		c = &g->activity.chunk[*chunk];
		if (!c->rest)
			return true;
		c->rest--;
	}
	return false;
}

static void go_round(struct visit *v, uint64_t now_ns)
{
	struct idle_scan *s = &v->g->activity.scan;
	uint64_t chunk;
	unsigned n;

	for (n = 0; n < CHUNKS_AT_ONCE && s->credit_ns > 0 &&
		    v->order->runs < UVMM_ZAP_RUNS / 2; n++) {
		if (!next_chunk(v->g, &chunk)) {
			s->chunk = 0;
			s->round_ns = now_ns +
				      (v->eager ? ROUND_EAGER_NS : ROUND_NS) / v->permille;
			break;
		}
		v->cost_ns = 0;
		visit(v, chunk);
		s->credit_ns -= (int64_t)v->cost_ns;
	}
}

void idle_scan(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	uint64_t permille = atomic_load(&e->idle_cost_permille);
	bool pressed = is_pressed(e, g, now_ns);
	struct uvmm_zap order = { .runs = 0 };
	struct visit v = {
		.g = g,
		.fine = pressed && e->machine.mends_large,
		.eager = pressed || pressure_is_short(&e->pressure),
		.order = &order,
		.permille = permille,
	};

	pay(g, v.eager ? permille : permille / 2, now_ns);
	if (!permille || g->activity.scan.credit_ns <= 0 || g->pagemap_fd < 0 ||
	    now_ns < g->activity.scan.round_ns || !zap_scan_may(g, now_ns))
		return;
	learn_soon(g);
	go_round(&v, now_ns);
	if (order.runs)
		zap_scan_send(e, g, &order, now_ns);
}

void idle_clear(struct idle_scan *s)
{
	uint64_t scanned = atomic_load(&s->scanned);

	memset(s, 0, sizeof(*s));
	s->returned_soon = FULL;
	atomic_store(&s->scanned, scanned);
}
