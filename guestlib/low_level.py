# SPDX-License-Identifier: MIT
"""
The one door to the C library: plain calls, failures as exceptions.

Addresses are integers, sizes bytes. Calls may be made from any thread; cffi
releases Python's lock for each.
"""

from __future__ import annotations

import enum
import errno
import itertools
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from guestlib._guest import ffi, lib
from guestlib.errors import GuestError, NotAGuestError, OutOfMemoryError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import ReadableBuffer, WriteableBuffer

PAGE_BYTES = 4096


class CallbackHandle(NamedTuple):
    """Keeps a callback alive while the library may call it."""

    pointer: Any
    function: Callable[[int, int], int | None]


def _check(status: int) -> None:
    if status >= 0:
        return
    number = -status
    kind: type[GuestError] = GuestError
    if number == errno.ENOENT:
        kind = NotAGuestError
    elif number == errno.ENOMEM:
        kind = OutOfMemoryError
    words = ffi.string(lib.uvmm_error()).decode(errors="replace")
    raise kind(number, words or os.strerror(number))


def attach() -> Any:
    """Attach this process; the library's guest."""
    out = ffi.new("uvmm_guest **")
    _check(lib.uvmm_attach(out))
    return out[0]


def name(guest: Any) -> str:
    """Return the guest's name."""
    return str(ffi.string(lib.uvmm_name(guest)).decode())


def base(guest: Any) -> int:
    """Return the address of the first byte of guest physical memory."""
    return int(ffi.cast("uintptr_t", lib.uvmm_base(guest)))


def size_bytes(guest: Any) -> int:
    """Return the size of guest physical memory."""
    return int(lib.uvmm_size_bytes(guest))


def buffer(address: int, size: int) -> WriteableBuffer:
    """Return an object whose buffer is the memory there."""
    return ffi.buffer(ffi.cast("char *", address), size)  # type: ignore[no-any-return]


def allocate(guest: Any, size: int) -> int:
    """Take a run of pages for *size* bytes; its address."""
    if size > sys.maxsize:
        raise OutOfMemoryError(errno.ENOMEM, f"no free run of {size} bytes")
    out = ffi.new("void **")
    _check(lib.uvmm_alloc(guest, size, out))
    return int(ffi.cast("uintptr_t", out[0]))


def free(guest: Any, address: int, size: int) -> None:
    """Give back what `allocate` gave."""
    _check(lib.uvmm_free(guest, _at(address), size))


def discard(guest: Any, address: int, size: int) -> None:
    """Forget the contents of whole pages."""
    _check(lib.uvmm_discard(guest, _at(address), size))


def pin(guest: Any, address: int, size: int) -> None:
    """Keep whole pages resident."""
    _check(lib.uvmm_pin(guest, _at(address), size))


def unpin(guest: Any, address: int, size: int) -> None:
    """Undo one `pin`."""
    _check(lib.uvmm_unpin(guest, _at(address), size))


def trim(guest: Any) -> int:
    """Hand the memory of free pages back; how many pages."""
    pages = ffi.new("uint64_t *")
    _check(lib.uvmm_trim(guest, pages))
    return int(pages[0])


def statistics(guest: Any) -> dict[str, int]:
    """Return the fields of struct uvmm_statistics."""
    out = ffi.new("struct uvmm_statistics *")
    _check(lib.uvmm_get_statistics(guest, out))
    return {field: int(getattr(out, field)) for field in dir(out)}


def on_pressure(
    guest: Any, function: Callable[[int, int], int | None]
) -> CallbackHandle:
    """Have *function* called with a level and a number of wanted pages."""
    handle = CallbackHandle(ffi.new_handle(function), function)
    _check(lib.uvmm_on_pressure(guest, lib.guestlib_on_pressure, handle.pointer))
    return handle


def off_pressure(guest: Any, handle: CallbackHandle) -> None:
    """Undo `on_pressure`; waits for the callback if it runs."""
    _check(lib.uvmm_off_pressure(guest, lib.guestlib_on_pressure, handle.pointer))


# --- the file cache: errors are those of files --------------------------------


def _check_file(status: int, path: str | bytes | None = None) -> int:
    if status >= 0:
        return int(status)
    words = ffi.string(lib.uvmm_error()).decode(errors="replace")
    # OSError makes a FileNotFoundError and so on of it.
    if path is not None:
        raise OSError(-status, os.strerror(-status), path)
    raise OSError(-status, words or os.strerror(-status))


