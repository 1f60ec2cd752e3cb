/* SPDX-License-Identifier: MIT
 * What a guest asks on its CONTROL connection; see session.h. */
#include <errno.h>
#include <string.h>

#include "balloon.h"
#include "engine.h"
#include "range.h"
#include "share.h"
#include "uffd.h"

/* Takes the userfaultfd over. */
static int on_mapped(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	struct guest *g = c->guest;
	struct uvmm_mapped m;
	const char *why = "";
	int rc, uffd;

	memcpy(&m, p->body, sizeof(m));
	if (p->n_fds != 1 || m.pages != g->max_pages || !m.base ||
	    m.base % UVMM_CHUNK_SIZE || m.base > UINT64_MAX - (m.pages << UVMM_PAGE_SHIFT))
		return packet_reply(c->fd, p->head.seq, -EINVAL,
				    "MAPPED needs a userfaultfd and all %llu pages mapped at a multiple of 2 MiB",
				    (unsigned long long)g->max_pages);
	uffd = p->fds[0];
	rc = uffd_init(uffd);
	if (rc) {
		why = rc == -EOPNOTSUPP ? "this kernel's userfaultfd lacks a feature that is needed" :
			"the descriptor is not a fresh userfaultfd";
	} else {
		p->fds[0] = -1;
		rc = engine_guest_attach(e, g, c->guest_id, uffd, m.base);
		if (rc)
			why = rc == -ESRCH ? "the guest has ended" :
				"userfaultfd does not accept this mapping";
	}
	return packet_reply(c->fd, p->head.seq, rc, "%s", why);
}

static const char *range_why(uint16_t type, int rc)
{
	switch (rc) {
	case 0:
		return "";
	case -EBUSY:
		return "a page of the range is pinned, or being remapped";
	case -EOVERFLOW:
		return "a page of the range is pinned 15 times already";
	case -ENOMEM:
		return "machine memory cannot hold more pinned pages";
	case -EIO:
		return type == UVMM_MSG_DISCARD ? "the kernel refused to free a part of the range" :
			"a page of the range is lost: its stored copy is damaged";
	case -EDQUOT:
		return "the balloon is not to be that large";
	case -EINVAL:
		return type == UVMM_MSG_UNPIN ? "the range is not all pinned, or not in guest memory" :
						"the range is empty or not in guest memory";
	default:
		return "the guest is not attached";
	}
}

static int on_homed(struct guest *g, const struct uvmm_range *r)
{
	int rc = share_homed(g, r->ppn, r->pages);

	balloon_homed(g, r->ppn, r->pages);
	return rc;
}

static bool is_in_memory(const struct guest *g, const struct uvmm_range *r)
{
	return r->pages && r->ppn < g->max_pages && r->pages <= g->max_pages - r->ppn;
}

static int on_range(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	struct guest *g = c->guest;
	struct uvmm_range r;
	int rc = -ENOTCONN;

	memcpy(&r, p->body, sizeof(r));
	if (guest_enter(g)) {
		if (g->id != c->guest_id)
			rc = -ENOTCONN;
		else if (!is_in_memory(g, &r))
			rc = -EINVAL;
		else if (p->head.type == UVMM_MSG_PIN)
			rc = range_pin(e, g, r.ppn, r.pages);
		else if (p->head.type == UVMM_MSG_UNPIN)
			rc = range_unpin(e, g, r.ppn, r.pages);
		else if (p->head.type == UVMM_MSG_HOMED)
			rc = on_homed(g, &r);
		else
			rc = range_discard(e, g, r.ppn, r.pages, true);
		guest_leave(g);
	}
	return packet_reply(c->fd, p->head.seq, rc, "%s", range_why(p->head.type, rc));
}

static int on_content(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	struct guest *g = c->guest;
	struct uvmm_bitmap b = { { 0 } };
	struct uvmm_range r;
	int rc = -ENOTCONN;

	(void)e;
	memcpy(&r, p->body, sizeof(r));
	if (guest_enter(g)) {
		if (g->id != c->guest_id)
			rc = -ENOTCONN;
		else if (!is_in_memory(g, &r) || r.pages > UVMM_BITMAP_PAGES)
			rc = -EINVAL;
		else
			rc = 0;
		if (!rc)
			range_content(g, r.ppn, r.pages, b.bits);
		guest_leave(g);
	}
	if (rc)
		return packet_reply(c->fd, p->head.seq, rc, "%s", range_why(p->head.type, rc));
	return packet_send(c->fd, UVMM_MSG_BITMAP, p->head.seq, 0, &b, sizeof(b), NULL, 0);
}

static bool are_sound(const struct guest *g, const struct uvmm_ranges *r, uint16_t type)
{
	uint32_t i;

	if (!r->ranges || r->ranges > UVMM_RANGES || r->why > UVMM_DEFLATE_NEEDED ||
	    (r->why && type != UVMM_MSG_DEFLATE))
		return false;
	for (i = 0; i < r->ranges && is_in_memory(g, &r->range[i]); i++)
		;
	return i == r->ranges;
}

static int serve_ranges(struct uvmm_engine *e, struct guest *g, uint16_t type,
			const struct uvmm_ranges *r, struct uvmm_count *count)
{
	if (type != UVMM_MSG_DEFLATE)
		return balloon_inflate(e, g, r, type == UVMM_MSG_INFLATE, count);
	balloon_deflate(e, g, r, count);
	return 0;
}

static int on_ranges(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	struct guest *g = c->guest;
	struct uvmm_count count = { 0 };
	struct uvmm_ranges r;
	int rc = -ENOTCONN;

	memcpy(&r, p->body, sizeof(r));
	if (guest_enter(g)) {
		if (g->id != c->guest_id)
			rc = -ENOTCONN;
		else if (!are_sound(g, &r, p->head.type))
			rc = -EINVAL;
		else
			rc = serve_ranges(e, g, p->head.type, &r, &count);
		guest_leave(g);
	}
	if (rc)
		return packet_reply(c->fd, p->head.seq, rc, "%s", range_why(p->head.type, rc));
	return packet_send(c->fd, UVMM_MSG_COUNT, p->head.seq, 0, &count, sizeof(count), NULL, 0);
}

static int on_stats(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	struct uvmm_guest_stats s;
	struct uvmm_usage u;

	if (uvmm_guest_find(e, c->guest->name, &s) || s.id != c->guest_id)
		return packet_reply(c->fd, p->head.seq, -ENOTCONN, "the guest has ended");
	u = (struct uvmm_usage){
		.min_pages = s.min_pages,
		.max_pages = s.max_pages,
		.target_pages = s.target_pages,
		.resident_pages = s.resident_pages,
		.swapped_pages = s.swapped_pages,
		.untouched_pages = s.untouched_pages,
		.pinned_pages = s.pinned_pages,
		.faults = s.faults,
		.stall_ns = s.stall_ns,
		.ballooned_pages = s.ballooned_pages,
	};
	return packet_send(c->fd, UVMM_MSG_USAGE, p->head.seq, 0, &u, sizeof(u), NULL, 0);
}

bool session_request(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	static const struct {
		int (*handle)(struct uvmm_engine *e, struct conn *c, struct packet *p);
		size_t body_bytes;
	} request[] = {
		[UVMM_MSG_MAPPED] = { on_mapped, sizeof(struct uvmm_mapped) },
		[UVMM_MSG_PIN] = { on_range, sizeof(struct uvmm_range) },
		[UVMM_MSG_UNPIN] = { on_range, sizeof(struct uvmm_range) },
		[UVMM_MSG_DISCARD] = { on_range, sizeof(struct uvmm_range) },
		[UVMM_MSG_HOMED] = { on_range, sizeof(struct uvmm_range) },
		[UVMM_MSG_INFLATE] = { on_ranges, sizeof(struct uvmm_ranges) },
		[UVMM_MSG_DEFLATE] = { on_ranges, sizeof(struct uvmm_ranges) },
		[UVMM_MSG_GIVE] = { on_ranges, sizeof(struct uvmm_ranges) },
		[UVMM_MSG_STATS] = { on_stats, 0 },
		[UVMM_MSG_CONTENT] = { on_content, sizeof(struct uvmm_range) },
		[UVMM_MSG_DISK_FIND] = { session_disk_find, sizeof(struct uvmm_disk_find) },
		[UVMM_MSG_DISK_START] = { session_disk_start, 0 },
	};
	uint16_t type = p->head.type;

	if (type >= sizeof(request) / sizeof(*request) || !request[type].handle) {
		packet_reply(c->fd, p->head.seq, -EPROTO, "a guest does not send messages of type %u",
			     type);
		return false;
	}
	if (p->body_bytes != request[type].body_bytes) {
		packet_reply(c->fd, p->head.seq, -EPROTO,
			     "message type %u has %zu bytes after its head, got %zu", type,
			     request[type].body_bytes, p->body_bytes);
		return false;
	}
	return !request[type].handle(e, c, p);
}
