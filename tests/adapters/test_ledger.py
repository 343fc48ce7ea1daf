"""The ledger on real SQLite files."""

from __future__ import annotations

import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.adapters import locks
from orchestrator.adapters.ledger import _MIGRATIONS, SCHEMA_VERSION, BatchIdTaken, Ledger, connect
from orchestrator.core import lifecycle
from orchestrator.core.isolate import Spent
from orchestrator.core.model import (
    Accepted,
    AnswerLost,
    BatchId,
    Chunk,
    ChunkNumber,
    Collected,
    CollectedFile,
    Counts,
    Deferred,
    DoubtEnded,
    Ended,
    Fact,
    Fingerprint,
    Format,
    Halved,
    Header,
    Load,
    LoadId,
    Offered,
    Plan,
    Refused,
    RejectedRow,
    Released,
    Retry,
    SeenImporting,
    SourceFile,
    Span,
    State,
    Target,
)
from orchestrator.core.report import Account, account
from orchestrator.errors import IllegalTransition, LedgerLocked, LedgerUnusable, Misconfigured


def a_plan(chunks: int, rejected: tuple[RejectedRow, ...] = ()) -> Plan:
    spans = [Span(6 + 10 * i, 16 + 10 * i, 2, 1 + 2 * i, 2 + 2 * i) for i in range(chunks)]
    return Plan(
        format=Format.CSV,
        fingerprint=Fingerprint(6 + 10 * chunks, "ab" * 32),
        header=Header(0, 6, ("email",)),
        budget=100,
        rows=2 * chunks + len(rejected),
        chunks=tuple(Chunk(ChunkNumber(i + 1), (span,), 2, 16, f"{i:064x}") for i, span in enumerate(spans)),
        rejected=rejected,
        rejected_rows=len(rejected),
        blank_lines=0,
    )


def a_load(plan: Plan, load_id: str = "aaaaaaaaaaaa", list_id: int | None = None) -> Load:
    return Load(
        id=LoadId(load_id),
        subscription="host",
        source=SourceFile("/leads.csv", plan.fingerprint.size_bytes, 1, 2),
        fingerprint=plan.fingerprint,
        format=plan.format,
        header=plan.header,
        target=Target(list_id=list_id),
        budget=plan.budget,
        rows=plan.rows,
        rejected=plan.rejected_rows,
        chunks=len(plan.chunks),
        on_doubt="resend",
        report_dir=f"/reports/{load_id}",
        collected_dir="/reports/a/batches",
        created_at=1.0,
    )


def a_ledger(folder: Path, chunks: int = 3) -> tuple[Ledger, LoadId]:
    ledger, plan = Ledger(folder / "state" / "ledger.db"), a_plan(chunks)
    load = a_load(plan)
    ledger.add_load(load, plan)
    return ledger, load.id


def in_a_row(folder: Path, chunks: int = 3) -> tuple[Ledger, LoadId]:
    """Chunks of one key, each of which waits for the one before."""
    ledger, plan = Ledger(folder / "state" / "ledger.db"), a_plan(chunks)
    waiting = [replace(c, twins=True, after=ChunkNumber(c.number - 1) if c.number > 1 else None) for c in plan.chunks]
    plan = replace(plan, chunks=tuple(waiting))
    load = a_load(plan)
    ledger.add_load(load, plan)
    assert [ledger.chunk(load.id, chunk.number) for chunk in waiting] == waiting
    return ledger, load.id


def ready(ledger: Ledger, load_id: LoadId, now: float = 99.0) -> list[int]:
    return [standing.number for standing in ledger.ready(load_id, now, 9)]


def sent(ledger: Ledger, load_id: LoadId, number: int, *facts: Fact) -> None:
    ledger.claim(load_id, ChunkNumber(number), 1.0, 10)
    for fact in facts:
        ledger.record(load_id, ChunkNumber(number), fact)


