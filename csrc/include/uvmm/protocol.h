/* SPDX-License-Identifier: MIT
 *
 * protocol - messages between a guest process and the daemon.
 *
 *   Transport  SOCK_SEQPACKET on <run dir>/guest.sock; one message a packet:
 *              struct uvmm_msg_head, then the body that belongs to its type.
 *              A packet of another length than its type's is refused.
 *   Roles      A process opens one connection a role and says HELLO first:
 *                CONTROL  requests of the guest, each answered in turn. The
 *                         peer's process must be the one registered under the
 *                         token; or, with HELLO_KIN, one that is to be a guest
 *                         of its own with the same token (a forked child): the
 *                         answer is REPLY with -EAGAIN until it is registered.
 *                AGENT    the guest's agent thread: the daemon asks, the agent
 *                         answers. Same process as CONTROL.
 *                WATCH    the process that started the guest (uvmm run): told
 *                         in words what happens to it.
 *   Order      HELLO -> WELCOME, then CONTROL sends MAPPED once; after its
 *              REPLY the memory may be used.
 *   Units      sizes and places are pages of 4 KiB; addresses are bytes.
 *   Errors     status is 0 or a negative errno; a refusal carries its reason
 *              in words in struct uvmm_reply.text.
 *   Endianness and layout are the machine's own: both sides are on one kernel.
 */
#ifndef UVMM_PROTOCOL_H
#define UVMM_PROTOCOL_H

#include <stdint.h>

#include "uvmm/disk_ring.h"

#define UVMM_PROTOCOL_MAGIC 0x4d4d5675u /* "uVMM" */
#define UVMM_PROTOCOL_VERSION 1u

#define UVMM_PAGE_SHIFT 12
#define UVMM_PAGE_SIZE 4096u
#define UVMM_CHUNK_PAGES 512u           /* pages in a large page (2 MiB) */
#define UVMM_CHUNK_SIZE (UVMM_CHUNK_PAGES * UVMM_PAGE_SIZE)

#define UVMM_NAME_MAX 63u               /* bytes in a guest's name, without NUL */
#define UVMM_TOKEN_BYTES 16u
#define UVMM_PATH_BYTES 256u
#define UVMM_TEXT_BYTES 240u

/* What `uvmm run` puts into a guest's environment. */
#define UVMM_ENV_SOCKET "UVMM_SOCKET"   /* path of guest.sock */
#define UVMM_ENV_NAME "UVMM_NAME"       /* the guest's name */
#define UVMM_ENV_TOKEN "UVMM_TOKEN"     /* 32 hexadecimal digits */
#define UVMM_ENV_PID "UVMM_PID"         /* of the process that is the guest */
#define UVMM_ENV_FOLLOW "UVMM_FOLLOW"   /* set: what that starts are guests, too */

