/* SPDX-License-Identifier: MIT */
#include "driver.h"

#include <errno.h>
#include <stdatomic.h>
#include <time.h>

#define STEP_NS 20000000ll
#define PIECE_PAGES 4096u       /* 16 MiB: an allocation may wait for one */

/* One time of serving. */
struct step {
	struct driver *d;
	uint64_t rescues;
	int64_t until_ns;
	bool refused;           /* by the daemon */
	enum driver_pieces pieces;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint64_t all_pages(const struct uvmm_ranges *r)
{
	uint64_t sum = 0;
	uint32_t i;

	for (i = 0; i < r->ranges; i++)
		sum += r->range[i].pages;
	return sum;
}

/* True if all were in the balloon still, and so read as zeros. */
static bool tell_deflate(struct driver *d, const struct uvmm_ranges *r)
{
	struct uvmm_count count = { 0 };
	struct rpc_call call = {
		.type = UVMM_MSG_DEFLATE,
		.answer_type = UVMM_MSG_COUNT,
		.body = r,
		.body_bytes = sizeof(*r),
		.send_fd = -1,
		.answer = &count,
		.answer_bytes = sizeof(count),
	};
	char why[UVMM_TEXT_BYTES];

	return !d->ops->ask(d->arg, &call, why) && count.pages == all_pages(r);
}

/* They are free in the end, whatever the daemon says. */
static void take_back(struct driver *d, const struct uvmm_ranges *r)
{
	bool clean = tell_deflate(d, r);

	physmem_deflated(d->physmem, r->range, r->ranges, clean);
}

/* --- an allocation that finds no room ---------------------------------------------- */

static int rescue(void *arg, const struct physmem_want *w, uint64_t *page)
{
	struct uvmm_ranges r = { .why = UVMM_DEFLATE_NEEDED };
	struct driver *d = arg;
	int rc;

	pthread_mutex_lock(&d->lock);
	while ((rc = physmem_try(d->physmem, w, page)) == -ENOMEM &&
	       physmem_deflate_for(d->physmem, w, r.range, UVMM_RANGES, &r.ranges)) {
		atomic_fetch_add(&d->rescues, 1);
		if (r.ranges)
			take_back(d, &r);
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

void driver_init(struct driver *d, struct physmem *m, struct remap *r,
		  const struct driver_ops *ops, void *arg)
{
	*d = (struct driver){ .physmem = m, .remap = r, .ops = ops, .arg = arg };
	pthread_mutex_init(&d->lock, NULL);
	m->rescue = rescue;
	m->rescue_arg = d;
}

void driver_forked(struct driver *d)
{
	pthread_mutex_init(&d->lock, NULL);
	d->more = false;
}

void driver_use(struct driver *d, uint64_t page, uint64_t n)
{
	struct uvmm_ranges r = { .why = UVMM_DEFLATE_NEEDED };

	pthread_mutex_lock(&d->lock);
	while ((r.ranges = physmem_deflate_at(d->physmem, page, n, r.range, UVMM_RANGES))) {
		tell_deflate(d, &r);
		physmem_use(d->physmem, r.range, r.ranges);
	}
	pthread_mutex_unlock(&d->lock);
}

/* --- serving ------------------------------------------------------------------------ */

static uint64_t lacking_pages(const struct step *s)
{
	uint64_t held = physmem_balloon_pages(s->d->physmem);

	return s->d->goal > held ? s->d->goal - held : 0;
}

static bool is_stopped(const struct step *s)
{
	return s->refused || s->rescues != atomic_load(&s->d->rescues);
}

static bool may_go_on(const struct step *s)
{
	return !is_stopped(s) && now_ns() < s->until_ns;
}

static void inflate_piece(struct step *s, const struct uvmm_ranges *r)
{
	struct driver *d = s->d;
	char why[UVMM_TEXT_BYTES];
	struct uvmm_count done;

	s->refused = remap_inflate(d->remap, UVMM_MSG_INFLATE, r, &done, why);
	if (s->refused) {
		take_back(d, r);        /* what was not answered may have been done */
		return;
	}
	physmem_inflated(d->physmem, r->range, r->ranges, done.pages == all_pages(r));
	d->owed += done.pages > done.freed_pages ? done.pages - done.freed_pages : 0;
}

/* Takes free pages, a piece at most; false if there are none behind the hand. */
static bool inflate(struct step *s, struct physmem_hand *h)
{
	struct driver *d = s->d;
	struct uvmm_ranges r = { .ranges = 0 };
	uint64_t want;

	pthread_mutex_lock(&d->lock);
	want = lacking_pages(s);
	want = want < PIECE_PAGES ? want : PIECE_PAGES;
	if (want && may_go_on(s))
		r.ranges = physmem_inflate(d->physmem, want, false, h, r.range, UVMM_RANGES);
	if (r.ranges)
		inflate_piece(s, &r);
	pthread_mutex_unlock(&d->lock);
	return r.ranges;
}

static void give_piece(struct step *s, const struct uvmm_ranges *r)
{
	struct driver *d = s->d;
	char why[UVMM_TEXT_BYTES];
	struct uvmm_count done;

	s->refused = remap_inflate(d->remap, UVMM_MSG_GIVE, r, &done, why);
	physmem_deflated(d->physmem, r->range, r->ranges, done.pages == all_pages(r));
	d->owed -= done.freed_pages < d->owed ? done.freed_pages : d->owed;
}

/* Frees what free pages hold, a piece at most; false if there is none behind the hand. */
static bool give(struct step *s, struct physmem_hand *h)
{
	struct driver *d = s->d;
	uint64_t want = d->owed < PIECE_PAGES ? d->owed : PIECE_PAGES;
	struct uvmm_ranges r = { .ranges = 0 };

	pthread_mutex_lock(&d->lock);
	if (want && !is_stopped(s))
		r.ranges = physmem_inflate(d->physmem, want, true, h, r.range, UVMM_RANGES);
	if (r.ranges)
		give_piece(s, &r);
	pthread_mutex_unlock(&d->lock);
	return r.ranges;
}

/* What goes in and frees nothing is made up for at once: there may be no next time. */
static void inflate_and_give(struct step *s)
{
	struct physmem_hand dirty = physmem_largest(s->d->physmem), any = dirty;
	bool more;

	if (s->pieces == DRIVER_WHOLE)
		any = physmem_whole(s->d->physmem);

	do {
		more = inflate(s, &any);
		while (give(s, &dirty))
			;
	} while (more);
}

static void grow(struct step *s)
{
	struct driver *d = s->d;

	inflate_and_give(s);
	if (d->ops->spare && (d->owed || lacking_pages(s)) && may_go_on(s)) {
		d->ops->spare(d->arg);
		inflate_and_give(s);
	}
}

static void shrink(struct step *s)
{
	struct driver *d = s->d;
	struct uvmm_ranges r = { .why = UVMM_DEFLATE_ASKED };

	do {
		uint64_t held;

		pthread_mutex_lock(&d->lock);
		held = physmem_balloon_pages(d->physmem);
		r.ranges = held > d->goal ? physmem_deflate(d->physmem, held - d->goal, r.range,
							     UVMM_RANGES) : 0;
		if (r.ranges)
			take_back(d, &r);
		pthread_mutex_unlock(&d->lock);
	} while (r.ranges && now_ns() < s->until_ns);
}

/* The guest moves by as much as the daemon wants it to, whatever either counts. */
static void set_goal(struct driver *d, uint64_t held, const struct uvmm_balloon *wanted)
{
	d->goal = held + wanted->target_pages;
	d->goal = d->goal > wanted->pages ? d->goal - wanted->pages : 0;
	if (!d->more)
		d->owed = 0;
}

/* Of so many, how many would have to come from others. */
static uint64_t besides_free(const struct step *s, uint64_t lacking)
{
	uint64_t unused = physmem_free_pages(s->d->physmem);

	if (s->pieces == DRIVER_ANY || !lacking)
		return lacking;
	return lacking > unused ? lacking - unused : 1;
}

uint64_t driver_serve(struct driver *d, const struct uvmm_balloon *wanted,
		      enum driver_pieces pieces, struct uvmm_ballooned *out)
{
	struct step s = {
		.d = d,
		.pieces = pieces,
		.rescues = atomic_load(&d->rescues),
		.until_ns = now_ns() + STEP_NS,
	};
	uint64_t held = physmem_balloon_pages(d->physmem), lacking;

	if (wanted)
		set_goal(d, held, wanted);
	if (held > d->goal)
		shrink(&s);
	else
		grow(&s);
	held = physmem_balloon_pages(d->physmem);
	d->more = held != d->goal && !is_stopped(&s) && now_ns() >= s.until_ns;
	*out = (struct uvmm_ballooned){ .pages = held, .more = d->more };
	lacking = besides_free(&s, lacking_pages(&s));
	lacking = lacking > d->owed ? lacking : d->owed;
	return is_stopped(&s) || d->more ? 0 : lacking;
}
