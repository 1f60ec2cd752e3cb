/* SPDX-License-Identifier: MIT */
#include "cache_plain.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "kept.h"
#include "uvmm/protocol.h"

#ifndef RWF_DONTCACHE
#define RWF_DONTCACHE 0x80
#endif

struct plain {
	struct kept_fd fd;
	struct kept_fd direct;          /* -1: none */
	struct bounces *bounces;
	struct cache_slab *plains;      /* that it is of */
	_Atomic bool no_direct;         /* it was refused when used */
	_Atomic bool no_dontcache;
};

/* --- moving bytes ------------------------------------------------------------ */

static ssize_t once(struct plain *p, bool direct, bool writes, char *at, size_t bytes,
		    off_t offset)
{
	struct iovec v = { .iov_base = at, .iov_len = bytes };
	const struct kept_fd *k = direct ? &p->direct : &p->fd;
	int flags = direct || atomic_load(&p->no_dontcache) ? 0 : RWF_DONTCACHE;
	ssize_t n;

	if (!kept_is_ours(k))
		return -EBADF;
	n = writes ? pwritev2(k->fd, &v, 1, offset, flags) :
		     preadv2(k->fd, &v, 1, offset, flags);
	if (n < 0 && errno == EOPNOTSUPP && flags) {
		atomic_store(&p->no_dontcache, true);
		return -EAGAIN;
	}
	return n < 0 ? -errno : n;
}

/* All of it; for reading, up to the file's end. By O_DIRECT it may end earlier, where it
 * cannot go on: within a block. How many bytes. */
static ssize_t move(struct plain *p, bool direct, bool writes, char *at, size_t bytes,
		    off_t offset)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = once(p, direct, writes, at + done, bytes - done,
				 offset + (off_t)done);

		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n < 0)
			return n;
		if (!n && writes)
			return -EIO;
		if (!n)
			break;
		done += (size_t)n;
		if (direct && done % CACHE_PAGE_BYTES)
			break;
	}
	return (ssize_t)done;
}

