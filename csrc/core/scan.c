/* SPDX-License-Identifier: MIT */
#include "scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "view.h"

#define PPN_BITS 36
#define PRINT_ZERO 2u           /* of a page of zeros */
#define VIEW_MIN 16u            /* pages: fewer are read faster than mapped */
#define SAMPLE_BYTES 64u
#define LINE_BYTES 64u          /* of a CPU's cache */

/* A page of any guest of the group. */
struct elsewhere {
	struct guest *g;
	uint64_t id;
	struct share_page page;
};

struct scan_buffer {
	struct view view;
	struct share_buffer share;
	char piece[SHARE_PIECE * UVMM_PAGE_SIZE];
	char twin[UVMM_PAGE_SIZE];
	struct share_page zero[SCAN_RUN_PAGES], own[SCAN_RUN_PAGES];
	struct elsewhere other[SCAN_RUN_PAGES];
	struct share_page run[SCAN_RUN_PAGES];     /* those of one of the others */
	size_t zeros, owns, others;
};

struct scan {
	struct uvmm_engine *e;
	struct guest *g;
	struct group *group;
	struct scan_buffer *b;
	bool all;
	/* Of the chunk: when it was looked through before this time, and what is mapped now. */
	uint64_t looked_ns;
	struct activity_look seen;
};

struct scan_buffer *scan_buffer_new(void)
{
	struct scan_buffer *b = malloc(sizeof(*b));

	if (b && (view_init(&b->view) || share_buffer_init(&b->share))) {
		view_fini(&b->view);
		free(b);
		return NULL;
	}
	return b;
}

void scan_buffer_free(struct scan_buffer *b)
{
	if (!b)
		return;
	share_buffer_fini(&b->share);
	view_fini(&b->view);
	free(b);
}

struct share_buffer *scan_share_buffer(struct scan_buffer *b)
{
	return &b->share;
}

uint64_t scan_mappings_max(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	unsigned long long n = 65530;

	if (f) {
		if (fscanf(f, "%llu", &n) != 1)
			n = 65530;
		fclose(f);
	}
	return n;
}

/* --- looking up ---------------------------------------------------------------- */

/* Where a hint says a page is: not 0. */
static uint64_t place_of(const struct guest *g, uint64_t ppn)
{
	return ((uint64_t)g->slot << PPN_BITS | ppn) + 1;
}

static bool is_plain(const struct guest *g, uint64_t ppn)
{
	/* The page map is a file, too, and looking at a hole of it allocates it. */
	return !pmap_chunk_marked(&g->pmap, ppn / UVMM_CHUNK_PAGES) ||
	       pmap_get(&g->pmap, ppn) == pmap_make(PAGE_PRESENT, 0);
}

/* Ends of it: all of it is compared before it is mapped (share.h). */
static bool seems_alike(const char *frame, const char *page)
{
	return !memcmp(frame, page, SAMPLE_BYTES) &&
	       !memcmp(frame + UVMM_PAGE_SIZE - SAMPLE_BYTES,
		       page + UVMM_PAGE_SIZE - SAMPLE_BYTES, SAMPLE_BYTES);
}

/* A frame with that content, it seems, with a reference; FRAME_NONE. */
static uint64_t find_frame(struct group *group, uint64_t hash, const char *page)
{
	uint64_t frame = frames_find(&group->frames, hash, FRAME_NONE), next;

	while (frame != FRAME_NONE && !seems_alike(group_frame(group, frame), page)) {
		next = frames_find(&group->frames, hash, frame);
		group_drop_frame(group, frame);
		frame = next;
	}
	return frame;
}

/* The guest o, entered, has a page with that hash at ppn: read into the buffer. */
static bool has_twin(const struct scan *s, const struct guest *o, uint64_t ppn,
		     const uint64_t hash[2])
{
	uint64_t now[2];

	if (o->group != s->group || ppn >= o->max_pages || !is_plain(o, ppn) ||
	    pread(o->memfd, s->b->twin, UVMM_PAGE_SIZE, (off_t)(ppn << UVMM_PAGE_SHIFT)) !=
		    (ssize_t)UVMM_PAGE_SIZE)
		return false;
	uvmm_page_hash(s->b->twin, now);
	return now[0] == hash[0] && now[1] == hash[1];
}

