/* SPDX-License-Identifier: MIT
 * Arming of chunks, direct I/O, and the accounting of stalls; see guest.h. */
#include <errno.h>
#include <string.h>

#include "clock.h"
#include "direct_io.h"
#include "guest.h"
#include "locks.h"
#include "uffd.h"

#define DIRECT_SLEEP_NS (5 * NS_PER_MS) /* longer than a read of a disk takes */
#define DIRECT_TRIES 20
#define DIRECT_IO_LOOK_MAX_NS (2 * NS_PER_MS)
#define DIRECT_IO_BELIEVED_NS NS_PER_S

static enum uffd_result register_range(struct guest *g, uint64_t ppn, uint64_t pages,
				       enum guest_arms arms)
{
	static const unsigned catch[] = {
		[CHUNK_OPEN] = 0,
		[CHUNK_ARMED] = UFFD_CATCH_MISSING,
		[CHUNK_SHIELDED] = UFFD_CATCH_MISSING | UFFD_CATCH_MINOR,
	};

	return uffd_register(g->uffd, guest_addr(g, ppn), pages << UVMM_PAGE_SHIFT,
			     catch[arms]);
}

/* The pages of a chunk that are home. */
static enum uffd_result register_home(struct guest *g, uint64_t chunk, enum guest_arms arms)
{
	uint64_t at = chunk * UVMM_CHUNK_PAGES, end = at + UVMM_CHUNK_PAGES, to;
	enum uffd_result res = UFFD_OK;

	for (; at < end && res == UFFD_OK; at = to + 1) {
		for (to = at; to < end && pmap_is_home(pmap_get(&g->pmap, to)); to++)
			;
		if (to > at)
			res = register_range(g, at, to - at, arms);
	}
	return res;
}

static int register_chunks(struct guest *g, uint64_t chunk, uint64_t n,
			   enum guest_arms arms)
{
	uint64_t end = chunk + n, at = chunk, to;
	enum uffd_result res = UFFD_OK;

	for (; at < end && res == UFFD_OK; at = to) {
		for (to = at; to < end && !pmap_chunk_away(&g->pmap, to); to++)
			;
		if (to > at)
			res = register_range(g, at * UVMM_CHUNK_PAGES, (to - at) * UVMM_CHUNK_PAGES,
					     arms);
		else
			res = register_home(g, to++, arms);
	}
	if (res == UFFD_OK) {
		for (; chunk < end; chunk++)
			atomic_store(&g->armed[chunk], (uint8_t)arms);
		return 0;
	}
	return res == UFFD_FULL ? -ENOMEM : -ESRCH;
}

/* The same, chunk by chunk if need be: a program may have mapped something else over a
 * part of guest memory, which cannot be watched. The rest has to be. */
static int register_most(struct guest *g, uint64_t chunk, uint64_t n, enum guest_arms arms)
{
	int rc = register_chunks(g, chunk, n, arms);

	for (; rc == -ESRCH && n; n--)
		if (register_chunks(g, chunk++, 1, arms) == -ENOMEM)
			rc = -ENOMEM;
	return rc == -ESRCH ? 0 : rc;
}

int guest_arm_chunk(struct guest *g, uint64_t chunk)
{
	return guest_arm_chunks(g, chunk, 1);
}

int guest_arm_chunks(struct guest *g, uint64_t chunk, uint64_t n)
{
	uint64_t end = chunk + n, to;
	int rc = 0;

	lock(&g->arm_lock);
	for (; chunk < end && !rc; chunk = to + 1) {
		for (to = chunk; to < end && g->armed[to] == CHUNK_OPEN; to++)
			;
		if (to > chunk)
			rc = register_chunks(g, chunk, to - chunk, CHUNK_ARMED);
	}
	unlock(&g->arm_lock);
	return rc;
}

int guest_shield_chunk(struct guest *g, uint64_t chunk)
{
	int rc = 0;

	lock(&g->arm_lock);
	if (g->armed[chunk] != CHUNK_SHIELDED)
		rc = register_chunks(g, chunk, 1, CHUNK_SHIELDED);
	unlock(&g->arm_lock);
	return rc;
}

