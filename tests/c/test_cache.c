/* SPDX-License-Identifier: MIT
 *
 * The file cache against a model that is an array of bytes: on files and on a disk, with
 * much memory, little and none; streams and scans.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "cache_bed.h"
#include "cache_give.h"

/* --- against a model ---------------------------------------------------------------- */

#define MODEL_BYTES (900u << 10)

struct model {
	struct bed bed;
	struct disk disk;               /* instead of a file, if it has bytes */
	const char *name;
	struct uvmm_file *file;
	char *bytes, *seen;
	uint64_t size;
	uint64_t state;
};

static uint64_t below(struct model *m, uint64_t n)
{
	return bed_below(&m->state, n);
}

static void check_read(struct model *m)
{
	uint64_t at = below(m, MODEL_BYTES), n = below(m, 8) ? below(m, 20000) : below(m, MODEL_BYTES);
	uint64_t want = at >= m->size ? 0 : m->size - at < n ? m->size - at : n;

	CHECK(uvmm_file_pread(m->file, m->seen, n, (int64_t)at) == (ssize_t)want);
	CHECK(!memcmp(m->seen, m->bytes + at, want));
}

static void check_pin(struct model *m)
{
	uint64_t index = below(m, MODEL_BYTES / PAGE);
	const void *page;
	size_t bytes;
	int rc = uvmm_file_pin(m->file, index, &page, &bytes);

	if (index * PAGE >= m->size) {
		CHECK(rc == -ENODATA);
		return;
	}
	if (rc == -ENOMEM)
		return;
	CHECK(!rc && bytes == (m->size - index * PAGE < PAGE ? m->size - index * PAGE : PAGE));
	CHECK(!memcmp(page, m->bytes + index * PAGE, bytes));
	CHECK(!uvmm_file_unpin(m->file, page));
}

static void do_write(struct model *m)
{
	uint64_t at = below(m, MODEL_BYTES - 20000);
	uint64_t n = below(m, 3) ? below(m, 300) : below(m, 20000), i;

	/* At the end, often. */
	if (!below(m, 3) && m->size < MODEL_BYTES - 20000)
		at = m->size;
	for (i = 0; i < n; i++)
		m->bytes[at + i] = (char)below(m, 256);
	CHECK(uvmm_file_pwrite(m->file, m->bytes + at, n, (int64_t)at) == (ssize_t)n);
	if (n && at + n > m->size)
		m->size = at + n;
}

static void do_truncate(struct model *m)
{
	uint64_t size = below(m, 2) ? below(m, MODEL_BYTES) : m->size - below(m, m->size / 4 + 1);

	CHECK(!uvmm_file_truncate(m->file, (int64_t)size));
	if (size < m->size)
		memset(m->bytes + size, 0, m->size - size);
	m->size = size;
}

static void check_flush(struct model *m)
{
	CHECK(!uvmm_file_flush(m->file));
	if (m->name) {
		CHECK(bed_on_disk(m->name, m->seen, MODEL_BYTES) == (ssize_t)m->size);
		CHECK(!memcmp(m->seen, m->bytes, m->size));
	} else {
		CHECK(m->disk.size == m->size);
		CHECK(!memcmp(m->disk.bytes, m->bytes, m->size));
	}
}

static void do_open_again(struct model *m)
{
	struct uvmm_file *other;

	if (!m->name)
		return;
	/* Another handle sees the same; and the pages outlive all handles. */
	other = bed_open(&m->bed, m->name, below(m, 2) ? O_RDWR : O_RDONLY);
	CHECK(uvmm_file_size(other) == (int64_t)m->size);
	CHECK(!uvmm_file_close(other));
	CHECK(!uvmm_file_close(m->file));
	m->file = bed_open(&m->bed, m->name, O_RDWR);
	CHECK(uvmm_file_size(m->file) == (int64_t)m->size);
}

static void run_model(struct model *m, int steps)
{
	while (steps--) {
		switch (below(m, 20)) {
		case 0:
			do_truncate(m);
			break;
		case 1:
			check_flush(m);
			break;
		case 2:
			do_open_again(m);
			break;
		case 3:
			uvmm_cache_shrink(m->bed.cache, below(m, 100));
			break;
		case 4:
			cache_on_pressure(m->bed.cache, below(m, 2) ? 1 : 0, below(m, 50));
			break;
		case 5:
			check_pin(m);
			break;
		case 6: case 7: case 8: case 9: case 10:
			do_write(m);
			break;
		default:
			check_read(m);
		}
	}
	check_flush(m);
}

