"""Deliveries that are changed in the very moment in which something else becomes of them, and what is counted."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.from_thread
import pytest

from orchestrator import library
from orchestrator.adapters import ledger as adapter
from orchestrator.core.model import LoadId, Totals
from orchestrator.core.reasons import ReasonCount
from orchestrator.daemon.deliveries import Deliveries, Delivery
from orchestrator.daemon.events import Changes
from orchestrator.daemon.metrics import Counters
from orchestrator.daemon.records import Records
from orchestrator.daemon.setup import SetupSource
from orchestrator.daemon.supervisor import Ended, Supervisor
from orchestrator.errors import LedgerLocked, SourceMissing, WorkFailing
from orchestrator.library import LoadResult, Observer, World
from orchestrator.runner.loop import Progress

ENVIRONMENT = {
    "ORCHESTRATOR_MARKETO__BASE_URL": "http://127.0.0.1:1",
    "ORCHESTRATOR_MARKETO__CLIENT_ID": "demo-client",
    "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "demo-secret",
}


@pytest.fixture
def deliveries(tmp_path: Path) -> Deliveries:
    made = Deliveries(tmp_path / "work", tmp_path / "done", tmp_path / "failed")
    for folder in (made.work, made.done, made.failed):
        folder.mkdir()
    return made


@asynccontextmanager
async def supervised(
    tmp_path: Path, deliveries: Deliveries, ended: Ended = lambda _: None
) -> AsyncIterator[Supervisor]:
    """A supervisor that runs for as long as the block lasts."""
    ledger = {"ORCHESTRATOR_STATE__LEDGER": f"sqlite:///{tmp_path}/ledger.db"}
    setup = SetupSource(None, {**ENVIRONMENT, **ledger}, {}).read()
    records = Records(setup.main)
    one = Supervisor(deliveries, records, lambda: setup, World(), Changes(), ended=ended)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.run)
            yield one
            one.stop()
    finally:
        records.close()


def waiting(deliveries: Deliveries, **known: Any) -> Delivery:
    """A delivery with its file, that is tried again later."""
    delivery = deliveries.begin("leads.csv", time.time(), "open", **known)
    deliveries.path(delivery).write_text("email\na@example.com\n")
    return delivery


def progress(started_at: float, bytes_sent: int, calls_made: int) -> Progress:
    return Progress(
        load_id=LoadId("0123456789ab"),
        source_name="leads.csv",
        now=started_at + 1.0,
        started_at=started_at,
        rows=9,
        rows_settled=0,
        rows_settled_before=0,
        imported=0,
        failed=0,
        warned=0,
        chunks=1,
        chunks_by_state={},
        slots_used=0,
        slots_limit=10,
        bytes_sent=bytes_sent,
        eta_s=None,
        waiting_for="",
        calls_made=calls_made,
    )


async def test_a_delivery_that_is_due_while_it_is_cancelled_is_not_begun(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was loaded from under the feet of whoever cancelled it, and then the daemon ended by it."""
    begun: list[Path] = []

    async def load(_: object, source: Path, *__: object, **___: object) -> None:
        begun.append(source)
        raise SourceMissing(f"{source}: no such file", remedy="")

    monkeypatch.setattr(library, "load", load)
    delivery = waiting(deliveries, not_before=time.time() + 1_000.0)
    async with supervised(tmp_path, deliveries) as supervisor:
        supervisor.add(delivery)
        end = deliveries.end

        def end_slowly(*arguments: Any, **known: Any) -> Delivery:
            anyio.from_thread.run_sync(supervisor.try_again)  # SIGHUP, or its time has come
            time.sleep(0.2)
            return end(*arguments, **known)

        monkeypatch.setattr(deliveries, "end", end_slowly)
        await supervisor.cancel(delivery.id)
    assert not begun
    assert not supervisor.open
    assert [one.id for one in deliveries.ended(9)] == [delivery.id]


