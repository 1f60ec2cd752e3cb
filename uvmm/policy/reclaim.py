# SPDX-License-Identifier: MIT
"""
How what a decision says is done: by balloon, by paging, by making guests wait.

Memory is taken only from when it is short (soft and worse) until enough of it is free
(high), only from guests above their target, and first from who pays the fewest shares
a page; and at any time from a guest that holds more than its max, which can be set
below the size of its memory. Balloons are asked; what a balloon cannot give, and what
it was asked for and did not give, is paged out. In hard and low all is paged out. In
low guests above their target are blocked besides, each for a bounded time.

Taking by balloon is gradual: each guest has a pace, which doubles while it gives what
it is asked for and halves when it does not. Giving back is immediate: a guest below
its target has its balloon let go at once, in every state, but for what somebody has
asked to be in it. What the guest itself takes out of that is asked for again only while
memory is taken from it.

Units: pages; nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from uvmm.policy.division import Claim, divide
from uvmm.policy.observation import NOTHING_TRIED, Tried
from uvmm.policy.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uvmm.policy.decision import Decision, Verdict
    from uvmm.policy.observation import GuestSeen, Observation

_SECOND_NS = 1_000_000_000
_GIB_PAGES = 1 << 18
SLOWEST_PACE = _GIB_PAGES // 64  # pages a second
FIRST_PACE = 2 * _GIB_PAGES  # free memory of a guest of 1 GiB is out in half a second
FASTEST_PACE = 8 * _GIB_PAGES
WELL_GIVEN_PERCENT = 90  # of what was asked for: the pace doubles
BADLY_GIVEN_PERCENT = 50  # the pace halves

# A guest that is held up for ever can give nothing up by itself: it waits at most
# this long, and then runs for as many times longer before it is blocked again.
BLOCK_NS = _SECOND_NS // 2
REST_TIMES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """
    What is to be done to one guest now.

    Its balloon is to be of `balloon_pages`, `page_out_pages` are to be taken by paging,
    and until `blocked_until_ns` (0: not at all) it may not have another page.
    """

    id: int
    balloon_pages: int
    page_out_pages: int = 0
    blocked_until_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """What is remembered of a guest from one step to the next."""

    pace_pages: int = FIRST_PACE  # a second
    blocked_until_ns: int = 0
    rests_until_ns: int = 0
    tried: Tried = NOTHING_TRIED  # since the last decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Orders for those guests to which anything is to be done, and all tracks by id."""

    orders: tuple[Order, ...]
    tracks: Mapping[int, Track]


def plan(
    decision: Decision, seen: Observation, state: State, *,
    taking: bool, tracks: Mapping[int, Track], elapsed_ns: int,
) -> Plan:
    """
    Return what is to be done now, so that guests get to their targets.

    Args:
        decision: The targets that are in force; it has all guests of *seen*.
        seen: The machine now.
        state: How short memory is now.
        taking: Whether memory is to be taken: from soft or worse until high.
        tracks: What the last plan remembered; guests not in it are new.
        elapsed_ns: The time since then, for which the paces are.
    """
    takes = _takes(decision, seen) if taking else {}
    _take_above_max(takes, seen)
    orders: list[Order] = []
    kept: dict[int, Track] = {}
    for verdict, guest in zip(decision.verdicts, seen.guests, strict=True):
        track = _paced(tracks.get(guest.id, _NEW), guest)
        above = guest.held_pages > verdict.target_pages
        if state == State.LOW and above:
            track = _blocked(track, seen.now_ns)
        elif track.blocked_until_ns:
            track = replace(track, blocked_until_ns=0)
        kept[guest.id] = track
        balloon_pages = guest.ballooned_pages
        page_out_pages = 0
        if take := takes.get(guest.id, 0):
            more_pages, page_out_pages = _ways(guest, take, track, state, elapsed_ns)
            balloon_pages = max(balloon_pages + more_pages, guest.balloon_wish_pages)
        elif not above:
            balloon_pages = _let_go(guest, verdict)
        elif track.blocked_until_ns:
            balloon_pages = max(balloon_pages, guest.balloon_wish_pages)
        # Which may have been set lower than it is.
        balloon_pages = min(balloon_pages, guest.parameters.balloon_max_pages)
        blocked_until_ns = track.blocked_until_ns if track.blocked_until_ns > seen.now_ns else 0
        if balloon_pages != guest.ballooned_pages or page_out_pages or blocked_until_ns:
            orders.append(
                Order(
                    id=guest.id, balloon_pages=balloon_pages, page_out_pages=page_out_pages,
                    blocked_until_ns=blocked_until_ns,
                )
            )
    return Plan(orders=tuple(orders), tracks=kept)


