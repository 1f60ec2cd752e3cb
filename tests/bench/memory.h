/* SPDX-License-Identifier: MIT
 *
 * memory - the memory that a benchmark measures, whoever provides it: one way
 * to open it, so that uvmm and its peers run the very same measuring code.
 *
 *   Units    bytes.
 *   Errors   0 or a negative errno; the reason has been printed to stderr.
 */
#ifndef BENCH_MEMORY_H
#define BENCH_MEMORY_H

#include <stddef.h>

#define PAGE_BYTES 4096u
#define HUGE_BYTES (2u << 20)

enum memory_kind {
	MEMORY_MALLOC,  /* what an ordinary program gets */
	MEMORY_ANON,    /* a private anonymous mapping, 2 MiB aligned */
	MEMORY_SHARED,  /* a shared mapping of a file, created (tmpfs) */
	MEMORY_FILE,    /* a shared mapping of a file that exists, read-only */
	MEMORY_GUEST,   /* guest physical memory of uvmm */
};

enum memory_pages {
	PAGES_DEFAULT,  /* whatever the provider does by itself */
	PAGES_HUGE,     /* MADV_HUGEPAGE */
	PAGES_SMALL,    /* MADV_NOHUGEPAGE */
};

struct memory {
	char *base;             /* page-aligned, but for MEMORY_MALLOC */
	size_t bytes;           /* a multiple of PAGE_BYTES */
};

/* Opens `bytes` of memory; `path` is for the two kinds with a file, else NULL.
 * It stays until the process ends. */
int memory_open(struct memory *m, enum memory_kind kind, enum memory_pages pages,
		size_t bytes, const char *path);

#endif /* BENCH_MEMORY_H */
