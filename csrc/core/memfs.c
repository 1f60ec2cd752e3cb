/* SPDX-License-Identifier: MIT */
#include "memfs.h"
#include "memfs_request.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Two, so that one long punch does not hold up everybody's `ls`. */
#define WORKERS 2
/* The longest request is the setting of an extended attribute of 64 KiB. */
#define REQUEST_BYTES (72u * 1024u)
/* The kernel asks for INIT before mount(2) returns. */
#define INIT_TIMEOUT_MS 5000

struct worker {
	struct memfs *m;
	void *request;          /* REQUEST_BYTES */
	pthread_t thread;
};

/* All but the session's backings is immutable once the workers run. */
struct memfs {
	struct memfs_session session;
	char *dir;
	int fd;                 /* of /dev/fuse, does not block */
	int stop_fd;            /* an eventfd, readable from memfs_stop() on */
	struct worker workers[WORKERS];
	int running;            /* workers that have a thread */
};

static int fail(char err[MEMFS_ERR_BYTES], int rc, const char *what)
{
	snprintf(err, MEMFS_ERR_BYTES, "%.180s: %s", what, strerrordesc_np(-rc));
	return rc;
}

static int send_reply(void *ctx, const struct fuse_out_header *head,
		      const void *body)
{
	const struct memfs *m = ctx;
	struct iovec iov[2] = {
		{ (void *)(uintptr_t)head, sizeof(*head) },
		{ (void *)(uintptr_t)body, head->len - sizeof(*head) },
	};

	return writev(m->fd, iov, 2) < 0 ? -errno : 0;
}

static int register_backing(void *ctx, int fd)
{
	const struct memfs *m = ctx;
	struct memfs_backing_map map = { .fd = fd };
	int id = ioctl(m->fd, MEMFS_IOC_BACKING_OPEN, &map);

	return id < 0 ? -errno : id;
}

static void unregister_backing(void *ctx, int32_t id)
{
	const struct memfs *m = ctx;
	uint32_t arg = (uint32_t)id;

	ioctl(m->fd, MEMFS_IOC_BACKING_CLOSE, &arg);
}

/* Waits for a request and answers it. 0, also if another worker took it;
 * -ENODEV once there will be no more; -ETIMEDOUT. */
static int serve_one(struct memfs *m, void *request, int timeout_ms)
{
	struct pollfd p[2] = {
		{ .fd = m->fd, .events = POLLIN },
		{ .fd = m->stop_fd, .events = POLLIN },
	};
	int n = poll(p, 2, timeout_ms);

	if (n == 0)
		return -ETIMEDOUT;
	if (n < 0)
		return errno == EINTR ? 0 : -ENODEV;
	if (p[1].revents)
		return -ENODEV;

	ssize_t len = read(m->fd, request, REQUEST_BYTES);

	if (len >= 0) {
		memfs_handle(&m->session, request, (size_t)len);
		return 0;
	}
	/* ENOENT: who asked was killed before we came to read it. */
	return errno == EAGAIN || errno == EINTR || errno == ENOENT ? 0 : -ENODEV;
}

static void *serve(void *arg)
{
	struct worker *w = arg;

	while (serve_one(w->m, w->request, -1) == 0)
		;
	return NULL;
}

