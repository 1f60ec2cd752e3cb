# SPDX-License-Identifier: MIT
"""
The rows of `bench io`: a guest's virtual disk, with remapping on and off, against fio.

The image is a file on disk, which fio reads by io_uring past the page cache, with blocks of
the same size and as many under way. What is measured is steady: buffers have had their time to
become hot.
"""

from __future__ import annotations

import json
import subprocess
from array import array
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from uvmm.scratch import Scratch

from .figures import Row, Target, at_least, at_most, column
from .probe import TOUCH, Probe
from .stage import GIB, MIB, Figures, Stage, new_name
from .subjects import guest_figures, process_cpu_ns
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DISK = TOUCH.with_name("disk")
MAX_BYTES = 256 * MIB
MEMORY_BYTES = 2 * GIB
IMAGE_BYTES = 512 * MIB
WARM_MS = 1000
PAUSE_BLOCK_BYTES = MIB
PAUSE_BUFFERS = 64
NS_PER_MS = 1e6
MS_PER_S = 1000
US_PER_S = 1e6
PAUSE_MORE_US = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a guest reads, and fio."""

    key: str
    what: str
    block_bytes: int
    depth: int
    random: bool = False
    at_once: int = 1


STREAM = Load(key="stream", what="1 MiB reads in order, 4 under way", block_bytes=MIB, depth=4)
SMALL = Load(
    key="small", what="4 KiB reads at random, 32 under way", block_bytes=4096, depth=32,
    random=True,
)
TWO = Load(
    key="two", what="two at once, 1 MiB reads, 4 under way", block_bytes=MIB, depth=4,
    at_once=2,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Two daemons and an image."""

    remaps: Scratch
    copies: Scratch
    image: Path
    run_ms: int


