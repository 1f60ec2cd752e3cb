/* SPDX-License-Identifier: MIT
 * What is where, now: the engine's side of uvmm_snapshot(). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"

#define OWN_THREADS 1u          /* the library's agent */
#define KIB_OF_PAGE (UVMM_PAGE_SIZE / 1024)

static bool is_alive(const struct guest *g)
{
	uint32_t s = atomic_load(&g->state);

	return s == GUEST_REGISTERED || s == GUEST_ATTACHED;
}

/* As many of the pages that are left as there are. */
static uint64_t take_of(uint64_t *left, uint64_t pages)
{
	pages = pages < *left ? pages : *left;
	*left -= pages;
	return pages;
}

static void fill_disks(const struct guest *g, struct uvmm_guest_stats *s)
{
	const struct disks *d = &g->disks;

	s->disks = atomic_load(&d->count);
	s->disk_reads = atomic_load(&d->reads);
	s->disk_writes = atomic_load(&d->writes);
	s->disk_flushes = atomic_load(&d->flushes);
	s->disk_discards = atomic_load(&d->discards);
	s->disk_errors = atomic_load(&d->errors);
	s->disk_read_bytes = atomic_load(&d->read_bytes);
	s->disk_written_bytes = atomic_load(&d->written_bytes);
	s->disk_copied_bytes = atomic_load(&d->copied_bytes);
	s->disk_direct_bytes = atomic_load(&d->direct_bytes);
	s->disk_hot_pages = atomic_load(&d->hot_pages);
	s->low_pages = atomic_load(&g->low.pages);
	s->low_limit_pages = atomic_load(&g->low.limit_pages);
	s->remaps_in = atomic_load(&g->low.remaps_in);
	s->remaps_out = atomic_load(&g->low.remaps_out);
	s->remaps_refused = atomic_load(&g->low.refused);
}

/* Under the registry's lock, so that the files stay. Where pages are is read one after
 * the other while they move: the parts are made to add up to max. */
static void fill(struct guest *g, uint64_t now_ns, struct uvmm_guest_stats *s)
{
	uint64_t stored = atomic_load(&g->stored_pages);
	uint64_t shared = atomic_load(&g->sharing.shared_pages);
	uint64_t split = atomic_load(&g->sharing.split_pages);
	uint64_t ballooned = atomic_load(&g->balloon.ballooned_pages);
	uint64_t resident = machine_file_pages(g->memfd) + split + atomic_load(&g->low.pages);
	uint64_t left = g->max_pages;

	ballooned = take_of(&left, ballooned);
	stored = take_of(&left, stored);
	shared = take_of(&left, shared);
	resident = take_of(&left, resident);
	*s = (struct uvmm_guest_stats){
		.id = g->id,
		.pid = g->pid,
		.uid = g->uid,
		.attached = atomic_load(&g->attached),
		.min_pages = atomic_load(&g->min_pages),
		.max_pages = g->max_pages,
		.target_pages = atomic_load(&g->target_pages),
		.resident_pages = resident,
		.swapped_pages = stored,
		.untouched_pages = left,
		.ballooned_pages = ballooned,
		.pinned_pages = atomic_load(&g->pinned_pages),
		.faults = atomic_load(&g->faults),
		.pages_in = atomic_load(&g->pages_in),
		.pages_out = atomic_load(&g->pages_out),
		.zero_dropped = atomic_load(&g->zero_dropped),
		.aborted = atomic_load(&g->aborted),
		.damaged_pages = atomic_load(&g->damaged_pages),
		.stall_ns = guest_stall_ns(g, now_ns),
		.shared_pages = shared,
		.split_pages = split,
		.splits = atomic_load(&g->sharing.splits),
		.merged_pages = atomic_load(&g->sharing.merged),
		.share_zero_pages = atomic_load(&g->sharing.zero),
		.share_scanned_pages = atomic_load(&g->sharing.scanned),
		.share_mappings = atomic_load(&g->sharing.mappings),
		/* So far the agent's; see ask_kernel(). */
		.run_ns = atomic_load(&g->activity.zaps.agent_ns),
		.blocked_until_ns = atomic_load(&g->blocked_until_ns),
		.blocks = atomic_load(&g->blocks),
	};
	memcpy(s->name, g->name, sizeof(s->name));
	fill_disks(g, s);
	balloon_fill(g, s);
	activity_fill(&g->activity, s);
}

/* run_ns is so far what the library's own thread has run. */
static void ask_clock(struct uvmm_guest_stats *s)
{
	uint64_t ran = clock_process_ns(s->pid);

	s->run_ns = ran > s->run_ns ? ran - s->run_ns : 0;
}

/* What the kernel says of the process: threads without ours, at least 1; and its own
 * writable memory that is not guest memory, in memory or swapped by the kernel.
 * Split pages are the process's own for the kernel. */
