# SPDX-License-Identifier: MIT
"""A page is found by its content by the same hash from C and from Python."""

from __future__ import annotations

import mmh3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvmm.core import PAGE_BYTES, page_hash


def pages() -> st.SearchStrategy[bytes]:
    repeated = st.binary(min_size=1, max_size=64).map(
        lambda piece: (piece * (PAGE_BYTES // len(piece) + 1))[:PAGE_BYTES]
    )
    return st.one_of(
        repeated,
        st.builds(
            lambda at, piece: bytes(at) + piece + bytes(PAGE_BYTES - at - len(piece)),
            st.integers(0, PAGE_BYTES - 32), st.binary(max_size=32),
        ),
        st.randoms(use_true_random=False).map(lambda random: random.randbytes(PAGE_BYTES)),
    )


@given(pages())
def test_it_is_that_of_mmh3(page: bytes) -> None:
    assert page_hash(page) == mmh3.hash64(page, x64arch=True, signed=False)


@pytest.mark.parametrize("size", [0, PAGE_BYTES - 1, PAGE_BYTES + 1])
def test_only_pages_have_one(size: int) -> None:
    with pytest.raises(ValueError, match=f"got {size}"):
        page_hash(bytes(size))
