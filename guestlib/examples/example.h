/* SPDX-License-Identifier: MIT
 *
 * example - what the example guests share: attaching, and telling whoever
 * started them what they do and what came out, one JSON object a line.
 *
 *   {"doing": "filling"}
 *   {"checked_bytes": 1024, "wrong": 0, "summary": "..."}
 *
 *   Errors   a call that cannot go on says why on stderr and ends the process
 *            with status 1.
 *   Threads  the first thread only.
 */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uvmm/guest.h"

#define EXAMPLE_MIB ((size_t)1 << 20)

struct example_option {
	const char *name;       /* with its dashes; takes a whole number */
	uint64_t *value;
	uint64_t min, max;
};

/* Reads `--name NUMBER` pairs into the options' values, and `--hold`: to stay,
 * once finished, until stdin ends, so that the guest can still be looked at. */
void example_options(int argc, char **argv, const struct example_option *options,
		     size_t n);

uvmm_guest *example_attach(void);
void *example_alloc(uvmm_guest *g, size_t bytes);
/* The same in ordinary memory, zeroed: for what the check relies on. */
void *example_ordinary(size_t n, size_t bytes);

void example_doing(const char *what);
/* Tells the result; returns the exit status. */
int example_finish(uint64_t checked_bytes, uint64_t wrong, const char *summary);

/* A well mixed number for each x. */
static inline uint64_t example_mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

#endif /* EXAMPLE_H */
