/* SPDX-License-Identifier: MIT
 *
 * disk_link - a guest's end of its ring of disk requests (uvmm/disk_ring.h): tasks go in as
 * far as there are slots, wait in a queue else, and come out done.
 *
 *   A task of more pieces than a request may have becomes several requests. Whoever waits for
 *   a task of his takes everybody's out of the ring.
 *
 *   Threads  any. Its lock is a leaf, not held while anybody sleeps.
 *   Errors   0 or a negative errno.
 */
#ifndef DISK_LINK_H
#define DISK_LINK_H

#include "guest_memory.h"
#include "uvmm/disk.h"
#include "uvmm/disk_ring.h"

struct disk_link;

/* One for a guest, made when it is first asked for.  With words for uvmm_error(). */
int disk_link_get(uvmm_guest *g, struct disk_link **out);

uvmm_guest *disk_link_guest(const struct disk_link *l);

struct uvmm_disk {
	struct disk_link *link;
	char name[UVMM_DISK_NAME_MAX + 1];
	uint64_t size_bytes;
	uint32_t block_bytes;
	uint32_t number;
	int read_only;
	/* Guarded by the link's lock: */
	struct uvmm_disk_task *done, *last_done;        /* to be taken */
	uint32_t tasks;                                 /* begun, and not done */
};

/* Begins n sound tasks of d, whose `disk` is set. */
void disk_link_begin(struct uvmm_disk *d, struct uvmm_disk_task *const *tasks, unsigned n);
/* Waits until it is done, and its status. */
int disk_link_finish(struct uvmm_disk *d, struct uvmm_disk_task *task);
/* As uvmm_disk_wait(). */
int disk_link_wait(struct uvmm_disk *d, struct uvmm_disk_task **tasks, unsigned room,
		   unsigned least, int ms);
/* Waits until d has nothing under way. */
void disk_link_settle(struct uvmm_disk *d);

#endif /* DISK_LINK_H */
