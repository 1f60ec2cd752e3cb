/* SPDX-License-Identifier: MIT */
#include "attach.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KNOWN_PAUSE_NS 500000
#define KNOWN_TRIES 20000       /* 10 s */

/* Newer than the headers of Debian 12. */
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* Defined where the heap's library is preloaded. */
extern const char uvmm_heap_is_guest_memory __attribute__((weak));

/* As one of the errors that uvmm_attach promises; the words tell which it was. */
static int promised(int rc)
{
	switch (rc) {
	case 0:
	case -ECONNREFUSED:
	case -EACCES:
	case -EPROTO:
	case -ENOMEM:
	case -EMFILE:
		return rc;
	case -ECONNRESET:
		return -ECONNREFUSED;
	case -ENFILE:
		return -EMFILE;
	default:
		return -EIO;
	}
}

static int fail(char *why, int rc, const char *what)
{
	snprintf(why, UVMM_TEXT_BYTES, "%.160s: %.60s", what, strerror(-rc));
	return rc;
}

/* --- environment ------------------------------------------------------------ */

static int parse_token(const char *hex, uint8_t token[UVMM_TOKEN_BYTES])
{
	size_t i;

	if (strlen(hex) != 2 * UVMM_TOKEN_BYTES)
		return -EINVAL;
	for (i = 0; i < UVMM_TOKEN_BYTES; i++) {
		char byte[3] = { hex[2 * i], hex[2 * i + 1], '\0' };

		if (!isxdigit((unsigned char)byte[0]) || !isxdigit((unsigned char)byte[1]))
			return -EINVAL;
		token[i] = (uint8_t)strtoul(byte, NULL, 16);
	}
	return 0;
}

static int read_environment(struct attachment *a, char *why)
{
	const char *path = getenv(UVMM_ENV_SOCKET), *name = getenv(UVMM_ENV_NAME);
	const char *token = getenv(UVMM_ENV_TOKEN);

	if (!path || !name || !token) {
		snprintf(why, UVMM_TEXT_BYTES, "%s", &uvmm_heap_is_guest_memory ?
			 "this program's heap is its guest memory already: start it with `uvmm run --heap none`" :
			 "this program is no guest: start it with `uvmm run -- PROGRAM`");
		return -ENOENT;
	}
	if (strlen(path) >= sizeof(a->socket) || strlen(name) > UVMM_NAME_MAX ||
	    parse_token(token, a->hello.token)) {
		snprintf(why, UVMM_TEXT_BYTES,
			 "the UVMM_* variables in the environment are not those of `uvmm run`");
		return -ENOENT;
	}
	strcpy(a->socket, path);
	strcpy(a->hello.name, name);
	a->hello.flags = getenv(UVMM_ENV_FOLLOW) ? UVMM_HELLO_KIN : 0;
	return 0;
}

/* --- connections ------------------------------------------------------------ */

/* *w with the descriptors that came in call->fds. */
static int say_hello(const struct attachment *a, enum uvmm_role role,
		     struct uvmm_welcome *w, struct rpc_call *call, char *why)
{
	struct uvmm_hello hello = a->hello;
	int fd, rc;

	hello.role = role;
	hello.flags = role == UVMM_ROLE_CONTROL ? hello.flags : 0;
	*call = (struct rpc_call){
		.type = UVMM_MSG_HELLO,
		.answer_type = UVMM_MSG_WELCOME,
		.body = &hello,
		.body_bytes = sizeof(hello),
		.send_fd = -1,
		.answer = w,
		.answer_bytes = sizeof(*w),
		.max_fds = role == UVMM_ROLE_CONTROL ? RPC_FDS_MAX : 0,
	};
	fd = rpc_connect(a->socket);
	if (fd < 0)
		return fail(why, fd, "cannot reach the daemon");
	rc = rpc_ask(fd, call, why);
	call->body = NULL;
	if (!rc)
		return fd;
	close(fd);
	return rc;
}

static void close_fds(struct rpc_call *call)
{
	while (call->n_fds > 0)
		close(call->fds[--call->n_fds]);
}

