# SPDX-License-Identifier: MIT
"""The texts of the inspection filesystem. Pure: figures in, lines out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from uvmm.look.wire import RUN, STATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

README = """\
What a uvmm daemon does, as files. All sizes are bytes, all times seconds; names of
figures end in their unit. Page numbers (PPN) count from 0, of 4096 bytes each.

machine/memory       machine memory, and what it is used for
machine/state        the state that the policy sees, and the pressure
machine/share        pages that are shared, and the search for them
machine/tiers        where pages go that are not in memory
machine/low_memory   memory that devices can reach
machine/config       the daemon's settings
machine/stats.json   all figures of the machine

guests/NAME/status          all figures of the guest
guests/NAME/stats.json      the same for programs
guests/NAME/explain         why it holds what it holds
guests/NAME/history         its past, a line a sample
guests/NAME/min, max, shares, tax, balloon_target
                            read and write: echo 64M > min. What is refused is EINVAL,
guests/NAME/error           and why
guests/NAME/memory          its physical memory, wherever each page is now; looking moves none
guests/NAME/pagemap         a word of 64 bits a page, little end first: bits 0-3 its state
                            (0 resident, 1 split, 2 shared, 3 ballooned, 4 compressed,
                            5 swapped, 6 far, 7 damaged, 8 untouched, 9 low memory), 4-7 its
                            pins, 8-11 its tier, 12-63 its frame or its slot there
guests/NAME/pagemap.txt     the same in runs: first page, last page, pages, state
guests/NAME/pages/STATE     the pages in that state, in runs: first-last

frames/HASH          the content of a shared frame; HASH is the first half of MurmurHash3
frames/HASH.refs     who maps it: guest and page
events               what happened, a line each; tail -f follows

Read pagemap in Python:

    import struct
    with open("pagemap", "rb") as file:
        for ppn, (word,) in enumerate(struct.iter_unpack("<Q", file.read())):
            state, pins, tier, place = word & 15, word >> 4 & 15, word >> 8 & 15, word >> 12

A guest's files are its user's and root's; memory of others, frames and events are root's.
"""

MACHINE_FILES: Mapping[str, tuple[str, ...]] = {
    "memory": (
        "total_bytes", "used_bytes", "free_bytes", "guest_bytes", "frame_bytes",
        "overhead_bytes", "daemon_bytes", "reserved_bytes", "split_bytes",
    ),
    "state": ("state", "pressure", "reclaimed_pages", "refused", "damaged_pages", "memory_via"),
    "share": ("shared_bytes", "frame_bytes", "saved_bytes", "split_bytes", "sharing"),
    "tiers": ("swap_total_bytes", "swap_used_bytes", "reserved_swap_bytes"),
    "low_memory": ("low_total_bytes", "low_granted_bytes"),
}
KNOBS = ("min", "max", "shares", "tax", "balloon_target")


def lines(figures: Mapping[str, Any], prefix: str = "") -> str:
    """Return figures as `key value` lines; what is inside others is `outer.inner`."""
    told = []
    for key, value in figures.items():
        if isinstance(value, dict):
            told.append(lines(value, f"{prefix}{key}."))
        else:
            shown = str(value).lower() if isinstance(value, bool) else value
            told.append(f"{prefix}{key} {shown}\n")
    return "".join(told)


def machine_text(name: str, machine: Mapping[str, Any]) -> str:
    """Return a file of the machine."""
    return lines({key: machine[key] for key in MACHINE_FILES[name] if key in machine})


def as_json(figures: Mapping[str, Any]) -> str:
    """Return figures for programs."""
    return json.dumps(figures, indent=2) + "\n"


def knob_text(name: str, figures: Mapping[str, Any]) -> str:
    """Return the value of a knob, as it could be written."""
    if name == "shares":
        return f"{figures['shares']}\n"
    if name == "tax":
        return f"{figures['tax_percent']:g}%\n"
    return f"{figures[f'{name}_bytes']}\n"


def explain_text(told: Mapping[str, Any]) -> str:
    """Return decisions in words."""
    words = [line for decision in told["words"] for line in decision]
    first = f"memory is {told['state']} now; policy: {told['policy']}"
    return "".join(f"{line}\n" for line in (first, *words))


def history_text(told: Mapping[str, Any], name: str) -> str:
    """Return a guest's past as a table: a line a sample, columns parted by tabs."""
    columns = [one for one in told["guests"] if one["name"] == name]
    if not columns:
        return "at_seconds\n"
    newest = columns[-1]
    fields = [key for key, value in newest.items() if isinstance(value, list)]
    times: Sequence[float] = told["at_seconds"][newest["first"] :]
    rows = zip(times, *(newest[key] for key in fields), strict=False)
    head = "\t".join(("at_seconds", *fields))
    return "".join(("\t".join(map(str, row)) + "\n") for row in ([head.split("\t"), *rows]))


def pagemap_text(runs: bytes) -> str:
    """Return a page map in words: first page, last page, how many, state."""
    return "".join(
        f"{first} {first + pages - 1} {pages} {STATES[state]}\n"
        for first, pages, state in RUN.iter_unpack(runs)
    )


def pages_text(runs: bytes, state: str) -> str:
    """Return the pages in a state: a page, or first-last, a line."""
    wanted = STATES.index(state)
    return "".join(
        f"{first}\n" if pages == 1 else f"{first}-{first + pages - 1}\n"
        for first, pages, found in RUN.iter_unpack(runs) if found == wanted
    )


def refs_text(refs: Iterable[tuple[str, int]]) -> str:
    """Return who maps a frame: guest and page, a line each."""
    return "".join(f"{name} {ppn}\n" for name, ppn in refs)


def event_line(event: Mapping[str, str]) -> str:
    """Return an event as a line."""
    text = event["text"].replace("\n", " ")
    about = f" {event['guest']}" if event["guest"] else ""
    return f"{event['time']} {event['level']} {event['kind']}{about}: {text}\n"
