/* SPDX-License-Identifier: MIT
 *
 * disk_io - the thread that serves a guest's ring of disk requests by io_uring.
 *
 *   A request is done in pieces: each is one run of memory that the device reaches, a bounce
 *   buffer of the thread's own, which is registered once. What is read is copied to the
 *   guest when it is there, what is written before it is sent (transfer.h). A guest has
 *   its own thread and buffers, so that one which waits for its memory, or for a slow or
 *   dead image, keeps nobody else.
 *
 *   Life of a request: taken from the ring -> issuing, while pieces are to be made (it stays so
 *   while no buffer is free, and nothing else is taken) -> under way -> put. The first error
 *   is what is told; no further pieces are made then.
 *
 *   Errors   0 or a negative errno.
 *   Threads  start, descriptors and stop by one at a time.
 */
#ifndef DISK_IO_H
#define DISK_IO_H

struct uvmm_engine;
struct guest;
struct disk_io;

/* -ENOMEM, -EPERM or -ENOSYS (the kernel lets nobody have io_uring), ... */
int disk_io_start(struct uvmm_engine *e, struct guest *g, struct disk_io **out);
/* The ring's memory and the event to write to: the daemon's, valid until stop. */
void disk_io_descriptors(const struct disk_io *d, int *memory_fd, int *wake_fd);
/* The guest is detached. What a device has under way still is waited for, but not for ever.
 * NULL: nothing. */
void disk_io_stop(struct disk_io *d);

#endif /* DISK_IO_H */
