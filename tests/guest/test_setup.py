# SPDX-License-Identifier: MIT
"""`bin/setup-env` in a checkout of its own, where all that it installs is there."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SETUP = Path(__file__).parents[2] / "bin/setup-env"
NOBODY = 65534
# What it calls, doing no more than is looked at afterwards.
STUBS = {
    "dpkg-query": "echo install ok installed",
    "make": "echo made >>build/made",
    "python3": """
        case "$*" in
        "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
        "-m pip install"*)
            echo "$*" >>build/installed
            touch .venv/bin/uvmm && chmod 755 .venv/bin/uvmm ;;
        --version) echo Python 3.11 ;;
        esac""",
}


@pytest.fixture
def checkout() -> Iterator[Path]:
    there = Path(tempfile.mkdtemp(prefix="uvmm-test-", dir="/var/tmp"))
    there.chmod(0o755)
    try:
        for folder in ("bin", "csrc", "stubs"):
            (there / folder).mkdir()
        shutil.copy(SETUP, there / "bin")
        (there / "csrc/a.c").write_text("")
        for name, does in STUBS.items():
            (there / "stubs" / name).write_text(f"#!/bin/sh\n{does}\n")
            (there / "stubs" / name).chmod(0o755)
        yield there
    finally:
        shutil.rmtree(there)


def set_up(checkout: Path, *mode: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "bin/setup-env", *mode], capture_output=True, text=True, check=False,
        env={"PATH": f"{checkout}/stubs:/usr/bin:/bin"}, timeout=60, user=user, group=user,
    )


def test_it_does_what_is_to_be_done_once(checkout: Path) -> None:
    made = checkout / "build/made"
    assert set_up(checkout).stderr.endswith("setup: done\n")
    done = set_up(checkout)
    assert (done.returncode, done.stderr, made.read_text()) == (0, "", "made\n")
    (checkout / "csrc/b.c").write_text("")
    assert set_up(checkout).returncode == 0
    assert made.read_text() == "made\n" * 2


def test_all_is_more_and_serves_those_who_need_less(checkout: Path) -> None:
    for mode in ([], ["--all"], [], ["--tests"], ["--all"]):
        assert set_up(checkout, *mode).returncode == 0
    installed = (checkout / "build/installed").read_text().split()
    assert [word for word in installed if word.startswith(".[")] == [".[test]", ".[test,all]"]


def test_who_may_not_write_may_use_what_is_in_place(checkout: Path) -> None:
    refused = set_up(checkout, user=NOBODY)
    assert refused.returncode == 1
    assert "have its owner run bin/setup-env" in refused.stderr
    assert set_up(checkout).returncode == 0
    # Their python3 may be another one than that which all was made with.
    (checkout / "stubs/python3").write_text("#!/bin/sh\necho Python 3.12\n")
    done = set_up(checkout, user=NOBODY)
    assert (done.returncode, done.stderr) == (0, "")
    (checkout / "csrc/a.c").write_text("changed")
    refused = set_up(checkout, user=NOBODY)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
