/* SPDX-License-Identifier: MIT
 *
 * An ordinary program with plugins: it knows nothing of uvmm. This file is the
 * program, its plugin (PLUGIN) and what that loads in turn (INNER).
 *
 *   plugin_check PLUGIN_SO
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCKS 2000

#if defined(INNER)

int inner_value(void)
{
	return 42;
}

#elif defined(PLUGIN)

/* Blocks of its own, for the program to free; and gives up the program's. */
int plugin_swap(char **blocks)
{
	int i;

	for (i = 0; i < BLOCKS; i++) {
		free(blocks[i]);
		blocks[i] = malloc((size_t)i * 10 + 10);
		sprintf(blocks[i], "%d", i);
	}
	return 0;
}

/* By its name alone: in the folder that the plugin's own file names. */
int plugin_inner(void)
{
	void *inner = dlopen("libinner.so", RTLD_NOW);
	int (*value)(void) = inner ? (int (*)(void))dlsym(inner, "inner_value") : NULL;

	return value ? value() : -1;
}

#else

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			printf("%s:%d: %s: %m\n", __FILE__, __LINE__, #cond); \
			exit(1); \
		} \
	} while (0)

static int blocks_are_right(char **blocks)
{
	int i;

	for (i = 0; i < BLOCKS; i++)
		if (atoi(blocks[i]) != i)
			return 0;
	return 1;
}

int main(int argc, char **argv)
{
	static char *blocks[BLOCKS];
	void *plugin = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL | RTLD_DEEPBIND) : NULL;
	int (*swap)(char **), (*inner)(void);
	int i, status;

	CHECK(plugin);
	swap = (int (*)(char **))dlsym(plugin, "plugin_swap");
	inner = (int (*)(void))dlsym(plugin, "plugin_inner");
	for (i = 0; i < BLOCKS; i++)
		blocks[i] = strdup("the program's");
	CHECK(!swap(blocks) && blocks_are_right(blocks));
	CHECK(inner() == 42);
	/* A child's first steps, with what the loader made for the plugin on the heap. */
	for (i = 0; i < 10; i++) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid)
			_exit(blocks_are_right(blocks) ? 7 : 1);
		CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
		      WEXITSTATUS(status) == 7);
	}
	for (i = 0; i < BLOCKS; i++)
		free(blocks[i]);
	puts("ok");
	return 0;
}

#endif
