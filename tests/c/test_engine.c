/* SPDX-License-Identifier: MIT
 *
 * The whole data plane with real guests: faults, reclaim, the budget, damage.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "engine_bed.h"

#define GUEST_PAGES (64u * MIB_PAGES)

static void test_reclaim_and_fault(uint32_t via)
{
	uvmm_engine *e = plane_start(256, 256, via);
	struct peer p = plane_guest(e, "basic", 64, "");
	struct uvmm_job_result r;
	struct uvmm_guest_stats s;
	int rc;

	plane_tell(&p, "fill 0 8192 42");
	s = plane_stats(e, &p);
	CHECK(s.resident_pages == 8192, "%llu", (unsigned long long)s.resident_pages);
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	CHECK(!rc && r.pages == 8192, "rc %d, %llu pages", rc, (unsigned long long)r.pages);
	s = plane_stats(e, &p);
	CHECK(!s.resident_pages && s.swapped_pages == 8192, "%llu resident",
	      (unsigned long long)s.resident_pages);
	plane_tell(&p, "check 0 8192 42");
	plane_tell(&p, "zero 8192 100");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	/* A whole large page came with the first of them. */
	CHECK(!rc && r.zero_pages >= 100 && r.pages == 8192 + r.zero_pages, "rc %d, %llu pages %llu zero", rc,
	      (unsigned long long)r.pages, (unsigned long long)r.zero_pages);
	rc = uvmm_guest_restore(e, p.id, &r);
	CHECK(!rc && r.pages == 8192 && !r.left_pages, "rc %d, %llu pages", rc,
	      (unsigned long long)r.pages);
	plane_tell(&p, "check 0 8192 42");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	plane_tell(&p, "syscall 100 3000 9");
	plane_tell(&p, "check 3100 5092 42");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	plane_tell(&p, "discard 0 4096");
	plane_tell(&p, "zero 0 4096");
	plane_tell(&p, "check 4096 4096 42");
	plane_tell(&p, "pin 0 1000");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	CHECK(plane_stats(e, &p).resident_pages == 1000, "pins");
	CHECK(strstr(plane_ask(&p, "discard 0 1"), "pinned"), "a pinned page was discarded");
	plane_tell(&p, "unpin 0 1000");
	CHECK(strcmp(plane_ask(&p, "unpin 0 1"), "ok"), "unpinned twice");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

struct churn {
	uvmm_engine *e;
	uint64_t id;
	_Atomic bool stop;
	uint64_t pages, rounds;
};

static void *churn_main(void *arg)
{
	struct churn *c = arg;
	struct uvmm_job_result r;
	unsigned seed = 1;

	while (!atomic_load(&c->stop)) {
		uint64_t want = (uint64_t)rand_r(&seed) % GUEST_PAGES;

		if (c->rounds++ % 4 == 3)
			uvmm_guest_restore(c->e, c->id, &r);
		else
			uvmm_guest_reclaim(c->e, c->id, want, UVMM_TIER_SWAP, &r);
		c->pages += r.pages;
	}
	return NULL;
}