static void ask_kernel(struct uvmm_guest_stats *s)
{
	unsigned long threads = 0, kib = 0;
	char path[40], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", s->pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, "Threads:", 8))
			threads = strtoul(line + 8, NULL, 10);
		else if (!strncmp(line, "State:\tT", 8) || !strncmp(line, "State:\tt", 8))
			s->balloon_able = 0;    /* stopped */
		else if (!strncmp(line, "RssAnon:", 8) || !strncmp(line, "VmSwap:", 7))
			kib += strtoul(strchr(line, ':') + 1, NULL, 10);
	}
	if (f)
		fclose(f);
	if (s->attached && threads > OWN_THREADS)
		threads -= OWN_THREADS;
	s->threads = threads ? (uint32_t)threads : 1;
	kib -= kib < s->split_pages * KIB_OF_PAGE ? kib : s->split_pages * KIB_OF_PAGE;
	s->unmanaged_pages = kib / KIB_OF_PAGE;
}

static void fill_sharing(struct uvmm_engine *e, struct uvmm_machine_stats *m)
{
	struct group_usage u = groups_usage(&e->registry.groups);
	const struct sharing *s = &e->sharing;

	m->frame_pages = u.frames;
	m->hints = u.hints;
	m->stale_hints = u.stale_hints;
	m->splits = atomic_load(&s->splits);
	m->homed_pages = atomic_load(&s->homed);
	m->merged_pages = atomic_load(&s->merged);
	m->share_zero_pages = atomic_load(&s->zero);
	m->share_scanned_pages = atomic_load(&s->scanned);
	m->share_passes = atomic_load(&s->passes);
	m->share_cpu_ns = atomic_load(&s->cpu_ns);
	m->share_refused_busy = atomic_load(&s->refused[SHARE_REFUSED_BUSY]);
	m->share_refused_changed = atomic_load(&s->refused[SHARE_REFUSED_CHANGED]);
	m->share_refused_agent = atomic_load(&s->refused[SHARE_REFUSED_AGENT]);
	m->share_refused_mappings = atomic_load(&s->refused[SHARE_REFUSED_MAPPINGS]);
	m->share_refused_memory = atomic_load(&s->refused[SHARE_REFUSED_MEMORY]);
}

static void fill_machine(struct uvmm_engine *e, struct uvmm_machine_stats *m)
{
	struct tier *swap = e->tier[UVMM_TIER_SWAP];

	*m = (struct uvmm_machine_stats){
		.now_ns = clock_ns(),
		.total_pages = e->pressure.total_pages,
		.tmpfs_pages = machine_used_pages(&e->machine),
		.daemon_pages = machine_daemon_pages(),
		.pressure = atomic_load(&e->pressure.level),
		.via = e->cfg.via,
		.reclaimed_pages = atomic_load(&e->reclaimer.pages),
		.refused = atomic_load(&e->refused),
		.damaged_pages = atomic_load(&e->damaged_pages),
	};
	m->low_total_pages = e->low_pool.chunks * UVMM_CHUNK_PAGES;
	m->low_granted_pages = atomic_load(&e->low_pool.granted) * UVMM_CHUNK_PAGES;
	swap->ops->usage(swap, &m->swap_total_pages, &m->swap_used_pages);
	pressure_fill(e, m);
	fill_sharing(e, m);
}

#pragma GCC visibility push(default)

int uvmm_look(uvmm_engine *e, struct uvmm_machine_stats *m,
	      struct uvmm_guest_stats *guests, size_t cap, size_t *n)
{
	struct registry *r = &e->registry;
	size_t i;

	*n = 0;
	fill_machine(e, m);
	lock(&r->lock);
	for (i = 0; i < r->slots; i++) {
		struct uvmm_guest_stats s;

		if (!is_alive(r->slot[i]))
			continue;
		fill(r->slot[i], m->now_ns, &s);
		m->guest_pages += s.resident_pages;
		m->shared_pages += s.shared_pages;
		m->split_pages += s.split_pages;
		if (*n < cap)
			guests[*n] = s;
		(*n)++;
	}
	unlock(&r->lock);
	/* Frames may be about to lose their last page, or to get their first. */
	m->saved_pages = m->shared_pages > m->frame_pages ? m->shared_pages - m->frame_pages : 0;
	for (i = 0; i < *n && i < cap; i++)
		ask_clock(&guests[i]);
	return 0;
}

int uvmm_snapshot(uvmm_engine *e, struct uvmm_machine_stats *m,
		  struct uvmm_guest_stats *guests, size_t cap, size_t *n)
{
	size_t i;

	uvmm_look(e, m, guests, cap, n);
	for (i = 0; i < *n && i < cap; i++)
		ask_kernel(&guests[i]);
	return 0;
}

int uvmm_guest_find(uvmm_engine *e, const char *name, struct uvmm_guest_stats *out)
{
	struct registry *r = &e->registry;
	int rc = -ENOENT;
	size_t i;

	lock(&r->lock);
	for (i = 0; rc && i < r->slots; i++) {
		if (!is_alive(r->slot[i]) || strcmp(r->slot[i]->name, name))
			continue;
		fill(r->slot[i], clock_ns(), out);
		rc = 0;
	}
	unlock(&r->lock);
	if (!rc) {
		ask_clock(out);
		ask_kernel(out);
	}
	return rc;
}

#pragma GCC visibility pop
