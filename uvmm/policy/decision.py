# SPDX-License-Identifier: MIT
"""
Decisions, so that they can be explained: in words, and as JSON.

A `Verdict` is what one guest is to hold and why, and what was tried with it since the
decision before; a `Payment` says from whom memory goes to whom.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvmm.policy.observation import NOTHING_TRIED, Tried
from uvmm.policy.states import State
from uvmm.units import PAGE_BYTES, pages_to_bytes, sized

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from uvmm.policy.observation import GuestSeen, Observation

HISTORY_LENGTH = 100
HISTORY_VERDICTS = 20_000  # of all decisions together: with many guests fewer are kept
FREE = "free memory"  # as a receiver in a payment


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """
    What one guest is to hold, from what was seen of it, and why.

    A policy leaves `tried` alone: `course.advance` fills it in.
    """

    guest: GuestSeen
    target_pages: int
    why: str
    tried: Tried = NOTHING_TRIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """Memory that is to go from one guest to another, or to be free."""

    payer: str
    receiver: str
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """
    A target for every guest that was seen, in the same order.

    A policy fills in `verdicts`; `cause`, `state`, `available_pages`, `at_ns` and
    `policy` are filled in by `course.advance`, which asked for it.
    """

    verdicts: tuple[Verdict, ...]
    cause: str = ""
    state: State = State.HIGH
    available_pages: int = 0
    at_ns: int = 0
    policy: str = ""

    def payments(self) -> list[Payment]:
        """Return who pays whom: from those above their target to those who may grow."""
        payers = [
            (verdict.guest.name, verdict.guest.held_pages - verdict.target_pages)
            for verdict in self.verdicts if verdict.guest.held_pages > verdict.target_pages
        ]
        receivers = [
            (guest.name, pages)
            for guest, pages in ((v.guest, _growth_pages(v)) for v in self.verdicts) if pages
        ]
        return list(_paired(payers, receivers))

    def of(self, name: str) -> Verdict | None:
        """Return the verdict on the guest of that name."""
        return next((v for v in self.verdicts if v.guest.name == name), None)

    def words(self, name: str | None = None, *, now_ns: int | None = None) -> list[str]:
        """
        Tell it in sentences: all of it, or what is about one guest.

        Args:
            name: Of that guest.
            now_ns: Since when the time is told as past; None tells it as it is.
        """
        when = f"{self.at_ns / 1e9:.1f} s"
        if now_ns is not None:
            when = f"{max(0, now_ns - self.at_ns) / 1e9:.1f} s ago"
        lines = [
            f"{when}: {self.cause}; memory is {self.state}, "
            f"{sized(self.available_pages)} for {len(self.verdicts)} guests by {self.policy}"
        ]
        lines += [
            f"  {verdict_words(verdict)}" for verdict in self.verdicts
            if name in (None, verdict.guest.name)
        ]
        lines += [
            f"  {payment.payer} gives {sized(payment.pages)} to {payment.receiver}"
            for payment in self.payments() if name in (None, payment.payer, payment.receiver)
        ]
        return lines

    def as_json(self, name: str | None = None) -> dict[str, Any]:
        """Return it as plain values: all of it, or what is about one guest."""
        return {
            "at_seconds": self.at_ns / 1e9,
            "cause": self.cause,
            "state": str(self.state),
            "policy": self.policy,
            "available_bytes": pages_to_bytes(self.available_pages),
            "guests": [
                _verdict_json(verdict) for verdict in self.verdicts
                if name in (None, verdict.guest.name)
            ],
            "payments": [
                {
                    "payer": payment.payer, "receiver": payment.receiver,
                    "bytes": pages_to_bytes(payment.pages),
                }
                for payment in self.payments()
                if name in (None, payment.payer, payment.receiver)
            ],
        }


class History:
    """The newest decisions, oldest first; they are bounded, by number and by guests."""

    def __init__(
        self, length: int = HISTORY_LENGTH, verdicts: int = HISTORY_VERDICTS
    ) -> None:
        self._decisions: deque[Decision] = deque(maxlen=length)
        self._verdicts_max = verdicts

    def __len__(self) -> int:
        return len(self._decisions)

    def __iter__(self) -> Iterator[Decision]:
        return iter(self._decisions)

    def add(self, decision: Decision) -> None:
        """Remember *decision*, in the place of the oldest ones if there are too many."""
        self._decisions.append(decision)
        kept = sum(len(one.verdicts) for one in self._decisions)
        while kept > self._verdicts_max and len(self._decisions) > 1:
            kept -= len(self._decisions.popleft().verdicts)

    def about(self, name: str) -> list[Decision]:
        """Return those that changed the target of the guest of that name, and the newest."""
        told: list[Decision] = []
        before = newest = None
        for decision in self._decisions:
            verdict = decision.of(name)
            if verdict is None:
                continue
            if verdict.target_pages != before:
                told.append(decision)
            before, newest = verdict.target_pages, decision
        if newest is not None and newest is not told[-1]:
            told.append(newest)
        return told


def decision_of(
    seen: Observation, targets: Sequence[int], whys: Iterable[str]
) -> Decision:
    """Return the decision with these targets and reasons, in the order of the guests."""
    return Decision(
        verdicts=tuple(
            Verdict(guest=guest, target_pages=target, why=why)
            for guest, target, why in zip(seen.guests, targets, whys, strict=True)
        )
    )


def verdict_words(verdict: Verdict) -> str:
    """Tell a verdict in a sentence."""
    guest, parameters = verdict.guest, verdict.guest.parameters
    rho = guest.shares_per_page(verdict.target_pages) * (1 << 20) / PAGE_BYTES
    tried = verdict.tried
    asked = (
        f"; asked for {sized(tried.asked_pages)} its balloon gave {sized(tried.given_pages)}"
        if tried.asked_pages else ""
    )
    if not guest.balloon_able:
        asked += "; its agent does not answer"
    paged = f"; {sized(tried.paged_pages)} were paged out" if tried.paged_pages else ""
    if tried.blocks:
        paged += f"; it was blocked {tried.blocks} time{'' if tried.blocks == 1 else 's'}"
    return (
        f"{guest.name}: target {sized(verdict.target_pages)}, holds "
        f"{sized(guest.held_pages)} of {sized(parameters.max_pages)}: {verdict.why}; "
        f"{parameters.shares} shares, {100 * guest.active:.0f}% active, an idle page counts "
        f"{parameters.idle_price:.3g}-fold: {rho:.3g} shares a MiB{asked}{paged}"
    )


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    guest, parameters = verdict.guest, verdict.guest.parameters
    return {
        "name": guest.name,
        "target_bytes": pages_to_bytes(verdict.target_pages),
        "why": verdict.why,
        "held_bytes": pages_to_bytes(guest.held_pages),
        "touched_bytes": pages_to_bytes(guest.touched_pages),
        "ballooned_bytes": pages_to_bytes(guest.ballooned_pages),
        "balloon_able": guest.balloon_able,
        "active_percent": round(100 * guest.active, 1),
        "min_bytes": pages_to_bytes(parameters.min_pages),
        "max_bytes": pages_to_bytes(parameters.max_pages),
        "shares": parameters.shares,
        "tax_percent": round(100 * parameters.tax, 1),
        "shares_per_mib": guest.shares_per_page(verdict.target_pages) * (1 << 20) / PAGE_BYTES,
        "tried": {
            "asked_bytes": pages_to_bytes(verdict.tried.asked_pages),
            "given_bytes": pages_to_bytes(verdict.tried.given_pages),
            "paged_bytes": pages_to_bytes(verdict.tried.paged_pages),
            "blocks": verdict.tried.blocks,
        },
    }


def _growth_pages(verdict: Verdict) -> int:
    """Return how much more the guest may and can make use of."""
    guest = verdict.guest
    return max(0, min(verdict.target_pages, guest.wanted_pages) - guest.held_pages)


def _paired(
    payers: list[tuple[str, int]], receivers: list[tuple[str, int]]
) -> Iterator[Payment]:
    """Match largest with largest; what nobody receives is to be free."""
    waiting = iter(sorted(receivers, key=_by_pages))
    receiver, room = next(waiting, (FREE, 0))
    for payer, owed in sorted(payers, key=_by_pages):
        left = owed
        while left:
            paid = min(left, room) if room else left
            yield Payment(payer=payer, receiver=receiver if room else FREE, pages=paid)
            left -= paid
            room = max(0, room - paid)
            if not room:
                receiver, room = next(waiting, (FREE, 0))


def _by_pages(one: tuple[str, int]) -> tuple[int, str]:
    return -one[1], one[0]
