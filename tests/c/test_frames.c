/* SPDX-License-Identifier: MIT
 *
 * The index of shared frames against a trivial model, its threads, and the table of
 * hints: what it keeps, and that it makes nothing up.
 */
#include "frames.h"
#include "hints.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

static uint64_t next_random(uint64_t *x)
{
	*x = *x * 6364136223846793005ull + 1442695040888963407ull;
	return *x >> 33;
}

/* --- frames against a model ------------------------------------------------------ */

#define MOST 700u
#define HASHES 90u              /* few: contents collide */
#define STEPS 400000

struct model {
	enum { FREE, TAKEN, PUBLISHED } state;
	uint64_t hash;
	uint32_t refs;
};

static uint64_t hash_number(uint64_t n)
{
	/* Equal in the low bits: one bucket has many. */
	return n % 3 ? n << 40 : n * 0x9e3779b97f4a7c15ull;
}

static uint64_t lowest_free(const struct model *m)
{
	uint64_t i;

	for (i = 0; i < MOST && m[i].state != FREE; i++)
		;
	return i;
}

static void check_find(struct frames *f, const struct model *m, uint64_t hash)
{
	uint64_t at = FRAME_NONE, next, i;
	bool seen[MOST] = { false };

	while ((next = frames_find(f, hash, at)) != FRAME_NONE) {
		if (at != FRAME_NONE)
			CHECK(!frames_unref(f, at));
		at = next;
		CHECK(m[at].state == PUBLISHED && m[at].hash == hash && !seen[at]);
		seen[at] = true;
	}
	if (at != FRAME_NONE)
		CHECK(!frames_unref(f, at));
	for (i = 0; i < MOST; i++)
		CHECK(seen[i] == (m[i].state == PUBLISHED && m[i].hash == hash));
}

static void check_usage(struct frames *f, const struct model *m)
{
	struct frames_usage u = frames_usage(f);
	uint64_t published = 0, refs = 0, i;

	for (i = 0; i < MOST; i++) {
		published += m[i].state == PUBLISHED;
		refs += m[i].state == PUBLISHED ? m[i].refs : 0;
	}
	CHECK(u.published == published && u.refs == refs);
}

static void step(struct frames *f, struct model *m, uint64_t *x)
{
	uint64_t frame = next_random(x) % MOST, got, hash = hash_number(next_random(x) % HASHES);
	uint32_t refs = (uint32_t)(1 + next_random(x) % 3);

	switch (m[frame].state) {
	case FREE:
		got = MOST;
		CHECK(frames_take(f, &got) == 0 && got == lowest_free(m));
		m[got].state = TAKEN;
		break;
	case TAKEN:
		if (next_random(x) % 4) {
			CHECK(frames_publish(f, frame, hash, refs) == 0);
			m[frame] = (struct model){ PUBLISHED, hash, refs };
		} else {
			frames_give(f, frame);
			m[frame].state = FREE;
		}
		break;
	case PUBLISHED:
		if (next_random(x) % 3) {
			CHECK(frames_unref(f, frame) == (--m[frame].refs == 0));
			if (!m[frame].refs)
				m[frame].state = TAKEN;
		} else {
			CHECK(frames_ref(f, frame) == 0);
			m[frame].refs++;
		}
	}
	if (next_random(x) % 64 == 0)
		check_find(f, m, hash);
}

static void frames_are_as_the_model(void)
{
	struct model m[MOST] = { { FREE, 0, 0 } };
	struct frames f;
	uint64_t x = 1, frame;
	int i;

	CHECK(frames_init(&f, MOST) == 0);
	for (i = 0; i < STEPS; i++) {
		step(&f, m, &x);
		if (i % 1000 == 0)
			check_usage(&f, m);
	}
	while (lowest_free(m) < MOST) {
		CHECK(frames_take(&f, &frame) == 0 && frame == lowest_free(m));
		m[frame].state = TAKEN;
	}
	CHECK(frames_take(&f, &frame) == -ENOSPC);
	frames_fini(&f);
}

