# SPDX-License-Identifier: MIT
"""What `uvmm top` asks of the daemon, without ever standing still for an answer."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from uvmm.client import guest_path
from uvmm.errors import BadInputError
from uvmm.units import shown
from uvmm.views import parameter_line, reclaimed_line, restored_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from uvmm.client import Client

SETTABLE = ("min", "max", "shares", "tax", "balloon_max")
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


def change(client: Client, name: str, words: str) -> str:
    """
    Set what a guest may hold, such as `min=64M shares=2000`; returns what it is now.

    Raises:
        BadInputError: If a word is no setting.
    """
    return parameter_line(client.patch(guest_path(name), settings_in(words)))


def settings_in(words: str) -> dict[str, str]:
    """
    Return the settings that *words* mean, such as `min=64M shares=2000`.

    Raises:
        BadInputError: If one is no setting.
    """
    given: dict[str, str] = {}
    for word in words.replace(",", " ").split():
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if not (equals and value) or key not in SETTABLE:
            raise BadInputError(
                f"{shown(word)}: expected such as min=64M, of {', '.join(SETTABLE)}"
            )
        if key in given:
            raise BadInputError(f"{key} is there twice")
        given[key] = value
    return given
