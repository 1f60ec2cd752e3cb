/* SPDX-License-Identifier: MIT
 *
 * The balloon: what goes into it, comes back, is touched in it, and never a wrong byte
 * meanwhile.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "engine_bed.h"

#define GUEST_MIB 64u
#define ALL (GUEST_MIB * MIB_PAGES)
#define WAIT_MS 5000
/* What a sanitizer needs counts as the daemon's own. */
#define EXTRA_MIB (SANITIZED ? 1024u : 0u)

static uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void set(uvmm_engine *e, const struct peer *p, uint64_t pages)
{
	int rc = uvmm_guest_set_balloon(e, p->id, pages);

	CHECK(!rc, "%s", strerror(-rc));
}

/* Until that is the size, and nothing is under way. */
static void wait_for(uvmm_engine *e, const struct peer *p, uint64_t pages)
{
	struct uvmm_guest_stats s = plane_stats(e, p);
	int i;

	for (i = 0; i < WAIT_MS && s.ballooned_pages != pages; i++) {
		usleep(1000);
		s = plane_stats(e, p);
	}
	CHECK(s.ballooned_pages == pages, "%llu ballooned, expected %llu",
	      (unsigned long long)s.ballooned_pages, (unsigned long long)pages);
}

/* Until so much was asked for in all. */
static struct uvmm_guest_stats wait_asked(uvmm_engine *e, const struct peer *p, uint64_t pages)
{
	struct uvmm_guest_stats s = plane_stats(e, p);
	int i;

	for (i = 0; i < WAIT_MS && s.balloon_asked_pages < pages; i++) {
		usleep(1000);
		s = plane_stats(e, p);
	}
	CHECK(s.balloon_asked_pages == pages, "%llu asked, expected %llu",
	      (unsigned long long)s.balloon_asked_pages, (unsigned long long)pages);
	return s;
}

static void make(uvmm_engine *e, const struct peer *p, uint64_t pages)
{
	set(e, p, pages);
	wait_for(e, p, pages);
}

static void expect(struct peer *p, const char *line, const char *want)
{
	const char *answer = plane_ask(p, line);

	CHECK(answer && !strcmp(answer, want), "%s: %s: %s, expected %s", p->name, line,
	      answer ? answer : "died", want);
}

/* What is free is less, and what is away more, for the moment in which the agent is at it. */
static void expect_soon(struct peer *p, const char *line, const char *want)
{
	int i;

	for (i = 0; i < WAIT_MS; i++) {
		const char *answer = plane_ask(p, line);

		if (!answer || !strcmp(answer, want))
			break;
		usleep(1000);
	}
	expect(p, line, want);
}

static struct peer guest(uvmm_engine *e, const char *name)
{
	struct peer p = plane_guest(e, name, GUEST_MIB, "g");
	int i;

	for (i = 0; i < WAIT_MS && !plane_stats(e, &p).balloon_able; i++)
		usleep(1000);
	CHECK(i < WAIT_MS, "its agent does not come");
	return p;
}

static void end(uvmm_engine *e, struct peer *p, bool kill_it)
{
	plane_end(p, kill_it);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_inflate_and_deflate(uint32_t via)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, via);
	struct peer p = guest(e, "a");
	struct uvmm_guest_stats s;
	size_t n;

	expect(&p, "alloc 8192", "ok 0");
	plane_tell(&p, "fill 0 8192 1");
	plane_tell(&p, "free 0 8192");
	/* What is resident goes first. */
	make(e, &p, 8000);
	s = wait_asked(e, &p, 8000);
	CHECK(s.balloon_given_pages == 8000 && s.resident_pages <= 192 + 512,
	      "%llu given, %llu resident", (unsigned long long)s.balloon_given_pages,
	      (unsigned long long)s.resident_pages);
	CHECK(plane_machine(e, &n).tmpfs_pages < 1000, "tmpfs");
	expect(&p, "room", "ok 8384 8000 0");
	make(e, &p, 12000);
	make(e, &p, 4000);
	make(e, &p, 0);
	expect(&p, "alloc 16384", "ok 0");
	plane_tell(&p, "fill 0 16384 2");
	plane_tell(&p, "check 0 16384 2");
	s = plane_stats(e, &p);
	CHECK(!s.popped_pages && !s.balloon_needed_pages, "%llu popped",
	      (unsigned long long)s.popped_pages);
	/* There is nothing that it could give. */
	set(e, &p, 1000);
	s = wait_asked(e, &p, 13000);
	CHECK(s.balloon_given_pages >= 8000 && s.balloon_given_pages <= 8192 &&
	      !s.ballooned_pages, "%llu given",
	      (unsigned long long)s.balloon_given_pages);
	CHECK(uvmm_guest_set_balloon(e, 99, 0) == -ENOENT, "no such guest");
	end(e, &p, false);
}

