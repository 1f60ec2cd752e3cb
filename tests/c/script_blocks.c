/* SPDX-License-Identifier: MIT
 * What a script guest does with its page allocator; see script_guest.h. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "rpc.h"
#include "script_guest.h"
#include "script_parts.h"

#define EMPTY UINT64_MAX        /* the version of what was discarded */

const char *script_alloc(uint64_t pages)
{
	void *at;
	int rc = uvmm_alloc(script_guest, pages * PAGE, &at);

	if (rc)
		return rc == -ENOMEM ? "ok none" : uvmm_error();
	return script_count((uint64_t)((char *)at - script_base) / PAGE);
}

const char *script_room(void)
{
	static char text[SCRIPT_LINE];
	struct uvmm_statistics s;

	if (uvmm_get_statistics(script_guest, &s))
		return uvmm_error();
	snprintf(text, sizeof(text), "ok %llu %llu %llu", (unsigned long long)s.free_pages,
		 (unsigned long long)s.ballooned_pages, (unsigned long long)s.allocated_pages);
	return text;
}

static void *spare;
static _Atomic uint64_t spare_pages;    /* set once `spare` is */

static uint64_t give_spare(void *arg, int level, uint64_t wanted_pages)
{
	uint64_t pages;

	(void)arg;
	if (level == UVMM_CALM || !wanted_pages)
		return 0;
	pages = atomic_exchange(&spare_pages, 0);
	if (!pages || uvmm_free(script_guest, spare, pages * PAGE))
		return 0;
	return pages;
}

const char *script_keep_spare(uint64_t pages)
{
	if (uvmm_alloc(script_guest, pages * PAGE, &spare) ||
	    uvmm_on_pressure(script_guest, give_spare, NULL))
		return uvmm_error();
	memset(spare, 1, pages * PAGE);
	atomic_store(&spare_pages, pages);
	return NULL;
}

/* --- behind the library's back -------------------------------------------------- */

static int another_connection(char *why)
{
	const char *token = getenv(UVMM_ENV_TOKEN);
	struct uvmm_hello hello = { .role = UVMM_ROLE_CONTROL };
	struct uvmm_welcome welcome;
	struct rpc_call call = {
		.type = UVMM_MSG_HELLO,
		.answer_type = UVMM_MSG_WELCOME,
		.body = &hello,
		.body_bytes = sizeof(hello),
		.send_fd = -1,
		.answer = &welcome,
		.answer_bytes = sizeof(welcome),
		.max_fds = RPC_FDS_MAX,
	};
	int fd = rpc_connect(getenv(UVMM_ENV_SOCKET)), i;

	for (i = 0; i < (int)UVMM_TOKEN_BYTES; i++)
		sscanf(token + 2 * i, "%2hhx", &hello.token[i]);
	snprintf(hello.name, sizeof(hello.name), "%s", getenv(UVMM_ENV_NAME));
	if (fd >= 0 && rpc_ask(fd, &call, why)) {
		close(fd);
		return -1;
	}
	while (call.n_fds)
		close(call.fds[--call.n_fds]);
	return fd;
}

const char *script_ranges(const char *word, const uint64_t *number)
{
	static char why[UVMM_TEXT_BYTES];
	struct uvmm_ranges r = {
		.ranges = number[3] ? 2 : 1,
		.range = { { number[0], number[1] }, { number[2], number[3] } },
	};
	struct uvmm_count done = { 0 };
	struct rpc_call call = {
		.type = !strcmp(word, "inflate") ? UVMM_MSG_INFLATE : UVMM_MSG_DEFLATE,
		.answer_type = UVMM_MSG_COUNT,
		.body = &r,
		.body_bytes = sizeof(r),
		.send_fd = -1,
		.answer = &done,
		.answer_bytes = sizeof(done),
	};
	int fd = another_connection(why), rc = -1;

	if (fd >= 0) {
		rc = rpc_ask(fd, &call, why);
		close(fd);
	}
	return rc ? why : script_count(done.pages);
}

/* --- churn ---------------------------------------------------------------------- */

#define BLOCKS 12
#define BLOCK_PAGES_MAX 700u

struct block {
	char *at;
	uint64_t pages, version;        /* EMPTY: discarded */
	bool pinned;
};

struct churner {
	uint64_t random, kinds;
	const _Atomic bool *stop;
	_Atomic uint64_t *refused;
	_Atomic bool *failed;
	char wrong[SCRIPT_LINE];
	struct block block[BLOCKS];
};

