# SPDX-License-Identifier: MIT
"""Where and how much is measured, and how a measurement is repeated."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from .peers import tmpfs
from .probe import start, touch_argv
from .undo import BenchError, Undo, held

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
GIB = 1 << 30

Figures = dict[str, float]
Measure = Callable[[], Figures]

_numbers = count(1)
# Not all kernels that hand memory back have a setting for how long it stays.
_HANDED_BACK = {Path("/sys/module/page_reporting/parameters/min_free_ms"): "300000"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured; a choice between time and spread."""

    repetitions: int
    warm_bytes: int  # no less than what a row holds at once, with its peers
    fresh_bytes: int  # first touch
    calm_bytes: int  # random access without pressure
    calm_accesses: int
    numpy_bytes: int
    swapped_bytes: int  # reads of swapped memory, reclaim
    swapped_reads: int
    fuse_reads: int
    overhead_bytes: int
    idle_guests: int
    alike_bytes: int  # of each process that has pages in common with others
    client_steps: int  # of each of 40 clients that work on files
    client_turns: int  # of each pair of guests
    client_pairs: int  # in either order
    paper_bytes: int  # of each guest of the paper's figures
    paper_period_s: float  # of a guest's execution, in which it is sampled
    paper_periods: int  # for each step up or down
    paper_turns: int  # there and back
    paper_speed_s: float  # for which speed is measured
    paper_run_s: float  # from start-up to the end of five programs
    disk_s: float  # of reads from a virtual disk


FULL = Scale(
    repetitions=7,
    warm_bytes=6 * GIB,
    fresh_bytes=512 * MIB,
    calm_bytes=GIB,
    calm_accesses=20_000_000,
    numpy_bytes=384 * MIB,
    swapped_bytes=256 * MIB,
    swapped_reads=4000,
    fuse_reads=1000,
    overhead_bytes=2 * GIB,
    idle_guests=100,
    alike_bytes=64 * MIB,
    client_steps=200,
    client_turns=9,
    client_pairs=3,
    paper_bytes=256 * MIB,
    paper_period_s=4.0,
    paper_periods=8,
    paper_turns=3,
    paper_speed_s=6.0,
    paper_run_s=150.0,
    disk_s=4.0,
)

QUICK = Scale(
    repetitions=3,
    warm_bytes=3 * GIB,
    fresh_bytes=256 * MIB,
    calm_bytes=GIB,
    calm_accesses=10_000_000,
    numpy_bytes=96 * MIB,
    swapped_bytes=128 * MIB,
    swapped_reads=2000,
    fuse_reads=500,
    overhead_bytes=512 * MIB,
    idle_guests=20,
    alike_bytes=32 * MIB,
    client_steps=200,
    client_turns=3,
    client_pairs=1,
    paper_bytes=96 * MIB,
    paper_period_s=2.0,
    paper_periods=6,
    paper_turns=1,
    paper_speed_s=4.0,
    paper_run_s=75.0,
    disk_s=1.5,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What every row needs to know."""

    scale: Scale
    scratch_dir: Path  # on disk; mount points go here
    memory_dir: Path  # a plain tmpfs: swap files and the files of peers

    def interleaved(self, *measures: Measure, turns: int = 0) -> list[list[Figures]]:
        """
        Run each of *measures* once a repetition (or *turns* times); returns a list for each.

        The first round is thrown away: it pays for what is done once. The order
        turns round every time, so that no side is always the one that comes
        after the other.
        """
        found: list[list[Figures]] = [[] for _ in measures]
        for repetition in range((turns or self.scale.repetitions) + 1):
            order = list(enumerate(measures))
            for at, measure in order if repetition % 2 else reversed(order):
                figures = measure()
                if repetition:
                    found[at].append(figures)
        return found


@contextmanager
def stage_for(scale: Scale) -> Iterator[Stage]:
    """
    Prepare the directories of a run.

    Raises:
        BenchError: If we are not root, who alone may mount and swap.
    """
    if os.geteuid():
        raise BenchError("needs root: it mounts filesystems and sets up zram swap")
    with Undo() as undo:
        with held():
            scratch_dir = Path(tempfile.mkdtemp(prefix="uvmm-bench-"))
            undo.callback(scratch_dir.rmdir)
        size_bytes = 4 * max(scale.overhead_bytes, scale.calm_bytes)
        memory_dir = undo.enter_context(tmpfs(scratch_dir / "memory", size_bytes))
        yield Stage(scale=scale, scratch_dir=scratch_dir, memory_dir=memory_dir)


@contextmanager
def warm_memory(size_bytes: int) -> Iterator[None]:
    """
    Touch memory and give it back, and let it stay with the machine meanwhile.

    A virtual machine gets memory that it never used before from its host on first touch,
    which costs more than anything that is measured here; and what it has not used for two
    seconds its kernel may hand back to the host.
    """
    with Undo() as undo:
        with held():
            for setting, kept in _HANDED_BACK.items():
                with suppress(OSError):
                    former = setting.read_text()
                    setting.write_text(kept)
                    undo.callback(setting.write_text, former)
        with start(touch_argv("anon", size_bytes, "huge")) as probe:
            probe.ask("first-touch")
        yield


def new_name() -> str:
    """Return a guest's name that was not used before."""
    return f"bench-{next(_numbers)}"


def size_text(size_bytes: int) -> str:
    """Write a size for the label of a row."""
    gib, rest = divmod(size_bytes, GIB)
    return f"{gib} GiB" if not rest else f"{size_bytes // MIB} MiB"


def say(text: str) -> None:
    """Tell on stderr what goes on; stdout is for the figures."""
    print(text, file=sys.stderr, flush=True)
