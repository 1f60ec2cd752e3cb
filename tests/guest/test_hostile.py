# SPDX-License-Identifier: MIT
"""Any bytes on the daemon's sockets: an error to that peer alone."""

from __future__ import annotations

import os
import random
import signal
import socket
import struct
import subprocess
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from uvmm.client import RefusedError
from uvmm.errors import UvmmError

if TYPE_CHECKING:
    from tests.guest.conftest import Place

MAGIC = 0x4D4D5675
SEED = 20240607
NOBODY = 65534


def assert_serves(place: Place, pid: int) -> None:
    assert place.client.get("/v1/health")["pid"] == pid
    assert place.uvmm("run", "--", "true").returncode == 0


def exchange(path: str, kind: socket.SocketKind, packets: list[bytes]) -> bytes:
    """Send packets; return what came back first."""
    with socket.socket(socket.AF_UNIX, kind) as peer:
        peer.settimeout(2)
        peer.connect(path)
        with suppress(OSError):
            for packet in packets:
                peer.send(packet)
            return peer.recv(65536)
    return b""


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 100, b"GET\r\n\r\n", b"\xff" * 70_000, b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/guests HTTP/1.1\r\nHost: u\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/guests HTTP/1.1\r\nHost: u\r\nContent-Length: 99999999999\r\n\r\n{}",
        b"POST /v1/guests HTTP/1.1\r\nHost: u\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: u\r\n\r\n",
        b"GET /v1/stats HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    ],
    ids=range(9),
)
def test_garbage_on_the_control_socket(served: Place, sent: bytes) -> None:
    pid = served.daemon_pid
    exchange(str(served.run_dir.control_socket), socket.SOCK_STREAM, [sent])
    assert_serves(served, pid)


def test_peers_that_hang_do_not_block_others(served: Place) -> None:
    pid = served.daemon_pid
    hanging = []
    for _ in range(50):
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(served.run_dir.control_socket))
        peer.send(b"GET /v1/sta")
        hanging.append(peer)
    start = time.monotonic()
    assert_serves(served, pid)
    assert time.monotonic() - start < 5
    for peer in hanging:
        peer.close()


def test_peers_that_only_connect_lock_nobody_out(served: Place) -> None:
    path = str(served.run_dir.control_socket)
    with ExitStack() as undo:
        for _ in range(300):
            undo.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
        start = time.monotonic()
        assert served.uvmm("stats").returncode == 0
        assert served.uvmm("down").returncode == 0
        assert time.monotonic() - start < 5


def as_group_member(place: Place, body: dict[str, object]) -> str:
    """Register from a process of another user, which `uvmm up --group` lets in."""
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                answer = place.client.post("/v1/guests", body)["name"]
            except UvmmError as error:
                answer = str(error)
            os.write(tell, answer.encode())
        os._exit(0)
    os.close(tell)
    os.waitpid(pid, 0)
    with os.fdopen(told) as words:
        return words.read()


def test_nobody_can_have_others_processes_ended(place: Place) -> None:
    assert place.up("--group", str(NOBODY)).returncode == 0
    pid = place.daemon_pid
    with subprocess.Popen(["sleep", "100"]) as bystander:
        for victim in (1, pid, os.getpid(), bystander.pid):
            assert "is no child of" in as_group_member(place, {"name": "a", "pid": victim})
        for victim in (1, pid, os.getpid()):
            with pytest.raises(RefusedError, match="is no child of"):
                place.client.post("/v1/guests", {"name": "a", "pid": victim})
        assert place.client.get("/v1/guests") == []
        assert place.uvmm("down").returncode == 0
        assert bystander.poll() is None
        bystander.kill()


def test_a_child_is_a_guest_once_and_ends_with_the_daemon(served: Place) -> None:
    with subprocess.Popen(["sleep", "100"]) as child:
        served.client.post("/v1/guests", {"name": "a", "pid": child.pid})
        with pytest.raises(RefusedError, match="is a guest already: a"):
            served.client.post("/v1/guests", {"name": "b", "pid": child.pid})
        assert served.uvmm("down").returncode == 0
        assert child.wait(timeout=10) == -signal.SIGKILL


def test_garbage_on_the_guest_socket(served: Place) -> None:
    pid = served.daemon_pid
    noise = random.Random(SEED)
    path = str(served.run_dir.guest_socket)
    for round_number in range(300):
        packets = []
        for _ in range(noise.randint(1, 3)):
            body = noise.randbytes(noise.choice([0, 1, 8, 15, 16, 40, 88, 104, 4096]))
            head = struct.pack("=IHHIi", MAGIC, 1, noise.randint(0, 14), round_number, 0)
            packets.append(head + body if noise.random() < 0.7 else body)
        exchange(path, socket.SOCK_SEQPACKET, packets)
    assert_serves(served, pid)


def test_a_wrong_token_is_refused(served: Place) -> None:
    head = struct.pack("=IHHIi", MAGIC, 1, 1, 1, 0)
    for role in range(6):
        hello = struct.pack("=II16s64s", role, 0, b"\1" * 16, b"nobody")
        answer = exchange(
            str(served.run_dir.guest_socket), socket.SOCK_SEQPACKET, [head + hello]
        )
        assert len(answer) >= 16
        assert struct.unpack_from("=IHHIi", answer)[4] < 0
