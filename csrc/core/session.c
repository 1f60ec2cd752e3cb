/* SPDX-License-Identifier: MIT */
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "locks.h"

#define PENDING_MAX 256u
#define PENDING_NS (5 * NS_PER_S)
#define SWEEP_MS 1000
#define BACKLOG 128
#define ACCEPT_PAUSE_NS (10 * NS_PER_MS)

static int arm(struct session *s, struct conn *c, int op)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT, .data.ptr = c };

	return epoll_ctl(s->epoll, op, c->fd, &ev) ? -errno : 0;
}

static int add(struct session *s, int fd, enum conn_kind kind, struct guest *g)
{
	struct conn *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return -ENOMEM;
	*c = (struct conn){
		.fd = fd,
		.kind = kind,
		.guest = g,
		.guest_id = g ? g->id : 0,
		.since_ns = clock_ns(),
	};
	lock(&s->lock);
	c->next = s->conns;
	s->conns = c;
	s->pending += kind == CONN_PENDING;
	rc = arm(s, c, EPOLL_CTL_ADD);
	if (rc) {
		s->conns = c->next;
		s->pending -= kind == CONN_PENDING;
	}
	unlock(&s->lock);
	if (rc)
		free(c);
	return rc;
}

/* Only by the worker that has its event. */
static void drop(struct session *s, struct conn *c)
{
	struct conn **at;

	lock(&s->lock);
	for (at = &s->conns; *at != c; at = &(*at)->next)
		;
	*at = c->next;
	s->pending -= c->kind == CONN_PENDING;
	if (c->kind == CONN_AGENT && c->welcomed && c->guest->id == c->guest_id)
		atomic_fetch_sub(&c->guest->balloon.agents, 1);
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, c->fd, NULL);
	if (c->kind != CONN_ENDING && (c->kind != CONN_PROCESS || !c->guest))
		close(c->fd);
	unlock(&s->lock);
	free(c);
}

/* Shuts down what has been silent for too long, or with `any` the oldest. */
static void sweep(struct session *s, bool any)
{
	uint64_t now = clock_ns();
	struct conn *c, *oldest = NULL;

	lock(&s->lock);
	for (c = s->conns; c; c = c->next) {
		if (c->kind != CONN_PENDING)
			continue;
		if (now - c->since_ns > PENDING_NS)
			shutdown(c->fd, SHUT_RDWR);
		if (!oldest || c->since_ns < oldest->since_ns)
			oldest = c;
	}
	if (any && oldest)
		shutdown(oldest->fd, SHUT_RDWR);
	unlock(&s->lock);
}

