"""Rows that share a key: every plan against the keys as Python reads them, one by one."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest

from orchestrator.adapters import files
from orchestrator.adapters.files import plan_blocks, plan_file, read_chunk
from orchestrator.core import keys, rows, spill
from orchestrator.core.keys import LENGTH, TWO_HASHES, hash_of, normal
from orchestrator.core.manykeys import hashes
from orchestrator.core.model import Chunk, OnDuplicate, Plan
from orchestrator.core.plan import halve

VALUES = [
    "",
    "  ",
    "a",
    "Ab@X.com",
    ' "q" ',
    "two\nlines",
    "é@x",
    "É@X",
    " pad ",
    "    far    ",
    "\tTab",
    "\x1cz",
    "Z{[@`",
    "x" * 300,
]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that happens to large sources happens to small ones."""
    monkeypatch.setattr(rows, "WORTH_BYTES", 1)
    monkeypatch.setattr(rows, "WINDOW_BYTES", 512)
    monkeypatch.setattr(rows, "WINDOW_BYTES_LEAST", 1)
    monkeypatch.setattr(keys, "HELD_ROWS", 50)
    monkeypatch.setattr(keys, "FEW_ROWS", 5)
    monkeypatch.setattr(keys, "LOOKED_AT_ROWS", 10)
    monkeypatch.setattr(spill, "HELD_BYTES", 800)
    monkeypatch.setattr(spill, "PIECE_ROWS", 7)


def key_of(row: list[str]) -> str:
    return row[1].strip().lower()


def source_of(rng: Random) -> bytes:
    """Rows some of which share their key, among blank and ragged ones."""
    different = rng.choice([1, 5, 50, 2_000])
    out = io.StringIO(newline="")
    writer = csv.writer(
        out, lineterminator=rng.choice(["\n", "\r\n"]), quoting=rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    )
    writer.writerow(["a", "email", "c"])
    writer.writerow(["", f"first{different}@x.com", ""])
    for number in range(rng.choice([0, 3, 10, 100, 400])):
        out.write(rng.choice([""] * 40 + ["\n", "x,y\n"]))
        email = f"lead{rng.randrange(different)}@x.com"
        email = rng.choice([email, email, email.upper(), f" {email} ", "", f"É{email}", f"two\n{email}"])
        writer.writerow([rng.choice(["q", "a,b", "l1\nl2"]), email, f"{number}" + "z" * rng.randint(0, 60)])
    return out.getvalue().encode().rstrip(rng.choice([b"", b"\r\n"]))


def planned(source: bytes, budget: int, on_duplicate: OnDuplicate, block_bytes: int = 10**9) -> Plan:
    return plan_blocks(
        lambda: (source[at : at + block_bytes] for at in range(0, len(source), block_bytes)),
        name="leads.csv",
        source_bytes=len(source),
        format=None,
        budget=budget,
        lookup_field="email",
        keep_rejected=10**6,
        on_duplicate=on_duplicate,
    )


def numbered(source: bytes, chunk: Chunk, every: list[list[str]]) -> Iterator[int]:
    """The rows of a chunk; each of its spans holds what it says, where it says."""
    for span in chunk.spans:
        numbers = range(span.first_row, span.first_row + span.rows)
        text = io.StringIO(source[span.start : span.stop].decode(), newline="")
        assert [row for row in csv.reader(text) if row] == [every[number - 1] for number in numbers]
        assert span.first_line == 1 + source[: span.start].count(b"\n")
        yield from numbers


