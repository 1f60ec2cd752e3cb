/* SPDX-License-Identifier: MIT
 *
 * uvmm_core - the data plane of the daemon, as the control plane sees it: the
 * only header that Python binds.
 *
 *   Threads  Calls may be made from any thread. None calls back into the
 *            caller; whatever happens on its own is read as an event.
 *   Errors   0 or a negative errno; where a call has `err`, a failure is also
 *            told there in one line of words.
 *   Units    pages of 4 KiB, nanoseconds of CLOCK_MONOTONIC.
 *   Layout   fixed-width fields, no pointers kept after a call returns.
 */
#ifndef UVMM_CORE_H
#define UVMM_CORE_H

#include <stddef.h>
#include <stdint.h>

#define UVMM_ERR_BYTES 256
#define UVMM_CORE_NAME_BYTES 64
#define UVMM_CORE_TOKEN_BYTES 16
#define UVMM_GUESTS_MAX 4096
#define UVMM_CORE_GROUP_BYTES 96
#define UVMM_SAMPLE_PAGES_MAX 1024
#define UVMM_IDLE_AGES 8
#define UVMM_MAP_CELLS_MAX 16384
#define UVMM_MAP_STATES 10

typedef struct uvmm_engine uvmm_engine;

struct uvmm_engine_config {
	char run_dir[200];              /* exists, owned by us */
	char swap_path[256];            /* created, replaced if it exists; "" with swap_pages 0 */
	uint64_t memory_pages;          /* the budget */
	uint64_t swap_pages;
	uint32_t via;                   /* 0 fuse, 1 descriptor */
	uint32_t socket_gid;            /* unused by 0xffffffff */
	uint32_t share_cpu_permille;    /* of one CPU, to look for pages to share */
	uint32_t idle_cost_permille;    /* of a guest's CPU time, to look for its idle
					 * pages while memory is short; 0: never looked for */
	uint64_t low_pages;             /* of the budget, at most, for low memory */
	uint32_t remap_after;           /* copies of a page before it moves there; 0: never */
};

/* Mounts machine memory and the memory filesystem, creates the swap file, opens
 * the guest socket and starts all threads; on failure undoes what it did.
 *   -EPERM, -ENODEV, -ENOSPC, -EOPNOTSUPP ...  with the reason in err */
int uvmm_engine_start(const struct uvmm_engine_config *cfg, uvmm_engine **out,
		      char err[UVMM_ERR_BYTES]);
/* Detaches all guests (their processes are killed), stops all threads, unmounts,
 * and removes the swap file. */
void uvmm_engine_stop(uvmm_engine *e);

struct uvmm_guest_config {
	char name[UVMM_CORE_NAME_BYTES];
	uint8_t token[UVMM_CORE_TOKEN_BYTES];
	uint64_t min_pages, max_pages;  /* max_pages a multiple of 512 */
	uint64_t target_pages;
	int32_t pid;                    /* the guest's process, alive */
	uint32_t uid, gid;              /* owner of mem/<name> */
	char group[UVMM_CORE_GROUP_BYTES];      /* whose pages it may share; "": nobody's */
	uint32_t kin;                   /* 1: of UVMM_EVENT_KIN; a guest for as long as
					 * its process has the mapping */
};

/* Registers a guest; *id is never used again for another one.
 *   -EEXIST  the name is taken     -ESRCH  no such process
 *   -ENOSPC  UVMM_GUESTS_MAX guests, or machine memory is full */
int uvmm_guest_create(uvmm_engine *e, const struct uvmm_guest_config *cfg,
		      uint64_t *id, char err[UVMM_ERR_BYTES]);

/* Sets what the policy wants the guest to hold; guests above their target are
 * reclaimed first.  -ENOENT */
int uvmm_guest_set_target(uvmm_engine *e, uint64_t id, uint64_t target_pages);

/* Sets what the background reclaimer leaves it in any case.
 *   -ENOENT   -EINVAL  more than its max */
