/* SPDX-License-Identifier: MIT
 * What was read from images that nobody may write; see disk_parts.h. */
#include "disk_parts.h"

#define REST_NS (100 * NS_PER_MS)       /* a buffer that is in use is read into again by then */

void disk_note_read(struct disk_io *d, const struct job *j, const struct uvmm_disk_segment *s,
		    uint8_t copies)
{
	uint64_t lo = (s->address + UVMM_PAGE_SIZE - 1) >> UVMM_PAGE_SHIFT;
	uint64_t hi = (s->address + s->bytes) >> UVMM_PAGE_SHIFT;
	struct read_note *n = &d->read[d->reads_end % READS_MAX];

	if (copies > 1 || lo >= hi || j->q.head.op != UVMM_DISK_READ ||
	    !d->g->disks.limit[j->q.head.disk].read_only ||
	    d->reads_end - d->reads_begin == READS_MAX)
		return;
	*n = (struct read_note){ lo, hi - lo, clock_ns() + REST_NS };
	d->reads_end++;
}

static bool is_due(const struct disk_io *d, uint64_t now_ns)
{
	return d->reads_begin != d->reads_end && d->read[d->reads_begin % READS_MAX].due_ns <= now_ns;
}

void disk_tell_reads(struct disk_io *d)
{
	uint64_t now = clock_ns();

	if (!is_due(d, now) || !guest_enter(d->g))
		return;
	for (; is_due(d, now); d->reads_begin++) {
		const struct read_note *n = &d->read[d->reads_begin % READS_MAX];

		if (heat_most(&d->heat, n->ppn, n->pages) <= 1)
			scanner_note_read(d->e, d->g, n->ppn, n->pages);
	}
	guest_leave(d->g);
}

uint64_t disk_wait_ns(const struct disk_io *d)
{
	if (d->reads_begin != d->reads_end)
		return REST_NS;
	return d->g->low.fd >= 0 || d->heat.hot ? DISK_TIDY_NS : UINT64_MAX;
}
