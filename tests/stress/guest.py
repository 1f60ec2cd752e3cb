# SPDX-License-Identifier: MIT
"""One guest under stress: its processes, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .findings import WrongError

if TYPE_CHECKING:
    from uvmm.scratch import Scratch

    from .settings import Settings

PROGRAM = Path(__file__).resolve().parents[2] / "build/stress/pages_guest"
START_WAIT_S = 60.0
END_WAIT_S = 2.0


class StressedGuest:
    """
    A guest from its start to its end.

    Threads: `written` and `verified` are set by the thread that reads its output;
    everything else is for the one thread that tends the guests, but `busy` may be
    asked by all.
    """

    def __init__(self, scratch: Scratch, settings: Settings, *, name: str, seed: int) -> None:
        """Start it; it need not be registered yet."""
        self.name = name
        self.seed = seed
        self.written = 0  # pages
        self.verified = 0  # pages
        self.pid = 0  # of the guest itself, once it said so
        self.condemned = False  # killed, or asked to end
        self._started = threading.Event()
        self._last_line = ""
        self._process = scratch.run(
            [str(PROGRAM), str(settings.threads), str(seed),
             *(["share"] if settings.share else [])],
            name=name, max_bytes=settings.size_bytes,
        )
        self._reader = threading.Thread(target=self._read, name=f"reader of {name}")
        self._reader.start()

    @property
    def launcher_pid(self) -> int:
        """Process id of `uvmm run`."""
        return self._process.pid

    @property
    def busy(self) -> bool:
        """Tell whether the daemon has to know it."""
        return self._started.is_set() and not self.condemned and self._process.poll() is None

    def wait_started(self) -> None:
        """
        Wait until it uses its memory.

        Raises:
            WrongError: If it does not come to that.
        """
        if not self._started.wait(START_WAIT_S):
            raise WrongError(f"guest {self.name} did not start within {START_WAIT_S:.0f} s")
        if not self.pid:
            self._process.wait()
            raise WrongError(f"guest {self.name} did not start: {self.describe_end()}")

    def kill(self, *, launcher: bool) -> None:
        """End it, or its launcher, the hard way."""
        self.condemned = True
        with suppress(ProcessLookupError):
            os.kill(self.launcher_pid if launcher else self.pid, signal.SIGKILL)

    def ask_to_end(self) -> None:
        """Have it verify all its pages and end."""
        self.condemned = True
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def ends_soon(self) -> bool:
        """Tell whether it is about to end; the daemon may know that first."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_WAIT_S)
        return self.ended()

    def ended(self) -> bool:
        """Tell whether its launcher has ended."""
        return self._process.poll() is not None

    def join(self, timeout_s: float) -> bool:
        """Wait until all it said was read and it has ended; False if that takes too long."""
        until = time.monotonic() + timeout_s
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            return False
        try:
            self._process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True

    def found_wrong(self) -> bool:
        """Tell whether it reported something wrong, after `join`."""
        return self._last_line.startswith(("WRONG", "FAILED", "SIGNAL"))

    def finished(self) -> bool:
        """Tell whether it verified everything and ended well, after `join`."""
        return self._process.poll() == 0 and self._last_line.startswith("DONE")

    def describe_end(self) -> str:
        """Say how it ended, in a line."""
        status = self._process.poll()
        how = "runs" if status is None else f"status {status}"
        if status is not None and status < 0:
            how = f"signal {signal.Signals(-status).name}"
        return f"{how}, seed {self.seed}, pid {self.pid}; last line: {self._last_line!r}"

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            self._last_line = line.rstrip("\n")
            word, *rest = line.split()
            if word == "START":
                self.pid = int(rest[0])
                self._started.set()
            elif word in {"PROGRESS", "DONE"}:
                self.written, self.verified = int(rest[0]), int(rest[1])
        self._started.set()
