# SPDX-License-Identifier: MIT
"""Row 7: the memory that uvmm itself takes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .figures import Row, at_most
from .probe import PAGE_BYTES, Probe, touch_argv
from .stage import MIB, Stage, new_name, size_text
from .subjects import GuestSubject, roomy_daemon
from .undo import BenchError

if TYPE_CHECKING:
    from uvmm.scratch import Scratch

KIB = 1024
IDLE_BYTES = 64 * MIB
SMALL_BYTES = 64 * MIB


def page_overhead(stage: Stage) -> list[Row]:
    """
    Measure what each page of a guest costs once it was touched and reclaimed.

    A small guest goes first: what the daemon needs once is not a page's cost.
    """
    size_bytes = stage.scale.overhead_bytes
    pages = size_bytes // PAGE_BYTES
    with roomy_daemon(size_bytes, swap_dir=stage.memory_dir) as daemon, ExitStack() as guests:
        guests.enter_context(_cycled_guest(daemon, SMALL_BYTES))
        overhead_bytes = daemon.figures()["machine"]["overhead_bytes"]
        tables_bytes = _status_bytes(daemon.daemon_pid, "VmPTE")
        guests.enter_context(_cycled_guest(daemon, size_bytes))
        overhead_bytes = daemon.figures()["machine"]["overhead_bytes"] - overhead_bytes
        tables_bytes = _status_bytes(daemon.daemon_pid, "VmPTE") - tables_bytes
    return [
        Row(
            key="overhead",
            what=f"overhead of a guest of {size_text(size_bytes)}, touched and reclaimed",
            unit="bytes / page",
            uvmm=(overhead_bytes / pages,),
            target=at_most(16),
        ),
        Row(
            key="overhead",
            what="page tables that the kernel keeps for the daemon, besides",
            unit="bytes / page",
            uvmm=(tables_bytes / pages,),
        ),
    ]


def idle_guests(stage: Stage) -> list[Row]:
    """Measure the daemon alone, and with guests that attached and sleep."""
    count = stage.scale.idle_guests
    with roomy_daemon(IDLE_BYTES) as daemon, ExitStack() as guests:
        alone_bytes = _status_bytes(daemon.daemon_pid, "VmRSS")
        # Starting one by one would take most of the time of the whole run.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            probes = list(pool.map(lambda _: _idle_guest(daemon), range(count)))
        for probe in probes:
            guests.enter_context(probe)
        attached = len(daemon.figures()["guests"])
        if attached != count:
            raise BenchError(f"{attached} of {count} idle guests are there")
        with_guests_bytes = _status_bytes(daemon.daemon_pid, "VmRSS")
        launcher_bytes = sum(_private_bytes(probe.pid) for probe in probes) / count
    of_guests = f"{count} idle guests of {size_text(IDLE_BYTES)}"
    return [
        _memory_row("RSS of the daemon without a guest", "MiB", alone_bytes / MIB),
        _memory_row(f"RSS of the daemon with {of_guests}", "MiB", with_guests_bytes / MIB),
        _memory_row("private memory of `uvmm run`, for each guest", "KiB",
                    launcher_bytes / KIB),
    ]


def _memory_row(what: str, unit: str, value: float) -> Row:
    return Row(key="idle-guests", what=what, unit=unit, uvmm=(value,))


def _cycled_guest(daemon: Scratch, size_bytes: int) -> Probe:
    """Start a guest that was touched whole and reclaimed whole."""
    name = new_name()
    argv = touch_argv("guest", size_bytes)
    probe = Probe(daemon.run(argv, name=name, max_bytes=size_bytes))
    probe.ask("fill")
    GuestSubject(daemon, name, probe, size_bytes).evict()
    return probe


def _idle_guest(daemon: Scratch) -> Probe:
    argv = touch_argv("guest", IDLE_BYTES)
    return Probe(daemon.run(argv, name=new_name(), max_bytes=IDLE_BYTES))


def _status_bytes(pid: int, field: str) -> int:
    """Read a size in KiB of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * KIB
    raise BenchError(f"/proc/{pid}/status has no {field}")


def _private_bytes(pid: int) -> int:
    """Memory that would be free if the process were not there."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) * KIB
        for line in rollup.splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )
