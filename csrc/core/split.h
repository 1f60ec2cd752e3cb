/* SPDX-License-Identifier: MIT
 *
 * split - shared pages that the guest has written: the kernel copied them, unseen, and
 * they are noticed here, counted, and come home when they are cold.
 *
 *   How they are seen: the memory that is the process's own grows (/proc/PID/statm); then
 *   /proc/PID/pagemap tells which pages of a private mapping are anonymous.
 *   Cold: the content is the same as COLD_NS before.
 *
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  one at a time for each guest, who has entered it.
 *   Source   Linux Documentation/admin-guide/mm/pagemap.rst
 */
#ifndef SPLIT_H
#define SPLIT_H

#include <stdint.h>

#include "guest.h"
#include "share.h"

struct uvmm_engine;

/* Notices splits, if there is a sign of any; true if there were some. */
bool split_look(struct uvmm_engine *e, struct guest *g, uint64_t now_ns);
/* Takes note of how many may have split since the last look: quick, and for any thread. */
void split_suspect(struct uvmm_engine *e, struct guest *g);
/* Brings home what is cold. */
void split_home_cold(struct uvmm_engine *e, struct guest *g, struct share_buffer *b);

#endif /* SPLIT_H */
