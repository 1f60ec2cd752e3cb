# SPDX-License-Identifier: MIT
"""
A scenario from its first second to its last.

In each step guests come, go and run (in turning order, so that none is always the
first to take what is free); then the machine is observed, the policy advanced, and
the guests obey. Chance is seeded by the scenario: the same one gives the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from uvmm.errors import NoRoomError
from uvmm.policy.admission import booking, overhead, release, reserve, room
from uvmm.policy.course import Course, advance
from uvmm.policy.decision import History
from uvmm.policy.observation import Observation
from uvmm.sim.guest import ModelGuest, PagingRoom

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvmm.policy.admission import Room
    from uvmm.policy.contract import Policy
    from uvmm.policy.decision import Decision
    from uvmm.sim.scenario import Change, Scenario

_NS = 1_000_000_000
SHOWN_GUESTS = 24  # of more only the figures at the end are kept


@dataclass(slots=True, kw_only=True)
class GuestTrace:
    """A guest, and its figures over time; pages, parts of 1."""

    guest: ModelGuest
    ended: bool = False
    target_pages: int = 0
    times_s: list[float] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    ballooned: list[int] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    active: list[float] = field(default_factory=list)  # in truth
    estimate: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    fast: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)

    def note(self, now_s: float) -> None:
        """Write down the figures of now."""
        guest = self.guest
        self.times_s.append(now_s)
        self.targets.append(self.target_pages)
        self.held.append(guest.held)
        self.ballooned.append(guest.ballooned)
        self.swapped.append(guest.swapped)
        self.active.append(guest.active)
        self.estimate.append(guest.activity.estimate)
        self.slow.append(guest.activity.slow)
        self.fast.append(guest.activity.fast)
        self.speed.append(guest.speed)


@dataclass(slots=True, kw_only=True)
class MachineTrace:
    """The machine over time; pages."""

    times_s: list[float] = field(default_factory=list)
    free: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    ballooned: list[int] = field(default_factory=list)
    swapped: list[int] = field(default_factory=list)
    zeros_dropped: list[int] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    guests: list[int] = field(default_factory=list)
    blocked: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a scenario; `refused` guests by name, with the reason."""

    scenario: Scenario
    policy: str
    machine: MachineTrace
    guests: dict[str, GuestTrace]
    refused: dict[str, str]
    history: History
    decisions: int
    paged_out: int


def run(
    scenario: Scenario, policy: Policy, *, progress: Callable[[int, int], None] | None = None
) -> Outcome:
    """
    Return what *policy* makes of *scenario*.

    Args:
        scenario: What happens.
        policy: Who decides.
        progress: Told after each step how many of how many are done.
    """
    host = _Host(scenario, policy)
    steps = max(1, round(scenario.duration_s / scenario.step_s))
    for number in range(steps):
        host.step(number * scenario.step_s)
        if progress is not None:
            progress(number + 1, steps)
    return host.outcome


