/* SPDX-License-Identifier: MIT
 *
 * boot - fills memory with zeros for a while, as an operating system does that starts, and
 * then becomes a program.
 *
 *   boot BYTES SECONDS PROGRAM ARG...
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES (1u << 20)

int main(int argc, char **argv)
{
	unsigned long long bytes, done = 0;

	if (argc < 4) {
		fprintf(stderr, "usage: boot BYTES SECONDS PROGRAM ARG...\n");
		return 2;
	}
	bytes = strtoull(argv[1], NULL, 10);
	for (; done + BLOCK_BYTES <= bytes; done += BLOCK_BYTES) {
		char *block = malloc(BLOCK_BYTES);

		if (!block)
			break;
		/* Else the compiler has calloc() make it, which writes nothing, or nobody. */
		__asm__ volatile("" : "+r"(block));
		memset(block, 0, BLOCK_BYTES);
		__asm__ volatile("" : : "r"(block) : "memory");
	}
	sleep((unsigned)atoi(argv[2]));
	execvp(argv[3], argv + 3);
	perror(argv[3]);
	return 127;
}
