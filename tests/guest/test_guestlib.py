# SPDX-License-Identifier: MIT
"""Guests in Python, on a real daemon: their memory, pins, pressure, loss."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import wait_for

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from uvmm.scratch import Scratch

MIB = 1 << 20


def start(
    daemon: Scratch, tmp_path: Path, name: str, program: str, *, max_mib: int = 128
) -> subprocess.Popen[str]:
    """Run *program*, in which `guest`, `np`, `say` and `hear` are there."""
    head = """
        import os, sys, time
        import numpy as np
        import guestlib
        guest = guestlib.attach()
        def say(*words): print(*words, flush=True)
        def hear(): return sys.stdin.readline().strip()
        def pages(block): return np.frombuffer(block.memory, dtype=np.uint64)
    """
    script = tmp_path / f"{name}.py"
    script.write_text(textwrap.dedent(head) + textwrap.dedent(program))
    return daemon.run([sys.executable, str(script)], name=name, max_bytes=max_mib * MIB)


def heard(guest: subprocess.Popen[str]) -> str:
    assert guest.stdout is not None
    return guest.stdout.readline().strip()


def tell(guest: subprocess.Popen[str], line: str = "go") -> None:
    assert guest.stdin is not None
    guest.stdin.write(line + "\n")
    guest.stdin.flush()


def test_contents_survive(scratch: Scratch, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "array", """
        block = guest.allocate(64 << 20)
        numbers = pages(block)
        numbers[:] = np.arange(numbers.size)
        say("ready")
        hear()
        with open(sys.argv[0], "rb") as own:
            size = own.readinto(block.memory[1 << 20 : 2 << 20])
        assert bytes(block.memory[1 << 20 : (1 << 20) + size]) == open(sys.argv[0], "rb").read()
        assert (numbers[1 << 18 :] == np.arange(1 << 18, numbers.size)).all()
        say("right")
        hear()
    """)
    assert heard(guest) == "ready"
    assert scratch.reclaim("array", 100).pages >= 64 * MIB // 4096
    tell(guest)
    assert heard(guest) == "right"
    tell(guest)
    assert guest.wait(10) == 0


def test_pins_and_discards(scratch: Scratch, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "pins", """
        kept, other = guest.allocate(8 << 20), guest.allocate(8 << 20)
        numbers = np.arange(pages(kept).size, dtype=np.uint64)
        pages(kept)[:] = numbers
        pages(other)[:] = numbers + numbers.size
        with kept.pinned():
            say("pinned")
            hear()
            try:
                kept.discard()
            except guestlib.GuestError as error:
                say(error.strerror)
        other.discard()
        assert not pages(other).any() and (pages(kept) == numbers).all()
        say(guest.statistics().pinned_pages)
        hear()
    """)
    assert heard(guest) == "pinned"
    scratch.reclaim("pins", 100)
    held = scratch.figures()["guests"][0]
    assert held["resident_bytes"] >= 8 * MIB
    assert held["swapped_bytes"] >= 8 * MIB
    tell(guest)
    assert "pinned" in heard(guest)
    assert heard(guest) == "0"
    tell(guest)
    assert guest.wait(10) == 0


def test_pressure_is_heard(scratch: Scratch, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "cache", """
        import threading
        cache = guest.allocate(64 << 20)
        pages(cache)[:] = np.arange(pages(cache).size)
        levels, forked = [], threading.Event()
        @guest.on_pressure
        def release(level, wanted):
            levels.append(level)
            forked.wait(10)
            if level is not guestlib.Pressure.CALM and cache.address:
                cache.free()
            return 0
        say("ready")
        while not levels:
            time.sleep(0.01)
        # A child ends as ever, though a callback runs that it does not have.
        if not (child := os.fork()):
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        forked.set()
        say(levels[0].name)
        hear()
    """)
    assert heard(guest) == "ready"
    grower = start(scratch, tmp_path, "grower", """
        grown = pages(guest.allocate(120 << 20))
        grown[:] = np.arange(grown.size)
        say("grown")
        hear()
    """)
    assert heard(grower) == "grown"
    assert heard(guest) in {"TIGHT", "STALLED"}
    wait_for(
        lambda: scratch.figures()["guests"][0]["resident_bytes"] < 8 * MIB,
        "the free pages to be handed back",
    )
    for process in (guest, grower):
        tell(process)
        assert process.wait(10) == 0


def test_closed_descriptors_and_children(scratch: Scratch, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "careless", """
        block = guest.allocate(16 << 20)
        pages(block)[:] = 5
        os.closerange(3, 70000)
        child = os.fork()
        if not child:
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        say("closed")
        hear()
        assert (pages(block) == 5).all()
        block.discard()
        assert not pages(block).any()
        say(guest.statistics().max_pages)
    """)
    assert heard(guest) == "closed"
    scratch.reclaim("careless", 100)
    tell(guest)
    assert heard(guest) == str(128 * MIB // 4096)
    assert guest.wait(10) == 0


def test_direct_io_into_pages_that_are_reclaimed(
    scratch: Scratch, tmp_path: Path
) -> None:
    guest = start(scratch, tmp_path, "direct", """
        import tempfile, threading
        RUN = 64 * 4096
        wrong, rounds, done = [], [], time.monotonic() + 4

        def read(number):
            fd, path = tempfile.mkstemp(dir="/var/tmp")
            os.unlink(path)
            direct = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT)
            own = np.random.default_rng(number)
            with guest.allocate(32 * RUN) as block:
                pages(block)[:] = 1
                while time.monotonic() < done:
                    at = int(own.integers(32)) * RUN
                    want = own.bytes(RUN)
                    os.pwrite(fd, want, 0)
                    os.fsync(fd)
                    assert os.preadv(direct, [block.memory[at : at + RUN]], 0) == RUN
                    time.sleep(own.random() / 1000)
                    if bytes(block.memory[at : at + RUN]) != want:
                        wrong.append(at)
                    rounds.append(at)

        say("ready")
        threads = [threading.Thread(target=read, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        say(len(rounds) > 10, len(wrong))
        hear()
    """)
    assert heard(guest) == "ready"
    until = time.monotonic() + 3.5
    moved = 0
    while time.monotonic() < until:
        moved += scratch.reclaim("direct", 100).pages
    assert heard(guest) == "True 0"
    assert moved > 1000
    tell(guest)
    assert guest.wait(10) == 0


def test_lost_page_is_never_served(
    scratch: Scratch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    guest = start(scratch, tmp_path, "unlucky", """
        block = guest.allocate(4 << 20)
        pages(block)[:] = np.arange(pages(block).size)
        say("ready")
        hear()
        pages(block).sum()
        say("served")
    """)
    assert heard(guest) == "ready"
    scratch.reclaim("unlucky", 100)
    with scratch.swap_file.open("r+b") as swap:
        for page in range(64):
            swap.seek(page * 4096 + 100)
            swap.write(b"rot")
    tell(guest)
    assert heard(guest) == ""
    assert guest.wait(10) in {-signal.SIGBUS, 128 + signal.SIGBUS}
    assert "lost" in capfd.readouterr().err


def test_only_the_guest_may_open_its_memory(scratch: Scratch, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "private", """
        block = guest.allocate(4 << 20)
        pages(block)[:] = 9
        say("ready")
        hear()
        assert (pages(block) == 9).all()
    """)
    assert heard(guest) == "ready"
    shown = scratch.run_dir / "mem/private"
    assert shown.stat().st_size == 128 * MIB
    assert shown.stat().st_uid == os.getuid()
    for mode in ("rb", "r+b"):
        with pytest.raises(PermissionError):
            shown.open(mode)
    with pytest.raises(PermissionError):
        shown.unlink()
    tell(guest)
    assert guest.wait(10) == 0


def test_budget_holds_while_a_guest_grows(scratch: Scratch, tmp_path: Path) -> None:
    guest = start(scratch, tmp_path, "large", """
        block = guest.allocate(240 << 20)
        numbers = pages(block)
        for at in range(0, numbers.size, 512):
            numbers[at] = at
        say("grown")
        assert (numbers[::512] == np.arange(0, numbers.size, 512)).all()
        say("right")
    """, max_mib=256)
    most = 0
    while guest.poll() is None:
        machine = scratch.figures()["machine"]
        most = max(most, machine["used_bytes"])
        assert machine["used_bytes"] <= machine["total_bytes"]
        time.sleep(0.01)
    assert guest.stdout is not None
    assert guest.stdout.read().split() == ["grown", "right"]
    assert most > 100 * MIB
