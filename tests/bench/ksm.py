# SPDX-License-Identifier: MIT
"""The kernel's same-page merging, as a peer: on for a `with` block, as it was after it."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .undo import BenchError, Undo, held

if TYPE_CHECKING:
    from collections.abc import Iterator

_KSM = Path("/sys/kernel/mm/ksm")
_SETTINGS = ("run", "pages_to_scan", "sleep_millisecs", "use_zero_pages", "advisor_mode")
_STOPPED, _RUNS, _UNMERGE = "0", "1", "2"
_PAGES_AT_ONCE = 2000
_LOOK_S = 0.02
_SETTLED_SCANS = 4  # that found nothing more
_SETTLE_S = 120.0
_PR_SET_MEMORY_MERGE = 67
_MERGED_PROGRAM = (
    "import ctypes, os, sys;"
    f"ctypes.CDLL(None).prctl({_PR_SET_MEMORY_MERGE}, 1, 0, 0, 0) and sys.exit(9);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


def merged_argv(*argv: str) -> tuple[str, ...]:
    """Return the command that runs *argv* with all its memory open to merging."""
    return (sys.executable, "-c", _MERGED_PROGRAM, *argv)


class Ksm:
    """Figures and the switch of the kernel's scanner; nobody else is to use it."""

    def __init__(self) -> None:
        self._schedstat = _ksmd() / "schedstat"

    def run(self) -> None:
        """Let it scan."""
        _write("run", _RUNS)

    def stop(self) -> None:
        """Stop it; what is merged stays so."""
        _write("run", _STOPPED)

    def cpu_ns(self) -> int:
        """CPU time that the kernel's thread has used."""
        return int(self._schedstat.read_text().split()[0])

    @property
    def scanned_pages(self) -> int:
        """Pages it has looked at."""
        return _read("pages_scanned")

    @property
    def zero_pages(self) -> int:
        """Pages that are the kernel's page of zeros now."""
        return _read("ksm_zero_pages")

    @property
    def saved_pages(self) -> int:
        """Pages that others stand in for."""
        return _read("pages_sharing")

    @property
    def merged_pages(self) -> int:
        """Pages that are one with others, those others included."""
        return self.saved_pages + _read("pages_shared") + self.zero_pages

    def settle(self) -> int:
        """
        Scan until nothing more is found; returns the CPU time until the last was found.

        Raises:
            BenchError: If that takes too long.
        """
        until = time.monotonic() + _SETTLE_S
        cpu_ns, merged, scans = self.cpu_ns(), 0, _read("full_scans")
        used_ns = 0
        self.run()
        while _read("full_scans") < scans + _SETTLED_SCANS:
            if time.monotonic() > until:
                raise BenchError(f"KSM found more pages still after {_SETTLE_S:.0f} s")
            time.sleep(_LOOK_S)
            if (now := self.merged_pages) > merged:
                merged, scans = now, _read("full_scans")
                used_ns = self.cpu_ns() - cpu_ns
        self.stop()
        return used_ns

    @contextmanager
    def within(self, cpu_share: float) -> Iterator[None]:
        """Let it scan with no more than this share of a CPU."""
        ended = threading.Event()

        def govern() -> None:
            began_ns, cpu_ns = time.monotonic_ns(), self.cpu_ns()
            while not ended.wait(_LOOK_S):
                due_ns = (time.monotonic_ns() - began_ns) * cpu_share
                (self.run if self.cpu_ns() - cpu_ns < due_ns else self.stop)()

        thread = threading.Thread(target=govern)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.stop()


@contextmanager
def merging() -> Iterator[Ksm]:
    """
    Prepare the kernel's scanner to run at its fastest.

    Raises:
        BenchError: If this kernel has none, or somebody uses it.
    """
    if not _KSM.is_dir():
        raise BenchError("this kernel has no same-page merging (KSM)")
    if (_KSM / "run").read_text().strip() == _RUNS:
        raise BenchError("KSM is in use on this machine")
    with Undo() as undo:
        with held():
            for name in _SETTINGS:
                undo.callback(_write, name, _setting(name))
            undo.callback(_write, "run", _UNMERGE)
        _write("advisor_mode", "none")
        _write("sleep_millisecs", "0")
        _write("pages_to_scan", str(_PAGES_AT_ONCE))
        _write("use_zero_pages", "1")
        yield Ksm()


def _setting(name: str) -> str:
    text = (_KSM / name).read_text().strip()
    # Of several words the one in brackets holds.
    return text.partition("[")[2].partition("]")[0] or text


def _read(name: str) -> int:
    return int((_KSM / name).read_text())


def _write(name: str, text: str) -> None:
    (_KSM / name).write_text(text)


def _ksmd() -> Path:
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if (process / "comm").read_text() == "ksmd\n":
                    return process
            except OSError:
                continue
    raise BenchError("there is no ksmd")
