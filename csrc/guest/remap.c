/* SPDX-License-Identifier: MIT */
#include "remap.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "kept.h"
#include "raw.h"
#include "remap_parts.h"

#define WORD 64u
#define USUAL (PROT_READ | PROT_WRITE)
/* Mappings of a page each. To put one into the middle of another takes two more, and the
 * kernel wants to have three to spare. */
#define RESERVE_PAGES 16u
#define FRAMES_MAX ((uint64_t)INT64_MAX / UVMM_PAGE_SIZE)

static size_t bytes_of(uint64_t pages)
{
	return pages * UVMM_PAGE_SIZE;
}

static char *place(const struct remap *r, uint64_t page)
{
	return r->base + bytes_of(page);
}

static int failure(const void *mapping)
{
	return raw_failed(mapping) ? (int)(intptr_t)mapping : 0;
}

static int rights_of(const struct remap *r, uint64_t page, uint64_t *n)
{
	return r->ops->rights ? r->ops->rights(r->arg, page, n) : USUAL;
}

/* --- what is kept, what is away; with the lock held --------------------------- */

static bool is_kept(const struct remap *r, uint64_t page, uint64_t n)
{
	unsigned i;

	for (i = 0; i < REMAP_KEPT_MAX; i++) {
		const struct uvmm_range *k = &r->kept[i];

		if (k->pages && page < k->ppn + k->pages && k->ppn < page + n)
			return true;
	}
	return false;
}

static bool is_away(const struct remap *r, uint64_t page)
{
	return r->away[page / WORD] >> (page % WORD) & 1;
}

void remap_mark(struct remap *r, uint64_t page, uint64_t n, bool away)
{
	for (; n; page++, n--) {
		uint64_t bit = 1ull << (page % WORD), *word = &r->away[page / WORD];

		*word = away ? *word | bit : *word & ~bit;
	}
}

/* The next pages in [*page, end) that are away: *n from *page. */
static bool next_away(const struct remap *r, uint64_t *page, uint64_t end, uint64_t *n)
{
	uint64_t at = *page;

	while (at < end && !is_away(r, at))
		at += at % WORD || r->away[at / WORD] ? 1 : WORD;
	*page = at;
	while (at < end && is_away(r, at))
		at++;
	*n = at - *page;
	return *n;
}

/* --- mappings; with the lock held --------------------------------------------- */

/* Puts the stage, a mapping of n pages, in place of the pages. Refused before
 * anything is unmapped, but for a kernel that has no memory for itself. */
int remap_commit(const struct remap *r, void *stage, uint64_t page, uint64_t n)
{
	void *got = raw_mremap(stage, bytes_of(n), bytes_of(n), MREMAP_MAYMOVE | MREMAP_FIXED,
			       place(r, page));

	if (raw_failed(got))
		raw_munmap(stage, bytes_of(n));
	return failure(got);
}

static int send_away(struct remap *r, const struct uvmm_remap_run *run,
		     const struct kept_fd *frames)
{
	void *stage = raw_mmap(NULL, bytes_of(run->pages), USUAL, MAP_PRIVATE | MAP_NORESERVE,
			       frames->fd, (off_t)bytes_of(run->frame));
	int rc = failure(stage);

	if (rc)
		return rc;
	rc = raw_madvise(stage, bytes_of(run->pages), MADV_DONTFORK);
	/* What was mapped may be another file that the program has opened meanwhile. */
	if (!rc && !kept_is_ours(frames))
		rc = -EBADF;
	if (rc)
		raw_munmap(stage, bytes_of(run->pages));
	else
		rc = remap_commit(r, stage, run->ppn, run->pages);
	if (!rc)
		remap_mark(r, run->ppn, run->pages, true);
	return rc;
}

/* It has the advice that the spare has, DONTFORK above all. */
void *remap_copy_of_home(const struct remap *r, uint64_t page, uint64_t n)
{
	return raw_mremap(r->spare + bytes_of(page - r->first), 0, bytes_of(n), MREMAP_MAYMOVE,
			  NULL);
}

static int bring_home(struct remap *r, uint64_t page, uint64_t n, int rights)
{
	void *stage = remap_copy_of_home(r, page, n);
	int rc = failure(stage);

	if (rc)
		return rc;
	rc = raw_mprotect(stage, bytes_of(n), rights);
	if (rc)
		raw_munmap(stage, bytes_of(n));
	else
		rc = remap_commit(r, stage, page, n);
	if (!rc)
		remap_mark(r, page, n, false);
	return rc;
}

static void die(void)
{
	static const char words[] =
		"uvmm: the kernel has no room for a mapping of guest memory that was discarded\n";

	if (write(STDERR_FILENO, words, sizeof(words) - 1) >= 0)
		abort();
	abort();
}

/* In steps for which the reserve has room, if it needs that. */
static void bring_home_surely(struct remap *r, uint64_t page, uint64_t n, int rights)
{
	uint64_t end = page + n;

	if (!bring_home(r, page, n, rights))
		return;
	if (r->reserve)
		raw_munmap(r->reserve, bytes_of(RESERVE_PAGES));
	r->reserve = NULL;
	for (; page < end; page += n) {
		n = end - page < RESERVE_PAGES ? end - page : RESERVE_PAGES;
		if (bring_home(r, page, n, rights))
			die();
	}
}