static int start_workers(struct memfs *m)
{
	sigset_t all, old;
	int rc = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (!rc && m->running < WORKERS) {
		struct worker *w = &m->workers[m->running];

		rc = -pthread_create(&w->thread, NULL, serve, w);
		if (!rc)
			m->running++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

static int init_session(struct memfs *m, const struct memfs_ops *ops, void *ctx)
{
	const struct memfs_registry registry = {
		.add = register_backing, .remove = unregister_backing, .ctx = m,
	};

	m->session.ops = ops;
	m->session.ops_ctx = ctx;
	m->session.reply = send_reply;
	m->session.reply_ctx = m;
	m->session.start_s = (uint64_t)time(NULL);
	m->session.uid = geteuid();
	m->session.gid = getegid();
	return memfs_backings_init(&m->session.backings, &registry);
}

/* What needs neither /dev/fuse nor a thread; destroy() undoes any part of it. */
static int prepare(struct memfs *m, const char *dir)
{
	/* Absolute, since the daemon may change its directory before it stops. */
	m->dir = realpath(dir, NULL);
	if (!m->dir)
		return -errno;
	m->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (m->stop_fd < 0)
		return -errno;
	for (int i = 0; i < WORKERS; i++) {
		m->workers[i].m = m;
		m->workers[i].request = malloc(REQUEST_BYTES);
		if (!m->workers[i].request)
			return -ENOMEM;
	}
	return 0;
}

static struct memfs *create(const struct memfs_ops *ops, void *ctx)
{
	struct memfs *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->fd = -1;
	m->stop_fd = -1;
	if (init_session(m, ops, ctx)) {
		free(m);
		return NULL;
	}
	return m;
}

/* The mirror of create() and prepare(). /dev/fuse goes after the registrations,
 * which are removed through it. */
static void destroy(struct memfs *m)
{
	memfs_backings_fini(&m->session.backings);
	for (int i = 0; i < WORKERS; i++)
		free(m->workers[i].request);
	if (m->stop_fd >= 0)
		close(m->stop_fd);
	if (m->fd >= 0)
		close(m->fd);
	free(m->dir);
	free(m);
}

static int open_fuse(struct memfs *m, char err[MEMFS_ERR_BYTES])
{
	m->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (m->fd >= 0)
		return 0;

	int cause = errno;

	fail(err, -cause, "/dev/fuse (is the fuse module loaded, and are you root?)");
	return cause == EACCES || cause == EPERM ? -EPERM : -ENODEV;
}

static int mount_fuse(const struct memfs *m, char err[MEMFS_ERR_BYTES])
{
	char options[128];

	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other",
		 m->fd, (unsigned int)m->session.uid, (unsigned int)m->session.gid);
	if (mount("uvmm", m->dir, "fuse.uvmm", MS_NOSUID | MS_NODEV, options) == 0)
		return 0;
	return fail(err, errno == EACCES ? -EPERM : -errno,
		    "mounting the memory filesystem (root is needed)");
}

/* MNT_FORCE aborts the connection: whoever waits for an answer gets an error at
 * once, even if a child of ours inherited /dev/fuse and keeps it open. */
static void unmount_fuse(const struct memfs *m)
{
	umount2(m->dir, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
}

/* INIT is answered here, so that its outcome is known before anything else. */
static int negotiate(struct memfs *m, char err[MEMFS_ERR_BYTES])
{
	int rc = serve_one(m, m->workers[0].request, INIT_TIMEOUT_MS);

	if (rc)
		return fail(err, rc, "the kernel did not greet the memory filesystem");
	if (!m->session.agreed)
		return fail(err, -EOPNOTSUPP,
			    "FUSE passthrough needs Linux 6.9 with CONFIG_FUSE_PASSTHROUGH");
	return 0;
}

int memfs_start(const char *dir, const struct memfs_ops *ops, void *ctx,
		struct memfs **out, char err[MEMFS_ERR_BYTES])
{
	struct memfs *m = create(ops, ctx);
	int rc;

	if (!m)
		return fail(err, -ENOMEM, "memory filesystem");
	rc = prepare(m, dir);
	if (rc) {
		fail(err, rc, dir);
		goto err_destroy;
	}
	rc = open_fuse(m, err);
	if (rc)
		goto err_destroy;
	rc = mount_fuse(m, err);
	if (rc)
		goto err_destroy;
	rc = negotiate(m, err);
	if (rc)
		goto err_stop;
	rc = start_workers(m);
	if (rc) {
		fail(err, rc, "threads of the memory filesystem");
		goto err_stop;
	}
	*out = m;
	return 0;

err_stop:
	memfs_stop(m);
	return rc;
err_destroy:
	destroy(m);
	return rc;
}

/* In two phases: nobody can reach us any more, then nobody of ours is left, and
 * only then the memory goes. A worker that was inside ops finishes that. */
void memfs_stop(struct memfs *m)
{
	eventfd_write(m->stop_fd, 1);
	unmount_fuse(m);
	for (int i = 0; i < m->running; i++)
		pthread_join(m->workers[i].thread, NULL);
	destroy(m);
}

/* The kernel asks by name each time, so this only frees its cached entry early;
 * it fails where none is cached, and that is as good. */
static void invalidate_entry(const struct memfs *m, const char *name)
{
	struct fuse_notify_inval_entry_out entry = {
		.parent = FUSE_ROOT_ID, .namelen = (uint32_t)strlen(name),
	};
	struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + sizeof(entry) + entry.namelen + 1),
		.error = FUSE_NOTIFY_INVAL_ENTRY,
	};
	struct iovec iov[3] = {
		{ &head, sizeof(head) },
		{ &entry, sizeof(entry) },
		{ (void *)(uintptr_t)name, entry.namelen + 1 },
	};
	ssize_t ignored = writev(m->fd, iov, 3);

	(void)ignored;
}

void memfs_forget(struct memfs *m, uint64_t ino, const char *name)
{
	memfs_backing_drop(&m->session.backings, ino);
	invalidate_entry(m, name);
}
