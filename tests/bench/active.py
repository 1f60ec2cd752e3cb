# SPDX-License-Identifier: MIT
"""
Rows of `bin/bench active`: samples of guests' memory and the scan for idle pages.

The data plane runs in this process, so that the scan can be switched on and off while one
guest goes on: two guests are never alike within the half percent that is the question.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING

from uvmm import machine_settings
from uvmm.core import Engine
from uvmm.engine_config import EngineConfig, GuestConfig
from uvmm.model import NO_STANDING
from uvmm.policy.activity import SAMPLE_PAGES

from .figures import Row, at_most, column
from .probe import PAGE_BYTES, Probe, touch_argv
from .stage import MIB, Figures, Stage, say, size_text
from .subjects import process_cpu_ns
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from uvmm.model import Guest

IDLE_COST_PERMILLE = 4
EAGER_PERMILLE = 20  # where only the outcome counts
NAME = "bench"
WINDOW_ACCESSES = 5_000_000
PAIRS = 24  # of windows, in each repetition
SAMPLE_WINDOWS = 2  # so many take about as long as it should be until one page is watched
MIX_ACCESSES = 250_000
SETTLE_WINDOWS = 16
COLD_IN = 50
OWN_BYTES = 24 * MIB  # of the budget: what the data plane needs itself, and keeps free
LEARN_S = 60.0  # until the scan has to know what is idle
SAMPLES_A_PART = 4
PARTS_PERCENT = (0, 5, 20, 35, 50, 65, 80, 95, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A guest, and the data plane that it runs on."""

    engine: Engine
    id: int
    probe: Probe

    def figures(self) -> Guest:
        """Return what is known of the guest."""
        return self.engine.snapshot({self.id: NO_STANDING}).guests[0]


@contextmanager
def watched(
    stage: Stage, *, size_bytes: int, memory_bytes: int, pages: str, permille: int
) -> Iterator[Watched]:
    """Run a guest of that size, filled, on so much machine memory."""
    with (
        tempfile.TemporaryDirectory(prefix="uvmm-active-") as run_dir,
        machine_settings.allowed(),
    ):
        engine = Engine(EngineConfig(
            run_dir=Path(run_dir), swap_path=stage.memory_dir / "active.swap",
            memory_pages=memory_bytes // PAGE_BYTES, swap_pages=size_bytes // PAGE_BYTES,
            via="fuse", group=None, share_cpu_permille=0, idle_cost_permille=permille,
        ))
        try:
            with _guest(engine, Path(run_dir), size_bytes, pages) as guest:
                yield guest
        finally:
            engine.stop()


@contextmanager
def _guest(engine: Engine, run_dir: Path, size_bytes: int, pages: str) -> Iterator[Watched]:
    token = secrets.token_bytes(16)
    env = {
        **os.environ, "UVMM_SOCKET": str(run_dir / "guest.sock"), "UVMM_NAME": NAME,
        "UVMM_TOKEN": token.hex(),
    }
    # It executes the program once it is registered.
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'read go && exec "$@"', "sh",
         *touch_argv("guest", size_bytes, pages)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        start_new_session=True, bufsize=1,
    )
    max_pages = size_bytes // PAGE_BYTES
    guest_id = engine.create_guest(GuestConfig(
        name=NAME, token=token, pid=process.pid, uid=0, gid=0, min_pages=0,
        max_pages=max_pages, target_pages=max_pages, share_group="",
    ))
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    with Probe(process) as probe:
        probe.ask("fill")
        yield Watched(engine=engine, id=guest_id, probe=probe)


# --- what it costs ---


def cost(stage: Stage) -> list[Row]:
    """Measure a busy guest's speed with the scan and samples, against without."""
    return [
        _cost(stage, pages=pages, words=words, memory=memory, factor=factor)
        for pages, words in (("default", "large pages"), ("small", "small pages"))
        for memory, factor in (("plentiful", 3.0), ("short", 1.45))
    ]


