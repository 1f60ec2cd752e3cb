# SPDX-License-Identifier: MIT
"""
How the daemon steers by its policy: looks in, things to be done out.

It remembers the policy's course, what is known of the guests' activity, and the newest
decisions. It does nothing itself, and knows no data plane.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.policy.course import Course, advance
from uvmm.policy.decision import History
from uvmm.policy.low_memory import divide_low
from uvmm.policy.outlook import Watched, frame_part, glance, guest_seen, observation
from uvmm.policy.states import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uvmm.model import Machine, Sight
    from uvmm.policy.activity import Sampling
    from uvmm.policy.contract import Policy
    from uvmm.policy.decision import Decision
    from uvmm.policy.parameters import Parameters
    from uvmm.policy.reclaim import Order
    from uvmm.policy.states import Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A guest whose memory is steered; see `GuestSeen.balloon_wish_pages`."""

    name: str
    parameters: Parameters
    balloon_wish_pages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ToDo:
    """
    What is to be done now.

    `targets` are those that have changed, by id; `floors` what paging leaves each guest;
    `draw` are the guests that a new sample is to be drawn of; `release` those whose block
    ends early. While there is less headroom than `aim_pages` no guest above its target
    gets more; once there is less than `alarm_pages` it is time for a look. `low_limits` are
    bounds of low memory that have changed, by id.
    """

    targets: Mapping[int, int]
    floors: Mapping[int, int]
    orders: tuple[Order, ...]
    draw: tuple[int, ...]
    release: tuple[int, ...]
    aim_pages: int
    alarm_pages: int
    low_limits: Mapping[int, int]


class Steering:
    """
    Steers by one policy.

    `step` is for one thread at a time; everything else is for any.
    """

    def __init__(self, policy: Policy, sampling: Sampling) -> None:
        self._policy = policy
        self._sampling = sampling
        self._course = Course()
        self._watched: Mapping[int, Watched] = {}  # replaced as a whole
        self._lock = threading.Lock()  # guards the history
        self._history = History()

    @property
    def state(self) -> State:
        """How short memory was at the last look."""
        return self._course.state

    @property
    def taking(self) -> bool:
        """Whether memory is being taken from guests."""
        return self._course.taking

    @property
    def policy(self) -> str:
        """What the policy is called."""
        return self._policy.name

    def active(self, guest_id: int) -> float:
        """Return the part of its memory that a guest uses; 1 while nothing is known."""
        watched = self._watched.get(guest_id)
        return 1.0 if watched is None else watched.activity.estimate

    def decisions(self, name: str | None = None) -> list[Decision]:
        """Return the newest decisions, oldest first: all, or what is about one guest."""
        with self._lock:
            return list(self._history) if name is None else self._history.about(name)

    def step(
        self, machine: Machine, sights: Sequence[Sight], subjects: Mapping[int, Subject],
        paged: Mapping[int, int],
    ) -> ToDo:
        """
        Take a look; returns what is to be done.

        Args:
            machine: The machine now.
            sights: All guests now.
            subjects: Those that are steered, by id; others are left alone.
            paged: What was paged out of each since the last look, in pages.
        """
        known, glances, seen = self._watched, {}, []
        part = frame_part(machine)
        for sight in sights:
            subject = subjects.get(sight.id)
            if subject is None:
                continue
            one = glance(
                known.get(sight.id), sight, now_ns=machine.now_ns,
                paged_pages=paged.get(sight.id, 0), sampling=self._sampling,
            )
            glances[sight.id] = one
            seen.append(
                guest_seen(
                    sight, subject.name, subject.parameters, tried=one.tried,
                    active=one.watched.activity.estimate, frame_part=part,
                    balloon_wish_pages=subject.balloon_wish_pages,
                )
            )
        observed = observation(machine, seen)
        step = advance(self._course, observed, self._policy)
        self._course = step.course
        self._watched = {guest_id: one.watched for guest_id, one in glances.items()}
        if step.decision is not None:
            with self._lock:
                self._history.add(step.decision)
        blocked = {order.id for order in step.orders if order.blocked_until_ns}
        decision = step.course.decision
        floors = {} if decision is None else {
            verdict.guest.id: verdict.target_pages for verdict in decision.verdicts
        }
        return ToDo(
            targets={
                sight.id: floors[sight.id] for sight in sights
                if floors.get(sight.id, sight.target_pages) != sight.target_pages
            },
            floors=floors, orders=step.orders,
            draw=tuple(guest_id for guest_id, one in glances.items() if one.draw),
            release=tuple(
                sight.id for sight in sights
                if sight.blocked_until_ns and sight.id not in blocked
            ),
            aim_pages=observed.thresholds.aim_pages,
            alarm_pages=_next_boundary(self._course.state, observed.thresholds),
            low_limits=_low_limits(machine, sights, subjects),
        )


def _low_limits(
    machine: Machine, sights: Sequence[Sight], subjects: Mapping[int, Subject]
) -> dict[int, int]:
    """Return the bounds of low memory that are others now."""
    shares = {
        sight.id: subjects[sight.id].parameters.shares for sight in sights
        if sight.disks and sight.id in subjects
    }
    limits = divide_low(machine.low_total_pages, shares)
    return {
        sight.id: limits[sight.id] for sight in sights
        if sight.id in limits and limits[sight.id] != sight.low_limit_pages
    }


def _next_boundary(state: State, of: Thresholds) -> int:
    """Return below how much free memory the state becomes worse; 0 if it cannot."""
    if state == State.LOW:
        return 0
    return of.boundaries[State(state + 1)].enter_pages
