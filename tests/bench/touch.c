/* SPDX-License-Identifier: MIT
 *
 * touch - measures one kind of memory, as told on stdin.
 *
 *   touch KIND BYTES [PAGES [PATH]]
 *     KIND   malloc | anon | shared | file | guest
 *     PAGES  default | huge | small
 *
 * It opens the memory and prints a line; then each line on stdin is a command,
 * answered by one line of JSON:
 *
 *   fill, first-touch, random COUNT, hot COUNT STEP MS,
 *   mix COUNT STEP COLD_IN, latency THREADS COUNT SEED, sequential,
 *   pageout, resident, save PATH, alike COMMON ZERO SEED, mergeable,
 *   write COUNT STEP, fork-write COUNT STEP, use PAGES ONE_IN, take COUNT PAGES
 *
 * It ends with stdin. Between two commands whoever drives it may do to the
 * memory whatever is to be measured.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alike.h"
#include "blocks.h"
#include "measure.h"
#include "memory.h"

/* Index of `word` in `words`, which ends with NULL; -1 if it is not there. */
static int find(const char *word, const char *const *words)
{
	int i;

	for (i = 0; words[i]; i++)
		if (!strcmp(word, words[i]))
			return i;
	return -1;
}

static int run_command(const struct memory *m, char *line)
{
	uint64_t count, seed, more;
	unsigned threads;
	char path[512];

	if (!strcmp(line, "fill"))
		return measure_fill(m);
	if (!strcmp(line, "first-touch"))
		return measure_first_touch(m);
	if (!strcmp(line, "sequential"))
		return measure_sequential(m);
	if (!strcmp(line, "pageout"))
		return measure_pageout(m);
	if (!strcmp(line, "resident"))
		return measure_resident(m);
	if (!strcmp(line, "mergeable"))
		return alike_mergeable(m);
	if (sscanf(line, "alike %" SCNu64 " %" SCNu64 " %" SCNu64, &count, &more, &seed) == 3)
		return alike_fill(m, count, more, seed);
	if (sscanf(line, "write %" SCNu64 " %" SCNu64, &count, &more) == 2)
		return alike_write(m, count, more);
	if (sscanf(line, "fork-write %" SCNu64 " %" SCNu64, &count, &more) == 2)
		return alike_fork_write(m, count, more);
	if (sscanf(line, "use %" SCNu64 " %" SCNu64, &count, &more) == 2)
		return blocks_use(m, count, more);
	if (sscanf(line, "take %" SCNu64 " %" SCNu64, &count, &more) == 2)
		return blocks_take(m, count, more);
	if (sscanf(line, "random %" SCNu64, &count) == 1)
		return measure_random(m, count);
	if (sscanf(line, "hot %" SCNu64 " %" SCNu64 " %" SCNu64, &count, &more, &seed) == 3)
		return measure_hot(m, count, more, seed);
	if (sscanf(line, "mix %" SCNu64 " %" SCNu64 " %" SCNu64, &count, &more, &seed) == 3)
		return measure_mix(m, count, more, seed);
	if (sscanf(line, "latency %u %" SCNu64 " %" SCNu64, &threads, &count, &seed) == 3)
		return measure_latency(m, threads, count, seed);
	if (sscanf(line, "save %511s", path) == 1)
		return measure_save(m, path);
	fprintf(stderr, "touch: unknown command: %s\n", line);
	return -EINVAL;
}

int main(int argc, char **argv)
{
	/* In the order of their enums. */
	static const char *const kinds[] = {
		"malloc", "anon", "shared", "file", "guest", NULL,
	};
	static const char *const sizes[] = { "default", "huge", "small", NULL };
	int kind = argc > 2 ? find(argv[1], kinds) : -1;
	int pages = argc > 3 ? find(argv[3], sizes) : PAGES_DEFAULT;
	const char *path = argc > 4 ? argv[4] : NULL;
	size_t bytes = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	struct memory m;
	char line[600];

	if (kind < 0 || pages < 0 || !bytes || bytes % PAGE_BYTES ||
	    (!path && (kind == MEMORY_SHARED || kind == MEMORY_FILE))) {
		fprintf(stderr, "usage: touch malloc|anon|shared|file|guest BYTES "
				"[default|huge|small [PATH]]\n");
		return 2;
	}
	if (memory_open(&m, (enum memory_kind)kind, (enum memory_pages)pages, bytes, path))
		return 1;
	printf("{\"op\": \"open\", \"bytes\": %zu}\n", m.bytes);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		if (run_command(&m, line))
			return 1;
		fflush(stdout);
	}
	return 0;
}
