/* SPDX-License-Identifier: MIT
 *
 * One request and its answer, with a daemon that answers nonsense: an error each
 * time, its reason in words, and no descriptor left behind. A timer interrupts all
 * system calls meanwhile.
 */
#include "rpc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

#define FDS_MAX 8
#define BODY_MAX 8192
#define INTERRUPT_NS 100000

/* What the peer answers; *_off is by how much it is wrong. */
struct answer {
	uint32_t magic_off, seq_off;
	uint16_t version_off;
	uint16_t type;
	int32_t status;
	size_t body_bytes;
	const char *text;       /* at the start of the body */
	size_t head_missing;    /* bytes */
	int n_fds;
	bool hang_up;
};

struct peer {
	int fd;
	struct answer answer;
};

static char why[UVMM_TEXT_BYTES];

static int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	CHECK(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* --- the peer --------------------------------------------------------------- */

static void send_packet(int fd, struct msghdr *m, int n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} space = { .bytes = { 0 } };
	size_t bytes = sizeof(int) * (size_t)n_fds;
	int fds[FDS_MAX] = { 2, 2, 2, 2, 2, 2, 2, 2 };
	ssize_t n;

	if (n_fds) {
		struct cmsghdr *c;

		m->msg_control = space.bytes;
		m->msg_controllen = CMSG_SPACE(bytes);
		c = CMSG_FIRSTHDR(m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(bytes);
		memcpy(CMSG_DATA(c), fds, bytes);
	}
	do
		n = sendmsg(fd, m, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	CHECK(n >= 0);
}

static void answer(const struct peer *p, uint32_t seq)
{
	const struct answer *a = &p->answer;
	char body[BODY_MAX] = { 0 };
	struct uvmm_msg_head head = {
		.magic = UVMM_PROTOCOL_MAGIC + a->magic_off,
		.version = (uint16_t)(UVMM_PROTOCOL_VERSION + a->version_off),
		.type = a->type,
		.seq = seq + a->seq_off,
		.status = a->status,
	};
	struct iovec iov[2] = {
		{ &head, sizeof(head) - a->head_missing },
		{ body, a->body_bytes },
	};
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

	if (a->text)
		snprintf(body, sizeof(body), "%s", a->text);
	send_packet(p->fd, &m, a->n_fds);
}

static void *peer_main(void *arg)
{
	struct peer *p = arg;
	struct uvmm_msg_head head;
	char packet[512];
	ssize_t n;

	do
		n = recv(p->fd, packet, sizeof(packet), 0);
	while (n < 0 && errno == EINTR);
	CHECK(n == sizeof(head) + sizeof(struct uvmm_range));
	memcpy(&head, packet, sizeof(head));
	CHECK(head.magic == UVMM_PROTOCOL_MAGIC && head.version == UVMM_PROTOCOL_VERSION);
	CHECK(head.type == UVMM_MSG_PIN && !head.status);
	if (!p->answer.hang_up)
		answer(p, head.seq);
	close(p->fd);
	return NULL;
}

/* --- asking it -------------------------------------------------------------- */

/* Asks a peer that answers a; then descriptors are as before. */
static int ask(struct rpc_call *call, struct answer a)
{
	static char body[BODY_MAX];
	struct uvmm_range range = { 1, 2 };
	struct peer peer = { .answer = a };
	int pair[2], rc, before = open_fds();
	pthread_t thread;

	call->type = UVMM_MSG_PIN;
	call->body = &range;
	call->body_bytes = sizeof(range);
	call->send_fd = -1;
	call->answer = body;
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	peer.fd = pair[1];
	CHECK(!pthread_create(&thread, NULL, peer_main, &peer));
	rc = rpc_ask(pair[0], call, why);
	pthread_join(thread, NULL);
	close(pair[0]);
	CHECK(call->n_fds == (rc ? 0 : a.n_fds));
	while (call->n_fds) {
		int fd = call->fds[--call->n_fds];

		CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
		close(fd);
	}
	CHECK(open_fds() == before);
	return rc;
}

static int ask_reply(struct answer a)
{
	struct rpc_call call = {
		.answer_type = UVMM_MSG_REPLY,
		.answer_bytes = sizeof(struct uvmm_reply),
	};

	if (!a.type)
		a.type = UVMM_MSG_REPLY;
	return ask(&call, a);
}

static int ask_welcome(struct answer a)
{
	struct rpc_call call = {
		.answer_type = UVMM_MSG_WELCOME,
		.answer_bytes = sizeof(struct uvmm_welcome),
		.max_fds = RPC_FDS_MAX,
	};

	return ask(&call, a);
}

#define REPLY_BODY .body_bytes = sizeof(struct uvmm_reply)
#define WELCOME .type = UVMM_MSG_WELCOME, .body_bytes = sizeof(struct uvmm_welcome)
#define IS_NONSENSE(rc) ((rc) == -EPROTO && why[0])

static void test_answers(void)
{
	CHECK(!ask_reply((struct answer){ REPLY_BODY }) && !why[0]);
	CHECK(!ask_welcome((struct answer){ WELCOME, .n_fds = 2 }));
	CHECK(ask_reply((struct answer){ REPLY_BODY, .status = -EBUSY, .text = "no" }) == -EBUSY);
	CHECK(!strcmp(why, "no"));
	CHECK(ask_welcome((struct answer){ .type = UVMM_MSG_REPLY, REPLY_BODY, .status = -EACCES,
					   .text = "who are you" }) == -EACCES);
	CHECK(!strcmp(why, "who are you"));
	CHECK(ask_reply((struct answer){ .hang_up = true }) == -ECONNRESET && why[0]);
}

static void test_nonsense(void)
{
	CHECK(IS_NONSENSE(ask_reply((struct answer){ REPLY_BODY, .magic_off = 1 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ REPLY_BODY, .version_off = 1 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ REPLY_BODY, .seq_off = 1 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ REPLY_BODY, .status = 1 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ REPLY_BODY, .type = 99 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ .body_bytes = 0 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ .body_bytes = UVMM_TEXT_BYTES + 1 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ .body_bytes = BODY_MAX })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ .head_missing = 3 })));
	CHECK(IS_NONSENSE(ask_reply((struct answer){ WELCOME })));
	CHECK(IS_NONSENSE(ask_welcome((struct answer){ .type = UVMM_MSG_REPLY, REPLY_BODY })));
}

