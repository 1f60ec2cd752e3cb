/* SPDX-License-Identifier: MIT */
#include "disk_link.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kept.h"

#define LOOK_MS 1000            /* so often who waits asks whether the daemon is there */

struct slot {
	struct uvmm_disk_task *task;
	uint32_t next;          /* free */
};

struct disk_link {
	uvmm_guest *guest;
	char *base;
	struct uvmm_disk_ring *ring;
	struct kept_fd wake;

	pthread_mutex_t lock;                   /* guards below, and our side of the ring */
	struct slot slot[UVMM_DISK_SLOTS];
	uint32_t free_slot, used_slots;
	struct uvmm_disk_task *queue, *last_queued;
	bool dead;
};

static uint32_t look(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- tasks, with the lock held --------------------------------------------------- */

static void end_task(struct uvmm_disk_task *t)
{
	struct uvmm_disk *d = t->disk;

	t->next = NULL;
	if (d->done)
		d->last_done->next = t;
	else
		d->done = t;
	d->last_done = t;
	d->tasks--;
}

static bool is_sent(const struct uvmm_disk_task *t)
{
	return t->sent == t->bytes && (t->v || t->at_segment);
}

static void fill_segments(const struct disk_link *l, struct uvmm_disk_task *t,
			  struct uvmm_disk_request *q, struct uvmm_disk_segment *s)
{
	while (q->segments < UVMM_DISK_SEGMENTS && q->bytes < UVMM_DISK_BYTES_MAX &&
	       t->at_segment < t->n) {
		const struct iovec *v = &t->v[t->at_segment];
		uint64_t rest = v->iov_len - t->at, room = UVMM_DISK_BYTES_MAX - q->bytes;
		uint64_t bytes = rest < room ? rest : room;

		if (bytes)
			s[q->segments++] = (struct uvmm_disk_segment){
				.address = (uint64_t)((char *)v->iov_base - l->base) + t->at,
				.bytes = (uint32_t)bytes,
			};
		q->bytes += bytes;
		t->at += bytes;
		if (t->at == v->iov_len) {
			t->at_segment++;
			t->at = 0;
		}
	}
}

/* The next request of the task. */
static void send_one(struct disk_link *l, struct uvmm_disk_task *t)
{
	uint32_t at = l->ring->submitted % UVMM_DISK_SLOTS, number = l->free_slot;
	struct uvmm_disk_request *q = &l->ring->request[at];

	*q = (struct uvmm_disk_request){
		.cookie = number,
		.offset = t->offset + t->sent,
		.disk = t->disk->number,
		.op = (uint16_t)t->what,
	};
	if (t->v) {
		fill_segments(l, t, q, l->ring->segment[at]);
	} else {
		q->bytes = t->bytes;
		t->at_segment = 1;
	}
	t->sent += q->bytes;
	t->under_way++;
	l->free_slot = l->slot[number].next;
	l->slot[number].task = t;
	l->used_slots++;
	__atomic_store_n(&l->ring->submitted, l->ring->submitted + 1, __ATOMIC_SEQ_CST);
}

static void wake_daemon(struct disk_link *l)
{
	uint64_t one = 1;

	if (__atomic_load_n(&l->ring->sleeps, __ATOMIC_SEQ_CST) && kept_is_ours(&l->wake))
		(void)!write(l->wake.fd, &one, sizeof(one));
}

/* As far as there are slots. */
static void send_queued(struct disk_link *l)
{
	bool any = false;

	while (l->queue && l->used_slots < UVMM_DISK_SLOTS) {
		struct uvmm_disk_task *t = l->queue;

		send_one(l, t);
		any = true;
		if (is_sent(t))
			l->queue = t->next;
	}
	if (any)
		wake_daemon(l);
}

static void take_one(struct disk_link *l, const struct uvmm_disk_done *done)
{
	struct slot *s = &l->slot[done->cookie % UVMM_DISK_SLOTS];
	struct uvmm_disk_task *t = s->task;

	if (!t)
		return;
	s->task = NULL;
	s->next = l->free_slot;
	l->free_slot = (uint32_t)(done->cookie % UVMM_DISK_SLOTS);
	l->used_slots--;
	if (done->status && !t->status)
		t->status = done->status;
	t->under_way--;
	if (!t->under_way && is_sent(t))
		end_task(t);
}

/* All that is done. */
static void take_done(struct disk_link *l)
{
	uint32_t put = look(&l->ring->done_put), at = l->ring->done_taken;

	for (; at != put; at++)
		take_one(l, &l->ring->done[at % UVMM_DISK_SLOTS]);
	__atomic_store_n(&l->ring->done_taken, at, __ATOMIC_RELEASE);
	send_queued(l);
}

/* Nothing will be done any more. */
static void give_up(struct disk_link *l)
{
	struct uvmm_disk_task *t;
	uint32_t i;

	l->dead = true;
	while ((t = l->queue)) {
		l->queue = t->next;
		t->status = -ECONNRESET;
		if (!t->under_way)
			end_task(t);
		else
			t->sent = t->bytes;
	}
	for (i = 0; i < UVMM_DISK_SLOTS; i++)
		if (l->slot[i].task)
			take_one(l, &(struct uvmm_disk_done){ .cookie = i,
							      .status = -ECONNRESET });
}

/* --- waiting ------------------------------------------------------------------------ */

static void sleep_until_put(struct disk_link *l, uint32_t put, int ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l };

	__atomic_fetch_add(&l->ring->waits, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &l->ring->done_put, FUTEX_WAIT, put, &t, NULL, 0);
	__atomic_fetch_sub(&l->ring->waits, 1, __ATOMIC_SEQ_CST);
}

