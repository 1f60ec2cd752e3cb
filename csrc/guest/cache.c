/* SPDX-License-Identifier: MIT */
#include "cache.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cache_ahead.h"
#include "cache_back.h"
#include "cache_file.h"
#include "cache_plain.h"

#define RESERVE_PART 64u        /* of guest memory, but */
#define RESERVE_MAX 256u        /* no more than 1 MiB: what is wanted beyond is given */

static size_t table_bytes(const struct uvmm_cache *c)
{
	return c->memory.physmem->pages * sizeof(c->page[0]);
}

/* Nothing of it comes from malloc(): the program's may ask for pages, and the cache then
 * gives some, while a lock of the cache is held. */
static void init_slabs(struct uvmm_cache *c)
{
	cache_slab_init(&c->extents, sizeof(struct cache_extent));
	cache_slab_init(&c->nodes, sizeof(struct cache_index_node));
	cache_slab_init(&c->plains, cache_plain_bytes());
	cache_slab_init(&c->file_slab, sizeof(struct cache_file));
	cache_slab_init(&c->handle_slab, sizeof(struct uvmm_file));
}

static void fini_slabs(struct uvmm_cache *c)
{
	cache_slab_fini(&c->handle_slab);
	cache_slab_fini(&c->file_slab);
	cache_slab_fini(&c->plains);
	cache_slab_fini(&c->nodes);
	cache_slab_fini(&c->extents);
}

static int start_threads(struct uvmm_cache *c)
{
	int rc = cache_back_start(c);

	if (rc)
		return rc;
	rc = cache_ahead_start(c);
	if (rc)
		cache_back_stop(c);
	if (rc)
		cache_back_fini(c);
	return rc;
}

int cache_new(const struct cache_memory *m, const struct uvmm_cache_bounds *bounds,
	      struct uvmm_cache **out)
{
	struct uvmm_cache *c = calloc(1, sizeof(*c));
	uint64_t part = m->physmem->pages / RESERVE_PART;
	int rc = -ENOMEM;

	if (!c)
		return rc;
	c->memory = *m;
	c->min_pages = bounds->min_pages;
	c->max_pages = bounds->max_pages;
	c->reserve_pages = part < RESERVE_MAX ? part : RESERVE_MAX;
	c->page = mmap(NULL, table_bytes(c), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->page == MAP_FAILED)
		goto out_cache;
	if (cache_policy_init(&c->policy, m->physmem->pages))
		goto out_page;
	init_slabs(c);
	bounces_init(&c->bounces, CACHE_RUN_PAGES * CACHE_PAGE_BYTES);
	pthread_mutex_init(&c->files_lock, NULL);
	pthread_mutex_init(&c->policy_lock, NULL);
	rc = start_threads(c);
	if (!rc) {
		*out = c;
		return 0;
	}
	pthread_mutex_destroy(&c->policy_lock);
	pthread_mutex_destroy(&c->files_lock);
	bounces_fini(&c->bounces);
	fini_slabs(c);
	cache_policy_fini(&c->policy);
out_page:
	munmap(c->page, table_bytes(c));
out_cache:
	free(c);
	return rc;
}

static int each_file(struct uvmm_cache *c, int (*act)(struct cache_file *f))
{
	struct cache_file *f = NULL;
	int first = 0, rc;

	while ((f = cache_file_next(c, f))) {
		rc = act(f);
		first = first ? first : rc;
	}
	return first;
}

int cache_write_all(struct uvmm_cache *c)
{
	return each_file(c, cache_back_write);
}

int cache_flush_all(struct uvmm_cache *c)
{
	return each_file(c, cache_back_flush);
}

int cache_free(struct uvmm_cache *c)
{
	int rc = cache_flush_all(c);

	cache_ahead_stop(c);
	cache_back_stop(c);
	cache_file_free_all(c);
	cache_back_fini(c);
	pthread_mutex_destroy(&c->policy_lock);
	pthread_mutex_destroy(&c->files_lock);
	bounces_fini(&c->bounces);
	fini_slabs(c);
	cache_policy_fini(&c->policy);
	munmap(c->page, table_bytes(c));
	free(c);
	return rc;
}