def cache_create(guest: Any, min_pages: int, max_pages: int) -> Any:
    """Make a cache; *max_pages* 0: guest memory."""
    out = ffi.new("uvmm_cache **")
    bounds = ffi.new("struct uvmm_cache_bounds *", [min_pages, max_pages])
    _check(lib.uvmm_cache_create(guest, bounds, out))
    return out[0]


def cache_destroy(cache: Any) -> None:
    """Write back and free a cache."""
    _check_file(lib.uvmm_cache_destroy(cache))


def cache_flush(cache: Any) -> None:
    """Flush all files."""
    _check_file(lib.uvmm_cache_flush(cache))


def cache_shrink(cache: Any, pages: int) -> int:
    """Give pages back to the page allocator; how many."""
    return int(lib.uvmm_cache_shrink(cache, min(pages, sys.maxsize)))


def cache_statistics(cache: Any) -> dict[str, int]:
    """Return the fields of struct uvmm_cache_statistics."""
    out = ffi.new("struct uvmm_cache_statistics *")
    lib.uvmm_cache_get_statistics(cache, out)
    return {field: int(getattr(out, field)) for field in dir(out)}


def file_open(cache: Any, path: str | bytes, flags: int, permissions: int) -> Any:
    """Open a file; its handle."""
    out = ffi.new("uvmm_file **")
    _check_file(lib.uvmm_file_open(cache, os.fsencode(path), flags, permissions, out), path)
    return out[0]


def file_open_disk(cache: Any, disk: str, flags: int) -> Any:
    """Open a virtual disk as a file of a cache; its handle."""
    out = ffi.new("uvmm_file **")
    _check_file(lib.uvmm_file_open_disk(cache, disk.encode(), flags, out))
    return out[0]


def file_close(handle: Any) -> None:
    """Close a handle, which is gone then also after an error."""
    _check_file(lib.uvmm_file_close(handle))


def file_read(handle: Any, buffer: WriteableBuffer) -> int:
    """Read into *buffer* at the position; how many bytes."""
    with ffi.from_buffer(buffer, require_writable=True) as at:
        return _check_file(lib.uvmm_file_read(handle, at, len(at)))


def file_write(handle: Any, data: ReadableBuffer) -> int:
    """Write *data* at the position; how many bytes."""
    with ffi.from_buffer(data) as at:
        return _check_file(lib.uvmm_file_write(handle, at, len(at)))


def file_pread(handle: Any, buffer: WriteableBuffer, offset: int) -> int:
    """Read into *buffer* from *offset*; how many bytes."""
    with ffi.from_buffer(buffer, require_writable=True) as at:
        return _check_file(lib.uvmm_file_pread(handle, at, len(at), offset))


def file_pwrite(handle: Any, data: ReadableBuffer, offset: int) -> int:
    """Write *data* at *offset*; how many bytes."""
    with ffi.from_buffer(data) as at:
        return _check_file(lib.uvmm_file_pwrite(handle, at, len(at), offset))


def file_seek(handle: Any, offset: int, whence: int) -> int:
    """Move the position; where it is."""
    return _check_file(lib.uvmm_file_seek(handle, offset, whence))


def file_size(handle: Any) -> int:
    """Return the size."""
    return int(lib.uvmm_file_size(handle))


def file_truncate(handle: Any, size: int) -> None:
    """Set the size."""
    _check_file(lib.uvmm_file_truncate(handle, size))


def file_flush(handle: Any) -> None:
    """Make what was written durable."""
    _check_file(lib.uvmm_file_flush(handle))


def file_pin(handle: Any, index: int) -> tuple[int, int]:
    """Keep a page in the cache; its address, and how many bytes are the file's."""
    page, size = ffi.new("void const **"), ffi.new("size_t *")
    _check_file(lib.uvmm_file_pin(handle, index, page, size))
    return int(ffi.cast("uintptr_t", page[0])), int(size[0])


def file_unpin(handle: Any, address: int) -> None:
    """Undo `file_pin`."""
    _check_file(lib.uvmm_file_unpin(handle, _at(address)))


# --- virtual disks: errors are those of files ------------------------------------


class DiskWhat(enum.IntEnum):
    """What a task does, as enum uvmm_disk_what."""

    READ = 1
    WRITE = 2
    FLUSH = 3
    DISCARD = 4


