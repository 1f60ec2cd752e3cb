/* SPDX-License-Identifier: MIT
 * The file of a guest's low memory; see low.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "locks.h"
#include "low.h"
#include "memfs.h"

#define FIRST_INO (1ull << 62)          /* far above guests' numbers */
#define NAME ".low-%llx"                /* no guest's name begins with a dot */
#define PATH_BYTES 4096

static void write_name(const struct low *l, char name[MEMFS_NAME_BYTES])
{
	snprintf(name, MEMFS_NAME_BYTES, NAME, (unsigned long long)l->file);
}

bool low_file_is(const struct guest *g, const char *name, uint64_t ino)
{
	char own[MEMFS_NAME_BYTES];

	if (!g->low.offered)
		return false;
	if (!name)
		return g->low.file + FIRST_INO == ino;
	write_name(&g->low, own);
	return !strcmp(own, name);
}

void low_file_describe(const struct guest *g, struct memfs_file *out)
{
	*out = (struct memfs_file){
		.ino = g->low.file + FIRST_INO,
		.size_bytes = (uint64_t)g->low.chunks * UVMM_CHUNK_SIZE,
		.uid = geteuid(),
		.gid = getegid(),
		.pid = getpid(),
	};
	write_name(&g->low, out->name);
}

static void offer(struct uvmm_engine *e, struct low *l, bool offered)
{
	lock(&e->registry.lock);
	l->offered = offered;
	unlock(&e->registry.lock);
}

/* Without a memory filesystem it is handed over as it is, as is all guest memory then. */
static int open_for_guest(struct uvmm_engine *e, struct low *l)
{
	char path[PATH_BYTES], name[MEMFS_NAME_BYTES];
	int fd, n;

	if (!e->memfs) {
		fd = fcntl(l->fd, F_DUPFD_CLOEXEC, 0);
		return fd < 0 ? -errno : fd;
	}
	write_name(l, name);
	n = snprintf(path, sizeof(path), "%s/mem/%s", e->cfg.run_dir, name);
	if (n < 0 || (size_t)n >= sizeof(path))
		return -ENAMETOOLONG;
	offer(e, l, true);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	fd = -errno;
	offer(e, l, false);
	return fd;
}

int low_file_open(struct uvmm_engine *e, struct guest *g)
{
	struct low *l = &g->low;
	int rc = machine_create(&e->machine, (uint64_t)l->chunks * UVMM_CHUNK_PAGES, &l->fd);
	int fd;

	if (rc) {
		l->fd = -1;
		return rc;
	}
	l->file = atomic_fetch_add(&e->low_pool.files, 1);
	fd = open_for_guest(e, l);
	if (fd >= 0) {
		l->guest_fd = fd;
		return 0;
	}
	close(l->fd);
	l->fd = -1;
	return fd;
}

void low_file_close(struct uvmm_engine *e, struct guest *g)
{
	struct low *l = &g->low;
	char name[MEMFS_NAME_BYTES];

	close(l->guest_fd);
	l->guest_fd = -1;
	offer(e, l, false);
	if (e->memfs) {
		write_name(l, name);
		memfs_forget(e->memfs, l->file + FIRST_INO, name);
	}
	(void)!ftruncate(l->fd, 0);
	close(l->fd);
	l->fd = -1;
}

/* Only this thread grants chunks, and takes them back. */
void low_file_police(struct low *l)
{
	uint64_t granted = 0;
	uint32_t c;

	for (c = 0; c < l->chunks; c++)
		granted += l->granted[c];
	if (machine_file_pages(l->fd) <= granted * UVMM_CHUNK_PAGES)
		return;
	for (c = 0; c < l->chunks; c++)
		if (!l->granted[c])
			fallocate(l->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				  (off_t)c * UVMM_CHUNK_SIZE, UVMM_CHUNK_SIZE);
}
