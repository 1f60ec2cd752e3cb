/* SPDX-License-Identifier: MIT
 * Pages move into low memory and out of it; see remap.h. */
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "raw.h"
#include "remap_parts.h"

#define WORD 64u

/* Newer than the headers of Debian 12. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif

struct lower {
	struct remap *r;
	int userfault;
	const struct kept_fd *low;
	uint64_t low_pages;
};

static size_t bytes_of(uint64_t pages)
{
	return pages * UVMM_PAGE_SIZE;
}

static char *place(const struct lower *l, uint64_t page)
{
	return l->r->base + bytes_of(page);
}

/* Writers wait from here on, or no more. */
static int protect(const struct lower *l, const struct uvmm_remap_run *run, bool on)
{
	struct uffdio_writeprotect w = {
		.range = { (uintptr_t)place(l, run->ppn), bytes_of(run->pages) },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return (int)raw_call(SYS_ioctl, l->userfault, (long)UFFDIO_WRITEPROTECT, (long)&w, 0, 0,
			     0);
}

/* Those who waited find the new mapping. */
static void wake(const struct lower *l, const struct uvmm_remap_run *run)
{
	struct uffdio_range range = { (uintptr_t)place(l, run->ppn), bytes_of(run->pages) };

	raw_call(SYS_ioctl, l->userfault, (long)UFFDIO_WAKE, (long)&range, 0, 0, 0);
}

/* What is mapped from low memory is not watched: only for the time of the move. */
static int watch(const struct lower *l, const struct uvmm_remap_run *run)
{
	struct uffdio_register reg = {
		.range = { (uintptr_t)place(l, run->ppn), bytes_of(run->pages) },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	return (int)raw_call(SYS_ioctl, l->userfault, (long)UFFDIO_REGISTER, (long)&reg, 0, 0, 0);
}

/* Two mappings of where the run goes: one to copy to, and one that is put in its place. That one
 * has no pages mapped yet, as moving these would take most of the time that writers wait. */
struct stage {
	char *copy, *bare;
};

static void unmap_stage(const struct stage *s, size_t bytes)
{
	if (!raw_failed(s->copy))
		raw_munmap(s->copy, bytes);
	if (!raw_failed(s->bare))
		raw_munmap(s->bare, bytes);
}

/* Copies the run, from where it is, and puts the stage in its place. That is gone then, in
 * any case. */
static int move(const struct lower *l, const struct uvmm_remap_run *run, struct stage *s,
		const char *from, bool away)
{
	size_t bytes = bytes_of(run->pages);
	int rc = protect(l, run, true);

	if (!rc) {
		memcpy(s->copy, from, bytes);
		rc = remap_commit(l->r, s->bare, run->ppn, run->pages);
		s->bare = MAP_FAILED;
		if (rc)
			protect(l, run, false);
	}
	if (!rc) {
		remap_mark(l->r, run->ppn, run->pages, away);
		wake(l, run);
	}
	unmap_stage(s, bytes);
	return rc;
}

static char *map_low(const struct lower *l, const struct uvmm_remap_run *run, int flags)
{
	return raw_mmap(NULL, bytes_of(run->pages), PROT_READ | PROT_WRITE, MAP_SHARED | flags,
			l->low->fd, (off_t)bytes_of(run->frame));
}

static int lower_run(const struct lower *l, const struct uvmm_remap_run *run)
{
	size_t bytes = bytes_of(run->pages);
	struct stage s = { map_low(l, run, MAP_POPULATE), map_low(l, run, 0) };
	char *home = remap_copy_of_home(l->r, run->ppn, run->pages);
	int rc = -1;

	if (raw_failed(s.copy) || raw_failed(s.bare) || raw_failed(home) ||
	    raw_madvise(s.copy, bytes, MADV_DONTFORK) ||
	    raw_madvise(s.bare, bytes, MADV_DONTFORK) || !kept_is_ours(l->low) ||
	    raw_mprotect(home, bytes, PROT_READ) || raw_madvise(home, bytes, MADV_POPULATE_READ))
		unmap_stage(&s, bytes);
	else
		rc = move(l, run, &s, home, true);
	if (!raw_failed(home))
		raw_munmap(home, bytes);
	return rc;
}

static int raise_run(const struct lower *l, const struct uvmm_remap_run *run)
{
	size_t bytes = bytes_of(run->pages);
	struct stage s = { remap_copy_of_home(l->r, run->ppn, run->pages),
			   remap_copy_of_home(l->r, run->ppn, run->pages) };
	int rw = PROT_READ | PROT_WRITE;

	if (raw_failed(s.copy) || raw_failed(s.bare) || raw_mprotect(s.copy, bytes, rw) ||
	    raw_mprotect(s.bare, bytes, rw) || raw_madvise(s.copy, bytes, MADV_POPULATE_WRITE) ||
	    watch(l, run)) {
		unmap_stage(&s, bytes);
		return -1;
	}
	return move(l, run, &s, place(l, run->ppn), false);
}

static bool serve_run(const struct lower *l, const struct uvmm_remap_run *run)
{
	if (!remap_may_change(l->r, run->ppn, run->pages))
		return false;
	if (run->frame == UVMM_FRAME_HOME)
		return !raise_run(l, run);
	return run->frame + run->pages <= l->low_pages && !lower_run(l, run);
}

void remap_lower(struct remap *r, const struct uvmm_remap *m, int low,
		 struct uvmm_remapped *out)
{
	struct kept_fd kept = kept_take(low);
	struct lower l = {
		.r = r,
		.userfault = r->ops->userfault ? r->ops->userfault(r->arg) : -1,
		.low = &kept,
	};
	struct stat st;
	uint64_t i;

	memset(out, 0, sizeof(*out));
	if (low >= 0 && !fstat(kept.fd, &st) && st.st_size > 0)
		l.low_pages = (uint64_t)st.st_size / UVMM_PAGE_SIZE;
	for (i = 0; i < m->runs && l.userfault >= 0; i++) {
		pthread_mutex_lock(&r->lock);
		if (serve_run(&l, &m->run[i]))
			out->done[i / WORD] |= 1ull << (i % WORD);
		pthread_mutex_unlock(&r->lock);
	}
	kept_close(&kept);
}
