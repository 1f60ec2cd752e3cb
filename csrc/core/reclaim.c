/* SPDX-License-Identifier: MIT */
#include "reclaim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "load.h"
#include "scan.h"
#include "uffd.h"
#include "view.h"

#define BATCH 128u              /* pages: they stay in a CPU's cache */
#define PUNCH_TRIES 100         /* others' use of a page lasts microseconds */
#define PUNCH_SLEEP_NS 20000

struct reclaim_buffer {
	struct scan_buffer *scan;       /* NULL: not needed yet */
	struct view view;
	char *copy;                     /* BATCH pages; where no view may be used */
	const char *pages_at;           /* the batch's pages, in the view or copied */
	bool claimed[UVMM_CHUNK_PAGES]; /* EVICTING, later PUNCHING, by us */
	/* By page of the batch: */
	bool *mine;                     /* its part of claimed */
	bool zero[BATCH];
	uint32_t sum[BATCH];
	/* By page to be stored, dense: */
	uint32_t index[BATCH];          /* page of the batch */
	const void *pages[BATCH];
	uint32_t sums[BATCH];
	uint64_t handles[BATCH];
	uint64_t unused[BATCH];
	size_t stored;                  /* how many were stored */
};

struct reclaim_buffer *reclaim_buffer_new(void)
{
	struct reclaim_buffer *b = calloc(1, sizeof(*b));
	void *map;

	if (!b)
		return NULL;
	map = mmap(NULL, BATCH * UVMM_PAGE_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED || view_init(&b->view)) {
		if (map != MAP_FAILED)
			munmap(map, BATCH * UVMM_PAGE_SIZE);
		free(b);
		return NULL;
	}
	b->copy = map;
	return b;
}

void reclaim_buffer_free(struct reclaim_buffer *b)
{
	if (!b)
		return;
	scan_buffer_free(b->scan);
	view_fini(&b->view);
	munmap(b->copy, BATCH * UVMM_PAGE_SIZE);
	free(b);
}

struct scan_buffer *reclaim_scan_buffer(struct reclaim_buffer *b)
{
	if (!b->scan)
		b->scan = scan_buffer_new();
	return b->scan;
}

