/* SPDX-License-Identifier: MIT
 *
 * guest - one guest: its file, page map, mapping and counters, and its life.
 *
 *   Life     FREE -> REGISTERED (create) -> ATTACHED (attach, on MAPPED) ->
 *            ENDING (its process has gone) -> FREE. A program that executes
 *            another attaches again: ATTACHED -> REGISTERED -> ATTACHED.
 *   Leaving ATTACHED has two phases: `attached` is cleared, so that nobody new
 *   gets in by guest_enter(), then it waits until all who are in have left.
 *   Within guest_enter() and guest_leave() the mapping, the page map and the
 *   file stay.
 *
 *   struct guest lives in a slot that is never freed while the engine runs, so
 *   that a stale pointer (from epoll) may be entered: that fails, or finds the
 *   slot's next guest, whose descriptor then has nothing to read.
 *
 *   Units    pages; addresses in bytes.
 *   Errors   0 or a negative errno.
 */
#ifndef GUEST_H
#define GUEST_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "balloon.h"
#include "activity.h"
#include "direct_io.h"
#include "disk.h"
#include "group.h"
#include "low.h"
#include "order.h"
#include "pmap.h"
#include "sharing.h"
#include "stream.h"
#include "uvmm_core.h"

enum guest_state { GUEST_FREE = 0, GUEST_REGISTERED, GUEST_ATTACHED, GUEST_ENDING };

enum guest_arms { CHUNK_OPEN = 0, CHUNK_ARMED, CHUNK_SHIELDED };

#define GUEST_WAITERS_MAX 64u

struct guest_waiter {
	uint64_t addr;
	uint64_t since_ns;
	uint32_t tid;           /* 0: free */
};

struct guest {
	/* Immutable from create to end. */
	_Atomic uint64_t id;
	char name[UVMM_CORE_NAME_BYTES];
	uint8_t token[UVMM_CORE_TOKEN_BYTES];
	uint64_t max_pages;
	int32_t pid;
	bool kin;               /* a guest while it has the mapping, no longer */
	int pidfd;
	int memfd;              /* its file in machine memory */
	struct pmap pmap;
	struct group *group;    /* NULL: shares with nobody */
	uint32_t slot;          /* of the registry, for good */

	_Atomic uint32_t uid, gid;      /* of the process when it last connected */
	_Atomic uint32_t state;         /* enum guest_state */
	_Atomic uint64_t target_pages, min_pages;

	pthread_mutex_t attach_lock;    /* guards attach, detach and end; and: */
	int uffd;                       /* changed only when nobody is in */
	int pagemap_fd;                 /* likewise; -1: none */
	int mem_fd;                     /* likewise: the memory of the process; -1: none, as it
					 * has no disks */
	uint64_t base;                  /* likewise */
	_Atomic bool attached;          /* may be entered */
	_Atomic int inside;             /* how many have */

	pthread_mutex_t arm_lock;       /* guards changes of: */
	_Atomic uint8_t *armed;                 /* [chunks] enum guest_arms */

	pthread_mutex_t wait_lock;      /* guards waiters */
	struct guest_waiter waiters[GUEST_WAITERS_MAX];
	_Atomic uint32_t waiting;       /* how many waiters are taken */
	_Atomic bool wants_memory;      /* some of them wait for machine memory */
	_Atomic bool wants_growth;      /* and of these some for a fresh page */
	_Atomic uint64_t growth_failed_ns;      /* since when none came; 0: it did */
	_Atomic uint64_t blocked_until_ns;      /* 0: not (pressure_block) */

	_Atomic uint64_t direct_io_until_ns;
	_Atomic int direct_io;          /* enum direct_io, until then */
	struct streams streams;
	struct order order;             /* for its agent; see there */
	struct guest_sharing sharing;   /* see there */
	struct guest_activity activity; /* likewise */
	struct balloon balloon;         /* see there */
	struct disks disks;             /* see there */
	struct low low;                 /* likewise */

	_Atomic uint32_t strange_fds;   /* that it sent, and were no userfaultfd */
	_Atomic int servers;            /* fault threads that look for its messages */
	_Atomic uint64_t quiet;         /* those that do not listen; see fault.c */

	/* Counters, as in struct uvmm_guest_stats. */
	_Atomic uint64_t stored_pages, pinned_pages, faults, pages_in, pages_out;
	_Atomic uint64_t loads;         /* faults for stored pages */
	_Atomic uint64_t zero_dropped, aborted, damaged_pages, stall_ns, blocks;
};

struct registry {
	struct groups groups;
	pthread_mutex_t lock;           /* guards below */
	struct guest *slot[UVMM_GUESTS_MAX];
	size_t slots;                   /* slots ever used */
	uint64_t last_id;
};

int registry_init(struct registry *r);
void registry_fini(struct registry *r);

struct machine;

/* Checks and takes the name, makes the file and the page map, joins its group, which is
 * made for frame_pages frames.
 *   -EINVAL, -EEXIST, -ESRCH, -ENOSPC, with words in err */
int guest_create(struct registry *r, const struct machine *m, uint64_t frame_pages,
		 const struct uvmm_guest_config *cfg, struct guest **out,
		 char *err, size_t err_bytes);
