/* SPDX-License-Identifier: MIT */
#include "pagemap.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "uvmm/protocol.h"

/* Newer than the headers of Debian 12. */
struct scan_region {
	uint64_t start, end, categories;
};

struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN _IOWR('f', 16, struct scan_arg)
#define IS_HUGE (1u << 6)

int pagemap_open(int32_t pid)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

size_t pagemap_read(int fd, uint64_t addr, size_t n, uint64_t *word)
{
	ssize_t got = pread(fd, word, n * sizeof(*word),
			    (off_t)(addr / UVMM_PAGE_SIZE * sizeof(*word)));

	return got > 0 ? (size_t)got / sizeof(*word) : 0;
}

bool pagemap_is_large(int fd, uint64_t addr)
{
	struct scan_region region;
	struct scan_arg arg = {
		.size = sizeof(arg),
		.start = addr,
		.end = addr + UVMM_PAGE_SIZE,
		.vec = (uint64_t)(uintptr_t)&region,
		.vec_len = 1,
		.category_mask = IS_HUGE,
		.return_mask = IS_HUGE,
	};

	return ioctl(fd, SCAN, &arg) == 1;
}