int uvmm_guest_set_min(uvmm_engine *e, uint64_t id, uint64_t min_pages);

/* Sets the size that the guest's balloon is to have, clamped to its max; how much of
 * that is allowed is the caller's to know. Returns at once: the guest's agent does it,
 * as far as it can, and is asked once; ask again for what it could not give.
 *   -ENOENT   no such guest    -ENOTCONN  not attached yet */
int uvmm_guest_set_balloon(uvmm_engine *e, uint64_t id, uint64_t pages);

/* Sets how many pages of low memory the guest may have; what it has beyond that moves back
 * soon.  -ENOENT */
int uvmm_guest_set_low(uvmm_engine *e, uint64_t id, uint64_t pages);

enum uvmm_tier { UVMM_TIER_SWAP = 0 };

struct uvmm_job_result {
	uint64_t pages;         /* moved */
	uint64_t zero_pages;    /* of these, zero: dropped without being stored */
	uint64_t left_pages;    /* asked for and not done */
	uint64_t elapsed_ns;
};

/* Takes up to `pages` pages from the guest into the tier; returns when done.
 * Pinned pages and pages written meanwhile stay.
 *   -ENOENT  no such guest   -EINVAL  no such tier
 *   -ENOTCONN  not attached yet
 *   -ENOSPC  the tier is full: *res says what was done before that
 *   -EIO     the tier failed: likewise */
int uvmm_guest_reclaim(uvmm_engine *e, uint64_t id, uint64_t pages, uint32_t tier,
		       struct uvmm_job_result *res);

/* The same, but leaves the guest what it holds up to floor_pages, its min at least. */
int uvmm_guest_trim(uvmm_engine *e, uint64_t id, uint64_t pages, uint64_t floor_pages,
		    uint32_t tier, struct uvmm_job_result *res);

/* Brings stored pages back, as far as machine memory allows without reclaim.
 *   -ENOENT, -ENOTCONN
 *   -ENOMEM  stopped early for lack of machine memory   -EIO  a page is damaged */
int uvmm_guest_restore(uvmm_engine *e, uint64_t id, struct uvmm_job_result *res);

/* Begins to watch up to `pages` pages, drawn at random from all of the guest's that have
 * contents; the sample before ends. The figures (sampled_pages, sample_touched_pages)
 * count from 0 as soon as the guest's agent has done its part, and rise until the next
 * call. A page that was not resident, or shared, when it was drawn counts as touched when it
 * is loaded, or mapped.
 *   -ENOENT, -ENOTCONN   -EINVAL  0, or more than UVMM_SAMPLE_PAGES_MAX   -ENOMEM */
int uvmm_guest_sample(uvmm_engine *e, uint64_t id, uint32_t pages);

/* Changes idle_cost_permille of the configuration.  -EINVAL  more than 1000 */
int uvmm_set_idle_cost(uvmm_engine *e, uint32_t permille);

/* Until then (at most a second from now; a time that has passed: not any more) the
 * guest's threads wait when they need a page that is not in memory: a new one, or a
 * stored one.
 *   -ENOENT, -ENOTCONN */
int uvmm_guest_block(uvmm_engine *e, uint64_t id, uint64_t until_ns);

struct uvmm_share_result {
	uint64_t scanned_pages;
	uint64_t shared_pages;          /* became shared */
	uint64_t zero_pages;            /* were zero, and freed */
	uint64_t elapsed_ns;
	uint64_t cpu_ns;                /* of the daemon, for all sharing meanwhile */
};

/* One full pass over a guest, or with id 0 over all, at once and without regard to
 * what the scanner has seen before; returns when done.
 *   -ENOENT  no such guest   -ENOTCONN  not attached yet   -ENOMEM
 *   -EOPNOTSUPP  it is in no group */
int uvmm_share_now(uvmm_engine *e, uint64_t id, struct uvmm_share_result *res);