static int read_pages(const struct guest *g, uint64_t ppn, uint64_t n, char *dst)
{
	size_t done = 0, len = n << UVMM_PAGE_SHIFT;

	while (done < len) {
		ssize_t r = pread(g->memfd, dst + done, len - done,
				  (off_t)((ppn << UVMM_PAGE_SHIFT) + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return -EIO;
		done += (size_t)r;
	}
	return 0;
}

/* The pages from ppn to end that are home. */
static uint64_t end_of_home(const struct guest *g, uint64_t ppn, uint64_t end)
{
	if (!pmap_chunk_away(&g->pmap, ppn / UVMM_CHUNK_PAGES))
		return end;
	while (ppn < end && pmap_is_home(pmap_get(&g->pmap, ppn)))
		ppn++;
	return ppn;
}

static bool is_allowed(const uint64_t *allowed, uint64_t ppn)
{
	ppn %= UVMM_CHUNK_PAGES;
	return allowed[ppn / 64] >> (ppn % 64) & 1;
}

/* Step 1: claims up to want pages with data in [*lo, end) of a chunk; all lie in
 * [*lo, *hi), where all are home. How many. */
static uint32_t claim(struct guest *g, uint64_t end, uint64_t want, const uint64_t *allowed,
		      struct reclaim_buffer *b, uint64_t *lo, uint64_t *hi)
{
	uint64_t at = *lo, stop;
	uint32_t n = 0;

	memset(b->claimed, 0, sizeof(b->claimed));
	while (n < want && machine_next_data(g->memfd, &at, &stop, end)) {
		for (; at < stop && n < want; at++) {
			pmap_entry e = pmap_make(PAGE_PRESENT, 0);

			if (!is_allowed(allowed, at) ||
			    !pmap_move(&g->pmap, at, &e, pmap_make(PAGE_EVICTING, 0)))
				continue;
			b->claimed[at % UVMM_CHUNK_PAGES] = true;
			end = n ? end : end_of_home(g, at, end);
			stop = stop < end ? stop : end;
			*lo = n++ ? *lo : at;
			*hi = at + 1;
		}
	}
	return n;
}

/* Takes page i of the batch, which is EVICTING, back; no matter if a writer did. */
static void give_up(struct guest *g, uint64_t lo, uint32_t i, struct reclaim_buffer *b)
{
	pmap_entry e = pmap_make(PAGE_EVICTING, 0);

	if (!b->mine[i])
		return;
	b->mine[i] = false;
	pmap_move(&g->pmap, lo + i, &e, pmap_make(PAGE_PRESENT, 0));
	pmap_chunk_sub(&g->pmap, lo, 1);
}

static void give_all_up(struct guest *g, uint64_t lo, uint32_t n, struct reclaim_buffer *b)
{
	uint32_t i;

	for (i = 0; i < n; i++)
		give_up(g, lo, i, b);
}

/* Step 3, first half: a look at the pages, in place where that is safe. */
static int look(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint32_t n,
		struct reclaim_buffer *b)
{
	char *at = b->copy;
	int rc;

	if (e->cfg.via == 0)
		rc = view_map(&b->view, g->memfd, lo, n, VIEW_LOOK, &at);
	else
		rc = read_pages(g, lo, n, b->copy);
	b->pages_at = at;
	return rc;
}

/* Step 3, second half. A tier that takes a part of the pages is no error yet: the
 * rest is given up. */
static int store(struct guest *g, uint64_t lo, uint32_t n, struct tier *tier,
		 struct reclaim_buffer *b)
{
	size_t want = 0, i;
	int rc;

	for (i = 0; i < n; i++) {
		const char *page = b->pages_at + i * UVMM_PAGE_SIZE;

		if (!b->mine[i])
			continue;
		b->zero[i] = uvmm_is_zero(page, UVMM_PAGE_SIZE);
		if (b->zero[i])
			continue;
		b->sum[i] = uvmm_checksum(page, load_seed(g, lo + i));
		b->index[want] = (uint32_t)i;
		b->pages[want] = page;
		b->sums[want++] = b->sum[i];
	}
	if (!want)
		return 0;
	rc = tier_store(tier, b->pages, b->sums, want, b->handles);
	b->stored = rc > 0 ? (size_t)rc : 0;
	for (i = b->stored; i < want; i++)
		give_up(g, lo, b->index[i], b);
	return rc < 0 ? rc : b->stored < want ? -ENOSPC : 0;
}

/* Page i holds what was stored, by its checksum. */
static bool is_unchanged(const struct guest *g, uint64_t lo, uint32_t i,
			 const struct reclaim_buffer *b)
{
	const char *page = b->pages_at + i * UVMM_PAGE_SIZE;

	return b->zero[i] ? uvmm_is_zero(page, UVMM_PAGE_SIZE) :
			    uvmm_checksum(page, load_seed(g, lo + i)) == b->sum[i];
}

/* Steps 4 and 5: pages that hold still what was stored become PUNCHING. */
static void verify_and_commit(struct uvmm_engine *e, struct guest *g, uint64_t lo,
			      uint32_t n, struct reclaim_buffer *b)
{
	bool readable = e->cfg.via == 0 || !read_pages(g, lo, n, b->copy);
	uint32_t i;

	for (i = 0; i < n; i++) {
		pmap_entry entry = pmap_make(PAGE_EVICTING, 0);

		if (!b->mine[i])
			continue;
		if (!readable || !is_unchanged(g, lo, i, b) ||
		    !pmap_move(&g->pmap, lo + i, &entry, pmap_make(PAGE_PUNCHING, 0)))
			give_up(g, lo, i, b);
	}
}

static int punch_range(const struct guest *g, uint64_t lo, uint64_t n)
{
	return fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(lo << UVMM_PAGE_SHIFT), (off_t)(n << UVMM_PAGE_SHIFT)) ?
		-errno : 0;
}

/* The stored page i of the batch, whose content in the file is lost, comes back
 * from its tier. */
static void bring_back(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint32_t i,
		       struct tier *tier, struct reclaim_buffer *b)
{
	uint64_t seed = load_seed(g, lo + i);
	int bad = -EIO;
	ssize_t n = 0;
	size_t s;

	for (s = 0; s < b->stored && b->index[s] != i; s++)
		;
	if (s < b->stored)
		tier_load(tier, &b->handles[s], &seed, 1, b->copy, &bad);
	if (!bad)
		n = pwrite(g->memfd, b->copy, UVMM_PAGE_SIZE,
			   (off_t)((lo + i) << UVMM_PAGE_SHIFT));
	if (n != UVMM_PAGE_SIZE)
		load_damage(e, g, lo + i, s < b->stored ? b->handles[s] : 0, bad ? bad : -EIO);
}

/* The pages [i, to) of the batch that are in the file still, with zeros, stay. */
static void put_back(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint32_t i,
		     uint32_t to, struct tier *tier, struct reclaim_buffer *b)
{
	for (; i < to; i++) {
		if (machine_seek_data(g->memfd, lo + i) != lo + i)
			continue;
		if (!b->zero[i])
			bring_back(e, g, lo, i, tier, b);
		b->mine[i] = false;
		if (pmap_state(pmap_get(&g->pmap, lo + i)) == PAGE_DAMAGED)
			continue;
		pmap_set(&g->pmap, lo + i, pmap_make(PAGE_PRESENT, 0));
		pmap_chunk_sub(&g->pmap, lo, 1);
	}
}

static void punch_run(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint32_t i,
		      uint32_t to, struct tier *tier, struct reclaim_buffer *b)
{
	int tries;

	for (tries = 0; tries < PUNCH_TRIES; tries++) {
		if (!punch_range(g, lo + i, to - i) &&
		    machine_seek_data(g->memfd, lo + i) >= lo + to)
			return;
		clock_sleep_ns(PUNCH_SLEEP_NS);
	}
	put_back(e, g, lo, i, to, tier, b);
}

/* Step 6, first half. */
static void punch(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint32_t n,
		  struct tier *tier, struct reclaim_buffer *b)
{
	uint32_t i = 0, to;

	while (i < n) {
		for (to = i; to < n && b->mine[to]; to++)
			;
		if (to > i)
			punch_run(e, g, lo, i, to, tier, b);
		i = to + 1;
	}
}

/* Step 6, second half. How many pages were taken. */
static uint32_t settle(struct guest *g, uint64_t lo, uint32_t n, struct tier *tier,
		       struct reclaim_buffer *b, uint32_t *zero)
{
	size_t s, unused = 0;
	uint32_t i, taken = 0;

	for (s = 0; s < b->stored; s++) {
		i = b->index[s];
		if (!b->mine[i]) {
			b->unused[unused++] = b->handles[s];
			continue;
		}
		pmap_set(&g->pmap, lo + i, pmap_stored(UVMM_TIER_SWAP, b->handles[s]));
		taken++;
	}
	atomic_fetch_add(&g->stored_pages, taken);
	atomic_fetch_add(&g->pages_out, taken);
	*zero = 0;
	for (i = 0; i < n; i++) {
		if (!b->mine[i] || !b->zero[i])
			continue;
		activity_emptied(g, lo + i, 1);
		pmap_set(&g->pmap, lo + i, pmap_make(PAGE_PRESENT, 0));
		pmap_chunk_sub(&g->pmap, lo, 1);
		(*zero)++;
	}
	atomic_fetch_add(&g->zero_dropped, *zero);
	if (unused)
		tier_drop(tier, b->unused, unused);
	return taken + *zero;
}

/* Steps 3 to 6 for [lo, lo + n), n <= BATCH, all of which was claimed. */
static int batch(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint32_t n,
		 struct tier *tier, struct reclaim_buffer *b, struct uvmm_job_result *res)
{
	uint32_t zero;
	int rc;

	b->mine = b->claimed + lo % UVMM_CHUNK_PAGES;
	b->stored = 0;
	memset(b->zero, 0, sizeof(b->zero));
	rc = look(e, g, lo, n, b);
	if (!rc)
		rc = store(g, lo, n, tier, b);
	if (rc && rc != -ENOSPC)
		give_all_up(g, lo, n, b);
	verify_and_commit(e, g, lo, n, b);
	if (e->cfg.via == 0)
		view_unmap(&b->view);
	punch(e, g, lo, n, tier, b);
	res->pages += settle(g, lo, n, tier, b, &zero);
	res->zero_pages += zero;
	memset(b->mine, 0, n);
	return rc;
}

/* The next run of claimed pages in [*lo, hi), at most a batch. */
static uint32_t next_run(const struct reclaim_buffer *b, uint64_t *lo, uint64_t hi)
{
	uint32_t n = 0;

	while (*lo < hi && !b->claimed[*lo % UVMM_CHUNK_PAGES])
		(*lo)++;
	while (n < BATCH && *lo + n < hi && b->claimed[(*lo + n) % UVMM_CHUNK_PAGES])
		n++;
	return n;
}

/* Step 2. A device may write still to what it had pinned before: if the guest can
 * have asked it to, waits until it should have done so. */
static int protect(struct guest *g, uint64_t lo, uint64_t hi)
{
	int rc;

	activity_breaks(g, lo / UVMM_CHUNK_PAGES);
	rc = guest_shield_chunk(g, lo / UVMM_CHUNK_PAGES);
	/* Something else may be mapped over a part of it. */
	if (rc == -ESRCH && atomic_load(&g->attached))
		return -EAGAIN;
	if (rc)
		return rc;
	if (uffd_protect(g->uffd, guest_addr(g, lo), (hi - lo) << UVMM_PAGE_SHIFT))
		return -EAGAIN;
	return guest_stop_writes(g);
}

/* The claimed pages of a chunk. -EAGAIN: not now. */
static int take(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint64_t hi,
		struct tier *tier, struct reclaim_buffer *b, struct uvmm_job_result *res)
{
	uint64_t at = lo;
	uint32_t n;
	int rc;

	rc = protect(g, lo, hi);
	while (!rc && (n = next_run(b, &at, hi))) {
		rc = batch(e, g, at, n, tier, b, res);
		at += n;
	}
	/* After an error, the rest. */
	for (at = lo; (n = next_run(b, &at, hi)); at += n) {
		b->mine = b->claimed + at % UVMM_CHUNK_PAGES;
		give_all_up(g, at, n, b);
	}
	uffd_unprotect(g->uffd, guest_addr(g, lo), (hi - lo) << UVMM_PAGE_SHIFT);
	guest_wake(g, lo - lo % UVMM_CHUNK_PAGES, UVMM_CHUNK_PAGES);
	return rc;
}

int reclaim_pages(struct uvmm_engine *e, struct guest *g, uint64_t chunk,
		  const uint64_t *allowed, uint64_t want, struct tier *tier,
		  struct reclaim_buffer *b, struct uvmm_job_result *res)
{
	uint64_t lo = chunk * UVMM_CHUNK_PAGES, end = lo + UVMM_CHUNK_PAGES, hi = lo;
	uint64_t goal = res->pages + want;
	uint32_t n;
	int rc = 0;

	pmap_chunk_mark(&g->pmap, chunk);
	for (; !rc && lo < end && res->pages < goal; lo = hi) {
		n = claim(g, end, goal - res->pages, allowed, b, &lo, &hi);
		if (!n)
			break;
		pmap_chunk_add(&g->pmap, lo, n);
		rc = take(e, g, lo, hi, tier, b, res);
	}
	return rc == -EAGAIN ? 0 : rc;
}
