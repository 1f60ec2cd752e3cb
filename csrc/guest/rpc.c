/* SPDX-License-Identifier: MIT */
#include "rpc.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

union control_space {
	struct cmsghdr align;
	char bytes[CMSG_SPACE(sizeof(int) * RPC_FDS_MAX)];
};

static atomic_uint next_seq = 1;

int rpc_connect(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	do
		rc = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) ? -errno : 0;
	while (rc == -EINTR);
	if (!rc)
		return fd;
	close(fd);
	return rc == -ENOENT ? -ECONNREFUSED : rc;
}

static int send_packet(int fd, const struct uvmm_msg_head *head, const void *body,
		       size_t body_bytes, int send_fd)
{
	union control_space space;
	struct iovec iov[2] = {
		{ (void *)(uintptr_t)head, sizeof(*head) },
		{ (void *)(uintptr_t)body, body_bytes },
	};
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };
	ssize_t n;

	if (send_fd >= 0) {
		struct cmsghdr *c;

		memset(&space, 0, sizeof(space));
		m.msg_control = space.bytes;
		m.msg_controllen = CMSG_SPACE(sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &send_fd, sizeof(int));
	}
	do
		n = sendmsg(fd, &m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -ECONNRESET : 0;
}

static void close_all(int *fds, int *n)
{
	while (*n > 0)
		close(fds[--*n]);
}

static void take_fds(struct msghdr *m, int *fds, int *n_fds)
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
			if (*n_fds < RPC_FDS_MAX)
				fds[(*n_fds)++] = fd;
			else
				close(fd);
		}
	}
}

static int receive(int fd, struct uvmm_msg_head *head, void *body, size_t body_bytes,
		   size_t *got, int *fds, int *n_fds)
{
	union control_space space;
	struct iovec iov[2] = { { head, sizeof(*head) }, { body, body_bytes } };
	struct msghdr m = {
		.msg_iov = iov,
		.msg_iovlen = 2,
		.msg_control = space.bytes,
		.msg_controllen = sizeof(space.bytes),
	};
	bool crowded;
	ssize_t n;

	*n_fds = 0;
	do
		n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return -ECONNRESET;
	take_fds(&m, fds, n_fds);
	/* There was room for it, but not in the process. */
	crowded = m.msg_flags & MSG_CTRUNC && *n_fds < RPC_FDS_MAX;
	if (m.msg_flags & (crowded ? MSG_TRUNC : MSG_TRUNC | MSG_CTRUNC) ||
	    (size_t)n < sizeof(*head) || head->magic != UVMM_PROTOCOL_MAGIC ||
	    head->version != UVMM_PROTOCOL_VERSION) {
		close_all(fds, n_fds);
		return -EPROTO;
	}
	*got = (size_t)n - sizeof(*head);
	if (!crowded)
		return 0;
	close_all(fds, n_fds);
	return -EMFILE;
}

static int explain(int rc, char *why)
{
	const char *words = rc == -EPROTO ? "the daemon does not speak this version of uvmm's protocol" :
			    rc == -EMFILE ? "no descriptor is free for what the daemon sends" :
					    "the daemon is gone";

	snprintf(why, UVMM_TEXT_BYTES, "%s", words);
	return rc;
}

/* What the packet says as an answer to the call. */
static int judge(struct rpc_call *call, uint32_t seq, const struct uvmm_msg_head *head,
		 const void *body, size_t got, char *why)
{
	const struct uvmm_reply *reply = body;

	if (head->seq != seq || head->status > 0) {
		snprintf(why, UVMM_TEXT_BYTES, "the daemon answers another question");
		return -EPROTO;
	}
	if (head->type == UVMM_MSG_REPLY && got == sizeof(*reply) && head->status) {
		snprintf(why, UVMM_TEXT_BYTES, "%.*s", (int)sizeof(reply->text) - 1, reply->text);
		return head->status;
	}
	if (head->type != call->answer_type || got != call->answer_bytes) {
		snprintf(why, UVMM_TEXT_BYTES,
			 "the daemon answers with message type %u of %zu bytes, expected type %u of %zu",
			 head->type, got, call->answer_type, call->answer_bytes);
		return -EPROTO;
	}
	if (call->n_fds > call->max_fds) {
		snprintf(why, UVMM_TEXT_BYTES,
			 "the daemon sends %d descriptors with message type %u, expected %d",
			 call->n_fds, head->type, call->max_fds);
		return -EPROTO;
	}
	if (got)
		memcpy(call->answer, body, got);
	return head->status;
}

int rpc_ask(int fd, struct rpc_call *call, char why[UVMM_TEXT_BYTES])
{
	struct uvmm_msg_head head = {
		.magic = UVMM_PROTOCOL_MAGIC,
		.version = UVMM_PROTOCOL_VERSION,
		.type = call->type,
		.seq = atomic_fetch_add(&next_seq, 1),
	};
	union {
		struct uvmm_reply reply;
		struct uvmm_welcome welcome;
		struct uvmm_usage usage;
		struct uvmm_bitmap bitmap;
	} body;
	uint32_t seq = head.seq;
	size_t got;
	int rc;

	why[0] = '\0';
	call->n_fds = 0;
	rc = send_packet(fd, &head, call->body, call->body_bytes, call->send_fd);
	call->sent = !rc;
	if (!rc)
		rc = receive(fd, &head, &body, sizeof(body), &got, call->fds, &call->n_fds);
	if (rc)
		return explain(rc, why);
	rc = judge(call, seq, &head, &body, got, why);
	if (rc)
		close_all(call->fds, &call->n_fds);
	return rc;
}

int rpc_receive(int fd, struct uvmm_msg_head *head, void *body, size_t body_bytes,
		size_t *got, int *passed)
{
	int fds[RPC_FDS_MAX], n_fds;
	int rc = receive(fd, head, body, body_bytes, got, fds, &n_fds);

	if (passed)
		*passed = n_fds ? fds[0] : -1;
	if (n_fds <= (passed ? 1 : 0))
		return rc;
	close_all(fds, &n_fds);
	return -EPROTO;
}

int rpc_answer(int fd, uint32_t seq, uint16_t type, const void *body, size_t body_bytes)
{
	struct uvmm_msg_head head = {
		.magic = UVMM_PROTOCOL_MAGIC,
		.version = UVMM_PROTOCOL_VERSION,
		.type = type,
		.seq = seq,
	};

	return send_packet(fd, &head, body, body_bytes, -1);
}
