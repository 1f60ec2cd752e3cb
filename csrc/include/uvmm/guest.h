/* SPDX-License-Identifier: MIT
 *
 * guest - the library of a guest program: attach to the daemon, use guest
 * physical memory, hear of pressure.
 *
 *   Start the program with `uvmm run -- PROGRAM`; that sets the environment
 *   from which uvmm_attach() learns where its daemon is.
 *
 *   Memory   One contiguous range, mapped shared on a 2 MiB boundary: page
 *            number PPN lies at base + PPN * 4096. It may be read and written
 *            at any time by any thread; the daemon may take a page out and
 *            bring it back at any moment, which only costs time. Memory that
 *            was never written, or was discarded, reads as zeros. How it is mapped
 *            is the daemon's: no mprotect(), madvise() or mapping of the program's own.
 *   Threads  Every call may be made by any thread at any time, except where a
 *            line says otherwise. Pressure callbacks run on the agent thread,
 *            one at a time, with all signals blocked.
 *   fork     A child does not have guest memory (it is left out of the child's
 *            address space) and must not call this library.
 *   Signals  No call is async-signal-safe.
 *   Errors   0 or a negative errno, unless a line says otherwise;
 *            uvmm_error() has the last failure of this thread in words.
 *   Units    bytes where the name says bytes, else pages of 4 KiB.
 */
#ifndef UVMM_GUEST_H
#define UVMM_GUEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define UVMM_PUBLIC __attribute__((visibility("default")))

typedef struct uvmm_guest uvmm_guest;

/* Attaches the process and maps its memory; a second call gives the same guest.
 * The guest stays attached until the process ends.
 *   -ENOENT         not started by `uvmm run` (no UVMM_* in the environment), or with
 *                   the heap in guest memory: that is `uvmm run --heap none`
 *   -ECONNREFUSED   the daemon is gone
 *   -EACCES         the daemon does not know this process as that guest
 *   -EPROTO         the daemon speaks another version, or nonsense
 *   -ENOMEM, -EMFILE, -EIO  the kernel refused a mapping, descriptor, thread */
UVMM_PUBLIC int uvmm_attach(uvmm_guest **out);

/* First byte of guest physical memory; its size; the name given to uvmm run.
 * Valid until the process ends. */
UVMM_PUBLIC void *uvmm_base(const uvmm_guest *g);
UVMM_PUBLIC size_t uvmm_size_bytes(const uvmm_guest *g);
UVMM_PUBLIC const char *uvmm_name(const uvmm_guest *g);

/* --- page allocator: buddy system, blocks of 2^order pages, lowest first ---
 *
 *   The balloon: when the daemon wants memory back, the agent thread takes free pages out of
 *   the allocator and hands them over, and asks the pressure callbacks for more; pages that
 *   are freed meanwhile go back as by uvmm_trim(). When memory is plentiful again it puts
 *   them back. An allocation that finds no free
 *   memory takes what it needs back from the balloon at once, and does not fail.
 */

/* Largest order: 2^18 pages, 1 GiB. */
#define UVMM_ORDER_MAX 18

/* Takes a block of 2^order pages, aligned to its size from the base. Contents
 * are whatever a former owner left, or zeros. A file cache (uvmm/cache.h) gives up
 * pages for it if need be.
 *   -EINVAL  order > UVMM_ORDER_MAX
 *   -ENOMEM  no free block of that order */
UVMM_PUBLIC int uvmm_alloc_pages(uvmm_guest *g, unsigned order, void **out);

/* Gives a block back. Its pages stay resident until pressure, uvmm_trim() or
 * uvmm_discard().
 *   -EINVAL  not the start of a block in use of that order */
UVMM_PUBLIC int uvmm_free_pages(uvmm_guest *g, void *block, unsigned order);

/* The same by size: rounded up to pages, any length; the tail of the last
 * power of two is not wasted. Pair the two; sizes must be equal.
 *   -EINVAL  bytes is 0, or block was not allocated with that size
 *   -ENOMEM  no free run of that length */
