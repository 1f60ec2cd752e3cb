/* SPDX-License-Identifier: MIT
 *
 * cache_file - which files the cache knows: opening, closing, and what comes after.
 *
 *   A file that nobody has open keeps its pages. Once they are written back its backend is
 *   closed, and how it was left is noted: when it is opened again and looks otherwise,
 *   somebody else has changed it, and the pages are dropped. What has been deleted
 *   meanwhile is dropped unwritten.
 *
 *   Errors   0 or a negative errno.
 *   Threads  any.
 */
#ifndef CACHE_FILE_H
#define CACHE_FILE_H

#include "cache_state.h"

/* As uvmm_file_open. */
int cache_file_open(struct uvmm_cache *c, const char *path, int flags, mode_t mode,
		    struct uvmm_file **out);
/* A file that has no name, with that backend, which is taken over when it succeeds.
 *   -ENOMEM */
int cache_file_open_backend(struct uvmm_cache *c, const struct cache_backend *backend,
			    uint64_t size, int flags, struct uvmm_file **out);
/* What nobody but this cache opens, found by its number again: with that backend, which is taken
 * over in any case, unless it has one already. Its size stays as it is.
 *   -ENOMEM */
int cache_file_open_own(struct uvmm_cache *c, uint64_t number,
			const struct cache_backend *backend, uint64_t size, int flags,
			struct uvmm_file **out);
/* Ends the handle. */
void cache_file_close(struct uvmm_file *h);

/* The error of writing back that this handle has not told yet, or 0. */
int cache_file_error(struct uvmm_file *h);

/* Gives a reference back. */
void cache_file_put(struct cache_file *f);
/* We have just changed the file. */
void cache_file_left(struct cache_file *f, const struct cache_backend *b);
/* The backend has less than the file should: somebody has truncated it. */
void cache_file_shrunk(struct cache_file *f);
/* f: locked, and none of these pages is busy or writing. They leave the cache. */
void cache_file_drop(struct cache_file *f, uint64_t from_index);

/* The next file after f, NULL: the first, with a reference; that to f is given back. NULL:
 * there is no more. */
struct cache_file *cache_file_next(struct uvmm_cache *c, struct cache_file *f);
/* Looks after files that nobody has open. */
void cache_file_sweep(struct uvmm_cache *c);
/* Frees all of them; nobody uses any. */
void cache_file_free_all(struct uvmm_cache *c);

#endif /* CACHE_FILE_H */
