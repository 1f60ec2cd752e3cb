# SPDX-License-Identifier: MIT
"""A short run of the page stress; and that it would see a wrong byte, and who died."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.stress import settings as given
from tests.stress.counts import Counts
from tests.stress.findings import WrongError, check_figures, check_nothing_left
from tests.stress.guest import PROGRAM, StressedGuest
from tests.stress.stress_pages import Stress, stress
from uvmm.scratch import Scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).resolve().parents[2]
WRONG_STATUS = 3
PAGE_BYTES = 4096

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    subprocess.run(["make", "--silent", "-C", str(TOP / "tests/stress")], check=True)


def _settings(*argv: str) -> given.Settings:
    small = ("--size", "16M", "--memory", "96M", "--guests", "2", "--seed", "5")
    return given.parse([*small, *argv])


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    settings = _settings()
    with Scratch(
        purpose="test", memory_bytes=settings.memory_bytes, swap_bytes=settings.swap_bytes
    ) as daemon:
        yield daemon


def test_short_run_finds_nothing_wrong() -> None:
    counts = Counts()
    stress(_settings("--seconds", "8", "--kill-every", "1"), counts, lambda _: None)
    totals = counts.totals()
    assert totals.pages_verified > 0
    assert totals.pages_out > 0
    assert totals.pages_in > 0
    assert totals.guest_kills + totals.launcher_kills > 0


def test_short_run_with_sharing_finds_nothing_wrong() -> None:
    counts = Counts()
    stress(
        _settings("--seconds", "8", "--kill-every", "2", "--share", "--guests", "3"), counts,
        lambda _: None,
    )
    totals = counts.totals()
    assert totals.pages_verified > 0
    assert totals.pages_shared > 0


def _memory_address(guest: StressedGuest) -> int:
    """Return where a guest's memory begins in its address space."""
    for line in Path(f"/proc/{guest.pid}/maps").read_text().splitlines():
        # Another one, without rights, is where pages are remapped from.
        if line.endswith(f"/{guest.name}") and " rw-s " in line:
            return int(line.partition("-")[0], 16)
    raise AssertionError(f"{guest.name} has no memory mapped")


def _spoil(guest: StressedGuest) -> None:
    """Change a byte in each of many pages behind the guest's back."""
    start = _memory_address(guest)
    with Path(f"/proc/{guest.pid}/mem").open("r+b", buffering=0) as memory:
        for page in range(256):
            at = start + page * PAGE_BYTES + 1500
            # One that is swapped cannot be read so; and the guest may find one, and end.
            with suppress(OSError, IndexError):
                memory.seek(at)
                byte = memory.read(1)
                memory.seek(at)
                memory.write(bytes([byte[0] ^ 0x40]))


def test_wrong_byte_is_reported_precisely(scratch: Scratch) -> None:
    guest = StressedGuest(scratch, _settings("--threads", "1"), name="spoiled", seed=9)
    guest.wait_started()
    _spoil(guest)
    assert guest.join(20.0)
    end = guest.describe_end()
    assert guest.found_wrong(), end
    assert f"status {WRONG_STATUS}" in end
    assert re.search(r"WRONG guest spoiled time \d+\.\d{6} operation .*: page \d+ offset \d+: "
                     r"expected byte \w\w, got \w\w .*version \d+", end), end


def test_run_ends_at_a_guest_that_dies_unasked(scratch: Scratch) -> None:
    run = Stress(scratch, _settings("--seconds", "20", "--kill-every", "0"), Counts())

    def kill() -> None:
        for guest in scratch.figures()["guests"]:
            os.kill(guest["pid"], signal.SIGKILL)

    with pytest.raises(WrongError, match=r"guest pages-\d died: signal SIGKILL"):
        run.run(kill)


def test_run_ends_when_the_daemon_dies(scratch: Scratch) -> None:
    run = Stress(scratch, _settings("--seconds", "20", "--kill-every", "0"), Counts())
    with pytest.raises(WrongError, match="daemon"):
        run.run(lambda: os.kill(scratch.daemon_pid, signal.SIGKILL))


def test_figures_that_do_not_add_up_are_wrong() -> None:
    places = ("resident", "shared", "ballooned", "compressed", "swapped", "far", "untouched")
    guest: dict[str, Any] = {f"{place}_bytes": 4096 for place in places}
    guest |= {"name": "g", "max_bytes": len(places) * 4096, "popped_pages": 0}
    machine = {"used_bytes": 1, "total_bytes": 1, "frame_bytes": 4096, "saved_bytes": 0}
    figures: Any = {"machine": machine, "guests": [guest]}
    check_figures(figures)
    guest["swapped_bytes"] += 4096
    with pytest.raises(WrongError, match="add up"):
        check_figures(figures)
    guest["swapped_bytes"] -= 4096
    machine["saved_bytes"] = 4096
    with pytest.raises(WrongError, match="saved"):
        check_figures(figures)
    machine["saved_bytes"], guest["popped_pages"] = 0, 1
    with pytest.raises(WrongError, match="gave back"):
        check_figures(figures)
    machine["used_bytes"] = 2
    with pytest.raises(WrongError, match="over budget"):
        check_figures(figures)


def test_left_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.stress.findings.END_WAIT_S", 0.0)
    check_nothing_left(tmp_path, tmp_path / "swap", set())
    (tmp_path / "swap").touch()
    with pytest.raises(WrongError, match="swap"):
        check_nothing_left(tmp_path, tmp_path / "swap", set())


def test_guest_program_refuses_bad_arguments() -> None:
    done = subprocess.run([PROGRAM, "0", "x"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("argv", [["--size", "1"], ["--guests", "0"], ["--seconds", "-1"]])
def test_bad_settings_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        given.parse(argv)