UVMM_PUBLIC int uvmm_alloc(uvmm_guest *g, size_t bytes, void **out);
UVMM_PUBLIC int uvmm_free(uvmm_guest *g, void *block, size_t bytes);

/* Gives the machine memory behind all free pages back to the daemon; *pages
 * (may be NULL) is how many pages were handed over. Errors as uvmm_discard. */
UVMM_PUBLIC int uvmm_trim(uvmm_guest *g, uint64_t *pages);

/* --- pages and the daemon ------------------------------------------------- */

/* Forgets the contents of [addr, addr + bytes): reads as zeros, holds nothing.
 *   -EINVAL        not page-aligned, empty or outside guest memory
 *   -EBUSY         a page of it is pinned, or has been remapped by the daemon for
 *                  too long; nothing was discarded
 *   -EIO           the kernel refused; some of it may be discarded
 *   -ECONNRESET    the daemon is gone */
UVMM_PUBLIC int uvmm_discard(uvmm_guest *g, void *addr, size_t bytes);

/* Keeps the pages of the range resident until as many unpins: for buffers that
 * a device or the kernel holds for long (O_DIRECT, io_uring registration).
 *   -EINVAL        not page-aligned, empty or outside guest memory
 *   -ENOMEM        machine memory cannot hold more pinned pages; none was pinned
 *   -EOVERFLOW     a page is pinned 15 times already; none was pinned
 *   -EBUSY         a page has been remapped by the daemon for too long; none was pinned
 *   -EIO           a page could not be brought back (see the daemon's log)
 *   -ECONNRESET    the daemon is gone */
UVMM_PUBLIC int uvmm_pin(uvmm_guest *g, void *addr, size_t bytes);
UVMM_PUBLIC int uvmm_unpin(uvmm_guest *g, void *addr, size_t bytes);

/* --- pressure --------------------------------------------------------------*/

enum { UVMM_CALM = 0, UVMM_TIGHT = 1, UVMM_STALLED = 2 };

/* Called when the daemon wants memory back, also for the balloon: level is one of the above,
 * wanted_pages a wish. The callback frees what it can spare with uvmm_free or
 * uvmm_discard and returns how many pages that was; free pages are handed over
 * afterwards. It may not block for long. UVMM_CALM says that it is over. */
typedef uint64_t (*uvmm_pressure_fn)(void *arg, int level, uint64_t wanted_pages);

/* Adds a callback; they are called in the order they were added, and then file caches
 * give what is wanted still.
 *   -EINVAL  fn is NULL       -ENOSPC  16 are there already */
UVMM_PUBLIC int uvmm_on_pressure(uvmm_guest *g, uvmm_pressure_fn fn, void *arg);
/* Removes it; once it returns the callback does not run any more (called from
 * a callback it returns at once).  -ENOENT  no such pair */
UVMM_PUBLIC int uvmm_off_pressure(uvmm_guest *g, uvmm_pressure_fn fn, void *arg);

/* --- statistics ----------------------------------------------------------- */

struct uvmm_statistics {
	uint64_t min_pages, max_pages, target_pages;
	uint64_t resident_pages, swapped_pages, untouched_pages;
	uint64_t pinned_pages;
	uint64_t ballooned_pages;               /* handed back to the daemon for a while */
	uint64_t allocated_pages, free_pages;   /* of the page allocator; ballooned are neither */
	uint64_t faults;        /* served by the daemon */
	uint64_t stall_ns;      /* thread time spent waiting for memory */
};

/* Fills *out.  -ECONNRESET  the daemon is gone */
UVMM_PUBLIC int uvmm_get_statistics(uvmm_guest *g, struct uvmm_statistics *out);

/* Why the last call of this thread failed, in words; "" if none did. Valid
 * until this thread's next call. */
UVMM_PUBLIC const char *uvmm_error(void);

#ifdef __cplusplus
}
#endif

#endif /* UVMM_GUEST_H */
