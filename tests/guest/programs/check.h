/* SPDX-License-Identifier: MIT
 *
 * check - what a guest that is a test does when something is wrong: it says so, and ends.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "uvmm/guest.h"

#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #cond, uvmm_error()); \
			_Exit(1); \
		} \
	} while (0)

#endif /* CHECK_H */