int guest_arm_all(struct guest *g)
{
	uint64_t c, from = 0, run = 0;
	int rc = 0;

	lock(&g->arm_lock);
	for (c = 0; c <= g->pmap.chunks; c++) {
		if (c < g->pmap.chunks && g->armed[c] == CHUNK_OPEN) {
			if (!run++)
				from = c;
		} else if (run) {
			int failed = register_most(g, from, run, CHUNK_ARMED);

			rc = rc ? rc : failed;
			run = 0;
		}
	}
	unlock(&g->arm_lock);
	return rc;
}

int guest_watch_again(struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint64_t at = ppn, end = ppn + pages, to;
	enum uffd_result res = UFFD_OK;

	lock(&g->arm_lock);
	for (; at < end && res == UFFD_OK; at = to) {
		to = (at / UVMM_CHUNK_PAGES + 1) * UVMM_CHUNK_PAGES;
		to = to < end ? to : end;
		res = register_range(g, at, to - at, g->armed[at / UVMM_CHUNK_PAGES]);
	}
	unlock(&g->arm_lock);
	return res == UFFD_OK ? 0 : res == UFFD_FULL ? -ENOMEM : -ESRCH;
}

/* What a range is registered for can only be added to, so that it is unregistered
 * first; while it is not, everything in it is native, as it will be. */
static void open_chunks(struct guest *g, uint64_t chunk, uint64_t n)
{
	uint64_t c;

	lock(&g->arm_lock);
	if (uffd_unregister(g->uffd, guest_addr(g, chunk * UVMM_CHUNK_PAGES),
			    n * UVMM_CHUNK_SIZE) != UFFD_OK)
		for (c = chunk; c < chunk + n; c++)
			uffd_unregister(g->uffd, guest_addr(g, c * UVMM_CHUNK_PAGES),
					UVMM_CHUNK_SIZE);
	register_most(g, chunk, n, CHUNK_OPEN);
	unlock(&g->arm_lock);
}

void guest_open_chunk(struct guest *g, uint64_t chunk)
{
	open_chunks(g, chunk, 1);
}

int guest_part_page(struct guest *g, uint64_t ppn)
{
	enum uffd_result res;

	lock(&g->arm_lock);
	res = register_range(g, ppn, 1, CHUNK_SHIELDED);
	unlock(&g->arm_lock);
	return res == UFFD_OK ? 0 : -EAGAIN;
}

int guest_join_page(struct guest *g, uint64_t ppn)
{
	_Atomic uint8_t *arms = &g->armed[ppn / UVMM_CHUNK_PAGES];
	enum uffd_result res;

	lock(&g->arm_lock);
	uffd_unregister(g->uffd, guest_addr(g, ppn), UVMM_PAGE_SIZE);
	res = register_range(g, ppn, 1, atomic_load(arms));
	/* Whoever arms the chunk next does all of it. */
	if (res != UFFD_OK)
		atomic_store(arms, CHUNK_OPEN);
	unlock(&g->arm_lock);
	return res == UFFD_OK ? 0 : -EAGAIN;
}

/* Takes the chunk if it is armed in vain. */
static bool claim_idle(struct guest *g, uint64_t chunk)
{
	if (pmap_chunk_absent(&g->pmap, chunk) || !pmap_chunk_claim(&g->pmap, chunk))
		return false;
	if (g->armed[chunk] != CHUNK_OPEN && !pmap_chunk_absent(&g->pmap, chunk))
		return true;
	pmap_chunk_release(&g->pmap, chunk);
	return false;
}

void guest_open_idle(struct guest *g)
{
	guest_open_idle_chunks(g, 0, g->pmap.chunks);
}

void guest_open_idle_chunks(struct guest *g, uint64_t chunk, uint64_t n)
{
	uint64_t c, from = 0, run = 0;

	for (c = chunk; c <= chunk + n; c++) {
		if (c < chunk + n && claim_idle(g, c)) {
			if (!run++)
				from = c;
		} else if (run) {
			open_chunks(g, from, run);
			for (; run; run--)
				pmap_chunk_release(&g->pmap, from++);
		}
	}
}

