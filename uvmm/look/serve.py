# SPDX-License-Identifier: MIT
"""
The daemon's end of the look channel (`wire.py`): `look.sock`, for root alone.

A thread a reader, so that no reader waits for another, nor the control API for any; a
reader that does not take its answer holds up nobody but itself.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from uvmm.core_look import Looking
from uvmm.errors import (
    BadInputError,
    EngineError,
    NotReadyError,
    UnknownGuestError,
    UvmmError,
)
from uvmm.log import tell
from uvmm.look.wire import HEAD, REQUEST_BYTES, WORD
from uvmm.rundir import bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack
    from typing import IO

    from uvmm.core import Engine
    from uvmm.rundir import RunDir

READERS_MAX = 64
SILENCE_S = 300.0  # of a reader that keeps its connection
_LARGEST = 1 << 62
_ERRNOS: Mapping[type[UvmmError], int] = {
    UnknownGuestError: errno.ENOENT,
    NotReadyError: errno.ENOTCONN,
    BadInputError: errno.EINVAL,
    EngineError: errno.EIO,
}


def serve_looks(engine: Engine, run_dir: RunDir, undo: ExitStack) -> None:
    """Answer on `look.sock` until *undo* is run."""
    link = bound(run_dir.look_socket)
    link.listen(READERS_MAX)
    readers = _Readers(engine, link)
    threading.Thread(target=readers.run, name="look", daemon=True).start()
    undo.callback(readers.stop)


class _Readers:
    def __init__(self, engine: Engine, link: socket.socket) -> None:
        self._engine = engine
        self._link = link
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = False

    def run(self) -> None:
        while True:
            try:
                peer, _ = self._link.accept()
            except OSError as error:
                if self._stopping or error.errno in (errno.EINVAL, errno.EBADF):
                    return
                continue
            with self._lock:
                room = len(self._open) < READERS_MAX and not self._stopping
                if room:
                    self._open.add(peer)
            if not room:
                peer.close()
                continue
            threading.Thread(
                target=self._serve, args=(peer,), name="look", daemon=True
            ).start()

    def stop(self) -> None:
        """Hang up on all; calls that go on are waited for by the engine."""
        with self._lock:
            self._stopping = True
            for peer in self._open:
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _serve(self, peer: socket.socket) -> None:
        try:
            peer.settimeout(SILENCE_S)
            with (
                closing(Looking(self._engine)) as looking, peer,
                peer.makefile("rb") as requests,
            ):
                answer_all(looking, peer, requests)
        except OSError:
            return
        except Exception:
            logging.getLogger("uvmm").exception("a reader of the look channel failed")
        finally:
            with self._lock:
                self._open.discard(peer)


def answer_all(looking: Looking, peer: socket.socket, requests: IO[bytes]) -> None:
    """Answer a connection's requests until it ends, or sends what is no line."""
    while line := requests.readline(REQUEST_BYTES):
        code, told, fds = 0, b"", []  # type: int, bytes, list[int]
        try:
            asked = _request(line)
            if asked.get("op") == "window":
                fds = [looking.window()]
            else:
                told = _answer(looking, asked)
        except UvmmError as error:
            code = next(
                (number for kind, number in _ERRNOS.items() if isinstance(error, kind)),
                errno.EIO,
            )
            told = str(error).encode(errors="backslashreplace")
        head = HEAD.pack(code, len(told))
        if fds:
            socket.send_fds(peer, [head], fds)
        else:
            peer.sendall(head + told)
        if not line.endswith(b"\n"):
            tell("a reader of the look channel sent no line; hung up", level=logging.WARNING)
            return


def _request(line: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise BadInputError("a request is a JSON object in a line") from None
    if not isinstance(asked, dict):
        raise BadInputError("a request is a JSON object in a line")
    return asked


def _answer(looking: Looking, asked: dict[str, Any]) -> bytes:
    answer = _ANSWERS.get(str(asked.get("op")))
    if answer is None:
        raise BadInputError(f"op is one of window, {', '.join(_ANSWERS)}")
    return answer(looking, asked)


def _runs(looking: Looking, asked: dict[str, Any]) -> bytes:
    at, runs = looking.runs(*_numbers(asked, "guest", "ppn"))
    return WORD.pack(at) + runs


_ANSWERS: Mapping[str, Callable[[Looking, dict[str, Any]], bytes]] = {
    "guests": lambda looking, _: json.dumps(looking.guests()).encode(),
    "memory": lambda looking, asked: looking.memory(*_numbers(asked, "guest", "ppn", "pages")),
    "pages": lambda looking, asked: looking.pages(*_numbers(asked, "guest", "ppn", "pages")),
    "runs": _runs,
    "groups": lambda looking, _: json.dumps(looking.groups()).encode(),
    "frames": lambda looking, asked: looking.frames(_group(asked), *_numbers(asked, "first")),
    "frame": lambda looking, asked: looking.frame(
        _group(asked), *_numbers(asked, "frame", "hash")
    ),
    "refs": lambda looking, asked: looking.refs(
        _group(asked), *_numbers(asked, "first", "end")
    ),
}


def _numbers(asked: dict[str, Any], *names: str) -> list[int]:
    numbers = [asked.get(name) for name in names]
    for name, number in zip(names, numbers, strict=True):
        most = 1 << 64 if name == "hash" else _LARGEST
        if type(number) is not int or not 0 <= number < most:
            raise BadInputError(f"{name} is a whole number, 0 or more")
    return numbers  # type: ignore[return-value]


def _group(asked: dict[str, Any]) -> str:
    group = asked.get("group")
    if not isinstance(group, str):
        raise BadInputError("group is a name")
    return group
