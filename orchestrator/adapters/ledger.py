"""Where are plans and facts kept, so that any process can be killed at any instant?

SQLite in rollback-journal mode with FULL synchronisation: several processes may share the file, and a commit that
returned survives a power cut. (Write-ahead logging is avoided on purpose: SQLite up to 3.51.2 can corrupt such a
database when two connections write.) One method is one transaction. `record` is the only way a fact gets in:
it asks `lifecycle.apply` what the fact means and stores the fact and its meaning together.

Blocking: call it in a worker thread, one call at a time. Nothing outside this module knows which database it is, but
`salvage`, which reads damaged ones.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, replace
from functools import lru_cache
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import Any

from orchestrator.core import lifecycle
from orchestrator.core.admission import Admission
from orchestrator.core.expect import LEARNED_FROM, Past
from orchestrator.core.isolate import Spent
from orchestrator.core.model import (
    AnswerLost,
    BatchId,
    Chunk,
    ChunkNumber,
    ChunkRecord,
    CollectedFile,
    Counts,
    Fact,
    Fingerprint,
    Format,
    Halved,
    Header,
    HeldBack,
    Load,
    LoadId,
    MovedOn,
    Offer,
    Offered,
    Origin,
    Original,
    Plan,
    Priority,
    Reading,
    Refused,
    RejectedRow,
    Retry,
    Run,
    SourceFile,
    Span,
    Standing,
    State,
    Stretch,
    Target,
)
from orchestrator.core.origins import origin_sha256
from orchestrator.core.share import Wish
from orchestrator.core.spans import Spans
from orchestrator.errors import LedgerFailing, LedgerLocked, LedgerUnusable, Misconfigured, OrchestratorError

CHECKED_BYTES_MAX = 8_000_000
"""A ledger up to this size (some 7,000 chunks) is checked page by page when it is opened: 30 MB a second or more. A
larger one would keep a restart waiting: there a page is found to be bad when it is read."""
BUSY_TIMEOUT_S = 5.0
"""Other processes commit in milliseconds; longer than this means that one is stuck inside a transaction."""
MANY_SPANS = 16
"""Of a chunk; it is not worth putting fewer off."""
ROWS_AT_ONCE = 1_000
"""Rejected rows that are read in one go."""
PLACES_AT_ONCE = 1_000
"""Rows of a retry whose places stand in one row of the ledger."""

Moved = Mapping[ChunkNumber, int]
"""Failed rows of each chunk."""
Place = tuple[int, int]
"""Row and physical line of a source."""

_MIGRATIONS = sorted(
    (file for file in resources.files(__package__).joinpath("migrations").iterdir() if file.name.endswith(".sql")),
    key=lambda file: file.name,
)
"""0001.sql makes the first schema out of nothing, each further one the next out of the one before. They are never
changed once released, and only add: a process of the release before may have the ledger open."""
SCHEMA_VERSION = len(_MIGRATIONS)

_STANDING = (
    "c.load_id, c.number, c.rows, c.state, c.attempts, c.batch_failures, c.doubts, c.batch_failures_before, "
    "c.doubts_before, c.moved, c.not_before, c.why, "
    "o.attempt, o.offered_at, o.slot, o.batch_id, o.accepted_at, o.lost_at, o.queued_last_at, "
    "o.importing_first_at, o.importing_last_at, o.ended_at, o.status, o.imported, o.failed, o.warned, "
    "o.message, o.collected_at, o.failures_path, o.failures_records, o.warnings_path, o.warnings_records"
)
_OFFER = _STANDING[_STANDING.index("o.attempt") :]
_FROM = "FROM chunks c LEFT JOIN offers o ON o.load_id = c.load_id AND o.chunk = c.number AND o.attempt = c.attempts"
_LOAD = (
    "id, subscription, source_path, source_bytes, source_mtime_ns, source_inode, source_sha256, format, "
    "header_start, header_stop, header_fields, target, budget, rows, rejected, chunks, on_doubt, report_dir, "
    "collected_dir, created_at, finished_at, exit_code, priority, origin, retry, on_duplicate"
)


class BatchIdTaken(Exception):
    """Marketo answered this upload with the batch id of another chunk: the answer cannot be trusted."""


Connect = Callable[[Path], sqlite3.Connection]


def connect(path: Path) -> sqlite3.Connection:
    """The connection used in production; tests hand in one with a failing file system."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


