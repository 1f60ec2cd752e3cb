/* SPDX-License-Identifier: MIT
 *
 * disk - the virtual disks of a guest: images that whoever started it has opened, and the
 * thread that serves its ring of requests (uvmm/disk_ring.h, disk_io.h).
 *
 *   Images are added while the guest lives, and closed after it. The thread runs from the
 *   guest's first START until the guest is detached; a program that executes
 *   another starts it anew.
 *
 *   Units    bytes. Errors 0 or a negative errno.
 *   Threads  any. disks.lock is a leaf.
 */
#ifndef DISK_H
#define DISK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ring.h"
#include "uvmm/protocol.h"

struct uvmm_engine;
struct guest;
struct disk_io;

struct disk_image {
	char name[UVMM_DISK_NAME_MAX + 1];
	int fd;
	uint32_t memory_align;          /* of what a device may reach without a copy */
};

struct disks {
	pthread_mutex_t lock;           /* guards adding, and io */
	_Atomic uint32_t count;         /* those below it are immutable */
	struct ring_disk limit[UVMM_DISKS_MAX];
	struct disk_image image[UVMM_DISKS_MAX];
	struct disk_io *io;             /* NULL: no ring */

	/* Counters since the guest was made. */
	_Atomic uint64_t reads, writes, flushes, discards, errors;
	_Atomic uint64_t read_bytes, written_bytes;
	_Atomic uint64_t copied_bytes;  /* of these, through a bounce buffer */
	_Atomic uint64_t direct_bytes;  /* and without */
	_Atomic uint64_t hot_pages;     /* now: copied again and again (heat.h) */
};

void disks_init(struct disks *d);

/* Takes fd over if it succeeds: then it is the guest's disk of that name.
 *   -EINVAL  no or a bad name, no file or block device, not open so, smaller than a block
 *   -EEXIST  it has one of that name    -ENOSPC  it has UVMM_DISKS_MAX
 * with words in why */
int disks_add(struct disks *d, const struct uvmm_disk_add *a, int fd,
	      char why[UVMM_TEXT_BYTES]);
/* -ENOENT */
int disks_find(struct disks *d, const char *name, struct uvmm_disk_info *out);
/* The guest's ring, which is made first if there is none: descriptors of its memory and of
 * what wakes its thread, both of the daemon's. The caller has entered the guest.
 *   -ENOENT  it has no disks   -ENOMEM, -EMFILE, -EPERM (no io_uring), ... */
int disks_start(struct uvmm_engine *e, struct guest *g, int *memory_fd, int *wake_fd);
/* Of a guest that is detached: ends the thread, and what is under way. */
void disks_stop(struct guest *g);
/* Of a guest that has gone. */
void disks_close(struct disks *d);

#endif /* DISK_H */