struct uvmm_guest_stats {
	uint64_t id;
	char name[UVMM_CORE_NAME_BYTES];
	int32_t pid;
	uint32_t uid;
	uint32_t attached;              /* 1 once its memory is mapped */
	uint32_t threads;               /* of the process, without ours */
	uint32_t balloon_able;          /* 1 while its agent answers and takes requests */
	uint64_t min_pages, max_pages, target_pages;
	uint64_t resident_pages, swapped_pages, untouched_pages, pinned_pages;
	uint64_t unmanaged_pages;       /* of the process's writable memory, not the guest's */
	uint64_t faults;                /* served: loads, fresh pages, write-protect */
	uint64_t pages_in, pages_out;   /* read from and written to tiers */
	uint64_t zero_dropped;          /* zero pages reclaimed without storing */
	uint64_t aborted;               /* reclaim lost to a write of the guest */
	uint64_t damaged_pages;         /* lost: checksum or I/O error */
	uint64_t stall_ns;              /* thread time waiting, with waits going on */
	uint64_t shared_pages;          /* mapped from frames of its group */
	uint64_t split_pages;           /* of resident_pages: were shared, and written since */
	uint64_t splits;                /* noticed in all */
	uint64_t merged_pages;          /* became shared in all */
	uint64_t share_zero_pages;      /* were zero, and freed by the scanner */
	uint64_t share_scanned_pages;
	uint64_t share_mappings;        /* about so many has sharing made in the process */
	uint64_t run_ns;                /* CPU time of the process, without our thread's */
	uint64_t samples;               /* begun in all */
	uint64_t sampled_pages;         /* watched now */
	uint64_t sample_touched_pages;  /* of these: touched since the sample began */
	/* Resident pages not touched, as far as is known, for at least 1, 2, 4, ... 128 s: */
	uint64_t idle_pages[UVMM_IDLE_AGES];
	uint64_t idle_scanned_pages;    /* looked at in all */
	uint64_t blocked_until_ns;      /* 0: not blocked */
	uint64_t blocks;                /* in all */
	uint64_t ballooned_pages;       /* given back by the guest itself */
	uint64_t balloon_target_pages;  /* how many these are to be */
	uint64_t popped_pages;          /* touched in its balloon, in all */
	uint64_t balloon_needed_pages;  /* taken back by the guest, which had no others, in all */
	/* In all, by requests that are answered or overdue: pages that the balloon was to
	 * take, and what of machine memory was freed by that. */
	uint64_t balloon_asked_pages, balloon_given_pages;
	/* Virtual disks, in all: */
	uint64_t disks;                 /* that it has now */
	uint64_t disk_reads, disk_writes, disk_flushes, disk_discards, disk_errors;
	uint64_t disk_read_bytes, disk_written_bytes;
	uint64_t disk_copied_bytes, disk_direct_bytes;  /* by way of a buffer, and without */
	uint64_t disk_hot_pages;        /* now: pages that were copied more than once lately */
	uint64_t low_pages, low_limit_pages;    /* now, of resident_pages */
	uint64_t remaps_in, remaps_out, remaps_refused; /* pages, in all */
};

struct uvmm_machine_stats {
	uint64_t now_ns;
	uint64_t total_pages;           /* the budget */
	uint64_t tmpfs_pages;           /* what the kernel says machine memory holds */
	uint64_t daemon_pages;          /* resident in the daemon, without tmpfs */
	uint64_t guest_pages;           /* of tmpfs_pages: guests' own */
	uint64_t swap_total_pages, swap_used_pages;
	uint32_t pressure;              /* enum uvmm_pressure_level of protocol.h */
	uint32_t via;
	uint64_t reclaimed_pages;       /* by the background reclaimer */
	uint64_t refused;               /* guests refused memory */
	uint64_t damaged_pages;
	uint64_t frame_pages;           /* of tmpfs_pages: shared frames */
	uint64_t shared_pages;          /* of all guests */
	uint64_t saved_pages;           /* shared_pages - frame_pages */
	uint64_t split_pages;           /* of guest_pages, outside of tmpfs_pages */
	uint64_t splits, homed_pages, merged_pages, share_zero_pages, share_scanned_pages;
	uint64_t share_passes, share_cpu_ns;
	uint64_t hints, stale_hints;
	/* Pages that had a twin and were not shared then, by reason (sharing.h): */
	uint64_t share_refused_busy, share_refused_changed, share_refused_agent;
	uint64_t share_refused_mappings, share_refused_memory;
	/* What is free, without splits that may be unseen yet. Below net_pages the
	 * background reclaimer takes by itself, also when no guest grows; below wait_pages
	 * growth waits. */
	uint64_t headroom_pages, net_pages, wait_pages;
	uint64_t low_total_pages, low_granted_pages;    /* low memory; of tmpfs_pages */
};

