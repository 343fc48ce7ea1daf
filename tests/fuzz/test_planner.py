"""No file is planned wrongly, whatever its bytes, however it is read: Python's csv is the oracle."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from core.exact import csv_rows, exact_records, sent, to_be_sent

from orchestrator import errors
from orchestrator.core import rows
from orchestrator.core.model import Format, Plan
from orchestrator.core.plan import Planner

Record = Callable[[str, object], None]
HEADS = [
    "email,b\n",
    "email,b\r\n",
    '"email","b"\n',
    "\ufeffemail,b\n",
    "\n\r\nemail,b\n",
    "email;b\n",
    "email\tb\n",
    "email\n",
    "",
]
SOUND = [
    "a,b\n",
    '"a",b\r\n',
    '"say ""x""",\n',
    '"two\nlines",x\n',
    "é,€\n",
    "\n",
    "😀😀😀😀,x\n",
    "a;b\n",
    "a\n",
    '"a;";"b"\n',
]
WILD = [b'"', b'""', b",", b";", b"\n", b"\r", b"\r\n", b"\xff", b"\xc3", b" ", b"a", b"\0", b"\xef\xbb\xbf"]


def wild_source(rng: Random) -> bytes:
    rows = "".join(rng.choices(SOUND, k=rng.randint(0, 40)))
    source = bytearray((rng.choice(HEADS) + rows).encode())
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 12])):
        at = rng.randint(0, len(source))
        if rng.random() < 0.3:
            del source[at : at + rng.randint(1, 5)]
        else:
            source[at:at] = rng.choice(WILD)
    return bytes(source)


def planned(
    source: bytes, format: Format | None, budget: int, blocks: list[int], *, by_parity: bool
) -> Plan | tuple[type[Exception], str]:
    planner = Planner(
        format=format,
        name="x",
        source_bytes=len(source),
        budget=budget,
        lookup_field=None,
        keep_rejected=100,
        by_parity=by_parity,
    )
    try:
        at = 0
        for size in blocks:
            planner.feed(source[at : at + size])
            at += size
        planner.feed(source[at:])
        return planner.finish()
    except errors.SourceUnusable as error:
        return type(error), error.message


@pytest.mark.parametrize("seed", range(4))
def test_no_source_is_planned_otherwise_than_csv_reads_it(
    seed: int, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same plan in any blocks and either way, every row sent or rejected, and what is sent reads as what was there."""
    monkeypatch.setattr(rows, "WORTH_BYTES", 1)
    monkeypatch.setattr(rows, "WINDOW_BYTES", 128)
    monkeypatch.setattr(rows, "WINDOW_BYTES_LEAST", 1)
    rng, inputs, plans = Random(seed), 2_500, 0
    for _ in range(inputs):
        source, format, budget = wild_source(rng), rng.choice([None, *Format]), rng.choice([40, 80, 1_000])
        blocks = rng.choice([[], [1] * len(source), [rng.randint(1, 99) for _ in range(9)]])
        plan = planned(source, format, budget, blocks, by_parity=True)
        assert plan == planned(source, format, budget, [], by_parity=False), (source, blocks)
        if not isinstance(plan, Plan):
            continue
        plans += 1
        rows_sent = sent(source, plan)
        assert rows_sent == to_be_sent(source, plan), source
        delimiter, width = plan.format.delimiter, len(plan.header.fields)
        assert all(chunk.size_bytes <= budget for chunk in plan.chunks)
        read = csv_rows(rows_sent, delimiter)
        assert [len(row) for row in read] == [width] * (plan.rows - plan.rejected_rows), source
        below = source[plan.header.stop :]
        if not any(record.lone_return for record in exact_records(below, delimiter.encode())[0]):
            left_out = {row.row for row in plan.rejected}
            assert read == [row for number, row in enumerate(csv_rows(below, delimiter), 1) if number not in left_out]
    assert plans > inputs // 4, "most of the inputs must get as far as a plan"
    record_property("planner inputs against csv.reader", inputs)
