/* SPDX-License-Identifier: MIT
 *
 * The memory filesystem's requests, with the test as the kernel.
 */
#include "memfs_request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

#define GUESTS 200u
#define SIZE_BYTES (1u << 20)

/* The kernel that the session talks to. */
struct kernel {
	struct fuse_out_header head;
	char body[16384];
	int replies;
	int reply_result;
	int registered, removed;
	int add_result;         /* 0: the next id */
};

static struct kernel kernel;
static uint64_t punched_off, punched_len;

static int reply(void *ctx, const struct fuse_out_header *head, const void *body)
{
	struct kernel *k = ctx;

	k->head = *head;
	CHECK(head->len >= sizeof(*head) && head->len - sizeof(*head) <= sizeof(k->body));
	memcpy(k->body, body, head->len - sizeof(*head));
	k->replies++;
	return k->reply_result;
}

static int add(void *ctx, int fd)
{
	struct kernel *k = ctx;

	CHECK(fcntl(fd, F_GETFD) >= 0);
	return k->add_result ? k->add_result : ++k->registered;
}

static void drop(void *ctx, int32_t id)
{
	struct kernel *k = ctx;

	CHECK(id > 0);
	k->removed++;
}

static int by_ino(void *ctx, uint64_t ino, struct memfs_file *out)
{
	(void)ctx;
	if (ino < 2 || ino >= 2 + GUESTS)
		return -ENOENT;
	*out = (struct memfs_file){
		.ino = ino, .size_bytes = SIZE_BYTES, .uid = 7, .gid = 8, .pid = getpid(),
	};
	snprintf(out->name, sizeof(out->name), "guest-%u", (unsigned int)ino);
	return 0;
}

static int by_name(void *ctx, const char *name, struct memfs_file *out)
{
	for (uint64_t ino = 2; by_ino(ctx, ino, out) == 0; ino++)
		if (!strcmp(out->name, name))
			return 0;
	return -ENOENT;
}

static size_t list(void *ctx, uint64_t after, struct memfs_file *out, size_t cap)
{
	size_t n = 0;

	while (n < cap && by_ino(ctx, after + 1 + n, &out[n]) == 0)
		n++;
	return n;
}

static int backing(void *ctx, uint64_t ino)
{
	(void)ctx;
	return ino == 3 ? -ENOENT : memfd_create("test", MFD_CLOEXEC);
}

static int punch(void *ctx, uint64_t ino, uint64_t off, uint64_t len)
{
	(void)ctx, (void)ino;
	punched_off = off;
	punched_len = len;
	return off == 4096 ? -EIO : 0;
}

static const struct memfs_ops ops = { by_name, by_ino, list, backing, punch };

static void open_session(struct memfs_session *s)
{
	const struct memfs_registry registry = { add, drop, &kernel };

	kernel = (struct kernel){ 0 };
	*s = (struct memfs_session){ .ops = &ops, .reply = reply, .reply_ctx = &kernel };
	CHECK(memfs_backings_init(&s->backings, &registry) == 0);
}

static void close_session(struct memfs_session *s)
{
	memfs_backings_fini(&s->backings);
	CHECK(kernel.registered == kernel.removed);
}

/* Sends a request of the guest's process; the error replied. */
static int ask(struct memfs_session *s, uint32_t opcode, uint64_t ino,
	       const void *body, size_t bytes)
{
	struct fuse_in_header head = {
		.len = (uint32_t)(sizeof(head) + bytes), .opcode = opcode, .unique = 99,
		.nodeid = ino, .uid = 7, .pid = (uint32_t)getpid(),
	};
	char *request = malloc(head.len);
	int replies = kernel.replies;

	CHECK(request);
	memcpy(request, &head, sizeof(head));
	if (bytes)
		memcpy(request + sizeof(head), body, bytes);
	memfs_handle(s, request, head.len);
	free(request);
	CHECK(kernel.replies == replies + 1 && kernel.head.unique == 99);
	return kernel.head.error;
}

static size_t body_bytes(void)
{
	return kernel.head.len - sizeof(kernel.head);
}

