# SPDX-License-Identifier: MIT
"""
Memory that pages can be taken out of: a guest of uvmm, and an ordinary process
whose pages go to the kernel's swap. Both are driven by the same calls.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from uvmm.scratch import GuestFigures, Scratch

from .probe import PAGE_BYTES, Probe, start, touch_argv
from .undo import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A few pages may stay: the kernel leaves those in its per-CPU lists alone.
LEFT_SHARE_MAX = 0.01
EVICT_ATTEMPTS = 3
CPUCLOCK_SCHED = 2  # include/linux/posix-timers.h: what a process ran, in nanoseconds
DAEMON_EXTRA_BYTES = 512 << 20
ATTACH_NAME = "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """What taking pages out cost; `cpu_ns` is that of every process that took part."""

    pages: int
    cpu_ns: int
    elapsed_ns: int


class Subject(Protocol):
    """A measuring program and a way to take all of its memory out."""

    @property
    def probe(self) -> Probe:
        """The program."""

    def evict(self) -> Evicted:
        """
        Take all pages out.

        Raises:
            BenchError: If pages stay in; nothing measured then would be a figure.
        """


def process_cpu_ns(pid: int) -> int:
    """CPU time that all threads of a process have used, also those that ended."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)


class KernelSubject:
    """An ordinary process, its pages taken out by MADV_PAGEOUT."""

    def __init__(self, probe: Probe, size_bytes: int) -> None:
        self.probe = probe
        self._pages = size_bytes // PAGE_BYTES

    def evict(self) -> Evicted:
        """See Subject."""
        before = self._resident()
        cpu_ns, start_ns = process_cpu_ns(self.probe.pid), time.monotonic_ns()
        self.probe.ask("pageout")
        elapsed_ns = time.monotonic_ns() - start_ns
        cpu_ns = process_cpu_ns(self.probe.pid) - cpu_ns
        left = self._resident()
        if left > self._pages * LEFT_SHARE_MAX:
            raise BenchError(f"{left} of {self._pages} pages stayed in with MADV_PAGEOUT")
        return Evicted(pages=before - left, cpu_ns=cpu_ns, elapsed_ns=elapsed_ns)

    def _resident(self) -> int:
        return int(self.probe.ask("resident")["pages"])


class GuestSubject:
    """A guest, its pages taken out through the control API."""

    def __init__(self, daemon: Scratch, name: str, probe: Probe, size_bytes: int) -> None:
        self.probe = probe
        self._daemon = daemon
        self._name = name
        self._size_bytes = size_bytes

    def evict(self) -> Evicted:
        """See Subject."""
        pids = (self._daemon.daemon_pid, self.figures()["pid"])
        cpu_ns = sum(map(process_cpu_ns, pids))
        start_ns = time.monotonic_ns()
        pages = self._reclaim()
        elapsed_ns = time.monotonic_ns() - start_ns
        cpu_ns = sum(map(process_cpu_ns, pids)) - cpu_ns
        swapped_bytes = self.figures()["swapped_bytes"]
        if swapped_bytes < self._size_bytes * (1 - LEFT_SHARE_MAX):
            raise BenchError(
                f"{swapped_bytes} of {self._size_bytes} bytes are out after a reclaim of all"
            )
        return Evicted(pages=pages, cpu_ns=cpu_ns, elapsed_ns=elapsed_ns)

    def figures(self) -> GuestFigures:
        """Return what the daemon says of this guest now."""
        return guest_figures(self._daemon, self._name)

    def _reclaim(self) -> int:
        pages = 0
        for _ in range(EVICT_ATTEMPTS):
            moved = self._daemon.reclaim(self._name, 100)
            pages += moved.pages
            if not moved.left_pages:
                break
        return pages


def guest_figures(daemon: Scratch, name: str) -> GuestFigures:
    """
    Return what the daemon says of a guest.

    Raises:
        BenchError: If it knows none of that name.
    """
    for guest in daemon.figures()["guests"]:
        if guest["name"] == name:
            return guest
    raise BenchError(f"the daemon knows no guest {name}")


def roomy_daemon(guest_bytes: int, *, swap_dir: Path | None = None) -> Scratch:
    """
    Describe a daemon that has memory to spare for guests of *guest_bytes*.

    Twice as much as they need: the background reclaimer does not start.
    """
    return Scratch(
        purpose="bench",
        memory_bytes=2 * guest_bytes + DAEMON_EXTRA_BYTES,
        swap_bytes=2 * guest_bytes,
        swap_dir=swap_dir,
    )


@contextmanager
def guest_subject(swap_dir: Path, size_bytes: int) -> Iterator[GuestSubject]:
    """Run a filled guest on a daemon of its own, whose swap file is in *swap_dir*."""
    argv = touch_argv("guest", size_bytes)
    with (
        roomy_daemon(size_bytes, swap_dir=swap_dir) as daemon,
        Probe(daemon.run(argv, name=ATTACH_NAME, max_bytes=size_bytes)) as probe,
    ):
        probe.ask("fill")
        yield GuestSubject(daemon, ATTACH_NAME, probe, size_bytes)


@contextmanager
def kernel_subject(size_bytes: int) -> Iterator[KernelSubject]:
    """
    Run a filled ordinary process.

    On pages of 4 KiB, which is what it swaps: with large ones the kernel would
    first have to split them.
    """
    with start(touch_argv("anon", size_bytes, "small")) as probe:
        probe.ask("fill")
        yield KernelSubject(probe, size_bytes)
