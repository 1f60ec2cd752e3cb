/* SPDX-License-Identifier: MIT
 * The public calls of uvmm/disk.h. */
#include "uvmm/disk.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "disk_link.h"

int uvmm_disk_open(uvmm_guest *g, const char *name, uvmm_disk **out)
{
	struct uvmm_disk_info info;
	struct uvmm_disk *d;
	int rc;

	*out = NULL;
	guest_succeed();
	if (strlen(name) > UVMM_DISK_NAME_MAX)
		return guest_fail(-ENOENT, "a disk's name has at most %u bytes",
				  UVMM_DISK_NAME_MAX);
	rc = guest_find_disk(g, name, &info);
	if (rc)
		return rc;
	d = calloc(1, sizeof(*d));
	if (!d)
		return guest_fail(-ENOMEM, "no memory");
	strcpy(d->name, name);
	d->size_bytes = info.size_bytes;
	d->block_bytes = info.block_bytes;
	d->number = info.disk;
	d->read_only = (int)info.read_only;
	rc = disk_link_get(g, &d->link);
	if (rc)
		free(d);
	else
		*out = d;
	return rc;
}

void uvmm_disk_close(uvmm_disk *d)
{
	if (!d)
		return;
	disk_link_settle(d);
	free(d);
}

uint64_t uvmm_disk_size_bytes(const uvmm_disk *d)
{
	return d->size_bytes;
}

uint32_t uvmm_disk_block_bytes(const uvmm_disk *d)
{
	return d->block_bytes;
}

int uvmm_disk_read_only(const uvmm_disk *d)
{
	return d->read_only;
}

/* --- what may be asked --------------------------------------------------------------- */

static int check_buffers(const uvmm_disk *d, struct uvmm_disk_task *t)
{
	uint64_t sum = 0;
	int i;

	if (t->n < 0 || (t->n && !t->v))
		return guest_fail(-EINVAL, "disk %s: %d buffers", d->name, t->n);
	for (i = 0; i < t->n; i++) {
		if (t->v[i].iov_len % d->block_bytes)
			return guest_fail(-EINVAL, "disk %s: a buffer of %zu bytes is not of whole blocks of %u bytes",
					  d->name, t->v[i].iov_len, d->block_bytes);
		if (t->v[i].iov_len && !guest_has(disk_link_guest(d->link), t->v[i].iov_base,
						  t->v[i].iov_len))
			return guest_fail(-EINVAL,
					  "disk %s: %zu bytes at %p are not in guest memory (uvmm_alloc)",
					  d->name, t->v[i].iov_len, t->v[i].iov_base);
		sum += t->v[i].iov_len;
	}
	t->bytes = sum;
	return 0;
}

static int check_place(const uvmm_disk *d, const struct uvmm_disk_task *t)
{
	bool reads = t->what == UVMM_DISK_DO_READ;

	if (t->offset % d->block_bytes || t->bytes % d->block_bytes)
		return guest_fail(-EINVAL,
				  "disk %s: %llu bytes at %llu are not whole blocks of %u bytes",
				  d->name, (unsigned long long)t->bytes,
				  (unsigned long long)t->offset, d->block_bytes);
	if (!reads && d->read_only)
		return guest_fail(-EROFS, "disk %s is read-only", d->name);
	if (t->offset > d->size_bytes || t->bytes > d->size_bytes - t->offset)
		return guest_fail(reads ? -EIO : -ENOSPC,
				  "disk %s: %llu bytes at %llu go beyond its end at %llu", d->name,
				  (unsigned long long)t->bytes, (unsigned long long)t->offset,
				  (unsigned long long)d->size_bytes);
	return 0;
}

static int check(const uvmm_disk *d, struct uvmm_disk_task *t)
{
	int rc = 0;

	switch (t->what) {
	case UVMM_DISK_DO_READ:
	case UVMM_DISK_DO_WRITE:
		rc = check_buffers(d, t);
		return rc ? rc : check_place(d, t);
	case UVMM_DISK_DO_FLUSH:
		t->v = NULL;
		t->offset = t->bytes = 0;
		return 0;
	case UVMM_DISK_DO_DISCARD:
		t->v = NULL;
		return t->bytes ? check_place(d, t) :
				  guest_fail(-EINVAL, "disk %s: 0 bytes to discard", d->name);
	}
	return guest_fail(-EINVAL, "disk %s: no such operation: %d", d->name, (int)t->what);
}

/* --- calls ----------------------------------------------------------------------------- */

int uvmm_disk_submit(uvmm_disk *d, struct uvmm_disk_task *const *tasks, unsigned n)
{
	unsigned i;
	int rc = 0;

	guest_succeed();
	for (i = 0; i < n && !rc; i++) {
		tasks[i]->wanted = 0;
		rc = check(d, tasks[i]);
	}
	if (!rc)
		disk_link_begin(d, tasks, n);
	return rc;
}

int uvmm_disk_wait(uvmm_disk *d, struct uvmm_disk_task **tasks, unsigned room, unsigned least,
		   int ms)
{
	guest_succeed();
	return disk_link_wait(d, tasks, room, least, ms);
}

static const char *status_words(int status)
{
	return status == -ECONNRESET ? "the daemon is gone" : strerror(-status);
}

static int do_one(uvmm_disk *d, struct uvmm_disk_task *t)
{
	struct uvmm_disk_task *const tasks[1] = { t };
	int rc;

	guest_succeed();
	t->wanted = 1;
	rc = check(d, t);
	if (rc)
		return rc;
	disk_link_begin(d, tasks, 1);
	rc = disk_link_finish(d, t);
	return rc ? guest_fail(rc, "disk %s: %s", d->name, status_words(rc)) : 0;
}

int uvmm_disk_readv(uvmm_disk *d, const struct iovec *v, int n, uint64_t offset)
{
	struct uvmm_disk_task t = { .what = UVMM_DISK_DO_READ, .v = v, .n = n, .offset = offset };

	return do_one(d, &t);
}

int uvmm_disk_writev(uvmm_disk *d, const struct iovec *v, int n, uint64_t offset)
{
	struct uvmm_disk_task t = { .what = UVMM_DISK_DO_WRITE, .v = v, .n = n, .offset = offset };

	return do_one(d, &t);
}

int uvmm_disk_read(uvmm_disk *d, void *buffer, size_t bytes, uint64_t offset)
{
	struct iovec v = { buffer, bytes };

	return uvmm_disk_readv(d, &v, 1, offset);
}

int uvmm_disk_write(uvmm_disk *d, const void *buffer, size_t bytes, uint64_t offset)
{
	struct iovec v = { (void *)(uintptr_t)buffer, bytes };

	return uvmm_disk_writev(d, &v, 1, offset);
}

int uvmm_disk_flush(uvmm_disk *d)
{
	struct uvmm_disk_task t = { .what = UVMM_DISK_DO_FLUSH };

	return do_one(d, &t);
}

int uvmm_disk_discard(uvmm_disk *d, uint64_t offset, uint64_t bytes)
{
	struct uvmm_disk_task t = { .what = UVMM_DISK_DO_DISCARD, .offset = offset,
				    .bytes = bytes };

	return do_one(d, &t);
}
