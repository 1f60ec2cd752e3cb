# SPDX-License-Identifier: MIT
"""What came of a simulation, as plain values and as tables. Pure: outcome in, words out."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.table import Table

from uvmm.policy.states import State
from uvmm.units import pages_to_bytes, sized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from uvmm.sim.guest import ModelGuest
    from uvmm.sim.run import GuestTrace, Outcome
    from uvmm.sim.scenario import Kind

MOMENTS = 13  # lines of the table over time
COLUMN_GUESTS = 6  # of more guests it would be too wide
DETAILED_GUESTS = 2


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as plain values; bytes and seconds."""
    machine, scenario = outcome.machine, outcome.scenario
    return {
        "title": scenario.title,
        "policy": outcome.policy,
        "duration_seconds": scenario.duration_s,
        "memory_bytes": pages_to_bytes(scenario.memory_pages),
        "decisions": outcome.decisions,
        "paged_out_bytes": pages_to_bytes(outcome.paged_out),
        "zeros_dropped_bytes": pages_to_bytes(machine.zeros_dropped[-1]),
        "state_percent": {str(state): percent for state, percent in state_percents(outcome)},
        "refused": outcome.refused,
        "machine": {
            "at_seconds": machine.times_s,
            "state": machine.state,
            "guests": machine.guests,
            "blocked_guests": machine.blocked,
            "free_bytes": _bytes(machine.free),
            "held_bytes": _bytes(machine.held),
            "ballooned_bytes": _bytes(machine.ballooned),
            "swapped_bytes": _bytes(machine.swapped),
        },
        "guests": [_guest_json(trace) for trace in outcome.guests.values()],
    }


def state_percents(outcome: Outcome) -> list[tuple[State, float]]:
    """Return for what part of the time memory was in each state."""
    counts = Counter(outcome.machine.state)
    steps = len(outcome.machine.state)
    return [(state, round(100 * counts[str(state)] / steps, 1)) for state in State]


def head_lines(outcome: Outcome) -> list[str]:
    """Return what was simulated, and what came of the machine."""
    scenario, machine = outcome.scenario, outcome.machine
    states = ", ".join(
        f"{state} {percent:g}%" for state, percent in state_percents(outcome) if percent
    )
    lines = [
        scenario.title,
        f"{_count(len(outcome.guests))} on {sized(scenario.memory_pages)} for "
        f"{scenario.duration_s:g} s, by {outcome.policy}",
        f"states {states}; {outcome.decisions} decisions",
        f"{sized(outcome.paged_out)} paged out, {sized(machine.zeros_dropped[-1])} of zeros "
        f"dropped; at most {sized(max(machine.ballooned))} ballooned, "
        f"{sized(max(machine.swapped))} swapped",
    ]
    lines += [f"{name} was refused: {why}" for name, why in list(outcome.refused.items())[:5]]
    if len(outcome.refused) > 5:
        lines.append(f"{len(outcome.refused) - 5} more were refused")
    return lines


def kind_table(outcome: Outcome) -> Table:
    """Return how guests fared: a line a kind, with means of those that still run."""
    table = Table(box=None, pad_edge=False)
    table.add_column("GUEST")
    for column in (
        "COUNT", "MIN", "MAX", "SHARES", "TAX", "TARGET", "HELD", "BALLOON", "SWAPPED",
        "ACTIVE", "ESTIMATE", "SPEED",
    ):
        table.add_column(column, justify="right")
    for kind in outcome.scenario.kinds:
        traces = _of_kind(outcome, kind)
        if not traces:
            continue
        here = [trace for trace in traces if not trace.ended]
        parameters = traces[0].guest.parameters
        table.add_row(
            kind.name, str(len(traces)), sized(parameters.min_pages),
            sized(parameters.max_pages), str(parameters.shares), f"{100 * parameters.tax:g}%",
            *(
                sized(round(fmean(figures))) if here else "-"
                for figures in (
                    [trace.target_pages for trace in here],
                    [trace.guest.held for trace in here],
                    [trace.guest.ballooned for trace in here],
                    [trace.guest.swapped for trace in here],
                )
            ),
            _percent(here, lambda guest: guest.active),
            _percent(here, lambda guest: guest.activity.estimate),
            _percent(traces, mean_speed),
        )
    return table


