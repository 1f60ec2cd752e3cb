/* SPDX-License-Identifier: MIT */
#include "space.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "extents.h"
#include "locked.h"
#include "raw.h"
#include "rlimits.h"

#define EXIT_NO_GUEST 125
/* So much from the start is not on large pages: for a small program they would be
 * most of what it holds. */
#define SMALL_PAGES_BYTES (16ull << 20)
/* Under that zeros are written: where pages are to be given up, and where they
 * are to be used again at once. */
#define GIVE_UP_MIN (16u * UVMM_PAGE_SIZE)
#define REUSE_MIN ((size_t)UVMM_CHUNK_SIZE)

struct space the_space;

void space_die(const char *why)
{
	static const char head[] = "uvmm: ";

	if (write(STDERR_FILENO, head, sizeof(head) - 1) < 0 ||
	    write(STDERR_FILENO, why, strlen(why)) < 0 || write(STDERR_FILENO, "\n", 1) < 0)
		_exit(EXIT_NO_GUEST);
	_exit(EXIT_NO_GUEST);
}

static int ask(void *arg, struct rpc_call *call, char why[UVMM_TEXT_BYTES])
{
	(void)arg;
	return attach_ask(&the_space.attachment, call, why);
}

static void spare(void *arg)
{
	(void)arg;
	extents_purge();
}

/* For remap.h. */
static int rights_from(void *arg, uint64_t page, uint64_t *n)
{
	const uint8_t *rights = the_space.rights + page;
	uint64_t alike = 1;

	(void)arg;
	while (alike < *n && rights[alike] == rights[0])
		alike++;
	*n = alike;
	return rights[0] == SPACE_LOST ? -ENOMEM : rights[0] ^ SPACE_RW;
}

