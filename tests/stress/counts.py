# SPDX-License-Identifier: MIT
"""What a run has done so far, and how that looks."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass


@dataclass(slots=True, kw_only=True)
class Totals:
    """Counted since the start."""

    guests: int = 0  # started
    guest_kills: int = 0
    launcher_kills: int = 0
    reclaims: int = 0
    restores: int = 0
    pages_out: int = 0
    pages_in: int = 0
    balloons: int = 0  # asked for
    most_ballooned: int = 0  # pages at a time
    passes: int = 0  # over all guests, for pages to share
    pages_shared: int = 0
    samples: int = 0
    pages_written: int = 0
    pages_verified: int = 0


class Counts:
    """Totals that all threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()  # guarded by _lock

    def add(self, **amounts: int) -> None:
        """Add to the totals of these names."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self._totals, name, getattr(self._totals, name) + amount)

    def most(self, **amounts: int) -> None:
        """Raise the totals of these names to what they are at least."""
        with self._lock:
            for name, amount in amounts.items():
                setattr(self._totals, name, max(getattr(self._totals, name), amount))

    def totals(self) -> Totals:
        """Return a copy."""
        with self._lock:
            return Totals(**asdict(self._totals))


def short(totals: Totals) -> str:
    """Return what fits beside a progress bar."""
    shared = f"{_short(totals.pages_shared)} shared " if totals.passes else ""
    kills = totals.guest_kills + totals.launcher_kills
    return (
        f"{_short(totals.pages_written)} written {_short(totals.pages_verified)} verified "
        f"{_short(totals.pages_out)} out {_short(totals.pages_in)} in {shared}{kills} kills"
    )


def summary(totals: Totals) -> str:
    """Return all of it, in lines."""
    return (
        f"pages written {totals.pages_written}, verified {totals.pages_verified}\n"
        f"reclaims {totals.reclaims} took {totals.pages_out} pages out, "
        f"restores {totals.restores} brought {totals.pages_in} back\n"
        f"balloons set {totals.balloons} times, at most {totals.most_ballooned} pages in all\n"
        f"{totals.passes} passes shared {totals.pages_shared} pages\n"
        f"guests started {totals.guests}, killed {totals.guest_kills}, "
        f"launchers killed {totals.launcher_kills}; figures checked {totals.samples} times"
    )


def _short(number: int) -> str:
    for unit, power in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= power:
            return f"{number / power:.1f}{unit}"
    return str(number)
