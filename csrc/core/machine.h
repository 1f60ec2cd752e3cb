/* SPDX-License-Identifier: MIT
 *
 * machine - machine memory: a tmpfs of the daemon's own with large pages, one
 * file a guest and one a page map.
 *
 *   Units    pages. Errors 0 or -errno.
 *   Threads  start and stop are exclusive, the others may be called by any.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct machine {
	char dir[240];          /* mount point; immutable after start */
	int dirfd;
	bool mounted;
	bool mends_large;       /* a large page that was mapped page by page is mapped as one
				 * again once it was unmapped as a whole (Linux 6.14) */
};

/* Mounts the tmpfs at <run_dir>/machine (0700), `pages` large. Large pages through
 * FUSE mappings also need the system's setting shmem_enabled to be `advise` or
 * more, which is the caller's to see to. */
int machine_start(struct machine *m, const char *run_dir, uint64_t pages, char *err,
		  size_t err_bytes);
void machine_stop(struct machine *m);

/* A new empty file, read-write, sparse, of no name: mappings of such a file are
 * anonymous shared memory to the kernel, whose sizes of pages can be chosen each.
 * The caller owns the descriptor. */
int machine_create(const struct machine *m, uint64_t pages, int *fd);

/* Pages that the kernel says the tmpfs holds. */
uint64_t machine_used_pages(const struct machine *m);
/* Pages of one file. */
uint64_t machine_file_pages(int fd);
/* Pages with data in [lo, hi) of a file. Quick. */
uint64_t machine_range_pages(int fd, uint64_t lo, uint64_t hi);
/* The same where the kernel has no such call (Linux 6.4), too. */
uint64_t machine_count_pages(int fd, uint64_t lo, uint64_t hi);
/* The first page with data at or after ppn; UINT64_MAX if there is none. */
uint64_t machine_seek_data(int fd, uint64_t ppn);
/* The next run of pages with data in [*lo, end) of a file, as [*lo, *hi); false if
 * there is none. */
bool machine_next_data(int fd, uint64_t *lo, uint64_t *hi, uint64_t end);
/* Pages resident in this process besides those of a tmpfs. */
uint64_t machine_daemon_pages(void);

#endif /* MACHINE_H */
