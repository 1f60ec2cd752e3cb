/* SPDX-License-Identifier: MIT */
#include "locked.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "raw.h"
#include "space.h"

#define EXPORT __attribute__((visibility("default")))
#define WORD 64u

static struct {
	_Atomic bool any;       /* since the start */

	pthread_mutex_t lock;   /* guards below */
	uint64_t *bits;         /* [pages] NULL: none ever was */
} locked = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* --- with the lock held ----------------------------------------------------- */

static bool has(uint64_t page)
{
	return locked.bits[page / WORD] >> (page % WORD) & 1;
}

static void mark(uint64_t page, uint64_t n)
{
	for (; n; page++, n--)
		locked.bits[page / WORD] ^= 1ull << (page % WORD);
}

static bool is_lost(uint64_t page)
{
	return the_space.rights[page] == SPACE_LOST;
}

/* The next pages in [*page, end) that are locked, or are not: *n from *page. */
static bool next_run(uint64_t *page, uint64_t end, bool are, uint64_t *n)
{
	uint64_t at = *page;

	while (at < end && (has(at) != are || is_lost(at)))
		at++;
	*page = at;
	while (at < end && has(at) == are && !is_lost(at))
		at++;
	*n = at - *page;
	return *n > 0;
}

static int ask(uint16_t type, uint64_t page, uint64_t n)
{
	struct uvmm_range range = { .ppn = page, .pages = n };
	struct uvmm_reply reply;
	struct rpc_call call = {
		.type = type,
		.answer_type = UVMM_MSG_REPLY,
		.body = &range,
		.body_bytes = sizeof(range),
		.send_fd = -1,
		.answer = &reply,
		.answer_bytes = sizeof(reply),
	};
	char why[UVMM_TEXT_BYTES];

	return attach_ask(&the_space.attachment, &call, why);
}

static int open_table(void)
{
	void *bits;

	if (locked.bits)
		return 0;
	bits = raw_mmap(NULL, the_space.attachment.pages / WORD * sizeof(uint64_t),
			PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (raw_failed(bits))
		return -ENOMEM;
	locked.bits = bits;
	atomic_store(&locked.any, true);
	return 0;
}

static int pin(uint64_t page, uint64_t end)
{
	uint64_t n;

	for (; next_run(&page, end, false, &n); page += n) {
		if (ask(UVMM_MSG_PIN, page, n))
			return -ENOMEM;
		mark(page, n);
	}
	return 0;
}

/* How many. */
static uint64_t unpin(uint64_t page, uint64_t end)
{
	uint64_t n, sum = 0;

	for (; next_run(&page, end, true, &n); page += n, sum += n) {
		ask(UVMM_MSG_UNPIN, page, n);
		mark(page, n);
	}
	return sum;
}

/* --- module ----------------------------------------------------------------- */

static uint64_t page_at(const void *at)
{
	return (uint64_t)((const char *)at - the_space.attachment.base) / UVMM_PAGE_SIZE;
}

int locked_add(void *at, size_t bytes)
{
	uint64_t page = page_at(at);
	int rc;

	pthread_mutex_lock(&locked.lock);
	rc = open_table();
	if (!rc)
		rc = pin(page, page + bytes / UVMM_PAGE_SIZE);
	pthread_mutex_unlock(&locked.lock);
	return rc;
}

void locked_remove(void *at, size_t bytes)
{
	uint64_t page = page_at(at), pages;

	if (!atomic_load_explicit(&locked.any, memory_order_relaxed))
		return;
	pthread_mutex_lock(&locked.lock);
	pages = unpin(page, page + bytes / UVMM_PAGE_SIZE);
	pthread_mutex_unlock(&locked.lock);
	if (pages)
		raw_call(SYS_munlock, (long)at, (long)bytes, 0, 0, 0, 0);
}

void locked_forked(void)
{
	pthread_mutex_init(&locked.lock, NULL);
	if (locked.bits)
		memset(locked.bits, 0, the_space.attachment.pages / WORD * sizeof(uint64_t));
}

/* --- the calls -------------------------------------------------------------- */

static int status(int rc)
{
	if (!rc)
		return 0;
	errno = -rc;
	return -1;
}

/* The pages that hold any of it, as far as they are guest memory. */
static bool clip(const void *at, size_t bytes, char **from, size_t *clipped)
{
	size_t before = (uintptr_t)at % UVMM_PAGE_SIZE;
	size_t pages = (before + bytes + UVMM_PAGE_SIZE - 1) / UVMM_PAGE_SIZE;

	return space_clip((const char *)at - before, pages * UVMM_PAGE_SIZE, from, clipped);
}

/* The kernel says whether the program may, and counts. */
EXPORT int mlock2(const void *at, size_t bytes, unsigned flags)
{
	int rc = (int)raw_call(SYS_mlock2, (long)at, (long)bytes, flags, 0, 0, 0);
	size_t clipped;
	char *from;

	if (!rc && clip(at, bytes, &from, &clipped))
		rc = locked_add(from, clipped);
	return status(rc);
}

EXPORT int mlock(const void *at, size_t bytes)
{
	return mlock2(at, bytes, 0);
}

/* Not pinned: that would be all it has. Nor are pages touched for it that nobody uses. */
EXPORT int mlockall(int flags)
{
	if (space_is_open())
		flags |= MCL_ONFAULT;
	return status((int)raw_call(SYS_mlockall, flags, 0, 0, 0, 0, 0));
}

EXPORT int munlock(const void *at, size_t bytes)
{
	size_t clipped;
	char *from;

	if (clip(at, bytes, &from, &clipped))
		locked_remove(from, clipped);
	return status((int)raw_call(SYS_munlock, (long)at, (long)bytes, 0, 0, 0, 0));
}
