# SPDX-License-Identifier: MIT
"""
What the inspection filesystem knows of a daemon, asked when it is needed.

Answers are kept for a moment (`KEPT_S`), so that a walk over a thousand guests is one
question and not a thousand. Whatever fails is an OSError: EIO if no daemon answers.
"""

from __future__ import annotations

import errno
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, LifoQueue
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlencode

from uvmm.client import Client, RefusedError, guest_path
from uvmm.errors import UvmmError
from uvmm.look.link import Link
from uvmm.look.wire import FRAME, REF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uvmm.rundir import RunDir

KEPT_S = 0.25
ANSWER_WAIT_S = 3.0
EVENTS_ASKED = 1000
REFS_OF_FRAMES = 1024  # asked at once
_NOT_FOUND = 404
_BUSY = 503
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest; its id is never another's."""

    id: int
    name: str
    uid: int
    pages: int
    attached: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """A shared frame of a group, and how many pages are it."""

    group: str
    number: int
    hash: int
    refs: int


class Source:
    """A daemon; for any thread."""

    def __init__(self, run_dir: RunDir) -> None:
        self.run_dir = run_dir
        self._client = Client(run_dir.control_socket, wait_s=ANSWER_WAIT_S)
        self._links: LifoQueue[Link] = LifoQueue()
        self._own_links: dict[int, Link] = {}
        self._lock = threading.Lock()
        self._kept: dict[Any, tuple[float, Any]] = {}

    def figures(self) -> dict[str, Any]:
        """Return the figures of now: {machine, guests by name}."""
        def ask() -> dict[str, Any]:
            told = self._get("/v1/stats")
            return {
                "machine": told["machine"],
                "guests": {guest["name"]: guest for guest in told["guests"]},
            }

        return self._keep("figures", ask)

    def figures_of(self, name: str) -> dict[str, Any]:
        """
        Return the figures of one guest.

        Raises:
            OSError: ENOENT if there is none of that name.
        """
        found: dict[str, Any] | None = self.figures()["guests"].get(name)
        if found is None:
            raise OSError(errno.ENOENT, "there is no such guest")
        return found

    def config(self) -> dict[str, str]:
        """Return the daemon's settings."""
        return self._keep("config", lambda: self._get("/v1/config"))

    def history(self, name: str) -> dict[str, Any]:
        """Return the past of a guest, in columns."""
        query = urlencode({"name": name}, errors="surrogateescape")
        return self._keep(("history", name), lambda: self._get(f"/v1/history?{query}"))

    def explanation(self, name: str) -> dict[str, Any]:
        """Return why a guest holds what it holds."""
        query = urlencode({"limit": "5", "name": name}, errors="surrogateescape")
        return self._keep(("explain", name), lambda: self._get(f"/v1/explain?{query}"))

    def events(self) -> list[dict[str, str]]:
        """Return the newest events, oldest first."""
        return self._keep("events", lambda: self._get(f"/v1/events?limit={EVENTS_ASKED}"))

    def guests(self) -> dict[str, Guest]:
        """Return all guests by name."""
        def ask() -> dict[str, Guest]:
            with self.link() as link:
                return {one["name"]: Guest(**one) for one in link.ask_json("guests")}

        return self._keep("guests", ask)

    def guest(self, name: str) -> Guest:
        """
        Return a guest.

        Raises:
            OSError: ENOENT if there is none of that name.
        """
        found = self.guests().get(name)
        if found is None:
            raise OSError(errno.ENOENT, "there is no such guest")
        return found

    def runs(self, guest: Guest) -> bytes:
        """Return where the guest's pages are, in runs."""
        def ask() -> bytes:
            with self.link() as link:
                return link.ask_runs(guest.id) if guest.attached else b""

        return self._keep(("runs", guest.id), ask)

    def frames(self) -> dict[str, Frame]:
        """Return all frames by their names: their hashes, numbered if there are several."""
        def ask() -> dict[str, Frame]:
            found: dict[str, Frame] = {}
            with self.link() as link:
                for group in sorted(link.ask_json("groups")):
                    for frame in _frames_of(link, group):
                        name, again = f"{frame.hash:016x}", 1
                        while name in found:
                            again += 1
                            name = f"{frame.hash:016x}-{again}"
                        found[name] = frame
            return found

        return self._keep("frames", ask)

    def refs(self, frame: Frame) -> list[tuple[str, int]]:
        """Return which guests' pages are a frame."""
        first = frame.number // REFS_OF_FRAMES * REFS_OF_FRAMES
        try:
            told = self._refs(frame.group, first, first + REFS_OF_FRAMES)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # Too many at once, or no daemon.
            told = self._refs(frame.group, frame.number, frame.number + 1)
        names = {guest.id: guest.name for guest in self.guests().values()}
        return [
            (names[guest], ppn)
            for guest, ppn in told.get(frame.number, ()) if guest in names
        ]

    def _refs(self, group: str, first: int, end: int) -> dict[int, list[tuple[int, int]]]:
        def ask() -> dict[int, list[tuple[int, int]]]:
            by_frame: dict[int, list[tuple[int, int]]] = {}
            with self.link() as link:
                told = link.ask("refs", group=group, first=first, end=end)
            for number, guest, ppn in REF.iter_unpack(told):
                by_frame.setdefault(number, []).append((guest, ppn))
            return by_frame

        return self._keep(("refs", group, first, end), ask)

    def set(self, name: str, knob: str, value: str) -> None:
        """
        Change what a guest may hold.

        Raises:
            ValueError: With the daemon's words, if it refuses.
            OSError: If there is no such guest, or no daemon.
        """
        try:
            if knob == "balloon_target":
                self._client.post(
                    guest_path(name, "balloon"), {"size": value}, wait_s=ANSWER_WAIT_S
                )
            else:
                self._client.patch(guest_path(name), {knob: value})
        except RefusedError as error:
            if error.status == _NOT_FOUND:
                raise OSError(errno.ENOENT, str(error)) from None
            if error.status == _BUSY:
                raise OSError(errno.EAGAIN, str(error)) from None
            raise ValueError(str(error)) from None
        except UvmmError as error:
            raise OSError(errno.EIO, str(error)) from None
        with self._lock:
            self._kept.clear()

    @contextmanager
    def link(self) -> Iterator[Link]:
        """Lend a connection of the look channel."""
        try:
            link = self._links.get_nowait()
        except Empty:
            link = Link(self.run_dir.look_socket)
        try:
            yield link
        finally:
            self._links.put(link)

    def own_link(self) -> Link:
        """Return a connection that is this thread's, and nobody else's."""
        # Threads of libfuse have no storage of their own in Python: each call is a new one.
        return self._own_links.setdefault(threading.get_ident(), Link(self.run_dir.look_socket))

    def _get(self, path: str) -> Any:
        try:
            return self._client.get(path)
        except RefusedError as error:
            code = errno.ENOENT if error.status == _NOT_FOUND else errno.EIO
            raise OSError(code, str(error)) from None
        except UvmmError as error:
            raise OSError(errno.EIO, str(error)) from None

    def _keep(self, key: Any, ask: Callable[[], _T]) -> _T:
        now = time.monotonic()
        with self._lock:
            at, told = self._kept.get(key, (0.0, None))
            if told is not None and now - at < KEPT_S:
                return cast("_T", told)
        told = ask()
        with self._lock:
            now = time.monotonic()
            for old in [one for one, (at, _) in self._kept.items() if now - at > KEPT_S]:
                del self._kept[old]
            self._kept[key] = (now, told)
        return told


def _frames_of(link: Link, group: str) -> Iterator[Frame]:
    first = 0
    while True:
        try:
            told = link.ask("frames", group=group, first=first)
        except OSError as error:
            if error.errno == errno.ENOENT:  # its last guest has just ended
                return
            raise
        number = -1
        for number, page_hash, refs in FRAME.iter_unpack(told):
            yield Frame(group, number, page_hash, refs)
        if number < 0:
            return
        first = number + 1
