/* SPDX-License-Identifier: MIT
 *
 * pages_guest - writes and verifies its guest memory until its stdin ends.
 *
 *   pages_guest THREADS SEED [share]
 *
 *   Threads of it do what programs do with memory, all at once and partly to the
 *   same pages, and know at any time what each byte has to be; with `share` they also
 *   write pages that other guests have alike. It prints "START
 *   pid", then every tick "PROGRESS written verified", in pages. Once its stdin ends it verifies
 *   all pages, prints "DONE written verified" and exits 0. The first thing wrong
 *   is one line and a status of its own, see pages_fail.h.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pages_fail.h"
#include "pages_ops.h"

#define TICK_MS 200
#define THREADS_MAX 64

static struct book book;
static _Atomic bool stop;

static void *work(void *arg)
{
	struct worker *w = arg;

	while (!atomic_load(&stop))
		worker_step(w);
	worker_fini(w);
	return NULL;
}

static void print_counts(const char *word)
{
	printf("%s %llu %llu\n", word,
	       (unsigned long long)atomic_load(&book.written) / QUARTERS,
	       (unsigned long long)atomic_load(&book.verified) / QUARTERS);
	fflush(stdout);
}

static void wait_for_end(void)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	char byte;

	for (;;) {
		if (poll(&in, 1, TICK_MS) > 0 && read(STDIN_FILENO, &byte, 1) <= 0)
			return;
		print_counts("PROGRESS");
	}
}

static void verify_all(void)
{
	uint32_t page;

	fail_operation = "last check of all pages";
	for (page = 0; page < book.pages; page++)
		book_check_range(&book, page * QUARTERS, QUARTERS);
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS_MAX];
	pthread_t threads[THREADS_MAX];
	bool share = argc == 4 && !strcmp(argv[3], "share"), sound = argc == 3 || share;
	long count = sound ? strtol(argv[1], NULL, 10) : 0, i;
	unsigned long seed = sound ? strtoul(argv[2], NULL, 10) : 0;

	if (count < 1 || count > THREADS_MAX) {
		fprintf(stderr, "usage: pages_guest THREADS SEED [share], with 1 to %d threads\n",
			THREADS_MAX);
		return STATUS_USAGE;
	}
	book_open(&book, (uint32_t)seed, share);
	fail_init(&book);
	for (i = 0; i < count; i++) {
		worker_init(&workers[i], &book, seed << 8 | (unsigned long)i);
		if (pthread_create(&threads[i], NULL, work, &workers[i])) {
			fprintf(stderr, "pages_guest: cannot start a thread\n");
			return STATUS_CALL;
		}
	}
	printf("START %d\n", (int)getpid());
	wait_for_end();
	atomic_store(&stop, true);
	for (i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
	verify_all();
	print_counts("DONE");
	return 0;
}
