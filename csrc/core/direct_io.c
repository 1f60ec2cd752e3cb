/* SPDX-License-Identifier: MIT */
#include "direct_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Asks is() of each entry of /proc/<pid>/<what> until one is. */
static bool any_entry(int32_t pid, const char *what,
		      bool (*is)(int dirfd, const char *name, void *arg), void *arg)
{
	char path[NAME_BYTES * 2];
	struct dirent *d;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	dir = opendir(path);
	while (dir && !found && (d = readdir(dir)))
		found = d->d_name[0] != '.' && is(dirfd(dir), d->d_name, arg);
	if (dir)
		closedir(dir);
	return found;
}

static bool is_direct(int dirfd, const char *name, void *arg)
{
	static const char flags[] = "flags:\t";
	char text[256];
	const char *at;

	(void)arg;
	/* fdinfo of an io_uring says how full its rings are. */
	if (!read_text(dirfd, name, text, sizeof(text)))
		return false;
	at = strstr(text, flags);
	return (at && strtoul(at + strlen(flags), NULL, 8) & O_DIRECT) ||
	       strstr(text, "SqMask:");
}

/* A file of the thread's directory. */
static bool read_of(int dirfd, const char *tid, const char *file, char *text, size_t bytes)
{
	char path[NAME_BYTES];

	snprintf(path, sizeof(path), "%.15s/%.15s", tid, file);
	return read_text(dirfd, path, text, bytes);
}

static uint64_t number_after(const char *text, const char *label)
{
	const char *at = strstr(text, label);

	return at ? strtoull(at + strlen(label), NULL, 10) : 0;
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

static bool note(int dirfd, const char *name, void *arg)
{
	struct direct_io_watch *w = arg;

	if (w->threads < DIRECT_IO_THREADS_MAX)
		w->thread[w->threads] = look_at(dirfd, name);
	w->threads++;
	return false;
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

bool direct_io_possible(int32_t pid)
{
	return any_entry(pid, "fdinfo", is_direct, NULL);
}

void direct_io_begin(struct direct_io_watch *w, int32_t pid)
{
	w->pid = pid;
	w->threads = 0;
	any_entry(pid, "task", note, w);
}

bool direct_io_settled(struct direct_io_watch *w)
{
	char path[NAME_BYTES];
	bool all = true;
	int dirfd, i;

	snprintf(path, sizeof(path), "/proc/%d/task", w->pid);
	dirfd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0)
		return true;
	for (i = 0; i < w->threads && i < DIRECT_IO_THREADS_MAX; i++) {
		if (!w->thread[i].settled)
			look_again(&w->thread[i], dirfd);
		all = all && w->thread[i].settled;
	}
	close(dirfd);
	return all;
}