static void the_index_grows(void)
{
	struct frames f;
	uint64_t i, frame, n = 20000;

	CHECK(frames_init(&f, n) == 0);
	for (i = 0; i < n; i++) {
		CHECK(frames_take(&f, &frame) == 0 && frame == i);
		CHECK(frames_publish(&f, frame, i * 0x9e3779b97f4a7c15ull, 1) == 0);
	}
	for (i = 0; i < n; i++) {
		CHECK(frames_find(&f, i * 0x9e3779b97f4a7c15ull, FRAME_NONE) == i);
		CHECK(!frames_unref(&f, i) && frames_unref(&f, i));
		CHECK(frames_find(&f, i * 0x9e3779b97f4a7c15ull, FRAME_NONE) == FRAME_NONE);
		frames_give(&f, i);
	}
	CHECK(frames_usage(&f).published == 0 && frames_usage(&f).refs == 0);
	frames_fini(&f);
}

/* --- threads --------------------------------------------------------------------- */

#define THREADS 4
#define CONTENTS 50u

struct racer {
	struct frames *f;
	uint64_t *content;      /* [frame]: what it holds while it is published */
	uint64_t seed;
};

/* As sharers do: find a content or make its frame, look at it, let it go. */
static void *race(void *arg)
{
	struct racer *r = arg;
	uint64_t x = r->seed, frame, content;
	int i;

	for (i = 0; i < 60000; i++) {
		content = next_random(&x) % CONTENTS;
		frame = frames_find(r->f, content, FRAME_NONE);
		if (frame == FRAME_NONE) {
			CHECK(frames_take(r->f, &frame) == 0);
			r->content[frame] = content;
			CHECK(frames_publish(r->f, frame, content, 1) == 0);
		}
		CHECK(r->content[frame] == content);
		if (frames_unref(r->f, frame)) {
			r->content[frame] = UINT64_MAX;
			frames_give(r->f, frame);
		}
	}
	return NULL;
}

static void threads_share(void)
{
	static uint64_t content[MOST];
	struct racer racer[THREADS];
	pthread_t thread[THREADS];
	struct frames f;
	int i;

	CHECK(frames_init(&f, MOST) == 0);
	for (i = 0; i < THREADS; i++) {
		racer[i] = (struct racer){ &f, content, (uint64_t)i + 1 };
		CHECK(pthread_create(&thread[i], NULL, race, &racer[i]) == 0);
	}
	for (i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	CHECK(frames_usage(&f).published == 0 && frames_usage(&f).refs == 0);
	frames_fini(&f);
}

/* --- hints ------------------------------------------------------------------------ */

static bool is_hinted(struct hints *h, uint64_t hash, uint64_t place)
{
	uint64_t found[HINTS_FOUND_MAX];
	size_t n = hints_find(h, hash, found);

	while (n--)
		if (found[n] == place)
			return true;
	return false;
}

static void hints_are_kept(void)
{
	uint64_t n = 200000, x = 7, i, kept = 0;
	struct hints h;

	CHECK(hints_init(&h, n) == 0);
	for (i = 1; i <= n; i++)
		hints_put(&h, next_random(&x) << 33 ^ next_random(&x), i);
	for (x = 7, i = 1; i <= n; i++)
		kept += is_hinted(&h, next_random(&x) << 33 ^ next_random(&x), i);
	CHECK(kept == h.used && kept + h.lost == n);
	printf("  of %llu hints %llu are kept\n", (unsigned long long)n, (unsigned long long)kept);
	CHECK(kept * 1000 >= n * 995);
	hints_fini(&h);
}

static void hints_are_true(void)
{
	uint64_t found[HINTS_FOUND_MAX], i, x = 3, hash, place;
	bool put[40][60] = { { false } };
	struct hints h;

	CHECK(hints_init(&h, 40 * 60) == 0);
	for (i = 0; i < 200000; i++) {
		hash = next_random(&x) % 40;
		place = 1 + next_random(&x) % 59;
		if (next_random(&x) % 2) {
			hints_put(&h, hash << 58, place);
			put[hash][place] = true;
			CHECK(is_hinted(&h, hash << 58, place));
		} else {
			hints_drop(&h, hash << 58, place);
			put[hash][place] = false;
			CHECK(!is_hinted(&h, hash << 58, place));
		}
		hash = next_random(&x) % 40;
		for (size_t n = hints_find(&h, hash << 58, found); n--;)
			CHECK(found[n] < 60 && put[hash][found[n]]);
	}
	hints_fini(&h);
}

int main(void)
{
	frames_are_as_the_model();
	the_index_grows();
	threads_share();
	hints_are_kept();
	hints_are_true();
	puts("frames: ok");
	return 0;
}
