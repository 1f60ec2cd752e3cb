/* SPDX-License-Identifier: MIT
 *
 * An ordinary program: it knows nothing of uvmm. Checks what it may expect of its
 * memory and its processes, and prints what it found, the same on any machine.
 *
 *   heap_check MODE      each of the functions in modes[] below
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define MIB (1u << 20)

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			printf("%s:%d: %s: %m\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

extern char **environ;

static uint64_t rng(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

static int holds(const unsigned char *p, size_t n, unsigned char value)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (p[i] != value)
			return 0;
	return 1;
}

/* Many blocks that come, grow, go; each is to hold what was put there. */
static void *churn(void *arg)
{
	enum { BLOCKS = 2000 };
	struct {
		unsigned char *at;
		size_t n;
		unsigned char value;
	} block[BLOCKS] = { 0 };
	uint64_t s = (uintptr_t)arg * 77 + 1, round;

	for (round = 0; round < 60000; round++) {
		size_t i = rng(&s) % BLOCKS, n = 1 + rng(&s) % (rng(&s) % 16 ? 3000 : 200000);

		CHECK(holds(block[i].at, block[i].n, block[i].value));
		switch (rng(&s) % 4) {
		case 0:
			free(block[i].at);
			block[i].at = calloc(1, n);
			CHECK(block[i].at && holds(block[i].at, n, 0));
			break;
		case 1: {
			void *aligned;

			free(block[i].at);
			CHECK(!posix_memalign(&aligned, 1u << (4 + rng(&s) % 10), n));
			block[i].at = aligned;
			break;
		}
		default: {
			size_t kept = n < block[i].n ? n : block[i].n;

			block[i].at = realloc(block[i].at, n);
			CHECK(block[i].at && holds(block[i].at, kept, block[i].value));
		}
		}
		block[i].n = n;
		block[i].value = (unsigned char)rng(&s);
		memset(block[i].at, block[i].value, n);
	}
	for (round = 0; round < BLOCKS; round++) {
		CHECK(holds(block[round].at, block[round].n, block[round].value));
		free(block[round].at);
	}
	return NULL;
}

/* Also far beyond large pages. */
static void check_alignment(void)
{
	size_t align;
	void *at;

	for (align = 64; align <= 64 * MIB; align *= 2) {
		CHECK(!posix_memalign(&at, align, align / 2 + 5000));
		CHECK((uintptr_t)at % align == 0 && memset(at, 1, PAGE));
		free(at);
	}
}

static void mode_malloc(void)
{
	pthread_t thread[4];
	uintptr_t i;

	check_alignment();
	for (i = 0; i < 4; i++)
		CHECK(!pthread_create(&thread[i], NULL, churn, (void *)(i + 1)));
	for (i = 0; i < 4; i++)
		CHECK(!pthread_join(thread[i], NULL));
}

static unsigned char *map(size_t bytes, int prot)
{
	void *at = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(at != MAP_FAILED && (uintptr_t)at % PAGE == 0);
	return at;
}

static sig_atomic_t volatile faults;
static unsigned char *protected_page;

static void on_fault(int sig, siginfo_t *info, void *context)
{
	(void)sig, (void)context;
	if ((unsigned char *)info->si_addr < protected_page ||
	    (unsigned char *)info->si_addr >= protected_page + PAGE)
		_exit(99);
	faults++;
	mprotect(protected_page, PAGE, PROT_READ | PROT_WRITE);
}

