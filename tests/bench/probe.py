# SPDX-License-Identifier: MIT
"""
Drive a measuring program (touch.c, numpy_load.py), wherever it runs.

It is told what to do line by line and answers each line with one of JSON, so
between two commands the benchmark can do to the memory what is to be measured.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .undo import BenchError, held

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
TOUCH = ROOT / "build" / "bench" / "touch"
PAGE_BYTES = 4096
END_WAIT_S = 30.0


class Probe:
    """A running measuring program; it ends with the `with` block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        try:
            self.hear("open")
        except BaseException:
            self._end(hurry=True)
            raise

    @property
    def pid(self) -> int:
        """Process id of what was started: the program, or what runs it as a guest."""
        return self._process.pid

    def ask(self, command: str) -> dict[str, float]:
        """
        Run one command (see touch.c) and return its figures.

        Raises:
            BenchError: If the program ended instead of answering.
        """
        self.tell(command)
        return self.hear(command)

    def tell(self, command: str) -> None:
        """
        Begin one command.

        Raises:
            BenchError: If the program ended before.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"the measuring program ended before: {command}") from None

    def hear(self, command: str) -> dict[str, float]:
        """
        Wait for the figures of the command that was begun.

        Raises:
            BenchError: If the program ended instead of answering.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the measuring program gave no answer to: {command}")
        figures = json.loads(line)
        del figures["op"]
        return {name: float(value) for name, value in figures.items()}

    def _end(self, *, hurry: bool) -> None:
        """End the program: by the end of its input, at once in a *hurry*."""
        if hurry:
            self._process.terminate()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(END_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with held():
            self._end(hurry=error is not None)


def touch_argv(
    kind: str, size_bytes: int, pages: str = "default", path: Path | None = None
) -> list[str]:
    """Arguments of touch.c; *path* for `shared` and `file` alone."""
    argv = [str(TOUCH), kind, str(size_bytes), pages]
    return argv if path is None else [*argv, str(path)]


def numpy_argv(where: str, size_bytes: int) -> list[str]:
    """Arguments of numpy_load.py, with its arrays on `guest` or `ordinary` memory."""
    script = Path(__file__).with_name("numpy_load.py")
    return [sys.executable, str(script), where, str(size_bytes)]


def start(argv: list[str]) -> Probe:
    """
    Start a measuring program as an ordinary process.

    In a session of its own: an interrupt at the terminal reaches the benchmark
    alone, which then ends what it started.
    """
    return Probe(
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )
    )