def test_a_chunk_is_ready_when_the_one_that_it_waits_for_is_at_rest(tmp_path: Path) -> None:
    """Not when its batch has ended: it may be halved yet."""
    ledger, load_id = in_a_row(tmp_path)
    assert ready(ledger, load_id) == [1]
    sent(ledger, load_id, 1, Accepted(2.0, BatchId(7)), Ended(3.0, "Complete", Counts(2, 0, 0), ""))
    assert ready(ledger, load_id) == []
    ledger.record(load_id, ChunkNumber(1), Collected(4.0, None, None))
    assert ready(ledger, load_id) == [2]
    sent(ledger, load_id, 2, Refused(5.0, "1003"))
    assert ready(ledger, load_id) == [3]
    ledger.close()


def test_a_chunk_that_waits_cannot_be_offered(tmp_path: Path) -> None:
    """The database itself refuses it."""
    ledger, load_id = in_a_row(tmp_path)
    with pytest.raises(sqlite3.IntegrityError, match="at rest"):
        ledger.claim(load_id, ChunkNumber(2), 1.0, 10)
    ledger.close()


LOST_AND_LEFT = (AnswerLost(2.0, "cut"), DoubtEnded(9.0, "lease", resend=False))


def test_a_row_of_waiting_chunks_of_any_length_is_held_with_its_first(tmp_path: Path) -> None:
    """A key with millions of rows: what is held goes from one chunk to the next, and was a call in a call in a call."""
    ledger, load_id = in_a_row(tmp_path, 1_000)
    sent(ledger, load_id, 1, *LOST_AND_LEFT)
    assert ledger.chunks_by_state(load_id) == {State.HELD: 1_000}
    ledger.close()


def test_a_chunk_whose_load_was_cancelled_is_not_held_with_the_one_before(tmp_path: Path) -> None:
    """Its rows are given up already: the load ended by a fault of ours, and ever again."""
    ledger, load_id = in_a_row(tmp_path)
    sent(ledger, load_id, 1)
    ledger.refuse_planned(load_id, Refused(3.0, "cancelled"))
    for fact in LOST_AND_LEFT:
        ledger.record(load_id, ChunkNumber(1), fact)
    assert ledger.chunks_by_state(load_id) == {State.HELD: 1, State.REJECTED: 2}
    ledger.close()


def test_a_chunk_that_is_still_held_is_not_held_again_with_the_one_before(tmp_path: Path) -> None:
    """The process died when it had released the first of them, and the next one was told not to release any."""
    ledger, load_id = in_a_row(tmp_path)
    sent(ledger, load_id, 1, *LOST_AND_LEFT)
    ledger.record(load_id, ChunkNumber(1), Released(10.0))
    ledger.claim(load_id, ChunkNumber(1), 11.0, 10)
    for fact in LOST_AND_LEFT:
        ledger.record(load_id, ChunkNumber(1), replace(fact, at=12.0))
    assert ledger.chunks_by_state(load_id) == {State.HELD: 3}
    ledger.close()


def test_halves_of_twins_take_turns_and_what_waits_comes_after_both(tmp_path: Path) -> None:
    """A key may have rows in both halves, and more of them in the chunk behind."""
    ledger, load_id = in_a_row(tmp_path)
    whole = ledger.chunk(load_id, ChunkNumber(1))
    halves = tuple(
        replace(whole, spans=(Span(start, start + 5, 1, row, row + 1),), rows=1) for start, row in ((6, 1), (11, 2))
    )
    sent(ledger, load_id, 1, Halved(2.0, halves, "413"))
    for number, following in ((4, [5]), (5, [2]), (2, [3])):
        assert ready(ledger, load_id) == [number]
        sent(ledger, load_id, number, Refused(3.0, "1003"))
        assert ready(ledger, load_id) == following
    ledger.close()


