/* SPDX-License-Identifier: MIT */
#include "split.h"

#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "clock.h"
#include "engine.h"
#include "pagemap.h"

#define WALK_NS (10 * NS_PER_S)         /* without a sign */

/* Pages that are the process's own. */
static uint64_t own_pages(const struct guest *g)
{
	unsigned long long size, resident = 0, shared = 0;
	char path[40];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/statm", g->pid);
	f = fopen(path, "re");
	if (!f)
		return 0;
	if (fscanf(f, "%llu %llu %llu", &size, &resident, &shared) != 3)
		resident = shared = 0;
	fclose(f);
	return resident > shared ? resident - shared : 0;
}

static void notice(struct uvmm_engine *e, struct guest *g, uint64_t ppn)
{
	pmap_entry was = pmap_get(&g->pmap, ppn), now;

	do {
		if (pmap_state(was) != PAGE_SHARED)
			return;
		now = pmap_with_pins(pmap_remapped(PAGE_SPLIT, 0), pmap_pins(was));
	} while (!pmap_move(&g->pmap, ppn, &was, now));
	group_drop_frame(g->group, pmap_handle(was));
	sharing_count(&e->sharing, &g->sharing, -1);
	atomic_fetch_add(&g->sharing.split_pages, 1);
	atomic_fetch_add(&g->sharing.splits, 1);
	atomic_fetch_add(&e->sharing.split_pages, 1);
	atomic_fetch_add(&e->sharing.splits, 1);
}

/* The chunk's busy bit is the caller's: what is SHARED now stays mapped so until it is
 * noticed here, or discarded. What is REMAPPING may be SHARED again before the look is over,
 * and what was seen of it are the marks of its protection. */
static void look_in(struct uvmm_engine *e, struct guest *g, uint64_t chunk)
{
	uint64_t word[UVMM_CHUNK_PAGES], ppn = chunk * UVMM_CHUNK_PAGES, i;
	bool shared[UVMM_CHUNK_PAGES];
	size_t n;

	for (i = 0; i < UVMM_CHUNK_PAGES; i++)
		shared[i] = pmap_state(pmap_get(&g->pmap, ppn + i)) == PAGE_SHARED;
	n = pagemap_read(g->pagemap_fd, guest_addr(g, ppn), UVMM_CHUNK_PAGES, word);
	for (i = 0; i < n; i++)
		if (shared[i] && pagemap_is_anonymous(word[i]))
			notice(e, g, ppn + i);
}

static void set_unseen(struct uvmm_engine *e, struct guest *g, uint64_t pages)
{
	uint64_t former = atomic_exchange(&g->sharing.unseen_pages, pages);

	atomic_fetch_add(&e->sharing.unseen_pages, pages - former);
}

void split_suspect(struct uvmm_engine *e, struct guest *g)
{
	uint64_t shared = atomic_load(&g->sharing.shared_pages), own, before;

	if (g->pagemap_fd < 0 || !(shared | atomic_load(&g->sharing.unseen_pages)))
		return;
	own = own_pages(g);
	before = atomic_load(&g->sharing.own_pages);
	own = own > before ? own - before : 0;
	set_unseen(e, g, own < shared ? own : shared);
}

bool split_look(struct uvmm_engine *e, struct guest *g, uint64_t now_ns)
{
	uint64_t before = atomic_load(&g->sharing.splits), own, chunk;

	if (g->pagemap_fd < 0 || !atomic_load(&g->sharing.shared_pages))
		return false;
	own = own_pages(g);
	if (own == atomic_load(&g->sharing.own_pages) && now_ns < g->sharing.pass.walk_ns)
		return false;
	g->sharing.pass.walk_ns = now_ns + WALK_NS;
	for (chunk = 0; chunk < g->pmap.chunks; chunk++) {
		if (!pmap_chunk_away(&g->pmap, chunk) || !pmap_chunk_claim(&g->pmap, chunk))
			continue;
		look_in(e, g, chunk);
		pmap_chunk_release(&g->pmap, chunk);
	}
	atomic_store(&g->sharing.own_pages, own);
	set_unseen(e, g, 0);
	return atomic_load(&g->sharing.splits) > before;
}

/* --- home ------------------------------------------------------------------------ */

static bool is_split(const struct guest *g, uint64_t ppn)
{
	return pmap_state(pmap_get(&g->pmap, ppn)) == PAGE_SPLIT;
}

/* The page is as when it was last asked about. */
static bool is_cold(struct guest *g, uint64_t ppn, const char *page)
{
	pmap_entry was = pmap_get(&g->pmap, ppn);
	uint64_t print = 1 + (uint64_t)uvmm_checksum(page, 0);

	if (pmap_state(was) != PAGE_SPLIT || pmap_pins(was))
		return false;
	if (pmap_handle(was) == print)
		return true;
	pmap_move(&g->pmap, ppn, &was, pmap_remapped(PAGE_SPLIT, print));
	return false;
}

/* Sets the bits of those of [ppn, ppn + n) that are cold. */
static void find_cold(struct guest *g, uint64_t ppn, uint64_t n, struct share_buffer *b,
		      uint64_t *cold)
{
	struct iovec here = { b->data, n << UVMM_PAGE_SHIFT };
	struct iovec there = { (void *)(uintptr_t)guest_addr(g, ppn), here.iov_len };
	uint64_t i, at;

	if (process_vm_readv(g->pid, &here, 1, &there, 1, 0) != (ssize_t)here.iov_len)
		return;
	for (i = 0; i < n; i++) {
		at = (ppn + i) % UVMM_CHUNK_PAGES;
		if (is_cold(g, ppn + i, b->data + i * UVMM_PAGE_SIZE))
			cold[at / 64] |= 1ull << (at % 64);
	}
}

/* In one order: each of them takes as long as many runs. */
static void home_chunk(struct uvmm_engine *e, struct guest *g, uint64_t chunk,
		       struct share_buffer *b)
{
	uint64_t at = chunk * UVMM_CHUNK_PAGES, end = at + UVMM_CHUNK_PAGES, to, pages;
	uint64_t cold[UVMM_CHUNK_PAGES / 64] = { 0 }, any = 0;

	/* Held: a page that the guest gives back meanwhile is not to be read. */
	if (!pmap_chunk_claim(&g->pmap, chunk))
		return;
	for (; at < end; at = to > at ? to : to + 1) {
		for (to = at; to < end && to - at < SHARE_PIECE && is_split(g, to); to++)
			;
		if (to > at)
			find_cold(g, at, to - at, b, cold);
	}
	pmap_chunk_release(&g->pmap, chunk);
	for (at = 0; at < UVMM_CHUNK_PAGES / 64; at++)
		any |= cold[at];
	if (any)
		share_home(e, g, chunk, cold, false, b, &pages);
}

void split_home_cold(struct uvmm_engine *e, struct guest *g, struct share_buffer *b)
{
	uint64_t chunk;

	for (chunk = 0; chunk < g->pmap.chunks; chunk++)
		if (pmap_chunk_away(&g->pmap, chunk) && atomic_load(&g->sharing.split_pages))
			home_chunk(e, g, chunk, b);
}
