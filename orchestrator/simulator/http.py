"""How is the model put behind HTTP? Real sockets, and faults that bytes alone cannot show carried out for real.

Beside Marketo's own paths there is `/_simulator/...`, for people and tests: state, truth, violations, faults, foreign.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from orchestrator.simulator.faults import Response, Scripted
from orchestrator.simulator.model import Marketo, Request
from orchestrator.simulator.settings import Settings

SLOW_PAUSE_S = 0.05


class Door:
    """Lets one request at a time into the model. Tests that look at the model hold `lock`."""

    def __init__(self, model: Marketo, clock: Callable[[], float] = time.monotonic, bodies: Path | None = None) -> None:
        self.model, self._clock, self._bodies = model, clock, bodies
        self.lock = threading.RLock()

    def now(self) -> float:
        return self._clock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """An ASGI application: everything that is Marketo's."""
        assert scope["type"] == "http"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        counts = not target.startswith("/identity/")  # the limit is the REST API's, and tokens are not its calls
        with self.lock:
            self.model.in_flight += counts
        try:
            length = int(headers.get("content-length", "0") or 0)
            unread = length > self.model.settings.file_limit
            body = b"" if unread else await _body(receive)
            if body is None:
                return  # the client went away in mid-body: nothing was executed
            with self.lock:
                answer = self.model.handle(Request(scope["method"], target, headers, body, length), self.now())
                self._keep_bodies()
            await _answer(answer, receive, send, unread=unread)
        finally:
            with self.lock:
                self.model.in_flight -= counts

    def _keep_bodies(self) -> None:
        """Accepted files go to a folder when one was named, so that they need not stay in memory."""
        if self._bodies is None:
            return
        for job in reversed(self.model.jobs.values()):
            if job.body is None:
                break
            (self._bodies / f"{job.batch_id}.{job.format}").write_bytes(job.body)
            job.body = None


async def _body(receive: Any) -> bytes | None:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _answer(answer: Response, receive: Any, send: Any, *, unread: bool) -> None:
    if answer.effect == "drop":
        receive.__self__.transport.abort()  # the server's own connection: ASGI has no word for closing it
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    body = answer.body
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if answer.effect == "truncate":
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        receive.__self__.transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    if answer.effect == "slow":
        third = len(body) // 3 + 1
        for start in range(0, len(body), third):
            await send({"type": "http.response.body", "body": body[start : start + third], "more_body": True})
            await asyncio.sleep(SLOW_PAUSE_S)
        body = b""
    if unread:  # answered at once; then read and dropped, as servers do: closing now would reset the connection
        await send({"type": "http.response.body", "body": body, "more_body": True})
        body = b""
        while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
            pass
    await send({"type": "http.response.body", "body": body})


def application(door: Door) -> Starlette:
    """The whole ASGI application."""

    async def state(_: HttpRequest) -> JSONResponse:
        with door.lock:
            door.model.truth(door.now())
            return JSONResponse(door.model.state())

    async def truth(_: HttpRequest) -> JSONResponse:
        with door.lock:
            return JSONResponse(door.model.truth(door.now()))

    async def violations(_: HttpRequest) -> JSONResponse:
        with door.lock:
            return JSONResponse(door.model.state()["violations"])

    async def faults(request: HttpRequest) -> JSONResponse:
        """{"rates": {"status": 0.1}, "script": [{"fault": "drop", "on": "create", "times": 1, "after": 0}]}"""
        wanted = await request.json()
        with door.lock:
            door.model.faults.rates.update(wanted.get("rates", {}))
            door.model.faults.scripted += [Scripted(**script) for script in wanted.get("script", [])]
        return JSONResponse({"ok": True})

    async def foreign(request: HttpRequest) -> JSONResponse:
        """{"occupy": 8, "seconds": 60} or {"release": 8}"""
        wanted = await request.json()
        with door.lock:
            if "occupy" in wanted:
                door.model.occupy(int(wanted["occupy"]), door.now(), float(wanted.get("seconds", "inf")))
            door.model.release(int(wanted.get("release", 0)), door.now())
        return JSONResponse({"ok": True})

    return Starlette(
        routes=[
            Route("/_simulator/state", state),
            Route("/_simulator/truth", truth),
            Route("/_simulator/violations", violations),
            Route("/_simulator/faults", faults, methods=["POST"]),
            Route("/_simulator/foreign", foreign, methods=["POST"]),
            Mount("/", app=door),
        ]
    )


def server(door: Door, *, port: int) -> uvicorn.Server:
    """A server on loopback that is not started yet."""
    config = uvicorn.Config(
        application(door),
        host="127.0.0.1",
        port=port,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


class SimulatorServer:
    """The simulator in a thread of this process, on a free port, for as long as the block lasts."""

    def __init__(self, settings: Settings | None = None, *, bodies: Path | None = None) -> None:
        self.settings = settings or Settings()
        self.model = Marketo(self.settings)
        self.door = Door(self.model, bodies=bodies)
        self._server = server(self.door, port=0)
        self._thread = threading.Thread(target=self._server.run, name="simulator", daemon=True)

    @property
    def base_url(self) -> str:
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    @property
    def lock(self) -> threading.RLock:
        return self.door.lock

    def truth(self) -> dict[str, Any]:
        with self.lock:
            return self.model.truth(self.door.now())

    def occupy(self, count: int, seconds: float = float("inf")) -> None:
        with self.lock:
            self.model.occupy(count, self.door.now(), seconds)

    def release(self, count: int) -> None:
        with self.lock:
            self.model.release(count, self.door.now())

    def __enter__(self) -> SimulatorServer:
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the simulator did not start")
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(10)
