/* SPDX-License-Identifier: MIT
 *
 * cache_bed - a file cache on ordinary memory, and a backend that fails as it is told.
 */
#ifndef CACHE_BED_H
#define CACHE_BED_H

#include <stdio.h>
#include <stdlib.h>

#include "cache.h"

#define PAGE CACHE_PAGE_BYTES

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

struct bed {
	struct physmem physmem;
	void *memory;
	struct uvmm_cache *cache;
};

/* Guest memory of so many pages, full of rubbish; with that cache. One page is none: the
 * program has it. */
void bed_make(struct bed *b, uint64_t pages, uint64_t min_pages, uint64_t max_pages);
/* The result of freeing the cache, which must have given all pages back. */
int bed_end(struct bed *b);

/* A disk in memory. */
struct disk {
	pthread_mutex_t lock;           /* guards bytes */
	char *bytes;
	_Atomic uint64_t size, room;    /* it grows to no more than room */
	_Atomic int fail_read, fail_write, fail_flush;  /* -errno, or 0 */
	_Atomic uint64_t fail_from;     /* but pages before it do not fail */
	_Atomic uint64_t reads, writes, flushes;
};

void disk_make(struct disk *d, uint64_t room);
void disk_end(struct disk *d);
struct uvmm_file *disk_open(struct bed *b, struct disk *d, int flags);

/* A folder for files, until it is removed with them; where one of them is, until the
 * thread's next call. */
extern char bed_folder[];
void bed_make_folder(void);
void bed_remove_folder(void);
const char *bed_path(const char *name);
/* Opens it in the cache; reads and writes it as others do. */
struct uvmm_file *bed_open(struct bed *b, const char *name, int flags);
ssize_t bed_on_disk(const char *name, char *at, size_t bytes);
void bed_put_on_disk(const char *name, const char *at, size_t bytes);

struct uvmm_cache_statistics bed_stats(struct bed *b);
/* Random numbers of a thread's own. */
uint64_t bed_below(uint64_t *state, uint64_t n);

#endif /* CACHE_BED_H */
