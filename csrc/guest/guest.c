/* SPDX-License-Identifier: MIT
 * The public calls of uvmm/guest.h. */
#include "uvmm/guest.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent.h"
#include "attach.h"
#include "driver.h"
#include "guest_memory.h"
#include "physmem.h"
#include "remap.h"

#define TICK_MS 1000

struct uvmm_guest {
	struct attachment attachment;
	struct physmem physmem;
	struct remap remap;
	struct driver balloon;
	struct agent agent;
	struct shortage shortage;
};

static pthread_mutex_t attach_lock = PTHREAD_MUTEX_INITIALIZER;
static struct uvmm_guest *the_guest;    /* guarded by attach_lock */
static _Thread_local char error_text[UVMM_TEXT_BYTES + 64];

static int __attribute__((format(printf, 2, 3))) fail(int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error_text, sizeof(error_text), format, args);
	va_end(args);
	return rc;
}

const char *uvmm_error(void)
{
	return error_text;
}

/* --- for the rest of the library (guest_memory.h) ----------------------------- */

struct physmem *guest_physmem(uvmm_guest *g)
{
	return &g->physmem;
}

struct shortage *guest_shortage(uvmm_guest *g)
{
	return &g->shortage;
}

int guest_fail(int rc, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(error_text, sizeof(error_text), format, args);
	va_end(args);
	return rc;
}

void guest_succeed(void)
{
	error_text[0] = '\0';
}

int guest_find_disk(uvmm_guest *g, const char *name, struct uvmm_disk_info *out)
{
	struct uvmm_disk_find find = { .name = "" };
	struct uvmm_disk_info info;
	struct rpc_call call = {
		.type = UVMM_MSG_DISK_FIND,
		.answer_type = UVMM_MSG_DISK_INFO,
		.body = &find,
		.body_bytes = sizeof(find),
		.send_fd = -1,
		.answer = &info,
		.answer_bytes = sizeof(info),
	};
	char why[UVMM_TEXT_BYTES];
	int rc;

	strncpy(find.name, name, sizeof(find.name) - 1);
	rc = attach_ask(&g->attachment, &call, why);
	if (rc)
		return fail(rc, "disk %s: %s", find.name, why);
	if (out)
		*out = info;
	return 0;
}

int guest_start_disks(uvmm_guest *g, int fds[2])
{
	struct rpc_call call = {
		.type = UVMM_MSG_DISK_START,
		.answer_type = UVMM_MSG_DISK_RING,
		.send_fd = -1,
		.max_fds = RPC_FDS_MAX,
	};
	char why[UVMM_TEXT_BYTES];
	int rc = attach_ask(&g->attachment, &call, why);

	if (rc)
		return fail(rc, "%s", why);
	if (call.n_fds != 2) {
		while (call.n_fds > 0)
			close(call.fds[--call.n_fds]);
		return fail(-EPROTO, "the daemon sends no ring for disks");
	}
	fds[0] = call.fds[0];
	fds[1] = call.fds[1];
	return 0;
}

bool guest_has(const uvmm_guest *g, const void *at, size_t bytes)
{
	uint64_t size = g->attachment.pages * UVMM_PAGE_SIZE;
	uint64_t from = (uint64_t)((uintptr_t)at - (uintptr_t)g->attachment.base);

	return (uintptr_t)at >= (uintptr_t)g->attachment.base && from <= size &&
	       bytes <= size - from;
}

/* --- attach ----------------------------------------------------------------- */

static int discard_free(void *arg, uint64_t page, uint64_t n);

static uint64_t trim_for_agent(void *arg)
{
	struct uvmm_guest *g = arg;
	uint64_t pages = 0;

	physmem_trim(&g->physmem, 1, discard_free, g, &pages);
	return pages;
}

static int connect_agent(void *arg)
{
	struct uvmm_guest *g = arg;
	char why[UVMM_TEXT_BYTES];
	int fd = attach_role(&g->attachment, UVMM_ROLE_AGENT, why);

	return fd < 0 ? fail(fd, "%s", why) : fd;
}

static void remap_for_agent(void *arg, const struct uvmm_remap *m, int frames,
			    struct uvmm_remapped *out)
{
	remap_serve(&((struct uvmm_guest *)arg)->remap, m, frames, out);
}

static void lower_for_agent(void *arg, const struct uvmm_remap *m, int low,
			    struct uvmm_remapped *out)
{
	remap_lower(&((struct uvmm_guest *)arg)->remap, m, low, out);
}

static int userfault(void *arg)
{
	const struct kept_fd *fd = &((struct uvmm_guest *)arg)->attachment.userfault;

	return kept_is_ours(fd) ? fd->fd : -1;
}

static void zap_for_agent(void *arg, const struct uvmm_zap *m, struct uvmm_zapped *out)
{
	remap_zap(&((struct uvmm_guest *)arg)->remap, m, out);
}

