# SPDX-License-Identifier: MIT
"""
The pictures of `uvmm report`, drawn as Figure 8 of the ESX Server paper draws them: what is
allocated, shared, ballooned and swapped over time, for all guests and for each.

Importing this raises `UvmmError` where matplotlib, which is optional, is not installed.
"""

from __future__ import annotations

import math
import warnings
from datetime import datetime
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING

from uvmm.errors import UvmmError

try:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure
except ImportError:
    raise UvmmError(
        "a report needs matplotlib, which is not installed; pip install 'uvmm[plot]'"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from uvmm.past import GuestKey, Past

MIB = 1 << 20
GAP_S = 60.0  # without a sample for longer there was no daemon, or nobody who wrote
STALLS_SHOWN = 10
_STATES = {"clear": "#fff3b0", "soft": "#ffd591", "hard": "#ffab76", "low": "#ff8080"}
_ALLOCATED = ("resident_bytes", "shared_bytes")
_STORED = ("swapped_bytes", "compressed_bytes", "far_bytes")


def machine_picture(past: Past) -> bytes:
    """Draw all guests together, and the state of memory; returns a PNG file."""
    figure, axes = _figure("All guests", past)
    _line(axes, past, past.of_machine("total_bytes"), "machine memory", "black", "--")
    _line(axes, past, past.of_guests(*_ALLOCATED), "allocated to guests", "C0")
    _line(axes, past, past.of_machine("used_bytes"), "used", "C7")
    _line(axes, past, past.of_machine("saved_bytes"), "saved by sharing", "C2")
    _line(axes, past, past.of_guests("ballooned_bytes"), "ballooned", "C4")
    _line(axes, past, past.of_guests(*_STORED), "swapped, compressed or far", "C3")
    return _png(figure, axes)


def guest_picture(past: Past, key: GuestKey) -> bytes:
    """Draw one guest; returns a PNG file."""
    figure, axes = _figure(key.name, past)
    _line(axes, past, past.of_guest(key, "max_bytes"), "max", "black", "--")
    _line(axes, past, past.of_guest(key, "target_bytes"), "target", "C7", ":")
    _line(axes, past, past.of_guest(key, *_ALLOCATED), "allocated", "C0")
    _line(axes, past, past.of_guest(key, "active_bytes"), "active", "C1")
    _line(axes, past, past.of_guest(key, "shared_bytes"), "shared", "C2")
    _line(axes, past, past.of_guest(key, "ballooned_bytes"), "ballooned", "C4")
    _line(axes, past, past.of_guest(key, *_STORED), "swapped, compressed or far", "C3")
    # A max that is far from all that happens would flatten it.
    held = [v for v in past.of_guest(key, *_ALLOCATED) if not math.isnan(v)]
    held += [v for v in past.of_guest(key, "target_bytes") if not math.isnan(v)]
    held += [v for v in past.of_guest(key, "ballooned_bytes") if not math.isnan(v)]
    held += [v for v in past.of_guest(key, *_STORED) if not math.isnan(v)]
    axes.set_ylim(0, max(1.0, *held, 0.0) / MIB * 1.1)
    return _png(figure, axes)


def stall_picture(past: Past, guests: Sequence[GuestKey]) -> bytes:
    """Draw for what part of their time guests waited for memory; returns a PNG file."""
    figure, axes = _figure("Time waited for memory", past)
    for number, key in enumerate(guests[:STALLS_SHOWN]):
        _line(
            axes, past, past.of_guest(key, "stall_percent"), key.name, f"C{number % 10}",
            scale=1,
        )
    axes.set_ylabel("% of the threads' time, last 10 s")
    return _png(figure, axes)


def _figure(title: str, past: Past) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, parse_math=False)
    axes.set_ylabel("MiB (shades: state of memory)")
    _shade(axes, past)
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.margins(x=0)
    axes.grid(alpha=0.3)
    return figure, axes


def _line(
    axes: Axes, past: Past, values: Sequence[float], label: str, colour: str,
    style: str = "-", *, scale: int = MIB,
) -> None:
    times, drawn = _with_gaps(past.times(), [value / scale for value in values])
    # A label of matplotlib that begins so would be left out of the legend.
    safe = f" {label}" if label.startswith("_") else label
    axes.plot(times, drawn, color=colour, linestyle=style, label=safe, linewidth=1.4)  # type: ignore[arg-type]


def _with_gaps(
    times: Sequence[float], values: Sequence[float]
) -> tuple[list[datetime], list[float]]:
    """Break the line where nothing is known."""
    at: list[datetime] = []
    drawn: list[float] = []
    gap_s = _gap_s(times)
    for number, (now_s, value) in enumerate(zip(times, values, strict=True)):
        if number and now_s - times[number - 1] > gap_s:
            at.append(_when(times[number - 1] + 1))
            drawn.append(math.nan)
        at.append(_when(now_s))
        drawn.append(value)
    return at, drawn


def _gap_s(times: Sequence[float]) -> float:
    """Return what is a gap: long, and much longer than samples are apart."""
    steps = sorted(b - a for a, b in pairwise(times))
    usual_s = steps[len(steps) // 2] if steps else 0.0
    return max(GAP_S, 4 * usual_s)


def _shade(axes: Axes, past: Past) -> None:
    """Shade the time that memory was in each state but high."""
    times, states = past.times(), past.word("state")
    gap_s = _gap_s(times)
    since = 0
    for at in range(1, len(states) + 1):
        if at < len(states) and states[at] == states[since] and (
            times[at] - times[at - 1] <= gap_s
        ):
            continue
        if colour := _STATES.get(states[since]):
            until_s = times[at] if at < len(times) else times[-1] + 1
            until_s = min(until_s, times[at - 1] + gap_s)
            axes.axvspan(_when(times[since]), _when(until_s), color=colour, lw=0)  # type: ignore[arg-type]
        since = at


def _when(at_s: float) -> datetime:
    # Local time as a wall clock shows it, which is what people remember.
    return datetime.fromtimestamp(at_s)  # noqa: DTZ006


def _png(figure: Figure, axes: Axes) -> bytes:
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize="small")
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set_ylim(bottom=0)
    file = BytesIO()
    with warnings.catch_warnings():
        # Names may have letters that no font here has.
        warnings.simplefilter("ignore")
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