async def test_a_delivery_that_cannot_be_put_away_is_still_there(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full just when it is cancelled: it can be cancelled again."""

    def end(*_: object, **__: object) -> Delivery:
        raise OSError(28, "No space left on device")

    delivery = waiting(deliveries, not_before=time.time() + 1_000.0)
    async with supervised(tmp_path, deliveries) as supervisor:
        supervisor.add(delivery)
        with monkeypatch.context() as full:
            full.setattr(deliveries, "end", end)
            with pytest.raises(WorkFailing, match="No space"):
                await supervisor.cancel(delivery.id)
        assert supervisor.open == {delivery.id: delivery}
        await supervisor.cancel(delivery.id)
    assert not supervisor.open


async def test_a_ledger_that_is_locked_when_a_load_has_ended_is_no_end_of_the_daemon(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody looks into it, or copies it, for longer than it is waited for: all loads ended with the process."""
    totals = Totals(rows=1, imported=1, failed=0, warned=0, rejected=0, unsent=0, unknown=0)

    async def load(*_: object, **__: object) -> LoadResult:
        return LoadResult(SimpleNamespace(id="0123456789ab"), totals, 0, tmp_path / "report")  # type: ignore[arg-type]

    def locked(_: str) -> None:
        raise LedgerLocked("another process has held it", remedy="")

    monkeypatch.setattr(library, "load", load)
    over = anyio.Event()
    async with supervised(tmp_path, deliveries, lambda _: over.set()) as supervisor:
        monkeypatch.setattr(supervisor._records.ledger, "load", locked)
        delivery = waiting(deliveries)
        supervisor.add(delivery)
        with anyio.fail_after(20):
            await over.wait()
    assert (deliveries.done / delivery.id).is_dir()


async def test_a_load_that_had_ended_when_the_daemon_died_is_no_repetition(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People were told that its content had been loaded before, and its failed rows were never counted."""
    totals = Totals(rows=3, imported=1, failed=2, warned=0, rejected=0, unsent=0, unknown=0)

    async def resume(*_: object, **__: object) -> LoadResult:
        known = SimpleNamespace(id="0123456789ab")
        return LoadResult(known, totals, 3, tmp_path / "report", already_finished=True)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "resume", resume)
    counters, over = Counters(), anyio.Event()

    def ended(delivery: Delivery) -> None:
        counters.ended(delivery)
        over.set()

    delivery = waiting(deliveries, load_id="0123456789ab")
    async with supervised(tmp_path, deliveries, ended) as supervisor:
        supervisor.add(delivery)
        with anyio.fail_after(20):
            await over.wait()
    known = deliveries.find_ended(delivery.id)
    assert known is not None
    assert (known.why, known.exit_code) == ("", 3)
    assert (counters.rows["imported"], counters.rows["failed"]) == (1, 2)


async def test_what_is_asked_of_a_load_in_the_moment_of_its_end_comes_too_late_and_is_no_fault(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder was just moved: whoever paused it was told to make room in the folder `work`."""
    totals = Totals(rows=1, imported=1, failed=0, warned=0, rejected=0, unsent=0, unknown=0)
    moved, asked, over = anyio.Event(), threading.Event(), anyio.Event()
    end = deliveries.end

    async def load(*_: object, **__: object) -> LoadResult:
        return LoadResult(SimpleNamespace(id="0123456789ab"), totals, 0, tmp_path / "report")  # type: ignore[arg-type]

    def slowly(*arguments: Any, **known: Any) -> Delivery:
        ended = end(*arguments, **known)
        anyio.from_thread.run_sync(moved.set)
        asked.wait(20)
        return ended

    monkeypatch.setattr(library, "load", load)
    monkeypatch.setattr(deliveries, "end", slowly)

    def ended(_: Delivery) -> None:
        over.set()

    async with supervised(tmp_path, deliveries, ended) as supervisor, anyio.create_task_group() as tasks:
        delivery = waiting(deliveries)
        supervisor.add(delivery)
        with anyio.fail_after(20):
            await moved.wait()
            tasks.start_soon(supervisor.pause, delivery.id)
            await anyio.sleep(0.05)  # it waits for its turn to write
            asked.set()
            time.sleep(0.1)  # noqa: ASYNC251 the loop is late: it is written before the end is known
            await over.wait()
    assert (deliveries.done / delivery.id).is_dir()


async def test_failed_rows_are_counted_by_all_their_reasons(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason that quotes the row is another one in each: beyond the twenty that are kept, none were counted."""
    totals = Totals(rows=50, imported=5, failed=45, warned=0, rejected=0, unsent=0, unknown=0)
    reasons = tuple(ReasonCount("failure", f"Invalid data type in field {row}", 1, None, row) for row in range(45))

    async def load(*_: object, **__: object) -> LoadResult:
        known = SimpleNamespace(id="0123456789ab")
        return LoadResult(known, totals, 3, tmp_path / "report", reasons)  # type: ignore[arg-type]

    monkeypatch.setattr(library, "load", load)
    counters, over = Counters(), anyio.Event()

    def ended(delivery: Delivery) -> None:
        counters.ended(delivery)
        over.set()

    async with supervised(tmp_path, deliveries, ended) as supervisor:
        supervisor.add(waiting(deliveries))
        with anyio.fail_after(20):
            await over.wait()
    assert counters.failures == {"permanent": 45, "transient": 0, "unknown": 0}


async def test_a_ledger_that_is_locked_when_a_load_has_ended_does_not_end_the_daemon(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup holds it for a while: all that is left to write down is where the file lies now."""
    monkeypatch.setattr(adapter, "BUSY_TIMEOUT_S", 0.05)
    totals = Totals(rows=1, imported=1, failed=0, warned=0, rejected=0, unsent=0, unknown=0)

    async def load(*_: object, **__: object) -> LoadResult:
        return LoadResult(SimpleNamespace(id="0123456789ab"), totals, 0, tmp_path / "report")  # type: ignore[arg-type]

    monkeypatch.setattr(library, "load", load)
    over: list[str] = []
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:

        def ended(delivery: Delivery) -> None:
            other.execute("BEGIN EXCLUSIVE")
            over.append(delivery.stage)

        async with supervised(tmp_path, deliveries, ended) as supervisor:
            supervisor.add(waiting(deliveries))
            with anyio.fail_after(20):
                while not over or supervisor.running:
                    await anyio.wait_all_tasks_blocked()
    assert over == ["done"]


async def test_a_priority_that_is_given_while_the_load_is_planned_is_minded(
    tmp_path: Path, deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files take a minute: their load began with the old one, and the page showed the new."""
    planning, planned, said = anyio.Event(), anyio.Event(), anyio.Event()
    minded: list[tuple[str, str]] = []

    async def load(*_: object, observer: Observer, **__: object) -> LoadResult:
        planning.set()
        await planned.wait()
        observer(progress(1.0, 0, 1))
        await said.wait()
        raise SourceMissing("over", remedy="")

    def set_priority(load_id: str, priority: str) -> None:
        minded.append((load_id, priority))
        anyio.from_thread.run_sync(said.set)

    monkeypatch.setattr(library, "load", load)
    async with supervised(tmp_path, deliveries) as supervisor:
        monkeypatch.setattr(supervisor._records.ledger, "set_priority", set_priority)
        delivery = waiting(deliveries)
        supervisor.add(delivery)
        with anyio.fail_after(20):
            await planning.wait()
            await supervisor.prioritise(delivery.id, "high")
            planned.set()
            await said.wait()
    assert minded == [("0123456789ab", "high")]


def test_the_calls_of_each_run_of_a_delivery_are_counted() -> None:
    """A run that was seen first with as many as the one before had made none, by the counter."""
    counters = Counters()
    for run in (progress(1.0, 0, 2), progress(1.0, 500, 3), progress(20.0, 500, 3), progress(40.0, 700, 5)):
        counters.progressed("a delivery", "host", run)
    assert (counters.calls["host"], counters.bytes["host"]) == (3 + 3 + 5, 500 + 500 + 700)
