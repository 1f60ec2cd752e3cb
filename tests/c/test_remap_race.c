/* SPDX-License-Identifier: MIT
 *
 * Remaps, writes and discards in any order, against a trivial model; by threads at the
 * same time; with forks in between; and where the kernel has no more mappings to
 * give. Prints what a run costs.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "remap_bed.h"

#define TURNS 6000u
#define FORKS 12u
#define RUN_MAX 24u
#define RACE_MS 700
#define LINGER_US 200
#define RACERS 3u
#define RACE_PAGES 48u          /* each racer's own, in runs of RACE_RUN */
#define RACE_RUN 4u

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* As the daemon does before it has a run brought home. */
static void copy_to_file(uint64_t page, uint64_t pages)
{
	CHECK(pwrite(bed.memory, bed_page(page), pages * PAGE, (off_t)(page * PAGE)) ==
	      (ssize_t)(pages * PAGE));
}

/* --- a model ---------------------------------------------------------------- */

static uint64_t model[PAGES];
static bool model_away[PAGES];

static void set_model(uint64_t page, uint64_t pages, uint64_t first, uint64_t step, bool away)
{
	uint64_t i;

	for (i = 0; i < pages; i++) {
		model[page + i] = first + i * step;
		model_away[page + i] = away;
	}
}

static void one_turn(uint64_t turn)
{
	uint64_t rnd = mix(turn), page = rnd % PAGES, frame = (rnd >> 32) % FRAMES, i;
	uint64_t n = 1 + (rnd >> 16) % RUN_MAX;

	n = n < PAGES - page ? n : PAGES - page;
	switch ((rnd >> 48) % 5) {
	case 0:
		bed_fill(page, turn);
		model[page] = turn;
		break;
	case 1:
	case 2:
		if (frame + n > FRAMES) {
			CHECK(!bed_remap(page, frame, n));
			break;
		}
		CHECK(bed_remap(page, frame, n));
		set_model(page, n, bed_frame(frame), 1, true);
		break;
	case 3:
		copy_to_file(page, n);
		CHECK(bed_remap(page, HOME, n));
		for (i = 0; i < n; i++)
			model_away[page + i] = false;
		break;
	default:
		CHECK(!bed_discard(page, n));
		for (i = 0; i < n && !model_away[page + i]; i++)
			;
		CHECK(!strcmp(bed.asked, i < n ? "dh" : "d"));
		set_model(page, n, 0, 0, false);
	}
}

static void compare(void)
{
	uint64_t i;

	for (i = 0; i < PAGES; i++) {
		CHECK(bed_holds(i, model[i]));
		CHECK(model_away[i] || bed_in_file(bed.memory, i) == model[i]);
	}
	for (i = 0; i < FRAMES; i++)
		CHECK(bed_in_file(bed.frames, i) == bed_frame(i));
}

static bool maps_any(const char *file)
{
	FILE *f = fopen("/proc/self/maps", "re");
	bool found = false;
	char line[512];

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		found |= strstr(line, file) != NULL;
	fclose(f);
	return found;
}

/* It has nothing of what the parent has, and can have the same of its own: elsewhere
 * here, since a sanitizer may have used the free place for itself. */
static void child(void)
{
	uint64_t i;

	CHECK(!maps_any("memfd:memory") && !maps_any("memfd:frames"));
	bed.base = bed.remap.base = bed_room();
	bed_map();
	remap_forked(&bed.remap);
	for (i = 0; i < PAGES; i++)
		CHECK(bed_in_file(bed.memory, i) == bed_page(i)[0]);
	CHECK(bed_remap(SMALL - 2, 1, 5) && bed_remap(SMALL, HOME, 1));
	CHECK(bed_holds(SMALL + 1, bed_frame(4)) && !bed_discard(0, PAGES));
	CHECK(!strcmp(bed.asked, "dh") && bed_holds(SMALL + 1, 0));
	_exit(0);
}

