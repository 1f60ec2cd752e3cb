/* SPDX-License-Identifier: MIT */
#include "extents.h"

#include <jemalloc/jemalloc.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>

#include "raw.h"
#include "space.h"

#define HOOKED_MAX 64u  /* arenas; the rest, on a large machine, uses mmap() */
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)

/* Read by jemalloc before its first allocation. */
__attribute__((visibility("default"))) const char *malloc_conf =
	"oversize_threshold:0,retain:false,dirty_decay_ms:1000,muzzy_decay_ms:0";

/* jemalloc's own (weak in our copy of it): large blocks begin at random places in a page, so
 * that they share less of the CPU's cache. Here it would keep all that processes have alike
 * from being found alike; and it costs each large block a page. 5.3 has no word for it in
 * malloc_conf. */
extern bool je_opt_cache_oblivious;
bool je_opt_cache_oblivious;

/* What jemalloc lacks of the C library's; its own would give memory that free()
 * does not know. */
__attribute__((visibility("default"))) void *pvalloc(size_t bytes)
{
	size_t pages = bytes / UVMM_PAGE_SIZE + (bytes % UVMM_PAGE_SIZE != 0);

	return valloc(pages * UVMM_PAGE_SIZE);
}

void extents_purge(void)
{
	mallctl("arena." TEXT(MALLCTL_ARENAS_ALL) ".purge", NULL, NULL, NULL, 0);
}

/* Memory is short: what arenas keep for a while yet would do. Once a time in a thread:
 * giving up may need a little itself. */
static bool give_up_unused(void)
{
	static _Thread_local bool at_it;

	if (at_it)
		return false;
	at_it = true;
	extents_purge();
	at_it = false;
	return true;
}

static void *take(size_t size, size_t alignment, bool *zero)
{
	bool wanted = *zero;
	void *at = space_take(size, alignment, SPACE_RW, zero);

	if (at || !give_up_unused())
		return at;
	*zero = wanted;
	return space_take(size, alignment, SPACE_RW, zero);
}

static void *alloc(extent_hooks_t *hooks, void *new_addr, size_t size, size_t alignment,
		   bool *zero, bool *commit, unsigned arena)
{
	(void)hooks, (void)arena;
	*commit = true;
	if (!space_is_open())
		return NULL;
	if (!new_addr)
		return take(size, alignment, zero);
	return space_take_at(new_addr, size, SPACE_RW, zero) ? NULL : new_addr;
}

static bool dalloc(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
		   unsigned arena)
{
	(void)hooks, (void)committed, (void)arena;
	return munmap(addr, size) != 0;
}

static void destroy(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
		    unsigned arena)
{
	dalloc(hooks, addr, size, committed, arena);
}

/* False: the pages read as zeros from now. */
static bool purge(extent_hooks_t *hooks, void *addr, size_t size, size_t offset,
		  size_t length, unsigned arena)
{
	(void)hooks, (void)size, (void)arena;
	return madvise((char *)addr + offset, length, MADV_DONTNEED) != 0;
}

static bool split(extent_hooks_t *hooks, void *addr, size_t size, size_t size_a,
		  size_t size_b, bool committed, unsigned arena)
{
	(void)hooks, (void)addr, (void)size, (void)size_a, (void)size_b, (void)committed;
	(void)arena;
	return false;
}

/* What lies in guest memory and what does not are not to be one. */
static bool merge(extent_hooks_t *hooks, void *addr_a, size_t size_a, void *addr_b,
		  size_t size_b, bool committed, unsigned arena)
{
	(void)hooks, (void)committed, (void)arena;
	return space_has(addr_a, size_a) != space_has(addr_b, size_b);
}

static extent_hooks_t the_hooks = {
	.alloc = alloc,
	.dalloc = dalloc,
	.destroy = destroy,
	.purge_forced = purge,
	.split = split,
	.merge = merge,
};

static bool hook(unsigned arena)
{
	extent_hooks_t *hooks = &the_hooks;
	bool initialized = false;
	size_t bytes = sizeof(initialized);
	char name[40];

	/* One that is not would be made, and take its first large page. */
	snprintf(name, sizeof(name), "arena.%u.initialized", arena);
	if (mallctl(name, &initialized, &bytes, NULL, 0) || !initialized)
		return false;
	snprintf(name, sizeof(name), "arena.%u.extent_hooks", arena);
	return !mallctl(name, NULL, NULL, &hooks, sizeof(hooks));
}

void extents_hook(void)
{
	static bool hooked[HOOKED_MAX];
	unsigned arenas = 0, i;
	size_t bytes = sizeof(arenas);

	mallctl("arenas.narenas", &arenas, &bytes, NULL, 0);
	for (i = 0; i < arenas && i < HOOKED_MAX; i++)
		hooked[i] = hooked[i] || hook(i);
}

void extents_decay(void)
{
	mallctl("arena." TEXT(MALLCTL_ARENAS_ALL) ".decay", NULL, NULL, NULL, 0);
}
