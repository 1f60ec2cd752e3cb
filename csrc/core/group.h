/* SPDX-License-Identifier: MIT
 *
 * group - guests whose pages may be shared with each other: their frame file, its
 * frames, and hints where contents were seen.
 *
 *   Life     from the first guest that joins until the last has left. A guest is in
 *            one group from its creation to its end, or in none.
 *   File     a frame's number is its page in the frame file, which lies in machine
 *            memory and has no name. Guests get a descriptor for reading of their own
 *            group's, and map it privately.
 *
 *   Units    pages. Errors 0 or a negative errno.
 *   Threads  any. groups.lock guards the list and the counts of guests; what is in a
 *            group has locks of its own.
 */
#ifndef GROUP_H
#define GROUP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#include "frames.h"
#include "hints.h"
#include "uvmm/protocol.h"
#include "uvmm_core.h"

struct machine;

struct group {
	char name[UVMM_CORE_GROUP_BYTES];
	struct frames frames;
	struct hints hints;
	int fd;                 /* the frame file */
	int reader_fd;          /* the same, for reading alone: for guests */
	char *view;             /* of all of it, for reading what is published */
	_Atomic uint64_t stale_hints;
	_Atomic unsigned guests;        /* changed under groups.lock, which guards */
	struct group *next;
};

struct groups {
	pthread_mutex_t lock;
	struct group *first;
};

void groups_init(struct groups *s);
void groups_fini(struct groups *s);

/* The group of that name, made for up to `pages` frames if it is new.
 *   -ENOMEM, -ENOSPC, -EMFILE ... */
int group_join(struct groups *s, const struct machine *m, const char *name, uint64_t pages,
	       struct group **out);
/* NULL is nothing to leave. */
void group_leave(struct groups *s, struct group *group);

/* A new frame of that content and hash, with one reference, the caller's.
 *   -ENOSPC, -ENOMEM */
int group_new_frame(struct group *group, const void *page, uint64_t hash, uint64_t *frame);
/* Drops a reference; with the last the frame is freed. */
void group_drop_frame(struct group *group, uint64_t frame);

/* The content of a frame to which the caller has a reference. */
static inline const char *group_frame(const struct group *group, uint64_t frame)
{
	return group->view + frame * UVMM_PAGE_SIZE;
}

/* Fills up to cap with the groups that there are; how many these are. */
size_t groups_list(struct groups *s, struct uvmm_group *out, size_t cap);
/* See frames_list().  -ENOENT  there is no such group */
int groups_frames(struct groups *s, const char *name, uint64_t from, struct uvmm_frame *out,
		  size_t cap, size_t *n);
/* The content of a frame of that hash.  -ENOENT  there is none */
int groups_read(struct groups *s, const char *name, uint64_t frame, uint64_t hash,
		void *dst);

struct group_usage {
	uint64_t frames;        /* with a reference */
	uint64_t refs;
	uint64_t hints, stale_hints;
};

/* Adds what all groups have up. */
struct group_usage groups_usage(struct groups *s);

#endif /* GROUP_H */
