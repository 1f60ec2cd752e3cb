# SPDX-License-Identifier: MIT
"""Real daemons for tests: each has a run directory and a swap file of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from uvmm import host
from uvmm.client import Client
from uvmm.rundir import RunDir
from uvmm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

UVMM = str(Path(sys.executable).with_name("uvmm"))
MEMORY_BYTES = 192 << 20
SWAP_BYTES = 256 << 20
WAIT_S = 30.0


@dataclass(frozen=True)
class Place:
    """Where a daemon may be; the command line acts on it."""

    path: Path

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.path / "run")

    @property
    def swap(self) -> Path:
        return self.path / "swap"

    @property
    def daemon_pid(self) -> int:
        return int(self.run_dir.pid.read_text())

    @property
    def client(self) -> Client:
        return Client(self.run_dir.control_socket)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "UVMM_RUN_DIR": str(self.run_dir.path)}

    def uvmm(self, *argv: str, **given: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [UVMM, *argv], env=self.environment, capture_output=True, text=True,
            check=False, timeout=WAIT_S, **given,
        )

    def up(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Start a small daemon."""
        return self.uvmm(
            "up", "--memory", str(MEMORY_BYTES), "--swap", str(self.swap),
            "--swap-size", str(SWAP_BYTES), *argv,
        )

    def start(self, *argv: str, **given: Any) -> subprocess.Popen[str]:
        """Start the command line and go on."""
        given = {"env": self.environment, **given}
        return subprocess.Popen(
            [UVMM, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given,
        )


def copied(folder: Path) -> dict[str, str]:
    """Copy what `uvmm run` needs, and return the variables that have it from there."""
    root = Path(__file__).parents[2]
    shutil.copytree(root / "uvmm", folder / "uvmm")
    (folder / "build/plain").mkdir(parents=True)
    for built in ("libuvmm_heap.so", "uvmm-launch"):
        shutil.copy(root / "build/plain" / built, folder / "build/plain")
    return {"PYTHONPATH": str(folder)}


def wait_for(true: Any, what: str) -> None:
    """Wait until `true()` is."""
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, f"waited in vain for {what}"
        time.sleep(0.01)


@pytest.fixture
def place() -> Iterator[Place]:
    """A place without a daemon; whatever is there at the end is ended and removed."""
    there = Place(Path(tempfile.mkdtemp(prefix="uvmm-test-", dir="/var/tmp")))
    # Guests of other users have to get through.
    there.path.chmod(0o711)
    try:
        yield there
    finally:
        _end(there)


@pytest.fixture
def served(place: Place) -> Place:
    """A place with a daemon."""
    done = place.up()
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """A daemon of 192 MiB with 256 MiB of swap, and means to run guests on it."""
    with Scratch(purpose="test", memory_bytes=MEMORY_BYTES, swap_bytes=SWAP_BYTES) as daemon:
        yield daemon


def _end(there: Place) -> None:
    with suppress(OSError, ValueError):
        pid = there.daemon_pid
        there.uvmm("down")
        os.kill(pid, signal.SIGKILL)
    for point in host.mounts_below(there.path):
        subprocess.run(["umount", "-l", str(point)], check=False)
    shutil.rmtree(there.path, ignore_errors=True)
