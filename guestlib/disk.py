# SPDX-License-Identifier: MIT
"""Virtual disks of a guest: images as block devices."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING, Any, Self

from guestlib import low_level
from guestlib.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from _typeshed import ReadableBuffer, WriteableBuffer

_STAGE_BYTES = 1 << 20
_TOLD_S = 0.05


class DiskRequest:
    """A request that is under way; made by `Disk.begin_read` and its like."""

    def __init__(self, disk: Disk, task: low_level.DiskTask) -> None:
        """Only for `Disk`."""
        self._disk = disk
        self._task = task
        self.done = False

    def wait(self) -> None:
        """
        Wait until it is done.

        Raises:
            OSError: If it failed.
        """
        # Another thread may be the one that is told.
        while not self.done:
            self._disk.wait(1, _TOLD_S)
        low_level.check_task(self._task)


class Disk:
    """
    A disk that `uvmm run --disk NAME=FILE` gave this guest; made by `Guest.disk`.

    Offsets and sizes are bytes, and multiples of `block_bytes`. Buffers in guest memory (of
    `Guest.allocate`) are read and written where they are, others by way of one.
    May be used by many threads.
    """

    def __init__(self, guest: Any, name: str) -> None:
        """
        Open a disk; see `Guest.disk`.

        Raises:
            GuestError: If there is none of that name, or the daemon has no io_uring.
        """
        self._guest = guest
        self._handle: Any = None
        self._stage = 0
        self._staging = threading.Lock()
        self._taking = threading.Lock()
        self._under_way: dict[int, DiskRequest] = {}
        self.name = name
        self._handle = low_level.disk_open(guest, name)
        self.size_bytes, self.block_bytes, self.read_only = low_level.disk_shape(self._handle)

    def read(self, size: int, offset: int) -> bytes:
        """
        Return *size* bytes from *offset*.

        Raises:
            OSError: EINVAL if these are not whole blocks, EIO beyond the end, or what
                the image says.
        """
        data = bytearray(size)
        self.read_into(data, offset)
        return bytes(data)

    def read_into(self, buffer: WriteableBuffer, offset: int) -> None:
        """
        Fill a buffer from *offset*.

        Raises:
            OSError: As `read`.
        """
        view = memoryview(buffer).cast("B")
        handle = self._open()
        if low_level.in_guest(self._guest, view):
            low_level.disk_move(handle, view, offset, write=False)
            return
        with self._staging:
            for at in range(0, len(view), _STAGE_BYTES):
                piece = view[at : at + _STAGE_BYTES]
                stage = self._stage_of(len(piece))
                low_level.disk_move(handle, stage, offset + at, write=False)
                piece[:] = stage

    def write(self, data: ReadableBuffer, offset: int) -> None:
        """
        Write *data* at *offset*; `flush` makes it durable.

        Raises:
            OSError: EINVAL if these are not whole blocks, ENOSPC beyond the end, EROFS, or
                what the image says.
        """
        view = memoryview(data).cast("B")
        handle = self._open()
        if low_level.in_guest(self._guest, view):
            low_level.disk_move(handle, view, offset, write=True)
            return
        with self._staging:
            for at in range(0, len(view), _STAGE_BYTES):
                piece = view[at : at + _STAGE_BYTES]
                stage = self._stage_of(len(piece))
                stage[:] = piece
                low_level.disk_move(handle, stage, offset + at, write=True)

    def flush(self) -> None:
        """
        Return when all writes that were done before are on disk.

        Raises:
            OSError: What the image says.
        """
        low_level.disk_flush(self._open())

    def discard(self, offset: int, size: int) -> None:
        """
        Have the range read as zeros, and free its space in the image.

        Raises:
            OSError: EOPNOTSUPP if the image's filesystem cannot; else as `write`.
        """
        low_level.disk_discard(self._open(), offset, size)

    def begin_read(self, buffers: Iterable[WriteableBuffer], offset: int) -> DiskRequest:
        """
        Begin to fill buffers of guest memory, one after another, from *offset*.

        Raises:
            OSError: If the request cannot be meant.
        """
        return self._begin(low_level.DiskWhat.READ, buffers, offset)

    def begin_write(self, buffers: Iterable[ReadableBuffer], offset: int) -> DiskRequest:
        """
        Begin to write buffers of guest memory, one after another, at *offset*.

        Raises:
            OSError: If the request cannot be meant.
        """
        return self._begin(low_level.DiskWhat.WRITE, buffers, offset)

    def begin_flush(self) -> DiskRequest:
        """Begin a `flush`."""
        return self._begin(low_level.DiskWhat.FLUSH, (), 0)

    def wait(self, least: int = 1, timeout_s: float | None = None) -> list[DiskRequest]:
        """Return requests that are done, after *least* are, or the time is over."""
        done = low_level.disk_wait(self._open(), least, timeout_s)
        with self._taking:
            requests = [self._under_way.pop(number) for number in done]
        for request in requests:
            request.done = True
        return requests

    def close(self) -> None:
        """Wait for what is under way, and close; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        low_level.disk_close(handle)
        if self._stage:
            low_level.free(self._guest, self._stage, _STAGE_BYTES)

    def _begin(
        self, what: low_level.DiskWhat, buffers: Iterable[ReadableBuffer], offset: int
    ) -> DiskRequest:
        handle = self._open()
        task = low_level.DiskTask(what, [memoryview(each) for each in buffers], offset)
        request = DiskRequest(self, task)
        with self._taking:
            self._under_way[task.number] = request
        try:
            low_level.disk_submit(handle, task)
        except OSError:
            with self._taking:
                del self._under_way[task.number]
            raise
        return request

    def _stage_of(self, size: int) -> memoryview:
        if not self._stage:
            self._stage = low_level.allocate(self._guest, _STAGE_BYTES)
        return memoryview(low_level.buffer(self._stage, size)).cast("B")

    def _open(self) -> Any:
        if self._handle is None:
            raise GuestError(errno.EBADF, f"disk {self.name} is closed")
        return self._handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
