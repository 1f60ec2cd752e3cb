# SPDX-License-Identifier: MIT
"""Processes that have pages in common: guests of a daemon, or ordinary ones for KSM."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch

from .probe import PAGE_BYTES, Probe, start, touch_argv
from .stage import new_name
from .subjects import process_cpu_ns
from .undo import BenchError, Undo, held

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DAEMON_BYTES = 512 << 20
CALM_S = 0.3
_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """What each process of a herd holds, in pages."""

    number: int
    pages: int
    common: int
    zero: int

    @property
    def bytes(self) -> int:
        """Size of a process's memory."""
        return self.pages * PAGE_BYTES

    @property
    def identical(self) -> int:
        """Pages that have a twin, or are zeros, in all processes."""
        return self.number * (self.common + self.zero)

    @property
    def superfluous(self) -> int:
        """Pages that nobody needs to hold."""
        return self.identical - self.common

    def fill(self, herd: Sequence[Probe]) -> None:
        """Fill the memory of all, at the same time."""
        commands = [f"alike {self.common} {self.zero} {_SEED + at}" for at in range(len(herd))]
        at_once(herd, commands)


def at_once(herd: Sequence[Probe], commands: Sequence[str]) -> list[dict[str, float]]:
    """Give each process its command, all at the same time, and wait for the answers."""
    with ThreadPoolExecutor(len(herd)) as threads:
        return list(threads.map(Probe.ask, herd, commands))


@contextmanager
def guests(daemon: Scratch, alike: Alike) -> Iterator[list[Probe]]:
    """Run a herd on a daemon."""
    argv = touch_argv("guest", alike.bytes)
    with Undo() as undo:
        yield [
            undo.enter_context(
                Probe(daemon.run(argv, name=new_name(), max_bytes=alike.bytes))
            )
            for _ in range(alike.number)
        ]


@contextmanager
def ordinary(alike: Alike) -> Iterator[list[Probe]]:
    """Run a herd of ordinary processes with small pages, open to merging."""
    argv = touch_argv("anon", alike.bytes, "small")
    with Undo() as undo:
        herd = []
        for _ in range(alike.number):
            with held():
                herd.append(undo.enter_context(start(argv)))
            herd[-1].ask("mergeable")
        yield herd


def herd_daemon(alike: Alike, swap_dir: Path, *, share_cpu: int = 0) -> Scratch:
    """Describe a daemon with room for the herd, that looks by itself only if told to."""
    guests_bytes = alike.number * alike.bytes
    return Scratch(
        purpose="bench", memory_bytes=2 * guests_bytes + DAEMON_BYTES, share_cpu=share_cpu,
        swap_bytes=guests_bytes, swap_dir=swap_dir,
    )


def sharing_cpu_ns(daemon: Scratch) -> int:
    """CPU time of the daemon and of all its guests, which do nothing but answer it."""
    pids = [daemon.daemon_pid, *(guest["pid"] for guest in daemon.figures()["guests"])]
    return sum(map(process_cpu_ns, pids))


def available_bytes() -> int:
    """
    Memory that the host could give to others, when it has come to rest.

    MemAvailable, and what the kernel has at hand for each CPU: free pages that it does not
    count, hundreds of MiB after much was freed, which it lets go of within minutes.
    """
    time.sleep(CALM_S)
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    if found is None:
        raise BenchError("the kernel does not tell MemAvailable")
    zones = Path("/proc/zoneinfo").read_text()
    at_hand = re.findall(r"^\s+count:\s+(\d+)$", zones, re.MULTILINE)
    return (int(found[1]) << 10) + sum(map(int, at_hand)) * PAGE_BYTES
