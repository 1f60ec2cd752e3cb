/* SPDX-License-Identifier: MIT
 *
 * The agent thread and mappings: ATTEND, REMAP and ZAP, also such as no daemon sends.
 */
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent_bed.h"

/* --- messages ----------------------------------------------------------------- */

static void send_message(uint16_t type, uint32_t seq, const void *body, size_t bytes, int file)
{
	struct uvmm_msg_head head = { UVMM_PROTOCOL_MAGIC, UVMM_PROTOCOL_VERSION, type, seq, 0 };
	struct iovec iov[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)body, bytes } };
	union {
		struct cmsghdr c;
		char bytes[CMSG_SPACE(sizeof(int))];
	} space;
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = 2 };

	if (file >= 0) {
		memset(&space, 0, sizeof(space));
		space.c.cmsg_level = SOL_SOCKET;
		space.c.cmsg_type = SCM_RIGHTS;
		space.c.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&space.c), &file, sizeof(file));
		m.msg_control = &space;
		m.msg_controllen = sizeof(space);
	}
	CHECK(sendmsg(d->fd, &m, MSG_NOSIGNAL) == (ssize_t)(sizeof(head) + bytes));
}

static void send_remap(const struct uvmm_remap *m, uint32_t seq, int file)
{
	send_message(UVMM_MSG_REMAP, seq, m, sizeof(m->runs) + m->runs * sizeof(m->run[0]), file);
}

static void attend(uint32_t seq)
{
	send_message(UVMM_MSG_ATTEND, seq, NULL, 0, -1);
}

static void expect_attends(uint32_t seq)
{
	struct uvmm_msg_head head;

	CHECK(recv(d->fd, &head, sizeof(head), 0) == sizeof(head));
	CHECK(head.type == UVMM_MSG_ATTENDS && head.seq == seq && !head.status);
}

static void expect_leaves(uint32_t seq)
{
	struct uvmm_msg_head head;

	CHECK(recv(d->fd, &head, sizeof(head), 0) == sizeof(head));
	CHECK(head.type == UVMM_MSG_LEAVE && head.seq == seq && !head.status);
}

static void let_leave(uint32_t seq)
{
	send_message(UVMM_MSG_LEFT, seq, NULL, 0, -1);
}

static struct uvmm_remapped remapped(uint32_t seq)
{
	struct {
		struct uvmm_msg_head head;
		struct uvmm_remapped body;
	} m;

	CHECK(recv(d->fd, &m, sizeof(m), 0) == sizeof(m));
	CHECK(m.head.type == UVMM_MSG_REMAPPED && m.head.seq == seq && !m.head.status);
	return m.body;
}

static const struct uvmm_remap home = { 1, { { 7, UVMM_FRAME_HOME, 3 } } };
static const struct uvmm_remap away = { 2, { { 7, 0, 3 }, { 10, UVMM_FRAME_HOME, 3 } } };

/* --- tests -------------------------------------------------------------------- */

static void test_remap_with_and_without_attention(void)
{
	struct uvmm_remap all = { .runs = UVMM_REMAP_RUNS };
	int pair[2];
	char byte;
	uint64_t i;

	start();
	CHECK(!pipe(pair));
	send_remap(&home, 3, -1);
	CHECK(remapped(3).done[0] == DONE_MASK);
	attend(4);
	expect_attends(4);
	send_remap(&away, 5, pair[1]);
	CHECK(remapped(5).done[1] == 2 && read(pair[0], &byte, 1) == 1);
	for (i = 0; i < UVMM_REMAP_RUNS; i++)
		all.run[i] = (struct uvmm_remap_run){ 2 * i, i, 2 };
	send_remap(&all, 6, pair[1]);
	CHECK(remapped(6).done[1] == UVMM_REMAP_RUNS && read(pair[0], &byte, 1) == 1);
	/* The agent keeps none of it open. */
	close(pair[1]);
	CHECK(read(pair[0], &byte, 1) == 0);
	close(pair[0]);
	attend(7);
	attend(8);
	expect_attends(7);
	expect_attends(8);
	stop();
}

