/* SPDX-License-Identifier: MIT
 * prctl(PR_SET_THP_DISABLE): servers that fork to save what they have (redis) ask for it,
 * since a large page is copied as a whole at the first write after a fork. Guest
 * memory is not copied on write, and without pages larger than 4 KiB it takes three
 * times as long to be touched: the program is told what it has set, and that is all. */
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/prctl.h>

#include "raw.h"
#include "space.h"

#define EXPORT __attribute__((visibility("default")))
#define ARGUMENTS 4

EXPORT int prctl(int option, ...)
{
	static _Atomic int disabled;
	unsigned long arg[ARGUMENTS];
	va_list args;
	long rc;
	int i;

	va_start(args, option);
	for (i = 0; i < ARGUMENTS; i++)
		arg[i] = va_arg(args, unsigned long);
	va_end(args);
	if (option == PR_SET_THP_DISABLE && space_is_open()) {
		atomic_store(&disabled, arg[0] != 0);
		return 0;
	}
	if (option == PR_GET_THP_DISABLE && space_is_open())
		return atomic_load(&disabled);
	rc = raw_call(SYS_prctl, option, (long)arg[0], (long)arg[1], (long)arg[2], (long)arg[3],
		      0);
	if (rc >= 0)
		return (int)rc;
	errno = (int)-rc;
	return -1;
}
