# SPDX-License-Identifier: MIT
"""
How machine memory is divided among guests.

While the guests' needs fit into the budget each gets what it needs. When they do
not, memory goes by shares: all guests rise together, each in proportion to its
shares, and one stops rising when its need is met; nobody falls below its min.
This is where min-funding revocation comes to rest (which always takes from the
guest that pays the fewest shares a page), found at once and not step by step.

Units: pages; shares are weights without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uvmm.model import Guest, Snapshot

# A guest that grows should not be above its target only because the last look
# at it is a quarter of a second old.
GROWTH_PARTS = 8
GROWTH_PAGES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    What one guest may get: `floor_pages` in any case, up to `ceiling_pages`.

    Raises `ValueError` unless 0 <= floor <= ceiling and shares > 0.
    """

    floor_pages: int
    ceiling_pages: int
    shares: int

    def __post_init__(self) -> None:
        if not 0 <= self.floor_pages <= self.ceiling_pages:
            raise ValueError(f"floor {self.floor_pages} > ceiling {self.ceiling_pages}, or < 0")
        if self.shares <= 0:
            raise ValueError(f"shares must be > 0, got {self.shares}")


def claim_of(guest: Guest) -> Claim:
    """Return what *guest* can make use of now, with room to grow into."""
    touched = guest.touched_pages
    need = touched + max(touched // GROWTH_PARTS, GROWTH_PAGES)
    return Claim(
        floor_pages=guest.min_pages,
        ceiling_pages=max(guest.min_pages, min(guest.max_pages, need)),
        shares=guest.shares,
    )


def divide(budget_pages: int, claims: Sequence[Claim]) -> list[int]:
    """
    Divide *budget_pages* by shares.

    Returns:
        Pages for each claim, in the same order. Their sum is the budget or what
        all ceilings come to, whichever is less; if the floors alone exceed the
        budget, the floors.
    """
    given = [claim.floor_pages for claim in claims]
    if sum(given) >= budget_pages:
        return given
    if sum(claim.ceiling_pages for claim in claims) <= budget_pages:
        return [claim.ceiling_pages for claim in claims]
    level = _level(budget_pages, claims)
    for i, claim in enumerate(claims):
        given[i] = _at_level(claim, level)
    _spend(budget_pages - sum(given), given, claims)
    return given


def targets(snapshot: Snapshot) -> Mapping[int, int]:
    """Return the target of each guest, by its id."""
    claims = [claim_of(guest) for guest in snapshot.guests]
    given = divide(snapshot.machine.guest_budget_pages, claims)
    return {guest.id: pages for guest, pages in zip(snapshot.guests, given, strict=True)}


# Pages a share, in units of 2**-32, so that a level is a whole number.
_LEVEL_BITS = 32


def _at_level(claim: Claim, level: int) -> int:
    pages = claim.shares * level >> _LEVEL_BITS
    return min(max(pages, claim.floor_pages), claim.ceiling_pages)


def _level(budget_pages: int, claims: Sequence[Claim]) -> int:
    """Find the highest level at which all together stay within the budget."""
    low, high = 0, (budget_pages + 1) << _LEVEL_BITS
    while high - low > 1:
        middle = (low + high) // 2
        if sum(_at_level(claim, middle) for claim in claims) <= budget_pages:
            low = middle
        else:
            high = middle
    return low


def _spend(left_pages: int, given: list[int], claims: Sequence[Claim]) -> None:
    """Hand out the few pages that rounding left, one a claim, in turn."""
    while left_pages:
        for i, claim in enumerate(claims):
            if left_pages and given[i] < claim.ceiling_pages:
                given[i] += 1
                left_pages -= 1
