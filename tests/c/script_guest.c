/* SPDX-License-Identifier: MIT */
#include "script_guest.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "script_parts.h"
#include "uvmm/guest.h"

#define WORDS (PAGE / sizeof(uint64_t))
#define LOCKS 64u
#define EMPTY UINT64_MAX        /* the version of what was discarded */

uvmm_guest *script_guest;
char *script_base;
static sigjmp_buf on_bus;

uint64_t script_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

void script_pattern(uint64_t *words, uint64_t page, uint64_t seed)
{
	size_t i;

	for (i = 0; i < WORDS; i++)
		words[i] = i < WORDS / 2 ? script_mix(seed ^ page << 20 ^ i) : page + seed;
}

uint64_t *script_page(uint64_t page)
{
	return (uint64_t *)(void *)(script_base + page * PAGE);
}

const char *script_fill_alike(uint64_t first, uint64_t pages, uint64_t seed)
{
	uint64_t p;

	for (p = first; p < first + pages; p++)
		script_pattern(script_page(p), 0, seed);
	return NULL;
}

const char *script_fill(uint64_t first, uint64_t pages, uint64_t seed)
{
	uint64_t p;

	for (p = first; p < first + pages; p++)
		script_pattern(script_page(p), p, seed);
	return NULL;
}

static const char *differs(uint64_t page, size_t word, uint64_t want, uint64_t got)
{
	static char text[SCRIPT_LINE];

	snprintf(text, sizeof(text), "WRONG page %llu word %zu: expected %016llx, got %016llx",
		 (unsigned long long)page, word, (unsigned long long)want,
		 (unsigned long long)got);
	return text;
}

