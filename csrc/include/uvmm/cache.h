/* SPDX-License-Identifier: MIT
 *
 * cache - a guest's file cache: files read and written through guest memory.
 *
 *   The kernel's page cache is not the guest's: what a guest reads often costs the host
 *   memory that no policy divides. Files opened here are cached in pages of guest
 *   memory instead. The cache takes pages while there are free ones, and gives the
 *   least valuable ones back when the daemon or the program wants memory.
 *
 *   Files    Regular ones. All that a process has open of one file, by whatever name,
 *            see the same contents. What other processes change in it is seen once
 *            nobody in this one has it open; what they read is what was written
 *            back. They are read and written by O_DIRECT where the filesystem has
 *            it, else without leaving them in the kernel's page cache.
 *   Safety   What was written is on disk when uvmm_file_flush() returns 0. It is
 *            written back by itself within seconds, and when the process exits by
 *            exit(); not when it is killed or calls _exit(). When writing back
 *            fails (-ENOSPC, -EIO) the pages are kept and tried again; the next
 *            flush or close of each handle reports it, once. After the last close
 *            that did, they may be given up when memory is short.
 *   Threads  Every call may be made by any thread at any time, but a close while
 *            another call uses that handle. read() and write() of one handle
 *            follow one another, as writes to one file do.
 *   fork     A child must not use the cache nor its handles.
 *   Errors   A negative errno; uvmm_error() has it in words. What may come from any
 *            call that reads or writes is not named: errors of the disk, and -ENOMEM:
 *            no ordinary memory for tables. No guest memory is no error: the file
 *            is then read and written past the cache.
 *   Units    bytes where the name says bytes, else pages of 4 KiB.
 */
#ifndef UVMM_CACHE_H
#define UVMM_CACHE_H

#include "guest.h"

#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct uvmm_cache uvmm_cache;
typedef struct uvmm_file uvmm_file;

struct uvmm_cache_bounds {
	uint64_t min_pages;     /* kept under pressure */
	uint64_t max_pages;     /* 0: guest memory */
};

/* Makes a cache; bounds may be NULL: neither. One is enough for a process: two do not
 * know of each other's files.
 *   -EINVAL  min_pages is over max_pages, or over guest memory
 *   -ENOMEM, -ENOSPC  no memory, thread; 16 pressure callbacks are there already */
UVMM_PUBLIC int uvmm_cache_create(uvmm_guest *g, const struct uvmm_cache_bounds *bounds,
				  uvmm_cache **out);
/* Writes back, flushes and frees all of it. An error of that is returned: what could not
 * be written is lost.
 *   -EBUSY   a file is open; nothing was done */
UVMM_PUBLIC int uvmm_cache_destroy(uvmm_cache *c);

/* As uvmm_file_flush for all files. The first error; the others are tried all the same. */
UVMM_PUBLIC int uvmm_cache_flush(uvmm_cache *c);
/* Gives up to so many pages back to the page allocator, least valuable first, clean ones
 * before dirty ones, which are written back; returns how many. */
UVMM_PUBLIC uint64_t uvmm_cache_shrink(uvmm_cache *c, uint64_t pages);

/* Opens a file; flags and mode as for open(2). O_SYNC and O_DSYNC flush after each
 * write. A file that is opened for writing must be readable too.
 *   -EINVAL  not a regular file; O_PATH      -EISDIR, and others as open(2) */
UVMM_PUBLIC int uvmm_file_open(uvmm_cache *c, const char *path, int flags, mode_t mode,
			       uvmm_file **out);
/* Opens a virtual disk (uvmm/disk.h) as one file, of the disk's size, which cannot be
 * changed: for those who would have a file system of their own on it. Flags: how it is
 * accessed, O_SYNC, O_DSYNC. The disk must not be written past the cache meanwhile. A write
 * beyond the end is -ENOSPC.
 *   -ENOENT, ...  as uvmm_disk_open    -EROFS  to be written, and read-only
 *   -EINVAL       other flags, or another size */
UVMM_PUBLIC int uvmm_file_open_disk(uvmm_cache *c, const char *disk, int flags,
				    uvmm_file **out);
/* Frees the handle, whatever it returns: an error of writing back that no call of this
 * handle has reported. Does not wait for anything to be written. */
UVMM_PUBLIC int uvmm_file_close(uvmm_file *f);

/* As the calls of the C library: how many bytes, fewer at the end of the file or when an
 * error comes after some.
 *   -EBADF   not opened for that      -EINVAL  offset < 0, whence
 *   -EFBIG   an end beyond 2^63 - 1 */
UVMM_PUBLIC ssize_t uvmm_file_read(uvmm_file *f, void *buffer, size_t bytes);
UVMM_PUBLIC ssize_t uvmm_file_write(uvmm_file *f, const void *buffer, size_t bytes);
UVMM_PUBLIC ssize_t uvmm_file_pread(uvmm_file *f, void *buffer, size_t bytes, int64_t offset);
UVMM_PUBLIC ssize_t uvmm_file_pwrite(uvmm_file *f, const void *buffer, size_t bytes,
				     int64_t offset);
UVMM_PUBLIC ssize_t uvmm_file_preadv(uvmm_file *f, const struct iovec *v, int n, int64_t offset);
UVMM_PUBLIC ssize_t uvmm_file_pwritev(uvmm_file *f, const struct iovec *v, int n,
				      int64_t offset);
/* whence: SEEK_SET, SEEK_CUR, SEEK_END. The new position. */
UVMM_PUBLIC int64_t uvmm_file_seek(uvmm_file *f, int64_t offset, int whence);
UVMM_PUBLIC int64_t uvmm_file_size(uvmm_file *f);
UVMM_PUBLIC int uvmm_file_truncate(uvmm_file *f, int64_t bytes);
/* When it returns 0, all that was written to the file before is on disk. An error: of
 * this, or one of writing back before that no call of this handle has reported. */
UVMM_PUBLIC int uvmm_file_flush(uvmm_file *f);

/* A look at a cached page without a copy: *page is the place of page `index` of the file
 * in guest memory, to be read until uvmm_file_unpin(f, *page); *bytes how many of it
 * are the file's. It stays in the cache, not in machine memory (uvmm_pin), meanwhile.
 * Later writes to the page are seen in it.
 *   -ENODATA  beyond the end of the file    -ENOMEM  no page for it
 *   -EBADF    not opened for reading */
UVMM_PUBLIC int uvmm_file_pin(uvmm_file *f, uint64_t index, const void **page, size_t *bytes);
UVMM_PUBLIC int uvmm_file_unpin(uvmm_file *f, const void *page);

struct uvmm_cache_statistics {
	uint64_t min_pages, max_pages;
	uint64_t pages;         /* of guest memory that it holds */
	uint64_t dirty_pages;   /* of these, not written back yet */
	uint64_t files;         /* open, or with pages */
	uint64_t hits, misses;  /* pages that calls found in the cache, or did not */
	uint64_t ghost_hits;    /* of the pages that came, those evicted shortly before */
	uint64_t evicted;       /* pages, for others or given back */
	uint64_t read_pages, written_pages;     /* from and to the disk */
	uint64_t ahead_pages, ahead_used;       /* read ahead; and then used */
	uint64_t given_pages;   /* given back: to the daemon, the program, uvmm_cache_shrink */
	uint64_t lost_pages;    /* given up unwritten, after their error was reported */
	uint64_t write_errors;  /* of writing back */
};

UVMM_PUBLIC void uvmm_cache_get_statistics(uvmm_cache *c, struct uvmm_cache_statistics *out);

#ifdef __cplusplus
}
#endif

#endif /* UVMM_CACHE_H */
