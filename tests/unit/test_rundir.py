# SPDX-License-Identifier: MIT
"""Run directories: one daemon each, whoever comes and goes at the same moment."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from uvmm import rundir
from uvmm.errors import DaemonStartError, ServedError
from uvmm.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

HAMMER_S = 2.0


def serve_for_a_moment(run_dir: RunDir, alone: Path) -> None:
    """Claim it, be alone in it, and leave nothing."""
    try:
        lock = rundir.claim(run_dir)
    except ServedError:
        return
    alone.mkdir()
    run_dir.pid.write_text("1")
    alone.rmdir()
    rundir.remove(run_dir)
    os.close(lock)


def test_many_that_come_and_go_at_once(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    until = time.monotonic() + HAMMER_S
    children = []
    for _ in range(6):
        children.append(os.fork())
        if not children[-1]:
            try:
                while time.monotonic() < until:
                    serve_for_a_moment(run_dir, tmp_path / "alone")
            except BaseException as error:  # noqa: BLE001 - a child of the test
                print(repr(error))
                os._exit(1)
            os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * len(children)
    assert list(tmp_path.iterdir()) == []


def test_who_made_it_may_come_too_late_for_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    first: list[int] = []
    take_lock = rundir._take_lock

    def others_first(wanted: RunDir) -> int:
        first.append(take_lock(wanted))
        return take_lock(wanted)

    monkeypatch.setattr(rundir, "_take_lock", others_first)
    with pytest.raises(ServedError, match="already serves"):
        rundir.claim(run_dir)
    rundir.remove(run_dir)
    os.close(first.pop())
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    check, looks = rundir._check_ours, []

    def removed_first(path: Path) -> None:
        looks.append(path)
        if len(looks) == 1:
            path.rmdir()
        check(path)
        if len(looks) == 2:
            path.rmdir()

    monkeypatch.setattr(rundir, "_check_ours", removed_first)
    os.close(rundir.claim(run_dir))
    assert len(looks) == 3
    assert run_dir.path.stat().st_mode & 0o777 == 0o711


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").touch()
    for name, words in (("open", "by others"), ("file", "no directory"), ("a/b", "No such")):
        with pytest.raises(DaemonStartError, match=words):
            rundir.claim(RunDir(tmp_path / name))
