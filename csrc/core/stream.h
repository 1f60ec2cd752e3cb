/* SPDX-License-Identifier: MIT
 *
 * stream - where a guest reads its absent pages in order: how far to read around.
 *
 *   A fault that goes on where one of the guest's last few windows ended (or
 *   began) quadruples the window, up to a chunk; any other fault takes its page
 *   alone, so that random access does not pay for pages it won't use. A stream
 *   of whole chunks is run ahead of, on a CPU that is idle.
 *
 *   Threads  any number at once. What they lose to each other is a window's size.
 */
#ifndef STREAM_H
#define STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STREAMS 8

struct streams {
	_Atomic uint64_t end[STREAMS];          /* page after the last window */
	_Atomic uint64_t pages[STREAMS];        /* the window's size; 0: none */
	_Atomic uint32_t next;                  /* the one to be forgotten next */
};

/* A window that is loaded before anybody asked. */
struct stream_ahead {
	uint64_t lo, hi;
	size_t stream;
};

/* The window to load for a fault at ppn < max_pages: [*lo, *hi), within its chunk;
 * all of the chunk in a long stream. */
void stream_window(struct streams *s, uint64_t ppn, uint64_t max_pages, uint64_t *lo,
		   uint64_t *hi);

/* True if the fault at ppn is in a long stream, and whoever asks is to load what
 * comes next: a. */
bool stream_run_ahead(struct streams *s, uint64_t ppn, uint64_t max_pages,
		      struct stream_ahead *a);

/* Nothing came: the stream ends where it did before. */
void stream_fall_back(struct streams *s, const struct stream_ahead *a);

#endif /* STREAM_H */
