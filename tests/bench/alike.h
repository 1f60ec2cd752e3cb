/* SPDX-License-Identifier: MIT
 *
 * alike - pages that other processes have, too: to fill memory with them, and what
 * writing them costs. Prints and fails as measure.h.
 */
#ifndef BENCH_ALIKE_H
#define BENCH_ALIKE_H

#include <stdint.h>

#include "memory.h"

/* Fills the memory: `common` pages that are the same for every seed, all different; then
 * `zero` pages of zeros; the rest is of this seed alone. */
int alike_fill(const struct memory *m, uint64_t common, uint64_t zero, uint64_t seed);

/* The memory is for the kernel's same-page merging (MADV_MERGEABLE). */
int alike_mergeable(const struct memory *m);

/* Writes a word into `count` pages, each `step` pages after the one before, from the
 * first one. */
int alike_write(const struct memory *m, uint64_t count, uint64_t step);

/* The same by a child made with fork(), of a process that lives on. */
int alike_fork_write(const struct memory *m, uint64_t count, uint64_t step);

#endif /* BENCH_ALIKE_H */
