# SPDX-License-Identifier: MIT
"""The guest, its memory, and blocks of it."""

from __future__ import annotations

import atexit
import errno
import os
import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Self

from guestlib import low_level
from guestlib.cache import Cache
from guestlib.disk import Disk
from guestlib.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from _typeshed import WriteableBuffer

    PressureCallback = Callable[["Pressure", int], int | None]


class Pressure(IntEnum):
    """How short of memory the machine is."""

    CALM = 0
    TIGHT = 1
    STALLED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the daemon and the page allocator say of this guest; pages and nanoseconds."""

    min_pages: int
    max_pages: int
    target_pages: int
    resident_pages: int
    swapped_pages: int
    untouched_pages: int
    pinned_pages: int
    ballooned_pages: int
    allocated_pages: int
    free_pages: int
    faults: int
    stall_ns: int


class Block:
    """
    A run of pages of guest memory.

    Use it in a `with` block, or free it; `memory` is its bytes, and is released
    with it, so that nobody writes into pages which belong to another block then.
    """

    def __init__(self, guest: Any, size_bytes: int) -> None:
        """
        Take a block; see `Guest.allocate`.

        Raises:
            OutOfMemoryError: If no run of free pages is that long.
            GuestError: If *size_bytes* is 0.
        """
        self._guest = guest
        self._address = 0
        self._freeing = threading.Lock()
        if size_bytes <= 0:
            raise GuestError(errno.EINVAL, f"a block has at least 1 byte, got {size_bytes}")
        self._address = low_level.allocate(guest, size_bytes)
        self._size = size_bytes
        self._open(low_level.buffer(self._address, size_bytes))

    @property
    def address(self) -> int:
        """Address of the first byte."""
        return self._address

    @property
    def size_bytes(self) -> int:
        """Size that was asked for."""
        return self._size

    def free(self) -> None:
        """
        Give the pages back; a second call does nothing.

        Raises:
            BufferError: If something (a numpy array) still uses `memory`; nothing
                was freed then.
        """
        with self._freeing:
            if not self._address:
                return
            self.memory.release()
            if (buffer := self._buffer()) is not None:
                self._open(buffer)
                raise BufferError("something still uses the memory of this block")
            low_level.free(self._guest, self._address, self._size)
            self._address = 0

    def discard(self) -> None:
        """
        Forget the contents: zero from now, and nothing held.

        Raises:
            GuestError: If a page is pinned, the block is freed, or the daemon gone.
        """
        low_level.discard(self._guest, *self._pages())

    def pin(self) -> None:
        """
        Keep the block resident until as many `unpin`: for buffers that a device uses.

        Raises:
            OutOfMemoryError: If machine memory cannot hold more pinned pages.
            GuestError: If a page is lost or pinned too often, or the daemon gone.
        """
        low_level.pin(self._guest, *self._pages())

    def unpin(self) -> None:
        """
        Undo one `pin`; before the block is freed.

        Raises:
            GuestError: If the block is not pinned, or freed, or the daemon gone.
        """
        low_level.unpin(self._guest, *self._pages())

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """
        Keep the block resident for the time of a `with` block.

        Raises:
            GuestError: As `pin`.
        """
        self.pin()
        try:
            yield
        finally:
            self.unpin()

    def _open(self, buffer: WriteableBuffer) -> None:
        # A memoryview does not count what was made from it: the buffer below it
        # lives for as long as anything is.
        self._buffer = weakref.ref(buffer)
        self.memory = memoryview(buffer).cast("B")

    def _pages(self) -> tuple[int, int]:
        if not self._address:
            raise GuestError(errno.EINVAL, "the block is freed")
        page = low_level.PAGE_BYTES
        return self._address, (self._size + page - 1) // page * page

    def __len__(self) -> int:
        return self._size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.free()


class Guest:
    """This process as a guest; made by `attach`, lives as long as the process."""

    def __init__(self) -> None:
        self._guest = low_level.attach()
        self._callbacks: dict[PressureCallback, low_level.CallbackHandle] = {}
        self.memory = memoryview(
            low_level.buffer(low_level.base(self._guest), self.size_bytes)
        ).cast("B")
        # An interpreter that ends cannot be called any more. A child has no agent.
        atexit.register(self._forget_callbacks)
        os.register_at_fork(after_in_child=self._callbacks.clear)

    @property
    def name(self) -> str:
        """Name that `uvmm run` gave."""
        return low_level.name(self._guest)

    @property
    def size_bytes(self) -> int:
        """Size of guest physical memory."""
        return low_level.size_bytes(self._guest)

    @property
    def address(self) -> int:
        """Address of the first byte of guest physical memory."""
        return low_level.base(self._guest)

    def allocate(self, size_bytes: int) -> Block:
        """
        Take a block of whole pages for *size_bytes* bytes.

        Its contents are whatever a former owner left, or zeros.

        Raises:
            OutOfMemoryError: If no run of free pages is that long.
        """
        return Block(self._guest, size_bytes)

    def cache(self, *, min_bytes: int = 0, max_bytes: int | None = None) -> Cache:
        """
        Make a file cache in guest memory; one is enough.

        Args:
            min_bytes: What it keeps under pressure.
            max_bytes: What it takes at most; all free guest memory if None.

        Raises:
            GuestError: If the bounds do not fit.
        """
        return Cache(self._guest, min_bytes, max_bytes)

    def disk(self, name: str) -> Disk:
        """
        Open a disk that `uvmm run --disk NAME=FILE` gave this guest.

        Raises:
            GuestError: ENOENT if there is none of that name.
        """
        return Disk(self._guest, name)

    def trim(self) -> int:
        """Hand the machine memory behind free pages back; how many pages that was."""
        return low_level.trim(self._guest)

    def on_pressure(self, callback: PressureCallback) -> PressureCallback:
        """
        Have *callback* called when the daemon wants memory back; a decorator too.

        It gets the level and how many pages are wished for, frees what it can
        spare and returns how many pages that was. It runs on a thread of its own.

        Raises:
            GuestError: If there are 16 callbacks, or this one is there already.
        """
        if callback in self._callbacks:
            raise GuestError(errno.EEXIST, "this pressure callback is there already")

        def call(level: int, wanted_pages: int) -> int | None:
            return callback(Pressure(level), wanted_pages)

        self._callbacks[callback] = low_level.on_pressure(self._guest, call)
        return callback

    def off_pressure(self, callback: PressureCallback) -> None:
        """
        Remove a callback; once this returns it does not run any more.

        Raises:
            GuestError: If it is not there.
        """
        handle = self._callbacks.pop(callback, None)
        if handle is None:
            raise GuestError(errno.ENOENT, "no such pressure callback")
        low_level.off_pressure(self._guest, handle)

    def _forget_callbacks(self) -> None:
        for callback in list(self._callbacks):
            self.off_pressure(callback)

    def statistics(self) -> Statistics:
        """
        Ask the daemon for this guest's figures.

        Raises:
            GuestError: If the daemon is gone.
        """
        return Statistics(**low_level.statistics(self._guest))


_guests: list[Guest] = []
_attaching = threading.Lock()


def attach() -> Guest:
    """
    Attach this process to its daemon and map its memory; later calls give the same.

    Raises:
        NotAGuestError: If it was not started by `uvmm run`.
        GuestError: If the daemon is gone, refuses, or the kernel does.
    """
    with _attaching:
        if not _guests:
            _guests.append(Guest())
        return _guests[0]
