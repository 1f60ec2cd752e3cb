# SPDX-License-Identifier: MIT
"""
Large pages in mappings of the memory filesystem: a setting of the whole machine,
shared by all daemons that serve.

Each holds a shared lock on one file, the book, in which the setting's former word
is. Whoever can have the lock alone is the first or the last: the first changes the
setting, the last puts the word back. A killed daemon's lock is gone with it, and
its word stays in the book for the next one.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm import host

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOK = Path("/run/uvmm-large-pages.lock")
_OFF, _ON = "never", "advise"
_WORD_BYTES = 64


@contextmanager
def allowed(setting: Path = host.SHMEM_ENABLED, book: Path = BOOK) -> Iterator[None]:
    """Have large pages while the block runs, if the machine lets us."""
    try:
        held = _join(setting, book)
    except OSError:
        # Small pages do, too; the doctor tells what they cost.
        yield
        return
    try:
        yield
    finally:
        try:
            with suppress(OSError):
                _leave(held, setting, book)
        finally:
            os.close(held)


def _join(setting: Path, book: Path) -> int:
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


def _leave(held: int, setting: Path, book: Path) -> None:
    if not _locked(held, fcntl.LOCK_EX) or not _is(book, held):
        return
    word = os.pread(held, _WORD_BYTES, 0).decode(errors="replace")
    # Unless somebody else has chosen meanwhile.
    if word == _OFF and host.chosen_word(setting) == _ON:
        setting.write_text(word)
    book.unlink()


def _begin(held: int, setting: Path) -> None:
    """Change the setting; what it was is in the book before that."""
    word = host.chosen_word(setting)
    if word == _OFF:
        os.pwrite(held, word.encode(), 0)
        with suppress(OSError):
            setting.write_text(_ON)
    elif word != _ON:
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