/* --- what the first REMAP makes; with the lock held --------------------------- */

static int open_away(struct remap *r)
{
	void *bits = raw_mmap(NULL, (r->pages + WORD - 1) / WORD * sizeof(uint64_t), USUAL,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (!raw_failed(bits))
		r->away = bits;
	return failure(bits);
}

/* Neighbours with other rights are mappings of their own. */
static int open_reserve(struct remap *r)
{
	char *at = raw_mmap(NULL, bytes_of(RESERVE_PAGES), PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int rc = failure(at);
	unsigned i;

	for (i = 1; !rc && i < RESERVE_PAGES; i += 2)
		rc = raw_mprotect(at + bytes_of(i), UVMM_PAGE_SIZE, PROT_READ);
	if (!rc)
		r->reserve = at;
	else if (!raw_failed(at))
		raw_munmap(at, bytes_of(RESERVE_PAGES));
	return rc;
}

/* The first page from `page` at which guest memory is mapped, nothing else. */
static uint64_t first_usual(const struct remap *r, uint64_t page)
{
	uint64_t one = 1;

	while (page < r->pages && (rights_of(r, page, &one) != USUAL || is_kept(r, page, 1)))
		page++;
	return page;
}

/* All from `page` on, once more. A copy of what is locked would be filled at once. */
static char *copy_from(const struct remap *r, uint64_t page, char *to)
{
	raw_call(SYS_munlock, (long)place(r, page), UVMM_PAGE_SIZE, 0, 0, 0, 0);
	return raw_mremap(place(r, page), 0, bytes_of(r->pages - page),
			  to ? MREMAP_MAYMOVE | MREMAP_FIXED : MREMAP_MAYMOVE, to);
}

static int open_spare(struct remap *r)
{
	uint64_t first = first_usual(r, 0), large = first_usual(r, r->small_pages);
	char *spare, *rest;
	int rc;

	if (first == r->pages)
		return -ENOMEM;
	spare = rest = copy_from(r, first, NULL);
	if (!raw_failed(spare) && first < large && large < r->pages)
		rest = copy_from(r, large, spare + bytes_of(large - first));
	rc = failure(rest);
	if (!rc)
		rc = raw_mprotect(spare, bytes_of(r->pages - first), PROT_NONE);
	if (!rc) {
		r->spare = spare;
		r->first = first;
	} else if (!raw_failed(spare)) {
		raw_munmap(spare, bytes_of(r->pages - first));
	}
	return rc;
}

int remap_open(struct remap *r)
{
	int rc = r->away ? 0 : open_away(r);

	if (!rc && !r->spare)
		rc = open_spare(r);
	if (!rc && !r->reserve)
		rc = open_reserve(r);
	if (!rc)
		atomic_store(&r->used, true);
	return rc;
}

/* --- messages ----------------------------------------------------------------- */

bool remap_is_sound(const struct uvmm_remap *m, size_t bytes, bool with_frames)
{
	uint64_t end = 0, i;
	bool needed = false;

	if (bytes < sizeof(m->runs) || !m->runs || m->runs > UVMM_REMAP_RUNS ||
	    bytes != sizeof(m->runs) + m->runs * sizeof(m->run[0]))
		return false;
	for (i = 0; i < m->runs; i++) {
		const struct uvmm_remap_run *run = &m->run[i];

		if (!run->pages || run->ppn < end || run->pages > UINT64_MAX - run->ppn)
			return false;
		end = run->ppn + run->pages;
		if (run->frame == UVMM_FRAME_HOME)
			continue;
		needed = true;
		if (run->pages > FRAMES_MAX || run->frame > FRAMES_MAX - run->pages)
			return false;
	}
	return needed == with_frames;
}

bool remap_may_change(struct remap *r, uint64_t page, uint64_t n)
{
	uint64_t usual = n;

	return n <= r->pages && page <= r->pages - n && !remap_open(r) && page >= r->first &&
	       !is_kept(r, page, n) && rights_of(r, page, &usual) == USUAL && usual == n;
}

static bool serve_run(struct remap *r, const struct uvmm_remap_run *run,
		      const struct kept_fd *frames, uint64_t file_frames)
{
	uint64_t n = run->pages;

	if (!remap_may_change(r, run->ppn, n))
		return false;
	if (run->frame == UVMM_FRAME_HOME)
		return !bring_home(r, run->ppn, n, USUAL);
	return run->frame + n <= file_frames && !send_away(r, run, frames);
}

void remap_serve(struct remap *r, const struct uvmm_remap *m, int frames,
		 struct uvmm_remapped *out)
{
	struct kept_fd kept = kept_take(frames);
	struct stat st;
	uint64_t i, file_frames = 0;

	memset(out, 0, sizeof(*out));
	if (frames >= 0 && !fstat(kept.fd, &st) && st.st_size > 0)
		file_frames = (uint64_t)st.st_size / UVMM_PAGE_SIZE;
	for (i = 0; i < m->runs; i++) {
		pthread_mutex_lock(&r->lock);
		if (serve_run(r, &m->run[i], &kept, file_frames))
			out->done[i / WORD] |= 1ull << (i % WORD);
		pthread_mutex_unlock(&r->lock);
	}
	kept_close(&kept);
}

bool remap_zap_is_sound(const struct uvmm_zap *m, size_t bytes)
{
	size_t head = offsetof(struct uvmm_zap, run);
	uint64_t end = 0, i;

	if (bytes < head || !m->runs || m->runs > UVMM_ZAP_RUNS ||
	    bytes != head + m->runs * sizeof(m->run[0]))
		return false;
	for (i = 0; i < m->runs; i++) {
		const struct uvmm_range *run = &m->run[i];

		if (!run->pages || run->ppn < end || run->pages > UINT64_MAX - run->ppn)
			return false;
		end = run->ppn + run->pages;
	}
	return true;
}

static bool is_lost(const struct remap *r, uint64_t page, uint64_t n)
{
	uint64_t end = page + n;

	for (; page < end; page += n) {
		n = end - page;
		if (rights_of(r, page, &n) < 0)
			return true;
	}
	return false;
}

static bool zap_run(struct remap *r, const struct uvmm_range *run)
{
	uint64_t page = run->ppn, n = run->pages, away;

	if (n > r->pages || page > r->pages - n || is_kept(r, page, n) || is_lost(r, page, n))
		return false;
	if (r->away && next_away(r, &page, page + n, &away))
		return false;
	return !raw_madvise(place(r, run->ppn), bytes_of(n), MADV_DONTNEED);
}

static uint64_t clock_now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void remap_zap(struct remap *r, const struct uvmm_zap *m, struct uvmm_zapped *out)
{
	uint64_t i;

	memset(out, 0, sizeof(*out));
	for (i = 0; i < m->runs && clock_now_ns(CLOCK_MONOTONIC) < m->until_ns; i++) {
		pthread_mutex_lock(&r->lock);
		if (zap_run(r, &m->run[i]))
			out->done[i / WORD] |= 1ull << (i % WORD);
		pthread_mutex_unlock(&r->lock);
	}
	out->agent_ns = clock_now_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* --- the program's changes ---------------------------------------------------- */

void remap_init(struct remap *r, char *base, uint64_t pages, uint64_t small_pages,
		const struct remap_ops *ops, void *arg)
{
	memset(r, 0, sizeof(*r));
	r->base = base;
	r->pages = pages;
	r->small_pages = small_pages;
	r->ops = ops;
	r->arg = arg;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->released, NULL);
}

void remap_forked(struct remap *r)
{
	/* It has none of the spare. */
	if (r->away)
		raw_munmap(r->away, (r->pages + WORD - 1) / WORD * sizeof(uint64_t));
	if (r->reserve)
		raw_munmap(r->reserve, bytes_of(RESERVE_PAGES));
	remap_init(r, r->base, r->pages, r->small_pages, r->ops, r->arg);
}

void remap_takes(struct remap *r, uint64_t *area, uint64_t *data)
{
	uint64_t words = (r->pages + WORD - 1) / WORD, away = 0, i;

	*area = *data = 0;
	if (!atomic_load_explicit(&r->used, memory_order_relaxed))
		return;
	pthread_mutex_lock(&r->lock);
	for (i = 0; i < words; i++)
		away += (uint64_t)__builtin_popcountll(r->away[i]);
	*area = bytes_of(r->pages - r->first) + words * sizeof(uint64_t);
	*data = bytes_of(away) + words * sizeof(uint64_t);
	pthread_mutex_unlock(&r->lock);
}

unsigned remap_keep(struct remap *r, uint64_t page, uint64_t n)
{
	unsigned slot = 0;

	pthread_mutex_lock(&r->lock);
	while (r->kept[slot].pages) {
		if (++slot < REMAP_KEPT_MAX)
			continue;
		pthread_cond_wait(&r->released, &r->lock);
		slot = 0;
	}
	r->kept[slot] = (struct uvmm_range){ .ppn = page, .pages = n };
	pthread_mutex_unlock(&r->lock);
	return slot;
}

void remap_release(struct remap *r, unsigned slot)
{
	pthread_mutex_lock(&r->lock);
	r->kept[slot].pages = 0;
	pthread_cond_signal(&r->released);
	pthread_mutex_unlock(&r->lock);
}

void remap_forget(struct remap *r, uint64_t page, uint64_t n)
{
	pthread_mutex_lock(&r->lock);
	if (r->away)
		remap_mark(r, page, n, false);
	pthread_mutex_unlock(&r->lock);
}

uint64_t remap_all_home(struct remap *r, uint64_t page, uint64_t n)
{
	uint64_t end = page + n, sum = 0;

	pthread_mutex_lock(&r->lock);
	for (; next_away(r, &page, end, &n); page += n) {
		int rights = rights_of(r, page, &n);

		/* Lost a moment ago, about to be forgotten. */
		if (rights < 0)
			continue;
		bring_home_surely(r, page, n, rights);
		sum += n;
	}
	pthread_mutex_unlock(&r->lock);
	return sum;
}