class _Host:
    """The model machine while it runs."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self._scenario = scenario
        self._policy = policy
        self._chance = Random(scenario.seed)  # noqa: S311 - a model, not a secret
        self._arrivals = sorted(
            (
                (kind.start_s + number * kind.every_s, at, number, kind)
                for at, kind in enumerate(scenario.kinds) for number in range(kind.count)
            ),
            key=lambda arrival: arrival[:3], reverse=True,
        )
        self._changes = sorted(scenario.changes, key=lambda c: c.at_s, reverse=True)
        self._running: dict[int, GuestTrace] = {}
        self._parameters = {kind.name: kind.parameters for kind in scenario.kinds}
        self._next_id = 1
        self._course = Course()
        self.outcome = Outcome(
            scenario=scenario, policy=policy.name, machine=MachineTrace(), guests={},
            refused={}, history=History(), decisions=0, paged_out=0,
        )

    def step(self, now_s: float) -> None:
        """Go through one step, which begins now."""
        step_s = self._scenario.step_s
        self._change(now_s)
        self._leave(now_s)
        self._arrive(now_s)
        self._live(now_s, step_s)
        seen = Observation(
            now_ns=round(now_s * _NS), total_pages=self._scenario.memory_pages,
            own_pages=self._own_pages(), free_pages=self._free_pages(),
            guests=tuple(trace.guest.seen(now_s) for trace in self._running.values()),
        )
        done = advance(self._course, seen, self._policy)
        self._course = done.course
        if done.decision is not None:
            self._take(done.decision)
        orders = {order.id: order for order in done.orders}
        swapped = sum(trace.guest.swapped for trace in self._running.values())
        space = max(0, self._scenario.swap_pages - swapped)
        paging = PagingRoom(pages=min(space, round(self._scenario.page_out_rate * step_s)))
        for trace in self._running.values():
            guest = trace.guest
            guest.obey(orders.get(guest.id), step_s, now_s=now_s, room=paging)
        self.outcome.paged_out += paging.stored
        blocked = sum(order.blocked_until_ns > 0 for order in done.orders)
        self._note(now_s, blocked)

    def _change(self, now_s: float) -> None:
        while self._changes and self._changes[-1].at_s <= now_s:
            change = self._changes.pop()
            self._parameters[change.kind] = change.parameters
            there = self._room()
            for trace in self._running.values():
                if trace.guest.kind.name == change.kind:
                    there = self._set(trace.guest, change, there)

    def _set(self, guest: ModelGuest, change: Change, there: Room) -> Room:
        """Change a guest's parameters, or nothing if they cannot be promised."""
        others = release(there, booking(guest.parameters, size_pages=guest.size))
        try:
            there = reserve(others, booking(change.parameters, size_pages=guest.size))
        except NoRoomError as error:
            self.outcome.refused[f"{guest.name} at {change.at_s:g} s"] = str(error)
        else:
            guest.parameters = change.parameters
        return there

    def _leave(self, now_s: float) -> None:
        for guest_id, trace in list(self._running.items()):
            stop_s = trace.guest.kind.stop_s
            if stop_s is not None and now_s >= stop_s:
                trace.ended = True
                del self._running[guest_id]

    def _arrive(self, now_s: float) -> None:
        if not self._arrivals or self._arrivals[-1][0] > now_s:
            return
        there = self._room()
        while self._arrivals and self._arrivals[-1][0] <= now_s:
            _, _, number, kind = self._arrivals.pop()
            name = kind.name if kind.count == 1 else f"{kind.name}-{number + 1}"
            parameters = self._parameters[kind.name]
            try:
                there = reserve(
                    there, booking(parameters, size_pages=kind.parameters.max_pages)
                )
            except NoRoomError as error:
                self.outcome.refused[name] = str(error)
                continue
            guest = ModelGuest(
                kind, id=self._next_id, name=name, started_s=now_s, chance=self._chance
            )
            guest.parameters = parameters
            trace = GuestTrace(guest=guest)
            self._running[self._next_id] = trace
            self.outcome.guests[name] = trace
            self._next_id += 1

    def _room(self) -> Room:
        guests = [trace.guest for trace in self._running.values()]
        return room(
            [booking(guest.parameters, size_pages=guest.size) for guest in guests],
            total_pages=self._scenario.memory_pages, own_pages=self._scenario.own_pages,
            swap_pages=self._scenario.swap_pages,
        )

    def _live(self, now_s: float, step_s: float) -> None:
        free_pages = max(0, self._free_pages())
        traces = list(self._running.values())
        first = self._chance.randrange(len(traces)) if traces else 0
        for trace in traces[first:] + traces[:first]:
            free_pages -= trace.guest.live(now_s, step_s, free_pages)

    def _take(self, decision: Decision) -> None:
        self.outcome.decisions += 1
        self.outcome.history.add(decision)
        for verdict in decision.verdicts:
            self._running[verdict.guest.id].target_pages = verdict.target_pages

    def _own_pages(self) -> int:
        tables = sum(overhead(t.guest.size) for t in self._running.values())
        return self._scenario.own_pages + tables

    def _free_pages(self) -> int:
        held = sum(trace.guest.held for trace in self._running.values())
        return self._scenario.memory_pages - self._own_pages() - held

    def _note(self, now_s: float, blocked: int) -> None:
        machine, guests = self.outcome.machine, [t.guest for t in self._running.values()]
        machine.times_s.append(now_s)
        machine.free.append(self._free_pages())
        machine.held.append(sum(guest.held for guest in guests))
        machine.ballooned.append(sum(guest.ballooned for guest in guests))
        machine.swapped.append(sum(guest.swapped for guest in guests))
        machine.zeros_dropped.append(
            sum(trace.guest.zeros_dropped for trace in self.outcome.guests.values())
        )
        machine.state.append(str(self._course.state))
        machine.guests.append(len(guests))
        machine.blocked.append(blocked)
        if len(self.outcome.guests) <= SHOWN_GUESTS:
            for trace in self._running.values():
                trace.note(now_s)


