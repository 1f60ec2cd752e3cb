# SPDX-License-Identifier: MIT
"""
Settings of the whole machine that are changed while any daemon serves: large and
middle-sized pages in guests' memory, and how many mappings a process may have.

Guest memory is anonymous shared memory to the kernel, which has a setting for each
size of page. Large ones (2 MiB) come where a program advises them, middle-sized ones
(64 KiB) elsewhere: they cost a third of the time of small ones at first touch, and
unlike large ones they are there when the machine's memory is in pieces. Each run of
shared pages is a mapping of its own.

For each setting a daemon holds a shared lock on a file, the book, in which the
setting's former word is. Whoever can have the lock alone is the first or the last:
the first changes the setting, the last puts the word back. A killed daemon's lock
is gone with it, and its word stays in the book for the next one.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm import host

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_OFF, _INHERIT = "never", "inherit"
_WORD_BYTES = 64
_BOOKS = Path("/run")
_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = "262144"  # about 250 bytes of the kernel's memory each, where they are used


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting, what it is to be if it is off, and its book."""

    path: Path
    on: str
    book: Path

    def word(self) -> str:
        """Return what it is set to."""
        return host.chosen_word(self.path)

    def is_off(self) -> bool:
        """Tell whether it is to be changed."""
        return host.shmem_word(self.path) == _OFF

    def may_have_been(self, word: str) -> bool:
        """Tell whether *word* is something that would have been changed."""
        return word in (_OFF, _INHERIT)


class Count(Setting):
    """A setting that is a number, and off if it is less than `on`."""

    def word(self) -> str:
        """Return the number."""
        return self.path.read_text().strip()

    def is_off(self) -> bool:
        """Tell whether it is to be raised."""
        return self.may_have_been(self.word())

    def may_have_been(self, word: str) -> bool:
        """Tell whether *word* is a number that would have been raised."""
        return word.isdecimal() and int(word) < int(self.on)


def settings() -> list[Setting]:
    """Return those that this kernel has."""
    maps = Count(path=_MAP_COUNT, on=_MAPPINGS, book=_BOOKS / "uvmm-maps.lock")
    return [*page_settings(), maps]


def page_settings() -> list[Setting]:
    """Return those for the sizes of pages."""
    if not host.shmem_setting(host.LARGE_KIB).exists():
        return [
            Setting(path=host.SHMEM_ENABLED, on="advise", book=_BOOKS / "uvmm-pages.lock")
        ]
    return [
        Setting(
            path=host.shmem_setting(kib), on=on, book=_BOOKS / f"uvmm-pages-{kib}k.lock"
        )
        for kib, on in ((host.LARGE_KIB, "advise"), (host.MIDDLE_KIB, "always"))
    ]


@contextmanager
def allowed(wanted: Sequence[Setting] | None = None) -> Iterator[None]:
    """Have all of them while the block runs, as far as the machine lets us."""
    with ExitStack() as held:
        for setting in settings() if wanted is None else wanted:
            held.enter_context(_allowed(setting))
        yield


@contextmanager
def _allowed(setting: Setting) -> Iterator[None]:
    try:
        held = _join(setting)
    except OSError:
        # Small pages do, too; the doctor tells what they cost.
        yield
        return
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                _leave(held, setting)
        finally:
            os.close(held)


def _join(setting: Setting) -> int:
    book = setting.book
    while True:
        held = os.open(book, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if _locked(held, fcntl.LOCK_EX) and _is(book, held):
                _begin(held, setting)
            fcntl.flock(held, fcntl.LOCK_SH)
            # The last one removes the book: the lock may be on one that is gone.
            if _is(book, held):
                return held
        except BaseException:
            os.close(held)
            raise
        os.close(held)


def _leave(held: int, setting: Setting) -> None:
    if not _locked(held, fcntl.LOCK_EX) or not _is(setting.book, held):
        return
    word = os.pread(held, _WORD_BYTES, 0).decode(errors="replace")
    # Unless somebody else has chosen meanwhile.
    if setting.may_have_been(word) and setting.word() == setting.on:
        setting.path.write_text(word)
    setting.book.unlink()


def _begin(held: int, setting: Setting) -> None:
    """Change the setting; what it was is in the book before that."""
    word = setting.word()
    if setting.is_off():
        os.ftruncate(held, 0)
        os.pwrite(held, word.encode(), 0)
        with suppress(OSError):
            setting.path.write_text(setting.on)
    elif word != setting.on:
        os.ftruncate(held, 0)


def _locked(held: int, how: int) -> bool:
    try:
        fcntl.flock(held, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