/* Sleeps, without the lock, until something may have been done, for ms at most. */
static void await_some(struct disk_link *l, const struct uvmm_disk *d, int ms)
{
	uint32_t put = l->ring->done_taken;
	bool gone = false;

	pthread_mutex_unlock(&l->lock);
	sleep_until_put(l, put, ms < LOOK_MS ? ms : LOOK_MS);
	if (ms >= LOOK_MS && look(&l->ring->done_put) == put)
		gone = guest_find_disk(l->guest, d->name, NULL) == -ECONNRESET;
	pthread_mutex_lock(&l->lock);
	if (gone)
		give_up(l);
	take_done(l);
}

/* The task, taken out of those that are done, if it is. */
static bool pick(struct uvmm_disk *d, struct uvmm_disk_task *task)
{
	struct uvmm_disk_task **at = &d->done, *former = NULL;

	while (*at && *at != task) {
		former = *at;
		at = &(*at)->next;
	}
	if (!*at)
		return false;
	*at = task->next;
	if (d->last_done == task)
		d->last_done = former;
	return true;
}

void disk_link_begin(struct uvmm_disk *d, struct uvmm_disk_task *const *tasks, unsigned n)
{
	struct disk_link *l = d->link;
	unsigned i;

	pthread_mutex_lock(&l->lock);
	for (i = 0; i < n; i++) {
		struct uvmm_disk_task *t = tasks[i];

		t->disk = d;
		t->next = NULL;
		t->under_way = 0;
		t->at_segment = 0;
		t->at = t->sent = 0;
		t->status = l->dead ? -ECONNRESET : 0;
		d->tasks++;
		if (l->dead || (t->v && !t->bytes)) {
			end_task(t);
			continue;
		}
		if (l->queue)
			l->last_queued->next = t;
		else
			l->queue = t;
		l->last_queued = t;
	}
	send_queued(l);
	pthread_mutex_unlock(&l->lock);
}

int disk_link_finish(struct uvmm_disk *d, struct uvmm_disk_task *task)
{
	struct disk_link *l = d->link;

	pthread_mutex_lock(&l->lock);
	take_done(l);
	while (!pick(d, task))
		await_some(l, d, LOOK_MS);
	pthread_mutex_unlock(&l->lock);
	return task->status;
}

/* Done tasks that are to be taken by wait, not by who waits for his own. */
static unsigned take_wanted(struct uvmm_disk *d, struct uvmm_disk_task **tasks, unsigned room)
{
	struct uvmm_disk_task *t = d->done, *next;
	unsigned n = 0;

	for (; t && n < room; t = next) {
		next = t->next;
		if (t->wanted)
			continue;
		pick(d, t);
		tasks[n++] = t;
	}
	return n;
}

int disk_link_wait(struct uvmm_disk *d, struct uvmm_disk_task **tasks, unsigned room,
		   unsigned least, int ms)
{
	struct disk_link *l = d->link;
	int64_t until = now_ms() + ms, left;
	unsigned n;

	pthread_mutex_lock(&l->lock);
	take_done(l);
	n = take_wanted(d, tasks, room);
	while (n < least && n < room && d->tasks) {
		left = ms < 0 ? LOOK_MS : until - now_ms();
		if (left <= 0)
			break;
		await_some(l, d, left > LOOK_MS ? LOOK_MS : (int)left);
		n += take_wanted(d, tasks + n, room - n);
	}
	pthread_mutex_unlock(&l->lock);
	return (int)n;
}

void disk_link_settle(struct uvmm_disk *d)
{
	struct disk_link *l = d->link;

	pthread_mutex_lock(&l->lock);
	take_done(l);
	while (d->tasks)
		await_some(l, d, LOOK_MS);
	pthread_mutex_unlock(&l->lock);
}

uvmm_guest *disk_link_guest(const struct disk_link *l)
{
	return l->guest;
}

/* --- life ---------------------------------------------------------------------------- */

static pthread_mutex_t link_lock = PTHREAD_MUTEX_INITIALIZER;
static struct disk_link *the_link;      /* guarded by link_lock: of the one guest */

static int open_ring(struct disk_link *l)
{
	int fds[2], rc = guest_start_disks(l->guest, fds);
	void *ring;

	if (rc)
		return rc;
	ring = mmap(NULL, sizeof(*l->ring), PROT_READ | PROT_WRITE, MAP_SHARED, fds[0], 0);
	close(fds[0]);
	if (ring == MAP_FAILED) {
		close(fds[1]);
		return guest_fail(-ENOMEM, "the ring of disk requests cannot be mapped");
	}
	madvise(ring, sizeof(*l->ring), MADV_DONTFORK);
	l->ring = ring;
	l->wake = kept_take(fds[1]);
	return 0;
}

static struct disk_link *new_link(uvmm_guest *g)
{
	struct disk_link *l = calloc(1, sizeof(*l));
	uint32_t i;

	if (!l)
		return NULL;
	l->guest = g;
	l->base = uvmm_base(g);
	pthread_mutex_init(&l->lock, NULL);
	for (i = 0; i < UVMM_DISK_SLOTS; i++)
		l->slot[i].next = i + 1;
	return l;
}

int disk_link_get(uvmm_guest *g, struct disk_link **out)
{
	int rc = 0;

	pthread_mutex_lock(&link_lock);
	if (!the_link) {
		struct disk_link *l = new_link(g);

		rc = l ? open_ring(l) : guest_fail(-ENOMEM, "no memory");
		if (rc)
			free(l);
		else
			the_link = l;
	}
	*out = the_link;
	pthread_mutex_unlock(&link_lock);
	return rc;
}
