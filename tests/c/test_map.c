/* SPDX-License-Identifier: MIT
 *
 * A picture of where a guest's pages are: with real guests.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "engine_bed.h"

#define GUEST_MIB 64u
#define GUEST_PAGES (GUEST_MIB * MIB_PAGES)
#define CELLS_MAX 1000u

static struct uvmm_map_cell map[CELLS_MAX];

static void take(uvmm_engine *e, const struct peer *p, uint32_t cells)
{
	memset(map, 0xff, sizeof(map));
	CHECK(!uvmm_guest_map(e, p->id, map, cells), "map of %u", cells);
}

static uint64_t sum(uint32_t lo, uint32_t hi, enum uvmm_map_state s)
{
	uint64_t pages = 0;

	for (; lo < hi; lo++)
		pages += map[lo].pages[s];
	return pages;
}

/* Each cell is as large as it has to be. */
static void check_sizes(uint32_t cells)
{
	uint32_t i, s;

	for (i = 0; i < cells; i++) {
		uint64_t size = GUEST_PAGES / cells + (i < GUEST_PAGES % cells), got = 0;

		for (s = 0; s < UVMM_MAP_STATES; s++)
			got += map[i].pages[s];
		CHECK(got == size, "cell %u of %u has %llu pages", i, cells,
		      (unsigned long long)got);
	}
}

static void check_against_stats(uvmm_engine *e, const struct peer *p, uint32_t cells)
{
	struct uvmm_guest_stats s = plane_stats(e, p);

	take(e, p, cells);
	check_sizes(cells);
	CHECK(sum(0, cells, UVMM_MAP_RESIDENT) + sum(0, cells, UVMM_MAP_SPLIT) +
	      sum(0, cells, UVMM_MAP_LOW) ==
	      s.resident_pages, "resident");
	CHECK(sum(0, cells, UVMM_MAP_SHARED) == s.shared_pages, "shared");
	CHECK(sum(0, cells, UVMM_MAP_SWAPPED) == s.swapped_pages, "swapped");
	CHECK(sum(0, cells, UVMM_MAP_UNTOUCHED) == s.untouched_pages, "untouched");
}

static void test_places(void)
{
	static const uint32_t counts[] = { 1, 7, 64, 999, CELLS_MAX };
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "g");
	struct uvmm_job_result r;
	struct uvmm_share_result shared;
	uint64_t table;
	size_t i, guests;

	table = plane_machine(e, &guests).tmpfs_pages;
	check_against_stats(e, &p, CELLS_MAX);
	CHECK(plane_machine(e, &guests).tmpfs_pages <= table + 2, "a look has allocated");
	/* The guest's first page is its allocator's own; 8192 pages are half of it. */
	plane_tell(&p, "fill 1024 1024 1");
	take(e, &p, 16);
	CHECK(map[1].pages[UVMM_MAP_RESIDENT] == 1024, "filled");
	CHECK(map[2].pages[UVMM_MAP_RESIDENT] == 0, "not filled");
	CHECK(!uvmm_guest_reclaim(e, p.id, 500, UVMM_TIER_SWAP, &r) && r.pages, "reclaim");
	plane_tell(&p, "same 8192 600 5");
	/* An agent that was late is left alone for a second. */
	for (i = 0; i < 20 && plane_stats(e, &p).shared_pages < 600; i++) {
		if (i)
			usleep(300000);
		CHECK(!uvmm_share_now(e, p.id, &shared), "share");
	}
	for (i = 0; i < sizeof(counts) / sizeof(*counts); i++)
		check_against_stats(e, &p, counts[i]);
	take(e, &p, 2);
	CHECK(map[0].pages[UVMM_MAP_SWAPPED] == 500, "%llu swapped",
	      (unsigned long long)map[0].pages[UVMM_MAP_SWAPPED]);
	CHECK(map[1].pages[UVMM_MAP_SHARED] == 600, "%llu shared",
	      (unsigned long long)map[1].pages[UVMM_MAP_SHARED]);
	plane_tell(&p, "check 1024 1024 1");
	plane_tell(&p, "alike 8192 600 5");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_refused(void)
{
	uvmm_engine *e = plane_start(64, 0, 0);
	struct peer p = plane_guest(e, "a", 2, "");

	CHECK(uvmm_guest_map(e, p.id, map, 0) == -EINVAL, "no cells");
	CHECK(uvmm_guest_map(e, p.id, map, 513) == -EINVAL, "more than pages");
	CHECK(uvmm_guest_map(e, p.id, map, UVMM_MAP_CELLS_MAX + 1) == -EINVAL, "too many");
	CHECK(!uvmm_guest_map(e, p.id, map, 512), "a cell a page");
	CHECK(uvmm_guest_map(e, p.id + 1, map, 1) == -ENOENT, "of nobody");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	CHECK(uvmm_guest_map(e, p.id, map, 1) == -ENOENT, "of one that ended");
	uvmm_engine_stop(e);
}

struct mover {
	uvmm_engine *e;
	uint64_t id;
	_Atomic int stop;
};

static void *move(void *arg)
{
	struct mover *m = arg;
	struct uvmm_job_result r;

	while (!atomic_load(&m->stop)) {
		uvmm_guest_reclaim(m->e, m->id, 3000, UVMM_TIER_SWAP, &r);
		uvmm_guest_restore(m->e, m->id, &r);
	}
	return NULL;
}

/* Sizes hold while pages move, and the guest's contents, too. */
static void test_while_pages_move(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "g");
	struct mover m = { .e = e, .id = p.id };
	pthread_t thread;
	int i;

	plane_tell(&p, "fill 0 6000 3");
	CHECK(!pthread_create(&thread, NULL, move, &m), "thread");
	for (i = 0; i < 200; i++) {
		take(e, &p, 500);
		check_sizes(500);
	}
	atomic_store(&m.stop, 1);
	pthread_join(thread, NULL);
	plane_tell(&p, "check 0 6000 3");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void run_all(void)
{
	test_places();
	fprintf(stderr, "places: ok\n");
	test_refused();
	fprintf(stderr, "refused: ok\n");
	test_while_pages_move();
	fprintf(stderr, "while pages move: ok\n");
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
