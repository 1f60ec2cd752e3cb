# SPDX-License-Identifier: MIT
"""
Looking into guests' memory through the data plane: contents, page maps, frames.

Nothing here moves a page. Bulk is returned as bytes, in the layouts of
csrc/include/uvmm_core.h, little end first.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Any

from uvmm._core import ffi, lib
from uvmm.core import GUESTS_MAX, PAGE_BYTES, check
from uvmm.errors import BadInputError, EngineError

if TYPE_CHECKING:
    from uvmm.core import Engine

PEEK_PAGES_MAX: int = lib.UVMM_PEEK_PAGES_MAX
PAGES_AT_ONCE = 1 << 17  # of a page map: 1 MiB
RUNS_AT_ONCE = 1 << 15
FRAMES_AT_ONCE = 1 << 15
REFS_AT_ONCE = 1 << 16
GROUPS_MAX = 4096
_GROUP_BYTES: int = lib.UVMM_CORE_GROUP_BYTES


class Looking:
    """One reader of an engine, with a window that it fills; for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._window: mmap.mmap | None = None
        self._window_fd = -1

    def close(self) -> None:
        """Let go of the window."""
        if self._window is not None:
            self._window.close()
            os.close(self._window_fd)
            self._window = None

    def window(self) -> int:
        """
        Return a descriptor of the window: memory of `PEEK_PAGES_MAX` pages.

        Whoever has it cannot change its size.

        Raises:
            OSError: If there is no memory.
        """
        if self._window is None:
            size = PEEK_PAGES_MAX * PAGE_BYTES
            fd = os.memfd_create("uvmm-window", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(fd, size)
                fcntl.fcntl(
                    fd, fcntl.F_ADD_SEALS,
                    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
                )
                self._window = mmap.mmap(fd, size)
            except OSError:
                os.close(fd)
                raise
            self._window_fd = fd
        return self._window_fd

    def guests(self) -> list[dict[str, Any]]:
        """Return the guests: id, name, uid, pages of memory, whether it is attached."""
        machine = ffi.new("struct uvmm_machine_stats *")
        rows, count = ffi.new("struct uvmm_guest_stats[]", GUESTS_MAX), ffi.new("size_t *")
        with self._engine.call() as engine:
            check(lib.uvmm_look(engine, machine, rows, GUESTS_MAX, count))
        return [
            {
                "id": row.id, "name": _text(row.name), "uid": row.uid,
                "pages": row.max_pages, "attached": bool(row.attached),
            }
            for row in rows[0 : count[0]]
        ]

    def memory(self, guest_id: int, ppn: int, pages: int) -> bytes:
        """
        Have the contents of pages of a guest in the window; returns nothing.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            BadInputError: If that is not in its memory, or more than `PEEK_PAGES_MAX`, or
                there is no window.
            EngineError: If a page is damaged, or does not hold still.
        """
        if not 0 < pages <= PEEK_PAGES_MAX:
            raise BadInputError(f"1 to {PEEK_PAGES_MAX} pages are read at once, got {pages}")
        if self._window is None:
            raise BadInputError("ask for the window first")
        with self._engine.call() as engine, ffi.from_buffer(self._window) as window:
            code = lib.uvmm_guest_peek(engine, guest_id, ppn, pages, window)
        check(code)
        return b""

    def pages(self, guest_id: int, ppn: int, pages: int) -> bytes:
        """
        Return where pages are, a word each.

        Raises:
            UnknownGuestError: If the guest has ended.
            NotReadyError: If it has not attached yet.
            BadInputError: If that is not in its memory, or more than `PAGES_AT_ONCE`.
        """
        if not 0 <= pages <= PAGES_AT_ONCE:
            raise BadInputError(f"0 to {PAGES_AT_ONCE} pages at once, got {pages}")
        words = ffi.new("uint64_t[]", max(1, pages))
        with self._engine.call() as engine:
            code = lib.uvmm_guest_pages(engine, guest_id, ppn, pages, words)
        check(code)
        return bytes(ffi.buffer(words, pages * 8))

    def runs(self, guest_id: int, ppn: int) -> tuple[int, bytes]:
        """
        Return a guest's pages in runs of one state from *ppn* on, and where to go on.

        Raises:
            UnknownGuestError: If the guest has ended.
            NotReadyError: If it has not attached yet.
            BadInputError: If that is beyond its memory.
        """
        runs = ffi.new("struct uvmm_page_run[]", RUNS_AT_ONCE)
        at, count = ffi.new("uint64_t *", ppn), ffi.new("size_t *")
        with self._engine.call() as engine:
            code = lib.uvmm_guest_runs(engine, guest_id, at, runs, RUNS_AT_ONCE, count)
        check(code)
        size = count[0] * ffi.sizeof("struct uvmm_page_run")
        return int(at[0]), bytes(ffi.buffer(runs, size))

    def groups(self) -> list[str]:
        """Return the names of the groups whose guests share."""
        groups, count = ffi.new("struct uvmm_group[]", GROUPS_MAX), ffi.new("size_t *")
        with self._engine.call() as engine:
            lib.uvmm_groups(engine, groups, GROUPS_MAX, count)
        return [
            _text(group.name)
            for group in groups[0 : min(GROUPS_MAX, count[0])] if group.frames
        ]

    def frames(self, group: str, first: int) -> bytes:
        """
        Return a group's frames from number *first* on: number, hash, references.

        Raises:
            UnknownGuestError: If there is no such group.
        """
        frames, count = ffi.new("struct uvmm_frame[]", FRAMES_AT_ONCE), ffi.new("size_t *")
        with self._engine.call() as engine:
            code = lib.uvmm_frames(
                engine, _name(group), first, frames, FRAMES_AT_ONCE, count
            )
        check(code)
        return bytes(ffi.buffer(frames, count[0] * ffi.sizeof("struct uvmm_frame")))

    def frame(self, group: str, frame: int, page_hash: int) -> bytes:
        """
        Return the content of a frame.

        Raises:
            UnknownGuestError: If there is none of that hash any more.
        """
        page = ffi.new("char[]", PAGE_BYTES)
        with self._engine.call() as engine:
            code = lib.uvmm_frame_peek(engine, _name(group), frame, page_hash, page)
        check(code)
        return bytes(ffi.buffer(page))

    def refs(self, group: str, first: int, end: int) -> bytes:
        """
        Return which pages are frames *first* to *end*: frame, guest, page.

        Raises:
            EngineError: If these are too many to tell at once.
        """
        refs, count = ffi.new("struct uvmm_frame_ref[]", REFS_AT_ONCE), ffi.new("size_t *")
        with self._engine.call() as engine:
            lib.uvmm_frame_refs(engine, _name(group), first, end, refs, REFS_AT_ONCE, count)
        if count[0] > REFS_AT_ONCE and end - first > 1:
            raise EngineError(f"{count[0]} references at once; {REFS_AT_ONCE} are told")
        told = min(REFS_AT_ONCE, count[0])
        return bytes(ffi.buffer(refs, told * ffi.sizeof("struct uvmm_frame_ref")))


def _text(chars: Any) -> str:
    raw: bytes = ffi.string(chars)
    return raw.decode(errors="surrogateescape")


def _name(group: str) -> bytes:
    raw = group.encode(errors="surrogateescape")
    if len(raw) >= _GROUP_BYTES or b"\0" in raw:
        raise BadInputError(f"a group's name has less than {_GROUP_BYTES} bytes, and no NUL")
    return raw
