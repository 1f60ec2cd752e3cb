/* SPDX-License-Identifier: MIT
 *
 * cache_plain - plain files as a backend of the cache.
 *
 *   By O_DIRECT, through bounce buffers, so that the kernel keeps no second copy. What is
 *   not whole blocks, the end of a file that is written, goes by a second descriptor
 *   without O_DIRECT; as all does on filesystems that have none. What that leaves
 *   in the kernel's page cache is dropped: RWF_DONTCACHE, or else POSIX_FADV_DONTNEED.
 *
 *   Descriptors are at high numbers and looked at before use: a program that closes what
 *   it does not know gets -EBADF, not another file written to.
 *
 *   An O_DIRECT descriptor keeps the daemon from trusting in write protection
 *   (csrc/core/direct_io.h), unless it is marked: it stands at UVMM_DIRECT_MARK, which no
 *   direct I/O by its position could do.
 *
 *   Source   open(2) on O_DIRECT; statx(2) STATX_DIOALIGN; preadv2(2) RWF_DONTCACHE
 */
#ifndef CACHE_PLAIN_H
#define CACHE_PLAIN_H

#include "bounce.h"
#include "cache_backend.h"
#include "cache_slab.h"

/* What a slab of them has. */
size_t cache_plain_bytes(void);
/* The regular file behind fd, which is taken over; reading alone unless writable. The
 * bounces are of CACHE_RUN_PAGES pages.  -ENOMEM: fd is the caller's */
int cache_plain_open(int fd, bool writable, struct cache_slab *plains, struct bounces *bounces,
		     struct cache_backend *out);

#endif /* CACHE_PLAIN_H */
