# SPDX-License-Identifier: MIT
"""
What a daemon is asked about its policy: how guests are sampled, and what they have by default.

Pure: words in, values out.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from uvmm.errors import BadInputError
from uvmm.policy.activity import LONGEST_PERIOD_S, PERIOD_S, SAMPLE_PAGES, Sampling
from uvmm.policy.parameters import USUAL, Defaults, balloon_max_pages, parse_tax
from uvmm.units import shown

if TYPE_CHECKING:
    from uvmm.settings import Settings

LARGEST_SAMPLE_PAGES = 1024
SHORTEST_PERIOD_S, LONGEST_SETTABLE_S = 0.5, 3600.0


def sampling(settings: Settings) -> Sampling:
    """
    Return how many pages of a guest are watched, and for how long.

    Raises:
        BadInputError: If a value cannot be meant.
    """
    pages, period_s = SAMPLE_PAGES, PERIOD_S
    if settings.sample_pages is not None:
        pages = _whole(settings.sample_pages)
    if settings.sample_seconds is not None:
        period_s = _seconds(settings.sample_seconds)
    return Sampling(
        pages=pages, period_s=period_s, longest_s=period_s * LONGEST_PERIOD_S / PERIOD_S
    )


def defaults(settings: Settings) -> Defaults:
    """
    Return what guests have that ask for nothing else.

    Raises:
        BadInputError: If a value cannot be meant.
    """
    tax, balloon_max = USUAL.tax, USUAL.balloon_max
    if settings.tax is not None:
        tax = parse_tax(settings.tax)
    if settings.balloon_max is not None:
        balloon_max = settings.balloon_max
        balloon_max_pages(balloon_max, max_pages=1)
    return Defaults(tax=tax, balloon_max=balloon_max)


def _whole(given: str) -> int:
    word = given.strip()
    if not (word.isascii() and word.isdigit()) or len(word) > 9 or not (
        0 < int(word) <= LARGEST_SAMPLE_PAGES
    ):
        raise BadInputError(
            f"--sample-pages {shown(given)}: a number of pages is expected, 1 to "
            f"{LARGEST_SAMPLE_PAGES}"
        )
    return int(word)


def _seconds(given: str) -> float:
    try:
        seconds = Decimal(given.strip())
    except InvalidOperation:
        seconds = Decimal(-1)
    if not (
        seconds.is_finite() and SHORTEST_PERIOD_S <= seconds <= LONGEST_SETTABLE_S
    ):
        raise BadInputError(
            f"--sample-seconds {shown(given)}: seconds of a guest's execution are expected, "
            f"{SHORTEST_PERIOD_S:g} to {LONGEST_SETTABLE_S:g}"
        )
    return float(seconds)
