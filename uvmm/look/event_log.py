# SPDX-License-Identifier: MIT
"""The daemon's events as a file that grows, put together from looks at its newest ones."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from uvmm.look.texts import event_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LARGEST_BYTES = 8 << 20


class EventLog:
    """All events since the first look, and those that were known then; for any thread."""

    def __init__(self, newest: Callable[[], Sequence[Mapping[str, str]]], window: int) -> None:
        """
        Begin.

        Args:
            newest: Returns the newest events, oldest first.
            window: How many these are at most.
        """
        self._newest = newest
        self._lock = threading.Lock()
        self._seen: deque[Mapping[str, str]] = deque(maxlen=window)
        self._content = bytearray()

    def content(self) -> bytes:
        """Return the file as it is now. Above `LARGEST_BYTES` it begins anew, shorter."""
        told = self._newest()
        with self._lock:
            for event in told[self._known(told) :]:
                self._seen.append(event)
                self._content += event_line(event).encode(errors="backslashreplace")
            if len(self._content) > LARGEST_BYTES:
                cut = self._content.find(b"\n", LARGEST_BYTES // 2) + 1
                del self._content[:cut]
            return bytes(self._content)

    def _known(self, told: Sequence[Mapping[str, str]]) -> int:
        """How many of those told, from the first on, are the last that were seen."""
        seen = list(self._seen)
        for many in range(min(len(seen), len(told)), 0, -1):
            if seen[-1] == told[many - 1] and seen[-many:] == list(told[:many]):
                return many
        return 0
