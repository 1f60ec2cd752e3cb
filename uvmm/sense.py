# SPDX-License-Identifier: MIT
"""What the daemon remembers of what it sees: each guest's recent stalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvmm.policy.stall import StallSample, Window, observe, percent

if TYPE_CHECKING:
    from uvmm.model import Snapshot

PERIOD_S = 0.25  # 40 samples a window: what happens between two is in the counters


class Senses:
    """Keeps the stall windows; used by one thread at a time."""

    def __init__(self) -> None:
        self._windows: dict[int, Window] = {}

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

    def stall_percent(self, guest_id: int) -> float:
        """Return the guest's stall percentage of the last 10 s, 0 if it is new."""
        return percent(self._windows.get(guest_id, ()))
