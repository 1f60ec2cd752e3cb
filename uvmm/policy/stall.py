# SPDX-License-Identifier: MIT
"""
The share of its threads' time that a guest waited for memory lately.

A window holds samples of the guest's stall counter; stall percent is how far the
counter rose over the window, against the time that all its threads had together.

Units: nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

WINDOW_NS = 10_000_000_000
STEP_NS = 100_000_000  # samples closer together are one, however often somebody asks


@dataclass(frozen=True, slots=True, kw_only=True)
class StallSample:
    """A guest's stall counter and number of threads at one moment."""

    at_ns: int
    stall_ns: int
    threads: int


Window = tuple[StallSample, ...]


def observe(window: Window, sample: StallSample) -> Window:
    """
    Return *window* with *sample*, without what is older than `WINDOW_NS`.

    A sample that is not newer than the last one changes nothing, and a counter
    that fell (the guest executed another program) starts the window anew.
    """
    if window and sample.at_ns <= window[-1].at_ns:
        return window
    if window and sample.stall_ns < window[-1].stall_ns:
        return (sample,)
    oldest_ns = sample.at_ns - WINDOW_NS
    first = 0
    while first < len(window) and window[first].at_ns < oldest_ns:
        first += 1
    last = len(window)
    if last >= 2 and window[-1].at_ns - window[-2].at_ns < STEP_NS:
        last -= 1
    return (*window[first:last], sample)


def percent(window: Window) -> float:
    """Return 0 to 100; 0 while there are fewer than two samples."""
    if len(window) < 2:
        return 0.0
    waited_ns = window[-1].stall_ns - window[0].stall_ns
    thread_ns = sum(
        max(1, later.threads) * (later.at_ns - earlier.at_ns)
        for earlier, later in pairwise(window)
    )
    return min(100.0, 100.0 * waited_ns / thread_ns)