enum uvmm_msg_type {
	UVMM_MSG_HELLO = 1,     /* -> daemon: struct uvmm_hello */
	UVMM_MSG_WELCOME = 2,   /* -> guest: struct uvmm_welcome, descriptors */
	UVMM_MSG_MAPPED = 3,    /* -> daemon: struct uvmm_mapped, userfaultfd */
	UVMM_MSG_REPLY = 4,     /* -> guest: struct uvmm_reply */
	UVMM_MSG_PIN = 5,       /* -> daemon: struct uvmm_range; loads, keeps */
	UVMM_MSG_UNPIN = 6,     /* -> daemon: struct uvmm_range */
	UVMM_MSG_DISCARD = 7,   /* -> daemon: struct uvmm_range; zero from now */
	UVMM_MSG_STATS = 8,     /* -> daemon: no body; answered by USAGE */
	UVMM_MSG_USAGE = 9,     /* -> guest: struct uvmm_usage */
	UVMM_MSG_PRESSURE = 10, /* -> agent: struct uvmm_pressure */
	UVMM_MSG_RELEASED = 11, /* agent -> daemon: struct uvmm_released */
	UVMM_MSG_NOTICE = 12,   /* -> watcher: struct uvmm_notice */
	UVMM_MSG_CONTENT = 13,  /* -> daemon: struct uvmm_range; answered by BITMAP */
	UVMM_MSG_BITMAP = 14,   /* -> guest: struct uvmm_bitmap */
	UVMM_MSG_ATTEND = 15,   /* -> agent: no body; answered by ATTENDS */
	UVMM_MSG_ATTENDS = 16,  /* agent -> daemon: no body; a REMAP would be taken at once */
	UVMM_MSG_REMAP = 17,    /* -> agent: struct uvmm_remap, the frame file */
	UVMM_MSG_REMAPPED = 18, /* agent -> daemon: struct uvmm_remapped */
	UVMM_MSG_HOMED = 19,    /* -> daemon: struct uvmm_range; mapped as at first again */
	UVMM_MSG_ZAP = 20,      /* -> agent: struct uvmm_zap */
	UVMM_MSG_ZAPPED = 21,   /* agent -> daemon: struct uvmm_zapped */
	UVMM_MSG_BALLOON = 22,  /* -> agent: struct uvmm_balloon */
	UVMM_MSG_BALLOONED = 23, /* agent -> daemon: struct uvmm_ballooned */
	UVMM_MSG_INFLATE = 24,  /* -> daemon: struct uvmm_ranges; given back */
	UVMM_MSG_DEFLATE = 25,  /* -> daemon: struct uvmm_ranges; to be used again */
	UVMM_MSG_COUNT = 26,    /* -> guest: struct uvmm_count; answers these, and GIVE */
	UVMM_MSG_GIVE = 27,     /* -> daemon: struct uvmm_ranges; as INFLATE, but used on */
	UVMM_MSG_LEAVE = 28,    /* agent -> daemon: no body; attends no more, by the number of
				 * the ATTEND */
	UVMM_MSG_LEFT = 29,     /* -> agent: no body; its answer, unless a REMAP was sent: that
				 * is on its way, and to be served first */
	UVMM_MSG_LOWER = 35,    /* -> agent: struct uvmm_remap, low memory; answered by REMAPPED */
	UVMM_MSG_DISK_ADD = 30, /* watcher -> daemon: struct uvmm_disk_add, the image; answered
				 * by REPLY */
	UVMM_MSG_DISK_FIND = 31, /* -> daemon: struct uvmm_disk_find; answered by DISK_INFO */
	UVMM_MSG_DISK_INFO = 32, /* -> guest: struct uvmm_disk_info */
	UVMM_MSG_DISK_START = 33, /* -> daemon: no body; answered by DISK_RING */
	UVMM_MSG_DISK_RING = 34, /* -> guest: no body; the ring's memory, and what wakes the daemon */
};

enum uvmm_role {
	UVMM_ROLE_CONTROL = 1,
	UVMM_ROLE_AGENT = 2,
	UVMM_ROLE_WATCH = 3,
};

enum uvmm_memory_via {
	UVMM_VIA_FUSE = 0,       /* open uvmm_welcome.path */
	UVMM_VIA_DESCRIPTOR = 1, /* the second descriptor of WELCOME */
};

struct uvmm_msg_head {
	uint32_t magic;
	uint16_t version;
	uint16_t type;          /* enum uvmm_msg_type */
	uint32_t seq;           /* the asker's number, repeated in the answer */
	int32_t status;         /* 0 or a negative errno; 0 in requests */
};

/* A process that is not the registered one wants to be a guest of its own. */
#define UVMM_HELLO_KIN 1u

struct uvmm_hello {
	uint32_t role;          /* enum uvmm_role */
	uint32_t flags;         /* UVMM_HELLO_*, 0 but for CONTROL */
	uint8_t token[UVMM_TOKEN_BYTES];
	char name[UVMM_NAME_MAX + 1];   /* NUL-terminated */
};

/* With it come, for CONTROL: /dev/userfaultfd, on which the guest makes its own
 * userfaultfd by USERFAULTFD_IOC_NEW; and with VIA_DESCRIPTOR the memory file.
 * No descriptors for the other roles. On a refusal the REPLY form is sent. */
struct uvmm_welcome {
	uint64_t max_pages;     /* size of guest physical memory */
	uint32_t via;           /* enum uvmm_memory_via */
	uint32_t reserved;
	char path[UVMM_PATH_BYTES];
};

