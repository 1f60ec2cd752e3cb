# SPDX-License-Identifier: MIT
"""
Which guests may start.

A guest's min is a promise of machine memory, so the mins of all guests must fit
into what uvmm itself leaves of the budget. Its max must be storable if nobody else
holds anything, so it is bounded by machine memory and swap together. The sum of the
maxes is not bounded: overcommit is the point.

`reserve` is the stricter rule for guests whose max is chosen: also the swap that a
guest needs to be pushed down to its min is reserved, so that its memory can always
be kept, whatever the others do.

Units: pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from uvmm.errors import BadInputError, NoRoomError
from uvmm.units import CHUNK_BYTES, chunks_down, chunks_up, format_size, pages_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uvmm.model import Machine
    from uvmm.policy.parameters import Parameters

# What uvmm needs for a guest: its page map and tables (12 bytes a page were measured
# for a guest that was reclaimed whole), and what does not depend on its size.
OVERHEAD_BYTES_A_PAGE = 16
OVERHEAD_PAGES_A_GUEST = 16


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """
    What there is, and what is promised of it to `guests` guests.

    `reserved_pages` are their mins and overheads, `reserved_swap_pages` what lies
    between their mins and their maxes; `own_pages` is what uvmm needs without guests.
    """

    total_pages: int
    own_pages: int
    swap_pages: int
    guests: int = 0
    reserved_pages: int = 0
    reserved_swap_pages: int = 0


def overhead(max_pages: int) -> int:
    """Return the pages that uvmm needs for a guest of that size."""
    table_bytes = max_pages * OVERHEAD_BYTES_A_PAGE
    return OVERHEAD_PAGES_A_GUEST + -(-table_bytes // pages_to_bytes(1))


def room(
    guests: Iterable[Parameters], *, total_pages: int, own_pages: int, swap_pages: int
) -> Room:
    """Return the room on a machine where *guests* run."""
    running = list(guests)
    return Room(
        total_pages=total_pages, own_pages=own_pages, swap_pages=swap_pages,
        guests=len(running),
        reserved_pages=sum(one.min_pages + overhead(one.max_pages) for one in running),
        reserved_swap_pages=sum(one.max_pages - one.min_pages for one in running),
    )


def reserve(there: Room, wanted: Parameters) -> Room:
    """
    Return the room with one more guest, which can always be kept.

    Raises:
        NoRoomError: With the arithmetic, if min and overhead do not fit into
            unreserved machine memory, or max - min not into unreserved swap.
    """
    overhead_pages = overhead(wanted.max_pages)
    need_pages = wanted.min_pages + overhead_pages
    left_pages = max(0, there.total_pages - there.own_pages - there.reserved_pages)
    others = f"{there.guests} other guest{'' if there.guests == 1 else 's'}"
    if need_pages > left_pages:
        raise NoRoomError(
            f"min {_size(wanted.min_pages)} + overhead {_size(overhead_pages)} = "
            f"{_size(need_pages)} cannot be guaranteed: of {_size(there.total_pages)} machine "
            f"memory uvmm itself takes {_size(there.own_pages)}, {others} were promised "
            f"{_size(there.reserved_pages)}, {_size(left_pages)} is left"
        )
    swap_pages = wanted.max_pages - wanted.min_pages
    left_swap_pages = max(0, there.swap_pages - there.reserved_swap_pages)
    if swap_pages > left_swap_pages:
        raise NoRoomError(
            f"max {_size(wanted.max_pages)} - min {_size(wanted.min_pages)} = "
            f"{_size(swap_pages)} of swap cannot be reserved: of {_size(there.swap_pages)} "
            f"{others} have {_size(there.reserved_swap_pages)}, {_size(left_swap_pages)} is "
            "left; a smaller max, a larger min or more swap would do"
        )
    return replace(
        there, guests=there.guests + 1, reserved_pages=there.reserved_pages + need_pages,
        reserved_swap_pages=there.reserved_swap_pages + swap_pages,
    )


def _size(pages: int) -> str:
    return format_size(pages_to_bytes(pages))
