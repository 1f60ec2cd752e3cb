/* SPDX-License-Identifier: MIT */
#include "image.h"

#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "rlimits.h"
#include "space.h"

#define EXPORT __attribute__((visibility("default")))
#define PRELOAD_NAME "LD_PRELOAD"
#define VALUE_BYTES 4096
enum kept { SOCKET, NAME, TOKEN, PID, FOLLOW, LIFT, PRELOAD, KEPT };

typedef int execve_fn(const char *path, char *const argv[], char *const envp[]);
typedef int posix_spawn_fn(pid_t *pid, const char *path,
			   const posix_spawn_file_actions_t *actions,
			   const posix_spawnattr_t *attributes, char *const argv[],
			   char *const envp[]);
typedef int fexecve_fn(int fd, char *const argv[], char *const envp[]);
typedef int execveat_fn(int dir, const char *path, char *const argv[], char *const envp[],
			int flags);

static struct {
	pid_t guest;            /* 0: this process is none */
	bool follow;
	/* NAME=value as they were, "" for none: */
	char kept[KEPT][VALUE_BYTES];
	char users_preload[VALUE_BYTES];        /* LD_PRELOAD without this library */
	execve_fn *execve, *execvpe;
	fexecve_fn *fexecve;
	execveat_fn *execveat;
	posix_spawn_fn *posix_spawn, *posix_spawnp;
} image;

static const char *const names[KEPT] = {
	UVMM_ENV_SOCKET, UVMM_ENV_NAME, UVMM_ENV_TOKEN, UVMM_ENV_PID, UVMM_ENV_FOLLOW,
	RLIMITS_ENV, PRELOAD_NAME,
};

/* Which of them an entry NAME=value is, or KEPT. */
static size_t which(const char *entry)
{
	size_t i;

	for (i = 0; i < KEPT; i++) {
		size_t len = strlen(names[i]);

		if (!strncmp(entry, names[i], len) && entry[len] == '=')
			break;
	}
	return i;
}

/* LD_PRELOAD without this library, which `uvmm run` puts first. */
static void keep_users_preload(void)
{
	const char *mine = image.kept[PRELOAD], *rest = strpbrk(mine, ": ");

	if (rest && rest[1])
		snprintf(image.users_preload, sizeof(image.users_preload), PRELOAD_NAME "=%.*s",
			 (int)sizeof(image.users_preload) - 16, rest + 1);
}

static size_t count(char *const list[])
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

/* From the program's view it was never there. The array that the kernel made keeps its
 * length, since some runtimes look behind it for what the kernel says of the
 * process: there another entry is repeated. */
static void hide(void)
{
	size_t n = count(environ), left = 0, i;
	char **clean = malloc((n + 1) * sizeof(*clean)), **entry = environ;
	static char nothing[] = "";

	if (!clean)
		space_die("no memory for the environment");
	for (i = 0; i < n; i++) {
		size_t ours = which(entry[i]);

		if (ours == PRELOAD && image.users_preload[0])
			entry[i] = image.users_preload;
		else if (ours < KEPT)
			continue;
		clean[left++] = entry[i];
	}
	clean[left] = NULL;
	for (i = 0; i < n; i++)
		if (which(entry[i]) < KEPT && entry[i] != image.users_preload)
			entry[i] = left ? clean[0] : nothing;
	environ = clean;
}

static void *next(const char *name)
{
	return dlsym(RTLD_NEXT, name);
}

void image_open(void)
{
	char **entry;
	size_t i;

	for (entry = environ; *entry; entry++) {
		i = which(*entry);
		if (i < KEPT)
			snprintf(image.kept[i], VALUE_BYTES, "%.*s", VALUE_BYTES - 1, *entry);
	}
	*(void **)&image.execve = next("execve");
	*(void **)&image.execvpe = next("execvpe");
	*(void **)&image.fexecve = next("fexecve");
	*(void **)&image.execveat = next("execveat");
	*(void **)&image.posix_spawn = next("posix_spawn");
	*(void **)&image.posix_spawnp = next("posix_spawnp");
	snprintf(image.kept[LIFT], VALUE_BYTES, RLIMITS_ENV "=%zu", rlimits_lift());
	keep_users_preload();
	image.follow = image.kept[FOLLOW][0];
	if (image.follow)
		putenv(image.kept[LIFT]);
	else
		hide();
	image.guest = getpid();
}

