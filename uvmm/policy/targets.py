# SPDX-License-Identifier: MIT
"""
How the daemon divides machine memory among guests, as long as it does not know how
much of it they use.

While the guests' needs fit into the budget each gets what it needs. When they do
not, memory goes by shares (`division`), to nobody more than its need.

Units: pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvmm.policy.division import Claim, divide, weight
from uvmm.policy.observation import GROWTH_PAGES, GROWTH_PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uvmm.model import Guest, Snapshot


def claim_of(guest: Guest) -> Claim:
    """Return what *guest* can make use of now, with room to grow into."""
    touched = guest.touched_pages
    need = touched + max(touched // GROWTH_PARTS, GROWTH_PAGES)
    return Claim(
        floor_pages=guest.min_pages,
        ceiling_pages=max(guest.min_pages, min(guest.max_pages, need)),
        weight=weight(guest.shares, 1.0, 1.0),
    )


def targets(snapshot: Snapshot) -> Mapping[int, int]:
    """Return the target of each guest, by its id."""
    claims = [claim_of(guest) for guest in snapshot.guests]
    given = divide(snapshot.machine.guest_budget_pages, claims)
    return {guest.id: pages for guest, pages in zip(snapshot.guests, given, strict=True)}