static void accept_one(struct session *s)
{
	int fd = accept4(s->listener.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	bool full;

	if (fd < 0) {
		/* No descriptor is free: not to be asked again at once. */
		if (errno == EMFILE || errno == ENFILE)
			clock_sleep_ns(ACCEPT_PAUSE_NS);
		return;
	}
	lock(&s->lock);
	full = s->pending >= PENDING_MAX;
	unlock(&s->lock);
	if (full)
		sweep(s, true);
	if (add(s, fd, CONN_PENDING, NULL))
		close(fd);
}

/* A connection ends: of a process that executes something else, maybe, without the
 * memory that it had. */
static void on_end(struct session *s, struct conn *c)
{
	if (c->kind == CONN_CONTROL) {
		lock(&s->lock);
		c->kind = CONN_CLOSED;
		unlock(&s->lock);
		engine_guest_left(s->engine, c->guest, c->guest_id);
	}
	drop(s, c);
}

/* True if the connection goes on. */
static bool on_packet(struct session *s, struct conn *c)
{
	struct packet p;
	bool keep = false;
	bool takes_fds = (c->kind == CONN_CONTROL || c->kind == CONN_WATCH) &&
			 atomic_load(&c->guest->strange_fds) < STRANGE_FDS_MAX;
	int rc = packet_receive(c->fd, &p, takes_fds);

	if (rc == -EAGAIN)
		return true;
	if (rc == -EPROTO) {
		packet_reply(c->fd, 0, -EPROTO, "not a packet of uvmm's protocol, version %u",
			     UVMM_PROTOCOL_VERSION);
	} else if (rc > 0) {
		switch (c->kind) {
		case CONN_PENDING:
			keep = session_hello(s, c, &p);
			break;
		case CONN_CONTROL:
			keep = session_request(s->engine, c, &p);
			break;
		case CONN_AGENT:
			keep = session_answer(s->engine, c, &p);
			break;
		case CONN_WATCH:
			keep = session_watcher(s->engine, c, &p);
			break;
		default:
			break;
		}
	}
	if (p.n_fds && p.fds[0] >= 0)
		atomic_fetch_add(&c->guest->strange_fds, 1);
	packet_close_fds(&p);
	return keep;
}

static void on_process_end(struct session *s, struct conn *c)
{
	struct guest *g;

	lock(&s->lock);
	g = c->guest;
	/* Only one is to end it. */
	c->kind = g ? CONN_ENDING : c->kind;
	unlock(&s->lock);
	drop(s, c);
	if (g)
		engine_guest_ended(s->engine, g);
}

/* Under the lock, for who sees it dropped: another worker may have its next event, and close
 * it, before this call is over. */
static void rearm(struct session *s, struct conn *c)
{
	lock(&s->lock);
	arm(s, c, EPOLL_CTL_MOD);
	unlock(&s->lock);
}

static void *worker_main(void *arg)
{
	struct session *s = arg;

	for (;;) {
		struct epoll_event ev;
		enum conn_kind kind;
		struct conn *c;
		bool waiting;
		int n;

		lock(&s->lock);
		waiting = s->pending;
		unlock(&s->lock);
		n = epoll_wait(s->epoll, &ev, 1, waiting ? SWEEP_MS : -1);
		if (n <= 0) {
			sweep(s, false);
			continue;
		}
		c = ev.data.ptr;
		lock(&s->lock);
		kind = c->kind;
		unlock(&s->lock);
		if (kind == CONN_STOP)
			return NULL;
		if (kind == CONN_PROCESS) {
			on_process_end(s, c);
		} else if (kind == CONN_LISTENER) {
			accept_one(s);
			rearm(s, c);
		} else if (on_packet(s, c)) {
			rearm(s, c);
		} else {
			on_end(s, c);
		}
	}
}

static struct conn *find_locked(const struct session *s, enum conn_kind kind, uint64_t id)
{
	struct conn *c = s->conns;

	while (c && (c->kind != kind || !c->guest || c->guest_id != id))
		c = c->next;
	return c;
}

bool session_is_watched_locked(const struct session *s, uint64_t id)
{
	return find_locked(s, CONN_PROCESS, id);
}

int session_watch_process(struct uvmm_engine *e, struct guest *g)
{
	return add(e->session, g->pidfd, CONN_PROCESS, g);
}

bool session_release_process(struct uvmm_engine *e, struct guest *g, uint64_t id)
{
	struct session *s = e->session;
	struct conn *process;

	lock(&s->lock);
	process = find_locked(s, CONN_PROCESS, id);
	/* Its new image may be a guest again, and was quicker than we. */
	if (find_locked(s, CONN_CONTROL, id))
		process = NULL;
	if (process) {
		process->guest = NULL;
		g->pidfd = -1;
	}
	unlock(&s->lock);
	return process;
}

void session_guest_gone(struct uvmm_engine *e, const struct guest *g)
{
	struct session *s = e->session;
	struct conn *c;

	lock(&s->lock);
	for (c = s->conns; c; c = c->next)
		if (c->guest == g && c->guest_id == g->id && c->kind != CONN_PROCESS &&
		    c->kind != CONN_ENDING)
			shutdown(c->fd, SHUT_RDWR);
	unlock(&s->lock);
}

int session_send_agent(struct uvmm_engine *e, const struct guest *g, uint16_t type,
		       uint32_t seq, const void *body, size_t bytes, int fd)
{
	struct session *s = e->session;
	struct conn *c;
	int rc = -ENOTCONN;

	if (!s)
		return rc;
	lock(&s->lock);
	c = find_locked(s, CONN_AGENT, g->id);
	if (c && c->welcomed)
		rc = packet_send(c->fd, type, seq, 0, body, bytes, &fd, fd >= 0);
	unlock(&s->lock);
	return rc;
}

static uint64_t part_of(const struct guest *g, uint64_t wanted, uint64_t all)
{
	return all ? machine_file_pages(g->memfd) * wanted / all : 0;
}

void session_send_pressure(struct uvmm_engine *e, uint32_t level, uint64_t wanted_pages)
{
	uint64_t all = machine_used_pages(&e->machine);
	struct session *s = e->session;
	struct conn *c;

	if (!s)
		return;
	lock(&s->lock);
	for (c = s->conns; c; c = c->next) {
		struct uvmm_pressure p = { .level = level };

		if (c->kind != CONN_AGENT || !c->welcomed || !guest_enter(c->guest))
			continue;
		if (c->guest->id == c->guest_id) {
			p.wanted_pages = part_of(c->guest, wanted_pages, all);
			packet_send(c->fd, UVMM_MSG_PRESSURE, 0, 0, &p, sizeof(p), NULL, 0);
		}
		guest_leave(c->guest);
	}
	unlock(&s->lock);
}

void session_notice(struct uvmm_engine *e, const struct guest *g,
		    enum uvmm_notice_kind kind, const char *format, ...)
{
	struct uvmm_notice notice = { .kind = kind };
	struct session *s = e->session;
	struct conn *c;
	va_list args;

	va_start(args, format);
	vsnprintf(notice.text, sizeof(notice.text), format, args);
	va_end(args);
	if (!s)
		return;
	lock(&s->lock);
	for (c = s->conns; c; c = c->next)
		if (c->kind == CONN_WATCH && c->welcomed && c->guest == g && c->guest_id == g->id)
			packet_send(c->fd, UVMM_MSG_NOTICE, 0, 0, &notice,
				    sizeof(notice), NULL, 0);
	unlock(&s->lock);
}

static int open_listener(struct session *s)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, rc;

	if (strlen(s->path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, s->path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) || listen(fd, BACKLOG) ||
	    chmod(s->path, 0666)) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

static int open_all(struct session *s)
{
	int rc;

	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->stop.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->epoll < 0 || s->stop.fd < 0)
		return -errno;
	s->userfault_fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (s->userfault_fd < 0)
		return errno == ENOENT ? -ENODEV : -errno;
	s->listener.fd = open_listener(s);
	if (s->listener.fd < 0)
		return s->listener.fd;
	rc = arm(s, &s->listener, EPOLL_CTL_ADD);
	if (!rc) {
		/* All workers are to see it. */
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &s->stop };

		rc = epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->stop.fd, &ev) ? -errno : 0;
	}
	return rc;
}

