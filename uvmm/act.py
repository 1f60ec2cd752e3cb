# SPDX-License-Identifier: MIT
"""
What the daemon does to guests of its own accord.

Everything but paging is done at once. Paging takes as long as a disk takes, so it is done by
a thread, a slice of one guest after a slice of the next. It works on what was asked
last: what is asked anew takes the place of what was asked before.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.errors import NoRoomError, NotReadyError, UnknownGuestError, UvmmError
from uvmm.log import LOGGER, tell

if TYPE_CHECKING:
    from collections.abc import Mapping

    from uvmm.core import Engine

SLICE_PAGES = 2048  # some 5 ms without a disk
_TIER = "swap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """So many pages are to be taken from a guest, but so many left to it."""

    pages: int
    floor_pages: int


class Hands:
    """Does to guests what is decided; guests may have ended, or not begun."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set_targets(self, targets: Mapping[int, int]) -> None:
        """Set what guests are to hold, by their ids."""
        for guest_id, pages in targets.items():
            with suppress(UnknownGuestError):
                self._engine.set_target(guest_id, pages)

    def set_balloon(self, guest_id: int, pages: int) -> None:
        """Set how large its balloon is to be."""
        with suppress(UnknownGuestError, NotReadyError):
            self._engine.set_balloon(guest_id, pages)

    def block(self, guest_id: int, until_ns: int) -> None:
        """Have it wait when it needs memory; 0 ends that."""
        with suppress(UnknownGuestError, NotReadyError):
            self._engine.block(guest_id, until_ns)

    def draw(self, guest_id: int, pages: int) -> None:
        """Watch so many of its pages; if that cannot be now, it is tried again."""
        with suppress(UnknownGuestError, NotReadyError, NoRoomError):
            self._engine.sample(guest_id, pages)


class Pager:
    """Pages guests out in the background; calls may be made from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._change = threading.Condition()  # guards all below
        self._asked: dict[int, Paging] = {}  # in the order in which it is their turn
        self._paged: defaultdict[int, int] = defaultdict(int)
        self._complaint = ""  # the thread's own: what is in the way of paging
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="pager", daemon=True)
        self._thread.start()

    def ask(self, asked: Mapping[int, Paging]) -> None:
        """Take memory from these guests, and from no others any more."""
        with self._change:
            # Whose turn is next stays so.
            order = [guest_id for guest_id in self._asked if guest_id in asked]
            order += [guest_id for guest_id in asked if guest_id not in self._asked]
            self._asked = {guest_id: asked[guest_id] for guest_id in order}
            self._change.notify_all()

    def taken(self) -> dict[int, int]:
        """Return the pages that were paged out since the last call, by guests' ids."""
        with self._change:
            paged, self._paged = dict(self._paged), defaultdict(int)
        return paged

    def stop(self) -> None:
        """End after the slice that goes on."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while (turn := self._next()) is not None:
            guest_id, wanted = turn
            try:
                self._page_out(guest_id, wanted)
            except (UnknownGuestError, NotReadyError):
                self._forget(guest_id, wanted)
            except UvmmError as error:
                self._complain(str(error))
                self._forget(guest_id, wanted)
            except Exception:  # noqa: BLE001 - it goes on with what is asked next
                LOGGER.exception("paging failed")
                self._forget(guest_id, wanted)

    def _next(self) -> tuple[int, Paging] | None:
        """Wait for something to do; None at the end."""
        with self._change:
            self._change.wait_for(lambda: self._asked or self._stopping)
            return None if self._stopping else next(iter(self._asked.items()))

    def _page_out(self, guest_id: int, wanted: Paging) -> None:
        moved = self._engine.reclaim(
            guest_id, min(wanted.pages, SLICE_PAGES), _TIER, floor_pages=wanted.floor_pages
        )
        left = wanted.pages - moved.pages if moved.pages else 0
        self._complaint = ""
        with self._change:
            self._paged[guest_id] += moved.pages
            # Unless something else was asked meanwhile.
            if self._asked.get(guest_id) is wanted:
                del self._asked[guest_id]
                if left > 0:
                    self._asked[guest_id] = Paging(pages=left, floor_pages=wanted.floor_pages)

    def _complain(self, text: str) -> None:
        """Log it once, however often it is tried."""
        if text != self._complaint:
            tell(f"memory cannot be paged out: {text}", level=logging.ERROR)
        self._complaint = text

    def _forget(self, guest_id: int, wanted: Paging) -> None:
        with self._change:
            if self._asked.get(guest_id) is wanted:
                del self._asked[guest_id]
