/* SPDX-License-Identifier: MIT
 * Memory for parts of requests: bounce buffers, or pages in low memory; see disk_parts.h. */
#include "disk_parts.h"

#include <errno.h>

#include "transfer.h"

struct io_uring_sqe *disk_entry(struct disk_io *d)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&d->uring);

	while (!sqe) {
		io_uring_submit(&d->uring);
		sqe = io_uring_get_sqe(&d->uring);
	}
	return sqe;
}

static struct piece *take_piece(struct disk_io *d, enum piece_kind kind)
{
	struct piece *p = d->free_piece[kind];

	if (p)
		d->free_piece[kind] = p->next;
	return p;
}

void disk_give_piece(struct disk_io *d, struct piece *p)
{
	if (p->kind == PIECE_DIRECT)
		low_drop(d->g, p->address >> UVMM_PAGE_SHIFT, disk_pages_of(p->address, p->bytes));
	p->next = d->free_piece[p->kind];
	d->free_piece[p->kind] = p;
}

/* One whose memory the device reaches: as much of it as lies in low memory in one run. */
static struct piece *take_direct(struct disk_io *d, uint32_t disk, uint64_t address,
				 uint32_t rest)
{
	uint32_t block = d->g->disks.limit[disk].block_bytes, bytes, held, needed;
	uint64_t ppn = address >> UVMM_PAGE_SHIFT, at = address % UVMM_PAGE_SIZE, low;
	struct piece *p;

	if (!d->free_piece[PIECE_DIRECT] || address % d->g->disks.image[disk].memory_align)
		return NULL;
	held = low_hold(d->g, ppn, disk_pages_of(address, rest), &low);
	if (!held)
		return NULL;
	bytes = (held << UVMM_PAGE_SHIFT) - (uint32_t)at;
	bytes = rest < bytes ? rest : bytes - bytes % block;
	/* Where the run ends within a block, the block is copied. */
	needed = bytes ? disk_pages_of(address, bytes) : 0;
	low_drop(d->g, ppn + needed, held - needed);
	if (!bytes)
		return NULL;
	p = take_piece(d, PIECE_DIRECT);
	p->buffer = low_at(&d->g->low, low) + at;
	p->buffer_index = 1 + (uint32_t)(low / UVMM_CHUNK_PAGES);
	p->bytes = bytes;
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

void disk_send_piece(struct disk_io *d, struct piece *p)
{
	const struct uvmm_disk_request *q = &p->job->q.head;
	int fd = d->g->disks.image[q->disk].fd;
	struct io_uring_sqe *sqe = disk_entry(d);
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

int disk_copy_piece(struct disk_io *d, const struct piece *p, bool to_guest)
{
	int rc;

	if (p->kind == PIECE_DIRECT) {
		disk_count(&d->g->disks.direct_bytes, p->bytes);
		return 0;
	}
	p->job->copied = true;
	if (!guest_enter(d->g))
		return -ESRCH;
	rc = to_guest ? transfer_to_guest(d->e, d->g, p->address, p->buffer, p->bytes) :
			transfer_from_guest(d->e, d->g, p->address, p->buffer, p->bytes);
	guest_leave(d->g);
	disk_count(&d->g->disks.copied_bytes, rc ? 0 : p->bytes);
	return rc;
}

struct piece *disk_take_piece(struct disk_io *d, uint32_t disk, uint64_t address, uint32_t rest)
{
	struct piece *p = take_direct(d, disk, address, rest);

	return p ? p : take_bounce(d, address, rest);
}

void disk_arrange_pieces(struct disk_io *d)
{
	unsigned i;

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
