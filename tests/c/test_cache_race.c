/* SPDX-License-Identifier: MIT
 *
 * The file cache used by many threads at once, while its memory is taken and given, with
 * every byte checked; and what it does about errors of disks.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cache_back.h"
#include "cache_bed.h"
#include "cache_clock.h"
#include "cache_file.h"
#include "cache_gather.h"
#include "cache_give.h"
#include "physmem_sets.h"

/* --- slots of threads, side by side in the same pages --------------------------------- */

#define THREADS 4u
#define SLOT 640u               /* bytes: some lie in two pages */
#define SLOTS 2000u             /* of all threads: about 310 pages */
#define STEPS 4000

struct race {
	struct bed bed;
	struct disk disk;
	struct uvmm_file *file;
	_Atomic bool done;
};

struct racer {
	struct race *race;
	unsigned number;
	uint64_t state;
	uint32_t version[SLOTS];
	pthread_t thread;
};

static void stamp(char *at, unsigned slot, uint32_t version)
{
	unsigned i;

	for (i = 0; i < SLOT / 4; i++) {
		uint32_t word = version ? slot * 2654435761u ^ version * 40503u ^ i : 0;

		memcpy(at + i * 4, &word, 4);
	}
}

static void check_slots(struct racer *r, unsigned slot, unsigned n)
{
	char got[SLOT * 8], want[SLOT];
	unsigned i;
	ssize_t bytes = uvmm_file_pread(r->race->file, got, (size_t)n * SLOT, (int64_t)slot * SLOT);

	CHECK(bytes == (ssize_t)(n * SLOT));
	for (i = 0; i < n; i++) {
		if ((slot + i) % THREADS != r->number)
			continue;
		stamp(want, slot + i, r->version[slot + i]);
		CHECK(!memcmp(got + i * SLOT, want, SLOT));
	}
}

static void *race_main(void *arg)
{
	struct racer *r = arg;
	char slot[SLOT];
	int step;

	for (step = 0; step < STEPS; step++) {
		unsigned s = (unsigned)bed_below(&r->state, SLOTS / THREADS) * THREADS + r->number;

		switch (bed_below(&r->state, 40)) {
		case 0:
			CHECK(!uvmm_file_flush(r->race->file));
			break;
		case 1:
			uvmm_cache_shrink(r->race->bed.cache, bed_below(&r->state, 60));
			break;
		default:
			if (step % 2) {
				check_slots(r, s - r->number < SLOTS - 8 ? s - r->number : SLOTS - 8,
					    1 + (unsigned)bed_below(&r->state, 8));
				break;
			}
			stamp(slot, s, ++r->version[s]);
			CHECK(uvmm_file_pwrite(r->race->file, slot, SLOT, (int64_t)s * SLOT) == SLOT);
		}
	}
	return NULL;
}

/* Takes what it can of the memory, and gives it back. */
static void *thief_main(void *arg)
{
	struct race *r = arg;
	struct physmem *m = &r->bed.physmem;
	uint64_t state = 77, page, n;

	while (!atomic_load(&r->done)) {
		struct physmem_want want = { .n = 1 + bed_below(&state, m->pages / 2) };

		n = want.n;
		cache_on_pressure(r->bed.cache, 1, bed_below(&state, 30));
		cache_gather(r->bed.cache, bed_below(&state, 4));
		if (bed_below(&state, 2))
			cache_on_pressure(r->bed.cache, 0, 0);
		if (physmem_alloc_run(m, n, &page) &&
		    (!cache_on_shortage(r->bed.cache, &want) || physmem_alloc_run(m, n, &page)))
			continue;
		memset((char *)r->bed.memory + page * PAGE, 0x5a, n * PAGE);
		CHECK(!physmem_free(m, page, n));
	}
	return NULL;
}