static void test_stored_pages(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 256, 0);
	struct peer p = guest(e, "a");
	struct uvmm_job_result job;
	size_t n;

	expect(&p, "alloc 16384", "ok 0");
	plane_tell(&p, "fill 0 16384 1");
	CHECK(!uvmm_guest_reclaim(e, p.id, 8000, UVMM_TIER_SWAP, &job) && job.pages == 8000, "swap");
	plane_tell(&p, "free 0 16384");
	make(e, &p, ALL);
	CHECK(!plane_machine(e, &n).swap_used_pages, "slots are left");
	CHECK(!plane_stats(e, &p).pages_in, "pages were loaded");
	make(e, &p, 0);
	plane_tell(&p, "zero 0 16384");
	end(e, &p, false);
}

/* Touches what it has given back. */
static void test_pop(uint32_t via)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, via);
	struct peer p = guest(e, "a");
	struct uvmm_guest_stats s;

	plane_tell(&p, "fill 0 16384 1");
	make(e, &p, ALL);
	plane_tell(&p, "fill 100 50 2");
	plane_tell(&p, "zero 200 50");
	plane_tell(&p, "discard 0 300");
	plane_tell(&p, "pin 300 3");
	s = plane_stats(e, &p);
	CHECK(s.popped_pages == 103 && s.ballooned_pages == ALL - 103 && s.pinned_pages == 3,
	      "%llu popped, %llu ballooned", (unsigned long long)s.popped_pages,
	      (unsigned long long)s.ballooned_pages);
	plane_tell(&p, "unpin 300 3");
	plane_tell(&p, "fill 100 50 3");
	plane_tell(&p, "check 100 50 3");
	/* What it wrote is in free memory, and may be handed back now. */
	make(e, &p, 0);
	plane_tell(&p, "zero 0 100");
	plane_tell(&p, "zero 150 16234");
	CHECK(plane_stats(e, &p).popped_pages == 103, "popped");
	end(e, &p, false);
}

/* It allocates more than is free. */
static void test_out_of_memory(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer p = guest(e, "a");
	struct uvmm_guest_stats s;

	expect(&p, "alloc 100", "ok 0");
	plane_tell(&p, "fill 0 100 1");
	make(e, &p, ALL - 100);
	expect(&p, "alloc 1", "ok 100");
	s = plane_stats(e, &p);
	CHECK(s.balloon_needed_pages == 412 && s.ballooned_pages == ALL - 512, "%llu needed",
	      (unsigned long long)s.balloon_needed_pages);
	expect(&p, "alloc 8000", "ok 101");
	expect(&p, "alloc 9000", "ok none");
	plane_tell(&p, "fill 100 8001 2");
	plane_tell(&p, "check 0 100 1");
	plane_tell(&p, "check 100 8001 2");
	expect(&p, "alloc 8283", "ok 8101");
	s = plane_stats(e, &p);
	CHECK(!s.ballooned_pages && !s.popped_pages && s.balloon_needed_pages == ALL - 100,
	      "%llu ballooned", (unsigned long long)s.ballooned_pages);
	end(e, &p, false);
}

