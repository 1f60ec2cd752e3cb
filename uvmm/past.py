# SPDX-License-Identifier: MIT
"""
The figures of the past, as `uvmm record` writes them and `uvmm report` reads them.

A line of a record is one sample, a JSON object:

    {"at_seconds": since 1970, "started_at": of the daemon, "number": of the sample,
     "machine": {figure: value}, "guests": [{"name", "number", figure: value}]}

Pure: rows in, values out. Whatever a file says is checked.
"""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uvmm.errors import BadInputError
from uvmm.history import GUEST_FIELDS, MACHINE_FIELDS, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MOMENTS_MAX = 4096  # more are thinned out: a picture has not so many points
LATEST_S = 253_370_764_800.0  # the year 9999
_LARGEST = 2.0**63
_NAME_CHARACTERS = 256
_LINE_CHARACTERS = 8 << 20
_WORST_OF_TWO = [
    at for at, name in enumerate(GUEST_FIELDS) if name.endswith("percent")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestKey:
    """Tells a guest from another that had its name before."""

    started_at: float
    number: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A sample: `words` are places in `WORDS`, figures in the order of the fields."""

    at_s: float
    words: tuple[int, ...]
    machine: array[float]
    guests: Mapping[GuestKey, array[float]]


@dataclass(slots=True, kw_only=True)
class Past:
    """Moments, oldest first; from time to time every second one is merged into the next."""

    moments: list[Moment] = field(default_factory=list)
    merged: int = 1  # how many samples a moment may stand for
    _pending: list[Moment] = field(default_factory=list)

    def add(self, moment: Moment) -> None:
        """Take in a sample."""
        self._pending.append(moment)
        if len(self._pending) < self.merged:
            return
        self.moments.append(_merge(self._pending))
        self._pending = []
        if len(self.moments) > MOMENTS_MAX:
            self.moments = [
                _merge(self.moments[at : at + 2]) for at in range(0, len(self.moments), 2)
            ]
            self.merged *= 2

    def close(self) -> Past:
        """Take in what waits for being merged; returns itself, in order of time."""
        if self._pending:
            self.moments.append(_merge(self._pending))
            self._pending = []
        self.moments.sort(key=lambda moment: moment.at_s)
        return self

    @property
    def guests(self) -> list[GuestKey]:
        """All guests, in the order in which they came."""
        return list(dict.fromkeys(key for moment in self.moments for key in moment.guests))

    def times(self) -> list[float]:
        """Return the time of each moment."""
        return [moment.at_s for moment in self.moments]

    def of_machine(self, name: str) -> list[float]:
        """Return a figure of the machine at each moment."""
        at = MACHINE_FIELDS.index(name)
        return [moment.machine[at] for moment in self.moments]

    def of_guest(self, key: GuestKey, *names: str) -> list[float]:
        """Return a guest's figure, or a sum of some; NaN where it was not there."""
        places = [GUEST_FIELDS.index(name) for name in names]
        return [
            math.nan if (row := moment.guests.get(key)) is None
            else sum(row[at] for at in places)
            for moment in self.moments
        ]

    def of_guests(self, *names: str) -> list[float]:
        """Return the sum over all guests."""
        places = [GUEST_FIELDS.index(name) for name in names]
        return [
            sum(row[at] for row in moment.guests.values() for at in places)
            for moment in self.moments
        ]

    def word(self, name: str) -> list[str]:
        """Return a word (pressure, state) at each moment."""
        at, words = list(WORDS).index(name), WORDS[name]
        return [words[moment.words[at]] for moment in self.moments]


def _merge(moments: list[Moment]) -> Moment:
    """Return the last of *moments*, with the worst of what is to be noticed in any."""
    last = moments[-1]
    if len(moments) == 1:
        return last
    guests = {}
    for key, row in last.guests.items():
        worst = array("d", row)
        for at in _WORST_OF_TWO:
            worst[at] = max(
                other[at] for moment in moments
                if (other := moment.guests.get(key)) is not None
            )
        guests[key] = worst
    return Moment(
        at_s=last.at_s, words=tuple(map(max, *(moment.words for moment in moments))),
        machine=last.machine, guests=guests,
    )


def rows_of(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Turn an answer of /v1/history into rows, one a sample."""
    for at, number in enumerate(told["numbers"]):
        yield {
            "at_seconds": told["at_seconds"][at], "started_at": told["started_at"],
            "number": number,
            "machine": {key: values[at] for key, values in told["machine"].items()},
            "guests": [
                {
                    key: value[at - guest["first"]] if isinstance(value, list) else value
                    for key, value in guest.items() if key != "first"
                }
                for guest in told["guests"]
                if 0 <= at - guest["first"] < len(guest[GUEST_FIELDS[0]])
            ],
        }


def past_of(rows: Iterable[Any]) -> Past:
    """
    Read rows.

    Raises:
        BadInputError: If one is not a sample; says which.
    """
    past = Past()
    for number, row in enumerate(rows, 1):
        try:
            past.add(_moment(row))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadInputError(f"sample {number} is none: {_reason(error)}") from None
    return past.close()


def rows_in(lines: Iterable[str]) -> Iterator[Any]:
    """
    Read the lines of a record; a last one that was cut off is left out.

    Raises:
        BadInputError: If a line is no JSON.
    """
    for number, line in enumerate(lines, 1):
        if len(line) > _LINE_CHARACTERS:
            raise BadInputError(f"line {number} is longer than any sample")
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith("\n"):
                return
            raise BadInputError(f"line {number} is no JSON: {error}") from None


def _moment(row: Any) -> Moment:
    row = _object(row, "it")
    started_at = _number(row["started_at"])
    machine = _object(row["machine"], "machine")
    at_s = _number(row["at_seconds"])
    if not 0 <= at_s < LATEST_S:
        raise ValueError(f"at_seconds {at_s:g} is no time")
    guests = {}
    for one_guest in row["guests"]:
        guest = _object(one_guest, "a guest")
        name = guest["name"]
        if not isinstance(name, str) or len(name) > _NAME_CHARACTERS:
            raise TypeError("a guest's name is no word")
        key = GuestKey(
            started_at=started_at, number=int(_number(guest["number"])), name=name
        )
        guests[key] = array("d", (_number(guest.get(one, 0)) for one in GUEST_FIELDS))
    return Moment(
        at_s=at_s,
        words=tuple(_place(machine.get(key), words) for key, words in WORDS.items()),
        machine=array("d", (_number(machine.get(one, 0)) for one in MACHINE_FIELDS)),
        guests=guests,
    )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is {type(value).__name__}, not an object")
    return value


def _place(word: Any, words: tuple[str, ...]) -> int:
    return words.index(word) if isinstance(word, str) and word in words else 0


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} in the place of a number")
    if not abs(value) < _LARGEST:
        raise ValueError("a number is too large")
    return float(value)


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