_NEW = Track()


def _takes(decision: Decision, seen: Observation) -> dict[int, int]:
    """Return how much to take of whom: no more than is needed, fewest shares a page first."""
    need_pages = seen.thresholds.aim_pages - seen.free_pages
    pairs = [
        (guest, verdict.target_pages)
        for verdict, guest in zip(decision.verdicts, seen.guests, strict=True)
        if guest.held_pages > verdict.target_pages
    ]
    if need_pages <= 0 or not pairs:
        return {}
    claims = [
        Claim(floor_pages=target, ceiling_pages=guest.held_pages, weight=guest.weight)
        for guest, target in pairs
    ]
    held_pages = sum(guest.held_pages for guest, _ in pairs)
    left = divide(held_pages - need_pages, claims)
    return {
        guest.id: guest.held_pages - pages
        for (guest, _), pages in zip(pairs, left, strict=True)
    }


def _take_above_max(takes: dict[int, int], seen: Observation) -> None:
    for guest in seen.guests:
        if (above_pages := guest.held_pages - guest.parameters.max_pages) > 0:
            takes[guest.id] = max(above_pages, takes.get(guest.id, 0))


def _ways(
    guest: GuestSeen, take_pages: int, track: Track, state: State, elapsed_ns: int
) -> tuple[int, int]:
    """Return how many pages of *take_pages* its balloon is to take, and paging."""
    if state >= State.HARD or not guest.balloon_able:
        return 0, take_pages
    room_pages = max(0, guest.parameters.balloon_max_pages - guest.ballooned_pages)
    owed_pages = max(0, guest.tried.asked_pages - guest.tried.given_pages)
    impossible_pages = min(take_pages, max(owed_pages, take_pages - room_pages))
    pace_pages = max(1, track.pace_pages * elapsed_ns // _SECOND_NS)
    return min(take_pages - impossible_pages, pace_pages), impossible_pages


def _let_go(guest: GuestSeen, verdict: Verdict) -> int:
    """Return what its balloon may keep if it grows to its target."""
    growth_pages = verdict.target_pages - guest.held_pages
    kept_pages = max(guest.balloon_wish_pages, guest.ballooned_pages - growth_pages)
    return min(guest.ballooned_pages, kept_pages)


def _paced(track: Track, guest: GuestSeen) -> Track:
    asked, given = guest.tried.asked_pages, guest.tried.given_pages
    if not asked:
        return track
    if 100 * given >= WELL_GIVEN_PERCENT * asked:
        return replace(track, pace_pages=min(FASTEST_PACE, track.pace_pages * 2))
    if 100 * given < BADLY_GIVEN_PERCENT * asked:
        return replace(track, pace_pages=max(SLOWEST_PACE, track.pace_pages // 2))
    return track


def _blocked(track: Track, now_ns: int) -> Track:
    """Block it, unless it is blocked or rests from it."""
    if now_ns < track.rests_until_ns:
        return track
    return replace(
        track, blocked_until_ns=now_ns + BLOCK_NS,
        rests_until_ns=now_ns + (1 + REST_TIMES) * BLOCK_NS,
    )
