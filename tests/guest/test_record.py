# SPDX-License-Identifier: MIT
"""`uvmm record` and `uvmm report` against real daemons."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

from tests.guest.conftest import Place, wait_for
from tests.guest.test_cli import assert_refused

if TYPE_CHECKING:
    from pathlib import Path


def samples(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_record_outlives_the_daemon(served: Place) -> None:
    file = served.path / "record"
    guest = served.start("run", "--name", "first", "--", "sleep", "100")
    recording = served.start("record", str(file))
    wait_for(
        lambda: file.exists() and any(row["guests"] for row in samples(file)), "a sample"
    )
    os.kill(served.daemon_pid, signal.SIGKILL)
    assert recording.stderr is not None
    assert "waiting for it" in recording.stderr.readline()
    assert served.up("--force").returncode == 0
    guest.communicate()
    wait_for(
        lambda: len({row["started_at"] for row in samples(file)}) == 2, "the new daemon"
    )
    recording.send_signal(signal.SIGINT)
    _, told = recording.communicate(timeout=20)
    assert recording.returncode == 0
    kept = samples(file)
    assert f"{len(kept)} samples in {file}" in told
    assert len({(row["started_at"], row["number"]) for row in kept}) == len(kept)
    # Once more, from the beginning of what the daemon knows, and for a moment only.
    assert_refused(served.uvmm("record", str(file)), "exists; add to it with --append")
    done = served.uvmm("record", "-", "--for", "0")
    assert json.loads(done.stdout.splitlines()[0])["number"] == 1
    done = served.uvmm("report", str(served.path / "now"))
    assert done.stdout.startswith(f"{served.path / 'now' / 'index.html'}: ")
    assert (served.path / "now" / "machine.png").stat().st_size > 1000
    # The daemon need not be there for a report of a record.
    assert served.uvmm("down").returncode == 0
    done = served.uvmm("report", str(served.path / "report"), "--from", str(file), "--json")
    told_of: Any = json.loads(done.stdout)
    assert (done.stderr, told_of["samples"]) == ("", len(kept))
    assert [one["name"] for one in told_of["guests"]] == ["first"]


def test_what_they_refuse(place: Place) -> None:
    assert_refused(place.uvmm("record", str(place.path / "r")), "no daemon serves")
    assert not (place.path / "r").exists()
    assert_refused(place.uvmm("record", "-", "--for", "nan"), "--for nan", 2)
    bad = place.path / "bad"
    for content, words in (
        (b"", "no sample"), (b"\xff\xfe\n", "utf-8"), (b"[]\n", "sample 1 is none"),
        (b"[" * 99_999 + b"\n", "line 1 is no JSON"),
    ):
        bad.write_bytes(content)
        assert_refused(
            place.uvmm("report", str(place.path / "out"), "--from", str(bad)), words, 2
        )
    done = place.uvmm("report", str(place.path / "out"), "--from", "/no/such")
    assert_refused(done, "/no/such: No such file")
    assert not (place.path / "out").exists()
