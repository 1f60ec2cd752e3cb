/* SPDX-License-Identifier: MIT */
#include "agent_bed.h"

#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DAEMONS 48

static struct daemon daemons[DAEMONS];
struct daemon *d = daemons;
char order[512];

static int connect_agent(void *arg)
{
	struct daemon *to = arg;
	int pair[2];

	if (to->refuse)
		return to->refuse;
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	to->fd = pair[0];
	to->connects++;
	return pair[1];
}

static uint64_t trim(void *arg)
{
	((struct daemon *)arg)->trims++;
	return TRIMMED;
}

static int tick(void *arg)
{
	((struct daemon *)arg)->ticks++;
	return TICK_MS;
}

/* Says what it got, by the file that came with it. */
static void remap(void *arg, const struct uvmm_remap *m, int frames, struct uvmm_remapped *out)
{
	((struct daemon *)arg)->remaps++;
	out->done[0] = DONE_MASK;
	out->done[1] = m->runs;
	CHECK((frames < 0) == (m->run[0].frame == UVMM_FRAME_HOME));
	if (frames >= 0) {
		CHECK(write(frames, "x", 1) == 1);
		close(frames);
	}
}

static void zap(void *arg, const struct uvmm_zap *m, struct uvmm_zapped *out)
{
	((struct daemon *)arg)->zaps++;
	*out = (struct uvmm_zapped){ .agent_ns = m->runs, .done = { DONE_MASK } };
}

/* It lacks what is wanted above ROOM, and has one page more once it was asked again. */
static uint64_t balloon(void *arg, const struct uvmm_balloon *m, enum driver_pieces pieces,
			struct uvmm_ballooned *out)
{
	(void)pieces;
	((struct daemon *)arg)->balloons++;
	out->pages = ROOM;
	if (!m) {
		out->pages++;
		return WANTED;
	}
	out->pages = m->target_pages < ROOM ? m->target_pages : ROOM;
	return m->target_pages - out->pages;
}

const struct agent_ops ops = {
	.connect = connect_agent,
	.trim = trim,
	.remap = remap,
	.zap = zap,
	.balloon = balloon,
};
const struct agent_ops ticking = {
	.connect = connect_agent,
	.trim = trim,
	.tick = tick,
	.remap = remap,
	.zap = zap,
	.balloon = balloon,
};

void start_with(const struct agent_ops *o)
{
	memset(order, 0, sizeof(order));
	CHECK(++d < daemons + DAEMONS);
	CHECK(!agent_start(&d->agent, o, d));
}

void start(void)
{
	start_with(&ops);
}

/* The agent has ended: it has closed its end. */
void expect_end(void)
{
	char byte;

	CHECK(recv(d->fd, &byte, 1, 0) == 0);
	close(d->fd);
}

void stop(void)
{
	CHECK(!shutdown(d->fd, SHUT_WR));
	expect_end();
}

void press(int fd, uint32_t level, uint32_t seq)
{
	struct {
		struct uvmm_msg_head head;
		struct uvmm_pressure body;
	} m = {
		.head = { UVMM_PROTOCOL_MAGIC, UVMM_PROTOCOL_VERSION, UVMM_MSG_PRESSURE, seq, 0 },
		.body = { .level = level, .wanted_pages = WANTED },
	};

	CHECK(send(fd, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m));
}

uint64_t released(uint32_t seq)
{
	struct {
		struct uvmm_msg_head head;
		struct uvmm_released body;
	} m;

	CHECK(recv(d->fd, &m, sizeof(m), 0) == sizeof(m));
	CHECK(m.head.type == UVMM_MSG_RELEASED && m.head.seq == seq && !m.head.status);
	return m.body.pages;
}

void wish(int fd, uint64_t pages, uint32_t seq)
{
	struct {
		struct uvmm_msg_head head;
		struct uvmm_balloon body;
	} m = {
		.head = { UVMM_PROTOCOL_MAGIC, UVMM_PROTOCOL_VERSION, UVMM_MSG_BALLOON, seq, 0 },
		.body = { .target_pages = pages },
	};

	CHECK(send(fd, &m, sizeof(m), MSG_NOSIGNAL) == sizeof(m));
}

uint64_t ballooned(uint32_t seq)
{
	struct {
		struct uvmm_msg_head head;
		struct uvmm_ballooned body;
	} m;

	CHECK(recv(d->fd, &m, sizeof(m), 0) == sizeof(m));
	CHECK(m.head.type == UVMM_MSG_BALLOONED && m.head.seq == seq && !m.head.status);
	return m.body.pages;
}

uint64_t note(void *arg, int level, uint64_t wanted_pages)
{
	sigset_t blocked;

	CHECK(wanted_pages == WANTED && level >= UVMM_CALM && level <= UVMM_STALLED);
	CHECK(!pthread_sigmask(SIG_SETMASK, NULL, &blocked) && sigismember(&blocked, SIGTERM));
	strncat(order, arg, 1);
	return 10;
}
