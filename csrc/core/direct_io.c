/* SPDX-License-Identifier: MIT */
#include "direct_io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "uvmm/protocol.h"

#define NAME_BYTES 32
#define LONG_RUN_NS 5000000 /* no system call submits for so long */

/* The start of a small file of /proc. False if it is gone. */
static bool read_text(int dirfd, const char *path, char *text, size_t bytes)
{
	int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, text, bytes - 1);
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return n > 0;
}

/* Asks look() at each entry of /proc/<pid>/<what>. False if they cannot be listed. */
static bool each_entry(int32_t pid, const char *what,
		       void (*look)(int dirfd, const char *name, void *arg), void *arg)
{
	char path[NAME_BYTES * 2];
	struct dirent *d;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT || errno == ESRCH;
	while ((d = readdir(dir)))
		if (d->d_name[0] != '.')
			look(dirfd(dir), d->d_name, arg);
	closedir(dir);
	return true;
}

struct open_files {
	bool direct;            /* one by O_DIRECT */
	bool ring;              /* an io_uring */
	bool ring_keeps;        /* with files or buffers of its own */
};

static uint64_t number_after(const char *text, const char *label)
{
	const char *at = strstr(text, label);

	/* Octal where it begins with 0, as flags do. */
	return at ? strtoull(at + strlen(label), NULL, 0) : 0;
}

static void look_at_file(int dirfd, const char *name, void *arg)
{
	struct open_files *files = arg;
	char text[1024];

	if (!read_text(dirfd, name, text, sizeof(text))) {
		files->direct = files->direct || errno == EMFILE || errno == ENFILE;
		return;
	}
	files->direct = files->direct || (number_after(text, "flags:\t") & O_DIRECT &&
					  number_after(text, "pos:\t") != UVMM_DIRECT_MARK);
	if (!strstr(text, "SqMask:"))
		return;
	files->ring = true;
	/* What stands behind the rings' entries may be cut off. */
	files->ring_keeps = files->ring_keeps || !strstr(text, "UserBufs:") ||
			    number_after(text, "UserBufs:\t") ||
			    number_after(text, "UserFiles:\t");
}

/* The process has a context of io_setup(2). */
static bool has_aio(int32_t pid)
{
	char path[NAME_BYTES * 2], line[512];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f))
		found = strstr(line, "/[aio]");
	if (f)
		fclose(f);
	return found;
}

enum direct_io direct_io_of(int32_t pid)
{
	struct open_files files = { false, false, false };

	if (!each_entry(pid, "fdinfo", look_at_file, &files))
		return DIRECT_IO_POSSIBLE;
	if (files.ring && (files.direct || files.ring_keeps))
		return DIRECT_IO_ANY_TIME;
	if (files.direct && has_aio(pid))
		return DIRECT_IO_ANY_TIME;
	return files.direct || files.ring ? DIRECT_IO_POSSIBLE : DIRECT_IO_NONE;
}

/* A file of the thread's directory. */
static bool read_of(int dirfd, const char *tid, const char *file, char *text, size_t bytes)
{
	char path[NAME_BYTES];

	snprintf(path, sizeof(path), "%.15s/%.15s", tid, file);
	return read_text(dirfd, path, text, bytes);
}

static struct direct_io_thread look_at(int dirfd, const char *tid)
{
	struct direct_io_thread t = { .tid = atoi(tid) };
	char text[512];

	if (read_of(dirfd, tid, "schedstat", text, sizeof(text)))
		t.ran_ns = strtoull(text, NULL, 10);
	if (read_of(dirfd, tid, "io", text, sizeof(text)))
		t.calls = number_after(text, "syscr: ") + number_after(text, "syscw: ");
	return t;
}

static void note(int dirfd, const char *name, void *arg)
{
	struct direct_io_watch *w = arg;

	if (w->threads < DIRECT_IO_THREADS_MAX)
		w->thread[w->threads] = look_at(dirfd, name);
	w->threads++;
}

/* In a state that is neither running nor waiting for a device; or gone. */
static bool is_at_rest(int dirfd, const char *tid)
{
	char text[256];
	const char *at;

	if (!read_of(dirfd, tid, "stat", text, sizeof(text)))
		return true;
	/* "tid (comm) S ...", and comm may hold anything. */
	at = strrchr(text, ')');
	return at && at[1] == ' ' && at[2] != 'R' && at[2] != 'D';
}

static void look_again(struct direct_io_thread *t, int dirfd)
{
	struct direct_io_thread now;
	char tid[NAME_BYTES];

	snprintf(tid, sizeof(tid), "%d", t->tid);
	t->settled = is_at_rest(dirfd, tid);
	if (t->settled)
		return;
	now = look_at(dirfd, tid);
	t->settled = now.calls != t->calls || now.ran_ns > t->ran_ns + LONG_RUN_NS;
}

void direct_io_begin(struct direct_io_watch *w, int32_t pid)
{
	w->pid = pid;
	w->threads = 0;
	if (!each_entry(pid, "task", note, w))
		w->threads = DIRECT_IO_THREADS_MAX + 1;
}

bool direct_io_settled(struct direct_io_watch *w)
{
	char path[NAME_BYTES];
	bool all = true;
	int dirfd, i;

	snprintf(path, sizeof(path), "/proc/%d/task", w->pid);
	dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return errno == ENOENT || errno == ESRCH;
	if (w->threads > DIRECT_IO_THREADS_MAX)
		all = false;
	for (i = 0; i < w->threads && i < DIRECT_IO_THREADS_MAX; i++) {
		if (!w->thread[i].settled)
			look_again(&w->thread[i], dirfd);
		all = all && w->thread[i].settled;
	}
	close(dirfd);
	return all;
}