def test_what_waits_for_a_held_chunk_is_held_and_released_with_it(tmp_path: Path) -> None:
    """Sent before it, it would take effect before it; the load must end all the same, and its rows are unsent."""
    ledger, load_id = in_a_row(tmp_path)
    sent(ledger, load_id, 1, AnswerLost(2.0, "reset"), DoubtEnded(3.0, "lease", resend=False))
    assert [standing.number for standing in ledger.held(load_id)] == [1, 2, 3]
    accounts = [account(record) for record in ledger.records(load_id)]
    assert accounts == [Account(unknown=2), Account(unsent=2), Account(unsent=2)]
    for standing in ledger.held(load_id):
        ledger.record(load_id, standing.number, Released(4.0))
    assert ready(ledger, load_id) == [1]
    ledger.close()


def test_many_spans_are_read_when_they_are_asked_for_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of rows that share keys has thousands: who counts rows must not pay for them."""
    ledger, plan = Ledger(tmp_path / "state" / "ledger.db"), a_plan(1)
    spans = tuple(Span(6 + 20 * i, 16 + 20 * i, 1, 1 + 2 * i, 2 + 2 * i) for i in range(100))
    chunk = replace(plan.chunks[0], spans=spans, rows=100)
    plan = replace(plan, chunks=(chunk,), rows=100)
    load = a_load(plan)
    ledger.add_load(load, plan)
    (record,) = ledger.records(load.id)
    assert record.chunk == chunk
    with monkeypatch.context() as nothing:
        nothing.setattr(
            "json.loads", lambda text: pytest.fail("parsed") if len(text) > 99 else [1986, 1996, 1, 199, 200]
        )
        (record,) = ledger.records(load.id)
        assert (len(record.chunk.spans), record.chunk.last_row) == (100, 199)
    ledger.close()


def test_a_load_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Resuming reads what an earlier process wrote."""
    path = tmp_path / "ledger.db"
    plan = a_plan(3, (RejectedRow(3, 4, 20, 30, "5 cells where the header has 4"),))
    load = a_load(plan, list_id=7)
    with Ledger(path) as ledger:
        ledger.add_load(load, plan)
    with Ledger(path) as ledger:
        assert ledger.load("aaaa") == load
        assert ledger.chunk(load.id, ChunkNumber(2)) == plan.chunks[1]
        assert list(ledger.rejected_rows(load.id)) == list(plan.rejected)
        assert [record.chunk for record in ledger.records(load.id)] == list(plan.chunks)


def test_a_report_folder_is_given_to_one_load(tmp_path: Path) -> None:
    """What another process added since it was looked for counts."""
    plan = a_plan(1)
    one, two = a_load(plan, "a" * 12), a_load(plan, "b" * 12)
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.add_load(one, plan)
        with pytest.raises(Misconfigured, match=f"it is that of load {one.id}"):
            ledger.add_load(replace(two, report_dir=one.report_dir), plan)
        assert ledger.add_load(two, plan), "nothing was kept of it"
        with pytest.raises(Misconfigured):
            ledger.move_source(two.id, two.source, None, one.report_dir, one.collected_dir)
        ledger.move_source(one.id, one.source, None, one.report_dir, one.collected_dir)


def test_a_retry_knows_where_its_rows_stood_in_the_first_source(tmp_path: Path) -> None:
    """Its own row numbers mean nothing to who has the first source open."""
    plan = a_plan(1)
    first, load = (
        a_load(plan),
        replace(a_load(plan, "bbbbbbbbbbbb"), retry=Retry(LoadId("aaaaaaaaaaaa"), "unknown", "trim")),
    )
    places = [None if row % 7 == 0 else (3 * row, 3 * row + 1) for row in range(1, 2_501)]
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.add_load(first, plan)
        assert ledger.add_load(load, plan, places)
        assert not ledger.add_load(load, plan, places)
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.load(load.id) == load
        place_of = ledger.place_of(load.id)
        for row in (1, 2_500, 7, 1_000, 1_001, 2_000):
            assert place_of(row) == places[row - 1], row
        assert place_of(2_501) is None
        assert ledger.place_of(first.id)(1) is None


