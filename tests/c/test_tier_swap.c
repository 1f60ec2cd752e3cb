/* SPDX-License-Identifier: MIT
 *
 * The swap file as a tier, against a model of what each slot holds: runs, a full
 * file, corrupt and short files, several threads.
 */
#include "tier_swap.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "uvmm/protocol.h"
#include "uvmm_core.h"

#define SLOTS 1000u
#define PAGE UVMM_PAGE_SIZE

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s (%m)\n", __FILE__, __LINE__, #cond); \
			unlink(path); \
			exit(1); \
		} \
	} while (0)

static char path[] = "/tmp/uvmm-test-swap-XXXXXX";

struct kept {
	uint64_t handle, seed, value;
};

static void fill(void *page, uint64_t value)
{
	uint64_t *w = page;
	size_t i;

	for (i = 0; i < PAGE / sizeof(*w); i++)
		w[i] = value * 0x9e3779b97f4a7c15ull + i;
}

/* How many were stored, with what they are in kept; values rise from *next. */
static size_t store(struct tier *t, struct kept *kept, size_t n, uint64_t *next)
{
	static _Thread_local char pages[TIER_BATCH_MAX][PAGE];
	const void *at[TIER_BATCH_MAX];
	uint32_t sums[TIER_BATCH_MAX];
	uint64_t handles[TIER_BATCH_MAX];
	int i, done;

	for (i = 0; i < (int)n; i++) {
		kept[i] = (struct kept){ .seed = *next ^ 77, .value = *next };
		/* Not all next to each other, as pages of a batch are. */
		at[i] = pages[n - 1 - (size_t)i];
		fill(pages[n - 1 - (size_t)i], (*next)++);
		sums[i] = uvmm_checksum(at[i], kept[i].seed);
	}
	done = tier_store(t, at, sums, n, handles);
	CHECK(done > 0 || done == -ENOSPC);
	for (i = 0; i < done; i++)
		kept[i].handle = handles[i];
	return done > 0 ? (size_t)done : 0;
}

static void check(struct tier *t, const struct kept *kept, size_t n)
{
	static _Thread_local char pages[TIER_BATCH_MAX][PAGE];
	uint64_t handles[TIER_BATCH_MAX] = { 0 }, seeds[TIER_BATCH_MAX] = { 0 };
	int bad[TIER_BATCH_MAX];
	char want[PAGE];
	size_t i;

	for (i = 0; i < n; i++) {
		handles[i] = kept[i].handle;
		seeds[i] = kept[i].seed;
	}
	tier_load(t, handles, seeds, n, pages, bad);
	for (i = 0; i < n; i++) {
		fill(want, kept[i].value);
		CHECK(!bad[i] && !memcmp(pages[i], want, PAGE));
	}
}

static void drop(struct tier *t, const struct kept *kept, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		tier_drop(t, &kept[i].handle, 1);
}

static uint64_t used(struct tier *t)
{
	uint64_t total, n;

	t->ops->usage(t, &total, &n);
	return n;
}

static void test_full(void)
{
	struct kept kept[SLOTS];
	uint64_t next = 1;
	struct tier *t;
	struct stat st;
	size_t n = 0;

	CHECK(!tier_swap_open(path, SLOTS, &t));
	CHECK(tier_swap_open(path, SLOTS, &t) == -EEXIST);
	CHECK(!stat(path, &st) && st.st_size == SLOTS * PAGE && (st.st_mode & 0777) == 0600);
	CHECK((uint64_t)st.st_blocks * 512 >= SLOTS * PAGE);
	n = store(t, kept, 300, &next);
	CHECK(n == 300 && kept[299].handle == kept[0].handle + 299);
	n += store(t, kept + n, 512, &next);
	n += store(t, kept + n, 188, &next);
	CHECK(n == SLOTS && used(t) == SLOTS);
	CHECK(!store(t, &(struct kept){ 0 }, 1, &next));
	drop(t, kept + 100, 10);
	CHECK(store(t, kept + 100, 10, &next) == 10);
	check(t, kept, 512);
	check(t, kept + 512, SLOTS - 512);
	drop(t, kept, SLOTS);
	drop(t, kept, 1);       /* a second time: nothing */
	CHECK(!used(t));
	t->ops->close(t);
	CHECK(access(path, F_OK));
}

static void test_none(void)
{
	struct tier *t;
	uint64_t next = 1;

	CHECK(!tier_swap_open("", 0, &t));
	CHECK(!store(t, &(struct kept){ 0 }, 1, &next));
	t->ops->close(t);
}

static void test_bad_pages(void)
{
	struct kept kept[8];
	uint64_t handles[8], seeds[8], next = 1;
	char pages[8][PAGE];
	int bad[8], fd, i;
	struct tier *t;

	CHECK(!tier_swap_open(path, SLOTS, &t));
	CHECK(store(t, kept, 8, &next) == 8);
	for (i = 0; i < 8; i++) {
		handles[i] = kept[i].handle;
		seeds[i] = kept[i].seed;
	}
	fd = open(path, O_RDWR);
	CHECK(pwrite(fd, "bad!", 4, (off_t)(kept[3].handle * PAGE + 4092)) == 4);
	seeds[5]++;             /* somebody else's page */
	tier_load(t, handles, seeds, 8, pages, bad);
	for (i = 0; i < 8; i++)
		CHECK(bad[i] == (i == 3 || i == 5 ? -EBADMSG : 0));
	seeds[5]--;
	CHECK(!ftruncate(fd, (off_t)(kept[6].handle * PAGE + 10)));
	tier_load(t, handles, seeds, 8, pages, bad);
	for (i = 0; i < 8; i++)
		CHECK(bad[i] == (i == 3 ? -EBADMSG : i >= 6 ? -EIO : 0));
	close(fd);
	t->ops->close(t);
}

static void *churn(void *arg)
{
	struct tier *t = arg;
	struct kept kept[64];
	unsigned seed = (unsigned)(uintptr_t)&seed;
	uint64_t next = (uint64_t)(uintptr_t)&seed << 20;
	int round;

	for (round = 0; round < 500; round++) {
		size_t n = store(t, kept, 1 + (size_t)rand_r(&seed) % 64, &next);

		check(t, kept, n);
		drop(t, kept, n / 2);
		check(t, kept + n / 2, n - n / 2);
		drop(t, kept + n / 2, n - n / 2);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t thread[4];
	struct tier *t;
	int i;

	CHECK(!tier_swap_open(path, SLOTS, &t));
	for (i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, churn, t);
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	CHECK(!used(t));
	t->ops->close(t);
}

int main(void)
{
	int fd = mkstemp(path);

	CHECK(fd >= 0 && !close(fd) && !unlink(path));
	test_full();
	test_none();
	test_bad_pages();
	test_threads();
	printf("tier_swap: ok\n");
	return 0;
}
