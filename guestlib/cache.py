# SPDX-License-Identifier: MIT
"""Files that are read and written through guest memory."""

from __future__ import annotations

import errno
import io
import os
import threading
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from guestlib import low_level
from guestlib.errors import GuestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from _typeshed import ReadableBuffer, StrPath, WriteableBuffer

    BinaryMode = Literal[
        "rb", "r+b", "rb+", "wb", "w+b", "wb+", "ab", "a+b", "ab+", "xb", "x+b", "xb+",
        "br", "br+", "bw", "bw+", "ba", "ba+", "bx", "bx+",
    ]

_FLAGS = {
    "r": 0,
    "w": os.O_CREAT | os.O_TRUNC,
    "a": os.O_CREAT | os.O_APPEND,
    "x": os.O_CREAT | os.O_EXCL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatistics:
    """What a cache has done; all pages but `files` and `write_errors`."""

    min_pages: int
    max_pages: int
    pages: int
    dirty_pages: int
    files: int
    hits: int
    misses: int
    ghost_hits: int
    evicted: int
    read_pages: int
    written_pages: int
    ahead_pages: int
    ahead_used: int
    given_pages: int
    lost_pages: int
    write_errors: int


class CachedFile(io.BufferedIOBase):
    """
    A file of a cache; made by `Cache.open`.

    It reads and writes bytes as a buffered file of Python does, is a buffer for
    `io.TextIOWrapper` and its like, and may be used by many threads. `flush` makes what was
    written durable; `close` does not wait for that.
    """

    def __init__(
        self, name: str, mode: str, flags: int, open_it: Callable[[], Any]
    ) -> None:
        """
        Open a file with *open_it*; see `Cache.open` and `Cache.open_disk`.

        Raises:
            OSError: If it cannot be opened.
        """
        self._handle: Any = None
        self._users = 0
        self._pinned = 0
        self._changed = threading.Condition()
        self._owner_pid = os.getpid()
        self._access = flags & os.O_ACCMODE
        self.name = name
        self.mode = mode
        self._handle = open_it()

    @property
    def size_bytes(self) -> int:
        """Size of the file, with what is not written back yet."""
        with self._open() as handle:
            return low_level.file_size(handle)

    def readable(self) -> bool:
        """Tell whether it was opened for reading."""
        self._check_open()
        return self._access != os.O_WRONLY

    def writable(self) -> bool:
        """Tell whether it was opened for writing."""
        self._check_open()
        return self._access != os.O_RDONLY

    def seekable(self) -> bool:
        """Tell that it can be seeked in."""
        self._check_open()
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next *size* bytes, fewer at the end of the file; all if negative."""
        self._check_readable()
        with self._open() as handle:
            left = max(0, low_level.file_size(handle) - low_level.file_seek(handle, 0, 1))
            wanted = left if size is None or size < 0 else min(size, left)
            data = bytearray(wanted)
            return bytes(memoryview(data)[: low_level.file_read(handle, data)])

    def read1(self, size: int = -1, /) -> bytes:
        """Return as `read`: there is nothing below to be asked less often."""
        return self.read(size)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill *buffer* with the next bytes; how many."""
        self._check_readable()
        with self._open() as handle:
            return low_level.file_read(handle, buffer)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Do as `readinto`."""
        return self.readinto(buffer)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of *data*; how many bytes."""
        self._check_writable()
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        with self._open() as handle:
            while rest.nbytes:
                rest = rest[low_level.file_write(handle, rest) :]
        return size

    def pread(self, size: int, offset: int) -> bytes:
        """Return *size* bytes from *offset*, fewer at the end; the position stays."""
        self._check_readable()
        with self._open() as handle:
            left = max(0, low_level.file_size(handle) - max(0, offset))
            data = bytearray(min(max(0, size), left))
            return bytes(memoryview(data)[: low_level.file_pread(handle, data, offset)])

    def pwrite(self, data: ReadableBuffer, offset: int) -> int:
        """Write all of *data* at *offset*; the position stays."""
        self._check_writable()
        rest = memoryview(data).cast("B")
        size = rest.nbytes
        with self._open() as handle:
            while rest.nbytes:
                done = low_level.file_pwrite(handle, rest, offset)
                rest, offset = rest[done:], offset + done
        return size

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; where it is then."""
        with self._open() as handle:
            return low_level.file_seek(handle, offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self.seek(0, os.SEEK_CUR)

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file *size* bytes long, up to the position if None; how long it is."""
        self._check_writable()
        with self._open() as handle:
            if size is None:
                size = low_level.file_seek(handle, 0, os.SEEK_CUR)
            low_level.file_truncate(handle, size)
            return size

    def flush(self) -> None:
        """
        Have what was written on disk when this returns.

        Raises:
            OSError: Of this, or of writing back before that was not reported yet.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        # IOBase.close() flushes, when the handle has gone.
        if self._handle is not None and self.writable():
            with self._open() as handle:
                low_level.file_flush(handle)

    @contextmanager
    def page(self, index: int) -> Iterator[memoryview]:
        """
        Look at a page of the file where it is, for the time of a `with` block.

        Raises:
            OSError: If it is beyond the end (ENODATA), or there is no page for it.
            BufferError: At the end, if something made of it is still there; the page
                stays in the cache then.
        """
        self._check_readable()
        with self._open() as handle:
            address, size = low_level.file_pin(handle, index)
            self._count_pins(1)
        buffer = low_level.buffer(address, size)
        used = weakref.ref(buffer)
        view = memoryview(buffer).cast("B").toreadonly()
        del buffer
        try:
            yield view
        finally:
            view.release()
            if used() is not None:
                raise BufferError("something still uses the page")
            low_level.file_unpin(handle, address)
            self._count_pins(-1)

    def close(self) -> None:
        """
        Close it; what was written is written back later, or by `flush` before.

        Raises:
            OSError: If writing back has failed, and nobody was told yet.
            BufferError: If a page of it is looked at; it stays open.
        """
        with self._changed:
            if self._pinned:
                raise BufferError("a page of the file is in use")
            handle, self._handle = self._handle, None
            while self._users:
                self._changed.wait()
        try:
            if handle is not None and os.getpid() == self._owner_pid:
                low_level.file_close(handle)
        finally:
            super().close()

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """Keep the handle open for the time of a call."""
        with self._changed:
            self._check_open()
            handle = self._handle
            self._users += 1
        try:
            yield handle
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def _count_pins(self, change: int) -> None:
        with self._changed:
            self._pinned += change

    def _check_open(self) -> None:
        if self._handle is None:
            raise ValueError("I/O operation on closed file")
        if os.getpid() != self._owner_pid:
            raise ValueError("a forked process has nothing of its parent's cache")

    def _check_readable(self) -> None:
        if not self.readable():
            raise io.UnsupportedOperation("not open for reading")

    def _check_writable(self) -> None:
        if not self.writable():
            raise io.UnsupportedOperation("not open for writing")


class Cache:
    """
    A file cache in guest memory; made by `Guest.cache`.

    It grows while there is free guest memory, and gives its least valuable pages when
    the daemon or the program wants memory.
    """

    def __init__(self, guest: Any, min_bytes: int, max_bytes: int | None) -> None:
        """
        Make a cache; see `Guest.cache`.

        Raises:
            GuestError: If the bounds do not fit, or there is no memory for tables.
        """
        page = low_level.PAGE_BYTES
        for name, size in (("min_bytes", min_bytes), ("max_bytes", max_bytes)):
            if size is not None and size < (name == "max_bytes"):
                least = "at least 1" if name == "max_bytes" else "at least 0"
                raise GuestError(errno.EINVAL, f"{name} must be {least}, got {size}")
        self._closing = threading.Lock()
        self._cache: Any = low_level.cache_create(
            guest, -(-min_bytes // page), 0 if max_bytes is None else -(-max_bytes // page)
        )

    @overload
    def open(
        self, path: StrPath, mode: BinaryMode = "rb", *, permissions: int = 0o666
    ) -> CachedFile: ...

    @overload
    def open(
        self,
        path: StrPath,
        mode: str,
        *,
        permissions: int = 0o666,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> CachedFile | io.TextIOWrapper: ...

    def open(
        self,
        path: StrPath,
        mode: str = "rb",
        *,
        permissions: int = 0o666,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> CachedFile | io.TextIOWrapper:
        """
        Open a regular file; the arguments are those of Python's own `open`.

        Args:
            path: Its name.
            mode: As there; without a `b` what is returned reads and writes text.
            permissions: Of a file that is made, less the umask.
            encoding: Of text.
            errors: Of text.
            newline: Of text.

        Raises:
            ValueError: If the mode is none.
            OSError: If the file cannot be opened.
        """
        flags = _flags(mode)
        binary = "b" in mode
        if binary and (encoding is not None or errors is not None or newline is not None):
            raise ValueError("binary files have no encoding, errors or newline")
        cache, name = self._use(), os.fspath(path)
        file = CachedFile(
            name, mode, flags, lambda: low_level.file_open(cache, name, flags, permissions)
        )
        if binary:
            return file
        return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline=newline)

    def open_disk(self, name: str, mode: str = "rb") -> CachedFile:
        """
        Open a virtual disk (`uvmm run --disk`) as one file of the disk's size.

        It cannot become longer nor shorter, and must not be written past the cache
        meanwhile. *mode* is `rb` or `r+b`.

        Raises:
            ValueError: If the mode is another one.
            OSError: If the guest has no disk of that name, or may not write it.
        """
        if mode not in {"rb", "r+b"}:
            raise ValueError(f"a disk is opened with rb or r+b, got {mode!r}")
        cache, flags = self._use(), _flags(mode)
        return CachedFile(
            name, mode, flags, lambda: low_level.file_open_disk(cache, name, flags)
        )

    def flush(self) -> None:
        """
        Have all that was written to any open file on disk when this returns.

        Raises:
            OSError: The first error; other files are flushed all the same.
        """
        low_level.cache_flush(self._use())

    def shrink(self, size_bytes: int) -> int:
        """Give up to *size_bytes* of pages back to the page allocator; how many bytes."""
        page = low_level.PAGE_BYTES
        return low_level.cache_shrink(self._use(), max(0, -(-size_bytes // page))) * page

    def stats(self) -> CacheStatistics:
        """Return what the cache has done and holds."""
        return CacheStatistics(**low_level.cache_statistics(self._use()))

    def close(self) -> None:
        """
        Write everything back, and give all pages back.

        Raises:
            OSError: If a file is open (EBUSY; nothing was done then), or writing back
                failed: what could not be written is lost.
        """
        with self._closing:
            if self._cache is None:
                return
            try:
                low_level.cache_destroy(self._cache)
            except OSError as error:
                if error.errno == errno.EBUSY:
                    raise
                self._cache = None
                raise
            self._cache = None

    def _use(self) -> Any:
        if self._cache is None:
            raise ValueError("the cache is closed")
        return self._cache

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _flags(mode: str) -> int:
    """Turn a mode of Python's `open` into flags of open(2)."""
    kinds = [letter for letter in mode if letter in _FLAGS]
    if len(kinds) != 1 or len(set(mode)) != len(mode) or set(mode) - set("rwaxbt+"):
        raise ValueError(f"invalid mode: {mode!r}")
    if {"b", "t"} <= set(mode):
        raise ValueError("can't have text and binary mode at once")
    if "+" in mode:
        return _FLAGS[kinds[0]] | os.O_RDWR
    return _FLAGS[kinds[0]] | (os.O_RDONLY if kinds[0] == "r" else os.O_WRONLY)
