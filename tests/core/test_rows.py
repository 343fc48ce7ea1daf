"""Two ways to find records, by parity and by walking, against a third that is too simple to be wrong."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from core.exact import Exact, csv_rows, exact_records

from orchestrator.core import rows
from orchestrator.core.parity import ParityScanner
from orchestrator.core.rows import BLANK, RowScanner, Scan
from orchestrator.errors import NotText, UnclosedQuote

Record = Callable[[str, object], None]
CORPUS = Path(__file__).parent.parent / "corpus"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity looks at everything, in windows of a few words, so that small inputs meet all their edges."""
    monkeypatch.setattr(rows, "WORTH_BYTES", 1)
    monkeypatch.setattr(rows, "WINDOW_BYTES", 192)
    monkeypatch.setattr(rows, "WINDOW_BYTES_LEAST", 1)


def found(
    data: bytes, cells: int, blocks: list[int], *, by_parity: bool, room: int = 10_000
) -> list[tuple[object, ...]]:
    """(start, stop, line, problem) of every record, and the error that ended it all."""
    scanner = RowScanner(b",", cells, base=0, line=1, row_bytes_max=room, by_parity=by_parity)
    results, at = [], 0
    end: list[tuple[object, ...]] = []
    try:
        for size in blocks:
            results += scanner.feed(data[at : at + size])
            at += size
        results += scanner.feed(data[at:])
        results += scanner.finish()
    except UnclosedQuote as error:
        end = [("unclosed", error.message)]
    records: list[tuple[object, ...]] = []
    for result in results:
        if isinstance(result, Scan):
            line = result.first_line
            for index, stop in enumerate(result.stops):
                begin = result.begin(index)
                records.append((result.base + begin, result.base + stop, line, result.problems.get(index)))
                line += result.data.count(b"\n", begin, stop)
        else:
            records.append((result.start, result.stop, result.line, rows.too_large(result.stop - result.start, room)))
    return records + end


def agrees(record: tuple[object, ...], exact: Exact, data: bytes, cells: int) -> bool:
    """Whether what was found of a record is what the simple way says of it."""
    start, stop, line, problem = record
    text = data[exact.start : exact.stop]
    if (start, stop, line) != (exact.start, exact.stop, 1 + data.count(b"\n", 0, exact.start)):
        return False
    if text in (b"\n", b"\r\n", b"\r"):
        return problem == BLANK
    if exact.trouble:
        word = "a quote stands inside" if exact.trouble == "quote" else "a carriage return stands alone"
        return word in str(problem)
    if exact.cells != cells:
        return str(problem).startswith(f"{exact.cells} cell")
    return problem is None


def check(data: bytes, cells: int, blocks: list[int]) -> None:
    by_parity = found(data, cells, blocks, by_parity=True)
    assert by_parity == found(data, cells, [], by_parity=False), data
    records, unclosed = exact_records(data, b",")
    if unclosed is not None:
        *by_parity, error = by_parity
        assert f"(byte {unclosed:,}), opens a quote" in str(error[1]), data
    assert len(by_parity) == len(records), data
    for record, exact in zip(by_parity, records, strict=True):
        assert agrees(record, exact, data, cells), (data, record, exact)
    if not any(exact.lone_return for exact in records) and unclosed is None:
        sent = [data[exact.start : exact.stop] for exact in records]
        assert [row for text in sent for row in csv_rows(text, ",")] == csv_rows(data, ","), data


@pytest.mark.usefixtures("eager")
def test_every_short_input_is_cut_as_the_simple_way_cuts_it(record_property: Record) -> None:
    """All of them: the rules of quotes meet each other within a few bytes."""
    inputs = 0
    for length in range(1, 7):
        for letters in itertools.product(b'a,"\n\r', repeat=length):
            check(bytes(letters), 2, [])
            inputs += 1
    record_property("inputs cut three ways", inputs)


