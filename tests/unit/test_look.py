# SPDX-License-Identifier: MIT
"""The inspection filesystem's texts, its log of events, and the look channel's manners."""

from __future__ import annotations

import errno
import json
import mmap
import os
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvmm.core import MAP_STATES
from uvmm.core_look import PAGES_AT_ONCE, PEEK_PAGES_MAX
from uvmm.errors import EngineError, NotReadyError, UnknownGuestError
from uvmm.look import event_log, texts
from uvmm.look.event_log import EventLog
from uvmm.look.link import Link
from uvmm.look.serve import answer_all
from uvmm.look.wire import HEAD, PEEK_PAGES, REQUEST_BYTES, RUN, STATES, WINDOW_BYTES, WORDS

if TYPE_CHECKING:
    from pathlib import Path

    from uvmm.core_look import Looking


def test_the_wire_is_what_the_core_says() -> None:
    assert STATES == MAP_STATES
    assert PEEK_PAGES == PEEK_PAGES_MAX
    assert WORDS == PAGES_AT_ONCE


def test_lines() -> None:
    told = {"a_bytes": 1, "on": True, "in": {"x": 2.5, "deeper": {"y": "z"}}}
    assert texts.lines(told) == "a_bytes 1\non true\nin.x 2.5\nin.deeper.y z\n"


def test_page_maps() -> None:
    runs = b"".join(RUN.pack(*run) for run in ((0, 1, 0), (1, 3, 5), (4, 1, 5), (5, 2, 8)))
    assert texts.pagemap_text(runs).splitlines() == [
        "0 0 1 resident", "1 3 3 swapped", "4 4 1 swapped", "5 6 2 untouched",
    ]
    assert texts.pages_text(runs, "swapped") == "1-3\n4\n"
    assert texts.pages_text(runs, "far") == ""


def test_history_is_a_table() -> None:
    told = {
        "at_seconds": [1.0, 2.0, 3.0],
        "guests": [
            {"name": "a", "number": 1, "first": 0, "faults": [9]},
            {"name": "b", "number": 2, "first": 0, "faults": [7, 7, 7]},
            {"name": "a", "number": 3, "first": 1, "faults": [4, 5]},
        ],
    }
    assert texts.history_text(told, "a") == "at_seconds\tfaults\n2.0\t4\n3.0\t5\n"
    assert texts.history_text(told, "c") == "at_seconds\n"


def event(text: str, guest: str = "") -> dict[str, str]:
    return {"time": "t", "level": "info", "kind": "log", "guest": guest, "text": text}


@given(st.lists(st.integers(0, 2), max_size=60), st.integers(1, 8), st.data())
def test_events_are_told_once(words: list[int], window: int, data: st.DataObject) -> None:
    """Each look sees the newest few; what comes between two looks is not more than that."""
    events = [event(f"{at} {word}") for at, word in enumerate(words)]
    seen = 0
    log = EventLog(lambda: events[max(0, seen - window) : seen], window)
    while seen < len(events):
        seen = min(len(events), seen + data.draw(st.integers(0, window)))
        log.content()
    assert log.content().decode() == "".join(texts.event_line(one) for one in events)


def test_a_long_log_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "LARGEST_BYTES", 1000)
    count = 0

    def newest() -> list[dict[str, str]]:
        return [event(str(at)) for at in range(max(0, count - 10), count)]

    log = EventLog(cast("Any", newest), 10)
    for _ in range(200):
        count += 1
        content = log.content()
        assert len(content) <= 1000
        assert content.endswith(f"{count - 1}\n".encode())
        assert content.startswith(b"t info log: ")