static void forget(struct plain *p, off_t offset, size_t bytes)
{
	if (atomic_load(&p->no_dontcache) && kept_is_ours(&p->fd))
		posix_fadvise(p->fd.fd, offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

static bool is_direct(const struct plain *p)
{
	return p->direct.fd >= 0 && !atomic_load(&p->no_direct);
}

/* What goes by O_DIRECT: how many bytes; 0 if none. */
static ssize_t move_direct(struct plain *p, bool writes, char *at, size_t bytes, off_t offset)
{
	ssize_t n;

	if (!is_direct(p) || !bytes)
		return 0;
	n = move(p, true, writes, at, bytes, offset);
	if (n != -EINVAL)
		return n;
	atomic_store(&p->no_direct, true);
	return 0;
}

static ssize_t fill(struct plain *p, char *at, size_t bytes, off_t offset)
{
	ssize_t done = move_direct(p, false, at, bytes, offset), n = 0;

	if (done < 0 || (size_t)done == bytes)
		return done;
	/* The rest, or that it is the end. */
	n = move(p, false, false, at + done, bytes - (size_t)done, offset + done);
	forget(p, offset + done, bytes - (size_t)done);
	return n < 0 ? n : done + n;
}

static int store(struct plain *p, char *at, size_t bytes, off_t offset)
{
	size_t whole = bytes / CACHE_PAGE_BYTES * CACHE_PAGE_BYTES;
	ssize_t done = move_direct(p, true, at, whole, offset), n;

	if (done < 0 || (size_t)done == bytes)
		return done < 0 ? (int)done : 0;
	n = move(p, false, true, at + done, bytes - (size_t)done, offset + done);
	if (n < 0)
		return (int)n;
	/* Begun, so that it can be dropped when it is flushed at the latest. */
	if (atomic_load(&p->no_dontcache))
		sync_file_range(p->fd.fd, offset + done, (off_t)bytes - done,
				SYNC_FILE_RANGE_WRITE);
	return 0;
}

/* --- a backend ---------------------------------------------------------------- */

static size_t bytes_before(const struct cache_run *r, uint64_t size_bytes)
{
	uint64_t from = r->index * CACHE_PAGE_BYTES, most = (uint64_t)r->pages * CACHE_PAGE_BYTES;

	if (size_bytes <= from)
		return 0;
	return (size_t)(size_bytes - from < most ? size_bytes - from : most);
}

static ssize_t plain_read(void *arg, const struct cache_run *r, uint64_t size_bytes)
{
	struct plain *p = arg;
	size_t valid = bytes_before(r, size_bytes), i;
	char *buffer = bounces_get(p->bounces);
	ssize_t n;

	if (!buffer)
		return -ENOMEM;
	n = fill(p, buffer, (size_t)r->pages * CACHE_PAGE_BYTES,
		 (off_t)(r->index * CACHE_PAGE_BYTES));
	if (n >= 0) {
		valid = valid < (size_t)n ? valid : (size_t)n;
		memset(buffer + valid, 0, (size_t)r->pages * CACHE_PAGE_BYTES - valid);
		for (i = 0; i < r->pages; i++)
			memcpy(r->at[i], buffer + i * CACHE_PAGE_BYTES, CACHE_PAGE_BYTES);
	}
	bounces_put(p->bounces, buffer);
	return n;
}

static int plain_write(void *arg, const struct cache_run *r, uint64_t size_bytes)
{
	struct plain *p = arg;
	size_t valid = bytes_before(r, size_bytes), i;
	char *buffer;
	int rc;

	if (!valid)
		return 0;
	buffer = bounces_get(p->bounces);
	if (!buffer)
		return -ENOMEM;
	for (i = 0; i * CACHE_PAGE_BYTES < valid; i++)
		memcpy(buffer + i * CACHE_PAGE_BYTES, r->at[i], CACHE_PAGE_BYTES);
	rc = store(p, buffer, valid, (off_t)(r->index * CACHE_PAGE_BYTES));
	bounces_put(p->bounces, buffer);
	return rc;
}

static int plain_flush(void *arg)
{
	struct plain *p = arg;

	if (!kept_is_ours(&p->fd))
		return -EBADF;
	if (fsync(p->fd.fd))
		return -errno;
	forget(p, 0, 0);
	return 0;
}

static int plain_resize(void *arg, uint64_t size_bytes)
{
	struct plain *p = arg;

	if (!kept_is_ours(&p->fd))
		return -EBADF;
	return ftruncate(p->fd.fd, (off_t)size_bytes) ? -errno : 0;
}

static int64_t as_ns(struct timespec t)
{
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static int plain_identify(void *arg, struct cache_identity *out, bool *gone)
{
	struct plain *p = arg;
	struct stat st;

	if (!kept_is_ours(&p->fd) || fstat(p->fd.fd, &st))
		return -EBADF;
	*out = (struct cache_identity){
		.size_bytes = (uint64_t)st.st_size,
		.modified_ns = as_ns(st.st_mtim),
		.changed_ns = as_ns(st.st_ctim),
	};
	*gone = !st.st_nlink;
	return 0;
}

static void plain_close(void *arg)
{
	struct plain *p = arg;

	kept_close(&p->direct);
	kept_close(&p->fd);
	cache_slab_put(p->plains, p);
}

/* --- opening ------------------------------------------------------------------ */

/* The file takes whole pages by O_DIRECT; where the kernel does not say, use will tell. */
static bool takes_pages(int fd)
{
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) || !(st.stx_mask & STATX_DIOALIGN))
		return true;
	return st.stx_dio_mem_align && st.stx_dio_mem_align <= CACHE_PAGE_BYTES &&
	       st.stx_dio_offset_align && st.stx_dio_offset_align <= CACHE_PAGE_BYTES;
}

/* The same file by O_DIRECT, or -1. */
static int open_direct(int fd, bool writable)
{
	char path[40];
	int direct;

	if (!takes_pages(fd))
		return -1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	direct = open(path, (writable ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	if (direct >= 0)
		lseek(direct, UVMM_DIRECT_MARK, SEEK_SET);
	return direct;
}

size_t cache_plain_bytes(void)
{
	return sizeof(struct plain);
}

int cache_plain_open(int fd, bool writable, struct cache_slab *plains, struct bounces *bounces,
		     struct cache_backend *out)
{
	static const struct cache_backend_ops ops = {
		.read = plain_read,
		.write = plain_write,
		.flush = plain_flush,
		.resize = plain_resize,
		.identify = plain_identify,
		.close = plain_close,
	};
	struct plain *p = cache_slab_get(plains);
	int direct;

	if (!p)
		return -ENOMEM;
	direct = open_direct(fd, writable);
	p->bounces = bounces;
	p->plains = plains;
	p->direct = direct < 0 ? (struct kept_fd){ .fd = -1 } : kept_take(direct);
	p->fd = kept_take(fd);
	*out = (struct cache_backend){ &ops, p, writable };
	return 0;
}
