/* SPDX-License-Identifier: MIT
 *
 * The agent thread: what it answers, in which order it calls, and that a callback which
 * was removed does not run.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent_bed.h"

#define PACKET 256
#define SLOW_US 50000

static atomic_bool runs, entered;

/* --- callbacks -------------------------------------------------------------- */

static uint64_t leave(void *arg, int level, uint64_t wanted_pages)
{
	note("x", level, wanted_pages);
	CHECK(!agent_remove(arg, leave, arg));
	return 1;
}

static uint64_t slow(void *arg, int level, uint64_t wanted_pages)
{
	(void)arg, (void)level, (void)wanted_pages;
	runs = entered = true;
	usleep(SLOW_US);
	runs = false;
	return 0;
}

static uint64_t tell_link(void *arg, int level, uint64_t wanted_pages)
{
	struct daemon *to = arg;

	(void)level, (void)wanted_pages;
	to->link = to->agent.link.fd;
	return 10;
}

/* --- tests ------------------------------------------------------------------ */

static void test_order_and_sum(void)
{
	start();
	CHECK(!agent_add(&d->agent, note, "a") && !agent_add(&d->agent, note, "b"));
	CHECK(!agent_add(&d->agent, leave, &d->agent) && !agent_add(&d->agent, note, "c"));
	press(d->fd, UVMM_PRESSURE_SOME, 5);
	CHECK(released(5) == 31 + TRIMMED && !strcmp(order, "abxc"));
	CHECK(!agent_remove(&d->agent, note, "b"));
	CHECK(agent_remove(&d->agent, note, "b") == -ENOENT);
	press(d->fd, UVMM_PRESSURE_FULL, 6);
	CHECK(released(6) == 20 + TRIMMED && !strcmp(order, "abxcac") && d->trims == 2);
	press(d->fd, UVMM_PRESSURE_NONE, 7);
	CHECK(released(7) == 20 && d->trims == 2);
	stop();
}

static void test_no_more_than_there_is_room_for(void)
{
	int i;

	start();
	for (i = 0; i < AGENT_CALLBACKS_MAX; i++)
		CHECK(!agent_add(&d->agent, note, "a"));
	CHECK(agent_add(&d->agent, note, "a") == -ENOSPC);
	CHECK(!agent_remove(&d->agent, note, "a") && !agent_add(&d->agent, note, "b"));
	stop();
}

static void test_removal_waits_for_the_callback(void)
{
	start();
	CHECK(!agent_add(&d->agent, slow, NULL));
	entered = false;
	press(d->fd, UVMM_PRESSURE_SOME, 1);
	while (!entered)
		usleep(100);
	CHECK(!agent_remove(&d->agent, slow, NULL) && !runs);
	CHECK(released(1) == TRIMMED);
	stop();
}

/* What there is no room for the callbacks are asked for, once. */
static void test_balloon(void)
{
	start();
	CHECK(!agent_add(&d->agent, note, "a"));
	wish(d->fd, ROOM, 1);
	CHECK(ballooned(1) == ROOM && !strcmp(order, "") && d->balloons == 1);
	wish(d->fd, ROOM + WANTED, 2);
	CHECK(ballooned(2) == ROOM + 1 && !strcmp(order, "a") && d->balloons == 3);
	CHECK(!agent_remove(&d->agent, note, "a"));
	wish(d->fd, ROOM + WANTED, 3);
	CHECK(ballooned(3) == ROOM && d->balloons == 4 && !d->trims && !strcmp(order, "a"));
	stop();
}

/* They come when the others have not released enough, and are asked for the rest. */
static uint64_t rest(void *arg, int level, uint64_t wanted_pages)
{
	(void)level;
	strcat(order, "r");
	atomic_store((_Atomic uint64_t *)arg, wanted_pages);
	return 3;
}

