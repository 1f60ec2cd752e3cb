/* SPDX-License-Identifier: MIT
 *
 * Pages that guests share: found, split, home again, and never a wrong byte meanwhile.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "engine_bed.h"

#define GUEST_MIB 64u
#define PAGES 8192u             /* that are alike, half of a guest */
/* What a sanitizer needs counts as the daemon's own. */
#define EXTRA_MIB (SANITIZED ? 1024u : 0u)

static struct uvmm_share_result share_now(uvmm_engine *e, uint64_t id)
{
	struct uvmm_share_result r;
	int rc = uvmm_share_now(e, id, &r);

	CHECK(!rc, "%s", strerror(-rc));
	return r;
}

/* Until so many pages are shared in all: under a sanitizer agents may be called in vain. */
static void share_until(uvmm_engine *e, uint64_t pages)
{
	uint64_t cpu_ns = 0;
	size_t n;
	int i;

	for (i = 0; i < 60 && plane_machine(e, &n).shared_pages < pages; i++) {
		/* An agent that was late is left alone for a second. */
		if (i > 4)
			usleep(300000);
		cpu_ns += share_now(e, 0).cpu_ns;
	}
	fprintf(stderr, "  %d passes, %.1f us of CPU a page\n", i,
		(double)cpu_ns / 1e3 / (double)pages);
}

static unsigned long long number(struct peer *p, const char *line)
{
	unsigned long long n = 0;
	const char *answer = plane_ask(p, line);

	CHECK(answer && sscanf(answer, "ok %llu", &n) == 1, "%s: %s", line, answer ? answer : "died");
	return n;
}

/* What the books say fits together, and to what the kernel says. */
static struct uvmm_machine_stats check_books(uvmm_engine *e, uint64_t shared, uint64_t frames)
{
	size_t n;
	struct uvmm_machine_stats m = plane_machine(e, &n);

	CHECK(m.shared_pages == shared && m.frame_pages == frames &&
	      m.saved_pages == shared - frames, "%llu shared, %llu frames, %llu saved",
	      (unsigned long long)m.shared_pages, (unsigned long long)m.frame_pages,
	      (unsigned long long)m.saved_pages);
	CHECK(m.tmpfs_pages + m.split_pages >= m.guest_pages + m.frame_pages, "tmpfs");
	return m;
}

static void wait_for_splits(uvmm_engine *e, uint64_t splits)
{
	uint64_t seen = 0;
	size_t n;
	int i;

	for (i = 0; i < 15000 && seen < splits; i++) {
		seen = plane_machine(e, &n).splits;
		usleep(1000);
	}
	CHECK(seen == splits, "%llu splits were noticed", (unsigned long long)seen);
}

