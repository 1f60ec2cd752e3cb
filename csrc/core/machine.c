/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "pagemap.h"
#include "uvmm/protocol.h"

#define CACHESTAT 451           /* newer than the headers of Debian 12 */

/* Of a large page at `at` that was written: its mapping is broken, then mended. */
static bool is_mended(volatile char *at, int pagemap)
{
	char *half = (char *)(uintptr_t)at + UVMM_CHUNK_SIZE / 2;
	char *whole = (char *)(uintptr_t)at;

	/* One that is partly read-only is mapped page by page. */
	if (!pagemap_is_large(pagemap, (uintptr_t)at) ||
	    mprotect(half, UVMM_CHUNK_SIZE / 2, PROT_READ))
		return false;
	(void)at[0];
	(void)*(volatile char *)half;
	if (mprotect(half, UVMM_CHUNK_SIZE / 2, PROT_READ | PROT_WRITE) ||
	    pagemap_is_large(pagemap, (uintptr_t)at) ||
	    madvise(whole, UVMM_CHUNK_SIZE, MADV_DONTNEED))
		return false;
	(void)at[0];
	return pagemap_is_large(pagemap, (uintptr_t)at);
}

static bool try_mending(const struct machine *m)
{
	char *room = mmap(NULL, 2 * UVMM_CHUNK_SIZE, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0), *at;
	int pagemap = pagemap_open(getpid()), fd = -1;
	bool mended = false;

	if (room != MAP_FAILED && pagemap >= 0 && !machine_create(m, UVMM_CHUNK_PAGES, &fd)) {
		at = room + (-(uintptr_t)room & (UVMM_CHUNK_SIZE - 1));
		if (mmap(at, UVMM_CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			 0) != MAP_FAILED && !madvise(at, UVMM_CHUNK_SIZE, MADV_HUGEPAGE)) {
			*at = 1;
			mended = is_mended(at, pagemap);
		}
	}
	if (fd >= 0)
		close(fd);
	if (pagemap >= 0)
		close(pagemap);
	if (room != MAP_FAILED)
		munmap(room, 2 * UVMM_CHUNK_SIZE);
	return mended;
}

int machine_start(struct machine *m, const char *run_dir, uint64_t pages, char *err,
		  size_t err_bytes)
{
	char options[96];
	int rc;

	*m = (struct machine){ .dirfd = -1 };
	snprintf(m->dir, sizeof(m->dir), "%s/machine", run_dir);
	if (mkdir(m->dir, 0700) && errno != EEXIST) {
		rc = -errno;
		snprintf(err, err_bytes, "cannot make %s: %s", m->dir, strerror(-rc));
		return rc;
	}
	snprintf(options, sizeof(options), "huge=advise,mode=0700,size=%llu",
		 (unsigned long long)pages * UVMM_PAGE_SIZE);
	if (mount("uvmm", m->dir, "tmpfs", MS_NOSUID | MS_NODEV, options)) {
		rc = -errno;
		snprintf(err, err_bytes, "cannot mount machine memory at %s: %s%s", m->dir,
			 strerror(-rc), rc == -EPERM ? " (uvmm needs root)" : "");
		rmdir(m->dir);
		return rc;
	}
	m->mounted = true;
	m->dirfd = open(m->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (m->dirfd < 0) {
		rc = -errno;
		snprintf(err, err_bytes, "cannot open %s: %s", m->dir, strerror(-rc));
		machine_stop(m);
		return rc;
	}
	m->mends_large = try_mending(m);
	return 0;
}

void machine_stop(struct machine *m)
{
	if (m->dirfd >= 0)
		close(m->dirfd);
	if (m->mounted && !umount2(m->dir, MNT_DETACH))
		rmdir(m->dir);
	*m = (struct machine){ .dirfd = -1 };
}

int machine_create(const struct machine *m, uint64_t pages, int *fd)
{
	int rc;

	*fd = openat(m->dirfd, ".", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (*fd < 0)
		return -errno;
	if (pages && ftruncate(*fd, (off_t)(pages * UVMM_PAGE_SIZE))) {
		rc = -errno;
		close(*fd);
		return rc;
	}
	return 0;
}

uint64_t machine_used_pages(const struct machine *m)
{
	struct statfs s;

	if (fstatfs(m->dirfd, &s))
		return 0;
	return (uint64_t)(s.f_blocks - s.f_bfree);
}

uint64_t machine_file_pages(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : (uint64_t)st.st_blocks * 512 / UVMM_PAGE_SIZE;
}

/* By cachestat(2), which is in Linux 6.5. */
uint64_t machine_range_pages(int fd, uint64_t lo, uint64_t hi)
{
	struct {
		uint64_t off, len;
	} range = { lo << UVMM_PAGE_SHIFT, (hi - lo) << UVMM_PAGE_SHIFT };
	struct {
		uint64_t cache, dirty, writeback, evicted, recently_evicted;
	} stat;

	return syscall(CACHESTAT, fd, &range, &stat, 0) ? 0 : stat.cache;
}

uint64_t machine_count_pages(int fd, uint64_t lo, uint64_t hi)
{
	uint64_t sum = machine_range_pages(fd, lo, hi), stop;

	if (sum)
		return sum;
	for (; machine_next_data(fd, &lo, &stop, hi); lo = stop)
		sum += stop - lo;
	return sum;
}

uint64_t machine_seek_data(int fd, uint64_t ppn)
{
	off_t data = lseek(fd, (off_t)(ppn << UVMM_PAGE_SHIFT), SEEK_DATA);

	return data < 0 ? UINT64_MAX : (uint64_t)data >> UVMM_PAGE_SHIFT;
}

bool machine_next_data(int fd, uint64_t *lo, uint64_t *hi, uint64_t end)
{
	uint64_t data = machine_seek_data(fd, *lo);
	off_t hole;

	if (data >= end)
		return false;
	*lo = data;
	*hi = end;
	/* SEEK_HOLE goes through all data up to the end of the file. */
	if (machine_range_pages(fd, *lo, end) == end - *lo)
		return true;
	hole = lseek(fd, (off_t)(data << UVMM_PAGE_SHIFT), SEEK_HOLE);
	if (hole > 0 && (uint64_t)hole < end << UVMM_PAGE_SHIFT)
		*hi = (uint64_t)hole >> UVMM_PAGE_SHIFT;
	return true;
}

uint64_t machine_daemon_pages(void)
{
	static const char *const fields[] = { "RssAnon:", "RssFile:" };
	char text[4096];
	uint64_t kib = 0;
	size_t i;
	ssize_t n;
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	for (i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		const char *at = strstr(text, fields[i]);

		if (at)
			kib += strtoull(at + strlen(fields[i]), NULL, 10);
	}
	return kib * 1024 / UVMM_PAGE_SIZE;
}
