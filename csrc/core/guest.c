/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "locks.h"
#include "machine.h"
#include "pagemap.h"
#include "uffd.h"

#define SETTLES_NS (NS_PER_S / 2)

int registry_init(struct registry *r)
{
	memset(r, 0, sizeof(*r));
	groups_init(&r->groups);
	return -pthread_mutex_init(&r->lock, NULL);
}

void registry_fini(struct registry *r)
{
	size_t i;

	for (i = 0; i < r->slots; i++) {
		pthread_mutex_destroy(&r->slot[i]->attach_lock);
		pthread_mutex_destroy(&r->slot[i]->arm_lock);
		pthread_mutex_destroy(&r->slot[i]->wait_lock);
		pthread_mutex_destroy(&r->slot[i]->activity.lock);
		order_fini(&r->slot[i]->order);
		balloon_fini(&r->slot[i]->balloon);
		free(r->slot[i]);
	}
	groups_fini(&r->groups);
	pthread_mutex_destroy(&r->lock);
}

static struct guest *find_locked(struct registry *r, uint64_t id, const char *name)
{
	size_t i;

	for (i = 0; i < r->slots; i++) {
		struct guest *g = r->slot[i];

		if (atomic_load(&g->state) == GUEST_FREE)
			continue;
		if (name ? !strcmp(g->name, name) : g->id == id)
			return g;
	}
	return NULL;
}

static struct guest *find_alive(struct registry *r, uint64_t id, const char *name)
{
	struct guest *g;

	lock(&r->lock);
	g = find_locked(r, id, name);
	if (g && atomic_load(&g->state) == GUEST_ENDING)
		g = NULL;
	unlock(&r->lock);
	return g;
}

struct guest *guest_by_id(struct registry *r, uint64_t id)
{
	return find_alive(r, id, NULL);
}

struct guest *guest_by_name(struct registry *r, const char *name)
{
	return find_alive(r, 0, name);
}

/* In the same time whatever the difference is. */
static bool is_token(const struct guest *g, const uint8_t *token)
{
	unsigned char wrong = 0;
	size_t i;

	for (i = 0; i < sizeof(g->token); i++)
		wrong |= (unsigned char)(g->token[i] ^ token[i]);
	return !wrong;
}

struct guest *guest_by_token(struct registry *r, const uint8_t *token, pid_t pid,
			     uint64_t *id)
{
	struct guest *found = NULL;
	size_t i;

	lock(&r->lock);
	for (i = 0; i < r->slots && !found; i++) {
		struct guest *g = r->slot[i];
		uint32_t state = atomic_load(&g->state);

		if (state != GUEST_FREE && state != GUEST_ENDING && is_token(g, token) &&
		    (!pid || g->pid == pid))
			found = g;
	}
	*id = found ? found->id : 0;
	unlock(&r->lock);
	return found;
}

void guest_set_owner(struct registry *r, struct guest *g, uint64_t id, uint32_t uid,
		     uint32_t gid)
{
	lock(&r->lock);
	if (g->id == id) {
		atomic_store(&g->uid, uid);
		atomic_store(&g->gid, gid);
	}
	unlock(&r->lock);
}

int guest_dup_memory(struct registry *r, const struct guest *g, uint64_t id)
{
	int fd = -ESRCH;

	lock(&r->lock);
	if (g->id == id && g->memfd >= 0) {
		fd = fcntl(g->memfd, F_DUPFD_CLOEXEC, 0);
		fd = fd < 0 ? -errno : fd;
	}
	unlock(&r->lock);
	return fd;
}

struct guest *guest_enter_id(struct registry *r, uint64_t id)
{
	struct guest *g;

	lock(&r->lock);
	g = find_locked(r, id, NULL);
	if (g && !guest_enter(g))
		g = NULL;
	unlock(&r->lock);
	return g;
}

struct guest *guest_next_entered(struct registry *r, size_t *at)
{
	struct guest *found = NULL;

	lock(&r->lock);
	while (!found && *at < r->slots) {
		struct guest *g = r->slot[(*at)++];

		if (guest_enter(g))
			found = g;
	}
	unlock(&r->lock);
	return found;
}

static struct guest *free_slot_locked(struct registry *r)
{
	struct guest *g;
	size_t i;

	for (i = 0; i < r->slots; i++)
		if (atomic_load(&r->slot[i]->state) == GUEST_FREE)
			return r->slot[i];
	if (r->slots == UVMM_GUESTS_MAX)
		return NULL;
	g = calloc(1, sizeof(*g));
	if (!g)
		return NULL;
	pthread_mutex_init(&g->attach_lock, NULL);
	pthread_mutex_init(&g->arm_lock, NULL);
	pthread_mutex_init(&g->wait_lock, NULL);
	pthread_mutex_init(&g->activity.lock, NULL);
	order_init(&g->order);
	balloon_init(&g->balloon);
	g->uffd = g->memfd = g->pidfd = g->pagemap_fd = g->mem_fd = -1;
	g->slot = (uint32_t)r->slots;
	r->slot[r->slots++] = g;
	return g;
}

