/* SPDX-License-Identifier: MIT
 *
 * pmap - per guest, where each page (PPN) is now: one atomic 64-bit entry.
 *
 *   Life of a page
 *     PRESENT     with the kernel: in the guest's file, or a hole that was never
 *                 written (or holds only zeros) and reads as zeros. The file
 *                 itself says which. What every page starts as.
 *     EVICTING    a reclaimer has write-protected it and copies it out. Its
 *                 content is still in the file, and stays there: the reclaimer
 *                 has it mapped. A writer's fault takes it to HELD, a pin to
 *                 PRESENT: the reclaimer has then lost.
 *     PUNCHING    the copy is stored and verified, the hole is being punched.
 *                 Only the reclaimer leaves this state: the commit point of a
 *                 reclaim is EVICTING -> PUNCHING.
 *     STORED      the tier and handle in the entry have it; the file has a hole
 *                 there and the chunk is armed, so no access can see that hole.
 *     LOADING     somebody reads it from its tier; the entry keeps the handle.
 *     HELD        a fault thread takes its write protection off, or puts zeros
 *                 into a hole.
 *     DISCARDING  somebody punches it away at the guest's wish.
 *     DAMAGED     its stored copy failed; accesses get SIGBUS. For good.
 *     BALLOONED   the guest has given it back: a hole, in a chunk that is armed, so that
 *                 an access is seen, and pops it (balloon.h).
 *     REMAPPING   the guest's agent has been told to map a frame there, or guest
 *                 memory again; until it has answered nobody knows which is mapped,
 *                 and both have the same content (order.h, share.h).
 *     SHARED      mapped privately from the frame in the entry, to which the page is a
 *                 reference; the file has a hole there. A write is split by the
 *                 kernel, unseen: the page stays SHARED until that is noticed.
 *     LOW         mapped, shared, from the guest's part of low memory, whose page the entry
 *                 has, with how many requests of devices hold it there (low.h).
 *     SPLIT       was SHARED, and its content is the process's own now. The entry has
 *                 a print of it, or nothing.
 *
 *   EVICTING, PUNCHING, LOADING, HELD, DISCARDING and REMAPPING have an owner: the
 *   thread that made the transition, or the order that is under way. Faults on such
 *   a page are not queued: the owner wakes all waiters of the page after it has left
 *   the state, and they fault anew.
 *
 *   REMAPPING, SHARED, SPLIT and LOW pages are not home: userfaultfd calls on a range must
 *   not cross them, as something else is mapped there.
 *
 *   Units    pages. Errors 0 or -errno.
 *   Threads  entries and chunk words are atomic; init and fini are exclusive.
 *   Cost     8 bytes a page and 4 a chunk, both only where a page was ever
 *            moved: the table is a sparse file in machine memory.
 */
#ifndef PMAP_H
#define PMAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"

enum page_state {
	PAGE_PRESENT = 0,
	PAGE_EVICTING = 1,
	PAGE_PUNCHING = 2,
	PAGE_STORED = 3,
	PAGE_LOADING = 4,
	PAGE_HELD = 5,
	PAGE_DISCARDING = 6,
	PAGE_DAMAGED = 7,
	PAGE_BALLOONED = 8,
	PAGE_REMAPPING = 9,
	PAGE_SHARED = 10,
	PAGE_SPLIT = 11,
	PAGE_LOW = 12,
};

#define PMAP_PINS_MAX 15u

/* An entry: state in bits 0-3, pins in 4-7, tier in 8-11, handle in 12-63. */
typedef uint64_t pmap_entry;

static inline enum page_state pmap_state(pmap_entry e)
{
	return (enum page_state)(e & 0xf);
}

static inline unsigned pmap_pins(pmap_entry e)
{
	return (unsigned)(e >> 4) & 0xf;
}

static inline unsigned pmap_tier(pmap_entry e)
{
	return (unsigned)(e >> 8) & 0xf;
}

static inline uint64_t pmap_handle(pmap_entry e)
{
	return e >> 12;
}

static inline pmap_entry pmap_make(enum page_state s, unsigned pins)
{
	return (uint64_t)s | (uint64_t)pins << 4;
}

static inline pmap_entry pmap_stored(unsigned tier, uint64_t handle)
{
	return (uint64_t)PAGE_STORED | (uint64_t)tier << 8 | handle << 12;
}

/* SHARED, or REMAPPING to it, from a frame; SPLIT with a print. */
static inline pmap_entry pmap_remapped(enum page_state s, uint64_t handle)
{
	return (uint64_t)s | handle << 12;
}

static inline bool pmap_is_home(pmap_entry e)
{
	return pmap_state(e) < PAGE_REMAPPING;
}

/* The handle of a REMAPPING page that is to be home, and has no frame. */
#define PMAP_NO_FRAME (UINT64_MAX >> 12)

/* The handle of a LOW page, and of a REMAPPING one on its way from or to there: bit 51, the
 * number of the page of low memory in 0-35, and how many hold it in 36-50. */
#define PMAP_LOW_BIT (1ull << 51)
#define PMAP_LOW_HOLDS_MAX 0x7fffu

static inline pmap_entry pmap_low(enum page_state s, uint64_t low)
{
	return (uint64_t)s | (PMAP_LOW_BIT | low) << 12;
}

