/* SPDX-License-Identifier: MIT
 *
 * A kernel that may send anything: the input is a row of requests, each after
 * two bytes with its length. Replies are checked for what a kernel insists on.
 */
#include "memfs_request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILES 4u

static int registered;

static int reply(void *ctx, const struct fuse_out_header *head, const void *body)
{
	const unsigned char *bytes = body;
	size_t n = head->len - sizeof(*head);
	unsigned int sum = 0;

	(void)ctx;
	if (head->len < sizeof(*head) || head->error > 0 || head->error <= -512 ||
	    (head->error && n))
		abort();
	/* Every byte that would go to the kernel must be there and initialized. */
	for (size_t i = 0; i < n; i++)
		sum += bytes[i];
	return sum % 16 == 1 ? -ENOENT : 0;
}

static int add(void *ctx, int fd)
{
	(void)ctx, (void)fd;
	return ++registered;
}

static void drop(void *ctx, int32_t id)
{
	(void)ctx, (void)id;
	registered--;
}

static int by_ino(void *ctx, uint64_t ino, struct memfs_file *out)
{
	(void)ctx;
	if (ino < 2 || ino >= 2 + FILES)
		return -ENOENT;
	*out = (struct memfs_file){ .ino = ino, .size_bytes = ino << 20, .pid = 1 };
	snprintf(out->name, sizeof(out->name), "%c", (char)('a' + ino));
	return 0;
}

static int by_name(void *ctx, const char *name, struct memfs_file *out)
{
	return strlen(name) == 1 ? by_ino(ctx, (uint64_t)(name[0] - 'a'), out) : -ENOENT;
}

static size_t list(void *ctx, uint64_t after, struct memfs_file *out, size_t cap)
{
	size_t n = 0;

	while (n < cap && after < 2 + FILES && by_ino(ctx, after + 1 + n, &out[n]) == 0)
		n++;
	return n;
}

static int backing(void *ctx, uint64_t ino)
{
	(void)ctx;
	return ino == 3 ? -ENOENT : open("/dev/null", O_RDWR | O_CLOEXEC);
}

static int punch(void *ctx, uint64_t ino, uint64_t off, uint64_t len)
{
	(void)ctx;
	if (len == 0 || off + len < off || off + len > ino << 20)
		abort();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct memfs_ops ops = { by_name, by_ino, list, backing, punch };
	static const struct memfs_registry registry = { add, drop, NULL };
	struct memfs_session s = { .ops = &ops, .reply = reply };

	if (memfs_backings_init(&s.backings, &registry))
		return 0;
	while (size >= 2) {
		size_t len = data[0] | (size_t)data[1] << 8;

		data += 2;
		size -= 2;
		len = len < size ? len : size;

		/* A block of exactly its size, so that reading past it shows. */
		char *request = malloc(len ? len : 1);

		memcpy(request, data, len);
		/* Most inputs would be wasted on a wrong length. */
		if (len >= sizeof(struct fuse_in_header) && !(data[0] & 1))
			memcpy(request, &(uint32_t){ (uint32_t)len }, sizeof(uint32_t));
		memfs_handle(&s, request, len);
		free(request);
		data += len;
		size -= len;
	}
	memfs_backings_fini(&s.backings);
	if (registered)
		abort();
	return 0;
}
