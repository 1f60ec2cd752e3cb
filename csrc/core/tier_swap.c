/* SPDX-License-Identifier: MIT */
#include "tier_swap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "locks.h"
#include "uvmm/protocol.h"
#include "uvmm_core.h"

#define WORD_BITS 64u

struct swap {
	struct tier tier;               /* first: a tier is cast to its swap */
	int fd;
	uint64_t slots;                 /* immutable */
	uint32_t *sums;                 /* [slots], written by a slot's user */
	char *path;

	pthread_mutex_t lock;           /* guards all below */
	uint64_t *taken;                /* bitmap */
	uint64_t used;
	uint64_t next;                  /* where the next search begins */
};

static struct swap *of(struct tier *t)
{
	return (struct swap *)t;
}

static bool is_taken(const struct swap *s, uint64_t slot)
{
	return s->taken[slot / WORD_BITS] >> (slot % WORD_BITS) & 1;
}

/* First free slot in [from, to), or to. */
static uint64_t first_free(const struct swap *s, uint64_t from, uint64_t to)
{
	while (from < to) {
		uint64_t free_bits = ~s->taken[from / WORD_BITS] >> (from % WORD_BITS);

		if (free_bits) {
			from += (uint64_t)__builtin_ctzll(free_bits);
			return from < to ? from : to;
		}
		from += WORD_BITS - from % WORD_BITS;
	}
	return to;
}

/* Length of the free run at slot, at most want. */
static uint64_t free_run(const struct swap *s, uint64_t slot, uint64_t want)
{
	uint64_t n = 0;

	while (n < want && slot + n < s->slots && !is_taken(s, slot + n))
		n++;
	return n;
}

/* Takes one run of 1 to want slots: the next one that is long enough within a
 * bounded search, else the longest seen. Returns its length, 0 when full. */
static uint64_t take_run(struct swap *s, uint64_t want, uint64_t *slot)
{
	uint64_t best = 0, best_at = 0, at, i;
	int tries = 64, wraps = 0;

	lock(&s->lock);
	at = s->next;
	while (s->used < s->slots && best < want && (tries-- > 0 || !best)) {
		uint64_t n;

		at = first_free(s, at, s->slots);
		if (at == s->slots) {
			if (wraps++)
				break;
			at = 0;
			continue;
		}
		n = free_run(s, at, want);
		if (n > best) {
			best = n;
			best_at = at;
		}
		at += n;
	}
	for (i = best_at; i < best_at + best; i++)
		s->taken[i / WORD_BITS] |= 1ull << (i % WORD_BITS);
	s->used += best;
	if (best)
		s->next = best_at + best;
	unlock(&s->lock);
	*slot = best_at;
	return best;
}

static void swap_drop(struct tier *t, const uint64_t *handles, size_t n)
{
	struct swap *s = of(t);
	size_t i;

	lock(&s->lock);
	for (i = 0; i < n; i++) {
		uint64_t bit = 1ull << (handles[i] % WORD_BITS);

		if (s->taken[handles[i] / WORD_BITS] & bit) {
			s->taken[handles[i] / WORD_BITS] &= ~bit;
			s->used--;
			/* Slots used before may be in the page cache still. */
			if (!s->taken[handles[i] / WORD_BITS] &&
			    handles[i] - handles[i] % WORD_BITS < s->next)
				s->next = handles[i] - handles[i] % WORD_BITS;
		}
	}
	unlock(&s->lock);
}

/* Writes pages[0..n) to consecutive slots. */
static int write_run(struct swap *s, const void *const *pages, size_t n, uint64_t slot)
{
	struct iovec iov[TIER_BATCH_MAX];
	size_t i, k = 0, done = 0;
	off_t at = (off_t)(slot * UVMM_PAGE_SIZE);

	for (i = 0; i < n; i++) {
		char *end = k ? (char *)iov[k - 1].iov_base + iov[k - 1].iov_len : NULL;

		if (end == pages[i]) {
			iov[k - 1].iov_len += UVMM_PAGE_SIZE;
			continue;
		}
		iov[k++] = (struct iovec){ (void *)(uintptr_t)pages[i], UVMM_PAGE_SIZE };
	}
	for (i = 0; done < n * UVMM_PAGE_SIZE;) {
		ssize_t w = pwritev(s->fd, iov + i, (int)(k - i), at + (off_t)done);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w ? -errno : -EIO;
		done += (size_t)w;
		while (i < k && (size_t)w >= iov[i].iov_len)
			w -= (ssize_t)iov[i++].iov_len;
		if (i < k) {
			iov[i].iov_base = (char *)iov[i].iov_base + w;
			iov[i].iov_len -= (size_t)w;
		}
	}
	return 0;
}

