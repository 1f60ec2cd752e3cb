/* SPDX-License-Identifier: MIT */
#include "cpus.h"

#include <stdio.h>

#include "clock.h"

#define LOOK_NS (100 * NS_PER_MS)
#define NS_PER_CS 10000000ull

/* False: it cannot be read. */
static bool idle_ns(uint64_t *ns)
{
	FILE *f = fopen("/proc/uptime", "re");
	unsigned long long s, cs;
	bool read = f && fscanf(f, "%*s %llu.%2llu", &s, &cs) == 2;

	if (f)
		fclose(f);
	if (read)
		*ns = s * NS_PER_S + cs * NS_PER_CS;
	return read;
}

bool cpus_are_busy(struct cpus *c, uint64_t now_ns)
{
	uint64_t idle, passed = now_ns - c->at_ns;

	if (c->at_ns && passed < LOOK_NS)
		return c->busy;
	if (!idle_ns(&idle))
		return false;
	c->busy = c->at_ns && idle >= c->idle_ns && 2 * (idle - c->idle_ns) < passed;
	c->at_ns = now_ns;
	c->idle_ns = idle;
	return c->busy;
}
