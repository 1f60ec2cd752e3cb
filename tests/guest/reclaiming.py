# SPDX-License-Identifier: MIT
"""Unmodified programs on a daemon of their own, all their memory taken again and again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.scratch import Scratch, ScratchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DAEMON_BYTES = 72 << 20  # what it holds itself, and a part of what it keeps free
SWAP_BYTES = 2 << 30
MAX_BYTES = 1 << 30
BETWEEN_S = 0.05
PROGRAM_S = 240.0


@dataclass(slots=True)
class Taken:
    """What the reclaim of all brought while a program ran."""

    rounds: int = 0
    pages: int = 0


@contextmanager
def machine(guests_bytes: int) -> Iterator[Scratch]:
    """Run a daemon that has *guests_bytes* of memory for all guests together."""
    with Scratch(
        purpose="test", memory_bytes=guests_bytes + DAEMON_BYTES, swap_bytes=SWAP_BYTES
    ) as daemon:
        yield daemon


@contextmanager
def reclaiming(daemon: Scratch) -> Iterator[Taken]:
    """Take all memory of all guests, in a loop, for as long as the block runs."""
    taken, stop = Taken(), threading.Event()

    def loop() -> None:
        while not stop.wait(BETWEEN_S):
            for guest in daemon.figures()["guests"]:
                try:
                    moved = daemon.reclaim(guest["name"], 100)
                except ScratchError:
                    continue  # it has ended, or has not begun
                taken.rounds += 1
                taken.pages += moved.pages

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def uvmm_argv(
    argv: Sequence[str],
    *,
    max_bytes: int = MAX_BYTES,
    follow: bool = False,
    user: str | None = None,
) -> list[str]:
    """Return the command that runs *argv* as a guest."""
    uvmm = str(Path(sys.executable).with_name("uvmm"))
    options = ["--max", str(max_bytes)]
    if follow:
        options.append("--follow")
    if user is not None:
        options += ["--user", user]
    return [uvmm, "run", *options, "--", *argv]


def run(
    argv: Sequence[str],
    *,
    daemon: Scratch | None = None,
    cwd: Path | None = None,
    follow: bool = False,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program, as a guest if there is a daemon."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1"}
    if daemon is not None:
        environment["UVMM_RUN_DIR"] = str(daemon.run_dir)
        argv = uvmm_argv(argv, follow=follow)
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, env=environment, cwd=cwd,
        timeout=PROGRAM_S, check=False,
    )


def check(
    argv: Sequence[str], guests_bytes: int, *, cwd: Path | None = None, follow: bool = False
) -> None:
    """Run it without and with uvmm, and compare all that it says."""
    plain = run(argv, cwd=cwd)
    assert plain.returncode == 0, plain.stderr
    with machine(guests_bytes) as daemon, reclaiming(daemon) as taken:
        done = run(argv, daemon=daemon, cwd=cwd, follow=follow)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(plain.stdout).digest()
    assert taken.rounds
