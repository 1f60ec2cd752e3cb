# SPDX-License-Identifier: MIT
"""
What `uvmm top` shows, without the terminal. Pure: answers of the API in, words out.

Each kind of page has a colour and a sign of its own, so that it can be told apart without
colours, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvmm.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Guest = dict[str, Any]
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of page: how it is drawn, and what it is called."""

    name: str
    sign: str
    colour: str


RESIDENT = Kind(name="resident", sign="█", colour="#4f9d69")
SPLIT = Kind(name="split", sign="▚", colour="#9bbf5a")
SHARED = Kind(name="shared", sign="▓", colour="#3a86c8")
BALLOONED = Kind(name="ballooned", sign="o", colour="#b48ead")
COMPRESSED = Kind(name="compressed", sign="z", colour="#d9a441")
SWAPPED = Kind(name="swapped", sign="s", colour="#d0653f")
FAR = Kind(name="far", sign="f", colour="#a05fb4")
DAMAGED = Kind(name="damaged", sign="X", colour="#ff3030")
UNTOUCHED = Kind(name="untouched", sign="·", colour="#606060")
LOW = Kind(name="low", sign="L", colour="#2aa0a0")
OWN = Kind(name="uvmm's own", sign="▒", colour="#8a8a8a")
FREE = Kind(name="free", sign="·", colour="#606060")

