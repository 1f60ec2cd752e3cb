/* SPDX-License-Identifier: MIT
 * The life of a guest, and its file in the memory filesystem; see engine.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"
#include "range.h"
#include "share.h"
#include "uffd.h"

#define FIRST_INO 1u            /* of the root; a guest's is its id above it */

static void drop_chunk(struct uvmm_engine *e, struct guest *g, uint64_t chunk)
{
	uint64_t handles[UVMM_CHUNK_PAGES], ppn = chunk * UVMM_CHUNK_PAGES, end;
	size_t n = 0;

	for (end = ppn + UVMM_CHUNK_PAGES; ppn < end; ppn++) {
		pmap_entry entry = pmap_get(&g->pmap, ppn);
		enum page_state s = pmap_state(entry);

		if (s == PAGE_STORED || s == PAGE_LOADING)
			handles[n++] = pmap_handle(entry);
	}
	tier_drop(e->tier[UVMM_TIER_SWAP], handles, n);
}

/* The guest is detached: its stored pages are nobody's. */
static void drop_stored(struct uvmm_engine *e, struct guest *g)
{
	uint64_t chunk;

	for (chunk = 0; chunk < g->pmap.chunks; chunk++)
		if (pmap_chunk_absent(&g->pmap, chunk))
			drop_chunk(e, g, chunk);
	atomic_fetch_sub(&e->pinned_pages, atomic_load(&g->pinned_pages));
}

static void detach(struct uvmm_engine *e, struct guest *g)
{
	fault_remove(e, g);
	guest_detach(g);
	disks_stop(g);
	share_forget(e, g);
	low_close(e, g);
	drop_stored(e, g);
}

static int attach_locked(struct uvmm_engine *e, struct guest *g, int uffd, uint64_t base)
{
	int rc = 0;

	if (atomic_load(&g->state) == GUEST_ATTACHED) {
		detach(e, g);
		rc = guest_empty(g);
	}
	if (!rc)
		rc = guest_attach(g, uffd, base);
	if (rc) {
		close(uffd);
		return rc;
	}
	rc = pressure_attached(e, g);
	if (!rc)
		rc = fault_add(e, g);
	/* What was taken out meanwhile is dropped, and has to be forgotten. */
	if (rc) {
		detach(e, g);
		guest_empty(g);
	}
	return rc;
}

int engine_guest_attach(struct uvmm_engine *e, struct guest *g, uint64_t id, int uffd,
			uint64_t base)
{
	int rc = -ESRCH;

	lock(&g->attach_lock);
	if (g->id == id && (atomic_load(&g->state) == GUEST_REGISTERED ||
			    atomic_load(&g->state) == GUEST_ATTACHED))
		rc = attach_locked(e, g, uffd, base);
	else
		close(uffd);
	unlock(&g->attach_lock);
	if (!rc)
		events_add(&e->events, UVMM_EVENT_ATTACHED, id, "guest %s is attached",
			   g->name);
	return rc;
}

/* Its process executes something else: the mapping has gone with the image. Asked
 * by what changes nothing: a write to a protected page is let through. */
static bool is_mapping_gone(const struct guest *g)
{
	return uffd_protect(g->uffd, guest_addr(g, 0), UVMM_PAGE_SIZE) == UFFD_GONE;
}

void engine_guest_left(struct uvmm_engine *e, struct guest *g, uint64_t id)
{
	bool left = false, kin = false;

	lock(&g->attach_lock);
	if (g->id == id && atomic_load(&g->state) == GUEST_ATTACHED && is_mapping_gone(g)) {
		detach(e, g);
		left = !guest_empty(g);
		kin = g->kin;
	}
	unlock(&g->attach_lock);
	if (!left)
		return;
	if (kin && session_release_process(e, g, id)) {
		engine_guest_ended(e, g);
		return;
	}
	pressure_refresh(e);
	pressure_wake_waiting(e);
}

void engine_guest_ended(struct uvmm_engine *e, struct guest *g)
{
	uint64_t id = g->id;
	char name[UVMM_CORE_NAME_BYTES];

	memcpy(name, g->name, sizeof(name));
	lock(&g->attach_lock);
	guest_set_ending(&e->registry, g);
	if (atomic_load(&g->attached))
		detach(e, g);
	unlock(&g->attach_lock);
	session_guest_gone(e, g);
	if (e->memfs)
		memfs_forget(e->memfs, id + FIRST_INO, name);
	guest_destroy(&e->registry, g);
	pressure_refresh(e);
	pressure_wake_waiting(e);
	events_add(&e->events, UVMM_EVENT_ENDED, id, "guest %s has ended", name);
}

