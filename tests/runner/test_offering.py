"""What becomes of an upload that a stop meets on its way."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import httpx

from orchestrator import library
from orchestrator.adapters.ledger import Ledger
from orchestrator.config import load_config
from orchestrator.core.model import State
from orchestrator.library import StopRequest, World
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

    def connect(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, factory=Slow, isolation_level=None, check_same_thread=False)

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
    model = Marketo(Settings(clients={"client": SECRET}))
    world = World(transport=Wire(model), connect=connect)
    with anyio.fail_after(30):
        result = await library.load(config, source, LoadOptions(config.target()), stop=stop, world=world)
    assert (stops, result.interrupted, result.exit_code) == ([1], True, 143)
    with Ledger(config.ledger_path) as ledger:
        assert ledger.chunks_by_state(result.load.id) == {State.PLANNED: 1}
    assert not model.jobs
