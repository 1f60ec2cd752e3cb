# SPDX-License-Identifier: MIT
"""
The control API: HTTP and JSON on the control socket.

Whatever a peer sends, it gets an answer, and nobody else notices: bodies are
bounded and checked before anything is done, and work that waits for the data
plane is done in threads, of which jobs may take only some.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from uvmm import schema
from uvmm.api_look import add_look_routes
from uvmm.application import Application
from uvmm.control import PEER
from uvmm.errors import BadInputError, UvmmError
from uvmm.figures import figures_of
from uvmm.log import LOGGER, RECENT_EVENTS, LogEvent
from uvmm.policy.parameters import Wanted
from uvmm.units import pages_to_bytes
from uvmm.web.page import add_page_routes

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from uvmm.daemon import Daemon
    from uvmm.history import History

BODY_BYTES = 64 << 10
JOBS_AT_ONCE = 8
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": schema.ErrorAnswer} for code in (404, 409, 413, 422, 500, 503, 507)
}
_T = TypeVar("_T")


def make_app(
    daemon: Daemon,
    *,
    guest_socket: Path,
    events: deque[LogEvent],
    history: History,
    config: Mapping[str, Any],
    shut_down: Callable[[], None],
    http_port: int | None = None,
) -> FastAPI:
    """
    Return the application.

    Args:
        daemon: What answers.
        guest_socket: Where guests are to attach.
        events: The newest lines of the log.
        history: The figures of the past.
        config: The daemon's settings.
        shut_down: Makes the daemon end soon; called from its event loop.
        http_port: Where the web page is served, None if nowhere.
    """
    app = FastAPI(
        title="uvmm", version="1", docs_url=None, redoc_url=None, responses=_REFUSALS,
        description="Control of a uvmm daemon: its guests and their memory.",
    )
    app.add_middleware(_BoundedBody)
    _answer_errors(app)
    _add_guest_routes(app, daemon, guest_socket)
    _add_job_routes(app, daemon)
    _add_daemon_routes(app, daemon, events, shut_down)
    _add_health_route(app, daemon, http_port)
    add_page_routes(app)
    add_look_routes(app, daemon, history, config)
    return app


def _add_guest_routes(app: FastAPI, daemon: Daemon, guest_socket: Path) -> None:
    @app.get("/v1/guests")
    async def guests() -> list[schema.GuestFigures]:
        """Return the figures of all guests."""
        return (await _in_thread(lambda: figures_of(daemon)))["guests"]

    @app.get("/v1/guests/{name}")
    async def guest(name: str) -> schema.GuestFigures:
        """Return the figures of one guest."""
        found = await _in_thread(lambda: daemon.guest(name))
        _, stalls = await _in_thread(daemon.look)
        return schema.guest_figures(found, stalls.get(found.id, 0.0))

    @app.post("/v1/guests", status_code=201)
    async def register(body: schema.GuestRequest, request: Request) -> schema.GuestAnswer:
        """Register a child of the asking process that is about to attach as a guest."""
        wanted = Application(
            peer=request.scope["state"][PEER],
            name=body.name, numbered=body.numbered, pid=body.pid, uid=body.uid,
            gid=body.gid, wanted=_wanted(body), share_group=body.share_group,
        )
        admitted = await _in_thread(lambda: daemon.admit(wanted))
        return schema.GuestAnswer(
            name=admitted.name, token=admitted.token.hex(), socket=str(guest_socket),
            max_bytes=pages_to_bytes(admitted.max_pages),
        )


    @app.patch("/v1/guests/{name}")
    async def change(name: str, body: schema.ChangeRequest) -> schema.GuestFigures:
        """Change what a guest may hold: all that the body names, or nothing."""
        wanted = _wanted(body)
        if wanted == Wanted():
            raise BadInputError(
                "nothing to set: name one of min, max, shares, tax, balloon_max"
            )
        changed = await _in_thread(lambda: daemon.set(name, wanted))
        _, stalls = await _in_thread(daemon.look)
        return schema.guest_figures(changed, stalls.get(changed.id, 0.0))


def _add_job_routes(app: FastAPI, daemon: Daemon) -> None:
    jobs = CapacityLimiter(JOBS_AT_ONCE)

    @app.post("/v1/guests/{name}/reclaim")
    async def reclaim(name: str, body: schema.ReclaimRequest) -> schema.MovedAnswer:
        """Take memory out of a guest; answers when done."""
        done = await _in_thread(
            lambda: daemon.reclaim(name, str(body.size), body.tier), jobs
        )
        return schema.moved(done)

    @app.post("/v1/guests/{name}/restore")
    async def restore(name: str) -> schema.MovedAnswer:
        """Bring a guest's stored pages back; answers when done."""
        return schema.moved(await _in_thread(lambda: daemon.restore(name), jobs))

    @app.post("/v1/guests/{name}/balloon", status_code=202)
    async def balloon(name: str, body: schema.BalloonRequest) -> schema.GuestFigures:
        """Ask a guest to give memory back, or to take it again; answers at once."""
        found = await _in_thread(lambda: daemon.set_balloon(name, str(body.size)))
        _, stalls = await _in_thread(daemon.look)
        return schema.guest_figures(found, stalls.get(found.id, 0.0))

    _add_share_route(app, daemon, jobs)