/* Only what asks for memory waits, and nothing of it is lost. */
static void test_attention_puts_pressure_off(void)
{
	int before;

	start_with(&ticking);
	CHECK(!agent_add(&d->agent, note, "a"));
	attend(1);
	expect_attends(1);
	press(d->fd, UVMM_PRESSURE_SOME, 2);
	press(d->fd, UVMM_PRESSURE_FULL, 3);
	CHECK(!released(2));
	before = d->ticks;
	usleep(4 * TICK_MS * 1000);
	CHECK(d->ticks == before && !d->trims && !strcmp(order, ""));
	send_remap(&home, 4, -1);
	CHECK(remapped(4).done[0] == DONE_MASK);
	CHECK(released(3) == 10 + TRIMMED && !strcmp(order, "a"));
	/* Or until the time is over, and the daemon knows that. */
	attend(5);
	expect_attends(5);
	press(d->fd, UVMM_PRESSURE_SOME, 6);
	expect_leaves(5);
	before = d->ticks;
	let_leave(4);
	usleep(4 * TICK_MS * 1000);
	CHECK(d->ticks == before && !strcmp(order, "a"));
	let_leave(5);
	CHECK(released(6) == 10 + TRIMMED && !strcmp(order, "aa"));
	/* What was sent before the daemon knew is served first. */
	attend(7);
	expect_attends(7);
	press(d->fd, UVMM_PRESSURE_SOME, 8);
	expect_leaves(7);
	usleep(4 * TICK_MS * 1000);
	CHECK(!strcmp(order, "aa"));
	send_remap(&home, 7, -1);
	CHECK(remapped(7).done[0] == DONE_MASK);
	CHECK(released(8) == 10 + TRIMMED && !strcmp(order, "aaa"));
	/* Or the next call comes first; the answer to the former is nothing then. */
	attend(9);
	expect_attends(9);
	expect_leaves(9);
	attend(10);
	expect_attends(10);
	let_leave(9);
	send_remap(&home, 10, -1);
	CHECK(remapped(10).done[0] == DONE_MASK);
	before = d->ticks;
	while (d->ticks < before + 2)
		usleep(TICK_MS * 1000);
	stop();
}

/* The last one is served, after what presses more. */
static void test_attention_puts_the_balloon_off(void)
{
	start();
	attend(1);
	expect_attends(1);
	wish(d->fd, 10, 2);
	wish(d->fd, 20, 3);
	press(d->fd, UVMM_PRESSURE_SOME, 4);
	usleep(2000);
	CHECK(!d->balloons);
	send_remap(&home, 5, -1);
	CHECK(remapped(5).done[0] == DONE_MASK);
	CHECK(released(4) == TRIMMED && ballooned(3) == 20 && d->balloons == 1);
	stop();
}

static void test_ticks_come_between_remaps(void)
{
	uint32_t i;

	start_with(&ticking);
	for (i = 1; d->ticks < 2; i++) {
		send_remap(&home, i, -1);
		remapped(i);
	}
	CHECK(d->remaps > 2);
	stop();
}

static void expect_end_of(const struct uvmm_remap *m, size_t bytes, bool with_file, bool attended)
{
	int pair[2];
	char byte;

	start();
	CHECK(!pipe(pair));
	if (attended) {
		attend(1);
		expect_attends(1);
	}
	send_message(UVMM_MSG_REMAP, 2, m, bytes, with_file ? pair[1] : -1);
	expect_end();
	close(pair[1]);
	CHECK(read(pair[0], &byte, 1) == 0 && !d->remaps);
	close(pair[0]);
}

static void test_hostile_remaps_end_it(void)
{
	size_t one = sizeof(home.runs) + sizeof(home.run[0]), two = one + sizeof(home.run[0]);
	struct uvmm_remap m;
	int i;

	for (i = 0; i < 2; i++) {
		expect_end_of(&home, one, true, i);
		expect_end_of(&home, one - 1, false, i);
		expect_end_of(&home, two, false, i);
		expect_end_of(&home, 0, false, i);
		expect_end_of(&away, two, false, i);
		expect_end_of(&away, one, true, i);
		m = away, m.run[1].ppn = 9;
		expect_end_of(&m, two, true, i);
		m = away, m.run[1].pages = 0;
		expect_end_of(&m, two, true, i);
		m = away, m.runs = 1ull << 60;
		expect_end_of(&m, two, true, i);
	}
	start();
	send_message(UVMM_MSG_ATTEND, 1, "x", 1, -1);
	expect_end();
	start();
	send_message(UVMM_MSG_ATTENDS, 1, NULL, 0, -1);
	expect_end();
}

