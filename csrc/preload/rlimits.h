/* SPDX-License-Identifier: MIT
 *
 * rlimits - RLIMIT_AS and RLIMIT_DATA of a program whose heap is guest memory.
 *
 *   Guest memory is mapped as a whole, of which the program uses what it has asked for. So
 *   the kernel's RLIMIT_AS is higher than the program's by what it does not: the lift.
 *   The kernel refuses threads and the like as ever; allocations of guest memory and
 *   other mappings of the program are refused here, where all that it has would be
 *   over one of its limits.
 *   The program reads its limits as it set them.
 *
 *   Others    What it executes and is no guest gets its limits without the lift. An image
 *             that goes on as the guest, and with --follow any, is told the lift.
 *   No right  Where the hard limit is finite, and may not be raised, there is no lift: all
 *             of guest memory counts.
 *   Units     bytes.
 *   Threads   any; rlimits_leave() also in a child of vfork().
 */
#ifndef RLIMITS_H
#define RLIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define RLIMITS_ENV "UVMM_LIFT" /* decimal: by so much RLIMIT_AS is higher */

/* Before guest memory is mapped: so that it can be. */
void rlimits_make_room(void);
/* It is mapped, and takes so much with what belongs to it. */
void rlimits_open(size_t bytes);
/* In a forked child. */
void rlimits_forked(void);
/* What RLIMITS_ENV is to say for an image that goes on. */
size_t rlimits_lift(void);

/* So much more may be mapped, and of that or else so much be private and writable. */
bool rlimits_allow(size_t area_bytes, size_t data_bytes);

/* The process, or `pid`, executes what is no guest: its limits are the program's.
 * False: there is nothing to be undone. */
bool rlimits_leave(pid_t pid);
/* It did not, after all. */
void rlimits_return(void);

#endif /* RLIMITS_H */