static void test_the_last_are_asked_for_the_rest(void)
{
	_Atomic uint64_t asked = 0;

	start();
	CHECK(!agent_add_last(&d->agent, rest, &asked) && !agent_add(&d->agent, note, "a"));
	press(d->fd, UVMM_PRESSURE_SOME, 1);
	CHECK(released(1) == 13 + TRIMMED && !strcmp(order, "ar") && asked == WANTED - 10);
	CHECK(!agent_add(&d->agent, note, "b"));
	for (int i = 0; i < 6; i++)
		CHECK(!agent_add(&d->agent, note, ""));
	press(d->fd, UVMM_PRESSURE_SOME, 2);
	CHECK(released(2) == 83 + TRIMMED && !strcmp(order, "arabr") && !asked);
	wish(d->fd, ROOM + WANTED, 3);
	CHECK(ballooned(3) == ROOM + 1 && !strcmp(order, "arabrabr") && asked == WANTED);
	CHECK(d->balloons == 3);
	CHECK(!agent_remove(&d->agent, rest, &asked) && agent_remove(&d->agent, rest, &asked));
	stop();
}

static void *come_and_go(void *arg)
{
	int i;

	for (i = 0; i < 500; i++)
		CHECK(!agent_add(&d->agent, note, arg) && !agent_remove(&d->agent, note, arg));
	return NULL;
}

static void test_callbacks_come_and_go(void)
{
	pthread_t thread;
	uint32_t i;

	start();
	CHECK(!agent_add(&d->agent, leave, &d->agent));
	CHECK(!pthread_create(&thread, NULL, come_and_go, ""));
	for (i = 1; i < 200; i++) {
		press(d->fd, UVMM_PRESSURE_SOME, i);
		CHECK(released(i) >= TRIMMED);
	}
	pthread_join(thread, NULL);
	stop();
}

static void test_nonsense_ends_it(void)
{
	char junk[PACKET] = "junk";

	start();
	CHECK(send(d->fd, junk, sizeof(junk), 0) == sizeof(junk));
	expect_end();
	start();
	press(d->fd, UVMM_PRESSURE_FULL + 1, 1);
	expect_end();
}

/* The program has put its own file where the agent's connection was. */
static void test_a_reused_descriptor_is_left_alone(void)
{
	int former, theirs[2];
	char byte;

	start();
	CHECK(!agent_add(&d->agent, tell_link, d));
	former = d->fd;
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, theirs));
	press(former, UVMM_PRESSURE_SOME, 1);
	CHECK(released(1) == 10 + TRIMMED);
	/* It waits for the next by then. */
	usleep(SLOW_US);
	CHECK(dup2(theirs[1], d->link) == d->link);
	press(former, UVMM_PRESSURE_SOME, 2);
	while (d->connects < 2)
		usleep(100);
	press(d->fd, UVMM_PRESSURE_SOME, 3);
	CHECK(released(3) == 10 + TRIMMED);
	CHECK(recv(theirs[0], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(recv(former, &byte, 1, 0) == 0);
	close(former);
	stop();
}

/* At the next tick if there is nothing to be heard, and whatever the program hears. */
static void test_a_reused_descriptor_is_noticed(void)
{
	int former, theirs[2];
	char byte = 'x';

	start_with(&ticking);
	CHECK(!agent_add(&d->agent, tell_link, d));
	former = d->fd;
	press(former, UVMM_PRESSURE_SOME, 1);
	CHECK(released(1) == 10 + TRIMMED);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, theirs));
	CHECK(send(theirs[0], &byte, 1, 0) == 1);
	CHECK(dup2(theirs[1], d->link) == d->link);
	while (d->connects < 2)
		usleep(100);
	CHECK(recv(theirs[1], &byte, 1, MSG_DONTWAIT) == 1);
	CHECK(recv(former, &byte, 1, 0) == 0);
	close(former);
	press(d->fd, UVMM_PRESSURE_SOME, 2);
	CHECK(released(2) == 10 + TRIMMED);
	stop();
}

static void test_no_daemon(void)
{
	d->refuse = -ECONNREFUSED;
	CHECK(agent_start(&d->agent, &ops, d) == -ECONNREFUSED);
}

int main(void)
{
	test_no_daemon();
	test_order_and_sum();
	test_no_more_than_there_is_room_for();
	test_removal_waits_for_the_callback();
	test_balloon();
	test_the_last_are_asked_for_the_rest();
	test_callbacks_come_and_go();
	test_nonsense_ends_it();
	test_a_reused_descriptor_is_left_alone();
	test_a_reused_descriptor_is_noticed();
	printf("agent: ok\n");
	return 0;
}
