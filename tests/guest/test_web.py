# SPDX-License-Identifier: MIT
"""The API on loopback TCP, of real daemons."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from pathlib import Path
from typing import Any

from tests.guest.conftest import Place, wait_for
from tests.guest.test_cli import assert_refused


def ask(
    port: int, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        link.request(method, path, headers=headers or {})
        answer = link.getresponse()
        return answer.status, answer.read()
    finally:
        link.close()


def listening() -> set[tuple[str, int]]:
    """All TCP sockets of the machine that listen."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A":
                host, port = address.split(":")
                found.add((host, int(port, 16)))
    return found


def test_it_is_off_by_default(served: Place) -> None:
    assert served.client.get("/v1/health")["http_port"] is None
    assert not served.run_dir.http_token.exists()
    assert_refused(served.uvmm("web"), "no web page; start it with 'uvmm up --http PORT'")


def test_the_token_opens_it_on_loopback_alone(place: Place) -> None:
    assert place.up("--http", "0").returncode == 0
    told: Any = json.loads(place.uvmm("web", "--json").stdout)
    port, token = told["port"], told["token"]
    assert place.uvmm("web").stdout == f"http://127.0.0.1:{port}/#token={token}\n"
    mode = place.run_dir.http_token.stat()
    assert (stat.S_IMODE(mode.st_mode), mode.st_uid) == (0o600, 0)
    assert {host for host, listened in listening() if listened == port} == {"0100007F"}
    assert ask(port, "GET", "/")[0] == 200
    assert ask(port, "GET", "/v1/stats")[0] == 401
    bearer = {"Authorization": f"Bearer {token}"}
    assert ask(port, "GET", "/v1/stats", bearer)[0] == 200
    assert ask(port, "GET", "/v1/stats", {**bearer, "Host": "evil.example"})[0] == 403
    assert b"uvmm_memory_limit_bytes" in ask(port, "GET", "/metrics", bearer)[1]
    wait_for(lambda: json.loads(ask(port, "GET", "/v1/history", bearer)[1])["last"], "history")
    # A guest that comes by TCP would be nobody's child.
    assert ask(port, "POST", "/v1/guests", bearer)[0] == 403
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + b"\0" * 1000)
        assert raw.recv(100).split()[1] in (b"400", b"403")
    assert ask(port, "GET", "/")[0] == 200
    assert place.uvmm("down").returncode == 0
    assert list(place.path.iterdir()) == []


def test_a_port_that_is_taken(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(place.up("--http", str(port)), f"port {port}: Address already in use")
    assert list(place.path.iterdir()) == []


def test_a_port_that_is_none(place: Place) -> None:
    assert_refused(place.up("--http", "http"), "a port number is expected", 2)