static int open_files(struct guest *g, const struct machine *m)
{
	int fd, rc;

	rc = machine_create(m, g->max_pages, &g->memfd);
	if (rc)
		return rc;
	rc = machine_create(m, 0, &fd);
	if (rc)
		goto no_pmap;
	rc = pmap_init(&g->pmap, fd, g->max_pages);
	close(fd);
	if (rc)
		goto no_pmap;
	g->armed = calloc(g->pmap.chunks, 1);
	rc = g->armed ? activity_init(&g->activity, g->max_pages) : -ENOMEM;
	if (!rc)
		return 0;
	free((void *)g->armed);
	g->armed = NULL;
	pmap_fini(&g->pmap);
no_pmap:
	close(g->memfd);
	g->memfd = -1;
	return rc;
}

static void close_files(struct guest *g)
{
	/* Emptied, for a straggler that still has the file open. Else it is freed when
	 * that one has gone. */
	(void)!ftruncate(g->memfd, 0);
	close(g->memfd);
	g->memfd = -1;
	pmap_fini(&g->pmap);
	free((void *)g->armed);
	g->armed = NULL;
	activity_fini(&g->activity, g->max_pages);
}

/* What belongs to the contents, not to the guest. */
static void reset_counters(struct guest *g)
{
	size_t i;

	memset(g->waiters, 0, sizeof(g->waiters));
	atomic_store(&g->waiting, 0);
	atomic_store(&g->servers, 0);
	atomic_store(&g->quiet, 0);
	atomic_store(&g->wants_memory, false);
	atomic_store(&g->wants_growth, false);
	atomic_store(&g->growth_failed_ns, 0);
	atomic_store(&g->blocked_until_ns, 0);
	atomic_store(&g->direct_io_until_ns, 0);
	for (i = 0; i < STREAMS; i++)
		atomic_store(&g->streams.pages[i], 0);
	atomic_store(&g->stored_pages, 0);
	atomic_store(&g->pinned_pages, 0);
	sharing_clear(&g->sharing, g->max_pages);
	activity_clear(&g->activity, g->max_pages);
	balloon_clear(&g->balloon);
}

static void reset(struct guest *g, uint64_t id, const struct uvmm_guest_config *cfg)
{
	g->id = id;
	memcpy(g->name, cfg->name, sizeof(g->name));
	memcpy(g->token, cfg->token, sizeof(g->token));
	g->min_pages = cfg->min_pages;
	g->max_pages = cfg->max_pages;
	g->pid = cfg->pid;
	g->uid = cfg->uid;
	g->gid = cfg->gid;
	g->kin = cfg->kin;
	atomic_store(&g->target_pages, cfg->target_pages);
	reset_counters(g);
	atomic_store(&g->faults, 0);
	atomic_store(&g->pages_in, 0);
	atomic_store(&g->loads, 0);
	atomic_store(&g->pages_out, 0);
	atomic_store(&g->zero_dropped, 0);
	atomic_store(&g->aborted, 0);
	atomic_store(&g->damaged_pages, 0);
	atomic_store(&g->stall_ns, 0);
	atomic_store(&g->blocks, 0);
	atomic_store(&g->strange_fds, 0);
	balloon_reset(&g->balloon);
	disks_init(&g->disks);
	low_init(&g->low);
}

static int check_config(const struct uvmm_guest_config *cfg, char *err, size_t err_bytes)
{
	if (!cfg->name[0] || !memchr(cfg->name, '\0', sizeof(cfg->name)) ||
	    strchr(cfg->name, '/')) {
		snprintf(err, err_bytes, "a guest's name has 1 to %u bytes and no '/'",
			 UVMM_NAME_MAX);
		return -EINVAL;
	}
	if (!cfg->max_pages || cfg->max_pages % UVMM_CHUNK_PAGES ||
	    cfg->max_pages > 1ull << 36 || cfg->min_pages > cfg->max_pages) {
		snprintf(err, err_bytes,
			 "max must be a multiple of 2 MiB and not under min, got max %llu min %llu pages",
			 (unsigned long long)cfg->max_pages,
			 (unsigned long long)cfg->min_pages);
		return -EINVAL;
	}
	if (!memchr(cfg->group, '\0', sizeof(cfg->group))) {
		snprintf(err, err_bytes, "a group's name has at most %u bytes",
			 UVMM_CORE_GROUP_BYTES - 1);
		return -EINVAL;
	}
	return 0;
}

static int join(struct registry *r, struct guest *g, const struct machine *m, const char *group,
		uint64_t frame_pages)
{
	int rc = sharing_init(&g->sharing, g->max_pages);

	if (!rc)
		rc = group_join(&r->groups, m, group, frame_pages, &g->group);
	if (rc)
		sharing_fini(&g->sharing, g->max_pages);
	return rc;
}

