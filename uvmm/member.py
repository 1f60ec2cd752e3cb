# SPDX-License-Identifier: MIT
"""A guest as the daemon has admitted it: what it may have, and what is promised to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.model import Standing
from uvmm.policy.admission import booking, room

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uvmm.core import GuestConfig
    from uvmm.host import Process
    from uvmm.model import Machine
    from uvmm.policy.admission import Room
    from uvmm.policy.parameters import Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A guest that was admitted."""

    config: GuestConfig
    process: Process
    parameters: Parameters
    promised: bool  # its max was named, so it is reserved

    @property
    def name(self) -> str:
        """Its name."""
        return self.config.name


def standing_of(member: Member, active: float) -> Standing:
    """Return what the policy is to know of it; active: the part of its memory it uses."""
    allowed = member.parameters
    return Standing(
        min_pages=allowed.min_pages, max_pages=allowed.max_pages, shares=allowed.shares,
        tax=allowed.tax, balloon_max_pages=allowed.balloon_max_pages, active=active,
        promised=member.promised,
    )


def room_beside(machine: Machine, members: Iterable[Member], own_pages: int) -> Room:
    """Return what there is, and what is promised of it to the members."""
    booked = [
        booking(
            member.parameters, promised=member.promised, size_pages=member.config.max_pages
        )
        for member in members
    ]
    return room(
        booked, total_pages=machine.total_pages, own_pages=own_pages,
        swap_pages=machine.swap_total_pages,
    )
