# SPDX-License-Identifier: MIT
"""
Drive the measuring program (touch.c), wherever it runs.

It is told what to do line by line and answers each line with one of JSON, so
between two commands the benchmark can do to the memory what is to be measured.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
TOUCH = ROOT / "build" / "bench" / "touch"
PAGE_BYTES = 4096


class BenchError(Exception):
    """A benchmark could not be run, or what it measured would be no figure."""


class Probe:
    """A running measuring program; closes with the `with` block."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        try:
            self._answer("open")
        except BaseException:
            self.close()
            raise

    def ask(self, command: str) -> dict[str, float]:
        """
        Run one command (see touch.c) and return its figures.

        Raises:
            BenchError: If the program ended instead of answering.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"touch ended before: {command}") from None
        return self._answer(command)

    def close(self) -> None:
        """End the program: it goes when its stdin does."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self, command: str) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"touch gave no answer to: {command}")
        figures = json.loads(line)
        del figures["op"]
        return {name: float(value) for name, value in figures.items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def touch_argv(
    kind: str, size_bytes: int, pages: str = "default", path: Path | None = None
) -> list[str]:
    """Arguments of the measuring program; *path* for `shared` and `file` alone."""
    argv = [str(TOUCH), kind, str(size_bytes), pages]
    return argv if path is None else [*argv, str(path)]


def start(argv: list[str]) -> Probe:
    """Start the measuring program as an ordinary process."""
    return Probe(
        subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    )