static void test_unasked_descriptors(void)
{
	int n;

	for (n = 1; n <= FDS_MAX; n++) {
		CHECK(IS_NONSENSE(ask_reply((struct answer){ REPLY_BODY, .n_fds = n })));
		if (n > RPC_FDS_MAX)
			CHECK(IS_NONSENSE(ask_welcome((struct answer){ WELCOME, .n_fds = n })));
	}
	CHECK(ask_welcome((struct answer){ .type = UVMM_MSG_REPLY, REPLY_BODY, .status = -EACCES,
					   .n_fds = 2 }) == -EACCES);
}

static void test_no_free_descriptor(void)
{
	struct peer peer = { .answer = { WELCOME, .n_fds = 2 } };
	struct uvmm_range range = { 1, 2 };
	struct uvmm_welcome welcome;
	struct rpc_call call = {
		.type = UVMM_MSG_PIN,
		.body = &range,
		.body_bytes = sizeof(range),
		.send_fd = -1,
		.answer_type = UVMM_MSG_WELCOME,
		.answer = &welcome,
		.answer_bytes = sizeof(welcome),
		.max_fds = RPC_FDS_MAX,
	};
	struct rlimit former, low;
	pthread_t thread;
	int pair[2], rc;

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	peer.fd = pair[1];
	CHECK(!getrlimit(RLIMIT_NOFILE, &former));
	low = former;
	low.rlim_cur = (rlim_t)pair[0];
	CHECK(!setrlimit(RLIMIT_NOFILE, &low));
	CHECK(!pthread_create(&thread, NULL, peer_main, &peer));
	rc = rpc_ask(pair[0], &call, why);
	CHECK(!setrlimit(RLIMIT_NOFILE, &former));
	pthread_join(thread, NULL);
	close(pair[0]);
	CHECK(rc == -EMFILE && why[0] && !call.n_fds);
}

static void test_no_daemon(void)
{
	char long_path[200];
	struct rpc_call call = { .answer_type = UVMM_MSG_REPLY, .send_fd = -1 };
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	close(pair[1]);
	CHECK(rpc_ask(pair[0], &call, why) == -ECONNRESET && why[0]);
	CHECK(rpc_answer(pair[0], 1, UVMM_MSG_RELEASED, NULL, 0) == -ECONNRESET);
	close(pair[0]);
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	CHECK(rpc_connect("/no/such/socket") == -ECONNREFUSED);
	CHECK(rpc_connect(long_path) == -ENAMETOOLONG);
}

static void test_answer_repeats_the_number(void)
{
	struct uvmm_released body = { 5 }, got = { 0 };
	struct uvmm_msg_head head;
	size_t got_bytes;
	int pair[2];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	CHECK(!rpc_answer(pair[0], 77, UVMM_MSG_RELEASED, &body, sizeof(body)));
	CHECK(!rpc_receive(pair[1], &head, &got, sizeof(got), &got_bytes, NULL));
	CHECK(head.seq == 77 && head.type == UVMM_MSG_RELEASED && !head.status);
	CHECK(got_bytes == sizeof(got) && got.pages == 5);
	close(pair[0]);
	CHECK(rpc_receive(pair[1], &head, &got, sizeof(got), &got_bytes, NULL) == -ECONNRESET);
	close(pair[1]);
}

static void on_alarm(int sig)
{
	(void)sig;
}

static void interrupt_often(void)
{
	struct itimerspec often = { { 0, INTERRUPT_NS }, { 0, INTERRUPT_NS } };
	struct sigaction no_restart = { .sa_handler = on_alarm };
	timer_t timer;

	CHECK(!sigaction(SIGALRM, &no_restart, NULL));
	CHECK(!timer_create(CLOCK_MONOTONIC, NULL, &timer));
	CHECK(!timer_settime(timer, 0, &often, NULL));
}

int main(void)
{
	int i;

	interrupt_often();
	for (i = 0; i < 20; i++) {
		test_answers();
		test_nonsense();
		test_unasked_descriptors();
		test_no_daemon();
		test_answer_repeats_the_number();
	}
	test_no_free_descriptor();
	printf("rpc: ok\n");
	return 0;
}
