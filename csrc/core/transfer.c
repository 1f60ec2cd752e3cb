/* SPDX-License-Identifier: MIT */
#include "transfer.h"

#include <errno.h>
#include <stdbool.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "range.h"

#define PIECE_PAGES 64u
#define TRY_NS NS_PER_MS
#define TRY_MAX_NS (10 * NS_PER_S)

struct transfer {
	struct uvmm_engine *e;
	struct guest *g;
	char *buffer;
	bool to_guest;
};

/* Through the file, or the process's memory, at the same place in either. */
static int move(const struct transfer *t, int fd, uint64_t at, char *buffer, uint64_t bytes)
{
	while (bytes) {
		ssize_t n = t->to_guest ? pwrite(fd, buffer, bytes, (off_t)at) :
					  pread(fd, buffer, bytes, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno == ENOSPC ? -ENOMEM : -EIO;
		at += (uint64_t)n;
		buffer += n;
		bytes -= (uint64_t)n;
	}
	return 0;
}

enum where { IN_FILE, IN_PROCESS, IN_LOW };

static enum where where(const struct transfer *t, uint64_t at)
{
	pmap_entry e = pmap_get(&t->g->pmap, at >> UVMM_PAGE_SHIFT);

	return pmap_is_home(e) ? IN_FILE : pmap_state(e) == PAGE_LOW ? IN_LOW : IN_PROCESS;
}

/* A LOW page, which a pin keeps there. By its file: the guest, which has that too, could cut it
 * off under a mapping. */
static int move_low(const struct transfer *t, uint64_t at, char *buffer, uint64_t bytes)
{
	uint64_t low = pmap_low_page(pmap_get(&t->g->pmap, at >> UVMM_PAGE_SHIFT));

	return move(t, t->g->low.fd, (low << UVMM_PAGE_SHIFT) + at % UVMM_PAGE_SIZE, buffer,
		    bytes);
}

/* All pages are pinned. */
static int move_pinned(const struct transfer *t, uint64_t at, char *buffer, uint64_t bytes)
{
	uint64_t end = at + bytes, to;
	int rc = 0;

	for (; at < end && !rc; at = to) {
		enum where here = where(t, at);

		to = at;
		do
			to = (to / UVMM_PAGE_SIZE + 1) * UVMM_PAGE_SIZE;
		while (to < end && here != IN_LOW && where(t, to) == here);
		to = to < end ? to : end;
		if (here == IN_LOW)
			rc = move_low(t, at, buffer, to - at);
		else
			rc = here == IN_FILE ? move(t, t->g->memfd, at, buffer, to - at) :
				move(t, t->g->mem_fd, t->g->base + at, buffer, to - at);
		buffer += to - at;
	}
	return rc;
}

/* Fresh pages are growth, which may have to wait; near enough is told if there is plenty. */
static bool is_room(const struct transfer *t, uint64_t ppn, uint64_t pages)
{
	struct pressure *p = &t->e->pressure;
	uint64_t fresh;

	if (!t->to_guest || !pressure_is_short(p))
		return true;
	fresh = pages - machine_range_pages(t->g->memfd, ppn, ppn + pages);
	if (!fresh || pressure_take(p, (int64_t)fresh, PRESSURE_GROWTH))
		return true;
	pressure_wait(t->e, t->g, true);
	return false;
}

static int try_piece(const struct transfer *t, uint64_t at, char *buffer, uint64_t bytes)
{
	uint64_t ppn = at >> UVMM_PAGE_SHIFT;
	uint64_t pages = ((at + bytes - 1) >> UVMM_PAGE_SHIFT) - ppn + 1;
	int rc;

	if (!is_room(t, ppn, pages))
		return -ENOMEM;
	rc = range_pin(t->e, t->g, ppn, pages);
	if (rc)
		return rc;
	rc = move_pinned(t, at, buffer, bytes);
	range_unpin(t->e, t->g, ppn, pages);
	return rc;
}

static bool is_passing(int rc)
{
	return rc == -ENOMEM || rc == -EBUSY || rc == -EOVERFLOW;
}

static int transfer(struct transfer *t, uint64_t at, uint32_t bytes)
{
	uint64_t until = 0, end = at + bytes, to;
	int rc = 0;

	for (; at < end; at = to) {
		char *buffer = t->buffer + (bytes - (end - at));

		to = (at / UVMM_PAGE_SIZE + PIECE_PAGES) * UVMM_PAGE_SIZE;
		to = to < end ? to : end;
		while ((rc = try_piece(t, at, buffer, to - at))) {
			if (!until)
				until = clock_ns() + TRY_MAX_NS;
			if (!is_passing(rc) || clock_ns() > until)
				return rc == -EOVERFLOW ? -EBUSY : rc;
			if (!atomic_load(&t->g->attached))
				return -ESRCH;
			clock_sleep_ns(TRY_NS);
		}
	}
	return rc;
}

int transfer_to_guest(struct uvmm_engine *e, struct guest *g, uint64_t address,
		      const void *from, uint32_t bytes)
{
	struct transfer t = { .e = e, .g = g, .buffer = (char *)(uintptr_t)from, .to_guest = true };

	return transfer(&t, address, bytes);
}

int transfer_from_guest(struct uvmm_engine *e, struct guest *g, uint64_t address, void *to,
			uint32_t bytes)
{
	struct transfer t = { .e = e, .g = g, .buffer = to };

	return transfer(&t, address, bytes);
}