static void test_init(struct memfs_session *s)
{
	struct fuse_init_in in = { .major = 7, .minor = 45, .flags = FUSE_INIT_EXT };

	CHECK(ask(s, FUSE_INIT, 0, &in, sizeof(in)) == -EOPNOTSUPP);
	CHECK(ask(s, FUSE_INIT, 0, &in, 16) == -EOPNOTSUPP);
	in.flags2 = MEMFS_INIT2_PASSTHROUGH;
	kernel.reply_result = -ENODEV;
	CHECK(ask(s, FUSE_INIT, 0, &in, sizeof(in)) == 0 && !s->agreed);
	kernel.reply_result = 0;
	CHECK(ask(s, FUSE_INIT, 0, &in, sizeof(in)) == 0 && s->agreed);
	CHECK(body_bytes() == 64);
}

static void test_malformed(struct memfs_session *s)
{
	struct fuse_in_header head = { .len = sizeof(head), .opcode = FUSE_GETATTR };
	int replies = kernel.replies;

	CHECK(memfs_handle(s, &head, 0) == -EPROTO);
	CHECK(memfs_handle(s, &head, sizeof(head) - 1) == -EPROTO);
	head.len++;
	CHECK(memfs_handle(s, &head, sizeof(head)) == -EPROTO);
	head.len--;
	head.opcode = FUSE_FORGET;
	CHECK(memfs_handle(s, &head, sizeof(head)) == 0);
	CHECK(kernel.replies == replies);

	CHECK(ask(s, FUSE_LOOKUP, 1, "no end", 6) == -EINVAL);
	CHECK(ask(s, FUSE_LOOKUP, 1, NULL, 0) == -EINVAL);
	CHECK(ask(s, FUSE_READDIR, 1, "x", 1) == -EINVAL);
	CHECK(ask(s, FUSE_FALLOCATE, 2, "x", 1) == -EINVAL);
	CHECK(ask(s, FUSE_ACCESS, 1, "x", 1) == -EINVAL);
	CHECK(ask(s, 9999, 1, NULL, 0) == -ENOSYS);
	CHECK(ask(s, FUSE_SETXATTR, 2, NULL, 0) == -ENOSYS);
	CHECK(ask(s, FUSE_SETATTR, 2, NULL, 0) == -EPERM);
	CHECK(ask(s, FUSE_UNLINK, 1, "guest-2", 8) == -EPERM);
}

static void test_lookup(struct memfs_session *s)
{
	struct fuse_entry_out out;
	char name[MEMFS_NAME_BYTES + 1];

	CHECK(ask(s, FUSE_LOOKUP, 1, "guest-9", 8) == 0 && body_bytes() == sizeof(out));
	memcpy(&out, kernel.body, sizeof(out));
	CHECK(out.nodeid == 9 && out.attr.size == SIZE_BYTES && out.attr.uid == 7);
	CHECK(out.entry_valid == 0 && out.attr_valid == 0);
	CHECK(ask(s, FUSE_LOOKUP, 1, "guest-1", 8) == -ENOENT);
	CHECK(ask(s, FUSE_LOOKUP, 9, "guest-9", 8) == -ENOTDIR);
	memset(name, 'a', sizeof(name));
	name[MEMFS_NAME_BYTES] = 0;
	CHECK(ask(s, FUSE_LOOKUP, 1, name, sizeof(name)) == -ENOENT);
	CHECK(ask(s, FUSE_GETATTR, 1, NULL, 0) == 0);
	CHECK(ask(s, FUSE_GETATTR, 2 + GUESTS, NULL, 0) == -ENOENT);
}

static void test_readdir(struct memfs_session *s, uint32_t size)
{
	struct fuse_read_in in = { .size = size };
	unsigned int seen = 0;

	for (;;) {
		CHECK(ask(s, FUSE_READDIR, 1, &in, sizeof(in)) == 0);
		CHECK(body_bytes() <= size);
		if (body_bytes() == 0)
			break;
		for (size_t at = 0; at < body_bytes();) {
			struct fuse_dirent d;
			char want[MEMFS_NAME_BYTES];

			memcpy(&d, kernel.body + at, FUSE_NAME_OFFSET);
			snprintf(want, sizeof(want), "guest-%u", seen);
			CHECK(d.namelen == (seen < 2 ? seen + 1 : strlen(want)));
			CHECK(!memcmp(kernel.body + at + FUSE_NAME_OFFSET,
				      seen < 2 ? ".." : want, d.namelen));
			seen++;
			in.offset = d.off;
			at += FUSE_DIRENT_SIZE(&d);
		}
	}
	CHECK(seen == GUESTS + 2);
}

