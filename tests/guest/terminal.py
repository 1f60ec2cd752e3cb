# SPDX-License-Identifier: MIT
"""A terminal in which a program runs: keys go in, what it shows is read off the screen."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pexpect
import pyte

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

WAIT_S = 20.0
ESCAPE_S = 0.3
KEYS = {
    "enter": "\r", "escape": "\x1b", "up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C",
    "left": "\x1b[D", "backspace": "\x7f", "home": "\x1b[H", "interrupt": "\x03",
}


class Terminal:
    """Its screen is brought up to date whenever it is looked at."""

    def __init__(self, child: pexpect.spawn[str], columns: int, lines: int) -> None:
        self.child = child
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)

    def press(self, *keys: str) -> None:
        """Press keys: those of `KEYS`, or characters."""
        for key in keys:
            self.child.send(KEYS.get(key, key))
            if key == "escape":
                time.sleep(ESCAPE_S)  # with what comes at once it would be another key

    def lines(self) -> list[str]:
        """Return what is shown."""
        while True:
            try:
                self._feed()
            except (pexpect.TIMEOUT, pexpect.EOF):
                return [line.replace("\xa0", " ").rstrip() for line in self._screen.display]

    def _feed(self) -> None:
        got: Any = self.child.read_nonblocking(1 << 16, timeout=0.05)
        self._stream.feed(got)

    def text(self) -> str:
        """Return what is shown, as one text."""
        return "\n".join(self.lines())

    def wait_for(self, true: Callable[[list[str]], object] | str) -> list[str]:
        """Wait until what is shown has these words, or satisfies a condition."""
        until = time.monotonic() + WAIT_S
        while True:
            lines = self.lines()
            if (true in "\n".join(lines)) if isinstance(true, str) else true(lines):
                return lines
            shown = "\n".join(lines)
            assert time.monotonic() < until, f"waited in vain for {true} in\n{shown}"

    def colours(self) -> set[str]:
        """Return the colours of what is drawn."""
        return {
            char.fg for line in self._screen.buffer.values() for char in line.values()
            if char.data.strip()
        }

    def ended(self) -> int:
        """Wait for the end of the program; returns its status."""
        self.child.expect(pexpect.EOF, timeout=WAIT_S)
        self.child.close()
        return -int(self.child.signalstatus or 0) or int(self.child.exitstatus or 0)


@contextmanager
def terminal(
    argv: Sequence[str], environment: Mapping[str, str], *, columns: int = 80, lines: int = 24
) -> Iterator[Terminal]:
    """Run a program in a terminal for as long as the block lasts."""
    child = pexpect.spawn(
        argv[0], list(argv[1:]), dimensions=(lines, columns), timeout=WAIT_S,
        env={**os.environ, **environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
    )
    try:
        yield Terminal(child, columns, lines)
    finally:
        child.close(force=True)
