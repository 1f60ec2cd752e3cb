# SPDX-License-Identifier: MIT
"""What the client says of daemons that do not answer as they should."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from uvmm.client import Client, guest_path
from uvmm.errors import UnknownGuestError, UvmmError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG_BYTES = 8 << 20  # more than a socket holds, so that sending it fails


@contextmanager
def answering(path: Path, answer: bytes, *, reads: bool = True) -> Iterator[Client]:
    """Answer one connection with those bytes, and hang up."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            link, _ = listening.accept()
            with link:
                if reads:
                    link.recv(65536)
                link.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Client(path)
        finally:
            thread.join()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"], ids=["none", "half"]
)
def test_a_connection_that_breaks_may_be_tried_again(tmp_path: Path, answer: bytes) -> None:
    with (
        answering(tmp_path / "sock", answer) as client,
        pytest.raises(UvmmError, match="busy, or has just ended; try again"),
    ):
        client.get("/")


def test_so_may_one_that_takes_no_request(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "sock", b"", reads=False) as client,
        pytest.raises(UvmmError, match="try again"),
    ):
        client.post("/", {"long": "x" * LONG_BYTES})


def test_what_is_not_http_is_told(tmp_path: Path) -> None:
    with (
        answering(tmp_path / "sock", b"hello\r\n\r\n") as client,
        pytest.raises(UvmmError, match="broke off: hello"),
    ):
        client.get("/")


@pytest.mark.parametrize("name", ["", "/", "a/b", "../a"])
def test_paths_are_no_names(name: str) -> None:
    with pytest.raises(UnknownGuestError, match=rf"there is no guest '{name}'; 'uvmm ps'"):
        guest_path(name, "reclaim")


def test_any_other_name_is_one_step_of_a_path() -> None:
    assert guest_path("a b?#\udcff", "restore") == "/v1/guests/a%20b%3F%23%FF/restore"
