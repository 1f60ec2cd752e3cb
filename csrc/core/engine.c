/* SPDX-License-Identifier: MIT */
#include "engine.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "load.h"
#include "locks.h"
#include "tier_swap.h"

#define END_WAIT_NS (10 * NS_PER_S)
#define END_POLL_NS (2 * NS_PER_MS)
#define NAME_FREE_NS (2 * NS_PER_S)

#pragma GCC visibility push(default)

/* So that room for a burst is never a SIGBUS: the budget is kept by reclaim, not
 * by the size of the mount. */
static uint64_t mount_pages(uint64_t budget)
{
	return budget + budget / 4 + (64 << 20 >> UVMM_PAGE_SHIFT);
}

static int start_swap(struct uvmm_engine *e, char *err)
{
	const char *path = e->cfg.swap_path;
	int rc;

	unlink(path);
	rc = tier_swap_open(path, e->cfg.swap_pages, &e->tier[UVMM_TIER_SWAP]);
	if (rc)
		snprintf(err, UVMM_ERR_BYTES, "cannot make the swap file %.160s of %llu MiB: %s", path,
			 (unsigned long long)e->cfg.swap_pages >> 8, strerror(-rc));
	return rc;
}

static int start_memory(struct uvmm_engine *e, char *err)
{
	int rc;

	rc = machine_start(&e->machine, e->cfg.run_dir, mount_pages(e->cfg.memory_pages), err,
			   UVMM_ERR_BYTES);
	if (rc)
		return rc;
	rc = start_swap(e, err);
	if (rc)
		goto no_swap;
	rc = pressure_start(e, e->cfg.memory_pages);
	if (rc) {
		snprintf(err, UVMM_ERR_BYTES,
			 rc == -ENOMEM ? "%llu MiB of machine memory are too little: the daemon itself holds %llu MiB, and 8 MiB must be left for guests" :
					 "cannot start the guard of %llu MiB (%llu held)",
			 (unsigned long long)e->cfg.memory_pages >> 8,
			 (unsigned long long)machine_daemon_pages() >> 8);
		goto no_pressure;
	}
	return 0;
no_pressure:
	e->tier[UVMM_TIER_SWAP]->ops->close(e->tier[UVMM_TIER_SWAP]);
no_swap:
	machine_stop(&e->machine);
	return rc;
}

static void stop_memory(struct uvmm_engine *e)
{
	pressure_stop(e);
	e->tier[UVMM_TIER_SWAP]->ops->close(e->tier[UVMM_TIER_SWAP]);
	machine_stop(&e->machine);
}

static int start_memfs(struct uvmm_engine *e, const char *dir, char *err)
{
	int rc;

	if (e->cfg.via)
		return 0;
	if (mkdir(dir, 0755) && errno != EEXIST) {
		rc = -errno;
		snprintf(err, UVMM_ERR_BYTES, "cannot make %s: %s", dir, strerror(-rc));
		return rc;
	}
	rc = memfs_start(dir, &engine_memfs_ops, e, &e->memfs, err);
	if (rc)
		rmdir(dir);
	return rc;
}

static void stop_memfs(struct uvmm_engine *e, const char *dir)
{
	if (!e->memfs)
		return;
	memfs_stop(e->memfs);
	e->memfs = NULL;
	rmdir(dir);
}

static void mem_dir(const struct uvmm_engine *e, char *dir, size_t bytes)
{
	snprintf(dir, bytes, "%s/mem", e->cfg.run_dir);
}

static int start_serving(struct uvmm_engine *e, char *err)
{
	char dir[240];
	int rc;

	mem_dir(e, dir, sizeof(dir));
	rc = fault_start(e);
	if (rc) {
		snprintf(err, UVMM_ERR_BYTES, "cannot start the fault threads: %s",
			 strerror(-rc));
		return rc;
	}
	rc = reclaim_start(e);
	if (rc) {
		snprintf(err, UVMM_ERR_BYTES, "cannot start the reclaimer: %s", strerror(-rc));
		goto no_reclaim;
	}
	rc = scanner_start(e, e->cfg.share_cpu_permille);
	if (rc) {
		snprintf(err, UVMM_ERR_BYTES, "cannot start the scanner: %s", strerror(-rc));
		goto no_scanner;
	}
	rc = watcher_start(e);
	if (rc) {
		snprintf(err, UVMM_ERR_BYTES, "cannot start the watcher: %s", strerror(-rc));
		goto no_watcher;
	}
	rc = start_memfs(e, dir, err);
	if (rc)
		goto no_memfs;
	rc = session_start(e, e->cfg.run_dir, dir, err, UVMM_ERR_BYTES);
	if (!rc)
		return 0;
	stop_memfs(e, dir);
no_memfs:
	watcher_stop(e);
no_watcher:
	scanner_stop(e);
no_scanner:
	pressure_stop(e);
	reclaim_stop(e);
no_reclaim:
	fault_stop(e);
	return rc;
}

