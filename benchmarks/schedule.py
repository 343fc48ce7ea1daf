"""How well is Marketo's queue used, and at what price in calls? In virtual time, beside simpler disciplines.

Ours is the orchestrator's own runner, caller, HTTP adapter and ledger, behind a transport that answers from the
simulator's queue (first-in first-out, two processors, ten places). The others are thin models over the same queue: all
open batches asked after every 5 or 30 s, and one batch at a time. Every way gets the same batches, in the same order.

The bound: the processors' work within the span, halved. No loader can be faster, since nothing makes two processors
work quicker. Beside neighbours their work counts too: then it says how much of the time the processors stood idle. A
mix with heavy tails cannot reach it when a long batch comes last; so `in order` gives the span over that of a queue
that is always full.

    python benchmarks/schedule.py [BATCHES]
"""

from __future__ import annotations

import heapq
import json
import math
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import anyio
import httpx

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from simulation.play import quiet
from simulation.virtual import EPOCH, VirtualClock, run

from orchestrator.adapters.clock import Clock
from orchestrator.adapters.files import plan_file
from orchestrator.adapters.ledger import Ledger
from orchestrator.adapters.marketo import Marketo
from orchestrator.caller import Caller
from orchestrator.core.model import Load, LoadId, Target
from orchestrator.core.schedule import Limits
from orchestrator.runner.loop import Runner
from orchestrator.simulator.queue import Job, Queue

PROCESSORS, PLACES = 2, 10
UPLOAD_S, CALL_S = 1.0, 0.1
"""How long an upload and any other call take."""
NEIGHBOUR_S = 30.0
RAM = Path("/dev/shm")


@dataclass(frozen=True)
class Mix:
    """What the batches need, and whether others use the queue."""

    name: str
    seconds: float
    """The mean of a batch."""
    heavy: bool = False
    neighbours: bool = False

    def times(self, count: int) -> list[float]:
        rng = Random(f"{self.name} {count}")
        if self.heavy:  # most are quick, one in fifty takes a quarter of an hour or more
            return [min(3600.0, rng.lognormvariate(math.log(12.0), 1.3)) for _ in range(count)]
        return [self.seconds * rng.uniform(0.6, 1.4) for _ in range(count)]


MIXES = [Mix(f"{seconds:g} s", seconds) for seconds in (2, 5, 20, 60, 300)] + [Mix("heavy tail", 28.0, heavy=True)]
MIXES += [Mix(mix.name, mix.seconds, mix.heavy, neighbours=True) for mix in MIXES]


@dataclass
class Place:
    """The queue with its neighbours, who come, keep 1 to 10 places taken for 10 to 30 batches' time, and go for 30 to
    90."""

    mix: Mix
    queue: Queue = field(default_factory=lambda: Queue(PROCESSORS))
    ours: list[Job] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self._rng = Random(self.mix.name)
        self._theirs: list[Job] = []
        self._wanted, self._until, self._looks_at = 0, 0.0, 0.0

    def step(self, now: float) -> None:
        """Everything that happened until now. Neighbours look at their places every 30 s, as many loaders do."""
        self.queue.advance(now)
        if not self.mix.neighbours:
            return
        if now >= self._until:
            self._wanted = self._rng.choice([1, 2, 3, 5, 8, 10]) if self._wanted == 0 else 0
            self._looks_at = now
            self._until = now + self.mix.seconds * (
                self._rng.uniform(10, 30) if self._wanted else self._rng.uniform(100, 250)
            )
        if now < self._looks_at:
            return
        self._looks_at = now + NEIGHBOUR_S
        self._theirs = [job for job in self._theirs if job.ended_at is None]
        while len(self._theirs) < self._wanted and len(self.queue) < PLACES:
            job = Job(0, "foreign", now, self.mix.seconds * self._rng.uniform(0.6, 1.4), ours=False)
            self._theirs.append(job)
            self.queue.add(job, now)

    def offer(self, seconds: float, now: float) -> Job | None:
        """One more of ours, or None when the queue is full."""
        self.step(now)
        if len(self.queue) >= PLACES:
            self.refused += 1
            return None
        job = Job(1001 + len(self.ours), "leads", now, seconds)
        self.ours.append(job)
        self.queue.add(job, now)
        return job


@dataclass(frozen=True)
class Result:
    """How one way did with one mix."""

    mix: Mix
    way: str
    over_bound: float
    over_in_order: float
    calls_a_batch: float
    calls_a_day: float
    slots_held: float
    delays: tuple[float, float, float]
    """From the end of a batch until it was noticed: half, 95 % and all of them within so many seconds."""
    refused: float
    """Of all uploads."""

    def __str__(self) -> str:
        half, most, longest = self.delays
        shared = "shared" if self.mix.neighbours else "alone"
        return (
            f"  {self.mix.name:10} {shared:6} {self.way:16} {self.over_bound:7.4f} {self.over_in_order:8.4f} "
            f"{self.calls_a_batch:7.2f} {self.calls_a_day:9,.0f} {self.slots_held:6.1f} "
            f"{half:7.1f} {most:7.1f} {longest:7.1f} {self.refused:8.2%}"
        )


