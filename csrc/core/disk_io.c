/* SPDX-License-Identifier: MIT */
#include "disk_io.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "clock.h"
#include "engine.h"
#include "transfer.h"

#define SMALL_BYTES 8192u
#define SMALLS 256u
#define LARGE_BYTES (256u << 10)
#define LARGES 24u
#define POOL_BYTES (SMALLS * SMALL_BYTES + LARGES * LARGE_BYTES)
#define PIECES (SMALLS + LARGES)
#define ENTRIES 512u
#define BATCH 64u
#define DRAIN_NS (2 * NS_PER_S)
#define WAKE_MARK 1u            /* user data of the event; else it is a piece, or a job */
#define JOB_BIT 2u              /* a job without pieces: FLUSH, DISCARD */

struct job {
	struct ring_request q;
	int status;
	uint32_t under_way;     /* pieces, or the operation */
	uint32_t segment, at;   /* where the next piece begins */
	uint64_t sent;          /* bytes of it that have pieces */
	bool issued;            /* all of it */
	struct job *next;       /* free, or issuing */
};

struct piece {
	struct job *job;
	char *buffer;
	uint64_t address, offset;
	uint32_t bytes, done;
	bool small;
	struct piece *next;     /* free */
};

struct disk_io {
	/* Immutable while the thread runs. */
	struct uvmm_engine *e;
	struct guest *g;
	int memory_fd, wake_fd;
	pthread_t thread;
	sem_t started;
	int start_error;
	_Atomic bool stop;

	/* The thread's own. */
	struct ring ring;
	struct io_uring uring;
	char *pool;
	uint32_t in_flight;     /* without the event */
	bool to_wake;           /* a thread of the guest waits for what was put */
	struct job job[UVMM_DISK_SLOTS], *free_job, *issuing, *last_issuing;
	struct piece piece[PIECES], *free_small, *free_large;
};

static struct io_uring_sqe *entry(struct disk_io *d)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->uring);

	while (!sqe) {
		io_uring_submit(&d->uring);
		sqe = io_uring_get_sqe(&d->uring);
	}
	return sqe;
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* --- pieces ------------------------------------------------------------------- */

static struct piece *take_piece(struct disk_io *d, uint32_t rest)
{
	struct piece **list = rest <= SMALL_BYTES && d->free_small ? &d->free_small : &d->free_large;
	struct piece *p = *list;

	if (p)
		*list = p->next;
	return p;
}

static void give_piece(struct disk_io *d, struct piece *p)
{
	struct piece **list = p->small ? &d->free_small : &d->free_large;

	p->next = *list;
	*list = p;
}

static void send_piece(struct disk_io *d, struct piece *p)
{
	const struct uvmm_disk_request *q = &p->job->q.head;
	int fd = d->g->disks.image[q->disk].fd;
	struct io_uring_sqe *sqe = entry(d);
	char *at = p->buffer + p->done;
	unsigned bytes = p->bytes - p->done;

	if (q->op == UVMM_DISK_READ)
		io_uring_prep_read_fixed(sqe, fd, at, bytes, p->offset + p->done, 0);
	else
		io_uring_prep_write_fixed(sqe, fd, at, bytes, p->offset + p->done, 0);
	io_uring_sqe_set_data(sqe, p);
	d->in_flight++;
}

/* The bytes of a piece, between its buffer and the guest. */
static int copy(struct disk_io *d, const struct piece *p, bool to_guest)
{
	int rc;

	if (!guest_enter(d->g))
		return -ESRCH;
	rc = to_guest ? transfer_to_guest(d->e, d->g, p->address, p->buffer, p->bytes) :
			transfer_from_guest(d->e, d->g, p->address, p->buffer, p->bytes);
	guest_leave(d->g);
	count(&d->g->disks.copied_bytes, rc ? 0 : p->bytes);
	return rc;
}

/* --- jobs ---------------------------------------------------------------------- */

static void put(struct disk_io *d, struct job *j)
{
	struct disks *disks = &d->g->disks;
	const struct uvmm_disk_request *q = &j->q.head;

	if (j->status)
		count(&disks->errors, 1);
	else if (q->op == UVMM_DISK_READ)
		count(&disks->read_bytes, q->bytes);
	else if (q->op == UVMM_DISK_WRITE)
		count(&disks->written_bytes, q->bytes);
	if (ring_put(&d->ring, q->cookie, j->status))
		d->to_wake = true;
	j->next = d->free_job;
	d->free_job = j;
}

static void fail(struct job *j, int status)
{
	if (!j->status)
		j->status = status;
	j->issued = true;
}

static void put_if_done(struct disk_io *d, struct job *j)
{
	if (j->issued && !j->under_way)
		put(d, j);
}

static void issue_whole(struct disk_io *d, struct job *j)
{
	const struct uvmm_disk_request *q = &j->q.head;
	int fd = d->g->disks.image[q->disk].fd;
	struct io_uring_sqe *sqe = entry(d);

	if (q->op == UVMM_DISK_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
					(off_t)q->offset, (off_t)q->bytes);
	io_uring_sqe_set_data64(sqe, (uintptr_t)j | JOB_BIT);
	d->in_flight++;
	j->under_way = 1;
	j->issued = true;
}

