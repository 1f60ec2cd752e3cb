# SPDX-License-Identifier: MIT
"""
What the daemon remembers of its figures: a sample a second, then one every ten.

The time is an argument. What it takes is bounded: by the number of samples
(`FINE_SAMPLES` of one second, `COARSE_SAMPLES` of ten), and in bytes (`bytes_for`). A
sample takes 400 bytes and 120 for each guest; with many guests it reaches back less far.

A coarse sample is a fine one that is kept for longer. Its words (pressure, state) are
the worst of the ten seconds that it stands for, so that none is missed.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FINE_S = 1
FINE_SAMPLES = 600
COARSE_EVERY = 10
COARSE_SAMPLES = 1440
LEAST_BYTES = 1 << 20
MOST_BYTES = 32 << 20
MEMORY_PART = 256
_SAMPLE_BYTES = 400  # of a sample without guests: objects, the machine's figures
_VALUE_BYTES = 8
_NAME_BYTES = 128

# Those figures of /v1/stats that are remembered; percentages in hundredths.
MACHINE_FIELDS = (
    "total_bytes", "used_bytes", "guest_bytes", "overhead_bytes", "frame_bytes",
    "shared_bytes", "saved_bytes", "swap_used_bytes", "reclaimed_pages", "refused",
)
GUEST_FIELDS = (
    "max_bytes", "target_bytes", "resident_bytes", "shared_bytes", "ballooned_bytes",
    "compressed_bytes", "swapped_bytes", "far_bytes", "active_bytes", "faults", "pages_in",
    "pages_out", "stall_percent",
)
# Words, from the best to the worst.
WORDS = {
    "pressure": ("none", "some", "full"),
    "state": ("high", "clear", "soft", "hard", "low"),
}
_PERCENT = "percent"
_WIDTH = 1 + len(GUEST_FIELDS)  # of a guest's values: its number and its figures


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    number: int
    at_s: float
    words: tuple[int, ...]  # places in WORDS
    machine: array[int]
    names: tuple[str, ...]
    guests: array[int]  # _WIDTH values each
    new_names: int  # of `names`, which no sample before has

    @property
    def cost_bytes(self) -> int:
        values = len(self.guests) + len(self.names)
        return _SAMPLE_BYTES + _VALUE_BYTES * values + _NAME_BYTES * self.new_names


class _Ring:
    """The newest samples, within bounds."""

    def __init__(self, samples_max: int, bytes_max: int) -> None:
        self.samples: deque[_Sample] = deque()
        self._samples_max = samples_max
        self._bytes_max = bytes_max
        self._bytes = 0

    def add(self, sample: _Sample) -> None:
        self.samples.append(sample)
        self._bytes += sample.cost_bytes
        while len(self.samples) > 1 and (
            len(self.samples) > self._samples_max or self._bytes > self._bytes_max
        ):
            self._bytes -= self.samples.popleft().cost_bytes


def bytes_for(memory_bytes: int) -> int:
    """Return what a history may take of so much machine memory."""
    return max(LEAST_BYTES, min(MOST_BYTES, memory_bytes // MEMORY_PART))


class History:
    """Remembers figures; calls may be made from any thread."""

    def __init__(self, *, started_s: float, bytes_max: int) -> None:
        """
        Begin with nothing.

        Args:
            started_s: When, in seconds since 1970: by it a reader knows that numbers
                begin anew.
            bytes_max: What it may take in all.
        """
        self._lock = threading.Lock()  # guards all below
        self._started_s = started_s
        self._fine = _Ring(FINE_SAMPLES, bytes_max // 2)
        self._coarse = _Ring(COARSE_SAMPLES, bytes_max // 2)
        self._numbers: dict[str, int] = {}  # of guests, by what tells them apart
        self._last_guest = 0
        self._coarse_guest = 0  # the same, when the last coarse sample was taken
        self._last = 0
        self._worst: tuple[int, ...] = (0,) * len(WORDS)

    def add(self, figures: Mapping[str, Any], *, at_s: float) -> None:
        """Remember *figures*, as /v1/stats tells them; what is not in them is 0."""
        with self._lock:
            self._add_locked(figures["machine"], figures["guests"], at_s)

    def told(self, since: int = 0, name: str | None = None) -> dict[str, Any]:
        """
        Return the samples after number *since*, oldest first, in columns.

        With a name, only the guests that are called so.

        Each guest's columns begin with sample `first` of those returned.
        """
        with self._lock:
            oldest = self._fine.samples[0].number if self._fine.samples else 0
            samples = [one for one in self._coarse.samples if since < one.number < oldest]
            samples += [one for one in self._fine.samples if one.number > since]
            last = self._last
        return {
            "started_at": self._started_s,
            "last": last,
            "numbers": [one.number for one in samples],
            "at_seconds": [one.at_s for one in samples],
            "machine": _machine_columns(samples),
            "guests": _guest_columns(samples, name),
        }

    def _add_locked(
        self, machine: Mapping[str, Any], guests: Sequence[Mapping[str, Any]], at_s: float
    ) -> None:
        known = self._last_guest
        values = array("q", self._guest_values(guests))
        self._last += 1
        sample = _Sample(
            number=self._last, at_s=round(at_s, 3),
            words=tuple(_place(machine.get(key), words) for key, words in WORDS.items()),
            machine=array("q", (_whole(machine, field) for field in MACHINE_FIELDS)),
            names=tuple(guest["name"] for guest in guests), guests=values,
            new_names=self._last_guest - known,
        )
        self._fine.add(sample)
        self._worst = tuple(map(max, self._worst, sample.words))
        if self._last % COARSE_EVERY == 0:
            names = self._last_guest - self._coarse_guest
            self._coarse.add(replace(sample, words=self._worst, new_names=names))
            self._coarse_guest = self._last_guest
            self._worst = (0,) * len(WORDS)

    def _guest_values(self, guests: Iterable[Mapping[str, Any]]) -> Iterable[int]:
        here: dict[str, int] = {}
        for guest in guests:
            # A name may be taken again by another process.
            key = f"{guest['pid']} {guest['name']}"
            number = self._numbers.get(key)
            if number is None:
                self._last_guest += 1
                number = self._last_guest
            here[key] = number
            yield number
            for field in GUEST_FIELDS:
                yield _whole(guest, field)
        self._numbers = here


def _machine_columns(samples: list[_Sample]) -> dict[str, Any]:
    return {
        **{
            key: [words[one.words[at]] for one in samples]
            for at, (key, words) in enumerate(WORDS.items())
        },
        **{
            field: _shown(field, (one.machine[at] for one in samples))
            for at, field in enumerate(MACHINE_FIELDS)
        },
    }


def _guest_columns(samples: list[_Sample], wanted: str | None) -> list[dict[str, Any]]:
    first: dict[int, tuple[str, int]] = {}
    values: dict[int, array[int]] = {}
    for at, sample in enumerate(samples):
        row = sample.guests
        for start, name in zip(range(0, len(row), _WIDTH), sample.names, strict=True):
            if wanted not in (None, name):
                continue
            number = row[start]
            if number not in values:
                first[number], values[number] = (name, at), array("q")
            values[number].extend(row[start + 1 : start + _WIDTH])
    return [
        {
            "name": first[number][0], "number": number, "first": first[number][1],
            **{
                field: _shown(field, column[at :: len(GUEST_FIELDS)])
                for at, field in enumerate(GUEST_FIELDS)
            },
        }
        for number, column in values.items()
    ]


def _place(word: object, words: tuple[str, ...]) -> int:
    return words.index(word) if isinstance(word, str) and word in words else 0


def _whole(figures: Mapping[str, Any], field: str) -> int:
    value = figures.get(field) or 0
    return round(100 * value) if field.endswith(_PERCENT) else int(value)


def _shown(field: str, values: Iterable[int]) -> list[float] | list[int]:
    if field.endswith(_PERCENT):
        return [value / 100 for value in values]
    return list(values)
