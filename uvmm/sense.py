# SPDX-License-Identifier: MIT
"""What the daemon sees: snapshots of the engine, and each guest's recent stalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvmm.policy.stall import StallSample, Window, observe, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uvmm.core import Engine
    from uvmm.model import Snapshot

PERIOD_S = 0.25


class Senses:
    """Takes snapshots and keeps the stall windows; used from one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._windows: dict[int, Window] = {}

    def look(self, shares: Mapping[int, int]) -> Snapshot:
        """
        Take a snapshot.

        Args:
            shares: Of the guests to look at, by id.
        """
        snapshot = self._engine.snapshot(shares)
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
        return snapshot

    def stall_percent(self, guest_id: int) -> float:
        """Return the guest's stall percentage of the last 10 s, 0 if it is new."""
        return percent(self._windows.get(guest_id, ()))
