/* SPDX-License-Identifier: MIT
 * Which pages of a guest are reclaimed; see reclaim.h. */
#include "clock.h"
#include "engine.h"
#include "reclaim.h"
#include "scan.h"

#define FRUITLESS_MAX 16u       /* chunks in a row without a page that might be idle */
#define SHARE_PAGES_MIN 64u     /* fewer are not worth a look for twins */
#define BUSY_TRIES 3            /* rounds for chunks that somebody else had */

/* How a guest is gone through. */
struct round {
	struct uvmm_engine *e;
	struct guest *g;
	bool unshare;
	struct tier *tier;
	struct reclaim_buffer *b;
	struct uvmm_job_result *res;
	uint64_t goal;
	bool *busy;                     /* set: a chunk was somebody else's at that moment */
};

/* Sharing had pages of this guest to offer, or may have. */
static bool is_worth_sharing(const struct guest *g)
{
	uint32_t worth = atomic_load(&g->sharing.worth);

	return g->group && !share_is_deaf(g) &&
	       (worth == SHARE_WORTH_IT ||
		(worth == SHARE_WORTH_UNKNOWN && atomic_load(&g->group->guests) > 1));
}

/* What is cheaper than the tier, and what makes pages fit for it. */
static void share_first(const struct round *r, uint64_t chunk)
{
	struct guest *g = r->g;
	bool away = pmap_chunk_away(&g->pmap, chunk) &&
		    (r->unshare || atomic_load(&g->sharing.split_pages));
	bool share = !r->unshare && is_worth_sharing(g);
	struct scan_result found = { 0 };
	struct scan_buffer *b;
	uint64_t pages;

	b = away || share ? reclaim_scan_buffer(r->b) : NULL;
	if (b && away)
		share_home(r->e, g, chunk, NULL, r->unshare, scan_share_buffer(b), &pages);
	if (b && share)
		scan_chunks(r->e, g, &chunk, 1, true, b, &found);
}

/* The pages of the grade, or a higher one; how many. */
static uint32_t choose(const struct guest *g, const struct activity_look *l, unsigned grade,
		       uint64_t allowed[UVMM_CHUNK_PAGES / 64])
{
	uint64_t i, base = l->chunk * UVMM_CHUNK_PAGES;
	uint32_t n = 0;

	for (i = 0; i < UVMM_CHUNK_PAGES; i++) {
		if (activity_grade(g, base + i, l) < grade)
			continue;
		allowed[i / 64] |= 1ull << (i % 64);
		n++;
	}
	return n;
}

/* From a chunk, pages of that grade and higher ones. */
static int reclaim_chunk(const struct round *r, uint64_t chunk, unsigned grade)
{
	uint64_t allowed[UVMM_CHUNK_PAGES / 64] = { 0 };
	struct guest *g = r->g;
	struct activity_look l;
	uint32_t n;
	int rc = 0;

	activity_look(g, chunk, &l);
	n = choose(g, &l, grade, allowed);
	if (n >= SHARE_PAGES_MIN || r->unshare)
		share_first(r, chunk);
	if (!pmap_chunk_claim(&g->pmap, chunk)) {
		*r->busy = true;
		return 0;
	}
	if (n)
		rc = reclaim_pages(r->e, g, chunk, allowed, r->goal - r->res->pages, r->tier,
				   r->b, r->res);
	activity_account(g, &l);
	pmap_chunk_release(&g->pmap, chunk);
	return rc;
}

static bool goes_on(const struct round *r)
{
	return r->res->pages < r->goal && atomic_load(&r->g->attached);
}

/* Goes through all chunks once. */
static int go_round(const struct round *r, unsigned grade, uint32_t fruitless_max)
{
	bool away = r->unshare || atomic_load(&r->g->sharing.split_pages);
	uint64_t chunk, before;
	uint32_t fruitless = 0;
	size_t tried = 0;
	int rc = 0;

	while (!rc && goes_on(r) && fruitless < fruitless_max &&
	       victims_next_used(r->g, grade == GRADE_HOT, away, &tried, &chunk)) {
		before = r->res->pages;
		rc = reclaim_chunk(r, chunk, grade);
		fruitless = r->res->pages > before ? 0 : fruitless + 1;
	}
	return rc;
}

int reclaim_guest(struct uvmm_engine *e, struct guest *g, uint64_t want, bool unshare,
		  struct tier *tier, struct reclaim_buffer *b, struct uvmm_job_result *res)
{
	bool busy = false;
	const struct round r = { e, g, unshare, tier, b, res, res->pages + want, &busy };
	unsigned lists = 0, grade, tries;
	uint64_t chunk;
	int rc = 0;

	while (!rc && goes_on(&r) && victims_next(g, &lists, &chunk, &grade))
		rc = reclaim_chunk(&r, chunk, grade);
	if (!rc && goes_on(&r))
		rc = go_round(&r, GRADE_UNKNOWN, FRUITLESS_MAX);
	if (!rc && goes_on(&r))
		rc = go_round(&r, GRADE_HOT, UINT32_MAX);
	for (tries = 0; !rc && goes_on(&r) && busy && tries < BUSY_TRIES; tries++) {
		busy = false;
		clock_sleep_ns(NS_PER_MS);
		rc = go_round(&r, GRADE_HOT, UINT32_MAX);
	}
	/* Its disk thread brings back what no device has used for a while: for the next time. */
	if (goes_on(&r) && atomic_load(&g->low.pages))
		atomic_store(&g->low.wanted_back, r.goal - res->pages);
	return rc;
}
