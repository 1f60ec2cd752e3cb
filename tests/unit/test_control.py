# SPDX-License-Identifier: MIT
"""Connections of a server on a unix socket, and what the client makes of its answers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import uvicorn

from uvmm import control
from uvmm.client import Client, RefusedError
from uvmm.control import PEER, Connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

SILENCE_S = 0.3
WAIT_S = 10.0
LONG_BYTES = 8 << 20
HEAD = b"HTTP/1.1\r\nHost: u\r\n"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer who asks; slowly, or at great length, if that is asked for."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(4 * SILENCE_S)
    peer = scope["state"][PEER]
    body = json.dumps([peer.pid, peer.uid]).encode()
    if scope["path"] == "/long":
        body += b" " * LONG_BYTES
    headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(control, "SILENCE_S", SILENCE_S)
    monkeypatch.setattr(control, "CONNECTIONS", 8)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "sock"))
    listening.listen(64)
    serving = uvicorn.Server(
        uvicorn.Config(
            app, log_config=None, lifespan="off", http=Connection, ws="none",
            limit_concurrency=8, timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield tmp_path / "sock"
    finally:
        serving.should_exit = True
        thread.join()


@contextmanager
def connected(path: Path, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(WAIT_S)
        link.connect(str(path))
        link.sendall(sent)
        yield link


def until_closed(link: socket.socket) -> tuple[float, bytes]:
    """Return the seconds until the server has hung up, and what came before that."""
    start = time.monotonic()
    got = bytearray()
    with suppress(ConnectionResetError):
        while piece := link.recv(1 << 20):
            got += piece
    return time.monotonic() - start, bytes(got)


def test_it_knows_its_peer(server: Path) -> None:
    assert Client(server).get("/") == [os.getpid(), os.getuid()]


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"POST / " + HEAD + b"Content-Length: 5\r\n\r\n123", b"?\r\n\r\n"],
    ids=range(4),
)
def test_a_silent_peer_is_hung_up_on(server: Path, sent: bytes) -> None:
    with connected(server, sent) as link:
        assert until_closed(link)[0] < SILENCE_S + 1


def test_nor_do_drops_keep_it(server: Path) -> None:
    start = time.monotonic()
    with connected(server, b"GET / " + HEAD) as link, suppress(BrokenPipeError):
        while time.monotonic() < start + WAIT_S:
            link.sendall(b"a: b\r\n")
            time.sleep(SILENCE_S / 10)
    assert time.monotonic() - start < SILENCE_S + 1


def test_a_peer_that_waits_for_us_may_be_silent(server: Path) -> None:
    asked = b"GET /slow " + HEAD + b"\r\n"
    with connected(server, 2 * asked) as link:
        seconds, got = until_closed(link)
        assert got.count(b"200 OK") == 2
        assert 8 * SILENCE_S < seconds < 9 * SILENCE_S + 1


def test_a_peer_that_takes_no_answer_is_hung_up_on(server: Path) -> None:
    asked = b"GET /long " + HEAD + b"\r\n"
    with connected(server, asked) as link, connected(server, asked) as reader:
        assert len(until_closed(reader)[1]) > LONG_BYTES
        time.sleep(3 * SILENCE_S)
        assert len(until_closed(link)[1]) < LONG_BYTES


def test_silent_peers_make_room(server: Path) -> None:
    with ExitStack() as undo:
        silent = [undo.enter_context(connected(server)) for _ in range(20)]
        assert Client(server).get("/") == [os.getpid(), os.getuid()]
        assert until_closed(silent[0])[0] < SILENCE_S


def test_a_server_without_room_is_busy(server: Path) -> None:
    with ExitStack() as undo:
        for _ in range(8):
            undo.enter_context(connected(server, b"GET /slow " + HEAD + b"\r\n"))
        time.sleep(SILENCE_S)
        with pytest.raises(RefusedError, match="the daemon is busy; try again") as refused:
            Client(server).get("/")
        assert (refused.value.status, refused.value.exit_code) == (503, 1)
