# SPDX-License-Identifier: MIT
"""
What came of a simulation, as a picture.

Importing this raises `UvmmError` where matplotlib, which is optional, is not installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvmm.errors import UvmmError

try:
    from matplotlib.figure import Figure
except ImportError:
    raise UvmmError(
        "--plot needs matplotlib, which is not installed; pip install 'uvmm[plot]'"
    ) from None

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from uvmm.sim.run import Outcome

_MIB_PAGES = 256
_COLOURS = {"clear": "#fff8d0", "soft": "#ffe0a0", "hard": "#ffb080", "low": "#ff8080"}


def plot(outcome: Outcome, path: Path) -> None:
    """
    Draw the outcome into a PNG file.

    Raises:
        OSError: If the file cannot be written.
    """
    figure = Figure(figsize=(11, 13), layout="constrained")
    memory, activity, speed, machine = figure.subplots(4, 1, sharex=True)
    figure.suptitle(outcome.scenario.title)
    _guests(outcome, memory, activity, speed)
    _machine(outcome, machine)
    machine.set_xlabel("seconds")
    figure.savefig(path, format="png", dpi=100)


def _guests(outcome: Outcome, memory: Axes, activity: Axes, speed: Axes) -> None:
    for number, (name, trace) in enumerate(outcome.guests.items()):
        if not trace.times_s:
            continue
        colour = f"C{number % 10}"
        times = trace.times_s
        memory.plot(times, _mib(trace.held), color=colour, label=name)
        memory.plot(times, _mib(trace.targets), color=colour, linestyle=":")
        activity.plot(times, _percents(trace.estimate), color=colour, label=name)
        activity.plot(times, _percents(trace.active), color=colour, linestyle=":")
        speed.plot(times, _percents(trace.speed), color=colour, label=name)
    memory.set_ylabel("MiB held (dotted: target)")
    activity.set_ylabel("% active, estimated (dotted: truth)")
    speed.set_ylabel("speed, % of that without waiting")
    if any(trace.times_s for trace in outcome.guests.values()):
        memory.legend(loc="upper right", fontsize="small")
    if len(outcome.guests) == 1:
        for name, trace in outcome.guests.items():
            activity.plot(trace.times_s, _percents(trace.fast), linewidth=0.8, label="fast")
            activity.plot(trace.times_s, _percents(trace.slow), linewidth=0.8, label="slow")
            activity.legend(loc="upper right", fontsize="small", title=name)


def _machine(outcome: Outcome, axes: Axes) -> None:
    trace = outcome.machine
    for figures, label in (
        (trace.held, "held"), (trace.free, "free"), (trace.ballooned, "ballooned"),
        (trace.swapped, "swapped"),
    ):
        axes.plot(trace.times_s, _mib(figures), label=label)
    step_s = outcome.scenario.step_s
    since = 0
    for at in range(1, len(trace.state) + 1):
        if at == len(trace.state) or trace.state[at] != trace.state[since]:
            if colour := _COLOURS.get(trace.state[since]):
                axes.axvspan(
                    trace.times_s[since], trace.times_s[at - 1] + step_s, color=colour, lw=0
                )
            since = at
    axes.set_ylabel("MiB of the machine (shades: states)")
    axes.legend(loc="upper right", fontsize="small")


def _mib(pages: list[int]) -> list[float]:
    return [one / _MIB_PAGES for one in pages]


def _percents(parts: list[float]) -> list[float]:
    return [100 * part for part in parts]
