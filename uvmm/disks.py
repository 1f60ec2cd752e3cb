# SPDX-License-Identifier: MIT
"""
The virtual disks that `uvmm run` gives a guest: images, opened and locked here, with
the rights of whoever starts it.

Nothing here may be slow to import.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uvmm.errors import BadInputError, ConflictError, UvmmError

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME_BYTES = 31
DISKS_MAX = 16
_FORM = "NAME=FILE or NAME=FILE,ro"


@dataclass(frozen=True, slots=True)
class Disk:
    """An image that is a guest's disk, by the name that the guest knows."""

    name: str
    path: str
    read_only: bool


def parse(text: str) -> Disk:
    """
    Read what `--disk` is given: NAME=FILE, or NAME=FILE,ro for a disk that is only read.

    Raises:
        BadInputError: If it is not of that form.
    """
    name, given, rest = text.partition("=")
    path, comma, word = rest.rpartition(",")
    read_only = bool(comma) and word == "ro"
    path = path if read_only else rest
    if not name or not given or not path:
        raise BadInputError(f"--disk {text}: expected {_FORM}")
    wrong = not name.isascii() or not all(c.isprintable() and c not in "/ " for c in name)
    if wrong or not 1 <= len(name) <= NAME_BYTES:
        raise BadInputError(
            f"--disk {text}: a disk's name has 1 to {NAME_BYTES} visible ASCII characters, "
            f"none of them '/', got {name!r}"
        )
    return Disk(name, path, read_only)


def parse_all(texts: Sequence[str]) -> list[Disk]:
    """
    Read all that `--disk` was given.

    Raises:
        BadInputError: If one is not as it should be, or two have one name.
    """
    disks = [parse(text) for text in texts]
    names = [disk.name for disk in disks]
    for name in names:
        if names.count(name) > 1:
            raise BadInputError(f"--disk {name}: two disks have that name")
    if len(disks) > DISKS_MAX:
        raise BadInputError(f"a guest has at most {DISKS_MAX} disks, got {len(disks)}")
    return disks


def open_image(disk: Disk) -> int:
    """
    Open the image of a disk, past the page cache if its filesystem can, and lock it.

    What is only read may be the disk of many guests; what is written, of one.

    Returns:
        A descriptor; the lock lasts until its last copy is closed.

    Raises:
        UvmmError: If it cannot be opened, or is in use.
    """
    access = os.O_RDONLY if disk.read_only else os.O_RDWR
    try:
        fd = _open(disk.path, access | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UvmmError(f"disk {disk.name}: {disk.path}: {error.strerror}") from None
    try:
        _check(disk, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(path, flags)


def _check(disk: Disk, fd: int) -> None:
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UvmmError(
            f"disk {disk.name}: {disk.path} is neither a file nor a block device"
        )
    os.set_blocking(fd, True)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if disk.read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(
            f"disk {disk.name}: {disk.path} is in use"
            + ("" if disk.read_only else "; with ,ro many guests may read it")
        ) from None