/* What the hint says is looked at, and is not needed any more. */
static bool follow_hint(struct scan *s, const uint64_t hash[2], uint64_t place,
			struct elsewhere *out)
{
	uint64_t ppn = (place - 1) & ((1ull << PPN_BITS) - 1);
	struct guest *o = s->e->registry.slot[(place - 1) >> PPN_BITS];
	bool found = false;

	if (share_is_deaf(o))
		return false;
	if (guest_enter(o)) {
		found = has_twin(s, o, ppn, hash);
		*out = (struct elsewhere){ .g = o, .id = o->id, .page.ppn = ppn };
		guest_leave(o);
	}
	hints_drop(&s->group->hints, hash[0], place);
	if (!found)
		atomic_fetch_add(&s->group->stale_hints, 1);
	return found;
}

static bool new_frame(struct scan *s, const char *page, uint64_t hash, uint64_t *frame)
{
	if (!pressure_take(&s->e->pressure, 1, PRESSURE_LOAD) ||
	    group_new_frame(s->group, page, hash, frame)) {
		atomic_fetch_add(&s->e->sharing.refused[SHARE_REFUSED_MEMORY], 1);
		return false;
	}
	return true;
}

/* A frame for the page and its twin somewhere, which is noted to be shared, too. It is made
 * from the copy of the twin: the page itself may change under the eye. */
static uint64_t find_twin(struct scan *s, uint64_t ppn, const uint64_t hash[2])
{
	uint64_t place[HINTS_FOUND_MAX], mine = place_of(s->g, ppn), frame;
	size_t n = hints_find(&s->group->hints, hash[0], place), i;
	struct scan_buffer *b = s->b;

	for (i = 0; i < n; i++) {
		struct elsewhere *o = &b->other[b->others];

		if (place[i] == mine || !follow_hint(s, hash, place[i], o))
			continue;
		if (!new_frame(s, b->twin, hash[0], &frame))
			break;
		if (frames_ref(&s->group->frames, frame))
			return frame;
		o->page.frame = frame;
		b->others++;
		return frame;
	}
	hints_put(&s->group->hints, hash[0], mine);
	return FRAME_NONE;
}

/* True: the page is to become a frame. */
static bool look_up(struct scan *s, uint64_t ppn, const char *page)
{
	uint64_t hash[2], frame;

	uvmm_page_hash(page, hash);
	frame = find_frame(s->group, hash[0], page);
	if (frame == FRAME_NONE)
		frame = find_twin(s, ppn, hash);
	if (frame == FRAME_NONE)
		return false;
	s->b->own[s->b->owns++] = (struct share_page){ ppn, frame };
	return true;
}

static uint32_t print_of(const char *page)
{
	uint32_t print = uvmm_checksum(page, 0) & ~PRINT_KNOWN;

	return print > PRINT_ZERO ? print : print + 2 * PRINT_ZERO;
}

/* New guests are compared while they are alike, before it is known whether what they have
 * stays; but not where a split would be felt. */
static bool is_young(const struct scan *s)
{
	return s->g->sharing.pass.passes < SCAN_YOUNG_PASSES && !s->e->scanner.modest;
}

/* A page that was never looked at: without a print if it is shared. */
static void look_first(struct scan *s, uint64_t ppn, const char *page)
{
	if (!look_up(s, ppn, page))
		atomic_store_explicit(&s->g->sharing.prints[ppn], print_of(page) | PRINT_KNOWN,
				      memory_order_relaxed);
}

static void look(struct scan *s, uint64_t ppn, const char *page)
{
	_Atomic uint32_t *at = &s->g->sharing.prints[ppn];
	uint32_t former = atomic_load_explicit(at, memory_order_relaxed), print;
	bool zero = uvmm_is_zero(page, UVMM_PAGE_SIZE), same;

	if (!former && !zero && (s->all || is_young(s))) {
		look_first(s, ppn, page);
		return;
	}
	print = zero ? PRINT_ZERO : print_of(page);
	same = (former & ~PRINT_KNOWN) == print;
	if (same && former & PRINT_KNOWN)
		return;
	if (!s->all && !same) {
		atomic_store_explicit(at, print, memory_order_relaxed);
		return;
	}
	if (zero) {
		s->b->zero[s->b->zeros++] = (struct share_page){ ppn, SHARE_ZERO };
		return;
	}
	atomic_store_explicit(at, print | PRINT_KNOWN, memory_order_relaxed);
	look_up(s, ppn, page);
}

