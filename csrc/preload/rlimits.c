/* SPDX-License-Identifier: MIT */
#include "rlimits.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "raw.h"
#include "space.h"

#define EXPORT __attribute__((visibility("default")))
/* The images of this library and what they need, and the agent's stack. */
#define OWN_AREA (40u << 20)
#define OWN_DATA (16u << 20)
#define LITTLE (1u << 20)
#define STATM_BYTES 160
#define STATM_DATA 5    /* the field's number */

static struct {
	_Atomic uint64_t as, data;      /* the program's soft limits */
	/* No less than that is allowed: a program that has more than its limit allows
	 * goes on with a little. */
	_Atomic uint64_t least_as, least_data;
	_Atomic uint64_t lift;          /* 0: there is none */
	size_t tables;                  /* bytes that guest memory needs besides */
	pid_t pid;
} rlimits = { .as = RLIM_INFINITY, .data = RLIM_INFINITY };

static int ask(pid_t pid, int resource, const struct rlimit *wanted, struct rlimit *former)
{
	return (int)raw_call(SYS_prlimit64, pid, resource, (long)wanted, (long)former, 0, 0);
}

/* --- the lift ------------------------------------------------------------------ */

static rlim_t lifted(rlim_t limit, uint64_t lift)
{
	return limit < RLIM_INFINITY - lift ? limit + lift : RLIM_INFINITY;
}

static rlim_t without(rlim_t limit, uint64_t lift)
{
	if (limit == RLIM_INFINITY)
		return limit;
	return limit > lift ? limit - lift : 0;
}

static struct rlimit both(rlim_t (*change)(rlim_t, uint64_t), struct rlimit l, uint64_t lift)
{
	return (struct rlimit){ change(l.rlim_cur, lift), change(l.rlim_max, lift) };
}

static uint64_t lift_told(void)
{
	const char *text = getenv(RLIMITS_ENV);

	return text ? strtoull(text, NULL, 10) : 0;
}

void rlimits_make_room(void)
{
	struct rlimit now;

	atomic_store(&rlimits.lift, lift_told());
	if (ask(0, RLIMIT_AS, NULL, &now))
		return;
	atomic_store(&rlimits.as, without(now.rlim_cur, lift_told()));
	now.rlim_cur = now.rlim_max;
	ask(0, RLIMIT_AS, &now, NULL);
}

void rlimits_open(size_t bytes)
{
	uint64_t told = atomic_load(&rlimits.lift), lift = 2 * bytes + OWN_AREA;
	struct rlimit now, wanted;

	rlimits.pid = getpid();
	/* The lift: twice, as pages that are away have places besides. */
	rlimits.tables = bytes - the_space.attachment.pages * UVMM_PAGE_SIZE;
	atomic_store(&rlimits.lift, lift);
	if (!ask(0, RLIMIT_DATA, NULL, &now))
		atomic_store(&rlimits.data, now.rlim_cur);
	if (ask(0, RLIMIT_AS, NULL, &now))
		return;
	now = (struct rlimit){ atomic_load(&rlimits.as), without(now.rlim_max, told) };
	if (now.rlim_cur == RLIM_INFINITY && now.rlim_max == RLIM_INFINITY)
		return;
	wanted = both(lifted, now, lift);
	if (!ask(0, RLIMIT_AS, &wanted, NULL))
		return;
	atomic_store(&rlimits.lift, 0);
	ask(0, RLIMIT_AS, &now, NULL);
}

void rlimits_forked(void)
{
	rlimits.pid = getpid();
}

size_t rlimits_lift(void)
{
	return atomic_load(&rlimits.lift);
}

/* --- what there is ------------------------------------------------------------- */

static uint64_t field(const char *text, int number)
{
	while (number-- && text)
		text = strchr(text + 1, ' ');
	return text ? strtoull(text, NULL, 10) * UVMM_PAGE_SIZE : 0;
}

/* The process's mappings, and of these what is private and writable. */
static bool measure(uint64_t *area, uint64_t *data)
{
	char text[STATM_BYTES];
	long fd = raw_call(SYS_openat, AT_FDCWD, (long)"/proc/self/statm",
			   O_RDONLY | O_CLOEXEC, 0, 0, 0), n;

	if (fd < 0)
		return false;
	n = raw_call(SYS_read, fd, (long)text, sizeof(text) - 1, 0, 0, 0);
	raw_call(SYS_close, fd, 0, 0, 0, 0, 0);
	text[n > 0 ? n : 0] = '\0';
	*area = field(text, 0);
	*data = field(text, STATM_DATA);
	return n > 0;
}

