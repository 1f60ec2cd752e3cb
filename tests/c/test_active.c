/* SPDX-License-Identifier: MIT
 *
 * What guests use of their memory, and blocking them: with real guests.
 */
#include <time.h>

#include "engine_bed.h"

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t ms_of(struct peer *p, const char *line)
{
	uint64_t since = now_ns();

	plane_tell(p, line);
	return (now_ns() - since) / 1000000;
}

static void test_block(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "blocked", 64, "");
	struct uvmm_job_result r;
	uint64_t ms;

	plane_tell(&p, "fill 0 1000 1");
	/* What is in memory goes on, growth and loads wait. */
	CHECK(!uvmm_guest_block(e, p.id, now_ns() + 500000000), "block");
	CHECK(plane_stats(e, &p).blocked_until_ns, "not blocked");
	ms = ms_of(&p, "check 0 1000 1");
	CHECK(ms < 400, "%llu ms", (unsigned long long)ms);
	ms = ms_of(&p, "fill 8000 1 2");
	CHECK(ms >= 300 && ms < 2000, "%llu ms", (unsigned long long)ms);
	CHECK(plane_stats(e, &p).stall_ns > 200000000, "stall");
	CHECK(!uvmm_guest_reclaim(e, p.id, 1000, UVMM_TIER_SWAP, &r) && r.pages, "reclaim");
	uvmm_guest_block(e, p.id, now_ns() + 400000000);
	ms = ms_of(&p, "check 0 1000 1");
	CHECK(ms >= 200 && ms < 2000, "%llu ms", (unsigned long long)ms);
	/* A second at most, and ended at once by a time that has passed. */
	uvmm_guest_block(e, p.id, UINT64_MAX);
	CHECK(plane_stats(e, &p).blocked_until_ns < now_ns() + 1000000000, "too long");
	uvmm_guest_block(e, p.id, 0);
	ms = ms_of(&p, "fill 9000 1 2");
	CHECK(ms < 500, "%llu ms", (unsigned long long)ms);
	CHECK(!plane_stats(e, &p).blocked_until_ns && plane_stats(e, &p).blocks == 3, "blocks");
	CHECK(uvmm_guest_block(e, p.id + 1, 0) == -ENOENT, "of nobody");
	/* One that is blocked can be killed. */
	uvmm_guest_block(e, p.id, UINT64_MAX);
	fprintf(p.to, "fill 10000 100 3\n");
	fflush(p.to);
	usleep(20000);
	plane_end(&p, true);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void run_all(void)
{
	test_block();
	fprintf(stderr, "block: ok\n");
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
