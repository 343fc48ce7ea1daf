"""Whatever strangers send is read or refused, never the end of a load: Marketo's JSON and files, configurations, names.

Sound inputs are mutated at random, from seeds. What is asserted is what must hold of any input.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from random import Random

import pytest

from orchestrator.adapters.marketo import _envelope, _parse
from orchestrator.adapters.render.tables import FORMULA_STARTS, harmless
from orchestrator.config import load_config
from orchestrator.core.answers import batch_id_of, status_of
from orchestrator.core.locate import SentRow, locate, read_echoes
from orchestrator.core.model import BatchId, Format
from orchestrator.core.plan import Planner
from orchestrator.core.verdicts import Answered, Failed, Verdict, judge, plain
from orchestrator.errors import Misconfigured, SourceUnusable

Record = Callable[[str, object], None]
SOUND_JSON = [
    b'{"requestId":"e42b#14272d07d78","success":true,"result":[{"batchId":1022,"importId":"1022","status":"Queued"}]}',
    (
        b'{"requestId":"8e7f#161","success":true,"result":[{"batchId":1022,"status":"Complete","numOfLeadsProcessed":123,'
        b'"numOfRowsFailed":1,"numOfRowsWithWarning":0,"message":"Import succeeded, 123 records"}]}'
    ),
    b'{"requestId":"1","success":false,"errors":[{"code":"1016","message":"There are 10 imports currently being"}]}',
    b'{"requestId":"1","success":false,"errors":[{"code":606,"message":"Max rate limit exceeded"},{"code":"602"}]}',
]
PIECES = [
    b'"',
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b"\\ud800",
    b"\xff",
    b"\x00",
    b"\r",
    b"\n",
    b";",
]


def mutated(rng: Random, sound: bytes) -> bytes:
    data = bytearray(sound)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0:
                del data[at : at + rng.randint(1, 8)]
            case 1:
                data[at:at] = rng.choice(PIECES)
            case 2:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 3:
                other = rng.randrange(len(data) + 1)
                data[at:at] = data[other : other + rng.randint(1, 30)]
            case _:
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize("seed", range(4))
def test_no_answer_of_marketo_is_more_than_an_answer(seed: int, record_property: Record) -> None:
    """A stack trace in the parser would be a lost batch id."""
    rng, inputs = Random(seed), 30_000
    for _ in range(inputs):
        body = mutated(rng, rng.choice(SOUND_JSON))
        outcome = _envelope(_parse(body), 200, True)
        assert isinstance(outcome, Answered | Failed)
        for kind in ("create", "status"):
            ruling = judge(outcome, kind)
            assert isinstance(ruling.verdict, Verdict)
        if isinstance(outcome, Answered):
            number = batch_id_of(outcome)
            assert number is None or 0 < number < 2**63
            status = status_of(outcome, BatchId(1022))
            if status is not None:
                assert min(status.counts.imported, status.counts.failed, status.counts.warned) >= 0
                assert status.word in ("Queued", "Importing", "Complete", "Failed", "unknown")
        else:
            assert judge(outcome, "create").verdict is Verdict.DOUBT
    record_property("fuzz inputs", inputs)


@pytest.mark.parametrize("seed", range(4))
def test_no_result_file_stops_a_report(seed: int, record_property: Record) -> None:
    """The batch is over and counted whatever its file looks like."""
    rng, inputs = Random(seed), 8_000
    for _ in range(inputs):
        format = rng.choice(list(Format))
        d = format.delimiter
        cells = [["a@x.io", f'say "{d}"', "1"], ["b@x.io", "two\nlines", ""], ["", "x", "3"]]
        sent = [SentRow(number, number, tuple(row), 0, 0) for number, row in enumerate(cells, 1)]
        text = (
            f'email{d}b{d}c{d}Import Failure Reason\na@x.io{d}"say ""{d}"""{d}1{d}bad\nb@x.io{d}two\nlines{d}{d}bad\n'
        )
        file = read_echoes(mutated(rng, text.encode()), format)
        places = locate(file, ("email", "b", "c"), sent, "email", format)
        assert len(places) == len(file.records)
        numbers = [place.sent.row for place in places if place.sent is not None]
        assert len(set(numbers)) == len(numbers), "one row stands for two records"
    record_property("fuzz inputs", inputs)


@pytest.mark.parametrize("seed", range(2))
def test_no_source_is_planned_wrongly_or_stops_with_a_fault(seed: int, record_property: Record) -> None:
    """Chunks cover exactly what is not rejected, whatever the bytes are."""
    rng, inputs = Random(seed), 20_000
    sound = b'email,note,c\na@x.io,"two\nlines",1\r\nb@x.io,"say ""x""",2\nc@x.io,plain,3\n'
    for _ in range(inputs):
        source = mutated(rng, sound)
        planner = Planner(
            format=Format.CSV, name="x", source_bytes=len(source), budget=60, lookup_field=None, keep_rejected=100
        )
        try:
            at = rng.randrange(len(source) + 1)
            planner.feed(source[:at])
            planner.feed(source[at:])
            plan = planner.finish()
        except SourceUnusable:
            continue
        spans = sorted((span.start, span.stop) for chunk in plan.chunks for span in chunk.spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        assert sum(chunk.rows for chunk in plan.chunks) + plan.rejected_rows == plan.rows
        assert all(chunk.size_bytes <= 60 for chunk in plan.chunks)
    record_property("fuzz inputs", inputs)


def test_no_configuration_shows_a_traceback(tmp_path_factory: pytest.TempPathFactory, record_property: Record) -> None:
    """People edit it by hand."""
    rng, inputs = Random(1), 4_000
    path = tmp_path_factory.mktemp("fuzz") / "config.toml"
    sound = b'[marketo]\nbase_url = "https://1-a-2.mktorest.com"\nclient_id = "x"\n[limits]\nqueued_jobs = 3\n'
    for _ in range(inputs):
        path.write_bytes(mutated(rng, sound))
        with contextlib.suppress(Misconfigured):
            load_config(path, {}, {})
    record_property("fuzz inputs", inputs)


def test_no_text_breaks_a_line_or_runs_in_a_spreadsheet(record_property: Record) -> None:
    """Texts of strangers end in logs, in the ledger and in a table."""
    rng, inputs = Random(1), 60_000
    alphabet = "=+-@\t\r\n\0 aé😀\u202e\x1b'\"|"
    for _ in range(inputs):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 12)))
        assert plain(text).isprintable()
        assert not harmless(text).startswith((*FORMULA_STARTS, "\t", "\r", "\n", "\0"))
        assert harmless(text).replace("'", "") == text.replace("'", "")
    record_property("fuzz inputs", inputs)
