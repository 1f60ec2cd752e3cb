# SPDX-License-Identifier: MIT
"""Which files the inspection filesystem has, whose they are, and what is in them."""

from __future__ import annotations

import errno
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uvmm.look import texts
from uvmm.look.wire import PEEK_PAGES, STATES, WORD, WORDS
from uvmm.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from uvmm.look.event_log import EventLog
    from uvmm.look.source import Guest, Source

_REFS = ".refs"
_ROOT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A file or a directory; `mode` has its kind."""

    mode: int
    uid: int = _ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory(Node):
    """What is in it is asked for when somebody looks."""

    names: Callable[[], list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(Node):
    """A file that is made anew each time."""

    text: Callable[[], str]
    write: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Growing(Node):
    """A file that only grows, for `tail -f`."""

    content: Callable[[], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk(Node):
    """
    A file of fixed size, read in pieces: `read(at, size)` is within it.

    What it returns is good until the same thread reads again.
    """

    size: int
    read: Callable[[int, int], memoryview]


@dataclass(slots=True)
class Tree:
    """The files; a path is its parts."""

    source: Source
    log: EventLog
    _errors: dict[str, str] = field(default_factory=dict)  # by guest: why a write was refused

    def find(self, parts: tuple[str, ...]) -> Node:
        """
        Return what is there.

        Raises:
            OSError: ENOENT if nothing is, EIO if no daemon answers.
        """
        node: Node | None = None
        match parts:
            case ("machine", *rest):
                node = self._machine(tuple(rest))
            case ("guests", name, *rest):
                node = self._guest(self.source.guest(name), tuple(rest))
            case ("frames", name):
                node = self._frame(name)
            case _:
                node = self._top(parts)
        if node is None:
            raise OSError(errno.ENOENT, "there is no such file")
        return node

    def _top(self, parts: tuple[str, ...]) -> Node | None:
        match parts:
            case ():
                return _directory(lambda: ["README", "machine", "guests", "frames", "events"])
            case ("README",):
                return _text(lambda: texts.README)
            case ("guests",):
                return _directory(lambda: list(self.source.guests()))
            case ("frames",):
                return _directory(self._frame_names, mode=0o500)
            case ("events",):
                return Growing(mode=stat.S_IFREG | 0o400, content=self.log.content)
        return None

    def _machine(self, parts: tuple[str, ...]) -> Node | None:
        def figures() -> Mapping[str, Any]:
            machine: Mapping[str, Any] = self.source.figures()["machine"]
            return machine

        match parts:
            case ():
                return _directory(
                    lambda: [*texts.MACHINE_FILES, "config", "stats.json"]
                )
            case ("config",):
                return _text(lambda: texts.lines(self.source.config()))
            case ("stats.json",):
                return _text(lambda: texts.as_json(figures()))
            case (name,) if name in texts.MACHINE_FILES:
                return _text(lambda: texts.machine_text(name, figures()))
        return None

    def _guest(self, guest: Guest, parts: tuple[str, ...]) -> Node | None:
        match parts:
            case ():
                return _directory(lambda: list(_GUEST_FILES), uid=guest.uid, mode=0o500)
            case ("pages",):
                return _directory(lambda: list(STATES), uid=guest.uid, mode=0o500)
            case ("pages", state) if state in STATES:
                return _own(guest, lambda: texts.pages_text(self.source.runs(guest), state))
            case (name,):
                return self._guest_file(guest, name)
        return None

    def _guest_file(self, guest: Guest, name: str) -> Node | None:
        if name in _GUEST_TEXTS:
            return _own(guest, lambda: _GUEST_TEXTS[name](self, guest))
        if name in texts.KNOBS:
            return self._knob(guest.name, name)
        if name == "memory":
            return self._memory(guest)
        if name == "pagemap":
            return self._pagemap(guest)
        return None

    def _knob(self, name: str, knob: str) -> Node:
        return Text(
            mode=stat.S_IFREG | 0o644,
            text=lambda: texts.knob_text(knob, self.source.figures_of(name)),
            write=lambda value: self._set(name, knob, value),
        )

    def _memory(self, guest: Guest) -> Node:
        link = self.source.own_link

        def read(at: int, size: int) -> memoryview:
            return _pieces(
                at, size, PAGE_BYTES, PEEK_PAGES,
                lambda ppn, pages: link().peek(guest.id, ppn, pages),
            )

        return Bulk(
            mode=stat.S_IFREG | 0o400, uid=guest.uid, size=guest.pages * PAGE_BYTES, read=read
        )

    def _pagemap(self, guest: Guest) -> Node:
        def words(ppn: int, pages: int) -> memoryview:
            with self.source.link() as link:
                return memoryview(link.ask("pages", guest=guest.id, ppn=ppn, pages=pages))

        return Bulk(
            mode=stat.S_IFREG | 0o400, uid=guest.uid, size=guest.pages * WORD.size,
            read=lambda at, size: _pieces(at, size, WORD.size, WORDS, words),
        )

    def _set(self, name: str, knob: str, value: str) -> None:
        try:
            self.source.set(name, knob, value)
        except ValueError as error:
            self._errors[name] = f"{knob}: {error}\n"
            raise OSError(errno.EINVAL, str(error)) from None
        self._errors.pop(name, None)
        # Of guests that have gone nobody asks any more.
        for gone in self._errors.keys() - self.source.guests().keys():
            del self._errors[gone]

    def _frame_names(self) -> list[str]:
        return [part for name in self.source.frames() for part in (name, name + _REFS)]

    def _frame(self, name: str) -> Node:
        frame = self.source.frames().get(name.removesuffix(_REFS))
        if frame is None:
            raise OSError(errno.ENOENT, "there is no such frame")
        if name.endswith(_REFS):
            return _text(lambda: texts.refs_text(self.source.refs(frame)), mode=0o400)

        def read(at: int, size: int) -> memoryview:
            with self.source.link() as link:
                told = link.ask(
                    "frame", group=frame.group, frame=frame.number, hash=frame.hash
                )
            return memoryview(told)[at : at + size]

        return Bulk(mode=stat.S_IFREG | 0o400, size=PAGE_BYTES, read=read)

    def error(self, guest: Guest) -> str:
        """Return why the last write to a guest's knobs was refused, if it was."""
        return self._errors.get(guest.name, "")


