/* SPDX-License-Identifier: MIT
 *
 * What REMAP changes, what it refuses, and what discards leave: one thing at a time.
 * test_remap_race.c has many at once.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "remap_bed.h"

/* The line of /proc/self/smaps or maps of that address, and how many lie within memory. */
static int mappings(const void *at, char *flags)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long from, to, want = (unsigned long)at, first = (unsigned long)bed.base;
	bool here = false;
	char line[512];
	int sum = 0;

	CHECK(f);
	flags[0] = '\0';
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			here = want >= from && want < to;
			sum += from >= first && from < first + PAGES * PAGE;
		}
		if (here && sscanf(line, "VmFlags: %127[^\n]", flags) == 1)
			here = false;
	}
	fclose(f);
	return sum;
}

/* --- one thing at a time ---------------------------------------------------- */

static void test_away_and_home(void)
{
	char flags[128];
	uint64_t i;

	bed_start();
	bed_fill(9, 1);
	CHECK(bed_remap(10, 5, 4) && !strcmp(bed.asked, ""));
	for (i = 0; i < 4; i++)
		CHECK(bed_holds(10 + i, bed_frame(5 + i)));
	/* A split is seen by nobody else, and stays when its neighbours come home. */
	bed_fill(12, 77);
	bed_fill(9, 2);
	CHECK(bed_in_file(bed.frames, 7) == bed_frame(7) && !bed_in_file(bed.memory, 12));
	CHECK(bed_in_file(bed.memory, 9) == 2);
	CHECK(bed_remap(10, HOME, 2) && bed_remap(13, HOME, 1));
	CHECK(bed_holds(10, 0) && bed_holds(11, 0) && bed_holds(12, 77) && bed_holds(13, 0) &&
	      bed_holds(9, 2));
	CHECK(bed_remap(10, 900, 1) && bed_holds(10, bed_frame(900)) && bed_holds(12, 77));
	/* From frame to frame, and home, with what the daemon has put there. */
	CHECK(bed_remap(12, 3, 1) && bed_holds(12, bed_frame(3)));
	CHECK(bed_remap(8, HOME, 6) && bed_holds(12, 0) && bed_holds(9, 2));
	bed_fill(12, 5);
	CHECK(bed_in_file(bed.memory, 12) == 5);
	/* The last page; and with all at home it is two mappings, as at first. */
	CHECK(bed_remap(PAGES - 1, FRAMES - 1, 1) && bed_remap(SMALL - 1, 0, 2));
	CHECK(bed_holds(PAGES - 1, bed_frame(FRAMES - 1)) && bed_holds(SMALL, bed_frame(1)));
	CHECK(bed_remap(PAGES - 1, HOME, 1) && bed_remap(SMALL - 1, HOME, 1) &&
	      bed_remap(SMALL, HOME, 1));
	CHECK(mappings(bed.base, flags) == 2 && strstr(flags, " dc") && strstr(flags, " nh"));
	mappings(bed_page(SMALL), flags);
	CHECK(strstr(flags, " dc") && !strstr(flags, " nh"));
	mappings(bed.remap.spare, flags);
	CHECK(strstr(flags, " dc") && !strstr(flags, "rd "));
	CHECK(bed_remap(20, 0, 1));
	mappings(bed_page(20), flags);
	CHECK(strstr(flags, " dc") && !strstr(flags, " sh"));
	bed_stop();
}

static int descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	int sum = 0;

	CHECK(d);
	while (readdir(d))
		sum++;
	closedir(d);
	return sum;
}