static void test_race(uint32_t via)
{
	uvmm_engine *e = plane_start(256, 256, via);
	struct peer p = plane_guest(e, "racer", 64, "");
	struct churn c[2] = { { .e = e, .id = p.id }, { .e = e, .id = p.id } };
	pthread_t t[2];
	int i;

	for (i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, churn_main, &c[i]);
	plane_tell(&p, "race 4 3000 4000");
	plane_tell(&p, "race 2 1000 16000");
	for (i = 0; i < 2; i++) {
		atomic_store(&c[i].stop, true);
		pthread_join(t[i], NULL);
		fprintf(stderr, "  churn: %llu rounds, %llu pages moved\n",
			(unsigned long long)c[i].rounds, (unsigned long long)c[i].pages);
	}
	fprintf(stderr, "  aborted %llu, faults %llu\n",
		(unsigned long long)plane_stats(e, &p).aborted,
		(unsigned long long)plane_stats(e, &p).faults);
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_killed_while_reclaimed(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	int i;

	for (i = 0; i < 10; i++) {
		struct peer p = plane_guest(e, "victim", 64, "");
		struct churn c = { .e = e, .id = p.id };
		pthread_t t;

		plane_tell(&p, "fill 0 8000 1");
		pthread_create(&t, NULL, churn_main, &c);
		usleep(20000);
		plane_end(&p, true);
		atomic_store(&c.stop, true);
		pthread_join(t, NULL);
	}
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

struct meter {
	uvmm_engine *e;
	_Atomic bool stop;
	uint64_t most;
};

static void *meter_main(void *arg)
{
	struct meter *m = arg;
	size_t n;

	while (!atomic_load(&m->stop)) {
		struct uvmm_machine_stats s = plane_machine(m->e, &n);
		uint64_t used = s.tmpfs_pages + s.daemon_pages;

		if (used > m->most)
			m->most = used;
		usleep(500);
	}
	return NULL;
}

static void test_budget(void)
{
	uvmm_engine *e = plane_start(96, 512, 0);
	struct meter m = { .e = e };
	struct peer a = plane_guest(e, "grower", 256, ""), b = plane_guest(e, "other", 64, "");
	pthread_t t;

	pthread_create(&t, NULL, meter_main, &m);
	plane_tell(&b, "fill 0 8000 3");
	plane_tell(&a, "fill 0 60000 4");
	plane_tell(&a, "check 0 60000 4");
	plane_tell(&b, "check 0 8000 3");
	atomic_store(&m.stop, true);
	pthread_join(t, NULL);
	fprintf(stderr, "  at most %llu of %u pages used\n", (unsigned long long)m.most,
		96 * MIB_PAGES);
	CHECK(m.most <= 96 * MIB_PAGES, "the budget was exceeded");
	CHECK(!plane_next_event(e, UVMM_EVENT_REFUSED), "refused");
	plane_end(&a, false);
	plane_end(&b, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_exhausted(void)
{
	uvmm_engine *e = plane_start(64, 32, 0);
	struct peer a = plane_guest(e, "small", 64, ""), b = plane_guest(e, "greedy", 256, "");
	unsigned long long got = 0;
	const char *answer;

	plane_tell(&a, "fill 0 2000 3");
	answer = plane_ask(&b, "grow 0 60000");
	CHECK(answer && sscanf(answer, "ok %llu", &got) == 1, "%s", answer);
	fprintf(stderr, "  refused after %llu MiB\n", got / MIB_PAGES);
	CHECK(got > 50 * MIB_PAGES && got < 100 * MIB_PAGES, "%s", answer);
	CHECK(plane_next_event(e, UVMM_EVENT_REFUSED), "no event");
	plane_tell(&a, "check 0 2000 3");
	plane_end(&b, true);
	plane_tell(&a, "fill 2000 8000 3");
	plane_tell(&a, "check 0 10000 3");
	plane_end(&a, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_damage(void)
{
	uvmm_engine *e = plane_start(128, 64, 0);
	struct peer p = plane_guest(e, "hurt", 64, "");
	struct uvmm_job_result r;
	size_t n;
	char bad = 'x';
	int fd;

	plane_tell(&p, "fill 0 512 5");
	uvmm_guest_reclaim(e, p.id, 512, UVMM_TIER_SWAP, &r);
	fd = open(plane_swap, O_RDWR);
	/* Slots are taken in order, within a chunk. */
	CHECK(pwrite(fd, &bad, 1, 400 * 4096 + 17) == 1, "pwrite");
	close(fd);
	plane_tell(&p, "check 0 400 5");
	plane_tell(&p, "sigbus 400");
	plane_tell(&p, "sigbus 400");
	plane_tell(&p, "check 401 111 5");
	CHECK(plane_next_event(e, UVMM_EVENT_DAMAGED), "no event");
	CHECK(plane_machine(e, &n).damaged_pages == 1, "damaged");
	CHECK(uvmm_guest_restore(e, p.id, &r) == 0 && !r.pages, "restore");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_stop_with_guests(void)
{
	uvmm_engine *e = plane_start(128, 64, 0);
	struct peer p = plane_guest(e, "left", 64, "");
	int status;

	plane_tell(&p, "fill 0 1000 5");
	uvmm_engine_stop(e);
	CHECK(waitpid(p.pid, &status, 0) == p.pid && WIFSIGNALED(status), "still alive");
	fclose(p.to);
	fclose(p.from);
}

static void run_all(void)
{
	static const char *const via[] = { "fuse", "descriptor" };
	uint32_t v;

	for (v = 0; v < 2; v++) {
		fprintf(stderr, "reclaim and fault, by %s\n", via[v]);
		test_reclaim_and_fault(v);
		fprintf(stderr, "race, by %s\n", via[v]);
		test_race(v);
	}
	fprintf(stderr, "killed while reclaimed\n");
	test_killed_while_reclaimed();
	if (!SANITIZED) {
		fprintf(stderr, "budget\n");
		test_budget();
		fprintf(stderr, "exhausted\n");
		test_exhausted();
	}
	fprintf(stderr, "damage\n");
	test_damage();
	fprintf(stderr, "stop with guests\n");
	test_stop_with_guests();
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