static void mode_mmap(void)
{
	unsigned char *a = map(4 * MIB, PROT_READ | PROT_WRITE), *b;
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	int round;

	CHECK(holds(a, 4 * MIB, 0));
	memset(a, 1, 4 * MIB);
	/* Parts go, and what comes is zero whoever had it. */
	CHECK(!munmap(a + MIB, MIB));
	for (round = 0; round < 50; round++) {
		b = map(MIB, PROT_READ | PROT_WRITE);
		CHECK(holds(b, MIB, 0));
		memset(b, 7, MIB);
		CHECK(!munmap(b, MIB));
	}
	CHECK(holds(a, MIB, 1) && holds(a + 2 * MIB, 2 * MIB, 1));
	/* Advice. */
	CHECK(!madvise(a + 2 * MIB, MIB, MADV_DONTNEED));
	CHECK(holds(a + 2 * MIB, MIB, 0) && holds(a + 3 * MIB, MIB, 1));
	CHECK(!madvise(a + 3 * MIB, PAGE, MADV_DONTNEED));
	CHECK(holds(a + 3 * MIB, PAGE, 0) && a[3 * MIB + PAGE] == 1);
	/* Rights. */
	sigaction(SIGSEGV, &action, NULL);
	protected_page = a + 3 * MIB + 8 * PAGE;
	CHECK(!mprotect(protected_page, PAGE, PROT_READ));
	protected_page[5] = 9;
	CHECK(faults == 1 && protected_page[5] == 9 && protected_page[6] == 1);
	CHECK(!mprotect(protected_page, PAGE, PROT_NONE));
	CHECK(protected_page[5] == 9 && faults == 2);
	/* Sizes. */
	a = map(MIB, PROT_READ | PROT_WRITE);
	memset(a, 3, MIB);
	a = mremap(a, MIB, 8 * MIB, MREMAP_MAYMOVE);
	CHECK(a != MAP_FAILED && holds(a, MIB, 3) && holds(a + MIB, 7 * MIB, 0));
	a = mremap(a, 8 * MIB, MIB / 2, 0);
	CHECK(a != MAP_FAILED && holds(a, MIB / 2, 3));
	/* A reservation, used in parts, and one of those given up. */
	b = map(32 * MIB, PROT_NONE);
	CHECK(!mprotect(b + MIB, MIB, PROT_READ | PROT_WRITE));
	memset(b + MIB, 4, MIB);
	CHECK(mmap(b + MIB, MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
	      b + MIB);
	CHECK(!mprotect(b + MIB, MIB, PROT_READ | PROT_WRITE) && holds(b + MIB, MIB, 0));
	/* A file in the middle of it. */
	round = open("/proc/self/exe", O_RDONLY);
	CHECK(mmap(b + 2 * MIB, PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, round, 0) == b + 2 * MIB);
	CHECK(!memcmp(b + 2 * MIB, "\177ELF", 4));
	CHECK(!munmap(b, 32 * MIB));
	errno = 0;
	CHECK(munmap(a + 1, PAGE) && errno == EINVAL);
	CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	CHECK(!munmap(a, MIB / 2));
}

/* A careless program: what it finds open it makes blocking. */
static void make_all_blocking(void)
{
	int fd;

	for (fd = 3; fd < 2000; fd++)
		fcntl(fd, F_SETFL, 0);
}

/* Memory in many pieces with rights of their own, read in order and at random, with
 * time for all of it to be taken in between. */
static void mode_pieces(void)
{
	enum { PAGES = 5000 };
	unsigned char *a = map(PAGES * PAGE, PROT_READ | PROT_WRITE);
	uint64_t s = 5;
	int i, round;

	make_all_blocking();
	for (i = 0; i < PAGES; i++)
		memset(a + i * PAGE, i % 251, PAGE);
	for (i = 3; i < PAGES; i += 7)
		CHECK(!mprotect(a + i * PAGE, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_EXEC));
	for (round = 0; round < 4; round++) {
		usleep(300000);
		for (i = 0; i < PAGES; i++) {
			int page = round % 2 ? i : (int)(rng(&s) % PAGES);

			CHECK(holds(a + page * PAGE, PAGE, (unsigned char)(page % 251)));
		}
	}
	CHECK(!munmap(a, PAGES * PAGE));
	a = map(PAGES * PAGE, PROT_READ | PROT_WRITE);
	CHECK(holds(a, PAGES * PAGE, 0));
	memset(a, 1, PAGES * PAGE);
}

static int status_of(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Children write what they have and leave the parent's alone, to some depth. */
static void fork_down(unsigned char *a, size_t n, int depth)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		CHECK(holds(a, n, (unsigned char)depth));
		memset(a, depth + 1, n);
		free(malloc(100000));
		if (depth < 2)
			fork_down(a, n, depth + 1);
		CHECK(holds(a, n, (unsigned char)(depth + 1)));
		exit(depth + 10);
	}
	memset(a, depth + 100, n / 2);
	CHECK(status_of(pid) == depth + 10);
	CHECK(holds(a, n / 2, (unsigned char)(depth + 100)) &&
	      holds(a + n / 2, n / 2, (unsigned char)depth));
	memset(a, depth, n);
}

