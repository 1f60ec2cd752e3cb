/* SPDX-License-Identifier: MIT
 *
 * The whole data plane with real guests: processes of this same program that
 * obey script_guest.h. Needs root.
 */
#include "script_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "uvmm/protocol.h"
#include "uvmm_core.h"

#define MIB_PAGES 256u
#define GUEST_PAGES (64u * MIB_PAGES)

/* A sanitizer's memory is the daemon's own, and leaves none for guests. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

static char run_dir[64], swap_path[128];

#define CHECK(cond, ...) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond); \
			fprintf(stderr, __VA_ARGS__); \
			fprintf(stderr, "\n"); \
			_exit(1); \
		} \
	} while (0)

struct peer {
	pid_t pid;
	uint64_t id;
	char name[32];
	FILE *to, *from;
};

static uvmm_engine *start(uint64_t memory_mib, uint64_t swap_mib, uint32_t via)
{
	struct uvmm_engine_config cfg = {
		.memory_pages = memory_mib * MIB_PAGES,
		.swap_pages = swap_mib * MIB_PAGES,
		.via = via,
		.socket_gid = UINT32_MAX,
	};
	char err[UVMM_ERR_BYTES];
	uvmm_engine *e = NULL;
	int rc;

	snprintf(cfg.run_dir, sizeof(cfg.run_dir), "%s", run_dir);
	snprintf(cfg.swap_path, sizeof(cfg.swap_path), "%s", swap_path);
	rc = uvmm_engine_start(&cfg, &e, err);
	CHECK(!rc, "%s", err);
	return e;
}

static void exec_guest(const struct peer *p, const uint8_t *token, int in, int out)
{
	char hex[2 * UVMM_TOKEN_BYTES + 1], sock[128];
	int i;

	for (i = 0; i < (int)UVMM_TOKEN_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", token[i]);
	snprintf(sock, sizeof(sock), "%s/guest.sock", run_dir);
	setenv(UVMM_ENV_SOCKET, sock, 1);
	setenv(UVMM_ENV_NAME, p->name, 1);
	setenv(UVMM_ENV_TOKEN, hex, 1);
	dup2(in, 0);
	dup2(out, 1);
	execl("/proc/self/exe", "test_engine", "guest", NULL);
	_exit(127);
}

static char *ask(struct peer *p, const char *line)
{
	static char answer[SCRIPT_LINE];

	fprintf(p->to, "%s\n", line);
	fflush(p->to);
	if (!fgets(answer, sizeof(answer), p->from))
		return NULL;
	answer[strcspn(answer, "\n")] = '\0';
	return answer;
}

static void tell(struct peer *p, const char *line)
{
	const char *answer = ask(p, line);

	CHECK(answer && !strcmp(answer, "ok"), "%s: %s: %s", p->name, line,
	      answer ? answer : "the guest has died");
}

static struct peer start_guest(uvmm_engine *e, const char *name, uint64_t max_mib)
{
	struct uvmm_guest_config cfg = {
		.max_pages = max_mib * MIB_PAGES,
		.target_pages = max_mib * MIB_PAGES,
	};
	char err[UVMM_ERR_BYTES];
	int in[2], out[2], rc;
	struct peer p = { 0 };

	snprintf(p.name, sizeof(p.name), "%s", name);
	memset(cfg.token, 7, sizeof(cfg.token));
	memcpy(cfg.token, name, strlen(name));
	CHECK(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC), "pipe");
	p.pid = fork();
	if (!p.pid)
		exec_guest(&p, cfg.token, in[0], out[1]);
	close(in[0]);
	close(out[1]);
	p.to = fdopen(in[1], "w");
	p.from = fdopen(out[0], "r");
	snprintf(cfg.name, sizeof(cfg.name), "%s", name);
	cfg.pid = p.pid;
	rc = uvmm_guest_create(e, &cfg, &p.id, err);
	CHECK(!rc, "%s", err);
	tell(&p, "attach");
	return p;
}

static void end_guest(struct peer *p, bool kill_it)
{
	int status;

	if (kill_it)
		kill(p->pid, SIGKILL);
	fclose(p->to);
	fclose(p->from);
	CHECK(waitpid(p->pid, &status, 0) == p->pid, "waitpid");
	CHECK(kill_it || !status, "%s ended with status %x", p->name, status);
}

static struct uvmm_guest_stats stats_of(uvmm_engine *e, const struct peer *p)
{
	struct uvmm_guest_stats s;

	CHECK(!uvmm_guest_find(e, p->name, &s), "%s is unknown", p->name);
	CHECK(s.resident_pages + s.swapped_pages + s.untouched_pages == s.max_pages, "sum");
	return s;
}

static struct uvmm_machine_stats machine(uvmm_engine *e, size_t *guests)
{
	struct uvmm_machine_stats m;

	uvmm_snapshot(e, &m, NULL, 0, guests);
	return m;
}

static void wait_for_no_guests(uvmm_engine *e)
{
	struct uvmm_machine_stats m;
	size_t n = 1;
	int i;

	for (i = 0; i < 2000 && n; i++) {
		m = machine(e, &n);
		usleep(1000);
	}
	usleep(20000);
	m = machine(e, &n);
	CHECK(!n, "%zu guests are left", n);
	CHECK(!m.swap_used_pages, "%llu slots are left", (unsigned long long)m.swap_used_pages);
	CHECK(m.tmpfs_pages < 16, "%llu pages are left", (unsigned long long)m.tmpfs_pages);
}

static bool next_event(uvmm_engine *e, enum uvmm_event_kind kind)
{
	struct uvmm_event ev;

	while (!uvmm_event_next(e, &ev))
		if (ev.kind == kind)
			return true;
	return false;
}

static void test_reclaim_and_fault(uint32_t via)
{
	uvmm_engine *e = start(256, 256, via);
	struct peer p = start_guest(e, "basic", 64);
	struct uvmm_job_result r;
	struct uvmm_guest_stats s;
	int rc;

	tell(&p, "fill 0 8192 42");
	s = stats_of(e, &p);
	CHECK(s.resident_pages == 8192, "%llu", (unsigned long long)s.resident_pages);
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	CHECK(!rc && r.pages == 8192, "rc %d, %llu pages", rc, (unsigned long long)r.pages);
	s = stats_of(e, &p);
	CHECK(!s.resident_pages && s.swapped_pages == 8192, "%llu resident",
	      (unsigned long long)s.resident_pages);
	tell(&p, "check 0 8192 42");
	tell(&p, "zero 8192 100");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	/* A whole large page came with the first of them. */
	CHECK(!rc && r.zero_pages >= 100 && r.pages == 8192 + r.zero_pages, "rc %d, %llu pages %llu zero", rc,
	      (unsigned long long)r.pages, (unsigned long long)r.zero_pages);
	rc = uvmm_guest_restore(e, p.id, &r);
	CHECK(!rc && r.pages == 8192 && !r.left_pages, "rc %d, %llu pages", rc,
	      (unsigned long long)r.pages);
	tell(&p, "check 0 8192 42");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	tell(&p, "syscall 100 3000 9");
	tell(&p, "check 3100 5092 42");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	tell(&p, "discard 0 4096");
	tell(&p, "zero 0 4096");
	tell(&p, "check 4096 4096 42");
	tell(&p, "pin 0 1000");
	rc = uvmm_guest_reclaim(e, p.id, GUEST_PAGES, UVMM_TIER_SWAP, &r);
	CHECK(stats_of(e, &p).resident_pages == 1000, "pins");
	CHECK(strstr(ask(&p, "discard 0 1"), "pinned"), "a pinned page was discarded");
	tell(&p, "unpin 0 1000");
	CHECK(strcmp(ask(&p, "unpin 0 1"), "ok"), "unpinned twice");
	end_guest(&p, false);
	wait_for_no_guests(e);
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
	uvmm_engine *e = start(256, 256, via);
	struct peer p = start_guest(e, "racer", 64);
	struct churn c[2] = { { .e = e, .id = p.id }, { .e = e, .id = p.id } };
	pthread_t t[2];
	int i;

	for (i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, churn_main, &c[i]);
	tell(&p, "race 4 3000 4000");
	tell(&p, "race 2 1000 16000");
	for (i = 0; i < 2; i++) {
		atomic_store(&c[i].stop, true);
		pthread_join(t[i], NULL);
		fprintf(stderr, "  churn: %llu rounds, %llu pages moved\n",
			(unsigned long long)c[i].rounds, (unsigned long long)c[i].pages);
	}
	fprintf(stderr, "  aborted %llu, faults %llu\n",
		(unsigned long long)stats_of(e, &p).aborted,
		(unsigned long long)stats_of(e, &p).faults);
	end_guest(&p, false);
	wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_killed_while_reclaimed(void)
{
	uvmm_engine *e = start(256, 256, 0);
	int i;

	for (i = 0; i < 10; i++) {
		struct peer p = start_guest(e, "victim", 64);
		struct churn c = { .e = e, .id = p.id };
		pthread_t t;

		tell(&p, "fill 0 8000 1");
		pthread_create(&t, NULL, churn_main, &c);
		usleep(20000);
		end_guest(&p, true);
		atomic_store(&c.stop, true);
		pthread_join(t, NULL);
	}
	wait_for_no_guests(e);
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
		struct uvmm_machine_stats s = machine(m->e, &n);
		uint64_t used = s.tmpfs_pages + s.daemon_pages;

		if (used > m->most)
			m->most = used;
		usleep(500);
	}
	return NULL;
}

