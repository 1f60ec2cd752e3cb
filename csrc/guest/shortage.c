/* SPDX-License-Identifier: MIT */
#include "shortage.h"

#include <errno.h>

static bool ask(void *arg, const struct physmem_want *w)
{
	struct shortage *s = arg;
	bool given = false;
	unsigned i;

	pthread_rwlock_rdlock(&s->lock);
	for (i = 0; i < s->givers && !given; i++)
		given = s->giver[i].fn(s->giver[i].arg, w);
	pthread_rwlock_unlock(&s->lock);
	return given;
}

void shortage_init(struct shortage *s, struct physmem *m)
{
	*s = (struct shortage){ .givers = 0 };
	pthread_rwlock_init(&s->lock, NULL);
	m->ask = ask;
	m->ask_arg = s;
}

int shortage_add(struct shortage *s, shortage_fn fn, void *arg)
{
	int rc = -ENOSPC;

	pthread_rwlock_wrlock(&s->lock);
	if (s->givers < SHORTAGE_GIVERS_MAX) {
		s->giver[s->givers].fn = fn;
		s->giver[s->givers++].arg = arg;
		rc = 0;
	}
	pthread_rwlock_unlock(&s->lock);
	return rc;
}

void shortage_remove(struct shortage *s, shortage_fn fn, void *arg)
{
	unsigned i;

	pthread_rwlock_wrlock(&s->lock);
	for (i = 0; i < s->givers; i++)
		if (s->giver[i].fn == fn && s->giver[i].arg == arg)
			s->giver[i--] = s->giver[--s->givers];
	pthread_rwlock_unlock(&s->lock);
}
