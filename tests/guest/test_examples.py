# SPDX-License-Identifier: MIT
"""The example guests check their own work: they must see it when memory is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from uvmm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from io import FileIO

TOP = Path(__file__).resolve().parents[2]
BUILT = TOP / "build/examples"
MIB = 1 << 20
PAGE_BYTES = 4096
GUEST_BYTES = 96 * MIB

KVLOAD = [str(BUILT / "kvload"), "--mib", "32", "--operations", "1000000"]
EXTSORT = [str(BUILT / "extsort"), "--mib", "24"]
MATRIX = [sys.executable, str(TOP / "guestlib/examples/matrix.py"), "--order", "1024"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    subprocess.run(["make", "--silent", "-C", str(TOP / "guestlib/examples")], check=True)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Scratch]:
    with Scratch(purpose="test", memory_bytes=96 * MIB, swap_bytes=256 * MIB) as daemon:
        yield daemon


def _spoil(scratch: Scratch, name: str) -> None:
    """Change a byte in each of many pages behind the guest's back."""
    pid = next(g["pid"] for g in scratch.figures()["guests"] if g["name"] == name)
    mapping = next(
        line for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if line.endswith(f"/{name}")
    )
    start = int(mapping.partition("-")[0], 16)
    with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
        spoiled = sum(
            _flip(memory, at) for at in range(start + 96, start + GUEST_BYTES, 16 * PAGE_BYTES)
        )
    assert spoiled > 0


def _flip(memory: FileIO, at: int) -> bool:
    """Flip a bit, unless the page is not resident, which such access cannot change."""
    try:
        memory.seek(at)
        byte = memory.read(1)
        memory.seek(at)
        memory.write(bytes([byte[0] ^ 1]))
    except OSError:
        return False
    return True


def _run(
    scratch: Scratch, name: str, argv: Sequence[str], *, spoil_when: str = ""
) -> tuple[int, dict[str, Any]]:
    """Run to the end; its status, and the last line that it said."""
    process = scratch.run(argv, name=name, max_bytes=GUEST_BYTES)
    told: dict[str, Any] = {}
    for line in process.stdout or ():
        told = json.loads(line)
        if spoil_when and told.get("doing", "").startswith(spoil_when):
            _spoil(scratch, name)
    return process.wait(), told


@pytest.mark.parametrize(
    ("name", "argv"), [("kvload", KVLOAD), ("extsort", EXTSORT), ("matrix", MATRIX)]
)
def test_right_memory_is_found_right(
    scratch: Scratch, name: str, argv: Sequence[str]
) -> None:
    status, told = _run(scratch, name, argv)
    assert status == 0
    assert told["wrong"] == 0
    assert told["checked_bytes"] >= 24 * MIB


@pytest.mark.parametrize(
    ("name", "argv", "when"),
    [
        ("kvload-spoiled", KVLOAD, "get"),
        ("extsort-spoiled", EXTSORT, "sorting"),
        ("matrix-spoiled", MATRIX, "product 2"),
    ],
)
def test_wrong_memory_is_found_wrong(
    scratch: Scratch, name: str, argv: Sequence[str], when: str
) -> None:
    status, told = _run(scratch, name, argv, spoil_when=when)
    assert status == 1
    assert told["wrong"] > 0


@pytest.mark.parametrize("argv", [["--mib", "0"], ["--mib", "-1"], ["--mib"], ["--what", "1"]])
def test_bad_options_are_refused_in_a_line(argv: Sequence[str]) -> None:
    for program in ("kvload", "extsort"):
        done = subprocess.run(
            [BUILT / program, *argv], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert argv[0] in done.stderr