static uint64_t balloon_for_agent(void *arg, const struct uvmm_balloon *m,
				  enum driver_pieces pieces, struct uvmm_ballooned *out)
{
	return driver_serve(&((struct uvmm_guest *)arg)->balloon, m, pieces, out);
}

/* While memory is wanted, what is freed goes back at once, but for pieces of large pages,
 * which will be used again soon, or go when there is pressure. */
static int tick(void *arg)
{
	struct uvmm_guest *g = arg;

	if (physmem_balloon_pages(&g->physmem))
		physmem_trim(&g->physmem, UVMM_CHUNK_PAGES, discard_free, g, NULL);
	return TICK_MS;
}

static int ask(void *arg, struct rpc_call *call, char why[UVMM_TEXT_BYTES])
{
	return attach_ask(&((struct uvmm_guest *)arg)->attachment, call, why);
}

static int attach(struct uvmm_guest *g)
{
	static const struct agent_ops ops = {
		.connect = connect_agent,
		.trim = trim_for_agent,
		.tick = tick,
		.remap = remap_for_agent,
		.lower = lower_for_agent,
		.zap = zap_for_agent,
		.balloon = balloon_for_agent,
	};
	static const struct remap_ops remap_ops = { .ask = ask, .userfault = userfault };
	static const struct driver_ops driver_ops = { .ask = ask };
	char why[UVMM_TEXT_BYTES] = "";
	int rc;

	rc = attach_open(&g->attachment, why);
	if (rc)
		return fail(rc, "%s", why);
	/* Large pages are welcome, not needed. */
	madvise(g->attachment.base, g->attachment.pages * UVMM_PAGE_SIZE, MADV_HUGEPAGE);
	remap_init(&g->remap, g->attachment.base, g->attachment.pages, 0, &remap_ops, g);
	rc = physmem_init(&g->physmem, g->attachment.pages);
	if (rc) {
		fail(rc, "no memory for the page allocator's tables");
		goto out_attachment;
	}
	shortage_init(&g->shortage, &g->physmem);
	driver_init(&g->balloon, &g->physmem, &g->remap, &driver_ops, g);
	rc = agent_start(&g->agent, &ops, g);
	if (rc == -EAGAIN)
		rc = fail(-ENOMEM, "cannot start the agent thread");
	if (!rc)
		return 0;
	physmem_fini(&g->physmem);
out_attachment:
	attach_close(&g->attachment);
	return rc;
}

int uvmm_attach(uvmm_guest **out)
{
	int rc = 0;

	error_text[0] = '\0';
	*out = NULL;
	pthread_mutex_lock(&attach_lock);
	if (!the_guest) {
		struct uvmm_guest *g = calloc(1, sizeof(*g));

		rc = g ? attach(g) : fail(-ENOMEM, "no memory");
		if (rc)
			free(g);
		else
			the_guest = g;
	}
	*out = the_guest;
	pthread_mutex_unlock(&attach_lock);
	return rc;
}

void *uvmm_base(const uvmm_guest *g)
{
	return g->attachment.base;
}

size_t uvmm_size_bytes(const uvmm_guest *g)
{
	return g->attachment.pages * UVMM_PAGE_SIZE;
}

const char *uvmm_name(const uvmm_guest *g)
{
	return g->attachment.hello.name;
}

/* --- page allocator --------------------------------------------------------- */

static void *at_page(const uvmm_guest *g, uint64_t page)
{
	return g->attachment.base + page * UVMM_PAGE_SIZE;
}

/* False if addr is not the start of a page of guest memory. */
static bool page_of(const uvmm_guest *g, const void *addr, uint64_t *page)
{
	uintptr_t at = (uintptr_t)addr, base = (uintptr_t)g->attachment.base;

	*page = (at - base) / UVMM_PAGE_SIZE;
	return at >= base && at % UVMM_PAGE_SIZE == 0 && *page < g->attachment.pages;
}

static uint64_t pages_for(size_t bytes)
{
	return bytes / UVMM_PAGE_SIZE + (bytes % UVMM_PAGE_SIZE != 0);
}

int uvmm_alloc_pages(uvmm_guest *g, unsigned order, void **out)
{
	uint64_t page;
	int rc;

	error_text[0] = '\0';
	rc = physmem_alloc_block(&g->physmem, order, &page);
	if (rc == -EINVAL)
		return fail(rc, "order %u: the largest is %u", order, UVMM_ORDER_MAX);
	if (rc)
		return fail(rc, "no free block of order %u; %llu pages are free", order,
			    (unsigned long long)physmem_free_pages(&g->physmem));
	*out = at_page(g, page);
	return 0;
}

int uvmm_free_pages(uvmm_guest *g, void *block, unsigned order)
{
	uint64_t page;

	error_text[0] = '\0';
	if (order > UVMM_ORDER_MAX || !page_of(g, block, &page) ||
	    physmem_free(&g->physmem, page, 1ull << order))
		return fail(-EINVAL, "%p is not the start of a block of order %u in use",
			    block, order);
	return 0;
}