/* --- reading ------------------------------------------------------------------- */

/* Hashing waits for memory else. */
static void fetch(const char *page)
{
	unsigned at;

	for (at = 0; at < UVMM_PAGE_SIZE; at += LINE_BYTES)
		__builtin_prefetch(page + at);
}

static void look_at(struct scan *s, uint64_t lo, uint64_t n, const char *pages)
{
	uint64_t i;

	for (i = 0; i < n; i++) {
		fetch(pages + i * UVMM_PAGE_SIZE);
		if (is_plain(s->g, lo + i))
			look(s, lo + i, pages + i * UVMM_PAGE_SIZE);
	}
}

/* In place. A mapping of a hole would allocate it, and what is stored would be zeros: but
 * while the chunk's busy bit is ours nobody but the guest itself makes a hole where a page
 * was plain, and that one is zeros. */
static bool view_run(struct scan *s, uint64_t lo, uint64_t n)
{
	char *at;

	if (n < VIEW_MIN || view_map(&s->b->view, s->g->memfd, lo, n, VIEW_LOOK, &at))
		return false;
	look_at(s, lo, n, at);
	view_unmap(&s->b->view);
	return true;
}

static void read_run(struct scan *s, uint64_t lo, uint64_t n)
{
	uint64_t end = lo + n;

	for (; lo < end; lo += n) {
		n = end - lo < SHARE_PIECE ? end - lo : SHARE_PIECE;
		if (pread(s->g->memfd, s->b->piece, n << UVMM_PAGE_SHIFT,
			  (off_t)(lo << UVMM_PAGE_SHIFT)) == (ssize_t)(n << UVMM_PAGE_SHIFT))
			look_at(s, lo, n, s->b->piece);
	}
}

/* Nothing is to be found at the page: it is not guest memory now, or others know it as it is
 * and it was not touched since. */
static bool is_to_skip(const struct scan *s, uint64_t ppn)
{
	if (!is_plain(s->g, ppn))
		return true;
	return s->looked_ns &&
	       atomic_load_explicit(&s->g->sharing.prints[ppn], memory_order_relaxed) & PRINT_KNOWN &&
	       activity_rests_since(s->g, ppn, &s->seen, s->looked_ns);
}

/* The data [lo, hi), whose chunk's busy bit is ours if that is said. */
static void look_through(struct scan *s, uint64_t lo, uint64_t hi, bool ours)
{
	uint64_t to;

	for (; lo < hi; lo = to > lo ? to : lo + 1) {
		for (to = lo; to < hi && !is_to_skip(s, to); to++)
			;
		if (to > lo && !(ours && view_run(s, lo, to - lo)))
			read_run(s, lo, to - lo);
	}
}

/* What is touched from now on will be looked at the next time. */
static void begin_look(struct scan *s, uint64_t chunk)
{
	_Atomic uint64_t *looked_ns = &s->g->sharing.looked_ns[chunk];

	s->looked_ns = atomic_load(&s->g->activity.chunk[chunk].tick) ? atomic_load(looked_ns) : 0;
	atomic_store(looked_ns, clock_ns());
	if (s->looked_ns)
		activity_look(s->g, chunk, &s->seen);
}

static uint64_t read_chunk(struct scan *s, uint64_t chunk)
{
	uint64_t at = chunk * UVMM_CHUNK_PAGES, end = at + UVMM_CHUNK_PAGES, stop, scanned = 0;
	bool ours = !s->e->cfg.via && pmap_chunk_claim(&s->g->pmap, chunk);

	begin_look(s, chunk);
	for (; machine_next_data(s->g->memfd, &at, &stop, end); at = stop) {
		look_through(s, at, stop, ours);
		scanned += stop - at;
	}
	if (ours)
		pmap_chunk_release(&s->g->pmap, chunk);
	return scanned;
}

/* --- sharing what was found ------------------------------------------------------ */