static void test_open(struct memfs_session *s)
{
	struct memfs_open_out first, second;

	CHECK(ask(s, FUSE_OPEN, 2, NULL, 0) == 0);
	memcpy(&first, kernel.body, sizeof(first));
	CHECK(first.open_flags & MEMFS_OPEN_PASSTHROUGH);
	CHECK(ask(s, FUSE_OPEN, 2, NULL, 0) == 0);
	memcpy(&second, kernel.body, sizeof(second));
	CHECK(first.backing_id == second.backing_id && kernel.registered == 1);

	/* An answer that nobody took is not an open file. */
	kernel.reply_result = -ENOENT;
	CHECK(ask(s, FUSE_OPEN, 2, NULL, 0) == 0);
	kernel.reply_result = 0;

	CHECK(ask(s, FUSE_RELEASE, 2, NULL, 0) == 0 && kernel.removed == 0);
	CHECK(ask(s, FUSE_RELEASE, 2, NULL, 0) == 0 && kernel.removed == 1);
	CHECK(ask(s, FUSE_RELEASE, 2, NULL, 0) == 0 && kernel.removed == 1);

	CHECK(ask(s, FUSE_OPEN, 2, NULL, 0) == 0 && kernel.registered == 2);
	memfs_backing_drop(&s->backings, 2);
	memfs_backing_drop(&s->backings, 2);
	CHECK(kernel.removed == 2 && memfs_backings_count(&s->backings) == 0);

	CHECK(ask(s, FUSE_OPEN, 1, NULL, 0) == -EISDIR);
	CHECK(ask(s, FUSE_OPEN, 3, NULL, 0) == -ENOENT);
	CHECK(ask(s, FUSE_OPEN, 5000, NULL, 0) == -ENOENT);
	kernel.add_result = -EPERM;
	CHECK(ask(s, FUSE_OPEN, 4, NULL, 0) == -EPERM);
	kernel.add_result = 0;
	CHECK(memfs_backings_count(&s->backings) == 0);

	for (uint64_t ino = 4; ino < 2 + GUESTS; ino++)
		CHECK(ask(s, FUSE_OPEN, ino, NULL, 0) == 0);
	CHECK(memfs_backings_count(&s->backings) == GUESTS - 2);
}

static void test_strangers(struct memfs_session *s)
{
	struct fuse_in_header head = {
		.len = sizeof(head), .opcode = FUSE_OPEN, .nodeid = 2, .uid = 7,
	};
	const struct { uint32_t pid, uid; } cases[] = {
		{ 0, 7 }, { 1, 7 }, { (uint32_t)getppid(), 7 }, { 0x80000000u, 7 },
		{ (uint32_t)getpid(), 0 }, { (uint32_t)getpid(), 8 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		head.pid = cases[i].pid;
		head.uid = cases[i].uid;
		CHECK(memfs_handle(s, &head, sizeof(head)) == 0);
		CHECK(kernel.head.error == -EACCES);
	}
}

static void test_punch(struct memfs_session *s)
{
	struct fuse_fallocate_in in = {
		.offset = 8192, .length = 4096,
		.mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
	};

	CHECK(ask(s, FUSE_FALLOCATE, 2, &in, sizeof(in)) == 0);
	CHECK(punched_off == 8192 && punched_len == 4096);
	in.length = UINT64_MAX;
	CHECK(ask(s, FUSE_FALLOCATE, 2, &in, sizeof(in)) == 0);
	CHECK(punched_len == SIZE_BYTES - 8192);
	in.offset = 4096;
	CHECK(ask(s, FUSE_FALLOCATE, 2, &in, sizeof(in)) == -EIO);
	punched_len = 0;
	in.offset = SIZE_BYTES;
	CHECK(ask(s, FUSE_FALLOCATE, 2, &in, sizeof(in)) == 0 && punched_len == 0);
	in.length = 0;
	CHECK(ask(s, FUSE_FALLOCATE, 2, &in, sizeof(in)) == -EINVAL);
	CHECK(ask(s, FUSE_FALLOCATE, 1, &in, sizeof(in)) == -EISDIR);
	in.mode = 0;
	CHECK(ask(s, FUSE_FALLOCATE, 2, &in, sizeof(in)) == -EOPNOTSUPP);
}

int main(void)
{
	struct memfs_session s;

	open_session(&s);
	test_init(&s);
	test_malformed(&s);
	test_lookup(&s);
	test_readdir(&s, 100);
	test_readdir(&s, 4096);
	test_readdir(&s, 1u << 20);
	test_open(&s);
	test_strangers(&s);
	test_punch(&s);
	close_session(&s);
	printf("memfs_request: ok\n");
	return 0;
}