/* What holds something goes first: the callbacks are asked for that before what is free, but
 * holds nothing. */
static void test_callbacks(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer p = guest(e, "a");
	struct uvmm_guest_stats s;

	plane_tell(&p, "spare 4000");
	make(e, &p, 3000);
	expect_soon(&p, "room", "ok 13384 3000 0");
	CHECK(wait_asked(e, &p, 3000).balloon_given_pages == 3000, "given");
	make(e, &p, 12000);
	expect_soon(&p, "room", "ok 4384 12000 0");
	make(e, &p, ALL);
	s = wait_asked(e, &p, ALL);
	/* The rest of it may have gone back by itself, and more than it is on large pages. */
	CHECK(s.balloon_given_pages <= 8192 && !s.resident_pages, "%llu given, %llu resident",
	      (unsigned long long)s.balloon_given_pages,
	      (unsigned long long)s.resident_pages);
	end(e, &p, false);
}

static void test_stopped(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer a = guest(e, "a"), b = guest(e, "b");
	struct uvmm_guest_stats s;
	uint64_t since;

	kill(a.pid, SIGSTOP);
	usleep(20000);
	CHECK(!plane_stats(e, &a).balloon_able, "it is stopped");
	since = now_us();
	set(e, &a, 5000);
	set(e, &a, 6000);
	make(e, &b, 6000);
	CHECK(now_us() - since < 1000000, "others waited");
	s = wait_asked(e, &a, 6000);
	CHECK(!s.balloon_given_pages && !s.balloon_able, "given");
	/* It is not asked twice, and learns what is wanted now when it runs again. */
	set(e, &a, 7000);
	kill(a.pid, SIGCONT);
	wait_for(e, &a, 7000);
	usleep(20000);
	CHECK(plane_stats(e, &a).balloon_able, "it runs");
	plane_end(&b, false);
	end(e, &a, true);
}

static void test_shared_pages(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 256, 0);
	struct peer a = guest(e, "a"), b = guest(e, "b");
	struct uvmm_share_result r;
	size_t n;
	int i;

	expect(&a, "alloc 8192", "ok 0");
	plane_tell(&a, "fill 0 8192 5");
	plane_tell(&b, "fill 0 8192 5");
	for (i = 0; i < 20 && plane_machine(e, &n).shared_pages < 16384; i++)
		CHECK(!uvmm_share_now(e, 0, &r), "share");
	plane_tell(&a, "fill 0 100 6");
	plane_tell(&a, "free 0 8192");
	make(e, &a, ALL);
	CHECK(plane_stats(e, &a).shared_pages == 0 && plane_stats(e, &a).split_pages == 0, "books");
	expect_soon(&a, "away 0 16384", "ok 0");
	plane_tell(&b, "check 0 8192 5");
	plane_tell(&a, "fill 50 50 7");
	CHECK(plane_stats(e, &a).popped_pages == 50, "popped");
	plane_tell(&a, "discard 50 50");
	make(e, &a, 0);
	plane_tell(&a, "zero 0 16384");
	plane_end(&b, false);
	end(e, &a, false);
}

/* Pages that are in use stay. */
static void test_pinned(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer p = guest(e, "a");

	plane_tell(&p, "fill 0 16384 1");
	plane_tell(&p, "pin 1000 10");
	set(e, &p, ALL);
	CHECK(wait_asked(e, &p, ALL).balloon_given_pages == ALL - 10, "pinned pages stay");
	plane_tell(&p, "check 1000 10 1");
	plane_tell(&p, "unpin 1000 10");
	plane_tell(&p, "zero 0 1000");
	end(e, &p, false);
}