/* How long a run has to be for a guest with so many mappings already. */
static uint64_t shortest_run(const struct guest *g)
{
	uint64_t most = scan_mappings_max() / 4 * 3, have = atomic_load(&g->sharing.mappings);

	if (have < most / 2)
		return 1;
	if (have < most / 4 * 3)
		return 4;
	return have < most ? 16 : UINT64_MAX;
}

static bool goes_on(const struct share_page *p)
{
	return p[1].ppn == p->ppn + 1 && p[1].frame == p->frame + 1;
}

/* Leaves short runs out: how many pages are left. */
static size_t leave_out(struct scan *s, struct guest *g, struct share_page *p, size_t n)
{
	uint64_t least = shortest_run(g);
	size_t from, to, left = 0;

	for (from = 0; from < n; from = to) {
		for (to = from + 1; to < n && goes_on(&p[to - 1]); to++)
			;
		if (to - from >= least) {
			memmove(p + left, p + from, (to - from) * sizeof(*p));
			left += to - from;
			continue;
		}
		atomic_fetch_add(&s->e->sharing.refused[SHARE_REFUSED_MAPPINGS], to - from);
		for (; from < to; from++) {
			group_drop_frame(s->group, p[from].frame);
			sharing_forget_print(&g->sharing, p[from].ppn);
		}
	}
	return left;
}

static int by_ppn(const void *a, const void *b)
{
	const struct share_page *p = a, *q = b;

	return p->ppn < q->ppn ? -1 : p->ppn > q->ppn;
}

static void share(struct scan *s, struct guest *g, struct share_page *p, size_t n,
		  struct share_result *r)
{
	qsort(p, n, sizeof(*p), by_ppn);
	n = leave_out(s, g, p, n);
	if (n)
		share_pages(s->e, g, p, n, &s->b->share, r);
}

/* The pages [from, from + n) of the others, all of guest number id. */
static void share_other(struct scan *s, struct guest *g, uint64_t id, size_t n,
			struct share_result *r)
{
	size_t i;

	if (guest_enter(g)) {
		if (g->id == id && g->group == s->group) {
			share(s, g, s->b->run, n, r);
			n = 0;
		}
		guest_leave(g);
	}
	for (i = 0; i < n; i++)
		group_drop_frame(s->group, s->b->run[i].frame);
}

static void share_others(struct scan *s, struct share_result *r)
{
	struct scan_buffer *b = s->b;
	size_t i, left, n;

	while (b->others) {
		struct elsewhere first = b->other[0];

		for (i = left = n = 0; i < b->others; i++) {
			if (b->other[i].id == first.id)
				b->run[n++] = b->other[i].page;
			else
				b->other[left++] = b->other[i];
		}
		b->others = left;
		share_other(s, first.g, first.id, n, r);
	}
}

static void share_found(struct scan *s, uint64_t scanned, struct scan_result *r)
{
	struct share_result shared = { 0 };
	struct scan_buffer *b = s->b;

	if (b->zeros)
		share_zeros(s->e, s->g, b->zero, b->zeros, &b->share, &shared);
	share_others(s, &shared);
	if (b->owns)
		share(s, s->g, b->own, b->owns, &shared);
	atomic_fetch_add(&s->g->sharing.scanned, scanned);
	atomic_fetch_add(&s->e->sharing.scanned, scanned);
	r->scanned += scanned;
	r->shared += shared.shared;
	r->zero += shared.zero;
}

void scan_chunks(struct uvmm_engine *e, struct guest *g, const uint64_t *chunk, size_t n,
		 bool all, struct scan_buffer *b, struct scan_result *r)
{
	struct scan s = { .e = e, .g = g, .group = g->group, .b = b, .all = all };
	uint64_t scanned = 0;
	size_t i;

	b->zeros = b->owns = b->others = 0;
	for (i = 0; i < n; i++)
		scanned += read_chunk(&s, chunk[i]);
	share_found(&s, scanned, r);
}

void scan_run(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t n,
	      struct scan_buffer *b, struct scan_result *r)
{
	struct scan s = { .e = e, .g = g, .group = g->group, .b = b, .all = true };

	b->zeros = b->owns = b->others = 0;
	read_run(&s, ppn, n);
	share_found(&s, n, r);
}
