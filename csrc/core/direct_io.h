/* SPDX-License-Identifier: MIT
 *
 * direct_io - whether a process may have direct I/O under way into its memory.
 *
 *   A read by O_DIRECT or io_uring pins the pages it goes to and writes them by
 *   the device, past the page table: write protection that came later does not
 *   stop it. There is no way to see such a pin from outside, but to the process
 *   that could have one: it has a file open with O_DIRECT, or an io_uring, and
 *   while a thread of it waits for the device it is in uninterruptible sleep.
 *
 *   Errors   what cannot be read counts as no direct I/O: the process is gone.
 *   Threads  any.
 *   Source   proc(5): /proc/pid/fdinfo, /proc/pid/task/tid/stat
 */
#ifndef DIRECT_IO_H
#define DIRECT_IO_H

#include <stdbool.h>
#include <stdint.h>

/* The process has a file open through which it could. About 6 us a descriptor. */
bool direct_io_possible(int32_t pid);

/* A thread of it waits for a device. */
bool direct_io_waiting(int32_t pid);

#endif /* DIRECT_IO_H */