def test_the_ledger_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    """Names of files and columns are nobody else's business; SQLite's default mode is 0644."""
    ledger, _ = a_ledger(tmp_path)
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(ledger.path.parent.stat().st_mode) == 0o700
    ledger.close()


def test_commits_are_synchronised_and_no_write_ahead_log_is_used(tmp_path: Path) -> None:
    """Without FULL a power cut loses an acknowledged batch id; write-ahead logs of two writers can corrupt."""
    ledger, _ = a_ledger(tmp_path)
    assert ledger._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("truncate",)
    ledger.close()


def test_no_more_slots_are_given_than_the_limit(tmp_path: Path) -> None:
    """The semaphore is read off the ledger: it must stop at the limit and go on when a slot returns."""
    ledger, load_id = a_ledger(tmp_path, chunks=12)
    for number in range(1, 11):
        claimed = ledger.claim(load_id, ChunkNumber(number), 5.0, 10)
        assert claimed is not None
        assert claimed.offer is not None
        assert claimed.offer.slot == number
    assert ledger.claim(load_id, ChunkNumber(11), 5.0, 10) is None
    ledger.record(load_id, ChunkNumber(4), Deferred(6.0, 7.0, "1016"))
    freed = ledger.claim(load_id, ChunkNumber(11), 8.0, 10)
    assert freed is not None
    assert freed.offer is not None
    assert freed.offer.slot == 4
    ledger.close()


def test_slots_are_counted_over_all_loads_of_a_subscription(tmp_path: Path) -> None:
    """Two loads with ten slots each would be twenty jobs."""
    ledger, first = a_ledger(tmp_path, chunks=6)
    plan = replace(a_plan(6), fingerprint=Fingerprint(66, "cd" * 32))
    second = a_load(plan, "bbbbbbbbbbbb")
    ledger.add_load(second, plan)
    for number in range(1, 7):
        assert ledger.claim(first, ChunkNumber(number), 5.0, 8)
    taken = [ledger.claim(second.id, ChunkNumber(number), 5.0, 8) for number in range(1, 7)]
    assert sum(standing is not None for standing in taken) == 2
    ledger.close()


def test_the_database_itself_refuses_an_eleventh_job(tmp_path: Path) -> None:
    """Whatever our code does wrong, the eleventh cannot be written down."""
    ledger, load_id = a_ledger(tmp_path, chunks=12)
    for number in range(1, 11):
        ledger.claim(load_id, ChunkNumber(number), 5.0, 10)
    for slot in (*range(1, 11), 11, None):
        with pytest.raises(sqlite3.IntegrityError):
            ledger._db.execute("UPDATE chunks SET state = 'offered', slot = ? WHERE number = 11", (slot,))
    ledger.close()


def test_the_database_itself_keeps_final_states_and_batch_ids(tmp_path: Path) -> None:
    """A settled chunk that is planned again, or a batch id that moves, is a doubled or a lost chunk."""
    ledger, load_id = a_ledger(tmp_path)
    settle(ledger, load_id, 1, 70)
    with pytest.raises(sqlite3.IntegrityError):
        ledger._db.execute("UPDATE chunks SET state = 'planned' WHERE number = 1")
    with pytest.raises(sqlite3.IntegrityError):
        ledger._db.execute("UPDATE offers SET batch_id = 71 WHERE chunk = 1")
    with pytest.raises(sqlite3.IntegrityError):
        ledger._db.execute("UPDATE facts SET kind = 'Refused'")
    ledger.close()


def settle(ledger: Ledger, load_id: LoadId, number: int, batch_id: int) -> None:
    chunk = ChunkNumber(number)
    assert ledger.claim(load_id, chunk, 5.0, 10)
    ledger.record(load_id, chunk, Accepted(6.0, BatchId(batch_id)))
    ledger.record(load_id, chunk, SeenImporting(7.0, 7.5))
    ledger.record(load_id, chunk, Ended(9.0, "Complete", Counts(1, 1, 0), "m"))
    ledger.record(load_id, chunk, Collected(10.0, CollectedFile("/f", 1), None))