static void test_threads(uint64_t guest_pages)
{
	static struct racer racer[THREADS];
	struct race r = { .done = false };
	pthread_t thief;
	char want[SLOT];
	unsigned i;

	bed_make(&r.bed, guest_pages, 0, 0);
	disk_make(&r.disk, SLOTS * SLOT);
	r.file = disk_open(&r.bed, &r.disk, O_RDWR);
	CHECK(!uvmm_file_truncate(r.file, SLOTS * SLOT));
	CHECK(!pthread_create(&thief, NULL, thief_main, &r));
	for (i = 0; i < THREADS; i++) {
		racer[i] = (struct racer){ .race = &r, .number = i, .state = i + 1 };
		CHECK(!pthread_create(&racer[i].thread, NULL, race_main, &racer[i]));
	}
	for (i = 0; i < THREADS; i++)
		pthread_join(racer[i].thread, NULL);
	atomic_store(&r.done, true);
	pthread_join(thief, NULL);
	CHECK(!uvmm_file_flush(r.file) && !bed_stats(&r.bed).dirty_pages);
	for (i = 0; i < SLOTS; i++) {
		stamp(want, i, racer[i % THREADS].version[i]);
		CHECK(!memcmp(r.disk.bytes + i * SLOT, want, SLOT));
	}
	CHECK(!uvmm_file_close(r.file) && !bed_end(&r.bed));
	disk_end(&r.disk);
}

/* --- the size goes up and down under readers --------------------------------------------- */

#define TAIL_BYTES (40u * PAGE)

static void *reader_main(void *arg)
{
	struct race *r = arg;
	uint64_t state = (uint64_t)pthread_self();
	static _Thread_local char got[20000];

	while (!atomic_load(&r->done)) {
		uint64_t at = bed_below(&state, TAIL_BYTES);
		ssize_t n = uvmm_file_pread(r->file, got, sizeof(got), (int64_t)at), i;

		CHECK(n >= 0);
		/* What was written, or what was never. */
		for (i = 0; i < n; i++)
			CHECK(!got[i] || got[i] == (char)((at + (uint64_t)i) % 251 + 1));
	}
	return NULL;
}

static void test_truncation(void)
{
	static char text[TAIL_BYTES], got[TAIL_BYTES];
	struct race r = { .done = false };
	pthread_t reader[2];
	uint64_t state = 5, size = 0, written, i;
	int step;

	bed_make(&r.bed, 64, 0, 30);
	disk_make(&r.disk, TAIL_BYTES);
	r.file = disk_open(&r.bed, &r.disk, O_RDWR);
	for (i = 0; i < TAIL_BYTES; i++)
		text[i] = (char)(i % 251 + 1);
	for (i = 0; i < 2; i++)
		CHECK(!pthread_create(&reader[i], NULL, reader_main, &r));
	for (step = 0; step < 1500; step++) {
		uint64_t to = bed_below(&state, TAIL_BYTES);

		if (bed_below(&state, 2)) {
			CHECK(!uvmm_file_truncate(r.file, (int64_t)to));
			size = to;
		} else {
			written = bed_below(&state, TAIL_BYTES - to);
			CHECK(uvmm_file_pwrite(r.file, text + to, written, (int64_t)to) ==
			      (ssize_t)written);
			size = written && to + written > size ? to + written : size;
		}
		CHECK(uvmm_file_size(r.file) == (int64_t)size);
	}
	/* Beyond a former end there is nothing of what was there. */
	CHECK(!uvmm_file_truncate(r.file, 100) && !uvmm_file_truncate(r.file, TAIL_BYTES));
	CHECK(uvmm_file_pread(r.file, got, TAIL_BYTES, 0) == TAIL_BYTES);
	for (i = 100; i < TAIL_BYTES; i++)
		CHECK(!got[i]);
	atomic_store(&r.done, true);
	for (i = 0; i < 2; i++)
		pthread_join(reader[i], NULL);
	CHECK(!uvmm_file_close(r.file) && !bed_end(&r.bed));
	disk_end(&r.disk);
}

/* --- a page that is pinned ------------------------------------------------------------------ */

