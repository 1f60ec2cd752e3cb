/* SPDX-License-Identifier: MIT */
#include "bounce.h"

#include <sys/mman.h>

void bounces_init(struct bounces *b, size_t bytes)
{
	*b = (struct bounces){ .bytes = bytes };
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->returned, NULL);
}

void bounces_fini(struct bounces *b)
{
	while (b->frees)
		munmap(b->free[--b->frees], b->bytes);
	pthread_mutex_destroy(&b->lock);
	pthread_cond_destroy(&b->returned);
}

void *bounces_get(struct bounces *b)
{
	void *buffer = NULL;

	pthread_mutex_lock(&b->lock);
	while (!buffer) {
		if (b->frees) {
			buffer = b->free[--b->frees];
		} else if (b->made < BOUNCES_MAX) {
			buffer = mmap(NULL, b->bytes, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			buffer = buffer == MAP_FAILED ? NULL : buffer;
			b->made += buffer != NULL;
		}
		if (!buffer && !b->made)
			break;
		if (!buffer)
			pthread_cond_wait(&b->returned, &b->lock);
	}
	pthread_mutex_unlock(&b->lock);
	return buffer;
}

void bounces_put(struct bounces *b, void *buffer)
{
	pthread_mutex_lock(&b->lock);
	b->free[b->frees++] = buffer;
	pthread_cond_signal(&b->returned);
	pthread_mutex_unlock(&b->lock);
}