def test_a_batch_id_given_to_two_chunks_is_noticed_and_nothing_is_stored(tmp_path: Path) -> None:
    """A shared id would count one chunk's rows for both, and hide that the other was lost."""
    ledger, load_id = a_ledger(tmp_path)
    settle(ledger, load_id, 1, 70)
    ledger.claim(load_id, ChunkNumber(2), 11.0, 10)
    with pytest.raises(BatchIdTaken):
        ledger.record(load_id, ChunkNumber(2), Accepted(12.0, BatchId(70)))
    assert [standing.state for standing in ledger.unsettled_offers(load_id)] == [State.OFFERED]
    ledger.close()


def test_a_fact_out_of_place_changes_nothing(tmp_path: Path) -> None:
    """A refused transition must not leave half of itself behind."""
    ledger, load_id = a_ledger(tmp_path)
    with pytest.raises(IllegalTransition):
        ledger.record(load_id, ChunkNumber(1), Accepted(6.0, BatchId(5)))
    assert ledger.chunks_by_state(load_id) == {State.PLANNED: 3}
    assert ledger._db.execute("SELECT count(*) FROM facts").fetchone() == (0,)
    ledger.close()


def test_halves_take_the_place_of_their_chunk(tmp_path: Path) -> None:
    """After 413 the children must be planned under new numbers, and the parent never offered again."""
    ledger, load_id = a_ledger(tmp_path)
    chunk = ledger.chunk(load_id, ChunkNumber(1))
    ledger.claim(load_id, chunk.number, 5.0, 10)
    left = replace(chunk, spans=(Span(6, 11, 1, 1, 2),), rows=1, size_bytes=11)
    right = replace(chunk, spans=(Span(11, 16, 1, 2, 3),), rows=1, size_bytes=11)
    ledger.record(load_id, chunk.number, Halved(6.0, (left, right), "413"))
    assert [(r.chunk.number, r.standing.state) for r in ledger.records(load_id)] == [
        (1, State.HALVED),
        (4, State.PLANNED),
        (5, State.PLANNED),
        (2, State.PLANNED),
        (3, State.PLANNED),
    ]
    assert ledger.chunk(load_id, ChunkNumber(5)).parent == 1
    ledger.close()


def test_parts_know_what_was_spent_on_their_chunk_and_what_became_of_it(tmp_path: Path) -> None:
    """The search for bad rows is bounded per chunk of the plan, and rows in doubt must not be called unsent."""
    ledger, load_id = a_ledger(tmp_path, chunks=1)
    whole = ledger.chunk(load_id, ChunkNumber(1))
    whole = replace(whole, spans=(Span(6, 16, 2, 1, 2),))
    left = replace(whole, spans=(Span(6, 11, 1, 1, 2),), rows=1, size_bytes=11)
    right = replace(whole, spans=(Span(11, 16, 1, 2, 3),), rows=1, size_bytes=11)
    failed = Ended(9.0, "Failed", Counts(0, 0, 0), "System error")
    facts = (AnswerLost(6.0, "reset"), DoubtEnded(7.0, "lease", resend=True))
    ledger.claim(load_id, whole.number, 5.0, 10)
    for fact in facts:
        ledger.record(load_id, whole.number, fact)
    for batch in (70, 71):
        ledger.claim(load_id, whole.number, 8.0, 10)
        ledger.record(load_id, whole.number, Accepted(8.5, BatchId(batch)))
        ledger.record(load_id, whole.number, failed)
    assert ledger.spent(load_id, whole.number) == Spent(2, 2, 2)
    ledger.record(load_id, whole.number, Halved(10.0, (left, right), "Failed"))
    ledger.claim(load_id, ChunkNumber(2), 11.0, 10)
    ledger.record(load_id, ChunkNumber(2), Accepted(11.5, BatchId(72)))
    part = ledger.record(load_id, ChunkNumber(2), failed)
    assert (part.batch_failures, part.batch_failures_before, part.doubts, part.doubts_before) == (1, 2, 0, 1)
    assert ledger.spent(load_id, ChunkNumber(2)) == ledger.spent(load_id, whole.number) == Spent(2, 3, 3)
    accounts = [account(record) for record in ledger.records(load_id)]
    assert accounts == [Account(), Account(unknown=1), Account(unknown=1)]
    ledger.close()