static void allow_many_descriptors(void)
{
	struct rlimit files;

	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int start_all(struct uvmm_engine *e, char *err)
{
	int rc;

	rc = events_init(&e->events);
	if (rc)
		return rc;
	rc = registry_init(&e->registry);
	if (rc)
		goto no_registry;
	rc = start_memory(e, err);
	if (rc)
		goto no_memory;
	rc = start_serving(e, err);
	if (!rc)
		return 0;
	stop_memory(e);
no_memory:
	registry_fini(&e->registry);
no_registry:
	events_fini(&e->events);
	return rc;
}

static int check_config(const struct uvmm_engine_config *cfg, char *err)
{
	if (!memchr(cfg->run_dir, '\0', sizeof(cfg->run_dir)) || !cfg->run_dir[0] ||
	    !memchr(cfg->swap_path, '\0', sizeof(cfg->swap_path)) ||
	    (cfg->swap_pages && !cfg->swap_path[0]) || cfg->via > 1 ||
	    cfg->share_cpu_permille > 64000 || cfg->idle_cost_permille > 1000 ||
	    cfg->remap_after > 255 ||
	    cfg->low_pages > cfg->memory_pages || cfg->low_pages > 1ull << 22 ||
	    cfg->memory_pages > 1ull << 40 || cfg->swap_pages > 1ull << 40) {
		snprintf(err, UVMM_ERR_BYTES, "a field of the configuration is out of range");
		return -EINVAL;
	}
	return 0;
}

int uvmm_engine_start(const struct uvmm_engine_config *cfg, uvmm_engine **out,
		      char err[UVMM_ERR_BYTES])
{
	struct uvmm_engine *e;
	sigset_t all, former;
	int rc;

	err[0] = '\0';
	rc = check_config(cfg, err);
	if (rc)
		return rc;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->cfg = *cfg;
	e->low_pool.chunks = cfg->low_pages / UVMM_CHUNK_PAGES;
	atomic_store(&e->idle_cost_permille, cfg->idle_cost_permille);
	allow_many_descriptors();
	/* Signals are the control plane's: our threads have them all blocked. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	rc = start_all(e, err);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	if (rc) {
		if (!err[0])
			snprintf(err, UVMM_ERR_BYTES, "cannot start: %s", strerror(-rc));
		free(e);
		return rc;
	}
	*out = e;
	return 0;
}

static size_t end_all_guests(struct registry *r)
{
	size_t i, n = 0;

	lock(&r->lock);
	for (i = 0; i < r->slots; i++) {
		uint32_t s = atomic_load(&r->slot[i]->state);

		if (s == GUEST_FREE)
			continue;
		n++;
		if (s != GUEST_ENDING)
			syscall(SYS_pidfd_send_signal, r->slot[i]->pidfd, SIGKILL, NULL, 0);
	}
	unlock(&r->lock);
	return n;
}

void uvmm_engine_stop(uvmm_engine *e)
{
	uint64_t until = clock_ns() + END_WAIT_NS;
	char dir[240];

	mem_dir(e, dir, sizeof(dir));
	while (end_all_guests(&e->registry) && clock_ns() < until)
		clock_sleep_ns(END_POLL_NS);
	session_stop(e);
	stop_memfs(e, dir);
	watcher_stop(e);
	scanner_stop(e);
	pressure_stop(e);
	reclaim_stop(e);
	fault_stop(e);
	session_free(e);
	stop_memory(e);
	registry_fini(&e->registry);
	events_fini(&e->events);
	free(e);
}

/* A guest of that name whose process has gone is about to be freed. */
static bool is_name_about_to_be_free(struct uvmm_engine *e, const char *name)
{
	bool about = true;
	size_t i;

	lock(&e->registry.lock);
	for (i = 0; i < e->registry.slots; i++) {
		struct guest *g = e->registry.slot[i];
		struct pollfd p = { .events = POLLIN };

		if (atomic_load(&g->state) == GUEST_FREE || strcmp(g->name, name))
			continue;
		p.fd = g->pidfd;
		about = poll(&p, 1, 0) > 0;
	}
	unlock(&e->registry.lock);
	return about;
}

int uvmm_guest_create(uvmm_engine *e, const struct uvmm_guest_config *cfg,
		      uint64_t *id, char err[UVMM_ERR_BYTES])
{
	uint64_t until = clock_ns() + NAME_FREE_NS;
	struct guest *g;
	int rc;

	err[0] = '\0';
	do {
		rc = guest_create(&e->registry, &e->machine, e->cfg.memory_pages, cfg, &g, err, UVMM_ERR_BYTES);
		if (rc != -EEXIST || !is_name_about_to_be_free(e, cfg->name))
			break;
		clock_sleep_ns(END_POLL_NS);
	} while (clock_ns() < until);
	if (rc)
		return rc;
	*id = g->id;
	rc = session_watch_process(e, g);
	if (rc) {
		snprintf(err, UVMM_ERR_BYTES, "cannot watch process %d: %s", cfg->pid,
			 strerror(-rc));
		engine_guest_ended(e, g);
	}
	return rc;
}

int uvmm_guest_set_target(uvmm_engine *e, uint64_t id, uint64_t target_pages)
{
	struct guest *g = guest_by_id(&e->registry, id);

	if (!g)
		return -ENOENT;
	atomic_store(&g->target_pages, target_pages);
	return 0;
}

int uvmm_guest_set_min(uvmm_engine *e, uint64_t id, uint64_t min_pages)
{
	struct guest *g = guest_by_id(&e->registry, id);

	if (!g)
		return -ENOENT;
	if (min_pages > g->max_pages)
		return -EINVAL;
	atomic_store(&g->min_pages, min_pages);
	return 0;
}

int uvmm_guest_set_low(uvmm_engine *e, uint64_t id, uint64_t pages)
{
	struct guest *g = guest_by_id(&e->registry, id);

	if (!g)
		return -ENOENT;
	atomic_store(&g->low.limit_pages, pages);
	return 0;
}

void uvmm_set_aim(uvmm_engine *e, uint64_t headroom_pages)
{
	atomic_store(&e->pressure.aim, (int64_t)headroom_pages);
}

void uvmm_alarm(uvmm_engine *e, uint64_t headroom_pages)
{
	atomic_store(&e->pressure.alarm, (int64_t)headroom_pages);
}

static int enter(struct uvmm_engine *e, uint64_t id, struct guest **g)
{
	*g = guest_enter_id(&e->registry, id);
	if (*g)
		return 0;
	return guest_by_id(&e->registry, id) ? -ENOTCONN : -ENOENT;
}

/* So many of `pages` pages does g hold above floor_pages. */
static uint64_t above(const struct guest *g, uint64_t floor_pages, uint64_t pages)
{
	uint64_t held = machine_file_pages(g->memfd) + atomic_load(&g->sharing.split_pages);

	if (held <= floor_pages)
		return 0;
	return held - floor_pages < pages ? held - floor_pages : pages;
}

static int trim(struct uvmm_engine *e, uint64_t id, uint64_t pages, uint64_t floor_pages,
		uint32_t tier, struct uvmm_job_result *res)
{
	uint64_t since = clock_ns();
	struct reclaim_buffer *b;
	struct guest *g;
	int rc;

	*res = (struct uvmm_job_result){ .left_pages = pages };
	if (tier >= ENGINE_TIERS)
		return -EINVAL;
	rc = enter(e, id, &g);
	if (rc)
		return rc;
	b = reclaim_buffer_new();
	rc = b ? reclaim_guest(e, g, above(g, floor_pages, pages), false, e->tier[tier], b,
			       res) : -ENOMEM;
	reclaim_buffer_free(b);
	guest_leave(g);
	res->left_pages = pages > res->pages ? pages - res->pages : 0;
	res->elapsed_ns = clock_ns() - since;
	pressure_refresh(e);
	pressure_wake_waiting(e);
	return rc;
}

int uvmm_guest_reclaim(uvmm_engine *e, uint64_t id, uint64_t pages, uint32_t tier,
		       struct uvmm_job_result *res)
{
	return trim(e, id, pages, 0, tier, res);
}

int uvmm_guest_trim(uvmm_engine *e, uint64_t id, uint64_t pages, uint64_t floor_pages,
		    uint32_t tier, struct uvmm_job_result *res)
{
	struct guest *g = guest_by_id(&e->registry, id);
	uint64_t min_pages = g ? atomic_load(&g->min_pages) : 0;

	return trim(e, id, pages, floor_pages > min_pages ? floor_pages : min_pages, tier, res);
}

static void share_all(struct uvmm_engine *e, struct scan_buffer *b, struct scan_result *r)
{
	struct guest *g;
	size_t at = 0;

	while ((g = guest_next_entered(&e->registry, &at))) {
		if (g->group)
			scanner_pass(e, g, b, r);
		guest_leave(g);
	}
}

static int share_one(struct uvmm_engine *e, uint64_t id, struct scan_buffer *b,
		     struct scan_result *r)
{
	struct guest *g;
	int rc = enter(e, id, &g);

	if (rc)
		return rc;
	if (g->group)
		scanner_pass(e, g, b, r);
	else
		rc = -EOPNOTSUPP;
	guest_leave(g);
	return rc;
}

int uvmm_share_now(uvmm_engine *e, uint64_t id, struct uvmm_share_result *res)
{
	uint64_t since = clock_ns(), used = clock_thread_ns(), cpu;
	struct scan_buffer *b = scan_buffer_new();
	struct scan_result r = { 0 };
	int rc = 0;

	*res = (struct uvmm_share_result){ 0 };
	if (!b)
		return -ENOMEM;
	cpu = atomic_load(&e->sharing.cpu_ns);
	atomic_fetch_add(&e->scanner.asked, 1);
	if (id)
		rc = share_one(e, id, b, &r);
	else
		share_all(e, b, &r);
	atomic_fetch_sub(&e->scanner.asked, 1);
	scan_buffer_free(b);
	atomic_fetch_add(&e->sharing.cpu_ns, clock_thread_ns() - used);
	*res = (struct uvmm_share_result){
		.scanned_pages = r.scanned,
		.shared_pages = r.shared,
		.zero_pages = r.zero,
		.elapsed_ns = clock_ns() - since,
		.cpu_ns = atomic_load(&e->sharing.cpu_ns) - cpu,
	};
	pressure_refresh(e);
	pressure_wake_waiting(e);
	return rc;
}

static int restore(struct uvmm_engine *e, struct guest *g, struct load_buffer *b,
		   struct uvmm_job_result *res)
{
	uint64_t ppn, loaded;
	int rc = 0, damaged = 0;

	for (ppn = 0; ppn < g->max_pages; ppn += UVMM_CHUNK_PAGES) {
		if (!pmap_chunk_absent(&g->pmap, ppn / UVMM_CHUNK_PAGES))
			continue;
		if (!atomic_load(&g->attached))
			return -ENOTCONN;
		loaded = load_chunk(e, g, ppn / UVMM_CHUNK_PAGES, b);
		res->pages += loaded;
		if (loaded)
			continue;
		rc = load_pages(e, g, ppn, ppn + UVMM_CHUNK_PAGES, UINT64_MAX, b, &loaded);
		res->pages += loaded;
		if (rc == -EIO)
			damaged = rc;
		else if (rc)
			return rc == -ESRCH ? -ENOTCONN : rc;
	}
	return damaged;
}

int uvmm_guest_restore(uvmm_engine *e, uint64_t id, struct uvmm_job_result *res)
{
	uint64_t since = clock_ns();
	struct load_buffer *b;
	struct guest *g;
	int rc;

	*res = (struct uvmm_job_result){ 0 };
	rc = enter(e, id, &g);
	if (rc)
		return rc;
	pressure_refresh(e);
	b = load_buffer_new();
	rc = b ? restore(e, g, b, res) : -ENOMEM;
	load_buffer_free(b);
	res->left_pages = atomic_load(&g->stored_pages);
	guest_leave(g);
	res->elapsed_ns = clock_ns() - since;
	return rc;
}

int uvmm_event_fd(uvmm_engine *e)
{
	return e->events.fd;
}

int uvmm_event_next(uvmm_engine *e, struct uvmm_event *out)
{
	return events_take(&e->events, out);
}

#pragma GCC visibility pop
