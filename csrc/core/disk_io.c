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
#include "heat.h"
#include "transfer.h"

#define SMALL_BYTES 8192u
#define SMALLS 256u
#define LARGE_BYTES (256u << 10)
#define LARGES 24u
#define POOL_BYTES (SMALLS * SMALL_BYTES + LARGES * LARGE_BYTES)
#define DIRECTS UVMM_DISK_SLOTS
#define PIECES (SMALLS + LARGES + DIRECTS)
#define ENTRIES 512u
#define BATCH 64u
#define DRAIN_NS (2 * NS_PER_S)
#define TIDY_NS NS_PER_S
#define HOT_MAX 16u
#define COLD_MS 1000u           /* not held for so long: may leave low memory for others */
#define WAKE_MARK 1u            /* user data of the event; else it is a piece, or a job */
#define JOB_BIT 2u              /* a job without pieces: FLUSH, DISCARD */

struct job {
	struct ring_request q;
	int status;
	uint32_t under_way;     /* pieces, or the operation */
	uint32_t segment, at;   /* where the next piece begins */
	uint64_t sent;          /* bytes of it that have pieces */
	bool issued;            /* all of it */
	bool copied;            /* some of it */
	struct job *next;       /* free, or issuing */
};

/* A direct one has no buffer but the guest's pages, which it holds. */
enum piece_kind { PIECE_SMALL, PIECE_LARGE, PIECE_DIRECT, PIECE_KINDS };

struct piece {
	struct job *job;
	char *buffer;
	uint64_t address, offset;
	uint32_t bytes, done;
	enum piece_kind kind;
	uint32_t buffer_index;  /* as registered */
	struct piece *next;     /* free */
};

/* A buffer that is copied again and again. */
struct hot {
	uint64_t ppn;
	uint32_t pages;
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
	struct piece piece[PIECES], *free_piece[PIECE_KINDS];
	struct heat heat;
	struct hot hot[HOT_MAX];
	uint32_t hots;
	uint64_t tidy_ns;
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

static struct piece *take_piece(struct disk_io *d, enum piece_kind kind)
{
	struct piece *p = d->free_piece[kind];

	if (p)
		d->free_piece[kind] = p->next;
	return p;
}

static uint32_t pages_of(uint64_t address, uint32_t bytes)
{
	return (uint32_t)(((address + bytes - 1) >> UVMM_PAGE_SHIFT) -
			  (address >> UVMM_PAGE_SHIFT) + 1);
}

static void give_piece(struct disk_io *d, struct piece *p)
{
	if (p->kind == PIECE_DIRECT)
		low_drop(d->g, p->address >> UVMM_PAGE_SHIFT, pages_of(p->address, p->bytes));
	p->next = d->free_piece[p->kind];
	d->free_piece[p->kind] = p;
}

/* One whose memory the device reaches: as much of it as lies in low memory in one run. */
static struct piece *take_direct(struct disk_io *d, const struct disk_image *image,
				 uint64_t address, uint32_t rest)
{
	uint32_t at = (uint32_t)(address % UVMM_PAGE_SIZE), pages;
	struct piece *p = d->free_piece[PIECE_DIRECT];
	uint64_t low, room;

	if (!p || address % image->memory_align)
		return NULL;
	pages = low_hold(d->g, address >> UVMM_PAGE_SHIFT, pages_of(address, rest), &low);
	if (!pages)
		return NULL;
	room = ((uint64_t)pages << UVMM_PAGE_SHIFT) - at;
	p = take_piece(d, PIECE_DIRECT);
	p->buffer = low_at(&d->g->low, low) + at;
	p->buffer_index = 1 + (uint32_t)(low / UVMM_CHUNK_PAGES);
	p->bytes = rest < room ? rest : (uint32_t)room;
	p->address = address;
	return p;
}

static struct piece *take_bounce(struct disk_io *d, uint64_t address, uint32_t rest)
{
	struct piece *p = rest <= SMALL_BYTES ? take_piece(d, PIECE_SMALL) : NULL;
	uint32_t room;

	if (!p)
		p = take_piece(d, PIECE_LARGE);
	if (!p)
		return NULL;
	room = p->kind == PIECE_SMALL ? SMALL_BYTES : LARGE_BYTES;
	p->bytes = rest < room ? rest : room;
	p->address = address;
	return p;
}

static void send_piece(struct disk_io *d, struct piece *p)
{
	const struct uvmm_disk_request *q = &p->job->q.head;
	int fd = d->g->disks.image[q->disk].fd;
	struct io_uring_sqe *sqe = entry(d);
	char *at = p->buffer + p->done;
	unsigned bytes = p->bytes - p->done;

	if (q->op == UVMM_DISK_READ)
		io_uring_prep_read_fixed(sqe, fd, at, bytes, p->offset + p->done,
					 (int)p->buffer_index);
	else
		io_uring_prep_write_fixed(sqe, fd, at, bytes, p->offset + p->done,
					  (int)p->buffer_index);
	io_uring_sqe_set_data(sqe, p);
	d->in_flight++;
}

/* The bytes of a piece, between its buffer and the guest. */
static int copy(struct disk_io *d, const struct piece *p, bool to_guest)
{
	int rc;

	if (p->kind == PIECE_DIRECT) {
		count(&d->g->disks.direct_bytes, p->bytes);
		return 0;
	}
	p->job->copied = true;
	if (!guest_enter(d->g))
		return -ESRCH;
	rc = to_guest ? transfer_to_guest(d->e, d->g, p->address, p->buffer, p->bytes) :
			transfer_from_guest(d->e, d->g, p->address, p->buffer, p->bytes);
	guest_leave(d->g);
	count(&d->g->disks.copied_bytes, rc ? 0 : p->bytes);
	return rc;
}

/* --- jobs ---------------------------------------------------------------------- */

/* Buffers that were copied often are to move into low memory, each as a whole. */
static void note_heat(struct disk_io *d, const struct job *j)
{
	uint32_t after = d->e->cfg.remap_after;
	uint64_t now = clock_ns();
	unsigned i;

	for (i = 0; i < j->q.head.segments && d->heat.count && after; i++) {
		uint64_t ppn = j->q.segment[i].address >> UVMM_PAGE_SHIFT;
		uint32_t pages = pages_of(j->q.segment[i].address, j->q.segment[i].bytes);

		if (heat_add(&d->heat, ppn, pages, now) >= after && d->hots < HOT_MAX &&
		    pages <= LOW_RUN_PAGES_MAX)
			d->hot[d->hots++] = (struct hot){ ppn, pages };
	}
}

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
	if (j->copied && !j->status)
		note_heat(d, j);
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
	const struct disk_image *image = &d->g->disks.image[j->q.head.disk];
	uint64_t address = s->address + j->at;
	struct piece *p = take_direct(d, image, address, s->bytes - j->at);
	int rc = 0;

