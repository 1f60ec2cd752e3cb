/* SPDX-License-Identifier: MIT
 *
 * rpc - one request and its answer on a connection to the daemon
 * (uvmm/protocol.h).
 *
 *   Errors   0 or a negative errno; a refusal's reason in words goes to `why`:
 *              what the daemon answered   its own negative errno
 *              -ECONNRESET                it is gone
 *              -EPROTO                    it answers nonsense
 *              -EMFILE                    no number is free for a descriptor
 *   Threads  a connection is for one thread at a time.
 */
#ifndef RPC_H
#define RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uvmm/protocol.h"

#define RPC_FDS_MAX 2

struct rpc_call {
	uint16_t type;          /* of the request */
	uint16_t answer_type;   /* that is expected; a REPLY may come instead */
	const void *body;
	size_t body_bytes;
	int send_fd;            /* passed along, stays the caller's; -1: none */
	void *answer;           /* answer_bytes large */
	size_t answer_bytes;
	int max_fds;            /* descriptors that may come with the answer */
	int fds[RPC_FDS_MAX];   /* out: descriptors that came, close-on-exec; the
				 * caller's on success, none on failure */
	int n_fds;              /* out */
	bool sent;              /* out: the daemon may have acted on it */
};

/* Connects to a socket; a descriptor, close-on-exec.
 *   -ECONNREFUSED  nobody serves there */
int rpc_connect(const char *path);

int rpc_ask(int fd, struct rpc_call *call, char why[UVMM_TEXT_BYTES]);

/* One message that nobody asked for: 0, -ECONNRESET or -EPROTO. Waits for it. *passed
 * is the descriptor that came with it, the caller's, or -1; without room for one (NULL)
 * none may come. -EMFILE: one came, but no number is free; the message is there. */
int rpc_receive(int fd, struct uvmm_msg_head *head, void *body, size_t body_bytes,
		size_t *got, int *passed);
/* Answers the message `seq`. -ECONNRESET */
int rpc_answer(int fd, uint32_t seq, uint16_t type, const void *body, size_t body_bytes);

#endif /* RPC_H */