def check_sound(source: bytes, plan: Plan, budget: int) -> tuple[list[list[str]], dict[int, Chunk]]:
    """Every row of the source, and the one chunk it is in."""
    every = [row for row in csv.reader(io.StringIO(source[plan.header.stop :].decode(), newline="")) if row]
    header = source[plan.header.start : plan.header.stop]
    chunk_of: dict[int, Chunk] = {}
    assert [chunk.number for chunk in plan.chunks] == list(range(1, len(plan.chunks) + 1))
    for chunk in plan.chunks:
        content = header + b"".join(source[span.start : span.stop] for span in chunk.spans)
        assert (len(content), hashlib.sha256(content).hexdigest()) == (chunk.size_bytes, chunk.sha256)
        assert chunk.size_bytes <= budget
        inside = list(numbered(source, chunk, every))
        assert inside == sorted(inside), "in the order of the file"
        assert len(inside) == chunk.rows
        assert not chunk_of.keys() & set(inside)
        chunk_of.update(dict.fromkeys(inside, chunk))
    left_out = [row.row for row in (*plan.rejected, *plan.superseded)]
    assert sorted([*chunk_of, *left_out]) == list(range(1, len(every) + 1))
    assert plan.rejected_rows + plan.superseded_rows == len(left_out)
    return every, chunk_of


def by_key(every: list[list[str]], plan: Plan) -> list[list[int]]:
    """The rows of each key."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    rejected = {row.row for row in plan.rejected}
    for number, row in enumerate(every, 1):
        if number not in rejected and key_of(row):
            found[key_of(row)].append(number)
    return list(found.values())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(4))
def test_rows_of_one_key_are_in_one_chunk_or_in_chunks_that_wait_for_each_other(seed: int) -> None:
    """And nothing else is: rows without a twin are cut as ever. However the source is fed, the plan is the same."""
    rng = Random(seed)
    twins = waiting = 0
    for _ in range(150):
        source, budget = source_of(rng), rng.choice([200, 400, 1_000, 5_000])
        plan = planned(source, budget, "together", rng.choice([37, 200, 10**6]))
        every, chunk_of = check_sound(source, plan, budget)
        for those in by_key(every, plan):
            chunks = list(dict.fromkeys(chunk_of[number] for number in those))
            assert all(chunk.twins == (len(those) > 1) for chunk in chunks)
            for before, after in pairwise(chunks):
                assert after.after == before.number
                waiting += 1
        shared = [those for those in by_key(every, plan) if len(those) > 1]
        assert plan.shared_keys == len(shared)
        assert plan.twin_rows == sum(map(len, shared))
        twins += plan.twin_rows
        assert list(planned(source, budget, "together").chunks) == list(plan.chunks)
        alone = planned(source, budget, "ignore")
        assert alone.rejected == plan.rejected
        if not shared:
            assert list(alone.chunks) == list(plan.chunks)
    assert twins > 1_000
    assert waiting > 100


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(2))
def test_only_the_last_row_of_a_key_is_planned_when_that_is_wanted(seed: int) -> None:
    """Each of the others is named with the row that supersedes it."""
    rng = Random(seed)
    for _ in range(150):
        source, budget = source_of(rng), rng.choice([200, 1_000])
        plan = planned(source, budget, "last", rng.choice([37, 10**6]))
        every, _ = check_sound(source, plan, budget)
        assert not any(chunk.twins for chunk in plan.chunks)
        wanted = {number: f"superseded by row {those[-1]}" for those in by_key(every, plan) for number in those[:-1]}
        assert {row.row: row.reason for row in plan.superseded} == wanted
        for row in plan.superseded:
            text = io.StringIO(source[row.start : row.stop].decode(), newline="")
            assert list(csv.reader(text)) == [every[row.row - 1]]
            assert row.line == 1 + source[: row.start].count(b"\n")


@pytest.mark.usefixtures("small")
def test_no_row_is_left_out_for_another_key_with_the_same_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lead would be lost without a word: once in 3,000 files of 100 million rows, were there only 64 bits."""
    monkeypatch.setattr(files, "TWO_HASHES", (LENGTH, 2))  # by the first of them all keys of one length are the same
    rng, superseded = Random(3), 0
    for _ in range(150):
        source, budget = source_of(rng), rng.choice([200, 1_000])
        plan = planned(source, budget, "last", rng.choice([37, 10**6]))
        every, chunk_of = check_sound(source, plan, budget)
        for row in plan.superseded:
            by = int(row.reason.removeprefix("superseded by row "))
            assert key_of(every[row.row - 1]) == key_of(every[by - 1]) != ""
            superseded += 1
        for those in by_key(every, plan):
            assert those[-1] in chunk_of
    assert superseded > 100


