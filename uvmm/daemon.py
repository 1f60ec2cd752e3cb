# SPDX-License-Identifier: MIT
"""
The daemon's mind: sense, decide, act, and what the control API asks of it.

The only file that knows both policy and the data plane.
"""

from __future__ import annotations

import re
import secrets
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from uvmm.act import set_targets
from uvmm.core import EventKind, GuestConfig
from uvmm.errors import BadInputError, ConflictError, NotReadyError, UnknownGuestError
from uvmm.host import child, owner, process
from uvmm.policy import admission
from uvmm.policy.parameters import SHARES_MAX
from uvmm.policy.targets import targets
from uvmm.sense import Senses
from uvmm.units import bytes_to_pages, pages_to_bytes, parse_size, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uvmm.core import Engine, Event
    from uvmm.host import Peer, Process
    from uvmm.model import Guest, Moved, PageMap, Shared, Snapshot

NAME_BYTES = 63
SHARE_OFF = "off"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """
    What a launcher asks for a guest.

    Sizes are words, where 100% is machine memory; None is the default. With
    `numbered` a name that is taken gets -2, -3 and so on. The group that it shares pages
    with is "off" for none, else one of the user who asks.
    """

    peer: Peer
    name: str
    numbered: bool
    pid: int
    uid: int | None
    gid: int | None
    min_size: str | None
    max_size: str | None
    shares: int
    share_group: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a launcher gets: what its guest says on the guest socket."""

    name: str
    token: bytes
    max_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    config: GuestConfig
    shares: int
    process: Process

    @property
    def name(self) -> str:
        return self.config.name


class Daemon:
    """
    Guests and the engine under them; calls may be made from any thread.

    `on_change` is told the processes of all guests, by name, whenever one
    comes or goes.
    """

    def __init__(
        self, engine: Engine, *, on_change: Callable[[dict[str, Process]], None]
    ) -> None:
        self._engine = engine
        self._on_change = on_change
        self._senses = Senses()
        self._admission = threading.Lock()  # taken before the other one
        self._lock = threading.Lock()  # held for moments; guards the senses and all below
        self._members: dict[int, _Member] = {}
        self._ended_early: set[int] = set()  # ended before their admission did
        self._in_admission = 0
        self._ending = False

    def look(self) -> tuple[Snapshot, dict[int, float]]:
        """Return the figures of now, and the guests' stall percentages by id."""
        with self._lock:
            return self._look_locked()

    def step(self) -> None:
        """Sense, decide, act: once a sampling period."""
        with self._lock:
            snapshot, _ = self._look_locked()
        set_targets(self._engine, snapshot, targets(snapshot))

    def admit(self, wanted: Application) -> Admission:
        """
        Register a guest, which is a child of the process that asks.

        Raises:
            BadInputError: If a value cannot be had, or the process is not there, or
                not the peer's to give away: guests end with the daemon.
            ConflictError: If the name is taken, or the process is a guest.
            NoRoomError: If there is no room for its min, or for any guest.
            NotReadyError: If the daemon is ending.
        """
        guest_process, uid, gid = _who(wanted)
        token = secrets.token_bytes(16)
        with self._admitting():
            snapshot, _ = self.look()
            config = GuestConfig(
                name=self._name(wanted), token=token, pid=wanted.pid,
                uid=uid, gid=gid, kin=False,
                share_group=_share_group(wanted, uid), **_sizes(wanted, snapshot),
            )
            self._check_free(guest_process)
            try:
                guest_id = self._engine.create_guest(config)
            except ConflictError:
                raise ConflictError(
                    f"a guest named {config.name} runs already; choose another --name"
                ) from None
            self._join(
                guest_id,
                _Member(config=config, shares=wanted.shares, process=guest_process),
            )
        return Admission(name=config.name, token=token, max_pages=config.max_pages)

    def adopt(self, guest_id: int, pid: int) -> None:
        """
        Register a process as kin to a guest: a forked child, or what it executes.

        It is of the same user, size and shares, with no min, and a name of its own.
        Nothing if it is registered, or the guest or the process has gone.

        Raises:
            NoRoomError: If there is no room for a guest.
            NotReadyError: If the daemon is ending.
        """
        kin_process = process(pid)
        with self._admitting():
            with self._lock:
                member = self._members.get(guest_id)
                known = any(kin.process == kin_process for kin in self._members.values())
            if member is None or kin_process is None or known:
                return
            config = replace(
                member.config, name=self._free_name(member.name), pid=pid, min_pages=0,
                kin=True,
            )
            self._join(
                self._engine.create_guest(config),
                _Member(config=config, shares=member.shares, process=kin_process),
            )

    def reclaim(self, name: str, size: str, tier: str) -> Moved:
        """
        Take *size* (100% is all that is resident) of a guest into a tier.

        Raises:
            BadInputError: If it is no size.
            UnknownGuestError: If there is no such guest.
            NotReadyError: If it has not attached yet.
            NoRoomError: If the tier is full.
            EngineError: If the tier failed.
        """
        guest = self.guest(name)
        resident_bytes = pages_to_bytes(guest.resident_pages)
        wanted_bytes = parse_size(size, percent_of=resident_bytes, what="size")
        wanted_pages = min(bytes_to_pages(wanted_bytes), guest.resident_pages)
        return self._engine.reclaim(guest.id, wanted_pages, tier)

    def restore(self, name: str) -> Moved:
        """
        Bring a guest's stored pages back.

        Raises:
            UnknownGuestError: If there is no such guest.
            NotReadyError: If it has not attached yet.
            EngineError: If a page is damaged.
        """
        guest = self.guest(name)
        return self._engine.restore(guest.id)

    def share_now(self, name: str | None) -> Shared:
        """
        Look for pages to share, in one guest or in all.

        Raises:
            UnknownGuestError: If there is no such guest.
            NotReadyError: If it has not attached yet.
            ConflictError: If it shares with nobody.
        """
        return self._engine.share_now(0 if name is None else self.guest(name).id)

    def scan_rate(self) -> float:
        """Return how many pages a second were looked at lately, to be shared."""
        with self._lock:
            return self._senses.scan_rate()

    def guest(self, name: str) -> Guest:
        """
        Return the figures of one guest.

        Raises:
            UnknownGuestError: If there is no such guest.
        """
        snapshot, _ = self.look()
        for guest in snapshot.guests:
            if guest.name == name:
                return guest
        raise UnknownGuestError(f"there is no guest {shown(name)}; 'uvmm ps' lists them")

    def page_map(self, name: str, cells: int) -> PageMap:
        """
        Return where a guest's pages are, in so many equal ranges of its memory.

        Raises:
            UnknownGuestError: If there is no such guest.
            NotReadyError: If it has not attached yet.
            BadInputError: If there cannot be so many.
        """
        guest = self.guest(name)
        return self._engine.page_map(guest.id, guest.max_pages, cells)

    def take(self, event: Event) -> str:
        """Account for an event; returns the name of the guest that it is about."""
        with self._lock:
            member = self._members.get(event.guest_id)
            if event.kind == EventKind.ENDED:
                if member is None:
                    self._ended_early.add(event.guest_id)
                else:
                    del self._members[event.guest_id]
                    self._changed_locked()
        return "" if member is None else member.name

    def empty(self) -> bool:
        """Tell whether there is no guest; if so, none is admitted any more."""
        with self._lock:
            self._ending = self._ending or not (self._members or self._in_admission)
            return self._ending

    @contextmanager
    def _admitting(self) -> Iterator[None]:
        """Admit one at a time, so that two cannot be promised the same memory."""
        with self._lock:
            if self._ending:
                raise NotReadyError("the daemon is ending")
            self._in_admission += 1
        try:
            with self._admission:
                yield
        finally:
            with self._lock:
                self._in_admission -= 1

    def _join(self, guest_id: int, member: _Member) -> None:
        with self._lock:
            if guest_id in self._ended_early:
                self._ended_early.remove(guest_id)
                return
            self._members[guest_id] = member
            self._changed_locked()

    def _check_free(self, wanted: Process) -> None:
        """Refuse a process that is a guest already, or has ended since it was looked at."""
        with self._lock:
            members = list(self._members.values())
        for member in members:
            if member.process == wanted:
                raise ConflictError(f"process {wanted.pid} is a guest already: {member.name}")
        if not wanted.alive():
            raise BadInputError(f"there is no process {wanted.pid}")

    def _look_locked(self) -> tuple[Snapshot, dict[int, float]]:
        shares = {guest_id: member.shares for guest_id, member in self._members.items()}
        snapshot = self._engine.snapshot(shares)
        self._senses.see(snapshot)
        stalls = {guest.id: self._senses.stall_percent(guest.id) for guest in snapshot.guests}
        return snapshot, stalls

    def _name(self, wanted: Application) -> str:
        """Choose the name; whether it is free the engine says."""
        return self._free_name(wanted.name) if wanted.numbered else wanted.name

    def _free_name(self, wanted: str) -> str:
        with self._lock:
            members = list(self._members.values())
        taken = {member.name for member in members if member.process.alive()}
        name, number = wanted, 2
        while name in taken:
            name, number = _numbered(wanted, number), number + 1
        return name

    def _changed_locked(self) -> None:
        self._on_change({member.name: member.process for member in self._members.values()})


