/* SPDX-License-Identifier: MIT
 *
 * The memory of a ring of disk requests, filled by whatever a guest may put there: what is
 * taken as sound lies within the guest's memory and its disks.
 */
#include <stdlib.h>
#include <string.h>

#include "ring.h"

#define MEMORY_BYTES (16u << 20)

static const struct ring_disk disk[] = {
	{ .size_bytes = 1 << 20, .block_bytes = 512 },
	{ .size_bytes = 1 << 20, .block_bytes = 4096, .read_only = true },
};

static void expect(int sound)
{
	if (!sound)
		abort();
}

static void check(const struct ring_request *r)
{
	const struct uvmm_disk_request *q = &r->head;
	uint64_t sum = 0;
	unsigned i;

	expect(q->disk < 2);
	expect(q->segments <= UVMM_DISK_SEGMENTS);
	for (i = 0; i < q->segments; i++) {
		expect(r->segment[i].bytes && r->segment[i].bytes % 512 == 0 && r->segment[i].address < MEMORY_BYTES &&
		       r->segment[i].address + r->segment[i].bytes <= MEMORY_BYTES);
		sum += r->segment[i].bytes;
	}
	if (q->op == UVMM_DISK_READ || q->op == UVMM_DISK_WRITE)
		expect(sum == q->bytes && sum <= UVMM_DISK_BYTES_MAX);
	if (q->op != UVMM_DISK_FLUSH)
		expect(q->bytes && q->offset < disk[q->disk].size_bytes &&
		       q->offset + q->bytes <= disk[q->disk].size_bytes);
	expect(q->op == UVMM_DISK_READ || q->op == UVMM_DISK_FLUSH || !disk[q->disk].read_only);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct ring_limits limits = { MEMORY_BYTES, 2, disk };
	static struct uvmm_disk_ring shared;
	struct ring r = { .shared = &shared };
	struct ring_request got;
	uint32_t words[2], i;
	int status;

	memset(&shared, 0, sizeof(shared));
	if (size < sizeof(words))
		return 0;
	memcpy(words, data, sizeof(words));
	data += sizeof(words);
	size -= sizeof(words);
	shared.submitted = words[0] % 600;
	shared.done_taken = words[1];
	/* A request and its segments, again and again. */
	for (i = 0; i < UVMM_DISK_SLOTS && size; i++) {
		size_t n = size < sizeof(shared.request[0]) ? size : sizeof(shared.request[0]);

		memcpy(&shared.request[i], data, n);
		data += n;
		size -= n;
		n = size < sizeof(shared.segment[0]) ? size : sizeof(shared.segment[0]);
		memcpy(shared.segment[i], data, n);
		data += n;
		size -= n;
	}
	for (i = 0; i < 2 * UVMM_DISK_SLOTS && ring_take(&r, &limits, &got, &status); i++) {
		if (!status)
			check(&got);
		if (i % 2)
			ring_put(&r, got.head.cookie, status);
	}
	return 0;
}
