/* SPDX-License-Identifier: MIT
 *
 * cache_read - reading a file through its cached pages.
 *
 *   Errors   0 or a negative errno.
 *   Threads  any.
 */
#ifndef CACHE_READ_H
#define CACHE_READ_H

#include "cache_state.h"

/* Reads [offset, offset + bytes) up to the end of the file: how many bytes, 0 at the
 * end. Fewer than asked for if an error comes after some. */
ssize_t cache_read_at(struct uvmm_file *h, char *buffer, size_t bytes, uint64_t offset);

/* The page, in the cache and with a reference: cache_page_unref().
 *   -ENODATA  beyond the end    -ENOMEM  no page for it */
int cache_read_pin(struct uvmm_file *h, uint64_t index, uint32_t *ppn, size_t *valid);

/* Brings those of the pages [index, end) that are not there into the cache, as far as there
 * is memory for them and the file goes; nobody asks for them yet. */
void cache_read_ahead(struct cache_file *f, uint64_t index, uint64_t end);

#endif /* CACHE_READ_H */
