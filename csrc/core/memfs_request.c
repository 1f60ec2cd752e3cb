/* SPDX-License-Identifier: MIT */
#include "memfs_request.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES 4096u
#define LIST_FILES 32
#define DIRENTS_BYTES 8192

struct request {
	struct fuse_in_header head;
	const char *body;
	size_t body_bytes;
};

struct answer {
	size_t bytes;           /* of u; set by a handler that returns 0 */
	union {
		struct memfs_init_out init;
		struct fuse_entry_out entry;
		struct fuse_attr_out attr;
		struct memfs_open_out open;
		struct fuse_statfs_out statfs;
		char dirents[DIRENTS_BYTES];
	} u;
};

/* Copies the request's fixed part; what follows in the body is left alone. */
static int take(const struct request *r, void *out, size_t bytes)
{
	if (r->body_bytes < bytes)
		return -EINVAL;
	memcpy(out, r->body, bytes);
	return 0;
}

static int by_ino(struct memfs_session *s, uint64_t ino, struct memfs_file *out)
{
	return ino == FUSE_ROOT_ID ? -EISDIR : s->ops->by_ino(s->ops_ctx, ino, out);
}

/* A thread of the guest's process, with the guest's uid: not even root else. */
static bool is_guest(const struct request *r, const struct memfs_file *f)
{
	pid_t tid = (pid_t)r->head.pid;

	if (tid <= 0 || f->pid <= 0 || r->head.uid != f->uid)
		return false;
	/* Signal 0 only asks whether the thread is there and of that process. */
	return tid == f->pid || tgkill(f->pid, tid, 0) == 0 || errno == EPERM;
}

static void fill_attr(const struct memfs_session *s, struct fuse_attr *a)
{
	*a = (struct fuse_attr){
		.atime = s->start_s, .mtime = s->start_s, .ctime = s->start_s,
		.nlink = 1, .blksize = PAGE_BYTES,
	};
}

static void fill_file(const struct memfs_session *s, const struct memfs_file *f,
		      struct fuse_attr *a)
{
	fill_attr(s, a);
	a->ino = f->ino;
	a->mode = S_IFREG | 0600;
	a->uid = f->uid;
	a->gid = f->gid;
	/* No blocks: what the guest holds is machine memory's, counted there. */
	a->size = f->size_bytes;
}

static void fill_root(const struct memfs_session *s, struct fuse_attr *a)
{
	fill_attr(s, a);
	a->ino = FUSE_ROOT_ID;
	a->mode = S_IFDIR | 0755;
	a->nlink = 2;
	a->uid = s->uid;
	a->gid = s->gid;
}

static int do_init(struct memfs_session *s, const struct request *r,
		   struct answer *a)
{
	struct fuse_init_in in;

	(void)s;
	if (take(r, &in, sizeof(in)) || in.major != FUSE_KERNEL_VERSION ||
	    !(in.flags & FUSE_INIT_EXT) || !(in.flags2 & MEMFS_INIT2_PASSTHROUGH))
		return -EOPNOTSUPP;
	a->u.init = (struct memfs_init_out){
		.major = FUSE_KERNEL_VERSION,
		.minor = MEMFS_PROTO_MINOR,
		.flags = FUSE_INIT_EXT | (in.flags & FUSE_PARALLEL_DIROPS),
		.flags2 = MEMFS_INIT2_PASSTHROUGH,
		.max_write = PAGE_BYTES,
		.time_gran = 1,
		/* The backing file lies on a file system that is not stacked. */
		.max_stack_depth = 1,
	};
	a->bytes = sizeof(a->u.init);
	return 0;
}

/* All timeouts are 0: guests come and go, and `ls -l` should tell the truth. */
static int do_lookup(struct memfs_session *s, const struct request *r,
		     struct answer *a)
{
	struct memfs_file f;

	if (!memchr(r->body, 0, r->body_bytes))
		return -EINVAL;
	if (r->head.nodeid != FUSE_ROOT_ID)
		return -ENOTDIR;
	if (strlen(r->body) >= MEMFS_NAME_BYTES)
		return -ENOENT;

	int rc = s->ops->by_name(s->ops_ctx, r->body, &f);

	if (rc)
		return rc;
	a->u.entry = (struct fuse_entry_out){ .nodeid = f.ino };
	fill_file(s, &f, &a->u.entry.attr);
	a->bytes = sizeof(a->u.entry);
	return 0;
}

static int do_getattr(struct memfs_session *s, const struct request *r,
		      struct answer *a)
{
	struct memfs_file f;

	a->u.attr = (struct fuse_attr_out){ 0 };
	a->bytes = sizeof(a->u.attr);
	if (r->head.nodeid == FUSE_ROOT_ID) {
		fill_root(s, &a->u.attr.attr);
		return 0;
	}

	int rc = by_ino(s, r->head.nodeid, &f);

