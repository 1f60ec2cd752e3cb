# SPDX-License-Identifier: MIT
"""
How much of its memory a guest uses, from a few pages that are watched.

In each period some pages of the guest are drawn, and those that it touches are
counted. Three moving averages are kept, and the largest one is believed:

1. a slow one over whole periods: memory is not taken because of one quiet period;
2. a fast one over whole periods;
3. the fast one carried on inside the running period with the pages touched so far,
   so that a guest which awakes need not wait for a period to end.

A rise that is more than chance (four standard deviations of a sample) moves the fast
average at the end of its period all the way: else what the third one has found within
the period would be forgotten at its end, and found again, and memory go back and forth.

So the estimate rises at once and falls slowly. Within a period fewer pages have
been touched than will be, which can only make the third one too small, and then it
does not count.

A guest that waits for memory most of the time cannot show how much it would use: it
touches its pages as slowly as they come. Whoever is starved so counts as all active,
as if that had been seen at the end of a period.

With 100 pages a single period has a standard deviation of at most 5 points. Until a
guest's first period is over nothing is known, and all of its memory counts as active.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SAMPLE_PAGES = 100
PERIOD_S = 30.0  # of the guest's execution
# A guest that sleeps does not execute, and would be thought active for ever.
LONGEST_PERIOD_S = 60.0

SLOW_GAIN = 0.2  # half of a step is seen after three periods
FAST_GAIN = 0.5  # after one
RISE = 0.2  # more than this in a period is no chance
RUNNING_HALF_PERIODS = 0.02  # inside a period: after 0.6 s of 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How many pages are watched, and for how long; raises `ValueError` for nonsense."""

    pages: int = SAMPLE_PAGES
    period_s: float = PERIOD_S
    longest_s: float = LONGEST_PERIOD_S

    def __post_init__(self) -> None:
        if self.pages < 1 or not 0 < self.period_s <= self.longest_s:
            raise ValueError(
                f"{self.pages} pages for {self.period_s} s, at most {self.longest_s} s"
            )

    def fraction(self, *, executed_s: float, elapsed_s: float) -> float:
        """
        Return how much of a period is over; at 1 it ends.

        Args:
            executed_s: What the guest has executed since its beginning.
            elapsed_s: What the clock says since then.
        """
        return min(1.0, max(executed_s / self.period_s, elapsed_s / self.longest_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What is known of one guest; all but `periods` are parts of its memory, 0 to 1."""

    slow: float = 1.0
    fast: float = 1.0
    running: float = 1.0
    fraction: float = 0.0  # of the running period, when it was last looked at
    periods: int = 0

    @property
    def estimate(self) -> float:
        """The part of its memory that the guest uses."""
        return max(self.slow, self.fast, self.running)


def observe(activity: Activity, *, touched: int, sampled: int, fraction: float) -> Activity:
    """
    Return *activity* with what the watched pages say now.

    Args:
        activity: What was known.
        touched: How many of the pages were touched since the period began.
        sampled: How many are watched; 0 (a guest without memory) teaches nothing.
        fraction: How much of the period is over; at 1 it ends, and the next
            call is about a new sample.

    Raises:
        ValueError: If more were touched than watched, or the fraction is not 0 to 1.
    """
    if not 0 <= touched <= sampled:
        raise ValueError(f"{touched} of {sampled} pages touched")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} of a period")
    if not sampled:
        return replace(activity, fraction=0.0 if fraction == 1 else fraction)
    seen = touched / sampled
    if fraction == 1:
        return _ended(activity, seen)
    passed = max(0.0, fraction - activity.fraction)
    gain = 1.0 - 0.5 ** (passed / RUNNING_HALF_PERIODS)
    return replace(
        activity, running=activity.running + gain * (seen - activity.running),
        fraction=fraction,
    )


def starved(activity: Activity) -> Activity:
    """Return *activity* of a guest that does little else than to wait for memory."""
    return replace(activity, fast=1.0, running=1.0)


def _ended(activity: Activity, seen: float) -> Activity:
    if not activity.periods:
        return Activity(slow=seen, fast=seen, running=seen, periods=1)
    rise = seen - activity.fast
    fast = seen if rise > RISE else activity.fast + FAST_GAIN * rise
    return Activity(
        slow=activity.slow + SLOW_GAIN * (seen - activity.slow),
        fast=fast, running=fast, periods=activity.periods + 1,
    )
