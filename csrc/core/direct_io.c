/* SPDX-License-Identifier: MIT */
#include "direct_io.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_BYTES 32

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
static bool any_entry(int32_t pid, const char *what, bool (*is)(int dirfd, const char *name))
{
	char path[NAME_BYTES * 2];
	struct dirent *d;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	dir = opendir(path);
	while (dir && !found && (d = readdir(dir)))
		found = d->d_name[0] != '.' && is(dirfd(dir), d->d_name);
	if (dir)
		closedir(dir);
	return found;
}

static bool is_direct(int dirfd, const char *name)
{
	static const char flags[] = "flags:\t";
	char text[256];
	const char *at;

	/* fdinfo of an io_uring says how full its rings are. */
	if (!read_text(dirfd, name, text, sizeof(text)))
		return false;
	at = strstr(text, flags);
	return (at && strtoul(at + strlen(flags), NULL, 8) & O_DIRECT) ||
	       strstr(text, "SqMask:");
}

static bool is_waiting(int dirfd, const char *name)
{
	char path[NAME_BYTES], text[256];
	const char *at;

	if (strlen(name) + sizeof("/stat") > sizeof(path))
		return false;
	snprintf(path, sizeof(path), "%.20s/stat", name);
	if (!read_text(dirfd, path, text, sizeof(text)))
		return false;
	/* "tid (comm) S ...", and comm may hold anything. */
	at = strrchr(text, ')');
	return at && at[1] == ' ' && at[2] == 'D';
}

bool direct_io_possible(int32_t pid)
{
	return any_entry(pid, "fdinfo", is_direct);
}

bool direct_io_waiting(int32_t pid)
{
	return any_entry(pid, "task", is_waiting);
}
