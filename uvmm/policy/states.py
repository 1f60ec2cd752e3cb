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

from uvmm.units import CHUNK_BYTES, CHUNK_PAGES

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
        return self.name.lower()


# Of min-free: below the first the state is entered, above the second it is left.
_PERCENT = {
    State.CLEAR: (100, 125), State.SOFT: (64, 82), State.HARD: (32, 48), State.LOW: (16, 24)
}
_AIM_PERCENT = 130  # a little above what high takes, so that it is reached


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


def thresholds(total_pages: int) -> Thresholds:
    """Return the thresholds of a machine with *total_pages* of machine memory."""
    pages = min_free(total_pages)
    return Thresholds(
        boundaries={
            state: Boundary(enter_pages=pages * enter // 100, leave_pages=pages * leave // 100)
            for state, (enter, leave) in _PERCENT.items()
        },
        aim_pages=pages * _AIM_PERCENT // 100,
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
