/* SPDX-License-Identifier: MIT
 *
 * pages_fail - the end at the first thing wrong: one line on stdout, which says all
 * that is known, and a status of its own.
 *
 *   Threads  any; the first one to fail prints, the others wait for the end.
 */
#ifndef PAGES_FAIL_H
#define PAGES_FAIL_H

#include <stdint.h>
#include <stdnoreturn.h>

#include "pages_book.h"

enum {
	STATUS_USAGE = 2,
	STATUS_WRONG = 3,       /* a byte is not what was written */
	STATUS_SIGNAL = 4,      /* SIGBUS or SIGSEGV */
	STATUS_CALL = 5,        /* a library or system call failed */
};

/* What this thread does; for the line. */
extern _Thread_local const char *fail_operation;

/* SIGBUS and SIGSEGV become failures. */
void fail_init(const struct book *b);

/* `words` of a quarter, in guest memory or read from there, differ from `want`. */
noreturn void fail_wrong(const struct book *b, uint32_t quarter, struct entry e,
			 const uint64_t *want, const uint64_t *words);

/* A call on a quarter failed; rc is a negative errno or what the call returned. */
noreturn void fail_call(const struct book *b, const char *call, uint32_t quarter, long rc);

#endif /* PAGES_FAIL_H */
