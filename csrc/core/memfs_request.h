/* SPDX-License-Identifier: MIT
 *
 * memfs_request - one request of the kernel in, one reply out. No mount, no
 * thread and no descriptor of /dev/fuse here, so that tests and the fuzzer can
 * be the kernel.
 *
 *   Trust    nothing in a request is believed beyond the bytes that were read.
 *   Threads  memfs_handle may run in several at once, after INIT.
 */
#ifndef MEMFS_REQUEST_H
#define MEMFS_REQUEST_H

#include "memfs.h"
#include "memfs_backing.h"
#include "memfs_proto.h"

#include <stdbool.h>
#include <sys/types.h>

struct memfs_session {
	/* Immutable after the session is made. */
	const struct memfs_ops *ops;
	void *ops_ctx;
	/* Sends head and head->len - sizeof(*head) bytes of body; 0, or -errno if
	 * nobody waits for it any more. */
	int (*reply)(void *ctx, const struct fuse_out_header *head, const void *body);
	void *reply_ctx;
	uint64_t start_s;       /* every file's times, seconds since 1970 */
	uid_t uid;              /* the root directory's owner */
	gid_t gid;

	bool agreed;            /* set by INIT: the kernel does passthrough */
	struct memfs_backings backings;
};

/* Answers the request of `len` bytes.
 *   -EPROTO  too short to be one, or of another length than it says: no reply
 *   else     what the reply function returned */
int memfs_handle(struct memfs_session *s, const void *request, size_t len);

#endif /* MEMFS_REQUEST_H */
