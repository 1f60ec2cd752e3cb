# SPDX-License-Identifier: MIT
"""
Figure 6 of Waldspurger, OSDI 2002: the toucher. The estimate of what a guest uses of its
memory, against the truth, while that goes up and down.

The paper's periods are 30 s of execution; here they are shorter, and so is everything.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch

from .figures import Row, at_most
from .probe import PAGE_BYTES, TOUCH, Probe
from .stage import MIB, new_name
from .undo import BenchError
from .watch import Record, draw, mib

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from .stage import Stage

TOUCHER = TOUCH.with_name("toucher")
PARTS = (10, 60, 30, 90, 20)  # percent of its memory, one after the other
STANDARD_DEVIATION = 5  # points, of a sample of 100 pages


@dataclass(frozen=True, slots=True, kw_only=True)
class _Phase:
    percent: int
    from_s: float
    to_s: float


def figure6(stage: Stage) -> list[Row]:
    """Step a toucher's active memory up and down, and look at what is thought of it."""
    size_bytes, period_s = stage.scale.paper_bytes, stage.scale.paper_period_s
    name = new_name()
    with (
        _daemon(size_bytes, period_s, stage.memory_dir) as daemon,
        Probe(
            daemon.run([str(TOUCHER), str(size_bytes)], name=name, max_bytes=2 * size_bytes)
        ) as probe,
        Record(daemon) as record,
    ):
        phases = []
        for percent in PARTS:
            began = record.now_s
            probe.ask(f"use {size_bytes * percent // 100 // PAGE_BYTES}")
            time.sleep(stage.scale.paper_periods * period_s)
            phases.append(_Phase(percent=percent, from_s=began, to_s=record.now_s))
        touched = _touched_bytes(record, name)
    _draw(record, name, phases, touched)
    rows = []
    for before, phase in zip((None, *phases), phases, strict=False):
        estimate = _estimate(record, name, phase)
        rows.append(
            Row(
                key="figure6", what=f"estimate where {phase.percent} % is in use", unit="%",
                uvmm=(100 * estimate / touched,), peer_name="truth",
                peer=(100 * size_bytes * phase.percent / 100 / touched,),
            )
        )
        if before is not None and before.percent < phase.percent:
            due = size_bytes * phase.percent / 100
            rows.append(
                Row(
                    key="figure6", unit="periods", target=at_most(1.5),
                    what=f"from {before.percent} % to {phase.percent} %: 90 % of it seen after",
                    uvmm=(_time_to(record, name, phase, 0.9 * due) / period_s,),
                )
            )
    low = min(
        100 * (_estimate(record, name, phase) - size_bytes * phase.percent / 100) / touched
        for phase in phases
    )
    rows.append(
        Row(
            key="figure6", what="estimate below the truth, at most", unit="points",
            uvmm=(max(0.0, -low),), target=at_most(2 * STANDARD_DEVIATION),
            peer_name="2 deviations of a sample", peer=(2 * STANDARD_DEVIATION,),
        )
    )
    return rows


def _daemon(size_bytes: int, period_s: float, swap_dir: Path) -> Scratch:
    return Scratch(
        purpose="bench", memory_bytes=2 * size_bytes + 256 * MIB, swap_bytes=2 * size_bytes,
        swap_dir=swap_dir, share_cpu=0, options=("--sample-seconds", str(period_s)),
    )


def _touched_bytes(record: Record, name: str) -> float:
    _, sizes = record.of(name, lambda guest: guest["resident_bytes"] + guest["swapped_bytes"])
    if not sizes:
        raise BenchError("the daemon told nothing of the toucher")
    return median(sizes)


def _estimate(record: Record, name: str, phase: _Phase) -> float:
    """Return what was thought in the last third of a phase."""
    since = phase.to_s - (phase.to_s - phase.from_s) / 3
    times, values = record.of(name, lambda guest: guest["active_bytes"])
    return median(
        value for at, value in zip(times, values, strict=True) if since <= at <= phase.to_s
    )


def _time_to(record: Record, name: str, phase: _Phase, bytes_due: float) -> float:
    times, values = record.of(name, lambda guest: guest["active_bytes"])
    for at, value in zip(times, values, strict=True):
        if at >= phase.from_s and value >= bytes_due:
            return at - phase.from_s
    return float("inf")


def _draw(record: Record, name: str, phases: list[_Phase], touched: float) -> None:
    def panel(axes: Axes) -> None:
        times, estimates = record.of(name, lambda guest: guest["active_bytes"])
        axes.plot(times, mib(estimates), label="estimate")
        edges = [edge for phase in phases for edge in (phase.from_s, phase.to_s)]
        truth = [phase.percent / 100 for phase in phases for _ in range(2)]
        size = touched / MIB
        axes.plot(edges, [size * part for part in truth], "k:", label="truth")
        axes.set(ylabel="MiB", ylim=(0, 1.05 * size))

    draw("figure6", "Figure 6: active memory of a toucher", panel)
