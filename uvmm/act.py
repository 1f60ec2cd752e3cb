# SPDX-License-Identifier: MIT
"""What the daemon does of its own accord: it sets the guests' targets."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from uvmm.errors import UnknownGuestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uvmm.core import Engine
    from uvmm.model import Snapshot


def set_targets(engine: Engine, snapshot: Snapshot, targets: Mapping[int, int]) -> None:
    """Set those targets that differ from what the guests have."""
    for guest in snapshot.guests:
        if targets[guest.id] != guest.target_pages:
            # It may have ended since the snapshot.
            with suppress(UnknownGuestError):
                engine.set_target(guest.id, targets[guest.id])
