# SPDX-License-Identifier: MIT
"""Sizes: what is read, what is refused, and that nothing is lost on the way."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvmm.errors import BadInputError
from uvmm.units import (
    CHUNK_PAGES,
    LARGEST_BYTES,
    chunks_down,
    chunks_up,
    format_size,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0), ("4096", 4096), ("1k", 1024), ("64M", 64 << 20), ("2G", 2 << 30),
        ("1.5G", 3 << 29), (" 2 GiB ", 2 << 30), ("3mb", 3 << 20), ("0.1K", 102),
        ("4E", 4 << 60),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert size_bytes == parse_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "+1", "1e9", "0x10", "64Q", "M", "1.", ".5", "1,5G", "nan", "inf",
        "1_000", "٣", "64M\0", "64M\n64M", "9" * 30, "5E", "1G2", "50%%", "\ud800",
        "M" * 100_000,
    ],
)
def test_hostile_sizes_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInputError) as refused:
        parse_size(text, percent_of=1000)
    message = str(refused.value)
    assert "\n" not in message
    assert message.isascii()
    assert len(message) < 200


def test_percentages_are_of_a_base() -> None:
    assert parse_size("50%", percent_of=1001) == 500
    assert parse_size("12.5 %", percent_of=800) == 100
    with pytest.raises(BadInputError, match="needs a unit"):
        parse_size("50%")


@given(st.integers(min_value=0, max_value=LARGEST_BYTES))
def test_a_number_of_bytes_is_read_exactly(size_bytes: int) -> None:
    assert size_bytes == parse_size(str(size_bytes))
    assert size_bytes == parse_size("100%", percent_of=size_bytes)


@given(st.integers(min_value=0, max_value=LARGEST_BYTES))
def test_a_formatted_size_is_read_as_a_little_less(size_bytes: int) -> None:
    read = parse_size(format_size(size_bytes))
    assert read <= size_bytes
    assert size_bytes - read <= max(size_bytes // 10, 1)


@given(st.text(max_size=30))
def test_any_text_gives_a_size_or_a_refusal(text: str) -> None:
    with suppress(BadInputError):
        assert 0 <= parse_size(text, percent_of=10**12) <= LARGEST_BYTES


@given(st.integers(min_value=0, max_value=1 << 40))
def test_chunks(pages: int) -> None:
    assert chunks_down(pages) <= pages <= chunks_up(pages)
    assert chunks_up(pages) - chunks_down(pages) in (0, CHUNK_PAGES)
