# SPDX-License-Identifier: MIT
"""
Figure 8 of Waldspurger, OSDI 2002: five guests with different loads on too little memory,
from their start, where all of them fill their memory with zeros, through steady state.

The paper's are servers of an office on 1 GiB. Ours are redis, python, sqlite3, sort and a
compiler; their maxes add up to the paper's 1472 MiB, min is half of max, shares are by max.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch

from .figures import Row, at_least, at_most
from .probe import PAGE_BYTES
from .servers import BOOT_S, Place, Program, programs
from .stage import MIB, say
from .undo import BenchError
from .watch import Record, draw, held_bytes, mib, shade

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from uvmm.scratch import Figures, GuestFigures

    from .stage import Stage

CONFIGURED_BYTES = 1472 * MIB
OVERCOMMIT = 1.61  # maxes and what uvmm needs itself, for each byte of memory
OWN_BYTES = 56 * MIB  # about
STARTED_S = BOOT_S + 12.0
PAPER = {  # MB
    "zeros": 325, "paged": 35, "steady": 20, "saved": 200, "allocated": 1200, "memory": 1024,
}
QUIET = ("high", "clear", "soft")


def figure8(stage: Stage) -> list[Row]:
    """Run five programs from their start, and draw what becomes of memory."""
    memory_bytes = int((CONFIGURED_BYTES + OWN_BYTES) / OVERCOMMIT)
    with (
        tempfile.TemporaryDirectory(dir=stage.memory_dir) as name,
        Scratch(
            purpose="bench", memory_bytes=memory_bytes, swap_bytes=CONFIGURED_BYTES,
            swap_dir=stage.memory_dir,
            options=("--sample-seconds", str(stage.scale.paper_period_s)),
        ) as daemon,
    ):
        place = Place(daemon=daemon, folder=Path(name), run_s=stage.scale.paper_run_s)
        running = programs(place)
        with Record(daemon) as record:
            try:
                for program in running:
                    program.start()
                time.sleep(place.run_s)
            finally:
                for program in running:
                    program.end()
    _draw(record, running)
    for program in running:
        say(f"  {program.name}: {program.runs} runs {'; '.join(program.failures[:3])}")
    if any(program.failures for program in running):
        raise BenchError("; ".join(text for one in running for text in one.failures)[:300])
    return _rows(record, running, memory_bytes)


def _rows(record: Record, running: list[Program], memory_bytes: int) -> list[Row]:
    started = record.since(0, STARTED_S)
    steady = record.since(STARTED_S)
    own_bytes = max(sample["machine"]["overhead_bytes"] for sample in started)
    configured = sum(program.max_bytes for program in running)
    allocated = max(
        sum(held_bytes(guest) for guest in sample["guests"]) for sample in record.samples
    )
    quiet = sum(sample["machine"]["state"] in QUIET for sample in steady) / len(steady)
    swapped = max(
        sum(guest["swapped_bytes"] for guest in sample["guests"]) for sample in steady
    )
    saved = [sample["machine"]["saved_bytes"] for sample in steady]
    least = min(record.of("sqlite3", lambda guest: guest["target_bytes"])[1])
    sql = next(program for program in running if program.name == "sqlite3")
    percent = 100 / configured
    of_paper = 100 / (CONFIGURED_BYTES / MIB)

    def row(what: str, ours: float, paper: float, *, unit: str = "%", target: object = None
            ) -> Row:
        return Row(
            key="figure8", what=what, unit=unit, uvmm=(ours,), peer_name="paper",
            peer=(paper,), target=target,  # type: ignore[arg-type]
        )

    return [
        row("configured and overhead, of memory", 100 * (configured + own_bytes) / memory_bytes,
            160),
        row("start-up: zero pages given back, of configured",
            percent * _in_all(started, _zeros), of_paper * PAPER["zeros"]),
        row("start-up: paged to disk, of configured", percent * _in_all(started, _paged),
            of_paper * PAPER["paged"]),
        row("most that guests had, shared counted for each, of memory",
            100 * allocated / memory_bytes, 100 * PAPER["allocated"] / PAPER["memory"]),
        row("steady: most that was swapped out, of configured", percent * swapped,
            of_paper * PAPER["steady"]),
        Row(key="figure8", what="steady: time in high, clear, soft (paper: nearly all)",
            unit="%", uvmm=(100 * quiet,), target=at_least(90)),
        row("steady: most that sharing saved, of configured", percent * max(saved),
            of_paper * PAPER["saved"]),
        Row(key="figure8", what="sqlite3 when idle: target against its min (paper: 1.0)",
            unit="x", uvmm=(2 * least / sql.max_bytes,), target=at_most(1.25)),
    ]


def _in_all(samples: list[Figures], figure: Callable[[GuestFigures], int]) -> float:
    """Add a figure that only rises, also of guests that have ended meanwhile."""
    last = {
        guest["name"]: figure(guest) for sample in samples for guest in sample["guests"]
    }
    return sum(last.values())


def _zeros(guest: GuestFigures) -> int:
    return PAGE_BYTES * guest["zero_dropped"]


def _paged(guest: GuestFigures) -> int:
    return PAGE_BYTES * guest["pages_out"]


def _draw(record: Record, running: list[Program]) -> None:
    def machine(axes: Axes) -> None:
        shade(axes, record)
        for label, figure in (
            ("allocated", held_bytes),
            ("balloon", lambda guest: guest["ballooned_bytes"]),
            ("shared", lambda guest: guest["shared_bytes"]),
            ("swapped", lambda guest: guest["swapped_bytes"]),
        ):
            axes.plot(
                record.times_s,
                mib(sum(figure(one) for one in sample["guests"]) for sample in record.samples),
                label=label,
            )
        free = (sample["machine"]["free_bytes"] for sample in record.samples)
        axes.plot(record.times_s, mib(free), "k:", lw=0.8, label="free")
        axes.set_ylabel("MiB, all guests (shades: states)")

    def guests(axes: Axes) -> None:
        for at, program in enumerate(running):
            times, held = record.of(program.name, held_bytes)
            axes.plot(times, mib(held), f"C{at}", label=program.name)
            times, targets = record.of(program.name, lambda guest: guest["target_bytes"])
            axes.plot(times, mib(targets), f"C{at}:")
        axes.set_ylabel("MiB held (dotted: target)")

    def active(axes: Axes) -> None:
        for at, program in enumerate(running):
            times, used = record.of(program.name, lambda guest: guest["active_bytes"])
            axes.plot(times, mib(used), f"C{at}", label=program.name)
        axes.set_ylabel("MiB active")

    draw("figure8", "Figure 8: five programs on too little memory", machine, guests, active)