static void test_pins(void)
{
	struct bed b;
	struct disk d;
	struct uvmm_file *h;
	const void *page;
	size_t bytes;

	bed_make(&b, 64, 0, 0);
	disk_make(&d, 10 * PAGE);
	d.size = d.room;
	memset(d.bytes, 'p', d.size);
	h = disk_open(&b, &d, O_RDWR);
	CHECK(!uvmm_file_pin(h, 3, &page, &bytes) && bytes == PAGE);
	CHECK(uvmm_cache_shrink(b.cache, 100) == 0 && bed_stats(&b).pages == 1);
	/* Seen in place, and kept for whoever looks when the file has it no more. */
	CHECK(uvmm_file_pwrite(h, "q", 1, 3 * PAGE) == 1 && *(const char *)page == 'q');
	CHECK(!uvmm_file_truncate(h, 0) && ((const char *)page)[1] == 'p');
	CHECK(bed_stats(&b).pages == 1 && uvmm_file_pin(h, 0, &page, &bytes) == -ENODATA);
	page = (char *)b.memory + (page ? 0 : 0);
	CHECK(uvmm_file_unpin(h, b.memory) == 0 && bed_stats(&b).pages == 0);
	CHECK(uvmm_file_unpin(h, page) == -EINVAL && uvmm_file_unpin(h, &b) == -EINVAL);
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

/* --- disks that fail --------------------------------------------------------------------------- */

/* With so many pages for the cache. */
static void test_read_errors(uint64_t pages)
{
	static char got[20 * PAGE];
	struct bed b;
	struct disk d;
	struct uvmm_file *h;

	bed_make(&b, pages, 0, 0);
	disk_make(&d, 20 * PAGE);
	d.size = d.room;
	d.fail_read = -EIO;
	d.fail_from = 7;
	h = disk_open(&b, &d, O_RDWR);
	CHECK(uvmm_file_pread(h, got, sizeof(got), 0) == 7 * PAGE);
	CHECK(uvmm_file_pread(h, got, 1, 7 * PAGE) == -EIO);
	CHECK(uvmm_file_pread(h, got, 1, 6 * PAGE) == 1);
	/* A part of a page needs the rest; a whole one does not. */
	CHECK(uvmm_file_pwrite(h, got, 10, 8 * PAGE) == -EIO);
	CHECK(uvmm_file_pwrite(h, got, PAGE, 8 * PAGE) == PAGE);
	CHECK(uvmm_file_pread(h, got, 1, 8 * PAGE) == (pages > 1 ? 1 : -EIO));
	d.fail_read = 0;
	CHECK(uvmm_file_pread(h, got, sizeof(got), 0) == sizeof(got));
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

static void test_write_errors_are_told_once(void)
{
	static char text[10 * PAGE];
	struct bed b;
	struct disk d;
	struct uvmm_file *h;

	bed_make(&b, 64, 0, 0);
	disk_make(&d, 10 * PAGE);
	h = disk_open(&b, &d, O_RDWR);
	memset(text, 't', sizeof(text));
	d.fail_write = -EIO;
	CHECK(uvmm_file_write(h, text, sizeof(text)) == sizeof(text));
	CHECK(uvmm_file_flush(h) == -EIO && bed_stats(&b).dirty_pages == 10);
	/* Nothing is lost: once the disk is well, all is there. */
	CHECK(uvmm_cache_shrink(b.cache, 100) == 0 && bed_stats(&b).pages == 10);
	CHECK(uvmm_file_flush(h) == -EIO);
	d.fail_write = 0;
	CHECK(!uvmm_file_flush(h) && !memcmp(d.bytes, text, sizeof(text)));
	/* What failed in the background the next flush tells, though it succeeds. */
	CHECK(uvmm_file_pwrite(h, "u", 1, 0) == 1);
	d.fail_write = -ENOSPC;
	CHECK(cache_back_write(h->file) == -ENOSPC);
	d.fail_write = 0;
	CHECK(uvmm_file_flush(h) == -ENOSPC && d.bytes[0] == 'u');
	CHECK(!uvmm_file_flush(h));
	d.fail_flush = -EIO;
	CHECK(uvmm_file_flush(h) == -EIO);
	d.fail_flush = 0;
	CHECK(!uvmm_file_flush(h) && !uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

static void test_close_tells(void)
{
	struct bed b;
	struct disk d;
	struct uvmm_file *h;

	bed_make(&b, 64, 0, 0);
	disk_make(&d, 10 * PAGE);
	h = disk_open(&b, &d, O_RDWR);
	d.fail_write = -EIO;
	CHECK(uvmm_file_write(h, "lost", 4) == 4 && cache_back_write(h->file) == -EIO);
	CHECK(uvmm_file_close(h) == -EIO);
	/* Told: it may go, when it is in the way. */
	CHECK(bed_stats(&b).dirty_pages == 1 && uvmm_cache_shrink(b.cache, 1) == 1);
	CHECK(bed_stats(&b).lost_pages == 1 && !bed_stats(&b).dirty_pages);
	/* Not told by a close, it is told by the end of the cache. */
	h = disk_open(&b, &d, O_RDWR);
	CHECK(uvmm_file_write(h, "lost", 4) == 4 && !uvmm_file_close(h));
	CHECK(uvmm_cache_shrink(b.cache, 1) == 0);
	CHECK(bed_end(&b) == -EIO);
	disk_end(&d);
}

/* A disk that is full, and more written than may be dirty. */
static void test_full_disk(void)
{
	static char text[PAGE];
	struct bed b;
	struct disk d;
	struct uvmm_file *h;
	int64_t at = 0;
	ssize_t n = PAGE;

	bed_make(&b, 256, 0, 0);
	disk_make(&d, 1000 * PAGE);
	d.room = 20 * PAGE;
	h = disk_open(&b, &d, O_RDWR);
	for (; n == PAGE && at < 1000 * PAGE; at += PAGE) {
		memset(text, (int)(at / PAGE % 200) + 1, PAGE);
		n = uvmm_file_pwrite(h, text, PAGE, at);
	}
	/* Writers hear of it before the cache is full of what cannot be written. */
	CHECK(n == -ENOSPC && at < 200 * PAGE && bed_stats(&b).dirty_pages < 128);
	CHECK(uvmm_file_flush(h) == -ENOSPC);
	d.room = 1000 * PAGE;
	CHECK(!uvmm_file_flush(h) && d.size == (uint64_t)at - PAGE);
	for (at = 0; at < (int64_t)d.size; at += PAGE)
		CHECK(d.bytes[at] == (char)(at / PAGE % 200 + 1));
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

/* --- memory ---------------------------------------------------------------------------------- */

static void test_gives_and_grows(void)
{
	static char got[PAGE];
	struct bed b;
	struct disk d;
	const struct physmem_want half = { .n = 512 }, most = { .n = 1000 };
	struct uvmm_file *h;
	uint64_t page;
	unsigned i;

	bed_make(&b, 1024, 100, 0);
	disk_make(&d, 2000 * PAGE);
	d.size = d.room;
	h = disk_open(&b, &d, O_RDWR);
	for (i = 0; i < 2000; i++)
		CHECK(uvmm_file_read(h, got, PAGE) == PAGE);
	/* All but what is left to the program. */
	CHECK(bed_stats(&b).pages >= 1024 - b.cache->reserve_pages &&
	      bed_stats(&b).pages < 1032 - b.cache->reserve_pages);
	/* The program takes half of the memory as one run; then more than there is. */
	CHECK(physmem_alloc_run(&b.physmem, 512, &page) == -ENOMEM);
	/* What is read ahead at this moment may be in the way. */
	do
		CHECK(cache_on_shortage(b.cache, &half));
	while (physmem_alloc_run(&b.physmem, 512, &page));
	CHECK(!cache_on_shortage(b.cache, &most));
	CHECK(bed_stats(&b).pages >= 400 && bed_stats(&b).pages <= 512);
	/* The daemon: clean pages first, but never below min. */
	for (i = 0; i < 20; i++)
		CHECK(uvmm_file_pwrite(h, got, PAGE, i * PAGE) == PAGE);
	CHECK(cache_on_pressure(b.cache, 1, 200) == 200);
	CHECK(bed_stats(&b).written_pages == 0 || bed_stats(&b).dirty_pages == 0);
	CHECK(cache_on_pressure(b.cache, 1, 1000) > 0);
	CHECK(bed_stats(&b).pages - 100 < 64);      /* what is read ahead at this moment */
	/* Does not grow for a while, though it could; then it does. */
	for (i = 0; i < 300; i++)
		CHECK(uvmm_file_pread(h, got, PAGE, i * PAGE) == PAGE);
	CHECK(bed_stats(&b).pages - 100 < 64);      /* what is read ahead at this moment */
	cache_on_pressure(b.cache, 0, 0);
	for (i = 0; i < 300; i++)
		CHECK(uvmm_file_pread(h, got, PAGE, i * PAGE) == PAGE);
	CHECK(bed_stats(&b).pages > 250);
	CHECK(!physmem_free(&b.physmem, page, 512));
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

/* All that is cached is dirty when it is wanted. */
/* What was given, a page here and a page there, is whole chunks in the end. */
static void test_gathers(void)
{
	static char got[PAGE], want[PAGE];
	struct uvmm_range run[8];
	struct physmem_hand hand;
	struct bed b;
	struct disk d;
	struct uvmm_file *h;
	uint64_t whole = 0;
	unsigned i, turn, runs;

	bed_make(&b, 4096, 0, 0);
	disk_make(&d, 3000 * PAGE);
	d.size = d.room;
	for (i = 0; i < 3000; i++)
		memset(d.bytes + i * PAGE, (int)(i % 251), PAGE);
	h = disk_open(&b, &d, O_RDWR);
	for (turn = 0; turn < 4; turn++)
		for (i = 0; i < 3000; i += turn ? 2 : 1)
			CHECK(uvmm_file_pread(h, got, PAGE, i * PAGE) == PAGE);
	CHECK(cache_on_pressure(b.cache, 1, 1200) == 1200);
	hand = physmem_whole(&b.physmem);
	runs = physmem_inflate(&b.physmem, 4096, false, &hand, run, 8);
	for (i = 0; i < runs; i++)
		whole += run[i].pages;
	/* A part of the memory was never used, and the program has a page of it. */
	CHECK(whole >= 4096 - bed_stats(&b).pages - 3 * UVMM_CHUNK_PAGES);
	physmem_inflated(&b.physmem, run, runs, false);
	CHECK(physmem_balloon_pages(&b.physmem) == whole);
	for (i = 0; i < 3000; i++) {
		memset(want, (int)(i % 251), PAGE);
		CHECK(uvmm_file_pread(h, got, PAGE, i * PAGE) == PAGE && !memcmp(got, want, PAGE));
	}
	physmem_forget_balloon(&b.physmem);
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

static void test_gives_dirty_pages(void)
{
	static char text[48 * PAGE];
	struct bed b;
	struct disk d;
	struct uvmm_file *h;
	uint64_t until = cache_now_ns() + 5 * CACHE_S_NS, given;

	bed_make(&b, 256, 0, 0);
	disk_make(&d, 48 * PAGE);
	h = disk_open(&b, &d, O_RDWR);
	CHECK(uvmm_file_write(h, text, sizeof(text)) == sizeof(text));
	given = cache_on_pressure(b.cache, 2, 1000);
	/* What was not given at once comes soon. */
	while (bed_stats(&b).pages && cache_now_ns() < until)
		usleep(1000);
	CHECK(given <= 48 && !bed_stats(&b).pages && bed_stats(&b).written_pages >= 48);
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
	disk_end(&d);
}

static void test_writes_back_in_time(void)
{
	struct bed b;
	struct disk d;
	struct uvmm_file *h;
	uint64_t until = cache_now_ns() + 5 * CACHE_S_NS;

	bed_make(&b, 64, 0, 0);
	disk_make(&d, PAGE);
	h = disk_open(&b, &d, O_RDWR);
	CHECK(uvmm_file_write(h, "soon", 4) == 4 && !uvmm_file_close(h));
	while (bed_stats(&b).dirty_pages && cache_now_ns() < until)
		usleep(1000);
	CHECK(!bed_stats(&b).dirty_pages && !memcmp(d.bytes, "soon", 4));
	CHECK(!bed_end(&b));
	disk_end(&d);
}

int main(void)
{
	test_pins();
	test_read_errors(64);
	test_read_errors(1);
	test_write_errors_are_told_once();
	test_close_tells();
	test_full_disk();
	test_gives_and_grows();
	test_gathers();
	test_gives_dirty_pages();
	test_writes_back_in_time();
	test_truncation();
	test_threads(80);
	test_threads(600);
	test_threads(2048);
	return 0;
}
