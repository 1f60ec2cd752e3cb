/* SPDX-License-Identifier: MIT
 * What a guest's agent answers on its AGENT connection; see session.h. */
#include <string.h>

#include "balloon.h"
#include "engine.h"
#include "session.h"

bool session_answer(struct uvmm_engine *e, struct conn *c, const struct packet *p)
{
	struct uvmm_ballooned b;
	struct uvmm_remapped done;
	struct uvmm_zapped zapped;
	bool keep = true;

	switch (p->head.type) {
	case UVMM_MSG_RELEASED:
		/* What it gave back shows in the books already. */
		return p->body_bytes == sizeof(struct uvmm_released);
	case UVMM_MSG_ATTENDS:
		return !p->body_bytes && order_attends(c->guest, p->head.seq);
	case UVMM_MSG_LEAVE:
		if (p->body_bytes)
			return false;
		if (guest_enter(c->guest)) {
			keep = c->guest->id == c->guest_id &&
			       order_leaves(e, c->guest, p->head.seq);
			guest_leave(c->guest);
		}
		return keep;
	case UVMM_MSG_REMAPPED:
		if (p->body_bytes != sizeof(done))
			return false;
		memcpy(&done, p->body, sizeof(done));
		if (guest_enter(c->guest)) {
			keep = c->guest->id == c->guest_id &&
			       order_remapped(e, c->guest, p->head.seq, &done);
			guest_leave(c->guest);
		}
		return keep;
	case UVMM_MSG_ZAPPED:
		if (p->body_bytes != sizeof(zapped))
			return false;
		memcpy(&zapped, p->body, sizeof(zapped));
		if (guest_enter(c->guest)) {
			keep = c->guest->id == c->guest_id &&
			       zap_answered(c->guest, p->head.seq, &zapped);
			guest_leave(c->guest);
		}
		return keep;
	case UVMM_MSG_BALLOONED:
		if (p->body_bytes != sizeof(b))
			return false;
		memcpy(&b, p->body, sizeof(b));
		if (guest_enter(c->guest)) {
			keep = c->guest->id == c->guest_id &&
			       balloon_answered(e, c->guest, p->head.seq, &b);
			guest_leave(c->guest);
		}
		return keep;
	default:
		return false;
	}
}