static void test_refusals_change_nothing(void)
{
	int open_before, former = bed.frames, pair[2];
	unsigned kept, other;

	bed_start();
	open_before = descriptors();
	bed_fill(20, 1);
	CHECK(!bed_remap(PAGES, 0, 1) && !bed_remap(PAGES - 1, 0, 2) &&
	      !bed_remap(PAGES - 1, HOME, 2));
	CHECK(!bed_remap(1ull << 60, HOME, 1) && !bed_remap(0, HOME, UINT64_MAX));
	CHECK(!bed_remap(20, FRAMES, 1) && !bed_remap(20, FRAMES - 1, 2) &&
	      !bed_remap(20, 1ull << 50, 1));
	kept = remap_keep(&bed.remap, 18, 3);
	other = remap_keep(&bed.remap, 30, 1);
	CHECK(!bed_remap(20, 0, 1) && !bed_remap(15, 0, 4) && !bed_remap(0, 0, 100) &&
	      !bed_remap(30, HOME, 1));
	remap_release(&bed.remap, kept);
	CHECK(!bed_remap(20, 0, 11));
	remap_release(&bed.remap, other);
	bed.rights[22] = PROT_READ;
	CHECK(!bed_remap(20, 0, 5) && !bed_remap(22, HOME, 1));
	bed.rights[22] = -ENOMEM;
	CHECK(!bed_remap(22, 0, 1) && !bed_remap(22, HOME, 1));
	CHECK(!pipe(pair));
	former = bed.frames;
	bed.frames = pair[0];
	CHECK(!bed_remap(20, 0, 1));
	bed.frames = former;
	close(pair[0]);
	close(pair[1]);
	CHECK(bed_holds(20, 1) && bed_in_file(bed.memory, 20) == 1);
	CHECK(bed_remap(20, 0, 2) && bed_holds(20, bed_frame(0)));
	CHECK(descriptors() == open_before);
	bed_stop();
}