class Ledger:
    """One open ledger. Created with its folder when it does not exist yet.

    Raises LedgerUnusable when the file is not a sound ledger of this or an earlier release, and LedgerLocked when
    another process holds it for longer than BUSY_TIMEOUT_S.
    """

    def __init__(self, path: Path, *, connect: Connect = connect) -> None:
        self.path = path
        _create_private(path)
        with self._explained():
            self._db = connect(path)
        try:
            with self._explained():
                self._db.execute("PRAGMA journal_mode = TRUNCATE")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA foreign_keys = ON")
                self._check()
                self._migrate()
        except BaseException:
            self._db.close()
            raise
        self._version: int | None = None

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- loads ----------------------------------------------------------------------------------------

    def add_load(self, load: Load, plan: Plan, places: Iterable[Place | None] = ()) -> bool:
        """A load and its whole plan, or neither; False when a load with this id is there already. Raises Misconfigured
        when another load has taken its report's folder.

        places: of a retry, where each of its rows stands in the source of the first load, in order.
        """
        with self._transaction():
            if self._all("SELECT 1 FROM loads WHERE id = ?", load.id):
                return False
            self.check_report_dir(load.report_dir, load.id)
            origin, sha256 = _origin_columns(load.origin)
            self._db.execute(
                f"INSERT INTO loads ({_LOAD}, list_id, origin_sha256) VALUES ({', '.join('?' * 28)})",
                (
                    load.id,
                    load.subscription,
                    load.source.path,
                    load.source.size_bytes,
                    load.source.mtime_ns,
                    load.source.inode,
                    load.fingerprint.sha256,
                    load.format,
                    load.header.start,
                    load.header.stop,
                    json.dumps(load.header.fields),
                    json.dumps(asdict(load.target)),
                    load.budget,
                    load.rows,
                    load.rejected,
                    load.chunks,
                    load.on_doubt,
                    load.report_dir,
                    load.collected_dir,
                    load.created_at,
                    load.finished_at,
                    load.exit_code,
                    load.priority,
                    origin,
                    json.dumps(asdict(load.retry)) if load.retry is not None else None,
                    load.on_duplicate,
                    load.target.list_id,
                    sha256 if load.retry is None else None,  # a retry is no load of those originals
                ),
            )
            self._add_chunks(load.id, load.subscription, plan.chunks)
            self._db.executemany(
                "INSERT INTO rejected_rows (load_id, row, line, start, stop, reason) VALUES (?, ?, ?, ?, ?, ?)",
                ((load.id, r.row, r.line, r.start, r.stop, r.reason) for r in chain(plan.rejected, plan.superseded)),
            )
            self._db.executemany(
                "INSERT INTO retried_rows (load_id, block, places) VALUES (?, ?, ?)",
                ((load.id, block, json.dumps(part)) for block, part in enumerate(_blocks(places))),
            )
        return True

    def place_of(self, load_id: LoadId) -> Callable[[int], Place | None]:
        """Where a row of a retry stands in the source of the first load. Quick for rows in about their order."""

        @lru_cache(maxsize=8)
        def block(number: int) -> list[list[int] | None]:
            found = self._all("SELECT places FROM retried_rows WHERE load_id = ? AND block = ?", load_id, number)
            return list(json.loads(found[0][0])) if found else []

        def place(row: int) -> Place | None:
            number, at = divmod(row - 1, PLACES_AT_ONCE)
            places = block(number)
            found = places[at] if at < len(places) else None
            return None if found is None else (found[0], found[1])

        return place

    def load(self, load_id: str) -> Load | None:
        """The load with this id, or whose id begins so when only one does."""
        rows = self._all(
            f"SELECT {_LOAD} FROM loads WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT 2", len(load_id), load_id
        )
        return _load(rows[0]) if len(rows) == 1 else None

    def beginning(self, load_id: str, most: int) -> list[LoadId]:
        """The ids that begin so, in their order, so many at most."""
        sql = "SELECT id FROM loads WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT ?"
        return [LoadId(row[0]) for row in self._all(sql, len(load_id), load_id, most)]

    def loads(self) -> list[Load]:
        """All loads, the newest first."""
        return [_load(row) for row in self._all(f"SELECT {_LOAD} FROM loads ORDER BY created_at DESC, id")]

    def recent_loads(self, most: int) -> list[Load]:
        """The newest loads, so many at most, and before them every one that is not finished; the newest first."""
        return [
            _load(row)
            for row in self._all(
                f"SELECT {_LOAD} FROM loads WHERE finished_at IS NULL OR id IN "
                "(SELECT id FROM loads ORDER BY created_at DESC, id LIMIT ?) ORDER BY created_at DESC, id",
                most,
            )
        ]

    def knows_size(self, size_bytes: int) -> bool:
        """Is there a load of a source of this size? (Then it is worth hashing the source before planning it.)"""
        return bool(self._all("SELECT 1 FROM loads WHERE source_bytes = ? LIMIT 1", size_bytes))

    def loads_from(self, originals: str) -> list[Load]:
        """The loads of a spool file made from these originals (their `origin_sha256`), the newest first."""
        sql = f"SELECT {_LOAD} FROM loads WHERE origin_sha256 = ? ORDER BY created_at DESC, id"
        return [_load(row) for row in self._all(sql, originals)]

    def knows_spools(self) -> bool:
        """Was any load made from a spool file? (Then it is worth hashing originals before reading them.)"""
        return bool(self._all("SELECT 1 FROM loads WHERE origin_sha256 IS NOT NULL LIMIT 1"))

    def loads_under_way(self, subscription: str) -> list[Load]:
        """Loads with batches in Marketo, or with files of ended ones still to be saved, whoever owns them."""
        return [
            _load(row)
            for row in self._all(
                f"SELECT {_LOAD} FROM loads WHERE id IN "
                "(SELECT load_id FROM chunks WHERE subscription = ?1 AND slot IS NOT NULL "
                "UNION SELECT load_id FROM chunks WHERE subscription = ?1 AND state = 'collecting') ORDER BY id",
                subscription,
            )
        ]

    def move_source(
        self, load_id: LoadId, source: SourceFile, origin: Origin | None, report_dir: str, collected_dir: str
    ) -> None:
        """The same content now stands elsewhere, or its report is wanted elsewhere. Collected files stay. Raises
        Misconfigured when another load has taken that folder."""
        with self._transaction():
            if not self._all("SELECT 1 FROM loads WHERE id = ? AND report_dir = ?", load_id, report_dir):
                self.check_report_dir(report_dir, load_id)
            self._db.execute(
                "UPDATE loads SET source_path = ?, source_mtime_ns = ?, source_inode = ?, report_dir = ?, "
                "collected_dir = ?, origin = ?, origin_sha256 = CASE WHEN retry IS NULL THEN ? END WHERE id = ?",
                (
                    source.path,
                    source.mtime_ns,
                    source.inode,
                    report_dir,
                    collected_dir,
                    *_origin_columns(origin),
                    load_id,
                ),
            )

    def set_on_doubt(self, load_id: LoadId, on_doubt: str) -> None:
        with self._transaction():
            self._db.execute("UPDATE loads SET on_doubt = ? WHERE id = ?", (on_doubt, load_id))

    def set_priority(self, load_id: LoadId, priority: Priority) -> None:
        with self._transaction():
            self._db.execute("UPDATE loads SET priority = ? WHERE id = ?", (priority, load_id))

    def finish(self, load_id: LoadId, at: float, exit_code: int) -> None:
        """The load is over and its report is written."""
        with self._transaction():
            self._db.execute(
                "UPDATE loads SET finished_at = coalesce(finished_at, ?), exit_code = ? WHERE id = ?",
                (at, exit_code, load_id),
            )

    def reporting_to(self, folder: str) -> list[LoadId]:
        """The loads whose report is in this folder: at most one of this release's."""
        return [LoadId(row[0]) for row in self._all("SELECT id FROM loads WHERE report_dir = ? ORDER BY id", folder)]

    def check_report_dir(self, folder: str, load_id: LoadId) -> None:
        """Raises Misconfigured when another load's report is in this folder: it would be written over."""
        if others := [other for other in self.reporting_to(folder) if other != load_id]:
            raise Misconfigured(
                f"report folder {folder}: it is that of load {others[0]}; nothing was sent",
                remedy="Name another with --report-dir.",
            )

    def collected_paths(self, load_id: LoadId) -> list[str]:
        """Failure and warning files of all its batches, wherever they were saved."""
        return [
            str(path)
            for row in self._all("SELECT failures_path, warnings_path FROM offers WHERE load_id = ?", load_id)
            for path in row
            if path is not None
        ]

    def collected_by_others(self, folder: str, load_id: LoadId) -> set[str]:
        """Files of other loads in this folder of collected files: their reports have moved on since."""
        begins = f"{folder}/"
        rows = self._all(
            "SELECT failures_path, warnings_path FROM offers WHERE load_id <> ? "
            "AND (substr(failures_path, 1, ?) = ? OR substr(warnings_path, 1, ?) = ?)",
            load_id,
            *(len(begins), begins) * 2,
        )
        return {str(path) for row in rows for path in row if path is not None}

    def holds_slot(self, load_id: LoadId) -> bool:
        """Is a batch of it in Marketo's queue, or may one be?"""
        return bool(self._all("SELECT 1 FROM chunks WHERE load_id = ? AND slot IS NOT NULL LIMIT 1", load_id))

    def remove_load(self, load_id: LoadId) -> bool:
        """Everything of a load, or nothing: False while one of its chunks holds a slot."""
        with self._transaction():
            if self.holds_slot(load_id):
                return False
            for table in ("facts", "offers", "rejected_rows", "retried_rows", "calls", "runs", "chunks"):
                self._db.execute(f"DELETE FROM {table} WHERE load_id = ?", (load_id,))
            self._db.execute("DELETE FROM loads WHERE id = ?", (load_id,))
        return True

    # --- facts ----------------------------------------------------------------------------------------

    def claim(self, load_id: LoadId, number: ChunkNumber, at: float, limit: int) -> Standing | None:
        """Record Offered with the lowest free slot; None when `limit` slots of the subscription are held.

        This is the semaphore: its count is read off the ledger in the same transaction that takes one.
        """
        with self._transaction():
            standing = self.standing(load_id, number)
            used = {
                int(slot)
                for (slot,) in self._all(
                    "SELECT slot FROM chunks WHERE slot IS NOT NULL AND subscription = "
                    "(SELECT subscription FROM loads WHERE id = ?)",
                    load_id,
                )
            }
            if len(used) >= limit or standing.state is not State.PLANNED:
                return None
            slot = min(set(range(1, 11)) - used)
            self._db.execute("UPDATE runs SET served_at = ? WHERE load_id = ?", (at, load_id))
            return self._record(standing, Offered(at=at, slot=slot))

    def record(self, load_id: LoadId, number: ChunkNumber, fact: Fact) -> Standing:
        """Make a fact durable with what it means; returns where the chunk stands then.

        Raises IllegalTransition when the fact cannot follow, BatchIdTaken when another chunk has that batch id.
        Nothing is stored then.
        """
        with self._transaction():
            return self._record(self.standing(load_id, number), fact)

    def refuse_planned(self, load_id: LoadId, fact: Refused) -> tuple[int, int]:
        """Everything of a load that is not sent never will be; says how many chunks and rows that is."""
        with self._transaction():
            planned = self._standings("WHERE c.load_id = ? AND c.state = 'planned' ORDER BY c.number", load_id)
            for standing in planned:
                self._record(standing, fact)
        return len(planned), sum(standing.rows for standing in planned)

    def _record(self, before: Standing, fact: Fact) -> Standing:
        after, fact = self._write(before, fact)
        at_rest = [after] if after.state in lifecycle.AT_REST and after.state is not before.state else []
        while at_rest:  # one may wait for the other in a row that is longer than Python's stack is deep
            at_rest += self._tell_waiting(at_rest.pop(), fact)
        return after

    def _write(self, before: Standing, fact: Fact) -> tuple[Standing, Fact]:
        """A fact and what it means; the fact as it is written down, its parts numbered."""
        if isinstance(fact, Halved):
            next_number = 1 + int(self._all("SELECT max(number) FROM chunks WHERE load_id = ?", before.load_id)[0][0])
            children = tuple(
                replace(
                    child,
                    number=ChunkNumber(next_number + i),
                    parent=before.number,
                    after=ChunkNumber(next_number + i - 1) if child.twins and i else None,
                )
                for i, child in enumerate(fact.children)
            )
            assert sum(child.rows for child in children) == before.rows, "halves cover their chunk"
            fact = replace(fact, children=children)
            self._add_parts(before, children)
        if isinstance(fact, AnswerLost):
            fact = replace(fact, at=self._after_all_offers(before, fact.at))
        after = lifecycle.apply(before, fact)
        holds = after.state in lifecycle.HOLDS_SLOT
        slot = after.offer.slot if holds and after.offer is not None else None
        self._db.execute(
            "UPDATE chunks SET state = ?, slot = ?, attempts = ?, batch_failures = ?, doubts = ?, moved = ?, "
            "not_before = ?, why = ? WHERE load_id = ? AND number = ?",
            (
                after.state,
                slot,
                after.attempts,
                after.batch_failures,
                after.doubts,
                after.moved,
                after.not_before,
                after.why,
                after.load_id,
                after.number,
            ),
        )
        if after.offer is not None and after.offer != before.offer:
            self._put_offer(after, after.offer)
        self._db.execute(
            "INSERT INTO facts (load_id, chunk, at, kind, detail) VALUES (?, ?, ?, ?, ?)",
            (after.load_id, after.number, fact.at, type(fact).__name__, json.dumps(asdict(fact))),
        )
        return after, fact

    def _after_all_offers(self, standing: Standing, at: float) -> float:
        """This time, but not before any open offer: the fence counts batches that were sent after an answer was lost.

        Of two processes the later one may have the earlier time, when the system's clock was set back between them.
        """
        open_ = self.open_chunks(self._subscription(standing.load_id))
        return max([at, *(one.offer.offered_at for one in open_ if one.offer is not None)])

    def _tell_waiting(self, ended: Standing, fact: Fact) -> list[Standing]:
        """What becomes of the chunk that waits for one that has come to rest, if one does; returned when it is held."""
        held: list[Standing] = []
        for standing in self._standings("WHERE c.load_id = ? AND c.after = ?", ended.load_id, ended.number):
            if ended.state is not State.HELD:  # the second half comes last
                after = max(child.number for child in fact.children) if isinstance(fact, Halved) else None
                self._db.execute(
                    "UPDATE chunks SET after = ? WHERE load_id = ? AND number = ?",
                    (after, standing.load_id, standing.number),
                )
            elif standing.state is State.PLANNED:  # it may have been cancelled, or be held since the last time
                why = f"chunk {ended.number} is held, and its rows come first"
                held.append(self._write(standing, HeldBack(at=fact.at, why=why))[0])
        return held

    def _put_offer(self, standing: Standing, offer: Offer) -> None:
        counts, failures, warnings = offer.counts, offer.failures, offer.warnings
        try:
            self._db.execute(
                "INSERT INTO offers (load_id, chunk, attempt, subscription, slot, offered_at, batch_id, "
                "accepted_at, lost_at, queued_last_at, importing_first_at, importing_last_at, ended_at, status, "
                "imported, failed, warned, message, collected_at, failures_path, failures_records, warnings_path, "
                "warnings_records) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (load_id, chunk, attempt) DO UPDATE SET batch_id = excluded.batch_id, "
                "accepted_at = excluded.accepted_at, lost_at = excluded.lost_at, "
                "queued_last_at = excluded.queued_last_at, "
                "importing_first_at = excluded.importing_first_at, "
                "importing_last_at = excluded.importing_last_at, ended_at = excluded.ended_at, "
                "status = excluded.status, imported = excluded.imported, failed = excluded.failed, "
                "warned = excluded.warned, message = excluded.message, collected_at = excluded.collected_at, "
                "failures_path = excluded.failures_path, failures_records = excluded.failures_records, "
                "warnings_path = excluded.warnings_path, warnings_records = excluded.warnings_records",
                (
                    standing.load_id,
                    standing.number,
                    offer.attempt,
                    self._subscription(standing.load_id),
                    offer.slot,
                    offer.offered_at,
                    offer.batch_id,
                    offer.accepted_at,
                    offer.lost_at,
                    offer.queued_last_at,
                    offer.importing_first_at,
                    offer.importing_last_at,
                    offer.ended_at,
                    offer.status,
                    counts.imported if counts else None,
                    counts.failed if counts else None,
                    counts.warned if counts else None,
                    offer.message,
                    offer.collected_at,
                    failures.path if failures else None,
                    failures.records if failures else None,
                    warnings.path if warnings else None,
                    warnings.records if warnings else None,
                ),
            )
        except sqlite3.IntegrityError as error:
            if "batch_id" in str(error):
                raise BatchIdTaken(offer.batch_id) from error
            raise

    # --- how things stand -------------------------------------------------------------------------------

    def open_chunks(self, subscription: str) -> list[Standing]:
        """Every chunk that holds a slot, the oldest offer first."""
        return self._standings(
            "WHERE c.subscription = ? AND c.slot IS NOT NULL ORDER BY o.offered_at, c.load_id, c.number",
            subscription,
        )

    def open_in_list(self, subscription: str, list_id: int) -> list[Standing]:
        """Those of them that go into one static list."""
        return self._standings(
            "JOIN loads l ON l.id = c.load_id WHERE c.subscription = ? AND c.slot IS NOT NULL AND l.list_id = ?",
            subscription,
            list_id,
        )

    def collecting(self, load_id: LoadId) -> list[Standing]:
        """Ended batches whose files are still to be saved, the oldest first: Marketo drops them after seven days."""
        return self._standings(
            "WHERE c.load_id = ? AND c.state = 'collecting' ORDER BY o.accepted_at, c.number LIMIT 50", load_id
        )

    def ready(self, load_id: LoadId, now: float, count: int) -> list[Standing]:
        """The next planned chunks in order, without those that wait for another one.

        Those that must wait for a time come after those that need not.
        """
        due = self._standings(
            "WHERE c.load_id = ? AND c.state = 'planned' AND c.after IS NULL AND c.not_before <= ? "
            "ORDER BY c.number LIMIT ?",
            load_id,
            now,
            count,
        )
        if len(due) == count:
            return due
        return due + self._standings(
            "WHERE c.load_id = ? AND c.state = 'planned' AND c.after IS NULL AND c.not_before > ? "
            "ORDER BY c.not_before LIMIT 1",
            load_id,
            now,
        )

    def chunks_by_state(self, load_id: LoadId) -> dict[State, int]:
        return {
            State(state): int(count)
            for state, count in self._all(
                "SELECT state, count(*) FROM chunks WHERE load_id = ? GROUP BY state", load_id
            )
        }

    def unsettled_offers(self, load_id: LoadId) -> list[Standing]:
        """Chunks in state offered: an answer was due when the last owner of the load ended."""
        return self._standings("WHERE c.load_id = ? AND c.state = 'offered' ORDER BY c.number", load_id)

    def held(self, load_id: LoadId) -> list[Standing]:
        return self._standings("WHERE c.load_id = ? AND c.state = 'held' ORDER BY c.number", load_id)

    def chunk(self, load_id: LoadId, number: ChunkNumber) -> Chunk:
        row = self._all(
            "SELECT number, spans, rows, size_bytes, sha256, parent, again, twins, after FROM chunks "
            "WHERE load_id = ? AND number = ?",
            load_id,
            number,
        )[0]
        return _chunk(row)

    def records(self, load_id: LoadId) -> Iterator[ChunkRecord]:
        """Every chunk with its standing and its offers, in the order of the source, those of twins last; streamed."""
        numbers = [
            int(number)
            for (number,) in self._all(
                "SELECT number FROM chunks WHERE load_id = ? ORDER BY twins, first_row, number", load_id
            )
        ]
        for number in numbers:  # one short read each: a long one would keep other loads from writing
            yield self.record_of(load_id, ChunkNumber(number))

    def record_of(self, load_id: LoadId, number: ChunkNumber) -> ChunkRecord:
        offers = tuple(
            offer
            for row in self._all(
                f"SELECT {_OFFER} FROM offers o WHERE o.load_id = ? AND o.chunk = ? ORDER BY o.attempt",
                load_id,
                number,
            )
            if (offer := _offer(row)) is not None
        )
        return ChunkRecord(chunk=self.chunk(load_id, number), standing=self.standing(load_id, number), offers=offers)

    def standing(self, load_id: LoadId, number: ChunkNumber) -> Standing:
        return self._standings("WHERE c.load_id = ? AND c.number = ?", load_id, number)[0]

    def standings_after(self, load_id: LoadId, number: int, most: int) -> list[Standing]:
        """Where the chunks behind one stand, in the order of their numbers."""
        return self._standings("WHERE c.load_id = ? AND c.number > ? ORDER BY c.number LIMIT ?", load_id, number, most)

    def spent(self, load_id: LoadId, number: ChunkNumber) -> Spent:
        """What the search for the rows that break this chunk's batches has cost so far."""
        ((root,),) = self._all(
            "SELECT coalesce(root, number) FROM chunks WHERE load_id = ? AND number = ?", load_id, number
        )
        ((rows, of_root, of_parts, of_load),) = self._all(
            "SELECT rows, batch_failures, "
            "(SELECT coalesce(sum(batch_failures), 0) FROM chunks WHERE load_id = ?1 AND root = ?2), "
            "(SELECT coalesce(sum(batch_failures), 0) FROM chunks WHERE load_id = ?1 AND batch_failures > 0) "
            "FROM chunks WHERE load_id = ?1 AND number = ?2",
            load_id,
            root,
        )
        return Spent(int(rows), int(of_root) + int(of_parts), int(of_load))

    def rejected_rows(self, load_id: LoadId) -> Iterator[RejectedRow]:
        """In the order of the source; streamed, since every row that another supersedes is one of them."""
        last = 0
        while True:  # short reads: a long one would keep other loads from writing
            rows = self._all(
                "SELECT row, line, start, stop, reason FROM rejected_rows WHERE load_id = ? AND row > ? "
                "ORDER BY row LIMIT ?",
                load_id,
                last,
                ROWS_AT_ONCE,
            )
            yield from (RejectedRow(*row) for row in rows)
            if len(rows) < ROWS_AT_ONCE:
                return
            last = int(rows[-1][0])

    def settled_counts(self, load_id: LoadId) -> tuple[int, int, int, int]:
        """Rows of chunks at rest, and of ended batches: rows, imported, failed, warned."""
        row = self._all(
            "SELECT coalesce(sum(c.rows - c.moved), 0), coalesce(sum(o.imported), 0), "
            f"coalesce(sum(o.failed - c.moved), 0), coalesce(sum(o.warned), 0) {_FROM} "
            "WHERE c.load_id = ? AND c.state IN ('settled', 'expired', 'rejected', 'held')",
            load_id,
        )[0]
        return int(row[0]), int(row[1]), int(row[2]), int(row[3])

    def gone_again(self, load_id: LoadId) -> int:
        """How many times rows of this load were put into last chunks."""
        return int(self._all("SELECT again FROM loads WHERE id = ?", load_id)[0][0])

    def add_last_chunks(self, load_id: LoadId, at: float, again: int, chunks: list[Chunk], moved: Moved) -> bool:
        """Failed rows, taken out of their chunks and put into new ones: all of it or nothing, and each time once.

        False when rows have gone again so many times already.
        """
        with self._transaction():
            if self.gone_again(load_id) >= again:
                return False
            assert sum(chunk.rows for chunk in chunks) == sum(moved.values()), "what moves on arrives"
            next_number = 1 + int(self._all("SELECT max(number) FROM chunks WHERE load_id = ?", load_id)[0][0])
            numbered = [replace(chunk, number=ChunkNumber(next_number + i)) for i, chunk in enumerate(chunks)]
            self._add_chunks(load_id, self._subscription(load_id), numbered)
            for number, rows in moved.items():
                self._record(self.standing(load_id, number), MovedOn(at=at, rows=rows, again=again))
            self._db.execute("UPDATE loads SET again = ? WHERE id = ?", (again, load_id))
        return True

    # --- the queue: what is known of it, and who wants to use it ------------------------------------------

    def past(self, subscription: str) -> list[Past]:
        """The newest ended batches of the subscription, as many as are learned from."""
        return [
            Past(*row)
            for row in self._all(
                "SELECT c.rows, o.offered_at, o.accepted_at, o.queued_last_at, o.importing_first_at, "
                "o.importing_last_at, o.ended_at FROM offers o "
                "JOIN chunks c ON c.load_id = o.load_id AND c.number = o.chunk "
                "WHERE o.subscription = ? AND o.ended_at IS NOT NULL ORDER BY o.ended_at DESC LIMIT ?",
                subscription,
                LEARNED_FROM,
            )
        ]

    def rows_ended(self, subscription: str, since: float, step_s: float) -> dict[int, int]:
        """Rows of the batches that ended from a time on, by the step after it in which they did."""
        return {
            int(step): int(rows)
            for step, rows in self._all(
                "SELECT CAST((ended_at - ?1) / ?2 AS INTEGER), sum(imported + failed) FROM offers "
                "WHERE subscription = ?3 AND ended_at >= ?1 GROUP BY 1",
                since,
                step_s,
                subscription,
            )
        }

    def admission(self, subscription: str, list_id: int | None = None) -> Admission:
        """What is known of the subscription's queue, or of the lane of one static list."""
        rows = self._all(
            "SELECT room, refusals, refused_first_at, refused_last_at FROM admissions "
            "WHERE subscription = ? AND list_id = ?",
            subscription,
            list_id or 0,
        )
        return Admission(*rows[0]) if rows else Admission()

    def learn(self, subscription: str, list_id: int | None, change: Callable[[Admission, int], Admission]) -> Admission:
        """Change what is known of a queue; `change` gets it, and how many of ours Marketo has there for sure."""
        with self._transaction():
            before = self.admission(subscription, list_id)
            sql = "SELECT count(*) FROM chunks c JOIN loads l ON l.id = c.load_id WHERE c.subscription = ?"
            sql += " AND c.slot IS NOT NULL AND c.state <> 'offered'"
            if list_id is None:
                ((there,),) = self._all(sql, subscription)
            else:
                ((there,),) = self._all(sql + " AND l.list_id = ?", subscription, list_id)
            after = change(before, int(there))
            if after != before:
                self._db.execute(
                    "INSERT OR REPLACE INTO admissions (subscription, list_id, room, refusals, "
                    "refused_first_at, refused_last_at) VALUES (?, ?, ?, ?, ?, ?)",
                    (subscription, list_id or 0, *astuple(after)),
                )
        return after

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read within is of one moment, whatever other processes write meanwhile."""
        with self._explained():
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    def changed_by_others(self) -> bool:
        """Has another process written anything since this was last asked? Much cheaper than reading it all again."""
        ((version,),) = self._all("PRAGMA data_version")
        changed, self._version = version != self._version, version
        return bool(changed)

    def wishes(self, subscription: str, heard_since: float) -> list[Wish]:
        """What the running loads want of the slots; of those that were heard of lately."""
        return [
            Wish(LoadId(load_id), *wish)
            for load_id, *wish in self._all(
                "SELECT r.load_id, l.priority, r.unsent, (SELECT count(*) FROM chunks c WHERE "
                "c.subscription = r.subscription AND c.slot IS NOT NULL AND c.load_id = r.load_id), "
                "r.served_at, r.work_unsent, r.queued_jobs FROM runs r JOIN loads l ON l.id = r.load_id "
                "WHERE r.subscription = ? AND NOT r.ended AND r.heard_at >= ? ORDER BY r.load_id",
                subscription,
                heard_since,
            )
        ]

    def tell(self, load_id: LoadId, run: Run) -> None:
        """What the run of a load wants, waits for and expects."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO runs (load_id, subscription, unsent, served_at, waiting_for, waiting_since, ends_at, "
                "work_unsent, heard_at, ended, queued_jobs) "
                "SELECT id, subscription, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM loads WHERE id = ? "
                "ON CONFLICT (load_id) DO UPDATE SET unsent = excluded.unsent, waiting_for = excluded.waiting_for, "
                "served_at = CASE WHEN ended THEN excluded.served_at ELSE served_at END, "
                "waiting_since = excluded.waiting_since, ends_at = excluded.ends_at, "
                "work_unsent = excluded.work_unsent, heard_at = excluded.heard_at, ended = excluded.ended, "
                "queued_jobs = excluded.queued_jobs",
                (
                    run.unsent,
                    run.heard_at,
                    run.waiting_for,
                    run.waiting_since,
                    run.ends_at,
                    run.work_unsent,
                    run.heard_at,
                    run.ended,
                    run.queued_jobs,
                    load_id,
                ),
            )

    def run_of(self, load_id: LoadId) -> Run | None:
        """What the run of a load said last; None when it has not run since such things are written down."""
        rows = self._all(
            "SELECT heard_at, unsent, waiting_for, waiting_since, ends_at, work_unsent, ended, queued_jobs FROM runs "
            "WHERE load_id = ?",
            load_id,
        )
        if not rows:
            return None
        run = Run(*rows[0])
        return replace(run, ended=bool(run.ended))

    # --- calls ------------------------------------------------------------------------------------------

    def add_calls(self, load_id: LoadId, made: Mapping[str, int]) -> None:
        with self._transaction():
            self._db.executemany(
                "INSERT INTO calls (load_id, kind, made) VALUES (?, ?, ?) "
                "ON CONFLICT (load_id, kind) DO UPDATE SET made = made + excluded.made",
                [(load_id, kind, count) for kind, count in made.items()],
            )

    def calls(self, load_id: LoadId) -> dict[str, int]:
        return {
            str(kind): int(made)
            for kind, made in self._all("SELECT kind, made FROM calls WHERE load_id = ? ORDER BY kind", load_id)
        }

    # --- inside -----------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as ours; a broken constraint stays what it is, for whoever knows what it means."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise _explain(error, self.path) from error

    def _check(self) -> None:
        """A damaged ledger may have forgotten that a chunk was sent: it is refused before anything is done with it."""
        if 0 < self.path.stat().st_size <= CHECKED_BYTES_MAX:
            (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(f"malformed: {' '.join(str(found).split())}")

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise LedgerUnusable(
                f"ledger {self.path}: written by a later release (schema {version}, known up to {SCHEMA_VERSION})",
                remedy="Use that release: an older one cannot know what it would overlook.",
            )
        for number, migration in enumerate(_MIGRATIONS[version:], version + 1):
            with self._transaction():
                if self._db.execute("PRAGMA user_version").fetchone()[0] < number:  # nobody else did it meanwhile
                    for statement in _statements(migration.read_text(encoding="utf-8")):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {number}")

    def _all(self, sql: str, *arguments: Any) -> list[Any]:
        with self._explained():
            return self._db.execute(sql, arguments).fetchall()

    def _standings(self, where: str, *arguments: Any) -> list[Standing]:
        return [_standing(row) for row in self._all(f"SELECT {_STANDING} {_FROM} {where}", *arguments)]

    def _subscription(self, load_id: LoadId) -> str:
        return str(self._all("SELECT subscription FROM loads WHERE id = ?", load_id)[0][0])

    def _add_chunks(self, load_id: LoadId, subscription: str, chunks: Iterable[Chunk]) -> None:
        self._db.executemany(
            "INSERT INTO chunks (load_id, number, parent, subscription, spans, first_row, rows, size_bytes, "
            "sha256, again, twins, after, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'planned')",
            (
                (
                    load_id,
                    chunk.number,
                    chunk.parent,
                    subscription,
                    json.dumps([[s.start, s.stop, s.rows, s.first_row, s.first_line] for s in chunk.spans]),
                    chunk.first_row,
                    chunk.rows,
                    chunk.size_bytes,
                    chunk.sha256,
                    chunk.again,
                    chunk.twins,
                    chunk.after,
                )
                for chunk in chunks
            ),
        )

    def _add_parts(self, whole: Standing, parts: tuple[Chunk, ...]) -> None:
        """Parts in the place of a chunk. They know their root, and what became of the chunks they were cut from."""
        self._add_chunks(whole.load_id, self._subscription(whole.load_id), parts)
        self._db.executemany(
            "UPDATE chunks SET doubts_before = ?, batch_failures_before = ?, root = (SELECT coalesce(root, number) "
            "FROM chunks WHERE load_id = ? AND number = ?) WHERE load_id = ? AND number = ?",
            [
                (
                    whole.doubts_before + whole.doubts,
                    whole.batch_failures_before + whole.batch_failures,
                    whole.load_id,
                    whole.number,
                    whole.load_id,
                    part.number,
                )
                for part in parts
            ],
        )


def _create_private(path: Path) -> None:
    """The file exists with mode 0600 before SQLite sees it: its journal copies the mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise _out_of_reach(path, error) from error


def is_there(path: Path) -> bool:
    """Was a ledger begun at this place? Raises LedgerUnusable where that is not to be known."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _out_of_reach(path, error) from error
    return True


def _out_of_reach(path: Path, error: OSError) -> LedgerUnusable:
    return LedgerUnusable(
        f"ledger {path}: {error.strerror}", remedy="Set state.ledger to a place that can be written, on a local disk."
    )


def _explain(error: sqlite3.DatabaseError, path: Path) -> OrchestratorError:
    text = str(error)
    if "locked" in text or "busy" in text:
        pids = _holders(path)
        who = f"process {', '.join(map(str, pids))}" if pids else "another process"
        return LedgerLocked(
            f"ledger {path}: {who} has held it for {BUSY_TIMEOUT_S:.0f} s",
            remedy=f"See whether {who} is stuck; then run the same command again.",
        )
    if "malformed" in text or "not a database" in text:
        return LedgerUnusable(
            f"ledger {path}: this is not a sound ledger ({text})",
            remedy="Keep the file, save what it still knows with `orchestrator export`, then restore a backup or move "
            "it away: loads begun in it are then unknown, and running them again sends their rows again.",
        )
    # What may be opened and cannot be, such as the journal of an open ledger: there are no descriptors left.
    if "full" in text or "I/O" in text or ("unable to open" in text and os.access(path.parent, os.W_OK)):
        return LedgerFailing(
            f"ledger {path}: {text}; nothing more was sent",
            remedy="Check the disk's space and health, and this process's limits; then run the same command again.",
        )
    return LedgerUnusable(
        f"ledger {path}: {text}", remedy="Set state.ledger to a place that can be written, on a local disk."
    )


def _holders(path: Path) -> list[int]:
    """Processes of this machine with a lock on the ledger, where the kernel tells.

    (To ask SQLite's file itself one would have to open it, and to close it again lets go of every lock that this
    process has on it: https://www.sqlite.org/howtocorrupt.html, 2.2.)
    """
    try:
        stat = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    file = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    held = (line.split() for line in lines if f" {file} " in line and "->" not in line)  # the arrow marks who waits
    return sorted({int(words[4]) for words in held if int(words[4]) > 0})


def _blocks(places: Iterable[Place | None]) -> Iterator[list[Place | None]]:
    rest = iter(places)
    while block := list(islice(rest, PLACES_AT_ONCE)):
        yield block


def _statements(schema: str) -> Iterator[str]:
    """The statements of a schema, triggers whole."""
    statement = ""
    for line in schema.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _load(row: tuple[Any, ...]) -> Load:
    return Load(
        id=LoadId(row[0]),
        subscription=row[1],
        source=SourceFile(path=row[2], size_bytes=row[3], mtime_ns=row[4], inode=row[5]),
        fingerprint=Fingerprint(size_bytes=row[3], sha256=row[6]),
        format=Format(row[7]),
        header=Header(start=row[8], stop=row[9], fields=tuple(json.loads(row[10]))),
        target=Target(**json.loads(row[11])),
        budget=row[12],
        rows=row[13],
        rejected=row[14],
        chunks=row[15],
        on_doubt=row[16],
        report_dir=row[17],
        collected_dir=row[18],
        created_at=row[19],
        finished_at=row[20],
        exit_code=row[21],
        priority=row[22],
        origin=_origin(row[23]),
        retry=None if row[24] is None else Retry(**json.loads(row[24])),
        on_duplicate=row[25],
    )


def _origin_columns(origin: Origin | None) -> tuple[str | None, str | None]:
    if origin is None:
        return None, None
    return json.dumps(asdict(origin)), origin_sha256(origin.originals, origin.reading)


def _origin(text: str | None) -> Origin | None:
    if text is None:
        return None
    told = json.loads(text)
    reading = told["reading"]
    return Origin(
        originals=tuple(Original(**original) for original in told["originals"]),
        reading=Reading(**{**reading, "renamed": tuple((new, old) for new, old in reading["renamed"])}),
        counted=told["counted"],
        stretches=tuple(Stretch(**stretch) for stretch in told["stretches"]),
    )


def _chunk(row: tuple[Any, ...]) -> Chunk:
    number, spans, rows, size_bytes, sha256, parent, again, twins, after = row
    return Chunk(
        number=ChunkNumber(number),
        spans=_spans(spans),
        rows=rows,
        size_bytes=size_bytes,
        sha256=sha256,
        parent=None if parent is None else ChunkNumber(parent),
        again=again,
        twins=bool(twins),
        after=None if after is None else ChunkNumber(after),
    )


def _spans(text: str) -> Sequence[Span]:
    """Many of them are read only by whoever goes through them."""

    def read() -> Iterator[Span]:
        return (Span(*span) for span in json.loads(text))

    count = text.count("[") - 1
    if count < MANY_SPANS:
        return tuple(read())
    first, last = text[1 : text.index("]") + 1], text[text.rindex("[") : -1]
    return Spans(count, Span(*json.loads(first)), Span(*json.loads(last)), read)


def _standing(row: tuple[Any, ...]) -> Standing:
    return Standing(
        load_id=LoadId(row[0]),
        number=ChunkNumber(row[1]),
        rows=row[2],
        state=State(row[3]),
        attempts=row[4],
        batch_failures=row[5],
        doubts=row[6],
        batch_failures_before=row[7],
        doubts_before=row[8],
        moved=row[9],
        not_before=row[10],
        why=row[11],
        offer=_offer(row[12:]),
    )


def _offer(row: tuple[Any, ...]) -> Offer | None:
    if row[0] is None:
        return None
    (
        attempt,
        offered_at,
        slot,
        batch_id,
        accepted_at,
        lost_at,
        queued_last_at,
        importing_first_at,
        importing_last_at,
        ended_at,
        status,
        imported,
        failed,
        warned,
        message,
        collected_at,
        failures_path,
        failures_records,
        warnings_path,
        warnings_records,
    ) = row
    return Offer(
        attempt=attempt,
        offered_at=offered_at,
        slot=slot,
        batch_id=None if batch_id is None else BatchId(batch_id),
        accepted_at=accepted_at,
        lost_at=lost_at,
        queued_last_at=queued_last_at,
        importing_first_at=importing_first_at,
        importing_last_at=importing_last_at,
        ended_at=ended_at,
        status=status,
        counts=None if imported is None else Counts(imported=imported, failed=failed, warned=warned),
        message=message,
        collected_at=collected_at,
        failures=None if failures_path is None else CollectedFile(failures_path, failures_records),
        warnings=None if warnings_path is None else CollectedFile(warnings_path, warnings_records),
    )
