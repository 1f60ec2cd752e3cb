/* SPDX-License-Identifier: MIT */
#include "cache_slab.h"

#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define REGION_BYTES (256u << 10)

struct link {
	struct link *next;
};

void cache_slab_init(struct cache_slab *s, size_t object_bytes)
{
	*s = (struct cache_slab){ .object_bytes = (object_bytes + 7) / 8 * 8 };
	pthread_mutex_init(&s->lock, NULL);
}

void cache_slab_fini(struct cache_slab *s)
{
	struct link *region = s->regions, *next;

	for (; region; region = next) {
		next = region->next;
		munmap(region, REGION_BYTES);
	}
	pthread_mutex_destroy(&s->lock);
}

static bool grow(struct cache_slab *s)
{
	struct link *region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (region == MAP_FAILED)
		return false;
	region->next = s->regions;
	s->regions = region;
	s->fresh = (char *)region + sizeof(*region);
	s->fresh_bytes = REGION_BYTES - sizeof(*region);
	return true;
}

void *cache_slab_get(struct cache_slab *s)
{
	struct link *object;

	pthread_mutex_lock(&s->lock);
	object = s->freed;
	if (object) {
		s->freed = object->next;
	} else if (s->fresh_bytes >= s->object_bytes || grow(s)) {
		object = (struct link *)(void *)s->fresh;
		s->fresh += s->object_bytes;
		s->fresh_bytes -= s->object_bytes;
	}
	pthread_mutex_unlock(&s->lock);
	if (object)
		memset(object, 0, s->object_bytes);
	return object;
}

void cache_slab_put(struct cache_slab *s, void *object)
{
	struct link *link = object;

	pthread_mutex_lock(&s->lock);
	link->next = s->freed;
	s->freed = link;
	pthread_mutex_unlock(&s->lock);
}
