# SPDX-License-Identifier: MIT
"""
Mounting the inspection filesystem: its process, and how that is started and ended.

`python -m uvmm.look.mount RUN_DIR DIR` is the process; it says `mounted` on standard
output when it is, and ends when it is unmounted, or told to by a signal.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from uvmm import host
from uvmm.errors import BadInputError, ConflictError, UvmmError
from uvmm.look.event_log import EventLog
from uvmm.look.source import EVENTS_ASKED, Source
from uvmm.look.tree import Tree
from uvmm.rundir import RunDir

KIND = "fuse.uvmm-look"
_SAID = "mounted"
_READ_AHEAD_KIB = 2048  # the largest request is of 1 MiB: two are under way


def mount(run_dir: RunDir, directory: str) -> None:
    """
    Mount a daemon's inspection filesystem; returns when it is there.

    Raises:
        BadInputError: If there is no such directory.
        ConflictError: If one is mounted there.
        UvmmError: If it cannot be mounted.
    """
    place = check_place(directory)
    with tempfile.TemporaryFile() as complaints:
        files = subprocess.Popen(
            [sys.executable, "-m", "uvmm.look.mount", str(run_dir.path), place],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints,
            cwd="/", start_new_session=True,
        )
        if files.stdout is None:
            raise UvmmError("the filesystem's process has no pipe")
        with files.stdout as answer:
            told = answer.readline().decode().strip()
        if told != _SAID:
            files.wait()
            complaints.seek(0)
            last = complaints.read().decode(errors="replace").strip().splitlines()
            raise UvmmError(f"cannot mount {place}: {last[-1] if last else 'it did not start'}")
    _read_ahead(place)


def unmount(directory: str, *, lazy: bool = False) -> None:
    """
    Unmount one.

    Raises:
        BadInputError: If none is mounted there.
        UvmmError: If it is in use, or cannot be unmounted.
    """
    place = os.path.realpath(directory)
    if not _is_mounted(place):
        raise BadInputError(f"no inspection filesystem is mounted at {place}")
    done = subprocess.run(
        ["umount", *(["-l"] if lazy else []), "--", place], check=False, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )
    if done.returncode:
        why = done.stderr.strip().splitlines() or ["umount failed"]
        raise UvmmError(f"{why[-1]}; close what is open there, or give --lazy")


def check_place(directory: str) -> str:
    """
    Return the real path of a directory to mount on.

    Raises:
        BadInputError: If there is no such directory.
        ConflictError: If one is mounted there.
        UvmmError: If the caller may not mount.
    """
    place = os.path.realpath(directory)
    if _is_mounted(place):
        raise ConflictError(
            f"an inspection filesystem is mounted at {place}; see 'uvmm umount {place}'"
        )
    if not Path(place).is_dir():
        raise BadInputError(f"{directory} is no directory; make it first")
    if os.geteuid():
        raise UvmmError("only root may mount; use sudo")
    return place


def serve(run_dir: RunDir, place: str, *, quiet: bool = False) -> None:
    """
    Be the filesystem until it is unmounted.

    Raises:
        UvmmError: If libfuse cannot be had, or refuses.
    """
    try:
        from uvmm.look.files import ATTRIBUTES_S, FUSE, Files  # noqa: PLC0415 - may fail
    except OSError as error:
        raise UvmmError(f"libfuse3 is needed ({error}); install Debian's libfuse3-3") from None

    logging.getLogger("fuse").setLevel(logging.CRITICAL)
    source = Source(run_dir)
    tree = Tree(source, EventLog(source.events, EVENTS_ASKED))
    try:
        FUSE(
            Files(tree, (lambda: None) if quiet else _tell_mounted), place,
            raw_fi=True, foreground=True, allow_other=True, default_permissions=True,
            fsname=f"{run_dir.path}", subtype=KIND.removeprefix("fuse."),
            attr_timeout=ATTRIBUTES_S, entry_timeout=ATTRIBUTES_S, negative_timeout=0,
            nosuid=True, nodev=True, noexec=True,
        )
    except RuntimeError as error:
        raise UvmmError(f"cannot mount {place}: libfuse failed with status {error}") from None


def _is_mounted(place: str) -> bool:
    return any(
        str(point) == place and kind == KIND for point, kind in host.mounts()
    )


def _tell_mounted() -> None:
    with suppress(OSError):
        os.write(sys.stdout.fileno(), f"{_SAID}\n".encode())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _read_ahead(place: str) -> None:
    """Have the kernel ask for more at once; without it, reading is slower, no more."""
    with suppress(OSError):
        device = Path(place).stat().st_dev
        setting = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        Path(setting).write_text(f"{_READ_AHEAD_KIB}\n")


def main() -> None:
    """Be the filesystem's process."""
    run_dir, place = sys.argv[1:]
    try:
        serve(RunDir(Path(run_dir)), place)
    except UvmmError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