const char *script_check(uint64_t first, uint64_t pages, uint64_t seed, enum expected what)
{
	uint64_t want[WORDS] = { 0 }, p;
	size_t i;

	for (p = first; p < first + pages; p++) {
		if (what != ZERO)
			script_pattern(want, what == OWN ? p : 0, seed);
		for (i = 0; i < WORDS; i++) {
			uint64_t got = script_page(p)[i];

			if (got != want[i])
				return differs(p, i, want[i], got);
		}
	}
	return NULL;
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static const char *touch(uint64_t first, uint64_t pages, uint64_t step, uint64_t ms)
{
	uint64_t until = now_ms() + ms, p;

	do
		for (p = first; p < first + pages; p += step)
			(void)*(volatile uint64_t *)script_page(p);
	while (now_ms() < until);
	return NULL;
}

/* --- racing threads --------------------------------------------------------- */

struct race {
	pthread_mutex_t lock[LOCKS];
	uint64_t pages;
	uint64_t kinds;         /* 0: each page has contents of its own */
	uint64_t *version;      /* [pages], under the page's lock; 0: not known */
	_Atomic bool stop;
	_Atomic uint64_t rounds;
	char wrong[SCRIPT_LINE];
	_Atomic bool failed;
};

struct racer {
	struct race *race;
	uint64_t seed;
};

static void contents(const struct race *r, uint64_t page, uint64_t v, uint64_t *words)
{
	if (v == EMPTY)
		memset(words, 0, PAGE);
	else
		script_pattern(words, r->kinds ? 0 : page, v);
}

static uint64_t next_version(const struct race *r, uint64_t page, uint64_t rnd)
{
	if (!r->kinds)
		return rnd | 1;
	if (rnd >> 60 || uvmm_discard(script_guest, script_page(page), PAGE))
		return 1 + rnd % r->kinds;
	return EMPTY;
}

static void one_round(struct race *r, uint64_t page, uint64_t rnd)
{
	uint64_t want[WORDS], v = r->version[page];
	size_t i;

	if (v) {
		contents(r, page, v, want);
		for (i = 0; i < WORDS; i++) {
			if (script_page(page)[i] == want[i] || atomic_exchange(&r->failed, true))
				continue;
			snprintf(r->wrong, sizeof(r->wrong), "version %llu: %.200s",
				 (unsigned long long)v,
				 differs(page, i, want[i], script_page(page)[i]));
		}
	}
	if (!(rnd % 3))
		return;
	r->version[page] = next_version(r, page, script_mix(rnd));
	if (r->version[page] != EMPTY)
		contents(r, page, r->version[page], script_page(page));
}

static void *racer_main(void *arg)
{
	struct racer *me = arg;
	struct race *r = me->race;
	uint64_t n;

	for (n = 0; !atomic_load(&r->stop) && !atomic_load(&r->failed); n++) {
		uint64_t rnd = script_mix(me->seed ^ n), page = rnd % r->pages;
		pthread_mutex_t *l = &r->lock[page % LOCKS];

		pthread_mutex_lock(l);
		one_round(r, page, script_mix(rnd));
		pthread_mutex_unlock(l);
		atomic_fetch_add(&r->rounds, 1);
	}
	return NULL;
}

static const char *race(uint64_t threads, uint64_t ms, uint64_t pages, uint64_t kinds)
{
	static struct race r;
	struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };
	pthread_t thread[RACERS_MAX];
	struct racer racer[RACERS_MAX];
	uint64_t i;

	memset(&r, 0, sizeof(r));
	threads = threads > RACERS_MAX ? RACERS_MAX : threads;
	r.pages = pages;
	r.kinds = kinds;
	r.version = calloc(pages, sizeof(*r.version));
	for (i = 0; i < LOCKS; i++)
		pthread_mutex_init(&r.lock[i], NULL);
	for (i = 0; i < threads; i++) {
		racer[i] = (struct racer){ &r, script_mix(ms + i * 7919) };
		pthread_create(&thread[i], NULL, racer_main, &racer[i]);
	}
	nanosleep(&t, NULL);
	atomic_store(&r.stop, true);
	for (i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	for (i = 0; i < pages && !atomic_load(&r.failed); i++)
		one_round(&r, i, 0);
	free(r.version);
	fprintf(stderr, "  race: %llu rounds\n", (unsigned long long)atomic_load(&r.rounds));
	return atomic_load(&r.failed) ? r.wrong : NULL;
}

/* --- system calls and SIGBUS ------------------------------------------------ */

static const char *by_syscall(uint64_t first, uint64_t pages, uint64_t seed)
{
	size_t bytes = pages * PAGE, done = 0;
	char *copy = malloc(bytes);
	FILE *f = tmpfile();
	uint64_t p;

	for (p = 0; p < pages; p++)
		script_pattern((uint64_t *)(void *)(copy + p * PAGE), first + p, seed);
	if (fwrite(copy, 1, bytes, f) != bytes || fflush(f))
		return "cannot write the file";
	while (done < bytes) {
		ssize_t n = pread(fileno(f), script_base + first * PAGE + done, bytes - done,
				  (off_t)done);

		if (n <= 0)
			return "read into guest memory failed";
		done += (size_t)n;
	}
	/* And out of it. */
	if (pwrite(fileno(f), script_base + first * PAGE, bytes, 0) != (ssize_t)bytes)
		return "write from guest memory failed";
	fclose(f);
	free(copy);
	return script_check(first, pages, seed, OWN);
}

static void bus(int sig)
{
	(void)sig;
	siglongjmp(on_bus, 1);
}

static const char *grow(uint64_t first, uint64_t pages)
{
	static char text[SCRIPT_LINE];
	volatile uint64_t p = first;

	signal(SIGBUS, bus);
	if (!sigsetjmp(on_bus, 1))
		for (; p < first + pages; p++)
			*script_page(p) = p;
	signal(SIGBUS, SIG_DFL);
	snprintf(text, sizeof(text), "ok %llu", (unsigned long long)(p - first));
	return text;
}

static const char *numbers(void)
{
	static char text[SCRIPT_LINE];
	struct uvmm_statistics s;

	if (uvmm_get_statistics(script_guest, &s))
		return uvmm_error();
	snprintf(text, sizeof(text), "ok %llu %llu %llu",
		 (unsigned long long)s.resident_pages, (unsigned long long)s.swapped_pages,
		 (unsigned long long)s.faults);
	return text;
}

/* --- mappings ----------------------------------------------------------------- */

struct mappings {
	uint64_t mappings, away_pages;  /* of a range */
};

static struct mappings mappings(uint64_t first, uint64_t pages)
{
	uint64_t begin = (uintptr_t)script_base + first * PAGE, end = begin + pages * PAGE;
	struct mappings sum = { 0, 0 };
	unsigned long long from, to, inode;
	char line[2 * SCRIPT_LINE], shared;
	FILE *f = fopen("/proc/self/maps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		/* In a child a sanitizer may have taken the free place for itself. */
		if (sscanf(line, "%llx-%llx %*3s%c %*x %*s %llu", &from, &to, &shared,
			   &inode) != 4 || !inode || from >= end || to <= begin)
			continue;
		from = from > begin ? from : begin;
		to = to < end ? to : end;
		sum.mappings++;
		sum.away_pages += shared == 'p' ? (to - from) / PAGE : 0;
	}
	if (f)
		fclose(f);
	return sum;
}

const char *script_count(uint64_t n)
{
	static char text[SCRIPT_LINE];

	snprintf(text, sizeof(text), "ok %llu", (unsigned long long)n);
	return text;
}

static const char *fork_one(void)
{
	int status;
	pid_t pid = fork();

	if (!pid)
		_exit(mappings(0, uvmm_size_bytes(script_guest) / PAGE).mappings ? 1 : 0);
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return "cannot fork";
	return WEXITSTATUS(status) ? "the child has some of guest memory" : NULL;
}

/* The answer comes first: what is read of the lines behind it would be lost. */
static const char *exec_again(void)
{
	printf("ok\n");
	fflush(stdout);
	execl("/proc/self/exe", "guest", "guest", NULL);
	return "cannot execute";
}

static const char *ask(int rc)
{
	return rc ? uvmm_error() : NULL;
}

static const char *obey(const char *line)
{
	unsigned long long a = 0, b = 0, c = 0, d = 0;
	char word[16] = "";

	sscanf(line, "%15s %llu %llu %llu %llu", word, &a, &b, &c, &d);
	if (!strcmp(word, "fill"))
		return script_fill(a, b, c);
	if (!strcmp(word, "check"))
		return script_check(a, b, c, OWN);
	if (!strcmp(word, "same"))
		return script_fill_alike(a, b, c);
	if (!strcmp(word, "alike"))
		return script_check(a, b, c, ALIKE);
	if (!strcmp(word, "zero"))
		return script_check(a, b, 0, ZERO);
	if (!strcmp(word, "touch"))
		return touch(a, b, c, d);
	if (!strcmp(word, "race"))
		return race(a, b, c, d);
	if (!strcmp(word, "syscall"))
		return by_syscall(a, b, c);
	if (!strcmp(word, "discard"))
		return ask(uvmm_discard(script_guest, script_page(a), b * PAGE));
	if (!strcmp(word, "pin"))
		return ask(uvmm_pin(script_guest, script_page(a), b * PAGE));
	if (!strcmp(word, "unpin"))
		return ask(uvmm_unpin(script_guest, script_page(a), b * PAGE));
	if (!strcmp(word, "grow"))
		return grow(a, b);
	if (!strcmp(word, "sigbus"))
		return strcmp(grow(a, 1), "ok 0") ? "no SIGBUS" : NULL;
	if (!strcmp(word, "stats"))
		return numbers();
	if (!strcmp(word, "away"))
		return script_count(mappings(a, b).away_pages);
	if (!strcmp(word, "maps"))
		return script_count(mappings(0, uvmm_size_bytes(script_guest) / PAGE).mappings);
	if (!strcmp(word, "fork"))
		return fork_one();
	if (!strcmp(word, "alloc"))
		return script_alloc(a);
	if (!strcmp(word, "free"))
		return ask(uvmm_free(script_guest, script_page(a), b * PAGE));
	if (!strcmp(word, "room"))
		return script_room();
	if (!strcmp(word, "spare"))
		return script_keep_spare(a);
	if (!strcmp(word, "inflate") || !strcmp(word, "deflate"))
		return script_ranges(word, (const uint64_t[]){ a, b, c, d });
	if (!strcmp(word, "churn"))
		return script_churn(a, b, c);
	if (!strcmp(word, "exec"))
		return exec_again();
	return "no such command";
}

int script_guest_main(void)
{
	char line[SCRIPT_LINE];

	/* The first line comes once the guest is registered. */
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	if (uvmm_attach(&script_guest)) {
		printf("%s\n", uvmm_error());
		return 1;
	}
	script_base = uvmm_base(script_guest);
	printf("ok\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		const char *answer = obey(line);

		printf("%s\n", answer ? answer : "ok");
		fflush(stdout);
	}
	return 0;
}
