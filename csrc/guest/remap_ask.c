/* SPDX-License-Identifier: MIT
 * What has the daemon forget frames, and pages come home; see remap.h. */
#include <errno.h>
#include <stdatomic.h>

#include "remap.h"

#define NO_SLOT REMAP_KEPT_MAX

/* As it is asked twice, whether it was done is known if the daemon is there at all; *done:
 * it may have been. */
static int ask_twice(struct remap *r, struct rpc_call *call, bool *done, char *why)
{
	int rc = r->ops->ask(r->arg, call, why);

	*done = call->sent && (!rc || rc == -EIO || rc == -ECONNRESET || rc == -EPROTO);
	if (rc == -ECONNRESET && *done)
		rc = r->ops->ask(r->arg, call, why);
	return rc;
}

static void say_homed(struct remap *r, uint64_t page, uint64_t n)
{
	const struct uvmm_range range = { .ppn = page, .pages = n };
	struct uvmm_reply reply;
	struct rpc_call call = {
		.type = UVMM_MSG_HOMED,
		.answer_type = UVMM_MSG_REPLY,
		.body = &range,
		.body_bytes = sizeof(range),
		.send_fd = -1,
		.answer = &reply,
		.answer_bytes = sizeof(reply),
	};
	char unsaid[UVMM_TEXT_BYTES];
	bool done;

	ask_twice(r, &call, &done, unsaid);
}

static unsigned keep_all(struct remap *r, const struct uvmm_range *range, uint32_t n)
{
	uint64_t first = range->ppn, end = first;
	uint32_t i;

	for (i = 0; i < n; i++) {
		first = range[i].ppn < first ? range[i].ppn : first;
		end = range[i].ppn + range[i].pages > end ? range[i].ppn + range[i].pages : end;
	}
	return remap_keep(r, first, end - first);
}

/* Asks what has the daemon forget the frames of n > 0 ranges. */
static int ask_and_bring_home(struct remap *r, const struct uvmm_range *range, uint32_t n,
			      struct rpc_call *call, char *why)
{
	unsigned slot = NO_SLOT;
	bool done;
	uint32_t i;
	int rc;

	if (atomic_load_explicit(&r->used, memory_order_relaxed))
		slot = keep_all(r, range, n);
	rc = ask_twice(r, call, &done, why);
	/* The first REMAP may have come after the look at it above. */
	if (atomic_load(&r->used) && done)
		for (i = 0; i < n; i++)
			if (remap_all_home(r, range[i].ppn, range[i].pages))
				say_homed(r, range[i].ppn, range[i].pages);
	if (slot != NO_SLOT)
		remap_release(r, slot);
	return rc;
}

int remap_discard(struct remap *r, uint64_t page, uint64_t n, char why[UVMM_TEXT_BYTES])
{
	const struct uvmm_range range = { .ppn = page, .pages = n };
	struct uvmm_reply reply;
	struct rpc_call call = {
		.type = UVMM_MSG_DISCARD,
		.answer_type = UVMM_MSG_REPLY,
		.body = &range,
		.body_bytes = sizeof(range),
		.send_fd = -1,
		.answer = &reply,
		.answer_bytes = sizeof(reply),
	};

	return ask_and_bring_home(r, &range, 1, &call, why);
}

int remap_inflate(struct remap *r, uint16_t type, const struct uvmm_ranges *ranges,
		  struct uvmm_count *count, char why[UVMM_TEXT_BYTES])
{
	struct rpc_call call = {
		.type = type,
		.answer_type = UVMM_MSG_COUNT,
		.body = ranges,
		.body_bytes = sizeof(*ranges),
		.send_fd = -1,
		.answer = count,
		.answer_bytes = sizeof(*count),
	};

	*count = (struct uvmm_count){ 0 };
	return ask_and_bring_home(r, ranges->range, ranges->ranges, &call, why);
}
