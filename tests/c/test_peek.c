/* SPDX-License-Identifier: MIT
 *
 * Reading real guests' memory, page maps and frames, while all of it moves.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "engine_bed.h"
#include "script_parts.h"

#define GUEST_MIB 64u
#define GUEST_PAGES (GUEST_MIB * MIB_PAGES)
#define WORDS (PAGE / sizeof(uint64_t))
#define OWN_PAGES 6000u               /* pages with contents of their own, from 0 on */
#define FIRST_ALIKE 8192u          /* from there: pages with one content */
#define ALIKE_PAGES 600u

static uint64_t seen[UVMM_PEEK_PAGES_MAX * WORDS];
static const uint64_t zero[WORDS];

static void peek(uvmm_engine *e, const struct peer *p, uint64_t ppn, uint32_t pages)
{
	int rc;

	memset(seen, 0xa5, pages * PAGE);
	rc = uvmm_guest_peek(e, p->id, ppn, pages, seen);
	CHECK(!rc, "%u pages from %llu: %s", pages, (unsigned long long)ppn, strerror(-rc));
}

/* Pages [first, first + pages) are as "fill", or with alike as "same", made them. */
static void verify(uvmm_engine *e, const struct peer *p, uint64_t first, uint64_t pages,
		   uint64_t seed, bool alike)
{
	uint64_t want[WORDS], at, i, n;

	for (at = first; at < first + pages; at += n) {
		n = first + pages - at < UVMM_PEEK_PAGES_MAX ? first + pages - at :
							      UVMM_PEEK_PAGES_MAX;
		peek(e, p, at, (uint32_t)n);
		for (i = 0; i < n; i++) {
			script_pattern(want, alike ? 0 : at + i, seed);
			CHECK(!memcmp(want, seen + i * WORDS, PAGE), "page %llu, seed %llu",
			      (unsigned long long)(at + i), (unsigned long long)seed);
		}
	}
}

static void verify_zero(uvmm_engine *e, const struct peer *p, uint64_t first, uint32_t pages)
{
	uint32_t i;

	peek(e, p, first, pages);
	for (i = 0; i < pages; i++)
		CHECK(!memcmp(zero, seen + i * WORDS, PAGE), "page %llu is not zero",
		      (unsigned long long)(first + i));
}

static uint64_t shared(uvmm_engine *e, const struct peer *p)
{
	return plane_stats(e, p).shared_pages;
}

/* An agent that was late is left alone for a second. */
static void share(uvmm_engine *e, const struct peer *p, uint64_t pages)
{
	struct uvmm_share_result r;
	int i;

	for (i = 0; i < 100 && shared(e, p) < pages; i++) {
		if (i)
			usleep(300000);
		CHECK(!uvmm_share_now(e, 0, &r), "share");
	}
	CHECK(shared(e, p) >= pages, "%llu shared", (unsigned long long)shared(e, p));
}

static uint64_t pages_in(uvmm_engine *e, const struct peer *p, enum uvmm_map_state s)
{
	static struct uvmm_page_run run[4096];
	static uint64_t word[GUEST_PAGES];
	uint64_t ppn = 0, pages = 0, total = 0, i;
	size_t n;

	while (ppn < GUEST_PAGES) {
		CHECK(!uvmm_guest_runs(e, p->id, &ppn, run, 4096, &n) && n, "runs");
		for (i = 0; i < n; i++) {
			total += run[i].pages;
			pages += run[i].state == (uint64_t)s ? run[i].pages : 0;
		}
	}
	CHECK(total == GUEST_PAGES, "runs of %llu pages", (unsigned long long)total);
	CHECK(!uvmm_guest_pages(e, p->id, 0, GUEST_PAGES, word), "words");
	for (i = 0, total = 0; i < GUEST_PAGES; i++)
		total += (word[i] & 0xf) == (uint64_t)s;
	CHECK(total == pages, "%llu pages in state %d by words, %llu by runs",
	      (unsigned long long)total, (int)s, (unsigned long long)pages);
	return pages;
}

