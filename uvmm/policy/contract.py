# SPDX-License-Identifier: MIT
"""
What a policy is, and what no policy may do.

A policy is one object with a name and one method. Whatever it decides is checked before
anything is done by it: min wins over everything, and nobody is promised memory that
is not there. A policy that fails, or decides what cannot be, is not obeyed: uvmm's
own decides in its place, and the decision says so.
"""

from __future__ import annotations

from dataclasses import replace
from operator import is_not
from typing import TYPE_CHECKING, Protocol

from uvmm.errors import BadInputError
from uvmm.policy.decision import Decision, Verdict
from uvmm.policy.observation import GuestSeen, Observation
from uvmm.policy.parameters import Parameters
from uvmm.policy.shares import TaxedShares
from uvmm.units import format_size, pages_to_bytes, shown

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_CHARACTERS = 40
_MIB_PAGES = 256


class Policy(Protocol):
    """
    Observations in, decisions out.

    `decide` is called with one observation after another, by one thread at a time. It
    must return soon, and should have no I/O and no clock: `seen.now_ns` is the time.
    """

    @property
    def name(self) -> str:
        """What decisions call it."""

    def decide(self, seen: Observation) -> Decision:
        """Return a target for each of `seen.guests`, in their order."""


class UnsoundError(BadInputError):
    """A policy decided what cannot be."""


def check(seen: Observation, decision: object) -> Decision:
    """
    Return *decision* if it can be done.

    Raises:
        UnsoundError: If it is no decision, leaves guests out, or a target is not
            between min and max, or they add up to more than there is.
    """
    if not isinstance(decision, Decision):
        raise UnsoundError(f"expected a Decision, got {type(decision).__name__}")
    judged = [verdict.guest for verdict in decision.verdicts]
    if len(judged) != len(seen.guests) or any(map(is_not, judged, seen.guests)):
        raise UnsoundError(
            f"expected a verdict for each of {len(seen.guests)} guests, as they were seen and "
            f"in their order, got {len(judged)} for others or in another order"
        )
    for verdict, guest in zip(decision.verdicts, seen.guests, strict=True):
        _check_target(verdict, guest.parameters)
    mins = sum(guest.parameters.min_pages for guest in seen.guests)
    promised = sum(verdict.target_pages for verdict in decision.verdicts)
    if promised > max(mins, seen.available_pages):
        raise UnsoundError(
            f"targets add up to {_size(promised)}, but {_size(seen.available_pages)} is "
            f"available and all mins together are {_size(mins)}"
        )
    return decision


class Guarded:
    """A user's policy, of which only sound decisions are taken."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._own = TaxedShares()
        self.name = policy.name

    def decide(self, seen: Observation) -> Decision:
        """Ask the policy; if it fails, decide without it."""
        try:
            return replace(check(seen, self._policy.decide(seen)), policy=self.name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise both
            failed = f"{self.name} failed ({reason(error)}), so it was {self._own.name}"
            return replace(self._own.decide(seen), policy=failed)


def accept(
    candidate: object, *, within: Callable[[Policy], Policy] = lambda policy: policy
) -> Policy:
    """
    Return *candidate* as a policy, guarded, if it passes a trial.

    Args:
        candidate: What is to be a policy.
        within: Puts it into something that bounds what it may take.

    Raises:
        BadInputError: If it has no proper name or no `decide`.
        UnsoundError: If it fails at guests as there are everywhere.
    """
    name = getattr(candidate, "name", None)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise BadInputError(f"its name must be a line of text, not {shown(repr(name))}")
    if len(name) > NAME_CHARACTERS:
        raise BadInputError(f"its name is longer than {NAME_CHARACTERS} characters")
    decide = getattr(candidate, "decide", None)
    if not callable(decide):
        raise BadInputError("it has no method decide(seen)")
    bounded = within(candidate)  # type: ignore[arg-type]  # it is one, as far as can be seen
    for seen in TRIALS:
        try:
            check(seen, bounded.decide(seen))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's code may raise both
            raise UnsoundError(
                f"decide() failed in a trial with {len(seen.guests)} guests: {reason(error)}"
            ) from None
    return Guarded(bounded)


def reason(error: BaseException) -> str:
    """Put what a user's code raised into one line."""
    words = " ".join(str(error).split())
    return words if isinstance(error, UnsoundError) else f"{type(error).__name__}: {words}"


def _check_target(verdict: Verdict, parameters: Parameters) -> None:
    target = verdict.target_pages
    if not isinstance(target, int) or isinstance(target, bool):
        raise UnsoundError(
            f"the target of {verdict.guest.name} must be a whole number of pages, "
            f"not {shown(repr(target))}"
        )
    if not isinstance(verdict.why, str):
        raise UnsoundError(
            f"why {verdict.guest.name} has its target must be words, "
            f"not {shown(repr(verdict.why))}"
        )
    if not parameters.min_pages <= target <= parameters.max_pages:
        raise UnsoundError(
            f"the target of {verdict.guest.name}, {_size(target)}, is not between its min "
            f"{_size(parameters.min_pages)} and its max {_size(parameters.max_pages)}"
        )


def _size(pages: int) -> str:
    return format_size(pages_to_bytes(pages)) if pages >= 0 else f"{pages} pages"


def _trial(*mib: tuple[int, int, int, float]) -> Observation:
    """Return a machine of 1 GiB with guests of (min, max, held) MiB and activity."""
    guests = tuple(
        GuestSeen(
            id=number, name=f"trial-{number}", held_pages=held * _MIB_PAGES,
            touched_pages=held * _MIB_PAGES, active=active,
            parameters=Parameters(
                min_pages=low * _MIB_PAGES, max_pages=high * _MIB_PAGES, shares=1000 * number,
                tax=0.75, balloon_max_pages=high * _MIB_PAGES // 2,
            ),
        )
        for number, (low, high, held, active) in enumerate(mib, start=1)
    )
    held_pages = sum(guest.held_pages for guest in guests)
    total_pages = 1024 * _MIB_PAGES
    return Observation(
        now_ns=0, total_pages=total_pages, own_pages=0,
        free_pages=total_pages - held_pages, guests=guests,
    )


TRIALS = (
    _trial(),
    _trial((0, 256, 0, 1.0)),
    _trial((64, 512, 300, 0.1), (0, 2048, 500, 0.9), (128, 512, 100, 0.0)),
    _trial((512, 1024, 512, 0.0), (512, 1024, 512, 1.0)),
)