static void test_share_and_split(uint32_t via)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 256, via);
	struct peer a = plane_guest(e, "a", GUEST_MIB, "g"), b = plane_guest(e, "b", GUEST_MIB, "g");
	struct uvmm_machine_stats m;
	struct uvmm_job_result job;

	plane_tell(&a, "fill 0 8192 42");
	plane_tell(&b, "fill 0 8192 42");
	share_until(e, 2 * PAGES);
	m = check_books(e, 2 * PAGES, PAGES);
	CHECK(m.tmpfs_pages <= PAGES + 100, "%llu pages", (unsigned long long)m.tmpfs_pages);
	CHECK(number(&a, "away 0 8192") == PAGES && number(&a, "maps") < 100, "mappings");
	plane_tell(&a, "check 0 8192 42");
	plane_tell(&b, "check 0 8192 42");
	/* Shared pages are not taken out, nor lost. */
	CHECK(!uvmm_guest_reclaim(e, a.id, PAGES, UVMM_TIER_SWAP, &job), "reclaim");
	plane_tell(&a, "check 0 8192 42");
	plane_tell(&a, "fill 0 100 43");
	plane_tell(&b, "check 0 8192 42");
	plane_tell(&a, "check 100 8092 42");
	wait_for_splits(e, 100);
	check_books(e, 2 * PAGES - 100, PAGES);
	/* Reclaim brings them home, and takes them out. */
	CHECK(!uvmm_guest_reclaim(e, a.id, 100, UVMM_TIER_SWAP, &job) && job.pages == 100,
	      "%llu reclaimed", (unsigned long long)job.pages);
	CHECK(plane_stats(e, &a).swapped_pages == 100 && !plane_stats(e, &a).split_pages, "home");
	plane_tell(&a, "check 0 100 43");
	plane_tell(&a, "discard 0 4096");
	plane_tell(&a, "zero 0 4096");
	check_books(e, 2 * PAGES - 4096, PAGES);
	plane_tell(&b, "pin 0 10");
	plane_tell(&b, "check 0 8192 42");
	plane_tell(&b, "unpin 0 10");
	plane_end(&b, false);
	plane_tell(&a, "check 4096 4096 42");
	plane_end(&a, true);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_cold_splits_come_home(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer a = plane_guest(e, "a", GUEST_MIB, "g"), b = plane_guest(e, "b", GUEST_MIB, "g");
	struct uvmm_machine_stats m;
	size_t n;
	int i;

	plane_tell(&a, "fill 0 1000 42");
	plane_tell(&b, "fill 0 1000 42");
	share_until(e, 2000);
	plane_tell(&a, "fill 10 100 43");
	wait_for_splits(e, 100);
	for (i = 0, m = plane_machine(e, &n); i < 20000 && m.homed_pages < 100; i++) {
		usleep(1000);
		m = plane_machine(e, &n);
	}
	CHECK(m.homed_pages == 100 && !m.split_pages, "%llu home", (unsigned long long)m.homed_pages);
	plane_tell(&a, "check 10 100 43");
	plane_tell(&b, "check 0 1000 42");
	plane_tell(&a, "fill 10 100 42");
	share_until(e, 2000);
	check_books(e, 2000, 1000);
	plane_end(&a, false);
	plane_end(&b, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_zeros(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer a = plane_guest(e, "a", GUEST_MIB, "g");
	struct uvmm_guest_stats s;
	int i;

	plane_tell(&a, "fill 0 8192 42");
	plane_tell(&a, "same 0 4096 0");
	/* By the scanner, too, which was quicker with some. An agent that was late is left
	 * alone for a second. */
	for (i = 0, s = plane_stats(e, &a); i < 20 && s.share_zero_pages + s.merged_pages < 4095;
	     i++) {
		if (i)
			usleep(300000);
		share_now(e, a.id);
		s = plane_stats(e, &a);
	}
	CHECK(s.share_zero_pages + s.merged_pages >= 4095, "%llu zero, %llu shared",
	      (unsigned long long)s.share_zero_pages, (unsigned long long)s.merged_pages);
	plane_tell(&a, "alike 0 4096 0");
	plane_tell(&a, "check 4096 4096 42");
	plane_end(&a, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_groups(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 0, 0);
	struct peer a = plane_guest(e, "a", GUEST_MIB, "g"), b = plane_guest(e, "b", GUEST_MIB, "h"),
		    c = plane_guest(e, "c", GUEST_MIB, "");
	struct uvmm_share_result r;

	plane_tell(&a, "fill 0 1000 42");
	plane_tell(&b, "fill 0 1000 42");
	plane_tell(&c, "fill 0 1000 42");
	CHECK(!share_now(e, 0).shared_pages, "shared across groups");
	CHECK(uvmm_share_now(e, c.id, &r) == -EOPNOTSUPP && uvmm_share_now(e, 99, &r) == -ENOENT,
	      "refusals");
	plane_end(&a, false);
	plane_end(&b, false);
	plane_end(&c, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_stopped_agent(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 256, 0);
	struct peer a = plane_guest(e, "a", GUEST_MIB, "g"), b = plane_guest(e, "b", GUEST_MIB, "g");
	struct uvmm_share_result r;

	plane_tell(&a, "fill 0 1000 42");
	plane_tell(&b, "fill 0 1000 42");
	kill(a.pid, SIGSTOP);
	usleep(50000);
	r = share_now(e, 0);
	CHECK(r.elapsed_ns < 2000000000ull, "%llu ns", (unsigned long long)r.elapsed_ns);
	kill(a.pid, SIGCONT);
	usleep(1100000);
	share_until(e, 2000);
	check_books(e, 2000, 1000);
	plane_tell(&a, "check 0 1000 42");
	plane_tell(&b, "check 0 1000 42");
	plane_end(&a, false);
	plane_end(&b, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

struct mover {
	uvmm_engine *e;
	uint64_t id;
	_Atomic bool stop;
	uint64_t shared, moved;
};

static void *mover_main(void *arg)
{
	struct mover *m = arg;
	struct uvmm_share_result s;
	struct uvmm_job_result r;
	unsigned seed = (unsigned)m->id;

	while (!atomic_load(&m->stop)) {
		switch (rand_r(&seed) % 4) {
		case 0:
			uvmm_guest_reclaim(m->e, m->id, (uint64_t)rand_r(&seed) % PAGES,
					   UVMM_TIER_SWAP, &r);
			m->moved += r.pages;
			break;
		case 1:
			uvmm_guest_restore(m->e, m->id, &r);
			m->moved += r.pages;
			break;
		default:
			if (!uvmm_share_now(m->e, rand_r(&seed) % 2 ? m->id : 0, &s))
				m->shared += s.shared_pages;
		}
	}
	return NULL;
}

/* A peer that races apart from the others. */
struct racer {
	struct peer p;
	const char *line;
	pthread_t thread;
};

/* Not by plane_tell: its answer is one for all threads. */
static void *racer_main(void *arg)
{
	struct racer *r = arg;
	char answer[SCRIPT_LINE];

	fprintf(r->p.to, "%s\n", r->line);
	fflush(r->p.to);
	CHECK(fgets(answer, sizeof(answer), r->p.from) && !strcmp(answer, "ok\n"), "%s: %s",
	      r->p.name, answer);
	return NULL;
}

static void test_race(uint32_t via, const char *line)
{
	uvmm_engine *e = plane_start(192 + EXTRA_MIB, 256, via);
	struct racer r[2] = { { .p = plane_guest(e, "a", GUEST_MIB, "g"), .line = line },
			      { .p = plane_guest(e, "b", GUEST_MIB, "g"), .line = line } };
	struct mover m[2] = { { .e = e, .id = r[0].p.id }, { .e = e, .id = r[1].p.id } };
	pthread_t t[2];
	size_t n;
	int i;

	for (i = 0; i < 2; i++) {
		pthread_create(&t[i], NULL, mover_main, &m[i]);
		pthread_create(&r[i].thread, NULL, racer_main, &r[i]);
	}
	for (i = 0; i < 2; i++)
		pthread_join(r[i].thread, NULL);
	for (i = 0; i < 2; i++) {
		atomic_store(&m[i].stop, true);
		pthread_join(t[i], NULL);
	}
	fprintf(stderr, "  %llu shared, %llu moved, %llu splits, %llu home\n",
		(unsigned long long)(m[0].shared + m[1].shared),
		(unsigned long long)(m[0].moved + m[1].moved),
		(unsigned long long)plane_machine(e, &n).splits,
		(unsigned long long)plane_machine(e, &n).homed_pages);
	for (i = 0; i < 2; i++)
		plane_end(&r[i].p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_killed(void)
{
	uvmm_engine *e = plane_start(256 + EXTRA_MIB, 256, 0);
	struct peer b = plane_guest(e, "stays", GUEST_MIB, "g");
	struct mover m = { .e = e };
	pthread_t t;
	int i;

	plane_tell(&b, "fill 0 8192 1");
	m.id = b.id;
	pthread_create(&t, NULL, mover_main, &m);
	for (i = 0; i < 20; i++) {
		struct peer p = plane_guest(e, "victim", GUEST_MIB, "g");

		plane_tell(&p, "fill 0 8192 1");
		usleep((useconds_t)i * 5000);
		plane_end(&p, true);
	}
	atomic_store(&m.stop, true);
	pthread_join(t, NULL);
	plane_tell(&b, "check 0 8192 1");
	plane_end(&b, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* All that is shared is written at once, and has to go to swap. */
static void test_all_split_at_once(void)
{
	uvmm_engine *e = plane_start(128 + EXTRA_MIB, 512, 0);
	struct peer p[4];
	char name[8];
	int i;

	for (i = 0; i < 4; i++) {
		snprintf(name, sizeof(name), "g%d", i);
		p[i] = plane_guest(e, name, GUEST_MIB, "g");
		plane_tell(&p[i], "fill 0 12000 1");
		share_now(e, 0);
	}
	for (i = 0; i < 4; i++)
		plane_tell(&p[i], "fill 0 12000 2");
	for (i = 0; i < 4; i++)
		plane_tell(&p[i], "check 0 12000 2");
	CHECK(!plane_next_event(e, UVMM_EVENT_REFUSED), "refused");
	for (i = 0; i < 4; i++)
		plane_end(&p[i], false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void run_all(void)
{
	static const char *const via[] = { "fuse", "descriptor" };
	uint32_t v;

	for (v = 0; v < 2; v++) {
		fprintf(stderr, "share and split, by %s\n", via[v]);
		test_share_and_split(v);
		fprintf(stderr, "race, by %s\n", via[v]);
		test_race(v, "race 3 2000 4000 5");
		test_race(v, "race 2 1000 1500 50");
	}
	fprintf(stderr, "cold splits come home\n");
	test_cold_splits_come_home();
	fprintf(stderr, "zeros\n");
	test_zeros();
	fprintf(stderr, "groups\n");
	test_groups();
	fprintf(stderr, "stopped agent\n");
	test_stopped_agent();
	fprintf(stderr, "killed\n");
	test_killed();
	if (!SANITIZED) {
		fprintf(stderr, "all split at once\n");
		test_all_split_at_once();
	}
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