static void *idle(void *arg)
{
	for (;;)
		free(malloc(5000)), sched_yield();
	return arg;
}

static void mode_fork(void)
{
	unsigned char *a = malloc(3 * MIB), *hidden = map(MIB, PROT_READ | PROT_WRITE);
	unsigned char *secret = map(MIB, PROT_READ | PROT_WRITE);
	int is_wiped = !madvise(secret, MIB, MADV_WIPEONFORK);
	pthread_t thread;
	pid_t pid;
	FILE *f = tmpfile();

	memset(hidden, 5, MIB);
	memset(secret, 6, MIB);
	CHECK(!mprotect(hidden, MIB, PROT_NONE));
	memset(a, 0, 3 * MIB);
	fork_down(a, 3 * MIB, 0);
	CHECK(!pthread_create(&thread, NULL, idle, NULL));
	fprintf(f, "buffered");
	memset(a, 0, 3 * MIB);
	fork_down(a, 3 * MIB, 0);
	pid = fork();
	if (!pid) {
		CHECK(!mprotect(hidden, MIB, PROT_READ) && holds(hidden, MIB, 5));
		CHECK(holds(secret, MIB, is_wiped ? 0 : 6));
		execlp("sh", "sh", "-c", "exit 7", NULL);
		_exit(1);
	}
	CHECK(status_of(pid) == 7);
	pid = vfork();
	if (!pid) {
		execl("/bin/sh", "sh", "-c", "exit 8", NULL);
		_exit(1);
	}
	CHECK(status_of(pid) == 8);
}

static void mode_start(void)
{
	char *const argv[] = { "sh", "-c", "echo spawned", NULL };
	char line[100] = "";
	pid_t pid;
	FILE *f;

	fflush(stdout);
	CHECK(system("echo by system; exit 3") == 3 << 8);
	f = popen("echo by popen", "r");
	CHECK(f && fgets(line, sizeof(line), f) && !pclose(f));
	fputs(line, stdout);
	fflush(stdout);
	CHECK(!posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) && !status_of(pid));
	/* What it starts is ordinary. */
	CHECK(system("env | grep -c -e UVMM_TOKEN -e LD_PRELOAD") == 1 << 8);
	fflush(stdout);
	execlp("env", "env", "-i", "/bin/sh", "-c", "echo executed", NULL);
	CHECK(!"executed");
}

/* As runtimes without a C library do: all that the kernel passes, in its order. */
static char **the_argv;