/* The program has as many files open as it may. */
static void test_no_number_for_the_frames(void)
{
	struct rlimit former, none;
	int pair[2], i;

	start();
	CHECK(!pipe(pair) && !getrlimit(RLIMIT_NOFILE, &former));
	none = former;
	for (i = 3; fcntl(i, F_GETFD) >= 0; i++)
		;
	none.rlim_cur = (rlim_t)i;
	CHECK(!setrlimit(RLIMIT_NOFILE, &none));
	send_remap(&away, 1, pair[1]);
	CHECK(!remapped(1).done[0] && !d->remaps);
	CHECK(!setrlimit(RLIMIT_NOFILE, &former));
	send_remap(&away, 2, pair[1]);
	CHECK(remapped(2).done[0] == DONE_MASK && d->remaps == 1);
	close(pair[0]);
	close(pair[1]);
	stop();
}

static void send_zap(const struct uvmm_zap *m, uint32_t seq, size_t short_of)
{
	send_message(UVMM_MSG_ZAP, seq, m,
		     offsetof(struct uvmm_zap, run) + m->runs * sizeof(m->run[0]) - short_of, -1);
}

static uint64_t zapped(uint32_t seq)
{
	struct {
		struct uvmm_msg_head head;
		struct uvmm_zapped body;
	} m;

	CHECK(recv(d->fd, &m, sizeof(m), 0) == sizeof(m));
	CHECK(m.head.type == UVMM_MSG_ZAPPED && m.head.seq == seq && !m.head.status);
	CHECK(m.body.done[0] == DONE_MASK);
	return m.body.agent_ns;
}

/* At any time, and as many runs as there may be. */
static void test_zap(void)
{
	struct uvmm_zap m = { .runs = 2, .run = { { 0, 5 }, { 5, 1 } } };
	uint64_t i;

	start();
	send_zap(&m, 1, 0);
	CHECK(zapped(1) == 2);
	for (i = 0; i < UVMM_ZAP_RUNS; i++)
		m.run[i] = (struct uvmm_range){ 2 * i, 2 };
	m.runs = UVMM_ZAP_RUNS;
	send_zap(&m, 2, 0);
	CHECK(zapped(2) == UVMM_ZAP_RUNS);
	attend(3);
	expect_attends(3);
	send_zap(&m, 4, 0);
	CHECK(zapped(4) == UVMM_ZAP_RUNS);
	send_remap(&home, 5, -1);
	CHECK(remapped(5).done[0] == DONE_MASK);
	stop();
}

static void test_hostile_zaps_end_it(void)
{
	static const struct uvmm_zap bad[] = {
		{ .runs = 0 },
		{ .runs = 1, .run = { { 1, 0 } } },
		{ .runs = 2, .run = { { 1, 2 }, { 2, 2 } } },
		{ .runs = 1, .run = { { 2, UINT64_MAX } } },
	};
	struct uvmm_zap m = { .runs = 2, .run = { { 0, 5 }, { 5, 1 } } };
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		start();
		send_zap(&bad[i], 1, 0);
		expect_end();
	}
	start();
	send_zap(&m, 1, 8);
	expect_end();
	start();
	m.runs = 1ull << 60;
	send_message(UVMM_MSG_ZAP, 1, &m, sizeof(m), -1);
	expect_end();
	CHECK(!d->zaps);
}

int main(void)
{
	test_remap_with_and_without_attention();
	test_attention_puts_pressure_off();
	test_attention_puts_the_balloon_off();
	test_ticks_come_between_remaps();
	test_hostile_remaps_end_it();
	test_no_number_for_the_frames();
	test_zap();
	test_hostile_zaps_end_it();
	printf("agent_remap: ok\n");
	return 0;
}
