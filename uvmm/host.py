# SPDX-License-Identifier: MIT
"""What the host is and has: memory, disk space, processes, mounts, users."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from uvmm.errors import BadInputError
from uvmm.units import shown

SHMEM_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
LARGE_KIB, MIDDLE_KIB = 2048, 64  # sizes of pages
_ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")  # a byte of a path in /proc/PID/mountinfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that cannot be mistaken for a later one with its number."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Tell whether it still runs; a zombie does not."""
        return process(self.pid) == self


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a connection, as it was when it connected."""

    pid: int
    uid: int


def process(pid: int) -> Process | None:
    """Return the process of that number, None if there is none or it has ended."""
    found = _process_and_parent(pid)
    return None if found is None else found[0]


def child(pid: int, *, parent: int) -> Process | None:
    """Return the process of that number, None if it is no child of *parent* that lives."""
    found = _process_and_parent(pid)
    # Processes of which the parent is out of sight are nobody's here.
    return found[0] if found is not None and found[1] == parent > 0 else None


def _process_and_parent(pid: int) -> tuple[Process, int] | None:
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name before that may be any bytes, parentheses and spaces included.
    fields = line.rpartition(b")")[2].split()
    if fields[0] in b"ZX":
        return None
    return Process(pid=pid, started=int(fields[19])), int(fields[1])


def ram_bytes() -> int:
    """Return the host's RAM."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_disk_bytes(directory: Path) -> int:
    """
    Return what a new file in *directory* could have.

    Raises:
        BadInputError: If there is no such directory.
    """
    try:
        space = os.statvfs(directory)
    except OSError as error:
        raise BadInputError(
            f"no swap file can be made in {directory}: {error.strerror}"
        ) from None
    return space.f_bavail * space.f_frsize


def file_disk_bytes(path: Path) -> int:
    """Return what removing a regular file would free; 0 if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    alone = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    return status.st_blocks * 512 if alone else 0


def group_id(name: str) -> int:
    """
    Return the number of a group, given by name or number.

    Raises:
        BadInputError: If there is no such group.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        if name.isascii() and name.isdigit() and int(name) < 0xFFFFFFFF:
            return int(name)
    raise BadInputError(f"--group: there is no group {shown(name)}")


def user(name: str) -> pwd.struct_passwd:
    """
    Return a user, given by name or number.

    Raises:
        BadInputError: If there is no such user.
    """
    try:
        if name.isascii() and name.isdigit():
            return pwd.getpwuid(int(name))
        return pwd.getpwnam(name)
    except (KeyError, ValueError, OverflowError):
        raise BadInputError(f"--user: there is no user {shown(name)}") from None


def owner(pid: int) -> tuple[int, int] | None:
    """Return the user and group of a process, None if there is none."""
    try:
        status = Path(f"/proc/{pid}").stat()
    except OSError:
        return None
    return status.st_uid, status.st_gid


def mounts_below(directory: Path) -> list[Path]:
    """Return the mount points below *directory*, innermost first."""
    points = [point for point, _ in mounts() if directory in point.parents]
    return sorted(points, key=lambda point: len(point.parts), reverse=True)


def mounts() -> list[tuple[Path, str]]:
    """Return all mount points, and of what kind each is."""
    points = []
    # Anyone's mount point may hold bytes that are no text.
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        mounted, _, source = line.partition(b" - ")
        escaped = mounted.split(b" ")[4]
        raw = _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), escaped)
        points.append((Path(os.fsdecode(raw)), os.fsdecode(source.split(b" ")[0])))
    return points


def shmem_setting(kib: int) -> Path:
    """Return the setting of shared memory for pages of that size."""
    return SHMEM_ENABLED.with_name(f"hugepages-{kib}kB") / SHMEM_ENABLED.name


def shmem_word(setting: Path) -> str:
    """Return what such a setting comes to: that of all sizes if it inherits it."""
    word = chosen_word(setting)
    return chosen_word(SHMEM_ENABLED) if word == "inherit" else word


def chosen_word(setting: Path) -> str:
    """Return the word in brackets of a /sys setting; empty if there is none."""
    try:
        text = setting.read_text()
    except OSError:
        return ""
    return text.partition("[")[2].partition("]")[0]