static void mode_stack(void)
{
	char **at = the_argv;
	uint64_t *aux;

	while (*at++)
		;
	for (; *at; at++)
		CHECK(strncmp(*at, "UVMM_TOKEN=", 11) && strncmp(*at, "LD_PRELOAD=", 11));
	for (aux = (uint64_t *)(at + 1); *aux && *aux != AT_PAGESZ; aux += 2)
		;
	CHECK(aux[0] == AT_PAGESZ && aux[1] == 4096);
	for (at = environ; *at; at++)
		CHECK(strncmp(*at, "UVMM_TOKEN=", 11) && strncmp(*at, "LD_PRELOAD=", 11));
	CHECK(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
	CHECK(!prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) && !prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	CHECK(prctl(-1, 0, 0, 0, 0) == -1 && errno == EINVAL);
}

static void mode_daemon(void)
{
	int ends[2];
	char *text = malloc(MIB), got[20] = "";

	CHECK(!pipe(ends));
	memset(text, 'x', MIB);
	strcpy(text + MIB - 10, "daemon");
	if (!fork()) {
		int i;

		if (daemon(0, 0))
			_exit(1);
		for (i = 3; i < 2000; i++)
			if (i != ends[1])
				close(i);
		text = realloc(text, 2 * MIB);
		if (holds((unsigned char *)text, MIB - 10, 'x') &&
		    write(ends[1], text + MIB - 10, 6) != 6)
			_exit(1);
		_exit(0);
	}
	close(ends[1]);
	CHECK(read(ends[0], got, sizeof(got)) == 6);
	puts(got);
}

static void mode_exhaust(void)
{
	enum { MOST = 1 << 20 };
	static char *got[MOST];
	size_t n = 0, i;

	while (n < MOST && (errno = 0, got[n] = malloc(MIB)))
		memset(got[n++], 1, 64);
	CHECK(n > 0 && n < MOST && errno == ENOMEM);
	errno = 0;
	CHECK(mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
	      MAP_FAILED && errno == ENOMEM);
	for (i = 0; i < n; i++)
		free(got[i]);
	CHECK(malloc(4 * MIB));
}

/* Grows, says so, frees nine tenths, says so, waits. */
static void mode_shrink(void)
{
	enum { BLOCKS = 200000 };
	static char *block[BLOCKS];
	int i;

	for (i = 0; i < BLOCKS; i++)
		CHECK((block[i] = malloc(500 + i % 1000)) && memset(block[i], i, 500));
	puts("grown");
	fflush(stdout);
	getchar();
	for (i = 0; i < BLOCKS / 10 * 9; i++)
		free(block[i]);
	puts("freed");
	fflush(stdout);
	getchar();
}

static void *fill(void *unused)
{
	enum { BLOCKS = 12000 };
	size_t i;

	(void)unused;
	for (i = 0; i < BLOCKS; i++)
		CHECK(memset(malloc(i % 4000), 1, i % 4000));
	return NULL;
}

/* Threads that grow at once, each in an arena that it finds empty; waits. */
static void mode_arenas(void)
{
	pthread_t thread[6];
	int i;

	for (i = 0; i < 6; i++)
		CHECK(!pthread_create(&thread[i], NULL, fill, NULL));
	for (i = 0; i < 6; i++)
		CHECK(!pthread_join(thread[i], NULL));
	puts("grown");
	fflush(stdout);
	getchar();
}

/* Two places with words of their own; one is locked at first. */
static void mode_locked(void)
{
	unsigned char *a = map(2 * MIB, PROT_READ | PROT_WRITE);
	int i;

	CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE) && !munlockall());
	CHECK(!mlock(a + 5, MIB - 10) && !mlock(a, MIB));
	for (i = 0; i < 2 * (int)MIB; i += 32)
		sprintf((char *)a + i, "%s secret %d", i < (int)MIB ? "locked" : "free", i);
	puts("locked");
	fflush(stdout);
	getchar();
	CHECK(!munlock(a + MIB / 2, 1) && !munlock(a, MIB));
	CHECK(!mlock(a, MIB) && !munmap(a, MIB));
	a = map(MIB, PROT_READ | PROT_WRITE);
	for (i = 0; i < (int)MIB; i += 32)
		sprintf((char *)a + i, "locked secret %d", i);
	puts("unlocked");
	fflush(stdout);
	getchar();
}

static const struct {
	const char *name;
	void (*run)(void);
} modes[] = {
	{ "malloc", mode_malloc }, { "mmap", mode_mmap },     { "fork", mode_fork },
	{ "start", mode_start },   { "daemon", mode_daemon }, { "exhaust", mode_exhaust },
	{ "shrink", mode_shrink },   { "pieces", mode_pieces },
	{ "arenas", mode_arenas },   { "locked", mode_locked },
	{ "stack", mode_stack },
};

int main(int argc, char **argv)
{
	size_t i;

	the_argv = argv;
	for (i = 0; argc > 1 && i < sizeof(modes) / sizeof(*modes); i++) {
		if (strcmp(modes[i].name, argv[1]))
			continue;
		modes[i].run();
		printf("%s: ok\n", argv[1]);
		return 0;
	}
	return 2;
}
