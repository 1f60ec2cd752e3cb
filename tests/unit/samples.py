# SPDX-License-Identifier: MIT
"""Machines and guests for tests: plausible, unless told otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from uvmm.model import Guest, Machine

_MACHINE = Machine(
    now_ns=1, total_pages=1 << 18, tmpfs_pages=1000, daemon_pages=500, guest_pages=900,
    swap_total_pages=1 << 19, swap_used_pages=0, pressure=0, via="fuse", reclaimed_pages=0,
    refused=0, damaged_pages=0,
)
_GUEST = Guest(
    id=1, name="a", pid=1, uid=0, attached=True, threads=1, size_pages=1 << 18,
    min_pages=0, max_pages=1 << 18, shares=1000, tax=0.75, balloon_max_pages=1 << 17,
    active=0.5, promised=True, target_pages=0, resident_pages=1000, swapped_pages=0,
    untouched_pages=0, pinned_pages=0, faults=0, pages_in=0, pages_out=0, zero_dropped=0,
    aborted=0, damaged_pages=0, stall_ns=0,
)


def a_machine(**fields: Any) -> Machine:
    """Return a machine with these fields."""
    return replace(_MACHINE, **fields)


def a_guest(**fields: Any) -> Guest:
    """Return a guest with these fields; what is nowhere else is untouched."""
    if "max_pages" in fields:
        fields.setdefault("size_pages", fields["max_pages"])
    guest = replace(_GUEST, **fields)
    elsewhere = guest.placed_pages - guest.untouched_pages
    return replace(guest, untouched_pages=guest.size_pages - elsewhere)
