/* SPDX-License-Identifier: MIT
 * What moves into a guest's low memory, and out of it; see disk_parts.h, low.h. */
#include "disk_parts.h"

#include <errno.h>

#include "share.h"

#define HOME_PAGES 32u
#define COLD_MS 1000u           /* not held for so long: may leave low memory for others */

static int register_chunk(void *arg, uint32_t chunk, void *at)
{
	struct disk_io *d = arg;
	struct iovec memory = { at, UVMM_CHUNK_SIZE };
	__u64 tag = 0;

	return io_uring_register_buffers_update_tag(&d->uring, 1 + chunk, &memory, &tag, 1) == 1 ?
		       0 : -ENOMEM;
}

static void unregister_chunk(void *arg, uint32_t chunk)
{
	struct disk_io *d = arg;
	struct iovec none = { NULL, 0 };
	__u64 tag = 0;

	io_uring_register_buffers_update_tag(&d->uring, 1 + chunk, &none, &tag, 1);
}

static const struct low_ops low_ops = { register_chunk, unregister_chunk };

/* Makes room for what is hot by what is cold. */
static int alloc_low(struct disk_io *d, const struct hot *h, uint64_t *first)
{
	int rc = low_alloc(d->e, d->g, h->ppn, h->pages, first);

	if (rc && low_raise_cold(d->e, d->g, h->pages, COLD_MS)) {
		low_tidy(d->e, d->g);
		rc = low_alloc(d->e, d->g, h->ppn, h->pages, first);
	}
	return rc;
}

/* What of the chunk is shared, or was and is split since, is called home: a few pages at a time,
 * since writers wait for all of them. How many. */
static uint64_t call_home(struct disk_io *d, uint64_t lo, uint64_t hi)
{
	uint64_t only[UVMM_CHUNK_PAGES / 64] = { 0 }, chunk = lo / UVMM_CHUNK_PAGES, pages = 0;

	if (!pmap_chunk_away(&d->g->pmap, chunk))
		return 0;
	for (; lo < hi && pages < HOME_PAGES; lo++) {
		enum page_state s = pmap_state(pmap_get(&d->g->pmap, lo));

		if (s == PAGE_SHARED || s == PAGE_SPLIT) {
			only[lo % UVMM_CHUNK_PAGES / 64] |= 1ull << (lo % 64);
			pages++;
		}
	}
	if (pages)
		share_home(d->e, d->g, chunk, only, true, &d->home, &pages);
	return pages;
}

/* Some of it was elsewhere. It moves when it is hot again. */
static bool comes_home(struct disk_io *d, const struct hot *h)
{
	uint64_t at = h->ppn, end = h->ppn + h->pages, to, pages = 0;

	for (; at < end && !pages; at = to) {
		to = (at / UVMM_CHUNK_PAGES + 1) * UVMM_CHUNK_PAGES;
		to = to < end ? to : end;
		pages = call_home(d, at, to);
	}
	return pages;
}

/* It is not called home in vain. */
static bool has_room(struct disk_io *d, const struct hot *h)
{
	uint64_t limit = atomic_load(&d->g->low.limit_pages);

	return atomic_load(&d->g->low.pages) + h->pages <= limit ||
	       (h->pages <= limit && low_raise_cold(d->e, d->g, h->pages, COLD_MS));
}

void disk_lower_hot(struct disk_io *d)
{
	uint32_t n = d->hots;
	uint64_t first;

	d->hots = 0;
	if (!n || !guest_enter(d->g))
		return;
	while (n--) {
		const struct hot *h = &d->hot[n];

		/* Done, or for later: not at each request from now on. */
		heat_restart(&d->heat, h->ppn, h->pages);
		if (pmap_state(pmap_get(&d->g->pmap, h->ppn)) != PAGE_LOW && has_room(d, h) &&
		    !comes_home(d, h) && !alloc_low(d, h, &first))
			low_lower(d->e, d->g, h->ppn, h->pages, first);
	}
	guest_leave(d->g);
}

void disk_tidy(struct disk_io *d)
{
	struct low *l = &d->g->low;
	uint64_t now = clock_ns(), pages = atomic_load(&l->pages);
	uint64_t limit = atomic_load(&l->limit_pages);
	uint64_t back = atomic_exchange(&l->wanted_back, 0);

	if (now < d->tidy_ns && !back)
		return;
	d->tidy_ns = now + DISK_TIDY_NS;
	heat_cool(&d->heat, now);
	atomic_store(&d->g->disks.hot_pages, d->heat.hot);
	if (l->fd < 0 || !guest_enter(d->g))
		return;
	if (back)
		low_raise_cold(d->e, d->g, back, COLD_MS);
	else if (pages > limit)
		low_raise_cold(d->e, d->g, pages - limit, 0);
	low_tidy(d->e, d->g);
	guest_leave(d->g);
}

void disk_note_heat(struct disk_io *d, const struct job *j)
{
	uint32_t after = d->e->cfg.remap_after;
	uint64_t now = clock_ns();
	unsigned i;

	for (i = 0; i < j->q.head.segments && d->heat.count; i++) {
		const struct uvmm_disk_segment *s = &j->q.segment[i];
		uint64_t ppn = s->address >> UVMM_PAGE_SHIFT;
		uint32_t pages = disk_pages_of(s->address, s->bytes);
		uint8_t copies = heat_add(&d->heat, ppn, pages, now);

		disk_note_read(d, j, s, copies);
		if (after && d->g->low.fd >= 0 && copies >= after && d->hots < HOT_MAX &&
		    pages <= LOW_RUN_PAGES_MAX)
			d->hot[d->hots++] = (struct hot){ ppn, pages };
	}
}

void disk_open_low(struct disk_io *d)
{
	if (!heat_init(&d->heat, d->g->max_pages) && d->e->cfg.remap_after)
		low_open(d->e, d->g, &low_ops, d);
}
