/* SPDX-License-Identifier: MIT
 *
 * Files in the file cache: how they are opened, what others do to them, what is left of
 * them; by many threads.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cache_bed.h"
#include "cache_file.h"

/* --- what files do --------------------------------------------------------------------- */

static void test_flags(void)
{
	struct uvmm_file *h, *other;
	char got[16];
	struct bed b;

	bed_make(&b, 256, 0, 0);
	CHECK(uvmm_file_open(b.cache, bed_path("none"), O_RDWR, 0, &h) == -ENOENT);
	CHECK(uvmm_file_open(b.cache, bed_folder, O_RDONLY, 0, &h) == -EISDIR);
	CHECK(uvmm_file_open(b.cache, "/dev/null", O_RDWR, 0, &h) == -EINVAL);
	CHECK(uvmm_file_open(b.cache, "/dev/null", O_PATH, 0, &h) == -EINVAL);
	h = bed_open(&b, "flags", O_WRONLY | O_CREAT | O_EXCL);
	CHECK(uvmm_file_open(b.cache, bed_path("flags"), O_RDWR | O_CREAT | O_EXCL, 0600,
			     &other) == -EEXIST);
	CHECK(uvmm_file_read(h, got, 1) == -EBADF && uvmm_file_pread(h, got, 1, -1) == -EBADF);
	CHECK(uvmm_file_write(h, "abc", 3) == 3 && uvmm_file_write(h, "def", 3) == 3);
	other = bed_open(&b, "flags", O_RDONLY);
	CHECK(uvmm_file_write(other, "x", 1) == -EBADF && uvmm_file_truncate(other, 0) == -EBADF);
	CHECK(uvmm_file_read(other, got, 4) == 4 && !memcmp(got, "abcd", 4));
	CHECK(uvmm_file_read(other, got, 9) == 2 && uvmm_file_read(other, got, 9) == 0);
	CHECK(uvmm_file_seek(other, -1, SEEK_END) == 5 && uvmm_file_seek(other, -3, SEEK_CUR) == 2);
	CHECK(uvmm_file_seek(other, -7, SEEK_END) == -EINVAL &&
	      uvmm_file_seek(other, 0, 77) == -EINVAL);
	CHECK(uvmm_file_read(other, got, 1) == 1 && got[0] == 'c');
	CHECK(uvmm_file_pread(other, got, 1, -1) == -EINVAL);
	CHECK(uvmm_file_pwrite(h, "x", 1, INT64_MAX) == -EFBIG);
	CHECK(!uvmm_file_close(h));
	h = bed_open(&b, "flags", O_WRONLY | O_APPEND);
	CHECK(uvmm_file_write(h, "gh", 2) == 2 && uvmm_file_pwrite(h, "i", 1, 0) == 1);
	CHECK(uvmm_file_pread(other, got, 16, 0) == 9 && !memcmp(got, "abcdefghi", 9));
	CHECK(!uvmm_file_close(h));
	h = bed_open(&b, "flags", O_RDWR | O_TRUNC);
	CHECK(uvmm_file_size(other) == 0 && uvmm_file_pread(other, got, 1, 0) == 0);
	CHECK(!uvmm_file_close(h) && !uvmm_file_close(other));
	h = bed_open(&b, "flags", O_RDWR | O_DSYNC);
	CHECK(uvmm_file_write(h, "sync", 4) == 4 && bed_on_disk("flags", got, 16) == 4);
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
}

static void test_vectors(void)
{
	struct iovec v[3] = { { (void *)"one", 3 }, { NULL, 0 }, { (void *)"two", 3 } };
	char a[2], c[8];
	struct iovec w[2] = { { a, 2 }, { c, 8 } };
	struct bed b;
	struct uvmm_file *h;

	bed_make(&b, 256, 0, 0);
	h = bed_open(&b, "vectors", O_RDWR | O_CREAT);
	CHECK(uvmm_file_pwritev(h, v, 3, 5) == 6 && uvmm_file_size(h) == 11);
	CHECK(uvmm_file_preadv(h, w, 2, 5) == 6 && !memcmp(a, "on", 2) && !memcmp(c, "etwo", 4));
	CHECK(uvmm_file_preadv(h, w, -1, 0) == -EINVAL);
	CHECK(!uvmm_file_close(h) && !bed_end(&b));
}

/* Others change a file while nobody has it open; and while somebody has. */
static void test_changed_by_others(void)
{
	static char text[8 * PAGE], got[8 * PAGE];
	struct uvmm_file *h;
	struct bed b;

	bed_make(&b, 256, 0, 0);
	memset(text, 'a', sizeof(text));
	bed_put_on_disk("others", text, sizeof(text));
	h = bed_open(&b, "others", O_RDONLY);
	CHECK(uvmm_file_read(h, got, sizeof(got)) == sizeof(got));
	CHECK(!uvmm_file_close(h));
	h = bed_open(&b, "others", O_RDONLY);
	CHECK(uvmm_file_read(h, got, sizeof(got)) == sizeof(got) && !memcmp(got, text, sizeof(got)));
	CHECK(bed_stats(&b).read_pages == 8 && bed_stats(&b).hits >= 8);
	/* Truncated under it: what is not cached any more is not there. */
	uvmm_cache_shrink(b.cache, 100);
	CHECK(!truncate(bed_path("others"), 3 * PAGE + 7));
	CHECK(uvmm_file_pread(h, got, sizeof(got), 2 * PAGE) <= 6 * PAGE);
	CHECK(uvmm_file_pread(h, got, sizeof(got), 0) == 3 * PAGE + 7);
	CHECK(uvmm_file_size(h) == 3 * PAGE + 7);
	CHECK(!uvmm_file_close(h));
	memset(text, 'b', sizeof(text));
	bed_put_on_disk("others", text, 5 * PAGE);
	h = bed_open(&b, "others", O_RDONLY);
	CHECK(uvmm_file_read(h, got, sizeof(got)) == 5 * PAGE && !memcmp(got, text, 5 * PAGE));
	/* Deleted: gone from the cache, too, once it is closed. */
	CHECK(!unlink(bed_path("others")) && !uvmm_file_close(h));
	cache_file_sweep(b.cache);
	CHECK(!bed_stats(&b).pages && !bed_stats(&b).files);
	CHECK(!bed_end(&b));
}

