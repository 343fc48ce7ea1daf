"""Whatever bytes come back over a connection: an answer or a failure with its evidence, in bounded time, from one host.

httpx, httpcore and h11 run whole, on a network of bytes under virtual time: sound answers are mutated, cut, dribbled
and delayed, wrapped in encodings and redirects. What was sent is compared with what the adapter says was sent.
"""

from __future__ import annotations

import gzip
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import httpcore
import httpx
import pytest
from adapters.test_marketo import BATCH, Bytes
from fuzz.test_foreign_bytes import SOUND_JSON, mutated
from simulation.virtual import run

from orchestrator.adapters import marketo as adapter
from orchestrator.adapters.marketo import Marketo
from orchestrator.core.model import Format, Target
from orchestrator.core.verdicts import Answered, Failed, Outcome, Saved, Verdict, judge

HOST = "marketo.example"
TARGET = Target()
SOUND_FILE = b"email,note,Import Failure Reason\na@x.io,one,bad\nb@x.io,two,worse\n"
BOMB = gzip.compress(b"0" * 20_000_000)
MARGIN_S = 5.0


class Wire(httpcore.AsyncNetworkStream):
    """One connection: takes what is written, up to a point, and gives what it was told to, in pieces, after pauses."""

    def __init__(self, rng: Random, answer: bytes, takes: int | None) -> None:
        self._rng, self._left, self._takes = rng, answer, takes
        self._pause_s = rng.choice([0.0, 0.0, 0.0, 1.0, 25.0])
        self._largest = rng.choice([1 << 20, 1 << 20, 60, 7])
        self._ends = rng.choice(["closed", "closed", "reset", "silent"])
        self.taken = b""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if timeout is not None and self._pause_s > timeout:
            await anyio.sleep(timeout)
            raise httpcore.ReadTimeout
        await anyio.sleep(self._pause_s)
        if not self._left:
            if self._ends == "reset":
                raise httpcore.ReadError("reset")
            if self._ends == "silent":
                await anyio.sleep(timeout if timeout is not None else 1e9)
                raise httpcore.ReadTimeout
            return b""
        size = min(max_bytes, self._rng.randint(1, self._largest))
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await anyio.lowlevel.checkpoint()
        if self._takes is not None and len(self.taken) + len(buffer) > self._takes:
            raise httpcore.WriteError("reset")
        self.taken += buffer

    async def aclose(self) -> None:
        pass

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise AssertionError("http only")

    def get_extra_info(self, info: str) -> Any:
        return None


class Bytewise(httpcore.AsyncNetworkBackend):
    """A network whose every connection is one wire; notes whom the client wanted to reach."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.hosts: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.hosts.append(host)
        return self._wire


def answer(rng: Random, body: bytes) -> bytes:
    """An HTTP answer round a body: sound, or with what servers, proxies and attackers make of it."""
    status = rng.choice(
        [b"200 OK"] * 6 + [b"302 Found", b"307 Temporary Redirect", b"413 X", b"502 X", b"429 X", b"100"]
    )
    headers = [b"Content-Type: application/json"]
    match rng.randrange(8):
        case 0:
            pass  # neither length nor chunks: it ends when the connection does
        case 1:
            headers.append(b"Content-Length: %d" % (len(body) + rng.choice([-3, 5, 10**12])))
        case 2:
            headers.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        case 3:
            headers += [b"Content-Encoding: gzip", b"Content-Length: %d" % len(BOMB)]
            body = BOMB
        case _:
            headers.append(b"Content-Length: %d" % len(body))
    if rng.random() < 0.2:
        headers.append(b"Location: http://elsewhere.example/" + mutated(rng, b"bulk/v1/leads.json?x=1"))
    if rng.random() < 0.1:
        headers.append(b"Retry-After: " + rng.choice([b"1e9", b"-1", b"99999999999", "٣".encode(), b"soon"]))
    if rng.random() < 0.05:
        headers += [b"X-%d: %s" % (n, b"y" * 500) for n in range(rng.choice([3, 300]))]
    whole = b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body
    if rng.random() < 0.4:
        cut = whole[: 40 + len(b"\r\n".join(headers))]
        whole = mutated(rng, cut) + whole[len(cut) :]
    return whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole


def ask(wire: Wire, question: Callable[[Marketo], Awaitable[Outcome]], within_s: float) -> Outcome:
    """One exchange over this wire; it ends in time and reaches nobody else."""
    network = Bytewise(wire)

    async def exchange() -> Outcome:
        transport = httpx.AsyncHTTPTransport(verify=False, trust_env=False)  # no certificates are read
        transport._pool = httpcore.AsyncConnectionPool(network_backend=network)
        client = Marketo(f"http://{HOST}", "client", "secret", transport=transport)
        try:
            return await question(client)
        finally:
            await client.aclose()

    outcome, seconds = run(exchange)
    assert seconds <= within_s + MARGIN_S
    assert set(network.hosts) <= {HOST}
    return outcome


@pytest.mark.parametrize("seed", range(2))
def test_no_bytes_make_an_upload_more_than_its_evidence(
    seed: int, record_property: Callable[[str, object], None]
) -> None:
    """Whether a batch may exist is decided by what was sent: an upload that arrived whole is never called unsent."""
    rng, inputs, sound = Random(seed), 500, 0
    for number in range(inputs):
        body = rng.choice(SOUND_JSON)
        told = answer(rng, rng.choice([body, mutated(rng, body)]))
        wire = Wire(rng, told, rng.choice([None, None, None, 300, 1_500]))
        outcome = ask(
            wire,
            lambda client: client.create("token", TARGET, Format.CSV, Bytes(b"email\n" + b"a@x.io\n" * 200)),
            adapter.UPLOAD_DEADLINE_S,
        )
        assert isinstance(outcome, Answered | Failed), number
        whole = wire.taken.endswith(b"--\r\n")
        if isinstance(outcome, Failed) and whole:
            assert outcome.body_sent, number
            assert outcome.http_status is not None or judge(outcome, "create").verdict is Verdict.DOUBT, number
        sound += isinstance(outcome, Answered)
    assert sound > 20
    record_property("fuzz inputs", inputs)


@pytest.mark.parametrize("seed", range(2))
def test_no_bytes_leave_half_a_result_file(
    seed: int, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A file under its name is whole as far as the connection can tell; anything else is a failure."""
    rng, inputs, saved = Random(seed), 500, 0
    path = tmp_path / "failures.csv"
    for number in range(inputs):
        path.unlink(missing_ok=True)
        body = rng.choice([SOUND_FILE, SOUND_FILE, mutated(rng, SOUND_FILE), rng.choice(SOUND_JSON)])
        outcome = ask(
            Wire(rng, answer(rng, body), None),
            lambda client: client.result_file("token", TARGET, BATCH, "failures", path),
            adapter.FILE_DEADLINE_S,
        )
        assert isinstance(outcome, Answered | Failed | Saved), number
        assert path.exists() == isinstance(outcome, Saved), number
        if isinstance(outcome, Saved):
            assert path.stat().st_size == outcome.size_bytes < 1_000_000, number
            saved += 1
    assert saved > 20
    record_property("fuzz inputs", inputs)