	if (!rc)
		fill_file(s, &f, &a->u.attr.attr);
	return rc;
}

static int do_access(struct memfs_session *s, const struct request *r,
		     struct answer *a)
{
	struct fuse_access_in in;
	struct memfs_file f;

	(void)a;
	if (take(r, &in, sizeof(in)))
		return -EINVAL;
	if (r->head.nodeid == FUSE_ROOT_ID)
		return in.mask & W_OK ? -EACCES : 0;

	int rc = by_ino(s, r->head.nodeid, &f);

	if (rc || in.mask == F_OK)
		return rc;
	return (in.mask & X_OK) || !is_guest(r, &f) ? -EACCES : 0;
}

static int do_statfs(struct memfs_session *s, const struct request *r,
		     struct answer *a)
{
	(void)s, (void)r;
	a->u.statfs = (struct fuse_statfs_out){
		.st = {
			.bsize = PAGE_BYTES, .frsize = PAGE_BYTES,
			.namelen = MEMFS_NAME_BYTES - 1,
		},
	};
	a->bytes = sizeof(a->u.statfs);
	return 0;
}

static int do_open(struct memfs_session *s, const struct request *r,
		   struct answer *a)
{
	struct memfs_file f;
	int32_t id;
	int rc = by_ino(s, r->head.nodeid, &f);

	if (rc)
		return rc;
	if (!is_guest(r, &f))
		return -EACCES;
	rc = memfs_backing_get(&s->backings, f.ino, s->ops->backing, s->ops_ctx, &id);
	if (rc)
		return rc;
	/* Both flags: mmap is passed through, read(2) and write(2) come to us to
	 * be refused. On the backing file they would see zeros where a page is
	 * not resident, write past userfaultfd, and grow it over the guest's max. */
	a->u.open = (struct memfs_open_out){
		.open_flags = MEMFS_OPEN_PASSTHROUGH | FOPEN_DIRECT_IO,
		.backing_id = id,
	};
	a->bytes = sizeof(a->u.open);
	return 0;
}

static int do_release(struct memfs_session *s, const struct request *r,
		      struct answer *a)
{
	(void)a;
	memfs_backing_put(&s->backings, r->head.nodeid);
	return 0;
}

static int do_fallocate(struct memfs_session *s, const struct request *r,
			struct answer *a)
{
	struct fuse_fallocate_in in;
	struct memfs_file f;

	(void)a;
	if (take(r, &in, sizeof(in)))
		return -EINVAL;
	if (in.mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;

	int rc = by_ino(s, r->head.nodeid, &f);

	if (rc)
		return rc;
	if (in.length == 0)
		return -EINVAL;
	/* As file systems do: what lies beyond the end is a hole already. */
	if (in.offset >= f.size_bytes)
		return 0;
	if (in.length > f.size_bytes - in.offset)
		in.length = f.size_bytes - in.offset;
	return s->ops->punch(s->ops_ctx, f.ino, in.offset, in.length);
}

static int do_opendir(struct memfs_session *s, const struct request *r,
		      struct answer *a)
{
	(void)s;
	if (r->head.nodeid != FUSE_ROOT_ID)
		return -ENOTDIR;
	a->u.open = (struct memfs_open_out){ 0 };
	a->bytes = sizeof(a->u.open);
	return 0;
}

/* Appends an entry; false if it does not fit any more. */
static bool put_dirent(struct answer *a, size_t cap, const struct fuse_dirent *d,
		       const char *name)
{
	size_t bytes = FUSE_NAME_OFFSET + d->namelen;
	size_t padded = FUSE_DIRENT_ALIGN(bytes);
	char *at = a->u.dirents + a->bytes;

	if (padded > cap - a->bytes)
		return false;
	memcpy(at, d, FUSE_NAME_OFFSET);
	memcpy(at + FUSE_NAME_OFFSET, name, d->namelen);
	memset(at + bytes, 0, padded - bytes);
	a->bytes += padded;
	return true;
}

static bool put_dots(struct answer *a, size_t cap, uint64_t *off)
{
	for (; *off < 2; ++*off) {
		struct fuse_dirent d = {
			.ino = FUSE_ROOT_ID, .off = *off + 1,
			.namelen = (uint32_t)*off + 1, .type = S_IFDIR >> 12,
		};

		if (!put_dirent(a, cap, &d, ".."))
			return false;
	}
	return true;
}

/* Offset 0 is ".", 1 is "..", and any other the file with the next ino from
 * there on: stable, whatever guests come and go between two requests. */
static int do_readdir(struct memfs_session *s, const struct request *r,
		      struct answer *a)
{
	struct memfs_file v[LIST_FILES];
	struct fuse_read_in in;

	if (take(r, &in, sizeof(in)))
		return -EINVAL;
	if (r->head.nodeid != FUSE_ROOT_ID)
		return -ENOTDIR;

