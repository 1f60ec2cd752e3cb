# SPDX-License-Identifier: MIT
"""How far a job of the daemon is, by the figures, while a command waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvmm.client import guest_path
from uvmm.units import PAGE_BYTES, parse_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvmm.client import Client

    Look = Callable[[], tuple[int, int]]

_STORED = ("swapped_bytes", "compressed_bytes", "far_bytes")


def of_reclaim(client: Client, name: str, size: str) -> Look:
    """Return what tells how much of *size* a guest has lost."""
    start: list[int] = []

    def look() -> tuple[int, int]:
        resident = int(client.get(guest_path(name))["resident_bytes"])
        if not start:
            start.append(resident)
        wanted = min(start[0], parse_size(size, percent_of=start[0]))
        return max(0, start[0] - resident), wanted

    return look


def of_restore(client: Client, name: str) -> Look:
    """Return what tells how much of what is stored has come back."""
    start: list[int] = []

    def look() -> tuple[int, int]:
        guest: dict[str, Any] = client.get(guest_path(name))
        stored = sum(int(guest[key]) for key in _STORED)
        if not start:
            start.append(stored)
        return max(0, start[0] - stored), start[0]

    return look


def of_share(client: Client, name: str | None) -> Look:
    """Return what tells how many pages have been looked at."""
    start: list[int] = []

    def look() -> tuple[int, int]:
        guests = client.get("/v1/guests") if name is None else [client.get(guest_path(name))]
        scanned = sum(int(guest["share_scanned_pages"]) for guest in guests)
        if not start:
            start.append(scanned)
        resident = sum(int(guest["resident_bytes"]) for guest in guests) // PAGE_BYTES
        return scanned - start[0], resident

    return look