static void fork_now(void)
{
	/* The child's is a copy of the file: it writes to it. */
	int memory = memfd_create("copy", MFD_CLOEXEC), parents = bed.memory, status;
	uint64_t words[WORDS], i;
	pid_t pid;

	CHECK(memory >= 0 && !ftruncate(memory, PAGES * PAGE));
	for (i = 0; i < PAGES; i++) {
		CHECK(pread(parents, words, PAGE, (off_t)(i * PAGE)) == PAGE);
		CHECK(pwrite(memory, words, PAGE, (off_t)(i * PAGE)) == PAGE);
	}
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		bed.memory = memory;
		child();
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && !WEXITSTATUS(status));
	close(memory);
}

static void test_model(void)
{
	uint64_t turn;

	bed_start();
	memset(model, 0, sizeof(model));
	memset(model_away, 0, sizeof(model_away));
	CHECK(maps_any("memfd:memory") && !maps_any("memfd:frames"));
	for (turn = 1; turn <= TURNS; turn++) {
		one_turn(turn);
		if (turn % (TURNS / FORKS))
			continue;
		compare();
		fork_now();
	}
	compare();
	bed_stop();
}

/* --- threads ---------------------------------------------------------------- */

struct race {
	pthread_mutex_t write;          /* held: nobody writes, as if write-protected */
	_Atomic bool stop;
	_Atomic uint64_t away, home, refused, discards;
};

struct racer {
	struct race *race;
	uint64_t first;
};

/* Such that it may be shared, mostly. */
static uint64_t some_value(uint64_t page, uint64_t rnd)
{
	return rnd % 4 ? bed_frame(page) : rnd | 1;
}

/* What it wrote it reads until it discards, and zeros after that. */
static void *racer_main(void *arg)
{
	struct racer *me = arg;
	struct race *race = me->race;
	uint64_t turn, page, i, value[RACE_RUN];
	char why[UVMM_TEXT_BYTES];

	for (turn = 0; !race->stop; turn++) {
		uint64_t rnd = mix(turn ^ me->first << 32);

		page = me->first + rnd % (RACE_PAGES / RACE_RUN) * RACE_RUN;
		for (i = 0; i < RACE_RUN; i++) {
			value[i] = some_value(page + i, rnd >> (8 * i));
			pthread_mutex_lock(&race->write);
			bed_fill(page + i, value[i]);
			pthread_mutex_unlock(&race->write);
		}
		if (rnd >> 61 == 0)
			usleep(LINGER_US);
		for (i = 0; i < RACE_RUN * 8; i++)
			CHECK(bed_holds(page + i % RACE_RUN, value[i % RACE_RUN]));
		CHECK(!remap_discard(&bed.remap, page, RACE_RUN, why));
		for (i = 0; i < RACE_RUN; i++)
			CHECK(bed_holds(page + i, 0));
		race->discards++;
	}
	return NULL;
}

/* One attempt, as the daemon would make it. */
static void share_or_not(struct race *race, uint64_t rnd)
{
	uint64_t page = rnd % (RACERS * RACE_PAGES), n = 1 + (rnd >> 32) % (2 * RACE_RUN), i;
	bool same = true, framed = true, settled = true, done;

	n = n < RACERS * RACE_PAGES - page ? n : RACERS * RACE_PAGES - page;
	pthread_mutex_lock(&bed.lock);
	pthread_mutex_lock(&race->write);
	for (i = 0; i < n; i++) {
		same &= bed_holds(page + i, bed_frame(page + i));
		framed &= bed.framed[page + i];
		/* What is mapped there is not what the daemon's file has. */
		settled &= !bed.awaited[page + i];
	}
	if (settled && framed && rnd >> 63) {
		copy_to_file(page, n);
		done = bed_remap(page, HOME, n);
		race->home += done;
		race->refused += !done;
	} else if (settled && same) {
		done = bed_remap(page, page, n);
		race->away += done;
		race->refused += !done;
	}
	pthread_mutex_unlock(&race->write);
	pthread_mutex_unlock(&bed.lock);
}

