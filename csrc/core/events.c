/* SPDX-License-Identifier: MIT */
#include "events.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "locks.h"

int events_init(struct events *ev)
{
	ev->first = ev->count = 0;
	ev->dropped = 0;
	ev->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ev->fd < 0)
		return -errno;
	return -pthread_mutex_init(&ev->lock, NULL);
}

void events_fini(struct events *ev)
{
	close(ev->fd);
	pthread_mutex_destroy(&ev->lock);
}

void events_add(struct events *ev, enum uvmm_event_kind kind, uint64_t guest_id,
		const char *format, ...)
{
	struct uvmm_event *slot;
	va_list args;

	lock(&ev->lock);
	if (ev->count == EVENTS_MAX) {
		ev->dropped++;
		if (kind == UVMM_EVENT_LOG)
			goto out;
		ev->first = (ev->first + 1) % EVENTS_MAX;
		ev->count--;
	}
	slot = &ev->ring[(ev->first + ev->count++) % EVENTS_MAX];
	slot->at_ns = clock_ns();
	slot->guest_id = guest_id;
	slot->kind = kind;
	slot->pid = 0;
	va_start(args, format);
	vsnprintf(slot->text, sizeof(slot->text), format, args);
	va_end(args);
	eventfd_write(ev->fd, 1);
out:
	unlock(&ev->lock);
}

static bool is_asked(const struct events *ev, pid_t pid)
{
	uint32_t i;

	for (i = 0; i < ev->count; i++) {
		const struct uvmm_event *at = &ev->ring[(ev->first + i) % EVENTS_MAX];

		if (at->kind == UVMM_EVENT_KIN && at->pid == pid)
			return true;
	}
	return false;
}

void events_add_kin(struct events *ev, uint64_t guest_id, pid_t pid)
{
	lock(&ev->lock);
	if (ev->count < EVENTS_MAX / 2 && !is_asked(ev, pid)) {
		ev->ring[(ev->first + ev->count++) % EVENTS_MAX] = (struct uvmm_event){
			.at_ns = clock_ns(),
			.guest_id = guest_id,
			.kind = UVMM_EVENT_KIN,
			.pid = pid,
		};
		eventfd_write(ev->fd, 1);
	}
	unlock(&ev->lock);
}

int events_take(struct events *ev, struct uvmm_event *out)
{
	eventfd_t drained;
	int rc = 0;

	lock(&ev->lock);
	if (ev->dropped && ev->count < EVENTS_MAX) {
		*out = (struct uvmm_event){ .at_ns = clock_ns(), .kind = UVMM_EVENT_LOG };
		snprintf(out->text, sizeof(out->text), "%llu events were lost: too many at once",
			 (unsigned long long)ev->dropped);
		ev->dropped = 0;
	} else if (ev->count) {
		*out = ev->ring[ev->first];
		ev->first = (ev->first + 1) % EVENTS_MAX;
		ev->count--;
	} else {
		eventfd_read(ev->fd, &drained);
		rc = -EAGAIN;
	}
	unlock(&ev->lock);
	return rc;
}
