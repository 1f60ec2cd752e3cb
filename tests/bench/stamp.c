/* SPDX-License-Identifier: MIT
 *
 * stamp FILE PROGRAM... - writes the time (nanoseconds of CLOCK_MONOTONIC) to FILE and
 * executes PROGRAM in place, so that its own time can be told from that of whatever
 * starts it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec now;
	FILE *out;

	if (argc < 3) {
		fprintf(stderr, "usage: stamp FILE PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	out = fopen(argv[1], "we");
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!out || fprintf(out, "%lld", now.tv_sec * 1000000000ll + now.tv_nsec) < 0 ||
	    fclose(out)) {
		fprintf(stderr, "stamp: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	execvp(argv[2], argv + 2);
	fprintf(stderr, "stamp: %s: %s\n", argv[2], strerror(errno));
	return 127;
}
