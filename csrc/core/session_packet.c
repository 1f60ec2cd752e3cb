/* SPDX-License-Identifier: MIT
 * Packets of the guest socket; see session.h. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "session.h"

union control_space {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * PACKET_FDS)];
};

static void take_fds(struct msghdr *m, struct packet *p)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t i, n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (p->n_fds < PACKET_FDS)
				p->fds[p->n_fds++] = fd;
			else
				close(fd);
		}
	}
}

static void *close_apart(void *fd)
{
	close((int)(intptr_t)fd);
	return NULL;
}

void packet_close_apart(int fd)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	/* Without a thread it stays open: better than to wait here. */
	pthread_create(&thread, &attr, close_apart, (void *)(intptr_t)fd);
	pthread_attr_destroy(&attr);
}

void packet_close_fds(struct packet *p)
{
	int i;

	for (i = 0; i < p->n_fds; i++)
		if (p->fds[i] >= 0)
			packet_close_apart(p->fds[i]);
	p->n_fds = 0;
}

int packet_receive(int fd, struct packet *p, bool takes_fds)
{
	union control_space space;
	struct iovec iov[2] = {
		{ &p->head, sizeof(p->head) },
		{ p->body, sizeof(p->body) },
	};
	struct msghdr m = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = takes_fds ? space.bytes : NULL,
		.msg_controllen = takes_fds ? sizeof(space.bytes) : 0,
	};
	ssize_t n;

	p->n_fds = 0;
	do
		n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : 0;
	take_fds(&m, p);
	if (!n)
		return 0;
	if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || (size_t)n < sizeof(p->head) ||
	    p->head.magic != UVMM_PROTOCOL_MAGIC || p->head.version != UVMM_PROTOCOL_VERSION)
		return -EPROTO;
	p->body_bytes = (size_t)n - sizeof(p->head);
	return 1;
}

int packet_send(int fd, uint16_t type, uint32_t seq, int32_t status, const void *body,
		size_t body_bytes, const int *fds, int n_fds)
{
	struct uvmm_msg_head head = {
		.magic = UVMM_PROTOCOL_MAGIC,
		.version = UVMM_PROTOCOL_VERSION,
		.type = type,
		.seq = seq,
		.status = status,
	};
	union control_space space;
	struct iovec iov[2] = {
		{ &head, sizeof(head) },
		{ (void *)(uintptr_t)body, body_bytes },
	};
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

	if (n_fds) {
		size_t bytes = sizeof(int) * (size_t)n_fds;
		struct cmsghdr *c;

		memset(&space, 0, sizeof(space));
		m.msg_control = space.bytes;
		m.msg_controllen = CMSG_SPACE(bytes);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(bytes);
		memcpy(CMSG_DATA(c), fds, bytes);
	}
	return sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

int packet_reply(int fd, uint32_t seq, int32_t status, const char *format, ...)
{
	struct uvmm_reply reply = { { 0 } };
	va_list args;

	va_start(args, format);
	vsnprintf(reply.text, sizeof(reply.text), format, args);
	va_end(args);
	return packet_send(fd, UVMM_MSG_REPLY, seq, status, &reply, sizeof(reply), NULL, 0);
}
