# SPDX-License-Identifier: MIT
"""
What an interrupt may not cut in two.

A benchmark changes the machine: swap devices, mounts, processes. Each change is
made in a context that undoes it, in two steps that an interrupt cannot part:

    with Undo() as undo:
        with held():
            change()
            undo.callback(change_back)
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class BenchError(Exception):
    """A benchmark could not be run, or what it measured would be no figure."""

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextmanager
def held() -> Iterator[None]:
    """Hold signals back; one that comes meanwhile takes effect at the end."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


class Undo(ExitStack):
    """An exit stack whose unwinding is not cut short by a second interrupt."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        with held():
            return bool(super().__exit__(kind, error, trace))


def run(*argv: str) -> None:
    """
    Run a program to its end, out of reach of an interrupt at the terminal.

    Raises:
        BenchError: If it is not there or fails, with what it said.
    """
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, start_new_session=True
        )
    except FileNotFoundError:
        raise BenchError(f"there is no program {argv[0]}") from None
    if done.returncode:
        raise BenchError(f"{' '.join(argv)}: {done.stderr.strip()}")
