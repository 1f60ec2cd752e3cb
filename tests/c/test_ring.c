/* SPDX-License-Identifier: MIT
 *
 * What a guest puts into its ring of disk requests: in order, copied, sound or refused, and no
 * more at once than there are slots.
 */
#include "ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

#define MEMORY_BYTES (64u << 20)
#define DISK_BYTES (10u << 20)

static struct uvmm_disk_ring shared;
static const struct ring_disk disk[] = {
	{ .size_bytes = DISK_BYTES, .block_bytes = 512 },
	{ .size_bytes = DISK_BYTES, .block_bytes = 4096, .read_only = true },
};
static const struct ring_limits limits = { MEMORY_BYTES, 2, disk };

static void submit(const struct uvmm_disk_request *q, const struct uvmm_disk_segment *s)
{
	uint32_t slot = shared.submitted % UVMM_DISK_SLOTS;

	shared.request[slot] = *q;
	memcpy(shared.segment[slot], s, UVMM_DISK_SEGMENTS * sizeof(*s));
	shared.submitted++;
}

/* What becomes of it. */
static int status_of(const struct uvmm_disk_request *q, const struct uvmm_disk_segment *s)
{
	struct ring r = { .shared = &shared, .taken = shared.submitted,
			  .done_put = shared.done_put };
	struct ring_request got;
	int status = 1;

	submit(q, s);
	CHECK(ring_take(&r, &limits, &got, &status));
	CHECK(got.head.cookie == q->cookie);
	CHECK(!ring_take(&r, &limits, &got, &(int){ 0 }));
	return status;
}

static void sound_and_not(void)
{
	const struct uvmm_disk_segment fine[UVMM_DISK_SEGMENTS] = { { 4096, 8192, 0 } };
	const struct uvmm_disk_segment two[UVMM_DISK_SEGMENTS] = {
		{ 512, 4096, 0 }, { MEMORY_BYTES - 4096, 4096, 0 }
	};
	const struct uvmm_disk_segment out[UVMM_DISK_SEGMENTS] = {
		{ MEMORY_BYTES - 4096, 8192, 0 }
	};
	const struct uvmm_disk_segment far[UVMM_DISK_SEGMENTS] = { { UINT64_MAX - 100, 8192, 0 } };
	const struct uvmm_disk_segment large[UVMM_DISK_SEGMENTS] = {
		{ 0, UVMM_DISK_BYTES_MAX, 0 }, { 0, 4096, 0 }
	};
	const struct uvmm_disk_segment torn[UVMM_DISK_SEGMENTS] = {
		{ 0, 100, 0 }, { 4096, 412, 0 }
	};
	const struct uvmm_disk_segment odd[UVMM_DISK_SEGMENTS] = { { 0, 8192, 1 } };
	const struct uvmm_disk_segment none[UVMM_DISK_SEGMENTS] = { { 0, 0, 0 } };
	const struct {
		struct uvmm_disk_request q;
		const struct uvmm_disk_segment *s;
		int status;
	} table[] = {
		{ { 1, 0, 8192, 0, UVMM_DISK_READ, 1 }, fine, 0 },
		{ { 2, 512, 8192, 0, UVMM_DISK_WRITE, 1 }, fine, 0 },
		{ { 3, 512, 8192, 0, UVMM_DISK_WRITE, 2 }, two, 0 },
		{ { 4, DISK_BYTES - 8192, 8192, 0, UVMM_DISK_READ, 1 }, fine, 0 },
		{ { 5, DISK_BYTES - 4096, 8192, 0, UVMM_DISK_READ, 1 }, fine, -EIO },
		{ { 6, DISK_BYTES - 4096, 8192, 0, UVMM_DISK_WRITE, 1 }, fine, -ENOSPC },
		{ { 7, UINT64_MAX - 511, 8192, 0, UVMM_DISK_READ, 1 }, fine, -EIO },
		{ { 8, 0, 8192, 2, UVMM_DISK_READ, 1 }, fine, -ENXIO },
		{ { 9, 0, 8192, 0, 7, 1 }, fine, -EOPNOTSUPP },
		{ { 10, 1, 8192, 0, UVMM_DISK_READ, 1 }, fine, -EINVAL },
		{ { 11, 512, 8192, 1, UVMM_DISK_READ, 1 }, fine, -EINVAL },
		{ { 12, 0, 8192, 1, UVMM_DISK_WRITE, 1 }, fine, -EROFS },
		{ { 13, 0, 4096, 0, UVMM_DISK_READ, 1 }, fine, -EINVAL },
		{ { 14, 0, 8192, 0, UVMM_DISK_READ, 0 }, fine, -EINVAL },
		{ { 15, 0, 8192, 0, UVMM_DISK_READ, UVMM_DISK_SEGMENTS + 1 }, fine, -EINVAL },
		{ { 16, 0, 8192, 0, UVMM_DISK_READ, 1 }, out, -EINVAL },
		{ { 17, 0, 8192, 0, UVMM_DISK_READ, 1 }, far, -EINVAL },
		{ { 18, 0, UVMM_DISK_BYTES_MAX + 4096, 0, UVMM_DISK_READ, 2 }, large, -EINVAL },
		{ { 19, 0, 8192, 0, UVMM_DISK_READ, 1 }, odd, -EINVAL },
		{ { 20, 0, 0, 0, UVMM_DISK_READ, 1 }, none, -EINVAL },
		{ { 21, 0, 0, 0, UVMM_DISK_FLUSH, 0 }, none, 0 },
		{ { 22, 0, 512, 0, UVMM_DISK_FLUSH, 0 }, none, -EINVAL },
		{ { 23, 512, 1 << 20, 0, UVMM_DISK_DISCARD, 0 }, none, 0 },
		{ { 24, 0, 0, 0, UVMM_DISK_DISCARD, 0 }, none, -EINVAL },
		{ { 25, 0, 4096, 1, UVMM_DISK_DISCARD, 0 }, none, -EROFS },
		{ { 27, 0, 512, 0, UVMM_DISK_READ, 2 }, torn, -EINVAL },
		{ { 26, 0, 512, 0, UVMM_DISK_DISCARD, 1 }, fine, -EINVAL },
	};
	size_t i;

	for (i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		int status = status_of(&table[i].q, table[i].s);

		if (status != table[i].status)
			fprintf(stderr, "request %zu: %d\n", i + 1, status);
		CHECK(status == table[i].status);
	}
}