def test_one_key_and_many_at_once_have_the_same_hash() -> None:
    """Which way a row is looked at depends on how the source is cut into blocks."""
    rng = Random(1)
    for _ in range(300):
        chosen = [rng.choice(VALUES) for _ in range(rng.randint(1, 20))]
        data, starts, stops = b",", [], []
        for value in chosen:
            quoted = '"' in value or "\n" in value or rng.random() < 0.5
            raw = ('"' + value.replace('"', '""') + '"' if quoted else value).encode()
            starts.append(len(data))
            stops.append(len(data) + len(raw))
            data += raw + b","
        for salt in TWO_HASHES:
            found = hashes(data, np.array(starts), np.array(stops), salt)
            assert found.tolist() == [hash_of(normal(value), salt) for value in chosen]


def test_keys_that_differ_in_a_few_letters_have_different_hashes() -> None:
    """Identifiers often do. These differ by a bit in the last bytes of words, which is where a product mixes least."""
    rng = Random(5)
    for _ in range(2_000):
        one = bytearray(rng.choices(b"0123456789abcdefghijklmnopqrstuvwxyz", k=24))
        for at in (7, 11, 15, 23):
            one[at] = rng.choice(b"0123456789")
        other = bytearray(one)
        for at in rng.choice([(7, 11, 15), (15, 19, 23), (7, 23), (7, 15)]):
            other[at] ^= 0x40
        for salt in TWO_HASHES:
            assert hash_of(bytes(one), salt) != hash_of(bytes(other), salt)


def test_keys_are_compared_without_case_and_the_space_around_them() -> None:
    """`Ann@X.com ` is the lead `ann@x.com`; an empty value is nobody's key."""
    assert hash_of(normal("Ann@X.com ")) == hash_of(normal("\tann@x.COM"))
    assert hash_of(normal("ann@x.com")) != hash_of(normal("ann@x.co"))
    assert hash_of(normal("7")) != hash_of(normal("07"))
    assert hash_of(normal("  ")) == keys.NO_KEY


def test_a_few_shared_keys_leave_the_other_chunks_as_even_as_they_were(tmp_path: Path) -> None:
    """With 5 % of rows that share keys a load is as parallel as without: no chunk waits, and they are about equal."""
    rng = Random(3)
    path = tmp_path / "leads.csv"
    count = 40_000
    lines = (f"lead{rng.randint(1, count) if rng.random() < 0.05 else n}@x.com,{n}" for n in range(1, count + 1))
    path.write_text("email,c\n" + "\n".join(lines) + "\n")
    at, plan = plan_file(
        path, format=None, budget=50_000, lookup_field="email", keep_rejected=1, on_duplicate="together"
    )
    _, plain = plan_file(path, format=None, budget=50_000, lookup_field="email", keep_rejected=1)
    sizes = [chunk.size_bytes for chunk in plan.chunks]
    assert all(chunk.after is None for chunk in plan.chunks)
    assert len(plain.chunks) <= len(plan.chunks) <= len(plain.chunks) + 3
    assert min(sizes) > 0.7 * max(sizes)
    assert all(len(read_chunk(at, plan.header, chunk)) == chunk.size_bytes for chunk in plan.chunks)


def test_halves_of_a_chunk_of_shared_keys_are_chunks_of_shared_keys() -> None:
    """They take turns: a key may have rows in both."""
    source = b"email,c\n" + b"".join(b"a@x.com,%d\n" % number for number in range(8))
    (chunk,) = planned(source, 1_000, "together").chunks
    first, second = halve(chunk, source[:8], source[8:], planned(source, 1_000, "together").format)
    assert (first.twins, second.twins) == (True, True)
    assert first.last_row + 1 == second.first_row
