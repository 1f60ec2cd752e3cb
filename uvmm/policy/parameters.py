# SPDX-License-Identifier: MIT
"""
What a guest's owner may set: min, max, shares, tax and the balloon's largest size.

`Wanted` are words as users give them; `parse` turns them into `Parameters`, all at
once, so that a set of values of which one is refused changes nothing.

Units: pages; shares and the tax have none. A tax of 0.75 makes an idle page cost
1 / (1 - 0.75) = 4 times as many shares as a page in use.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from uvmm.errors import BadInputError
from uvmm.units import (
    PAGE_BYTES,
    format_size,
    pages_to_bytes,
    parse_size,
    shown,
)

SHARES_MAX = 1_000_000_000
DEFAULT_SHARES = 1000
DEFAULT_TAX = 0.75  # leaves a quarter of what is idle, which hides how long reclaim takes
TAX_MAX = 0.99  # an idle page for a hundred in use; at 1 it would have no price at all
BALLOON_MAX_PERCENT = 65  # more than this a guest's allocator cannot give without pain
SHARES_PER_MIB = {"low": 5, "normal": 10, "high": 20}

_MIB_BYTES = 1 << 20
_BALLOON = "the largest balloon"
_COUNT = re.compile(r"\d{1,20}", re.ASCII)
_TAX = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s*(%?)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """
    What a guest is entitled to. Raises `BadInputError` if it cannot be meant.

    `min_pages` are guaranteed, `max_pages` is the size of its memory; in between
    it holds memory in proportion to its shares.
    """

    min_pages: int
    max_pages: int
    shares: int
    tax: float
    balloon_max_pages: int

    def __post_init__(self) -> None:
        if self.max_pages <= 0:
            raise BadInputError(f"max must be at least a page ({PAGE_BYTES} bytes)")
        if not 0 <= self.min_pages <= self.max_pages:
            raise BadInputError(
                f"min {_size(self.min_pages)} is not between 0 and max {_size(self.max_pages)}"
            )
        if not 1 <= self.shares <= SHARES_MAX:
            raise BadInputError(f"shares must be 1 to {SHARES_MAX}, not {self.shares}")
        if not 0 <= self.tax <= TAX_MAX:
            raise BadInputError(f"the idle tax must be 0% to 99%, not {100 * self.tax:g}%")
        if not 0 <= self.balloon_max_pages <= self.max_pages:
            raise BadInputError(
                f"the largest balloon {_size(self.balloon_max_pages)} is not between 0 and "
                f"max {_size(self.max_pages)}"
            )

    @property
    def idle_price(self) -> float:
        """How many pages in use an idle page counts for: the paper's k."""
        return 1.0 / (1.0 - self.tax)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Words for `Parameters`; None leaves a value as it is, or is the default."""

    min: str | None = None
    max: str | None = None
    shares: str | None = None
    tax: str | None = None
    balloon_max: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What guests have that ask for nothing else; a size of the balloon is of max."""

    tax: float = DEFAULT_TAX
    balloon_max: str = f"{BALLOON_MAX_PERCENT}%"


USUAL = Defaults()


def parse(
    wanted: Wanted, *, memory_pages: int, base: Parameters | None = None,
    defaults: Defaults = USUAL,
) -> Parameters:
    """
    Return the parameters that *wanted* means.

    Args:
        wanted: What was asked for.
        memory_pages: Machine memory, which 100% of min and max is; max's default.
        base: The parameters that are to be changed; None for a new guest.
        defaults: For a new guest. A changed one keeps the part of max that its
            balloon may take.

    Raises:
        BadInputError: If a word means nothing, or they do not fit together.
    """
    max_pages = _pages(wanted.max, memory_pages, "max")
    if max_pages is None:
        max_pages = memory_pages if base is None else base.max_pages
    min_pages = _pages(wanted.min, memory_pages, "min")
    if min_pages is None:
        min_pages = 0 if base is None else base.min_pages
    balloon_pages = _pages(wanted.balloon_max, max_pages, _BALLOON, up=False)
    if balloon_pages is None:
        if base is not None:
            balloon_pages = -(-base.balloon_max_pages * max_pages // base.max_pages)
        else:
            balloon_pages = balloon_max_pages(defaults.balloon_max, max_pages=max_pages)
    if wanted.shares is not None:
        shares = parse_shares(wanted.shares, max_pages=max_pages)
    else:
        shares = DEFAULT_SHARES if base is None else base.shares
    if wanted.tax is not None:
        tax = parse_tax(wanted.tax)
    else:
        tax = defaults.tax if base is None else base.tax
    return Parameters(
        min_pages=min_pages, max_pages=max_pages, shares=shares, tax=tax,
        balloon_max_pages=balloon_pages,
    )


def parse_shares(text: str, *, max_pages: int) -> int:
    """
    Read shares: a number, or low, normal, high: 5, 10, 20 for each MiB of max.

    Raises:
        BadInputError: If it is neither.
    """
    stripped = text.strip()
    if (per_mib := SHARES_PER_MIB.get(stripped)) is not None:
        return max(1, min(SHARES_MAX, per_mib * pages_to_bytes(max_pages) // _MIB_BYTES))
    if not _COUNT.fullmatch(stripped):
        raise BadInputError(
            f"shares: {shown(text)} is neither a number nor one of {', '.join(SHARES_PER_MIB)}"
        )
    if not 1 <= int(stripped) <= SHARES_MAX:
        raise BadInputError(f"shares must be 1 to {SHARES_MAX}, not {stripped}")
    return int(stripped)


def parse_tax(text: str) -> float:
    """
    Read an idle tax: `75%` or `0.75`.

    Raises:
        BadInputError: If it is neither, or not 0% to 99%.
    """
    if not (read := _TAX.fullmatch(text.strip())):
        raise BadInputError(f"tax: {shown(text)} is no tax; write 75% or 0.75")
    tax = float(read[1]) / (100 if read[2] else 1)
    if tax > TAX_MAX:
        said = f"{100 * tax:g}%"
        if not read[2] and tax >= 1:
            meant = tax <= 100 * TAX_MAX
            said = f"{read[1]} (write {read[1]}% for a percentage)" if meant else read[1]
        raise BadInputError(f"the idle tax must be 0% to 99%, not {said}")
    return tax


def balloon_max_pages(text: str, *, max_pages: int) -> int:
    """
    Read the largest balloon that is usual: `65%`, or a size, of which no more than max.

    Raises:
        BadInputError: If it is neither, or more than 100%.
    """
    pages = _pages(text, max_pages, _BALLOON, up=False) or 0
    if pages > max_pages and text.strip().endswith("%"):
        raise BadInputError(f"the largest balloon is at most 100% of max, not {shown(text)}")
    return min(pages, max_pages)


def _pages(
    text: str | None, whole_pages: int, what: str, *, up: bool = True
) -> int | None:
    if text is None:
        return None
    # Rounded up: whoever asks for a byte means to have it. But not a bound.
    size_bytes = parse_size(text, percent_of=pages_to_bytes(whole_pages), what=what)
    return -(-size_bytes // PAGE_BYTES) if up else size_bytes // PAGE_BYTES


def _size(pages: int) -> str:
    return format_size(pages_to_bytes(pages)) if pages >= 0 else str(pages)
