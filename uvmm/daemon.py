# SPDX-License-Identifier: MIT
"""
The daemon's mind: sense, decide, act, and what the control API asks of it.

The only file that knows both policy and the data plane.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from uvmm.act import Hands, Pager, Paging
from uvmm.application import applicant, free_name, parameters
from uvmm.core import EventKind
from uvmm.engine_config import GuestConfig
from uvmm.errors import BadInputError, ConflictError, NotReadyError, UnknownGuestError
from uvmm.host import process
from uvmm.model import Standing
from uvmm.policy.admission import booking, machine_room, release, reserve
from uvmm.policy.parameters import parse
from uvmm.rules import USUAL_RULES
from uvmm.sense import PERIOD_S, SHORT_PERIOD_S, STEP_PART, Senses
from uvmm.steering import Steering, Subject
from uvmm.units import bytes_to_pages, pages_to_bytes, parse_size, shown, sized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from uvmm.application import Application
    from uvmm.core import Engine, Event
    from uvmm.host import Process
    from uvmm.model import Guest, Machine, Moved, PageMap, Shared, Snapshot, StateName
    from uvmm.policy.admission import Booking, Room
    from uvmm.policy.decision import Decision
    from uvmm.policy.parameters import Parameters, Wanted
    from uvmm.rules import Rules
    from uvmm.steering import ToDo


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a launcher gets: what its guest says on the guest socket."""

    name: str
    token: bytes
    max_pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Decisions, oldest first, and the moment at which they are told."""

    now_ns: int
    state: StateName
    policy: str
    decisions: list[Decision]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    config: GuestConfig
    process: Process
    parameters: Parameters
    promised: bool  # its max was named, so it is reserved
    balloon_wish_pages: int = 0  # what somebody has asked its balloon to be

    @property
    def name(self) -> str:
        return self.config.name


class Daemon:
    """
    Guests and the engine under them; calls may be made from any thread.

    `on_change` is told the processes of all guests, by name, whenever one comes or goes;
    `on_urgent` is called, by any thread, when a step should not wait for its time.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        on_change: Callable[[dict[str, Process]], None],
        on_urgent: Callable[[], None] = lambda: None,
        rules: Rules = USUAL_RULES,
    ) -> None:
        self._engine = engine
        self._on_change = on_change
        self._on_urgent = on_urgent
        self._rules = rules
        self._own_pages = engine.look()[0].overhead_pages
        self._hands = Hands(engine)
        self._pager = Pager(engine)
        # Taken in this order:
        self._stepping = threading.Lock()
        self._admission = threading.Lock()
        self._lock = threading.Lock()  # held for moments; guards the senses and all below
        self._steering = Steering(rules.policy, rules.sampling)
        self._senses = Senses()
        self._members: dict[int, _Member] = {}
        self._ended_early: set[int] = set()  # ended before their admission did
        self._in_admission = 0
        self._ending = False

    def look(self) -> tuple[Snapshot, dict[int, float]]:
        """Return the figures of now, and the guests' stall percentages by id."""
        with self._lock:
            return self._look_locked()

    def step(self) -> float:
        """
        Sense, decide, act.

        Returns:
            In how many seconds to do so again, unless it is urgent: sooner while memory
            is short, but then not for more than a small part of the time.
        """
        began = time.monotonic()
        with self._stepping:
            paged = self._pager.taken()
            machine, sights = self._engine.look()
            with self._lock:
                subjects = {
                    guest_id: Subject(
                        name=member.name, parameters=member.parameters,
                        balloon_wish_pages=member.balloon_wish_pages,
                    )
                    for guest_id, member in self._members.items()
                }
            todo = self._steering.step(machine, sights, subjects, paged)
            self._hands.set_targets(todo.targets)
            self._act(todo)
            for guest_id, pages in todo.low_limits.items():
                self._engine.set_low(guest_id, pages)
            self._engine.set_aim(todo.aim_pages)
            self._engine.alarm(todo.alarm_pages)
            short = self._steering.taking
        if not short:
            return PERIOD_S
        took_s = time.monotonic() - began
        return min(PERIOD_S, max(SHORT_PERIOD_S, STEP_PART * took_s))

    def close(self) -> None:
        """End what goes on in the background; before the engine is stopped."""
        self._pager.stop()

    def admit(self, asked: Application) -> Admission:
        """
        Register a guest, which is a child of the process that asks.

        Raises:
            BadInputError: If a value cannot be had, or the process is not there, or
                not the peer's to give away: guests end with the daemon.
            ConflictError: If the name is taken, or the process is a guest.
            NoRoomError: If there is no room for its min or its max, or for any guest.
            NotReadyError: If the daemon is ending.
        """
        who = applicant(asked)
        token = secrets.token_bytes(16)
        with self._admitting():
            machine, _ = self._engine.look()
            allowed = parameters(asked.wanted, machine, self._rules.defaults)
            promised = asked.wanted.max is not None
            reserve(self._room(machine), booking(allowed, promised=promised))
            config = GuestConfig(
                name=self._free_name(asked.name) if asked.numbered else asked.name,
                token=token, pid=asked.pid, uid=who.uid, gid=who.gid, kin=False,
                share_group=who.share_group,
                min_pages=allowed.min_pages, max_pages=allowed.max_pages,
                target_pages=max(
                    allowed.min_pages, min(allowed.max_pages, machine.total_pages)
                ),
            )
            self._check_free(who.process)
            try:
                guest_id = self._engine.create_guest(config)
            except ConflictError:
                raise ConflictError(
                    f"a guest named {config.name} runs already; choose another --name"
                ) from None
            self._join(
                guest_id,
                _Member(
                    config=config, process=who.process, parameters=allowed, promised=promised
                ),
            )
        return Admission(name=config.name, token=token, max_pages=config.max_pages)

    def adopt(self, guest_id: int, pid: int) -> None:
        """
        Register a process as kin to a guest: a forked child, or what it executes.

        It is of the same user, size and shares, with a name of its own; it has no min, and
        nothing is reserved for it.
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
                _Member(
                    config=config, process=kin_process, promised=False,
                    parameters=replace(member.parameters, min_pages=0),
                ),
            )

    def set(self, name: str, wanted: Wanted) -> Guest:
        """
        Change what a guest may hold: all that is asked for, or nothing.

        Raises:
            UnknownGuestError: If there is no such guest.
            BadInputError: If a value cannot be had, or they do not fit together.
            NoRoomError: If there is no room for its min or its max.
            NotReadyError: If the daemon is ending.
        """
        with self._admitting():
            guest_id, member = self._member(name)
            machine, _ = self._engine.look()
            allowed = parse(wanted, memory_pages=machine.total_pages, base=member.parameters)
            size_pages = member.config.max_pages
            if allowed.max_pages > size_pages:
                raise BadInputError(
                    f"max {sized(allowed.max_pages)} is more than the {sized(size_pages)} of "
                    f"memory that {name} was started with, which cannot grow"
                )
            before = _booking(member)
            after = booking(allowed, promised=member.promised, size_pages=size_pages)
            if after.min_pages > before.min_pages or after.swap_pages > before.swap_pages:
                reserve(release(self._room(machine), before), after)
            self._engine.set_min(guest_id, allowed.min_pages)
            with self._lock:
                if now := self._members.get(guest_id):
                    self._members[guest_id] = replace(now, parameters=allowed)
        self._on_urgent()
        return self.guest(name)

    def reclaim(self, name: str, size: str, tier: str) -> Moved:
        """
        Take *size* (100% is all that is resident) of a guest into a tier, but not its min.

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
        return self._engine.reclaim(
            guest.id, wanted_pages, tier, floor_pages=guest.min_pages
        )

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

    def set_balloon(self, name: str, size: str) -> Guest:
        """
        Ask a guest to give back *size* (100% is its max); returns at once.

        The policy may ask for more. It lets go no more than what is above *size*, until
        less is asked for here.

        Returns:
            The guest's figures of now, with what it is asked for.

        Raises:
            BadInputError: If it is no size, or more than a balloon may be.
            UnknownGuestError: If there is no such guest.
            NotReadyError: If it has not attached yet.
        """
        guest = self.guest(name)
        max_bytes = pages_to_bytes(guest.max_pages)
        pages = bytes_to_pages(parse_size(size, percent_of=max_bytes, what="size"))
        if pages > guest.balloon_max_pages:
            raise BadInputError(
                f"{sized(pages)} is more than the {sized(guest.balloon_max_pages)} that the "
                f"balloon of {name} may be"
            )
        with self._stepping:  # which would let it go by what it knew before
            self._engine.set_balloon(guest.id, pages)
            with self._lock:
                member = self._members.get(guest.id)
                if member is not None:
                    self._members[guest.id] = replace(member, balloon_wish_pages=pages)
        return self.guest(name)

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

    def explain(self, name: str | None = None) -> Explanation:
        """
        Return the newest decisions: all, or those that changed a guest's target.

        Raises:
            UnknownGuestError: If there is no such guest, and was none lately.
        """
        steering = self._steering
        decisions = steering.decisions(name)
        if name is not None and not decisions:
            self._member(name)
        return Explanation(
            now_ns=time.monotonic_ns(), state=steering.state.word, policy=steering.policy,
            decisions=decisions,
        )

    def page_map(self, name: str, cells: int) -> PageMap:
        """
        Return where a guest's pages are, in so many equal ranges of its memory.

        Raises:
            UnknownGuestError: If there is no such guest.
            NotReadyError: If it has not attached yet.
            BadInputError: If there cannot be so many.
        """
        guest = self.guest(name)
        return self._engine.page_map(guest.id, guest.size_pages, cells)

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
        if event.kind in (EventKind.ENDED, EventKind.ATTACHED, EventKind.SHORT):
            self._on_urgent()
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
        self._on_urgent()

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
        snapshot = self._engine.snapshot(
            {
                guest_id: _standing(member, self._steering.active(guest_id))
                for guest_id, member in self._members.items()
            }
        )
        booked = [_booking(member) for member in self._members.values()]
        there = machine_room(snapshot.machine, booked, own_pages=self._own_pages)
        machine = replace(
            snapshot.machine, state=self._steering.state.word,
            reserved_pages=there.reserved_pages,
            reserved_swap_pages=there.reserved_swap_pages,
        )
        snapshot = replace(snapshot, machine=machine)
        self._senses.see(snapshot)
        stalls = {guest.id: self._senses.stall_percent(guest.id) for guest in snapshot.guests}
        return snapshot, stalls

    def _act(self, todo: ToDo) -> None:
        for guest_id in todo.draw:
            self._hands.draw(guest_id, self._rules.sampling.pages)
        for guest_id in todo.release:
            self._hands.block(guest_id, 0)
        for order in todo.orders:
            self._hands.set_balloon(order.id, order.balloon_pages)
            if order.blocked_until_ns:
                self._hands.block(order.id, order.blocked_until_ns)
        self._pager.ask(
            {
                order.id: Paging(
                    pages=order.page_out_pages, floor_pages=todo.floors[order.id]
                )
                for order in todo.orders if order.page_out_pages
            }
        )

    def _room(self, machine: Machine) -> Room:
        """Return what there is, and what is promised of it."""
        with self._lock:
            booked = [_booking(member) for member in self._members.values()]
        return machine_room(machine, booked, own_pages=self._own_pages)

    def _member(self, name: str) -> tuple[int, _Member]:
        with self._lock:
            for guest_id, member in self._members.items():
                if member.name == name:
                    return guest_id, member
        raise UnknownGuestError(f"there is no guest {shown(name)}; 'uvmm ps' lists them")

    def _free_name(self, wanted: str) -> str:
        with self._lock:
            members = list(self._members.values())
        return free_name(wanted, {each.name for each in members if each.process.alive()})

    def _changed_locked(self) -> None:
        self._on_change({member.name: member.process for member in self._members.values()})


def _standing(member: _Member, active: float) -> Standing:
    allowed = member.parameters
    return Standing(
        min_pages=allowed.min_pages, max_pages=allowed.max_pages, shares=allowed.shares,
        tax=allowed.tax, balloon_max_pages=allowed.balloon_max_pages, active=active,
        promised=member.promised,
    )


def _booking(member: _Member) -> Booking:
    return booking(
        member.parameters, promised=member.promised, size_pages=member.config.max_pages
    )