int guest_create(struct registry *r, const struct machine *m, uint64_t frame_pages,
		 const struct uvmm_guest_config *cfg, struct guest **out,
		 char *err, size_t err_bytes)
{
	struct guest *g;
	int rc, pidfd;

	rc = check_config(cfg, err, err_bytes);
	if (rc)
		return rc;
	pidfd = (int)syscall(SYS_pidfd_open, cfg->pid, 0);
	if (pidfd < 0) {
		rc = -errno;
		snprintf(err, err_bytes, "process %d: %s", cfg->pid, strerror(-rc));
		return rc;
	}
	lock(&r->lock);
	if (find_locked(r, 0, cfg->name)) {
		snprintf(err, err_bytes, "a guest named %s is running", cfg->name);
		rc = -EEXIST;
		goto fail;
	}
	g = free_slot_locked(r);
	if (!g) {
		snprintf(err, err_bytes, "there are %d guests, the most there can be",
			 UVMM_GUESTS_MAX);
		rc = -ENOSPC;
		goto fail;
	}
	reset(g, r->last_id + 1, cfg);
	rc = open_files(g, m);
	if (!rc && cfg->group[0]) {
		rc = join(r, g, m, cfg->group, frame_pages);
		if (rc)
			close_files(g);
	}
	if (rc) {
		snprintf(err, err_bytes, "machine memory has no room for %s: %s", cfg->name,
			 strerror(-rc));
		goto fail;
	}
	r->last_id++;
	g->pidfd = pidfd;
	atomic_store(&g->state, GUEST_REGISTERED);
	unlock(&r->lock);
	*out = g;
	return 0;
fail:
	unlock(&r->lock);
	close(pidfd);
	return rc;
}

void guest_destroy(struct registry *r, struct guest *g)
{
	disks_close(&g->disks);
	pthread_mutex_destroy(&g->low.lock);
	close_files(g);
	sharing_fini(&g->sharing, g->max_pages);
	group_leave(&r->groups, g->group);
	lock(&r->lock);
	g->group = NULL;
	if (g->pidfd >= 0)
		close(g->pidfd);
	g->pidfd = -1;
	atomic_store(&g->state, GUEST_FREE);
	unlock(&r->lock);
}

/* The memory of the process, for as long as it is that: not what it may execute just now, of
 * which this must never write a byte. So it has to show what was just put into the guest's
 * file. -1: it does not. */
static int open_memory_of(const struct guest *g)
{
	char path[32], mark[16], seen[16];
	int fd, ok;

	snprintf(path, sizeof(path), "/proc/%d/mem", g->pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ok = getrandom(mark, sizeof(mark), 0) == sizeof(mark) &&
	     pwrite(g->memfd, mark, sizeof(mark), 0) == sizeof(mark) &&
	     pread(fd, seen, sizeof(seen), (off_t)g->base) == sizeof(seen) &&
	     !memcmp(mark, seen, sizeof(mark));
	fallocate(g->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, UVMM_PAGE_SIZE);
	if (ok)
		return fd;
	close(fd);
	return -1;
}

int guest_attach(struct guest *g, int uffd, uint64_t base)
{
	uint64_t c;

	if (uffd_register(uffd, base, g->max_pages << UVMM_PAGE_SHIFT, 0))
		return -EINVAL;
	for (c = 0; c < g->pmap.chunks; c++)
		atomic_store(&g->armed[c], CHUNK_OPEN);
	g->uffd = uffd;
	g->base = base;
	g->pagemap_fd = pagemap_open(g->pid);
	g->mem_fd = atomic_load(&g->disks.count) ? open_memory_of(g) : -1;
	/* What a program does first changes soon. */
	g->sharing.pass.due_ns = clock_ns() + SETTLES_NS;
	atomic_store(&g->state, GUEST_ATTACHED);
	atomic_store(&g->attached, true);
	return 0;
}

void guest_detach(struct guest *g)
{
	atomic_store(&g->attached, false);
	order_abandon(g);
	while (atomic_load(&g->inside))
		clock_sleep_ns(NS_PER_MS / 20);
	close(g->uffd);
	if (g->pagemap_fd >= 0)
		close(g->pagemap_fd);
	if (g->mem_fd >= 0)
		close(g->mem_fd);
	g->uffd = g->pagemap_fd = g->mem_fd = -1;
	if (atomic_load(&g->state) == GUEST_ATTACHED)
		atomic_store(&g->state, GUEST_REGISTERED);
}

int guest_empty(struct guest *g)
{
	off_t bytes = (off_t)(g->max_pages << UVMM_PAGE_SHIFT);

	if (ftruncate(g->memfd, 0) || ftruncate(g->memfd, bytes))
		return -EIO;
	if (pmap_clear(&g->pmap))
		return -EIO;
	reset_counters(g);
	return 0;
}

void guest_set_ending(struct registry *r, struct guest *g)
{
	lock(&r->lock);
	atomic_store(&g->state, GUEST_ENDING);
	unlock(&r->lock);
}

bool guest_enter(struct guest *g)
{
	atomic_fetch_add(&g->inside, 1);
	if (atomic_load(&g->attached))
		return true;
	atomic_fetch_sub(&g->inside, 1);
	return false;
}

void guest_leave(struct guest *g)
{
	atomic_fetch_sub(&g->inside, 1);
}
