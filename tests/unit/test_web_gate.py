# SPDX-License-Identifier: MIT
"""Who may come in by TCP."""

from __future__ import annotations

import asyncio
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.unit.test_api import From, new_app
from uvmm.host import Peer
from uvmm.web.gate import Gate
from uvmm.web.page import PAGE_PATHS

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

TOKEN = "0123456789abcdef"
PORT = 8000
HOST = f"127.0.0.1:{PORT}"
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@cache
def the_app() -> FastAPI:
    return new_app()


def ask(
    method: str, path: str, headers: dict[str, str] | list[tuple[str, str]] | None = None,
    *, host: str = HOST, port: int = PORT, **sent: Any,
) -> httpx.Response:
    async def call() -> httpx.Response:
        gate = Gate(
            From(the_app(), Peer(pid=0, uid=0xFFFFFFFF)), token=TOKEN, port=port,
            open_paths=PAGE_PATHS,
        )
        given = headers.items() if isinstance(headers, dict) else headers or []
        transport = httpx.ASGITransport(app=gate, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.request(
                method, path, headers=[("Host", host), *given], **sent
            )

    return asyncio.run(call())


def test_the_token_opens_all_but_the_registration_of_guests() -> None:
    assert ask("GET", "/v1/stats", AUTH).status_code == 200
    assert ask("GET", "/v1/history", AUTH).json()["last"] == 0
    assert ask("GET", "/metrics", AUTH).text.startswith("# HELP uvmm_")
    for path in ("/v1/guests", "/v1/guests/", "/v1//guests"):
        answer = ask("POST", path, AUTH, json={"name": "a", "pid": 1})
        assert answer.status_code in (403, 404), path
    assert ask("POST", "/v1/guests/a/restore", AUTH).status_code == 404


@pytest.mark.parametrize(
    "given",
    [
        {}, {"Authorization": TOKEN}, {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer "}, {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}0"}, {"Authorization": f"Bearer  {TOKEN}"},
        {"Cookie": f"token={TOKEN}"}, {"Authorization": "Bearer \u00ff"},
        [*AUTH.items(), *AUTH.items()],
    ],
)
def test_without_the_token_nothing_is_told(given: Any) -> None:
    if isinstance(given, dict):
        given = {key: value.encode("latin-1") for key, value in given.items()}
    for path in ("/v1/stats", "/metrics", "/openapi.json", "/nothing", f"/v1/stats?{TOKEN}"):
        answer = ask("GET", path, given)
        assert answer.status_code == 401, path
        assert set(answer.json()) == {"error"}
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask("POST", "/", given).status_code == 401


@pytest.mark.parametrize(
    "host", [HOST, f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"[::1]:{PORT}"]
)
def test_our_names(host: str) -> None:
    assert ask("GET", "/", host=host).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["", "127.0.0.1", "localhost", "evil.example", f"evil.example:{PORT}", "127.0.0.1:80",
     f"127.0.0.1.evil.example:{PORT}", f"{HOST}.", f"{HOST}@evil", f"0.0.0.0:{PORT}"],
)
def test_names_of_others_are_refused(host: str) -> None:
    """A page of theirs would be of the same origin as ours."""
    for path, headers in (("/", None), ("/v1/stats", AUTH)):
        assert ask("GET", path, headers, host=host).status_code == 403
    assert ask("GET", "/", [("Host", HOST)]).status_code == 403


def test_on_its_own_port_http_needs_no_number() -> None:
    assert ask("GET", "/", host="localhost", port=80).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": f"http://{HOST}"}, 200), ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 200), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": f"https://{HOST}"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403), ({"Origin": "http://127.0.0.1:9"}, 403),
    ],
)
def test_what_changes_something_comes_from_our_page(
    headers: dict[str, str], status: int
) -> None:
    answer = ask("POST", "/v1/shutdown", {**AUTH, **headers})
    assert answer.status_code == (202 if status == 200 else status)


def test_looking_changes_nothing() -> None:
    paths = [route.path for route in the_app().routes if hasattr(route, "path")]
    verbs = ("reclaim", "restore", "share", "shutdown", "set", "block")
    assert any(path.endswith("reclaim") for path in paths)
    for path in paths:
        if path.rsplit("/", 1)[-1] in verbs:
            assert ask("GET", re.sub("{.*?}", "a", path), AUTH).status_code in (404, 405), path


def test_the_page_has_nothing_from_elsewhere() -> None:
    for path in PAGE_PATHS:
        answer = ask("GET", path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", answer.text)
        assert "innerHTML" not in answer.text
    page = ask("GET", "/").text
    assert not re.search(r"<script(?![^>]*src)|<style|\son\w+=|style=", page)


def test_what_is_no_request_is_let_lie() -> None:
    async def call() -> None:
        async def never(*_: object) -> None:
            raise AssertionError

        gate = Gate(_never, token=TOKEN, port=PORT, open_paths=PAGE_PATHS)
        await gate({"type": "websocket"}, never, never)  # type: ignore[arg-type]

    asyncio.run(call())


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError(scope, receive, send)
