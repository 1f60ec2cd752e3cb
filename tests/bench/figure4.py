# SPDX-License-Identifier: MIT
"""
Figure 4 of Waldspurger, OSDI 2002: what is shared and reclaimed as more and more
guests run the same program. Here real programs, and next to KSM.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch, stored_and_held

from .figures import Row, column
from .heap import Side
from .ksm import merged_argv, merging
from .probe import PAGE_BYTES, ROOT
from .redis import Server
from .stage import GIB, MIB, Figures, Stage, say
from .undo import BenchError, Undo, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

GUESTS = 10
FILLED_BYTES = 64 * MIB
MAX_BYTES = 256 * MIB
_LIMITED = ("--max", str(MAX_BYTES))
PASSES = 3
PICTURE = ROOT / "build" / "bench" / "sharing.png"
_NUMPY = """
import sys, numpy
table = numpy.arange(2_000_000, dtype="f8").reshape(2000, 1000)
product = table[:500] @ table.T[:, :500]
print("ready", flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One to run several times; `running(side)` is one of it for a `with` block."""

    name: str
    running: Callable[[Side, Path], AbstractContextManager[None]]


@contextmanager
def _redis(side: Side, folder: Path) -> Iterator[None]:
    server = Server(folder)
    with server.running(side.argv(server.argv, *_LIMITED), side.environment()):
        server.fill(FILLED_BYTES)
        yield


@contextmanager
def _python(side: Side, folder: Path) -> Iterator[None]:
    with held():
        process = subprocess.Popen(
            side.argv((sys.executable, "-c", _NUMPY), *_LIMITED), env=side.environment(),
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise BenchError("python with numpy did not come up")
        yield
    finally:
        process.communicate(b"")


PROGRAMS = (
    Program(name="redis-server", running=_redis), Program(name="python, numpy", running=_python)
)


class Merged(Side):
    """An ordinary process, its memory open to KSM."""

    def argv(self, argv: tuple[str, ...], *options: str) -> list[str]:
        """See Side; options are those of a guest."""
        del options
        return list(merged_argv(*argv))


def figure4(stage: Stage) -> list[Row]:
    """Run one to ten of each program, and draw what came of it."""
    curves: dict[str, list[Figures]] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=stage.memory_dir) as name:
        for program in PROGRAMS:
            of_uvmm = _guests(program, Path(name), stage.memory_dir)
            of_ksm = _ordinary(program, Path(name))
            curves[program.name] = [
                ours | {f"ksm {key}": value for key, value in theirs.items()}
                for ours, theirs in zip(of_uvmm, of_ksm, strict=True)
            ]
            rows += [
                Row(key="figure4", unit="% of memory", uvmm=column([ours], "reclaimed"),
                    peer_name="KSM", peer=column([theirs], "reclaimed"),
                    what=f"{number} x {program.name}: shared {ours['shared']:.0f} %, "
                    f"zero {ours['zero']:.0f} %; reclaimed")
                for number, (ours, theirs) in enumerate(zip(of_uvmm, of_ksm, strict=True), 1)
            ]
    _draw(curves)
    say(f"  drawn: {PICTURE}")
    return rows


def _guests(program: Program, folder: Path, swap_dir: Path) -> list[Figures]:
    found = []
    with Scratch(
        purpose="bench", memory_bytes=3 * GIB, swap_bytes=GUESTS * MAX_BYTES,
        swap_dir=swap_dir, share_cpu=0,
    ) as daemon, Undo() as undo:
        side = Side(name="uvmm", daemon=daemon)
        for _ in range(GUESTS):
            undo.enter_context(program.running(side, folder))
            for _ in range(PASSES):
                daemon.share()
            found.append(_uvmm_percents(daemon))
    return found


def _uvmm_percents(daemon: Scratch) -> Figures:
    figures = daemon.figures()
    zero = sum(guest["share_zero_pages"] for guest in figures["guests"]) * PAGE_BYTES
    held_bytes = sum(
        stored_and_held(guest) - guest["untouched_bytes"] for guest in figures["guests"]
    )
    percent = 100 / (held_bytes + zero)
    machine = figures["machine"]
    return {
        "shared": percent * machine["shared_bytes"], "zero": percent * zero,
        "reclaimed": percent * (machine["saved_bytes"] + zero),
    }


def _ordinary(program: Program, folder: Path) -> list[Figures]:
    found = []
    with merging() as ksm, Undo() as undo:
        side = Merged(name="KSM")
        for _ in range(GUESTS):
            undo.enter_context(program.running(side, folder))
            ksm.settle()
            zero = ksm.zero_pages
            percent = 100 / (_mergeable_pages() + zero)
            found.append({
                "shared": percent * (ksm.merged_pages - zero), "zero": percent * zero,
                "reclaimed": percent * (ksm.saved_pages + zero),
            })
    return found


def _mergeable_pages() -> int:
    """Pages of their own that the processes open to merging have."""
    kib = 0
    for process in Path("/proc").iterdir():
        try:
            if "ksm_merge_any: yes" not in (process / "ksm_stat").read_text():
                continue
            status = (process / "status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        kib += int(fields.get("RssAnon", "0 kB").split()[0])
    return max(1, (kib << 10) // PAGE_BYTES)


def _draw(curves: dict[str, list[Figures]]) -> None:
    # It takes a second to import, and the other rows do without.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    parts = figure.subplots(1, len(curves))
    for axes, (name, samples) in zip(parts, curves.items(), strict=True):
        numbers = range(1, len(samples) + 1)
        for key, style in (("shared", "C0-o"), ("reclaimed", "C1-s"), ("zero", "C2-^"),
                           ("ksm reclaimed", "C3:")):
            axes.plot(numbers, [sample[key] for sample in samples], style, label=key)
        axes.set(title=name, xlabel="guests", ylabel="% of their memory", ylim=(0, 100))
        axes.legend()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, format="png", dpi=100)
