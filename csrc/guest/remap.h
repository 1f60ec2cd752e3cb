/* SPDX-License-Identifier: MIT
 *
 * remap - which pages of guest memory are mapped from the group's frame file, and the
 * changes of that.
 *
 *   A page is in one of three states. Who changes it, and with which one system call:
 *
 *     home   the guest's file, shared. As attached.
 *     away   the frame file, private: reads are of the shared frame, a write is split
 *            by the kernel's copy-on-write, of which nobody is told.
 *            Or low memory, shared: reads and writes are of it.
 *     lost   something of the program's (rights() < 0); never touched from here.
 *
 *     home, away -> away   a run of REMAP with a frame  } the mremap() that puts a
 *     home, away -> home   a run of FRAME_HOME          } mapping, made elsewhere,
 *     home -> away, back   a run of LOWER               }
 *     away -> home         remap_discard()              } in place of what is there
 *     home, away -> lost   the program's own mmap(MAP_FIXED), then remap_forget()
 *
 *   Before that call everything is as it was, after it all is done: whoever touches the
 *   page meanwhile waits, or had it as it was. Made elsewhere first, for 1.5 us a run:
 *   a fork between an mmap() in place and its MADV_DONTFORK would give a child what it
 *   must not have, and what was mapped can be looked at while it can still be refused.
 *   (A run costs 5 to 7 us in all, and zapping what was there: test_remap_race prints it.)
 *
 *   Spare    A second mapping of the guest's file, made at the first REMAP: with no
 *            descriptor of it, that is what pages come home from. It has no access
 *            rights, as to touch it would put zeros where pages are absent: not even
 *            mlockall() can.
 *   Kept     While a range is under change by the program (a discard, mprotect(), a
 *            foreign mapping, fork()) it is kept: runs that overlap it are refused.
 *            Nobody waits for anything but the daemon while he keeps one.
 *            A range that is discarded is kept until DISCARD (or INFLATE) is answered and
 *            HOMED is said. So the daemon answers no DISCARD of pages that a REMAP on its way
 *            names, and puts nothing into the guest's file there before HOMED.
 *   Reserve  Coming home after DISCARD must not fail, as the daemon has forgotten the
 *            frame: mappings and addresses for that are set aside.
 *
 *   Units    pages, numbered from 0; frames are pages of the frame file.
 *   Errors   0 or a negative errno.
 *   Threads  any, but remap_serve by one at a time. remap.lock is a leaf; it is never
 *            held while the daemon is asked.
 *   Memory   none from the heap, and no page of guest memory is touched.
 */
#ifndef REMAP_H
#define REMAP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rpc.h"
#include "uvmm/protocol.h"

#define REMAP_KEPT_MAX 32u

struct remap_ops {
	/* Asks the daemon, as attach_ask(). */
	int (*ask)(void *arg, struct rpc_call *call, char why[UVMM_TEXT_BYTES]);
	/* PROT_* of `page`, and of how many from it, at most *n as given; negative if it
	 * is lost. May be asked with remap.lock held. NULL: all may be read and written. */
	int (*rights)(void *arg, uint64_t page, uint64_t *n);
	/* The guest's userfaultfd, or -1; NULL: there is none to use. */
	int (*userfault)(void *arg);
};

struct remap {
	/* Immutable after init. */
	char *base;
	uint64_t pages;
	uint64_t small_pages;
	const struct remap_ops *ops;
	void *arg;

	_Atomic bool used;              /* something is away, or was */

	pthread_mutex_t lock;           /* guards below */
	pthread_cond_t released;
	char *spare;                    /* of the pages from `first`; NULL: none yet */
	uint64_t first;
	uint64_t *away;                 /* bitmap [pages]; NULL: none yet */
	char *reserve;                  /* NULL: none */
	struct uvmm_range kept[REMAP_KEPT_MAX];         /* 0 pages: a free slot */
};

/* Of a guest that has just mapped its memory; arg is for ops. Pages under small_pages
 * were given other advice (madvise) than the rest. */
void remap_init(struct remap *r, char *base, uint64_t pages, uint64_t small_pages,
		const struct remap_ops *ops, void *arg);
/* In a forked child, which has mapped memory of its own: all is home. */
void remap_forked(struct remap *r);

/* A REMAP of `bytes` is as protocol.h has it, as far as that can be told from it. */
bool remap_is_sound(const struct uvmm_remap *m, size_t bytes, bool with_frames);
/* Does what can be done of a sound one. The frame file is closed; -1: none came.
 * A run is refused, with nothing changed, when it is not all in guest memory, in the
 * file, and readable and writable; when some of it is kept; and by the kernel, mostly
 * for vm.max_map_count. */
void remap_serve(struct remap *r, const struct uvmm_remap *m, int frames,
		 struct uvmm_remapped *out);

/* As remap_serve(), for LOWER: the pages are copied, and mapped from low memory, or from
 * low memory home; refused also when the program's own memory has the descriptor no more. */
void remap_lower(struct remap *r, const struct uvmm_remap *m, int low,
		 struct uvmm_remapped *out);

/* A ZAP of `bytes` is as protocol.h has it, as far as that can be told from it. */
bool remap_zap_is_sound(const struct uvmm_zap *m, size_t bytes);
/* Does what can be done of a sound one. Refused is a run of which some is away, lost or
 * kept: unmapped for good, what is private would be lost. */
void remap_zap(struct remap *r, const struct uvmm_zap *m, struct uvmm_zapped *out);

/* What all this takes besides guest memory, in bytes: of address space, and of private
 * memory that may be written, as the pages are that are away. */
void remap_takes(struct remap *r, uint64_t *area, uint64_t *data);

/* Keeps [page, page + n), n > 0, until released; waits while all slots are taken. */
unsigned remap_keep(struct remap *r, uint64_t page, uint64_t n);
void remap_release(struct remap *r, unsigned slot);
/* Maps all pages home, surely; how many were away. The daemon knows that they are to be. */
uint64_t remap_all_home(struct remap *r, uint64_t page, uint64_t n);
/* The program has a mapping of its own there. Kept, and rights() says so already. */
void remap_forget(struct remap *r, uint64_t page, uint64_t n);

/* DISCARD: when it returns 0 the pages are home and read as zeros. Refused by the daemon
 * with another error than -EIO, nothing has changed; after -EIO, and when the
 * connection was lost on the way, what was away is home, and zero, too. Otherwise as
 * attach_ask_range. */
int remap_discard(struct remap *r, uint64_t page, uint64_t n, char why[UVMM_TEXT_BYTES]);
/* INFLATE or GIVE, in the same way. */
int remap_inflate(struct remap *r, uint16_t type, const struct uvmm_ranges *ranges,
		  struct uvmm_count *count, char why[UVMM_TEXT_BYTES]);

#endif /* REMAP_H */