def _cost(stage: Stage, *, pages: str, words: str, memory: str, factor: float) -> Row:
    size_bytes = stage.scale.calm_bytes
    with watched(
        stage, size_bytes=size_bytes, memory_bytes=int(factor * size_bytes), pages=pages,
        permille=IDLE_COST_PERMILLE,
    ) as guest:
        guest.probe.ask(f"random {WINDOW_ACCESSES}")
        found = [_pairs(guest) for _ in range(stage.scale.repetitions)]
        seen = guest.figures()
    say(f"  {words}, memory {memory}: {seen.idle_scanned_pages} pages scanned, "
        f"{seen.samples} samples")
    return Row(
        key="cost", what=f"busy guest of {size_text(size_bytes)}, {words}, memory {memory}: "
        "CPU time with scan and samples",
        unit="ns / access",
        uvmm=tuple(on for on, _ in found), peer_name="without",
        peer=tuple(off for _, off in found), target=at_most(1.005),
    )


def _pairs(guest: Watched) -> tuple[float, float]:
    """
    Return the time of an access with and without, each the lower quartile of many windows.

    It is the CPU time of all the guest's threads, with uvmm's own. What else runs on the
    machine only adds to a window, the scan is at work in each: so in the quiet ones half
    a percent can be seen.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    for pair in range(PAIRS):
        for on in (pair % 2 == 0, pair % 2 == 1):
            guest.engine.set_idle_cost(IDLE_COST_PERMILLE if on else 0)
            if on and pair % SAMPLE_WINDOWS == 0:
                guest.engine.sample(guest.id, 1)
            found = guest.probe.ask(f"random {WINDOW_ACCESSES}")
            times[on].append(found["cpu_ns_per_access"])
    return sorted(times[True])[PAIRS // 4], sorted(times[False])[PAIRS // 4]


# --- what is taken ---


def victims(stage: Stage) -> list[Row]:
    """Measure how much of what a guest uses is taken when half of its memory is."""
    return [
        _victims(stage, what=what, use=use)
        for what, use in (
            ("in one piece", "hot {quarter} 1 {ms}"), ("scattered", "hot {all} 4 {ms}"),
        )
    ]


def _victims(stage: Stage, *, what: str, use: str) -> Row:
    size_bytes = stage.scale.swapped_bytes
    pages = size_bytes // PAGE_BYTES

    def taken(*, knows: bool) -> float:
        with watched(
            stage, size_bytes=size_bytes, memory_bytes=3 * size_bytes, pages="default",
            permille=EAGER_PERMILLE if knows else 0,
        ) as guest:

            def go_on(ms: int) -> None:
                guest.probe.ask(use.format(quarter=pages // 4, all=pages, ms=ms))

            # From now on large pages are looked at page by page.
            guest.engine.reclaim(guest.id, 256, "swap")
            go_on(1000)
            if knows:
                _learn(guest, pages // 2 + pages // 8, lambda: go_on(500))
            before = guest.figures()
            guest.engine.reclaim(guest.id, pages // 2 - before.swapped_pages, "swap")
            before = guest.figures()
            go_on(0)
            return 100 * (guest.figures().pages_in - before.pages_in) / (pages // 4)

    repetitions = range(max(1, stage.scale.repetitions // 3))
    return Row(
        key="victims",
        what=f"half of {size_text(size_bytes)} is reclaimed; loaded again of the hot quarter, "
        f"{what}",
        unit="%",
        uvmm=tuple(taken(knows=True) for _ in repetitions), peer_name="random",
        peer=tuple(taken(knows=False) for _ in repetitions), target=at_most(0.1),
    )


def _learn(guest: Watched, idle_pages: int, go_on: Callable[[], None]) -> None:
    until = time.monotonic() + LEARN_S
    while guest.figures().idle_pages[0] < idle_pages:
        if time.monotonic() > until:
            raise BenchError(f"{guest.figures().idle_pages[0]} of {idle_pages} pages are idle")
        go_on()


# --- what that is worth ---


def overcommitted(stage: Stage) -> list[Row]:
    """
    Measure a guest of which half fits, and which uses a quarter of its pages mostly.

    At random, and each fiftieth access is to any page.
    """
    of_scan, of_random = stage.interleaved(
        lambda: _overcommitted(stage, permille=IDLE_COST_PERMILLE),
        lambda: _overcommitted(stage, permille=0),
    )
    size = size_text(stage.scale.swapped_bytes)
    return [
        Row(
            key="overcommitted", what=f"a guest of {size}, half of it in memory: {what}",
            unit=unit, uvmm=column(of_scan, figure), peer_name="random",
            peer=column(of_random, figure),
        )
        for figure, what, unit in (
            ("loads", "pages loaded", "a 1000 accesses"),
            ("cpu", "CPU time of guest and daemon", "ns / access"),
        )
    ]


def _overcommitted(stage: Stage, *, permille: int) -> Figures:
    size_bytes = stage.scale.swapped_bytes
    with watched(
        stage, size_bytes=size_bytes, memory_bytes=size_bytes // 2 + OWN_BYTES,
        pages="default", permille=permille,
    ) as guest:
        for _ in range(SETTLE_WINDOWS):
            guest.probe.ask(f"mix {MIX_ACCESSES} 4 {COLD_IN}")
        before, cpu_ns = guest.figures(), _cpu_ns(guest)
        for _ in range(SETTLE_WINDOWS):
            guest.probe.ask(f"mix {MIX_ACCESSES} 4 {COLD_IN}")
        accesses = SETTLE_WINDOWS * MIX_ACCESSES
        return {
            "loads": 1000 * (guest.figures().pages_in - before.pages_in) / accesses,
            "cpu": (_cpu_ns(guest) - cpu_ns) / accesses,
        }


def _cpu_ns(guest: Watched) -> int:
    """CPU time of the guest, and of this process, whose threads are the daemon."""
    return process_cpu_ns(guest.probe.pid) + time.process_time_ns()


# --- how true it is ---


def estimate(stage: Stage) -> list[Row]:
    """Measure the error of samples of 100 pages, against what the guest does."""
    size_bytes = stage.scale.swapped_bytes
    return [
        _estimate(stage, size_bytes, pages=pages, words=words)
        for pages, words in (("default", "large pages"), ("small", "small pages"))
    ]


def _estimate(stage: Stage, size_bytes: int, *, pages: str, words: str) -> Row:
    chance = Random(1)
    errors = []
    all_pages = size_bytes // PAGE_BYTES
    with watched(
        stage, size_bytes=size_bytes, memory_bytes=3 * size_bytes, pages=pages,
        permille=IDLE_COST_PERMILLE,
    ) as guest:
        for percent in PARTS_PERCENT * (SAMPLES_A_PART if stage.scale.repetitions > 3 else 1):
            step = chance.choice((1, 2, 4))
            if percent > 100 // step:
                step = 1
            used = all_pages * percent * step // 100
            errors.append(abs(_sampled(guest, used, step) - percent))
    errors.sort()
    say(f"  {words}: median error {median(errors):.1f}, largest {errors[-1]:.1f} points")
    return Row(
        key="estimate", what=f"sample of {SAMPLE_PAGES} pages, {words}: error of 95 % of them",
        unit="points", uvmm=(errors[int(0.95 * (len(errors) - 1))],), target=at_most(10),
    )


def _sampled(guest: Watched, count: int, step: int) -> float:
    """Return what part of its memory the sample says the guest uses, in percent."""
    guest.engine.sample(guest.id, SAMPLE_PAGES)
    guest.probe.ask(f"hot {count} {step} 300")
    time.sleep(0.8)
    seen = guest.figures()
    if seen.sampled_pages < SAMPLE_PAGES // 2:
        raise BenchError(f"{seen.sampled_pages} pages were watched, not {SAMPLE_PAGES}")
    return 100 * seen.sample_touched_pages / seen.sampled_pages


ROWS: Mapping[str, Callable[[Stage], list[Row]]] = {
    "cost": cost,
    "victims": victims,
    "overcommitted": overcommitted,
    "estimate": estimate,
}