PIECES = [
    b"a",
    b"b,c",
    b",",
    b'"',
    b'""',
    b"\n",
    b"\n",
    b"\r\n",
    b"\r",
    b'"x,y"',
    b'"x\ny"',
    b"\xc3\xa9",
    b" ",
    b'5" x',
]
SOUND = [
    b"a,b\n",
    b'"a",b\r\n',
    b'"a ""b""",\n',
    b'"two\nlines",x\n',
    b"\xc3\xa9,\xe2\x82\xac\n",
    b",\n",
    b"\n",
    b"a\n",
]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", range(4))
def test_wild_input_is_cut_the_same_three_ways_in_blocks_of_any_size(seed: int, record_property: Record) -> None:
    """Windows, words and blocks have edges, and a quote may stand on each of them."""
    rng, inputs = Random(seed), 2_500
    for _ in range(inputs):
        pieces = rng.choices(SOUND, k=rng.randint(0, 60))
        for _ in range(rng.choice([0, 1, 1, 2, 5, 30])):
            pieces.insert(rng.randint(0, len(pieces)), rng.choice(PIECES))
        data = b"".join(pieces)
        blocks = rng.choice([[], [1] * len(data), [rng.randint(1, 90) for _ in range(len(data) // 20)]])
        check(data, rng.choice([1, 2]), blocks)
    record_property("inputs cut three ways", inputs)


@pytest.mark.parametrize("seed", range(3))
def test_parity_never_doubts_what_is_sound(seed: int) -> None:
    """It would be right all the same, by walking, and thirty times as slow."""
    rng = Random(seed)
    for _ in range(200):
        cells = [
            rng.choice(['"a"', '"x,""y"""', '""', "b", "", "é", '"two\r\nlines"', '"a \r alone"'])
            for _ in range(rng.randint(2, 400))
        ]
        data = "".join(cell + rng.choice([",", "\n", "\r\n"]) for cell in cells).encode() + b"\n"
        cut = rng.choice([len(data), rng.randint(1, len(data))])
        sound = ParityScanner(b",", 2, 10_000, 1 << 14).find(data, 0, cut)
        records = [record for record in exact_records(data, b",")[0] if record.stop <= cut]
        assert not sound.doubtful
        assert sound.utf8
        assert sound.stops.tolist() == [record.stop for record in records]
        assert sound.lines == data.count(b"\n", 0, records[-1].stop if records else 0)
        counts = dict(enumerate(record.cells for record in records))
        assert sound.odd == {index: cells for index, cells in counts.items() if cells != 2}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("by_parity", [True, False])
def test_only_rows_that_are_not_utf8_are_named(by_parity: bool) -> None:
    """A character may lie over the words that are looked at, and a wrong byte beside a right one."""
    rng = Random(1)
    for _ in range(300):
        lines = [rng.choice(["é", "€", "😀", "a", "aaaaaaa"]) * rng.randint(1, 9) + ",x" for _ in range(30)]
        raw = [line.encode() + b"\n" for line in lines]
        bad = sorted(rng.sample(range(30), rng.randint(0, 3)))
        for index in bad:
            wrong = rng.choice([b"\xe9", b"\x80", b"\xc3", b"\xe2\x82", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf5"])
            at = rng.randint(0, len(lines[index]))
            raw[index] = lines[index][:at].encode() + wrong + lines[index][at:].encode() + b"\n"
        results = found(b"".join(raw), 2, [], by_parity=by_parity)
        assert [index for index, record in enumerate(results) if record[3] is not None] == bad
        assert all("is not UTF-8" in str(results[index][3]) for index in bad)


def test_no_character_is_put_together_from_bytes_that_stand_apart() -> None:
    """Only some words are decoded: what is left out between them must not make them whole."""
    for before in range(8):
        for between in range(1, 33):
            data = b"a" * before + b"\xc3" + b"a" * between + b"\xa9" + b"a" * 20 + b",x\n"
            assert not ParityScanner(b",", 2, 1_000, 1 << 10).find(data, 0, len(data)).utf8, data
            whole = b"a" * before + b"\xc3\xa9" + b"a" * between + "€😀".encode() + b",x\n"
            assert ParityScanner(b",", 2, 1_000, 1 << 10).find(whole, 0, len(whole)).utf8, whole


def test_a_record_that_is_too_large_is_followed_without_being_kept() -> None:
    """A quote that is never closed makes one record of ten gigabytes."""
    scanner = RowScanner(b",", 2, base=0, line=1, row_bytes_max=1_000)
    scanner.feed(b'"')
    for _ in range(50):
        assert scanner.feed(b"n" * 100) == []
        assert scanner._unfinished is not None
        assert sum(map(len, scanner._unfinished.pieces)) <= 1_000
    assert scanner._unfinished is not None
    assert scanner._unfinished.pieces == []
    assert scanner._unfinished.record.size_bytes == 5_001


def test_a_nul_byte_is_found_wherever_it_stands() -> None:
    """It is a binary file, or UTF-16: nothing of it is text."""
    scanner = RowScanner(b",", 2, base=100, line=1, row_bytes_max=1_000)
    scanner.feed(b"a,b\nc")
    with pytest.raises(NotText, match=r"byte 107 is NUL"):
        scanner.feed(b",d\0\n")


@pytest.mark.parametrize("block", [1 << 16, 1 << 20])
@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b'x,"' + b"n\n" * 4_500_000 + b'"\n', None),
        (b'x,"' + b"n\n" * 4_800_000 + b'"\n', "a chunk has room for"),
        (b"x," + b"n" * 9_600_000 + b"\n", "a chunk has room for"),
        (b'x,5" ' + b"n" * 9_600_000 + b"\n", "a chunk has room for"),
        (b'x,5" ' + b"n" * 300_000 + b"\n", "a quote stands inside"),
        (b",".join([b"x"] * 2_000) + b"\n", "2000 cells"),
    ],
    ids=["9 MB", "9.6 MB", "9.6 MB in one line", "9.6 MB and a stray quote", "a stray quote", "2,000 cells"],
)
def test_a_long_record_is_one_record_and_its_neighbours_are_sound(record: bytes, words: str | None, block: int) -> None:
    """A base64 picture in a notes field must not take the next leads with it."""
    data = b"a,b\n" * 20_000 + record + b"c,d\n" * 20_000
    results = found(data, 2, [block] * (len(data) // block), by_parity=True, room=9_500_000)
    assert len(results) == 40_001
    assert [result for result in results if result[3]] == ([] if words is None else [results[20_000]])
    assert words is None or words in str(results[20_000][3])
    assert results[20_000][:2] == (80_000, 80_000 + len(record))
    assert results[-1][:3] == (len(data) - 4, len(data), 40_000 + record.count(b"\n"))


def test_neither_help_nor_a_small_source_waits_for_numpy() -> None:
    """Its import takes a tenth of a second: more than all the rest of `orchestrator --help`."""
    code = (
        "import sys, orchestrator.cli.main, orchestrator.library\n"
        "from orchestrator.core.rows import RowScanner, WORTH_BYTES\n"
        "scanner = RowScanner(b',', 2, base=0, line=1, row_bytes_max=100)\n"
        "scanner.feed(b'a,b\\n' * 1_000)\n"
        "assert 'numpy' not in sys.modules\n"
        "scanner.feed(b'a,b\\n' * WORTH_BYTES)\n"
        "assert 'numpy' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stray_quote_in_every_line_does_not_make_it_slow() -> None:
    """Parity is no use there: it must not be asked again for every line. Counted are looks, not seconds."""
    scanner = RowScanner(b",", 2, base=0, line=1, row_bytes_max=1_000)
    looks = 0
    look = scanner._look

    def counted(data: bytes, start: int, stop: int) -> object:
        nonlocal looks
        looks += 1
        return look(data, start, stop)

    scanner._look = counted  # type: ignore[assignment, method-assign]
    (scan,) = scanner.feed(b'a,5" pipe of some length\n' * 40_000)
    assert isinstance(scan, Scan)
    assert len(scan.problems) == 40_000
    assert looks < 20
