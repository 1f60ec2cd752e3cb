# SPDX-License-Identifier: MIT
"""What the daemon remembers of its figures: guests' recent stalls, and a rate."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from uvmm.policy.stall import StallSample, Window, observe, percent

if TYPE_CHECKING:
    from uvmm.model import Snapshot

PERIOD_S = 0.25  # between two steps of the control loop
SHORT_PERIOD_S = 0.05  # the same while memory is short
STEP_PART = 20  # a step takes at most one part in so many of the time, but for PERIOD_S
_RATE_NS = 1_000_000_000  # a rate is that of so long, about


class Senses:
    """Keeps the stall windows and the scan rate; used by one thread at a time."""

    def __init__(self) -> None:
        self._windows: dict[int, Window] = {}
        self._scans: deque[tuple[int, int]] = deque()

    def see(self, snapshot: Snapshot) -> None:
        """Take note of *snapshot*; guests that are not in it are forgotten."""
        self._windows = {
            guest.id: observe(
                self._windows.get(guest.id, ()),
                StallSample(
                    at_ns=snapshot.machine.now_ns, stall_ns=guest.stall_ns,
                    threads=guest.threads,
                ),
            )
            for guest in snapshot.guests
        }
        machine = snapshot.machine
        self._scans.append((machine.now_ns, machine.sharing.scanned_pages))
        while len(self._scans) > 2 and self._scans[1][0] <= machine.now_ns - _RATE_NS:
            self._scans.popleft()

    def stall_percent(self, guest_id: int) -> float:
        """Return the guest's stall percentage of the last 10 s, 0 if it is new."""
        return percent(self._windows.get(guest_id, ()))

    def scan_rate(self) -> float:
        """Return the pages scanned a second lately."""
        if len(self._scans) < 2:
            return 0.0
        (since_ns, before), (now_ns, now) = self._scans[0], self._scans[-1]
        return (now - before) * 1e9 / max(1, now_ns - since_ns)
