/* SPDX-License-Identifier: MIT */
#include "disk.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk_io.h"
#include "engine.h"
#include "locks.h"
#include "session.h"

#define USUAL_BLOCK 512u

void disks_init(struct disks *d)
{
	memset(d, 0, sizeof(*d));
	pthread_mutex_init(&d->lock, NULL);
}

static int refuse(char *why, int rc, const char *name, const char *what)
{
	snprintf(why, UVMM_TEXT_BYTES, "disk %.31s: %.180s", name, what);
	return rc;
}

static bool is_name(const char *name)
{
	size_t i, n = strnlen(name, UVMM_DISK_NAME_MAX + 1);

	for (i = 0; i < n; i++)
		if (!isgraph((unsigned char)name[i]) || name[i] == '/')
			return false;
	return n && n <= UVMM_DISK_NAME_MAX;
}

static bool is_block_size(uint64_t bytes)
{
	return bytes && bytes <= UVMM_PAGE_SIZE && !(bytes & (bytes - 1));
}

static void measure_device(int fd, struct ring_disk *d)
{
	uint64_t bytes;
	int block;

	if (!ioctl(fd, BLKGETSIZE64, &bytes))
		d->size_bytes = bytes;
	if (!ioctl(fd, BLKSSZGET, &block) && block > 0 && is_block_size((uint64_t)block))
		d->block_bytes = (uint32_t)block;
}

/* What the kernel knows without asking whoever may serve the file: he could let us wait.
 * -EINVAL: it is nothing that could be a disk. */
static int measure(int fd, struct ring_disk *d, uint32_t *memory_align)
{
	unsigned want = STATX_TYPE | STATX_SIZE;
	struct statx st;

#ifdef STATX_DIOALIGN
	want |= STATX_DIOALIGN;
#endif
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, want, &st))
		return -errno;
	*memory_align = USUAL_BLOCK;
	d->block_bytes = USUAL_BLOCK;
	d->size_bytes = st.stx_size;
	if (S_ISBLK(st.stx_mode))
		measure_device(fd, d);
	else if (!S_ISREG(st.stx_mode))
		return -EINVAL;
#ifdef STATX_DIOALIGN
	if (st.stx_mask & STATX_DIOALIGN) {
		if (is_block_size(st.stx_dio_offset_align) &&
		    st.stx_dio_offset_align > d->block_bytes)
			d->block_bytes = st.stx_dio_offset_align;
		if (is_block_size(st.stx_dio_mem_align))
			*memory_align = st.stx_dio_mem_align;
	}
#endif
	d->size_bytes -= d->size_bytes % d->block_bytes;
	return 0;
}

static int check_add(const struct uvmm_disk_add *a, int fd, char *why)
{
	int flags = fcntl(fd, F_GETFL), access;

	if (!is_name(a->name) || a->read_only > 1 || a->reserved) {
		snprintf(why, UVMM_TEXT_BYTES, "a disk's name has 1 to %u visible characters, none of them '/'",
			 UVMM_DISK_NAME_MAX);
		return -EINVAL;
	}
	if (flags < 0 || flags & O_PATH)
		return refuse(why, -EINVAL, a->name, "its image is not open");
	access = flags & O_ACCMODE;
	if (a->read_only ? access == O_WRONLY : access != O_RDWR)
		return refuse(why, -EINVAL, a->name, a->read_only ?
			      "its image is not open for reading" :
			      "its image is not open for reading and writing");
	return 0;
}

static int add_locked(struct disks *d, const struct uvmm_disk_add *a, int fd,
		      const struct ring_disk *limit, uint32_t align, char *why)
{
	uint32_t n = atomic_load(&d->count), i;

	for (i = 0; i < n; i++)
		if (!strcmp(d->image[i].name, a->name))
			return refuse(why, -EEXIST, a->name, "the guest has one of that name");
	if (n == UVMM_DISKS_MAX)
		return refuse(why, -ENOSPC, a->name, "the guest has 16 disks, the most there can be");
	d->limit[n] = *limit;
	d->image[n] = (struct disk_image){ .fd = fd, .memory_align = align };
	memcpy(d->image[n].name, a->name, sizeof(a->name));
	atomic_store(&d->count, n + 1);
	return 0;
}

int disks_add(struct disks *d, const struct uvmm_disk_add *a, int fd,
	      char why[UVMM_TEXT_BYTES])
{
	struct ring_disk limit = { .read_only = a->read_only };
	uint32_t align;
	int rc = check_add(a, fd, why);

	if (rc)
		return rc;
	if (measure(fd, &limit, &align))
		return refuse(why, -EINVAL, a->name, "its image is neither a file nor a block device");
	if (!limit.size_bytes)
		return refuse(why, -EINVAL, a->name, "its image is smaller than a block");
	lock(&d->lock);
	rc = add_locked(d, a, fd, &limit, align, why);
	unlock(&d->lock);
	return rc;
}

int disks_find(struct disks *d, const char *name, struct uvmm_disk_info *out)
{
	uint32_t n = atomic_load(&d->count), i;

	for (i = 0; i < n && strncmp(d->image[i].name, name, UVMM_DISK_NAME_MAX + 1); i++)
		;
	if (i == n)
		return -ENOENT;
	*out = (struct uvmm_disk_info){
		.size_bytes = d->limit[i].size_bytes,
		.block_bytes = d->limit[i].block_bytes,
		.disk = i,
		.read_only = d->limit[i].read_only,
	};
	return 0;
}

int disks_start(struct uvmm_engine *e, struct guest *g, int *memory_fd, int *wake_fd)
{
	struct disks *d = &g->disks;
	int rc = 0;

	if (!atomic_load(&d->count))
		return -ENOENT;
	lock(&d->lock);
	if (!d->io)
		rc = disk_io_start(e, g, &d->io);
	if (!rc)
		disk_io_descriptors(d->io, memory_fd, wake_fd);
	unlock(&d->lock);
	return rc;
}

void disks_stop(struct guest *g)
{
	struct disk_io *io;

	lock(&g->disks.lock);
	io = g->disks.io;
	g->disks.io = NULL;
	unlock(&g->disks.lock);
	disk_io_stop(io);
}

void disks_close(struct disks *d)
{
	uint32_t n = atomic_exchange(&d->count, 0), i;

	for (i = 0; i < n; i++)
		packet_close_apart(d->image[i].fd);
	pthread_mutex_destroy(&d->lock);
}