_GUEST_TEXTS: Mapping[str, Callable[[Tree, Guest], str]] = {
    "status": lambda tree, guest: texts.lines(tree.source.figures_of(guest.name)),
    "stats.json": lambda tree, guest: texts.as_json(tree.source.figures_of(guest.name)),
    "explain": lambda tree, guest: texts.explain_text(tree.source.explanation(guest.name)),
    "history": lambda tree, guest: texts.history_text(
        tree.source.history(guest.name), guest.name
    ),
    "error": Tree.error,
    "pagemap.txt": lambda tree, guest: texts.pagemap_text(tree.source.runs(guest)),
}
_GUEST_FILES = (*_GUEST_TEXTS, *texts.KNOBS, "memory", "pagemap", "pages")


def _pieces(
    at: int, size: int, unit: int, most: int, ask: Callable[[int, int], memoryview]
) -> memoryview:
    """
    Ask for what covers the bytes wanted.

    Args:
        at: Where they begin.
        size: How many.
        unit: Bytes of a page in this file.
        most: How many pages are asked for at once.
        ask: Returns so many pages from one on; good until the next call.
    """
    first, end, before = at // unit, -(-(at + size) // unit), at % unit
    try:
        if end - first <= most:
            return ask(first, end - first)[before : before + size]
        told = bytearray()
        for ppn in range(first, end, most):
            told += ask(ppn, min(most, end - ppn))
    except OSError as error:
        raise _seen_by_a_reader(error) from None
    return memoryview(told)[before : before + size]


def _seen_by_a_reader(error: OSError) -> OSError:
    """A guest that has ended, or not begun, is no missing file to who has it open."""
    if error.errno == errno.ENOENT:
        return OSError(errno.ESRCH, "the guest has ended")
    if error.errno == errno.ENOTCONN:
        return OSError(errno.EAGAIN, "the guest has not attached its memory")
    return error


def _directory(names: Callable[[], list[str]], *, uid: int = _ROOT, mode: int = 0o555) -> Node:
    return Directory(mode=stat.S_IFDIR | mode, uid=uid, names=names)


def _text(text: Callable[[], str], *, mode: int = 0o444) -> Node:
    return Text(mode=stat.S_IFREG | mode, text=text)


def _own(guest: Guest, text: Callable[[], str]) -> Node:
    return Text(mode=stat.S_IFREG | 0o400, uid=guest.uid, text=text)
