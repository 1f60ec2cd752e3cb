/* SPDX-License-Identifier: MIT
 *
 * disk_parts - what the files of the disk thread have in common: disk_io.c (requests, and the
 * thread's life), disk_piece.c (memory for a part of a request), disk_low.c (what moves into low
 * memory), disk_reads.c (what others may have read, too). All calls are the thread's own, but for disk_arrange_pieces, before it runs.
 */
#ifndef DISK_PARTS_H
#define DISK_PARTS_H

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "clock.h"
#include "disk_io.h"
#include "engine.h"
#include "heat.h"
#include "share.h"

#define SMALL_BYTES 8192u
#define SMALLS 256u
#define LARGE_BYTES (256u << 10)
#define LARGES 24u
#define POOL_BYTES (SMALLS * SMALL_BYTES + LARGES * LARGE_BYTES)
#define DIRECTS UVMM_DISK_SLOTS
#define PIECES (SMALLS + LARGES + DIRECTS)
#define TIDY_NS NS_PER_S
#define HOT_MAX 16u
#define READS_MAX 256u
#define DISK_TIDY_NS NS_PER_S

struct job {
	struct ring_request q;
	int status;
	uint32_t under_way;     /* pieces, or the operation */
	uint32_t segment, at;   /* where the next piece begins */
	uint64_t sent;          /* bytes of it that have pieces */
	bool issued;            /* all of it */
	bool copied;            /* some of it */
	struct job *next;       /* free */
};

/* A direct one has no buffer but the guest's pages, which it holds. */
enum piece_kind { PIECE_SMALL, PIECE_LARGE, PIECE_DIRECT, PIECE_KINDS };

struct piece {
	struct job *job;
	char *buffer;
	uint64_t address, offset;
	uint32_t bytes, done;
	enum piece_kind kind;
	uint32_t buffer_index;  /* as registered */
	struct piece *next;     /* free */
};

/* A buffer that is copied again and again. */
struct hot {
	uint64_t ppn;
	uint32_t pages;
};

/* Whole pages that were read. */
struct read_note {
	uint64_t ppn, pages, due_ns;
};

struct disk_io {
	/* Immutable while the thread runs. */
	struct uvmm_engine *e;
	struct guest *g;
	int memory_fd, wake_fd;
	pthread_t thread;
	sem_t started;
	int start_error;
	_Atomic bool stop;

	/* The thread's own. */
	struct ring ring;
	struct io_uring uring;
	char *pool;
	uint32_t in_flight;     /* without the event */
	bool to_wake;           /* a thread of the guest waits for what was put */
	struct job job[UVMM_DISK_SLOTS], *free_job, *issuing;
	struct piece piece[PIECES], *free_piece[PIECE_KINDS];
	struct heat heat;
	struct hot hot[HOT_MAX];
	uint32_t hots;
	uint64_t tidy_ns;
	struct read_note read[READS_MAX];       /* the oldest is reads_begin, modulo */
	uint64_t reads_begin, reads_end;
	struct share_buffer home;               /* for what is called home */
};

static inline void disk_count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint32_t disk_pages_of(uint64_t address, uint32_t bytes)
{
	return (uint32_t)(((address + bytes - 1) >> UVMM_PAGE_SHIFT) -
			  (address >> UVMM_PAGE_SHIFT) + 1);
}

/* An entry to be filled in. */
struct io_uring_sqe *disk_entry(struct disk_io *d);

/* The pool's buffers become pieces. */
void disk_arrange_pieces(struct disk_io *d);
/* One for the first of `rest` bytes from address, for that disk: of whole blocks, and direct
 * if the device reaches them. NULL: there is none now. */
struct piece *disk_take_piece(struct disk_io *d, uint32_t disk, uint64_t address, uint32_t rest);
void disk_give_piece(struct disk_io *d, struct piece *p);
/* Sends what of it is not done. */
void disk_send_piece(struct disk_io *d, struct piece *p);
/* The bytes of a piece, between its buffer and the guest; none of a direct one's.
 *   -ESRCH, or as transfer.h says */
int disk_copy_piece(struct disk_io *d, const struct piece *p, bool to_guest);

/* Others read the same blocks, most likely, of an image that nobody may write: what was read from one
 * is looked up by the scanner as soon as it has rested for a tenth of a second. Not what was
 * read into before, or is again by then: it would only be split. */
void disk_note_read(struct disk_io *d, const struct job *j, const struct uvmm_disk_segment *s,
		    uint8_t copies);
void disk_tell_reads(struct disk_io *d);
/* How long there is nothing to do if no request comes; UINT64_MAX: for ever. */
uint64_t disk_wait_ns(const struct disk_io *d);

/* With low memory, if the guest may have any; else everything is copied. */
void disk_open_low(struct disk_io *d);
/* The job, which was copied, is done: by that buffers become hot, and what was read may be
 * shared. */
void disk_note_heat(struct disk_io *d, const struct job *j);
/* Moves what was found hot into low memory. */
void disk_lower_hot(struct disk_io *d);
/* Now and then: pages that are wanted back, or more than the guest may have, and empty
 * chunks. */
void disk_tidy(struct disk_io *d);

#endif /* DISK_PARTS_H */
