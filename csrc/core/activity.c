/* SPDX-License-Identifier: MIT */
#include "activity.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "guest.h"
#include "pagemap.h"
#include "uffd.h"

#define UNMAPPED 0x8000u
#define RETURNS_SHIFT 12
#define RETURNS_MAX 7u
#define TICK_MASK 0x0fffu
#define AGE_MAX (IDLE_TICKS / 2)

/* --- life ------------------------------------------------------------------------ */

static uint64_t note_bytes(uint64_t pages)
{
	return pages * sizeof(uint16_t);
}

static uint64_t chunk_bytes(uint64_t pages)
{
	return (pages + UVMM_CHUNK_PAGES - 1) / UVMM_CHUNK_PAGES * sizeof(struct activity_chunk);
}

/* Sparse: what nothing is noted of costs addresses only. */
static void *map_sparse(uint64_t bytes)
{
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

int activity_init(struct guest_activity *a, uint64_t pages)
{
	a->note = map_sparse(note_bytes(pages));
	a->chunk = map_sparse(chunk_bytes(pages));
	if (a->note && a->chunk)
		return 0;
	activity_fini(a, pages);
	return -ENOMEM;
}

void activity_fini(struct guest_activity *a, uint64_t pages)
{
	if (a->note)
		munmap((void *)a->note, note_bytes(pages));
	if (a->chunk)
		munmap(a->chunk, chunk_bytes(pages));
	a->note = NULL;
	a->chunk = NULL;
	victims_fini(&a->victims);
	sample_clear(&a->sample);
}

void activity_clear(struct guest_activity *a, uint64_t pages)
{
	size_t i;

	if (a->note)
		madvise((void *)a->note, note_bytes(pages), MADV_DONTNEED);
	if (a->chunk)
		madvise(a->chunk, chunk_bytes(pages), MADV_DONTNEED);
	for (i = 0; i < UVMM_IDLE_AGES; i++)
		atomic_store(&a->idle[i], 0);
	zap_clear(&a->zaps);
	sample_clear(&a->sample);
	victims_clear(&a->victims);
	idle_clear(&a->scan);
}

void activity_fill(const struct guest_activity *a, struct uvmm_guest_stats *s)
{
	int k;

	s->samples = atomic_load(&a->sample.begun);
	s->sampled_pages = atomic_load(&a->sample.sampled);
	s->sample_touched_pages = atomic_load(&a->sample.touched);
	/* One is read after the other while they change. */
	if (s->sample_touched_pages > s->sampled_pages)
		s->sample_touched_pages = s->sampled_pages;
	s->idle_scanned_pages = atomic_load(&a->scan.scanned);
	for (k = 0; k < UVMM_IDLE_AGES; k++)
		s->idle_pages[k] = atomic_load(&a->idle[k]);
}

/* --- notes ------------------------------------------------------------------------ */

static uint16_t note_of(const struct guest *g, uint64_t ppn)
{
	return atomic_load_explicit(&g->activity.note[ppn], memory_order_relaxed);
}

static void set_note(struct guest *g, uint64_t ppn, uint16_t note)
{
	atomic_store_explicit(&g->activity.note[ppn], note, memory_order_relaxed);
}

static unsigned returns_of(uint16_t note)
{
	return note >> RETURNS_SHIFT & RETURNS_MAX;
}

static uint16_t make_note(uint16_t tick, unsigned returns, bool unmapped)
{
	return (uint16_t)(tick | returns << RETURNS_SHIFT | (unmapped ? UNMAPPED : 0));
}

void activity_loaded(struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint16_t tick = idle_tick(clock_ns());

	for (; pages; pages--)
		set_note(g, ppn++, tick);
}

void activity_returned(struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint16_t tick = idle_tick(clock_ns());

	for (; pages; pages--, ppn++)
		set_note(g, ppn, make_note(tick, returns_of(note_of(g, ppn)), true));
}

void activity_emptied(struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint64_t end = ppn + pages;

	for (; ppn < end; ppn++) {
		if (!atomic_load(&g->activity.chunk[ppn / UVMM_CHUNK_PAGES].tick))
			ppn |= UVMM_CHUNK_PAGES - 1;    /* nothing to forget */
		else if (note_of(g, ppn))
			set_note(g, ppn, 0);
	}
}

void activity_watched(struct guest *g, uint64_t ppn, bool was_mapped)
{
	uint16_t note = note_of(g, ppn);

	if (was_mapped || !note)
		note = make_note(idle_tick(clock_ns()), returns_of(note), true);
	set_note(g, ppn, note | UNMAPPED);
}

bool activity_is_unmapped(const struct guest *g, uint64_t ppn)
{
	return note_of(g, ppn) & UNMAPPED;
}

/* --- looking ---------------------------------------------------------------------- */

void activity_look(const struct guest *g, uint64_t chunk, struct activity_look *l)
{
	uint64_t word[UVMM_CHUNK_PAGES], ppn = chunk * UVMM_CHUNK_PAGES;
	size_t i, n;

	*l = (struct activity_look){ .chunk = chunk, .tick = idle_tick(clock_ns()) };
	n = pagemap_read(g->pagemap_fd, guest_addr(g, ppn), UVMM_CHUNK_PAGES, word);
	l->known = n == UVMM_CHUNK_PAGES;
	for (i = 0; i < n; i++) {
		if (!pagemap_is_mapped(word[i]))
			continue;
		l->mapped[i / 64] |= 1ull << (i % 64);
		l->pages++;
		if (pagemap_is_anonymous(word[i]) &&
		    (!pmap_chunk_away(&g->pmap, chunk) || pmap_is_home(pmap_get(&g->pmap, ppn + i))))
			l->foreign = true;
	}
}

enum activity_grade activity_grade(const struct guest *g, uint64_t ppn,
				   const struct activity_look *l)
{
	uint16_t note = note_of(g, ppn);
	unsigned seconds, k;

	if (!l->known)
		return GRADE_UNKNOWN;
	if (activity_is_mapped(l, ppn))
		return note & UNMAPPED || returns_of(note) ? GRADE_HOT : GRADE_UNKNOWN;
	seconds = note ? idle_age(l->tick, note & TICK_MASK) / IDLE_TICKS_PER_S : 0;
	if (!seconds)
		return GRADE_RESTING;
	for (k = 0; k + 1 < UVMM_IDLE_AGES && seconds >> (k + 1); k++)
		;
	return GRADE_IDLE + k;
}

bool activity_rests_since(const struct guest *g, uint64_t ppn, const struct activity_look *l,
			  uint64_t since_ns)
{
	uint16_t note = note_of(g, ppn);
	uint64_t age_ns = clock_ns() - since_ns;

	/* Notes go round, and are clamped before they do. */
	return l->known && !activity_is_mapped(l, ppn) && note &&
	       age_ns < AGE_MAX / 2 * (NS_PER_S / IDLE_TICKS_PER_S) &&
	       idle_age(l->tick, note & TICK_MASK) > idle_age(l->tick, idle_tick(since_ns)) + 1;
}

/* The page may be one that the scan knows of, by its note, and is resident and home. To look
 * at the page map of a chunk of which nothing ever was moved would only fill it. */
static bool counts(const struct guest *g, uint64_t ppn, bool moved)
{
	return note_of(g, ppn) &&
	       (!moved || pmap_state(pmap_get(&g->pmap, ppn)) == PAGE_PRESENT);
}

static bool was_moved(const struct guest *g, uint64_t chunk)
{
	return pmap_chunk_marked(&g->pmap, chunk) || pmap_chunk_away(&g->pmap, chunk);
}

static void store_counts(struct guest *g, struct activity_chunk *c,
			 const uint16_t count[ACTIVITY_GRADES])
{
	uint16_t sum = 0;
	int k;

	for (k = UVMM_IDLE_AGES - 1; k >= 0; k--) {
		sum = (uint16_t)(sum + count[GRADE_IDLE + k]);
		atomic_fetch_add(&g->activity.idle[k],
				 (uint64_t)sum - atomic_exchange(&c->idle[k], sum));
	}
}

void activity_account(struct guest *g, const struct activity_look *l)
{
	struct activity_chunk *c = &g->activity.chunk[l->chunk];
	uint64_t ppn = l->chunk * UVMM_CHUNK_PAGES, end = ppn + UVMM_CHUNK_PAGES;
	uint16_t count[ACTIVITY_GRADES] = { 0 };
	bool moved = was_moved(g, l->chunk);
	uint32_t grades = 0, grade;

	for (; ppn < end; ppn++)
		if (!activity_is_mapped(l, ppn) && counts(g, ppn, moved))
			count[activity_grade(g, ppn, l)]++;
	store_counts(g, c, count);
	for (grade = GRADE_RESTING; grade < ACTIVITY_GRADES; grade++)
		grades |= count[grade] ? 1u << grade : 0;
	atomic_store(&c->grades, (uint16_t)grades);
	atomic_store(&c->tick, l->tick);
}

/* An old note that would come to look young when ticks go round. */
static uint16_t clamped(uint16_t note, uint16_t tick)
{
	if (!note || idle_age(tick, note & TICK_MASK) <= AGE_MAX)
		return note;
	tick = (uint16_t)(1 + (tick - 1u + IDLE_TICKS - AGE_MAX) % IDLE_TICKS);
	return (uint16_t)((note & ~TICK_MASK) | tick);
}

void activity_keep(struct guest *g, const struct activity_look *l)
{
	uint64_t ppn = l->chunk * UVMM_CHUNK_PAGES, end = ppn + UVMM_CHUNK_PAGES;

	for (; ppn < end; ppn++)
		if (activity_is_mapped(l, ppn))
			set_note(g, ppn, make_note(l->tick, returns_of(note_of(g, ppn)), false));
}

/* It has come back so often that it is left mapped this time. */
static bool is_left(uint64_t ppn, unsigned returns, uint32_t round)
{
	uint64_t hash = ppn * 0x9e3779b97f4a7c15u + round * 0xbf58476d1ce4e5b9u;

	return hash >> 32 & ((1u << returns) - 1);
}

static void visit_mapped(struct guest *g, uint64_t ppn, uint32_t round, bool all,
			 struct activity_visit *v)
{
	uint16_t note = note_of(g, ppn);
	unsigned returns = returns_of(note);
	bool leave;

	if (note & UNMAPPED) {
		v->returned++;
		returns += returns < RETURNS_MAX;
	}
	leave = !all && is_left(ppn, returns, round);
	set_note(g, ppn, make_note(v->look.tick, returns, !leave));
	if (leave) {
		v->left[ppn % UVMM_CHUNK_PAGES / 64] |= 1ull << (ppn % 64);
		v->lefts++;
	}
}

void activity_visit(struct guest *g, uint32_t round, bool all, struct activity_visit *v)
{
	uint64_t ppn = v->look.chunk * UVMM_CHUNK_PAGES, end = ppn + UVMM_CHUNK_PAGES;

	memset(v->left, 0, sizeof(v->left));
	v->returned = v->lefts = 0;
	for (; ppn < end; ppn++) {
		uint16_t note = clamped(note_of(g, ppn), v->look.tick);

		if (activity_is_mapped(&v->look, ppn))
			visit_mapped(g, ppn, round, all, v);
		else if (note & UNMAPPED)
			set_note(g, ppn, make_note(note & TICK_MASK, returns_of(note) / 2, true));
		else
			set_note(g, ppn, note);
	}
}

void activity_breaks(struct guest *g, uint64_t chunk)
{
	struct activity_look l;

	if (!pagemap_is_large(g->pagemap_fd, guest_addr(g, chunk * UVMM_CHUNK_PAGES)))
		return;
	activity_look(g, chunk, &l);
	if (l.known)
		activity_keep(g, &l);
}

/* --- breaking --------------------------------------------------------------------- */

static bool is_bit(const uint64_t *bits, uint64_t i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

/* Those of the chunk that are not to be left out are mapped again, unless the guest was
 * quicker. */
static void map_again(struct guest *g, uint64_t chunk, const uint64_t *left)
{
	uint64_t base = chunk * UVMM_CHUNK_PAGES, at = 0, to, done;
	enum uffd_result res;

	while (at < UVMM_CHUNK_PAGES) {
		if (is_bit(left, at)) {
			at++;
			continue;
		}
		for (to = at; to < UVMM_CHUNK_PAGES && !is_bit(left, to); to++)
			;
		res = uffd_continue(g->uffd, guest_addr(g, base + at),
				    (to - at) << UVMM_PAGE_SHIFT, &done);
		at += done >> UVMM_PAGE_SHIFT;
		if (res == UFFD_EXISTS)
			at++;
		else if (res != UFFD_OK)
			return;
	}
}

/* Nobody else changes the mappings of the chunk now. */
static bool may_break(const struct guest *g, uint64_t chunk)
{
	return atomic_load(&g->armed[chunk]) != CHUNK_SHIELDED &&
	       !pmap_chunk_away(&g->pmap, chunk) && !pmap_chunk_absent(&g->pmap, chunk);
}

/* For the protection of one page the kernel breaks the large page: all of it is unmapped.
 * From then on there is a table for its pages, by which they are mapped one by one. But it
 * does both in a loop until no thread has mapped the large page again between them, which
 * a busy one may do a thousand times: hence a mapping that large pages do not fit. */
static int make_table(struct guest *g, uint64_t ppn)
{
	bool done;

	if (guest_part_page(g, ppn))
		return -EAGAIN;
	done = uffd_protect(g->uffd, guest_addr(g, ppn), UVMM_PAGE_SIZE) == UFFD_OK;
	if (done)
		uffd_unprotect(g->uffd, guest_addr(g, ppn), UVMM_PAGE_SIZE);
	return guest_join_page(g, ppn) || !done ? -EAGAIN : 0;
}

int activity_break(struct guest *g, uint64_t chunk, const uint64_t *left, bool bare)
{
	uint64_t i = 0, ppn = chunk * UVMM_CHUNK_PAGES;

	if (!may_break(g, chunk) || !pagemap_is_large(g->pagemap_fd, guest_addr(g, ppn)))
		return -EAGAIN;
	while (!is_bit(left, i) && i < UVMM_CHUNK_PAGES - 1)
		i++;
	if (make_table(g, ppn + i))
		return -EAGAIN;
	if (!bare)
		map_again(g, chunk, left);
	return 0;
}

void activity_keep_small(struct guest *g, uint64_t ppn)
{
	if (may_break(g, ppn / UVMM_CHUNK_PAGES))
		make_table(g, ppn);
}
