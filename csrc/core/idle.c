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
#define RUN_NS 1500                     /* and each run of some of them */
#define VISIT_LARGE_NS 20000            /* a large page, with its return */
#define ROUND_NS (16 * NS_PER_S)        /* not quicker than that by the permille that it may cost */
#define ROUND_EAGER_NS (2 * NS_PER_S)
#define MOVED_NS (10 * NS_PER_S)        /* so long a guest was reclaimed from lately */
#define SAVED_NS NS_PER_S               /* of the guest's time, whose part may be saved up */
#define LOAD_PAYS_NS 3000               /* a fault for a stored page, which costs more than thrice that */
#define LOADS_SAVED_NS (20 * NS_PER_MS)
#define ROUND_LOADS_NS (100 * NS_PER_MS)
#define CHUNKS_AT_ONCE 64u
#define RETURNS_MAX 3u                  /* then one round of eight */
#define FULL 1024u

struct visit {
	struct guest *g;
	bool fine;              /* large pages are broken */
	bool mends;             /* what was broken becomes large again */
	bool eager;
	bool loads;             /* the guest has waited for stored pages */
	uint64_t permille;
	uint32_t round;
	struct uvmm_zap *order;
	uint64_t cost_ns;
	struct activity_visit seen;
};

/* --- one chunk ---------------------------------------------------------------------- */

/* How many of so many pages that were unmapped are mapped again, in 1/FULL. */
static uint32_t part_of(uint32_t mapped, uint32_t unmapped)
{
	return mapped < unmapped ? mapped * FULL / unmapped : FULL;
}

static bool is_in(const uint64_t *bits, uint64_t ppn)
{
	ppn %= UVMM_CHUNK_PAGES;
	return bits[ppn / 64] >> (ppn % 64) & 1;
}

/* The page may be unmapped with others. */
static bool may_go(const struct visit *v, uint64_t ppn, bool away)
{
	return !is_in(v->seen.left, ppn) && (!away || pmap_is_home(pmap_get(&v->g->pmap, ppn)));
}

/* The run from `at`, up to its last page that is mapped; how many pages. */
static uint64_t run_length(const struct visit *v, uint64_t at, uint64_t end, bool away)
{
	uint64_t ppn = at, last = at;

	for (; ppn < end && may_go(v, ppn, away); ppn++)
		if (activity_is_mapped(&v->seen.look, ppn))
			last = ppn + 1;
	return last - at;
}

/* What is to be unmapped: what is mapped, home, and not left. */
static void add_runs(struct visit *v)
{
	uint64_t at = v->seen.look.chunk * UVMM_CHUNK_PAGES, end = at + UVMM_CHUNK_PAGES, n;
	bool away = pmap_chunk_away(&v->g->pmap, v->seen.look.chunk);
	struct uvmm_zap *m = v->order;

	for (; at < end && m->runs < UVMM_ZAP_RUNS; at += n ? n : 1) {
		n = activity_is_mapped(&v->seen.look, at) ? run_length(v, at, end, away) : 0;
		if (!n)
			continue;
		m->run[m->runs++] = (struct uvmm_range){ at, n };
		v->cost_ns += RUN_NS;
	}
}

/* All of a chunk, as one; or, so that it keeps its page table and does not become large by
 * that, as two. */
static void add_chunk(struct visit *v, bool whole)
{
	uint64_t at = v->seen.look.chunk * UVMM_CHUNK_PAGES, half = UVMM_CHUNK_PAGES / 2;
	struct uvmm_zap *m = v->order;

	if (whole) {
		m->run[m->runs++] = (struct uvmm_range){ at, UVMM_CHUNK_PAGES };
	} else {
		m->run[m->runs++] = (struct uvmm_range){ at, half };
		m->run[m->runs++] = (struct uvmm_range){ at + half, half };
	}
}

static uint64_t cost_of(const struct guest *g, uint64_t chunk, uint32_t pages)
{
	const struct idle_scan *s = &g->activity.scan;
	uint64_t each = atomic_load(&g->armed[chunk]) == CHUNK_SHIELDED ? MESSAGE_NS :
									 SOFT_FAULT_NS;
	uint32_t part = s->returned > s->returned_soon ? s->returned : s->returned_soon;

	return VISIT_NS + pages * each * part / FULL;
}

/* Has the mapped pages unmapped, but for those that are left. */
static void unmap(struct visit *v, bool large, bool fine)
{
	static const uint64_t one[UVMM_CHUNK_PAGES / 64] = { 1 };
	const struct activity_look *l = &v->seen.look;

	if (!v->mends)
		v->cost_ns += large && !fine ? VISIT_LARGE_NS :
				cost_of(v->g, l->chunk, l->pages - v->seen.lefts);
	if (large && fine && !activity_break(v->g, l->chunk, one, true))
		return;
	if (v->seen.lefts || pmap_chunk_away(&v->g->pmap, l->chunk))
		add_runs(v);
	else
		add_chunk(v, !fine);
}

