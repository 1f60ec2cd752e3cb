/* SPDX-License-Identifier: MIT
 *
 * Fuzzes the guest socket of a running engine: each input is a connection, cut
 * into packets. The first byte says whether it begins with a valid HELLO of the
 * one guest that there is (this process), so that what follows reaches the
 * requests behind it. Needs root.
 *
 *   Input  role byte, then for each packet: length byte, type byte, body.
 *          Heads are made valid unless the type byte has its top bit set.
 */
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "uvmm/protocol.h"
#include "uvmm_core.h"

#define ANSWER_MS 1000
#define BODY_MAX 600

static uvmm_engine *engine;
static struct uvmm_guest_config guest = { .name = "fuzzed", .max_pages = 1024 };
static char run_dir[] = "/tmp/uvmm-fuzz-XXXXXX";
static struct sockaddr_un where = { .sun_family = AF_UNIX };

static void stop(void)
{
	/* The guest is this process: it must not be killed as one. */
	pid_t pid = fork();
	char command[128];

	if (pid)
		_exit(0);
	snprintf(command, sizeof(command), "umount -l %s/machine; rm -rf %s", run_dir, run_dir);
	if (system(command))
		_exit(1);
	_exit(0);
}

static void start(void)
{
	struct uvmm_engine_config cfg = { .memory_pages = 1 << 18, .via = 1 };
	char err[UVMM_ERR_BYTES];
	uint64_t id;

	if (!mkdtemp(run_dir))
		abort();
	snprintf(cfg.run_dir, sizeof(cfg.run_dir), "%s", run_dir);
	if (uvmm_engine_start(&cfg, &engine, err)) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	atexit(stop);
	guest.pid = getpid();
	memset(guest.token, 5, sizeof(guest.token));
	if (uvmm_guest_create(engine, &guest, &id, err))
		abort();
	snprintf(where.sun_path, sizeof(where.sun_path), "%s/guest.sock", run_dir);
}

static int open_peer(void)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&where, sizeof(where)))
		abort();        /* the engine does not serve any more */
	return fd;
}

static void close_fds(struct msghdr *m)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t i, n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			close(fd);
		}
	}
}

/* False when the engine has closed. */
static int answer(int fd)
{
	char body[1024], space[128];
	struct iovec iov = { body, sizeof(body) };
	struct msghdr m = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = space,
		.msg_controllen = sizeof(space),
	};
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, ANSWER_MS) <= 0)
		return 0;
	if (recvmsg(fd, &m, MSG_CMSG_CLOEXEC) <= 0)
		return 0;
	close_fds(&m);
	return 1;
}

static void put(int fd, uint8_t type, const void *body, size_t bytes)
{
	struct uvmm_msg_head head = {
		.magic = type & 0x80 ? 0x12345678 : UVMM_PROTOCOL_MAGIC,
		.version = UVMM_PROTOCOL_VERSION,
		.type = type & 0x7f,
		.seq = 1,
	};
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)body, bytes } };
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

	sendmsg(fd, &m, MSG_NOSIGNAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct uvmm_hello hello = { 0 };
	size_t at = 1, len;
	int fd, goes_on = 1;

	if (!engine)
		start();
	if (size < 3)
		return 0;
	fd = open_peer();
	if (data[0] & 3) {
		hello.role = data[0] & 3;
		memcpy(hello.name, guest.name, sizeof(hello.name));
		memcpy(hello.token, guest.token, sizeof(hello.token));
		put(fd, UVMM_MSG_HELLO, &hello, sizeof(hello));
		goes_on = answer(fd);
	}
	while (goes_on && at + 2 <= size) {
		len = data[at] * 4u;
		len = len > size - at - 2 ? size - at - 2 : len;
		len = len > BODY_MAX ? BODY_MAX : len;
		put(fd, data[at + 1], data + at + 2, len);
		at += 2 + len;
		/* Watchers and agents are not answered. */
		goes_on = hello.role > UVMM_ROLE_CONTROL ? 0 : answer(fd);
	}
	close(fd);
	return 0;
}
