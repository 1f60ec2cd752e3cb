/* SPDX-License-Identifier: MIT
 *
 * image - which programs are guests: this one, and what takes its place.
 *
 *   The environment that made this process a guest is taken out of it, so that
 *   what it starts is ordinary. An exec that keeps the process puts it back: the
 *   new image goes on as the guest. With --follow it stays, and what is started is
 *   a guest of its own.
 *
 *   Threads  image_open before there are others; the exec calls from any thread,
 *            also in a child of vfork(), where nothing of the parent may change.
 */
#ifndef IMAGE_H
#define IMAGE_H

/* Keeps what the environment says, and hides it unless --follow. */
void image_open(void);
/* In a forked child: what it executes is ordinary, too, unless --follow. */
void image_forked(void);

#endif /* IMAGE_H */
