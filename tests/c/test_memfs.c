/* SPDX-License-Identifier: MIT
 *
 * The memory filesystem, mounted. The tests run in a process of their own, so
 * that this one can always clean up.
 */
#include "memfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s (%m)\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

#define GUESTS_MAX 600
#define SIZE_BYTES (4u << 20)

struct guests {
	pthread_mutex_t lock;   /* guards everything below */
	struct {
		struct memfs_file file;
		int fd;
		int gone;
	} v[GUESTS_MAX];
	size_t n;
	uint64_t punched_ino, punched_off, punched_len;
	int punch_slowly, punching;
};

static struct guests guests = { .lock = PTHREAD_MUTEX_INITIALIZER };
static const char *mnt;

static int by_ino(void *ctx, uint64_t ino, struct memfs_file *out)
{
	struct guests *g = ctx;
	int rc = -ENOENT;

	pthread_mutex_lock(&g->lock);
	if (ino >= 2 && ino - 2 < g->n && !g->v[ino - 2].gone) {
		*out = g->v[ino - 2].file;
		rc = 0;
	}
	pthread_mutex_unlock(&g->lock);
	return rc;
}

static int by_name(void *ctx, const char *name, struct memfs_file *out)
{
	for (uint64_t ino = 2; ino < GUESTS_MAX + 2; ino++)
		if (by_ino(ctx, ino, out) == 0 && !strcmp(out->name, name))
			return 0;
	return -ENOENT;
}

static size_t list(void *ctx, uint64_t after, struct memfs_file *out, size_t cap)
{
	size_t n = 0;

	for (uint64_t ino = after + 1; n < cap && ino < GUESTS_MAX + 2; ino++)
		n += by_ino(ctx, ino, &out[n]) == 0;
	return n;
}

static int backing(void *ctx, uint64_t ino)
{
	struct guests *g = ctx;

	pthread_mutex_lock(&g->lock);
	int fd = fcntl(g->v[ino - 2].fd, F_DUPFD_CLOEXEC, 0);
	pthread_mutex_unlock(&g->lock);
	return fd < 0 ? -errno : fd;
}

static int punch(void *ctx, uint64_t ino, uint64_t off, uint64_t len)
{
	struct guests *g = ctx;

	pthread_mutex_lock(&g->lock);
	g->punched_ino = ino;
	g->punched_off = off;
	g->punched_len = len;
	int rc = fallocate(g->v[ino - 2].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   (off_t)off, (off_t)len);
	int slowly = g->punching = g->punch_slowly;
	pthread_mutex_unlock(&g->lock);
	if (slowly)
		usleep(200000);
	return rc ? -errno : 0;
}

static const struct memfs_ops ops = { by_name, by_ino, list, backing, punch };

static uint64_t add_guest(const char *name, uint64_t size_bytes, uid_t uid, pid_t pid)
{
	pthread_mutex_lock(&guests.lock);
	uint64_t ino = guests.n + 2;
	struct memfs_file *f = &guests.v[guests.n].file;

	*f = (struct memfs_file){
		.ino = ino, .size_bytes = size_bytes, .uid = uid, .gid = 54321, .pid = pid,
	};
	snprintf(f->name, sizeof(f->name), "%s", name);
	guests.v[guests.n].fd = memfd_create(name, MFD_CLOEXEC);
	CHECK(ftruncate(guests.v[guests.n].fd, (off_t)size_bytes) == 0);
	guests.n++;
	pthread_mutex_unlock(&guests.lock);
	return ino;
}

static void remove_guest(uint64_t ino)
{
	pthread_mutex_lock(&guests.lock);
	guests.v[ino - 2].gone = 1;
	pthread_mutex_unlock(&guests.lock);
}

static int backing_fd(uint64_t ino)
{
	return guests.v[ino - 2].fd;
}

