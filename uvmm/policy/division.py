# SPDX-License-Identifier: MIT
"""
Min-funding revocation: who loses a page, and where that comes to rest.

When memory is short, a page is taken from the guest that pays the fewest shares for
each of its pages, again and again until it is short no more. A guest with weight w
that holds p pages pays w / p for each, so its p-th page has that price, and what is
left in the end are the pages with the highest prices of all. They are found without
taking a page at a time: first the level (pages a unit of weight) at which what
everybody holds adds up to the budget, then the few pages that whole numbers leave.

Pages of one price stay or go together, so that equal guests hold equally much and
the order of the guests means nothing; fewer pages than there are guests may be left
over by that. Nobody falls below its floor, at any price.

Time: O(n log n) for n guests. Units: pages; weights are whole numbers without a unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHT_SCALE = 1 << 32  # weights are whole numbers, so that sums of them are exact
_BELOW = 1.0 - 1e-12  # of the level, which is a float: rather too few pages, then add


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """
    What one guest may get: `floor_pages` in any case, up to `ceiling_pages`.

    Raises `ValueError` unless 0 <= floor <= ceiling and weight > 0.
    """

    floor_pages: int
    ceiling_pages: int
    weight: int

    def __post_init__(self) -> None:
        if not 0 <= self.floor_pages <= self.ceiling_pages:
            raise ValueError(f"floor {self.floor_pages} > ceiling {self.ceiling_pages}, or < 0")
        if self.weight <= 0:
            raise ValueError(f"weight must be > 0, got {self.weight}")


def weight(shares: int, active: float, idle_price: float) -> int:
    """
    Return what a guest's shares weigh: the paper's S / (f + k * (1 - f)), scaled.

    Divided by its pages this is the adjusted shares-per-page ratio.

    Args:
        shares: S, at least 1.
        active: f, the part of its memory in use, 0 to 1.
        idle_price: k = 1 / (1 - tax), how many pages in use an idle one counts for.
    """
    cost = active + idle_price * (1.0 - active)
    return max(1, round(shares * WEIGHT_SCALE / cost))


def divide(budget_pages: int, claims: Sequence[Claim]) -> list[int]:
    """
    Divide *budget_pages*: revoke from everybody's ceiling until it fits.

    Returns:
        Pages for each claim, in the same order: their ceilings if these fit, their
        floors if even these do not.
    """
    floors = [claim.floor_pages for claim in claims]
    if sum(floors) >= budget_pages:
        return floors
    ceilings = [claim.ceiling_pages for claim in claims]
    if sum(ceilings) <= budget_pages:
        return ceilings
    weights = [claim.weight for claim in claims]
    level = _level(budget_pages, floors, ceilings, weights) * _BELOW
    given = [
        min(max(int(weight * level), floor), ceiling)
        for weight, floor, ceiling in zip(weights, floors, ceilings, strict=True)
    ]
    _spend(budget_pages - sum(given), given, ceilings, weights)
    return given


def _level(
    budget_pages: int, floors: list[int], ceilings: list[int], weights: list[int]
) -> float:
    """Return the level at which everybody's floor <= weight * level <= ceiling add up."""
    # Each rises above its floor at one level and reaches its ceiling at another.
    leaves = [floor / weight for floor, weight in zip(floors, weights, strict=True)]
    arrives = [ceiling / weight for ceiling, weight in zip(ceilings, weights, strict=True)]
    steps = [
        *zip(leaves, weights, [-floor for floor in floors], strict=True),
        *zip(arrives, [-weight for weight in weights], ceilings, strict=True),
    ]
    steps.sort()
    resting = sum(floors)  # at a floor or a ceiling
    rising = 0  # the weights of all others
    for level, more_rising, more_resting in steps:
        if resting + rising * level >= budget_pages:
            break
        rising += more_rising
        resting += more_resting
    return (budget_pages - resting) / rising if rising else level


def _spend(
    left_pages: int, given: list[int], ceilings: list[int], weights: list[int]
) -> None:
    """Hand out what is left, a page at the highest price at a time, equals together."""
    offers = [
        (-weights[i] / (pages + 1), i)
        for i, pages in enumerate(given) if pages < ceilings[i]
    ]
    heapify(offers)
    while left_pages and offers:
        price = offers[0][0]
        equals = []
        while offers and offers[0][0] == price:
            equals.append(heappop(offers)[1])
        if len(equals) > left_pages:
            return
        left_pages -= len(equals)
        for i in equals:
            given[i] += 1
            if given[i] < ceilings[i]:
                heappush(offers, (-weights[i] / (given[i] + 1), i))
