/* SPDX-License-Identifier: MIT
 * dlopen(3) without RTLD_DEEPBIND: a library that finds the C library's malloc before
 * this one gives the program memory that free() does not know. */
#include <dlfcn.h>
#include <stdatomic.h>

#define EXPORT __attribute__((visibility("default")))

typedef void *dlopen_fn(const char *file, int mode);

/* The C library looks where the caller's file says (RUNPATH), and knows the caller by the
 * address that it returns to: next() has to be a tail call. */
EXPORT void *dlopen(const char *file, int mode)
{
	static _Atomic(dlopen_fn *) found;
	dlopen_fn *next = atomic_load_explicit(&found, memory_order_relaxed);

	if (!next) {
		*(void **)&next = dlsym(RTLD_NEXT, "dlopen");
		atomic_store_explicit(&found, next, memory_order_relaxed);
	}
	return next(file, mode & ~RTLD_DEEPBIND);
}