int attach_role(const struct attachment *a, enum uvmm_role role,
		char why[UVMM_TEXT_BYTES])
{
	struct uvmm_welcome w;
	struct rpc_call call;
	int fd = say_hello(a, role, &w, &call, why);

	if (fd < 0)
		return promised(fd);
	close_fds(&call);
	return fd;
}

int attach_ask(struct attachment *a, struct rpc_call *call, char why[UVMM_TEXT_BYTES])
{
	int rc = 0, fd;

	call->sent = false;
	pthread_mutex_lock(&a->lock);
	if (!kept_is_ours(&a->control)) {
		fd = attach_role(a, UVMM_ROLE_CONTROL, why);
		if (fd < 0)
			rc = -ECONNRESET;
		else
			a->control = kept_take(fd);
	}
	if (!rc) {
		rc = rpc_ask(a->control.fd, call, why);
		/* What comes on it next would be the answer to this. */
		if (rc == -EPROTO || rc == -ECONNRESET)
			kept_close(&a->control);
	}
	pthread_mutex_unlock(&a->lock);
	return rc;
}

int attach_ask_range(struct attachment *a, const struct uvmm_range *range, uint16_t type,
		     char why[UVMM_TEXT_BYTES])
{
	struct uvmm_reply reply;
	struct rpc_call call = {
		.type = type,
		.answer_type = UVMM_MSG_REPLY,
		.body = range,
		.body_bytes = sizeof(*range),
		.send_fd = -1,
		.answer = &reply,
		.answer_bytes = sizeof(reply),
	};

	return attach_ask(a, &call, why);
}

/* --- memory ----------------------------------------------------------------- */

static int fail_to_map(char *why, int rc)
{
	struct rlimit limit;
	bool limited = rc == -ENOMEM && !getrlimit(RLIMIT_AS, &limit) &&
		       limit.rlim_cur != RLIM_INFINITY;

	return fail(why, rc, limited ?
		    "cannot map guest memory: the limit of the address space (ulimit -v) is under --max" :
		    "cannot map guest memory");
}

/* Addresses for the memory, at a multiple of its size or more: so a block that is aligned
 * in it is so in the process, too. */
static int reserve(size_t bytes, char **out, char *why)
{
	uintptr_t align = UVMM_CHUNK_SIZE, at;
	void *room;

	while (align < bytes)
		align *= 2;
	room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return fail_to_map(why, -errno);
	munmap(room, bytes);
	/* The kernel gives the highest that are free: what is below mostly is, too. */
	for (at = (uintptr_t)room / align * align; at; at -= align) {
		room = mmap((void *)at, bytes, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE,
			    -1, 0);
		if (room != MAP_FAILED || errno != EEXIST)
			break;
	}
	if (!at || room == MAP_FAILED)
		return fail_to_map(why, at ? -errno : -ENOMEM);
	*out = room;
	return 0;
}

/* At a->base if that is set, which has to be free, else wherever there is room. */
static int map_memory(struct attachment *a, int memory, char *why)
{
	size_t bytes = a->pages * UVMM_PAGE_SIZE;
	int fixed = a->base ? MAP_FIXED_NOREPLACE : MAP_FIXED, rc;
	char *base = a->base;
	void *got;

	rc = base ? 0 : reserve(bytes, &base, why);
	if (rc)
		return rc;
	got = mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, memory, 0);
	if (got == MAP_FAILED) {
		rc = fail_to_map(why, -errno);
		if (!a->base)
			munmap(base, bytes);
		return rc;
	}
	a->base = base;
	/* A child would put zeros where pages are absent: it gets none of this. */
	if (madvise(base, bytes, MADV_DONTFORK)) {
		rc = fail(why, -errno, "cannot keep guest memory from children");
		munmap(base, bytes);
	}
	return rc;
}

