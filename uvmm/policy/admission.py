# SPDX-License-Identifier: MIT
"""
Which guests may start.

A guest's min is a promise of machine memory, so the mins of all guests, with what uvmm
needs for each, must fit into what uvmm itself leaves of the budget. Its max is a
promise, too, if its user named it: the swap that it takes to push the guest down to its
min is reserved. So the sum of the maxes is bounded by memory and swap together, and
what is promised can always be kept, whatever the others do.

Not all that uvmm leaves can be promised: a little of machine memory is kept free so that
guests need not wait for each page, and when all hold their mins there must be as much.

A guest whose max nobody named may grow to all that can be backed, as far as there is
any: beyond its min it is promised nothing. The same goes for children of guests, which
nobody asked for.

Units: pages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from uvmm.errors import BadInputError, NoRoomError
from uvmm.policy.states import State, thresholds
from uvmm.units import CHUNK_BYTES, chunks_down, chunks_up, format_size, pages_to_bytes, sized

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
            f"--max {sized(asked_pages)} is more than can be backed: machine memory "
            f"{sized(machine.total_pages)} + swap {sized(machine.swap_total_pages)} allow "
            f"at most {sized(limit)}"
        )
    return chunks_up(asked_pages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Booking:
    """What is reserved for one guest: its min, what uvmm needs for it, and swap."""

    min_pages: int
    overhead_pages: int
    swap_pages: int


def booking(
    parameters: Parameters, *, promised: bool = True, size_pages: int | None = None
) -> Booking:
    """
    Return what is to be reserved for a guest.

    Args:
        parameters: Its own.
        promised: Whether its max is. If not, only its min is, and nothing is
            reserved for what it may come to hold beyond.
        size_pages: The size of its memory; None: its max.
    """
    if not promised:
        return Booking(
            min_pages=parameters.min_pages, overhead_pages=overhead(parameters.min_pages),
            swap_pages=0,
        )
    return Booking(
        min_pages=parameters.min_pages,
        overhead_pages=overhead(parameters.max_pages if size_pages is None else size_pages),
        swap_pages=parameters.max_pages - parameters.min_pages,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """
    What there is, and what is promised of it to `guests` guests.

    `reserved_pages` are their mins and overheads, `reserved_swap_pages` what lies
    between their mins and their maxes; `own_pages` is what uvmm needs without guests,
    `spare_pages` are to be free in any case.
    """

    total_pages: int
    own_pages: int
    swap_pages: int
    spare_pages: int = 0
    guests: int = 0
    reserved_pages: int = 0
    reserved_swap_pages: int = 0


def overhead(max_pages: int) -> int:
    """Return the pages that uvmm needs for a guest of that size."""
    table_bytes = max_pages * OVERHEAD_BYTES_A_PAGE
    return OVERHEAD_PAGES_A_GUEST + -(-table_bytes // pages_to_bytes(1))


def machine_room(machine: Machine, guests: Iterable[Booking], *, own_pages: int) -> Room:
    """
    Return the room on a machine as it is now.

    Args:
        machine: The machine.
        guests: What is reserved for those that run.
        own_pages: What the daemon held of it before it served; it may hold more now.
    """
    running = list(guests)
    tables = sum(one.overhead_pages for one in running)
    of = thresholds(
        machine.total_pages, net_pages=machine.net_pages, wait_pages=machine.wait_pages
    )
    return room(
        running, total_pages=machine.total_pages, swap_pages=machine.swap_total_pages,
        own_pages=max(own_pages, machine.daemon_pages - tables),
        spare_pages=of.boundaries[State.LOW].leave_pages,
    )


def room(
    guests: Iterable[Booking], *, total_pages: int, own_pages: int, swap_pages: int,
    spare_pages: int = 0,
) -> Room:
    """Return the room on a machine where *guests* run."""
    running = list(guests)
    return Room(
        total_pages=total_pages, own_pages=own_pages, swap_pages=swap_pages,
        spare_pages=spare_pages, guests=len(running),
        reserved_pages=sum(one.min_pages + one.overhead_pages for one in running),
        reserved_swap_pages=sum(one.swap_pages for one in running),
    )


def reserve(there: Room, wanted: Booking) -> Room:
    """
    Return the room with one more guest, which can always be kept.

    Raises:
        NoRoomError: With the arithmetic, if min and overhead do not fit into
            unreserved machine memory, or max - min not into unreserved swap.
    """
    need_pages = wanted.min_pages + wanted.overhead_pages
    kept_pages = there.own_pages + there.spare_pages
    left_pages = max(0, there.total_pages - kept_pages - there.reserved_pages)
    spare = f" and keeps {sized(there.spare_pages)} free" if there.spare_pages else ""
    others = f"{there.guests} other guest{'' if there.guests == 1 else 's'}"
    if need_pages > left_pages:
        raise NoRoomError(
            f"min {sized(wanted.min_pages)} + overhead {sized(wanted.overhead_pages)} = "
            f"{sized(need_pages)} cannot be guaranteed: of {sized(there.total_pages)} machine "
            f"memory uvmm itself takes {sized(there.own_pages)}{spare}, {others} were promised "
            f"{sized(there.reserved_pages)}, {sized(left_pages)} is left"
        )
    left_swap_pages = max(0, there.swap_pages - there.reserved_swap_pages)
    if wanted.swap_pages > left_swap_pages:
        max_pages = wanted.min_pages + wanted.swap_pages
        raise NoRoomError(
            f"max {sized(max_pages)} - min {sized(wanted.min_pages)} = "
            f"{sized(wanted.swap_pages)} of swap cannot be reserved: of "
            f"{sized(there.swap_pages)} {others} have {sized(there.reserved_swap_pages)}, "
            f"{sized(left_swap_pages)} is left; a smaller max, a larger min or more swap "
            "would do"
        )
    return replace(
        there, guests=there.guests + 1, reserved_pages=there.reserved_pages + need_pages,
        reserved_swap_pages=there.reserved_swap_pages + wanted.swap_pages,
    )


def release(there: Room, booked: Booking) -> Room:
    """Return the room with one guest less, for which this was reserved."""
    return replace(
        there, guests=there.guests - 1,
        reserved_pages=there.reserved_pages - booked.min_pages - booked.overhead_pages,
        reserved_swap_pages=there.reserved_swap_pages - booked.swap_pages,
    )
