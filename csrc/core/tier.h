/* SPDX-License-Identifier: MIT
 *
 * tier - where a page that is not resident lives. One interface for all kinds;
 * a page is named there by a handle of 52 bits, and carries a checksum
 * (uvmm_checksum) made with a seed that says whose page it is, so that a page
 * read from a wrong place fails as a corrupt one does.
 *
 *   Units    pages; handles are the tier's own numbers.
 *   Errors   0 or a negative errno.
 *   Threads  store, load, drop and usage may be called from any thread at any
 *            time; each handle has one user at a time (the owner of its page).
 */
#ifndef TIER_H
#define TIER_H

#include <stddef.h>
#include <stdint.h>

#define TIER_BATCH_MAX 512u     /* pages in one call of store or load */

struct tier;

struct tier_ops {
	const char *name;
	/* Stores n pages with their checksums, in order; handles[i] for each that
	 * was. Returns how many were, which is less than n when the tier became
	 * full:
	 *   -ENOSPC  not one fits    -EIO  writing failed, nothing is kept */
	int (*store)(struct tier *t, const void *const *pages, const uint32_t *sums,
		     size_t n, uint64_t *handles);
	/* Reads n pages to dst, one after the other; bad[i] is 0, -EBADMSG if the
	 * checksum fails, -EIO if it can't be read. The copies are kept. */
	void (*load)(struct tier *t, const uint64_t *handles,
		     const uint64_t *seeds, size_t n, void *dst, int *bad);
	/* Forgets n pages. */
	void (*drop)(struct tier *t, const uint64_t *handles, size_t n);
	void (*usage)(struct tier *t, uint64_t *total_pages, uint64_t *used_pages);
	void (*close)(struct tier *t);
};

struct tier {
	const struct tier_ops *ops;
};

static inline int tier_store(struct tier *t, const void *const *pages,
			     const uint32_t *sums, size_t n, uint64_t *handles)
{
	return t->ops->store(t, pages, sums, n, handles);
}

static inline void tier_load(struct tier *t, const uint64_t *handles,
			     const uint64_t *seeds, size_t n, void *dst, int *bad)
{
	t->ops->load(t, handles, seeds, n, dst, bad);
}

static inline void tier_drop(struct tier *t, const uint64_t *handles, size_t n)
{
	t->ops->drop(t, handles, n);
}

#endif /* TIER_H */
