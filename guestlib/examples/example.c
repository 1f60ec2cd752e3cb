/* SPDX-License-Identifier: MIT */
#include "example.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool hold;

__attribute__((format(printf, 1, 2), noreturn))
static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t number(const struct example_option *o, const char *text)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);

	if (errno || end == text || *end || *text == '-' || n < o->min || n > o->max)
		die("%s: expected a number from %" PRIu64 " to %" PRIu64 ", got %s",
		    o->name, o->min, o->max, text);
	return n;
}

void example_options(int argc, char **argv, const struct example_option *options,
		     size_t n)
{
	for (int i = 1; i < argc; i++) {
		size_t k = 0;

		if (!strcmp(argv[i], "--hold")) {
			hold = true;
			continue;
		}
		while (k < n && strcmp(argv[i], options[k].name))
			k++;
		if (k == n)
			die("%s: no such option", argv[i]);
		if (i + 1 == argc)
			die("%s: needs a number", argv[i]);
		*options[k].value = number(&options[k], argv[++i]);
	}
}

uvmm_guest *example_attach(void)
{
	uvmm_guest *g;

	if (uvmm_attach(&g))
		die("%s", uvmm_error());
	return g;
}

void *example_alloc(uvmm_guest *g, size_t bytes)
{
	void *block;

	if (uvmm_alloc(g, bytes, &block))
		die("%zu bytes of guest memory: %s", bytes, uvmm_error());
	return block;
}

void *example_ordinary(size_t n, size_t bytes)
{
	void *block = calloc(n, bytes);

	if (!block)
		die("no memory");
	return block;
}

void example_doing(const char *what)
{
	printf("{\"doing\": \"%s\"}\n", what);
	fflush(stdout);
}

int example_finish(uint64_t checked_bytes, uint64_t wrong, const char *summary)
{
	char byte;

	printf("{\"checked_bytes\": %" PRIu64 ", \"wrong\": %" PRIu64
	       ", \"summary\": \"%s\"}\n", checked_bytes, wrong, summary);
	fflush(stdout);
	while (hold && read(STDIN_FILENO, &byte, 1) > 0)
		;
	return wrong ? 1 : 0;
}
