# SPDX-License-Identifier: MIT
"""Snapshots, and how they are told."""

from __future__ import annotations

from tests.unit.samples import a_guest, a_machine
from uvmm.model import Snapshot
from uvmm.schema import figures

PLACES = ("resident", "shared", "ballooned", "compressed", "swapped", "far", "untouched")
MACHINE_KEYS = {
    "total_bytes", "used_bytes", "free_bytes", "overhead_bytes", "swap_total_bytes",
    "swap_used_bytes",
}
GUEST_KEYS = {
    "name", "pid", "min_bytes", "max_bytes", "shares", "target_bytes", "resident_bytes",
    "shared_bytes", "ballooned_bytes", "compressed_bytes", "swapped_bytes", "far_bytes",
    "untouched_bytes", "faults", "stall_seconds", "stall_percent",
}


def test_used_is_tmpfs_and_daemon() -> None:
    machine = a_machine(total_pages=100, tmpfs_pages=30, daemon_pages=10, guest_pages=25)
    assert (machine.used_pages, machine.free_pages, machine.overhead_pages) == (40, 60, 15)


def test_free_is_never_negative() -> None:
    assert a_machine(total_pages=10, tmpfs_pages=30).free_pages == 0


def test_figures_have_every_key_and_places_add_up() -> None:
    guest = a_guest(
        max_pages=4096, resident_pages=1000, swapped_pages=500, stall_ns=1_500_000_000
    )
    told = figures(Snapshot(machine=a_machine(), guests=(guest,)), {guest.id: 12.345})
    assert set(told["machine"]) >= MACHINE_KEYS
    one = told["guests"][0]
    assert set(one) >= GUEST_KEYS
    values = {key: value for key, value in one.items() if isinstance(value, int)}
    placed = sum(values[f"{place}_bytes"] for place in PLACES)
    assert placed == one["max_bytes"] == 4096 * 4096
    assert (one["stall_seconds"], one["stall_percent"]) == (1.5, 12.35)
