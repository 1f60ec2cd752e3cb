/* SPDX-License-Identifier: MIT
 *
 * ring - the daemon's side of a guest's ring of disk requests (uvmm/disk_ring.h): takes
 * requests, in copies that were found sound, and puts what has become of them.
 *
 *   Everything in the ring's memory may change at any moment, by a guest that is broken or
 *   hostile: each field is read once.
 *
 *   Units    bytes.
 *   Threads  one at a time.
 */
#ifndef RING_H
#define RING_H

#include <stdbool.h>
#include <stdint.h>

#include "uvmm/disk_ring.h"

struct ring {
	struct uvmm_disk_ring *shared;
	uint32_t taken, done_put;       /* our own copies: what is in there is only told */
	uint32_t under_way;             /* taken, and not put */
};

/* What a disk allows. */
struct ring_disk {
	uint64_t size_bytes;
	uint32_t block_bytes;           /* a power of two */
	bool read_only;
};

struct ring_limits {
	uint64_t memory_bytes;          /* of the guest */
	uint32_t disks;
	const struct ring_disk *disk;   /* [disks] */
};

struct ring_request {
	struct uvmm_disk_request head;
	struct uvmm_disk_segment segment[UVMM_DISK_SEGMENTS];
};

/* The next request, copied; false if there is none, or too many are under way. *status is 0,
 * or why it is refused, and head.cookie is right in any case:
 *   -ENXIO   no such disk       -EOPNOTSUPP  no such operation
 *   -EINVAL  not of whole blocks, no or too many segments, more than UVMM_DISK_BYTES_MAX,
 *            sizes that do not agree, not in guest memory
 *   -ENOSPC  a write beyond its end      -EROFS  a write to what is read-only
 *   -EIO     a read beyond its end */
bool ring_take(struct ring *r, const struct ring_limits *l, struct ring_request *out,
	       int *status);
/* Of one that was taken; true if a thread of the guest is to be woken (ring_wake). */
bool ring_put(struct ring *r, uint64_t cookie, int status);
/* Wakes all that wait for done_put to move. */
void ring_wake(struct ring *r);
/* From now the guest wakes us; false, and it does not, if there is something to take. */
bool ring_sleep(struct ring *r);
void ring_wake_up(struct ring *r);

#endif /* RING_H */