void image_forked(void)
{
	image.guest = 0;
}

/* --- exec ------------------------------------------------------------------- */

static bool stays_guest(void)
{
	return image.follow || (image.guest && getpid() == image.guest);
}

/* envp with what makes a guest, in out[count(envp) + KEPT + 1]. */
static char *const *guest_environment(char *const envp[], char **out)
{
	size_t n = 0, i;

	for (; envp && *envp; envp++)
		if (which(*envp) == KEPT)
			out[n++] = *envp;
	for (i = 0; i < KEPT; i++)
		if (image.kept[i][0])
			out[n++] = image.kept[i];
	out[n] = NULL;
	return out;
}

#define ENVIRONMENT(envp) \
	(stays_guest() ? \
	 guest_environment(envp, alloca((count(envp) + KEPT + 1) * sizeof(char *))) : (envp))

static int failed(bool left)
{
	int saved = errno;

	if (left)
		rlimits_return();
	errno = saved;
	return -1;
}

/* Called before the constructor, by another library's, there is no next yet. */
#define CALL(function, ...) \
	do { \
		bool left_ = !stays_guest() && rlimits_leave(0); \
		if (image.function) \
			image.function(__VA_ARGS__); \
		else \
			errno = ENOSYS; \
		return failed(left_); \
	} while (0)

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	CALL(execve, path, argv, ENVIRONMENT(envp));
}

EXPORT int execv(const char *path, char *const argv[])
{
	CALL(execve, path, argv, ENVIRONMENT(environ));
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	CALL(execvpe, file, argv, ENVIRONMENT(envp));
}

EXPORT int execvp(const char *file, char *const argv[])
{
	CALL(execvpe, file, argv, ENVIRONMENT(environ));
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	CALL(fexecve, fd, argv, ENVIRONMENT(envp));
}

EXPORT int execveat(int dir, const char *path, char *const argv[], char *const envp[],
		    int flags)
{
	CALL(execveat, dir, path, argv, ENVIRONMENT(envp), flags);
}

/* The arguments of execl() and its kin as a list on the stack; ends at the NULL. */
#define LIST(first, args, list) \
	do { \
		size_t n_ = 1, i_; \
		va_list again_; \
		va_copy(again_, args); \
		while (va_arg(again_, char *)) \
			n_++; \
		va_end(again_); \
		(list) = alloca((n_ + 1) * sizeof(char *)); \
		(list)[0] = (char *)(uintptr_t)(first); \
		for (i_ = 1; i_ <= n_; i_++) \
			(list)[i_] = va_arg(args, char *); \
	} while (0)

EXPORT int execl(const char *path, const char *arg, ...)
{
	char **list;
	va_list args;

	va_start(args, arg);
	LIST(arg, args, list);
	va_end(args);
	return execv(path, list);
}

EXPORT int execlp(const char *file, const char *arg, ...)
{
	char **list;
	va_list args;

	va_start(args, arg);
	LIST(arg, args, list);
	va_end(args);
	return execvp(file, list);
}

EXPORT int execle(const char *path, const char *arg, ...)
{
	char *const *envp;
	char **list;
	va_list args;

	va_start(args, arg);
	LIST(arg, args, list);
	envp = va_arg(args, char *const *);
	va_end(args);
	return execve(path, list, envp);
}

/* --- posix_spawn ------------------------------------------------------------ */

static int spawn(posix_spawn_fn *real, pid_t *pid, const char *path,
		 const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
		 char *const argv[], char *const envp[])
{
	pid_t child;
	int rc = real ? real(&child, path, actions, attributes, argv, envp) : ENOSYS;

	if (rc)
		return rc;
	/* It has executed: it may be told as another process only. */
	if (!image.follow)
		rlimits_leave(child);
	if (pid)
		*pid = child;
	return 0;
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const argv[],
		       char *const envp[])
{
	return spawn(image.posix_spawn, pid, path, actions, attributes, argv, envp);
}

EXPORT int posix_spawnp(pid_t *pid, const char *file,
			const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attributes, char *const argv[],
			char *const envp[])
{
	return spawn(image.posix_spawnp, pid, file, actions, attributes, argv, envp);
}
