/* SPDX-License-Identifier: MIT
 *
 * kept - a descriptor that stays open beside a program which does not know of it.
 *
 *   Such a program may close it, or have another file under its number after: it
 *   is kept at a high number, and looked at before each use.
 *
 *   Threads  exclusive.
 */
#ifndef KEPT_H
#define KEPT_H

#include <stdbool.h>
#include <sys/stat.h>

struct kept_fd {
	int fd;                 /* -1: none */
	dev_t dev;
	ino_t ino;
};

/* Takes fd over, and moves it to a high number if one is free. */
struct kept_fd kept_take(int fd);
/* False once the program has closed or replaced it. */
bool kept_is_ours(const struct kept_fd *k);
/* Closes it if it is ours; none from now on. */
void kept_close(struct kept_fd *k);

#endif /* KEPT_H */