HEAD = (
    f"  {'batch':10} {'queue':6} {'way':16} {'bound':>7} {'in order':>8} {'calls':>7} {'a day':>9} {'slots':>6} "
    f"{'p50 s':>7} {'p95 s':>7} {'max s':>7} {'refused':>8}"
)


def measured(
    place: Place, way: str, calls: int, noticed: dict[int, float], held: dict[int, float], start: float = 0.0
) -> Result:
    """noticed: batch id -> when its end was. held: batch id -> since when its slot was taken."""
    ended = [job for job in [*place.queue.ended, *place.queue.running.values()] if job.started_at is not None]
    span = max(noticed.values()) - start
    busy = sum(min(span, _ended(job)) - (job.started_at or 0.0) for job in ended if (job.started_at or 0.0) < span)
    delays = sorted(noticed[job.batch_id] - _ended(job) for job in place.ours)
    count = len(place.ours)
    return Result(
        mix=place.mix,
        way=way,
        over_bound=PROCESSORS * span / busy,
        over_in_order=span / in_order([job.seconds for job in place.ours]) if not place.mix.neighbours else math.nan,
        calls_a_batch=calls / count,
        calls_a_day=calls * 86400 / span,
        slots_held=sum(noticed[number] - at for number, at in held.items()) / span,
        delays=(statistics.median(delays), delays[int(0.95 * (count - 1))], delays[-1]),
        refused=place.refused / (count + place.refused),
    )


def _ended(job: Job) -> float:
    return job.ended_at if job.ended_at is not None else (job.started_at or 0.0) + job.seconds


def in_order(times: list[float]) -> float:
    """How long two processors need for these batches in this order when the queue is never empty."""
    free = [0.0] * PROCESSORS
    for seconds in times:
        free.sort()
        free[0] += seconds
    return max(free)


# --- ours ---------------------------------------------------------------------------------------------


class QueueTransport(httpx.AsyncBaseTransport):
    """Marketo's answers out of the queue, after the time that a call takes."""

    def __init__(self, place: Place, times: Iterator[float], now: Callable[[], float]) -> None:
        self._place, self._times, self._now = place, times, now
        self._next: float | None = None
        self.calls: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "POST" and path.startswith("/bulk/"):
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for _ in request.stream:
                pass
            await anyio.sleep(UPLOAD_S)
            await request.extensions["trace"]("http11.send_request_body.complete", {})
            return self._answer(self._create())
        await anyio.sleep(CALL_S)
        if path.startswith("/identity/"):
            return self._answer({"access_token": "token", "token_type": "bearer", "expires_in": 10**9})
        self.calls["status"] += 1
        self._place.step(self._now())
        job = self._place.ours[int(path.rpartition("/")[2].removesuffix(".json")) - 1001]
        status = {"batchId": job.batch_id, "importId": str(job.batch_id), "status": job.status(self._now())}
        if status["status"] != "Queued":
            status |= {"numOfLeadsProcessed": 1, "numOfRowsFailed": 0, "numOfRowsWithWarning": 0, "message": ""}
        return self._answer({"success": True, "result": [status]})

    def _create(self) -> dict[str, Any]:
        self.calls["create"] += 1
        self._next = next(self._times) if self._next is None else self._next
        job = self._place.offer(self._next, self._now())
        if job is None:
            full = "There are 10 imports currently being processed. Please try again later"
            return {"success": False, "errors": [{"code": "1016", "message": full}]}
        self._next = None
        return {"success": True, "result": [{"batchId": job.batch_id, "status": "Queued"}]}

    def _answer(self, body: dict[str, Any]) -> httpx.Response:
        content = json.dumps({"requestId": "1", **body}).encode()
        return httpx.Response(200, headers={"Content-Type": "application/json"}, stream=_Body(content))


