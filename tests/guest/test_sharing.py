# SPDX-License-Identifier: MIT
"""Real guests whose pages are shared: what is shared with whom, and what stays right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.guest.conftest import MEMORY_BYTES, SWAP_BYTES, Place, copied, wait_for
from uvmm import host
from uvmm.scratch import stored_and_held

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = 4096
FILLED_BYTES = 16 << 20
PAGES = FILLED_BYTES // PAGE_BYTES
PYTHON = "/usr/bin/python3"  # which other users can execute, too
MAP_COUNT = Path("/proc/sys/vm/max_map_count")

# Pages of content from a seed, then zeros; at each word it writes some and tells the digest.
# No copy of them lies around.
PROGRAM = """
import hashlib, random, sys
seed, pages, zeros = random.Random(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
memory = bytearray((pages + zeros) << 12)
for at in range(0, len(memory), 4096):
    memory[at:at + 4096] = seed.randbytes(4096) if at < pages << 12 else b"\\1" * 4096
for at in range(pages << 12, len(memory), 4096):
    memory[at:at + 4096] = bytes(4096)
print("filled", flush=True)
for line in sys.stdin:
    first, step, word = line.split()
    for at in range(int(first) << 12, len(memory), int(step) << 12):
        memory[at:at + len(word)] = word.encode()
    print(hashlib.sha256(memory).hexdigest(), flush=True)
"""


class Same:
    """A guest with the contents of a seed, and what they are to be."""

    def __init__(
        self, place: Place, name: str, *options: str, seed: str = "s", zeros: int = 0,
        **given: Any,
    ) -> None:
        self.name = name
        self.place = place
        self.running = place.start(
            "run", "--name", name, "--max", "64M", *options, "--",
            PYTHON, "-c", PROGRAM, seed, str(PAGES), str(zeros),
            stdin=subprocess.PIPE, **given,
        )
        assert self.line() == "filled"
        self.zeros = zeros

    def line(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()

    def write(self, first: int, step: int, word: str) -> str:
        """Write a word into every page from `first` in steps; the digest after that."""
        assert self.running.stdin is not None
        self.running.stdin.write(f"{first} {step} {word}\n")
        self.running.stdin.flush()
        return self.line()

    def digest(self) -> str:
        return self.write(PAGES + self.zeros, 1, "x")

    def figures(self) -> dict[str, int]:
        got: dict[str, int] = self.place.client.get(f"/v1/guests/{self.name}")
        assert stored_and_held(got) == got["max_bytes"]  # type: ignore[arg-type]
        return got

    def end(self) -> None:
        self.running.kill()
        self.running.communicate()


def machine(place: Place) -> dict[str, int]:
    figures = place.client.get("/v1/stats")
    got: dict[str, int] = figures["machine"]
    return got


def check_books(place: Place) -> None:
    """Sum over guests of shared pages - frames = saved."""
    figures = place.client.get("/v1/stats")
    shared = sum(guest["shared_bytes"] for guest in figures["guests"])
    assert figures["machine"]["shared_bytes"] == shared
    assert figures["machine"]["saved_bytes"] == shared - figures["machine"]["frame_bytes"]


@pytest.fixture
def quiet(request: pytest.FixtureRequest, place: Place) -> Place:
    """A daemon that looks for pages to share only when it is told to."""
    via = getattr(request, "param", "fuse")
    done = place.up("--share-cpu", "0", "--memory-via", via)
    assert done.returncode == 0, done.stderr
    return place


@pytest.fixture
def pair(quiet: Place) -> Iterator[tuple[Same, Same]]:
    a, b = Same(quiet, "a"), Same(quiet, "b")
    yield a, b
    a.end()
    b.end()


def share(place: Place, *argv: str) -> dict[str, int]:
    done = place.uvmm("share", "--now", "--json", *argv)
    assert done.returncode == 0, done.stderr
    got: dict[str, int] = json.loads(done.stdout)
    return got


@pytest.mark.parametrize("quiet", ["fuse", "descriptor"], indirect=True)
def test_shared_then_written_by_both(quiet: Place, pair: tuple[Same, Same]) -> None:
    before = [guest.digest() for guest in pair]
    assert before[0] == before[1]
    used = machine(quiet)["used_bytes"]
    found = share(quiet)
    assert found["shared_pages"] >= 2 * PAGES * 0.99
    check_books(quiet)
    assert machine(quiet)["used_bytes"] <= used - FILLED_BYTES * 0.9
    assert [guest.digest() for guest in pair] == before
    # Each its own words in the same pages, at the same time.
    assert pair[0].write(0, 3, "one") != pair[1].write(0, 3, "two")
    assert pair[0].write(0, 3, "three") == pair[1].write(0, 3, "three")
    assert pair[0].write(0, 1, "s") == pair[1].write(0, 1, "s")
    share(quiet)
    check_books(quiet)


def test_split_pages_are_noticed_and_come_home(quiet: Place, pair: tuple[Same, Same]) -> None:
    share(quiet)
    digest = pair[0].write(0, 2, "mine")
    wait_for(lambda: pair[0].figures()["splits"] >= PAGES // 2, "splits")
    check_books(quiet)
    assert pair[0].figures()["resident_bytes"] >= FILLED_BYTES // 2
    wait_for(lambda: pair[0].figures()["split_bytes"] < FILLED_BYTES // 8, "pages at home")
    check_books(quiet)
    assert pair[0].digest() == digest


def test_reclaim_of_what_is_shared(quiet: Place, pair: tuple[Same, Same]) -> None:
    before = pair[0].digest()
    for _ in range(2):
        share(quiet)
        assert quiet.uvmm("reclaim", "a", "100%").returncode == 0
        check_books(quiet)
        assert [guest.digest() for guest in pair] == [before, before]


def test_the_last_reference_frees_the_frame(quiet: Place, pair: tuple[Same, Same]) -> None:
    share(quiet)
    assert machine(quiet)["frame_bytes"] >= FILLED_BYTES * 0.99
    before = pair[1].digest()
    pair[0].running.send_signal(signal.SIGTERM)
    pair[0].running.communicate()
    wait_for(lambda: len(quiet.client.get("/v1/stats")["guests"]) == 1, "its end")
    assert pair[1].digest() == before
    pair[1].end()
    wait_for(lambda: machine(quiet)["frame_bytes"] == 0, "no frames")
    check_books(quiet)


def test_zero_pages_need_no_frame(quiet: Place) -> None:
    guest = Same(quiet, "z", zeros=PAGES)
    resident = guest.figures()["resident_bytes"]
    before = guest.digest()
    # Each chunk is looked at; a page that was zeros at both looks is freed.
    share(quiet)
    share(quiet)
    assert guest.figures()["resident_bytes"] <= resident - FILLED_BYTES * 0.95
    assert machine(quiet)["frame_bytes"] <= FILLED_BYTES // 100
    assert guest.digest() == before
    guest.end()


def test_found_without_being_asked(served: Place) -> None:
    guests = [Same(served, name) for name in "abc"]
    wait_for(
        lambda: machine(served)["saved_bytes"] >= 2 * FILLED_BYTES * 0.95,
        "guests that are alike to be found",
    )
    assert len({guest.digest() for guest in guests}) == 1
    for guest in guests:
        guest.end()


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ([[], [], ["--share-group", "off"]], 1),
        ([["--share-group", "g"], ["--share-group", "h"], []], 0),
        ([[], ["--user", "nobody"]], 0),
        ([["--share-group", "g"], ["--share-group", "g", "--user", "nobody"]], 1),
    ],
)
def test_groups(quiet: Place, options: list[list[str]], saved: int) -> None:
    """Pages are shared within a group: by default of a user, or as root says."""
    quiet.path.chmod(0o755)
    env = {**quiet.environment, **copied(quiet.path / "all")}
    guests = [Same(quiet, f"g{at}", *given, env=env) for at, given in enumerate(options)]
    share(quiet)
    for guest, given in zip(guests, options, strict=True):
        done = quiet.uvmm("share", "--now", guest.name)
        if "off" in given:
            assert done.returncode == 1
            assert "--share-group off" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
    assert saved * 0.95 <= machine(quiet)["saved_bytes"] / FILLED_BYTES <= saved + 0.1
    assert len({guest.digest() for guest in guests}) == 1
    for guest in guests:
        guest.end()


def test_a_stopped_guest_costs_only_its_own_sharing(quiet: Place) -> None:
    guests = [Same(quiet, name) for name in "abc"]
    pid = guests[0].figures()["pid"]
    os.kill(pid, signal.SIGSTOP)
    share(quiet)
    assert guests[0].figures()["shared_bytes"] == 0
    assert guests[1].figures()["shared_bytes"] >= FILLED_BYTES * 0.9
    assert machine(quiet)["sharing"]["refused"]["agent"] >= 0  # type: ignore[index]
    os.kill(pid, signal.SIGCONT)
    assert len({guest.digest() for guest in guests}) == 1
    for guest in guests:
        guest.end()


def test_the_frame_file_cannot_be_written(quiet: Place, pair: tuple[Same, Same]) -> None:
    """What a guest has of its group's frames is mapped privately, and no descriptor stays."""
    share(quiet)
    pid = pair[0].figures()["pid"]
    shared = [
        line.split() for line in Path(f"/proc/{pid}/smaps").read_text().splitlines()
        if line[:1].isdigit() or line[:1] in "abcdef"
    ]
    inodes = {
        fields[4] for fields in shared if fields[1] == "rw-p" and fields[4] != "0"
        and "/" in " ".join(fields[5:])
    }
    assert inodes
    for fields in shared:
        if fields[4] in inodes:
            assert fields[1].endswith("p")
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        assert str(entry.stat().st_ino) not in inodes or not entry.stat().st_size


@pytest.mark.alone
def test_the_bound_on_mappings_is_raised_and_put_back(place: Place) -> None:
    before = int(MAP_COUNT.read_text())
    assert place.up().returncode == 0
    assert int(MAP_COUNT.read_text()) >= before
    assert place.uvmm("down").returncode == 0
    assert int(MAP_COUNT.read_text()) == before


def test_killed_while_it_is_being_shared(quiet: Place) -> None:
    keeper = Same(quiet, "keeper")
    before = keeper.digest()
    for at in range(4):
        victim = Same(quiet, f"victim{at}")
        sharing = quiet.start("share", "--now")
        victim.running.kill()
        victim.running.communicate()
        sharing.communicate()
        assert keeper.digest() == before
    wait_for(lambda: len(quiet.client.get("/v1/stats")["guests"]) == 1, "their ends")
    check_books(quiet)
    keeper.end()


def test_sharing_before_swapping(place: Place) -> None:
    """Guests that are alike fit into less memory than they hold, with little in swap."""
    swap = ("--swap-size", str(12 * (96 << 20)))  # all of what they may come to hold
    assert place.up("--share-cpu", "50", *swap).returncode == 0
    guests = [Same(place, f"g{at}", "--max", "96M") for at in range(12)]
    assert sum(FILLED_BYTES for _ in guests) >= MEMORY_BYTES
    wait_for(lambda: machine(place)["saved_bytes"] >= 8 * FILLED_BYTES, "shared pages")
    assert len({guest.digest() for guest in guests}) == 1
    assert machine(place)["swap_used_bytes"] <= SWAP_BYTES // 4
    for guest in guests:
        guest.end()


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["share", "--now", "nobody-there"], "there is no guest"),
        (["up", "--share-cpu", "x"], "--share-cpu"),
        (["up", "--share-cpu", "-1"], "--share-cpu"),
        (["run", "--share-group", "../x", "--", "true"], "--share-group"),
        (["run", "--share-group", "x" * 300, "--", "true"], "--share-group"),
        (["run", "--share-group", "", "--", "true"], "--share-group"),
    ],
)
def test_bad_words(served: Place, argv: list[str], complaint: str) -> None:
    done = served.uvmm(*argv)
    assert done.returncode != 0
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2 or "Usage" in done.stderr
    assert host.process(served.daemon_pid) is not None

