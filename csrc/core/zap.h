/* SPDX-License-Identifier: MIT
 *
 * zap - has the guest's agent unmap pages (protocol.h: ZAP), without waiting for it.
 *
 *   The answer, if one comes, says what was done. One order of the scan is under way at a
 *   time, and is forgotten after a while; orders for a sample are its own (sample.h).
 *
 *   Lock     activity.lock
 */
#ifndef ZAP_H
#define ZAP_H

#include <stdbool.h>
#include <stdint.h>

#include "uvmm/protocol.h"

struct uvmm_engine;
struct guest;

struct zaps {
	uint32_t seq;           /* of the last order */
	uint32_t scan_seq;      /* the scan's that is under way; 0: none */
	uint64_t scan_until_ns; /* and when it is forgotten */
	_Atomic uint64_t agent_ns;      /* CPU time of the agent when it last answered */
};

/* Sends an order; its number, or 0 if there is no agent that would take it. With the lock
 * held. */
uint32_t zap_send_locked(struct uvmm_engine *e, struct guest *g, struct uvmm_zap *m);

/* For the scan: whether it may send another one, and does so. */
bool zap_scan_may(struct guest *g, uint64_t now_ns);
void zap_scan_send(struct uvmm_engine *e, struct guest *g, struct uvmm_zap *m,
		   uint64_t now_ns);

/* What the agent says; false if nobody asked for it. */
bool zap_answered(struct guest *g, uint32_t seq, const struct uvmm_zapped *answer);

/* The guest is detached: its agent will not answer. */
void zap_clear(struct zaps *z);

#endif /* ZAP_H */
