/* SPDX-License-Identifier: MIT
 *
 * What guests use of their memory, and blocking them: with real guests.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
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

/* Has the guest touch pages while the caller looks. */
static void tell_only(struct peer *p, const char *line)
{
	fprintf(p->to, "%s\n", line);
	fflush(p->to);
}

static void wait_for_answer(struct peer *p)
{
	char answer[SCRIPT_LINE];

	CHECK(fgets(answer, sizeof(answer), p->from) && !strcmp(answer, "ok\n"), "%s", answer);
}

/* Touched of the sample in percent, or -1 while it is not told. */
static int touched(uvmm_engine *e, const struct peer *p)
{
	struct uvmm_guest_stats s = plane_stats(e, p);

	return s.sampled_pages ? (int)(100 * s.sample_touched_pages / s.sampled_pages) : -1;
}

/* Watches 1000 pages while the guest does as it is told, which touches `percent` of its
 * memory: the sample has to say so within 5 points, more than three standard deviations,
 * as soon as the watcher has looked. */
static void sample(uvmm_engine *e, struct peer *p, const char *line, int percent)
{
	int i, said = -1;

	CHECK(!uvmm_guest_sample(e, p->id, 1000), "sample");
	plane_tell(p, line);
	for (i = 0; i < 50 && said < (percent > 5 ? percent - 5 : 0); i++) {
		usleep(100000);
		said = touched(e, p);
	}
	CHECK(said >= percent - 5 && said <= percent + 5, "%s: %d of %d %%", line, said, percent);
}

