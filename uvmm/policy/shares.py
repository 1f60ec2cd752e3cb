# SPDX-License-Identifier: MIT
"""
The policy of uvmm: shares, with a tax on idle memory.

Memory is divided by min-funding revocation (`division`), in which a guest's shares
are worth less the more of its memory is idle: rho = S / (P * (f + k * (1 - f))).

1. If what the guests want does not fit, memory is revoked from those wants.
2. If it fits, everybody has what it wants, and the rest is promised by the same rule,
   so that a guest which grows is within its target.

So what nobody uses goes first, and a guest has all of its max while memory suffices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvmm.policy.decision import Decision, decision_of
from uvmm.policy.division import Claim, divide

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from uvmm.policy.observation import GuestSeen, Observation

ENOUGH = "memory suffices, and this is its part of the rest"
ALL = "all of its max"
BY_SHARES = "what its shares pay for"
BY_MIN = "its min, though its shares pay for less"
BY_WANTS = "all that it can use"


class TaxedShares:
    """Shares and idle memory tax."""

    name = "shares and idle tax"

    def decide(self, seen: Observation) -> Decision:
        """Divide what is available."""
        guests, budget_pages = seen.guests, seen.available_pages
        weights = [guest.weight for guest in guests]
        mins = [guest.parameters.min_pages for guest in guests]
        wants = [guest.wanted_pages for guest in guests]
        short = sum(wants) > budget_pages
        if short:
            targets = divide(budget_pages, _claims(mins, wants, weights))
        else:
            maxes = [guest.parameters.max_pages for guest in guests]
            targets = divide(budget_pages, _claims(wants, maxes, weights))
        return decision_of(seen, targets, _whys(guests, targets, short=short))


def _claims(floors: list[int], ceilings: list[int], weights: list[int]) -> list[Claim]:
    return [
        Claim(floor_pages=floor, ceiling_pages=ceiling, weight=weight)
        for floor, ceiling, weight in zip(floors, ceilings, weights, strict=True)
    ]


def _whys(
    guests: Sequence[GuestSeen], targets: Sequence[int], *, short: bool
) -> Iterator[str]:
    for guest, target in zip(guests, targets, strict=True):
        if target == guest.parameters.max_pages:
            yield ALL
        elif not short:
            yield ENOUGH
        elif target == guest.wanted_pages:
            yield BY_WANTS
        elif target == guest.parameters.min_pages:
            yield BY_MIN
        else:
            yield BY_SHARES