_numbers = itertools.count(1)
_WAIT_ROOM = 64


class DiskTask:
    """A struct uvmm_disk_task, with all that it points to."""

    def __init__(self, what: DiskWhat, buffers: Sequence[memoryview], offset: int) -> None:
        """Make a task of buffers in guest memory."""
        self.number = next(_numbers)
        self._kept = [ffi.from_buffer(each) for each in buffers]
        self._vector = ffi.new("struct iovec[]", len(buffers) or 1)
        for at, each in enumerate(self._kept):
            self._vector[at].iov_base = each
            self._vector[at].iov_len = len(each)
        self.task = ffi.new("struct uvmm_disk_task *")
        self.task.what = int(what)
        self.task.n = len(buffers)
        self.task.v = self._vector
        self.task.offset = _unsigned(offset)
        self.task.user = ffi.cast("void *", self.number)


def check_task(task: DiskTask) -> None:
    """Raise what a task that is done failed with."""
    status = task.task.status
    if status:
        raise OSError(-status, os.strerror(-status))


def _unsigned(number: int) -> int:
    if not 0 <= number <= sys.maxsize:
        raise OSError(errno.EINVAL, f"an offset or size is 0 to {sys.maxsize}, got {number}")
    return number


def disk_open(guest: Any, name: str) -> Any:
    """Open a disk; its handle."""
    out = ffi.new("uvmm_disk **")
    status = lib.uvmm_disk_open(guest, name.encode(), out)
    if status == -errno.ENOENT:
        raise GuestError(-status, ffi.string(lib.uvmm_error()).decode(errors="replace"))
    _check(status)
    return out[0]


def disk_shape(handle: Any) -> tuple[int, int, bool]:
    """Return its size, the size of a block, and whether it is read-only."""
    return (
        int(lib.uvmm_disk_size_bytes(handle)), int(lib.uvmm_disk_block_bytes(handle)),
        bool(lib.uvmm_disk_read_only(handle)),
    )


def disk_close(handle: Any) -> None:
    """Close a handle, after what is under way."""
    lib.uvmm_disk_close(handle)


def disk_move(handle: Any, buffer: ReadableBuffer, offset: int, *, write: bool) -> None:
    """Read or write a buffer of guest memory."""
    with ffi.from_buffer(buffer, require_writable=not write) as at:
        move = lib.uvmm_disk_write if write else lib.uvmm_disk_read
        _check_file(move(handle, at, len(at), _unsigned(offset)))


def disk_flush(handle: Any) -> None:
    """Make what was written durable."""
    _check_file(lib.uvmm_disk_flush(handle))


def disk_discard(handle: Any, offset: int, size: int) -> None:
    """Forget a range."""
    _check_file(lib.uvmm_disk_discard(handle, _unsigned(offset), _unsigned(size)))


def disk_submit(handle: Any, task: DiskTask) -> None:
    """Begin a task, which has to be kept until it is done."""
    tasks = ffi.new("struct uvmm_disk_task *[]", [task.task])
    _check_file(lib.uvmm_disk_submit(handle, tasks, 1))


def disk_wait(handle: Any, least: int, timeout_s: float | None) -> list[int]:
    """Return the numbers of tasks that are done."""
    done = ffi.new("struct uvmm_disk_task *[]", _WAIT_ROOM)
    wait_ms = -1 if timeout_s is None else max(0, min(round(timeout_s * 1000), 1 << 30))
    n = lib.uvmm_disk_wait(handle, done, _WAIT_ROOM, min(max(least, 0), _WAIT_ROOM), wait_ms)
    return [int(ffi.cast("uintptr_t", done[i].user)) for i in range(n)]


def in_guest(guest: Any, view: memoryview) -> bool:
    """Tell whether a buffer lies in guest memory."""
    if not len(view):
        return False
    at = int(ffi.cast("uintptr_t", ffi.from_buffer(view)))
    return base(guest) <= at < base(guest) + size_bytes(guest)


def _at(address: int) -> Any:
    return ffi.cast("void *", address)


# What a callback raises goes to sys.unraisablehook, and counts as no page.
@ffi.def_extern(error=0)  # type: ignore[untyped-decorator, unused-ignore]
def guestlib_on_pressure(arg: Any, level: int, wanted_pages: int) -> int:
    """Call the Python function behind *arg*, on the library's agent thread."""
    return max(0, int(ffi.from_handle(arg)(level, wanted_pages) or 0))
