/* SPDX-License-Identifier: MIT
 *
 * memfs - the memory filesystem: a FUSE server on /dev/fuse that shows one file
 * a guest and opens it, for that guest's process alone, by kernel passthrough
 * to the guest's file in machine memory (Linux 6.9, FUSE_PASSTHROUGH).
 *
 *   It is flat, its root lists the guests; size and owner are the guest's.
 *   A file is for mmap: read(2) and write(2) are EOPNOTSUPP, since they would
 *   see absent pages as zeros and pass userfaultfd by.
 *   OPEN by any process but the guest's (thread group, and uid) is EACCES.
 *   FALLOCATE of a hole is handed to ops->punch, since the kernel does not pass
 *   it through. Everything else that would change the tree is EPERM.
 *
 *   Units    bytes, as FUSE has them.
 *   Errors   0 or a negative errno.
 *   Threads  its own; ops are called from them, concurrently, with no lock of
 *            memfs held.
 */
#ifndef MEMFS_H
#define MEMFS_H

#include <stddef.h>
#include <stdint.h>

struct memfs;

#define MEMFS_NAME_BYTES 64
#define MEMFS_ERR_BYTES 256

struct memfs_file {
	uint64_t ino;                   /* > 1, never reused */
	char name[MEMFS_NAME_BYTES];
	uint64_t size_bytes;
	uint32_t uid, gid;
	int32_t pid;                    /* who may open it */
};

struct memfs_ops {
	/* -ENOENT if there is none. */
	int (*by_name)(void *ctx, const char *name, struct memfs_file *out);
	int (*by_ino)(void *ctx, uint64_t ino, struct memfs_file *out);
	/* Fills up to cap files with ino > after in the order of ino; how many. */
	size_t (*list)(void *ctx, uint64_t after, struct memfs_file *out, size_t cap);
	/* A new descriptor of the file behind it, to be closed by memfs;
	 * -ENOENT if the guest has gone. */
	int (*backing)(void *ctx, uint64_t ino);
	/* Drops the contents of [off, off + len): zero from now. */
	int (*punch)(void *ctx, uint64_t ino, uint64_t off, uint64_t len);
};

/* 0 if this kernel can serve files by passthrough, else -ENODEV (no /dev/fuse),
 * -EPERM (may not mount), -EOPNOTSUPP (no passthrough), and why in err.
 * Tries it on a mount of its own below `scratch_dir`, and removes that. */
int memfs_probe(const char *scratch_dir, char err[MEMFS_ERR_BYTES]);

/* Mounts at `dir` (an empty directory) and serves until memfs_stop(), which
 * unmounts (lazily if a file is still open) and ends the threads. Open mappings
 * go on: they lie on the backing file. */
int memfs_start(const char *dir, const struct memfs_ops *ops, void *ctx,
		struct memfs **out, char err[MEMFS_ERR_BYTES]);
void memfs_stop(struct memfs *m);

/* The guest with that number has gone: forget what was kept for it (its
 * backing registration, the kernel's cached entry). Call it once by_name does
 * not find the guest any more. It waits for lookups in progress: hold no lock
 * that ops take. */
void memfs_forget(struct memfs *m, uint64_t ino, const char *name);

#endif /* MEMFS_H */
