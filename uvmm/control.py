# SPDX-License-Identifier: MIT
"""
Connections to the control socket, and to the page's port: HTTP, and who is at the other
end (by TCP nobody: process 0).

A peer may be silent only for so long: before its request is whole, and while it
does not take its answer. When all connections are in use, a new one takes the
place of the one that has been silent for the longest time, so that nobody can
lock others out by connecting alone.
"""

from __future__ import annotations

import socket
import struct
from contextlib import nullcontext
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from uvmm.host import Peer

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractContextManager

    from starlette.types import ASGIApp

CONNECTIONS = 256
PEER = "peer"  # in the state of each request: the `Peer` that asks
SILENCE_S = 5.0
DRAIN_S = 2
_CREDENTIALS = struct.Struct("=iII")  # struct ucred


class Connection(H11Protocol):
    """One peer; what it asks carries who it is, by the word of the kernel."""

    _silence: asyncio.TimerHandle | None = None  # None while the peer waits for us

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self.app_state = {**self.app_state, PEER: _peer(transport)}
        self._listen()
        if len(self.connections) >= CONNECTIONS:
            self._take_a_place()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._listen_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._whose_turn()

    def pause_writing(self) -> None:
        """Wait for the peer to take what it was answered."""
        super().pause_writing()
        self._whose_turn()

    def resume_writing(self) -> None:
        """Go on answering."""
        super().resume_writing()
        self._whose_turn()

    def on_response_complete(self) -> None:
        """Wait for the answer to be taken; a next request may be there already."""
        self._listen()
        super().on_response_complete()
        self._whose_turn()

    @property
    def patience(self) -> float:
        """When it will be closed if its peer goes on being silent; 0 if that waits for us."""
        return 0.0 if self._silence is None else self._silence.when()

    def _whose_turn(self) -> None:
        cycle = self.cycle
        asked = cycle is not None and not cycle.more_body and not cycle.response_complete
        if asked and not self.flow.write_paused:
            self._listen_no_more()
        elif self._silence is None:
            self._listen()

    def _listen(self) -> None:
        self._listen_no_more()
        self._silence = self.loop.call_later(SILENCE_S, self.transport.abort)

    def _listen_no_more(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _take_a_place(self) -> None:
        others = [one for one in self.connections if isinstance(one, Connection)]
        silent = {one.patience: one for one in others if one is not self and one.patience}
        if silent:
            oldest = silent[min(silent)]
            # It counts until its loss is told, which may be after our request is read.
            self.connections.discard(oldest)
            oldest.transport.abort()


class Server(uvicorn.Server):
    """Serves connections; leaves signals to the daemon."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_config=None, access_log=False, lifespan="off", http=Connection,
                ws="none", limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=DRAIN_S,
            )
        )

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Do nothing."""
        return nullcontext()


def _peer(transport: asyncio.Transport) -> Peer:
    link: socket.socket = transport.get_extra_info("socket")
    raw = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Peer(pid=pid, uid=uid)