static void test_budget(void)
{
	uvmm_engine *e = start(96, 512, 0);
	struct meter m = { .e = e };
	struct peer a = start_guest(e, "grower", 256), b = start_guest(e, "other", 64);
	pthread_t t;

	pthread_create(&t, NULL, meter_main, &m);
	tell(&b, "fill 0 8000 3");
	tell(&a, "fill 0 60000 4");
	tell(&a, "check 0 60000 4");
	tell(&b, "check 0 8000 3");
	atomic_store(&m.stop, true);
	pthread_join(t, NULL);
	fprintf(stderr, "  at most %llu of %u pages used\n", (unsigned long long)m.most,
		96 * MIB_PAGES);
	CHECK(m.most <= 96 * MIB_PAGES, "the budget was exceeded");
	CHECK(!next_event(e, UVMM_EVENT_REFUSED), "refused");
	end_guest(&a, false);
	end_guest(&b, false);
	wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_exhausted(void)
{
	uvmm_engine *e = start(64, 32, 0);
	struct peer a = start_guest(e, "small", 64), b = start_guest(e, "greedy", 256);
	unsigned long long got = 0;
	const char *answer;

	tell(&a, "fill 0 2000 3");
	answer = ask(&b, "grow 0 60000");
	CHECK(answer && sscanf(answer, "ok %llu", &got) == 1, "%s", answer);
	fprintf(stderr, "  refused after %llu MiB\n", got / MIB_PAGES);
	CHECK(got > 50 * MIB_PAGES && got < 100 * MIB_PAGES, "%s", answer);
	CHECK(next_event(e, UVMM_EVENT_REFUSED), "no event");
	tell(&a, "check 0 2000 3");
	end_guest(&b, true);
	tell(&a, "fill 2000 8000 3");
	tell(&a, "check 0 10000 3");
	end_guest(&a, false);
	wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_damage(void)
{
	uvmm_engine *e = start(128, 64, 0);
	struct peer p = start_guest(e, "hurt", 64);
	struct uvmm_job_result r;
	size_t n;
	char bad = 'x';
	int fd;

	tell(&p, "fill 0 1000 5");
	uvmm_guest_reclaim(e, p.id, 1000, UVMM_TIER_SWAP, &r);
	fd = open(swap_path, O_RDWR);
	/* Slots are taken in order. */
	CHECK(pwrite(fd, &bad, 1, 500 * 4096 + 17) == 1, "pwrite");
	close(fd);
	tell(&p, "check 0 500 5");
	tell(&p, "sigbus 500");
	tell(&p, "sigbus 500");
	tell(&p, "check 501 499 5");
	CHECK(next_event(e, UVMM_EVENT_DAMAGED), "no event");
	CHECK(machine(e, &n).damaged_pages == 1, "damaged");
	CHECK(uvmm_guest_restore(e, p.id, &r) == 0 && !r.pages, "restore");
	end_guest(&p, false);
	wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void test_stop_with_guests(void)
{
	uvmm_engine *e = start(128, 64, 0);
	struct peer p = start_guest(e, "left", 64);
	int status;

	tell(&p, "fill 0 1000 5");
	uvmm_engine_stop(e);
	CHECK(waitpid(p.pid, &status, 0) == p.pid && WIFSIGNALED(status), "still alive");
	fclose(p.to);
	fclose(p.from);
}

static void check_nothing_left(void)
{
	char line[512];
	struct stat st;
	FILE *f = fopen("/proc/self/mountinfo", "r");

	while (fgets(line, sizeof(line), f))
		CHECK(!strstr(line, run_dir), "left: %s", line);
	fclose(f);
	CHECK(stat(swap_path, &st) && errno == ENOENT, "the swap file is left");
	CHECK(!rmdir(run_dir), "%s is not empty", run_dir);
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
	check_nothing_left();
}

/* In a process of its own, so that this one can always clean up. */
static int run_in_child(void)
{
	char command[512];
	int status = 1;
	pid_t pid = fork();

	if (!pid) {
		run_all();
		exit(0);
	}
	waitpid(pid, &status, 0);
	if (status) {
		snprintf(command, sizeof(command),
			 "umount -l %s/mem %s/machine 2>/dev/null; rm -rf %s %s", run_dir,
			 run_dir, run_dir, swap_path);
		if (system(command))
			fprintf(stderr, "cannot clean up %s\n", run_dir);
	}
	return status ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "guest"))
		return script_guest_main();
	if (geteuid()) {
		printf("skipped: needs root\n");
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	strcpy(run_dir, "/tmp/uvmm-test-engine-XXXXXX");
	if (!mkdtemp(run_dir))
		return 1;
	snprintf(swap_path, sizeof(swap_path), "%s.swap", run_dir);
	return run_in_child();
}