/* Each kind of place; looking changes nothing. */
static void test_places(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "g");
	struct uvmm_job_result r;
	struct uvmm_guest_stats before, after;
	uint64_t tmpfs;
	size_t guests;

	tmpfs = plane_machine(e, &guests).tmpfs_pages;
	verify_zero(e, &p, GUEST_PAGES - 512, 512);
	CHECK(plane_machine(e, &guests).tmpfs_pages <= tmpfs + 2, "a look has allocated");
	plane_tell(&p, "fill 1024 4000 1");
	verify(e, &p, 1024, 4000, 1, false);
	CHECK(!uvmm_guest_reclaim(e, p.id, 1500, UVMM_TIER_SWAP, &r) && r.pages, "reclaim");
	plane_tell(&p, "same 8192 600 5");
	share(e, &p, ALIKE_PAGES);
	before = plane_stats(e, &p);
	verify(e, &p, 1024, 4000, 1, false);
	verify(e, &p, FIRST_ALIKE, ALIKE_PAGES, 5, true);
	verify_zero(e, &p, 7000, 512);
	after = plane_stats(e, &p);
	CHECK(after.swapped_pages == before.swapped_pages &&
	      after.resident_pages == before.resident_pages &&
	      after.shared_pages == before.shared_pages && after.pages_in == before.pages_in,
	      "a look has moved pages");
	CHECK(pages_in(e, &p, UVMM_MAP_SWAPPED) == after.swapped_pages, "swapped");
	CHECK(pages_in(e, &p, UVMM_MAP_SHARED) == after.shared_pages, "shared");
	CHECK(pages_in(e, &p, UVMM_MAP_RESIDENT) == after.resident_pages, "resident");
	CHECK(pages_in(e, &p, UVMM_MAP_UNTOUCHED) == after.untouched_pages, "untouched");
	plane_tell(&p, "discard 8200 10");
	verify_zero(e, &p, 8200, 10);
	plane_tell(&p, "check 1024 4000 1");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* What was written to a shared page is seen at once, noticed or not. */
static void test_splits(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "g");
	char line[64];
	uint64_t seed;

	for (seed = 1; seed < 6; seed++) {
		snprintf(line, sizeof(line), "same 8192 600 %llu", (unsigned long long)seed);
		plane_tell(&p, line);
		share(e, &p, ALIKE_PAGES / 2);
		verify(e, &p, FIRST_ALIKE, ALIKE_PAGES, seed, true);
		snprintf(line, sizeof(line), "fill 8192 600 %llu", (unsigned long long)seed);
		plane_tell(&p, line);
		verify(e, &p, FIRST_ALIKE, ALIKE_PAGES, seed, false);
	}
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* Frames have the content of the pages that map them, and each page is told once. */
static void test_frames(void)
{
	uvmm_engine *e = plane_start(256, 0, 0);
	struct peer a = plane_guest(e, "a", GUEST_MIB, "g"), b = plane_guest(e, "b", GUEST_MIB, "g");
	struct uvmm_group group[4];
	struct uvmm_frame frame[4];
	static struct uvmm_frame_ref ref[4096];
	uint64_t want[WORDS], hash[2], i, of_a = 0;
	size_t n;

	plane_tell(&a, "same 8192 600 5");
	plane_tell(&b, "same 1024 100 5");
	share(e, &a, ALIKE_PAGES);
	share(e, &b, 100);
	uvmm_groups(e, group, 4, &n);
	CHECK(n == 1 && !strcmp(group[0].name, "g") && group[0].frames == 1, "groups");
	CHECK(!uvmm_frames(e, "g", 0, frame, 4, &n) && n == 1, "%zu frames", n);
	CHECK(frame[0].refs == ALIKE_PAGES + 100, "%llu refs", (unsigned long long)frame[0].refs);
	script_pattern(want, 0, 5);
	uvmm_page_hash(want, hash);
	CHECK(frame[0].hash == hash[0], "hash");
	CHECK(!uvmm_frame_peek(e, "g", frame[0].frame, hash[0], seen), "peek");
	CHECK(!memcmp(seen, want, PAGE), "content");
	CHECK(uvmm_frame_peek(e, "g", frame[0].frame, hash[0] + 1, seen) == -ENOENT, "hash");
	CHECK(uvmm_frame_peek(e, "g", 1u << 30, hash[0], seen) == -ENOENT, "number");
	CHECK(uvmm_frame_peek(e, "h", 0, hash[0], seen) == -ENOENT, "group");
	CHECK(uvmm_frames(e, "h", 0, frame, 4, &n) == -ENOENT && !n, "no group");
	uvmm_frame_refs(e, "g", 0, 1000, ref, 4096, &n);
	CHECK(n == ALIKE_PAGES + 100, "%zu refs", n);
	for (i = 0; i < n; i++)
		of_a += ref[i].guest == a.id;
	CHECK(of_a == ALIKE_PAGES, "%llu of a", (unsigned long long)of_a);
	plane_end(&a, false);
	plane_end(&b, false);
	plane_wait_for_no_guests(e);
	/* A group goes a moment after its last guest. */
	for (i = 0; i < 1000 && n; i++) {
		usleep(1000);
		uvmm_groups(e, group, 4, &n);
	}
	CHECK(!n, "groups are left");
	uvmm_engine_stop(e);
}

