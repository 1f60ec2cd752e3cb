# SPDX-License-Identifier: MIT
"""Low memory, on a real daemon: buffers of disks move there and back while they are used."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.guest.conftest import wait_for

if TYPE_CHECKING:
    from tests.guest.conftest import Place

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
MARK = 0x9E3779B97F4A7C15


def built(folder: Path, name: str) -> Path:
    program = folder / name
    subprocess.run(
        ["gcc", "-O2", "-pthread", "-D_GNU_SOURCE", f"-I{ROOT / 'csrc/include'}", "-o", program,
         ROOT / f"tests/guest/programs/{name}.c", ROOT / "build/plain/libuvmm_guest.a"],
        check=True,
    )
    return program


@pytest.fixture(scope="module")
def race(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("race"), "disk_race")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    words = np.arange(8 * MIB // 8, dtype=np.uint64) * np.uint64(MARK)
    path.write_bytes(words.tobytes())
    return path


def figures(place: Place, name: str) -> dict[str, Any]:
    stats = place.client.get("/v1/stats")
    guests = [guest for guest in stats["guests"] if guest["name"] == name]
    assert len(guests) == 1, guests
    return {**guests[0], **guests[0]["io"]}


def run(place: Place, race: Path, image: Path, name: str) -> Any:
    """Start a guest that races until `ended` closes its input."""
    guest = place.start(
        "run", "--name", name, "--max", "64M", "--disk", f"data={image},ro", "--", str(race),
        stdin=subprocess.PIPE,
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "ready\n"
    return guest


def ended(guest: Any) -> str:
    out, err = guest.communicate(timeout=90)
    assert guest.returncode == 0, out + err
    return str(out)


@pytest.mark.usefixtures("served")
def test_not_without_disks(place: Place) -> None:
    guest = place.start("run", "--name", "plain", "--max", "16M", "--", "sleep", "100")
    wait_for(lambda: place.client.get("/v1/stats")["guests"], "the guest")
    assert figures(place, "plain")["low_limit_bytes"] == 0
    guest.kill()
    guest.wait()


def test_moved_while_written(place: Place, race: Path, image: Path) -> None:
    """Into low memory, out of it when cold, reclaimed and shared meanwhile."""
    assert place.up("--low-memory", "6M", "--remap-after", "2").returncode == 0
    guest = run(place, race, image, "mover")
    seen: list[dict[str, Any]] = []
    until = time.monotonic() + 60
    while time.monotonic() < until and (
        len(seen) < 30 or not seen[-1]["remaps_out"] or seen[-1]["remaps_in"] <= 500
    ):
        time.sleep(0.3)
        seen.append(figures(place, "mover"))
        place.client.post("/v1/guests/mover/reclaim", {"size": "100%"})
        place.client.post("/v1/share", {})
    said = ended(guest)
    last = seen[-1]
    assert last["remaps_in"] > 500, (last, said)
    assert last["remaps_out"] > 0, last
    assert last["errors"] == 0
    assert last["direct_bytes"] > 0
    assert all(each["low_bytes"] <= 6 * MIB for each in seen)
    machine = place.client.get("/v1/stats")["machine"]
    assert machine["low_total_bytes"] == 6 * MIB
    wait_for(
        lambda: place.client.get("/v1/stats")["machine"]["low_granted_bytes"] == 0,
        "low memory of a guest that has gone",
    )


def test_each_has_its_part(place: Place, race: Path, image: Path) -> None:
    assert place.up("--low-memory", "8M", "--remap-after", "2").returncode == 0
    first = run(place, race, image, "first")
    wait_for(lambda: figures(place, "first")["low_bytes"] > 5 * MIB, "more than a half")
    second = run(place, race, image, "second")
    wait_for(lambda: figures(place, "first")["low_limit_bytes"] == 4 * MIB, "the bound")
    wait_for(lambda: figures(place, "first")["low_bytes"] <= 4 * MIB, "half of it")
    wait_for(lambda: figures(place, "second")["low_bytes"] > 1 * MIB, "the other's part")
    assert figures(place, "first")["remaps_out"] > 0
    ended(second)
    ended(first)


def test_a_thief_has_nothing_of_it(place: Place, image: Path, tmp_path: Path) -> None:
    """It cannot enlarge its low memory, and keeps nothing of it that it was not given."""
    assert place.up("--low-memory", "8M", "--remap-after", "2").returncode == 0
    thief = place.start(
        "run", "--name", "thief", "--max", "64M", "--disk", f"data={image},ro", "--",
        str(built(tmp_path, "low_thief")),
    )
    assert ended(thief) == "in vain\n"
    wait_for(
        lambda: place.client.get("/v1/stats")["machine"]["low_granted_bytes"] == 0,
        "low memory of a guest that has gone",
    )


PYTHON = """
import os, sys
import guestlib
guest = guestlib.attach()
disk = guest.disk("data")
content = open(sys.argv[1], "rb").read()
block = guest.allocate(1 << 20)
def fill(skip):
    at = block.memory[skip : (1 << 20) - 4096 + skip]
    for _ in range(6):
        disk.read_into(at, 8192)
        assert at == content[8192 : 8192 + len(at)]
