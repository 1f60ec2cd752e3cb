# SPDX-License-Identifier: MIT
"""
Cleaning up after a daemon that was killed.

Its guests may live on: each waits, in its next fault, for a daemon that knows
where its pages are. Nobody can take them over yet, so they are named, and ended
only if the user says so.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from uvmm.errors import ConflictError, DaemonStartError
from uvmm.host import mounts_below
from uvmm.rundir import read_record

if TYPE_CHECKING:
    from uvmm.host import Process
    from uvmm.rundir import RunDir

_MNT_DETACH = 2
_KILL_WAIT_S = 10.0


def clean(run_dir: RunDir, *, force: bool) -> None:
    """
    Remove what a killed daemon left; the caller holds the lock.

    Args:
        run_dir: The run directory.
        force: End guests that still live.

    Raises:
        ConflictError: If guests still live, without *force*.
        DaemonStartError: If something cannot be removed.
    """
    record = read_record(run_dir)
    if record is not None:
        _end_guests(run_dir, record.guests, force=force)
    for point in mounts_below(run_dir.path):
        _unmount(point)
    if record is not None and record.swap_path is not None:
        Path(record.swap_path).unlink(missing_ok=True)
    for path in run_dir.leftovers():
        # What the dead daemon last said may be all there is to find out why.
        if path != run_dir.log:
            path.unlink(missing_ok=True)
    for directory in run_dir.directories():
        with suppress(OSError):
            directory.rmdir()


def _end_guests(run_dir: RunDir, guests: dict[str, Process], *, force: bool) -> None:
    alive = {name: guest for name, guest in guests.items() if guest.alive()}
    if alive and not force:
        told = ", ".join(f"{name} ({guest.pid})" for name, guest in sorted(alive.items()))
        raise ConflictError(
            f"the daemon of {run_dir.path} was killed and its guests still run: {told}; "
            "'uvmm up --force' ends them"
        )
    for guest in alive.values():
        with suppress(ProcessLookupError):
            os.kill(guest.pid, signal.SIGKILL)
    until = time.monotonic() + _KILL_WAIT_S
    for name, guest in alive.items():
        while guest.alive():
            if time.monotonic() > until:
                raise DaemonStartError(f"guest {name} ({guest.pid}) does not end")
            time.sleep(0.01)


def _unmount(point: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(point), _MNT_DETACH):
        reason = os.strerror(ctypes.get_errno())
        raise DaemonStartError(f"cannot unmount {point}, which a killed daemon left: {reason}")
