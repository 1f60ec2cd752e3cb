/* SPDX-License-Identifier: MIT */
#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "locks.h"
#include "uvmm_core.h"

#define BUCKETS_MIN 1024u
#define BITS 64u

struct frame {
	uint64_t hash;
	uint32_t refs;          /* 0: not published */
	uint32_t next;          /* in its bucket, number + 1, or 0 */
};

/* Sparse: what is never used costs addresses only. */
static void *reserve(size_t bytes)
{
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return map == MAP_FAILED ? NULL : map;
}

static size_t bitmap_bytes(uint64_t most)
{
	return (most + BITS - 1) / BITS * sizeof(uint64_t);
}

int frames_init(struct frames *f, uint64_t most)
{
	*f = (struct frames){ .most = most, .buckets = BUCKETS_MIN };
	f->frame = reserve(most * sizeof(*f->frame));
	f->taken = reserve(bitmap_bytes(most));
	f->bucket = calloc(f->buckets, sizeof(*f->bucket));
	pthread_mutex_init(&f->lock, NULL);
	if (f->frame && f->taken && f->bucket)
		return 0;
	frames_fini(f);
	return -ENOMEM;
}

void frames_fini(struct frames *f)
{
	if (f->frame)
		munmap(f->frame, f->most * sizeof(*f->frame));
	if (f->taken)
		munmap(f->taken, bitmap_bytes(f->most));
	free(f->bucket);
	pthread_mutex_destroy(&f->lock);
	*f = (struct frames){ 0 };
}

/* --- numbers ------------------------------------------------------------------- */

int frames_take(struct frames *f, uint64_t *frame)
{
	uint64_t word, found;
	int rc = -ENOSPC;

	lock(&f->lock);
	for (word = f->hand / BITS; word * BITS < f->most && !~f->taken[word]; word++)
		;
	found = word * BITS;
	if (found < f->most) {
		found += (uint64_t)__builtin_ctzll(~f->taken[word]);
		f->hand = found;
	}
	if (found < f->most) {
		f->taken[word] |= 1ull << found % BITS;
		*frame = found;
		rc = 0;
	}
	unlock(&f->lock);
	return rc;
}

void frames_give(struct frames *f, uint64_t frame)
{
	lock(&f->lock);
	f->taken[frame / BITS] &= ~(1ull << frame % BITS);
	if (frame < f->hand)
		f->hand = frame;
	unlock(&f->lock);
}

/* --- index --------------------------------------------------------------------- */

static uint32_t *bucket_of(struct frames *f, uint64_t hash)
{
	return &f->bucket[hash & (f->buckets - 1)];
}

static void insert_locked(struct frames *f, uint64_t frame)
{
	uint32_t *bucket = bucket_of(f, f->frame[frame].hash);

	f->frame[frame].next = *bucket;
	*bucket = (uint32_t)frame + 1;
}

static void remove_locked(struct frames *f, uint64_t frame)
{
	uint32_t *at = bucket_of(f, f->frame[frame].hash);

	while (*at != frame + 1)
		at = &f->frame[*at - 1].next;
	*at = f->frame[frame].next;
}

/* Twice as many buckets: each frame moves at most once in it. */
static int grow_locked(struct frames *f)
{
	uint64_t former = f->buckets, i;
	uint32_t *bucket = f->bucket, at;

	f->bucket = calloc(2 * former, sizeof(*f->bucket));
	if (!f->bucket) {
		f->bucket = bucket;
		return -ENOMEM;
	}
	f->buckets = 2 * former;
	for (i = 0; i < former; i++) {
		while ((at = bucket[i])) {
			bucket[i] = f->frame[at - 1].next;
			insert_locked(f, at - 1);
		}
	}
	free(bucket);
	return 0;
}

int frames_publish(struct frames *f, uint64_t frame, uint64_t hash, uint32_t refs)
{
	int rc = 0;

	lock(&f->lock);
	if (f->published >= f->buckets)
		rc = grow_locked(f);
	if (!rc) {
		f->frame[frame] = (struct frame){ .hash = hash, .refs = refs };
		insert_locked(f, frame);
		f->published++;
		f->refs += refs;
	}
	unlock(&f->lock);
	return rc;
}

static int ref_locked(struct frames *f, uint64_t frame)
{
	if (f->frame[frame].refs >= FRAME_REFS_MAX)
		return -EOVERFLOW;
	f->frame[frame].refs++;
	f->refs++;
	return 0;
}

uint64_t frames_find(struct frames *f, uint64_t hash, uint64_t last)
{
	uint64_t found = FRAME_NONE;
	uint32_t at;

	lock(&f->lock);
	at = last == FRAME_NONE ? *bucket_of(f, hash) : f->frame[last].next;
	for (; at && found == FRAME_NONE; at = f->frame[at - 1].next)
		if (f->frame[at - 1].hash == hash && !ref_locked(f, at - 1))
			found = at - 1;
	unlock(&f->lock);
	return found;
}

int frames_ref(struct frames *f, uint64_t frame)
{
	int rc;

	lock(&f->lock);
	rc = ref_locked(f, frame);
	unlock(&f->lock);
	return rc;
}

int frames_hold(struct frames *f, uint64_t frame)
{
	int rc = -ENOENT;

	if (frame >= f->most)
		return rc;
	lock(&f->lock);
	if (f->frame[frame].refs)
		rc = ref_locked(f, frame);
	unlock(&f->lock);
	return rc;
}

bool frames_unref(struct frames *f, uint64_t frame)
{
	bool last;

	lock(&f->lock);
	f->refs--;
	last = !--f->frame[frame].refs;
	if (last) {
		remove_locked(f, frame);
		f->published--;
	}
	unlock(&f->lock);
	return last;
}

struct frames_usage frames_usage(struct frames *f)
{
	struct frames_usage usage;

	lock(&f->lock);
	usage = (struct frames_usage){ .published = f->published, .refs = f->refs };
	unlock(&f->lock);
	return usage;
}

size_t frames_list(struct frames *f, uint64_t from, struct uvmm_frame *out, size_t cap)
{
	uint64_t i = from;
	size_t n = 0;

	lock(&f->lock);
	for (; i < f->most && n < cap && n < f->published; i++) {
		if (!(f->taken[i / BITS] >> i % BITS)) {
			i |= BITS - 1;
			continue;
		}
		if (f->frame[i].refs)
			out[n++] = (struct uvmm_frame){ i, f->frame[i].hash, f->frame[i].refs };
	}
	unlock(&f->lock);
	return n;
}
