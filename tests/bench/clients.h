/* SPDX-License-Identifier: MIT
 *
 * clients - a file server's load, as dbench makes it: clients that open, read, write,
 * flush, rename and delete files of a folder each, all at once, on the guest's file cache.
 *
 *   What a client does follows from its number and the seed: two runs with the same do
 *   the same. Contents follow from the file's name and version, and what is read is
 *   checked.
 *
 *   The mix is that of the load file of dbench by calls that move data or names: for one
 *   write three reads, pieces of up to 64 KiB, a tenth of all files made anew; few files
 *   are used often, most seldom.
 */
#ifndef BENCH_CLIENTS_H
#define BENCH_CLIENTS_H

#include <stdint.h>

#include "uvmm/cache.h"

struct clients_result {
	uint64_t ns;
	uint64_t bytes;         /* read and written */
	uint64_t wrong;         /* pieces with another content than they should have */
};

/* Makes the folders and files of `clients` clients below `folder`, `bytes` in all.
 * 0 or -errno, the reason printed. */
int clients_prepare(uvmm_cache *c, const char *folder, unsigned clients, uint64_t bytes);

/* Each client, of those prepared, does so many steps. Errors as clients_prepare. */
int clients_run(unsigned clients, uint64_t steps, uint64_t seed, struct clients_result *out);

#endif /* BENCH_CLIENTS_H */
