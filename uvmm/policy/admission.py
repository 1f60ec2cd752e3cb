# SPDX-License-Identifier: MIT
"""
Which guests may start.

A guest's min is a promise of machine memory, so the mins of all guests must fit
into what uvmm itself leaves of the budget. Its max must be storable if nobody else
holds anything, so it is bounded by machine memory and swap together. The sum of the
maxes is not bounded: overcommit is the point.

Units: pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvmm.errors import BadInputError, NoRoomError
from uvmm.units import CHUNK_BYTES, chunks_down, chunks_up, format_size, pages_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uvmm.model import Machine


def largest_max(machine: Machine) -> int:
    """Return the largest max that can be backed, in whole large pages."""
    return chunks_down(machine.total_pages + machine.swap_total_pages)


def admitted_max(machine: Machine, asked_pages: int | None) -> int:
    """
    Return the max of a guest that asks for *asked_pages*.

    Args:
        machine: What there is.
        asked_pages: None asks for all that can be backed.

    Raises:
        BadInputError: If it is 0, or more than can be backed.
    """
    limit = largest_max(machine)
    if asked_pages is None:
        return limit
    if asked_pages <= 0:
        raise BadInputError(f"--max must be at least {format_size(CHUNK_BYTES)}")
    if chunks_up(asked_pages) > limit:
        raise BadInputError(
            f"--max {_size(asked_pages)} is more than can be backed: machine memory "
            f"{_size(machine.total_pages)} + swap {_size(machine.swap_total_pages)} allow "
            f"at most {_size(limit)}"
        )
    return chunks_up(asked_pages)


def check_min(machine: Machine, others: Iterable[int], min_pages: int, max_pages: int) -> None:
    """
    Refuse a guest whose min cannot be promised.

    Args:
        machine: What there is.
        others: The mins of the guests that run.
        min_pages: What the new guest asks to be guaranteed.
        max_pages: Its admitted max.

    Raises:
        BadInputError: If it is more than its max.
        NoRoomError: If the mins together exceed the budget.
    """
    if min_pages > max_pages:
        raise BadInputError(
            f"--min {_size(min_pages)} is more than --max {_size(max_pages)}"
        )
    promised = sum(others)
    left = max(0, machine.guest_budget_pages - promised)
    if min_pages > left:
        raise NoRoomError(
            f"--min {_size(min_pages)} cannot be guaranteed: of {_size(machine.total_pages)} "
            f"machine memory uvmm itself takes {_size(machine.overhead_pages)}, other guests "
            f"were promised {_size(promised)}, {_size(left)} is left"
        )


def _size(pages: int) -> str:
    return format_size(pages_to_bytes(pages))
