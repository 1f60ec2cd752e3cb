/* SPDX-License-Identifier: MIT
 *
 * cache_backend - what files of the cache are kept in: runs of pages, read and written.
 *
 *   A run is pages that follow each other in the file, each at a place of its own in
 *   memory: guest memory mostly, where the daemon may take a page out at any
 *   moment. A backend that has a device write there pins the pages, or copies.
 *   Pages of a run that is written may be changed meanwhile: they are written again.
 *   Runs at work at the same time have no page in common.
 *
 *   Units    pages of 4 KiB of the file, numbered from 0; sizes are bytes.
 *   Errors   0 or a negative errno.
 *   Threads  any, but close: by one, when nobody uses it.
 */
#ifndef CACHE_BACKEND_H
#define CACHE_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CACHE_PAGE_BYTES 4096u
#define CACHE_RUN_PAGES 64u     /* the most that a run has */

struct cache_run {
	uint64_t index;         /* of its first page in the file */
	unsigned pages;         /* 1 to CACHE_RUN_PAGES */
	void *at[CACHE_RUN_PAGES];
};

/* What tells whether somebody else has changed a file. */
struct cache_identity {
	uint64_t size_bytes;
	int64_t modified_ns, changed_ns;
};

struct cache_backend_ops {
	/* Fills the pages; zero from size_bytes, and from the backend's own end, on.
	 * Returns how many bytes of the run the backend has. */
	ssize_t (*read)(void *arg, const struct cache_run *r, uint64_t size_bytes);
	/* Writes the pages, nothing beyond size_bytes. After an error any of it may be
	 * written. */
	int (*write)(void *arg, const struct cache_run *r, uint64_t size_bytes);
	/* On return all that was written is on disk. */
	int (*flush)(void *arg);
	int (*resize)(void *arg, uint64_t size_bytes);
	/* *gone: nobody can open it any more, once it is closed. */
	int (*identify)(void *arg, struct cache_identity *out, bool *gone);
	void (*close)(void *arg);
};

struct cache_backend {
	const struct cache_backend_ops *ops;    /* NULL: none */
	void *arg;
	bool writable;
};

#endif /* CACHE_BACKEND_H */
