/* SPDX-License-Identifier: MIT */
#include "fork.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "image.h"
#include "locked.h"
#include "raw.h"
#include "rlimits.h"
#include "space.h"

#define EXPORT __attribute__((visibility("default")))
#define READY 'r'

/* A run of pages that follow on the socket; 0 pages end it. */
struct parcel {
	uint64_t page, pages;
};

/* Of the fork that is under way; under the frozen allocator's lock. */
static struct {
	pid_t parent;           /* 0: none is */
	int parents_end, childs_end;
	unsigned kept;          /* all of guest memory is */
	struct sigaction former;
	stack_t former_stack;
	sigset_t mask;
	int (*main)(void *arg);         /* of clone() */
	void *arg;
} forking;

/* The thread's own stack may be in guest memory. */
static char fault_stack[64 << 10];


/* What the linker makes of pthread_atfork() (--wrap). */
int __real_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void));

/* --- socket ----------------------------------------------------------------- */

static bool send_all(int fd, const void *data, size_t bytes)
{
	const char *at = data;

	while (bytes) {
		ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

static bool receive_all(int fd, void *data, size_t bytes)
{
	char *at = data;

	while (bytes) {
		ssize_t n = recv(fd, at, bytes, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		at += n;
		bytes -= (size_t)n;
	}
	return true;
}

/* --- parent ----------------------------------------------------------------- */

static char *address_of(uint64_t page)
{
	return the_space.attachment.base + page * UVMM_PAGE_SIZE;
}

/* Which of the pages hold anything; all if the daemon does not say. */
static void ask_content(uint64_t page, uint64_t n, struct uvmm_bitmap *out)
{
	struct uvmm_range range = { .ppn = page, .pages = n };
	struct rpc_call call = {
		.type = UVMM_MSG_CONTENT,
		.answer_type = UVMM_MSG_BITMAP,
		.body = &range,
		.body_bytes = sizeof(range),
		.send_fd = -1,
		.answer = out,
		.answer_bytes = sizeof(*out),
	};
	char why[UVMM_TEXT_BYTES];

	if (attach_ask(&the_space.attachment, &call, why))
		memset(out, 0xff, sizeof(*out));
}

static bool has(const struct uvmm_bitmap *b, uint64_t i)
{
	return b->bits[i / 64] >> (i % 64) & 1;
}

/* Pages that the program itself may not read are made readable for the moment. */
static bool send_pages(int fd, uint64_t page, uint64_t n)
{
	struct parcel p = { .page = page, .pages = n };
	int rights = space_rights(address_of(page));
	bool hidden = !(rights & PROT_READ), sent;
	size_t bytes = n * UVMM_PAGE_SIZE;

	if (hidden && raw_mprotect(address_of(page), bytes, PROT_READ))
		return false;
	sent = send_all(fd, &p, sizeof(p)) && send_all(fd, address_of(page), bytes);
	if (hidden)
		raw_mprotect(address_of(page), bytes, rights);
	return sent;
}

/* A part of a run in use: of its pages those that hold anything, in pieces with the
 * same rights. */
static bool send_content(int fd, uint64_t page, uint64_t n)
{
	struct uvmm_bitmap held;
	uint64_t i = 0, to;

	ask_content(page, n, &held);
	while (i < n) {
		const uint8_t *rights = the_space.rights + page;

		for (to = i; to < n && has(&held, to) && rights[to] == rights[i]; to++)
			;
		if (to > i && rights[i] != SPACE_LOST && !send_pages(fd, page + i, to - i))
			return false;
		i = to > i ? to : i + 1;
	}
	return true;
}

static void send_memory(int fd)
{
	struct parcel end = { .pages = 0 };
	uint64_t page, n, at, part;

	for (page = 0; physmem_next_run(&the_space.physmem, &page, &n); page += n) {
		for (at = page; at < page + n; at += part) {
			part = page + n - at;
			part = part < UVMM_BITMAP_PAGES ? part : UVMM_BITMAP_PAGES;
			if (!send_content(fd, at, part))
				return;
		}
	}
	send_all(fd, &end, sizeof(end));
}

/* --- child ------------------------------------------------------------------ */

static void restore_rights(void)
{
	uint64_t pages = the_space.attachment.pages, page = 0, to;

	for (; page < pages; page = to) {
		uint8_t rights = the_space.rights[page];

		for (to = page + 1; to < pages && the_space.rights[to] == rights; to++)
			;
		if (rights)
			raw_mprotect(address_of(page), (to - page) * UVMM_PAGE_SIZE,
				     rights ^ SPACE_RW);
	}
}

static void receive_memory(int fd)
{
	uint64_t pages = the_space.attachment.pages;
	struct parcel p;

	for (;;) {
		if (!receive_all(fd, &p, sizeof(p)))
			break;
		if (!p.pages)
			return;
		if (p.page >= pages || p.pages > pages - p.page ||
		    !receive_all(fd, address_of(p.page), p.pages * UVMM_PAGE_SIZE))
			break;
	}
	space_die("a forked child lost its parent before it had all of its memory");
}

/* Before that the child has no heap; async-signal-safe. */
static void become_guest(void)
{
	char why[UVMM_TEXT_BYTES], ready = READY;
	int saved = errno;

	forking.parent = 0;
	close(forking.parents_end);
	/* Its own calls of mmap() are for the kernel. */
	atomic_store(&the_space.state, SPACE_OPENING);
	if (attach_again(&the_space.attachment, why))
		space_die(why);
	atomic_store(&the_space.state, SPACE_OPEN);
	if (!send_all(forking.childs_end, &ready, 1))
		space_die("a forked child lost its parent before it had its memory");
	receive_memory(forking.childs_end);
	close(forking.childs_end);
	restore_rights();
	errno = saved;
}

/* --- the moment of fork ------------------------------------------------------- */

static void on_fault(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *f = &forking.former;
	size_t clipped;
	char *from;

	if (forking.parent && getpid() != forking.parent &&
	    space_clip(info->si_addr, 1, &from, &clipped)) {
		become_guest();
	} else if (f->sa_flags & SA_SIGINFO) {
		f->sa_sigaction(sig, info, context);
	} else if (f->sa_handler != SIG_DFL && f->sa_handler != SIG_IGN) {
		f->sa_handler(sig);
	} else {
		/* Comes again, and is fatal. */
		sigaction(sig, f, NULL);
	}
}

static void catch_fault(void)
{
	struct sigaction action = {
		.sa_sigaction = on_fault,
		.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK,
	};
	stack_t stack = { .ss_sp = fault_stack, .ss_size = sizeof(fault_stack) };
	sigset_t fault;

	sigaltstack(&stack, &forking.former_stack);
	sigaction(SIGSEGV, &action, &forking.former);
	sigemptyset(&fault);
	sigaddset(&fault, SIGSEGV);
	pthread_sigmask(SIG_UNBLOCK, &fault, &forking.mask);
}

static void release_fault(void)
{
	pthread_sigmask(SIG_SETMASK, &forking.mask, NULL);
	sigaction(SIGSEGV, &forking.former, NULL);
	sigaltstack(&forking.former_stack, NULL);
}

static void prepare(void)
{
	int ends[2];

	if (!space_is_open())
		return;
	physmem_freeze(&the_space.physmem);
	forking.kept = remap_keep(&the_space.remap, 0, the_space.attachment.pages);
	/* Without the pair the child ends, with words, at its first access. */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
		ends[0] = ends[1] = -1;
	forking.parents_end = ends[0];
	forking.childs_end = ends[1];
	forking.parent = getpid();
	catch_fault();
}

static void in_parent(void)
{
	char ready;

	if (!space_is_open())
		return;
	forking.parent = 0;
	release_fault();
	close(forking.childs_end);
	if (receive_all(forking.parents_end, &ready, 1))
		send_memory(forking.parents_end);
	close(forking.parents_end);
	remap_release(&the_space.remap, forking.kept);
	physmem_thaw(&the_space.physmem, false);
}

static void in_child(void)
{
	if (!space_is_open())
		return;
	if (forking.parent)
		become_guest();
	release_fault();
	physmem_thaw(&the_space.physmem, true);
	remap_forked(&the_space.remap);
	driver_forked(&the_space.balloon);
	locked_forked();
	image_forked();
	rlimits_forked();
}

void fork_register(void)
{
	static bool registered;

	if (!registered) {
		registered = true;
		__real_pthread_atfork(prepare, in_parent, in_child);
	}
}

void fork_register_last(void (*last)(void))
{
	__real_pthread_atfork(NULL, NULL, last);
}

/* jemalloc's registration, which this has to precede. */
int __wrap_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void));

int __wrap_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void))
{
	fork_register();
	return __real_pthread_atfork(before, parent, child);
}

