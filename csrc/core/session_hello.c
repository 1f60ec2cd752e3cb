/* SPDX-License-Identifier: MIT
 * Who connects to the guest socket, and in which role; see session.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine.h"
#include "locks.h"
#include "session.h"

static int send_welcome(struct session *s, const struct conn *c, uint32_t seq,
			const struct uvmm_hello *h)
{
	const struct guest *g = c->guest;
	struct uvmm_welcome w = {
		.max_pages = g->max_pages,
		.via = s->engine->cfg.via ? UVMM_VIA_DESCRIPTOR : UVMM_VIA_FUSE,
	};
	int fds[2] = { s->userfault_fd, -1 }, n = 0, rc;

	if (w.via == UVMM_VIA_FUSE)
		snprintf(w.path, sizeof(w.path), "%.190s/%s", s->mem_dir, g->name);
	if (h->role == UVMM_ROLE_CONTROL)
		n = w.via == UVMM_VIA_FUSE ? 1 : 2;
	if (n == 2) {
		fds[1] = guest_dup_memory(&s->engine->registry, g, c->guest_id);
		if (fds[1] < 0)
			return fds[1];
	}
	rc = packet_send(c->fd, UVMM_MSG_WELCOME, seq, 0, &w, sizeof(w), fds, n);
	if (fds[1] >= 0)
		close(fds[1]);
	return rc;
}

static int refuse(const struct conn *c, uint32_t seq, const char *why)
{
	packet_reply(c->fd, seq, -EACCES, "%s", why);
	return -EACCES;
}

static unsigned count_conns_locked(const struct session *s, uint64_t id)
{
	const struct conn *c;
	unsigned n = 0;

	for (c = s->conns; c; c = c->next)
		n += c->guest_id == id;
	return n;
}

/* Each guest has some descriptors of the daemon's, and no more. */
static int bind_to(struct session *s, struct conn *c, uint32_t seq, enum conn_kind kind,
		   struct guest *g, uint64_t id)
{
	bool room, ended;

	lock(&s->lock);
	room = count_conns_locked(s, id) < GUEST_CONNS_MAX;
	ended = !session_is_watched_locked(s, id);
	if (room && !ended) {
		s->pending--;
		c->kind = kind;
		c->guest = g;
		c->guest_id = id;
	}
	unlock(&s->lock);
	if (ended) {
		packet_reply(c->fd, seq, -EAGAIN, "the guest that this process was has ended");
		return -EAGAIN;
	}
	return room ? 0 : refuse(c, seq, "this guest has too many connections");
}

/* A process that shows the token of a guest and is not it: asks to be kin, and is
 * registered by the control plane, or is wrong here. */
static int turn_away(struct session *s, const struct conn *c, uint32_t seq,
		     const struct uvmm_hello *h, const struct ucred *peer, uint64_t id)
{
	if (h->role != UVMM_ROLE_CONTROL || !(h->flags & UVMM_HELLO_KIN))
		return refuse(c, seq, "this process is not the one that was registered as that guest");
	events_add_kin(&s->engine->events, id, peer->pid);
	packet_reply(c->fd, seq, -EAGAIN, "this process is being registered");
	return -EAGAIN;
}

/* Who is it: 0, with the connection bound to its guest. */
static int identify(struct session *s, struct conn *c, uint32_t seq,
		    const struct uvmm_hello *h)
{
	static const enum conn_kind kind[] = {
		[UVMM_ROLE_CONTROL] = CONN_CONTROL,
		[UVMM_ROLE_AGENT] = CONN_AGENT,
		[UVMM_ROLE_WATCH] = CONN_WATCH,
	};
	struct registry *r = &s->engine->registry;
	struct guest *named, *g;
	struct ucred peer;
	socklen_t len = sizeof(peer);
	uint64_t named_id, id;

	if (h->role < UVMM_ROLE_CONTROL || h->role > UVMM_ROLE_WATCH ||
	    h->flags & ~UVMM_HELLO_KIN || !memchr(h->name, '\0', sizeof(h->name)))
		return refuse(c, seq, "HELLO names no role or guest");
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &peer, &len))
		return refuse(c, seq, "who is asking is not known");
	/* Kin have a token in common, and not all of them its name. */
	named = guest_by_token(r, h->token, 0, &named_id);
	if (!named)
		return refuse(c, seq, "no guest of that name and token is registered");
	if (h->role == UVMM_ROLE_WATCH) {
		g = guest_by_name(r, h->name);
		if (!g || guest_by_token(r, h->token, g->pid, &id) != g)
			return refuse(c, seq, "no guest of that name and token is registered");
	} else {
		g = guest_by_token(r, h->token, peer.pid, &id);
	}
	if (!g)
		return turn_away(s, c, seq, h, &peer, named_id);
	/* It may have changed its user since it was registered, or its parent was. */
	if (h->role == UVMM_ROLE_CONTROL)
		guest_set_owner(r, g, id, peer.uid, peer.gid);
	return bind_to(s, c, seq, kind[h->role], g, id);
}

bool session_hello(struct session *s, struct conn *c, const struct packet *p)
{
	struct uvmm_hello h;

	if (p->head.type != UVMM_MSG_HELLO || p->body_bytes != sizeof(h) || p->n_fds) {
		packet_reply(c->fd, p->head.seq, -EPROTO, "expected HELLO first");
		return false;
	}
	memcpy(&h, p->body, sizeof(h));
	if (identify(s, c, p->head.seq, &h) || send_welcome(s, c, p->head.seq, &h))
		return false;
	lock(&s->lock);
	c->welcomed = true;
	if (h.role == UVMM_ROLE_AGENT && c->guest->id == c->guest_id)
		atomic_fetch_add(&c->guest->balloon.agents, 1);
	unlock(&s->lock);
	if (h.role == UVMM_ROLE_AGENT && guest_enter(c->guest)) {
		if (c->guest->id == c->guest_id) {
			order_repeat(s->engine, c->guest);
			balloon_repeat(s->engine, c->guest);
		}
		guest_leave(c->guest);
	}
	return true;
}