def moment_table(outcome: Outcome) -> Table:
    """Return the machine at some moments, and what guests held then of what target."""
    machine = outcome.machine
    shown = [trace for trace in outcome.guests.values() if trace.times_s]
    if len(shown) > COLUMN_GUESTS:
        shown = []
    detailed = shown if len(shown) <= DETAILED_GUESTS else []
    table = Table(box=None, pad_edge=False)
    for column in ("SECOND", "STATE", "FREE", "BALLOON", "SWAPPED"):
        table.add_column(column, justify="right")
    for trace in shown:
        table.add_column(f"{trace.guest.name} held/target", justify="right")
    for trace in detailed:
        table.add_column(f"{trace.guest.name} active/estimate", justify="right")
        table.add_column("speed", justify="right")
    last = len(machine.times_s) - 1
    for number in range(MOMENTS):
        at = last * number // (MOMENTS - 1)
        now_s = machine.times_s[at]
        table.add_row(
            f"{now_s:g}", machine.state[at], sized(max(0, machine.free[at])),
            sized(machine.ballooned[at]), sized(machine.swapped[at]),
            *(_held_of_target(trace, now_s) for trace in shown),
            *(cell for trace in detailed for cell in _details(trace, now_s)),
        )
    return table


def mean_speed(guest: ModelGuest) -> float:
    """Return how fast it was over all of its time; 1 is without waiting for memory."""
    return guest.progress_s / guest.ran_s if guest.ran_s else 1.0


def _guest_json(trace: GuestTrace) -> dict[str, Any]:
    guest = trace.guest
    figures: dict[str, Any] = {
        "name": guest.name,
        "kind": guest.kind.name,
        "ended": trace.ended,
        "target_bytes": pages_to_bytes(trace.target_pages),
        "held_bytes": pages_to_bytes(guest.held),
        "ballooned_bytes": pages_to_bytes(guest.ballooned),
        "swapped_bytes": pages_to_bytes(guest.swapped),
        "active_percent": round(100 * guest.active, 1),
        "estimate_percent": round(100 * guest.activity.estimate, 1),
        "mean_speed_percent": round(100 * mean_speed(guest), 1),
    }
    if trace.times_s:
        figures["over_time"] = {
            "at_seconds": trace.times_s,
            "target_bytes": _bytes(trace.targets),
            "held_bytes": _bytes(trace.held),
            "ballooned_bytes": _bytes(trace.ballooned),
            "swapped_bytes": _bytes(trace.swapped),
            "active_percent": _percents(trace.active),
            "estimate_percent": _percents(trace.estimate),
            "slow_percent": _percents(trace.slow),
            "fast_percent": _percents(trace.fast),
            "speed_percent": _percents(trace.speed),
        }
    return figures


def _of_kind(outcome: Outcome, kind: Kind) -> list[GuestTrace]:
    if kind.count == 1:
        return [outcome.guests[kind.name]] if kind.name in outcome.guests else []
    return [trace for trace in outcome.guests.values() if trace.guest.kind is kind]


def _held_of_target(trace: GuestTrace, now_s: float) -> str:
    at = bisect_left(trace.times_s, now_s)
    if not _was_there(trace, now_s):
        return "-"
    return f"{sized(trace.held[at])}/{sized(trace.targets[at])}"


def _details(trace: GuestTrace, now_s: float) -> tuple[str, str]:
    at = bisect_left(trace.times_s, now_s)
    if not _was_there(trace, now_s):
        return "-", "-"
    return (
        f"{100 * trace.active[at]:.0f}%/{100 * trace.estimate[at]:.0f}%",
        f"{100 * trace.speed[at]:.0f}%",
    )


def _was_there(trace: GuestTrace, now_s: float) -> bool:
    return trace.times_s[0] <= now_s <= trace.times_s[-1]


def _percent(traces: list[GuestTrace], figure: Callable[[ModelGuest], float]) -> str:
    if not traces:
        return "-"
    return f"{100 * fmean(figure(trace.guest) for trace in traces):.0f}%"


def _percents(parts: Iterable[float]) -> list[float]:
    return [round(100 * part, 1) for part in parts]


def _bytes(pages: Iterable[int]) -> list[int]:
    return [pages_to_bytes(one) for one in pages]


def _count(guests: int) -> str:
    return f"{guests} guest{'' if guests == 1 else 's'}"
