"""Everything outside of one load, simulated: processes that die at any instant, a network, Marketo.

The orchestrator's own code runs whole, from `library.load` to the report's files. What is simulated lives at the
outermost seams: the event loop's time, httpx's transport, and the connection to SQLite, which dies with its process.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import anyio
import httpx
from simulation.scenario import Network
from simulation.watched import Calls

from orchestrator.adapters import locks
from orchestrator.adapters.ledger import connect
from orchestrator.core.model import LoadId
from orchestrator.runner import loop
from orchestrator.simulator.faults import Response
from orchestrator.simulator.model import Marketo, Request


class Crash(KeyboardInterrupt):
    """The process is gone. (A KeyboardInterrupt passes through event loops at once.)"""


@dataclass
class Life:
    """One process. It dies at its n-th point; a dead one can touch nothing any more."""

    crash_at: int | None = None
    name: str = ""
    points: int = 0
    dead: bool = False
    died_at: str = ""
    in_flight: int = 0
    """Its calls that Marketo has not answered."""
    owned: dict[str, _Owned] = field(default_factory=dict)
    """The locks it took, by load."""
    connections: list[DyingConnection] = field(default_factory=list)
    asks: str = ""
    """The address of its newest call."""
    newest: dict[tuple[str, int], str] = field(default_factory=dict)
    """The kind of the newest fact that it wrote down of each chunk."""

    def point(self, name: str) -> None:
        """Something durable happens here, or could."""
        self.check()
        self.points += 1
        if self.points == self.crash_at:
            self.die(name)

    def die(self, name: str) -> NoReturn:
        self.dead, self.died_at = True, name
        raise Crash(name)

    def check(self) -> None:
        if self.dead:
            raise Crash("dead")

    def end(self) -> None:
        """The kernel cleans up after it: its locks go, and what it had not committed."""
        self.dead = True
        for connection in self.connections:
            connection.close()
        for ownership in self.owned.values():
            ownership.release()


@dataclass
class Acts:
    """Who wrote down a fact of which load, in their order: two owners would take turns."""

    last: dict[str, tuple[Life, _Owned]] = field(default_factory=dict)
    over: list[_Owned] = field(default_factory=list)
    broken: str = ""

    def fact(self, life: Life, load_id: str) -> None:
        owned = life.owned.get(load_id)
        if owned is None:
            self.broken = self.broken or f"{life.name} wrote down a fact of load {load_id[:8]}, which it does not own"
            return
        before = self.last.get(load_id)
        if before is not None and before[1] is not owned:
            self.over.append(before[1])
        if any(owned is one for one in self.over):
            self.broken = self.broken or f"{life.name} and {before[0].name if before else ''} own load {load_id[:8]}"
        self.last[load_id] = (life, owned)


class DyingConnection:
    """A connection to SQLite that dies with its process: what is not committed then is gone."""

    def __init__(
        self,
        path: Path,
        life: Life,
        break_at: Callable[[str], str | None],
        open: Callable[[Path], Any] = connect,
        acts: Acts | None = None,
    ) -> None:
        self._real, self._life, self._break_at, self._acts = open(path), life, break_at, acts
        life.connections.append(self)

    def execute(self, sql: str, *arguments: Any) -> Any:
        self._life.check()
        if (trouble := self._break_at(sql)) is not None:
            raise sqlite3.OperationalError(trouble)
        if sql == "COMMIT":
            self._life.point("before commit")
            done = self._powered(self._real.execute, sql)
            self._life.point("after commit")
            return done
        if sql == "BEGIN IMMEDIATE":
            self._life.point("before transaction")
        elif self._acts is not None and sql.startswith("INSERT INTO facts"):
            load_id, number, _, kind, _ = arguments[0]
            self._life.newest[load_id, number] = kind
            self._acts.fact(self._life, load_id)
        return self._powered(self._real.execute, sql, *arguments)

    def executemany(self, sql: str, rows: list[Any]) -> Any:
        self._life.check()
        return self._powered(self._real.executemany, sql, rows)

    def _powered(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        """A machine that has lost its power while it wrote tells nobody what it has written."""
        try:
            return execute(*arguments)
        finally:
            if getattr(self._real, "without_power", False):
                self._life.die("power cut")

    def states(self, asks: str) -> list[str]:
        """How the chunk stands after whose batch is asked, else in which states there are chunks at the moment."""
        batch = re.search(r"/batch/(\d+)", asks)
        of = "JOIN offers o ON o.load_id = c.load_id AND o.chunk = c.number WHERE o.batch_id = ?" if batch else ""
        try:
            rows = self._real.execute(
                f"SELECT DISTINCT c.state FROM chunks c {of} ORDER BY 1", [int(batch[1])] if batch else []
            )
            return [str(state) for (state,) in rows.fetchall()]
        except sqlite3.Error:  # no schema yet
            return []

    @property
    def in_transaction(self) -> bool:
        return not self._life.dead and bool(self._real.in_transaction)

    def close(self) -> None:
        self._real.close()


class SimulatedTransport(httpx.AsyncBaseTransport):
    """httpx's way to the model, under virtual time. Watches what must be true of every upload."""

    def __init__(
        self,
        model: Marketo,
        network: Network,
        rng: Random,
        life: Life,
        now: Callable[[], float],
        check_intent: Callable[[bytes], None],
        met: Callable[[str], None],
        calls: Calls | None = None,
        executed: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._network, self._rng, self._life = model, network, rng, life
        self._now, self._check_intent, self._met = now, check_intent, met
        self._calls, self._executed = calls or Calls(), executed

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._life.point("before request")
        with self._calls.under_way(request.method, request.url.path, self._now()):
            return await self._exchange(request)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        self._life.asks = ""
        network, chance = self._network, self._rng.random()
        self._model.in_flight += 1
        self._life.in_flight += 1
        try:
            await anyio.sleep(network.latency_s * self._rng.uniform(0.5, 2.0))
            if chance < network.refuse:
                self._met("network: refuse")
                raise httpx.ConnectError("connection refused")
            is_upload = request.method == "POST" and request.url.path.startswith("/bulk/")
            body = b""
            assert isinstance(request.stream, httpx.AsyncByteStream)
            await request.extensions["trace"]("http11.send_request_body.started", {})
            announced = int(request.headers.get("Content-Length", 0))
            too_large = is_upload and announced > self._model.settings.file_limit
            async for piece in request.stream:
                self._life.check()
                body += piece
                if is_upload:
                    await anyio.sleep(network.upload_s * self._rng.uniform(0.1, 0.5))
                    if too_large and network.early_reset and len(body) > announced // 3:
                        self._met("network: early reset")
                        raise httpx.ReadError("connection reset")
                    if chance > 1 - network.cut and body:
                        self._met("network: cut")
                        raise httpx.ReadError("connection reset")
            if is_upload:
                self._check_intent(body)
            await request.extensions["trace"]("http11.send_request_body.complete", {})
            if network.refuse < chance < network.refuse + network.lose:
                self._met("network: lose")
                raise httpx.ReadError("connection reset")
            await anyio.sleep(network.latency_s)
            self._life.point("before execution")
            headers = {name.lower(): value for name, value in request.headers.items()}
            target = self._life.asks = request.url.raw_path.decode("ascii")
            answer = self._model.handle(Request(request.method, target, headers, body, len(body)), self._now())
            self._life.point("after execution")
            if is_upload:
                self._executed()
            if self._rng.random() < network.hang:
                self._met("network: hang")
                await anyio.sleep_forever()
            await anyio.sleep(network.latency_s)
            self._life.check()
            if answer.effect == "drop":
                raise httpx.ReadError("connection reset")
            return httpx.Response(
                answer.status,
                headers={**answer.headers, "Content-Length": str(len(answer.body))},
                stream=_Stream(answer, self._life),
            )
        finally:
            if not self._life.dead:  # calls of a dead process were taken off at its death
                self._model.in_flight -= 1
                self._life.in_flight -= 1


class _Stream(httpx.AsyncByteStream):
    def __init__(self, answer: Response, life: Life) -> None:
        self._answer, self._life = answer, life

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, effect = self._answer.body, self._answer.effect
        half = len(body) // 2
        for piece in (body[:half], body[half:]):
            self._life.point("in an answer")
            yield piece
            if effect == "slow":
                await anyio.sleep(1.0)
            if effect == "truncate":
                raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


class _Owned(locks.Ownership):
    """A lock that goes once, by its owner or by its owner's death."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.held = True

    def release(self) -> None:
        if self.held:
            self.held = False
            super().release()


class Kernel:
    """Knows which process runs at the moment: locks taken are that one's, and go when it dies."""

    def __init__(self) -> None:
        self.running = Life()

    @contextmanager
    def locks(self) -> Iterator[None]:
        take = locks.take

        def taking(ledger: Path, load_id: LoadId) -> locks.Ownership | None:
            self.running.check()
            ownership = take(ledger, load_id)
            if ownership is None:
                return None
            self.running.owned[load_id] = owned = _Owned(ownership._descriptor)
            return owned

        with (
            patch.object(locks, "take", taking),
            patch.object(loop, "take", taking),
            patch.object(locks, "time", SimpleNamespace(sleep=lambda _: None)),
        ):
            yield