enum direct_io guest_direct_io(struct guest *g)
{
	uint64_t now = clock_ns();
	enum direct_io found;

	if (now < atomic_load(&g->direct_io_until_ns))
		return atomic_load(&g->direct_io);
	found = direct_io_of(g->pid);
	/* A no is not believed for a moment: what was open before the pages were
	 * protected counts. With very many files looking costs more than waiting. */
	if (found == DIRECT_IO_NONE && clock_ns() - now > DIRECT_IO_LOOK_MAX_NS)
		found = DIRECT_IO_POSSIBLE;
	if (found != DIRECT_IO_NONE) {
		atomic_store(&g->direct_io, found);
		atomic_store(&g->direct_io_until_ns, now + DIRECT_IO_BELIEVED_NS);
	}
	return found;
}

int guest_stop_writes(struct guest *g)
{
	enum direct_io io = guest_direct_io(g);
	struct direct_io_watch watch;
	int tries = 0;

	if (io == DIRECT_IO_NONE)
		return 0;
	if (io == DIRECT_IO_ANY_TIME)
		return -EAGAIN;
	direct_io_begin(&watch, g->pid);
	do {
		clock_sleep_ns(DIRECT_SLEEP_NS);
		if (++tries > DIRECT_TRIES)
			return -EAGAIN;
	} while (!direct_io_settled(&watch));
	return 0;
}

void guest_stall_begin(struct guest *g, uint32_t tid, uint64_t addr, uint64_t since_ns)
{
	struct guest_waiter *free_slot = NULL;
	size_t i;

	lock(&g->wait_lock);
	for (i = 0; i < GUEST_WAITERS_MAX; i++) {
		struct guest_waiter *w = &g->waiters[i];

		if (w->tid == tid) {
			w->addr = addr;
			free_slot = NULL;
			break;
		}
		if (!w->tid && !free_slot)
			free_slot = w;
	}
	if (free_slot) {
		*free_slot = (struct guest_waiter){ addr, since_ns, tid };
		atomic_fetch_add(&g->waiting, 1);
	}
	unlock(&g->wait_lock);
}

bool guest_stall_goes_on(struct guest *g, uint32_t tid)
{
	bool found = false;
	size_t i;

	if (!atomic_load(&g->waiting))
		return false;
	lock(&g->wait_lock);
	for (i = 0; i < GUEST_WAITERS_MAX && !found; i++)
		found = g->waiters[i].tid == tid;
	unlock(&g->wait_lock);
	return found;
}

void guest_stall_end(struct guest *g, uint64_t lo, uint64_t hi, uint64_t now_ns)
{
	size_t i;

	if (!atomic_load(&g->waiting))
		return;
	lock(&g->wait_lock);
	for (i = 0; i < GUEST_WAITERS_MAX; i++) {
		struct guest_waiter *w = &g->waiters[i];

		if (!w->tid || w->addr < lo || w->addr >= hi)
			continue;
		if (now_ns > w->since_ns)
			atomic_fetch_add(&g->stall_ns, now_ns - w->since_ns);
		w->tid = 0;
		atomic_fetch_sub(&g->waiting, 1);
	}
	unlock(&g->wait_lock);
}

uint64_t guest_stall_ns(struct guest *g, uint64_t now_ns)
{
	uint64_t sum;
	size_t i;

	lock(&g->wait_lock);
	sum = atomic_load(&g->stall_ns);
	for (i = 0; i < GUEST_WAITERS_MAX; i++)
		if (g->waiters[i].tid && now_ns > g->waiters[i].since_ns)
			sum += now_ns - g->waiters[i].since_ns;
	unlock(&g->wait_lock);
	return sum;
}

void guest_wake(struct guest *g, uint64_t ppn, uint64_t pages)
{
	uint64_t lo = guest_addr(g, ppn), len = pages << UVMM_PAGE_SHIFT;

	/* First the books: a thread that is woken may fault and wait again. */
	guest_stall_end(g, lo, lo + len, clock_ns());
	uffd_wake(g->uffd, lo, len);
}