def test_an_old_ledger_gets_what_is_new_and_its_parts_their_roots(tmp_path: Path) -> None:
    """A chunk that was halved twice before the upgrade: its parts must know their root and the doubt before them."""
    path = tmp_path / "ledger.db"
    old = connect(path)
    old.executescript(_MIGRATIONS[0].read_text(encoding="utf-8") + "PRAGMA user_version = 1;")
    old.execute(
        "INSERT INTO loads VALUES ('l', 'h', '/s', 9, 0, 0, '', 'csv', 0, 1, '[]', '{}', NULL, 9, 9, 0, 1, 'resend', "
        "'/r', '/b', 1.0, NULL, NULL)"
    )
    for number, parent, state, doubts in (
        (1, None, "halved", 1),
        (2, None, "planned", 0),
        (3, 1, "halved", 2),
        (4, 1, "planned", 0),
        (5, 3, "planned", 0),
    ):
        old.execute(
            "INSERT INTO chunks (load_id, number, parent, subscription, spans, first_row, rows, size_bytes, sha256, "
            "state, doubts) VALUES ('l', ?, ?, 'h', '[[0, 1, 1, 1, 2]]', 1, 1, 9, '', ?, ?)",
            (number, parent, state, doubts),
        )
    old.close()
    with Ledger(path) as ledger:
        rows = ledger._db.execute("SELECT number, root, doubts_before FROM chunks ORDER BY number").fetchall()
        assert rows == [(1, None, 0), (2, None, 0), (3, 1, 1), (4, 1, 1), (5, 1, 3)]
        assert ledger._db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_migrations_are_numbered_from_one_without_a_gap() -> None:
    """The schema's version is the number of the last one applied."""
    assert [file.name for file in _MIGRATIONS] == [f"{number:04}.sql" for number in range(1, SCHEMA_VERSION + 1)]


def test_a_second_connection_sees_what_the_first_committed(tmp_path: Path) -> None:
    """`status` and a second load read while a load writes."""
    ledger, load_id = a_ledger(tmp_path)
    with Ledger(ledger.path) as other:
        ledger.claim(load_id, ChunkNumber(1), 5.0, 10)
        assert [standing.number for standing in other.open_chunks("host")] == [1]
    ledger.close()


def test_only_what_others_wrote_is_a_change(tmp_path: Path) -> None:
    """What a process wrote itself it knows; a look at all of it again is worth it only when another one wrote."""
    mine, load_id = a_ledger(tmp_path)
    with Ledger(mine.path) as theirs:
        mine.changed_by_others()
        mine.claim(load_id, ChunkNumber(1), 5.0, 10)
        assert not mine.changed_by_others()
        theirs.claim(load_id, ChunkNumber(2), 5.0, 10)
        assert mine.changed_by_others()
        assert not mine.changed_by_others()
    mine.close()


def test_a_ledger_of_a_later_release_is_refused(tmp_path: Path) -> None:
    """An older release would overlook what the newer one wrote."""
    ledger, _ = a_ledger(tmp_path)
    ledger._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    ledger.close()
    with pytest.raises(LedgerUnusable, match="later release"):
        Ledger(ledger.path)


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Overwriting a user's file, or starting an empty ledger over a damaged one, would send everything twice."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    before = path.read_bytes()
    opened = list[sqlite3.Connection]()

    def remembered(path: Path) -> sqlite3.Connection:
        opened.append(connect(path))
        return opened[-1]

    with pytest.raises(LedgerUnusable):
        Ledger(path, connect=remembered)
    assert path.read_bytes() == before
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):  # the daemon tries again and again
        opened[0].execute("SELECT 1")