/* Frees what create made; the guest is detached. Its stored pages have been
 * dropped by the caller. */
void guest_destroy(struct registry *r, struct guest *g);

/* The next four are for the holder of attach_lock. */
/* Makes uffd (taken over) and base the mapping of a guest that is REGISTERED.
 * -EINVAL if userfaultfd refuses it: then uffd is left to the caller. */
int guest_attach(struct guest *g, int uffd, uint64_t base);
/* Waits until nobody is in, closes the userfaultfd: REGISTERED again. */
void guest_detach(struct guest *g);
/* Drops the contents and the page map of a guest that is REGISTERED; its stored
 * pages have been dropped by the caller.  -EIO */
int guest_empty(struct guest *g);
/* From now it is not shown or found by its name, which stays taken. */
void guest_set_ending(struct registry *r, struct guest *g);

/* True: the caller is in, and has to leave. */
bool guest_enter(struct guest *g);
void guest_leave(struct guest *g);

/* By id or name, only for a moment's look. NULL if unknown, or ending. */
struct guest *guest_by_id(struct registry *r, uint64_t id);
struct guest *guest_by_name(struct registry *r, const char *name);
/* By token, and its process if pid is not 0; *id is its number at that moment. */
struct guest *guest_by_token(struct registry *r, const uint8_t *token, pid_t pid,
			     uint64_t *id);
/* The process of g, if it is that guest still, belongs to another user now. */
void guest_set_owner(struct registry *r, struct guest *g, uint64_t id, uint32_t uid,
		     uint32_t gid);
/* A descriptor of the memory file of g, if it is that guest still.  -ESRCH */
int guest_dup_memory(struct registry *r, const struct guest *g, uint64_t id);
/* By id, entered; NULL if it is unknown or not attached. */
struct guest *guest_enter_id(struct registry *r, uint64_t id);
/* The next attached guest after slot *at (start with 0), entered; NULL at the
 * end. */
struct guest *guest_next_entered(struct registry *r, size_t *at);

static inline uint64_t guest_addr(const struct guest *g, uint64_t ppn)
{
	return g->base + (ppn << UVMM_PAGE_SHIFT);
}

/* --- arming: what is watched in a chunk --------------------------------------
 *
 *   OPEN      writes to protected pages alone: first touch is native
 *   ARMED     also accesses to holes: memory is tight, growth has to ask
 *   SHIELDED  also accesses to pages that are in the file, but not mapped: the
 *             chunk has, or lately had, absent pages. An access is then native
 *             only to a page that is mapped, so that whoever unmaps one (punching
 *             a hole does it) may change what lies below unseen.
 *
 *   In that order, and back to OPEN, only by who holds the chunk's busy bit while
 *   it has no absent page. Pages that are not home are left out.
 */

/* -ENOMEM, -ESRCH */
int guest_arm_chunk(struct guest *g, uint64_t chunk);
int guest_arm_chunks(struct guest *g, uint64_t chunk, uint64_t n);
int guest_shield_chunk(struct guest *g, uint64_t chunk);
/* Arms all that is open. */
int guest_arm_all(struct guest *g);
void guest_open_chunk(struct guest *g, uint64_t chunk);
/* The range, where something else was mapped for a while, as the chunks it lies in.
 * -ENOMEM, -ESRCH */
int guest_watch_again(struct guest *g, uint64_t ppn, uint64_t pages);
/* The page has a mapping of its own until it is joined again: meanwhile its chunk cannot
 * become a large page, whoever faults in it. By who holds the chunk's busy bit, while it
 * is not shielded.  -EAGAIN; of joining: the page is not watched until its chunk is armed */
int guest_part_page(struct guest *g, uint64_t ppn);
int guest_join_page(struct guest *g, uint64_t ppn);
/* Opens every chunk without absent pages that nobody holds, of all or of n chunks. */
void guest_open_idle(struct guest *g);
void guest_open_idle_chunks(struct guest *g, uint64_t chunk, uint64_t n);

/* --- direct I/O -------------------------------------------------------------- */

/* What the guest's process could have under way; anything but a no is believed for a
 * second. */
enum direct_io guest_direct_io(struct guest *g);
/* Pages were just protected: waits until a device has written what it may write still.
 * -EAGAIN  there is no telling when that is */
int guest_stop_writes(struct guest *g);

/* --- stalls: thread time spent waiting -------------------------------------- */

/* A thread that faulted at addr was not served at once. */
void guest_stall_begin(struct guest *g, uint32_t tid, uint64_t addr, uint64_t since_ns);
/* The thread waits still. */
bool guest_stall_goes_on(struct guest *g, uint32_t tid);
/* Whoever waited in [lo, hi) does not any more. */
void guest_stall_end(struct guest *g, uint64_t lo, uint64_t hi, uint64_t now_ns);
/* All waiting so far, with waits that go on. */
uint64_t guest_stall_ns(struct guest *g, uint64_t now_ns);

/* Wakes all who wait in the page range, and ends their stall. */
void guest_wake(struct guest *g, uint64_t ppn, uint64_t pages);

#endif /* GUEST_H */
