# SPDX-License-Identifier: MIT
"""Connections to the control socket: HTTP, and who is at the other end."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from uvicorn.protocols.http.h11_impl import H11Protocol

from uvmm.host import Peer

if TYPE_CHECKING:
    import asyncio

PEER = "peer"  # in the state of each request: the `Peer` that asks
_CREDENTIALS = struct.Struct("=iII")  # struct ucred


class Connection(H11Protocol):
    """One peer; what it asks carries who it is, by the word of the kernel."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, PEER: _peer(transport)}


def _peer(transport: asyncio.Transport) -> Peer:
    link: socket.socket = transport.get_extra_info("socket")
    raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid=pid, uid=uid)
