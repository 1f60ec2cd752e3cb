/* SPDX-License-Identifier: MIT
 *
 * files - measures the file cache of a guest under load, as told on stdin.
 *
 *   uvmm run -- files FOLDER
 *
 * Each line is a command, answered by one line of JSON:
 *
 *   prepare CLIENTS BYTES, run CLIENTS STEPS SEED
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "clients.h"

static int run(uvmm_cache *c, unsigned n, uint64_t steps, uint64_t seed)
{
	struct uvmm_cache_statistics before, after;
	struct clients_result r;
	int rc;

	uvmm_cache_get_statistics(c, &before);
	rc = clients_run(n, steps, seed, &r);
	if (rc)
		return rc;
	uvmm_cache_get_statistics(c, &after);
	/* Nothing goes on after it, beside what is measured next. */
	uvmm_cache_flush(c);
	printf("{\"op\": \"run\", \"ns\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"wrong\": %" PRIu64
	       ", \"hits\": %" PRIu64 ", \"misses\": %" PRIu64 ", \"read\": %" PRIu64
	       ", \"written\": %" PRIu64 ", \"pages\": %" PRIu64 "}\n",
	       r.ns, r.bytes, r.wrong, after.hits - before.hits, after.misses - before.misses,
	       after.read_pages - before.read_pages, after.written_pages - before.written_pages,
	       after.pages);
	return 0;
}

static int command(uvmm_cache *c, const char *folder, const char *line)
{
	uint64_t a, b;
	unsigned n;
	int rc;

	if (sscanf(line, "prepare %u %" SCNu64, &n, &a) == 2) {
		rc = clients_prepare(c, folder, n, a);
		if (!rc)
			printf("{\"op\": \"prepare\"}\n");
		return rc;
	}
	if (sscanf(line, "run %u %" SCNu64 " %" SCNu64, &n, &a, &b) == 3)
		return run(c, n, a, b);
	fprintf(stderr, "files: unknown command: %s\n", line);
	return -EINVAL;
}

int main(int argc, char **argv)
{
	uvmm_guest *g;
	uvmm_cache *c;
	char line[200];

	if (argc != 2) {
		fprintf(stderr, "usage: uvmm run -- files FOLDER\n");
		return 2;
	}
	if (uvmm_attach(&g) || uvmm_cache_create(g, NULL, &c)) {
		fprintf(stderr, "files: %s\n", uvmm_error());
		return 1;
	}
	printf("{\"op\": \"open\", \"bytes\": %zu}\n", uvmm_size_bytes(g));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		if (command(c, argv[1], line))
			return 1;
		fflush(stdout);
	}
	return 0;
}
