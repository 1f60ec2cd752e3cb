# SPDX-License-Identifier: MIT
"""
From one observation to the next: what state memory is in, whether to decide anew,
and what to do.

`advance` is called as often as the machine is looked at (several times a second). It
decides anew

- every 15 seconds,
- at once when a guest comes or goes, or when its parameters change,
- at once when the state changes,
- when a guest's activity has changed by ten points, but not more than twice in a
  second; when it has grown beyond what it was thought to need, but no more than four
  times in a second: who awakes, or grows, should not wait for 15 seconds.

Between decisions their targets stay in force. `Course` is all that is remembered; it
is a value, and whoever keeps it is told nothing that is not in the observations.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from uvmm.policy.observation import NOTHING_TRIED
from uvmm.policy.reclaim import Order, Track, plan
from uvmm.policy.states import State, next_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uvmm.policy.contract import Policy
    from uvmm.policy.decision import Decision, Verdict
    from uvmm.policy.observation import Observation

_SECOND_NS = 1_000_000_000
BALANCE_NS = 15 * _SECOND_NS
HURRY_NS = _SECOND_NS // 2  # for what is not urgent, but should not wait for 15 s
GROWTH_NS = _SECOND_NS // 4  # the same for a guest that grows
MUCH_ACTIVITY = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is remembered between two observations."""

    state: State = State.HIGH
    taking: bool = False  # from soft or worse until high
    at_ns: int | None = None  # of the last observation
    decision: Decision | None = None  # that is in force
    tracks: Mapping[int, Track] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do now; `decision` is None if the last one is still in force."""

    course: Course
    decision: Decision | None
    orders: tuple[Order, ...]


def advance(course: Course, seen: Observation, policy: Policy) -> Step:
    """Take in what is *seen*: return what to do, and what to remember for the next step."""
    state = next_state(course.state, seen.free_pages, seen.thresholds)
    taking = state >= State.SOFT or (course.taking and state > State.HIGH)
    decision = course.decision
    cause = _cause(course, seen, state)
    tracks = _with_tried(course.tracks, seen)
    if decision is None or cause:
        decided = policy.decide(seen)
        decision = replace(
            decided, cause=cause, state=state, available_pages=seen.available_pages,
            at_ns=seen.now_ns, policy=decided.policy or policy.name,
            verdicts=tuple(_with_track(one, tracks) for one in decided.verdicts),
        )
        tracks = {one: _with_nothing_tried(track) for one, track in tracks.items()}
    planned = plan(
        decision, seen, state, taking=taking, tracks=tracks,
        elapsed_ns=0 if course.at_ns is None else max(0, seen.now_ns - course.at_ns),
    )
    return Step(
        course=Course(
            state=state, taking=taking, at_ns=seen.now_ns, decision=decision,
            tracks=planned.tracks,
        ),
        decision=decision if cause else None,
        orders=planned.orders,
    )


def _with_tried(tracks: Mapping[int, Track], seen: Observation) -> dict[int, Track]:
    """Return *tracks* with what was tried lately added to what was before."""
    found = dict(tracks)
    for guest in seen.guests:
        if guest.tried != NOTHING_TRIED:
            track = found.get(guest.id, Track())
            found[guest.id] = replace(track, tried=track.tried + guest.tried)
    return found


def _with_nothing_tried(track: Track) -> Track:
    return track if track.tried is NOTHING_TRIED else replace(track, tried=NOTHING_TRIED)


def _with_track(verdict: Verdict, tracks: Mapping[int, Track]) -> Verdict:
    track = tracks.get(verdict.guest.id)
    if track is None or track.tried is NOTHING_TRIED:
        return verdict
    return replace(verdict, tried=track.tried)


def _cause(course: Course, seen: Observation, state: State) -> str:
    """Say why a new decision is due; nothing if it is not."""
    last = course.decision
    if last is None:
        return "the first decision"
    if change := _changed_guests(last, seen):
        return change
    if state != course.state:
        return f"memory was {course.state} and is {state}"
    age_ns = seen.now_ns - last.at_ns
    if age_ns >= BALANCE_NS:
        return f"{BALANCE_NS // _SECOND_NS} s have passed"
    if age_ns >= HURRY_NS and (change := _changed_activity(last, seen)):
        return change
    return _changed_need(last, seen) if age_ns >= GROWTH_NS else ""


def _changed_guests(last: Decision, seen: Observation) -> str:
    before = {verdict.guest.id: verdict.guest for verdict in last.verdicts}
    for guest in seen.guests:
        known = before.pop(guest.id, None)
        if known is None:
            return f"{guest.name} has come"
        if known.parameters != guest.parameters:
            return f"the parameters of {guest.name} have changed"
    for gone in before.values():
        return f"{gone.name} has gone"
    if any(v.guest.id != g.id for v, g in zip(last.verdicts, seen.guests, strict=True)):
        return "the guests are in another order"
    return ""


def _changed_activity(last: Decision, seen: Observation) -> str:
    for verdict, guest in zip(last.verdicts, seen.guests, strict=True):
        was, now = verdict.guest.active, guest.active
        if abs(now - was) >= MUCH_ACTIVITY:
            return f"{guest.name} was {100 * was:.0f}% active and is {100 * now:.0f}%"
    return ""


def _changed_need(last: Decision, seen: Observation) -> str:
    """Name a guest that has all it could use, and has grown beyond that since."""
    for verdict, guest in zip(last.verdicts, seen.guests, strict=True):
        had_all = verdict.target_pages >= verdict.guest.wanted_pages
        full = verdict.target_pages >= guest.parameters.max_pages
        if had_all and not full and guest.touched_pages > verdict.target_pages:
            return f"{guest.name} has grown beyond its target"
    return ""
