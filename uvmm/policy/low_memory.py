# SPDX-License-Identifier: MIT
"""How low memory, which devices reach without a copy, is divided: in proportion to shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def divide_low(total_pages: int, shares: Mapping[int, int]) -> dict[int, int]:
    """
    Bound what each guest may have of low memory.

    Args:
        total_pages: All of it.
        shares: Of the guests that have disks, by id.

    Returns:
        The bounds by id, in pages; together no more than all of it.
    """
    everyone = sum(shares.values())
    return {guest_id: total_pages * own // everyone for guest_id, own in shares.items()}