def test_a_locked_ledger_is_waited_for_and_then_named(tmp_path: Path) -> None:
    """A stuck process must not look like a hang, nor a lost fact."""
    ledger, load_id = a_ledger(tmp_path)
    holder = connect(ledger.path)
    holder.execute("BEGIN EXCLUSIVE")
    ledger._db.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(LedgerLocked, match=f"process {os.getpid()} "):
        ledger.claim(load_id, ChunkNumber(1), 5.0, 10)
    holder.execute("ROLLBACK")
    holder.close()
    assert ledger.claim(load_id, ChunkNumber(1), 5.0, 10)
    ledger.close()


def test_what_is_read_in_one_go_is_of_one_moment(tmp_path: Path) -> None:
    """Half of it from before what another process wrote, and half from after, was never so."""
    ledger, load_id = a_ledger(tmp_path)
    other = Ledger(ledger.path)
    other._db.execute("PRAGMA busy_timeout = 10")
    with ledger.reading():
        ledger.changed_by_others()  # from now on is asked for
        assert len(ledger.ready(load_id, 5.0, 9)) == 3
        with pytest.raises(LedgerLocked):
            other.claim(load_id, ChunkNumber(1), 5.0, 10)
        assert ledger.open_chunks("host") == []
    assert other.claim(load_id, ChunkNumber(1), 5.0, 10)
    assert ledger.changed_by_others()
    assert len(ledger.ready(load_id, 5.0, 9)) == 2
    other.close()
    ledger.close()


def test_a_load_is_owned_once_and_ownership_ends_with_its_holder(tmp_path: Path) -> None:
    """Two owners would send the same chunks; a lock that outlived its process would block the load for ever."""
    ledger = tmp_path / "ledger.db"
    owner = locks.take(ledger, LoadId("x"))
    assert owner is not None
    assert locks.take(ledger, LoadId("x")) is None
    assert locks.owner_of(ledger, LoadId("x")) is not None
    owner.release()
    assert locks.owner_of(ledger, LoadId("x")) is None
    again = locks.take(ledger, LoadId("x"))
    assert again is not None
    again.release()


@settings(max_examples=60, deadline=None)
@given(choices=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), max_size=40))
def test_what_is_stored_is_what_the_facts_add_up_to(
    tmp_path_factory: pytest.TempPathFactory, choices: list[tuple[int, int]]
) -> None:
    """All state is computed from facts: replaying them must give the stored standing, always."""
    ledger, load_id = a_ledger(tmp_path_factory.mktemp("replay"), chunks=4)
    at = 10.0
    replayed = {n: ledger.record_of(load_id, ChunkNumber(n)).standing for n in range(1, 5)}
    for number, choice in choices:
        at += 1.0
        standing = replayed[number]
        facts: list[Fact] = [
            Accepted(at, BatchId(int(at))),
            Deferred(at, at + 1, "1016"),
            AnswerLost(at, "reset"),
            SeenImporting(at - 0.5, at),
            Ended(at, "Failed" if int(at) % 2 else "Complete", Counts(1, 1, 0), "m"),
            Collected(at, CollectedFile("/f", 1), None),
            DoubtEnded(at, "lease", resend=True),
        ]
        fact = facts[choice]
        if standing.state is State.PLANNED:
            claimed = ledger.claim(load_id, ChunkNumber(number), at, 10)
            assert claimed is not None
            assert claimed.offer is not None
            fact = Offered(at, claimed.offer.slot)
        elif (standing.state, type(fact)) in lifecycle.TRANSITIONS:
            ledger.record(load_id, ChunkNumber(number), fact)
        else:
            continue
        replayed[number] = lifecycle.apply(standing, fact)
    for number, standing in replayed.items():
        assert ledger.record_of(load_id, ChunkNumber(number)).standing == standing
    slots = [s.offer.slot for s in ledger.open_chunks("host") if s.offer is not None]
    assert len(slots) == len(set(slots))
    ledger.close()
