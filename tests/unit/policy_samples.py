# SPDX-License-Identifier: MIT
"""Guests and machines for tests of the policy: plausible, unless told otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from uvmm.policy.observation import GuestSeen, Observation
from uvmm.policy.parameters import Parameters
from uvmm.policy.states import thresholds

MIB = 256  # pages
_PARAMETERS = Parameters(
    min_pages=0, max_pages=1024 * MIB, shares=1000, tax=0.75, balloon_max_pages=512 * MIB
)
_GUEST = GuestSeen(
    id=1, name="a", parameters=_PARAMETERS, held_pages=256 * MIB, touched_pages=256 * MIB,
    active=1.0,
)


def a_parameters(**fields: Any) -> Parameters:
    """Return parameters with these values; the balloon fits into max."""
    max_pages = fields.get("max_pages", _PARAMETERS.max_pages)
    return replace(_PARAMETERS, **({"balloon_max_pages": max_pages // 2} | fields))


def a_seen(**fields: Any) -> GuestSeen:
    """Return a guest with these values; those of its parameters may be among them."""
    own = {key: fields.pop(key) for key in list(fields) if hasattr(_PARAMETERS, key)}
    if "held_pages" in fields:
        fields.setdefault("touched_pages", fields["held_pages"])
    fields.setdefault("name", f"g{fields.get('id', 1)}")
    return replace(_GUEST, parameters=a_parameters(**own), **fields)


def an_observation(*guests: GuestSeen, available_pages: int, **fields: Any) -> Observation:
    """Return a machine with this much for guests (or a page less, by rounding)."""
    total_pages = available_pages
    while total_pages - thresholds(total_pages).aim_pages < available_pages:
        total_pages += 1 + (available_pages - total_pages + thresholds(total_pages).aim_pages)
    values: dict[str, Any] = {
        "now_ns": 0, "total_pages": total_pages, "own_pages": 0, "guests": guests,
        "free_pages": total_pages - sum(guest.held_pages for guest in guests),
    }
    return Observation(**(values | fields))


@st.composite
def seen_guests(draw: st.DrawFn, least: int = 0, most: int = 8) -> tuple[GuestSeen, ...]:
    """Make guests of all kinds, small enough to count page by page."""
    guests = []
    for number in range(draw(st.integers(least, most))):
        max_pages = draw(st.integers(1, 40))
        touched_pages = draw(st.integers(0, max_pages))
        guests.append(
            a_seen(
                id=number + 1, max_pages=max_pages,
                min_pages=draw(st.integers(0, max_pages)),
                shares=draw(st.sampled_from((1, 500, 1000, 1500, 2000, 100_000))),
                tax=draw(st.sampled_from((0.0, 0.5, 0.75, 0.99))),
                touched_pages=touched_pages,
                held_pages=draw(st.integers(0, touched_pages)),
                active=draw(st.sampled_from((0.0, 0.05, 0.25, 0.5, 1.0))),
                ballooned_pages=draw(st.integers(0, max_pages)),
                balloon_able=draw(st.booleans()),
            )
        )
    return tuple(guests)
