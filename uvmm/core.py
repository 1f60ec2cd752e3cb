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
from uvmm.model import Guest, Machine, Moved, Shared, Sharing, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

GUESTS_MAX: int = lib.UVMM_GUESTS_MAX
SAMPLE_PAGES_MAX: int = lib.UVMM_SAMPLE_PAGES_MAX
PAGE_BYTES = 4096
IDLE_COST_PERMILLE = 4
_NO_GROUP = 0xFFFFFFFF
_TIERS = {"swap": lib.UVMM_TIER_SWAP}
_VIA = ("fuse", "descriptor")
_BY_ERRNO: Mapping[int, type[UvmmError]] = {
    errno.EEXIST: ConflictError,
    errno.EINVAL: BadInputError,
    errno.ENOENT: UnknownGuestError,
    errno.ENOMEM: NoRoomError,
    errno.ENOSPC: NoRoomError,
    errno.ENOTCONN: NotReadyError,
    errno.ESRCH: BadInputError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine is started with; `group` None leaves the guest socket as it is."""

    run_dir: Path
    swap_path: Path | None
    memory_pages: int
    swap_pages: int
    via: str
    group: int | None
    share_cpu_permille: int
    idle_cost_permille: int = IDLE_COST_PERMILLE


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestConfig:
    """What a guest is registered with; `share_group` "" shares with nobody."""

    name: str
    token: bytes
    pid: int
    uid: int
    gid: int
    min_pages: int
    max_pages: int
    target_pages: int
    share_group: str
    kin: bool = False


class EventKind(IntEnum):
    """What an event tells."""

    LOG = lib.UVMM_EVENT_LOG
    ATTACHED = lib.UVMM_EVENT_ATTACHED
    ENDED = lib.UVMM_EVENT_ENDED
    REFUSED = lib.UVMM_EVENT_REFUSED
    DAMAGED = lib.UVMM_EVENT_DAMAGED
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
        c.via = _VIA.index(config.via)
        c.socket_gid = _NO_GROUP if config.group is None else config.group
        c.share_cpu_permille = config.share_cpu_permille
        c.idle_cost_permille = config.idle_cost_permille
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
        with self._call() as engine:
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
        with self._call() as engine:
            code = lib.uvmm_guest_set_target(engine, guest_id, pages)
        if code:
            raise _error(code, "")

    def set_balloon(self, guest_id: int, pages: int) -> None:
        """
        Set the size that the guest's balloon is to have; returns at once.

        The guest's agent is asked once, and gives what it can. How large a balloon may
        be is the caller's to know.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
        """
        with self._call() as engine:
            code = lib.uvmm_guest_set_balloon(engine, guest_id, pages)
        if code:
            raise _error(code, "")

    def reclaim(self, guest_id: int, pages: int, tier: str) -> Moved:
        """
        Take up to *pages* pages out of the guest; returns when done.

        Pages that are pinned or written meanwhile stay and count as left.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            NoRoomError: If the tier is full before anything was moved.
            EngineError: If the tier failed.
        """
        result = ffi.new("struct uvmm_job_result *")
        with self._call() as engine:
            code = lib.uvmm_guest_reclaim(engine, guest_id, pages, _TIERS[tier], result)
        if code == -errno.ENOSPC and not result.pages:
            raise NoRoomError(f"the {tier} tier is full: nothing was moved")
        if code == -errno.EIO:
            raise EngineError(
                f"the {tier} tier failed after {result.pages} pages; see the daemon's log"
            )
        if code not in (0, -errno.ENOSPC):
            raise _error(code, "")
        return _moved(result)

    def restore(self, guest_id: int) -> Moved:
        """
        Bring the guest's stored pages back, as far as machine memory allows.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            EngineError: If a page is damaged.
        """
        result = ffi.new("struct uvmm_job_result *")
        with self._call() as engine:
            code = lib.uvmm_guest_restore(engine, guest_id, result)
        if code == -errno.EIO:
            raise EngineError(
                f"a stored page is damaged, see the log; {result.pages} pages came back"
            )
        if code not in (0, -errno.ENOMEM):
            raise _error(code, "")
        return _moved(result)

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
        with self._call() as engine:
            code = lib.uvmm_guest_sample(engine, guest_id, pages)
        if code:
            raise _error(code, "")

    def block(self, guest_id: int, until_ns: int) -> None:
        """
        Have the guest's threads wait for any page that is not in memory.

        Until *until_ns* of the monotonic clock, a second from now at most; a time that has
        passed lets them go on.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
        """
        with self._call() as engine:
            code = lib.uvmm_guest_block(engine, guest_id, until_ns)
        if code:
            raise _error(code, "")

    def share_now(self, guest_id: int) -> Shared:
        """
        Scan a guest, or with 0 all guests, for pages to share; returns when done.

        Raises:
            UnknownGuestError: If it has ended.
            NotReadyError: If it has not attached yet.
            ConflictError: If it shares with nobody.
        """
        result = ffi.new("struct uvmm_share_result *")
        with self._call() as engine:
            code = lib.uvmm_share_now(engine, guest_id, result)
        if code == -errno.EOPNOTSUPP:
            raise ConflictError("the guest was started with --share-group off")
        if code:
            raise _error(code, "")
        return Shared(
            scanned_pages=result.scanned_pages, shared_pages=result.shared_pages,
            zero_pages=result.zero_pages, elapsed_ns=result.elapsed_ns,
            cpu_ns=result.cpu_ns,
        )

    def snapshot(self, shares: Mapping[int, int]) -> Snapshot:
        """
        Return the figures of now.

        Args:
            shares: Of each guest by its id, which the data plane does not know;
                guests that are not in it are left out.
        """
        machine = ffi.new("struct uvmm_machine_stats *")
        count = ffi.new("size_t *")
        with self._rows_lock, self._call() as engine:
            while True:
                rows, room = self._rows, len(self._rows)
                code = lib.uvmm_snapshot(engine, machine, rows, room, count)
                if code:
                    raise _error(code, "")
                if count[0] <= room:
                    break
                self._rows = ffi.new("struct uvmm_guest_stats[]", 2 * int(count[0]))
            guests = tuple(
                _guest(row, shares[row.id])
                for row in rows[0 : int(count[0])]
                if row.id in shares
            )
        return Snapshot(machine=_machine(machine), guests=guests)

    @property
    def event_fd(self) -> int:
        """A descriptor that is readable while events wait; not the caller's to close."""
        with self._call() as engine:
            return int(lib.uvmm_event_fd(engine))

    def next_event(self) -> Event | None:
        """Take the oldest event; None if there is none."""
        event = ffi.new("struct uvmm_event *")
        with self._call() as engine:
            if lib.uvmm_event_next(engine, event):
                return None
        return Event(
            at_ns=event.at_ns, guest_id=event.guest_id,
            kind=EventKind(event.kind), pid=event.pid, text=_text(event.text),
        )

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """Keep the engine from being freed under a call."""
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


def _error(code: int, reason: str) -> UvmmError:
    kind = _BY_ERRNO.get(-code, EngineError)
    if not reason and kind is UnknownGuestError:
        reason = "the guest has ended"
    if not reason and kind is NotReadyError:
        reason = "the guest has not attached its memory"
    return kind(reason or os.strerror(-code))


def _moved(result: Any) -> Moved:
    return Moved(
        pages=result.pages, zero_pages=result.zero_pages,
        left_pages=result.left_pages, elapsed_ns=result.elapsed_ns,
    )


def _machine(m: Any) -> Machine:
    return Machine(
        now_ns=m.now_ns, total_pages=m.total_pages, tmpfs_pages=m.tmpfs_pages,
        daemon_pages=m.daemon_pages, guest_pages=m.guest_pages,
        swap_total_pages=m.swap_total_pages, swap_used_pages=m.swap_used_pages,
        pressure=m.pressure, via=_VIA[m.via], reclaimed_pages=m.reclaimed_pages,
        refused=m.refused, damaged_pages=m.damaged_pages,
        frame_pages=m.frame_pages, shared_pages=m.shared_pages,
        saved_pages=m.saved_pages, split_pages=m.split_pages, sharing=_sharing(m),
    )


def _sharing(m: Any) -> Sharing:
    return Sharing(
        merged_pages=m.merged_pages, zero_pages=m.share_zero_pages, splits=m.splits,
        homed_pages=m.homed_pages, scanned_pages=m.share_scanned_pages,
        passes=m.share_passes, cpu_ns=m.share_cpu_ns, hints=m.hints,
        stale_hints=m.stale_hints,
        refused={
            "busy": m.share_refused_busy, "changed": m.share_refused_changed,
            "agent": m.share_refused_agent, "mappings": m.share_refused_mappings,
            "memory": m.share_refused_memory,
        },
    )


def _guest(g: Any, shares: int) -> Guest:
    return Guest(
        id=g.id, name=_text(g.name), pid=g.pid, uid=g.uid, attached=bool(g.attached),
        threads=g.threads, min_pages=g.min_pages, max_pages=g.max_pages, shares=shares,
        target_pages=g.target_pages, resident_pages=g.resident_pages,
        swapped_pages=g.swapped_pages, untouched_pages=g.untouched_pages,
        pinned_pages=g.pinned_pages, unmanaged_pages=g.unmanaged_pages,
        faults=g.faults, pages_in=g.pages_in,
        pages_out=g.pages_out, zero_dropped=g.zero_dropped, aborted=g.aborted,
        damaged_pages=g.damaged_pages, stall_ns=g.stall_ns,
        shared_pages=g.shared_pages, split_pages=g.split_pages, splits=g.splits,
        merged_pages=g.merged_pages, share_zero_pages=g.share_zero_pages,
        share_scanned_pages=g.share_scanned_pages, share_mappings=g.share_mappings,
        run_ns=g.run_ns, samples=g.samples, sampled_pages=g.sampled_pages,
        sample_touched_pages=g.sample_touched_pages, idle_pages=tuple(g.idle_pages),
        idle_scanned_pages=g.idle_scanned_pages, blocked_until_ns=g.blocked_until_ns,
        blocks=g.blocks,
        ballooned_pages=g.ballooned_pages, balloon_target_pages=g.balloon_target_pages,
        balloon_able=bool(g.balloon_able), popped_pages=g.popped_pages,
        balloon_asked_pages=g.balloon_asked_pages, balloon_given_pages=g.balloon_given_pages,
    )
