# SPDX-License-Identifier: MIT
"""The reader's end of the look channel (`wire.py`)."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from uvmm.look.wire import HEAD, WORD

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_WAIT_S = 10.0
_LONGEST = 1 << 30


class Link:
    """
    A connection to a daemon, made when it is needed; for one thread at a time.

    What fails raises OSError: with the errno of what is wrong with the guest, or EIO if
    no daemon answers, and then the next call connects anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def ask(self, op: str, **what: int | str) -> bytearray:
        """
        Return what the daemon answers.

        Raises:
            OSError: EIO if none does, or what it says.
        """
        line = json.dumps({"op": op, **what}).encode() + b"\n"
        # A connection that has been idle may have been closed by a daemon that ended, and
        # another one serves by now.
        kept = self._socket is not None
        try:
            return self._ask(line)
        except ConnectionError:
            if not kept:
                raise OSError(errno.EIO, "no daemon answers") from None
        try:
            return self._ask(line)
        except ConnectionError:
            raise OSError(errno.EIO, "no daemon answers") from None

    def ask_json(self, op: str, **what: int | str) -> Any:
        """Return what the daemon answers, where that is JSON."""
        return json.loads(bytes(self.ask(op, **what)))

    def ask_runs(self, guest: int) -> bytes:
        """Return all runs of a guest's pages."""
        parts: list[bytes] = []
        at = 0
        while True:
            told = self.ask("runs", guest=guest, ppn=at)
            (after,) = WORD.unpack_from(told)
            if len(told) == WORD.size or after == at:
                return b"".join(parts)
            parts.append(bytes(told[WORD.size :]))
            at = after

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, line: bytes) -> bytearray:
        try:
            link = self._socket or self._connect()
            link.sendall(line)
            code, length = HEAD.unpack(_read(link, HEAD.size))
            if length > _LONGEST:
                raise ConnectionError
            told = _read(link, length)
        except ConnectionError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise ConnectionError from error
        if code:
            raise OSError(code, bytes(told).decode(errors="replace") or os.strerror(code))
        return told

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


def _read(link: socket.socket, length: int) -> bytearray:
    told = bytearray(length)
    view, at = memoryview(told), 0
    while at < length:
        got = link.recv_into(view[at:], 0, socket.MSG_WAITALL)
        if not got:
            raise ConnectionError
        at += got
    return told
