# SPDX-License-Identifier: MIT
"""What `uvmm top` asks of the daemon, without ever standing still for an answer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from uvmm.client import guest_path
from uvmm.views import reclaimed_line, restored_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvmm.client import Client

_T = TypeVar("_T")


async def ask(call: Callable[[], _T]) -> _T:
    """
    Return what *call* does, which runs in a thread that nobody waits for at the end.

    Whoever quits does not wait for a daemon that does not answer.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if answer.cancelled():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def run() -> None:
        result, failed = None, None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
            failed = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, result, failed)

    threading.Thread(target=run, daemon=True).start()
    return await answer


def reclaim(client: Client, name: str, size: str) -> str:
    """Take *size* out of a guest; returns what came of it."""
    done = client.post(guest_path(name, "reclaim"), {"size": size})
    return reclaimed_line(name, done)


def restore(client: Client, name: str, _: str) -> str:
    """Bring a guest's stored pages back; returns what came of it."""
    return restored_line(name, client.post(guest_path(name, "restore")))
