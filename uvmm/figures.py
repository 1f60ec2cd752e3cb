# SPDX-License-Identifier: MIT
"""The figures of now, as the API, the history and the metrics tell them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from uvmm import schema
from uvmm.errors import NotReadyError
from uvmm.history import FINE_S
from uvmm.log import LOGGER

if TYPE_CHECKING:
    from uvmm.daemon import Daemon
    from uvmm.history import History


def figures_of(daemon: Daemon) -> schema.Figures:
    """Look at the machine and all guests; for any thread."""
    snapshot, stalls = daemon.look()
    return schema.figures(snapshot, stalls, daemon.scan_rate())


async def remember(daemon: Daemon, history: History, stop: asyncio.Event) -> None:
    """Take a sample a second, until *stop*, whatever goes wrong once."""

    def take() -> None:
        history.add(figures_of(daemon), at_s=time.time())

    while not stop.is_set():
        try:
            await asyncio.to_thread(take)
        except NotReadyError:
            return
        except Exception:  # noqa: BLE001 - the daemon lives on without a history, and tells
            LOGGER.exception("a sample of the figures failed")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), FINE_S - time.time() % FINE_S)
