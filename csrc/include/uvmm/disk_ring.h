/* SPDX-License-Identifier: MIT
 *
 * disk_ring - requests to virtual disks, in memory that a guest and the daemon have in
 * common.
 *
 *   A request names a disk, a place in it, and pieces of guest physical memory, as a device
 *   is told of them. Many may be put in before the daemon is woken.
 *
 *   Ownership, of slot i = number % UVMM_DISK_SLOTS, numbers counting from 0:
 *     request[i], segment[i]   the guest's, until it has moved `submitted` past the number
 *                              (release); then the daemon's, until `taken` is past it
 *                              (release): the daemon copies it, and looks at the copy alone.
 *     done[i]                  the daemon's, until `done_put` is past the number (release);
 *                              then the guest's, until `done_taken` is past it (release).
 *   All four only ever rise, wrapping at 2^32. A side that reads the other's uses acquire.
 *   So many requests as there are slots may be under way or done and not taken; with more
 *   the daemon waits. What a guest does against these rules harms its own requests.
 *
 *   Sleeping   The daemon sets `sleeps`, looks at `submitted` once more, and sleeps; who
 *              submits looks at `sleeps` after that, and writes to the event descriptor. A
 *              guest's thread sets `waits`, looks at `done_put` once more, and sleeps in
 *              futex(&done_put); the daemon looks at `waits` after it has put something, and
 *              wakes all. Both looks are after a full barrier.
 *   Order      Requests under way may be done in any order. FLUSH is of all writes whose end
 *              was told before it was submitted.
 *   Units      bytes; `offset`, and the bytes of each segment, are multiples of the disk's block
 *   size.
 */
#ifndef UVMM_DISK_RING_H
#define UVMM_DISK_RING_H

#include <stdint.h>

#define UVMM_DISK_SLOTS 256u            /* a power of two */
#define UVMM_DISK_SEGMENTS 16u          /* in one request */
#define UVMM_DISK_BYTES_MAX (4u << 20)  /* of one request's segments together */
#define UVMM_DISKS_MAX 16u              /* of one guest */
#define UVMM_DISK_NAME_MAX 31u          /* bytes, without NUL */

enum uvmm_disk_op {
	UVMM_DISK_READ = 1,     /* into the segments */
	UVMM_DISK_WRITE = 2,    /* from the segments */
	UVMM_DISK_FLUSH = 3,    /* no place, no segments */
	UVMM_DISK_DISCARD = 4,  /* `bytes` from `offset`, which read as zeros then; no segments */
};

struct uvmm_disk_segment {
	uint64_t address;       /* in guest physical memory, from 0 */
	uint32_t bytes;         /* > 0 */
	uint32_t reserved;      /* 0 */
};

struct uvmm_disk_request {
	uint64_t cookie;        /* the guest's own, given back in `done` */
	uint64_t offset;
	uint64_t bytes;         /* of the segments together, or of DISCARD */
	uint32_t disk;          /* its number, from DISK_INFO */
	uint16_t op;            /* enum uvmm_disk_op */
	uint16_t segments;      /* how many */
};

struct uvmm_disk_done {
	uint64_t cookie;
	int32_t status;         /* 0: all of it was done; or a negative errno: of a read or
				 * write any part may have been */
	uint32_t reserved;
};

struct uvmm_disk_ring {
	/* The guest writes: */
	_Alignas(64) uint32_t submitted;
	uint32_t done_taken;
	uint32_t waits;
	/* The daemon writes: */
	_Alignas(64) uint32_t taken;
	uint32_t done_put;
	uint32_t sleeps;
	_Alignas(64) struct uvmm_disk_request request[UVMM_DISK_SLOTS];
	struct uvmm_disk_segment segment[UVMM_DISK_SLOTS][UVMM_DISK_SEGMENTS];
	struct uvmm_disk_done done[UVMM_DISK_SLOTS];
};

#endif /* UVMM_DISK_RING_H */
