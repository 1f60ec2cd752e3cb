/* SPDX-License-Identifier: MIT */
#include "group.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "locks.h"
#include "machine.h"
#include "uvmm/protocol.h"

void groups_init(struct groups *s)
{
	s->first = NULL;
	pthread_mutex_init(&s->lock, NULL);
}

void groups_fini(struct groups *s)
{
	pthread_mutex_destroy(&s->lock);
}

static void close_files(struct group *group)
{
	if (group->view)
		munmap(group->view, group->frames.most * UVMM_PAGE_SIZE);
	if (group->reader_fd >= 0)
		close(group->reader_fd);
	if (group->fd >= 0) {
		/* A guest that was killed may hold it for a moment longer. */
		(void)!ftruncate(group->fd, 0);
		close(group->fd);
	}
}

static int open_files(struct group *group, const struct machine *m, uint64_t pages)
{
	char path[32];
	int rc = machine_create(m, pages, &group->fd);

	if (rc)
		return rc;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", group->fd);
	group->reader_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (group->reader_fd < 0)
		return -errno;
	group->view = mmap(NULL, pages * UVMM_PAGE_SIZE, PROT_READ, MAP_SHARED, group->fd, 0);
	if (group->view == MAP_FAILED) {
		group->view = NULL;
		return -errno;
	}
	return 0;
}

static int make(const struct machine *m, const char *name, uint64_t pages,
		struct group **out)
{
	struct group *group = calloc(1, sizeof(*group));
	int rc;

	if (!group)
		return -ENOMEM;
	group->fd = group->reader_fd = -1;
	snprintf(group->name, sizeof(group->name), "%s", name);
	rc = frames_init(&group->frames, pages);
	if (rc)
		goto no_frames;
	rc = hints_init(&group->hints, pages);
	if (rc)
		goto no_hints;
	rc = open_files(group, m, pages);
	if (!rc) {
		*out = group;
		return 0;
	}
	close_files(group);
	hints_fini(&group->hints);
no_hints:
	frames_fini(&group->frames);
no_frames:
	free(group);
	return rc;
}

static struct group *find_locked(struct groups *s, const char *name)
{
	struct group *group = s->first;

	while (group && strcmp(group->name, name))
		group = group->next;
	return group;
}

int group_join(struct groups *s, const struct machine *m, const char *name, uint64_t pages,
	       struct group **out)
{
	struct group *group;
	int rc = 0;

	lock(&s->lock);
	group = find_locked(s, name);
	if (!group) {
		rc = make(m, name, pages, &group);
		if (!rc) {
			group->next = s->first;
			s->first = group;
		}
	}
	if (!rc) {
		group->guests++;
		*out = group;
	}
	unlock(&s->lock);
	return rc;
}

void group_leave(struct groups *s, struct group *group)
{
	struct group **at;
	bool last;

	if (!group)
		return;
	lock(&s->lock);
	last = !--group->guests;
	if (last) {
		for (at = &s->first; *at != group; at = &(*at)->next)
			;
		*at = group->next;
	}
	unlock(&s->lock);
	if (!last)
		return;
	close_files(group);
	hints_fini(&group->hints);
	frames_fini(&group->frames);
	free(group);
}

static void free_frame(struct group *group, uint64_t frame)
{
	fallocate(group->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  (off_t)(frame * UVMM_PAGE_SIZE), UVMM_PAGE_SIZE);
	frames_give(&group->frames, frame);
}

int group_new_frame(struct group *group, const void *page, uint64_t hash, uint64_t *frame)
{
	int rc = frames_take(&group->frames, frame);

	if (rc)
		return rc;
	if (pwrite(group->fd, page, UVMM_PAGE_SIZE, (off_t)(*frame * UVMM_PAGE_SIZE)) !=
	    (ssize_t)UVMM_PAGE_SIZE)
		rc = -ENOSPC;
	if (!rc)
		rc = frames_publish(&group->frames, *frame, hash, 1);
	if (rc)
		free_frame(group, *frame);
	return rc;
}

void group_drop_frame(struct group *group, uint64_t frame)
{
	if (frames_unref(&group->frames, frame))
		free_frame(group, frame);
}

struct group_usage groups_usage(struct groups *s)
{
	struct group_usage sum = { 0 };
	struct group *group;

	lock(&s->lock);
	for (group = s->first; group; group = group->next) {
		struct frames_usage f = frames_usage(&group->frames);

		sum.frames += f.published;
		sum.refs += f.refs;
		sum.hints += hints_used(&group->hints);
		sum.stale_hints += atomic_load(&group->stale_hints);
	}
	unlock(&s->lock);
	return sum;
}

/* --- looking inside ---------------------------------------------------------- */

size_t groups_list(struct groups *s, struct uvmm_group *out, size_t cap)
{
	struct group *group;
	size_t n = 0;

	lock(&s->lock);
	for (group = s->first; group; group = group->next, n++) {
		if (n >= cap)
			continue;
		memcpy(out[n].name, group->name, sizeof(out[n].name));
		out[n].frames = frames_usage(&group->frames).published;
	}
	unlock(&s->lock);
	return n;
}

int groups_frames(struct groups *s, const char *name, uint64_t from, struct uvmm_frame *out,
		  size_t cap, size_t *n)
{
	struct group *group;

	lock(&s->lock);
	group = find_locked(s, name);
	*n = group ? frames_list(&group->frames, from, out, cap) : 0;
	unlock(&s->lock);
	return group ? 0 : -ENOENT;
}

int groups_read(struct groups *s, const char *name, uint64_t frame, uint64_t hash,
		void *dst)
{
	struct group *group;
	uint64_t found[2];
	int rc = -ENOENT;

	lock(&s->lock);
	group = find_locked(s, name);
	if (group && !frames_hold(&group->frames, frame)) {
		memcpy(dst, group_frame(group, frame), UVMM_PAGE_SIZE);
		group_drop_frame(group, frame);
		/* The number may be another frame's by now. */
		uvmm_page_hash(dst, found);
		rc = found[0] == hash ? 0 : -ENOENT;
	}
	unlock(&s->lock);
	return rc;
}