static int swap_store(struct tier *t, const void *const *pages, const uint32_t *sums,
		      size_t n, uint64_t *handles)
{
	struct swap *s = of(t);
	size_t done = 0, i;

	while (done < n) {
		uint64_t slot, len = take_run(s, n - done, &slot);

		if (!len)
			break;
		for (i = 0; i < len; i++) {
			handles[done + i] = slot + i;
			s->sums[slot + i] = sums[done + i];
		}
		if (write_run(s, pages + done, len, slot)) {
			swap_drop(t, handles, done + len);
			return -EIO;
		}
		done += len;
	}
	return done ? (int)done : -ENOSPC;
}

static int read_run(struct swap *s, uint64_t slot, size_t n, char *dst)
{
	size_t done = 0, len = n * UVMM_PAGE_SIZE;
	off_t at = (off_t)(slot * UVMM_PAGE_SIZE);

	while (done < len) {
		ssize_t r = pread(s->fd, dst + done, len - done, at + (off_t)done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return -EIO;
		done += (size_t)r;
	}
	return 0;
}

static void swap_load(struct tier *t, const uint64_t *handles, const uint64_t *seeds,
		      size_t n, void *dst, int *bad)
{
	struct swap *s = of(t);
	char *out = dst;
	size_t i = 0, j, len;

	while (i < n) {
		for (len = 1; i + len < n && handles[i + len] == handles[i] + len; len++)
			;
		if (read_run(s, handles[i], len, out + i * UVMM_PAGE_SIZE)) {
			/* One bad sector must not take its neighbours along. */
			for (j = i; j < i + len; j++)
				bad[j] = read_run(s, handles[j], 1, out + j * UVMM_PAGE_SIZE);
		} else {
			memset(bad + i, 0, len * sizeof(*bad));
		}
		for (j = i; j < i + len; j++) {
			const char *page = out + j * UVMM_PAGE_SIZE;

			if (!bad[j] && uvmm_checksum(page, seeds[j]) != s->sums[handles[j]])
				bad[j] = -EBADMSG;
		}
		i += len;
	}
}

static void swap_usage(struct tier *t, uint64_t *total_pages, uint64_t *used_pages)
{
	struct swap *s = of(t);

	lock(&s->lock);
	*total_pages = s->slots;
	*used_pages = s->used;
	unlock(&s->lock);
}

static void swap_close(struct tier *t)
{
	struct swap *s = of(t);

	if (s->fd >= 0) {
		close(s->fd);
		unlink(s->path);
	}
	if (s->sums)
		munmap(s->sums, s->slots * sizeof(*s->sums));
	pthread_mutex_destroy(&s->lock);
	free(s->taken);
	free(s->path);
	free(s);
}

static const struct tier_ops swap_ops = {
	.name = "swap",
	.store = swap_store,
	.load = swap_load,
	.drop = swap_drop,
	.usage = swap_usage,
	.close = swap_close,
};

static int create_file(struct swap *s)
{
	s->fd = open(s->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->fd < 0)
		return -errno;
	/* All of its space now, so that no store meets a full disk later. */
	return -posix_fallocate(s->fd, 0, (off_t)(s->slots * UVMM_PAGE_SIZE));
}

int tier_swap_open(const char *path, uint64_t slots, struct tier **out)
{
	struct swap *s = calloc(1, sizeof(*s));
	void *sums;
	int rc = -ENOMEM;

	if (!s)
		return -ENOMEM;
	s->tier.ops = &swap_ops;
	s->fd = -1;
	s->slots = slots;
	pthread_mutex_init(&s->lock, NULL);
	s->path = strdup(path);
	s->taken = calloc(slots / WORD_BITS + 1, sizeof(*s->taken));
	if (!s->path || !s->taken)
		goto fail;
	if (slots) {
		/* Untouched slots cost nothing. */
		sums = mmap(NULL, slots * sizeof(*s->sums), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (sums == MAP_FAILED)
			goto fail;
		s->sums = sums;
		rc = create_file(s);
		if (rc)
			goto fail;
	}
	*out = &s->tier;
	return 0;
fail:
	swap_close(&s->tier);
	return rc;
}