static void test_sample(uint32_t via)
{
	uvmm_engine *e = plane_start(256, 256, via);
	struct peer p = plane_guest(e, "sampled", 64, "");
	struct uvmm_guest_stats s;
	struct uvmm_job_result r;

	CHECK(uvmm_guest_sample(e, p.id, 0) == -EINVAL, "0 pages");
	CHECK(uvmm_guest_sample(e, p.id, UVMM_SAMPLE_PAGES_MAX + 1) == -EINVAL, "too many");
	CHECK(uvmm_guest_sample(e, p.id + 1, 100) == -ENOENT, "of nobody");
	CHECK(!uvmm_guest_sample(e, p.id, 100), "of an empty guest");
	plane_tell(&p, "fill 0 16384 1");
	sample(e, &p, "touch 0 4915 1 1000", 30);
	/* Scattered pages, some of them more than once. */
	sample(e, &p, "touch 0 16384 4 1000", 25);
	sample(e, &p, "touch 0 1 1 300", 0);
	sample(e, &p, "touch 0 16384 1 1000", 100);
	/* Of pages that are stored those count that are loaded. */
	CHECK(!uvmm_guest_reclaim(e, p.id, 8000, UVMM_TIER_SWAP, &r) && r.pages == 8000, "reclaim");
	sample(e, &p, "touch 0 16384 16 1000", 6);
	s = plane_stats(e, &p);
	CHECK(s.samples == 6 && s.run_ns > 100000000, "%llu samples, %llu ns",
	      (unsigned long long)s.samples, (unsigned long long)s.run_ns);
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* A process that is stopped touches nothing, and does not answer. */
static void test_stopped(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "stopped", 64, "");
	int i;

	plane_tell(&p, "fill 0 8192 1");
	kill(p.pid, SIGSTOP);
	usleep(50000);
	CHECK(!uvmm_guest_sample(e, p.id, 100), "sample");
	CHECK(touched(e, &p) <= 0, "touched by nobody");
	for (i = 0; i < 50 && touched(e, &p) < 0; i++)
		usleep(100000);
	CHECK(touched(e, &p) == 0, "%d %%", touched(e, &p));
	kill(p.pid, SIGCONT);
	sample(e, &p, "touch 0 8192 1 100", 100);
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* The guest goes on with its quarter of the pages that is hot, until all others are known
 * to be idle. */
static void make_idle(uvmm_engine *e, struct peer *p, const char *line, uint64_t idle_pages)
{
	int i;

	for (i = 0; i < 40 && plane_stats(e, p).idle_pages[0] < idle_pages; i++)
		plane_tell(p, line);
	fprintf(stderr, "  %llu idle after %d times\n",
		(unsigned long long)plane_stats(e, p).idle_pages[0], i);
	CHECK(i < 40, "only %llu pages are idle",
	      (unsigned long long)plane_stats(e, p).idle_pages[0]);
}

/* Half of the guest's memory is taken: almost none of it is hot. */
static void test_victims(const char *hot, const char *use)
{
	uvmm_engine *e;
	struct peer p;
	struct uvmm_job_result r;
	uint64_t before;
	char line[64];

	plane_idle_permille = 20;
	e = plane_start(256, 256, 0);
	plane_idle_permille = 4;
	p = plane_guest(e, "picky", 64, "");
	plane_tell(&p, "fill 0 16384 1");
	/* From now on large pages are looked at page by page. */
	CHECK(!uvmm_guest_reclaim(e, p.id, 100, UVMM_TIER_SWAP, &r), "reclaim");
	snprintf(line, sizeof(line), "%s 500", use);
	make_idle(e, &p, line, 11000);
	CHECK(!uvmm_guest_reclaim(e, p.id, 8000, UVMM_TIER_SWAP, &r) && r.pages == 8000, "reclaim");
	before = plane_stats(e, &p).pages_in;
	snprintf(line, sizeof(line), "%s 0", use);
	plane_tell(&p, line);
	before = plane_stats(e, &p).pages_in - before;
	fprintf(stderr, "  %s: of 4000 pages %llu were taken\n", hot, (unsigned long long)before);
	CHECK(before < 200, "%llu", (unsigned long long)before);
	plane_tell(&p, "check 0 16384 1");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* --- while everything else goes on ------------------------------------------------- */

struct storm {
	uvmm_engine *e;
	uint64_t id[2];
	_Atomic bool stop;
	uint64_t samples;
};

static void *sample_main(void *arg)
{
	struct storm *s = arg;

	for (; !atomic_load(&s->stop); s->samples++) {
		uvmm_guest_sample(s->e, s->id[s->samples % 2], 1 + (uint32_t)s->samples % 1000);
		usleep(3000);
	}
	return NULL;
}

static void *move_main(void *arg)
{
	struct storm *s = arg;
	struct uvmm_share_result shared;
	struct uvmm_job_result r;
	unsigned i;

	for (i = 0; !atomic_load(&s->stop); i++) {
		uint64_t id = s->id[i % 2];

		if (i % 8 < 5)
			uvmm_guest_reclaim(s->e, id, 500 + i * 37 % 3000, UVMM_TIER_SWAP, &r);
		else if (i % 8 == 5)
			uvmm_guest_restore(s->e, id, &r);
		else
			uvmm_share_now(s->e, 0, &shared);
		uvmm_guest_block(s->e, id, i % 5 ? 0 : now_ns() + 1000000);
	}
	return NULL;
}

static void test_storm(uint32_t via)
{
	struct storm s = { 0 };
	struct peer p[2];
	pthread_t t[2];
	int i;

	plane_idle_permille = 1000;
	s.e = plane_start(256, 256, via);
	plane_idle_permille = 4;
	p[0] = plane_guest(s.e, "storm-1", 64, "kin");
	p[1] = plane_guest(s.e, "storm-2", 64, "kin");
	s.id[0] = p[0].id;
	s.id[1] = p[1].id;
	pthread_create(&t[0], NULL, sample_main, &s);
	pthread_create(&t[1], NULL, move_main, &s);
	for (i = 0; i < 2; i++)
		tell_only(&p[i], "race 2 1500 6000 40");
	for (i = 0; i < 2; i++)
		wait_for_answer(&p[i]);
	for (i = 0; i < 2; i++)
		tell_only(&p[i], "race 2 1500 12000");
	for (i = 0; i < 2; i++)
		wait_for_answer(&p[i]);
	atomic_store(&s.stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	fprintf(stderr, "  %llu samples, %llu and %llu pages scanned, %llu shared\n",
		(unsigned long long)s.samples,
		(unsigned long long)plane_stats(s.e, &p[0]).idle_scanned_pages,
		(unsigned long long)plane_stats(s.e, &p[1]).idle_scanned_pages,
		(unsigned long long)plane_stats(s.e, &p[0]).merged_pages);
	CHECK(plane_stats(s.e, &p[0]).idle_scanned_pages > 1000, "no scan");
	plane_end(&p[0], true);
	plane_end(&p[1], false);
	plane_wait_for_no_guests(s.e);
	uvmm_engine_stop(s.e);
}

static void run_all(void)
{
	uint32_t v;

	fprintf(stderr, "block\n");
	test_block();
	for (v = 0; v < 2; v++) {
		fprintf(stderr, "sample, %s\n", v ? "by descriptor" : "by fuse");
		test_sample(v);
		fprintf(stderr, "storm, %s\n", v ? "by descriptor" : "by fuse");
		test_storm(v);
	}
	fprintf(stderr, "stopped\n");
	test_stopped();
	fprintf(stderr, "victims\n");
	test_victims("together", "touch 6000 4000 1");
	test_victims("scattered", "touch 0 16384 4");
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