static int open_memory(const struct uvmm_welcome *w, const struct rpc_call *call, char *why)
{
	int fd;

	if (w->via == UVMM_VIA_DESCRIPTOR && call->n_fds == 2) {
		fd = fcntl(call->fds[1], F_DUPFD_CLOEXEC, 0);
		return fd < 0 ? fail(why, -errno, "cannot keep the memory file") : fd;
	}
	if (w->via != UVMM_VIA_FUSE || call->n_fds != 1 ||
	    !memchr(w->path, '\0', sizeof(w->path))) {
		snprintf(why, UVMM_TEXT_BYTES, "the daemon's WELCOME says nothing of the memory");
		return -EPROTO;
	}
	fd = open(w->path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? fail(why, -errno, w->path) : fd;
}

static int hand_over(struct attachment *a, int device, char *why)
{
	struct uvmm_mapped mapped = { .base = (uintptr_t)a->base, .pages = a->pages };
	struct uvmm_reply reply;
	struct rpc_call call = {
		.type = UVMM_MSG_MAPPED,
		.answer_type = UVMM_MSG_REPLY,
		.body = &mapped,
		.body_bytes = sizeof(mapped),
		.answer = &reply,
		.answer_bytes = sizeof(reply),
	};
	int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK), rc;

	if (uffd < 0)
		return fail(why, -errno, "cannot make a userfaultfd");
	call.send_fd = uffd;
	rc = rpc_ask(a->control.fd, &call, why);
	if (rc)
		close(uffd);
	else
		a->userfault = kept_take(uffd);
	return rc;
}

static int take_welcome(struct attachment *a, const struct uvmm_welcome *w,
			const struct rpc_call *call, char *why)
{
	int memory, rc;

	if (!w->max_pages || w->max_pages % UVMM_CHUNK_PAGES || w->max_pages > 1ull << 36) {
		snprintf(why, UVMM_TEXT_BYTES, "the daemon offers %llu pages of memory",
			 (unsigned long long)w->max_pages);
		return -EPROTO;
	}
	if (a->base && w->max_pages != a->pages) {
		snprintf(why, UVMM_TEXT_BYTES, "the child is offered %llu pages, the parent has %llu",
			 (unsigned long long)w->max_pages, (unsigned long long)a->pages);
		return -EPROTO;
	}
	a->pages = w->max_pages;
	memory = open_memory(w, call, why);
	if (memory < 0)
		return memory;
	rc = map_memory(a, memory, why);
	close(memory);
	if (rc)
		return rc;
	rc = hand_over(a, call->fds[0], why);
	if (rc)
		munmap(a->base, a->pages * UVMM_PAGE_SIZE);
	return rc;
}

/* Says HELLO as CONTROL, again for as long as the daemon has not registered a
 * process that is kin to a guest. */
static int hello_until_known(struct attachment *a, struct uvmm_welcome *w,
			     struct rpc_call *call, char *why)
{
	const struct timespec pause = { .tv_nsec = KNOWN_PAUSE_NS };
	int fd, tries;

	for (tries = 0; tries < KNOWN_TRIES; tries++) {
		fd = say_hello(a, UVMM_ROLE_CONTROL, w, call, why);
		if (fd != -EAGAIN)
			break;
		nanosleep(&pause, NULL);
	}
	return fd == -EAGAIN ? -EACCES : fd;
}

static int attach(struct attachment *a, char *why)
{
	struct uvmm_welcome w;
	struct rpc_call call;
	int fd, rc;

	a->control.fd = a->userfault.fd = -1;
	pthread_mutex_init(&a->lock, NULL);
	fd = hello_until_known(a, &w, &call, why);
	if (fd < 0)
		return promised(fd);
	a->control = kept_take(fd);
	rc = take_welcome(a, &w, &call, why);
	close_fds(&call);
	if (rc)
		kept_close(&a->control);
	return promised(rc);
}

int attach_open(struct attachment *a, char why[UVMM_TEXT_BYTES])
{
	int rc;

	memset(a, 0, sizeof(*a));
	rc = read_environment(a, why);
	return rc ? rc : attach(a, why);
}

int attach_again(struct attachment *a, char why[UVMM_TEXT_BYTES])
{
	/* The parent's. */
	kept_close(&a->control);
	kept_close(&a->userfault);
	a->hello.flags = UVMM_HELLO_KIN;
	return attach(a, why);
}

void attach_close(struct attachment *a)
{
	munmap(a->base, a->pages * UVMM_PAGE_SIZE);
	kept_close(&a->userfault);
	kept_close(&a->control);
	pthread_mutex_destroy(&a->lock);
}