# As /v1/guests/NAME/map names them.
MAP_KINDS = (
    RESIDENT, SPLIT, SHARED, LOW, BALLOONED, COMPRESSED, SWAPPED, FAR, DAMAGED, UNTOUCHED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a bar: so many bytes of a kind."""

    kind: Kind
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a guest does in a second."""

    bytes_in: float = 0.0
    bytes_out: float = 0.0
    faults: float = 0.0
    disk_bytes: float = 0.0
    copied_bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A guest's figures, and its rates."""

    guest: Guest
    rates: Rates = Rates()

    @property
    def name(self) -> str:
        """The guest's name."""
        return str(self.guest["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the guests' table; numbers begin with the largest when sorted by."""

    title: str
    width: int
    value: Callable[[Row], Any]
    text: Callable[[Any], str]
    numeric: bool = True

    def cell(self, row: Row) -> str:
        """Return what is shown of a row."""
        return self.text(self.value(row))


def _size_of(*keys: str) -> Callable[[Row], int]:
    return lambda row: sum(int(row.guest.get(key) or 0) for key in keys)


def _sized(title: str, *keys: str, width: int = 7) -> Column:
    return Column(title=title, width=width, value=_size_of(*keys), text=_size)


def _size(value: float) -> str:
    return format_size(int(value)) if value else "0"


# The first ones fit into 80 columns.
COLUMNS = (
    Column(title="NAME", width=12, value=lambda row: row.name, text=str, numeric=False),
    Column(
        title="STALL%", width=7, value=lambda row: float(row.guest["stall_percent"]),
        text=lambda value: f"{value:.1f}",
    ),
    _sized("RESIDENT", "resident_bytes", width=9),
    _sized("TARGET", "target_bytes", width=8),
    _sized("SHARED", "shared_bytes"),
    _sized("BALLOON", "ballooned_bytes", width=8),
    _sized("STORED", "swapped_bytes", "compressed_bytes", "far_bytes"),
    _sized("MAX", "max_bytes"),
    Column(title="IN/s", width=7, value=lambda row: row.rates.bytes_in, text=_size),
    Column(title="OUT/s", width=7, value=lambda row: row.rates.bytes_out, text=_size),
    _sized("ACTIVE", "active_bytes"),
    _sized("MIN", "min_bytes"),
    Column(
        title="SHARES", width=8, value=lambda row: int(row.guest["shares"]), text=str,
    ),
    _sized("SWAPPED", "swapped_bytes", width=8),
    _sized("COMPR", "compressed_bytes"),
    _sized("FAR", "far_bytes"),
    _sized("UNTOUCHED", "untouched_bytes", width=10),
    _sized("UNMANAGED", "unmanaged_bytes", width=10),
    Column(
        title="FAULTS/s", width=9, value=lambda row: row.rates.faults,
        text=lambda value: f"{value:.0f}",
    ),
    Column(title="DISK/s", width=7, value=lambda row: row.rates.disk_bytes, text=_size),
    Column(title="COPIED/s", width=9, value=lambda row: row.rates.copied_bytes, text=_size),
    _sized("LOW", "low_bytes"),
    Column(title="PID", width=8, value=lambda row: int(row.guest["pid"]), text=str),
)
TITLES = tuple(column.title for column in COLUMNS)
STALL = TITLES.index("STALL%")


def rows_of(
    guests: Sequence[Guest], before: Mapping[str, Guest], elapsed_s: float
) -> list[Row]:
    """Return the guests with their rates since *before*, by name."""
    rows = []
    for guest in guests:
        former = before.get(guest["name"])
        same = former is not None and former["pid"] == guest["pid"] and elapsed_s > 0
        rates = _rates(guest, former, elapsed_s) if same and former else Rates()
        rows.append(Row(guest=guest, rates=rates))
    return rows


def _rates(guest: Guest, former: Guest, elapsed_s: float) -> Rates:
    def rate(key: str, scale: int = 1) -> float:
        return max(0, int(guest[key]) - int(former[key])) * scale / elapsed_s

    def disk_rate(*keys: str) -> float:
        now, then = (sum(int(of["io"][key]) for key in keys) for of in (guest, former))
        return max(0, now - then) / elapsed_s

    return Rates(
        bytes_in=rate("pages_in", PAGE_BYTES), bytes_out=rate("pages_out", PAGE_BYTES),
        faults=rate("faults"), disk_bytes=disk_rate("read_bytes", "written_bytes"),
        copied_bytes=disk_rate("copied_bytes"),
    )


def ordered(rows: Sequence[Row], column: Column, *, inverted: bool) -> list[Row]:
    """Sort by a column: numbers from the largest, words from the first; then by name."""
    by_name = sorted(rows, key=lambda row: row.name)
    return sorted(by_name, key=column.value, reverse=column.numeric != inverted)


def memory_parts(machine: Mapping[str, Any]) -> list[Part]:
    """Return machine memory by kind of page; the parts add up to what there is."""
    split = machine["split_bytes"]
    return [
        Part(kind=RESIDENT, size_bytes=max(0, machine["guest_bytes"] - split)),
        Part(kind=SPLIT, size_bytes=split),
        Part(kind=SHARED, size_bytes=machine["frame_bytes"]),
        Part(kind=OWN, size_bytes=machine["overhead_bytes"]),
        Part(kind=FREE, size_bytes=machine["free_bytes"]),
    ]


def swap_parts(machine: Mapping[str, Any]) -> list[Part]:
    """Return the swap file by what holds a page and what does not."""
    used = machine["swap_used_bytes"]
    free = max(0, machine["swap_total_bytes"] - used)
    return [Part(kind=SWAPPED, size_bytes=used), Part(kind=FREE, size_bytes=free)]


def bar(parts: Sequence[Part], width: int) -> list[tuple[Kind, int]]:
    """
    Divide *width* characters among *parts*, to their sizes.

    What is there gets one character at least, if there are so many.
    """
    there = [part for part in parts if part.size_bytes > 0]
    total = sum(part.size_bytes for part in there)
    if not total or width < len(there):
        return [(FREE, max(0, width))]
    rest, before, drawn = width - len(there), 0, []
    for part in there:
        until = before + part.size_bytes
        drawn.append((part.kind, 1 + until * rest // total - before * rest // total))
        before = until
    return drawn


def legend(parts: Sequence[Part]) -> list[tuple[Kind, str]]:
    """Return each kind that is there, with its size."""
    return [
        (part.kind, f"{part.kind.name} {format_size(part.size_bytes)}")
        for part in parts if part.size_bytes
    ]


def headline(machine: Mapping[str, Any], guests: int) -> str:
    """Return in what state memory is, and how many guests there are."""
    state = machine.get("state")
    words = [f"state {state}"] if state else []
    words += [f"pressure {machine['pressure']}", f"{guests} guest{'' if guests == 1 else 's'}"]
    if machine["refused"]:
        words.append(f"{machine['refused']} refused")
    if machine["damaged_pages"]:
        words.append(f"{machine['damaged_pages']} pages damaged")
    return "   ".join(words)


def cell_kind(counts: Sequence[int]) -> tuple[Kind, bool]:
    """
    Return as what a cell of a map is drawn, and whether at least half of it is that.

    *counts* are of `MAP_KINDS`. What is damaged is shown in any case, what is untouched
    only where nothing else is.
    """
    if counts[MAP_KINDS.index(DAMAGED)]:
        return DAMAGED, True
    most = max(range(len(counts) - 1), key=counts.__getitem__)
    if not counts[most]:
        return UNTOUCHED, True
    return MAP_KINDS[most], 2 * counts[most] >= sum(counts)


def map_cells(told: Mapping[str, Any]) -> list[tuple[Kind, bool]]:
    """Return a page map of the API, cell by cell, as it is drawn."""
    columns = [told["pages"].get(kind.name, [0] * told["cells"]) for kind in MAP_KINDS]
    return [cell_kind(counts) for counts in zip(*columns, strict=True)]


def map_legend(told: Mapping[str, Any]) -> list[tuple[Kind, str]]:
    """Return each kind that the guest has, with its size."""
    return legend([
        Part(kind=kind, size_bytes=PAGE_BYTES * sum(told["pages"].get(kind.name, [])))
        for kind in MAP_KINDS
    ])