@contextmanager
def _sides(stage: Stage) -> Iterator[Sides]:
    image = stage.scratch_dir / "image"
    try:
        with image.open("wb") as file:
            words = MIB // 8
            for at in range(0, IMAGE_BYTES // 8, words):
                array("Q", range(at, at + words)).tofile(file)
        with _daemon() as remaps, _daemon("--remap-after", "0") as copies:
            yield Sides(
                remaps=remaps, copies=copies, image=image,
                run_ms=int(stage.scale.disk_s * MS_PER_S),
            )
    finally:
        image.unlink(missing_ok=True)


def _daemon(*options: str) -> Scratch:
    return Scratch(
        purpose="bench", memory_bytes=MEMORY_BYTES, swap_bytes=MEMORY_BYTES, options=options
    )


def _guest(daemon: Scratch, image: Path, name: str, block_bytes: int, depth: int) -> Probe:
    return Probe(
        daemon.run(
            [str(DISK), str(block_bytes), str(depth)], name=name, max_bytes=MAX_BYTES,
            options=("--heap", "none", "--disk", f"data={image},ro"),
        )
    )


def _copied(daemon: Scratch, name: str) -> int:
    told: dict[str, Any] = dict(guest_figures(daemon, name))
    return int(told["io"]["copied_bytes"])


def _read(sides: Sides, daemon: Scratch, load: Load) -> Figures:
    names = [new_name() for _ in range(load.at_once)]
    verb = "random" if load.random else "stream"
    with ExitStack() as stack:
        guests = [
            stack.enter_context(
                _guest(daemon, sides.image, name, load.block_bytes, load.depth)
            )
            for name in names
        ]
        _ask(guests, f"{verb} {WARM_MS}")
        pids = [daemon.daemon_pid]
        pids += [guest_figures(daemon, name)["pid"] for name in names]
        copied = sum(_copied(daemon, name) for name in names)
        cpu_ns = sum(map(process_cpu_ns, pids))
        told = _ask(guests, f"{verb} {sides.run_ms}")
        cpu_ns = sum(map(process_cpu_ns, pids)) - cpu_ns
        copied = sum(_copied(daemon, name) for name in names) - copied
    read_bytes = sum(each["bytes"] for each in told)
    return {
        "rate": sum(each["bytes"] / each["ns"] for each in told),
        "iops": sum(each["requests"] / each["ns"] for each in told) * US_PER_S,
        "copied": 100 * copied / read_bytes,
        "cpu": cpu_ns / NS_PER_MS / (read_bytes / GIB),
    }


def _ask(guests: list[Probe], command: str) -> list[dict[str, float]]:
    for guest in guests:
        guest.tell(command)
    return [guest.hear(command) for guest in guests]


def _fio(sides: Sides, load: Load) -> Figures:
    argv = [
        "fio", "--name=peer", f"--filename={sides.image}", "--readonly", "--direct=1",
        "--ioengine=io_uring", f"--rw={'randread' if load.random else 'read'}",
        f"--bs={load.block_bytes}", f"--iodepth={load.depth}", f"--numjobs={load.at_once}",
        "--time_based", f"--runtime={sides.run_ms}ms", "--ramp_time=500ms", "--thread",
        "--group_reporting", "--output-format=json",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"fio: {done.stderr.strip() or done.stdout.strip()}")
    (job,) = json.loads(done.stdout)["jobs"]
    read = job["read"]
    cpu_ms = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"]
    return {
        "rate": read["bw_bytes"] / 1e9,
        "iops": read["iops"] / 1000,
        "cpu": cpu_ms / (read["io_bytes"] / GIB),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A figure that is compared, and with whom."""

    name: str
    what: str
    unit: str
    target: Target | None = None


_RATE = _Question(name="rate", what="throughput", unit="GB / s")
_CPU = _Question(name="cpu", what="CPU", unit="ms / GiB")


def _rows(
    stage: Stage, load: Load, of_off: tuple[_Question, ...], of_fio: tuple[_Question, ...]
) -> list[Row]:
    with _sides(stage) as sides:
        on, off, peer = stage.interleaved(
            partial(_read, sides, sides.remaps, load),
            partial(_read, sides, sides.copies, load),
            partial(_fio, sides, load),
        )
    return [
        Row(
            key=load.key, what=f"{load.what}: {asked.what}", unit=asked.unit,
            uvmm=column(on, asked.name), peer_name=name, peer=column(found, asked.name),
            target=asked.target,
        )
        for name, found, questions in (("remap off", off, of_off), ("fio", peer, of_fio))
        for asked in questions
    ]


def stream(stage: Stage) -> list[Row]:
    """Measure a guest that reads into a few large buffers."""
    copied = _Question(name="copied", what="copied", unit="% of bytes", target=at_most(0.001))
    less = replace(_CPU, target=at_most(0.6))
    return _rows(
        stage, STREAM, (copied, less, _RATE), (replace(_RATE, target=at_least(0.95)), _CPU)
    )


def small(stage: Stage) -> list[Row]:
    """Measure many small requests."""
    iops = _Question(name="iops", what="requests", unit="1000 / s")
    return _rows(stage, SMALL, (iops,), (replace(iops, target=at_least(0.7)),))


def two(stage: Stage) -> list[Row]:
    """Measure two guests at once."""
    return _rows(stage, TWO, (_CPU, _RATE), (_RATE,))


def pause(stage: Stage) -> list[Row]:
    """Measure stores to pages that are just being remapped, and the same without."""

    def measured(daemon: Scratch) -> Figures:
        name = new_name()
        with _guest(daemon, sides.image, name, PAUSE_BLOCK_BYTES, PAUSE_BUFFERS) as guest:
            told = guest.ask(f"pause {sides.run_ms}")
            figures: dict[str, Any] = dict(guest_figures(daemon, name))
        if bool(figures["io"]["remaps_in"]) != (daemon is sides.remaps):
            raise BenchError("what was to be remapped was not, or the other way round")
        return told

    with _sides(stage) as sides:
        on, off = stage.interleaved(
            partial(measured, sides.remaps), partial(measured, sides.copies)
        )
    what = "stores held up while 1 MiB buffers are remapped"
    more = tuple(a["p99_us"] - b["p99_us"] for a, b in zip(on, off, strict=True))
    return [
        *(
            Row(key="pause", what=f"{what}, {part}", unit="us", uvmm=column(on, f"{part}_us"),
                peer_name="remap off", peer=column(off, f"{part}_us"))
            for part in ("p50", "p99", "max")
        ),
        Row(key="pause", what=f"{what}, p99: longer than without", unit="us", uvmm=more,
            target=at_most(PAUSE_MORE_US)),
    ]


ROWS = {"stream": stream, "small": small, "two": two, "pause": pause}
