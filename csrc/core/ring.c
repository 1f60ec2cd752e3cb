/* SPDX-License-Identifier: MIT */
#include "ring.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static uint32_t look(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static int check_place(const struct uvmm_disk_request *q, const struct ring_disk *d)
{
	bool reads = q->op == UVMM_DISK_READ;

	if (!q->bytes || q->offset % d->block_bytes || q->bytes % d->block_bytes)
		return -EINVAL;
	if (!reads && d->read_only)
		return -EROFS;
	if (q->offset > d->size_bytes || q->bytes > d->size_bytes - q->offset)
		return reads ? -EIO : -ENOSPC;
	return 0;
}

static int check_segments(const struct ring_request *r, const struct ring_limits *l)
{
	uint64_t sum = 0;
	unsigned i;

	for (i = 0; i < r->head.segments; i++) {
		const struct uvmm_disk_segment *s = &r->segment[i];

		if (!s->bytes || s->bytes % l->disk[r->head.disk].block_bytes || s->reserved ||
		    s->address > l->memory_bytes || s->bytes > l->memory_bytes - s->address)
			return -EINVAL;
		sum += s->bytes;
	}
	return sum == r->head.bytes && sum <= UVMM_DISK_BYTES_MAX ? 0 : -EINVAL;
}

static int check(const struct ring_request *r, const struct ring_limits *l)
{
	const struct uvmm_disk_request *q = &r->head;
	int rc;

	if (q->disk >= l->disks)
		return -ENXIO;
	switch (q->op) {
	case UVMM_DISK_READ:
	case UVMM_DISK_WRITE:
		if (!q->segments || q->segments > UVMM_DISK_SEGMENTS)
			return -EINVAL;
		rc = check_segments(r, l);
		return rc ? rc : check_place(q, &l->disk[q->disk]);
	case UVMM_DISK_FLUSH:
		return q->segments || q->bytes || q->offset ? -EINVAL : 0;
	case UVMM_DISK_DISCARD:
		return q->segments ? -EINVAL : check_place(q, &l->disk[q->disk]);
	default:
		return -EOPNOTSUPP;
	}
}

static bool is_waiting(const struct ring *r)
{
	uint32_t untaken = r->done_put - look(&r->shared->done_taken);

	return __atomic_load_n(&r->shared->submitted, __ATOMIC_SEQ_CST) != r->taken &&
	       untaken <= UVMM_DISK_SLOTS && r->under_way + untaken < UVMM_DISK_SLOTS;
}

bool ring_take(struct ring *r, const struct ring_limits *l, struct ring_request *out,
	       int *status)
{
	struct uvmm_disk_ring *s = r->shared;
	uint32_t slot = r->taken % UVMM_DISK_SLOTS;
	size_t segments;

	if (!is_waiting(r))
		return false;
	memcpy(&out->head, &s->request[slot], sizeof(out->head));
	/* A copy of what may change is not to be made anew by the compiler. */
	__asm__ __volatile__("" : : "r"(out) : "memory");
	segments = out->head.segments <= UVMM_DISK_SEGMENTS ? out->head.segments : 0;
	memcpy(out->segment, s->segment[slot], segments * sizeof(out->segment[0]));
	__asm__ __volatile__("" : : "r"(out) : "memory");
	*status = check(out, l);
	r->taken++;
	r->under_way++;
	__atomic_store_n(&s->taken, r->taken, __ATOMIC_RELEASE);
	return true;
}

bool ring_put(struct ring *r, uint64_t cookie, int status)
{
	struct uvmm_disk_ring *s = r->shared;

	s->done[r->done_put % UVMM_DISK_SLOTS] = (struct uvmm_disk_done){
		.cookie = cookie,
		.status = status,
	};
	r->done_put++;
	r->under_way--;
	__atomic_store_n(&s->done_put, r->done_put, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&s->waits, __ATOMIC_SEQ_CST);
}

void ring_wake(struct ring *r)
{
	syscall(SYS_futex, &r->shared->done_put, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

bool ring_sleep(struct ring *r)
{
	__atomic_store_n(&r->shared->sleeps, 1, __ATOMIC_SEQ_CST);
	if (!is_waiting(r))
		return true;
	ring_wake_up(r);
	return false;
}

void ring_wake_up(struct ring *r)
{
	__atomic_store_n(&r->shared->sleeps, 0, __ATOMIC_RELAXED);
}
