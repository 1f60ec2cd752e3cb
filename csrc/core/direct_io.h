/* SPDX-License-Identifier: MIT
 *
 * direct_io - whether a process may have direct I/O under way into its memory.
 *
 *   A read by O_DIRECT or io_uring pins the pages it goes to and writes them by
 *   the device, past the page table: write protection that came later does not
 *   stop it. There is no way to see such a pin from outside, but to the process
 *   that could have one: it has a file open with O_DIRECT, or an io_uring, and
 *   while a thread of it waits for the device it is in uninterruptible sleep. A file at
 *   UVMM_DIRECT_MARK (protocol.h) does not count.
 *
 *   Errors   what cannot be read, but for a process that is gone, counts as direct I/O.
 *   Threads  any.
 *   Source   proc(5): /proc/pid/fdinfo, /proc/pid/task/tid/stat and schedstat, io
 */
#ifndef DIRECT_IO_H
#define DIRECT_IO_H

#include <stdbool.h>
#include <stdint.h>

enum direct_io {
	DIRECT_IO_NONE,
	DIRECT_IO_POSSIBLE,     /* within a system call of one of its threads */
	DIRECT_IO_ANY_TIME,     /* also when no thread waits: io_uring, aio */
};

/* What the process could do by the files that it has open. About 6 us a descriptor. */
enum direct_io direct_io_of(int32_t pid);

#define DIRECT_IO_THREADS_MAX 64

struct direct_io_thread {
	int32_t tid;
	bool settled;           /* uses nothing any more that it had pinned */
	uint64_t ran_ns;        /* CPU time it had had */
	uint64_t calls;         /* reads and writes it had finished */
};

/* The threads of a process at some moment. */
struct direct_io_watch {
	int32_t pid;
	int threads;            /* may be more than are noted */
	struct direct_io_thread thread[DIRECT_IO_THREADS_MAX];
};

/* Looks at the threads now. */
void direct_io_begin(struct direct_io_watch *w, int32_t pid);

/* Looks again: true if each thread, all of which were noted, has been seen outside a wait for a device,
 * or has finished a read or write, or has run for long since. What it had pinned
 * by a system call before is then no longer in use. */
bool direct_io_settled(struct direct_io_watch *w);

#endif /* DIRECT_IO_H */
