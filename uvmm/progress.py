# SPDX-License-Identifier: MIT
"""Progress of long work: a bar on standard error if that is a terminal, else nothing."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from uvmm.errors import UvmmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.progress import Progress

SHOWN_AFTER_S = 0.4  # what is done by then needs no bar
LOOK_S = 0.2


@contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that is told how much of how much is done."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with _bar() as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def watched(words: str, look: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """
    Show the progress of work that is done elsewhere while the block waits for it.

    Args:
        words: What is done.
        look: Returns how much of how much is done; an error of it is no matter.
    """
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    looking = threading.Thread(target=_watch, args=(words, look, done), daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()


def _watch(
    words: str, look: Callable[[], tuple[int, int]], done: threading.Event
) -> None:
    if done.wait(SHOWN_AFTER_S):
        return
    with _bar() as bar:
        task = bar.add_task(words, total=None)
        while not done.wait(LOOK_S):
            # Whoever does the work says what is wrong.
            with suppress(UvmmError):
                made, total = look()
                bar.update(task, completed=made, total=total)


def _bar() -> Progress:
    # Not earlier: most commands have nothing that takes long.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn  # noqa: PLC0415

    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        console=Console(stderr=True), transient=True,
    )