static int open_tables(struct space *s)
{
	static const struct remap_ops ops = { .ask = ask, .rights = rights_from };
	static const struct driver_ops driver_ops = { .ask = ask, .spare = spare };
	uint64_t small_pages = 0;
	int rc;
	void *rights = raw_mmap(NULL, s->attachment.pages, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (raw_failed(rights))
		return -ENOMEM;
	s->rights = rights;
	if (s->attachment.pages * UVMM_PAGE_SIZE >= 4 * SMALL_PAGES_BYTES) {
		small_pages = SMALL_PAGES_BYTES / UVMM_PAGE_SIZE;
		raw_madvise(s->attachment.base, SMALL_PAGES_BYTES, MADV_NOHUGEPAGE);
	}
	remap_init(&s->remap, s->attachment.base, s->attachment.pages, small_pages, &ops, NULL);
	rc = physmem_init(&s->physmem, s->attachment.pages);
	if (!rc)
		driver_init(&s->balloon, &s->physmem, &s->remap, &driver_ops, NULL);
	return rc;
}

/* What a guest starts has its environment perhaps, but is none. */
static bool is_the_guest(void)
{
	const char *pid = getenv(UVMM_ENV_PID);

	return getenv(UVMM_ENV_FOLLOW) || (pid && atol(pid) == getpid());
}

static void open_now(struct space *s)
{
	char why[UVMM_TEXT_BYTES] = "no memory for the tables of the heap";
	int rc = -ENOENT;

	if (is_the_guest() && getenv(UVMM_ENV_SOCKET)) {
		rlimits_make_room();
		rc = attach_open(&s->attachment, why);
	}
	if (rc == -ENOENT) {
		atomic_store(&s->state, SPACE_NONE);
		return;
	}
	if (rc || open_tables(s))
		space_die(why);
	rlimits_open(s->attachment.pages * (UVMM_PAGE_SIZE + sizeof(*s->rights)) +
		     s->physmem.memory_bytes);
	atomic_store(&s->state, SPACE_OPEN);
}

bool space_open(void)
{
	struct space *s = &the_space;
	int closed = SPACE_CLOSED, saved = errno;

	/* Before that the loader is at work, alone. */
	if (environ && atomic_load(&s->state) == SPACE_CLOSED &&
	    atomic_compare_exchange_strong(&s->state, &closed, SPACE_OPENING)) {
		open_now(s);
		errno = saved;
	}
	return space_is_open();
}

bool space_is_open(void)
{
	return atomic_load_explicit(&the_space.state, memory_order_acquire) == SPACE_OPEN;
}

/* --- places ----------------------------------------------------------------- */

static char *base(void)
{
	return the_space.attachment.base;
}

static size_t all_bytes(void)
{
	return the_space.attachment.pages * UVMM_PAGE_SIZE;
}

static uint64_t page_at(const void *at)
{
	return (uint64_t)((const char *)at - base()) / UVMM_PAGE_SIZE;
}

static void *address_of(uint64_t page)
{
	return base() + page * UVMM_PAGE_SIZE;
}

bool space_clip(const void *at, size_t bytes, char **from, size_t *clipped)
{
	uintptr_t lo = (uintptr_t)at, hi, first, end;

	if (!space_is_open())
		return false;
	first = (uintptr_t)base();
	end = first + all_bytes();
	hi = bytes > UINTPTR_MAX - lo ? UINTPTR_MAX : lo + bytes;
	lo = lo > first ? lo : first;
	hi = hi < end ? hi : end;
	if (lo >= hi)
		return false;
	*from = (char *)lo;
	*clipped = hi - lo;
	return true;
}

bool space_has(const void *at, size_t bytes)
{
	size_t clipped;
	char *from;

	return space_clip(at, bytes, &from, &clipped) && clipped == bytes;
}

/* --- rights ----------------------------------------------------------------- */

int space_rights(const void *at)
{
	return the_space.rights[page_at(at)] ^ SPACE_RW;
}

static void note_rights(void *at, size_t bytes, int rights)
{
	uint8_t noted = (uint8_t)((rights & (PROT_READ | PROT_WRITE | PROT_EXEC)) ^ SPACE_RW);
	uint64_t page = page_at(at), end = page + bytes / UVMM_PAGE_SIZE;

	/* What was never noted is zero, and should not come to be. */
	for (; page < end; page++)
		if (the_space.rights[page] != noted && the_space.rights[page] != SPACE_LOST)
			the_space.rights[page] = noted;
}

bool space_is_lost(const void *at, size_t bytes)
{
	uint64_t page = page_at(at), end = page + bytes / UVMM_PAGE_SIZE;

	while (page < end && the_space.rights[page] != SPACE_LOST)
		page++;
	return page < end;
}

static bool are_usual(const void *at, size_t bytes)
{
	uint64_t page = page_at(at), end = page + bytes / UVMM_PAGE_SIZE;

	while (page < end && !the_space.rights[page])
		page++;
	return page == end;
}

/* All pages have the rights of the first. */
static bool are_alike(const void *at, size_t bytes)
{
	uint64_t first = page_at(at), page = first, end = page + bytes / UVMM_PAGE_SIZE;

	while (page < end && the_space.rights[page] == the_space.rights[first])
		page++;
	return page == end;
}

int space_protect(void *at, size_t bytes, int rights)
{
	size_t clipped, all = (bytes + UVMM_PAGE_SIZE - 1) / UVMM_PAGE_SIZE * UVMM_PAGE_SIZE;
	unsigned kept;
	char *from;
	int rc;

	if ((uintptr_t)at % UVMM_PAGE_SIZE || !space_clip(at, all, &from, &clipped))
		return raw_mprotect(at, bytes, rights);
	kept = space_keep(from, clipped);
	rc = raw_mprotect(at, bytes, rights);
	if (!rc)
		note_rights(from, clipped, rights);
	remap_release(&the_space.remap, kept);
	return rc;
}

unsigned space_keep(void *at, size_t bytes)
{
	return remap_keep(&the_space.remap, page_at(at), bytes / UVMM_PAGE_SIZE);
}

/* --- contents --------------------------------------------------------------- */

static int hand_over(void *arg, uint64_t page, uint64_t n)
{
	char why[UVMM_TEXT_BYTES];

	(void)arg;
	return remap_discard(&the_space.remap, page, n, why);
}

static void zero(void *at, size_t bytes, size_t hand_over_min)
{
	bool writable = are_usual(at, bytes);

	if (bytes < hand_over_min && writable) {
		memset(at, 0, bytes);
		return;
	}
	if (!hand_over(NULL, page_at(at), bytes / UVMM_PAGE_SIZE))
		return;
	/* Pinned, or the daemon is gone. */
	if (!writable && raw_mprotect(at, bytes, PROT_READ | PROT_WRITE))
		return;
	memset(at, 0, bytes);
	if (!writable)
		note_rights(at, bytes, SPACE_RW);
}

void space_discard(void *at, size_t bytes)
{
	zero(at, bytes, GIVE_UP_MIN);
}

/* Makes what was used of a range that was just taken read as zeros, if it has to. */
static bool clear(uint64_t page, uint64_t n, bool needed)
{
	struct physmem *m = &the_space.physmem;
	uint64_t at = page, end = page + n, used;
	bool clean = true;

	pthread_mutex_lock(&m->lock);
	while (physmem_next_dirty(m, &at, end, &used)) {
		clean = needed;
		if (!needed)
			break;
		pthread_mutex_unlock(&m->lock);
		zero(address_of(at), used * UVMM_PAGE_SIZE, REUSE_MIN);
		pthread_mutex_lock(&m->lock);
		at += used;
	}
	physmem_set_dirty(m, page, n);
	pthread_mutex_unlock(&m->lock);
	return clean;
}

/* --- taking and giving ------------------------------------------------------ */

static int dress(void *at, size_t bytes, int rights, bool *zero)
{
	int rc = 0;

	*zero = clear(page_at(at), bytes / UVMM_PAGE_SIZE, *zero);
	if (rights != SPACE_RW)
		rc = space_protect(at, bytes, rights);
	if (rc)
		space_give(at, bytes);
	return rc;
}

void *space_take(size_t bytes, size_t align, int rights, bool *zero)
{
	uint64_t page;
	void *at;

	if (!rlimits_allow(bytes, bytes) ||
	    physmem_take(&the_space.physmem, bytes / UVMM_PAGE_SIZE, align / UVMM_PAGE_SIZE,
			 &page))
		return NULL;
	at = address_of(page);
	return dress(at, bytes, rights, zero) ? NULL : at;
}

int space_take_at(void *at, size_t bytes, int rights, bool *zero)
{
	if (!space_has(at, bytes) || !rlimits_allow(bytes, bytes) ||
	    physmem_take_at(&the_space.physmem, page_at(at), bytes / UVMM_PAGE_SIZE))
		return -ENOMEM;
	return dress(at, bytes, rights, zero);
}

int space_take_again(void *at, size_t bytes, int rights)
{
	if (!physmem_is_used(&the_space.physmem, page_at(at), bytes / UVMM_PAGE_SIZE) ||
	    space_is_lost(at, bytes))
		return -ENOMEM;
	space_discard(at, bytes);
	return space_rights(at) == rights && are_alike(at, bytes) ? 0 :
								space_protect(at, bytes, rights);
}

/* Pages from `page` that are lost, or are not: how many. */
static uint64_t alike_run(uint64_t page, uint64_t end)
{
	bool lost = the_space.rights[page] == SPACE_LOST;
	uint64_t at = page;

	while (at < end && (the_space.rights[at] == SPACE_LOST) == lost)
		at++;
	return at - page;
}

void space_give(void *at, size_t bytes)
{
	uint64_t page = page_at(at), end = page + bytes / UVMM_PAGE_SIZE, n;

	locked_remove(at, bytes);
	if (are_usual(at, bytes)) {
		physmem_give(&the_space.physmem, page, end - page);
		atomic_store(&the_space.given, true);
		return;
	}
	for (; page < end; page += n) {
		n = alike_run(page, end);
		if (the_space.rights[page] == SPACE_LOST) {
			raw_munmap(address_of(page), n * UVMM_PAGE_SIZE);
			continue;
		}
		space_protect(address_of(page), n * UVMM_PAGE_SIZE, SPACE_RW);
		physmem_give(&the_space.physmem, page, n);
		atomic_store(&the_space.given, true);
	}
}

/* Noted before the place is open to remaps again, so that nothing is mapped over what is
 * there now; nor brought home by the discard, for which nothing of it is away by then. */
void space_lose(void *at, size_t bytes, unsigned kept, bool done)
{
	uint64_t page = page_at(at), n = bytes / UVMM_PAGE_SIZE, i;

	if (done) {
		memset(the_space.rights + page, SPACE_LOST, n);
		remap_forget(&the_space.remap, page, n);
	}
	remap_release(&the_space.remap, kept);
	if (!done)
		return;
	hand_over(NULL, page, n);
	driver_use(&the_space.balloon, page, n);
	/* Whatever of it is free is in nobody's way then, either. */
	for (i = page; i < page + n; i++)
		physmem_take_at(&the_space.physmem, i, 1);
}

uint64_t space_free_pages(void)
{
	return physmem_free_pages(&the_space.physmem) + physmem_balloon_pages(&the_space.physmem);
}

uint64_t space_trim(void)
{
	uint64_t pages = 0;

	if (atomic_exchange(&the_space.given, false))
		physmem_trim(&the_space.physmem, 1, hand_over, NULL, &pages);
	return pages;
}