	size_t cap = in.size < sizeof(a->u.dirents) ? in.size : sizeof(a->u.dirents);
	uint64_t off = in.offset;
	size_t n;

	if (!put_dots(a, cap, &off))
		return 0;
	while ((n = s->ops->list(s->ops_ctx, off - 1, v, LIST_FILES)) > 0) {
		for (size_t i = 0; i < n; i++) {
			struct fuse_dirent d = {
				.ino = v[i].ino, .off = v[i].ino + 1,
				.namelen = (uint32_t)strnlen(v[i].name, MEMFS_NAME_BYTES),
				.type = S_IFREG >> 12,
			};

			if (!put_dirent(a, cap, &d, v[i].name))
				return 0;
		}
		off = v[n - 1].ino + 1;
	}
	return 0;
}

static int succeed(struct memfs_session *s, const struct request *r,
		   struct answer *a)
{
	(void)s, (void)r, (void)a;
	return 0;
}

static int refuse_change(struct memfs_session *s, const struct request *r,
			 struct answer *a)
{
	(void)s, (void)r, (void)a;
	return -EPERM;
}

static int refuse_io(struct memfs_session *s, const struct request *r,
		     struct answer *a)
{
	(void)s, (void)r, (void)a;
	return -EOPNOTSUPP;
}

/* What is not here gets ENOSYS, which the kernel remembers and does not ask
 * again: FLUSH, FSYNC and FSYNCDIR then succeed, extended attributes and ioctls
 * are not supported, LSEEK takes the whole file for data (a hole of the backing
 * file may be a page that is merely elsewhere). */
static int (*const handlers[])(struct memfs_session *, const struct request *,
			       struct answer *) = {
	[FUSE_INIT] = do_init,
	[FUSE_LOOKUP] = do_lookup,
	[FUSE_GETATTR] = do_getattr,
	[FUSE_ACCESS] = do_access,
	[FUSE_STATFS] = do_statfs,
	[FUSE_OPEN] = do_open,
	[FUSE_RELEASE] = do_release,
	[FUSE_FALLOCATE] = do_fallocate,
	[FUSE_OPENDIR] = do_opendir,
	[FUSE_READDIR] = do_readdir,
	[FUSE_RELEASEDIR] = succeed,
	[FUSE_DESTROY] = succeed,
	[FUSE_READ] = refuse_io,
	[FUSE_WRITE] = refuse_io,
	[FUSE_SETATTR] = refuse_change,
	[FUSE_CREATE] = refuse_change,
	[FUSE_MKNOD] = refuse_change,
	[FUSE_MKDIR] = refuse_change,
	[FUSE_SYMLINK] = refuse_change,
	[FUSE_LINK] = refuse_change,
	[FUSE_UNLINK] = refuse_change,
	[FUSE_RMDIR] = refuse_change,
	[FUSE_RENAME] = refuse_change,
	[FUSE_RENAME2] = refuse_change,
};

/* These need nothing done either: inodes are not counted, and no request takes
 * so long that it should be cut short. */
static bool wants_reply(uint32_t opcode)
{
	return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET &&
	       opcode != FUSE_INTERRUPT;
}

static int dispatch(struct memfs_session *s, const struct request *r,
		    struct answer *a)
{
	uint32_t op = r->head.opcode;
	size_t known = sizeof(handlers) / sizeof(handlers[0]);

	a->bytes = 0;
	if (op >= known || !handlers[op])
		return -ENOSYS;

	int rc = handlers[op](s, r, a);

	if (rc)
		a->bytes = 0;
	/* The kernel takes nothing else for an error, and would wait for ever. */
	return rc > 0 || rc <= -512 ? -EIO : rc;
}

/* What is true only once the kernel has taken the answer, or has not. */
static void settle(struct memfs_session *s, const struct request *r, int sent)
{
	if (r->head.opcode == FUSE_INIT && !sent)
		s->agreed = true;
	/* Nobody has the file open then, so nobody will release it. */
	if (r->head.opcode == FUSE_OPEN && sent)
		memfs_backing_put(&s->backings, r->head.nodeid);
}

int memfs_handle(struct memfs_session *s, const void *request, size_t len)
{
	struct request r;
	struct answer a;

	if (len < sizeof(r.head))
		return -EPROTO;
	memcpy(&r.head, request, sizeof(r.head));
	if (r.head.len != len)
		return -EPROTO;
	r.body = (const char *)request + sizeof(r.head);
	r.body_bytes = len - sizeof(r.head);
	if (!wants_reply(r.head.opcode))
		return 0;

	int error = dispatch(s, &r, &a);
	struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + a.bytes),
		.error = error,
		.unique = r.head.unique,
	};
	int rc = s->reply(s->reply_ctx, &head, &a.u);

	if (!error)
		settle(s, &r, rc);
	return rc;
}