/* Runs no handlers; the child is to do little, but may need its memory for it. */
EXPORT pid_t _Fork(void)
{
	pid_t (*next)(void);
	pid_t pid;

	*(void **)&next = dlsym(RTLD_NEXT, "_Fork");
	prepare();
	pid = next();
	if (pid)
		in_parent();
	else
		in_child();
	return pid;
}

static int clone_main(void *unused)
{
	(void)unused;
	in_child();
	return forking.main(forking.arg);
}

/* Without CLONE_VM it is a fork, of which the handlers hear nothing. */
EXPORT int clone(int (*main)(void *arg), void *stack, int flags, void *arg, ...)
{
	int (*next)(int (*)(void *), void *, int, void *, ...);
	void *more[3] = { NULL };
	va_list args;
	int pid, i;

	va_start(args, arg);
	for (i = 0; i < 3; i++)
		if (flags & (CLONE_PARENT_SETTID | CLONE_SETTLS | CLONE_CHILD_SETTID |
			     CLONE_CHILD_CLEARTID | CLONE_PIDFD))
			more[i] = va_arg(args, void *);
	va_end(args);
	*(void **)&next = dlsym(RTLD_NEXT, "clone");
	if (flags & CLONE_VM || !space_is_open())
		return next(main, stack, flags, arg, more[0], more[1], more[2]);
	prepare();
	forking.main = main;
	forking.arg = arg;
	pid = next(clone_main, stack, flags, NULL, more[0], more[1], more[2]);
	in_parent();
	return pid;
}
