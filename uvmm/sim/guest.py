# SPDX-License-Identifier: MIT
"""
A model guest: a process with a heap, of which it uses a part.

Where its pages are:

| pages | are |
|---|---|
| `zeros` | held, touched with zeros only; paged out without being stored |
| `idle`, `idle_out` | with contents that it does not use now; held, and swapped out |
| `used`, `used_out` | its active set; held, and swapped out |
| `ballooned` | given back |

What is none of these is untouched, or `dropped` by the guest itself: to fill its
balloon, or in place of what it needs more. It reads that again when it wants it. Only
the guest knows which pages it uses: the balloon takes zeros and idle pages first.
Paging has an idle-age scan, and takes them first, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from uvmm.policy.activity import Activity, Sampling, observe
from uvmm.policy.observation import GuestSeen, Tried

if TYPE_CHECKING:
    from random import Random

    from uvmm.policy.parameters import Parameters
    from uvmm.policy.reclaim import Order
    from uvmm.sim.scenario import Kind, Phase

_NS = 1_000_000_000


@dataclass(slots=True, kw_only=True)
class _Sample:
    """The pages that are watched in the running period."""

    hits: int = 0  # of them, in the active set
    touched: int = 0
    missed: float = 1.0  # the part of the hits that was not touched yet
    drawn_for: float = -1.0  # the part of its memory that was in the active set then
    executed_s: float = 0.0
    elapsed_s: float = 0.0


class ModelGuest:
    """One guest from its start to its end."""

    __slots__ = (
        "_at_phase", "_chance", "_order", "_sample", "_sampling", "_started_s", "activity",
        "ballooned", "dropped", "id", "idle", "idle_out", "kind", "name", "parameters",
        "progress_s", "ran_s", "speed", "tried", "used", "used_out", "zeroed", "zeros",
        "zeros_dropped",
    )

    def __init__(
        self, kind: Kind, *, id: int, name: str, started_s: float, chance: Random  # noqa: A002
    ) -> None:
        self.kind = kind
        self.id = id
        self.name = name
        self.parameters: Parameters = kind.parameters
        self.zeros = self.idle = self.idle_out = self.used = self.used_out = 0
        self.ballooned = self.dropped = self.zeroed = self.zeros_dropped = 0
        self.speed = 1.0  # in the last step; 1 is without waiting for memory
        self.progress_s = self.ran_s = 0.0  # their quotient is the mean speed
        self.activity = Activity()
        self.tried = Tried()
        self._started_s = started_s
        self._at_phase = 0
        self._order: Order | None = None
        self._sampling = Sampling()
        self._sample = _Sample()
        self._chance = chance

    @property
    def size(self) -> int:
        """The pages of its memory, of which its max may have become less."""
        return self.kind.parameters.max_pages

    @property
    def held(self) -> int:
        """Pages in machine memory."""
        return self.zeros + self.idle + self.used

    @property
    def swapped(self) -> int:
        """Pages that are stored."""
        return self.idle_out + self.used_out

    @property
    def phase(self) -> Phase:
        """What it does now."""
        return self.kind.phases[self._at_phase]

    @property
    def active(self) -> float:
        """The part of its touched memory that it truly uses."""
        return (self.used + self.used_out) / max(1, self.held + self.swapped)

    def seen(self, now_s: float) -> GuestSeen:
        """Return what uvmm sees of it."""
        held = self.held
        return GuestSeen(
            id=self.id, name=self.name, parameters=self.parameters, held_pages=held,
            touched_pages=held + self.swapped, active=self.activity.estimate,
            ballooned_pages=self.ballooned, tried=self.tried,
            balloon_able=self._balloon_able(now_s),
        )

    def live(self, now_s: float, step_s: float, free_pages: int) -> int:
        """
        Let it run for a step, in which it may take *free_pages*.

        Returns:
            How many of them it took.
        """
        phases, age_s = self.kind.phases, now_s - self._started_s
        while (
            self._at_phase + 1 < len(phases) and phases[self._at_phase + 1].at_s <= age_s
        ):
            self._at_phase += 1
        phase = self.phase
        runs_s = step_s * phase.cpu * (1.0 - self._blocked_part(now_s, step_s))
        before = self.held
        self._use(phase)
        missing = max(0, phase.active_pages - self.used)
        wanted = round(missing * (1.0 - exp(-runs_s / phase.sweep_s)))
        rate = round(self.kind.growth_rate * runs_s)
        fresh = self._grow(phase, rate, free_pages, wanted)
        waited_s = max(0, wanted - fresh) * self.kind.miss_s
        if phase.cpu:
            ran_s = runs_s * runs_s / (runs_s + waited_s) if runs_s else 0.0
            self.speed = ran_s / (step_s * phase.cpu)
            self.ran_s += step_s
            self.progress_s += self.speed * step_s
        self._watch(phase, runs_s, step_s)
        return self.held - before

    def obey(
        self, order: Order | None, step_s: float, *, now_s: float, room: PagingRoom
    ) -> None:
        """Do what is ordered; None is nothing. Paging takes from *room*."""
        self._order = order
        if order is None:
            self.tried = _NOTHING
            return
        asked = max(0, order.balloon_pages - self.ballooned)
        given = self._inflate(asked, step_s) if asked and self._balloon_able(now_s) else 0
        if not asked:
            self.ballooned = order.balloon_pages
        paged = self._page_out(order.page_out_pages, room)
        self.tried = Tried(asked_pages=asked, given_pages=given, paged_pages=paged)

    def _balloon_able(self, now_s: float) -> bool:
        return self.kind.balloon and now_s - self._started_s >= self.kind.balloon_after_s

    def _blocked_part(self, now_s: float, step_s: float) -> float:
        if self._order is None or not self._order.blocked_until_ns:
            return 0.0
        return min(1.0, max(0.0, (self._order.blocked_until_ns / _NS - now_s) / step_s))

    def _use(self, phase: Phase) -> None:
        """Fit the active set to the phase: pages become idle, or idle ones used."""
        too_many = self.used + self.used_out - phase.active_pages
        if too_many > 0:
            out = too_many * self.used_out // (self.used + self.used_out)
            self.used_out -= out
            self.idle_out += out
            self.used -= too_many - out
            self.idle += too_many - out
        elif too_many < 0 and self.idle + self.idle_out:
            more = min(-too_many, self.idle + self.idle_out)
            out = more * self.idle_out // (self.idle + self.idle_out)
            self.idle_out -= out
            self.used_out += out
            self.idle -= more - out
            self.used += more - out

    def _grow(self, phase: Phase, rate: int, free_pages: int, wanted: int) -> int:
        """
        Load what it misses and touch new pages, within *free_pages*.

        Returns:
            How many pages of its active set it touched for the first time.
        """
        back = min(wanted, self.used_out, free_pages)
        self.used_out -= back
        self.used += back
        free_pages -= back
        lacks = max(0, min(phase.active_pages - self.used - self.used_out, rate))
        from_zeros = min(lacks, self.zeros)
        self.zeros -= from_zeros
        room = min(
            self.size - self.ballooned - self.held - self.swapped,
            self.parameters.max_pages - self.held,
        )
        room = min(max(0, room - from_zeros), free_pages)
        given = min(lacks - from_zeros, room)
        # Where no page is to be had, its own idle ones make room.
        replaced = min(lacks - from_zeros - given, wanted, self.idle)
        self.idle -= replaced
        self.used += from_zeros + given + replaced
        again = min(from_zeros + given + replaced, self.dropped)
        self.dropped += replaced - again
        there = self.zeroed if phase.zeros else self.held + self.swapped
        more = max(0, min(phase.touched_pages - there, rate - lacks, room - given))
        if phase.zeros:
            self.zeros += more
            self.zeroed += more
        else:
            self.idle += more
            self.dropped -= min(self.dropped, more)
        return from_zeros + given + replaced - again

    def _inflate(self, asked: int, step_s: float) -> int:
        """Give pages: unused ones at once, others as fast as it can."""
        limit = round(self.kind.balloon_rate * step_s)
        given = min(asked, self.zeros)
        self.zeros -= given
        idle = min(asked - given, self.idle, limit)
        self.idle -= idle
        used = min(asked - given - idle, self.used, limit - idle)
        self.used -= used
        self.dropped += idle + used
        given += idle + used
        self.ballooned += given
        return given

    def _page_out(self, asked: int, room: PagingRoom) -> int:
        zeros = min(asked, self.zeros)
        self.zeros -= zeros
        self.zeros_dropped += zeros
        idle = min(asked - zeros, self.idle, room.pages)
        self.idle -= idle
        self.idle_out += idle
        used = min(asked - zeros - idle, self.used, room.pages - idle)
        self.used -= used
        self.used_out += used
        room.pages -= idle + used
        room.stored += idle + used
        return zeros + idle + used

    def _watch(self, phase: Phase, runs_s: float, step_s: float) -> None:
        """Look at the sampled pages, and begin a new period when one is over."""
        sample, pages = self._sample, self._sampling.pages
        if not self.held + self.swapped:
            return
        active = self.active
        if abs(active - sample.drawn_for) > _REDRAW:
            # A new sample, or another active set: which pages not touched yet are in it?
            rest = pages - sample.touched
            drawn = sum(self._chance.random() < active for _ in range(rest))
            sample.hits = sample.touched + drawn
            sample.missed = drawn / max(1, sample.hits)
            sample.drawn_for = active
        sample.executed_s += runs_s
        sample.elapsed_s += step_s
        sample.missed *= exp(-runs_s / phase.sweep_s)
        sample.touched = max(sample.touched, round(sample.hits * (1.0 - sample.missed)))
        fraction = self._sampling.fraction(
            executed_s=sample.executed_s, elapsed_s=sample.elapsed_s
        )
        self.activity = observe(
            self.activity, touched=sample.touched, sampled=pages, fraction=fraction
        )
        if fraction == 1:
            self._sample = _Sample()


@dataclass(slots=True)
class PagingRoom:
    """How much more can be paged out in this step."""

    pages: int
    stored: int = 0


_NOTHING = Tried()
_REDRAW = 0.02  # of its memory: by so much another active set is another one
