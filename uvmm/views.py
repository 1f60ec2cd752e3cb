# SPDX-License-Identifier: MIT
"""How figures look on a terminal. Pure: figures in, tables out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from uvmm.units import format_size

if TYPE_CHECKING:
    from uvmm.doctor import Finding
    from uvmm.schema import Figures, GuestFigures, MachineFigures

# Columns that are 0 for every guest are left out.
_PLACES = ("resident", "shared", "ballooned", "compressed", "swapped", "far", "untouched")
_ALWAYS = ("resident", "swapped", "untouched")


def guest_table(guests: list[GuestFigures]) -> Table:
    """Return who runs: a line a guest."""
    table = Table(box=None, pad_edge=False)
    table.add_column("NAME")
    for column in (
        "PID", "THREADS", "MIN", "MAX", "SHARES", "RESIDENT", "SWAPPED", "UNMANAGED", "STALL%"
    ):
        table.add_column(column, justify="right")
    for guest in guests:
        table.add_row(
            guest["name"], str(guest["pid"]), str(guest["threads"]),
            format_size(guest["min_bytes"]), format_size(guest["max_bytes"]),
            str(guest["shares"]), format_size(guest["resident_bytes"]),
            format_size(guest["swapped_bytes"]), format_size(guest["unmanaged_bytes"]),
            f"{guest['stall_percent']:.1f}",
        )
    return table


def place_table(guests: list[GuestFigures]) -> Table:
    """Return where each guest's pages are, and what it waited."""
    places = [
        place for place in _PLACES
        if place in _ALWAYS or any(_place(guest, place) for guest in guests)
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("NAME")
    for column in ("MAX", "TARGET", *places, "FAULTS", "IN", "OUT", "STALL", "STALL%"):
        table.add_column(column.upper(), justify="right")
    for guest in guests:
        table.add_row(
            guest["name"], format_size(guest["max_bytes"]), format_size(guest["target_bytes"]),
            *(format_size(_place(guest, place)) for place in places),
            str(guest["faults"]), str(guest["pages_in"]), str(guest["pages_out"]),
            f"{guest['stall_seconds']:.1f}s", f"{guest['stall_percent']:.1f}",
        )
    return table


def machine_lines(machine: MachineFigures) -> list[str]:
    """Return the machine in two lines."""
    used, total = machine["used_bytes"], machine["total_bytes"]
    return [
        f"memory  {format_size(used)} of {format_size(total)} used "
        f"({100 * used // max(1, total)}%), {format_size(machine['overhead_bytes'])} of it "
        f"uvmm's own; pressure {machine['pressure']}; by {machine['memory_via']}",
        f"swap    {format_size(machine['swap_used_bytes'])} of "
        f"{format_size(machine['swap_total_bytes'])} used; {machine['reclaimed_pages']} pages "
        f"reclaimed, {machine['refused']} requests refused, "
        f"{machine['damaged_pages']} pages damaged",
    ]


def stats_parts(figures: Figures) -> tuple[list[str], Table]:
    """Return the machine's lines and the guests' table."""
    return machine_lines(figures["machine"]), place_table(figures["guests"])


def _place(guest: GuestFigures, place: str) -> int:
    places = {
        "resident": guest["resident_bytes"],
        "shared": guest["shared_bytes"],
        "ballooned": guest["ballooned_bytes"],
        "compressed": guest["compressed_bytes"],
        "swapped": guest["swapped_bytes"],
        "far": guest["far_bytes"],
        "untouched": guest["untouched_bytes"],
    }
    return places[place]


def finding_table(findings: list[Finding]) -> Table:
    """Return what the doctor found: a line a thing, and under it what a lack costs."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        cost = f"\n-> {finding['cost']}" if finding["cost"] else ""
        table.add_row(finding["verdict"], finding["what"], finding["found"] + cost)
    return table
