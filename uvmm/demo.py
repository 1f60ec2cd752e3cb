# SPDX-License-Identifier: MIT
"""
The demo: real programs at work in less than half the memory they need.

Three are written for guest memory; two, redis-server and numpy, know nothing of it.

Run it by bin/demo. It starts a daemon of its own, shows where each program's
memory is while they run, lets each check its own results, and says in five lines
what was shown, in figures of this run. It exits 0 only if all of that held.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from uvmm.demo_programs import ProgramsError, compare, told
from uvmm.scratch import Scratch, ScratchError, terminable
from uvmm.units import format_size

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from uvmm.scratch import Figures, GuestFigures

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
SAMPLE_S = 0.2
PLAIN_EVERY_S = 4.0
LIMIT_S = 240.0
PAGE_BYTES = 4096


class DemoError(Exception):
    """What did not hold; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A guest to be: what to run in how much guest memory."""

    name: str
    argv: Sequence[str]
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The machine, and what runs in it."""

    memory_bytes: int
    swap_bytes: int
    programs: tuple[Program, ...]
    redis_keys: int
    matrix_order: int

    @property
    def need_bytes(self) -> int:
        """What the programs must need at once: well over twice what there is."""
        return self.memory_bytes * 21 // 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """How much each program has to do."""

    kv_mib: int
    kv_operations: int
    sort_mib: int
    matrix_order: int
    matrix_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a program found when it checked its own work."""

    checked_bytes: int
    wrong: int
    summary: str


def programs(work: Work) -> tuple[Program, ...]:
    """Return the three programs; each may have some memory more than it needs."""
    matrix_mib = 3 * 8 * work.matrix_order**2 // MIB
    return (
        Program(
            name="kvload",
            argv=[str(ROOT / "build/examples/kvload"), "--mib", str(work.kv_mib),
                  "--operations", str(work.kv_operations), "--hold"],
            max_bytes=(work.kv_mib + 64) * MIB,
        ),
        Program(
            name="extsort",
            argv=[str(ROOT / "build/examples/extsort"), "--mib", str(work.sort_mib), "--hold"],
            max_bytes=(2 * work.sort_mib + 16) * MIB,
        ),
        Program(
            name="matrix",
            argv=[sys.executable, str(ROOT / "guestlib/examples/matrix.py"),
                  "--order", str(work.matrix_order), "--rounds", str(work.matrix_rounds),
                  "--hold"],
            max_bytes=(matrix_mib + 16) * MIB,
        ),
    )


WHOLE = Scene(
    memory_bytes=256 * MIB, swap_bytes=1024 * MIB,
    programs=programs(Work(
        kv_mib=196, kv_operations=4_000_000, sort_mib=128, matrix_order=2048,
        matrix_rounds=12,
    )),
    redis_keys=300_000, matrix_order=2500,
)
QUICK = Scene(
    memory_bytes=128 * MIB, swap_bytes=512 * MIB,
    programs=programs(Work(
        kv_mib=98, kv_operations=200_000, sort_mib=64, matrix_order=1536, matrix_rounds=2,
    )),
    redis_keys=60_000, matrix_order=1000,
)


class Actor:
    """
    A program that runs: its process, what it says, its latest figures.

    No thread reads what it says: a signal that comes while the daemon is cleaned
    up, which holds signals back, would find its way in through that thread.
    """

    def __init__(self, program: Program, process: subprocess.Popen[str]) -> None:
        self.name = program.name
        self.process = process
        self.doing = "starting"
        self.result: Result | None = None
        self.figures: GuestFigures | None = None
        self.told = False
        self._heard = b""
        if process.stdout is None:
            raise DemoError(f"{program.name} has no stdout")
        self._stdout = process.stdout.fileno()
        os.set_blocking(self._stdout, False)

    @property
    def ran(self) -> bool:
        """Whether its process has ended."""
        return self.process.poll() is not None

    def listen(self) -> None:
        """Take in what it has said since."""
        with suppress(BlockingIOError):
            while piece := os.read(self._stdout, 1 << 16):
                self._heard += piece
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "doing" in told:
                self.doing = told["doing"]
            else:
                self.doing = "done, all right" if told["wrong"] == 0 else "WRONG RESULTS"
                self.result = Result(**told)

    def observe(self, figures: Figures) -> None:
        """Keep its part of a sample; the last one before it ends stays."""
        for guest in figures["guests"]:
            if guest["name"] == self.name:
                self.figures = guest

    def let_go(self) -> None:
        """Let the program end, once its result was told."""
        if self.told and self.process.stdin is not None:
            self.process.stdin.close()

    def outcome(self) -> Result:
        """
        Return its result, once it has ended.

        Raises:
            DemoError: If it failed, or found a wrong byte.
        """
        self.listen()
        if self.result is None:
            status = self.process.returncode
            how = (
                f"was killed by {signal.Signals(-status).name}" if status < 0
                else f"ended with status {status}"
            )
            raise DemoError(f"{self.name} {how} before it had checked its work")
        if self.result.wrong or self.process.returncode:
            raise DemoError(
                f"{self.name} found {self.result.wrong} wrong results "
                f"(status {self.process.returncode})"
            )
        return self.result


@dataclass(slots=True)
class Peak:
    """The largest of all samples."""

    need_bytes: int = 0
    used_bytes: int = 0
    swap_bytes: int = 0

    def add(self, figures: Figures) -> None:
        """Take a sample into account."""
        need = sum(g["max_bytes"] - g["untouched_bytes"] for g in figures["guests"])
        self.need_bytes = max(self.need_bytes, need)
        self.used_bytes = max(self.used_bytes, figures["machine"]["used_bytes"])
        self.swap_bytes = max(self.swap_bytes, figures["machine"]["swap_used_bytes"])


class Stage:
    """The table on a terminal, lines elsewhere."""

    def __init__(self, console: Console, actors: Sequence[Actor]) -> None:
        self._console = console
        self._actors = actors
        self._start = time.monotonic()
        self._next_line_s = 0.0
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Since the programs were started."""
        return time.monotonic() - self._start

    def report(self, actor: Actor, result: Result) -> None:
        """Print what a program found; it stays above the table."""
        self._console.print(
            f"{actor.name}: {result.summary}; checked {format_size(result.checked_bytes)}, "
            f"{result.wrong} wrong", soft_wrap=True, highlight=False, markup=False,
        )

    def show(self, figures: Figures) -> None:
        """Show a sample."""
        if self._console.is_terminal:
            self._live.update(self._table(figures))
        elif self.elapsed_s >= self._next_line_s:
            self._next_line_s = self.elapsed_s + PLAIN_EVERY_S
            for line in self._lines():
                self._console.print(line, soft_wrap=True, highlight=False)

    def _table(self, figures: Figures) -> RenderableType:
        table = Table(title="Three programs in less than half the memory they need")
        table.add_column("guest")
        for heading in ("max", "resident", "swapped", "target", "faults", "stall %"):
            table.add_column(heading, justify="right", min_width=8)
        table.add_column("doing", min_width=18)
        for actor in self._actors:
            table.add_row(actor.name, *_cells(actor), actor.doing)
        machine = figures["machine"]
        return Group(table, Text(
            f"machine memory: {format_size(machine['used_bytes'])} of "
            f"{format_size(machine['total_bytes'])} in use, of which the daemon and its "
            f"tables {format_size(machine['overhead_bytes'])}; swap file: "
            f"{format_size(machine['swap_used_bytes'])}; {self.elapsed_s:.0f} s"
        ))

    def _lines(self) -> Iterator[str]:
        for actor in self._actors:
            most, resident, swapped, target, faults, stall = _cells(actor)
            yield (
                f"{self.elapsed_s:4.0f} s  {actor.name:8} max {most:>5}  resident {resident:>6}"
                f"  swapped {swapped:>6}  target {target:>6}  faults {faults:>7}  "
                f"stall {stall:>5} %  {actor.doing}"
            )


