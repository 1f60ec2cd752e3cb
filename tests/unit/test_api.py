# SPDX-License-Identifier: MIT
"""The control API's edge: what it refuses before anything is done."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.samples import a_guest, a_machine
from uvmm.api import BODY_BYTES, make_app
from uvmm.control import PEER
from uvmm.core import Event, EventKind
from uvmm.daemon import Daemon
from uvmm.history import History
from uvmm.host import Peer, child, process
from uvmm.model import Machine, Moved, Sight, Snapshot, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fastapi import FastAPI
    from starlette.types import ASGIApp, Receive, Scope, Send

    from uvmm.core import Engine
    from uvmm.engine_config import GuestConfig


class NoEngine:
    """Remembers guests and has no memory: enough for the edge."""

    def __init__(self) -> None:
        self.created: dict[int, GuestConfig] = {}
        self.balloon_pages = 0

    def snapshot(self, standings: Mapping[int, Standing]) -> Snapshot:
        guests = tuple(
            a_guest(
                id=id_, name=self.created[id_].name, min_pages=told.min_pages,
                size_pages=self.created[id_].max_pages,
                max_pages=told.max_pages, shares=told.shares, tax=told.tax,
                balloon_max_pages=told.balloon_max_pages, promised=told.promised,
                balloon_target_pages=self.balloon_pages,
            )
            for id_, told in standings.items()
        )
        return Snapshot(machine=a_machine(), guests=guests)

    def look(self) -> tuple[Machine, list[Sight]]:
        return a_machine(), []

    def set_min(self, guest_id: int, pages: int) -> None:
        assert guest_id in self.created
        assert pages >= 0

    def create_guest(self, config: GuestConfig) -> int:
        self.created[len(self.created) + 1] = config
        return len(self.created)

    def reclaim(
        self, guest_id: int, pages: int, tier: str, *, floor_pages: int
    ) -> Moved:
        assert floor_pages == 0
        assert guest_id in self.created
        assert tier == "swap"
        return Moved(pages=pages, zero_pages=0, left_pages=0, elapsed_ns=5)

    def set_balloon(self, guest_id: int, pages: int) -> None:
        assert guest_id in self.created
        self.balloon_pages = pages


class From:
    """What a peer asks of an application: what the connection adds to it."""

    def __init__(self, app: ASGIApp, peer: Peer) -> None:
        self._app = app
        self._peer = peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "state": {PEER: self._peer}}, receive, send)


CHILDREN: list[subprocess.Popen[bytes]] = []


def a_child(**given: Any) -> int:
    """Return the number of a process that can be a guest of ours."""
    CHILDREN.append(subprocess.Popen(["sleep", "100"], **given))
    return CHILDREN[-1].pid


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    while CHILDREN:
        CHILDREN[-1].kill()
        CHILDREN.pop().wait()


def a_history() -> History:
    return History(started_s=0.0, bytes_max=1 << 20)


def new_app() -> FastAPI:
    daemon = Daemon(cast("Engine", NoEngine()), on_change=lambda _: None)
    return make_app(
        daemon, guest_socket=Path("/g.sock"), events=deque(), history=a_history(), config={},
        shut_down=lambda: None,
    )


def ask(
    method: str, path: str, app: FastAPI | None = None, *, uid: int = 0, **sent: Any
) -> httpx.Response:
    async def call() -> httpx.Response:
        asked = From(app or new_app(), Peer(pid=os.getpid(), uid=uid))
        transport = httpx.ASGITransport(app=asked, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://uvmm") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(call())


def register(app: FastAPI, *, asking: int = 0, **fields: Any) -> httpx.Response:
    body = {"name": "a", **({} if "pid" in fields else {"pid": a_child()}), **fields}
    return ask("POST", "/v1/guests", app, uid=asking, json=body)


def test_a_guest_is_registered_and_found() -> None:
    app = new_app()
    answer = register(app)
    assert answer.status_code == 201
    told = answer.json()
    assert (told["name"], told["socket"]) == ("a", "/g.sock")
    assert len(bytes.fromhex(told["token"])) == 16
    assert ask("GET", "/v1/guests/a", app).json()["name"] == "a"
    assert len(ask("GET", "/v1/stats", app).json()["guests"]) == 1
    done = ask("POST", "/v1/guests/a/reclaim", app, json={"size": "50%"}).json()
    assert done == {"pages": 500, "zero_pages": 0, "left_pages": 0, "elapsed_seconds": 5e-9}


def test_a_taken_name_gets_a_number_if_that_is_wanted() -> None:
    app = new_app()
    names = [register(app, numbered=True, name="n" * 63).json()["name"] for _ in range(3)]
    assert names == ["n" * 63, "n" * 61 + "-2", "n" * 61 + "-3"]


class TestWhose:
    @pytest.mark.parametrize("pid", [1, 2, os.getpid(), os.getppid(), (1 << 22) - 1])
    def test_what_is_no_child_is_refused(self, pid: int) -> None:
        answer = register(new_app(), pid=pid)
        assert answer.status_code == 422
        assert "process" in answer.json()["error"]

    def test_nobody_is_the_parent_of_what_has_none(self) -> None:
        assert child(1, parent=0) is None
        assert child(os.getpid(), parent=os.getppid()) == process(os.getpid())

    def test_a_child_of_another_user_is_roots_alone(self) -> None:
        app, pid = new_app(), a_child()
        answer = register(app, asking=65534, pid=pid)
        assert answer.status_code == 422
        assert "belongs to user 0" in answer.json()["error"]
        assert register(app, pid=pid).status_code == 201
        assert register(app, asking=65534, name="b", pid=a_child(user=65534)).is_success

    def test_a_process_is_a_guest_once(self) -> None:
        app, pid = new_app(), a_child()
        assert register(app, pid=pid).status_code == 201
        answer = register(app, name="b", pid=pid)
        assert answer.status_code == 409
        assert "is a guest already: a" in answer.json()["error"]

    def test_names_of_processes_are_any_bytes(self, tmp_path: Path) -> None:
        odd = os.fsencode(tmp_path) + b"/a) S 1 (\xff\n"
        Path(os.fsdecode(odd)).symlink_to("/bin/sleep")
        CHILDREN.append(subprocess.Popen([odd, b"100"]))
        assert register(new_app(), pid=CHILDREN[-1].pid).status_code == 201


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""}, {"name": "a/b"}, {"name": "."}, {"name": ".."}, {"name": "-x"},
        {"name": "a\0b"}, {"name": "a\nb"}, {"name": "x" * 64}, {"name": "é"}, {"name": 7},
        {"name": None}, {"pid": 0}, {"pid": -1}, {"pid": 1 << 22}, {"pid": 1 << 70},
        {"pid": "1"}, {"pid": True}, {"pid": 1.5}, {"shares": 0}, {"shares": 1 << 40},
        {"uid": -1}, {"uid": 0xFFFFFFFF}, {"max": "x"}, {"max": "0"}, {"max": -5},
        {"max": 1 << 80}, {"max": "900%"}, {"min": "2G", "max": "1G"}, {"max": [1]},
        {"unknown": 1}, {"max": "9" * 64}, {"shares": "x"}, {"shares": "High"},
        {"shares": 1.5}, {"tax": 1}, {"tax": "100%"}, {"tax": -1}, {"tax": "x"},
        {"balloon_max": "101%"}, {"balloon_max": []},
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any]) -> None:
    answer = register(new_app(), **fields)
    assert answer.status_code == 422
    assert set(answer.json()) == {"error"}
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422), (b"{", 422), (b"[]", 422), (b"null", 422), (b"\xff\xfe", 422),
        (b'{"name": "\\ud800", "pid": 1}', 422), (b"[" * 50_000, 400),
        (b" " * (BODY_BYTES + 1), 413), (b'{"pid": ' + b"9" * 5000 + b"}", 400),
    ],
)
def test_bad_bodies_are_refused(body: bytes, status: int) -> None:
    answer = ask(
        "POST", "/v1/guests", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == status
    assert "error" in answer.json()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/guests/none", 404), ("POST", "/v1/guests/none/restore", 404),
        ("GET", "/v1/guests/%00", 404), ("GET", "/v1/guests/%ff%fe", 404),
        ("GET", "/nothing", 404), ("DELETE", "/v1/stats", 405),
        ("GET", "/v1/events?limit=0", 422), ("GET", "/v1/events?limit=x", 422),
    ],
)
def test_what_is_not_there(method: str, path: str, status: int) -> None:
    answer = ask(method, path)
    assert answer.status_code == status
    assert "error" in answer.json()


class TestChange:
    def patched(self, app: FastAPI, body: Any, name: str = "a") -> httpx.Response:
        return ask("PATCH", f"/v1/guests/{name}", app, json=body)

    def standing(self, app: FastAPI) -> dict[str, Any]:
        told: dict[str, Any] = ask("GET", "/v1/guests/a", app).json()
        keys = ("min_bytes", "max_bytes", "shares", "tax_percent", "balloon_max_bytes")
        return {key: told[key] for key in keys}

    def test_all_at_once(self) -> None:
        app = new_app()
        register(app, max="512M")
        answer = self.patched(
            app,
            {"min": "64M", "max": "256M", "shares": "high", "tax": "50%", "balloon_max": "40%"},
        )
        assert answer.status_code == 200
        assert self.standing(app) == {
            "min_bytes": 64 << 20, "max_bytes": 256 << 20, "shares": 20 * 256,
            "tax_percent": 50.0, "balloon_max_bytes": ((256 << 8) * 40 // 100) << 12,
        }
        assert answer.json()["size_bytes"] == 512 << 20

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"min": "300M", "max": "256M"}, "not between 0 and max 256M"),
            ({"max": "600M"}, "cannot grow"), ({"max": "0"}, "at least a page"),
            ({"shares": 0}, "shares must be"), ({"shares": "lots"}, "one of low, normal, high"),
            ({"tax": "100%"}, "0% to 99%"), ({"tax": 100}, "0% to 99%"),
            ({"tax": float("inf")}, "no tax"), ({"balloon_max": "101%"}, "largest balloon"),
            ({"shares": 7, "tax": "x"}, "no tax"), ({"shares": 7, "min": "2G"}, "not between"),
            ({}, "nothing to set"), ({"nice": 1}, "nice"), ([], "dict"), ({"min": [1]}, "min"),
        ],
    )
    def test_bad_values_change_nothing(self, body: Any, said: str) -> None:
        app = new_app()
        register(app, max="512M")
        before = self.standing(app)
        content = json.dumps(body)
        answer = ask(
            "PATCH", "/v1/guests/a", app, content=content,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422
        assert said in answer.json()["error"]
        assert self.standing(app) == before

    def test_sums_must_fit(self) -> None:
        app = new_app()
        register(app, max="900M")
        register(app, name="b", min="500M", max="900M")
        before = self.standing(app)
        answer = self.patched(app, {"min": "600M"})
        assert answer.status_code == 507
        assert "min 600M + overhead" in answer.json()["error"]
        assert self.standing(app) == before
        assert self.patched(app, {"min": "400M"}).status_code == 200

    def test_nobody_can_be_changed(self) -> None:
        assert self.patched(new_app(), {"shares": 1}, "none").status_code == 404


def test_explanations_of_nobody() -> None:
    assert ask("GET", "/v1/explain").json()["decisions"] == []
    for query in ("name=none", "name=%00", "name=" + "x" * 200):
        assert ask("GET", f"/v1/explain?{query}").status_code == 404
    for query in ("limit=0", "limit=x", "name=" + "x" * 300):
        assert ask("GET", f"/v1/explain?{query}").status_code == 422


@pytest.mark.parametrize("size", ["", "x", "-1", "1e3", "5%%", -1, None, [], 1.5])
def test_bad_sizes_to_reclaim(size: Any) -> None:
    app = new_app()
    register(app)
    assert ask("POST", "/v1/guests/a/reclaim", app, json={"size": size}).status_code == 422


def test_balloons() -> None:
    app = new_app()
    register(app)
    told = ask("GET", "/v1/guests/a", app).json()
    half, most = told["max_bytes"] // 2, told["balloon_max_bytes"]
    for size, size_bytes in (("50%", half), (4096, 4096), (most, most), ("0", 0)):
        done = ask("POST", "/v1/guests/a/balloon", app, json={"size": size})
        assert done.status_code == 202
        assert done.json()["balloon_target_bytes"] == size_bytes
    for bad in ("66%", "2G", "x", -1, None, True):
        done = ask("POST", "/v1/guests/a/balloon", app, json={"size": bad})
        assert done.status_code == 422
    assert ask("POST", "/v1/guests/b/balloon", app, json={"size": 0}).status_code == 404


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(
            st.sampled_from(["name", "pid", "min", "max", "shares", "uid", "tax", "x"]), inner
        ),
        max_leaves=8,
    )
)
def test_no_json_makes_the_daemon_fail(body: Any) -> None:
    try:
        content = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    answer = ask(
        "POST", "/v1/guests", content=content, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (201, 400, 422)


def test_openapi_describes_it() -> None:
    described = ask("GET", "/openapi.json").json()
    assert "/v1/guests/{name}/reclaim" in described["paths"]


def test_a_guest_that_ends_during_its_admission_is_not_kept() -> None:
    class Ending(NoEngine):
        def create_guest(self, config: GuestConfig) -> int:
            created = super().create_guest(config)
            daemon.take(
                Event(at_ns=0, guest_id=created, kind=EventKind.ENDED, pid=0, text="")
            )
            return created

    daemon = Daemon(cast("Engine", Ending()), on_change=lambda _: None)
    app = make_app(
        daemon, guest_socket=Path("/g"), events=deque(), history=a_history(), config={},
        shut_down=lambda: None,
    )
    assert register(app).status_code == 201
    assert daemon.empty()
    assert register(app).status_code == 503
