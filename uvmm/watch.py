# SPDX-License-Identifier: MIT
"""
The launcher's connection to the guest socket, on which the daemon tells it what
happens to its guest. Layouts are those of csrc/include/uvmm/protocol.h.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING

from uvmm.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from uvmm.disks import Disk

_MAGIC = 0x4D4D5675
_VERSION = 1
_HELLO, _WELCOME, _REPLY, _DISK_ADD = 1, 2, 4, 30
_ROLE_WATCH = 3
_HEAD = struct.Struct("=IHHIi")
_HELLO_BODY = struct.Struct("=II16s64s")
_DISK_BODY = struct.Struct("=32sII")
_PACKET_BYTES = 4096
_ANSWER_WAIT_S = 10.0


def watch(guest_socket: Path, name: str, token: bytes) -> socket.socket:
    """
    Ask to be told what happens to a guest.

    Args:
        guest_socket: The daemon's guest socket.
        name: The guest.
        token: What the daemon gave at its registration.

    Returns:
        A connection on which NOTICE packets come.

    Raises:
        EngineError: If the daemon refuses, with its reason.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.settimeout(_ANSWER_WAIT_S)
        link.connect(str(guest_socket))
        head = _HEAD.pack(_MAGIC, _VERSION, _HELLO, 1, 0)
        link.send(head + _HELLO_BODY.pack(_ROLE_WATCH, 0, token, name.encode()))
        _check_answer(link.recv(_PACKET_BYTES))
        link.settimeout(None)
    except OSError as error:
        link.close()
        raise EngineError(f"cannot reach {guest_socket}: {error}") from None
    except EngineError:
        link.close()
        raise
    return link


def give_disk(link: socket.socket, disk: Disk, image: int) -> None:
    """
    Give the guest a disk, before its program runs.

    Args:
        link: The connection.
        disk: Which.
        image: A descriptor of its image, open as the disk is to be; stays the caller's.

    Raises:
        EngineError: If the daemon refuses, with its reason.
    """
    head = _HEAD.pack(_MAGIC, _VERSION, _DISK_ADD, 2, 0)
    body = _DISK_BODY.pack(disk.name.encode(), disk.read_only, 0)
    rights = array.array("i", [image]).tobytes()
    try:
        link.sendmsg([head, body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        link.settimeout(_ANSWER_WAIT_S)
        _check_answer(link.recv(_PACKET_BYTES))
        link.settimeout(None)
    except OSError as error:
        raise EngineError(f"disk {disk.name}: the daemon does not take it: {error}") from None


def _check_answer(packet: bytes) -> None:
    if len(packet) < _HEAD.size:
        raise EngineError("the daemon hung up on the guest socket")
    magic, version, kind, _, status = _HEAD.unpack_from(packet)
    if (magic, version) != (_MAGIC, _VERSION) or kind not in (_WELCOME, _REPLY):
        raise EngineError("the daemon speaks another version of the guest protocol")
    if status:
        reason = packet[_HEAD.size :].split(b"\0")[0].decode(errors="backslashreplace")
        raise EngineError(reason or os.strerror(-status))
