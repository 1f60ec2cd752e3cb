# SPDX-License-Identifier: MIT
"""Rows of `bin/bench policy`: what decisions cost, on one CPU. Nothing but Python runs."""

from __future__ import annotations

import time
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from uvmm.policy.course import BALANCE_NS, Course, advance
from uvmm.policy.observation import GuestSeen, Observation
from uvmm.policy.parameters import Parameters
from uvmm.policy.shares import TaxedShares
from uvmm.policy.states import State
from uvmm.sim.run import run
from uvmm.sim.scenario import load

from .figures import Row, Target, at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from .stage import Stage

GUESTS = (100, 1_000, 10_000)
LIMIT_GUESTS, LIMIT_MS = 1_000, 10
MAX_PAGES = (1 << 16, 1 << 17, 1 << 18)
STEP_NS = 250_000_000  # how often the daemon looks


def machine_of(guests: int, *, free_percent: int = 1, now_ns: int = 0) -> Observation:
    """Return a machine on which so many different guests want more than there is."""
    chance = Random(guests)
    seen = tuple(_guest(number, chance) for number in range(guests))
    held_pages = sum(guest.held_pages for guest in seen)
    total_pages = held_pages * 100 // (100 - free_percent)
    return Observation(
        now_ns=now_ns, total_pages=total_pages, own_pages=0,
        free_pages=total_pages - held_pages, guests=seen,
    )


def decision(stage: Stage) -> list[Row]:
    """Measure one division of all memory."""
    policy = TaxedShares()
    rows = []
    for guests in GUESTS:
        seen = machine_of(guests)
        rows.append(
            _row(stage, "decision", f"decision for {guests:,} guests", guests,
                 partial(policy.decide, seen))
        )
    return rows


def step(stage: Stage) -> list[Row]:
    """Measure what the daemon does each time it looks: without and with a new decision."""
    policy = TaxedShares()
    rows = []
    for guests in GUESTS:
        seen = machine_of(guests, free_percent=0)
        first = advance(Course(), seen, policy).course
        assert first.state == State.LOW
        later = machine_of(guests, free_percent=0, now_ns=STEP_NS)
        due = machine_of(guests, free_percent=0, now_ns=BALANCE_NS)
        rows += [
            _row(stage, "step", f"orders for {guests:,} guests, memory low", guests,
                 partial(advance, first, later, policy)),
            _row(stage, "step", f"orders and decision for {guests:,} guests", guests,
                 partial(advance, first, due, policy)),
        ]
    return rows


def explained(stage: Stage) -> list[Row]:
    """Measure what a decision about all guests costs to tell."""
    told = TaxedShares().decide(machine_of(LIMIT_GUESTS))
    return [
        Row(key="explained", what=f"a decision for {LIMIT_GUESTS:,} guests in words", unit="ms",
            uvmm=_times_ms(stage, told.words)),
        Row(key="explained", what="the same as JSON", unit="ms",
            uvmm=_times_ms(stage, told.as_json)),
    ]


def simulated(stage: Stage) -> list[Row]:
    """Measure the simulator with 10,000 guests for two minutes of model time."""
    scenario = load("crowd")
    seconds = []
    for _ in range(min(3, stage.scale.repetitions)):
        began = time.perf_counter()
        run(scenario, TaxedShares())
        seconds.append(time.perf_counter() - began)
    return [Row(key="simulated", what="uvmm sim crowd (10,000 guests, 60 steps)", unit="s",
                uvmm=tuple(seconds))]


ROWS = {
    "decision": decision, "step": step, "explained": explained, "simulated": simulated,
}


def _guest(number: int, chance: Random) -> GuestSeen:
    max_pages = chance.choice(MAX_PAGES)
    held_pages = round(max_pages * chance.uniform(0.3, 0.9))
    return GuestSeen(
        id=number, name=f"guest-{number}", held_pages=held_pages,
        touched_pages=min(max_pages, held_pages + 1000), active=chance.random(),
        ballooned_pages=chance.choice((0, 1000)), balloon_able=chance.random() < 0.9,
        parameters=Parameters(
            min_pages=max_pages // chance.choice((4, 8, 16)), max_pages=max_pages,
            shares=chance.choice((500, 1000, 2000)), tax=0.75,
            balloon_max_pages=max_pages * 65 // 100,
        ),
    )


def _row(
    stage: Stage, key: str, what: str, guests: int, call: Callable[[], object]
) -> Row:
    target: Target | None = at_most(LIMIT_MS) if guests == LIMIT_GUESTS else None
    return Row(key=key, what=what, unit="ms", uvmm=_times_ms(stage, call), target=target)


def _times_ms(stage: Stage, call: Callable[[], object]) -> tuple[float, ...]:
    """Time it, after one call that is thrown away."""
    call()
    found = []
    for _ in range(3 * stage.scale.repetitions):
        began = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - began))
    return tuple(found)
