/* SPDX-License-Identifier: MIT */
#include "clients.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CLIENTS_MAX 64u
#define FILES 64u               /* of each client */
#define PIECE 65536u
#define WORD 8u

/* A client's file; the contents are words that follow from where they are, but those
 * before `changed`, which were written again, by its version as well. */
struct file {
	uint64_t bytes;
	uint32_t version, changed;      /* changed: bytes */
};

struct client {
	uvmm_cache *cache;
	const char *folder;
	unsigned number;
	uint64_t steps, state;
	struct file file[FILES];
	struct clients_result sum;
	int rc;
	pthread_t thread;
	char buffer[PIECE];
};

/* Kept from run to run, as their files are. */
static struct client clients[CLIENTS_MAX];

static uint64_t below(struct client *c, uint64_t n)
{
	uint64_t x = c->state += 0x9e3779b97f4a7c15u;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (x ^ x >> 31) % n;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t word_at(const struct client *c, unsigned i, uint64_t at)
{
	uint64_t version = at < c->file[i].changed ? c->file[i].version : 0;

	return (at / WORD * FILES + i) * CLIENTS_MAX + c->number + (version << 48);
}

/* Few files are used often. */
static unsigned some_file(struct client *c)
{
	return (unsigned)below(c, below(c, FILES) + 1);
}

static void path_of(const struct client *c, unsigned i, const char *suffix, char path[256])
{
	snprintf(path, 256, "%s/%u/%u%s", c->folder, c->number, i, suffix);
}

static bool holds(const struct client *c, unsigned i, uint64_t at, uint64_t bytes)
{
	uint64_t word, b;

	/* One word of 512 bytes is as good as all to tell pages apart. */
	for (b = 0; b < bytes; b += 64 * WORD) {
		memcpy(&word, c->buffer + b, WORD);
		if (word != word_at(c, i, at + b))
			return false;
	}
	return true;
}

static void make(struct client *c, unsigned i, uint64_t at, uint64_t bytes)
{
	uint64_t word, b;

	for (b = 0; b < bytes; b += WORD) {
		word = word_at(c, i, at + b);
		memcpy(c->buffer + b, &word, WORD);
	}
}

/* --- what clients do ------------------------------------------------------------ */

static int write_range(struct client *c, uvmm_file *f, unsigned i, uint64_t from, uint64_t end)
{
	uint64_t at, n;

	for (at = from; at < end; at += n) {
		n = end - at < PIECE ? end - at : PIECE;
		make(c, i, at, n);
		if (uvmm_file_pwrite(f, c->buffer, n, (int64_t)at) != (ssize_t)n)
			return -EIO;
		c->sum.bytes += n;
	}
	return 0;
}

static int read_range(struct client *c, uvmm_file *f, unsigned i, uint64_t from, uint64_t end)
{
	uint64_t at, n;

	for (at = from; at < end; at += n) {
		n = end - at < PIECE ? end - at : PIECE;
		if (uvmm_file_pread(f, c->buffer, n, (int64_t)at) != (ssize_t)n)
			return -EIO;
		c->sum.wrong += !holds(c, i, at, n);
		c->sum.bytes += n;
	}
	return 0;
}

/* A multiple of what is checked, from the one to the other. */
static uint64_t part_of(struct client *c, uint64_t bytes)
{
	return below(c, bytes / 512 + 1) * 512;
}

static int make_anew(struct client *c, unsigned i)
{
	char path[256], other[256];
	uvmm_file *f;
	int rc;

	path_of(c, i, "", path);
	path_of(c, i, ".new", other);
	c->file[i].version = 0;
	c->file[i].changed = 0;
	rc = uvmm_file_open(c->cache, other, O_RDWR | O_CREAT | O_TRUNC, 0600, &f);
	if (rc)
		return rc;
	rc = write_range(c, f, i, 0, c->file[i].bytes);
	uvmm_file_close(f);
	return rc || !rename(other, path) ? rc : -errno;
}

static int change(struct client *c, uvmm_file *f, unsigned i)
{
	struct file *file = &c->file[i];

	file->changed = (uint32_t)part_of(c, file->bytes);
	file->version++;
	/* All that was changed before is written again, so that one version says it all. */
	return write_range(c, f, i, 0, file->bytes);
}

static int step(struct client *c)
{
	unsigned i = some_file(c);
	uint64_t kind = below(c, 40), from;
	char path[256];
	uvmm_file *f;
	int rc;

	if (kind < 4)
		return make_anew(c, i);
	path_of(c, i, "", path);
	rc = uvmm_file_open(c->cache, path, O_RDWR, 0, &f);
	if (rc)
		return rc;
	if (kind < 10) {
		rc = change(c, f, i);
	} else if (kind < 20) {
		from = part_of(c, c->file[i].bytes);
		rc = read_range(c, f, i, from, c->file[i].bytes);
	} else {
		rc = read_range(c, f, i, 0, c->file[i].bytes);
	}
	if (!rc && kind == 9)
		rc = uvmm_file_flush(f);
	uvmm_file_close(f);
	return rc;
}

static void *client_main(void *arg)
{
	struct client *c = arg;

	while (c->steps-- && !c->rc)
		c->rc = step(c);
	return NULL;
}

/* --- runs ------------------------------------------------------------------------- */

static int failed(int rc, const char *what)
{
	fprintf(stderr, "clients: %s: %s (%s)\n", what, strerror(-rc), uvmm_error());
	return rc;
}

int clients_prepare(uvmm_cache *cache, const char *folder, unsigned n, uint64_t bytes)
{
	char path[256];
	unsigned k, i;
	int rc = 0;

	if (n > CLIENTS_MAX)
		return failed(-EINVAL, "so many clients");
	for (k = 0; k < n && !rc; k++) {
		struct client *c = &clients[k];

		*c = (struct client){
			.cache = cache, .folder = folder, .number = k, .state = k + 1,
		};
		snprintf(path, sizeof(path), "%s/%u", folder, k);
		if (mkdir(path, 0700))
			return failed(-errno, path);
		for (i = 0; i < FILES && !rc; i++) {
			/* From an eighth of the mean to nearly twice that, in whole 512 bytes. */
			c->file[i].bytes = bytes / n / FILES * (1 + i % 15) / 8 / 512 * 512 + 512;
			rc = make_anew(c, i);
		}
	}
	return rc ? failed(rc, "making files") : 0;
}

int clients_run(unsigned n, uint64_t steps, uint64_t seed, struct clients_result *out)
{
	uint64_t began = now_ns();
	unsigned k, started;
	int rc = 0;

	*out = (struct clients_result){ 0 };
	for (started = 0; started < n && started < CLIENTS_MAX && !rc; started++) {
		struct client *c = &clients[started];

		c->steps = steps;
		c->state = seed * CLIENTS_MAX + started;
		c->sum = (struct clients_result){ 0 };
		rc = -pthread_create(&c->thread, NULL, client_main, c);
	}
	started -= rc != 0;
	for (k = 0; k < started; k++) {
		pthread_join(clients[k].thread, NULL);
		rc = rc ? rc : clients[k].rc;
		out->bytes += clients[k].sum.bytes;
		out->wrong += clients[k].sum.wrong;
	}
	out->ns = now_ns() - began;
	return rc ? failed(rc, "a client") : 0;
}
