# SPDX-License-Identifier: MIT
"""The rows of `bench sharing`: pages in common, against the kernel's same-page merging."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .figure4 import figure4
from .figures import Row, at_least, at_most, column
from .heap import Side
from .herd import (
    Alike,
    at_once,
    available_bytes,
    guests,
    herd_daemon,
    ordinary,
    sharing_cpu_ns,
)
from .ksm import Ksm, merging
from .probe import PAGE_BYTES, start, touch_argv
from .redis import Server
from .stage import MIB, Figures, Stage
from .undo import BenchError

if TYPE_CHECKING:
    from uvmm.scratch import Scratch

NS_PER_S = 1e9
PASSES_MAX = 4
RESCANS = 3
RESCAN_S = 2.0
IDLE_S = 35.0  # the look for idle pages goes round in this time
STARTED_TOGETHER = 10
CPU_SHARE = 0.10
WAIT_S = 90.0
LOOK_S = 0.02
ALL = 0.99
ONE_IN = 8  # pages between single writes
SHARE_CPU = 5
FILLED_BYTES = 64 * MIB
ROUNDS = 3


def found(stage: Stage) -> list[Row]:
    """Share four processes, once; then look at what does not change again."""
    pages = stage.scale.alike_bytes // PAGE_BYTES
    alike = Alike(number=4, pages=pages, common=pages // 2, zero=pages // 8)
    of_uvmm, of_ksm = stage.interleaved(
        partial(_share_guests, alike, stage.memory_dir), partial(_merge_ordinary, alike)
    )

    def row(key: str, name: str, what: str, unit: str, **more: object) -> Row:
        return Row(
            key=key, what=what, unit=unit, uvmm=column(of_uvmm, name), peer_name="KSM",
            peer=column(of_ksm, name), **more,  # type: ignore[arg-type]
        )

    return [
        Row(key="found", what="identical pages that were shared", unit="%",
            uvmm=column(of_uvmm, "found"), target=at_least(99)),
        row("found", "found", "the same, next to KSM", "%"),
        row("found", "freed", "memory freed, by MemAvailable", "MiB", target=at_least(0.99)),
        row("found", "us", "CPU time for each page merged", "us", target=at_most(0.5)),
        row("found", "rescan", "pages looked at again, just written", "pages / CPU s"),
        row("found", "idle", "pages looked at again, unchanged for half a minute",
            "pages / CPU s", target=at_least(3)),
    ]


def _share_guests(alike: Alike, swap_dir: Path) -> Figures:
    with herd_daemon(alike, swap_dir) as daemon, guests(daemon, alike) as herd:
        alike.fill(herd)
        before = available_bytes()
        cpu_ns, zero = sharing_cpu_ns(daemon), 0
        for _ in range(PASSES_MAX):
            done = daemon.share()
            zero += done.zero_pages
            if not done.pages + done.zero_pages:
                break
            used_ns = sharing_cpu_ns(daemon) - cpu_ns
        shared = daemon.figures()["machine"]["shared_bytes"] // PAGE_BYTES
        freed = available_bytes() - before
        merged = shared + zero
        if not merged:
            raise BenchError("nothing was shared")
        figures = {
            "found": 100 * merged / alike.identical, "freed": freed / MIB,
            "us": used_ns / 1e3 / merged,
        }
        figures["rescan"] = _rescan(daemon)
        time.sleep(IDLE_S)
        daemon.share()
        return figures | {"idle": _rescan(daemon)}


def _rescan(daemon: Scratch) -> float:
    """Look at all again, and again; returns pages for each second of CPU time."""
    cpu_ns = sharing_cpu_ns(daemon)
    scanned = sum(daemon.share().scanned_pages for _ in range(RESCANS))
    return scanned * NS_PER_S / (sharing_cpu_ns(daemon) - cpu_ns)


def _merge_ordinary(alike: Alike) -> Figures:
    with merging() as ksm, ordinary(alike) as herd:
        alike.fill(herd)
        before = available_bytes()
        used_ns = ksm.settle()
        merged = ksm.merged_pages
        freed = available_bytes() - before
        cpu_ns, scanned = ksm.cpu_ns(), ksm.scanned_pages
        ksm.run()
        time.sleep(RESCAN_S)
        ksm.stop()
        rate = (ksm.scanned_pages - scanned) * NS_PER_S / (ksm.cpu_ns() - cpu_ns)
        return {
            "found": 100 * merged / alike.identical, "freed": freed / MIB,
            "us": used_ns / 1e3 / max(1, merged), "rescan": rate, "idle": rate,
        }


def together(stage: Stage) -> list[Row]:
    """Time until processes that were started at the same time are shared."""
    pages = stage.scale.alike_bytes // 2 // PAGE_BYTES
    alike = Alike(number=STARTED_TOGETHER, pages=pages, common=pages // 2, zero=pages // 8)

    def shared() -> Figures:
        cpu = round(100 * CPU_SHARE)
        with (
            herd_daemon(alike, stage.memory_dir, share_cpu=cpu) as daemon,
            guests(daemon, alike) as herd,
        ):
            alike.fill(herd)
            return _until(alike, partial(_freed_pages, daemon))

    def merged() -> Figures:
        with merging() as ksm, ordinary(alike) as herd, ksm.within(CPU_SHARE):
            alike.fill(herd)
            return _until(alike, partial(_ksm_freed, ksm))

    of_uvmm, of_ksm = stage.interleaved(shared, merged)
    return [
        Row(key="together", unit="s", uvmm=column(of_uvmm, "s"), peer_name="KSM",
            what=f"{STARTED_TOGETHER} started together until shared, {CPU_SHARE:.0%} of a CPU",
            peer=column(of_ksm, "s"), target=at_most(0.5)),
    ]


def _until(alike: Alike, freed: partial[int]) -> Figures:
    began = time.monotonic()
    while freed() < ALL * alike.superfluous:
        if time.monotonic() - began > WAIT_S:
            raise BenchError(
                f"{freed()} of {alike.superfluous} pages were freed after {WAIT_S:.0f} s"
            )
        time.sleep(LOOK_S)
    return {"s": time.monotonic() - began}


def _freed_pages(daemon: Scratch) -> int:
    figures = daemon.figures()
    zero = sum(guest["share_zero_pages"] for guest in figures["guests"])
    return figures["machine"]["saved_bytes"] // PAGE_BYTES + zero


def _ksm_freed(ksm: Ksm) -> int:
    return ksm.saved_pages + ksm.zero_pages


def split(stage: Stage) -> list[Row]:
    """Write shared pages, in runs and single ones, against copy-on-write after fork()."""
    pages = stage.scale.alike_bytes // PAGE_BYTES
    alike = Alike(number=2, pages=pages, common=pages, zero=0)
    commands = (f"write {pages} 1", f"write {pages // ONE_IN} {ONE_IN}")

    def written() -> Figures:
        with herd_daemon(alike, stage.memory_dir) as daemon, guests(daemon, alike) as herd:
            alike.fill(herd)
            daemon.share()
            run, single = (
                probe.ask(command) for probe, command in zip(herd, commands, strict=True)
            )
            return {"run": run["ns_per_page"], "single": single["ns_per_page"]}

    def forked() -> Figures:
        with start(touch_argv("anon", alike.bytes, "small")) as probe:
            alike.fill([probe])
            run, single = (probe.ask(f"fork-{command}") for command in commands)
            return {"run": run["ns_per_page"], "single": single["ns_per_page"]}

    of_uvmm, of_fork = stage.interleaved(written, forked)
    return [
        Row(key="split", what=f"first write to a shared page, {what}", unit="ns",
            uvmm=column(of_uvmm, name), peer_name="fork", peer=column(of_fork, name),
            target=at_most(1.5) if name == "run" else None)
        for name, what in (("run", "in runs"), ("single", f"one in {ONE_IN}"))
    ]


def one_copy(stage: Stage) -> list[Row]:
    """Measure what processes that are all alike take of the host while all of them read."""
    pages = stage.scale.alike_bytes // PAGE_BYTES
    alike = Alike(number=STARTED_TOGETHER, pages=pages, common=pages, zero=0)

    def read() -> Figures:
        with herd_daemon(alike, stage.memory_dir) as daemon, guests(daemon, alike) as herd:
            daemon.share()
            before, overhead = available_bytes(), _overhead(daemon)
            kernel = _kernel_bytes()
            alike.fill(herd)
            filled = _kernel_bytes()
            daemon.share()
            shared = daemon.figures()["machine"]["shared_bytes"] // PAGE_BYTES
            figures = {
                "overhead": (_overhead(daemon) - overhead) / shared,
                "mappings": (_kernel_bytes() - filled) / shared,
                "tables": (filled - kernel) / shared,
            }
            for _ in range(ROUNDS):
                sums = {sample["sum"] for sample in at_once(herd, ["sequential"] * len(herd))}
            if len(sums) != 1:
                raise BenchError("processes that are alike read different pages")
            return figures | {"copies": (before - available_bytes()) / alike.bytes}

    (of_uvmm,) = stage.interleaved(read)
    return [
        Row(key="one-copy", unit="copies", uvmm=column(of_uvmm, "copies"),
            what=f"memory of the host while {STARTED_TOGETHER} read the same",
            target=at_most(1.5)),
        Row(key="one-copy", what="index and books for each shared page", unit="bytes",
            uvmm=column(of_uvmm, "overhead"), target=at_most(0.015 * PAGE_BYTES)),
        Row(key="one-copy", what="Slab and PageTables of the kernel: added by sharing",
            unit="bytes", uvmm=column(of_uvmm, "mappings")),
        Row(key="one-copy", what="the same: of the memory itself, before", unit="bytes",
            uvmm=column(of_uvmm, "tables")),
    ]


def throughput(stage: Stage) -> list[Row]:
    """Compare a redis-server whose memory is shared with another's, and one that is not."""
    with tempfile.TemporaryDirectory(dir=stage.memory_dir) as name:
        folder = Path(name)

        def asked(share_cpu: int) -> Figures:
            pages = stage.scale.calm_bytes // PAGE_BYTES
            alike = Alike(number=2, pages=pages, common=0, zero=0)
            idle, busy = Server(folder), Server(folder)
            with herd_daemon(alike, stage.memory_dir, share_cpu=share_cpu) as daemon:
                side = Side(name="uvmm", daemon=daemon)
                with (
                    idle.running(side.argv(idle.argv), side.environment()),
                    busy.running(side.argv(busy.argv), side.environment()),
                ):
                    idle.fill(FILLED_BYTES)
                    busy.fill(FILLED_BYTES)
                    return busy.benchmark()

        of_on, of_off = stage.interleaved(partial(asked, SHARE_CPU), partial(asked, 0))
    return [
        Row(key="throughput", what=f"redis-benchmark {what}, sharing on", unit="requests / s",
            uvmm=column(of_on, what), peer_name="off", peer=column(of_off, what),
            target=at_least(0.99))
        for what in of_on[0]
    ]


def _overhead(daemon: Scratch) -> int:
    machine = daemon.figures()["machine"]
    return machine["overhead_bytes"]


def _kernel_bytes() -> int:
    fields = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines()
    )
    return sum(int(fields[name].split()[0]) << 10 for name in ("Slab", "PageTables"))


ROWS = {
    "found": found,
    "together": together,
    "split": split,
    "one-copy": one_copy,
    "throughput": throughput,
    "figure4": figure4,
}