/* What no library would say. */
static void test_hostile(void)
{
	static const char outside[] = "the range is empty or not in guest memory";
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer p = guest(e, "a");
	uint64_t i;

	plane_tell(&p, "fill 0 16384 1");
	expect(&p, "inflate 0 1", "the balloon is not to be that large");
	set(e, &p, 600);
	wait_for(e, &p, 600);
	expect(&p, "inflate 0 1", "the balloon is not to be that large");
	set(e, &p, ALL);
	wait_for(e, &p, ALL);
	make(e, &p, 0);
	/* It was asked for all, and has let go of that by itself. */
	plane_tell(&p, "fill 0 16384 1");
	expect(&p, "inflate 0 0", outside);
	expect(&p, "inflate 16384 1", outside);
	expect(&p, "inflate 16383 2", outside);
	expect(&p, "inflate 0 1 18446744073709551615 2", outside);
	expect(&p, "deflate 5 18446744073709551615", outside);
	expect(&p, "deflate 0 16384", "ok 0");
	expect(&p, "inflate 0 1", "the balloon is not to be that large");
	plane_tell(&p, "check 0 16384 1");
	/* With a target that the library cannot reach there is room for its own. */
	expect(&p, "alloc 8000", "ok 0");
	set(e, &p, ALL);
	wait_asked(e, &p, 2 * ALL);
	wait_for(e, &p, ALL - 8000);
	expect(&p, "inflate 1000 100 1050 100", "ok 150");
	expect(&p, "inflate 1000 100", "ok 0");
	plane_tell(&p, "check 0 1000 1");
	plane_tell(&p, "check 1150 6850 1");
	plane_tell(&p, "zero 1000 10");
	CHECK(plane_stats(e, &p).popped_pages == 10, "popped");
	expect(&p, "deflate 900 1000", "ok 140");
	CHECK(plane_stats(e, &p).ballooned_pages == ALL - 8000, "books");
	for (i = 0; i < 20; i++) {
		expect(&p, "inflate 0 8000", "ok 8000");
		expect(&p, "deflate 0 8000", "ok 8000");
	}
	plane_tell(&p, "zero 0 8000");
	end(e, &p, false);
}

/* Another image of the process has no balloon. */
static void test_exec(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer p = guest(e, "a");
	struct uvmm_guest_stats s;
	int i;

	plane_tell(&p, "fill 0 16384 1");
	make(e, &p, 10000);
	plane_tell(&p, "exec");
	plane_tell(&p, "attach");
	for (i = 0; i < WAIT_MS && !plane_stats(e, &p).balloon_able; i++)
		usleep(1000);
	s = plane_stats(e, &p);
	CHECK(!s.ballooned_pages && !s.balloon_target_pages && s.balloon_able, "%llu ballooned",
	      (unsigned long long)s.ballooned_pages);
	expect(&p, "room", "ok 16384 0 0");
	plane_tell(&p, "zero 0 16384");
	make(e, &p, 10000);
	end(e, &p, true);
}

static void test_killed(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	int i;

	for (i = 0; i < 20; i++) {
		struct peer p = guest(e, "victim");

		plane_tell(&p, "fill 0 16384 1");
		set(e, &p, ALL);
		usleep((useconds_t)i * 500);
		plane_end(&p, true);
	}
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

struct mover {
	uvmm_engine *e;
	uint64_t id;
	unsigned seed;
	_Atomic bool stop;
	uint64_t sets, shared, moved;
};

static void *mover_main(void *arg)
{
	struct mover *m = arg;
	struct uvmm_share_result s;
	struct uvmm_job_result r;

	while (!atomic_load(&m->stop)) {
		uint64_t pages = (uint64_t)rand_r(&m->seed) % ALL;

		switch (rand_r(&m->seed) % 8) {
		case 0:
			if (!uvmm_guest_reclaim(m->e, m->id, pages / 4, UVMM_TIER_SWAP, &r))
				m->moved += r.pages;
			break;
		case 1:
			if (!uvmm_guest_restore(m->e, m->id, &r))
				m->moved += r.pages;
			break;
		case 2:
			if (!uvmm_share_now(m->e, m->id, &s))
				m->shared += s.shared_pages;
			break;
		default:
			uvmm_guest_set_balloon(m->e, m->id, pages);
			m->sets++;
			usleep((useconds_t)rand_r(&m->seed) % 4000);
		}
	}
	return NULL;
}

/* A peer that works apart from the others. */
struct worker {
	struct peer p;
	const char *line;
	pthread_t thread;
};

/* Not by plane_tell: its answer is one for all threads. */
static void *worker_main(void *arg)
{
	struct worker *w = arg;
	char answer[SCRIPT_LINE];

	fprintf(w->p.to, "%s\n", w->line);
	fflush(w->p.to);
	CHECK(fgets(answer, sizeof(answer), w->p.from) && !strcmp(answer, "ok\n"), "%s: %s",
	      w->p.name, answer);
	return NULL;
}

static void test_race(uint32_t via, uint64_t memory_mib, const char *line)
{
	uvmm_engine *e = plane_start(memory_mib + EXTRA_MIB, 512, via);
	struct worker w[2] = { { .p = guest(e, "a"), .line = line },
			       { .p = guest(e, "b"), .line = line } };
	struct mover m[3] = { { .e = e, .id = w[0].p.id, .seed = 1 },
			      { .e = e, .id = w[1].p.id, .seed = 2 },
			      { .e = e, .id = w[1].p.id, .seed = 3 } };
	uint64_t ballooned = 0, needed = 0;
	struct uvmm_guest_stats s;
	pthread_t t[3];
	int i;

	for (i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, mover_main, &m[i]);
	for (i = 0; i < 2; i++)
		pthread_create(&w[i].thread, NULL, worker_main, &w[i]);
	for (i = 0; i < 2; i++)
		pthread_join(w[i].thread, NULL);
	for (i = 0; i < 3; i++) {
		atomic_store(&m[i].stop, true);
		pthread_join(t[i], NULL);
	}
	for (i = 0; i < 2; i++) {
		s = plane_stats(e, &w[i].p);
		ballooned += s.balloon_given_pages;
		needed += s.balloon_needed_pages;
		CHECK(!s.popped_pages, "%llu popped", (unsigned long long)s.popped_pages);
		/* All is free by now, and can be had. */
		make(e, &w[i].p, 0);
		make(e, &w[i].p, ALL);
	}
	fprintf(stderr, "  %llu sets, %llu given, %llu needed, %llu shared, %llu moved\n",
		(unsigned long long)(m[0].sets + m[1].sets + m[2].sets),
		(unsigned long long)ballooned, (unsigned long long)needed,
		(unsigned long long)(m[0].shared + m[1].shared + m[2].shared),
		(unsigned long long)(m[0].moved + m[1].moved + m[2].moved));
	plane_end(&w[0].p, false);
	end(e, &w[1].p, false);
}

static void run_all(void)
{
	static const char *const via[] = { "fuse", "descriptor" };
	uint32_t v;

	for (v = 0; v < 2; v++) {
		fprintf(stderr, "inflate and deflate, by %s\n", via[v]);
		test_inflate_and_deflate(v);
		fprintf(stderr, "pop, by %s\n", via[v]);
		test_pop(v);
		fprintf(stderr, "race, by %s\n", via[v]);
		test_race(v, 256, "churn 3 1500 0");
		test_race(v, 96, "churn 3 1500 5");
	}
	fprintf(stderr, "stored pages\n");
	test_stored_pages();
	fprintf(stderr, "out of memory\n");
	test_out_of_memory();
	fprintf(stderr, "callbacks\n");
	test_callbacks();
	fprintf(stderr, "stopped\n");
	test_stopped();
	fprintf(stderr, "shared pages\n");
	test_shared_pages();
	fprintf(stderr, "pinned\n");
	test_pinned();
	fprintf(stderr, "hostile\n");
	test_hostile();
	fprintf(stderr, "exec\n");
	test_exec();
	fprintf(stderr, "killed\n");
	test_killed();
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
