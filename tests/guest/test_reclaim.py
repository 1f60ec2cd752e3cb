# SPDX-License-Identifier: MIT
"""A real guest whose memory is taken and brought back by the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import Place, wait_for
from uvmm import host
from uvmm.errors import UvmmError
from uvmm.scratch import stored_and_held

if TYPE_CHECKING:
    from collections.abc import Iterator

FILLED_BYTES = 64 << 20
PAGES = FILLED_BYTES // 4096

# Fills its memory with a word a page, then checks it at every line it reads.
PROGRAM = """
import sys, guestlib, numpy
guest = guestlib.attach()
words = numpy.frombuffer(guest.allocate(int(sys.argv[1])).memory, dtype="u8")[::512]
words[:] = numpy.arange(len(words)) + 1
print("filled", flush=True)
for _ in sys.stdin:
    print(int((words != numpy.arange(len(words)) + 1).sum()), flush=True)
"""


class Filled:
    """The guest, as the test talks to it."""

    def __init__(self, place: Place, *options: str, filled_bytes: int = FILLED_BYTES) -> None:
        self.place = place
        self.running = place.start(
            "run", "--name", "g", *options, "--",
            sys.executable, "-c", PROGRAM, str(filled_bytes), stdin=subprocess.PIPE,
        )

    def line(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()

    def wrong_pages(self) -> int:
        assert self.running.stdin is not None
        self.running.stdin.write("\n")
        self.running.stdin.flush()
        return int(self.line())

    def figures(self) -> dict[str, int]:
        got: dict[str, int] = self.place.client.get("/v1/guests/g")
        assert stored_and_held(got) == got["max_bytes"]  # type: ignore[arg-type]
        return got


@pytest.fixture(params=["fuse", "descriptor"])
def filled(request: pytest.FixtureRequest, place: Place) -> Iterator[Filled]:
    assert place.up("--memory-via", request.param).returncode == 0
    guest = Filled(place, "--max", "128M")
    assert guest.line() == "filled"
    yield guest
    guest.running.kill()
    guest.running.communicate()


def test_reclaim_and_restore(filled: Filled) -> None:
    before = filled.figures()
    assert before["resident_bytes"] >= FILLED_BYTES
    done = filled.place.uvmm("reclaim", "g", "50%")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("reclaimed 3")
    half = filled.figures()
    assert half["resident_bytes"] <= before["resident_bytes"] * 0.55
    assert half["swapped_bytes"] >= FILLED_BYTES * 0.45
    done = filled.place.uvmm("restore", "g")
    assert done.returncode == 0, done.stderr
    assert filled.figures()["swapped_bytes"] == 0
    assert filled.wrong_pages() == 0


def test_reclaimed_pages_come_back_when_touched(filled: Filled) -> None:
    for _ in range(3):
        assert filled.place.uvmm("reclaim", "g", "100%").returncode == 0
        assert filled.figures()["resident_bytes"] < FILLED_BYTES // 4
        assert filled.wrong_pages() == 0
    after = filled.figures()
    assert after["faults"] > 0
    assert after["pages_in"] >= PAGES


def test_down_ends_the_guest(filled: Filled) -> None:
    pid = filled.figures()["pid"]
    assert filled.place.uvmm("down").returncode == 0
    assert host.process(pid) is None
    assert filled.running.wait(timeout=30) in (-signal.SIGKILL, 128 + signal.SIGKILL)


def test_a_guest_larger_than_machine_memory(place: Place) -> None:
    assert place.up().returncode == 0
    guest = Filled(place, filled_bytes=300 << 20)
    assert guest.line() == "filled"
    assert guest.wrong_pages() == 0
    machine = place.client.get("/v1/stats")["machine"]
    assert machine["used_bytes"] <= machine["total_bytes"] * 1.05
    assert guest.figures()["stall_percent"] > 0
    guest.running.communicate("\n")


def test_the_memory_file_is_its_guest_alone_s(served: Place) -> None:
    guest = Filled(served)
    assert guest.line() == "filled"
    file = served.run_dir.path / "mem" / "g"
    status = file.stat()
    assert (status.st_uid, status.st_size) == (0, guest.figures()["max_bytes"])
    for flags in (os.O_RDONLY, os.O_RDWR):
        with pytest.raises(PermissionError):
            os.open(file, flags)
    assert guest.wrong_pages() == 0
    guest.running.communicate()


def test_memory_and_swap_exhausted_refuses_the_guest_that_grows(place: Place) -> None:
    done = place.uvmm(
        "up", "--memory", "128M", "--swap", str(place.swap), "--swap-size", "64M"
    )
    assert done.returncode == 0, done.stderr
    small = Filled(place, "--max", "16M", filled_bytes=4 << 20)
    assert small.line() == "filled"
    large = place.start(
        "run", "--name", "large", "--", sys.executable, "-c", PROGRAM, str(160 << 20)
    )
    _, complaint = large.communicate(timeout=60)
    assert large.returncode != 0
    assert "uvmm: " in complaint
    wait_for(lambda: not has_guest(place, "large"), "the end of the large guest")
    assert small.wrong_pages() == 0
    small.running.communicate()


def has_guest(place: Place, name: str) -> bool:
    try:
        place.client.get(f"/v1/guests/{name}")
    except UvmmError:
        return False
    return True
