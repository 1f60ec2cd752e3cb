/* SPDX-License-Identifier: MIT
 *
 * frames - the shared frames of one group: numbers, references, and which frame
 * has a content. A frame is a page of the group's frame file; the file itself is the
 * caller's.
 *
 *   Life of a frame
 *     free -> taken       frames_take(); the caller writes its content
 *     taken -> published  frames_publish(), with references; to be found by its hash
 *                         from here, and its content is never changed again
 *     published -> taken  when the last reference is dropped: not found from here.
 *                         The caller punches its page and
 *     taken -> free       frames_give()s it
 *
 *   A hash is a place to look only: whoever finds a frame by it compares all bytes.
 *
 *   Units    frames are pages. Errors 0 or a negative errno.
 *   Threads  any; one lock inside, which is the innermost.
 *   Cost     16 bytes and a bit a frame up to the highest ever used, and 4 to 8 bytes
 *            a frame that is published.
 *   Source   Waldspurger 2002, section 4.
 */
#ifndef FRAMES_H
#define FRAMES_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FRAME_NONE UINT64_MAX
#define FRAME_REFS_MAX (1u << 30)

struct frame;

struct frames {
	pthread_mutex_t lock;           /* guards all below */
	uint64_t most;                  /* frames that there can be; immutable */
	struct frame *frame;            /* [most] */
	uint64_t *taken;                /* [most / 64], a bit each */
	uint64_t hand;                  /* no frame below it is free */
	uint32_t *bucket;               /* [buckets], a frame's number + 1, or 0 */
	uint64_t buckets;               /* a power of two */
	uint64_t published;
	uint64_t refs;                  /* of all */
};

/* most: 1 to 2^32 - 2.  -ENOMEM */
int frames_init(struct frames *f, uint64_t most);
void frames_fini(struct frames *f);

/* The lowest free frame.  -ENOSPC */
int frames_take(struct frames *f, uint64_t *frame);
void frames_give(struct frames *f, uint64_t frame);

/* A taken frame is to be found from now, with `refs` references, at least 1.
 * -ENOMEM, and it stays taken */
int frames_publish(struct frames *f, uint64_t frame, uint64_t hash, uint32_t refs);

/* A frame of that hash, with a reference that the caller drops; after `last`, or the
 * first with FRAME_NONE. FRAME_NONE: there is no other one. What was published since
 * `last` was found may be left out. */
uint64_t frames_find(struct frames *f, uint64_t hash, uint64_t last);
/* One more, of a frame of which the caller has one.  -EOVERFLOW */
int frames_ref(struct frames *f, uint64_t frame);
/* One, of any frame.  -ENOENT  it is not published   -EOVERFLOW */
int frames_hold(struct frames *f, uint64_t frame);
/* True: that was the last, and the frame is the caller's to punch and give. */
bool frames_unref(struct frames *f, uint64_t frame);

struct frames_usage {
	uint64_t published, refs;
};

struct frames_usage frames_usage(struct frames *f);

struct uvmm_frame;

/* The published frames with numbers of `from` or more, in order; how many of up to cap. */
size_t frames_list(struct frames *f, uint64_t from, struct uvmm_frame *out, size_t cap);

#endif /* FRAMES_H */