def _numbered(name: str, number: int) -> str:
    suffix = f"-{number}"
    return name[: NAME_BYTES - len(suffix)] + suffix


def _who(wanted: Application) -> tuple[Process, int, int]:
    """Check names and numbers; return the process and whose it is to be."""
    if not _NAME.fullmatch(wanted.name):
        raise BadInputError(
            f"--name {shown(wanted.name)}: 1 to {NAME_BYTES} of letters, digits and _.+-, "
            "not starting with a sign"
        )
    if not 1 <= wanted.shares <= SHARES_MAX:
        raise BadInputError(f"--shares {wanted.shares}: must be 1 to {SHARES_MAX}")
    guest_process, owned = child(wanted.pid, parent=wanted.peer.pid), owner(wanted.pid)
    if owned is None:
        raise BadInputError(f"there is no process {wanted.pid}")
    if guest_process is None:
        raise BadInputError(
            f"process {wanted.pid} is no child of process {wanted.peer.pid}, which asks"
        )
    if wanted.peer.uid not in (0, owned[0]):
        raise BadInputError(
            f"process {wanted.pid} belongs to user {owned[0]}, not to user "
            f"{wanted.peer.uid}, who asks"
        )
    uid = owned[0] if wanted.uid is None else wanted.uid
    gid = owned[1] if wanted.gid is None else wanted.gid
    if owned[0] not in (0, uid):
        raise BadInputError(f"process {wanted.pid} belongs to user {owned[0]}, not {uid}")
    return guest_process, uid, gid


