# SPDX-License-Identifier: MIT
"""Starting and ending a daemon from another process."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import IO, TYPE_CHECKING

from uvmm.client import Client
from uvmm.errors import DaemonStartError, ServedError, UvmmError

if TYPE_CHECKING:
    from uvmm.rundir import RunDir
    from uvmm.settings import Settings

END_WAIT_S = 60.0


def start(settings: Settings) -> None:
    """
    Start a daemon in the background; returns when it serves.

    Raises:
        ServedError: If one serves the run directory already.
        DaemonStartError: With what the daemon said.
    """
    with tempfile.TemporaryFile() as complaints:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "uvmm.serve"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints,
            cwd="/", start_new_session=True,
        )
        if daemon.stdin is None or daemon.stdout is None:
            raise DaemonStartError("the daemon has no pipes")
        with daemon.stdin as words:
            words.write(json.dumps(asdict(settings)).encode())
        with daemon.stdout as answer:
            told = answer.readline().decode().strip()
        # The process that was started has forked the daemon, and ends.
        daemon.wait()
        if told != "serving":
            raise _refusal(told, complaints)


def end(run_dir: RunDir) -> int:
    """
    End the daemon and all its guests; returns its process id when it has gone.

    Raises:
        NotRunningError: If no daemon serves.
        UvmmError: If it does not end.
    """
    client = Client(run_dir.control_socket)
    pid: int = client.get("/v1/health")["pid"]
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid
    try:
        client.post("/v1/shutdown", wait_s=END_WAIT_S)
        if not select.select([process], [], [], END_WAIT_S)[0]:
            raise UvmmError(
                f"the daemon (process {pid}) did not end within {END_WAIT_S:.0f} s; "
                f"see {run_dir.log}"
            )
    finally:
        os.close(process)
    return pid


def _refusal(told: str, complaints: IO[bytes]) -> UvmmError:
    """Put what the daemon said, or its last words, into an error."""
    try:
        answer = json.loads(told)
    except ValueError:
        complaints.seek(0)
        words = complaints.read().decode(errors="backslashreplace").strip()
        return DaemonStartError(
            f"the daemon died while starting: {words.splitlines()[-1] if words else 'silently'}"
        )
    if answer["kind"] == ServedError.__name__:
        return ServedError(answer["error"])
    refusal = DaemonStartError(answer["error"])
    refusal.exit_code = answer["exit_code"]
    return refusal