/* The guest has mapped its memory, shared, from offset 0. With it comes the
 * userfaultfd (O_NONBLOCK), on which UFFDIO_API was not yet called. */
struct uvmm_mapped {
	uint64_t base;          /* address, a multiple of UVMM_CHUNK_SIZE */
	uint64_t pages;         /* = max_pages */
};

struct uvmm_reply {
	char text[UVMM_TEXT_BYTES];     /* NUL-terminated; "" on success */
};

struct uvmm_range {
	uint64_t ppn;           /* first page */
	uint64_t pages;         /* how many, > 0 */
};

#define UVMM_BITMAP_PAGES 16384u        /* the most that CONTENT may ask for */

/* Bit i is page ppn + i of the range: set if it holds anything, else it is zero. */
struct uvmm_bitmap {
	uint64_t bits[UVMM_BITMAP_PAGES / 64];
};

struct uvmm_usage {
	uint64_t min_pages;
	uint64_t max_pages;
	uint64_t target_pages;
	uint64_t resident_pages;
	uint64_t swapped_pages;
	uint64_t untouched_pages;
	uint64_t pinned_pages;
	uint64_t faults;        /* served by the daemon */
	uint64_t stall_ns;      /* thread time spent waiting for memory */
	uint64_t ballooned_pages;
};

enum uvmm_pressure_level {
	UVMM_PRESSURE_NONE = 0, /* memory is plentiful again */
	UVMM_PRESSURE_SOME = 1, /* the machine reclaims in the background */
	UVMM_PRESSURE_FULL = 2, /* guests wait for memory now */
};

struct uvmm_pressure {
	uint32_t level;         /* enum uvmm_pressure_level */
	uint32_t reserved;
	uint64_t wanted_pages;  /* what the daemon would like back; a wish */
};

struct uvmm_released {
	uint64_t pages;         /* what the callbacks and the trim gave back */
};

#define UVMM_REMAP_RUNS 128u
#define UVMM_ATTEND_MS 100              /* so long an agent that attends does nothing else */
#define UVMM_FRAME_HOME UINT64_MAX

/* Pages [ppn, ppn + pages) become, in one step, a private mapping of the frame file
 * from `frame`, or, with FRAME_HOME, a shared one of guest memory again. */
struct uvmm_remap_run {
	uint64_t ppn;
	uint64_t frame;         /* first of as many, or FRAME_HOME */
	uint64_t pages;         /* > 0 */
};

/* With it comes the frame file, for reading, if a run is not FRAME_HOME. Runs do not
 * overlap and ascend. */
struct uvmm_remap {
	uint64_t runs;          /* 1 to UVMM_REMAP_RUNS, that many are sent */
	struct uvmm_remap_run run[UVMM_REMAP_RUNS];
};

/* Bit i: run i was done; else nothing was changed there. A REMAP with the number of the
 * last one was sent again, as no answer came: it is answered as before. Numbers
 * start with 1.
 *
 * A range that the guest discards is kept from remaps while it does: it sends DISCARD,
 * after which the daemon forgets the frames, then maps what was private there as guest
 * memory again, and says HOMED, so that it is watched as before. */
struct uvmm_remapped {
	uint64_t done[UVMM_REMAP_RUNS / 64];
};

/* LOWER comes instead of REMAP: pages move into the guest's part of low memory, whose
 * numbers `frame` has, or with FRAME_HOME out of it. The agent copies what they hold, run by
 * run: it protects the run (UFFDIO_WRITEPROTECT), copies it, puts the new mapping in place,
 * shared, and wakes who waits to write. With it comes the file of that part, for reading and
 * writing, if a run is not FRAME_HOME. */

#define UVMM_ZAP_RUNS 1024u

/* The pages are to be unmapped, and stay as they are: the next access maps them again,
 * which shows that there was one. Runs do not overlap and ascend. */
struct uvmm_zap {
	uint64_t until_ns;      /* CLOCK_MONOTONIC; what is not done by then is refused */
	uint64_t runs;          /* 1 to UVMM_ZAP_RUNS, that many are sent */
	struct uvmm_range run[UVMM_ZAP_RUNS];
};