static void test_refused(void)
{
	uvmm_engine *e = plane_start(64, 0, 0);
	struct peer p = plane_guest(e, "a", 2, "");
	struct uvmm_page_run run[1];
	uint64_t ppn = 513, word[1];
	size_t n;

	CHECK(uvmm_guest_peek(e, p.id, 0, 0, seen) == -EINVAL, "no pages");
	CHECK(uvmm_guest_peek(e, p.id, 0, UVMM_PEEK_PAGES_MAX + 1, seen) == -EINVAL, "many");
	CHECK(uvmm_guest_peek(e, p.id, 512, 1, seen) == -EINVAL, "beyond");
	CHECK(uvmm_guest_peek(e, p.id, 511, 2, seen) == -EINVAL, "over the end");
	CHECK(uvmm_guest_peek(e, p.id, UINT64_MAX, 2, seen) == -EINVAL, "overflow");
	CHECK(!uvmm_guest_peek(e, p.id, 0, 512, seen), "all");
	CHECK(uvmm_guest_peek(e, p.id + 1, 0, 1, seen) == -ENOENT, "of nobody");
	CHECK(uvmm_guest_pages(e, p.id, 512, 1, word) == -EINVAL, "words beyond");
	CHECK(uvmm_guest_pages(e, p.id, 1, UINT64_MAX, word) == -EINVAL, "overflow of words");
	CHECK(uvmm_guest_runs(e, p.id, &ppn, run, 1, &n) == -EINVAL, "runs beyond");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	CHECK(uvmm_guest_peek(e, p.id, 0, 1, seen) == -ENOENT, "of one that ended");
	uvmm_engine_stop(e);
}

struct mover {
	uvmm_engine *e;
	uint64_t id;
	_Atomic int stop;
};

static void *move(void *arg)
{
	struct mover *m = arg;
	struct uvmm_job_result r;
	struct uvmm_share_result s;

	while (!atomic_load(&m->stop)) {
		uvmm_guest_reclaim(m->e, m->id, 5000, UVMM_TIER_SWAP, &r);
		uvmm_share_now(m->e, 0, &s);
		uvmm_guest_restore(m->e, m->id, &r);
	}
	return NULL;
}

/* No byte is wrong while pages are stored, loaded, shared, and brought home. */
static void test_while_pages_move(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "g");
	struct mover m = { .e = e, .id = p.id };
	pthread_t thread;
	int i;

	plane_tell(&p, "fill 0 6000 3");
	plane_tell(&p, "same 8192 600 4");
	CHECK(!pthread_create(&thread, NULL, move, &m), "thread");
	for (i = 0; i < 60; i++) {
		verify(e, &p, 0, OWN_PAGES, 3, false);
		verify(e, &p, FIRST_ALIKE, ALIKE_PAGES, 4, true);
		if (i % 10 == 9) {
			plane_tell(&p, "fill 8192 600 4");
			verify(e, &p, FIRST_ALIKE, ALIKE_PAGES, 4, false);
			plane_tell(&p, "same 8192 600 4");
		}
	}
	atomic_store(&m.stop, 1);
	pthread_join(thread, NULL);
	plane_tell(&p, "check 0 6000 3");
	plane_tell(&p, "alike 8192 600 4");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

/* A guest that is stopped in the middle of everything is read, too. */
static void test_stopped(void)
{
	uvmm_engine *e = plane_start(256, 256, 0);
	struct peer p = plane_guest(e, "a", GUEST_MIB, "g");
	struct mover m = { .e = e, .id = p.id };
	pthread_t thread;
	int i;

	plane_tell(&p, "fill 0 6000 3");
	plane_tell(&p, "same 8192 600 4");
	CHECK(!pthread_create(&thread, NULL, move, &m), "thread");
	for (i = 0; i < 8; i++) {
		usleep(20000);
		CHECK(!kill(p.pid, SIGSTOP), "stop");
		verify(e, &p, 0, OWN_PAGES, 3, false);
		verify(e, &p, FIRST_ALIKE, ALIKE_PAGES, 4, true);
		CHECK(!kill(p.pid, SIGCONT), "continue");
	}
	atomic_store(&m.stop, 1);
	pthread_join(thread, NULL);
	plane_tell(&p, "alike 8192 600 4");
	plane_end(&p, false);
	plane_wait_for_no_guests(e);
	uvmm_engine_stop(e);
}

static void run_all(void)
{
	test_places();
	fprintf(stderr, "places: ok\n");
	test_splits();
	fprintf(stderr, "splits: ok\n");
	test_frames();
	fprintf(stderr, "frames: ok\n");
	test_refused();
	fprintf(stderr, "refused: ok\n");
	test_while_pages_move();
	fprintf(stderr, "while pages move: ok\n");
	/* A sanitized guest is stopped in the middle of the sanitizer, too. */
	if (!SANITIZED) {
		test_stopped();
		fprintf(stderr, "stopped: ok\n");
	}
}

int main(int argc, char **argv)
{
	return plane_main(argc, argv, run_all);
}
