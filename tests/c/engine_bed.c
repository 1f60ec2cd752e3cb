/* SPDX-License-Identifier: MIT */
#include "engine_bed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "uvmm/protocol.h"

static char plane_dir[64];
char plane_swap[128];
uint32_t plane_idle_permille = 4;

uvmm_engine *plane_start(uint64_t memory_mib, uint64_t swap_mib, uint32_t via)
{
	struct uvmm_engine_config cfg = {
		.memory_pages = memory_mib * MIB_PAGES,
		.swap_pages = swap_mib * MIB_PAGES,
		.via = via,
		.socket_gid = UINT32_MAX,
		.share_cpu_permille = 50,
		.idle_cost_permille = plane_idle_permille,
	};
	char err[UVMM_ERR_BYTES];
	uvmm_engine *e = NULL;
	int rc;

	snprintf(cfg.run_dir, sizeof(cfg.run_dir), "%s", plane_dir);
	snprintf(cfg.swap_path, sizeof(cfg.swap_path), "%s", plane_swap);
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
	snprintf(sock, sizeof(sock), "%s/guest.sock", plane_dir);
	setenv(UVMM_ENV_SOCKET, sock, 1);
	setenv(UVMM_ENV_NAME, p->name, 1);
	setenv(UVMM_ENV_TOKEN, hex, 1);
	/* The guest is not to outlive a test that fails. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(in, 0);
	dup2(out, 1);
	execl("/proc/self/exe", "guest", "guest", NULL);
	_exit(127);
}

char *plane_ask(struct peer *p, const char *line)
{
	static char answer[SCRIPT_LINE];

	fprintf(p->to, "%s\n", line);
	fflush(p->to);
	if (!fgets(answer, sizeof(answer), p->from))
		return NULL;
	answer[strcspn(answer, "\n")] = '\0';
	return answer;
}

void plane_tell(struct peer *p, const char *line)
{
	const char *answer = plane_ask(p, line);

	CHECK(answer && !strcmp(answer, "ok"), "%s: %s: %s", p->name, line,
	      answer ? answer : "the guest has died");
}

struct peer plane_guest(uvmm_engine *e, const char *name, uint64_t max_mib, const char *group)
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
	snprintf(cfg.group, sizeof(cfg.group), "%s", group);
	cfg.pid = p.pid;
	rc = uvmm_guest_create(e, &cfg, &p.id, err);
	CHECK(!rc, "%s", err);
	plane_tell(&p, "attach");
	return p;
}

void plane_end(struct peer *p, bool kill_it)
{
	int status;

	if (kill_it)
		kill(p->pid, SIGKILL);
	fclose(p->to);
	fclose(p->from);
	CHECK(waitpid(p->pid, &status, 0) == p->pid, "waitpid");
	CHECK(kill_it || !status, "%s ended with status %x", p->name, status);
}

struct uvmm_guest_stats plane_stats(uvmm_engine *e, const struct peer *p)
{
	struct uvmm_guest_stats s;

	CHECK(!uvmm_guest_find(e, p->name, &s), "%s is unknown", p->name);
	CHECK(s.resident_pages + s.swapped_pages + s.shared_pages + s.untouched_pages +
		      s.ballooned_pages ==
		      s.max_pages, "sum");
	return s;
}

struct uvmm_machine_stats plane_machine(uvmm_engine *e, size_t *guests)
{
	struct uvmm_machine_stats m;

	uvmm_snapshot(e, &m, NULL, 0, guests);
	return m;
}

/* A guest that ends is not shown any more, before what it held is freed. */
void plane_wait_for_no_guests(uvmm_engine *e)
{
	struct uvmm_machine_stats m;
	size_t n = 1;
	int i;

	for (i = 0; i < 5000; i++) {
		m = plane_machine(e, &n);
		if (!n && !m.swap_used_pages && m.tmpfs_pages < 16)
			break;
		usleep(1000);
	}
	CHECK(!n, "%zu guests are left", n);
	CHECK(!m.swap_used_pages, "%llu slots are left", (unsigned long long)m.swap_used_pages);
	CHECK(m.tmpfs_pages < 16, "%llu pages are left", (unsigned long long)m.tmpfs_pages);
}

bool plane_next_event(uvmm_engine *e, enum uvmm_event_kind kind)
{
	struct uvmm_event ev;

	while (!uvmm_event_next(e, &ev))
		if (ev.kind == kind)
			return true;
	return false;
}

static void plane_check_nothing_left(void)
{
	char line[512];
	struct stat st;
	FILE *f = fopen("/proc/self/mountinfo", "r");

	while (fgets(line, sizeof(line), f))
		CHECK(!strstr(line, plane_dir), "left: %s", line);
	fclose(f);
	CHECK(stat(plane_swap, &st) && errno == ENOENT, "the swap file is left");
	CHECK(!rmdir(plane_dir), "%s is not empty", plane_dir);
}

/* In a process of its own, so that this one can always clean up. */
static int run_in_child(void (*run_all)(void))
{
	char command[512];
	int status = 1;
	pid_t pid = fork();

	if (!pid) {
		run_all();
		plane_check_nothing_left();
		exit(0);
	}
	waitpid(pid, &status, 0);
	if (status) {
		snprintf(command, sizeof(command),
			 "umount -l %s/mem %s/machine 2>/dev/null; rm -rf %s %s", plane_dir,
			 plane_dir, plane_dir, plane_swap);
		if (system(command))
			fprintf(stderr, "cannot clean up %s\n", plane_dir);
	}
	return status ? 1 : 0;
}

int plane_main(int argc, char **argv, void (*run_all)(void))
{
	if (argc > 1 && !strcmp(argv[1], "guest"))
		return script_guest_main();
	if (geteuid()) {
		printf("skipped: needs root\n");
		return 0;
	}
	signal(SIGPIPE, SIG_IGN);
	strcpy(plane_dir, "/tmp/uvmm-test-engine-XXXXXX");
	if (!mkdtemp(plane_dir))
		return 1;
	snprintf(plane_swap, sizeof(plane_swap), "%s.swap", plane_dir);
	return run_in_child(run_all);
}
