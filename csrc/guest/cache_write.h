/* SPDX-License-Identifier: MIT
 *
 * cache_write - writing a file through its cached pages; its size.
 *
 *   What is written lies in pages that are dirty until they are written back. When a
 *   quarter of all pages is dirty, writers write back themselves; when that
 *   fails, or there is no page, they write past the cache and are told of errors at
 *   once.
 *
 *   Errors   0 or a negative errno.
 *   Threads  any; the callers have file.write_lock.
 */
#ifndef CACHE_WRITE_H
#define CACHE_WRITE_H

#include "cache_state.h"

/* All of it, or what came before an error; -errno if nothing did. */
ssize_t cache_write_at(struct uvmm_file *h, const char *buffer, size_t bytes, uint64_t offset);

/* Nothing has changed after an error. */
int cache_write_resize(struct cache_file *f, uint64_t size);

#endif /* CACHE_WRITE_H */
