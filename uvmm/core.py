# SPDX-License-Identifier: MIT
"""
The data plane: the one door to `uvmm._core`.

Calls may be made from any thread; cffi releases Python's lock for each.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from uvmm import rows as told
from uvmm._core import ffi, lib
from uvmm.errors import (
    BadInputError,
    ConflictError,
    EngineError,
    NoRoomError,
    NotReadyError,
    UnknownGuestError,
    UvmmError,
)
from uvmm.model import PageMap, Sight, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from uvmm.engine_config import EngineConfig, GuestConfig
    from uvmm.model import Machine, Moved, Shared, Standing

GUESTS_MAX: int = lib.UVMM_GUESTS_MAX
SAMPLE_PAGES_MAX: int = lib.UVMM_SAMPLE_PAGES_MAX
PAGE_BYTES = 4096
MAP_CELLS_MAX: int = lib.UVMM_MAP_CELLS_MAX
MAP_STATES = tuple(
    name.removeprefix("UVMM_MAP_").lower()
    for _, name in sorted(ffi.typeof("enum uvmm_map_state").elements.items())
)
_NO_GROUP = 0xFFFFFFFF
_TIERS = {"swap": lib.UVMM_TIER_SWAP}
_BY_ERRNO: Mapping[int, type[UvmmError]] = {
    errno.EEXIST: ConflictError,
    errno.EINVAL: BadInputError,
    errno.ENOENT: UnknownGuestError,
    errno.ENOMEM: NoRoomError,
    errno.ENOSPC: NoRoomError,
    errno.ENOTCONN: NotReadyError,
    errno.ESRCH: BadInputError,
}


class EventKind(IntEnum):
    """What an event tells."""

    LOG = lib.UVMM_EVENT_LOG
    ATTACHED = lib.UVMM_EVENT_ATTACHED
    ENDED = lib.UVMM_EVENT_ENDED
    REFUSED = lib.UVMM_EVENT_REFUSED
    DAMAGED = lib.UVMM_EVENT_DAMAGED
    SHORT = lib.UVMM_EVENT_SHORT
    KIN = lib.UVMM_EVENT_KIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    Something that happened on its own; `guest_id` is 0 if it is nobody's.

    `pid` is the process that asks to be kin to the guest, else 0.
    """

    at_ns: int
    guest_id: int
    kind: EventKind
    pid: int
    text: str


_ROW, _SEEN = told.layout(ffi)


def page_hash(page: bytes) -> tuple[int, int]:
    """
    Return the hash by which the content of a page is found.

    It is what `mmh3.hash64(page, x64arch=True, signed=False)` gives.

    Raises:
        ValueError: If it is not a page of 4096 bytes.
    """
    if len(page) != PAGE_BYTES:
        raise ValueError(f"a page has {PAGE_BYTES} bytes, got {len(page)}")
    found = ffi.new("uint64_t[2]")
    lib.uvmm_page_hash(ffi.from_buffer(page), found)
    return int(found[0]), int(found[1])


