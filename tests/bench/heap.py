# SPDX-License-Identifier: MIT
"""
The rows of `bench heap`: unmodified programs as guests, memory plentiful.

A program is timed from where it is executed to its end, against the same on glibc's
malloc and on jemalloc; the row names the better of the two. What `uvmm run` takes
before that is a row of its own.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from uvmm.scratch import GuestFigures, Scratch, stored_and_held

from .figures import Row, at_least, at_most, column
from .jobs import GREEDY, PYTHON, Job, jobs
from .probe import TOUCH, Probe
from .redis import Server
from .stage import GIB, MIB, Figures, Stage, new_name
from .subjects import roomy_daemon
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEED = at_least(0.97)
MAX_BYTES = GIB
JEMALLOC = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"
STAMP = str(TOUCH.with_name("stamp"))
NS_PER_S = 1e9
STARTS = 15
GIVEN_BACK_S = 2.0
JOB_S = 300.0
FILLED_BYTES = 150 * MIB
SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How a command is run: as it is, with something preloaded, as a guest."""

    name: str
    preload: str | None = None
    daemon: Scratch | None = None

    def argv(self, argv: tuple[str, ...], *options: str) -> list[str]:
        """Return the command of this side; *options* are those of `uvmm run`."""
        if self.daemon is None:
            return list(argv)
        return self.daemon.command("run", "--max", str(MAX_BYTES), *options, "--", *argv)

    def environment(self) -> dict[str, str]:
        """Return the environment of this side."""
        found = dict(os.environ) if self.daemon is None else self.daemon.environment()
        found.update({"LC_ALL": "C", "PYTHONHASHSEED": "1", "OPENBLAS_NUM_THREADS": "1"})
        if self.preload is not None:
            found["LD_PRELOAD"] = self.preload
        return found


def programs(stage: Stage) -> list[Row]:
    """Time programs."""
    with _folder(stage) as folder, _daemon(stage) as daemon:
        return [_speed(stage, job, folder, daemon) for job in jobs(folder)]


def _speed(stage: Stage, job: Job, folder: Path, daemon: Scratch) -> Row:
    said: set[bytes] = set()
    stamp = folder / "stamp"
    options = ("--follow",) if job.follow else ()

    def timed(side: Side) -> Figures:
        done = subprocess.run(
            side.argv((STAMP, str(stamp), *job.argv), *options), cwd=folder,
            env=side.environment(), check=False, stdin=subprocess.DEVNULL,
            capture_output=True, timeout=JOB_S,
        )
        end_ns = time.monotonic_ns()
        if done.returncode:
            raise BenchError(f"{job.key} on {side.name}: {done.stderr.decode()[-300:]}")
        if job.repeats_itself:
            said.add(done.stdout)
        return {"s": (end_ns - int(stamp.read_text())) / NS_PER_S}

    sides = [Side(name="glibc"), Side(name="jemalloc", preload=JEMALLOC)]
    guests = Side(name="uvmm", daemon=daemon)
    of_guest, *of_peers = stage.interleaved(*(partial(timed, s) for s in (guests, *sides)))
    if len(said) > 1:
        raise BenchError(f"{job.key} has another result as a guest")
    peers = [column(samples, "s") for samples in of_peers]
    best = min(range(len(peers)), key=lambda at: median(peers[at]))
    return Row(
        key="programs", what=f"{job.key}, speed", unit="s", uvmm=column(of_guest, "s"),
        peer_name=sides[best].name, peer=peers[best], speedup=True, target=SPEED,
    )


def redis(stage: Stage) -> list[Row]:
    """Compare the requests a second of redis-server; its own malloc is jemalloc."""
    with _folder(stage) as folder, _daemon(stage) as daemon:

        def asked(side: Side) -> Figures:
            server = Server(folder)
            with server.running(side.argv(server.argv), side.environment()):
                return server.benchmark()

        of_guest, of_peer = stage.interleaved(
            partial(asked, Side(name="uvmm", daemon=daemon)), partial(asked, Side(name="alone"))
        )
    return [
        Row(
            key="redis", what=f"redis-benchmark {what}", unit="requests / s",
            uvmm=column(of_guest, what), peer_name="redis alone", peer=column(of_peer, what),
            target=SPEED,
        )
        for what in of_guest[0]
    ]


