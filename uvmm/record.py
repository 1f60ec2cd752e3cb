# SPDX-License-Identifier: MIT
"""`uvmm record`: follows the daemon's history into a file, sample by sample."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, TextIO

from uvmm.errors import UvmmError
from uvmm.past import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uvmm.client import Client

PERIOD_S = 1.0


def samples(
    client: Client, *, until_s: float | None, complain: Callable[[str], None]
) -> Iterator[list[dict[str, Any]]]:
    """
    Yield what is new, once a second, first all that the daemon remembers.

    A daemon that goes away is waited for.

    Args:
        client: Whom to ask.
        until_s: When to end, by the monotonic clock; None is never.
        complain: Told once when the daemon goes away, and why.

    Raises:
        UvmmError: If there is no daemon to begin with.
    """
    told = client.get("/v1/history")
    while True:
        yield list(rows_of(told))
        if until_s is not None and time.monotonic() >= until_s:
            return
        told = _next(client, told, until_s, complain)
        if told is None:
            return


def _next(
    client: Client, told: dict[str, Any], until_s: float | None, complain: Callable[[str], None]
) -> dict[str, Any] | None:
    """Wait, and ask for what came after *told*; None when it is time to end."""
    complained = False
    while True:
        left_s = PERIOD_S if until_s is None else min(PERIOD_S, until_s - time.monotonic())
        time.sleep(max(0.0, left_s))
        try:
            new: dict[str, Any] = client.get(f"/v1/history?since={told['last']}")
            if new["started_at"] != told["started_at"]:
                new = client.get("/v1/history")
        except UvmmError as error:
            if until_s is not None and time.monotonic() >= until_s:
                return None
            if not complained:
                complain(f"{error}; waiting for it")
            complained = True
        else:
            return new


def write(rows: list[dict[str, Any]], out: TextIO, every: int) -> int:
    """Write those rows whose number is a multiple of *every*; returns how many."""
    chosen = [row for row in rows if row["number"] % every == 0]
    out.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in chosen)
    out.flush()
    return len(chosen)
