# SPDX-License-Identifier: MIT
"""
Sizes as people write them, bytes, and pages.

Everything is whole numbers: a size that is not a whole number of bytes is
rounded down, and there is no float in which a large one could lose its end.
"""

from __future__ import annotations

import re

from uvmm.errors import BadInputError

PAGE_BYTES = 4096
CHUNK_PAGES = 512  # pages in a large page of 2 MiB
CHUNK_BYTES = CHUNK_PAGES * PAGE_BYTES
LARGEST_BYTES = 1 << 62

_SIZE = re.compile(r"(?ai)(\d{1,20})(?:\.(\d{1,9}))?\s*([kmgtpe]?)(?:i?b)?")
_PERCENT = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?\s*%", re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_SHOWN = 40  # characters of a bad value that an error repeats


def parse_size(text: str, *, percent_of: int | None = None, what: str = "size") -> int:
    """
    Read a size.

    Args:
        text: `4096`, `64M`, `1.5G`, `2GiB` (powers of 1024 all), or `50%`.
        percent_of: The bytes that 100% means; None refuses percentages.
        what: What the size is of, for the error.

    Returns:
        Bytes, at least 0.

    Raises:
        BadInputError: If it is not a size, or larger than any memory.
    """
    stripped = text.strip() if len(text) <= 64 else text
    if percent := _PERCENT.fullmatch(stripped):
        if percent_of is None:
            raise BadInputError(f"{what}: {shown(text)} needs a unit such as 64M or 2G, not %")
        return _bounded(_scaled(percent, percent_of) // 100, text, what)
    if size := _SIZE.fullmatch(stripped):
        unit_bytes: int = 1024 ** _POWER[size[3].lower()]
        return _bounded(_scaled(size, unit_bytes), text, what)
    percent_hint = " or 50%" if percent_of is not None else ""
    raise BadInputError(f"{what}: {shown(text)} is no size; write 64M, 2G{percent_hint}")


def format_size(size_bytes: int) -> str:
    """
    Return *size_bytes* in the largest unit that leaves at least 1, to 1 decimal.

    >>> format_size(3 * 1024**3 // 2)
    '1.5G'
    """
    for unit in "EPTGMK":
        unit_bytes = 1024 ** _POWER[unit.lower()]
        if size_bytes >= unit_bytes:
            tenths = size_bytes * 10 // unit_bytes
            whole, rest = divmod(tenths, 10)
            return f"{whole}.{rest}{unit}" if rest and whole < 100 else f"{whole}{unit}"
    return str(size_bytes)


def pages_to_bytes(pages: int) -> int:
    """Return the bytes of *pages* pages."""
    return pages * PAGE_BYTES


def sized(pages: int) -> str:
    """Return what *pages* pages are, as `format_size` does."""
    return format_size(pages_to_bytes(pages))


def bytes_to_pages(size_bytes: int) -> int:
    """Return the whole pages in *size_bytes*."""
    return size_bytes // PAGE_BYTES


def chunks_up(pages: int) -> int:
    """Return *pages* rounded up to whole large pages."""
    return -(-pages // CHUNK_PAGES) * CHUNK_PAGES


def chunks_down(pages: int) -> int:
    """Return *pages* rounded down to whole large pages."""
    return pages // CHUNK_PAGES * CHUNK_PAGES


def shown(text: str) -> str:
    """Return *text* quoted, escaped and short enough for one line of error."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _scaled(number: re.Match[str], scale: int) -> int:
    digits = number[2] or ""
    return int(number[1] + digits) * scale // int(10 ** len(digits))


def _bounded(size_bytes: int, text: str, what: str) -> int:
    if size_bytes > LARGEST_BYTES:
        raise BadInputError(f"{what}: {shown(text)} is more than any memory")
    return size_bytes