/* The next piece of the job; false if there is no buffer for it. */
static bool issue_piece(struct disk_io *d, struct job *j)
{
	const struct uvmm_disk_segment *s = &j->q.segment[j->segment];
	uint32_t rest = s->bytes - j->at;
	struct piece *p = take_piece(d, rest);
	uint32_t room;
	int rc = 0;

	if (!p)
		return false;
	room = p->small ? SMALL_BYTES : LARGE_BYTES;
	p->job = j;
	p->address = s->address + j->at;
	p->offset = j->q.head.offset + j->sent;
	p->bytes = rest < room ? rest : room;
	p->done = 0;
	if (j->q.head.op == UVMM_DISK_WRITE)
		rc = copy(d, p, false);
	if (rc) {
		give_piece(d, p);
		fail(j, rc);
		return true;
	}
	j->under_way++;
	j->sent += p->bytes;
	j->at += p->bytes;
	if (j->at == s->bytes) {
		j->at = 0;
		j->issued = ++j->segment == j->q.head.segments;
	}
	send_piece(d, p);
	return true;
}

/* As far as there are buffers. */
static void issue_all(struct disk_io *d)
{
	struct job *j;

	while ((j = d->issuing)) {
		while (!j->issued)
			if (!issue_piece(d, j))
				return;
		d->issuing = j->next;
		put_if_done(d, j);
	}
}

static void begin(struct disk_io *d, struct job *j, int status)
{
	struct disks *disks = &d->g->disks;
	uint16_t op = j->q.head.op;

	j->status = 0;
	j->under_way = j->segment = j->at = 0;
	j->sent = 0;
	j->issued = false;
	j->next = NULL;
	if (status) {
		fail(j, status);
		put(d, j);
		return;
	}
	count(op == UVMM_DISK_READ ? &disks->reads : op == UVMM_DISK_WRITE ? &disks->writes :
	      op == UVMM_DISK_FLUSH ? &disks->flushes : &disks->discards, 1);
	if (op == UVMM_DISK_FLUSH || op == UVMM_DISK_DISCARD) {
		issue_whole(d, j);
		return;
	}
	d->issuing = j;
	issue_all(d);
}

static void take_all(struct disk_io *d)
{
	struct ring_limits limits = {
		.memory_bytes = d->g->max_pages << UVMM_PAGE_SHIFT,
		.disks = atomic_load(&d->g->disks.count),
		.disk = d->g->disks.limit,
	};
	int status;

	issue_all(d);
	while (!d->issuing && d->free_job) {
		struct job *j = d->free_job;

		if (!ring_take(&d->ring, &limits, &j->q, &status))
			return;
		d->free_job = j->next;
		begin(d, j, status);
	}
}

/* --- what has been done ---------------------------------------------------------- */

static void piece_done(struct disk_io *d, struct piece *p, int res)
{
	struct job *j = p->job;

	if (res > 0 && (uint32_t)res < p->bytes - p->done) {
		p->done += (uint32_t)res;
		send_piece(d, p);
		return;
	}
	/* Nothing at all: beyond the end of an image that has been cut. */
	if (res <= 0)
		fail(j, res ? res : -EIO);
	else if (j->q.head.op == UVMM_DISK_READ && !j->status)
		res = copy(d, p, true);
	if (res < 0)
		fail(j, res);
	give_piece(d, p);
	j->under_way--;
	/* One that is issuing is put when its turn is over. */
	if (j != d->issuing)
		put_if_done(d, j);
}

static void wake_again(struct disk_io *d)
{
	struct io_uring_sqe *sqe = entry(d);
	uint64_t n;

	(void)!read(d->wake_fd, &n, sizeof(n));
	io_uring_prep_poll_add(sqe, d->wake_fd, POLLIN);
	io_uring_sqe_set_data64(sqe, WAKE_MARK);
}

static void done(struct disk_io *d, uint64_t mark, int res)
{
	if (mark == WAKE_MARK) {
		wake_again(d);
		return;
	}
	d->in_flight--;
	if (mark & JOB_BIT) {
		struct job *j = (struct job *)(uintptr_t)(mark & ~(uint64_t)JOB_BIT);

		if (res < 0)
			fail(j, res);
		j->under_way = 0;
		put(d, j);
	} else {
		piece_done(d, (struct piece *)(uintptr_t)mark, res);
	}
}

static bool reap(struct disk_io *d)
{
	struct io_uring_cqe *cqe[BATCH];
	unsigned n = io_uring_peek_batch_cqe(&d->uring, cqe, BATCH), i;
	uint64_t mark[BATCH];
	int res[BATCH];

	for (i = 0; i < n; i++) {
		mark[i] = cqe[i]->user_data;
		res[i] = cqe[i]->res;
	}
	io_uring_cq_advance(&d->uring, n);
	for (i = 0; i < n; i++)
		done(d, mark[i], res[i]);
	return n;
}

static void tell(struct disk_io *d)
{
	if (d->to_wake)
		ring_wake(&d->ring);
	d->to_wake = false;
}

