/* SPDX-License-Identifier: MIT
 *
 * memfs_proto - what memfs needs of FUSE 7.40 (Linux 6.9) and an older
 * <linux/fuse.h> lacks. The names are our own, so that it compiles alike with
 * headers that have these things and with those that do not.
 */
#ifndef MEMFS_PROTO_H
#define MEMFS_PROTO_H

#include <linux/fuse.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>

#define MEMFS_PROTO_MINOR 40u

/* In flags2 of INIT, which holds bits 32 and up of the flags. */
#define MEMFS_INIT2_PASSTHROUGH (1u << 5)
/* In open_flags of OPEN. */
#define MEMFS_OPEN_PASSTHROUGH (1u << 7)

struct memfs_init_out {
	uint32_t major, minor;
	uint32_t max_readahead;
	uint32_t flags;
	uint16_t max_background;
	uint16_t congestion_threshold;
	uint32_t max_write;
	uint32_t time_gran;
	uint16_t max_pages;
	uint16_t map_alignment;
	uint32_t flags2;
	uint32_t max_stack_depth;
	uint32_t unused[6];
};

struct memfs_open_out {
	uint64_t fh;
	uint32_t open_flags;
	int32_t backing_id;
};

/* The argument of MEMFS_IOC_BACKING_OPEN. */
struct memfs_backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};

#define MEMFS_IOC_BACKING_OPEN _IOW(229, 1, struct memfs_backing_map)
#define MEMFS_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)

/* The kernel refuses a reply of another length than it expects. */
_Static_assert(sizeof(struct memfs_init_out) == 64, "INIT reply");
_Static_assert(sizeof(struct memfs_init_out) == sizeof(struct fuse_init_out),
	       "INIT reply");
_Static_assert(offsetof(struct memfs_init_out, flags2) ==
	       offsetof(struct fuse_init_out, flags2), "INIT reply");
_Static_assert(sizeof(struct memfs_open_out) == 16, "OPEN reply");
_Static_assert(sizeof(struct memfs_open_out) == sizeof(struct fuse_open_out),
	       "OPEN reply");
_Static_assert(sizeof(struct memfs_backing_map) == 16, "BACKING_OPEN");
_Static_assert(sizeof(struct fuse_init_in) == 64, "INIT request");
_Static_assert(sizeof(struct fuse_entry_out) == 128, "LOOKUP reply");
_Static_assert(sizeof(struct fuse_attr_out) == 104, "GETATTR reply");
_Static_assert(sizeof(struct fuse_statfs_out) == 80, "STATFS reply");

#endif /* MEMFS_PROTO_H */
