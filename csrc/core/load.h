/* SPDX-License-Identifier: MIT
 *
 * load - brings stored pages back into a guest.
 *
 *   STORED -> LOADING (claimed) -> read and checked -> put in by UFFDIO_COPY,
 *   which wakes who waits -> PRESENT (the commit point), handle dropped. A page
 *   that fails its check becomes DAMAGED, and accesses get SIGBUS.
 *
 *   A chunk that is absent as a whole comes back as one: shielded (guest.h), it is
 *   read from its tier straight into the file, as a large page where possible,
 *   and then opened: no copy, no page-by-page mapping, one fault.
 *
 *   Threads  any number at once; each needs a buffer of its own. The caller has
 *            entered the guest.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdint.h>

#include "guest.h"
#include "pressure.h"
#include "tier.h"
#include "view.h"

struct uvmm_engine;

/* One thread's room for a batch; about 2 MiB, of which what is used counts. */
struct load_buffer {
	char *data;             /* TIER_BATCH_MAX pages */
	uint64_t ppn[TIER_BATCH_MAX];
	uint64_t handles[TIER_BATCH_MAX];
	uint64_t seeds[TIER_BATCH_MAX];
	int bad[TIER_BATCH_MAX];
	struct view view;
};

struct load_buffer *load_buffer_new(void);     /* NULL: no memory */
void load_buffer_free(struct load_buffer *b);

/* What the checksum of a guest's page is seeded with. */
static inline uint64_t load_seed(const struct guest *g, uint64_t ppn)
{
	return g->id << 36 ^ ppn;
}

/* Loads the stored pages of [lo, hi), at most TIER_BATCH_MAX long. With must (a
 * page in the range, or UINT64_MAX) that page comes first and alone if memory is
 * short. *loaded is how many came.
 *   -ENOMEM  no machine memory, or for `must` not now
 *   -EIO     a page was damaged; the others came
 *   -ESRCH   the guest goes away */
int load_pages(struct uvmm_engine *e, struct guest *g, uint64_t lo, uint64_t hi,
	       uint64_t must, struct load_buffer *b, uint64_t *loaded);

/* Loads a chunk that is absent as a whole; how many pages came: all or none. None
 * if it does not qualify, memory is not plentiful, large pages are slow to get, or a
 * page of it is bad (which load_pages will tell). */
uint64_t load_chunk(struct uvmm_engine *e, struct guest *g, uint64_t chunk,
		    struct load_buffer *b);

/* Takes a stored page as number *n of the buffer; puts [from, to) of it back. */
bool load_claim(struct guest *g, uint64_t ppn, struct load_buffer *b, size_t *n);
void load_unclaim(struct guest *g, struct load_buffer *b, size_t from, size_t to);

/* The page, which the caller owns, is lost: its copy at `handle` fails its checksum
 * (why -EBADMSG) or cannot be read. DAMAGED from now; everyone is told. */
void load_damage(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t handle,
		 int why);

/* Puts zeros into the hole at ppn, which is waited for, and into those that
 * follow, up to hi. After -ENOMEM nobody was woken: see pressure_wait().
 *   -ENOMEM, -ESRCH */
int load_zeros(struct uvmm_engine *e, struct guest *g, uint64_t ppn, uint64_t hi);

/* Maps those of [lo, hi) that are in the file and were unmapped, up to the first
 * that is not so. */
void load_mappings(struct guest *g, uint64_t lo, uint64_t hi);

#endif /* LOAD_H */
