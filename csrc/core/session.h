/* SPDX-License-Identifier: MIT
 *
 * session - the guest socket: who connects, in which role, and what they ask
 * (uvmm/protocol.h).
 *
 *   A few worker threads share one epoll; each connection is armed for one event
 *   at a time (EPOLLONESHOT), so that one worker has it, and only that worker
 *   closes it. Whoever else wants it closed shuts it down: it then reads its end.
 *   The processes of guests are watched the same way, by their pidfd.
 *
 *   A peer that sends anything which the protocol does not know is told so and
 *   closed; nobody else notices. A connection that has not said HELLO within 5
 *   seconds is closed, and the oldest of those when there are too many.
 *
 *   Threads  its own; the calls below may be made from any thread. session.lock
 *            is a leaf, under which messages are sent without waiting.
 */
#ifndef SESSION_H
#define SESSION_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest.h"

#define SESSION_WORKERS 4

struct uvmm_engine;

enum conn_kind {
	CONN_STOP,
	CONN_LISTENER,
	CONN_PENDING,           /* has not said HELLO */
	CONN_CONTROL,
	CONN_CLOSED,            /* was CONTROL, and the worker that has it closes it */
	CONN_AGENT,
	CONN_WATCH,
	CONN_PROCESS,           /* fd is the guest's pidfd, ours only without a guest */
	CONN_ENDING,            /* the same, and a worker ends the guest */
};

struct conn {
	int fd;
	enum conn_kind kind;    /* changed under session.lock */
	struct guest *guest;    /* changed under session.lock; with guest->id == guest_id, else it has gone */
	uint64_t guest_id;
	uint64_t since_ns;
	bool welcomed;          /* changed under session.lock; nothing is sent before */
	struct conn *next;
};

struct session {
	struct uvmm_engine *engine;
	int epoll;
	int userfault_fd;       /* /dev/userfaultfd, passed to guests */
	char path[240];
	char mem_dir[240];
	struct conn stop, listener;
	pthread_t worker[SESSION_WORKERS];
	int workers;
	pthread_mutex_t lock;   /* guards all below */
	struct conn *conns;
	unsigned pending;
};

/* Opens <run_dir>/guest.sock for everyone (a token says who may what); mem_dir
 * is told to guests.  -ENODEV without /dev/userfaultfd, -EADDRINUSE, ... */
int session_start(struct uvmm_engine *e, const char *run_dir, const char *mem_dir,
		  char *err, size_t err_bytes);
/* Nobody is served any more; notices go nowhere. Free it once all other threads have
 * ended. */
void session_stop(struct uvmm_engine *e);
void session_free(struct uvmm_engine *e);

/* Watches the process of a new guest. -ENOMEM, -ENOSPC */
int session_watch_process(struct uvmm_engine *e, struct guest *g);
/* The guest ends before its process, which is not watched any more: true, and nobody
 * can connect as that guest from now on. Its pidfd is the session's then. False if it
 * is ending already, or its process has connected again. */
bool session_release_process(struct uvmm_engine *e, struct guest *g, uint64_t id);
/* The guest has gone: its connections end. */
void session_guest_gone(struct uvmm_engine *e, const struct guest *g);

/* To the agent of g, whom the caller has entered; fd -1: none.  -ENOTCONN  it has none
 * now, else as packet_send */
int session_send_agent(struct uvmm_engine *e, const struct guest *g, uint16_t type,
		       uint32_t seq, const void *body, size_t bytes, int fd);
/* Tells all agents the level, and each its part of wanted_pages. */
void session_send_pressure(struct uvmm_engine *e, uint32_t level, uint64_t wanted_pages);
/* Tells whoever started the guest, in words. */
void session_notice(struct uvmm_engine *e, const struct guest *g,
		    enum uvmm_notice_kind kind, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* --- between session.c and the files beside it -------------- */

/* Whether the guest has not ended; under session.lock. */
bool session_is_watched_locked(const struct session *s, uint64_t id);

#define PACKET_FDS 4
#define GUEST_CONNS_MAX 32
#define STRANGE_FDS_MAX 4       /* from one guest, that are not what they should be */
#define PACKET_BYTES 512

struct packet {
	struct uvmm_msg_head head;
	unsigned char body[PACKET_BYTES];
	size_t body_bytes;
	int fds[PACKET_FDS];
	int n_fds;
};

/* One packet, without waiting: 1 read, 0 the peer has closed, -EAGAIN, -EPROTO
 * for one that is too long or whose head is not of this protocol, or that brings
 * descriptors where none are taken: the kernel drops those. */
int packet_receive(int fd, struct packet *p, bool takes_fds);
/* Closes the descriptors that came and were not taken (set to -1), on a thread of
 * its own: closing a file of a filesystem that its owner serves may last for ever. */
void packet_close_fds(struct packet *p);
/* The same for one. */
void packet_close_apart(int fd);
/* Sends without waiting; 0 or -errno. */
int packet_send(int fd, uint16_t type, uint32_t seq, int32_t status, const void *body,
		size_t body_bytes, const int *fds, int n_fds);
int packet_reply(int fd, uint32_t seq, int32_t status, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* The first packet of a connection; false: close it. */
bool session_hello(struct session *s, struct conn *c, const struct packet *p);
/* What an agent answers; true if it was asked for that. */
bool session_answer(struct uvmm_engine *e, struct conn *c, const struct packet *p);
/* Answers one request of a guest's CONTROL connection; false: close it. */
bool session_request(struct uvmm_engine *e, struct conn *c, struct packet *p);
/* What whoever started a guest asks on its WATCH connection; false: close it. */
bool session_watcher(struct uvmm_engine *e, struct conn *c, struct packet *p);
/* Requests of disks, on the CONTROL connection; as packet_send. */
int session_disk_find(struct uvmm_engine *e, struct conn *c, struct packet *p);
int session_disk_start(struct uvmm_engine *e, struct conn *c, struct packet *p);

#endif /* SESSION_H */
