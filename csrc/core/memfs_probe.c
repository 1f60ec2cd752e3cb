/* SPDX-License-Identifier: MIT
 *
 * The try-out of passthrough: a memory filesystem with one file, which lies on a
 * small tmpfs, as machine memory does.
 */
#include "memfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBE_INO 2
#define PROBE_NAME "probe"
#define PROBE_BYTES 4096u

struct probe {
	char dir[PATH_MAX];             /* a tmpfs is mounted here */
	char mnt[PATH_MAX + 8];         /* in it: the memory filesystem */
	char data[PATH_MAX + 8];        /* in it: the backing file */
};

static int refuse(char err[MEMFS_ERR_BYTES], int rc, const char *what, int cause)
{
	snprintf(err, MEMFS_ERR_BYTES, "%.180s: %s", what, strerrordesc_np(-cause));
	return rc;
}

static int probe_by_ino(void *ctx, uint64_t ino, struct memfs_file *out)
{
	(void)ctx;
	if (ino != PROBE_INO)
		return -ENOENT;
	*out = (struct memfs_file){
		.ino = PROBE_INO, .name = PROBE_NAME, .size_bytes = PROBE_BYTES,
		.uid = geteuid(), .gid = getegid(), .pid = getpid(),
	};
	return 0;
}

static int probe_by_name(void *ctx, const char *name, struct memfs_file *out)
{
	return strcmp(name, PROBE_NAME) ? -ENOENT : probe_by_ino(ctx, PROBE_INO, out);
}

static size_t probe_list(void *ctx, uint64_t after, struct memfs_file *out, size_t cap)
{
	return cap > 0 && after < PROBE_INO && !probe_by_ino(ctx, PROBE_INO, out);
}

static int probe_backing(void *ctx, uint64_t ino)
{
	const struct probe *p = ctx;
	int fd = open(p->data, O_RDWR | O_CLOEXEC);

	(void)ino;
	return fd < 0 ? -errno : fd;
}

static int probe_punch(void *ctx, uint64_t ino, uint64_t off, uint64_t len)
{
	(void)ctx, (void)ino, (void)off, (void)len;
	return -EOPNOTSUPP;
}

static const struct memfs_ops probe_ops = {
	.by_name = probe_by_name,
	.by_ino = probe_by_ino,
	.list = probe_list,
	.backing = probe_backing,
	.punch = probe_punch,
};

/* A byte through the mapping and back by way of the backing file. System calls
 * touch the mapping, so that a fault that nobody serves is EFAULT, not SIGBUS. */
static int exchange(void *map, int backing)
{
	char *page = map;
	char byte = 'x';

	if (pwrite(backing, &byte, 1, 0) != 1)
		return -errno;
	if (pread(backing, page + 1, 1, 0) != 1)
		return -errno;
	if (pread(backing, &byte, 1, 1) != 1)
		return -errno;
	return byte == 'x' ? 0 : -EIO;
}

static int try_mapping(const struct probe *p)
{
	char path[sizeof(p->mnt) + sizeof(PROBE_NAME)];
	int rc = 0;

	snprintf(path, sizeof(path), "%s/" PROBE_NAME, p->mnt);

	int backing = open(p->data, O_RDWR | O_CLOEXEC);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *map = MAP_FAILED;

	if (backing >= 0 && fd >= 0)
		map = mmap(NULL, PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED) {
		rc = -errno;
	} else {
		rc = exchange(map, backing);
		munmap(map, PROBE_BYTES);
	}
	if (fd >= 0)
		close(fd);
	if (backing >= 0)
		close(backing);
	return rc;
}

static int make_files(const struct probe *p)
{
	int fd = open(p->data, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int rc = fd < 0 || ftruncate(fd, PROBE_BYTES) || mkdir(p->mnt, 0700) ? -errno : 0;

	if (fd >= 0)
		close(fd);
	return rc;
}

static int try_memfs(struct probe *p, char err[MEMFS_ERR_BYTES])
{
	struct memfs *m;
	int rc = memfs_start(p->mnt, &probe_ops, p, &m, err);

	if (rc)
		return rc;
	rc = try_mapping(p);
	memfs_stop(m);
	return rc ? refuse(err, -EOPNOTSUPP, "FUSE passthrough to tmpfs", rc) : 0;
}

int memfs_probe(const char *scratch_dir, char err[MEMFS_ERR_BYTES])
{
	struct probe p;
	int rc;

	err[0] = 0;
	snprintf(p.dir, sizeof(p.dir), "%s/probe-XXXXXX", scratch_dir);
	if (!mkdtemp(p.dir))
		return refuse(err, -errno, scratch_dir, -errno);
	snprintf(p.mnt, sizeof(p.mnt), "%s/mnt", p.dir);
	snprintf(p.data, sizeof(p.data), "%s/data", p.dir);

	if (mount("uvmm", p.dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=700")) {
		rc = errno == EACCES ? -EPERM : -errno;
		refuse(err, rc, "mounting tmpfs (root is needed)", rc);
		goto out_dir;
	}
	rc = make_files(&p);
	if (rc)
		refuse(err, rc, p.dir, rc);
	else
		rc = try_memfs(&p, err);
	umount2(p.dir, MNT_DETACH);
out_dir:
	rmdir(p.dir);
	return rc;
}
