/* SPDX-License-Identifier: MIT */
#include "cache_bed.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache_file.h"

void bed_make(struct bed *b, uint64_t pages, uint64_t min_pages, uint64_t max_pages)
{
	struct uvmm_cache_bounds bounds = { min_pages, max_pages ? max_pages : pages };
	struct cache_memory m = { .physmem = &b->physmem };
	uint64_t page;

	CHECK(!physmem_init(&b->physmem, pages));
	b->memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(b->memory != MAP_FAILED);
	memset(b->memory, 0xa5, pages * PAGE);
	if (pages == 1)
		CHECK(!physmem_alloc_run(&b->physmem, 1, &page) && page == 0);
	m.base = b->memory;
	CHECK(!cache_new(&m, &bounds, &b->cache));
}

int bed_end(struct bed *b)
{
	int rc = cache_free(b->cache);

	if (b->physmem.pages == 1)
		CHECK(!physmem_free(&b->physmem, 0, 1));
	CHECK(physmem_free_pages(&b->physmem) == b->physmem.pages);
	munmap(b->memory, b->physmem.pages * PAGE);
	physmem_fini(&b->physmem);
	return rc;
}

uint64_t bed_below(uint64_t *state, uint64_t n)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (x ^ x >> 31) % n;
}

struct uvmm_cache_statistics bed_stats(struct bed *b)
{
	struct uvmm_cache_statistics s;

	uvmm_cache_get_statistics(b->cache, &s);
	return s;
}

/* --- files ----------------------------------------------------------------------- */

char bed_folder[32];

void bed_make_folder(void)
{
	strcpy(bed_folder, "/tmp/uvmm-test-cache-XXXXXX");
	CHECK(mkdtemp(bed_folder));
}

void bed_remove_folder(void)
{
	struct dirent *d;
	DIR *dir = opendir(bed_folder);

	CHECK(dir);
	while ((d = readdir(dir)))
		if (d->d_name[0] != '.')
			CHECK(!unlinkat(dirfd(dir), d->d_name, 0));
	closedir(dir);
	CHECK(!rmdir(bed_folder));
}

const char *bed_path(const char *name)
{
	static _Thread_local char path[128];

	snprintf(path, sizeof(path), "%s/%s", bed_folder, name);
	return path;
}

struct uvmm_file *bed_open(struct bed *b, const char *name, int flags)
{
	struct uvmm_file *h;

	CHECK(!uvmm_file_open(b->cache, bed_path(name), flags, 0600, &h));
	return h;
}

ssize_t bed_on_disk(const char *name, char *at, size_t bytes)
{
	int fd = open(bed_path(name), O_RDONLY);
	ssize_t n;

	CHECK(fd >= 0);
	n = read(fd, at, bytes);
	close(fd);
	return n;
}

void bed_put_on_disk(const char *name, const char *at, size_t bytes)
{
	int fd = open(bed_path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0 && write(fd, at, bytes) == (ssize_t)bytes);
	close(fd);
}

/* --- a disk ---------------------------------------------------------------------- */

static uint64_t bytes_within(const struct cache_run *r, uint64_t size)
{
	uint64_t from = r->index * PAGE, most = (uint64_t)r->pages * PAGE;

	if (size <= from)
		return 0;
	return size - from < most ? size - from : most;
}

static bool fails(const struct disk *d, const struct cache_run *r)
{
	return r->index + r->pages > d->fail_from;
}

static ssize_t disk_read(void *arg, const struct cache_run *r, uint64_t size)
{
	struct disk *d = arg;
	uint64_t has, valid, i;
	ssize_t rc;

	pthread_mutex_lock(&d->lock);
	d->reads++;
	has = bytes_within(r, d->size);
	valid = bytes_within(r, size < d->size ? size : d->size);
	rc = d->fail_read && fails(d, r) ? d->fail_read : (ssize_t)has;
	for (i = 0; rc >= 0 && i < r->pages; i++) {
		uint64_t n = valid > i * PAGE ? valid - i * PAGE : 0;

		n = n < PAGE ? n : PAGE;
		memcpy(r->at[i], d->bytes + (r->index + i) * PAGE, n);
		memset((char *)r->at[i] + n, 0, PAGE - n);
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int disk_write(void *arg, const struct cache_run *r, uint64_t size)
{
	struct disk *d = arg;
	uint64_t n = bytes_within(r, size), end = r->index * PAGE + n, i;
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	d->writes++;
	if (d->fail_write && fails(d, r))
		rc = d->fail_write;
	else if (end > d->room)
		rc = -ENOSPC;
	for (i = 0; !rc && i * PAGE < n; i++)
		memcpy(d->bytes + (r->index + i) * PAGE, r->at[i],
		       n - i * PAGE < PAGE ? n - i * PAGE : PAGE);
	if (!rc && n && end > d->size)
		d->size = end;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int disk_flush(void *arg)
{
	struct disk *d = arg;
	int rc;

	pthread_mutex_lock(&d->lock);
	d->flushes++;
	rc = d->fail_flush;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int disk_resize(void *arg, uint64_t size)
{
	struct disk *d = arg;
	int rc = 0;

	pthread_mutex_lock(&d->lock);
	if (size > d->room)
		rc = -EFBIG;
	else if (size < d->size)
		memset(d->bytes + size, 0, d->size - size);
	if (!rc)
		d->size = size;
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static void disk_close(void *arg)
{
	(void)arg;
}

void disk_make(struct disk *d, uint64_t room)
{
	*d = (struct disk){ .room = room, .bytes = calloc(1, room + CACHE_RUN_PAGES * PAGE) };
	CHECK(d->bytes);
	pthread_mutex_init(&d->lock, NULL);
}

void disk_end(struct disk *d)
{
	free(d->bytes);
	pthread_mutex_destroy(&d->lock);
}

struct uvmm_file *disk_open(struct bed *b, struct disk *d, int flags)
{
	static const struct cache_backend_ops ops = {
		.read = disk_read,
		.write = disk_write,
		.flush = disk_flush,
		.resize = disk_resize,
		.close = disk_close,
	};
	struct cache_backend backend = { &ops, d, true };
	struct uvmm_file *h;

	CHECK(!cache_file_open_backend(b->cache, &backend, d->size, flags, &h));
	return h;
}
