# SPDX-License-Identifier: MIT
"""How figures look on a terminal. Pure: figures in, tables out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from uvmm.units import format_size, pages_to_bytes

if TYPE_CHECKING:
    from uvmm.doctor import Finding
    from uvmm.schema import (
        ExplainAnswer,
        Figures,
        GuestFigures,
        MachineFigures,
        MovedAnswer,
        SharedAnswer,
    )

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
    columns = ("MAX", "TARGET", "ACTIVE", *places, "FAULTS", "IN", "OUT", "STALL", "STALL%")
    for column in columns:
        table.add_column(column.upper(), justify="right")
    for guest in guests:
        table.add_row(
            guest["name"], format_size(guest["max_bytes"]), format_size(guest["target_bytes"]),
            format_size(guest["active_bytes"]),
            *(format_size(_place(guest, place)) for place in places),
            str(guest["faults"]), str(guest["pages_in"]), str(guest["pages_out"]),
            f"{guest['stall_seconds']:.1f}s", f"{guest['stall_percent']:.1f}",
        )
    return table


def machine_lines(machine: MachineFigures) -> list[str]:
    """Return the machine in a few lines."""
    used, total = machine["used_bytes"], machine["total_bytes"]
    return [
        f"memory  {format_size(used)} of {format_size(total)} used "
        f"({100 * used // max(1, total)}%), {format_size(machine['overhead_bytes'])} of it "
        f"uvmm's own; state {machine['state']}, pressure {machine['pressure']}; by "
        f"{machine['memory_via']}",
        f"booked  {format_size(machine['reserved_bytes'])} of memory and "
        f"{format_size(machine['reserved_swap_bytes'])} of swap, for guests",
        f"swap    {format_size(machine['swap_used_bytes'])} of "
        f"{format_size(machine['swap_total_bytes'])} used; {machine['reclaimed_pages']} pages "
        f"reclaimed, {machine['refused']} requests refused, "
        f"{machine['damaged_pages']} pages damaged",
        sharing_lines(machine)[0],
    ]


def parameter_line(guest: GuestFigures) -> str:
    """Return what a guest may hold."""
    limit = ""
    if guest["max_bytes"] < guest["size_bytes"]:
        limit = f" of its {format_size(guest['size_bytes'])}"
    return (
        f"{guest['name']}: min {format_size(guest['min_bytes'])}, "
        f"max {format_size(guest['max_bytes'])}{limit}, {guest['shares']} shares, "
        f"tax {guest['tax_percent']:g}%, balloon at most "
        f"{format_size(guest['balloon_max_bytes'])}"
    )


def explain_lines(told: ExplainAnswer) -> list[str]:
    """Return decisions in words, oldest first."""
    lines = [line for decision in told["words"] for line in decision]
    return [f"memory is {told['state']} now; policy: {told['policy']}", *lines]


def sharing_lines(machine: MachineFigures) -> list[str]:
    """Return what is shared, and what that cost, in a few lines."""
    sharing = machine["sharing"]
    refused = ", ".join(f"{count} {why}" for why, count in sharing["refused"].items() if count)
    return [
        f"shared  {format_size(machine['shared_bytes'])} of guests' pages in "
        f"{format_size(machine['frame_bytes'])} of frames: "
        f"{format_size(machine['saved_bytes'])} saved; "
        f"{sharing['zero_pages']} zero pages freed",
        f"split   {format_size(machine['split_bytes'])} now, {sharing['splits']} pages in all, "
        f"{sharing['homed_pages']} brought home",
        f"scan    {sharing['scanned_pages']} pages in {sharing['cpu_seconds']:.1f} s of CPU, "
        f"{sharing['scanned_pages_per_second']:.0f} a second now; {sharing['hints']} hints, "
        f"{sharing['stale_hints']} stale",
        f"refused {refused or 'none'}",
    ]


def sharing_table(guests: list[GuestFigures]) -> Table:
    """Return what each guest shares."""
    table = Table(box=None, pad_edge=False)
    table.add_column("NAME")
    columns = ("RESIDENT", "SHARED", "SPLIT", "SPLITS", "ZERO", "SCANNED", "YIELD%", "MAPS")
    for column in columns:
        table.add_column(column, justify="right")
    for guest in guests:
        table.add_row(
            guest["name"], format_size(guest["resident_bytes"]),
            format_size(guest["shared_bytes"]), format_size(guest["split_bytes"]),
            str(guest["splits"]), str(guest["share_zero_pages"]),
            str(guest["share_scanned_pages"]), f"{guest['share_yield_percent']:.1f}",
            str(guest["share_mappings"]),
        )
    return table


def sharing_parts(figures: Figures) -> tuple[list[str], Table]:
    """Return the machine's lines and the guests' table."""
    return sharing_lines(figures["machine"]), sharing_table(figures["guests"])


def shared_line(done: SharedAnswer) -> str:
    """Return what a pass over guests did."""
    return (
        f"looked at {done['scanned_pages']} pages: {done['shared_pages']} shared, "
        f"{done['zero_pages']} zero and freed, in {done['elapsed_seconds']:.2f} s "
        f"({done['cpu_seconds']:.2f} s of CPU)"
    )


def reclaimed_line(name: str, done: MovedAnswer, tier: str = "swap") -> str:
    """Return what a reclaim did."""
    stayed = done["left_pages"]
    left = f"; {stayed} stayed: in use, or {tier} is full" if stayed else ""
    return (
        f"reclaimed {format_size(pages_to_bytes(done['pages']))} of {name} "
        f"({done['pages']} pages, {done['zero_pages']} of them zero{left}) "
        f"in {done['elapsed_seconds']:.2f} s"
    )


def restored_line(name: str, done: MovedAnswer) -> str:
    """Return what a restore did."""
    left = f"; {done['left_pages']} pages found no room" if done["left_pages"] else ""
    return (
        f"restored {format_size(pages_to_bytes(done['pages']))} of {name} "
        f"({done['pages']} pages) in {done['elapsed_seconds']:.2f} s{left}"
    )


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
