# SPDX-License-Identifier: MIT
"""
A daemon's run directory: what lies where, its lock and its record.

    control.sock   the control API        guest.sock   guests attach here
    daemon.lock    held while it lives    daemon.pid   its process, once it serves
    daemon.log     one JSON object a line state.json   what a crash would leave
    machine/       machine memory         mem/         the memory filesystem
    look.sock      guests' memory, for reading (`uvmm mount`)
    http.token     opens the web page, if there is one (`uvmm up --http`)
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from uvmm.errors import DaemonStartError, ServedError
from uvmm.host import Process

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_RUN_DIR = "/run/uvmm"
RUN_DIR_VARIABLE = "UVMM_RUN_DIR"
_CLAIM_TRIES = 1000


@dataclass(frozen=True, slots=True)
class RunDir:
    """The paths below one run directory."""

    path: Path

    @property
    def control_socket(self) -> Path:
        """Where the control API listens."""
        return self.path / "control.sock"

    @property
    def guest_socket(self) -> Path:
        """Where guests attach."""
        return self.path / "guest.sock"

    @property
    def look_socket(self) -> Path:
        """Where guests' memory is read; root's."""
        return self.path / "look.sock"

    @property
    def lock(self) -> Path:
        """Held by the daemon."""
        return self.path / "daemon.lock"

    @property
    def pid(self) -> Path:
        """The daemon's process number, while it serves."""
        return self.path / "daemon.pid"

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.path / "daemon.log"

    @property
    def http_token(self) -> Path:
        """What opens the API on TCP."""
        return self.path / "http.token"

    @property
    def state(self) -> Path:
        """The daemon's record."""
        return self.path / "state.json"

    def leftovers(self) -> list[Path]:
        """What a daemon makes there besides mounts and the lock."""
        return [
            self.control_socket, self.guest_socket, self.pid, self.state,
            self.state.with_suffix(".new"), self.log, self.log.with_suffix(".log.1"),
            self.http_token, self.look_socket,
        ]

    def directories(self) -> list[Path]:
        """Mount points that the data plane makes there."""
        return [self.path / "machine", self.path / "mem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """
    What must be known to clean up after a daemon that was killed.

    `guests` maps names to processes.
    """

    swap_path: str | None
    guests: dict[str, Process] = field(default_factory=dict)


def write_record(run_dir: RunDir, record: Record) -> None:
    """Replace the record, whole or not at all."""
    fresh = run_dir.state.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(run_dir.state)


def read_record(run_dir: RunDir) -> Record | None:
    """Return the record that a daemon left, None if there is none to be read."""
    try:
        raw = json.loads(run_dir.state.read_text())
        guests = {name: Process(**told) for name, told in raw.pop("guests").items()}
        return Record(**raw, guests=guests)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def claim(run_dir: RunDir) -> int:
    """
    Make sure that the directory is there and ours, and take its lock.

    Returns:
        A descriptor; the lock, which one daemon a run directory holds, lasts until
        it is closed.

    Raises:
        DaemonStartError: If it cannot be had, or others could write in it.
        ServedError: If another daemon holds the lock.
    """
    for _ in range(_CLAIM_TRIES):
        made = _make(run_dir.path)
        try:
            _check_ours(run_dir.path)
            return _take_lock(run_dir)
        except FileNotFoundError:
            # A daemon that ended has just removed it.
            continue
        except OSError as error:
            if made:
                with suppress(OSError):
                    run_dir.path.rmdir()
            raise DaemonStartError(f"cannot lock {run_dir.lock}: {error.strerror}") from None
    raise DaemonStartError(f"the run directory {run_dir.path} is removed again and again")


def bound(path: Path) -> socket.socket:
    """Return a socket at *path* that nobody but its owner can connect to."""
    link = socket.socket(socket.AF_UNIX)
    former = os.umask(0o177)
    try:
        link.bind(str(path))
    except OSError:
        link.close()
        raise
    finally:
        os.umask(former)
    return link


def remove(run_dir: RunDir) -> None:
    """
    Remove all that is the daemon's; the caller holds the lock.

    The directory, too, unless there is something else in it: who made it is not
    asked, since that may have been another daemon, which came too late for the lock.
    """
    for path in run_dir.leftovers():
        path.unlink(missing_ok=True)
    for directory in run_dir.directories():
        with suppress(OSError):
            directory.rmdir()
    run_dir.lock.unlink(missing_ok=True)
    with suppress(OSError):
        run_dir.path.rmdir()


def _make(path: Path) -> bool:
    """Make the directory; tells whether it was not there."""
    try:
        path.mkdir(mode=0o711)
    except FileExistsError:
        return False
    except OSError as error:
        hint = "; uvmm needs root" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise DaemonStartError(
            f"cannot make the run directory {path}: {error.strerror}{hint}"
        ) from None
    # mkdir obeys the umask, and guests of other users have to get through.
    with suppress(FileNotFoundError):
        path.chmod(0o711)
    return True


def _take_lock(run_dir: RunDir) -> int:
    while True:
        lock = os.open(run_dir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ServedError(
                f"a daemon already serves {run_dir.path}; end it with 'uvmm down' or choose "
                "another --run-dir"
            ) from None
        # A daemon that ends removes the file: the lock may be on one that is gone.
        with suppress(FileNotFoundError):
            if os.path.samestat(run_dir.lock.stat(), os.fstat(lock)):
                return lock
        os.close(lock)


def _check_ours(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise DaemonStartError(f"the run directory {path} is no directory")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise DaemonStartError(
            f"the run directory {path} could be written by others; choose one of your own"
        )
