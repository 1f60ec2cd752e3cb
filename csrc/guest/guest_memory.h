/* SPDX-License-Identifier: MIT
 *
 * guest_memory - what other parts of the library use of a guest, beside uvmm/guest.h.
 */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include "physmem.h"
#include "shortage.h"
#include "uvmm/guest.h"

/* Both live as long as the guest. */
struct physmem *guest_physmem(uvmm_guest *g);
struct shortage *guest_shortage(uvmm_guest *g);

/* As uvmm_on_pressure(), but called after all callbacks of the program's, and for the rest of
 * what is wanted. */
int guest_on_pressure_last(uvmm_guest *g, uvmm_pressure_fn fn, void *arg);

/* Sets the words of uvmm_error() and returns rc. */
int __attribute__((format(printf, 2, 3))) guest_fail(int rc, const char *format, ...);
/* No failure. */
void guest_succeed(void);

#endif /* GUEST_MEMORY_H */
