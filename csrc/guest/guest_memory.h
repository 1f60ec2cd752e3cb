/* SPDX-License-Identifier: MIT
 *
 * guest_memory - what other parts of the library use of a guest, beside uvmm/guest.h.
 */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include "physmem.h"
#include "shortage.h"
#include "uvmm/guest.h"
#include "uvmm/protocol.h"

/* Both live as long as the guest. */
struct physmem *guest_physmem(uvmm_guest *g);
struct shortage *guest_shortage(uvmm_guest *g);

/* As uvmm_on_pressure(), but called after all callbacks of the program's, and for the rest of
 * what is wanted. */
int guest_on_pressure_last(uvmm_guest *g, uvmm_pressure_fn fn, void *arg);

/* What of the daemon's protocol disks need; errors with words for uvmm_error(). */
/* *out may be NULL.  -ENOENT, -ECONNRESET */
int guest_find_disk(uvmm_guest *g, const char *name, struct uvmm_disk_info *out);
/* The ring's memory and what wakes the daemon: the caller's.  -EPERM, -ECONNRESET, ... */
int guest_start_disks(uvmm_guest *g, int fds[2]);
/* [at, at + bytes) is guest memory. */
bool guest_has(const uvmm_guest *g, const void *at, size_t bytes);

/* Sets the words of uvmm_error() and returns rc. */
int __attribute__((format(printf, 2, 3))) guest_fail(int rc, const char *format, ...);
/* No failure. */
void guest_succeed(void);

#endif /* GUEST_MEMORY_H */