int session_start(struct uvmm_engine *e, const char *run_dir, const char *mem_dir,
		  char *err, size_t err_bytes)
{
	struct session *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return -ENOMEM;
	s->engine = e;
	s->stop = (struct conn){ .fd = -1, .kind = CONN_STOP };
	s->listener = (struct conn){ .fd = -1, .kind = CONN_LISTENER };
	s->epoll = s->userfault_fd = -1;
	snprintf(s->path, sizeof(s->path), "%s/guest.sock", run_dir);
	snprintf(s->mem_dir, sizeof(s->mem_dir), "%s", mem_dir);
	pthread_mutex_init(&s->lock, NULL);
	e->session = s;
	rc = open_all(s);
	while (!rc && s->workers < SESSION_WORKERS) {
		rc = -pthread_create(&s->worker[s->workers], NULL, worker_main, s);
		s->workers += !rc;
	}
	if (rc) {
		snprintf(err, err_bytes, rc == -ENODEV ?
			 "this kernel has no /dev/userfaultfd: it needs CONFIG_USERFAULTFD and Linux 6.1" :
			 "cannot serve %s: %s", s->path, strerror(-rc));
		session_stop(e);
		session_free(e);
	}
	return rc;
}

void session_stop(struct uvmm_engine *e)
{
	struct session *s = e->session;
	int i;

	if (!s)
		return;
	if (s->stop.fd >= 0)
		eventfd_write(s->stop.fd, 1);
	for (i = 0; i < s->workers; i++)
		pthread_join(s->worker[i], NULL);
	while (s->conns)
		drop(s, s->conns);
	if (s->listener.fd >= 0) {
		close(s->listener.fd);
		unlink(s->path);
	}
	if (s->userfault_fd >= 0)
		close(s->userfault_fd);
	if (s->stop.fd >= 0)
		close(s->stop.fd);
	if (s->epoll >= 0)
		close(s->epoll);
}

void session_free(struct uvmm_engine *e)
{
	struct session *s = e->session;

	if (!s)
		return;
	e->session = NULL;
	pthread_mutex_destroy(&s->lock);
	free(s);
}