static inline bool pmap_handle_is_low(uint64_t handle)
{
	return handle != PMAP_NO_FRAME && handle & PMAP_LOW_BIT;
}

static inline uint64_t pmap_low_page(pmap_entry e)
{
	return pmap_handle(e) & ((1ull << 36) - 1);
}

static inline unsigned pmap_low_holds(pmap_entry e)
{
	return (unsigned)(pmap_handle(e) >> 36) & PMAP_LOW_HOLDS_MAX;
}

static inline pmap_entry pmap_with_low_holds(pmap_entry e, unsigned holds)
{
	return (e & ~((uint64_t)PMAP_LOW_HOLDS_MAX << 48)) | (uint64_t)holds << 48;
}

static inline pmap_entry pmap_with_pins(pmap_entry e, unsigned pins)
{
	return (e & ~0xf0ull) | (uint64_t)pins << 4;
}

static inline pmap_entry pmap_with_state(pmap_entry e, enum page_state s)
{
	return (e & ~0xfull) | (uint64_t)s;
}

struct pmap {
	uint64_t pages;                 /* immutable after init */
	uint64_t chunks;                /* immutable after init */
	_Atomic uint64_t *entries;      /* [pages] */
	_Atomic uint32_t *chunk;        /* [chunks]: see below */
	uint64_t map_bytes;
};

/* A chunk word: absent pages in the low 16 bits (those that are, or are about to
 * be, STORED, LOADING, DAMAGED or BALLOONED), and the bit of the one who reclaims in it or loads
 * it as a whole. */
#define CHUNK_ABSENT_MASK 0xffffu
#define CHUNK_BUSY 0x10000u
#define CHUNK_EVER 0x20000u             /* a page of it was absent once */
#define CHUNK_AWAY_SHIFT 18             /* from there: pages that are not home */
#define CHUNK_AWAY_ONE (1u << CHUNK_AWAY_SHIFT)

/* Maps the table over fd, an empty file that is given its size here; the caller
 * may close fd.  -ENOMEM, -ENOSPC, ... */
int pmap_init(struct pmap *p, int fd, uint64_t pages);
void pmap_fini(struct pmap *p);
/* All pages PRESENT again, none absent. Exclusive. -errno of madvise(2). */
int pmap_clear(struct pmap *p);

static inline pmap_entry pmap_get(const struct pmap *p, uint64_t ppn)
{
	return atomic_load(&p->entries[ppn]);
}

/* Only for the owner of the page's transient state. */
static inline void pmap_set(struct pmap *p, uint64_t ppn, pmap_entry e)
{
	atomic_store(&p->entries[ppn], e);
}

/* From *e to want; on failure *e is what is there now. */
static inline bool pmap_move(struct pmap *p, uint64_t ppn, pmap_entry *e,
			     pmap_entry want)
{
	return atomic_compare_exchange_strong(&p->entries[ppn], e, want);
}

static inline uint32_t pmap_chunk_absent(const struct pmap *p, uint64_t chunk)
{
	return atomic_load(&p->chunk[chunk]) & CHUNK_ABSENT_MASK;
}

static inline void pmap_chunk_add(struct pmap *p, uint64_t ppn, uint32_t pages)
{
	atomic_fetch_add(&p->chunk[ppn / UVMM_CHUNK_PAGES], pages);
}

static inline void pmap_chunk_sub(struct pmap *p, uint64_t ppn, uint32_t pages)
{
	atomic_fetch_sub(&p->chunk[ppn / UVMM_CHUNK_PAGES], pages);
}

static inline uint32_t pmap_chunk_away(const struct pmap *p, uint64_t chunk)
{
	return atomic_load(&p->chunk[chunk]) >> CHUNK_AWAY_SHIFT;
}

/* Before a page is REMAPPING from home, and after it is home again. */
static inline void pmap_chunk_add_away(struct pmap *p, uint64_t ppn, uint32_t pages)
{
	atomic_fetch_add(&p->chunk[ppn / UVMM_CHUNK_PAGES], pages * CHUNK_AWAY_ONE);
}

static inline void pmap_chunk_sub_away(struct pmap *p, uint64_t ppn, uint32_t pages)
{
	atomic_fetch_sub(&p->chunk[ppn / UVMM_CHUNK_PAGES], pages * CHUNK_AWAY_ONE);
}

/* Before the first page of a chunk leaves PRESENT for reclaim. */
static inline void pmap_chunk_mark(struct pmap *p, uint64_t chunk)
{
	if (!(atomic_load(&p->chunk[chunk]) & CHUNK_EVER))
		atomic_fetch_or(&p->chunk[chunk], CHUNK_EVER);
}

static inline bool pmap_chunk_marked(const struct pmap *p, uint64_t chunk)
{
	return atomic_load(&p->chunk[chunk]) & CHUNK_EVER;
}

/* Becomes the one who holds the busy bit; false if there is one. */
static inline bool pmap_chunk_claim(struct pmap *p, uint64_t chunk)
{
	return !(atomic_fetch_or(&p->chunk[chunk], CHUNK_BUSY) & CHUNK_BUSY);
}

static inline void pmap_chunk_release(struct pmap *p, uint64_t chunk)
{
	atomic_fetch_and(&p->chunk[chunk], ~CHUNK_BUSY);
}

#endif /* PMAP_H */
