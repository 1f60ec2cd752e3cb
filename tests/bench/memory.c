/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memory.h"
#include "uvmm/guest.h"

static int failed(const char *what, int error)
{
	fprintf(stderr, "touch: %s: %s\n", what, strerror(error));
	return -error;
}

/* Large pages need the mapping on a 2 MiB boundary, which mmap does not promise:
 * an address range is reserved first and the mapping put into it. */
static int map_aligned(struct memory *m, int prot, int flags, int fd)
{
	char *reserved = mmap(NULL, m->bytes + HUGE_BYTES, PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uintptr_t aligned;

	if (reserved == MAP_FAILED)
		return failed("reserving addresses", errno);
	aligned = ((uintptr_t)reserved + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1);
	m->base = mmap((void *)aligned, m->bytes, prot, flags | MAP_FIXED, fd, 0);
	if (m->base == MAP_FAILED)
		return failed("mmap", errno);
	return 0;
}

static int open_anon(struct memory *m)
{
	return map_aligned(m, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static int open_shared(struct memory *m, const char *path)
{
	int err, fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0)
		return failed(path, errno);
	if (ftruncate(fd, (off_t)m->bytes))
		err = failed("ftruncate", errno);
	else
		err = map_aligned(m, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	close(fd);
	return err;
}

static int open_file(struct memory *m, const char *path)
{
	int err, fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return failed(path, errno);
	err = map_aligned(m, PROT_READ, MAP_SHARED, fd);
	close(fd);
	/* Readahead would turn a random read of one page into many. */
	if (!err && madvise(m->base, m->bytes, MADV_RANDOM))
		err = failed("MADV_RANDOM", errno);
	return err;
}

static int open_malloc(struct memory *m)
{
	m->base = malloc(m->bytes);
	return m->base ? 0 : failed("malloc", ENOMEM);
}

static int open_guest(struct memory *m, enum memory_pages pages)
{
	uvmm_guest *guest;
	int err = uvmm_attach(&guest);

	if (err) {
		fprintf(stderr, "touch: attach: %s\n", uvmm_error());
		return err;
	}
	if (m->bytes > uvmm_size_bytes(guest))
		return failed("guest memory is smaller than asked for", EINVAL);
	m->base = uvmm_base(guest);
	if (pages == PAGES_SMALL && madvise(m->base, m->bytes, MADV_NOHUGEPAGE))
		return failed("MADV_NOHUGEPAGE", errno);
	return 0;
}

int memory_open(struct memory *m, enum memory_kind kind, enum memory_pages pages,
		size_t bytes, const char *path)
{
	int err = -EINVAL;

	m->bytes = bytes;
	switch (kind) {
	case MEMORY_MALLOC: err = open_malloc(m); break;
	case MEMORY_ANON: err = open_anon(m); break;
	case MEMORY_SHARED: err = open_shared(m, path); break;
	case MEMORY_FILE: err = open_file(m, path); break;
	case MEMORY_GUEST: err = open_guest(m, pages); break;
	}
	if (err || pages == PAGES_DEFAULT)
		return err;
	if (madvise(m->base, bytes, pages == PAGES_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		return failed("madvise", errno);
	return 0;
}