/* What the program has, as one would measure it without uvmm. */
static bool count(uint64_t *area, uint64_t *data)
{
	uint64_t memory = the_space.attachment.pages * UVMM_PAGE_SIZE;
	uint64_t used = memory - space_free_pages() * UVMM_PAGE_SIZE, own_area, own_data;

	if (!measure(area, data))
		return false;
	remap_takes(&the_space.remap, &own_area, &own_data);
	*area = used + without(*area, own_area + memory + rlimits.tables + OWN_AREA);
	*data = used + without(*data, own_data + rlimits.tables + OWN_DATA);
	return true;
}

static bool fits(uint64_t limit, uint64_t least, uint64_t all)
{
	return all <= (limit > least ? limit : least);
}

bool rlimits_allow(size_t area_bytes, size_t data_bytes)
{
	uint64_t as = atomic_load_explicit(&rlimits.as, memory_order_relaxed);
	uint64_t limit = atomic_load_explicit(&rlimits.data, memory_order_relaxed);
	uint64_t area, data;

	if ((as == RLIM_INFINITY && limit == RLIM_INFINITY) || !count(&area, &data))
		return true;
	return fits(as, atomic_load(&rlimits.least_as), area + area_bytes) &&
	       fits(limit, atomic_load(&rlimits.least_data), data + data_bytes);
}

static void note(rlim_t as, rlim_t limit)
{
	uint64_t area = 0, data = 0;

	count(&area, &data);
	atomic_store(&rlimits.least_as, area + LITTLE);
	atomic_store(&rlimits.least_data, data + LITTLE);
	atomic_store(&rlimits.as, as);
	atomic_store(&rlimits.data, limit);
}

/* --- what others get ------------------------------------------------------------- */

static bool set_lift(pid_t pid, rlim_t (*change)(rlim_t, uint64_t))
{
	uint64_t lift = atomic_load(&rlimits.lift);
	struct rlimit now, wanted;

	if (!lift || ask(pid, RLIMIT_AS, NULL, &now))
		return false;
	wanted = both(change, now, lift);
	if (wanted.rlim_cur == now.rlim_cur && wanted.rlim_max == now.rlim_max)
		return false;
	return !ask(pid, RLIMIT_AS, &wanted, NULL);
}

bool rlimits_leave(pid_t pid)
{
	volatile char room[16 * UVMM_PAGE_SIZE];
	size_t i;

	/* The stack could not grow afterwards: guest memory is mapped still. */
	for (i = 0; i < sizeof(room); i += UVMM_PAGE_SIZE)
		room[i] = 0;
	return set_lift(pid, without);
}

void rlimits_return(void)
{
	set_lift(0, lifted);
}

/* --- the calls ------------------------------------------------------------------- */

static int status(int rc)
{
	if (!rc)
		return 0;
	errno = -rc;
	return -1;
}

/* A child of vfork() has limits of its own, and the memory of its parent. */
static bool is_child_of_vfork(void)
{
	return getpid() != rlimits.pid;
}

static int change_data(const struct rlimit *wanted, struct rlimit *former)
{
	struct rlimit copy = wanted ? *wanted : (struct rlimit){ 0, 0 };
	int rc = ask(0, RLIMIT_DATA, wanted, former);

	if (!rc && wanted && !is_child_of_vfork())
		note(atomic_load(&rlimits.as), copy.rlim_cur);
	return rc;
}

static int change_as(const struct rlimit *wanted, struct rlimit *former)
{
	uint64_t lift = atomic_load(&rlimits.lift);
	struct rlimit now, copy;
	int rc;

	if (wanted && wanted->rlim_cur > wanted->rlim_max)
		return -EINVAL;
	if (wanted)
		copy = both(lifted, *wanted, lift);
	rc = ask(0, RLIMIT_AS, wanted ? &copy : NULL, &now);
	if (!rc && wanted && !is_child_of_vfork())
		note(wanted->rlim_cur, atomic_load(&rlimits.data));
	if (!rc && former)
		*former = both(without, now, lift);
	return rc;
}

EXPORT int prlimit(pid_t pid, enum __rlimit_resource resource, const struct rlimit *wanted,
		   struct rlimit *former)
{
	if ((!pid || pid == getpid()) && space_is_open()) {
		if (resource == RLIMIT_AS)
			return status(change_as(wanted, former));
		if (resource == RLIMIT_DATA)
			return status(change_data(wanted, former));
	}
	return status(ask(pid, (int)resource, wanted, former));
}

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *wanted)
{
	return prlimit(0, resource, wanted, NULL);
}

EXPORT int getrlimit(__rlimit_resource_t resource, struct rlimit *now)
{
	return prlimit(0, resource, NULL, now);
}

EXPORT int prlimit64(pid_t, enum __rlimit_resource, const struct rlimit64 *, struct rlimit64 *)
	__attribute__((alias("prlimit")));
EXPORT int setrlimit64(__rlimit_resource_t, const struct rlimit64 *)
	__attribute__((alias("setrlimit")));
EXPORT int getrlimit64(__rlimit_resource_t, struct rlimit64 *)
	__attribute__((alias("getrlimit")));
