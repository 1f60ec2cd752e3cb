# SPDX-License-Identifier: MIT
"""What is known of a guest's use of its memory, against what the guest does."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from uvmm import machine_settings
from uvmm.core import Engine
from uvmm.engine_config import EngineConfig, GuestConfig
from uvmm.model import NO_STANDING
from uvmm.policy.activity import SAMPLE_PAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from uvmm.model import Guest

PAGES = 64 << 8  # of the guest
NAME = "toucher"
ERROR_POINTS = 10  # of 95 % of the samples
PARTS_PERCENT = (0, 10, 25, 50, 75, 90, 100)
# Reads one byte of each of its pages: "COUNT STEP" says of the first COUNT every STEP-th.
TOUCHER = """
    import sys, time
    import guestlib
    memory = guestlib.attach().allocate(PAGES << 12).memory
    memory[::4096] = bytes(b"x" * PAGES)
    print("ready", flush=True)
    for line in sys.stdin:
        count, step = map(int, line.split())
        until = time.monotonic() + 0.2
        while True:
            bytes(memory[: count << 12 : step << 12])
            if time.monotonic() > until:
                break
        print("done", flush=True)
"""


@dataclass(frozen=True)
class Toucher:
    """A guest that touches what it is told, and its data plane, in this process."""

    engine: Engine
    id: int
    process: subprocess.Popen[str]

    def touch(self, count: int, step: int = 1) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count} {step}\n")
        self.process.stdin.flush()
        self.hear("done")

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def figures(self) -> Guest:
        return self.engine.snapshot({self.id: NO_STANDING}).guests[0]

    def sampled_percent(self, count: int, step: int) -> float:
        """Watch pages while the guest touches some; what part it uses, by that."""
        self.engine.sample(self.id, SAMPLE_PAGES)
        self.touch(count, step)
        time.sleep(0.9)  # until the watcher has looked
        seen = self.figures()
        assert seen.sampled_pages > SAMPLE_PAGES // 2
        return 100 * seen.sample_touched_pages / seen.sampled_pages


def own_pages() -> int:
    """Return what this process takes, which is the daemon here."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.fixture
def toucher(tmp_path: Path) -> Iterator[Toucher]:
    with (
        tempfile.TemporaryDirectory(prefix="uvmm-test-", dir="/var/tmp") as run_dir,
        machine_settings.allowed(),
    ):
        engine = Engine(EngineConfig(
            run_dir=Path(run_dir), swap_path=tmp_path / "swap",
            memory_pages=own_pages() + 3 * PAGES,
            swap_pages=2 * PAGES, via="fuse", group=None, share_cpu_permille=0,
            idle_cost_permille=20,
        ))
        try:
            yield from _guest(engine, Path(run_dir), tmp_path)
        finally:
            engine.stop()


def _guest(engine: Engine, run_dir: Path, tmp_path: Path) -> Iterator[Toucher]:
    script = tmp_path / "toucher.py"
    script.write_text(textwrap.dedent(TOUCHER).replace("PAGES", str(PAGES)))
    token = secrets.token_bytes(16)
    # It becomes the program once it is registered.
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'read go && exec "$@"', "sh", sys.executable, str(script)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={
            **os.environ, "UVMM_SOCKET": str(run_dir / "guest.sock"), "UVMM_NAME": NAME,
            "UVMM_TOKEN": token.hex(), "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )
    assert process.stdin is not None
    with process:
        guest_id = engine.create_guest(GuestConfig(
            name=NAME, token=token, pid=process.pid, uid=0, gid=0, min_pages=0,
            max_pages=2 * PAGES, target_pages=2 * PAGES, share_group="",
        ))
        process.stdin.write("go\n")
        process.stdin.flush()
        toucher = Toucher(engine=engine, id=guest_id, process=process)
        try:
            toucher.hear("ready")
            yield toucher
        finally:
            process.kill()


def test_estimate_is_near_the_truth(toucher: Toucher) -> None:
    errors = []
    for percent in PARTS_PERCENT:
        step = 2 if percent <= 50 else 1
        seen = toucher.sampled_percent(PAGES * percent * step // 100, step)
        errors.append(abs(seen - percent))
    # Four of five hundred samples are further away by chance, one of seven never is.
    assert sorted(errors)[-2] <= ERROR_POINTS
    assert sum(errors) / len(errors) <= ERROR_POINTS / 2
    assert toucher.figures().run_ns > 0


def test_what_is_idle_is_taken_first(toucher: Toucher) -> None:
    hot = PAGES // 4

    def idle_pages() -> int:
        return toucher.figures().idle_pages[0]

    toucher.engine.reclaim(toucher.id, 100, "swap")
    until = time.monotonic() + 20
    while idle_pages() < PAGES // 2 + PAGES // 8:
        assert time.monotonic() < until, f"{idle_pages()} pages are idle"
        toucher.touch(hot)
    toucher.engine.reclaim(toucher.id, PAGES // 2, "swap")
    loaded = toucher.figures().pages_in
    toucher.touch(hot)
    assert toucher.figures().pages_in - loaded < hot // 50
