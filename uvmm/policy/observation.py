# SPDX-License-Identifier: MIT
"""
What a policy is told: the machine and its guests at one moment.

Units: pages, nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.policy.division import WEIGHT_SCALE, weight
from uvmm.policy.states import Thresholds, thresholds

if TYPE_CHECKING:
    from uvmm.policy.parameters import Parameters

# A guest that grows should not be above its target only because the last look
# at it is a moment old.
GROWTH_PARTS = 8
GROWTH_PAGES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """
    What came of a guest's orders: since the last observation, or since a decision.

    `asked_pages` and `given_pages` are the balloon's; `paged_pages` were taken by paging;
    `blocks` is how often it was blocked.
    A request counts when it is answered or overdue: what was asked for and not given
    is paged out.
    """

    asked_pages: int = 0
    given_pages: int = 0
    paged_pages: int = 0
    blocks: int = 0

    def __add__(self, other: Tried) -> Tried:
        return Tried(
            asked_pages=self.asked_pages + other.asked_pages,
            given_pages=self.given_pages + other.given_pages,
            paged_pages=self.paged_pages + other.paged_pages,
            blocks=self.blocks + other.blocks,
        )


NOTHING_TRIED = Tried()


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSeen:
    """
    One guest.

    `held_pages` are in machine memory, `touched_pages` have contents, wherever they
    are, `active` is the part of them that is in use (`Activity.estimate`).
    `balloon_able` is whether its agent answers and takes requests. `balloon_wish_pages` is
    what somebody has asked its balloon to be; it is not let go below that.
    """

    id: int
    name: str
    parameters: Parameters
    held_pages: int
    touched_pages: int
    active: float
    ballooned_pages: int = 0
    balloon_able: bool = True
    balloon_wish_pages: int = 0
    tried: Tried = NOTHING_TRIED

    @property
    def wanted_pages(self) -> int:
        """What the guest can make use of now, with room to grow into."""
        touched = self.touched_pages
        need = touched + max(touched // GROWTH_PARTS, GROWTH_PAGES)
        return max(self.parameters.min_pages, min(self.parameters.max_pages, need))

    @property
    def weight(self) -> int:
        """Its shares by what they have to pay for: see `division.weight`."""
        parameters = self.parameters
        return weight(parameters.shares, self.active, parameters.idle_price)

    def shares_per_page(self, pages: int) -> float:
        """Return the paper's rho if it held *pages*: who has the least pays next."""
        return self.weight / WEIGHT_SCALE / max(1, pages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """
    Machine memory and all guests; `own_pages` are what uvmm itself costs.

    `net_pages` and `wait_pages` of free memory are the data plane's (see `states`).
    """

    now_ns: int
    total_pages: int
    own_pages: int
    free_pages: int
    guests: tuple[GuestSeen, ...]
    net_pages: int = 0
    wait_pages: int = 0

    @property
    def thresholds(self) -> Thresholds:
        """Where the states of this machine begin and end."""
        return thresholds(
            self.total_pages, net_pages=self.net_pages, wait_pages=self.wait_pages
        )

    @property
    def available_pages(self) -> int:
        """What targets may add up to, so that enough memory stays free."""
        return max(0, self.total_pages - self.own_pages - self.thresholds.aim_pages)
