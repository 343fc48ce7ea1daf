"""Which rows of a load go again, and as what?

- A row whose reason is worth it (`worth`) goes again, mended where a rule changes it, else byte for byte as it stands.
- A row whose reason is permanent goes again only when a rule changed the column that its reason speaks of, or any
  column when it speaks of none.
- Warned rows are imported. A row that could not be sent at all (other cells than the header, not UTF-8) has no cells
  that could be trusted, so no rule mends it. A failed row without a place in the source cannot be read.

Order is the report's, which is the source's.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from orchestrator.core.model import Format
from orchestrator.core.reasons import column_of
from orchestrator.core.repair import Repair
from orchestrator.core.runs import ReportRow
from orchestrator.core.worth import Which, class_of, goes_again


@dataclass(frozen=True, slots=True)
class Change:
    """One cell that a rule changed."""

    column: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Again:
    """A row that goes again: where it was, its bytes as they will be sent, and what was changed."""

    was: ReportRow
    content: bytes
    changes: tuple[Change, ...]


@dataclass(slots=True)
class Tally:
    """What became of the rows that were not imported. `rows` is the sum of the next four."""

    rows: int = 0
    again: int = 0
    staying: int = 0
    """Not worth it as they are, and not mended."""
    unreadable: int = 0
    """Rejected before anything was sent."""
    not_found: int = 0
    """Without a place in the source."""
    mended: int = 0
    """Of those that go again."""
    by_class: Counter[str] = field(default_factory=Counter)
    """Those that go again, by the class of their reason."""
    cells_changed: Counter[str] = field(default_factory=Counter)
    """By column, in rows that go again."""


def rows_again(
    rows: Iterable[tuple[ReportRow, bytes]],
    *,
    header: Sequence[str],
    format: Format,
    which: Which,
    repair: Repair | None,
    tally: Tally,
) -> Iterator[Again]:
    """The rows that go again. rows: those of the report, each with its bytes in the source (none without a place)."""
    names = tuple(header)
    for was, content in rows:
        if was.kind == "warning":
            continue
        tally.rows += 1
        if was.kind == "rejected" and was.chunk is None:
            tally.unreadable += 1
            continue
        if was.sent is None:
            tally.not_found += 1
            continue
        named = column_of(was.reason, names)
        cells = was.sent.cells
        mended = repair(cells, named) if repair is not None else cells
        changes = tuple(
            Change(name, old, new) for name, old, new in zip(names, cells, mended, strict=True) if old != new
        )
        cured = any(named in (None, change.column) for change in changes)
        if not cured and not goes_again(was.reason, which):
            tally.staying += 1
            continue
        tally.again += 1
        tally.mended += bool(changes)
        tally.by_class[class_of(was.reason)] += 1
        tally.cells_changed.update(change.column for change in changes)
        yield Again(was, _record(mended, content, format) if changes else content, changes)
    assert tally.rows == tally.again + tally.staying + tally.unreadable + tally.not_found


def _record(cells: Sequence[str], like: bytes, format: Format) -> bytes:
    """A row written anew, with the line end it had."""
    out = io.StringIO(newline="")
    # With another terminator a carriage return inside a value would not be quoted.
    csv.writer(out, delimiter=format.delimiter, lineterminator="\r\n").writerow(cells)
    end = b"\r\n" if like.endswith(b"\r\n") else b"\n"
    return out.getvalue().encode().removesuffix(b"\r\n") + end
