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

#include "disk_parts.h"

#define ENTRIES 512u
#define BATCH 64u
#define DRAIN_NS (2 * NS_PER_S)
#define WAKE_MARK 1u            /* user data of the event; else it is a piece, or a job */
#define JOB_BIT 2u              /* a job without pieces: FLUSH, DISCARD */

/* --- jobs ---------------------------------------------------------------------- */

static void put(struct disk_io *d, struct job *j)
{
	struct disks *disks = &d->g->disks;
	const struct uvmm_disk_request *q = &j->q.head;

	if (j->status)
		disk_count(&disks->errors, 1);
	else if (q->op == UVMM_DISK_READ)
		disk_count(&disks->read_bytes, q->bytes);
	else if (q->op == UVMM_DISK_WRITE)
		disk_count(&disks->written_bytes, q->bytes);
	if (ring_put(&d->ring, q->cookie, j->status))
		d->to_wake = true;
	if (j->copied && !j->status)
		disk_note_heat(d, j);
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
	struct io_uring_sqe *sqe = disk_entry(d);

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
	struct piece *p = disk_take_piece(d, j->q.head.disk, s->address + j->at,
					  s->bytes - j->at);
	int rc = 0;

	if (!p)
		return false;
	p->job = j;
	p->offset = j->q.head.offset + j->sent;
	p->done = 0;
	if (j->q.head.op == UVMM_DISK_WRITE)
		rc = disk_copy_piece(d, p, false);
	if (rc) {
		disk_give_piece(d, p);
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
	disk_send_piece(d, p);
	return true;
}

/* The one that is issuing, as far as there are buffers. */
static void issue_rest(struct disk_io *d)
{
	struct job *j = d->issuing;

	if (!j)
		return;
	while (!j->issued)
		if (!issue_piece(d, j))
			return;
	d->issuing = NULL;
	put_if_done(d, j);
}

static void begin(struct disk_io *d, struct job *j, int status)
{
	struct disks *disks = &d->g->disks;
	uint16_t op = j->q.head.op;

	j->status = 0;
	j->under_way = j->segment = j->at = 0;
	j->sent = 0;
	j->issued = j->copied = false;
	if (status) {
		fail(j, status);
		put(d, j);
		return;
	}
	disk_count(op == UVMM_DISK_READ ? &disks->reads : op == UVMM_DISK_WRITE ? &disks->writes :
	      op == UVMM_DISK_FLUSH ? &disks->flushes : &disks->discards, 1);
	if (op == UVMM_DISK_FLUSH || op == UVMM_DISK_DISCARD) {
		issue_whole(d, j);
		return;
	}
	d->issuing = j;
	issue_rest(d);
}

static void take_all(struct disk_io *d)
{
	struct ring_limits limits = {
		.memory_bytes = d->g->max_pages << UVMM_PAGE_SHIFT,
		.disks = atomic_load(&d->g->disks.count),
		.disk = d->g->disks.limit,
	};
	int status;

	issue_rest(d);
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
		disk_send_piece(d, p);
		return;
	}
	/* Nothing at all: beyond the end of an image that has been cut. */
	if (res <= 0)
		fail(j, res ? res : -EIO);
	else if (j->q.head.op == UVMM_DISK_READ && !j->status)
		res = disk_copy_piece(d, p, true);
	if (res < 0)
		fail(j, res);
	disk_give_piece(d, p);
	j->under_way--;
	/* One that is issuing is put when its turn is over. */
	if (j != d->issuing)
		put_if_done(d, j);
}

static void wake_again(struct disk_io *d)
{
	struct io_uring_sqe *sqe = disk_entry(d);
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

static void wait_for_some(struct disk_io *d)
{
	uint64_t ns = disk_wait_ns(d);
	struct __kernel_timespec t = {
		.tv_sec = (long long)(ns / NS_PER_S), .tv_nsec = (long long)(ns % NS_PER_S),
	};
	struct io_uring_cqe *cqe;

	if (ns == UINT64_MAX)
		io_uring_submit_and_wait(&d->uring, 1);
	else
		io_uring_submit_and_wait_timeout(&d->uring, &cqe, 1, &t, NULL);
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
		wait_for_some(d);
	else
		io_uring_submit_and_get_events(&d->uring);
	ring_wake_up(&d->ring);
	while (reap(d))
		tell(d);
	io_uring_submit(&d->uring);
	disk_tell_reads(d);
	disk_lower_hot(d);
	disk_tidy(d);
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
	disk_arrange_pieces(d);
}

static int open_uring(struct disk_io *d)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
	};
	struct iovec pool = { d->pool, POOL_BYTES };
	__u64 tag = 0;
	int rc = io_uring_queue_init_params(ENTRIES, &d->uring, &params);

	if (rc == -EINVAL) {
		params = (struct io_uring_params){ .flags = 0 };
		rc = io_uring_queue_init_params(ENTRIES, &d->uring, &params);
	}
	if (rc)
		return rc;
	/* The pool is the first; chunks of low memory come and go behind it. */
	rc = io_uring_register_buffers_sparse(&d->uring, 1 + (unsigned)d->e->low_pool.chunks);
	if (!rc && io_uring_register_buffers_update_tag(&d->uring, 0, &pool, &tag, 1) != 1)
		rc = -ENOMEM;
	if (rc)
		io_uring_queue_exit(&d->uring);
	return rc;
}

static void *thread_main(void *arg)
{
	struct disk_io *d = arg;
	bool failed;

	pthread_setname_np(pthread_self(), "uvmm-disk");
	d->start_error = open_uring(d);
	failed = d->start_error;
	if (!failed)
		wake_again(d);
	sem_post(&d->started);
	/* The starter frees it after a failure. */
	if (failed)
		return NULL;
	/* It may take its time: the starter holds others up. */
	disk_open_low(d);
	while (!atomic_load(&d->stop))
		serve(d);
	drain(d);
	io_uring_queue_exit(&d->uring);
	heat_fini(&d->heat);
	atomic_store(&d->g->disks.hot_pages, 0);
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