static void no_more_than_slots(void)
{
	const struct uvmm_disk_segment s[UVMM_DISK_SEGMENTS] = { { 0, 512, 0 } };
	const uint32_t begin = UINT32_MAX - 100;        /* numbers wrap */
	struct ring r = { .shared = &shared, .taken = begin, .done_put = begin };
	struct ring_request got;
	uint32_t i, taken = 0;
	int status;

	memset(&shared, 0, sizeof(shared));
	shared.submitted = shared.done_taken = begin;
	for (i = 0; i < 2 * UVMM_DISK_SLOTS; i++) {
		submit(&(struct uvmm_disk_request){ i, 0, 512, 0, UVMM_DISK_READ, 1 }, s);
		if (ring_take(&r, &limits, &got, &status)) {
			CHECK(!status && got.head.cookie == i);
			taken++;
		}
	}
	CHECK(taken == UVMM_DISK_SLOTS && shared.taken == begin + taken);
	/* Not to be woken for what cannot be taken. */
	CHECK(ring_sleep(&r) && shared.sleeps);
	/* Done, but not taken by the guest: still no room. */
	CHECK(!ring_put(&r, 0, -EIO));
	CHECK(!ring_take(&r, &limits, &got, &status));
	CHECK(shared.done[begin % UVMM_DISK_SLOTS].status == -EIO);
	shared.done_taken++;
	CHECK(!ring_sleep(&r) && !shared.sleeps);
	CHECK(ring_take(&r, &limits, &got, &status));
	shared.waits = 1;
	CHECK(ring_put(&r, 1, 0));
	/* Nonsense stops it, and does no more. */
	shared.done_taken = r.done_put + 5;
	CHECK(!ring_take(&r, &limits, &got, &status));
}

int main(void)
{
	sound_and_not();
	no_more_than_slots();
	printf("ring: ok\n");
	return 0;
}