	if (!p)
		p = take_bounce(d, address, s->bytes - j->at);
	if (!p)
		return false;
	p->job = j;
	p->offset = j->q.head.offset + j->sent;
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
	j->issued = j->copied = false;
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

/* --- low memory ---------------------------------------------------------------------- */

static int register_chunk(void *arg, uint32_t chunk, void *at)
{
	struct disk_io *d = arg;
	struct iovec memory = { at, UVMM_CHUNK_SIZE };
	__u64 tag = 0;

	return io_uring_register_buffers_update_tag(&d->uring, 1 + chunk, &memory, &tag, 1) == 1 ?
		       0 : -ENOMEM;
}

static void unregister_chunk(void *arg, uint32_t chunk)
{
	struct disk_io *d = arg;
	struct iovec none = { NULL, 0 };
	__u64 tag = 0;

	io_uring_register_buffers_update_tag(&d->uring, 1 + chunk, &none, &tag, 1);
}

static const struct low_ops low_ops = { register_chunk, unregister_chunk };

/* Makes room for what is hot by what is cold. */
static int alloc_low(struct disk_io *d, const struct hot *h, uint64_t *first)
{
	int rc = low_alloc(d->e, d->g, h->ppn, h->pages, first);

	if (rc && low_raise_cold(d->e, d->g, h->pages, COLD_MS)) {
		low_tidy(d->e, d->g);
		rc = low_alloc(d->e, d->g, h->ppn, h->pages, first);
	}
	return rc;
}

static void lower_hot(struct disk_io *d)
{
	uint32_t n = d->hots;
	uint64_t first;

	d->hots = 0;
	if (!n || !guest_enter(d->g))
		return;
	while (n--) {
		const struct hot *h = &d->hot[n];

		/* Done, or for later: not at each request from now on. */
		heat_clear(&d->heat, h->ppn, h->pages);
		if (pmap_state(pmap_get(&d->g->pmap, h->ppn)) != PAGE_LOW &&
		    !alloc_low(d, h, &first))
			low_lower(d->e, d->g, h->ppn, h->pages, first);
	}
	guest_leave(d->g);
}

/* Now and then: pages that are wanted back, or more than the guest may have, and empty
 * chunks. */
static void tidy(struct disk_io *d)
{
	struct low *l = &d->g->low;
	uint64_t now = clock_ns(), pages = atomic_load(&l->pages);
	uint64_t limit = atomic_load(&l->limit_pages);
	uint64_t back = atomic_exchange(&l->wanted_back, 0);

	if (now < d->tidy_ns && !back)
		return;
	d->tidy_ns = now + TIDY_NS;
	if (l->fd < 0 || !guest_enter(d->g))
		return;
	if (back)
		low_raise_cold(d->e, d->g, back, COLD_MS);
	else if (pages > limit)
		low_raise_cold(d->e, d->g, pages - limit, 0);
	low_tidy(d->e, d->g);
	guest_leave(d->g);
}

static void wait_for_some(struct disk_io *d)
{
	struct __kernel_timespec t = { .tv_sec = TIDY_NS / NS_PER_S };
	struct io_uring_cqe *cqe;

	if (d->g->low.fd < 0)
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
	lower_hot(d);
	tidy(d);
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

		p->kind = i < SMALLS ? PIECE_SMALL : i < SMALLS + LARGES ? PIECE_LARGE :
			  PIECE_DIRECT;
		if (p->kind == PIECE_SMALL)
			p->buffer = d->pool + i * (size_t)SMALL_BYTES;
		else if (p->kind == PIECE_LARGE)
			p->buffer = d->pool + SMALLS * SMALL_BYTES +
				    (i - SMALLS) * (size_t)LARGE_BYTES;
		p->next = d->free_piece[p->kind];
		d->free_piece[p->kind] = p;
	}
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

	pthread_setname_np(pthread_self(), "uvmm-disk");
	d->start_error = open_uring(d);
	if (!d->start_error) {
		wake_again(d);
		/* Without low memory everything is copied. */
		if (d->e->cfg.remap_after && !low_open(d->e, d->g, &low_ops, d) &&
		    heat_init(&d->heat, d->g->max_pages))
			low_close(d->e, d->g);
	}
	if (d->start_error) {
		sem_post(&d->started);
		return NULL;
	}
	sem_post(&d->started);
	while (!atomic_load(&d->stop))
		serve(d);
	drain(d);
	io_uring_queue_exit(&d->uring);
	heat_fini(&d->heat);
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
