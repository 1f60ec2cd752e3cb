# SPDX-License-Identifier: MIT
"""What a daemon tells while something goes on, written down; and how that is drawn."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Self

from uvmm.scratch import ScratchError

from .probe import ROOT
from .stage import MIB, say
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from matplotlib.axes import Axes

    from uvmm.scratch import Figures, GuestFigures, Scratch

PERIOD_S = 0.25
PICTURES = ROOT / "build" / "bench"
COLOURS = {"clear": "#fff8d0", "soft": "#ffe0a0", "hard": "#ffb080", "low": "#ff8080"}


class Record:
    """All figures of a daemon, four times a second, for as long as the block runs."""

    def __init__(self, daemon: Scratch) -> None:
        self._daemon = daemon
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._began = time.monotonic()
        self.times_s: list[float] = []
        self.samples: list[Figures] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def now_s(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    def since(self, from_s: float, to_s: float = float("inf")) -> list[Figures]:
        """Return the samples of a time."""
        return [
            sample for at_s, sample in zip(self.times_s, self.samples, strict=False)
            if from_s <= at_s <= to_s
        ]

    def of(
        self, name: str, figure: Callable[[GuestFigures], float]
    ) -> tuple[list[float], list[float]]:
        """Return times and a figure of all guests whose name begins so, added up."""
        times, values = [], []
        for at_s, sample in zip(self.times_s, self.samples, strict=False):
            guests = [guest for guest in sample["guests"] if is_of(guest["name"], name)]
            if guests:
                times.append(at_s)
                values.append(sum(figure(guest) for guest in guests))
        return times, values

    def _work(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                figures = self._daemon.figures()
            except ScratchError:
                continue  # busy
            self.times_s.append(self.now_s)
            self.samples.append(figures)


def is_of(guest: str, name: str) -> bool:
    """Tell whether a guest is that one, or one of its numbered successors."""
    return guest == name or guest.startswith(f"{name}-")


def figures_of(daemon: Scratch, name: str) -> GuestFigures:
    """Return a guest's figures of now."""
    for guest in daemon.figures()["guests"]:
        if guest["name"] == name:
            return guest
    raise BenchError(f"the guest {name} has ended")


def held_bytes(guest: GuestFigures) -> int:
    """Return what it holds of machine memory, with all pages that it shares."""
    return guest["resident_bytes"] + guest["shared_bytes"]


def settled(look: Callable[[], float], *, within: float, limit_s: float) -> float:
    """
    Wait until *look* changes by no more than *within* for three seconds; returns it.

    Raises:
        BenchError: If it does not, for so long.
    """
    began = since = time.monotonic()
    value = look()
    while time.monotonic() - since < 3:
        time.sleep(PERIOD_S)
        now = look()
        if abs(now - value) > within:
            value, since = now, time.monotonic()
        if time.monotonic() - began > limit_s:
            raise BenchError(f"what should settle is at {now:g} after {limit_s:g} s")
    return value


def shade(axes: Axes, record: Record) -> None:
    """Colour the background by the state of memory."""
    states = [sample["machine"]["state"] for sample in record.samples]
    since = 0
    for at in range(1, len(states) + 1):
        if at == len(states) or states[at] != states[since]:
            if colour := COLOURS.get(states[since]):
                to = record.times_s[min(at, len(states) - 1)]
                axes.axvspan(record.times_s[since], to, color=colour, lw=0)
            since = at


def mib(values: Iterable[float]) -> list[float]:
    """Return bytes as MiB."""
    return [value / MIB for value in values]


def draw(name: str, title: str, *parts: Callable[[Axes], None]) -> Path:
    """Draw *parts* one below the other into a PNG; returns where."""
    # It takes a second to import, and the other rows do without.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 3.2 * len(parts) + 0.8), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(parts), 1, sharex=True, squeeze=False)
    for part, (axes,) in zip(parts, panels, strict=True):
        part(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", fontsize="small")
    panels[-1][0].set_xlabel("seconds")
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{name}.png"
    figure.savefig(path, format="png", dpi=100)
    say(f"  drawn: {path}")
    return path