int uvmm_alloc(uvmm_guest *g, size_t bytes, void **out)
{
	uint64_t page;
	int rc;

	error_text[0] = '\0';
	rc = physmem_alloc_run(&g->physmem, pages_for(bytes), &page);
	if (rc == -EINVAL)
		return fail(rc, "0 bytes were asked for");
	if (rc)
		return fail(rc, "no free run of %zu bytes; %llu pages are free", bytes,
			    (unsigned long long)physmem_free_pages(&g->physmem));
	*out = at_page(g, page);
	return 0;
}

int uvmm_free(uvmm_guest *g, void *block, size_t bytes)
{
	uint64_t page;

	error_text[0] = '\0';
	if (!page_of(g, block, &page) || physmem_free(&g->physmem, page, pages_for(bytes)))
		return fail(-EINVAL, "%p was not allocated with %zu bytes", block, bytes);
	return 0;
}

int uvmm_trim(uvmm_guest *g, uint64_t *pages)
{
	int rc = physmem_trim(&g->physmem, 1, discard_free, g, pages);

	if (!rc)
		error_text[0] = '\0';
	return rc;
}

/* --- pages and the daemon --------------------------------------------------- */

static int discard_free(void *arg, uint64_t page, uint64_t n)
{
	struct uvmm_guest *g = arg;
	char why[UVMM_TEXT_BYTES];
	int rc = remap_discard(&g->remap, page, n, why);

	return rc ? fail(rc, "%s", why) : 0;
}

static int on_range(uvmm_guest *g, uint16_t type, const void *addr, size_t bytes)
{
	struct uvmm_range range = { .pages = bytes / UVMM_PAGE_SIZE };
	char why[UVMM_TEXT_BYTES];
	int rc;

	error_text[0] = '\0';
	if (!bytes || bytes % UVMM_PAGE_SIZE || !page_of(g, addr, &range.ppn) ||
	    range.pages > g->attachment.pages - range.ppn)
		return fail(-EINVAL, "%zu bytes at %p are not whole pages of guest memory",
			    bytes, addr);
	if (type == UVMM_MSG_DISCARD)
		return discard_free(g, range.ppn, range.pages);
	rc = attach_ask_range(&g->attachment, &range, type, why);
	return rc ? fail(rc, "%s", why) : 0;
}

int uvmm_discard(uvmm_guest *g, void *addr, size_t bytes)
{
	return on_range(g, UVMM_MSG_DISCARD, addr, bytes);
}

int uvmm_pin(uvmm_guest *g, void *addr, size_t bytes)
{
	return on_range(g, UVMM_MSG_PIN, addr, bytes);
}

int uvmm_unpin(uvmm_guest *g, void *addr, size_t bytes)
{
	return on_range(g, UVMM_MSG_UNPIN, addr, bytes);
}

/* --- pressure and statistics ------------------------------------------------ */

static int added(int rc)
{
	return rc ? fail(rc, "there are %d pressure callbacks already", AGENT_CALLBACKS_MAX) : 0;
}

int uvmm_on_pressure(uvmm_guest *g, uvmm_pressure_fn fn, void *arg)
{
	error_text[0] = '\0';
	if (!fn)
		return fail(-EINVAL, "the callback is NULL");
	return added(agent_add(&g->agent, fn, arg));
}

int guest_on_pressure_last(uvmm_guest *g, uvmm_pressure_fn fn, void *arg)
{
	return added(agent_add_last(&g->agent, fn, arg));
}

int uvmm_off_pressure(uvmm_guest *g, uvmm_pressure_fn fn, void *arg)
{
	error_text[0] = '\0';
	if (agent_remove(&g->agent, fn, arg))
		return fail(-ENOENT, "no such pressure callback");
	return 0;
}

int uvmm_get_statistics(uvmm_guest *g, struct uvmm_statistics *out)
{
	uint64_t free_pages = physmem_free_pages(&g->physmem);
	uint64_t balloon_pages = physmem_balloon_pages(&g->physmem);
	struct uvmm_usage u;
	struct rpc_call call = {
		.type = UVMM_MSG_STATS,
		.answer_type = UVMM_MSG_USAGE,
		.send_fd = -1,
		.answer = &u,
		.answer_bytes = sizeof(u),
	};
	char why[UVMM_TEXT_BYTES];
	int rc;

	error_text[0] = '\0';
	rc = attach_ask(&g->attachment, &call, why);
	if (rc)
		return fail(rc, "%s", why);
	*out = (struct uvmm_statistics){
		.min_pages = u.min_pages,
		.max_pages = u.max_pages,
		.target_pages = u.target_pages,
		.resident_pages = u.resident_pages,
		.swapped_pages = u.swapped_pages,
		.untouched_pages = u.untouched_pages,
		.pinned_pages = u.pinned_pages,
		.ballooned_pages = u.ballooned_pages,
		.allocated_pages = g->attachment.pages - free_pages - balloon_pages,
		.free_pages = free_pages,
		.faults = u.faults,
		.stall_ns = u.stall_ns,
	};
	return 0;
}
