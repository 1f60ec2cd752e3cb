# SPDX-License-Identifier: MIT
"""
The larger of the real programs as guests, each to give what it gives without uvmm.

`bin/test --all` runs this file, as their packages come with `bin/setup-env --all` alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.postgres import postgres
from tests.guest.reclaiming import check, machine, reclaiming, uvmm_argv
from tests.guest.test_programs import CPLUSPLUS, PYTHON, redis

if TYPE_CHECKING:
    from uvmm.scratch import Figures, Scratch

MIB = 1 << 20
PROGRAMS = Path(__file__).with_name("programs")
# What a server of PostgreSQL consists of besides the processes of its clients.
OF_THE_SERVER = 6
MANAGED_SHARE = 0.95


def test_postgres() -> None:
    with postgres() as server:
        answers = server.work()
    with machine(32 * MIB) as daemon, reclaiming(daemon) as taken, postgres(daemon) as server:
        assert server.work() == answers
        guests = daemon.figures()["guests"]
        assert sum(guest["pages_out"] > 0 for guest in guests) >= OF_THE_SERVER
    assert taken.pages


def test_node() -> None:
    check(["node", str(PROGRAMS / "job.js")], 128 * MIB)


def test_perl() -> None:
    check(["perl", str(PROGRAMS / "job.pl")], 22 * MIB)


def test_pandas() -> None:
    check([sys.executable, str(PROGRAMS / "job_pandas.py")], 50 * MIB)


@pytest.mark.parametrize("allocator", ["ours", "mimalloc"])
def test_stress_of_mimalloc(allocator: str, tmp_path: Path) -> None:
    program = str(tmp_path / "stress")
    options = ["-DUSE_STD_MALLOC"] if allocator == "ours" else ["-lmimalloc"]
    source = str(PROGRAMS / "mimalloc_stress.c")
    subprocess.run(["gcc", "-O1", "-pthread", "-o", program, source, *options], check=True)
    check([program, "8", "8", "10"], 48 * MIB)


# --- the share of its memory that is the guest's ------------------------------------------


def share(figures: Figures) -> tuple[int, float]:
    """All memory of the largest guest, and what share of it is guest memory."""
    largest = (0, 0.0)
    for guest in figures["guests"]:
        managed = guest["max_bytes"] - guest["untouched_bytes"]
        size = managed + guest["unmanaged_bytes"]
        largest = max(largest, (size, managed / max(size, 1)))
    return largest


def share_at_its_largest(daemon: Scratch, argv: list[str]) -> tuple[int, float]:
    environment = {**os.environ, "UVMM_RUN_DIR": str(daemon.run_dir)}
    seen = (0, 0.0)
    with subprocess.Popen(
        uvmm_argv(argv, follow=True), env=environment, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            seen = max(seen, share(daemon.figures()))
    assert process.returncode == 0
    return seen


@pytest.mark.parametrize("program", ["gcc", "node", "python"])
def test_most_memory_is_managed(program: str, tmp_path: Path) -> None:
    source = tmp_path / "program.cc"
    source.write_text(CPLUSPLUS)
    argv = {
        "gcc": ["g++", "-O2", "-S", "-o", "/dev/null", str(source)],
        "node": ["node", str(PROGRAMS / "job.js")],
        "python": [PYTHON, "-c", "x = [str(i) * 5 for i in range(2_000_000)]"],
    }[program]
    with machine(512 * MIB) as daemon:
        size, managed = share_at_its_largest(daemon, argv)
    assert size > 100 * MIB
    assert managed >= MANAGED_SHARE


def test_most_memory_of_redis_is_managed(tmp_path: Path) -> None:
    with machine(512 * MIB) as daemon, redis(tmp_path / "guest", daemon) as server:
        assert server.ask("debug", "populate", "300000", "key", "400") == "OK"
        size, managed = share(daemon.figures())
    assert size > 100 * MIB
    assert managed >= MANAGED_SHARE