/* Something of the program's is at the place by which guest memory would be copied. */
static void test_the_first_page_is_lost(void)
{
	uint64_t theirs = PAGE;

	bed_start();
	CHECK(mmap(bed.base, theirs, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == bed.base);
	bed.rights[0] = -ENOMEM;
	CHECK(!bed_remap(0, HOME, 1) && !bed_remap(0, 0, 1) && bed_remap(1, 6, 1) &&
	      bed_remap(SMALL, 7, 2));
	bed_fill(2, 2);
	CHECK(bed_remap(1, HOME, 1) && bed_remap(SMALL, HOME, 1));
	bed_fill(1, 11);
	bed_fill(SMALL, 12);
	CHECK(bed_in_file(bed.memory, 1) == 11 && bed_in_file(bed.memory, SMALL) == 12);
	/* Lost while away: it is not brought home over what is there. */
	CHECK(mmap(bed_page(SMALL + 1), theirs, USUAL, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == bed_page(SMALL + 1));
	bed_fill(SMALL + 1, 13);
	bed.rights[SMALL + 1] = -ENOMEM;
	remap_forget(&bed.remap, SMALL + 1, 1);
	CHECK(!bed_discard(SMALL, 4) && !strcmp(bed.asked, "d") && bed_holds(SMALL + 1, 13));
	bed_stop();
}

/* By the call itself: the sanitizers make mlock() do nothing. */
static long lock_pages(const void *at, uint64_t pages)
{
	return syscall(SYS_mlock, at, pages * PAGE);
}

static void test_locked_memory_is_not_filled(void)
{
	unsigned char in[PAGES];

	bed_start();
	CHECK(!lock_pages(bed.base, 8));
	CHECK(bed_remap(100, 0, 1));
	CHECK(!mincore(bed.base, PAGES * PAGE, in));
	CHECK(in[1] && !in[50] && !in[PAGES - 1]);
	/* Nor when all is locked later, and comes home from that. */
	CHECK(lock_pages(bed.remap.spare, PAGES) && errno == ENOMEM);
	CHECK(bed_remap(200, 0, 2) && bed_remap(200, HOME, 2));
	CHECK(!mincore(bed.base, PAGES * PAGE, in));
	CHECK(!in[50] && !in[200] && !in[201]);
	bed_stop();
}

static void test_discard(void)
{
	char flags[128];

	bed_start();
	bed_fill(5, 1);
	CHECK(!bed_discard(4, 4) && !strcmp(bed.asked, "d") && bed_holds(5, 0));
	CHECK(bed_remap(10, 0, 4) && bed_remap(16, 8, 1));
	bed_fill(11, 9);
	bed_fill(14, 9);
	CHECK(!bed_discard(20, 4) && !strcmp(bed.asked, "d"));
	/* A part of a run, with what was split. */
	CHECK(!bed_discard(11, 5) && !strcmp(bed.asked, "dh"));
	CHECK(bed_holds(10, bed_frame(0)) && bed_holds(11, 0) && bed_holds(13, 0) &&
	      bed_holds(14, 0));
	CHECK(bed_holds(16, bed_frame(8)));
	bed_fill(11, 3);
	CHECK(bed_in_file(bed.memory, 11) == 3);
	CHECK(!bed_discard(11, 2) && !strcmp(bed.asked, "d"));
	/* Refused: as before. Some was done: home. */
	bed.refuse = -EBUSY;
	CHECK(bed_discard(10, 1) == -EBUSY && !strcmp(bed.asked, "d") &&
	      bed_holds(10, bed_frame(0)));
	bed.refuse = -EIO;
	CHECK(bed_discard(10, 1) == -EIO && !strcmp(bed.asked, "dh") && bed_holds(10, 0));
	/* Not said at all; said, but the answer is lost. */
	bed.refuse = -ECONNRESET;
	bed.deaf = true;
	CHECK(bed_discard(16, 1) == -ECONNRESET && !strcmp(bed.asked, "d") &&
	      bed_holds(16, bed_frame(8)));
	bed.deaf = false;
	CHECK(bed_discard(16, 1) == -ECONNRESET && !strcmp(bed.asked, "ddh") && bed_holds(16, 0));
	/* What the program has made of the rights since stays. */
	bed.refuse = 0;
	CHECK(bed_remap(40, 0, 3) && !mprotect(bed_page(41), PAGE, PROT_READ));
	bed.rights[41] = PROT_READ;
	CHECK(!bed_discard(40, 3) && !strcmp(bed.asked, "dh") && bed_holds(41, 0) &&
	      bed_holds(42, 0));
	mappings(bed_page(41), flags);
	CHECK(strstr(flags, "rd") && !strstr(flags, "wr"));
	mappings(bed_page(42), flags);
	CHECK(strstr(flags, "wr"));
	bed_stop();
}

static void *one_more(void *arg)
{
	atomic_int *got = arg;

	*got = (int)remap_keep(&bed.remap, 1, 1);
	return NULL;
}

static void test_keeping_waits_for_a_slot(void)
{
	unsigned slot[REMAP_KEPT_MAX], i;
	atomic_int got = -1;
	pthread_t thread;

	bed_start();
	for (i = 0; i < REMAP_KEPT_MAX; i++)
		slot[i] = remap_keep(&bed.remap, 1, 1);
	CHECK(!pthread_create(&thread, NULL, one_more, &got));
	usleep(20000);
	CHECK(got < 0 && !bed_remap(1, 0, 1) && bed_remap(2, 0, 1));
	remap_release(&bed.remap, slot[7]);
	pthread_join(thread, NULL);
	CHECK(got == (int)slot[7]);
	for (i = 0; i < REMAP_KEPT_MAX; i++)
		remap_release(&bed.remap, slot[i]);
	CHECK(bed_remap(1, 0, 1));
	bed_stop();
}

/* How many of [page, page + n) are mapped. */
static int count_mapped(uint64_t page, uint64_t n)
{
	int fd = open("/proc/self/pagemap", O_RDONLY), sum = 0;
	uint64_t word;

	CHECK(fd >= 0);
	for (; n; n--, page++) {
		CHECK(pread(fd, &word, sizeof(word),
			    (off_t)((uintptr_t)bed_page(page) / PAGE * sizeof(word))) == sizeof(word));
		sum += word >> 63 ? 1 : 0;
	}
	close(fd);
	return sum;
}

/* One run; false if it is refused. */
static bool zap(uint64_t page, uint64_t n)
{
	struct uvmm_zap m = { .until_ns = UINT64_MAX, .runs = 1, .run = { { page, n } } };
	struct uvmm_zapped done;

	remap_zap(&bed.remap, &m, &done);
	CHECK(done.agent_ns);
	return done.done[0] & 1;
}

/* What is home is unmapped, and holds what it did; all else stays as it is. */
static void test_zap(void)
{
	struct uvmm_zap late = { .until_ns = 1, .runs = 1, .run = { { 600, 1 } } };
	struct uvmm_zapped done;
	unsigned slot;
	uint64_t i;

	bed_start();
	for (i = 0; i < 20; i++)
		bed_fill(600 + i, 7 + i);
	CHECK(zap(602, 10) && !count_mapped(602, 10) && count_mapped(600, 2) == 2);
	for (i = 0; i < 20; i++)
		CHECK(bed_holds(600 + i, 7 + i));
	CHECK(bed_remap(610, 3, 2));
	bed_fill(611, 99);
	CHECK(!zap(600, 20) && !zap(611, 1) && count_mapped(600, 10) == 10);
	CHECK(zap(600, 10) && zap(612, 8));
	CHECK(bed_holds(610, bed_frame(3)) && bed_holds(611, 99) && bed_holds(612, 19));
	slot = remap_keep(&bed.remap, 605, 1);
	CHECK(!zap(600, 10) && zap(600, 5));
	remap_release(&bed.remap, slot);
	bed.rights[607] = -1;
	CHECK(!zap(600, 10) && zap(600, 7));
	bed.rights[607] = PROT_READ;
	CHECK(zap(600, 10));
	bed.rights[607] = USUAL;
	CHECK(!zap(PAGES - 1, 2) && !zap(PAGES, 1) && !zap(1, UINT64_MAX) && zap(PAGES - 1, 1));
	bed_fill(600, 1);
	remap_zap(&bed.remap, &late, &done);
	CHECK(!done.done[0] && count_mapped(600, 1) == 1);
	bed_stop();
}

static void test_what_is_sound(void)
{
	struct uvmm_remap m = { .runs = 2, .run = { { 0, 5, 2 }, { 2, HOME, 1 } } };
	const struct uvmm_remap good = m;
	size_t bytes = sizeof(m.runs) + 2 * sizeof(m.run[0]);

	CHECK(remap_is_sound(&m, bytes, true) && !remap_is_sound(&m, bytes, false));
	CHECK(!remap_is_sound(&m, bytes - 1, true) && !remap_is_sound(&m, bytes + 1, true));
	CHECK(!remap_is_sound(&m, 0, false) && !remap_is_sound(&m, sizeof(m), true));
	m.run[0].frame = HOME;
	CHECK(remap_is_sound(&m, bytes, false) && !remap_is_sound(&m, bytes, true));
	m = good, m.runs = 0;
	CHECK(!remap_is_sound(&m, sizeof(m.runs), false));
	m.runs = UVMM_REMAP_RUNS + 1;
	CHECK(!remap_is_sound(&m, sizeof(m), true));
	m.runs = UINT64_MAX / sizeof(m.run[0]) + 2;
	CHECK(!remap_is_sound(&m, bytes, true));
	m = good, m.run[1].ppn = 1;
	CHECK(!remap_is_sound(&m, bytes, true));
	m = good, m.run[1].pages = 0;
	CHECK(!remap_is_sound(&m, bytes, true));
	m = good, m.run[1].pages = UINT64_MAX;
	CHECK(!remap_is_sound(&m, bytes, true));
	m = good, m.run[0].frame = UINT64_MAX - 1;
	CHECK(!remap_is_sound(&m, bytes, true));
	m = good, m.run[0].frame = 1ull << 52;
	CHECK(!remap_is_sound(&m, bytes, true));
}

int main(void)
{
	test_what_is_sound();
	test_away_and_home();
	test_refusals_change_nothing();
	test_the_first_page_is_lost();
	test_locked_memory_is_not_filled();
	test_discard();
	test_zap();
	test_keeping_waits_for_a_slot();
	printf("remap: ok\n");
	return 0;
}