/* --- mem/<guest> ------------------------------------------------------------ */

static bool is_shown(const struct guest *g)
{
	uint32_t s = atomic_load(&g->state);

	return s == GUEST_REGISTERED || s == GUEST_ATTACHED;
}

static void describe(const struct guest *g, struct memfs_file *out)
{
	*out = (struct memfs_file){
		.ino = g->id + FIRST_INO,
		.size_bytes = g->max_pages << UVMM_PAGE_SHIFT,
		.uid = g->uid,
		.gid = g->gid,
		.pid = g->pid,
	};
	memcpy(out->name, g->name, sizeof(out->name));
}

/* By name, or without one by number. Under the registry's lock. */
static struct guest *shown_locked(struct registry *r, const char *name, uint64_t ino)
{
	size_t i;

	for (i = 0; i < r->slots; i++) {
		struct guest *g = r->slot[i];

		if (is_shown(g) && (name ? !strcmp(g->name, name) : g->id + FIRST_INO == ino))
			return g;
	}
	return NULL;
}

/* Likewise, whose low memory it is. */
static struct guest *low_locked(struct registry *r, const char *name, uint64_t ino)
{
	size_t i;

	for (i = 0; i < r->slots; i++)
		if (low_file_is(r->slot[i], name, ino))
			return r->slot[i];
	return NULL;
}

static int find(struct uvmm_engine *e, const char *name, uint64_t ino,
		struct memfs_file *out)
{
	struct guest *g;

	lock(&e->registry.lock);
	if ((g = shown_locked(&e->registry, name, ino)))
		describe(g, out);
	else if ((g = low_locked(&e->registry, name, ino)))
		low_file_describe(g, out);
	unlock(&e->registry.lock);
	return g ? 0 : -ENOENT;
}

static int by_name(void *ctx, const char *name, struct memfs_file *out)
{
	return find(ctx, name, 0, out);
}

static int by_ino(void *ctx, uint64_t ino, struct memfs_file *out)
{
	return find(ctx, NULL, ino, out);
}

static size_t list(void *ctx, uint64_t after, struct memfs_file *out, size_t cap)
{
	struct uvmm_engine *e = ctx;
	struct registry *r = &e->registry;
	size_t n = 0, i;

	lock(&r->lock);
	while (n < cap) {
		const struct guest *next = NULL;

		for (i = 0; i < r->slots; i++)
			if (is_shown(r->slot[i]) && r->slot[i]->id + FIRST_INO > after &&
			    (!next || r->slot[i]->id < next->id))
				next = r->slot[i];
		if (!next)
			break;
		describe(next, &out[n++]);
		after = next->id + FIRST_INO;
	}
	unlock(&r->lock);
	return n;
}

static int backing(void *ctx, uint64_t ino)
{
	struct uvmm_engine *e = ctx;
	struct guest *g;
	int fd = -1, rc = -ENOENT;

	lock(&e->registry.lock);
	if ((g = shown_locked(&e->registry, NULL, ino)))
		fd = g->memfd;
	else if ((g = low_locked(&e->registry, NULL, ino)))
		fd = g->low.fd;
	if (g) {
		rc = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		rc = rc < 0 ? -errno : rc;
	}
	unlock(&e->registry.lock);
	return rc;
}

static int punch(void *ctx, uint64_t ino, uint64_t off, uint64_t len)
{
	struct uvmm_engine *e = ctx;
	struct guest *g;
	int rc = -ENOENT;
	bool entered;

	lock(&e->registry.lock);
	g = shown_locked(&e->registry, NULL, ino);
	entered = g && guest_enter(g);
	unlock(&e->registry.lock);
	if (!entered)
		return g ? 0 : -ENOENT; /* not mapped yet: all zero */
	if (off % UVMM_PAGE_SIZE || len % UVMM_PAGE_SIZE || !len ||
	    off > g->max_pages << UVMM_PAGE_SHIFT ||
	    len > (g->max_pages << UVMM_PAGE_SHIFT) - off)
		rc = -EINVAL;
	else
		rc = range_discard(e, g, off >> UVMM_PAGE_SHIFT, len >> UVMM_PAGE_SHIFT, false);
	guest_leave(g);
	return rc;
}

const struct memfs_ops engine_memfs_ops = {
	.by_name = by_name,
	.by_ino = by_ino,
	.list = list,
	.backing = backing,
	.punch = punch,
};
