"""A daemon that lives for months under virtual time, a file an hour, faults: `python tests/simulation/year.py 365`.

The daemon's own code runs whole, from the inbox to the pruning of old loads; simulated are the loop's time and httpx's
transport. What must not grow is measured all along: memory, descriptors, tasks, the ledger, folders.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import anyio
import httpx
import structlog
from simulation.virtual import EPOCH, VirtualClock, run

from orchestrator.daemon.deliveries import Delivery
from orchestrator.daemon.service import Service
from orchestrator.daemon.setup import SetupSource
from orchestrator.library import World
from orchestrator.simulator.model import Marketo, Request
from orchestrator.simulator.settings import Settings

HOUR_S = 3_600.0
KEEP_DAYS = 1
FAULTS = {"create": 0.02, "status": 0.05, "failures": 0.05, "warnings": 0.05, "token": 0.05}
LOST = 0.01
"""Share of calls whose answer is lost."""


@dataclass(frozen=True)
class Sample:
    """What there is at one moment."""

    day: int
    memory_kb: int
    descriptors: int
    tasks: int
    ledger_bytes: int
    files: int
    """Of the daemon's folders, reports and locks included."""


class Wire(httpx.AsyncBaseTransport):
    """httpx's way to the model, with answers that get lost."""

    def __init__(self, model: Marketo, rng: Random) -> None:
        self._model, self._rng = model, rng

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("http11.send_request_body.started", {})
        body = b"".join([piece async for piece in request.stream])
        if trace is not None:
            await trace("http11.send_request_body.complete", {})
        await anyio.sleep(0.05)
        headers = {name.lower(): value for name, value in request.headers.items()}
        now = asyncio.get_running_loop().time()
        target = request.url.raw_path.decode("ascii")
        answer = self._model.handle(Request(request.method, target, headers, body, len(body)), now)
        if answer.effect == "drop" or self._rng.random() < LOST:
            raise httpx.ReadError("connection reset")
        headers = {**answer.headers, "Content-Length": str(len(answer.body))}
        return httpx.Response(answer.status, headers=headers, stream=_Body(answer.body))


class _Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


@dataclass
class Told:
    """What became of the files, and what there was on the way."""

    files: int
    ended: int
    lost: list[str]
    samples: list[Sample]
    seconds: float
    most_ours: int


def live(
    folder: Path, days: int, seed: int = 1, chunk_rows: int = 150, each: Callable[[Sample], None] = lambda _: None
) -> Told:
    """So many days, with a file an hour; `each` hears of every one. Blocking."""
    model = Marketo(Settings(seed=seed, seconds_per_job=60.0, rows_per_second=50.0, min_poll_interval=0.0))
    model.faults.rates.update(FAULTS)
    rng, begun = Random(seed), time.monotonic()
    environ = {
        "ORCHESTRATOR_MARKETO__BASE_URL": "http://127.0.0.1:1",
        "ORCHESTRATOR_MARKETO__CLIENT_ID": "demo-client",
        "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "demo-secret",
        "ORCHESTRATOR_STATE__LEDGER": f"sqlite:///{folder}/ledger.db",
        "ORCHESTRATOR_REPORT__DIR": f"{folder}/reports",
        "ORCHESTRATOR_REPORT__KEEP_DAYS": str(KEEP_DAYS),
        "ORCHESTRATOR_DAEMON__LISTEN": "off",
        "ORCHESTRATOR_DAEMON__SCAN_INTERVAL": "900",
        **{f"ORCHESTRATOR_DAEMON__{name.upper()}": f"{folder}/{name}" for name in ("inbox", "work", "done", "failed")},
    }
    source = SetupSource(None, environ, {})
    setup = source.read()
    world = World(VirtualClock(), Random(seed), Wire(model, rng), lag_every_s=None)  # type: ignore[arg-type]
    told = Told(24 * days, 0, [], [], 0.0, 0)

    async def main() -> None:
        service = Service(source, setup, world, {})
        hear = service.supervisor._ended

        def heard(delivery: Delivery) -> None:
            told.ended += 1
            if delivery.exit_code != 0:
                told.lost.append(f"{delivery.name}: {delivery.exit_code} {delivery.why}")
            hear(delivery)

        service.supervisor._ended = heard

        async def senders() -> None:
            for hour in range(24 * days):
                _drop(folder / "inbox", hour, rng.randrange(1, 3 * chunk_rows))
                await anyio.sleep(HOUR_S)
                if hour % 24 == 23:
                    _forget_old(model)
                    told.samples.append(_sample(folder, hour // 24 + 1))
                    each(told.samples[-1])
            while told.ended < told.files:  # noqa: ASYNC110 time is virtual
                await anyio.sleep(60.0)
            service.stop(143)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            await anyio.sleep(1.0)
            tasks.start_soon(senders)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        run(main, end=(days + 30) * 86_400.0)
    finally:
        structlog.reset_defaults()
    told.seconds = time.monotonic() - begun
    told.most_ours = int(model.truth(model.now)["most_ours"])
    return told


def _drop(inbox: Path, hour: int, rows: int) -> None:
    text = "\n".join(["email,firstName", *(f"h{hour}r{row}@example.com,Ana" for row in range(rows)), ""])
    (inbox / f"{hour}.csv").write_text(text)
    os.utime(inbox / f"{hour}.csv", (EPOCH, EPOCH))
    (inbox / f"{hour}.csv.ready").touch()


def _forget_old(model: Marketo) -> None:
    """The stand-in must not grow either: what ended days ago is asked after by nobody."""
    for number, job in list(model.jobs.items()):
        if job.ended_at is not None and job.ended_at < model.now - 86_400.0:
            del model.jobs[number]
    for token, known in list(model._old_tokens.items()):
        if known.expires_at < model.now - 86_400.0:
            del model._old_tokens[token]
    model.queue.ended.clear()


def _sample(folder: Path, day: int) -> Sample:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        day=day,
        memory_kb=pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        tasks=len(asyncio.all_tasks()),
        ledger_bytes=(folder / "ledger.db").stat().st_size,
        files=sum(1 for _ in _walk(folder)),
    )


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        yield path
        if path.is_dir():
            yield from _walk(path)


def check(told: Told) -> None:
    """Every file was loaded, and nothing has grown since old loads began to be pruned. Raises AssertionError."""
    assert told.ended == told.files
    assert not told.lost, told.lost[:5]
    assert told.most_ours <= 10
    steady = [sample for sample in told.samples if sample.day > KEEP_DAYS + 1]
    half = len(steady) // 2
    assert half >= 2, "too short to tell"

    def most(part: list[Sample], what: str) -> Any:
        return max(getattr(sample, what) for sample in part)

    early, late = steady[:half], steady[half:]
    for what, share in (("ledger_bytes", 1.25), ("files", 1.25), ("descriptors", 1.5), ("tasks", 1.5)):
        assert most(late, what) <= most(early, what) * share + 3, (what, most(early, what), most(late, what))
    grown_kb = most(late, "memory_kb") - most(early, "memory_kb")
    assert grown_kb < 12_000, f"{grown_kb} KB of memory"


def main() -> int:
    days = int(sys.argv[1]) if len(sys.argv) > 1 else 365
    begun, every = time.monotonic(), max(1, days // 36)

    def each(sample: Sample) -> None:
        if sample.day % every == 0:
            print(f"{time.monotonic() - begun:6,.0f} s  {sample}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        told = live(Path(folder), days, each=each)
    check(told)
    print(f"{days} days, {told.files} files loaded, in {told.seconds:,.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