def hear():
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start_python(place: Place, tmp_path: Path, image: Path, program: str) -> Any:
    script = tmp_path / "guest.py"
    script.write_text(PYTHON + program)
    guest = place.start(
        "run", "--name", "python", "--max", "16M", "--disk", f"data={image},ro", "--",
        sys.executable, str(script), str(image), stdin=subprocess.PIPE,
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "ready\n", guest.communicate()
    return guest


def test_at_any_address_and_given_back(place: Place, tmp_path: Path, image: Path) -> None:
    assert place.up("--remap-after", "2").returncode == 0
    guest = start_python(place, tmp_path, image, """
for skip in (0, 512, 1536, 4096):
    fill(skip)
hear()
block.discard()
assert bytes(block.memory) == bytes(1 << 20)
fill(512)
assert bytes(block.memory[:512]) == bytes(512)
block.discard()
hear()
""")
    told = figures(place, "python")
    assert told["low_bytes"] >= MIB - 4096
    assert told["direct_bytes"] > 0
    assert told["errors"] == 0
    guest.stdin.write("go\n")
    guest.stdin.flush()
    assert guest.stdout.readline() == "ready\n", guest.communicate()
    assert figures(place, "python")["low_bytes"] == 0
    guest.communicate("go\n", timeout=30)
    assert guest.returncode == 0


def test_low_memory_cut_off(place: Place, tmp_path: Path, image: Path) -> None:
    """A guest that can cut off its own file of low memory, and does, harms itself alone."""
    assert place.up("--remap-after", "2", "--memory-via", "descriptor").returncode == 0
    guest = start_python(place, tmp_path, image, """
fill(0)
low = block.address
(line,) = (
    line for line in open("/proc/self/maps")
    if int(line.split("-")[0], 16) <= low < int(line.split()[0].split("-")[1], 16)
)
fd = os.open("/proc/self/map_files/" + line.split()[0], os.O_RDWR)
os.truncate(fd, 0)
hear()
for at in (0, 1, 4096 + 77):
    for _ in range(6):
        try:
            disk.read_into(block.memory[at : at + 65536], 0)
            disk.read(65536, 0)
        except OSError:
            pass
hear()
""")
    assert figures(place, "python")["low_bytes"] > 0
    guest.stdin.write("go\n")
    guest.stdin.flush()
    assert guest.stdout.readline() == "ready\n", guest.communicate()
    assert place.client.get("/v1/health")["pid"] == place.daemon_pid
    guest.kill()
    guest.communicate(timeout=30)
    wait_for(lambda: not place.client.get("/v1/stats")["guests"], "its end")


def test_off(place: Place, race: Path, image: Path) -> None:
    assert place.up("--remap-after", "0").returncode == 0
    guest = run(place, race, image, "still")
    time.sleep(2)
    told = figures(place, "still")
    assert told["remaps_in"] == told["direct_bytes"] == 0
    assert told["copied_bytes"] > 0
    ended(guest)
