/* SPDX-License-Identifier: MIT
 *
 * scan - looks for pages with the same content within a group, and has them shared.
 *
 *   A page in a guest's file:
 *     not touched since              it is not read: the scan for idle pages (idle.h) knows
 *     as when it was last scanned    nothing more to do, if others can find it
 *     changed since                  next time, if it stays so
 *     zeros, last time already       its hole is punched
 *     a frame of the group has it    is to become that frame
 *     a hint: another page had it    look there; if it has: a new frame, for both
 *     nothing                        leave a hint
 *   A page that is new in a guest that is new, or any page with `all`, is looked up at once;
 *   of others what is new is about to be written, mostly. The hash is only
 *   where to look: bytes are compared here, and once more under write protection (share.h).
 *
 *   What is to be shared is collected for some chunks, so that neighbours which match
 *   neighbours get consecutive frames and few mappings, and then shared guest by guest.
 *   With many mappings in a guest short runs are left out, in the end all.
 *
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  any; each needs a buffer. The caller has entered the guest.
 *   Source   Waldspurger 2002, section 4.
 */
#ifndef SCAN_H
#define SCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"
#include "share.h"

struct uvmm_engine;
struct scan_buffer;

#define SCAN_CHUNKS 4u          /* the most at a time */
#define SCAN_RUN_PAGES (SCAN_CHUNKS * UVMM_CHUNK_PAGES)
#define SCAN_YOUNG_PASSES 2u    /* so long a guest is new */

struct scan_buffer *scan_buffer_new(void);      /* NULL: no memory */
void scan_buffer_free(struct scan_buffer *b);
/* The part of it that sharing alone needs. */
struct share_buffer *scan_share_buffer(struct scan_buffer *b);

struct scan_result {
	uint64_t scanned;
	uint64_t shared, zero;
};

/* Scans the n chunks, each in a group's guest g, at most SCAN_CHUNKS; r is added to. */
void scan_chunks(struct uvmm_engine *e, struct guest *g, const uint64_t *chunk, size_t n,
		 bool all, struct scan_buffer *b, struct scan_result *r);

/* The same of n pages from ppn, at most SCAN_RUN_PAGES, all of which are looked up. */
void scan_run(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t n,
	      struct scan_buffer *b, struct scan_result *r);

/* How many mappings the kernel lets a process have. */
uint64_t scan_mappings_max(void);

#endif /* SCAN_H */
