# SPDX-License-Identifier: MIT
"""The demo in its quick form: what it says, and that nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DEMO = [str(TOP / "bin/demo"), "--quick"]
WAIT_S = 120.0

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _mounts() -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return [line for line in mounts if "/uvmm-demo-" in line]


def _files() -> set[Path]:
    return {
        path for place in ("/run", "/var/tmp") for path in Path(place).glob("uvmm-demo-*")
    }


def test_quick_demo_says_what_it_showed(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("kvload", "extsort", "matrix"):
        assert re.search(rf"^{name}: .*checked .*, 0 wrong$", done.stdout, re.MULTILINE)
    for name in ("redis-server", "python3 numpy"):
        assert re.search(rf"^{name}, unmodified: .*, 0 wrong$", done.stdout, re.MULTILINE)
    needed, moved, right, waited, left = done.stdout.splitlines()[-5:]
    times = re.search(r"in 128M of machine memory \((\d+\.\d) times\)", needed)
    assert times is not None
    assert float(times[1]) >= 2
    pages = re.match(r"Moved: (\d+) pages out .*?, (\d+) back .*?, (\d+) faults", moved)
    assert pages is not None
    assert all(int(figure) > 0 for figure in pages.groups())
    assert right.startswith("Right: 0 wrong bytes in ")
    assert re.search(r"kvload [\d.]+ s, extsort [\d.]+ s, matrix [\d.]+ s", waited)
    assert left.startswith("Left behind: no process, mount or file.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    mounts, files = _mounts(), _files()
    demo = subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    # The first lines come once the daemon serves and the programs are started.
    demo.stdout.readline()
    demo.send_signal(number)
    # A second one must not cut the cleaning short.
    time.sleep(0.3)
    demo.send_signal(number)
    said, _ = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == 128 + signal.SIGINT
    assert said.splitlines()[-1] == "demo: interrupted"
    assert _mounts() == mounts
    assert _files() == files
