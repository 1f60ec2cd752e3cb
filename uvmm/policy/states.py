# SPDX-License-Identifier: MIT
"""
How short machine memory is, and what is done about it.

| state | entered when free memory falls below | left upwards above | what is done |
|---|---|---|---|
| high  | -               | -    | nothing |
| clear | 100% of min-free | 125% | sharing is sought, large pages are broken |
| soft  | 64%             | 82%  | balloons; paging only where they cannot |
| hard  | 32%             | 48%  | paging |
| low   | 16%             | 24%  | paging; who is above its target is blocked |

Taking that began in soft or worse goes on, by balloons, through clear until high.

A daemon has a net below that: from `net_pages` of free memory down the data plane takes
from guests by itself, faster than anybody can decide, and from `wait_pages` down guests
wait for memory. Clear, soft and hard lie above the net: they count what is free above
it, so that hard begins at 16% of min-free above the net. Low begins just before guests
would have to wait.

Min-free grows slower than memory: 6% of the first 4 GiB, 4% of the next 8, 2% of the
next 16 and 1% of the rest. Each boundary is a pair of thresholds, so that free memory
which moves a little around one of them does not change the state back and forth.

Downwards the state follows at once, over as many boundaries as free memory has crossed:
what is done late is done when there is nothing left to do it with. Upwards it goes a
state at a time.

Units: pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from uvmm.units import CHUNK_BYTES, CHUNK_PAGES

if TYPE_CHECKING:
    from uvmm.model import StateName

_GIB_PAGES = (1 << 30) // CHUNK_BYTES * CHUNK_PAGES
_PARTS = ((4 * _GIB_PAGES, 6), (8 * _GIB_PAGES, 4), (16 * _GIB_PAGES, 2))
_REST_PERCENT = 1


class State(IntEnum):
    """How short memory is; a larger one is worse."""

    HIGH = 0
    CLEAR = 1
    SOFT = 2
    HARD = 3
    LOW = 4

    def __str__(self) -> str:
        return self.word

    @property
    def word(self) -> StateName:
        """What it is called."""
        return _WORDS[self]


_WORDS: tuple[StateName, ...] = ("high", "clear", "soft", "hard", "low")

# Of min-free: below the first the state is entered, above the second it is left.
_PERCENT = {
    State.CLEAR: (100, 125), State.SOFT: (64, 82), State.HARD: (32, 48), State.LOW: (16, 24)
}
_AIM_PERCENT = 130  # a little above what high takes, so that it is reached
_NET_PERCENT = 16  # of min-free: the net is where low would be without one
# Of `wait_pages`: low is entered before guests wait for memory.
_LOW_ENTER_PERCENT, _LOW_LEAVE_PERCENT = 125, 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where a state begins: entered below `enter_pages`, left above `leave_pages`."""

    enter_pages: int
    leave_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The boundaries of a machine, and how much free memory reclaim aims at."""

    boundaries: dict[State, Boundary]
    aim_pages: int


def min_free(total_pages: int) -> int:
    """Return how many of *total_pages* should be free."""
    left, percents = max(0, total_pages), 0
    for part_pages, percent in _PARTS:
        part = min(left, part_pages)
        percents += part * percent
        left -= part
    return (percents + left * _REST_PERCENT) // 100


def thresholds(
    total_pages: int, *, net_pages: int = 0, wait_pages: int = 0
) -> Thresholds:
    """
    Return the thresholds of a machine.

    Args:
        total_pages: Machine memory.
        net_pages: So much of it is left free by the data plane itself.
        wait_pages: Below so much free memory guests wait.
    """
    pages = min_free(total_pages)
    base_pages = max(0, net_pages - pages * _NET_PERCENT // 100)
    boundaries = {
        state: Boundary(
            enter_pages=base_pages + pages * enter // 100,
            leave_pages=base_pages + pages * leave // 100,
        )
        for state, (enter, leave) in _PERCENT.items()
    }
    enter, leave = _PERCENT[State.LOW]
    hard = boundaries[State.HARD]
    boundaries[State.LOW] = Boundary(
        enter_pages=min(
            max(pages * enter, wait_pages * _LOW_ENTER_PERCENT) // 100, hard.enter_pages
        ),
        leave_pages=min(
            max(pages * leave, wait_pages * _LOW_LEAVE_PERCENT) // 100, hard.leave_pages
        ),
    )
    return Thresholds(
        boundaries=boundaries, aim_pages=base_pages + pages * _AIM_PERCENT // 100
    )


def next_state(state: State, free_pages: int, of: Thresholds) -> State:
    """Return the state that follows *state* now that *free_pages* are free."""
    entered = max(
        (below for below, at in of.boundaries.items() if free_pages < at.enter_pages),
        default=State.HIGH,
    )
    if entered > state:
        return entered
    if state and free_pages > of.boundaries[state].leave_pages:
        return State(state - 1)
    return state