def _cells(actor: Actor) -> tuple[str, str, str, str, str, str]:
    guest = actor.figures
    if guest is None:
        return ("-",) * 6
    most = format_size(guest["max_bytes"])
    if actor.ran:
        return (most, "-", "-", "-", str(guest["faults"]), "-")
    return (
        most,
        format_size(guest["resident_bytes"]),
        format_size(guest["swapped_bytes"]),
        format_size(guest["target_bytes"]),
        str(guest["faults"]),
        f"{guest['stall_percent']:.1f}",
    )


def perform(
    scene: Scene, scratch: Scratch, console: Console
) -> tuple[Sequence[Actor], Peak, float]:
    """
    Run the programs to their ends.

    Raises:
        DemoError: If one fails, or they take too long.
        ScratchError: If the daemon fails.
    """
    peak = Peak()
    actors = [
        Actor(program, scratch.run(
            program.argv, name=program.name, max_bytes=program.max_bytes,
            # Three programs share the processors already.
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        ))
        for program in scene.programs
    ]
    with Stage(console, actors) as stage:
        while not all(actor.ran for actor in actors):
            # Before the sample: its figures are the final ones then.
            for actor in actors:
                actor.listen()
            done = [
                (actor, actor.result)
                for actor in actors if actor.result is not None and not actor.told
            ]
            figures = scratch.figures()
            peak.add(figures)
            for actor in actors:
                actor.observe(figures)
                if actor.ran:
                    actor.outcome()
            stage.show(figures)
            for actor, result in done:
                stage.report(actor, result)
                actor.told = True
            # Whoever is early keeps its memory until all need theirs at once.
            if peak.need_bytes >= scene.need_bytes or all(actor.told for actor in actors):
                for actor in actors:
                    actor.let_go()
            if stage.elapsed_s > LIMIT_S:
                raise DemoError(f"the programs have not finished after {LIMIT_S:.0f} s")
            time.sleep(SAMPLE_S)
        return actors, peak, stage.elapsed_s


