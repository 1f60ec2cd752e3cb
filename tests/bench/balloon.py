# SPDX-License-Identifier: MIT
"""
The rows of `bench balloon`: how fast a guest's free memory goes and comes.

The data plane runs in this process, without a daemon: a policy would set the balloon anew
while it is measured.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm import machine_settings
from uvmm.core import Engine
from uvmm.engine_config import EngineConfig, GuestConfig
from uvmm.model import NO_STANDING

from .figures import Row, at_least, at_most, column
from .probe import PAGE_BYTES, Probe, touch_argv
from .stage import GIB, MIB, Figures, Stage, new_name, size_text
from .undo import BenchError, Undo, held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from uvmm.model import Guest

EXTRA_BYTES = 256 * MIB
WAIT_S = 30.0
LOOK_S = 0.0005
MOST = 0.9
POPPED = 2000
TAKEN = 2000
SIZES = {"huge": "2 MiB", "small": "4 KiB"}
FRAGMENTS = (16, 1)  # pages


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A guest of an engine, which nothing but the balloon acts on."""

    engine: Engine
    id: int
    probe: Probe

    def seen(self) -> Guest:
        """Return its figures."""
        return self.engine.snapshot({self.id: NO_STANDING}).guests[0]

    def held_pages(self) -> int:
        """Return what all guests hold of machine memory, by the kernel."""
        return self.engine.snapshot({self.id: NO_STANDING}).machine.tmpfs_pages

    def until(self, done: Callable[[], bool]) -> float:
        """Wait, and tell how long that took."""
        began = time.monotonic()
        while not done():
            if time.monotonic() - began > WAIT_S:
                raise BenchError(f"{self.seen().ballooned_pages} pages are ballooned")
            time.sleep(LOOK_S)
        return time.monotonic() - began

    def make(self, pages: int) -> float:
        """Have a balloon of so many pages: how many seconds that took."""
        began = time.monotonic()
        self.engine.set_balloon(self.id, pages)
        self.until(lambda: self.seen().ballooned_pages == pages)
        return time.monotonic() - began


def subject(size_bytes: int, pages: str) -> AbstractContextManager[Subject]:
    """Run a guest with memory of *size_bytes*, on pages of that kind."""
    return running(touch_argv("guest", size_bytes, pages), size_bytes)


@contextmanager
def running(argv: Sequence[str], size_bytes: int) -> Iterator[Subject]:
    """Run a measuring program as a guest with memory of *size_bytes*."""
    with Undo() as undo:
        undo.enter_context(machine_settings.allowed())
        with held():
            run_dir = Path(tempfile.mkdtemp(prefix="uvmm-bench-balloon-", dir="/run"))
            undo.callback(shutil.rmtree, run_dir, ignore_errors=True)
            engine = Engine(
                EngineConfig(
                    run_dir=run_dir, swap_path=None, swap_pages=0, via="fuse", group=None,
                    memory_pages=(size_bytes + EXTRA_BYTES) // PAGE_BYTES,
                    share_cpu_permille=0, idle_cost_permille=0,
                )
            )
            undo.callback(engine.stop)
        name, token = new_name(), os.urandom(16)
        process = subprocess.Popen(
            # The guest has to be known before it attaches.
            ["/bin/sh", "-c", 'read go; exec "$@"', "sh", *argv],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={
                **os.environ, "UVMM_SOCKET": str(run_dir / "guest.sock"), "UVMM_NAME": name,
                "UVMM_TOKEN": token.hex(),
            },
        )
        size_pages = size_bytes // PAGE_BYTES
        guest_id = engine.create_guest(
            GuestConfig(
                name=name, token=token, pid=process.pid, uid=os.getuid(), gid=os.getgid(),
                min_pages=0, max_pages=size_pages, target_pages=size_pages, share_group="",
            )
        )
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        found = Subject(engine=engine, id=guest_id, probe=undo.enter_context(Probe(process)))
        found.until(lambda: found.seen().balloon_able)
        yield found


def inflate(stage: Stage) -> list[Row]:
    """Take free memory, all of which is resident and in one run, and give it back."""
    size_bytes = stage.scale.calm_bytes
    measured = stage.interleaved(
        *(partial(_in_and_out, stage, size_bytes, pages) for pages in SIZES)
    )
    return [
        Row(
            key="inflate", unit="GiB/s", uvmm=column(figures, name), target=at_least(4),
            what=f"{verb} {size_text(size_bytes)} of free memory, {SIZES[pages]} pages",
        )
        for name, verb in (("in", "take"), ("out", "give back"))
        for pages, figures in zip(SIZES, measured, strict=True)
    ]


