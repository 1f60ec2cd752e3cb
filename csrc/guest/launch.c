/* SPDX-License-Identifier: MIT
 *
 * uvmm-launch - stands for a guest towards whoever started `uvmm run`:
 *
 *   uvmm-launch --pid CHILD --watch FD --name NAME
 *
 *   CHILD is a child of this process (uvmm run forks it, then executes this), FD
 *   a WATCH connection. Signals that are sent to this process go on to the
 *   child; those that the terminal sends to the whole group it has already.
 *   When job control stops the child this process stops too. What the daemon has to say
 *   is printed to stderr. It ends as the child ended: with its status, or by its
 *   signal.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rpc.h"

#define LAST_WORDS_MS 200       /* a refusal may come after the child's death */
#define GRACE_MS 200            /* the daemon's end may be the child's, too */

struct launch {
	pid_t child;
	int watch;              /* -1 once the daemon has closed it */
	bool gone_untold;       /* it has, and nobody was told */
	int signals;
	const char *name;
};

static int usage(void)
{
	fprintf(stderr, "uvmm-launch: expected --pid CHILD --watch FD --name NAME\n");
	return 2;
}

static bool parse_number(const char *text, int *out)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	*out = (int)n;
	return !errno && end != text && !*end && n >= 0 && n <= 1 << 30;
}

static bool parse(int argc, char **argv, struct launch *l)
{
	static const struct option options[] = {
		{ "pid", required_argument, NULL, 'p' },
		{ "watch", required_argument, NULL, 'w' },
		{ "name", required_argument, NULL, 'n' },
		{ 0 },
	};
	int o;

	*l = (struct launch){ .watch = -1 };
	opterr = 0;
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (o == 'p' ? !parse_number(optarg, &l->child) :
		    o == 'w' ? !parse_number(optarg, &l->watch) : o != 'n')
			return false;
		if (o == 'n')
			l->name = optarg;
	}
	return optind == argc && l->child > 0 && l->watch >= 0 && l->name;
}

static void print_notice(const struct uvmm_notice *n)
{
	char text[sizeof(n->text)];
	size_t i;

	memcpy(text, n->text, sizeof(text));
	text[sizeof(text) - 1] = '\0';
	for (i = 0; text[i]; i++)
		if (text[i] < ' ' || text[i] > '~')
			text[i] = '?';
	fprintf(stderr, "uvmm: %s\n", text);
}

/* One message of the daemon; false when there will be no more. */
static bool hear(struct launch *l)
{
	struct uvmm_msg_head head;
	struct uvmm_notice n;
	size_t got;

	if (rpc_receive(l->watch, &head, &n, sizeof(n), &got, NULL)) {
		close(l->watch);
		l->watch = -1;
		return false;
	}
	if (head.type == UVMM_MSG_NOTICE && got == sizeof(n))
		print_notice(&n);
	return true;
}

/* Dies as the child did, for good. */
static int end_as(struct launch *l, int status)
{
	struct pollfd p = { .fd = l->watch, .events = POLLIN };
	int sig = WTERMSIG(status);
	sigset_t set;

	while (l->watch >= 0 && poll(&p, 1, WIFSIGNALED(status) ? LAST_WORDS_MS : 0) > 0)
		if (!hear(l))
			break;
	if (!WIFSIGNALED(status))
		return WEXITSTATUS(status);
	/* The core is the child's. A limit of 0 does not stop one that is piped. */
	prctl(PR_SET_DUMPABLE, 0);
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
	return 128 + sig;
}

/* What a terminal does, and a shell's `fg` ends for both. Who sends SIGSTOP to the
 * child alone will continue it alone, and this process would be left stopped. */
static bool is_job_control(int status)
{
	return WSTOPSIG(status) == SIGTSTP || WSTOPSIG(status) == SIGTTIN ||
	       WSTOPSIG(status) == SIGTTOU;
}

/* Looks after the child; true when it has ended, with *status. */
static bool reap(const struct launch *l, int *status)
{
	pid_t pid;

	while ((pid = waitpid(l->child, status, WNOHANG | WUNTRACED)) == l->child) {
		if (!WIFSTOPPED(*status))
			return true;
		if (is_job_control(*status))
			kill(getpid(), SIGSTOP);
	}
	return false;
}

/* The terminal has sent it to the whole foreground group, or the child has to its
 * own: the child has it. */
static bool child_has(const struct launch *l, const struct signalfd_siginfo *s)
{
	if (s->ssi_code == SI_KERNEL)
		return s->ssi_signo != SIGCONT && getpgid(l->child) == getpgrp();
	return (pid_t)s->ssi_pid == l->child;
}

static void pass_on(const struct launch *l, const struct signalfd_siginfo *s)
{
	if (s->ssi_signo != SIGCHLD && !child_has(l, s))
		kill(l->child, (int)s->ssi_signo);
}

static void tell_gone(struct launch *l)
{
	l->gone_untold = false;
	fprintf(stderr, "uvmm: the daemon is gone; %s waits for memory that is not resident\n",
		l->name);
}

static int watch_over(struct launch *l)
{
	struct signalfd_siginfo s;
	int status, n;

	while (!reap(l, &status)) {
		struct pollfd p[2] = {
			{ .fd = l->signals, .events = POLLIN },
			{ .fd = l->watch, .events = POLLIN },
		};

		n = poll(p, 2, l->gone_untold ? GRACE_MS : -1);
		if (n < 0 && errno != EINTR)
			return 1;
		if (!n)
			tell_gone(l);
		if (n <= 0)
			continue;
		if (p[0].revents && read(l->signals, &s, sizeof(s)) == sizeof(s))
			pass_on(l, &s);
		if (p[1].revents)
			l->gone_untold = !hear(l);
	}
	return end_as(l, status);
}

/* All signals come by l->signals. */
static int take_signals(struct launch *l)
{
	sigset_t all;

	/* Inherited as ignored, SIGCHLD would hide the child's end; and one of our own
	 * for stderr that nobody reads is not for the child. */
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
	sigfillset(&all);
	sigdelset(&all, SIGPIPE);
	sigprocmask(SIG_SETMASK, &all, NULL);
	l->signals = signalfd(-1, &all, SFD_CLOEXEC);
	return l->signals < 0 ? -errno : 0;
}

static bool is_child(pid_t pid)
{
	siginfo_t info;

	return !waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT);
}

int main(int argc, char **argv)
{
	struct launch l;
	int rc;

	if (!parse(argc, argv, &l))
		return usage();
	rc = take_signals(&l);
	if (rc) {
		fprintf(stderr, "uvmm-launch: signalfd: %s\n", strerror(-rc));
		return 1;
	}
	if (!is_child(l.child) || fcntl(l.watch, F_GETFD) < 0) {
		fprintf(stderr, "uvmm-launch: expected a child and a descriptor, got pid %d, descriptor %d\n",
			(int)l.child, l.watch);
		return 2;
	}
	return watch_over(&l);
}
