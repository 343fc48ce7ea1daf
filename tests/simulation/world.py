"""Everything outside of one load, simulated: processes that die at any instant, a network, Marketo.

The orchestrator's own code runs whole, from `library.load` to the report's files. What is simulated lives at the
outermost seams: the event loop's time, httpx's transport, and the connection to SQLite, which dies with its process.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from unittest.mock import patch

import anyio
import httpx

from orchestrator.adapters import locks
from orchestrator.adapters.ledger import connect
from orchestrator.core.model import LoadId
from orchestrator.runner import loop
from orchestrator.simulator.faults import Response
from orchestrator.simulator.model import Marketo, Request
from orchestrator.simulator.multipart import MalformedError, parse


class Crash(KeyboardInterrupt):
    """The process is gone. (A KeyboardInterrupt passes through event loops at once.)"""


@dataclass
class Life:
    """One process. It dies at its n-th point; a dead one can touch nothing any more."""

    crash_at: int | None = None
    points: int = 0
    dead: bool = False
    died_at: str = ""

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


class DyingConnection:
    """A connection to SQLite that dies with its process: what is not committed then is gone."""

    def __init__(
        self, path: Path, life: Life, break_at: Callable[[str], str | None], open: Callable[[Path], Any] = connect
    ) -> None:
        self._real, self._life, self._break_at = open(path), life, break_at

    def execute(self, sql: str, *arguments: Any) -> Any:
        self._life.check()
        if (trouble := self._break_at(sql)) is not None:
            raise sqlite3.OperationalError(trouble)
        if sql == "COMMIT":
            self._life.point("before commit")
            done = self._powered(self._real.execute, sql)
            self._life.point("after commit")
            return done
        if sql.startswith("BEGIN"):
            self._life.point("before transaction")
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

    @property
    def in_transaction(self) -> bool:
        return not self._life.dead and bool(self._real.in_transaction)

    def close(self) -> None:
        self._real.close()


@dataclass
class Network:
    """What the network does, beside what Marketo does. Rates of calls."""

    latency_s: float = 0.05
    upload_s: float = 0.5
    refuse: float = 0.0
    """The connection is refused."""
    cut: float = 0.0
    """It breaks while the body is sent."""
    lose: float = 0.0
    """It breaks after the body was sent, before Marketo has read it."""
    hang: float = 0.0
    """No answer ever comes, although the call is executed."""
    early_reset: bool = False
    """An upload over Marketo's limit is answered while it is sent, and the answer is lost to the reset."""


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
        seen: Counter[str],
    ) -> None:
        self._model, self._network, self._rng, self._life = model, network, rng, life
        self._now, self._check_intent, self._seen = now, check_intent, seen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self._life.point("before request")
        network, chance = self._network, self._rng.random()
        self._model.in_flight += 1
        try:
            await anyio.sleep(network.latency_s * self._rng.uniform(0.5, 2.0))
            if chance < network.refuse:
                self._seen["network: refuse"] += 1
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
                        self._seen["network: early reset"] += 1
                        raise httpx.ReadError("connection reset")
                    if chance > 1 - network.cut and body:
                        self._seen["network: cut"] += 1
                        raise httpx.ReadError("connection reset")
            if is_upload:
                self._check_intent(body)
            await request.extensions["trace"]("http11.send_request_body.complete", {})
            if network.refuse < chance < network.refuse + network.lose:
                self._seen["network: lose"] += 1
                raise httpx.ReadError("connection reset")
            await anyio.sleep(network.latency_s)
            self._life.point("before execution")
            headers = {name.lower(): value for name, value in request.headers.items()}
            target = request.url.raw_path.decode("ascii")
            answer = self._model.handle(Request(request.method, target, headers, body, len(body)), self._now())
            self._life.point("after execution")
            if self._rng.random() < network.hang:
                self._seen["network: hang"] += 1
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


def intent_is_durable(ledger: Path) -> Callable[[bytes], None]:
    """Checks, by a look at the file itself, that an upload was written down before its first byte left."""

    def check(body: bytes) -> None:
        try:
            boundary = body[2 : body.index(b"\r\n")].decode()
            form = parse(body, f"multipart/form-data; boundary={boundary}")
        except (ValueError, MalformedError):
            return
        assert form.file is not None
        size = len(form.file)
        reader = sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)
        try:
            found = reader.execute(
                "SELECT count(*) FROM chunks WHERE state = 'offered' AND size_bytes = ?", (size,)
            ).fetchone()
        finally:
            reader.close()
        assert found[0] > 0, "an upload without a durable intent"

    return check


class _Owned(locks.Ownership):
    """A lock that goes once, by its owner or by its owner's death."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            super().release()


@contextmanager
def owned_by(life: Life) -> Iterator[None]:
    """Locks taken inside are the process's, and go when it dies."""
    take, owned = locks.take, list[_Owned]()

    def taking(ledger: Path, load_id: LoadId) -> locks.Ownership | None:
        life.check()
        ownership = take(ledger, load_id)
        if ownership is None:
            return None
        owned.append(_Owned(ownership._descriptor))
        return owned[-1]

    with patch.object(locks, "take", taking), patch.object(loop, "take", taking):
        try:
            yield
        finally:
            for one in owned:
                one.release()
