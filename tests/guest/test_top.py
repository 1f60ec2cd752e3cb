# SPDX-License-Identifier: MIT
"""`uvmm top` in a terminal of 80 by 24, against a real daemon."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import UVMM, Place
from tests.guest.terminal import Terminal, terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = "import os; held = os.urandom({} << 20); print('up', flush=True); input()"


@pytest.fixture
def guests(served: Place) -> Iterator[Place]:
    """A daemon with two guests, of which the larger one is called small."""
    running = [
        served.start(
            "run", "--name", name, "--max", "64M", "--", sys.executable, "-c",
            HOLD.format(mib), stdin=subprocess.PIPE,
        )
        for name, mib in (("a-large", 4), ("small", 20))
    ]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "up\n"
    yield served
    for one in running:
        one.kill()
        one.communicate()


def shown_guests(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines[7:-1] if line]


def size_of(line: str) -> float:
    found = re.search(r"([\d.]+)([KMG])", line)
    assert found is not None, line
    return float(found[1]) * {"K": 1, "M": 1024, "G": 1024**2}[found[2]]


def top(place: Place, screen: Terminal) -> list[str]:
    lines = screen.wait_for(shown_guests)
    assert lines[0].startswith(f"uvmm {place.run_dir.path}"[:80])
    return lines


def test_it_is_driven_by_keys(guests: Place) -> None:
    with terminal([UVMM, "top", "--interval", "0.4"], guests.environment) as screen:
        lines = top(guests, screen)
        assert lines[1].startswith("memory ")
        assert lines[1].endswith(" of 192M")
        assert re.search(r"resident [\d.]+M", lines[2])
        assert lines[3].startswith("swap ")
        assert "▼STALL%" in lines[6]
        assert all(len(line) <= 80 for line in lines)
        screen.wait_for(lambda lines: lines[-1].strip().startswith("m Map"))
        # By name, the other way round, by what is resident.
        screen.press("<")
        screen.wait_for(lambda lines: shown_guests(lines) == ["a-large", "small"])
        screen.press("i")
        screen.wait_for(lambda lines: shown_guests(lines) == ["small", "a-large"])
        screen.press(">", ">")
        screen.wait_for("▼RESIDENT")
        screen.wait_for(lambda lines: shown_guests(lines) == ["small", "a-large"])
        # A click on a title sorts by it.
        screen.press("\x1b[<0;3;7M", "\x1b[<0;3;7m")
        screen.wait_for(lambda lines: shown_guests(lines) == ["a-large", "small"])
        # The cursor goes with its guest: it is on a-large, or on small, still.
        screen.press("home", "down", "r")
        screen.wait_for("Reclaim from small")
        screen.press("backspace", "backspace", "backspace", *"50%", "enter")
        lines = screen.wait_for("reclaimed ")
        assert "of small" in lines[5]
        assert guests.client.get("/v1/guests/small")["swapped_bytes"] > 8 << 20
        screen.press("t")
        screen.wait_for("restored ")
        assert guests.client.get("/v1/guests/small")["swapped_bytes"] == 0
        screen.press("r")
        screen.wait_for("Reclaim from small")
        screen.press(*"lots", "enter")
        assert "is no size" in screen.wait_for("is no size")[5]
        screen.press("s")
        screen.wait_for("Set what small may hold")
        screen.press(*"min=8M shares=77", "enter")
        screen.wait_for("min 8M, max 64M, 77 shares")
        assert guests.client.get("/v1/guests/small")["shares"] == 77
        screen.press("r", "escape", "?")
        screen.wait_for("quit")
        screen.press("escape")
        see_the_map(guests, screen)
        screen.press("interrupt")
        screen.wait_for(lambda _: not screen.child.isalive())


def see_the_map(guests: Place, screen: Terminal) -> None:
    """The cursor is on small: its memory is a coloured grid."""
    screen.press("enter")
    lines = screen.wait_for("small: 64M")
    screen.wait_for(lambda lines: "█" in "".join(lines[3:-2]))
    resident = "".join(screen.lines()[3:-2]).count("█")
    cell_kib = size_of(lines[0].split("each cell is")[1])
    assert resident * cell_kib >= 20 << 10
    assert len(screen.colours()) >= 3
    guests.client.post("/v1/guests/small/reclaim", {"size": "100%"})
    screen.wait_for(lambda lines: "s" in "".join(lines[3:-2]))
    screen.press("right")
    screen.wait_for("a-large: 64M")
    screen.press("r")
    screen.wait_for("Reclaim from a-large")
    screen.press("escape", "escape")
    screen.wait_for("RESIDENT")


def test_it_survives_the_daemon(place: Place) -> None:
    with terminal([UVMM, "top", "--interval", "0.4"], place.environment) as screen:
        screen.wait_for("no daemon serves")
        assert place.up().returncode == 0
        running = place.start("run", "--name", "first", "--", "sleep", "100")
        assert shown_guests(screen.wait_for("first"))
        os.kill(place.daemon_pid, signal.SIGKILL)
        screen.wait_for("no daemon serves")
        assert place.up("--force").returncode == 0
        running.communicate()
        again = place.start("run", "--name", "again", "--", "sleep", "100")
        lines = screen.wait_for("again")
        assert "first" not in "\n".join(lines[6:])
        screen.wait_for(lambda lines: "no daemon" not in lines[5])
        # One that does not answer does not hold the screen up, nor its end.
        os.kill(place.daemon_pid, signal.SIGSTOP)
        try:
            screen.wait_for("s old")
            screen.press("q")
            assert screen.ended() == 0
        finally:
            os.kill(place.daemon_pid, signal.SIGCONT)
        again.terminate()
        again.communicate()


def test_what_it_refuses(place: Place) -> None:
    done = place.uvmm("top")
    assert (done.returncode, done.stdout) == (1, "")
    assert "needs a terminal" in done.stderr
    done = place.uvmm("top", "--sort", "beauty")
    assert done.returncode == 2
    assert "NAME, STALL%" in done.stderr
    assert place.uvmm("top", "--interval", "0").returncode == 2
    assert place.uvmm("top", "--interval", "nan").returncode == 2
