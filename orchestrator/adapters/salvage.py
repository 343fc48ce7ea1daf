"""What can be read of a ledger, also of a damaged one?

Each table is read by its row ids, forward until a page cannot be read; from there the next row that can be is sought in
strides that double, and what lies between is read backward. So a bad page costs the rows on it, not those behind it.
Only reads; nothing is mended, since a mended ledger could forget that a chunk was sent.

What to do with it is said in docs/commands.md. Tables are known by name alone: their columns are read as they are
found, whichever release wrote them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import LedgerUnusable

TABLES: Mapping[str, str] = {
    "loads": "load",
    "chunks": "chunk",
    "offers": "offer",
    "facts": "fact",
    "rejected_rows": "rejected",
    "calls": "calls",
}
"""Table -> what one row of it is called."""
_JSON = frozenset({"header_fields", "target", "spans", "detail"})
_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Salvaged:
    """One row: which kind of thing, and its columns by name."""

    what: str
    row: Mapping[str, Any]
    """An offer has one more: `doubt`, whether its answer was lost."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A part that could not be read: which, and what SQLite said."""

    table: str
    why: str
    after: int | None = None
    """Rows with ids above this may be missing; None: the whole table."""
    before: int | None = None
    """Those below this; None: nothing could be read behind it."""


def salvage(path: Path, load: str | None = None) -> Iterator[Salvaged | Unreadable]:
    """Every row that can be read, of all loads or of those whose id begins so; and what cannot. Blocking.

    Raises LedgerUnusable when there is no such file, or none that can be read.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        remedy = "Set state.ledger to the ledger's file, and see that it can be read."
        raise LedgerUnusable(f"ledger {path}: {error.strerror}", remedy=remedy) from error
    with closing(_open(path)) as ledger:
        for table, what in TABLES.items():
            try:
                columns = [str(name) for _, name, *_ in ledger.execute(f"PRAGMA table_info({table})")]
            except sqlite3.DatabaseError as error:
                yield Unreadable(table, str(error))
                continue
            if not columns:
                yield Unreadable(table, "the ledger has no such table")
                continue
            of_load = "id" if table == "loads" else "load_id"
            for found in _rows(ledger, table):
                if isinstance(found, Unreadable):
                    yield found
                    continue
                row = dict(zip(columns, found, strict=True))
                if load is None or str(row.get(of_load, "")).startswith(load):
                    plain = {name: _plain(name, value) for name, value in row.items()}
                    yield Salvaged(what, plain | {"doubt": row["lost_at"] is not None} if "lost_at" in row else plain)


def _open(path: Path) -> sqlite3.Connection:
    """Reads only. An unfinished commit of a dead process is undone first, as by every other opening, when it can be."""
    ledger = sqlite3.connect(path.resolve().as_uri() + "?mode=rw", uri=True, timeout=5.0, isolation_level=None)
    try:
        ledger.execute("PRAGMA query_only = ON")
        ledger.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:  # a folder that cannot be written to, a disk that is read-only
        ledger.close()
        ledger = sqlite3.connect(path.resolve().as_uri() + "?immutable=1", uri=True, isolation_level=None)
    except sqlite3.DatabaseError:
        pass  # said once for each table
    ledger.text_factory = lambda text: text.decode(errors="replace")
    return ledger


def _rows(ledger: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...] | Unreadable]:
    """The rows of one table, around what cannot be read."""
    query = f"SELECT rowid, * FROM {table} WHERE rowid > ? AND rowid < ? ORDER BY rowid "
    last = -1
    while True:
        try:
            for number, *row in ledger.execute(query + "ASC", (last, _END)):
                last = number
                yield tuple(row)
            return
        except sqlite3.DatabaseError as error:
            why = str(error)
        behind = _next_readable(ledger, query, last)
        lowest = behind
        try:
            for number, *row in ledger.execute(query + "DESC", (last, _END if behind is None else behind)):
                lowest = number
                yield tuple(row)
        except sqlite3.DatabaseError:
            yield Unreadable(table, why, last, lowest)
        if behind is None:
            return
        last = behind - 1


def _next_readable(ledger: sqlite3.Connection, query: str, last: int) -> int | None:
    """A row id behind a gap, about twice as far as the gap is wide at most; None when there is none."""
    stride = 1
    while last + stride < _END:
        try:
            found = ledger.execute(query + "ASC LIMIT 1", (last + stride, _END)).fetchone()
        except sqlite3.DatabaseError:
            stride *= 2
            continue
        return None if found is None else int(found[0])
    return None


def _plain(name: str, value: Any) -> Any:
    """JSON columns as what they hold."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if name in _JSON and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
