# SPDX-License-Identifier: MIT
"""
What a program file is, as far as its heap can lie in guest memory.

A library that is preloaded does that, so the dynamic loader has to be willing:
not for static programs, other architectures, or those that gain privileges.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from uvmm.errors import ProgramError
from uvmm.units import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_EXECUTABLE = 126
# By whom a program that uses the guest library itself is known.
_MARKS = (b"uvmm_attach", b"guestlib")
_LOOK_BYTES = 1 << 20
_PROGRAM_BYTES = 8 << 20
_LOOK_ARGUMENTS = 4
_SCRIPTS_MAX = 4  # as the kernel: an interpreter may be a script
_LINE_END = re.compile(rb"[\n\0]")
_ELF = b"\x7fELF"
_HEADER = struct.Struct("=16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("=IIQQQQQQ")
_CLASS_64, _LITTLE = 2, 1
_INTERPRETER = 3  # PT_INTERP
_MACHINES = {"x86_64": 62, "aarch64": 183}


@dataclass(frozen=True, slots=True)
class User:
    """Whom a program will run as."""

    uid: int
    gid: int


def check_heap(path: str, user: User) -> None:
    """
    Make sure that the heap of a program can lie in guest memory.

    Raises:
        ProgramError: If it cannot; in words, with what to do.
    """
    image = _interpreter(path)
    why = _gains_privileges(image, user) or _unsuited(image)
    if why:
        behind = "" if image == path else f" (its interpreter {shown(image)})"
        raise ProgramError(
            f"{shown(path)}{behind}: {why}, its heap cannot be in guest memory; "
            "--heap none runs it without",
            exit_code=NOT_EXECUTABLE,
        )


def uses_guest_library(path: str, arguments: Sequence[str]) -> bool:
    """Tell whether a program, or what it is to interpret, names the guest library."""
    if _mentions(path, _PROGRAM_BYTES):
        return True
    for argument in arguments[:_LOOK_ARGUMENTS]:
        text = os.fsencode(argument)
        if any(mark in text for mark in _MARKS):
            return True
        if _mentions(argument, _LOOK_BYTES):
            return True
    return False


def _mentions(path: str, limit_bytes: int) -> bool:
    with suppress(OSError, ValueError):
        if Path(path).is_file():
            with Path(path).open("rb", buffering=0) as file:
                content = file.read(limit_bytes)
            return any(mark in content for mark in _MARKS)
    return False


def _interpreter(path: str) -> str:
    """Return the file that the kernel executes in the end: follows #! lines."""
    for _ in range(_SCRIPTS_MAX):
        try:
            with Path(path).open("rb") as file:
                head = file.read(256)
        except OSError:
            return path  # executable, but not readable: the loader's to judge
        if not head.startswith(b"#!"):
            return path
        # To the kernel a NUL ends the name, too.
        words = _LINE_END.split(head[2:], maxsplit=1)[0].split()
        if not words:
            return path
        path = os.fsdecode(words[0])
    return path


def _gains_privileges(path: str, user: User) -> str:
    try:
        status = Path(path).stat()
    except OSError:
        return ""
    if status.st_mode & 0o4000 and status.st_uid != user.uid:
        return "a set-user-id program"
    if status.st_mode & 0o2010 == 0o2010 and status.st_gid != user.gid:
        return "a set-group-id program"
    if user.uid:
        with suppress(OSError):
            os.getxattr(path, "security.capability")
            return "a program with capabilities of its own"
    return ""


def _unsuited(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return _unsuited_elf(file)
    except OSError as error:
        return "" if error.errno == errno.EACCES else f"not readable ({error.strerror})"


def _unsuited_elf(file: BinaryIO) -> str:
    head = file.read(_HEADER.size)
    if not head.startswith(_ELF):
        return ""  # the kernel will say what is wrong with it
    why = _unsuited_header(head)
    if why:
        return why
    fields = _HEADER.unpack(head)
    offset, size, count = fields[5], fields[9], fields[10]
    file.seek(min(offset, sys.maxsize))
    for _ in range(count if size == _SEGMENT.size else 0):
        segment = file.read(_SEGMENT.size)
        if len(segment) < _SEGMENT.size:
            return "a damaged program file"
        if _SEGMENT.unpack(segment)[0] == _INTERPRETER:
            return ""
    return "a static program"


def _unsuited_header(head: bytes) -> str:
    if len(head) < _HEADER.size:
        return "a damaged program file"
    if head[4] != _CLASS_64:
        return "a 32-bit program"
    machine = _HEADER.unpack(head)[2]
    if head[5] != _LITTLE or machine != _MACHINES.get(os.uname().machine, machine):
        return "a program for another architecture"
    return ""