def conclude(
    scene: Scene, actors: Sequence[Actor], peak: Peak, elapsed_s: float
) -> list[str]:
    """
    Return what was shown.

    Raises:
        DemoError: If it was not.
    """
    results = [(actor.name, actor.outcome()) for actor in actors]
    final = {actor.name: actor.figures for actor in actors}
    known = {name: guest for name, guest in final.items() if guest is not None}
    if len(known) < len(actors):
        raise DemoError("the daemon has not told the figures of every program")
    if peak.need_bytes < scene.need_bytes:
        raise DemoError(f"the programs needed {format_size(peak.need_bytes)} only")
    if peak.used_bytes > scene.memory_bytes:
        raise DemoError(f"{format_size(peak.used_bytes)} of machine memory were in use")
    out_pages = sum(guest["pages_out"] for guest in known.values())
    in_pages = sum(guest["pages_in"] for guest in known.values())
    faults = sum(guest["faults"] for guest in known.values())
    checked = sum(result.checked_bytes for _, result in results)
    work = "; ".join(f"{name}: {result.summary}" for name, result in results)
    waits = ", ".join(
        f"{name} {guest['stall_seconds']:.1f} s" for name, guest in known.items()
    )
    return [
        f"Need: three processes held {format_size(peak.need_bytes)} at once, in "
        f"{format_size(scene.memory_bytes)} of machine memory "
        f"({peak.need_bytes / scene.memory_bytes:.1f} times); at most "
        f"{format_size(peak.used_bytes)} of it in use in any sample, the daemon included.",
        f"Moved: {out_pages} pages out ({format_size(out_pages * PAGE_BYTES)}), {in_pages} "
        f"back ({format_size(in_pages * PAGE_BYTES)}), {faults} faults served; at most "
        f"{format_size(peak.swap_bytes)} in the swap file.",
        f"Right: 0 wrong bytes in {format_size(checked)} checked by the programs ({work}).",
        f"Waited for memory, of {elapsed_s:.1f} s: {waits}.",
    ]


def main() -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(
        prog="bin/demo", description="Three programs in less than half the memory they need."
    )
    parser.add_argument(
        "--quick", action="store_true", help="half the memory and less work: about 10 s"
    )
    scene = QUICK if parser.parse_args().quick else WHOLE
    console = Console()
    began = time.monotonic()
    try:
        with terminable():
            with Scratch(
                purpose="demo", memory_bytes=scene.memory_bytes,
                swap_bytes=scene.swap_bytes,
            ) as scratch:
                daemon_pid = scratch.daemon_pid
                lines = conclude(scene, *perform(scene, scratch, console))
                lines[2] += _unmodified(scene, scratch, console)
            lines.append(_left(scratch, daemon_pid, time.monotonic() - began))
    except KeyboardInterrupt:
        console.print("demo: interrupted", highlight=False)
        return 128 + signal.SIGINT
    except (DemoError, ProgramsError, ScratchError) as error:
        console.print(f"demo: failed: {error}", highlight=False, markup=False)
        return 1
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _unmodified(scene: Scene, scratch: Scratch, console: Console) -> str:
    """Have programs that know nothing of uvmm do their work, and say what they did."""
    names = []
    for same in compare(scratch, keys=scene.redis_keys, order=scene.matrix_order):
        console.print(told(same), soft_wrap=True, highlight=False, markup=False)
        names.append(same.name)
    return f" Unmodified, {' and '.join(names)} gave the same as without uvmm."


def _left(scratch: Scratch, daemon_pid: int, elapsed_s: float) -> str:
    """Look whether anything is left; the programs have ended. Say so, or raise."""
    if _runs(daemon_pid):
        raise DemoError(f"the daemon, process {daemon_pid}, was left behind")
    if scratch.run_dir.exists() or scratch.swap_file.exists():
        raise DemoError(f"{scratch.run_dir} or {scratch.swap_file} was left behind")
    if str(scratch.run_dir) in Path("/proc/self/mountinfo").read_text(errors="replace"):
        raise DemoError(f"a mount below {scratch.run_dir} was left behind")
    return (
        f"Left behind: no process, mount or file. All took {elapsed_s:.0f} s on "
        f"{os.cpu_count()} CPUs."
    )


def _runs(pid: int) -> bool:
    try:
        # One that has ended and was not reaped yet has no arguments any more.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