def _share_group(wanted: Application, uid: int) -> str:
    """Return the group's full name: nobody can name one of another user's."""
    if wanted.share_group == SHARE_OFF:
        return ""
    if wanted.share_group is None:
        return f"{uid}/"
    if not _NAME.fullmatch(wanted.share_group):
        raise BadInputError(
            f"--share-group {shown(wanted.share_group)}: {SHARE_OFF}, or 1 to {NAME_BYTES} of "
            "letters, digits and _.+-, not starting with a sign"
        )
    # Only root can start guests as other users, and so have these in one group.
    return f"{wanted.peer.uid}/{wanted.share_group}"


def _sizes(wanted: Application, snapshot: Snapshot) -> dict[str, int]:
    machine = snapshot.machine
    total_bytes = pages_to_bytes(machine.total_pages)

    def pages(size: str | None, what: str) -> int | None:
        if size is None:
            return None
        # Rounded up: whoever asks for a byte means to have it.
        return -(-parse_size(size, percent_of=total_bytes, what=what) // pages_to_bytes(1))

    max_pages = admission.admitted_max(machine, pages(wanted.max_size, "--max"))
    min_pages = pages(wanted.min_size, "--min") or 0
    others = [guest.min_pages for guest in snapshot.guests]
    admission.check_min(machine, others, min_pages, max_pages)
    return {
        "min_pages": min_pages, "max_pages": max_pages,
        "target_pages": max(min_pages, min(max_pages, machine.total_pages)),
    }
