/* SPDX-License-Identifier: MIT
 *
 * What the policy steers by and with: marks, alarm, min, trim. With real guests.
 */
#include <poll.h>

#include "engine_bed.h"

#define GUEST_MIB 128u

static bool took_alarm(uvmm_engine *e)
{
	struct uvmm_event event;

	while (!uvmm_event_next(e, &event))
		if (event.kind == UVMM_EVENT_SHORT)
			return true;
	return false;
}

static bool alarm_comes(uvmm_engine *e)
{
	struct pollfd fd = { .fd = uvmm_event_fd(e), .events = POLLIN };
	int tries;

	for (tries = 0; tries < 20; tries++) {
		poll(&fd, 1, 20);
		if (took_alarm(e))
			return true;
	}
	return false;
}

static void test_marks(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "");
	struct uvmm_machine_stats m;
	struct uvmm_guest_stats s;
	size_t guests;

	m = plane_machine(e, &guests);
	CHECK(m.wait_pages && m.wait_pages < m.net_pages, "marks");
	CHECK(m.net_pages < m.total_pages / 4, "net of %llu", (unsigned long long)m.net_pages);
	CHECK(m.headroom_pages > m.net_pages && m.headroom_pages < m.total_pages, "headroom");
	CHECK(!uvmm_look(e, &m, &s, 1, &guests) && guests == 1, "look");
	CHECK(s.id == p.id && s.attached && s.run_ns && !s.threads, "what is quick to see");

	uvmm_alarm(e, m.headroom_pages - 64 * MIB_PAGES);
	CHECK(!alarm_comes(e), "an alarm for nothing");
	plane_tell(&p, "fill 1024 20480 1");
	CHECK(alarm_comes(e), "no alarm");
	plane_tell(&p, "fill 21504 1024 1");
	CHECK(!alarm_comes(e), "one is enough");
	uvmm_alarm(e, m.total_pages);
	CHECK(alarm_comes(e), "it is so already");
	uvmm_alarm(e, 0);
	CHECK(!alarm_comes(e), "there is none");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_trim(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "");
	struct uvmm_job_result r;
	uint64_t held;

	plane_tell(&p, "fill 1024 8192 1");
	held = plane_stats(e, &p).resident_pages;
	CHECK(!uvmm_guest_trim(e, p.id, 1000, held - 500, UVMM_TIER_SWAP, &r), "trim");
	CHECK(r.pages <= 500 && r.left_pages == 1000 - r.pages, "%llu", (unsigned long long)r.pages);
	CHECK(plane_stats(e, &p).resident_pages >= held - 500, "below the floor");
	CHECK(!uvmm_guest_trim(e, p.id, 1000, held, UVMM_TIER_SWAP, &r) && !r.pages, "nothing");

	/* What is its min stays, whatever the floor. */
	CHECK(!uvmm_guest_set_min(e, p.id, 4096), "min");
	CHECK(plane_stats(e, &p).min_pages == 4096, "min is told");
	CHECK(!uvmm_guest_trim(e, p.id, held, 0, UVMM_TIER_SWAP, &r) && r.pages, "trim");
	CHECK(plane_stats(e, &p).resident_pages >= 4096, "below min");
	plane_tell(&p, "check 1024 8192 1");
	CHECK(uvmm_guest_set_min(e, p.id, GUEST_MIB * MIB_PAGES + 1) == -EINVAL, "over max");
	CHECK(uvmm_guest_set_min(e, p.id + 1, 0) == -ENOENT, "of nobody");
	CHECK(uvmm_guest_trim(e, p.id + 1, 1, 0, UVMM_TIER_SWAP, &r) == -ENOENT, "of nobody");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* Who has its target and needs more lives on its own pages, while there is less than the aim;
 * with nothing to take from it, it goes on. */
static void test_aim(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "");
	struct uvmm_machine_stats m;
	struct uvmm_job_result r;
	uint64_t target = 4096, most = 0, held;
	size_t guests, i;

	plane_tell(&p, "fill 1024 16384 1");
	CHECK(!uvmm_guest_reclaim(e, p.id, 16384, UVMM_TIER_SWAP, &r), "reclaim");
	CHECK(!uvmm_guest_set_target(e, p.id, target), "target");
	m = plane_machine(e, &guests);
	uvmm_set_aim(e, m.total_pages);
	for (i = 0; i < 16; i++) {
		char line[64];

		snprintf(line, sizeof(line), "check %zu 1024 1", 1024 + i * 1024);
		/* The pattern is that of one fill, by the page's number. */
		plane_tell(&p, line);
		held = plane_stats(e, &p).resident_pages;
		most = held > most ? held : most;
	}
	CHECK(most <= target + 2048, "held %llu", (unsigned long long)most);
	CHECK(plane_stats(e, &p).stall_ns, "never waited");
	/* All that it has is pinned: waiting is of no use. */
	plane_tell(&p, "pin 1024 4000");
	uvmm_guest_set_target(e, p.id, 0);
	plane_tell(&p, "pin 5024 4000");
	plane_tell(&p, "check 9024 8000 1");
	uvmm_set_aim(e, 0);
	plane_tell(&p, "unpin 1024 8000");
	plane_tell(&p, "check 1024 16384 1");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void run_all(void)
{
	test_marks();
	fprintf(stderr, "marks: ok\n");
	test_trim();
	fprintf(stderr, "trim: ok\n");
	test_aim();
	fprintf(stderr, "aim: ok\n");
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