/* Fills *m and up to cap guests; *n is how many there are. */
int uvmm_snapshot(uvmm_engine *e, struct uvmm_machine_stats *m,
		  struct uvmm_guest_stats *guests, size_t cap, size_t *n);

/* The same without what takes long: threads and unmanaged_pages are 0. */
int uvmm_look(uvmm_engine *e, struct uvmm_machine_stats *m,
	      struct uvmm_guest_stats *guests, size_t cap, size_t *n);

/* One guest by name.  -ENOENT */
int uvmm_guest_find(uvmm_engine *e, const char *name, struct uvmm_guest_stats *out);

enum uvmm_map_state {
	UVMM_MAP_RESIDENT = 0,          /* in the guest's own memory */
	UVMM_MAP_SPLIT,                 /* the process's own, was shared */
	UVMM_MAP_SHARED,
	UVMM_MAP_BALLOONED,
	UVMM_MAP_COMPRESSED,
	UVMM_MAP_SWAPPED,
	UVMM_MAP_FAR,
	UVMM_MAP_DAMAGED,
	UVMM_MAP_UNTOUCHED,
	UVMM_MAP_LOW,                   /* in low memory */
};

struct uvmm_map_cell {
	uint64_t pages[UVMM_MAP_STATES];        /* by enum uvmm_map_state */
};

/* Where the guest's pages are: its memory in `cells` ranges, which are equal but for a
 * page by which the first ones are larger. The parts of a cell add up to its size. No
 * page is touched or moved; those on their way count to either end.
 *   -ENOENT, -ENOTCONN   -EINVAL  no cells, more than pages, or than UVMM_MAP_CELLS_MAX */
int uvmm_guest_map(uvmm_engine *e, uint64_t id, struct uvmm_map_cell *map, uint32_t cells);

/* --- looking inside: nothing is moved, and no guest waits for it for long ------ */

#define UVMM_PEEK_PAGES_MAX 512

/* Reads the contents of pages [ppn, ppn + pages) of the guest, wherever each is, into
 * dst: each page as it was at some moment during the call. What was never written, or
 * was given back, is zeros.
 *   -ENOENT, -ENOTCONN   -EINVAL  no pages, too many, or beyond its memory
 *   -EIO  a page is damaged, or cannot be read   -EAGAIN  a page is on its way for seconds */
int uvmm_guest_peek(uvmm_engine *e, uint64_t id, uint64_t ppn, uint32_t pages, void *dst);

/* Where each of [ppn, ppn + pages) is: a word a page. Bits 0-3 are its enum
 * uvmm_map_state, 4-7 how often it is pinned, 8-11 its tier if it is stored, 12-63 its
 * place: the number of its frame (SHARED), or of its slot in the tier; 0 for the others.
 *   -ENOENT, -ENOTCONN   -EINVAL  beyond its memory */
int uvmm_guest_pages(uvmm_engine *e, uint64_t id, uint64_t ppn, uint64_t pages,
		     uint64_t *word);

struct uvmm_page_run {
	uint64_t ppn, pages;
	uint64_t state;                 /* enum uvmm_map_state */
};

