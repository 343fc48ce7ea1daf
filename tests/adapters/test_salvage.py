"""What can be read of ledgers that are sound, damaged, or none at all."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

import pytest
from adapters.test_ledger import a_load, a_plan

from orchestrator.adapters.ledger import Ledger
from orchestrator.adapters.salvage import Salvaged, Unreadable, salvage
from orchestrator.core.model import Accepted, AnswerLost, BatchId, ChunkNumber
from orchestrator.errors import LedgerUnusable

CHUNKS = 1_000


def a_big_ledger(folder: Path) -> Path:
    plan = a_plan(CHUNKS)
    with Ledger(folder / "ledger.db") as ledger:
        ledger.add_load(a_load(plan), plan)
        for number, fact in ((1, Accepted(6.0, BatchId(70))), (2, AnswerLost(6.0, "reset"))):
            ledger.claim(a_load(plan).id, ChunkNumber(number), 5.0, 10)
            ledger.record(a_load(plan).id, ChunkNumber(number), fact)
        return ledger.path


def read(path: Path, load: str | None = None) -> tuple[dict[str, list[Any]], list[Unreadable]]:
    records, gaps = defaultdict(list), list[Unreadable]()
    for found in salvage(path, load):
        match found:
            case Salvaged():
                records[found.what].append(found.row)
            case Unreadable():
                gaps.append(found)
    return records, gaps


def damage(path: Path, page: int, page_bytes: int = 4096) -> None:
    with path.open("r+b") as file:
        file.seek(page * page_bytes)
        file.write(Random(page).randbytes(page_bytes))


def test_everything_in_a_sound_ledger_is_written_out(tmp_path: Path) -> None:
    """What an upload became must be found: its batch id, or that it is in doubt."""
    path = a_big_ledger(tmp_path)
    before = path.read_bytes()
    records, gaps = read(path)
    assert gaps == []
    assert [chunk["number"] for chunk in records["chunk"]] == list(range(1, CHUNKS + 1))
    assert records["chunk"][0]["spans"] == [[6, 16, 2, 1, 2]]
    assert [(offer["chunk"], offer["batch_id"], offer["doubt"]) for offer in records["offer"]] == [
        (1, 70, False),
        (2, None, True),
    ]
    assert [fact["kind"] for fact in records["fact"]] == ["Offered", "Accepted", "Offered", "AnswerLost"]
    assert path.read_bytes() == before
    assert read(path, "aaaa")[0] == records
    assert read(path, "bbbb") == ({}, [])


def test_a_bad_page_costs_the_rows_on_it_and_no_other(tmp_path: Path) -> None:
    """Whichever page it is: what lies behind it is read, what is missing is said, and nothing raises."""
    path = a_big_ledger(tmp_path)
    sound, pages = path.read_bytes(), path.stat().st_size // 4096
    cost = []
    for page in range(1, pages):
        path.write_bytes(sound)
        damage(path, page)
        records, gaps = read(path)
        lost = CHUNKS - len(records["chunk"])
        assert not lost or any(gap.table == "chunks" for gap in gaps), page
        cost.append(lost)
    assert sum(0 < lost < 40 for lost in cost) > 30, "a page of rows costs those rows"
    assert sum(lost >= 40 for lost in cost) <= 4, "but for the schema's pages and the one that all others hang on"


def test_a_ledger_whose_first_page_is_gone_is_said_to_be_unreadable(tmp_path: Path) -> None:
    """There is nothing to hold on to: that must be said, not shown as an empty ledger."""
    path = a_big_ledger(tmp_path)
    damage(path, 0)
    records, gaps = read(path)
    assert records == {}
    assert {gap.table for gap in gaps} >= {"loads", "chunks", "offers", "facts"}


def test_no_ledger_is_no_export(tmp_path: Path) -> None:
    """A wrong path must not look like an empty ledger, nor become one."""
    with pytest.raises(LedgerUnusable, match="No such file"):
        read(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", [3, 9, 17])
def test_a_damaged_ledger_is_refused_before_anything_is_done_with_it(tmp_path: Path, page: int) -> None:
    """It may have forgotten that a chunk was sent."""
    path = a_big_ledger(tmp_path)
    damage(path, page)
    before = path.read_bytes()
    with pytest.raises(LedgerUnusable, match="orchestrator export"):
        Ledger(path)
    assert path.read_bytes() == before
