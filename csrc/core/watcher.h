/* SPDX-License-Identifier: MIT
 *
 * watcher - the thread that looks at what guests touch: their samples (sample.h) and the scan
 * for idle pages (idle.h).
 *
 *   It takes five thousandths of a CPU at most, and twenty while memory is short.
 */
#ifndef WATCHER_H
#define WATCHER_H

#include <pthread.h>
#include <stdbool.h>

struct uvmm_engine;

struct watcher {
	pthread_t thread;
	bool runs;
	pthread_mutex_t lock;           /* guards stop */
	pthread_cond_t wake;
	bool stop;
};

/* What pthread_create says. */
int watcher_start(struct uvmm_engine *e);
void watcher_stop(struct uvmm_engine *e);

#endif /* WATCHER_H */
