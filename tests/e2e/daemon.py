"""A daemon under way, in a real process, and what it says and does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from e2e.shop import Report, Shop

QUICK = {
    "ORCHESTRATOR_DAEMON__SCAN_INTERVAL": "0.05",
    "ORCHESTRATOR_DAEMON__QUIET_PERIOD": "0.3",
    "ORCHESTRATOR_DAEMON__LISTEN": "127.0.0.1:0",
}
PATIENCE_S = 60.0


class Daemon:
    """One process of the daemon. `log` has its log lines so far."""

    def __init__(self, market: Shop, *arguments: str, **environment: str) -> None:
        self.market, self.folder = market, market.folder
        self.log: list[dict[str, Any]] = []
        self.text: list[str] = []
        self.process: subprocess.Popen[str] = market.start(
            "daemon", "--as-root", "--json", *arguments, stdin=None, **{**QUICK, **environment}
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.text.append(line)
            if line.startswith("{"):
                self.log.append(json.loads(line))

    def ready(self) -> dict[str, Any]:
        """What it says when it is."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "".join(self.text)
        return dict(json.loads(line))

    def until(self, what: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Wait until something is so; a daemon that ends meanwhile is a failure."""
        deadline = time.monotonic() + patience_s
        while not what():
            assert self.process.poll() is None, (self.process.returncode, "".join(self.text))
            assert time.monotonic() < deadline, "".join(self.text[-40:])
            time.sleep(0.02)

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Stop it gracefully; its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._close()

    def _close(self) -> None:
        self._reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@contextmanager
def daemon(market: Shop, *arguments: str, **environment: str) -> Iterator[Daemon]:
    """A daemon that is ready, for as long as the block lasts."""
    one = Daemon(market, *arguments, **environment)
    try:
        one.ready()
        yield one
    finally:
        if one.process.poll() is None:
            one.kill()


def drop(folder: Path, name: str, rows: list[str]) -> Path:
    """Put a file into a folder as it should be done: written elsewhere, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    part.write_text("\n".join(["email,firstName", *rows, ""]), encoding="utf-8")
    old = time.time() - 60
    os.utime(part, (old, old))
    return part.rename(folder / name)


def people(prefix: str, count: int, bad: int = 0) -> list[str]:
    """Rows of a source; the first `bad` of them will fail."""
    return [f"{'' if row < bad else f'{prefix}{row}@example.com'},Ana {prefix}" for row in range(count)]


def ended(folder: Path) -> dict[str, dict[str, Any]]:
    """What is in done or failed, by the name that the file had."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/delivery.json")]
    return {delivery["name"]: delivery for delivery in found}


def report_of(market: Shop, delivery: dict[str, Any]) -> Report:
    return Report(market.folder / "reports" / delivery["load_id"])


class Client:
    """Somebody who has the token."""

    def __init__(self, one: Daemon, url: str) -> None:
        token = (one.folder / ".orchestrator" / "daemon.token").read_text().strip()
        self.url, self.token = url, token
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=10.0)

    def load(self, id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/loads/{id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def upload(self, name: str, content: bytes) -> str:
        answer = self.http.post(
            "/api/v1/uploads",
            params={"name": name},
            content=content,
            headers={"Content-Type": "application/octet-stream"},
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["upload"])

    def create(self, settings: dict[str, Any] | None = None, **what: str) -> str:
        answer = self.http.post("/api/v1/loads", json={**what, "settings": settings or {}})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def change(self, id: str, what: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/api/v1/loads/{id}/{what}", json=body)


@contextmanager
def served(market: Shop, *arguments: str, **environment: str) -> Iterator[tuple[Daemon, Client]]:
    """A daemon, and somebody who may use it."""
    one = Daemon(market, *arguments, **environment)
    client: Client | None = None
    try:
        client = Client(one, one.ready()["url"])
        yield one, client
    finally:
        if client is not None:
            client.http.close()
        if one.process.poll() is None:
            one.kill()


def csv(rows: list[str]) -> bytes:
    return "\n".join(["email,firstName", *rows, ""]).encode()