def _add_share_route(app: FastAPI, daemon: Daemon, jobs: CapacityLimiter) -> None:
    @app.post("/v1/share")
    async def share(body: schema.ShareRequest) -> schema.SharedAnswer:
        """Look for pages to share, in one guest or all; answers when done."""
        return schema.shared(await _in_thread(lambda: daemon.share_now(body.name), jobs))


def _add_daemon_routes(
    app: FastAPI, daemon: Daemon, events: deque[LogEvent], shut_down: Callable[[], None]
) -> None:
    @app.get("/v1/stats")
    async def stats() -> schema.Figures:
        """Return the figures of the machine and all guests."""
        return await _in_thread(lambda: figures_of(daemon))

    @app.get("/v1/events")
    async def recent(
        limit: Annotated[int, Query(ge=1, le=RECENT_EVENTS)] = 100,
    ) -> list[LogEvent]:
        """Return the newest events, oldest first."""
        return list(events)[-limit:]

    @app.post("/v1/shutdown", status_code=202)
    async def shutdown() -> dict[str, str]:
        """End the daemon and all guests."""
        shut_down()
        return {"status": "ending"}


def _add_health_route(app: FastAPI, daemon: Daemon, http_port: int | None) -> None:
    @app.get("/v1/health")
    async def health() -> schema.Health:
        """Tell that the daemon serves."""
        snapshot, _ = await _in_thread(daemon.look)
        return schema.Health(
            status="serving", pid=os.getpid(), guests=len(snapshot.guests),
            http_port=http_port,
        )


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(UvmmError)
    async def refused(_: Request, error: UvmmError) -> JSONResponse:
        return _error(error.status, str(error))

    @app.exception_handler(HTTPException)
    async def no_such(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # What was sent is not repeated: it may be anything.
        where = ".".join(ascii(part).strip("'") for part in first["loc"])
        return _error(422, f"{where}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _error(500, "the daemon failed at it; its log says why")


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse(schema.ErrorAnswer(error=text), status)


async def _in_thread(call: Callable[[], _T], limiter: CapacityLimiter | None = None) -> _T:
    return await to_thread.run_sync(call, limiter=limiter)


def _wanted(body: schema.GuestRequest | schema.ChangeRequest) -> Wanted:
    def word(given: str | float | None) -> str | None:
        return None if given is None else str(given)

    return Wanted(
        min=word(body.min), max=word(body.max), shares=word(body.shares),
        tax=word(body.tax), balloon_max=word(body.balloon_max),
    )


class _BoundedBody:
    """Refuses a body above `BODY_BYTES`, however it is announced."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        got_bytes = 0

        async def bounded_receive() -> Message:
            nonlocal got_bytes
            message = await receive()
            got_bytes += len(message.get("body", b""))
            if got_bytes > BODY_BYTES:
                raise HTTPException(413, f"the body is larger than {BODY_BYTES} bytes")
            return message

        await self._app(scope, bounded_receive, send)
