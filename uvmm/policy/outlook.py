# SPDX-License-Identifier: MIT
"""
From what the daemon sees to what a policy is told.

`Watched` is what is remembered of a guest from look to look: what is known of its
activity, when the running period of its sample began, and counters that only rise.

A guest's part of the frames that it shares is held by it, too: so that what guests hold
adds up to what they take of machine memory, and what sharing saves is nobody's need.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from uvmm.policy.activity import Activity, observe, starved
from uvmm.policy.observation import NOTHING_TRIED, GuestSeen, Observation, Tried

if TYPE_CHECKING:
    from collections.abc import Iterable

    from uvmm.model import Machine, Sight
    from uvmm.policy.activity import Sampling
    from uvmm.policy.parameters import Parameters

_NS = 1_000_000_000
LOOK_NS = _NS * 7 // 10  # what is known of a guest's activity is not made anew before
STARVED_PART = 0.6  # of the time, of all its threads together
REDRAW_NS = 3 * _NS
REDRAW_PAGES = 1024
_UNKNOWN = Activity()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """
    One guest; `samples` is how many have been begun with the running one.

    That was drawn of the `drawn_of_pages` which were touched then. It had waited for memory
    for `stall_ns` in all at `stalled_ns`.
    """

    activity: Activity = _UNKNOWN
    samples: int = 0
    looked_ns: int = 0
    stall_ns: int = 0
    stalled_ns: int = 0
    began_ns: int = 0
    began_run_ns: int = 0
    drawn_of_pages: int = 0
    asked_pages: int = 0
    given_pages: int = 0
    blocks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """One look at a guest: what to remember, what was tried, whether to draw a sample."""

    watched: Watched
    tried: Tried
    draw: bool


def glance(
    before: Watched | None, sight: Sight, *, now_ns: int, paged_pages: int, sampling: Sampling
) -> Glance:
    """
    Take in what is seen of a guest.

    Args:
        before: What was remembered; None for a new guest.
        sight: What is seen now.
        now_ns: When that is.
        paged_pages: What was paged out of it since the last look.
        sampling: How its activity is sampled.
    """
    touched_pages = sight.size_pages - sight.untouched_pages - sight.ballooned_pages
    if before is None:
        return Glance(
            watched=_begun(_UNKNOWN, sight, touched_pages, now_ns), tried=NOTHING_TRIED,
            draw=bool(sight.attached),
        )
    due = _is_sample_void(before, sight, touched_pages, now_ns)
    tried = _tried(before, sight, paged_pages)
    activity = before.activity
    if not due and tried is NOTHING_TRIED and now_ns - before.looked_ns < LOOK_NS:
        return Glance(watched=before, tried=tried, draw=False)
    if sight.attached and not due:
        fraction = sampling.fraction(
            executed_s=max(0, sight.run_ns - before.began_run_ns) / _NS,
            elapsed_s=max(0, now_ns - before.began_ns) / _NS,
        )
        activity = observe(
            activity, sampled=sight.sampled_pages, fraction=fraction,
            touched=min(sight.sample_touched_pages, sight.sampled_pages),
        )
        due = fraction == 1
    stall_ns, stalled_ns = before.stall_ns, before.stalled_ns
    if (passed_ns := now_ns - stalled_ns) >= LOOK_NS:
        if sight.stall_ns - stall_ns >= STARVED_PART * passed_ns:
            activity = starved(activity)
        stall_ns, stalled_ns = sight.stall_ns, now_ns
    draw = due and bool(sight.attached)
    watched = _begun(activity, sight, touched_pages, now_ns) if draw else before
    return Glance(
        watched=replace(
            watched, activity=activity, looked_ns=now_ns, stall_ns=stall_ns,
            stalled_ns=stalled_ns, asked_pages=sight.balloon_asked_pages,
            given_pages=sight.balloon_given_pages, blocks=sight.blocks,
        ),
        tried=tried, draw=draw,
    )


def guest_seen(
    sight: Sight, name: str, parameters: Parameters, *,
    active: float, tried: Tried, frame_part: float, balloon_wish_pages: int = 0,
) -> GuestSeen:
    """
    Return what a policy is told of a guest.

    Args:
        sight: What is seen of it.
        name: Its name.
        parameters: What it may hold.
        active: The part of its touched memory that it uses.
        tried: What came of its last orders.
        frame_part: Frames for each page that is shared, on the whole machine.
        balloon_wish_pages: What somebody has asked its balloon to be.
    """
    framed_pages = round(sight.shared_pages * frame_part)
    touched_pages = (
        sight.size_pages - sight.untouched_pages - sight.ballooned_pages
        - sight.shared_pages + framed_pages
    )
    if sight.split_pages:
        # Not among those that are watched. They come home when they are idle.
        hot = min(1.0, sight.split_pages / max(1, touched_pages))
        active = hot + active * (1.0 - hot)
    return GuestSeen(
        id=sight.id, name=name, parameters=parameters,
        held_pages=sight.resident_pages + framed_pages,
        touched_pages=touched_pages, active=active, ballooned_pages=sight.ballooned_pages,
        balloon_able=bool(sight.balloon_able), balloon_wish_pages=balloon_wish_pages,
        tried=tried,
    )


def observation(machine: Machine, guests: Iterable[GuestSeen]) -> Observation:
    """Return what a policy is told of the machine and these guests."""
    return Observation(
        now_ns=machine.now_ns, total_pages=machine.total_pages,
        own_pages=machine.overhead_pages, free_pages=machine.headroom_pages,
        guests=tuple(guests), net_pages=machine.net_pages, wait_pages=machine.wait_pages,
    )


def frame_part(machine: Machine) -> float:
    """Return how many frames there are for each page that is shared."""
    if not machine.shared_pages:
        return 0.0
    return min(1.0, machine.frame_pages / machine.shared_pages)


def _begun(activity: Activity, sight: Sight, touched_pages: int, now_ns: int) -> Watched:
    return Watched(
        activity=activity, samples=sight.samples + 1, looked_ns=now_ns, began_ns=now_ns,
        began_run_ns=sight.run_ns, drawn_of_pages=touched_pages, stall_ns=sight.stall_ns,
        stalled_ns=now_ns, asked_pages=sight.balloon_asked_pages,
        given_pages=sight.balloon_given_pages, blocks=sight.blocks,
    )


def _is_sample_void(before: Watched, sight: Sight, touched_pages: int, now_ns: int) -> bool:
    """Tell whether the running sample teaches nothing, so that another is to be drawn."""
    if sight.samples < before.samples:
        return True  # it could not be begun
    if not sight.sampled_pages and now_ns - before.began_ns > REDRAW_NS:
        return True  # there was nothing to draw
    # It was drawn of a small part of what is there now.
    return touched_pages > 2 * before.drawn_of_pages + REDRAW_PAGES


def _tried(before: Watched, sight: Sight, paged_pages: int) -> Tried:
    asked_pages = max(0, sight.balloon_asked_pages - before.asked_pages)
    given_pages = max(0, sight.balloon_given_pages - before.given_pages)
    blocks = max(0, sight.blocks - before.blocks)
    if not (asked_pages or given_pages or paged_pages or blocks):
        return NOTHING_TRIED
    return Tried(
        asked_pages=asked_pages, given_pages=given_pages, paged_pages=paged_pages,
        blocks=blocks,
    )