def start_up(stage: Stage) -> list[Row]:
    """Time `uvmm run -- true` with and without the library."""
    with _daemon(stage) as daemon:
        side = Side(name="uvmm", daemon=daemon)

        def started(heap: str) -> Figures:
            argv = side.argv(("/bin/true",), "--heap", heap)
            began = time.monotonic()
            subprocess.run(argv, env=side.environment(), check=True)
            return {"ms": (time.monotonic() - began) * 1000}

        def both() -> Figures:
            pairs = [(started("guest")["ms"], started("none")["ms"]) for _ in range(STARTS)]
            with_it, without = (median(times) for times in zip(*pairs, strict=True))
            return {"added": with_it - without, "without": without}

        (found,) = stage.interleaved(both)
    return [
        Row(key="start-up", what="start-up that the library adds to `uvmm run`", unit="ms",
            uvmm=column(found, "added"), target=at_most(10)),
        Row(key="start-up", what="`uvmm run --heap none -- true`", unit="ms",
            uvmm=column(found, "without")),
    ]


def freed(stage: Stage) -> list[Row]:
    """Measure what a guest holds two seconds after it freed nine tenths."""

    def shrunk(daemon: Scratch) -> Figures:
        argv = [PYTHON, "-c", GREEDY]
        with Probe(daemon.run(argv, name=new_name(), max_bytes=MAX_BYTES)) as probe:
            peak = _only(daemon)["resident_bytes"]
            probe.ask("free")
            time.sleep(GIVEN_BACK_S)
            return {"percent": 100 * _only(daemon)["resident_bytes"] / peak}

    with _daemon(stage) as daemon:
        (found,) = stage.interleaved(partial(shrunk, daemon))
    return [
        Row(key="freed", what=f"held {GIVEN_BACK_S:.0f} s after 90 % of a heap was freed",
            unit="% of peak", uvmm=column(found, "percent"), target=at_most(15)),
    ]


def managed(stage: Stage) -> list[Row]:
    """Measure how much of the writable memory is the guest's, when it is largest."""
    with _folder(stage) as folder, _daemon(stage) as daemon:
        side = Side(name="uvmm", daemon=daemon)
        shares = {}
        for job in jobs(folder):
            options = ("--follow",) if job.follow else ()
            shares[job.key] = _managed_share(daemon, side.argv(job.argv, *options), folder)
        server = Server(folder)
        with server.running(side.argv(server.argv), side.environment()):
            server.fill(FILLED_BYTES)
            shares["redis"] = _share(daemon)[1]
    return [
        Row(key="managed", what=f"guest memory of what {key} may write", unit="%",
            uvmm=(100 * share,), target=at_least(95))
        for key, share in shares.items()
    ]


def _managed_share(daemon: Scratch, argv: list[str], folder: Path) -> float:
    with subprocess.Popen(
        argv, cwd=folder, env=daemon.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:
        samples = [(0, 0.0)]
        while process.poll() is None:
            samples.append(_share(daemon))
            time.sleep(SAMPLE_S)
    return max(samples)[1]


def _share(daemon: Scratch) -> tuple[int, float]:
    """Bytes of all guests, and how much of what they may write that is."""
    guests = daemon.figures()["guests"]
    theirs = sum(stored_and_held(guest) - guest["untouched_bytes"] for guest in guests)
    unmanaged = sum(guest["unmanaged_bytes"] for guest in guests)
    return theirs, theirs / (theirs + unmanaged) if theirs else 0.0


def _only(daemon: Scratch) -> GuestFigures:
    (guest,) = daemon.figures()["guests"]
    return guest


def _daemon(stage: Stage) -> Scratch:
    return roomy_daemon(MAX_BYTES, swap_dir=stage.memory_dir)


@contextmanager
def _folder(stage: Stage) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=stage.memory_dir) as folder:
        yield Path(folder)


ROWS = {
    "programs": programs,
    "redis": redis,
    "start-up": start_up,
    "freed": freed,
    "managed": managed,
}
