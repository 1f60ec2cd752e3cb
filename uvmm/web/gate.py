# SPDX-License-Identifier: MIT
"""
Who may come in by TCP: those who have the token, from a page that is ours.

Any user of the machine, and any page in a browser on it, can reach a loopback port. So:

1. The Host header must be ours, else it is another site's name that points here (DNS
   rebinding), and its scripts would count as this page's.
2. What changes something must not come from another site's page (Origin, Sec-Fetch-Site).
3. All but the page itself, which is no secret, needs the token, as `Authorization: Bearer`.
   No browser sends that of its own accord, as it does with cookies.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Receive, Scope, Send

HTTP_PORT = 80  # which a Host header leaves out
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
_LOOKS = ("GET", "HEAD")
_REGISTER = "/v1/guests"
_OWN_SITE = (b"same-origin", b"none")


class Gate:
    """Lets requests through to the API, or refuses them in one line."""

    def __init__(
        self, app: ASGIApp, *, token: str, port: int, open_paths: Collection[str]
    ) -> None:
        """
        Stand before *app*.

        Args:
            app: The API.
            token: What a request must have.
            port: Where we listen.
            open_paths: What may be had without the token.
        """
        self._app = app
        self._token = token.encode()
        self._open_paths = frozenset(open_paths)
        self._hosts = {f"{host}:{port}".encode() for host in _HOSTS}
        if port == HTTP_PORT:
            self._hosts |= {host.encode() for host in _HOSTS}
        self._origins = {b"http://" + host for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, *refusal)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = scope["headers"]
        hosts = _all(headers, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, "the Host header is not that of this daemon's page"
        if scope["method"] not in _LOOKS and self._is_foreign(headers):
            return 403, "another site's page may not change anything here"
        if scope["method"] in _LOOKS and scope["path"] in self._open_paths:
            return None
        if not self._has_token(headers):
            return 401, "the token is missing or wrong; 'uvmm web' prints the address with it"
        if scope["method"] == "POST" and scope["path"].rstrip("/") == _REGISTER:
            return 403, "guests are registered on the control socket"
        return None

    def _is_foreign(self, headers: list[tuple[bytes, bytes]]) -> bool:
        origins, sites = _all(headers, b"origin"), _all(headers, b"sec-fetch-site")
        return not (
            all(origin.lower() in self._origins for origin in origins)
            and all(site in _OWN_SITE for site in sites)
        )

    def _has_token(self, headers: list[tuple[bytes, bytes]]) -> bool:
        given = _all(headers, b"authorization")
        if len(given) != 1:
            return False
        scheme, _, token = given[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token, self._token)


def _all(headers: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


async def _refuse(send: Send, status: int, why: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": why}).encode()})