static void test_race(void)
{
	static struct race race = { .write = PTHREAD_MUTEX_INITIALIZER };
	struct racer racer[RACERS];
	pthread_t thread[RACERS];
	struct timespec now, end;
	uint64_t i;

	bed_start();
	for (i = 0; i < RACERS; i++) {
		racer[i] = (struct racer){ &race, i * RACE_PAGES };
		CHECK(!pthread_create(&thread[i], NULL, racer_main, &racer[i]));
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += (end.tv_nsec + RACE_MS * 1000000l) / 1000000000;
	end.tv_nsec = (end.tv_nsec + RACE_MS * 1000000l) % 1000000000;
	for (i = 0, now.tv_sec = 0; now.tv_sec < end.tv_sec ||
	     (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec); i++) {
		share_or_not(&race, mix(i));
		clock_gettime(CLOCK_MONOTONIC, &now);
	}
	race.stop = true;
	for (i = 0; i < RACERS; i++)
		pthread_join(thread[i], NULL);
	fprintf(stderr, "  race: %llu runs away, %llu home, %llu refused, %llu discards\n",
		(unsigned long long)race.away, (unsigned long long)race.home,
		(unsigned long long)race.refused, (unsigned long long)race.discards);
	CHECK(race.away && race.home && race.discards);
	bed_stop();
}

/* --- no more mappings ------------------------------------------------------- */

/* Takes them all, by the call itself: a sanitizer's would want some as well. */
static uint64_t take_mappings(char *room, uint64_t pages)
{
	uint64_t i;

	for (i = 1; i < pages; i += 2)
		if (syscall(SYS_mprotect, room + i * PAGE, PAGE, PROT_READ))
			break;
	return i;
}

static void test_no_mappings_left(void)
{
	uint64_t pages = 1 << 18, taken;
	char *room;

	bed_start();
	CHECK(bed_remap(100, 0, 64));
	bed_fill(120, 5);
	room = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(room != MAP_FAILED);
	taken = take_mappings(room, pages);
	CHECK(!bed_remap(200, 0, 1) && !bed_remap(110, HOME, 1));
	CHECK(bed_holds(110, bed_frame(10)) && bed_holds(120, 5) && bed_holds(200, 0));
	/* For this there are. */
	CHECK(!bed_discard(110, 40) && !strcmp(bed.asked, "dh"));
	CHECK(bed_holds(109, bed_frame(9)) && bed_holds(110, 0) && bed_holds(120, 0) &&
	      bed_holds(149, 0) && bed_holds(150, bed_frame(50)));
	bed_fill(110, 3);
	CHECK(bed_in_file(bed.memory, 110) == 3);
	CHECK(!munmap(room, pages * PAGE));
	if (taken < pages)
		CHECK(bed_remap(200, 0, 1) && bed_holds(200, bed_frame(0)));
	bed_stop();
}

/* --- what it costs ---------------------------------------------------------- */

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Runs of n pages, with as many between them at home, as many as go into a message. */
static double measure(uint64_t n, bool home)
{
	struct uvmm_remap m = { .runs = 0 };
	struct uvmm_remapped done;
	double begin, us;

	while (m.runs < UVMM_REMAP_RUNS && 2 * (m.runs + 1) * n <= PAGES) {
		m.run[m.runs] = (struct uvmm_remap_run){ 2 * m.runs * n, home ? HOME : 0, n };
		m.runs++;
	}
	begin = now_us();
	remap_serve(&bed.remap, &m, home ? -1 : fcntl(bed.frames, F_DUPFD_CLOEXEC, 0), &done);
	us = (now_us() - begin) / (double)m.runs;
	CHECK(done.done[0] & 1);
	return us;
}

static void print_costs(void)
{
	static const uint64_t lengths[] = { 1, 16, 512 };
	uint64_t page;
	size_t i;

	bed_start();
	CHECK(bed_remap(0, HOME, 1));
	for (i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		double away, home;

		for (page = 0; page < PAGES; page++)
			bed_fill(page, 1);
		away = measure(lengths[i], false);
		for (page = 0; page < PAGES; page++)
			CHECK(bed_page(page)[0]);
		home = measure(lengths[i], true);
		fprintf(stderr, "  a run of %llu pages: away %.1f us, home %.1f us\n",
			(unsigned long long)lengths[i], away, home);
	}
	bed_stop();
}

int main(void)
{
	test_model();
	test_race();
	test_no_mappings_left();
	print_costs();
	printf("remap_race: ok\n");
	return 0;
}