static void test_deleted_is_not_written(void)
{
	static char text[64 * PAGE];
	struct uvmm_file *h;
	struct bed b;

	bed_make(&b, 512, 0, 0);
	h = bed_open(&b, "deleted", O_RDWR | O_CREAT);
	CHECK(uvmm_file_write(h, text, sizeof(text)) == sizeof(text));
	CHECK(!uvmm_file_close(h) && !unlink(bed_path("deleted")));
	cache_file_sweep(b.cache);
	CHECK(!bed_stats(&b).pages && !bed_stats(&b).dirty_pages && !bed_stats(&b).written_pages);
	CHECK(!bed_end(&b));
}

/* --- files opened and closed by many threads ------------------------------------------- */

#define NAMES 5u
#define OWNERS 3u
#define PARTS 40u
#define PART 1500u

struct opener {
	struct bed *bed;
	unsigned number;
	uint64_t state;
	unsigned char version[NAMES][PARTS];
	pthread_t thread;
};

/* A file's parts belong to the openers in turn. */
static void use_file(struct opener *o, struct uvmm_file *h, unsigned name)
{
	char got[PART], want[PART];
	unsigned uses = 1 + (unsigned)bed_below(&o->state, 6);

	while (uses--) {
		unsigned part = (unsigned)bed_below(&o->state, PARTS);
		int64_t at = (int64_t)(part * OWNERS + o->number) * PART;

		if (bed_below(&o->state, 2)) {
			o->version[name][part]++;
			memset(want, o->version[name][part], PART);
			CHECK(uvmm_file_pwrite(h, want, PART, at) == PART);
		} else if (o->version[name][part]) {
			memset(want, o->version[name][part], PART);
			CHECK(uvmm_file_pread(h, got, PART, at) == PART);
			CHECK(!memcmp(got, want, PART));
		}
	}
}

static void *opener_main(void *arg)
{
	struct opener *o = arg;
	struct uvmm_file *h;
	char name[16];
	int step;

	for (step = 0; step < 400; step++) {
		unsigned n = (unsigned)bed_below(&o->state, NAMES);

		snprintf(name, sizeof(name), "opened-%u", n);
		h = bed_open(o->bed, name, O_RDWR | O_CREAT);
		use_file(o, h, n);
		if (!bed_below(&o->state, 20))
			CHECK(!uvmm_file_flush(h));
		if (!bed_below(&o->state, 10))
			uvmm_cache_shrink(o->bed->cache, bed_below(&o->state, 100));
		if (!bed_below(&o->state, 10))
			cache_file_sweep(o->bed->cache);
		CHECK(!uvmm_file_close(h));
		/* One that no other thread has, and is gone at once. */
		snprintf(name, sizeof(name), "mine-%u", o->number);
		h = bed_open(o->bed, name, O_RDWR | O_CREAT);
		CHECK(uvmm_file_size(h) == 0 && uvmm_file_write(h, name, 6) == 6);
		CHECK(!unlink(bed_path(name)) && !uvmm_file_close(h));
	}
	return NULL;
}

static void test_openers(void)
{
	static struct opener o[OWNERS];
	struct bed b;
	unsigned i;

	bed_make(&b, 120, 0, 0);
	for (i = 0; i < OWNERS; i++) {
		o[i] = (struct opener){ .bed = &b, .number = i, .state = i + 1 };
		CHECK(!pthread_create(&o[i].thread, NULL, opener_main, &o[i]));
	}
	for (i = 0; i < OWNERS; i++)
		pthread_join(o[i].thread, NULL);
	/* What was closed is all there. */
	for (i = 0; i < OWNERS * NAMES * PARTS; i++) {
		unsigned owner = i % OWNERS, name = i / OWNERS % NAMES, part = i / OWNERS / NAMES;
		char text[16], got;
		struct uvmm_file *h;

		if (!o[owner].version[name][part])
			continue;
		snprintf(text, sizeof(text), "opened-%u", name);
		h = bed_open(&b, text, O_RDONLY);
		CHECK(uvmm_file_pread(h, &got, 1, (int64_t)(part * OWNERS + owner) * PART) == 1);
		CHECK((unsigned char)got == o[owner].version[name][part]);
		CHECK(!uvmm_file_close(h));
	}
	CHECK(!bed_end(&b));
}

int main(void)
{
	bed_make_folder();
	test_flags();
	test_vectors();
	test_changed_by_others();
	test_deleted_is_not_written();
	test_openers();
	bed_remove_folder();
	return 0;
}