/* Sends what was prepared; waits if there was nothing to do and nothing has come. */
static void serve(struct disk_io *d)
{
	bool idle;

	take_all(d);
	tell(d);
	/* What waits for a buffer, or for room, has others under way. */
	idle = d->issuing || !d->free_job || ring_sleep(&d->ring);
	if (idle)
		io_uring_submit_and_wait(&d->uring, 1);
	else
		io_uring_submit_and_get_events(&d->uring);
	ring_wake_up(&d->ring);
	while (reap(d))
		tell(d);
}

static void drain(struct disk_io *d)
{
	uint64_t until = clock_ns() + DRAIN_NS;
	struct __kernel_timespec t = { .tv_nsec = 10 * (long long)NS_PER_MS };
	struct io_uring_cqe *cqe;

	io_uring_submit(&d->uring);
	while (d->in_flight && clock_ns() < until) {
		if (io_uring_wait_cqe_timeout(&d->uring, &cqe, &t))
			continue;
		d->in_flight -= cqe->user_data != WAKE_MARK;
		io_uring_cqe_seen(&d->uring, cqe);
	}
}

/* --- life -------------------------------------------------------------------------- */

static void arrange(struct disk_io *d)
{
	unsigned i;

	for (i = 0; i < UVMM_DISK_SLOTS; i++) {
		d->job[i].next = d->free_job;
		d->free_job = &d->job[i];
	}
	for (i = 0; i < PIECES; i++) {
		struct piece *p = &d->piece[i];

		p->small = i < SMALLS;
		p->buffer = d->pool + (p->small ? i * (size_t)SMALL_BYTES :
				       SMALLS * SMALL_BYTES + (i - SMALLS) * (size_t)LARGE_BYTES);
		give_piece(d, p);
	}
}

static int open_uring(struct disk_io *d)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	struct iovec pool = { d->pool, POOL_BYTES };
	int rc = io_uring_queue_init_params(ENTRIES, &d->uring, &params);

	if (rc == -EINVAL) {
		params = (struct io_uring_params){ .flags = 0 };
		rc = io_uring_queue_init_params(ENTRIES, &d->uring, &params);
	}
	if (rc)
		return rc;
	rc = io_uring_register_buffers(&d->uring, &pool, 1);
	if (rc)
		io_uring_queue_exit(&d->uring);
	return rc;
}

static void *thread_main(void *arg)
{
	struct disk_io *d = arg;

	pthread_setname_np(pthread_self(), "uvmm-disk");
	d->start_error = open_uring(d);
	if (!d->start_error)
		wake_again(d);
	if (d->start_error) {
		sem_post(&d->started);
		return NULL;
	}
	sem_post(&d->started);
	while (!atomic_load(&d->stop))
		serve(d);
	drain(d);
	io_uring_queue_exit(&d->uring);
	return NULL;
}

/* Of a size that stays: else what a guest cuts off would be missed by the thread. */
static int make_memory(struct disk_io *d)
{
	void *at;

	d->memory_fd = memfd_create("uvmm-disk-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (d->memory_fd < 0 || ftruncate(d->memory_fd, sizeof(struct uvmm_disk_ring)) ||
	    fcntl(d->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	at = mmap(NULL, sizeof(struct uvmm_disk_ring), PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_POPULATE, d->memory_fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	d->ring.shared = at;
	at = mmap(NULL, POOL_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return -errno;
	d->pool = at;
	madvise(d->pool, POOL_BYTES, MADV_HUGEPAGE);
	d->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return d->wake_fd < 0 ? -errno : 0;
}

static void release(struct disk_io *d)
{
	if (d->ring.shared)
		munmap(d->ring.shared, sizeof(struct uvmm_disk_ring));
	if (d->pool)
		munmap(d->pool, POOL_BYTES);
	if (d->memory_fd >= 0)
		close(d->memory_fd);
	if (d->wake_fd >= 0)
		close(d->wake_fd);
	sem_destroy(&d->started);
	free(d);
}

int disk_io_start(struct uvmm_engine *e, struct guest *g, struct disk_io **out)
{
	struct disk_io *d = calloc(1, sizeof(*d));
	int rc;

	if (!d)
		return -ENOMEM;
	d->e = e;
	d->g = g;
	d->memory_fd = d->wake_fd = -1;
	sem_init(&d->started, 0, 0);
	rc = make_memory(d);
	if (!rc) {
		arrange(d);
		rc = -pthread_create(&d->thread, NULL, thread_main, d);
	}
	if (!rc) {
		while (sem_wait(&d->started))
			;
		rc = d->start_error;
		if (rc)
			pthread_join(d->thread, NULL);
	}
	if (rc)
		release(d);
	else
		*out = d;
	return rc;
}

void disk_io_descriptors(const struct disk_io *d, int *memory_fd, int *wake_fd)
{
	*memory_fd = d->memory_fd;
	*wake_fd = d->wake_fd;
}

void disk_io_stop(struct disk_io *d)
{
	if (!d)
		return;
	atomic_store(&d->stop, true);
	eventfd_write(d->wake_fd, 1);
	pthread_join(d->thread, NULL);
	release(d);
}
