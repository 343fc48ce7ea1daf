"""No file is planned wrongly twice: what once was is kept in tests/corpus."""

from __future__ import annotations

from pathlib import Path

import pytest
from core.exact import sent, to_be_sent

from orchestrator import errors
from orchestrator.core import rows
from orchestrator.core.model import Plan
from orchestrator.core.plan import Planner

CORPUS = Path(__file__).parent.parent / "corpus"
BUDGET = 500
RIGHT: dict[str, list[tuple[int, int, str]] | tuple[type[errors.SourceUnusable], str]] = {
    "stray-quote-in-a-record-too-large.csv": [(2, 3, "516 bytes, and a chunk has room for 489")],
    "text-after-a-quote-in-a-record-too-large.csv": [(2, 3, "528 bytes, and a chunk has room for 489")],
    "lone-return-in-a-record-too-large.csv": [(2, 3, "511 bytes, and a chunk has room for 489")],
    "stray-quote-in-the-header.csv": (errors.MalformedHeader, "byte 7"),
    "return-inside-quotes-in-the-header.csv": [],
    "delimiter-told-by-its-quotes.txt": [],
    "nul-behind-the-header.csv": (errors.NotText, "byte 30 is NUL"),
    "nul-behind-a-header-without-the-lookup-column.csv": (errors.MissingLookupColumn, "no column 'email'"),
    "one-byte-too-long-beside-a-ragged-row.csv": [
        (1, 2, "1 cell where"),
        (2, 3, "490 bytes, and a chunk has room for 489"),
    ],
}
"""For each file its rejected rows (row, line, reason), or the error that says why it cannot be loaded."""


def outcome(source: bytes, name: str, block_bytes: int, *, by_parity: bool = True) -> Plan | tuple[object, str]:
    planner = Planner(
        format=None,
        name=name,
        source_bytes=len(source),
        budget=BUDGET,
        lookup_field="email",
        keep_rejected=100,
        by_parity=by_parity,
    )
    try:
        for at in range(0, len(source), block_bytes):
            planner.feed(source[at : at + block_bytes])
        return planner.finish()
    except errors.SourceUnusable as error:
        return type(error), error.message


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_file_that_was_once_planned_wrongly_is_planned_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks are, and whichever way its records are found."""
    monkeypatch.setattr(rows, "WORTH_BYTES", 1)
    monkeypatch.setattr(rows, "WINDOW_BYTES", 128)
    monkeypatch.setattr(rows, "WINDOW_BYTES_LEAST", 1)
    source = (CORPUS / name).read_bytes()
    plan = outcome(source, name, len(source))
    for block_bytes in (1, 7, 64, len(source)):
        assert outcome(source, name, block_bytes) == plan
        assert outcome(source, name, block_bytes, by_parity=False) == plan
    right = RIGHT[name]
    if isinstance(right, tuple):
        assert isinstance(plan, tuple), plan
        assert plan[0] is right[0]
        assert right[1] in plan[1]
        return
    assert isinstance(plan, Plan), plan
    assert [(row.row, row.line) for row in plan.rejected] == [(row, line) for row, line, _ in right]
    assert all(words in rejected.reason for rejected, (_, _, words) in zip(plan.rejected, right, strict=True))
    assert sent(source, plan) == to_be_sent(source, plan)


def test_every_file_of_the_corpus_is_in_the_table_and_told_of() -> None:
    """A file without its right plan would test nothing."""
    told = (CORPUS / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in CORPUS.iterdir()} - {"README.md"}
    assert files == set(RIGHT)
    assert all(f"`{name}`" in told for name in files)