static void check_punched(uint64_t ino, uint64_t off, uint64_t len)
{
	pthread_mutex_lock(&guests.lock);
	CHECK(guests.punched_ino == ino);
	CHECK(guests.punched_off == off && guests.punched_len == len);
	pthread_mutex_unlock(&guests.lock);
}

static const char *path_of(const char *name)
{
	static _Thread_local char path[512];

	snprintf(path, sizeof(path), "%s/%s", mnt, name);
	return path;
}

static struct memfs *start(void)
{
	char err[MEMFS_ERR_BYTES] = "";
	struct memfs *m;
	int rc = memfs_start(mnt, &ops, &guests, &m, err);

	if (rc)
		fprintf(stderr, "memfs_start: %s\n", err);
	CHECK(rc == 0);
	return m;
}

static char *map_guest(const char *name)
{
	int fd = open(path_of(name), O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	char *p = mmap(NULL, SIZE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	close(fd);
	return p;
}

/* The server refuses to read and to write: what works was passed through. */
static void test_mapping(void)
{
	struct memfs *m = start();
	uint64_t ino = add_guest("mapping", SIZE_BYTES, 0, getpid());
	char *p = map_guest("mapping");
	char byte = 0;

	memset(p, 'a', SIZE_BYTES);
	for (off_t off = 0; off < (off_t)SIZE_BYTES; off += 4096)
		CHECK(pread(backing_fd(ino), &byte, 1, off) == 1 && byte == 'a');
	CHECK(pwrite(backing_fd(ino), "b", 1, 5000) == 1 && p[5000] == 'b');

	int fd = open(path_of("mapping"), O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(pread(fd, &byte, 1, 0) < 0 && errno == EOPNOTSUPP);
	CHECK(pwrite(fd, &byte, 1, SIZE_BYTES) < 0 && errno == EOPNOTSUPP);
	CHECK(sendfile(backing_fd(ino), fd, NULL, 1) < 0 && errno == EOPNOTSUPP);
	CHECK(ftruncate(fd, 2 * SIZE_BYTES) < 0 && errno == EPERM);
	CHECK(fchmod(fd, 0666) < 0 && errno == EPERM);
	CHECK(fsync(fd) == 0);
	CHECK(lseek(fd, 0, SEEK_END) == SIZE_BYTES);
	CHECK(lseek(fd, 0, SEEK_HOLE) == SIZE_BYTES);
	close(fd);
	munmap(p, SIZE_BYTES);
	memfs_stop(m);
}

static void test_punch(void)
{
	struct memfs *m = start();
	uint64_t ino = add_guest("punch", SIZE_BYTES, 0, getpid());
	char *p = map_guest("punch");
	int fd = open(path_of("punch"), O_RDWR | O_CLOEXEC);
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	memset(p, 'a', SIZE_BYTES);
	CHECK(fallocate(fd, mode, 8192, 4096) == 0);
	check_punched(ino, 8192, 4096);
	CHECK(p[8191] == 'a' && p[8192] == 0 && p[12287] == 0 && p[12288] == 'a');
	CHECK(fallocate(fd, mode, SIZE_BYTES - 4096, 1 << 20) == 0);
	check_punched(ino, SIZE_BYTES - 4096, 4096);
	CHECK(fallocate(fd, 0, 0, 4096) < 0 && errno == EOPNOTSUPP);
	close(fd);
	munmap(p, SIZE_BYTES);
	memfs_stop(m);
}

static void *open_close(void *arg)
{
	for (int i = 0; i < 200; i++) {
		int fd = open(path_of(arg), O_RDWR | O_CLOEXEC);

		CHECK(fd >= 0);
		close(fd);
	}
	return NULL;
}

static void test_threads(void)
{
	struct memfs *m = start();
	char name[] = "threads";
	pthread_t t[4];

	add_guest(name, SIZE_BYTES, 0, getpid());
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], NULL, open_close, name) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	memfs_stop(m);
}

/* errno of an attempt in a process that is not the guest's. */
static int try_as_other(const char *name, uid_t uid)
{
	int status;
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0) {
		if (setresuid(uid, uid, uid))
			_exit(255);
		_exit(open(path_of(name), O_RDONLY | O_CLOEXEC) < 0 ? errno : 0);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void test_strangers(void)
{
	struct memfs *m = start();

	add_guest("root's", SIZE_BYTES, 0, getpid());
	add_guest("other's", SIZE_BYTES, 1000, getpid());
	CHECK(try_as_other("root's", 0) == EACCES);
	CHECK(try_as_other("root's", 1000) == EACCES);
	CHECK(try_as_other("other's", 1000) == EACCES);
	CHECK(open(path_of("other's"), O_RDONLY | O_CLOEXEC) < 0 && errno == EACCES);
	CHECK(access(path_of("root's"), R_OK | W_OK) == 0);
	CHECK(access(path_of("other's"), R_OK) < 0 && errno == EACCES);
	CHECK(access(path_of("other's"), F_OK) == 0);
	memfs_stop(m);
}

static void test_tree(void)
{
	struct memfs *m = start();
	struct stat st;

	add_guest("tree", 3 * 4096, 1234, getpid());
	CHECK(stat(path_of("tree"), &st) == 0);
	CHECK(st.st_size == 3 * 4096 && st.st_uid == 1234 && st.st_gid == 54321);
	CHECK(st.st_mode == (S_IFREG | 0600));
	CHECK(stat(mnt, &st) == 0 && st.st_mode == (S_IFDIR | 0755));
	CHECK(stat(path_of("nobody"), &st) < 0 && errno == ENOENT);
	CHECK(unlink(path_of("tree")) < 0 && errno == EPERM);
	CHECK(mkdir(path_of("dir"), 0700) < 0 && errno == EPERM);
	CHECK(open(path_of("new"), O_RDWR | O_CREAT | O_CLOEXEC, 0600) < 0 && errno == EPERM);
	CHECK(rename(path_of("tree"), mnt) < 0);
	memfs_stop(m);
}

static size_t entries(const char *dir)
{
	DIR *d = opendir(dir);
	size_t n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void test_many(void)
{
	struct memfs *m = start();
	char name[MEMFS_NAME_BYTES];
	struct stat st;

	for (unsigned int i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "many-%0*u", 1 + (int)i % 50, i);
		add_guest(name, 4096ull * i, 0, getpid());
		CHECK(stat(path_of(name), &st) == 0 && st.st_size == 4096 * (off_t)i);
	}
	CHECK(entries(mnt) == guests.n + 2);
	memfs_stop(m);
}

static void test_forget(void)
{
	struct memfs *m = start();
	uint64_t ino = add_guest("again", SIZE_BYTES, 0, getpid());
	int fd = open(path_of("again"), O_RDWR | O_CLOEXEC);
	char *p = map_guest("again");
	struct stat st;

	CHECK(fd >= 0);
	p[0] = 'a';
	remove_guest(ino);
	memfs_forget(m, ino, "again");
	CHECK(stat(path_of("again"), &st) < 0 && errno == ENOENT);
	p[4096] = 'b';
	CHECK(p[0] == 'a' && p[4096] == 'b');

	add_guest("again", 2 * SIZE_BYTES, 0, getpid());
	CHECK(stat(path_of("again"), &st) == 0 && st.st_size == 2 * SIZE_BYTES);

	char *q = map_guest("again");

	CHECK(q[0] == 0);
	close(fd);
	q[0] = 'c';
	CHECK(p[0] == 'a');
	munmap(p, SIZE_BYTES);
	munmap(q, SIZE_BYTES);
	memfs_forget(m, 4711, "never there");
	memfs_stop(m);
}

static void test_stop_while_open(void)
{
	struct memfs *m = start();
	uint64_t ino = add_guest("stop", SIZE_BYTES, 0, getpid());
	struct stat st;
	int fd = open(path_of("stop"), O_RDWR | O_CLOEXEC);
	char *p = map_guest("stop");

	p[0] = 'a';
	memfs_stop(m);
	CHECK(stat(path_of("stop"), &st) < 0 && errno == ENOENT);
	CHECK(fstat(fd, &st) < 0);
	memset(p + 4096, 'b', SIZE_BYTES - 4096);
	CHECK(p[0] == 'a' && p[SIZE_BYTES - 1] == 'b');

	char byte;

	CHECK(pread(backing_fd(ino), &byte, 1, 4096) == 1 && byte == 'b');

	/* A new server at the same place, while the old file is still open. */
	m = start();
	CHECK(stat(path_of("stop"), &st) == 0);
	close(fd);
	munmap(p, SIZE_BYTES);
	memfs_stop(m);
}

static void *punch_something(void *arg)
{
	int fd = open(path_of(arg), O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) < 0);
	CHECK(errno == ENOTCONN || errno == ECONNABORTED);
	close(fd);
	return NULL;
}

static int set_punch_slowly(int slowly)
{
	pthread_mutex_lock(&guests.lock);
	guests.punch_slowly = slowly;
	int punching = guests.punching;
	pthread_mutex_unlock(&guests.lock);
	return punching;
}

/* Stopping does not leave those behind who wait for an answer. */
static void test_stop_while_asked(void)
{
	struct memfs *m = start();
	char name[] = "asked";
	pthread_t t;

	add_guest(name, SIZE_BYTES, 0, getpid());
	set_punch_slowly(1);
	CHECK(pthread_create(&t, NULL, punch_something, name) == 0);
	while (!set_punch_slowly(1))
		usleep(1000);
	memfs_stop(m);
	pthread_join(t, NULL);
	set_punch_slowly(0);
}

/* As an administrator may do. */
static void test_unmounted_by_others(void)
{
	struct memfs *m = start();

	CHECK(umount2(mnt, MNT_DETACH) == 0);
	memfs_stop(m);

	m = start();
	add_guest("lazily", SIZE_BYTES, 0, getpid());

	int fd = open(path_of("lazily"), O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0 && umount2(mnt, MNT_DETACH) == 0);
	memfs_stop(m);
	close(fd);
}

static void test_start_errors(void)
{
	char err[MEMFS_ERR_BYTES] = "";
	struct memfs *m;

	CHECK(memfs_start(path_of("not/there"), &ops, &guests, &m, err) == -ENOENT);
	CHECK(err[0] && !strchr(err, '\n'));
	CHECK(memfs_probe(path_of("not/there"), err) == -ENOENT);
}

static int run_tests(void)
{
	size_t fds = entries("/proc/self/fd"), threads = entries("/proc/self/task");

	test_mapping();
	test_punch();
	test_threads();
	test_strangers();
	test_tree();
	test_many();
	test_forget();
	test_stop_while_open();
	test_stop_while_asked();
	test_unmounted_by_others();
	test_start_errors();
	CHECK(entries("/proc/self/fd") == fds + guests.n);
	CHECK(entries("/proc/self/task") == threads);
	return 0;
}

int main(void)
{
	char dir[] = "/tmp/test-memfs-XXXXXX";
	char err[MEMFS_ERR_BYTES];
	int status = 1;

	CHECK(mkdtemp(dir));
	mnt = dir;
	/* The probe first: in its own process too, as it starts threads. */
	pid_t pid = fork();

	if (pid == 0) {
		if (memfs_probe(dir, err)) {
			printf("memfs: skipped: %s\n", err);
			exit(77);
		}
		exit(run_tests());
	}
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		status = 1;
	umount2(dir, MNT_FORCE | MNT_DETACH);
	/* Only an empty directory goes: the probe must have left nothing. */
	if (rmdir(dir)) {
		fprintf(stderr, "%s: %m\n", dir);
		return 1;
	}
	if (status == 0)
		printf("memfs: ok\n");
	return status == 0 || WEXITSTATUS(status) == 77 ? 0 : 1;
}