class _Body(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


def limits() -> Limits:
    """The defaults of the configuration, with a pace that other ways do not keep either."""
    return Limits(
        queued_jobs=PLACES,
        concurrent_calls=5,
        calls_per_20s=50,
        doubt_lease_s=1800.0,
        min_interval_s=5.0,
        max_interval_s=30.0,
    )


def planned(folder: Path, count: int) -> tuple[Load, Any]:
    """A load of so many chunks, each of one row."""
    path = folder / "leads.csv"
    path.write_text("email\n" + "".join(f"lead{number:07}@example.com\n" for number in range(count)))
    at, plan = plan_file(path, format=None, budget=6 + 24, lookup_field="email", keep_rejected=5)
    assert len(plan.chunks) == count
    load = Load(
        id=LoadId("0123456789ab"),
        subscription="127.0.0.1",
        source=at,
        fingerprint=plan.fingerprint,
        format=plan.format,
        header=plan.header,
        target=Target(),
        budget=plan.budget,
        rows=count,
        rejected=0,
        chunks=count,
        on_doubt="resend",
        report_dir=str(folder / "report"),
        collected_dir=str(folder / "batches"),
        created_at=EPOCH,
    )
    return load, plan


def ours(mix: Mix, count: int) -> Result:
    """The orchestrator's own code, from its runner to the bytes of its calls."""
    place, clock = Place(mix), cast("Clock", VirtualClock())
    transport = QueueTransport(place, iter(mix.times(count)), lambda: clock.now() - EPOCH)
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as name, quiet():
        load, plan = planned(Path(name), count)
        with Ledger(Path(name, "ledger.db")) as ledger:
            ledger.add_load(load, plan)

            async def main() -> None:
                marketo = Marketo("http://127.0.0.1:1", "client", "secret", transport=transport)
                rng = Random(1)
                bounds = limits()
                caller = Caller(
                    marketo, clock, rng, calls_per_20s=bounds.calls_per_20s, concurrent_calls=bounds.concurrent_calls
                )
                runner = Runner(
                    load, ledger=ledger, marketo=marketo, caller=caller, clock=clock, rng=rng, limits=bounds
                )
                async with anyio.create_task_group() as tasks:
                    if mix.neighbours:
                        tasks.start_soon(_neighbours, place, lambda: clock.now() - EPOCH)
                    assert await runner.run() is None
                    tasks.cancel_scope.cancel()

            run(main)
            offers = [
                offer
                for record in ledger.records(load.id)
                for offer in record.offers
                if offer.batch_id is not None and offer.ended_at is not None
            ]
    noticed = {int(offer.batch_id): offer.ended_at - EPOCH for offer in offers if offer.ended_at and offer.batch_id}
    held = {int(offer.batch_id): offer.offered_at - EPOCH for offer in offers if offer.batch_id}
    assert place.queue.most_ours <= PLACES, "never an eleventh job"
    return measured(place, "orchestrator", transport.calls.total(), noticed, held)


async def _neighbours(place: Place, now: Callable[[], float]) -> None:
    while True:
        await anyio.sleep(min(1.0, place.mix.seconds / 4))
        place.step(now())


# --- the others -----------------------------------------------------------------------------------------


def every(poll_s: float, mix: Mix, count: int, places: int = PLACES) -> Result:
    """Each open batch is asked after at a fixed interval; its slot is filled again when its end is seen."""
    place, times = Place(mix), mix.times(count)
    noticed: dict[int, float] = {}
    held: dict[int, float] = {}
    calls, sent = 0, 0
    events: list[tuple[float, int, Job | None]] = [(UPLOAD_S, slot, None) for slot in range(places)]
    order = places
    while events:
        now, _, job = heapq.heappop(events)
        calls += 1
        order += 1
        place.step(now)
        if job is None:
            if sent == count:
                calls -= 1
                continue
            made = place.offer(times[sent], now)
            if made is None:
                heapq.heappush(events, (now + poll_s + UPLOAD_S, order, None))
                continue
            sent += 1
            held[made.batch_id] = now - UPLOAD_S
            heapq.heappush(events, (now + poll_s, order, made))
        elif job.status(now) == "Complete":
            noticed[job.batch_id] = now
            heapq.heappush(events, (now + UPLOAD_S, order, None))
        else:
            heapq.heappush(events, (now + poll_s, order, job))
    way = f"every {poll_s:g} s" if places > 1 else "one at a time"
    return measured(place, way, calls, noticed, held)


def one(way: str, mix: Mix, count: int) -> Result:
    """One cell of the table."""
    if way == "orchestrator":
        return ours(mix, count)
    if way == "one at a time":
        return every(5.0, mix, count, places=1)
    return every(float(way), mix, count)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    wanted = sys.argv[2].split(",") if len(sys.argv) > 2 else ["orchestrator", "5", "30", "one at a time"]
    print(
        f"{count:,} batches each; times +-40 %, the heavy tail log-normal; uploads {UPLOAD_S:g} s, calls {CALL_S:g} s"
    )
    print(HEAD)
    cells = [(way, mix, count) for mix in MIXES for way in wanted]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(one, *zip(*cells, strict=True)):
            print(result, flush=True)


if __name__ == "__main__":
    main()
