/* SPDX-License-Identifier: MIT
 *
 * cache_disk - a virtual disk as a backend of the cache: one file, as large as the disk, which
 * cannot become another size.
 *
 *   The disk's requests read and write the cache's pages where they are. What is not in guest
 *   memory goes through a buffer that is; when there is no memory for one, page by page
 *   through one that each such file has.
 *
 *   Errors   as uvmm/disk.h says.
 */
#ifndef CACHE_DISK_H
#define CACHE_DISK_H

#include "cache_backend.h"
#include "uvmm/disk.h"

/* The disk is taken over: closed with the backend.  -ENOMEM: it is the caller's */
int cache_disk_open(uvmm_disk *d, struct cache_backend *out);

#endif /* CACHE_DISK_H */
