/* SPDX-License-Identifier: MIT
 *
 * cache_thread - threads of the file cache: the program's signals are not theirs.
 */
#ifndef CACHE_THREAD_H
#define CACHE_THREAD_H

#include <pthread.h>
#include <signal.h>

static inline int cache_thread_start(pthread_t *thread, const char *name,
				     void *(*run)(void *arg), void *arg)
{
	sigset_t all, former;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &former);
	rc = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &former, NULL);
	if (!rc)
		pthread_setname_np(*thread, name);
	return -rc;
}

#endif /* CACHE_THREAD_H */