/* Bit i: run i was done. Else nothing was changed there: not all of it is mapped as at
 * first, or some is about to be changed by the program. */
struct uvmm_zapped {
	uint64_t agent_ns;      /* CPU time that the agent has used in all */
	uint64_t done[UVMM_ZAP_RUNS / 64];
};

/* The balloon: pages that the guest has taken out of its own allocator and handed back.
 *
 * BALLOON says how large it is to be. The agent comes as near to that as it can in a
 * moment, by INFLATE and DEFLATE on the CONTROL connection, and answers BALLOONED; with
 * `more` it could go on, and is asked again. A BALLOON that was not answered may come
 * twice. Where INFLATE frees less than it takes, the guest looks for other free pages
 * that hold something, and GIVEs what these hold; the pages stay its own. INFLATE is refused with -EDQUOT beyond the size that was asked for, and with
 * -EBUSY, with nothing done, as DISCARD is; what was private in its ranges the guest maps
 * home, and says HOMED. DEFLATE comes before the pages are used, from any thread of the
 * guest at any time: it takes back what it needs. A touch without that pops the page,
 * which is zero then. */
struct uvmm_balloon {
	uint64_t target_pages;
	uint64_t pages;         /* ballooned now, as the daemon counts: the guest changes by
				 * the difference */
};

struct uvmm_ballooned {
	uint64_t pages;         /* in the guest's balloon now */
	uint32_t more;          /* 1: nearer to the target there is more to be done */
	uint32_t reserved;
};

#define UVMM_RANGES 30u

enum uvmm_deflate_why {
	UVMM_DEFLATE_ASKED = 0,         /* by BALLOON */
	UVMM_DEFLATE_NEEDED = 1,        /* the guest has no other free memory */
};

struct uvmm_ranges {
	uint32_t ranges;        /* 1 to UVMM_RANGES; all are sent */
	uint32_t why;           /* enum uvmm_deflate_why; 0 unless in DEFLATE */
	struct uvmm_range range[UVMM_RANGES];
};

/* Of all pages of the ranges, those that are ballooned now (INFLATE), read as zeros now
 * (GIVE), or were ballooned (DEFLATE). Others hold what they did, or zeros. */
struct uvmm_count {
	uint64_t pages;
	uint64_t freed_pages;   /* of machine memory */
};

/* Virtual disks (uvmm/disk_ring.h). The watcher gives images, open as the guest is to have
 * them (O_RDWR or O_RDONLY, with O_DIRECT where the filesystem has that), before or while the
 * guest runs. The guest finds them by name, and starts a ring for all of them: once a mapping,
 * a second START gives the same one. */
struct uvmm_disk_add {
	char name[UVMM_DISK_NAME_MAX + 1];      /* NUL-terminated */
	uint32_t read_only;                     /* 0 or 1 */
	uint32_t reserved;
};

struct uvmm_disk_find {
	char name[UVMM_DISK_NAME_MAX + 1];
};

struct uvmm_disk_info {
	uint64_t size_bytes;            /* when it was added */
	uint32_t block_bytes;           /* offsets and sizes are multiples of it */
	uint32_t disk;                  /* its number */
	uint32_t read_only;
	uint32_t reserved;
};

/* A descriptor by O_DIRECT at this position, where no direct I/O could be, is for ordinary
 * memory and pinned pages of the guest alone: the daemon need not expect devices
 * to write past its write protection (core/direct_io.h). A position that file systems of
 * 16 TiB have. */
#define UVMM_DIRECT_MARK 0x75766d6d001

enum uvmm_notice_kind {
	UVMM_NOTICE_WARNING = 1,
	UVMM_NOTICE_REFUSED = 2,        /* the guest was refused memory */
	UVMM_NOTICE_DAMAGED = 3,        /* a page was lost: SIGBUS on access */
};

struct uvmm_notice {
	uint32_t kind;          /* enum uvmm_notice_kind */
	uint32_t reserved;
	char text[UVMM_TEXT_BYTES];
};

#endif /* UVMM_PROTOCOL_H */