/* guest_pages: fewer than the file has, or all of them. */
static void test_model(const char *name, uint64_t guest_pages, int steps, uint64_t seed)
{
	struct model m = { .name = name, .state = seed };

	bed_make(&m.bed, guest_pages, 0, 0);
	m.bytes = calloc(1, MODEL_BYTES);
	m.seen = malloc(MODEL_BYTES);
	CHECK(m.bytes && m.seen);
	if (name) {
		m.file = bed_open(&m.bed, name, O_RDWR | O_CREAT | O_TRUNC);
	} else {
		disk_make(&m.disk, MODEL_BYTES);
		m.file = disk_open(&m.bed, &m.disk, O_RDWR);
	}
	run_model(&m, steps);
	CHECK(!uvmm_file_close(m.file));
	CHECK(!bed_end(&m.bed));
	if (!name)
		disk_end(&m.disk);
	free(m.bytes);
	free(m.seen);
}

/* --- streams ------------------------------------------------------------------------ */

static void test_reads_ahead(void)
{
	static char text[400 * PAGE], got[PAGE];
	struct uvmm_file *h;
	struct bed b;
	unsigned i;

	bed_make(&b, 2048, 0, 0);
	for (i = 0; i < 400; i++)
		memset(text + i * PAGE, (int)i, PAGE);
	bed_put_on_disk("stream", text, sizeof(text));
	h = bed_open(&b, "stream", O_RDONLY);
	for (i = 0; i < 400; i++)
		CHECK(uvmm_file_read(h, got, PAGE) == PAGE && !memcmp(got, text + i * PAGE, PAGE));
	/* Most pages were there, or on their way, when they were asked for. */
	CHECK(bed_stats(&b).read_pages == 400 && bed_stats(&b).misses < 100);
	CHECK(bed_stats(&b).ahead_used <= bed_stats(&b).ahead_pages && bed_stats(&b).ahead_used > 300);
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
}

/* A hot set, and a scan thirty times as large as the cache, three pages for each use: by
 * LRU four of ten uses would hit. */
static void test_scan_leaves_the_hot_set(void)
{
	static char got[64 * PAGE];
	struct disk hot, cold;
	struct uvmm_file *h, *s;
	uint64_t state = 1, misses = 0, hits = 0;
	struct bed b;
	unsigned i;

	bed_make(&b, 1024, 0, 512);
	disk_make(&hot, 300 * PAGE);
	disk_make(&cold, 15360 * PAGE);
	hot.size = hot.room;
	cold.size = cold.room;
	h = disk_open(&b, &hot, O_RDONLY);
	s = disk_open(&b, &cold, O_RDONLY);
	for (i = 0; i < 3000; i++)
		uvmm_file_pread(h, got, 100, (int64_t)(bed_below(&state, 300) * PAGE));
	for (i = 0; i < 5120; i++) {
		uint64_t reads = hot.reads;

		CHECK(uvmm_file_read(s, got, 3 * PAGE) == 3 * PAGE);
		uvmm_file_pread(h, got, 100, (int64_t)(bed_below(&state, 300) * PAGE));
		misses += hot.reads != reads;
		hits += hot.reads == reads;
	}
	printf("hot set of 300 pages in 512, scan of 15360: %.1f %% hits\n",
	       100.0 * (double)hits / (double)(hits + misses));
	CHECK(misses < hits / 10);
	CHECK(!uvmm_file_close(h) && !uvmm_file_close(s) && !bed_end(&b));
	disk_end(&hot);
	disk_end(&cold);
}

int main(void)
{
	bed_make_folder();
	test_reads_ahead();
	test_scan_leaves_the_hot_set();
	test_model("few", 40, 300, 1);
	test_model("enough", 1024, 300, 2);
	test_model(NULL, 70, 3000, 3);
	test_model(NULL, 1024, 3000, 4);
	/* Not a page for the cache: all goes past it. */
	test_model(NULL, 1, 300, 5);
	bed_remove_folder();
	return 0;
}
