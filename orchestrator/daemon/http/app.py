"""How do the routes and the guard make one application?"""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from orchestrator.daemon.desk import Desk
from orchestrator.daemon.events import Changes
from orchestrator.daemon.http.api import Api, errors, healthz
from orchestrator.daemon.http.guard import Guard
from orchestrator.daemon.http.listen import Door
from orchestrator.daemon.http.pages import Pages
from orchestrator.daemon.http.tokens import Tokens
from orchestrator.daemon.metrics import Counters, write


def application(
    desk: Desk,
    door: Door,
    tokens: Tokens,
    changes: Changes,
    counters: Counters,
    stopping: anyio.Event,
    *,
    now: Callable[[], float],
    upload_bytes: Callable[[], int],
    not_ready: Callable[[], str],
    pulse: Callable[[], tuple[float, float]],
) -> Guard:
    """The ASGI application. not_ready: why no loads are taken, or nothing. pulse: lag and start of the process."""

    async def readyz(_: Request) -> Response:
        why = not_ready()
        return PlainTextResponse(f"not ready: {why}\n" if why else "ready\n", status_code=503 if why else 200)

    async def metrics(_: Request) -> Response:
        lag_s, started_at = pulse()
        text = write(await desk.overview(), counters, lag_s=lag_s, started_at=started_at)
        return PlainTextResponse(text, headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    def answered(status: int) -> None:
        counters.requests[str(status)] += 1

    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            *Api(desk, changes, stopping).routes(),
            *Pages(desk, tokens, now, secure=door.secure).routes(),
        ],
        exception_handlers=errors(),
    )
    app.router.redirect_slashes = False
    return Guard(app, door, tokens, now, upload_bytes=upload_bytes, answered=answered)
