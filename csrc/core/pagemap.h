/* SPDX-License-Identifier: MIT
 *
 * pagemap - which pages a process has mapped now, and how, as its kernel tells.
 *
 *   A page that is not mapped has not been touched since it was unmapped: to look costs
 *   the process nothing.
 *
 *   Units    addresses in bytes. Errors as told.
 *   Threads  any, on the same descriptor.
 *   Source   Linux Documentation/admin-guide/mm/pagemap.rst
 */
#ifndef PAGEMAP_H
#define PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of the process; -1 if there is none. */
int pagemap_open(int32_t pid);

/* The n pages from addr, a word each; how many there are. */
size_t pagemap_read(int fd, uint64_t addr, size_t n, uint64_t *word);

static inline bool pagemap_is_mapped(uint64_t word)
{
	return word >> 63;
}

/* The process's own: not of a file, or no longer. Swapped, by what is told here, are also a
 * file's pages that the kernel migrates at that moment. */
static inline bool pagemap_is_anonymous(uint64_t word)
{
	bool swapped = word >> 62 & 1, file = word >> 61 & 1;

	return (swapped || pagemap_is_mapped(word)) && !file;
}

/* Mapped as a part of a large page. Kernels before 6.7 do not tell: false. */
bool pagemap_is_large(int fd, uint64_t addr);

#endif /* PAGEMAP_H */
