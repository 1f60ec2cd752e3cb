# SPDX-License-Identifier: MIT
"""The program of `uvmm run`: found before anything starts, as a shell would."""

from __future__ import annotations

import errno
import os
import re
from enum import StrEnum
from pathlib import Path

from uvmm.errors import ProgramError
from uvmm.units import shown


class Heap(StrEnum):
    """
    Whose memory a program gets from malloc, and for private anonymous mappings.

    AUTO is the guest's, but not for programs that use the guest library themselves.
    """

    AUTO = "auto"
    GUEST = "guest"
    NONE = "none"


NOT_FOUND = 127
NOT_EXECUTABLE = 126
_GUEST_NAME_BYTES = 50  # leaves room for a number
_SHOWN = 200  # characters of a path that an error tells in full


def find(name: str, search_path: str) -> str:
    """
    Return the file to execute for *name*.

    Args:
        name: As typed; with a slash it is a path.
        search_path: Directories to search, separated by colons.

    Raises:
        ProgramError: 127 if there is none, 126 if it cannot be executed.
    """
    if "/" in name:
        candidates = [name]
    else:
        candidates = [str(Path(folder or ".") / name) for folder in search_path.split(":")]
    # Not pathlib's: those raise where nothing can be found, as in others' directories.
    found = [path for path in candidates if name and os.path.exists(path)]  # noqa: PTH110
    for path in found:
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113
            return path
    if found:
        is_directory = os.path.isdir(found[0])  # noqa: PTH112
        raise failure(found[0], errno.EISDIR if is_directory else errno.EACCES)
    raise failure(name, errno.ENOENT)


def failure(path: str, code: int) -> ProgramError:
    """Return the error of an execve of *path* that failed with the errno *code*."""
    if code == errno.ENOENT:
        return ProgramError(f"{_plain(path)}: no such program", exit_code=NOT_FOUND)
    if code == errno.ENOEXEC:
        return ProgramError(
            f"{_plain(path)}: no program that the kernel can execute; does it lack a #! line?",
            exit_code=NOT_EXECUTABLE,
        )
    return ProgramError(f"{_plain(path)}: {os.strerror(code)}", exit_code=NOT_EXECUTABLE)


def guest_name(path: str) -> str:
    """Return a name for a guest that executes *path*."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", Path(path).name)[:_GUEST_NAME_BYTES]
    return plain if re.match(r"[A-Za-z0-9_]", plain) else f"_{plain}"


def _plain(path: str) -> str:
    # A path that is of use to nobody is shortened; others are told in full.
    return path if path.isprintable() and 0 < len(path) <= _SHOWN else shown(path)
