# SPDX-License-Identifier: MIT
"""The reader's end of the look channel (`wire.py`)."""

from __future__ import annotations

import errno
import json
import mmap
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from uvmm.look.wire import HEAD, WINDOW_BYTES, WORD
from uvmm.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ANSWER_WAIT_S = 10.0
_LONGEST = 1 << 30
_T = TypeVar("_T")


class Link:
    """
    A connection to a daemon, made when it is needed; for one thread at a time.

    What fails raises OSError: with the errno of what is wrong with the guest, or EIO if
    no daemon answers, and then the next call connects anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._window: mmap.mmap | None = None

    def ask(self, op: str, **what: int | str) -> bytes:
        """
        Return what the daemon answers.

        Raises:
            OSError: EIO if none does, or what it says.
        """
        line = json.dumps({"op": op, **what}).encode() + b"\n"
        return self._again(lambda: self._ask(line))

    def peek(self, guest: int, ppn: int, pages: int) -> memoryview:
        """
        Return the contents of pages; good until the next call.

        Raises:
            OSError: As `ask`.
        """
        line = json.dumps({"op": "memory", "guest": guest, "ppn": ppn, "pages": pages})

        def ask() -> memoryview:
            if self._window is None:
                self._window = self._ask_window()
            self._ask(line.encode() + b"\n")
            return memoryview(self._window)[: pages * PAGE_BYTES]

        return self._again(ask)

    def _again(self, ask: Callable[[], _T]) -> _T:
        # A connection that has been idle may have been closed by a daemon that ended, and
        # another one serves by now.
        kept = self._socket is not None
        try:
            return ask()
        except ConnectionError:
            if not kept:
                raise OSError(errno.EIO, "no daemon answers") from None
        try:
            return ask()
        except ConnectionError:
            raise OSError(errno.EIO, "no daemon answers") from None

    def ask_json(self, op: str, **what: int | str) -> Any:
        """Return what the daemon answers, where that is JSON."""
        return json.loads(self.ask(op, **what))

    def ask_runs(self, guest: int) -> bytes:
        """Return all runs of a guest's pages."""
        parts: list[bytes] = []
        at = 0
        while True:
            told = self.ask("runs", guest=guest, ppn=at)
            (after,) = WORD.unpack_from(told)
            if len(told) == WORD.size or after == at:
                return b"".join(parts)
            parts.append(told[WORD.size :])
            at = after

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            # It may be looked at still: it is unmapped with the last look.
            self._window = None

    def _ask(self, line: bytes) -> bytes:
        with self._broken_off():
            link = self._socket or self._connect()
            link.sendall(line)
            code, length = HEAD.unpack(_read(link, HEAD.size))
            if length > _LONGEST:
                raise ConnectionError
            told = _read(link, length)
        if code:
            raise OSError(code, told.decode(errors="replace") or os.strerror(code))
        return told

    def _ask_window(self) -> mmap.mmap:
        with self._broken_off():
            link = self._socket or self._connect()
            link.sendall(b'{"op": "window"}\n')
            head, fds, _, _ = socket.recv_fds(link, HEAD.size, 1)
            if len(head) != HEAD.size or len(fds) != 1:
                raise ConnectionError
            try:
                return mmap.mmap(fds[0], WINDOW_BYTES)
            finally:
                os.close(fds[0])

    @contextmanager
    def _broken_off(self) -> Iterator[None]:
        """Make of whatever fails meanwhile a connection that is no more."""
        try:
            yield
        except OSError as error:
            self.close()
            raise ConnectionError from error

    def _connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(ANSWER_WAIT_S)
        try:
            link.connect(str(self._path))
        except OSError:
            link.close()
            raise
        self._socket = link
        return link


def _read(link: socket.socket, length: int) -> bytes:
    told = link.recv(length, socket.MSG_WAITALL) if length else b""
    while len(told) < length:
        more = link.recv(length - len(told), socket.MSG_WAITALL)
        if not more:
            raise ConnectionError
        told += more
    return told