class Engine:
    """
    A running data plane.

    `stop` waits for the calls that go on in other threads; a call that comes
    later raises `NotReadyError`.
    """

    def __init__(self, config: EngineConfig) -> None:
        """
        Start it.

        Raises:
            EngineError: With the reason in words; nothing is left behind.
            BadInputError: If a path is too long.
        """
        c = ffi.new("struct uvmm_engine_config *")
        _set_text(c, "run_dir", str(config.run_dir))
        _set_text(c, "swap_path", str(config.swap_path or ""))
        c.memory_pages = config.memory_pages
        c.swap_pages = config.swap_pages
        c.via = told.VIA.index(config.via)
        c.socket_gid = _NO_GROUP if config.group is None else config.group
        c.share_cpu_permille = config.share_cpu_permille
        c.idle_cost_permille = config.idle_cost_permille
        c.low_pages = config.low_pages
        c.remap_after = config.remap_after
        out = ffi.new("uvmm_engine **")
        err = ffi.new("char[]", lib.UVMM_ERR_BYTES)
        code = lib.uvmm_engine_start(c, out, err)
        if code:
            raise EngineError(_text(err) or os.strerror(-code), errno=-code)
        self._engine: Any = out[0]
        self._calls = 0
        self._idle = threading.Condition()
        self._stopping = False
        self._rows = ffi.new("struct uvmm_guest_stats[]", 64)
        self._rows_lock = threading.Lock()

    def stop(self) -> None:
        """End all guests and undo what the start did; a second call does nothing."""
        with self._idle:
            if self._stopping:
                return
            self._stopping = True
            self._idle.wait_for(lambda: self._calls == 0)
        lib.uvmm_engine_stop(self._engine)

    def create_guest(self, config: GuestConfig) -> int:
        """
        Register a guest.

        Returns:
            Its id, which no other guest ever gets.

        Raises:
            ConflictError: If the name is taken.
            NoRoomError: If machine memory is full, or there are `GUESTS_MAX`.
            BadInputError: If there is no such process, or a value is refused.
        """
        c = ffi.new("struct uvmm_guest_config *")
        _set_text(c, "name", config.name)
        _set_text(c, "group", config.share_group)
        c.token = config.token
        c.min_pages, c.max_pages = config.min_pages, config.max_pages
        c.target_pages = config.target_pages
        c.pid, c.uid, c.gid = config.pid, config.uid, config.gid
        c.kin = config.kin
        guest_id = ffi.new("uint64_t *")
        err = ffi.new("char[]", lib.UVMM_ERR_BYTES)
        with self.call() as engine:
            code = lib.uvmm_guest_create(engine, c, guest_id, err)
        if code:
            raise _error(code, _text(err))
        return int(guest_id[0])

    def set_target(self, guest_id: int, pages: int) -> None:
        """
        Set what the guest is to hold.

        Raises:
            UnknownGuestError: If it has ended.
        """
        with self.call() as engine:
            code = lib.uvmm_guest_set_target(engine, guest_id, pages)
        check(code)

    def set_min(self, guest_id: int, pages: int) -> None:
        """
        Set what is not taken from the guest in any case.

        Raises:
            UnknownGuestError: If it has ended.
            BadInputError: If it is more than its memory.
        """
        with self.call() as engine:
            code = lib.uvmm_guest_set_min(engine, guest_id, pages)
        check(code)

    def set_balloon(self, guest_id: int, pages: int) -> None:
        """
        Set the size that the guest's balloon is to have; returns at once.

        The guest's agent is asked once, and gives what it can. How large a balloon may
        be is the caller's to know.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
        """
        with self.call() as engine:
            code = lib.uvmm_guest_set_balloon(engine, guest_id, pages)
        check(code)

    def reclaim(
        self, guest_id: int, pages: int, tier: str, *, floor_pages: int | None = None
    ) -> Moved:
        """
        Take up to *pages* pages out of the guest; returns when done.

        Pages that are pinned or written meanwhile stay and count as left. With a floor
        the guest is left so many, and its min in any case.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            NoRoomError: If the tier is full before anything was moved.
            EngineError: If the tier failed.
        """
        result = ffi.new("struct uvmm_job_result *")
        with self.call() as engine:
            if floor_pages is None:
                code = lib.uvmm_guest_reclaim(engine, guest_id, pages, _TIERS[tier], result)
            else:
                code = lib.uvmm_guest_trim(
                    engine, guest_id, pages, floor_pages, _TIERS[tier], result
                )
        if code == -errno.ENOSPC and not result.pages:
            raise NoRoomError(f"the {tier} tier is full: nothing was moved")
        if code == -errno.EIO:
            raise EngineError(
                f"the {tier} tier failed after {result.pages} pages; see the daemon's log"
            )
        check(0 if code == -errno.ENOSPC else code)
        return told.moved(result)

    def restore(self, guest_id: int) -> Moved:
        """
        Bring the guest's stored pages back, as far as machine memory allows.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            EngineError: If a page is damaged.
        """
        result = ffi.new("struct uvmm_job_result *")
        with self.call() as engine:
            code = lib.uvmm_guest_restore(engine, guest_id, result)
        if code == -errno.EIO:
            raise EngineError(
                f"a stored page is damaged, see the log; {result.pages} pages came back"
            )
        check(0 if code == -errno.ENOMEM else code)
        return told.moved(result)

    def sample(self, guest_id: int, pages: int) -> None:
        """
        Begin to watch *pages* pages of the guest, drawn at random; ends the sample before.

        `Guest.sampled_pages` and `sample_touched_pages` tell what comes of it, from 0.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            BadInputError: If *pages* is not 1 to `SAMPLE_PAGES_MAX`.
        """
        if not 0 < pages <= SAMPLE_PAGES_MAX:
            raise BadInputError(f"a sample has 1 to {SAMPLE_PAGES_MAX} pages, got {pages}")
        with self.call() as engine:
            code = lib.uvmm_guest_sample(engine, guest_id, pages)
        check(code)

    def set_low(self, guest_id: int, pages: int) -> None:
        """Bound what a guest may have of low memory; one that has ended is none the worse."""
        with self.call() as engine:
            lib.uvmm_guest_set_low(engine, guest_id, pages)

    def set_idle_cost(self, permille: int) -> None:
        """
        Change `EngineConfig.idle_cost_permille`.

        Raises:
            BadInputError: If it is not 0 to 1000.
        """
        if not 0 <= permille <= 1000:
            raise BadInputError(f"the cost is 0 to 1000 thousandths, got {permille}")
        with self.call() as engine:
            lib.uvmm_set_idle_cost(engine, permille)

    def block(self, guest_id: int, until_ns: int) -> None:
        """
        Have the guest's threads wait for any page that is not in memory.

        Until *until_ns* of the monotonic clock, a second from now at most; a time that has
        passed lets them go on.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
        """
        with self.call() as engine:
            code = lib.uvmm_guest_block(engine, guest_id, until_ns)
        check(code)

    def share_now(self, guest_id: int) -> Shared:
        """
        Scan a guest, or with 0 all guests, for pages to share; returns when done.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            ConflictError: If it shares with nobody.
        """
        result = ffi.new("struct uvmm_share_result *")
        with self.call() as engine:
            code = lib.uvmm_share_now(engine, guest_id, result)
        if code == -errno.EOPNOTSUPP:
            raise ConflictError("the guest was started with --share-group off")
        check(code)
        return told.shared(result)

    def page_map(self, guest_id: int, max_pages: int, cells: int) -> PageMap:
        """
        Return where the guest's pages are, in *cells* equal ranges; touches none.

        Args:
            guest_id: Whose.
            max_pages: The size of its memory; there are not more cells than that.
            cells: How many, 1 to `MAP_CELLS_MAX`.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            BadInputError: If there cannot be so many cells.
        """
        if not 0 < cells <= MAP_CELLS_MAX:
            raise BadInputError(f"a map has 1 to {MAP_CELLS_MAX} cells, got {cells}")
        cells = min(cells, max_pages)
        rows = ffi.new("struct uvmm_map_cell[]", cells)
        with self.call() as engine:
            code = lib.uvmm_guest_map(engine, guest_id, rows, cells)
        check(code)
        counts = memoryview(ffi.buffer(rows)).cast("Q")
        return PageMap(
            max_pages=max_pages, cells=cells,
            pages={
                state: counts[at :: len(MAP_STATES)].tolist()
                for at, state in enumerate(MAP_STATES)
            },
        )

    def snapshot(self, standings: Mapping[int, Standing]) -> Snapshot:
        """
        Return the figures of now.

        Args:
            standings: What the data plane does not know of each guest, by its id;
                guests that are not in it are left out.
        """
        with self._rows_lock:
            machine, guests = self._ask(lib.uvmm_snapshot)
            return Snapshot(
                machine=told.machine(machine),
                guests=tuple(
                    told.guest(row, _text(row.name), standings[row.id])
                    for row in self._rows[0:guests]
                    if row.id in standings
                ),
            )

    def look(self) -> tuple[Machine, list[Sight]]:
        """Return what the control loop has to see of the machine and of all guests."""
        with self._rows_lock:
            machine, guests = self._ask(lib.uvmm_look)
            rows = ffi.buffer(self._rows, guests * _ROW.size)[:]
        sights = [Sight._make(_SEEN(row)) for row in _ROW.iter_unpack(rows)]
        return told.machine(machine), sights

    def _ask(self, question: Any) -> tuple[Any, int]:
        """Fill the rows, which are made to be enough; returns the machine, and how many."""
        machine = ffi.new("struct uvmm_machine_stats *")
        count = ffi.new("size_t *")
        with self.call() as engine:
            while True:
                room = len(self._rows)
                code = question(engine, machine, self._rows, room, count)
                check(code)
                if count[0] <= room:
                    return machine, int(count[0])
                self._rows = ffi.new("struct uvmm_guest_stats[]", 2 * int(count[0]))

    def set_aim(self, headroom_pages: int) -> None:
        """Have guests above their target live on their own pages below that headroom."""
        with self.call() as engine:
            lib.uvmm_set_aim(engine, headroom_pages)

    def alarm(self, headroom_pages: int) -> None:
        """Have one event SHORT once there is less headroom than that; 0: none."""
        with self.call() as engine:
            lib.uvmm_alarm(engine, headroom_pages)

    @property
    def event_fd(self) -> int:
        """A descriptor that is readable while events wait; not the caller's to close."""
        with self.call() as engine:
            return int(lib.uvmm_event_fd(engine))

    def next_event(self) -> Event | None:
        """Take the oldest event; None if there is none."""
        event = ffi.new("struct uvmm_event *")
        with self.call() as engine:
            if lib.uvmm_event_next(engine, event):
                return None
        return Event(
            at_ns=event.at_ns, guest_id=event.guest_id,
            kind=EventKind(event.kind), pid=event.pid, text=_text(event.text),
        )

    @contextmanager
    def call(self) -> Iterator[Any]:
        """Keep the engine from being freed under a call of C."""
        with self._idle:
            if self._stopping:
                raise NotReadyError("the daemon is ending")
            self._calls += 1
        try:
            yield self._engine
        finally:
            with self._idle:
                self._calls -= 1
                self._idle.notify_all()


def _set_text(struct: Any, field: str, value: str) -> None:
    raw = os.fsencode(value)
    room = ffi.sizeof(getattr(struct, field)) - 1
    if len(raw) > room or b"\0" in raw:
        raise BadInputError(f"{field} {value!r} is longer than {room} bytes, or has a NUL")
    ffi.memmove(getattr(struct, field), raw, len(raw))


def _text(chars: Any) -> str:
    raw: bytes = ffi.string(chars)
    return raw.decode(errors="backslashreplace").replace("\n", " ")


def check(code: int) -> None:
    """
    Raise what a call's *code* means, unless it is 0.

    Raises:
        UvmmError: Of the kind that fits.
    """
    if code:
        raise _error(code, "")


def _error(code: int, reason: str) -> UvmmError:
    kind = _BY_ERRNO.get(-code, EngineError)
    if not reason and kind is UnknownGuestError:
        reason = "the guest has ended"
    if not reason and kind is NotReadyError:
        reason = "the guest has not attached its memory"
    return kind(reason or os.strerror(-code))