static const char *check_block(const struct churner *c, const struct block *k)
{
	uint64_t first = (uint64_t)(k->at - script_base) / PAGE;

	if (k->version == EMPTY)
		return script_check(first, k->pages, 0, ZERO);
	return script_check(first, k->pages, k->version, c->kinds ? ALIKE : OWN);
}

static const char *fill_block(struct churner *c, struct block *k)
{
	uint64_t first = (uint64_t)(k->at - script_base) / PAGE, rnd = script_mix(++c->random);

	k->version = c->kinds ? 1 + rnd % c->kinds : rnd | 1;
	return c->kinds ? script_fill_alike(first, k->pages, k->version) :
			  script_fill(first, k->pages, k->version);
}

static const char *take_block(struct churner *c, struct block *k)
{
	uint64_t most = script_mix(++c->random) % 4 ? 16 : BLOCK_PAGES_MAX;
	void *at;
	int rc;

	k->pages = 1 + script_mix(++c->random) % most;
	rc = uvmm_alloc(script_guest, k->pages * PAGE, &at);
	k->at = rc ? NULL : at;
	if (rc == -ENOMEM)
		atomic_fetch_add(c->refused, 1);
	if (rc)
		return rc == -ENOMEM ? NULL : uvmm_error();
	return fill_block(c, k);
}

/* On a busy machine an agent may take long to remap. */
static const char *trim(void)
{
	int rc = uvmm_trim(script_guest, NULL);

	return rc && rc != -EBUSY ? uvmm_error() : NULL;
}

static const char *use_block(struct churner *c, struct block *k)
{
	uint64_t rnd = script_mix(++c->random) % 16;
	size_t bytes = k->pages * PAGE;
	const char *wrong = check_block(c, k);

	if (wrong)
		return wrong;
	if (rnd < 8) {
		if (k->pinned && uvmm_unpin(script_guest, k->at, bytes))
			return uvmm_error();
		k->pinned = false;
		wrong = uvmm_free(script_guest, k->at, bytes) ? uvmm_error() : NULL;
		k->at = NULL;
		return wrong;
	}
	if (rnd == 8 && !uvmm_discard(script_guest, k->at, bytes))
		k->version = EMPTY;
	else if (rnd == 9 && !k->pinned && k->pages < 32)
		k->pinned = !uvmm_pin(script_guest, k->at, bytes);
	else if (rnd == 10)
		wrong = trim();
	else
		wrong = fill_block(c, k);
	return wrong;
}

static void *churner_main(void *arg)
{
	struct churner *c = arg;
	const char *wrong = NULL;
	size_t i;

	while (!atomic_load(c->stop) && !atomic_load(c->failed) && !wrong) {
		struct block *k = &c->block[script_mix(++c->random) % BLOCKS];

		wrong = k->at ? use_block(c, k) : take_block(c, k);
	}
	for (i = 0; i < BLOCKS && !wrong; i++) {
		struct block *k = &c->block[i];

		wrong = k->at ? check_block(c, k) : NULL;
		if (k->at && k->pinned)
			uvmm_unpin(script_guest, k->at, k->pages * PAGE);
		if (k->at && !wrong)
			wrong = uvmm_free(script_guest, k->at, k->pages * PAGE) ? uvmm_error() : NULL;
	}
	if (wrong && !atomic_exchange(c->failed, true))
		snprintf(c->wrong, sizeof(c->wrong), "%s", wrong);
	return NULL;
}

const char *script_churn(uint64_t threads, uint64_t ms, uint64_t kinds)
{
	static struct churner c[RACERS_MAX];
	struct timespec t = { (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 };
	static _Atomic uint64_t refused;
	static _Atomic bool stop, failed;
	pthread_t thread[RACERS_MAX];
	const char *wrong = NULL;
	uint64_t i;

	atomic_store(&stop, false);
	threads = threads > RACERS_MAX ? RACERS_MAX : threads;
	for (i = 0; i < threads; i++) {
		c[i] = (struct churner){ .random = script_mix(ms + i * 7919), .kinds = kinds,
					 .stop = &stop, .refused = &refused, .failed = &failed };
		pthread_create(&thread[i], NULL, churner_main, &c[i]);
	}
	nanosleep(&t, NULL);
	atomic_store(&stop, true);
	for (i = 0; i < threads; i++) {
		pthread_join(thread[i], NULL);
		wrong = c[i].wrong[0] ? c[i].wrong : wrong;
	}
	return wrong ? wrong : atomic_load(&refused) ? "an allocation was refused" : NULL;
}