/* The guest's pages from *ppn on in runs of one state, in order; up to cap of them. *n is
 * how many, *ppn where to go on: the guest's size after the last.
 *   -ENOENT, -ENOTCONN   -EINVAL  beyond its memory */
int uvmm_guest_runs(uvmm_engine *e, uint64_t id, uint64_t *ppn, struct uvmm_page_run *run,
		    size_t cap, size_t *n);

struct uvmm_group {
	char name[UVMM_CORE_GROUP_BYTES];
	uint64_t frames;
};

/* The groups whose guests share; fills up to cap, *n is how many there are. */
void uvmm_groups(uvmm_engine *e, struct uvmm_group *group, size_t cap, size_t *n);

struct uvmm_frame {
	uint64_t frame;
	uint64_t hash;                  /* the first word of uvmm_page_hash() */
	uint64_t refs;                  /* pages that are it */
};

/* A group's frames with numbers of `from` or more, in order; *n is how many of up to cap.
 *   -ENOENT  there is no such group */
int uvmm_frames(uvmm_engine *e, const char *group, uint64_t from, struct uvmm_frame *frame,
		size_t cap, size_t *n);

/* The content of a frame that has this hash, 4096 bytes.
 *   -ENOENT  it has not, or there is none any more */
int uvmm_frame_peek(uvmm_engine *e, const char *group, uint64_t frame, uint64_t hash,
		    void *dst);

struct uvmm_frame_ref {
	uint64_t frame, guest, ppn;
};

/* Which pages of which guests (by id) are frames [lo, hi) of a group, by frame, guest and
 * page; fills up to cap, *n is how many there are. */
void uvmm_frame_refs(uvmm_engine *e, const char *group, uint64_t lo, uint64_t hi,
		     struct uvmm_frame_ref *ref, size_t cap, size_t *n);

enum uvmm_event_kind {
	UVMM_EVENT_LOG = 1,             /* text, for the log */
	UVMM_EVENT_ATTACHED = 2,
	UVMM_EVENT_ENDED = 3,           /* the guest is gone, all of it freed */
	UVMM_EVENT_REFUSED = 4,         /* text: why it was refused memory */
	UVMM_EVENT_DAMAGED = 5,         /* text: which page, why */
	UVMM_EVENT_SHORT = 7,           /* headroom fell below uvmm_alarm() */
	UVMM_EVENT_KIN = 6,             /* the process pid asks to be a guest with the
					 * token of this one; it asks until it is */
};

struct uvmm_event {
	uint64_t at_ns;
	uint64_t guest_id;              /* 0: none */
	uint32_t kind;                  /* enum uvmm_event_kind */
	int32_t pid;                    /* of KIN, else 0 */
	char text[UVMM_ERR_BYTES];
};

/* While headroom is below that, a guest above its target has no more memory from others:
 * what it needs is taken from itself. */
void uvmm_set_aim(uvmm_engine *e, uint64_t headroom_pages);
/* Once headroom is below that there is one event SHORT; 0: none. */
void uvmm_alarm(uvmm_engine *e, uint64_t headroom_pages);

/* A descriptor that polls readable while events wait; owned by the engine. */
int uvmm_event_fd(uvmm_engine *e);
/* Takes the oldest event.  -EAGAIN  none. When too many wait the oldest LOG
 * events are dropped and counted in a LOG event. */
int uvmm_event_next(uvmm_engine *e, struct uvmm_event *out);

/* --- content: pure functions ------------------------------------------------ */

/* 1 if all `bytes` (a multiple of 64) are zero. */
int uvmm_is_zero(const void *data, size_t bytes);
/* The checksum that a stored page carries; the seed is its place. */
uint32_t uvmm_checksum(const void *page, uint64_t seed);
/* The hash by which a page's content is found: MurmurHash3 x64 128 with seed 0, which
 * Python's mmh3.hash64(page, x64arch=True, signed=False) gives, too. */
void uvmm_page_hash(const void *page, uint64_t hash[2]);

#endif /* UVMM_CORE_H */
