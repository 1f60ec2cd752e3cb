# SPDX-License-Identifier: MIT
"""
Figure 7 of Waldspurger, OSDI 2002, and what goes with it: who holds how much memory when
there is too little.

Two guests with equal shares want more than there is, and one of them is idle. Without a
tax each has half; with one the memory moves to the one that uses it. Each turn is of new
guests: what has moved does not come back by itself, since the idle one does not use it.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from statistics import median
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch

from .figure6 import TOUCHER
from .figures import Row, at_least, at_most
from .probe import PAGE_BYTES, Probe
from .stage import MIB, say
from .undo import BenchError
from .watch import Record, draw, figures_of, held_bytes, mib, settled, shade

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from matplotlib.axes import Axes

    from .stage import Stage

IDLE, BUSY = "idle", "busy"
PAPER_PART = 360 / 512  # of what both want there is
PAPER_HALF = 100 * 179 / 360
BUSY_PERCENT = 88  # of its memory; the rest is that of a system that does other things
SHARES = {"one": 1000, "two": 2000, "three": 3000}
SETTLE_S = 90.0
BURST_S = 5.0
NEAR = 0.9


def figure7(stage: Stage) -> list[Row]:
    """Tax idle memory, and look at where it goes, and what the busy guest gains by it."""
    size_bytes = stage.scale.paper_bytes
    taxes = ("0%", "75%")
    speeds: dict[str, list[float]] = {tax: [] for tax in taxes}
    parts: dict[str, list[float]] = {tax: [] for tax in taxes}
    for turn in range(stage.scale.paper_turns):
        changes = []
        with (
            _crowd(stage, (IDLE, BUSY), part=PAPER_PART) as (daemon, probes),
            Record(daemon) as record,
        ):
            probes[BUSY].ask(f"use {size_bytes * BUSY_PERCENT // 100 // PAGE_BYTES}")
            _wait_until_idle(daemon)
            for tax in taxes:
                for name in (IDLE, BUSY):
                    daemon.set(name, tax=tax)
                changes.append((record.now_s, tax))
                _settle(daemon)
                decision = daemon.explain()[-1]
                target = _targets(decision)[IDLE]
                parts[tax].append(100 * target / decision["available_bytes"])
                speeds[tax].append(_speed(probes[BUSY], stage.scale.paper_speed_s))
        if not turn:
            _draw(record, changes)
    return [
        Row(key="figure7", what="tax 0 %: the idle guest's part of memory", unit="%",
            uvmm=tuple(parts["0%"]), peer_name="paper",
            peer=(PAPER_HALF,) * len(parts["0%"])),
        Row(key="figure7", what="tax 75 %: the idle guest's part of memory", unit="%",
            uvmm=tuple(parts["75%"])),
        Row(key="figure7", what="the busy one's speed, 75 % against 0 (paper: over 1.3)",
            unit="pages / s", uvmm=tuple(speeds["75%"]), peer_name="tax 0",
            peer=tuple(speeds["0%"]), target=at_least(1.3)),
    ]


def shares(stage: Stage) -> list[Row]:
    """Compare targets with exact arithmetic: all guests are busy, by their shares alone."""
    with _crowd(stage, tuple(SHARES), part=0.5) as (daemon, probes):
        for name, probe in probes.items():
            daemon.set(name, shares=str(SHARES[name]))
            probe.ask(f"use {stage.scale.paper_bytes // PAGE_BYTES}")
        _settle(daemon)
        decision = daemon.explain()[-1]
        with Record(daemon) as record:
            time.sleep(stage.scale.paper_speed_s)
    exact = _exact(decision)
    targets = _targets(decision)
    off = max(abs(targets[name] / exact[name] - 1) for name in SHARES)
    held_off = max(
        abs(median(record.of(name, held_bytes)[1]) / targets[name] - 1) for name in SHARES
    )
    return [
        Row(key="shares", what="targets of three busy guests, off exact arithmetic by",
            unit="%", uvmm=(float(100 * off),), target=at_most(2)),
        Row(key="shares", what="what they hold, off their targets by", unit="%",
            uvmm=(100 * held_off,)),
    ]


def burst(stage: Stage) -> list[Row]:
    """
    Measure how soon an idle guest that awakes has what is due to it; default periods.

    Each time it is a new one: who was busy is thought to be idle after minutes only.
    """
    size_bytes = stage.scale.paper_bytes
    found, seen = [], []
    for _ in range(stage.scale.paper_turns):
        with _crowd(stage, (IDLE, BUSY), part=PAPER_PART, period_s=None) as (daemon, probes):
            probes[BUSY].ask(f"use {size_bytes // PAGE_BYTES}")
            _wait_until_idle(daemon)
            _settle(daemon)
            probes[IDLE].ask(f"use {size_bytes // PAGE_BYTES}")
            with Record(daemon) as record:
                time.sleep(4 * BURST_S)
                due = float(NEAR * _exact(daemon.explain()[-1])[IDLE])
            found.append(_reached(*record.of(IDLE, held_bytes), due))
            seen.append(_reached(*record.of(IDLE, lambda guest: guest["target_bytes"]), due))
    return [
        Row(key="burst", what="a guest that awakes has 90 % of its due after", unit="s",
            uvmm=tuple(found), target=at_most(BURST_S)),
        Row(key="burst", what="the same: is promised it after", unit="s", uvmm=tuple(seen)),
    ]


@contextmanager
def _crowd(
    stage: Stage, names: tuple[str, ...], *, part: float, period_s: float | None = 0.0
) -> Iterator[tuple[Scratch, dict[str, Probe]]]:
    """Run touchers on *part* of the memory that they want together."""
    size_bytes = stage.scale.paper_bytes
    options: tuple[str, ...] = ()
    if period_s is not None:
        options = ("--sample-seconds", str(period_s or stage.scale.paper_period_s))
    wanted = part * len(names) * size_bytes
    with ExitStack() as undo:
        daemon = undo.enter_context(
            Scratch(
                purpose="bench", memory_bytes=_memory_for(wanted), share_cpu=0,
                swap_bytes=2 * len(names) * size_bytes, swap_dir=stage.memory_dir,
                options=options,
            )
        )
        probes = {
            name: undo.enter_context(
                Probe(
                    daemon.run(
                        [str(TOUCHER), str(size_bytes)], name=name,
                        max_bytes=size_bytes + size_bytes // 8,
                    )
                )
            )
            for name in names
        }
        available = daemon.explain()[-1]["available_bytes"]
        say(f"  {available / MIB:.0f} MiB for guests that want {len(names)} x "
            f"{size_bytes / MIB:.0f}")
        yield daemon, probes


def _memory_for(wanted_bytes: float) -> int:
    """Return the machine memory of which guests may have so much, about."""
    return int(1.19 * wanted_bytes) + 52 * MIB


def _wait_until_idle(daemon: Scratch) -> None:
    until = time.monotonic() + SETTLE_S + 60
    while figures_of(daemon, IDLE)["active_percent"] > 10:
        if time.monotonic() > until:
            raise BenchError("an idle guest is not found to be idle")
        time.sleep(0.25)


def _settle(daemon: Scratch) -> None:
    """Wait until targets and what the first guest holds stay where they are."""
    first = daemon.figures()["guests"][0]["name"]

    def look() -> float:
        guest = figures_of(daemon, first)
        return float(guest["target_bytes"] + held_bytes(guest))

    settled(look, within=16 * MIB, limit_s=SETTLE_S)


def _targets(decision: Mapping[str, object]) -> dict[str, int]:
    guests = decision["guests"]
    assert isinstance(guests, list)
    return {guest["name"]: guest["target_bytes"] for guest in guests}


def _exact(decision: Mapping[str, object]) -> dict[str, Fraction]:
    """
    Divide what there is by the paper's formula, in fractions, by what was seen of guests.

    Everybody's rho = S / (P * (f + k * (1 - f))) is the same, unless its max is less.
    """
    guests, left = decision["guests"], decision["available_bytes"]
    assert isinstance(guests, list)
    assert isinstance(left, int)
    rates = {
        guest["name"]: Fraction(guest["shares"]) / _cost(
            Fraction(str(guest["active_percent"])) / 100,
            Fraction(str(guest["tax_percent"])) / 100,
        )
        for guest in guests
    }
    total = sum(rates.values())
    return {name: left * rate / total for name, rate in rates.items()}


def _cost(active: Fraction, tax: Fraction) -> Fraction:
    return active + (1 - active) / (1 - tax)


def _speed(probe: Probe, for_s: float) -> float:
    probe.ask("count")
    time.sleep(for_s)
    told = probe.ask("count")
    return 1e9 * told["operations"] / told["ns"]


def _reached(times: list[float], values: list[float], due: float) -> float:
    return next(
        (at for at, value in zip(times, values, strict=True) if value >= due), float("inf")
    )


def _draw(record: Record, changes: list[tuple[float, str]]) -> None:
    def memory(axes: Axes) -> None:
        shade(axes, record)
        for at, name in enumerate((IDLE, BUSY)):
            axes.plot(*_scaled(record.of(name, held_bytes)), f"C{at}", label=f"{name} holds")
            axes.plot(*_scaled(record.of(name, lambda guest: guest["target_bytes"])),
                      f"C{at}:", label=f"{name}'s target")
        for since_s, tax in changes:
            axes.axvline(since_s, color="grey", lw=0.8)
            axes.text(since_s, 0.02, f" tax {tax}", transform=axes.get_xaxis_transform(),
                      fontsize="small")
        axes.set_ylabel("MiB (shades: states)")

    draw("figure7", "Figure 7: equal shares, one idle; a tax on what is idle", memory)


def _scaled(curve: tuple[list[float], list[float]]) -> tuple[list[float], list[float]]:
    return curve[0], mib(curve[1])