class Fake:
    """A `Looking` of one guest whose pages have one byte that counts."""

    def __init__(self) -> None:
        self.space_fd = os.memfd_create("test")
        os.ftruncate(self.space_fd, WINDOW_BYTES)
        self.space = mmap.mmap(self.space_fd, WINDOW_BYTES)

    def guests(self) -> list[dict[str, Any]]:
        return [{"id": 1, "name": "a"}]

    def memory(self, guest: int, ppn: int, pages: int) -> bytes:
        if guest != 1:
            raise UnknownGuestError("the guest has ended")
        if ppn == 7:
            raise EngineError("damaged")
        if ppn == 8:
            raise NotReadyError("not attached")
        self.space[:pages] = bytes([ppn % 256]) * pages
        return b""

    def window(self) -> int:
        return self.space_fd

    def runs(self, guest: int, ppn: int) -> tuple[int, bytes]:
        return min(4, ppn + 2), RUN.pack(ppn, 2, guest) if ppn < 4 else b""

    def frames(self, group: str, first: int) -> bytes:
        return f"{group} {first}".encode()

    def refs(self, group: str, first: int, end: int) -> bytes:
        if end - first > 1:
            raise EngineError("too many")
        return group.encode()


def served(peer: socket.socket) -> None:
    with peer, peer.makefile("rb") as requests:
        answer_all(cast("Looking", Fake()), peer, requests)


def talk(sent: bytes) -> list[tuple[int, bytes]]:
    """What is answered to a connection's bytes, until it hangs up."""
    here, there = socket.socketpair()
    thread = threading.Thread(target=served, args=(there,))
    thread.start()
    here.sendall(sent)
    here.shutdown(socket.SHUT_WR)
    with here, here.makefile("rb") as answers:
        told = []
        while head := answers.read(HEAD.size):
            code, length = HEAD.unpack(head)
            told.append((code, answers.read(length)))
    thread.join()
    return told


def test_requests_are_answered_in_order() -> None:
    asked = [
        {"op": "memory", "guest": 1, "ppn": 3, "pages": 4},
        {"op": "memory", "guest": 2, "ppn": 3, "pages": 4},
        {"op": "memory", "guest": 1, "ppn": 7, "pages": 4},
        {"op": "memory", "guest": 1, "ppn": 8, "pages": 4},
        {"op": "guests"},
    ]
    told = talk(b"".join(json.dumps(one).encode() + b"\n" for one in asked))
    assert told[0] == (0, b"")
    assert [code for code, _ in told[1:]] == [errno.ENOENT, errno.EIO, errno.ENOTCONN, 0]
    assert json.loads(told[4][1])[0]["name"] == "a"


BAD = [
    b"\n", b"x\n", b"[]\n", b'{"op": 1}\n', b'{"op": "memory"}\n', b"\xff\n",
    b"[" * 3000 + b"\n",
    b'{"op": "memory", "guest": -1, "ppn": 0, "pages": 1}\n',
    b'{"op": "memory", "guest": 1.5, "ppn": 0, "pages": 1}\n',
    b'{"op": "memory", "guest": true, "ppn": 0, "pages": 1}\n',
    b'{"op": "memory", "guest": 1, "ppn": %d, "pages": 1}\n' % (1 << 70),
    b'{"op": "frames", "group": 1, "first": 0}\n',
]


@pytest.mark.parametrize("line", BAD)
def test_a_bad_request_is_refused_and_the_next_one_served(line: bytes) -> None:
    told = talk(line + b'{"op": "guests"}\n')
    assert [code for code, _ in told] == [errno.EINVAL, 0]


def test_a_line_without_end_is_the_last() -> None:
    told = talk(b"x" * REQUEST_BYTES)
    assert [code for code, _ in told] == [errno.EINVAL]


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(sent: bytes) -> None:
    assert all(code >= 0 for code, _ in talk(sent))


def test_a_link_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "look.sock"
    link = Link(path)
    with pytest.raises(OSError, match="no daemon") as away:
        link.ask("guests")
    assert away.value.errno == errno.EIO
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for _ in range(2):
            served(listener.accept()[0])

    threading.Thread(target=serve, daemon=True).start()
    assert link.ask_json("guests")[0]["id"] == 1
    assert bytes(link.peek(1, 2, 2)[:3]) == b"\2\2\0"
    with pytest.raises(OSError, match="ended") as gone:
        link.peek(5, 2, 2)
    assert gone.value.errno == errno.ENOENT
    assert [RUN.unpack_from(link.ask_runs(1), at)[0] for at in (0, RUN.size)] == [0, 2]
    link.close()
    assert link.ask_json("guests")[0]["id"] == 1  # by a new connection
    link.close()
    listener.close()

