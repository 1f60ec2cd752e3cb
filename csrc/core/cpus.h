/* SPDX-License-Identifier: MIT
 *
 * cpus - whether the machine has CPU time to spare.
 *
 *   They are busy if in the last tenth of a second all of them together were idle for
 *   less than half of one. Where that cannot be read they are not.
 *
 *   Threads  one at a time.
 *   Source   proc(5): /proc/uptime, its second number
 */
#ifndef CPUS_H
#define CPUS_H

#include <stdbool.h>
#include <stdint.h>

struct cpus {
	uint64_t at_ns;         /* of the look before; 0: none */
	uint64_t idle_ns;       /* of all, then */
	bool busy;
};

/* Looks again if it is time. */
bool cpus_are_busy(struct cpus *c, uint64_t now_ns);

#endif /* CPUS_H */