/* Learns how much comes back, and how soon the chunk is worth a look again. */
static void learn(struct visit *v)
{
	const struct activity_look *l = &v->seen.look;
	struct activity_chunk *c = &v->g->activity.chunk[l->chunk];
	struct idle_scan *s = &v->g->activity.scan;
	uint32_t part;

	if (c->unmapped) {
		part = part_of(v->seen.returned, c->unmapped);
		s->returned = (7 * s->returned + part) / 8;
		if (part < 3 * FULL / 4)
			c->returns = 0;
		else if (c->returns < RETURNS_MAX)
			c->returns++;
		c->rest = (uint8_t)((1u << (v->eager ? c->returns / 2 : c->returns)) - 1);
	}
	if (l->pages && !v->seen.lefts) {
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
	uint64_t addr = guest_addr(v->g, chunk * UVMM_CHUNK_PAGES);
	struct activity_look *l = &v->seen.look;
	struct guest *g = v->g;
	bool large, fine;

	if (!pmap_chunk_claim(&g->pmap, chunk))
		return;
	activity_look(g, chunk, l);
	if (l->known && !l->foreign) {
		large = l->pages == UVMM_CHUNK_PAGES && pagemap_is_large(g->pagemap_fd, addr);
		fine = sample_saw(g, l) || v->fine;
		/* What is to become large is unmapped as a whole. */
		activity_visit(g, v->round, large || v->mends, &v->seen);
		if (!v->mends)
			learn(v);
		g->activity.chunk[chunk].unmapped = (uint16_t)(l->pages - v->seen.lefts);
		atomic_fetch_add(&g->activity.scan.scanned, l->pages - v->seen.lefts);
		activity_account(g, l);
		if (l->pages > v->seen.lefts)
			unmap(v, large, fine);
	}
	pmap_chunk_release(&g->pmap, chunk);
}

void idle_mend(struct guest *g, uint64_t chunk, struct uvmm_zap *m)
{
	struct visit v = { .g = g, .order = m, .mends = true };

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

/* For what loads it caused the guest pays, too: victims are badly chosen, maybe. */
static void pay(struct visit *v, uint64_t permille, uint64_t now_ns)
{
	struct idle_scan *s = &v->g->activity.scan;
	uint64_t ran = clock_process_ns(v->g->pid), most = SAVED_NS * permille / 1000;
	uint64_t used = ran > s->ran_ns ? ran - s->ran_ns : 0;
	uint64_t loads = atomic_load(&v->g->loads);

	if (!s->at_ns) {
		s->at_ns = now_ns;
		s->loads = loads;
	}
	used = used > now_ns - s->at_ns ? used : now_ns - s->at_ns;
	v->loads = permille && loads != s->loads;
	if (v->loads) {
		s->credit_ns += (int64_t)((loads - s->loads) * LOAD_PAYS_NS);
		most = most > LOADS_SAVED_NS ? most : LOADS_SAVED_NS;
	}
	s->credit_ns += (int64_t)(used * permille / 1000);
	if (s->credit_ns > (int64_t)most)
		s->credit_ns = (int64_t)most;
	s->at_ns = now_ns;
	s->ran_ns = ran;
	s->loads = loads;
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

static uint64_t round_ns(const struct visit *v)
{
	uint64_t ns = (v->eager ? ROUND_EAGER_NS : ROUND_NS) / v->permille;

	return v->loads && ns > ROUND_LOADS_NS ? ROUND_LOADS_NS : ns;
}

static void go_round(struct visit *v, uint64_t now_ns)
{
	struct idle_scan *s = &v->g->activity.scan;
	uint64_t chunk;
	unsigned n;

	/* A chunk may need half as many runs as it has pages. */
	for (n = 0; n < CHUNKS_AT_ONCE && s->credit_ns > 0 &&
		    v->order->runs < UVMM_ZAP_RUNS - UVMM_CHUNK_PAGES / 2; n++) {
		if (!next_chunk(v->g, &chunk)) {
			s->chunk = 0;
			s->round++;
			s->round_ns = now_ns + round_ns(v);
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
	struct uvmm_zap order;
	struct visit v = {
		.g = g,
		.fine = pressed && e->machine.mends_large,
		.eager = pressed || pressure_is_short(&e->pressure),
		.order = &order,
		.permille = permille,
		.round = g->activity.scan.round,
	};

	order.runs = 0;
	pay(&v, v.eager ? permille : permille / 2, now_ns);
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
