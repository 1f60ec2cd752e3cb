# SPDX-License-Identifier: MIT
"""
Rows 3 to 6: memory that was taken out, and taking it out.

The swap files of uvmm are on a tmpfs: what is measured is the way of a page, not
a disk. zram keeps its pages in memory as well.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from .figures import Row, at_least, at_most, column
from .peers import plain_filesystem, zram_swap
from .probe import start, touch_argv
from .stage import Figures, Stage, size_text
from .subjects import Subject, guest_subject, kernel_subject
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

THREADS = (1, 4)
# Single reads, and how long each took of the whole: with more threads than CPUs a
# thread's wait for a CPU is in its reads, so only the last compares the work.
READ_FIGURES = (
    ("p50", "p50", at_most(3.0)),
    ("p99", "p99", None),
    ("mean", "elapsed / reads", None),
)
NS_PER_US = 1e3
NS_PER_S = 1e9
US = 1 / NS_PER_US


@contextmanager
def _both(stage: Stage) -> Iterator[tuple[Subject, Subject]]:
    """Run a guest and an ordinary process that swaps to zram, of the same size."""
    size_bytes = stage.scale.swapped_bytes
    with (
        zram_swap(2 * size_bytes),
        guest_subject(stage.memory_dir, size_bytes) as guest,
        kernel_subject(size_bytes) as ordinary,
    ):
        yield guest, ordinary


def random_read(stage: Stage) -> list[Row]:
    """Measure single reads of swapped pages against zram."""

    def read(subject: Subject) -> Figures:
        found: Figures = {}
        for threads in THREADS:
            subject.evict()
            got = subject.probe.ask(f"latency {threads} {stage.scale.swapped_reads} {threads}")
            found |= {
                f"p50-{threads}": got["p50_ns"],
                f"p99-{threads}": got["p99_ns"],
                f"mean-{threads}": got["ns"] / got["samples"],
            }
        return found

    with _both(stage) as (guest, ordinary):
        of_guest, of_zram = stage.interleaved(partial(read, guest), partial(read, ordinary))
    return [
        Row(
            key="random-read",
            what=f"random read of a swapped page, {_threads(threads)}, {what}",
            unit="us",
            uvmm=column(of_guest, f"{part}-{threads}", US),
            peer_name="zram",
            peer=column(of_zram, f"{part}-{threads}", US),
            target=target,
        )
        for threads in THREADS
        for part, what, target in READ_FIGURES
    ]


def fuse_read(stage: Stage) -> list[Row]:
    """Measure the same against a mapped file on a plain fusepy filesystem."""
    size_bytes = stage.scale.swapped_bytes
    saved = stage.memory_dir / "saved"
    latency = [f"latency {threads} {stage.scale.fuse_reads} 7" for threads in THREADS]

    def of_subject(subject: Subject) -> Figures:
        found: Figures = {}
        for threads, command in zip(THREADS, latency, strict=True):
            subject.evict()
            found[f"p50-{threads}"] = subject.probe.ask(command)["p50_ns"]
        return found

    def of_file() -> Figures:
        found: Figures = {}
        for threads, command in zip(THREADS, latency, strict=True):
            with (
                plain_filesystem(saved, stage.scratch_dir / "fuse") as path,
                start(touch_argv("file", size_bytes, "default", path)) as probe,
            ):
                found[f"p50-{threads}"] = probe.ask(command)["p50_ns"]
        return found

    try:
        with guest_subject(stage.memory_dir, size_bytes) as guest:
            guest.probe.ask(f"save {saved}")
            of_guest, of_fusepy = stage.interleaved(partial(of_subject, guest), of_file)
    finally:
        saved.unlink(missing_ok=True)
    return [
        Row(
            key="fusepy",
            what=f"random read, {_threads(threads)}, p50, times faster",
            unit="us",
            uvmm=column(of_guest, f"p50-{threads}", US),
            peer_name="fusepy",
            peer=column(of_fusepy, f"p50-{threads}", US),
            speedup=True,
            target=at_least(10.0),
        )
        for threads in THREADS
    ]


def sequential_read(stage: Stage) -> list[Row]:
    """Measure reading all swapped memory in order against zram."""

    def read(subject: Subject) -> Figures:
        subject.evict()
        return subject.probe.ask("sequential")

    with _both(stage) as (guest, ordinary):
        of_guest, of_zram = stage.interleaved(partial(read, guest), partial(read, ordinary))
    if {found["sum"] for found in of_guest} != {found["sum"] for found in of_zram}:
        raise BenchError("the swapped memory came back with other contents")
    return [
        Row(
            key="sequential",
            what=f"sequential read of {size_text(stage.scale.swapped_bytes)} swapped",
            unit="us / page",
            uvmm=column(of_guest, "ns_per_page", US),
            peer_name="zram",
            peer=column(of_zram, "ns_per_page", US),
            target=at_most(1.0),
        )
    ]


def reclaim(stage: Stage) -> list[Row]:
    """Measure taking pages out, in CPU time of all who take part and in elapsed time."""

    def take_out(subject: Subject) -> Figures:
        subject.probe.ask("sequential")
        done = subject.evict()
        return {
            "cpu": done.pages * NS_PER_S / done.cpu_ns,
            "elapsed": done.pages * NS_PER_S / done.elapsed_ns,
        }

    with _both(stage) as (guest, ordinary):
        guest.evict()
        ordinary.evict()
        of_guest, of_zram = stage.interleaved(
            partial(take_out, guest), partial(take_out, ordinary)
        )
    return [
        Row(
            key="reclaim",
            what=f"reclaim of {size_text(stage.scale.swapped_bytes)} without a disk, {of}",
            unit=unit,
            uvmm=column(of_guest, figure),
            peer_name="zram",
            peer=column(of_zram, figure),
            target=target,
        )
        for figure, of, unit, target in (
            ("cpu", "by CPU time", "pages / CPU s", at_least(1.5)),
            ("elapsed", "by the clock", "pages / s", None),
        )
    ]


def _threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
