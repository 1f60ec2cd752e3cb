/* SPDX-License-Identifier: MIT
 * What is asked for virtual disks; see session.h. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "disk.h"
#include "engine.h"
#include "locks.h"

/* The guest that the connection belongs to, entered. */
static bool enter(struct conn *c)
{
	if (!guest_enter(c->guest))
		return false;
	if (c->guest->id == c->guest_id)
		return true;
	guest_leave(c->guest);
	return false;
}

/* Disks are given to a guest before its program runs: registered, and not attached. Under
 * attach_lock neither changes. */
static int add_disk(struct conn *c, struct packet *p, const struct uvmm_disk_add *a, char *why)
{
	struct guest *g = c->guest;
	int rc = -EBUSY;

	strcpy(why, "a guest is given its disks before its program runs");
	lock(&g->attach_lock);
	if (g->id == c->guest_id && atomic_load(&g->state) == GUEST_REGISTERED)
		rc = disks_add(&g->disks, a, p->fds[0], why);
	unlock(&g->attach_lock);
	if (!rc) {
		p->fds[0] = -1;
		why[0] = '\0';
	}
	return rc;
}

bool session_watcher(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	char why[UVMM_TEXT_BYTES];
	struct uvmm_disk_add a;

	(void)e;
	if (p->head.type != UVMM_MSG_DISK_ADD || p->body_bytes != sizeof(a) || p->n_fds != 1) {
		packet_reply(c->fd, p->head.seq, -EPROTO,
			     "who started a guest sends DISK_ADD, with one image, and nothing else");
		return false;
	}
	memcpy(&a, p->body, sizeof(a));
	return !packet_reply(c->fd, p->head.seq, add_disk(c, p, &a, why), "%s", why);
}

int session_disk_find(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	struct uvmm_disk_info info;
	struct uvmm_disk_find f;
	int rc = -ENOTCONN;

	(void)e;
	memcpy(&f, p->body, sizeof(f));
	if (enter(c)) {
		rc = disks_find(&c->guest->disks, f.name, &info);
		guest_leave(c->guest);
	}
	if (rc)
		return packet_reply(c->fd, p->head.seq, rc, rc == -ENOENT ?
				    "the guest has no disk of that name: see `uvmm run --disk`" :
				    "the guest is not attached");
	return packet_send(c->fd, UVMM_MSG_DISK_INFO, p->head.seq, 0, &info, sizeof(info), NULL,
			   0);
}

static const char *start_why(int rc)
{
	switch (rc) {
	case -ENOENT:
		return "the guest has no disks: see `uvmm run --disk`";
	case -ENOSYS:
	case -EPERM:
		return "the kernel lets the daemon have no io_uring (kernel.io_uring_disabled)";
	case -ENOTCONN:
		return "the guest is not attached";
	default:
		return strerror(-rc);
	}
}

int session_disk_start(struct uvmm_engine *e, struct conn *c, struct packet *p)
{
	int rc = -ENOTCONN, fds[2] = { -1, -1 };

	if (enter(c)) {
		rc = disks_start(e, c->guest, &fds[0], &fds[1]);
		/* The ring's descriptors stay for as long as it is not left. */
		rc = rc ? packet_reply(c->fd, p->head.seq, rc, "%s", start_why(rc)) :
			  packet_send(c->fd, UVMM_MSG_DISK_RING, p->head.seq, 0, NULL, 0, fds, 2);
		guest_leave(c->guest);
		return rc;
	}
	return packet_reply(c->fd, p->head.seq, rc, "%s", start_why(rc));
}
