/* SPDX-License-Identifier: MIT
 *
 * disk - virtual disks of a guest: images that `uvmm run --disk NAME=FILE[,ro]` gave it, as
 * block devices.
 *
 *   Buffers lie in guest memory (uvmm_alloc), at any address: the daemon's devices read and
 *   write them there. They are not to be freed or discarded before the request is done.
 *   Offsets, and the size of each buffer, are multiples of the disk's block size, which is 512 bytes or more.
 *
 *   Requests may be done in any order. A flush is of all writes that were done before it was
 *   begun: when it returns 0 they are on disk; those still under way may be.
 *   What is read while it is written is either, or of blocks a mixture. Of a
 *   request that fails any part may have been done.
 *
 *   Threads  Every call may be made by any thread at any time, but a close while another
 *            call uses that disk.
 *   fork     A child must not use disks.
 *   Errors   A negative errno; uvmm_error() has it in words. From any call with I/O:
 *            what the image's filesystem says (-EIO, -ENOSPC, ...), and
 *   -EINVAL       not whole blocks, or a buffer that is not in guest memory
 *   -EIO          a read beyond the end, also of an image that was cut since
 *   -ENOSPC       a write beyond the end      -EROFS  a write to what is read-only
 *   -ECONNRESET   the daemon is gone
 *   Units    bytes.
 */
#ifndef UVMM_DISK_H
#define UVMM_DISK_H

#include "guest.h"

#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct uvmm_disk uvmm_disk;

/*   -ENOENT   the guest has no disk of that name
 *   -EPERM    the daemon has no io_uring    -ENOMEM, -EMFILE */
UVMM_PUBLIC int uvmm_disk_open(uvmm_guest *g, const char *name, uvmm_disk **out);
/* Waits for what is under way. */
UVMM_PUBLIC void uvmm_disk_close(uvmm_disk *d);

UVMM_PUBLIC uint64_t uvmm_disk_size_bytes(const uvmm_disk *d);
UVMM_PUBLIC uint32_t uvmm_disk_block_bytes(const uvmm_disk *d);
/* 1: it cannot be written. */
UVMM_PUBLIC int uvmm_disk_read_only(const uvmm_disk *d);

/* All of it, or an error. */
UVMM_PUBLIC int uvmm_disk_read(uvmm_disk *d, void *buffer, size_t bytes, uint64_t offset);
UVMM_PUBLIC int uvmm_disk_write(uvmm_disk *d, const void *buffer, size_t bytes,
				uint64_t offset);
UVMM_PUBLIC int uvmm_disk_readv(uvmm_disk *d, const struct iovec *v, int n, uint64_t offset);
UVMM_PUBLIC int uvmm_disk_writev(uvmm_disk *d, const struct iovec *v, int n, uint64_t offset);
UVMM_PUBLIC int uvmm_disk_flush(uvmm_disk *d);
/* The range reads as zeros from now, and its space in the image is free.
 *   -EOPNOTSUPP  the image's filesystem cannot */
UVMM_PUBLIC int uvmm_disk_discard(uvmm_disk *d, uint64_t offset, uint64_t bytes);

/* --- asynchronous requests -------------------------------------------------- */

enum uvmm_disk_what {
	UVMM_DISK_DO_READ = 1,
	UVMM_DISK_DO_WRITE = 2,
	UVMM_DISK_DO_FLUSH = 3,         /* no v */
	UVMM_DISK_DO_DISCARD = 4,       /* no v; bytes */
};

/* The caller's, from submit until it was taken by uvmm_disk_wait, with v. */
struct uvmm_disk_task {
	enum uvmm_disk_what what;
	int n;
	const struct iovec *v;
	uint64_t offset, bytes;         /* bytes: of a discard, else set by submit */
	void *user;                     /* the caller's own */
	int status;                     /* when it was taken: 0 or a negative errno */
	/* The library's own: */
	uvmm_disk *disk;
	struct uvmm_disk_task *next;
	uint32_t under_way;
	int at_segment;
	uint64_t at, sent;
	int wanted;
};

/* Begins n tasks; they are as many as memory holds. None is begun if one is refused. */
UVMM_PUBLIC int uvmm_disk_submit(uvmm_disk *d, struct uvmm_disk_task *const *tasks,
				 unsigned n);
/* Takes up to `room` tasks of this disk that are done, and waits for `least` of them; in
 * ms milliseconds at most, -1: without end. How many. */
UVMM_PUBLIC int uvmm_disk_wait(uvmm_disk *d, struct uvmm_disk_task **tasks, unsigned room,
			       unsigned least, int ms);

#ifdef __cplusplus
}
#endif

#endif /* UVMM_DISK_H */
