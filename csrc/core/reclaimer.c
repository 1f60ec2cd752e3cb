/* SPDX-License-Identifier: MIT
 * The background reclaimer; see reclaim.h. */
#include <errno.h>

#include "clock.h"
#include "engine.h"
#include "reclaim.h"

#define ROUND_PAGES UVMM_CHUNK_PAGES    /* then look again who is next */
#define IDLE_NS (2 * NS_PER_MS)
#define BARREN_MAX 8                    /* rounds without a page: exhausted */
#define UNSHARE_FROM 3                  /* rounds without a page: shared ones, too */

/* What g holds, in thousandths of its target; 0 if it holds no more than floor_pages:
 * not to be taken from. */
static uint64_t excess(const struct guest *g, uint64_t floor_pages, bool unshare)
{
	uint64_t resident = machine_file_pages(g->memfd) + atomic_load(&g->sharing.split_pages);

	if (unshare)
		resident += atomic_load(&g->sharing.shared_pages);
	if (resident <= floor_pages)
		return 0;
	return 1 + resident * 1000 / (atomic_load(&g->target_pages) + 1);
}

/* Entered, to be left; NULL if nobody has anything. `barren` rounds in a row
 * have moved nothing: then it is somebody else's turn. */
static struct guest *victim(struct uvmm_engine *e, int barren)
{
	struct guest *best = NULL, *g;
	uint64_t most = 0;
	int phase, turn;
	size_t at;

	for (phase = 0; phase < 2 && !best; phase++) {
		turn = barren;
		at = 0;
		while ((g = guest_next_entered(&e->registry, &at))) {
			uint64_t target = atomic_load(&g->target_pages);
			uint64_t min_pages = atomic_load(&g->min_pages);
			uint64_t floor_pages = phase || target < min_pages ? min_pages : target;
			uint64_t over = excess(g, floor_pages, barren >= UNSHARE_FROM);

			if (over && (over > most || turn-- > 0)) {
				if (best)
					guest_leave(best);
				best = g;
				most = over;
			} else {
				guest_leave(g);
			}
		}
	}
	return best;
}

/* Entered, to be left: who waits for its own pages first, else, if any are short, who is
 * furthest above its target. *pages are to be taken from it. */
static struct guest *next_victim(struct uvmm_engine *e, int barren, uint64_t *pages)
{
	uint64_t short_pages = *pages;
	struct guest *g = pressure_next_yielding(e, &e->reclaimer.turn, pages);

	if (g)          /* it, or the next one, may be waiting still afterwards */
		atomic_store(&e->pressure.yields, true);
	else if (short_pages)
		g = victim(e, barren);
	if (*pages > ROUND_PAGES)
		*pages = ROUND_PAGES;
	return g;
}

static void *reclaimer_main(void *arg)
{
	struct uvmm_engine *e = arg;
	struct reclaimer *r = &e->reclaimer;
	uint64_t pages;
	int barren = 0;

	while (pressure_reclaim_wanted(e, &pages)) {
		struct uvmm_job_result res = { 0 };
		bool is_short = pages;
		struct guest *g = next_victim(e, barren, &pages);

		if (!g && !is_short)
			continue;
		if (g) {
			reclaim_guest(e, g, pages, barren >= UNSHARE_FROM,
				      e->tier[UVMM_TIER_SWAP], r->buffer, &res);
			guest_leave(g);
		}
		atomic_fetch_add(&r->pages, res.pages);
		barren = res.pages ? 0 : barren + 1;
		if (res.pages || barren > BARREN_MAX)
			pressure_reclaim_done(e, res.pages);
		if (!res.pages)
			clock_sleep_ns(IDLE_NS);
	}
	return NULL;
}

int reclaim_start(struct uvmm_engine *e)
{
	struct reclaimer *r = &e->reclaimer;
	int rc;

	r->buffer = reclaim_buffer_new();
	if (!r->buffer)
		return -ENOMEM;
	rc = pthread_create(&r->thread, NULL, reclaimer_main, e);
	r->runs = !rc;
	if (rc)
		reclaim_buffer_free(r->buffer);
	return -rc;
}

void reclaim_stop(struct uvmm_engine *e)
{
	struct reclaimer *r = &e->reclaimer;

	if (!r->runs)
		return;
	pthread_join(r->thread, NULL);
	reclaim_buffer_free(r->buffer);
	r->runs = false;
}
