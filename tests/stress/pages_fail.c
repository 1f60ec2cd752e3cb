/* SPDX-License-Identifier: MIT */
#include "pages_fail.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE 640
#define SECOND_LOOK_NS 20000000

_Thread_local const char *fail_operation = "start";

static const struct book *book;         /* for the signal handler */

static noreturn void end(const struct book *b, int status, const char *what, const char *text)
{
	static atomic_flag failed = ATOMIC_FLAG_INIT;
	char line[LINE + 160];
	struct timespec now;
	int n;

	if (atomic_flag_test_and_set(&failed))
		for (;;)
			pause();
	clock_gettime(CLOCK_REALTIME, &now);
	n = snprintf(line, sizeof(line), "%s guest %s time %lld.%06ld operation %s: %s\n", what,
		     uvmm_name(b->guest), (long long)now.tv_sec, now.tv_nsec / 1000,
		     fail_operation, text);
	n = n < (int)sizeof(line) ? n : (int)sizeof(line) - 1;
	if (write(STDOUT_FILENO, line, (size_t)n) < n)
		status = STATUS_CALL;
	_exit(status);
}

/* What is there instead of what should be, in words. */
static void describe(const struct book *b, const uint64_t *words, char *text, size_t room)
{
	struct entry e;

	if (!book_decode(words, &e))
		snprintf(text, room, "no whole pattern (as if version %llu, quarter %u, tag %08x)",
			 (unsigned long long)e.version, e.origin, (uint32_t)(words[1] >> 32));
	else if (e.zero)
		snprintf(text, room, "zeros");
	else
		snprintf(text, room, "version %llu of page %u quarter %u of %s (tag %08x)",
			 (unsigned long long)e.version, e.origin / QUARTERS,
			 e.origin % QUARTERS, e.tag == b->tag ? "this guest" :
			 e.tag == COMMON_TAG ? "all guests" : "another guest", e.tag);
}

void fail_wrong(const struct book *b, uint32_t quarter, struct entry e, const uint64_t *want,
		const uint64_t *words)
{
	const unsigned char *expected = (const void *)want, *got = (const void *)words;
	const struct timespec pause_for = { 0, SECOND_LOOK_NS };
	uint64_t found[QUARTER_WORDS];
	char holds[160], text[LINE];
	size_t at, wrong = 0, i;

	memcpy(found, words, sizeof(found));
	got = (const void *)found;
	for (at = 0; at < QUARTER_BYTES - 1 && expected[at] == got[at]; at++)
		;
	for (i = 0; i < QUARTER_BYTES; i++)
		wrong += expected[i] != got[i];
	describe(b, found, holds, sizeof(holds));
	nanosleep(&pause_for, NULL);
	snprintf(text, sizeof(text),
		 "page %u offset %zu: expected byte %02x, got %02x (%zu bytes differ of 1024 from offset %u); expected version %llu of page %u%s, tag %08x, by %s; got %s; last version given out %llu; in memory 20 ms later: %s",
		 quarter / QUARTERS, quarter % QUARTERS * QUARTER_BYTES + at, expected[at],
		 got[at], wrong, quarter % QUARTERS * QUARTER_BYTES,
		 (unsigned long long)e.version, e.origin / QUARTERS, e.zero ? ", zeros" : "", e.tag,
		 e.by ? e.by : "nobody", holds,
		 (unsigned long long)atomic_load(&b->versions),
		 !memcmp(book_at(b, quarter), want, QUARTER_BYTES) ? "right" : "wrong");
	end(b, STATUS_WRONG, "WRONG", text);
}

void fail_call(const struct book *b, const char *call, uint32_t quarter, long rc)
{
	char text[LINE];

	snprintf(text, sizeof(text), "page %u: %s returned %ld (%s; errno %s)",
		 quarter / QUARTERS, call, rc, uvmm_error(), strerrorname_np(errno));
	end(b, STATUS_CALL, "FAILED", text);
}

/* Only the faulting access is cut off, in code of ours: stdio is in order. */
static void on_signal(int number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr, base = (uintptr_t)book->base;
	char text[LINE];

	(void)context;
	snprintf(text, sizeof(text), "SIG%s code %d at %s + %lld, page %lld",
		 sigabbrev_np(number), info->si_code, at < base ? "address" : "base",
		 (long long)(at < base ? at : at - base),
		 at < base ? -1 : (long long)((at - base) / PAGE_BYTES));
	end(book, STATUS_SIGNAL, "SIGNAL", text);
}

void fail_init(const struct book *b)
{
	struct sigaction action = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO };

	book = b;
	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
}
