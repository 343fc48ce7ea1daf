"""What the ledger keeps of a queue and of who wants to use it, on real SQLite files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from adapters.test_ledger import a_load, a_plan

from orchestrator.adapters.ledger import Ledger
from orchestrator.core.admission import Admission
from orchestrator.core.expect import LEARNED_FROM, Past
from orchestrator.core.model import (
    Accepted,
    AnswerLost,
    BatchId,
    ChunkNumber,
    Counts,
    Ended,
    LoadId,
    Run,
    SeenImporting,
    SeenQueued,
)
from orchestrator.core.schedule import fence_passed
from orchestrator.core.share import Wish

ONE, TWO = LoadId("aaaaaaaaaaaa"), LoadId("bbbbbbbbbbbb")


def test_what_one_process_learned_of_the_queue_another_one_knows(tmp_path: Path) -> None:
    """Each for itself would send an upload of ten megabytes to be told the same."""
    with Ledger(tmp_path / "ledger.db") as ledger, Ledger(tmp_path / "ledger.db") as other:
        ledger.add_load(a_load(a_plan(3), list_id=7), a_plan(3))
        for number in (1, 2):
            assert ledger.claim(ONE, ChunkNumber(number), 10.0, 10) is not None
        ledger.record(ONE, ChunkNumber(1), Accepted(11.0, BatchId(1)))
        ledger.learn("host", None, lambda known, there: known.refused(12.0, there))
        assert other.admission("host") == Admission(1, 1, 12.0, 12.0)  # an upload under way is not there yet
        assert other.admission("host", 7) == Admission()
        assert other.admission("another") == Admission()
        ledger.record(ONE, ChunkNumber(2), Accepted(13.0, BatchId(2)))
        assert other.learn("host", None, Admission.accepted).room == 2
        assert ledger.learn("host", 7, Admission.accepted).room == 2
        assert ledger.learn("host", 8, Admission.accepted).room == 0


def test_a_doubt_is_not_ended_by_batches_that_were_sent_before_it_and_the_clock_was_set_back(tmp_path: Path) -> None:
    """Their times lie after the moment the answer was lost, and the first copy may still wait behind them: it would be
    sent a second time."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.add_load(a_load(a_plan(5)), a_plan(5))
        for number in (1, 2, 3):
            ledger.claim(ONE, ChunkNumber(number), 4_000.0 + number, 10)
        for number in (1, 2):
            ledger.record(ONE, ChunkNumber(number), Accepted(4_010.0, BatchId(number)))
        doubt = ledger.record(ONE, ChunkNumber(3), AnswerLost(400.0, "the process ended"))  # an hour back
        for number in (1, 2):
            ledger.record(ONE, ChunkNumber(number), SeenImporting(401.0, 402.0))
            ledger.record(ONE, ChunkNumber(number), SeenImporting(410.0, 411.0))
        assert not fence_passed(doubt, ledger.open_chunks("host"))


def test_the_newest_ended_batches_of_a_subscription_are_learned_from(tmp_path: Path) -> None:
    """Those of an hour ago say what Marketo does now; those of last year do not."""
    plan = a_plan(LEARNED_FROM + 2)
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.add_load(a_load(plan), plan)
        for number in range(1, LEARNED_FROM + 3):
            chunk, at = ChunkNumber(number), 100.0 * number
            ledger.claim(ONE, chunk, at, 10)
            ledger.record(ONE, chunk, Accepted(at + 1, BatchId(number)))
            ledger.record(ONE, chunk, SeenQueued(at + 2, at + 3))
            ledger.record(ONE, chunk, Ended(at + 50, "Complete", Counts(2, 0, 0), ""))
        past = ledger.past("host")
        assert len(past) == LEARNED_FROM
        at = 100.0 * (LEARNED_FROM + 2)
        assert past[0] == Past(2, at, at + 1, at + 2, None, None, at + 50)
        assert ledger.past("another") == []


def test_runs_say_what_they_want_until_they_end_or_fall_silent(tmp_path: Path) -> None:
    """A dead process must not keep slots free for itself."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        for load_id in (ONE, TWO):
            ledger.add_load(a_load(a_plan(3), load_id), a_plan(3))
        ledger.set_priority(TWO, "high")
        ledger.tell(ONE, Run(100.0, 3))
        ledger.tell(TWO, Run(120.0, 2, "a slot", 119.0, 300.0, 7, queued_jobs=2))
        ledger.claim(ONE, ChunkNumber(1), 130.0, 10)
        assert ledger.wishes("host", 90.0) == [Wish(ONE, "normal", 3, 1, 130.0), Wish(TWO, "high", 2, 0, 120.0, 7, 2)]
        assert [wish.load_id for wish in ledger.wishes("host", 110.0)] == [TWO]
        assert ledger.run_of(TWO) == Run(120.0, 2, "a slot", 119.0, 300.0, 7, queued_jobs=2)
        ledger.tell(TWO, Run(140.0, 0, "the day's calls", 140.0, None, ended=True))
        assert [wish.load_id for wish in ledger.wishes("host", 0.0)] == [ONE]
        assert ledger.run_of(TWO) == Run(140.0, 0, "the day's calls", 140.0, None, ended=True)
        ledger.tell(TWO, Run(150.0, 2))  # the next run was not served since it began
        assert ledger.wishes("host", 0.0)[1] == Wish(TWO, "high", 2, 0, 150.0)


def test_a_load_keeps_its_priority(tmp_path: Path) -> None:
    """It is resumed without saying so again."""
    with Ledger(tmp_path / "ledger.db") as ledger:
        ledger.add_load(replace(a_load(a_plan(1)), priority="low"), a_plan(1))
        known = ledger.load(ONE)
        assert known is not None
        assert known.priority == "low"
