# SPDX-License-Identifier: MIT
"""The part of the API by which one looks: page maps, history, metrics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import Query, Request
from fastapi.responses import Response

from uvmm import schema
from uvmm.core import MAP_CELLS_MAX
from uvmm.figures import figures_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

    from uvmm.daemon import Daemon
    from uvmm.history import History

LARGEST_NUMBER = 1 << 62
NAME_CHARACTERS = 256


def add_look_routes(
    app: FastAPI, daemon: Daemon, history: History, config: Mapping[str, Any]
) -> None:
    """Add them to *app*; none of them changes anything."""

    @app.get("/v1/guests/{name}/map")
    async def page_map(
        name: str, cells: Annotated[int, Query(ge=1, le=MAP_CELLS_MAX)] = 1024
    ) -> schema.MapAnswer:
        """Return where a guest's pages are, in so many equal ranges of its memory."""
        found = await to_thread.run_sync(lambda: daemon.page_map(name, cells))
        return schema.page_map(name, found)

    @app.get("/v1/explain")
    async def explain(
        name: Annotated[str | None, Query(max_length=NAME_CHARACTERS)] = None,
        limit: Annotated[int, Query(ge=1, le=schema.DECISIONS_MAX)] = 20,
    ) -> schema.ExplainAnswer:
        """Return the newest decisions, oldest first: all, or what is about one guest."""
        return await to_thread.run_sync(
            lambda: schema.explanation(daemon.explain(name), name, limit)
        )

    @app.get("/v1/config")
    async def settings() -> dict[str, Any]:
        """Return the daemon's settings as they came out."""
        return dict(config)

    @app.get("/v1/history")
    async def told(
        since: Annotated[int, Query(ge=0, le=LARGEST_NUMBER)] = 0,
        name: Annotated[str | None, Query(max_length=NAME_CHARACTERS)] = None,
    ) -> Response:
        """
        Return the figures of the past, after sample number `since`, in columns.

        With a name, those of the machine and of the guests that were called so.

        {started_at, last, numbers, at_seconds, machine: {figure: [...]},
        guests: [{name, number, first, figure: [...]}]}: a guest's columns begin with
        sample `first` of those returned. Numbers begin anew with each daemon, which
        `started_at` tells apart.
        """
        words = await to_thread.run_sync(lambda: json.dumps(history.told(since, name)))
        return Response(words, media_type="application/json")

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Return the figures for Prometheus."""
        accept = request.headers.get("accept", "")

        def exposed() -> tuple[bytes, str]:
            # Not earlier: most daemons are never asked, and pay for their own memory.
            from uvmm.metrics import exposition  # noqa: PLC0415

            return exposition(figures_of(daemon), accept)

        text, kind = await to_thread.run_sync(exposed)
        return Response(text, headers={"Content-Type": kind})
