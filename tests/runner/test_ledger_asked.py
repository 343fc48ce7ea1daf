"""Whole loads with worker threads, on a ledger that tells when it is asked what."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import httpx

from orchestrator import library
from orchestrator.adapters.ledger import Ledger
from orchestrator.config import load_config
from orchestrator.core.model import State
from orchestrator.library import LoadResult, StopRequest, World
from orchestrator.planning import LoadOptions
from orchestrator.simulator.model import Marketo, Request
from orchestrator.simulator.settings import Settings

SECRET = "a secret"


class Wire(httpx.AsyncBaseTransport):
    """httpx's way to the model."""

    def __init__(self, model: Marketo) -> None:
        self._model = model

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, request.url.raw_path.decode("ascii"), headers, body, len(body))
        answer = self._model.handle(asked, time.time())
        return httpx.Response(answer.status, headers=answer.headers, stream=Body(answer.body))


class Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


async def loaded(
    tmp_path: Path, model: Marketo, connection: type[sqlite3.Connection], stop: StopRequest, load: str | None = None
) -> LoadResult:
    """One row is loaded, or the load that begins so is gone on with."""

    def connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=connection, isolation_level=None, check_same_thread=False)

    source = tmp_path / "leads.csv"
    source.write_text("email\na@example.com\n")
    environment = {
        "ORCHESTRATOR_MARKETO__BASE_URL": "http://127.0.0.1:1",
        "ORCHESTRATOR_MARKETO__CLIENT_ID": "client",
        "ORCHESTRATOR_MARKETO__CLIENT_SECRET": SECRET,
        "ORCHESTRATOR_STATE__LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}",
        "ORCHESTRATOR_REPORT__DIR": str(tmp_path / "reports"),
    }
    config = load_config(None, environment, {})
    world = World(transport=Wire(model), connect=connect)
    with anyio.fail_after(30):
        if load is not None:
            return await library.resume(config, load, priority="high", on_doubt="resend", stop=stop, world=world)
        return await library.load(config, source, LoadOptions(config.target(), on_doubt="stop"), stop=stop, world=world)


async def test_an_upload_is_not_begun_when_a_stop_comes_while_it_is_written_down(tmp_path: Path) -> None:
    """A slow disk: it began all the same, and the stop waited for it, or made a doubt of it."""
    stop, stops = StopRequest(), list[int]()

    async def stopped() -> None:
        stop.set(143)
        await anyio.wait_all_tasks_blocked()

    class Slow(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql.startswith("UPDATE runs SET served_at") and not stops:  # a slot is being taken
                stops.append(1)
                anyio.from_thread.run(stopped)
            return super().execute(sql, *arguments)

    model = Marketo(Settings(clients={"client": SECRET}))
    result = await loaded(tmp_path, model, Slow, stop)
    assert (stops, result.interrupted, result.exit_code) == ([1], True, 143)
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.chunks_by_state(result.load.id) == {State.PLANNED: 1}
    assert not model.jobs


async def test_the_event_loop_never_waits_for_the_ledger(tmp_path: Path) -> None:
    """Another process may hold it for seconds: with twenty loads in a daemon all of them, and its page, stood still."""
    on_the_loop: list[str] = []

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            with suppress(RuntimeError):  # no loop runs in a worker thread
                asyncio.get_running_loop()
                on_the_loop.append(sql)
            return super().execute(sql, *arguments)

    model, stop = Marketo(Settings(clients={"client": SECRET})), StopRequest()
    stop.set(143)
    result = await loaded(tmp_path, model, Watched, stop)
    assert result.interrupted
    result = await loaded(tmp_path, model, Watched, StopRequest(), result.load.id[:6])
    assert result.exit_code == 0
    assert on_the_loop == []