def _in_and_out(stage: Stage, size_bytes: int, pages: str) -> Figures:
    size_pages = size_bytes // PAGE_BYTES
    with subject(size_bytes, pages) as guest:
        guest.probe.ask(f"use {size_pages} 1")
        if (resident := guest.seen().resident_pages) < MOST * size_pages:
            raise BenchError(f"{resident} of {size_pages} pages are resident")
        gib = size_bytes / GIB
        taken_s = guest.make(size_pages)
        if (left := guest.held_pages()) > (1 - MOST) * size_pages:
            raise BenchError(f"{left} of {size_pages} pages are held still")
        return {"in": gib / taken_s, "out": gib / guest.make(0)}


def reclaim(stage: Stage) -> list[Row]:
    """Time from a new target until nine tenths of the free memory of a guest are reclaimed."""
    measured = stage.interleaved(*(partial(_reclaimed, stage, pages) for pages in SIZES))
    return [
        Row(
            key="reclaim", unit="s", uvmm=column(figures, "s"), target=at_most(0.5),
            what=f"until 90 % of 1 GiB are reclaimed, {SIZES[pages]} pages",
        )
        for pages, figures in zip(SIZES, measured, strict=True)
    ]


def _reclaimed(stage: Stage, pages: str) -> Figures:
    size_pages = GIB // PAGE_BYTES
    with subject(GIB, pages) as guest:
        guest.probe.ask(f"use {size_pages} 1")
        before = guest.held_pages()
        guest.engine.set_balloon(guest.id, size_pages)
        return {
            "s": guest.until(lambda: before - guest.held_pages() >= MOST * size_pages)
        }


def fragments(stage: Stage) -> list[Row]:
    """Take and give back memory of which every second run of a few pages is free."""
    measured = stage.interleaved(*(partial(_fragments, stage, run) for run in FRAGMENTS))
    return [
        Row(
            key="fragments", unit="us / 4 KiB", uvmm=column(figures, name),
            what=f"{verb} runs of {run * PAGE_BYTES // 1024} KiB",
        )
        for name, verb in (("in", "take"), ("out", "give back"))
        for run, figures in zip(FRAGMENTS, measured, strict=True)
    ]


def _fragments(stage: Stage, run_pages: int) -> Figures:
    size_bytes = stage.scale.swapped_bytes
    with subject(size_bytes, "small") as guest:
        free_pages = int(guest.probe.ask(f"use {run_pages} 2")["free"])
        return {
            "in": guest.make(free_pages) * 1e6 / free_pages,
            "out": guest.make(0) * 1e6 / free_pages,
        }


def needed(stage: Stage) -> list[Row]:
    """Allocate in a guest whose free memory is all ballooned; and touch what it gave back."""
    figures = [_needed(stage) for _ in range(stage.scale.repetitions)]
    return [
        Row(key="needed", unit="us", uvmm=column(figures, name), what=what)
        for name, what in (
            ("free", "64 KiB from the page allocator"),
            ("p50", "the same, all free memory is ballooned: median"),
            ("max", "and the slowest, which takes 2 MiB back"),
            ("pop", "touch of a page in the balloon"),
        )
    ]


def _needed(stage: Stage) -> Figures:
    size_bytes = stage.scale.swapped_bytes
    size_pages = size_bytes // PAGE_BYTES
    with subject(size_bytes, "small") as guest:
        free = guest.probe.ask(f"take {TAKEN} 16")
        guest.make(size_pages)
        took = guest.probe.ask(f"take {TAKEN} 16")
        guest.make(0)
        guest.make(size_pages)
        touched = guest.probe.ask(f"latency 1 {POPPED} 1")
        if (popped := guest.seen().popped_pages) < POPPED:
            raise BenchError(f"{popped} of {POPPED} pages popped")
        return {
            "free": free["p50"] / 1e3, "p50": took["p50"] / 1e3, "max": took["max"] / 1e3,
            "pop": touched["p50_ns"] / 1e3,
        }


ROWS: Mapping[str, Callable[[Stage], list[Row]]] = {
    "inflate": inflate, "reclaim": reclaim, "fragments": fragments, "needed": needed,
}
