"""JSON lines: every value of every object, exactly."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from adapters.sources.made import spooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import jsonlines
from orchestrator.errors import EmptySource, TooLargeUnpacked, UnknownEncoding, ValuesUnfit

KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5).filter(str.strip)
"""Names without a letter, or with NUL, are refused by whoever reads the header."""
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def put(folder: Path, content: bytes | str, name: str = "a.jsonl") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.dictionaries(KEYS, TEXTS | st.integers() | st.booleans() | st.none(), min_size=1), min_size=1))
def test_every_value_stands_under_its_key(tmp_path: Path, rows: list[dict[str, str | int | bool | None]]) -> None:
    """Whatever keys each object has: columns are all of them, in the order in which they were first seen."""
    source = put(tmp_path, "\n".join(json.dumps(row, ensure_ascii=bool(len(row) % 2)) for row in rows))
    header, *found = spooled(tmp_path, source).rows
    assert header == list(dict.fromkeys(key for row in rows for key in row))
    for row, cells in zip(rows, found, strict=True):
        texts = {
            key: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in row.items()
        }
        assert cells == [texts.get(name, "") for name in header]


@pytest.mark.parametrize(
    "written", ["1.10", "0.1", "1e5", "-0", "12345678901234567890123", "1.0", "3.00000000000000001"]
)
def test_numbers_stay_as_they_are_written(tmp_path: Path, written: str) -> None:
    """A round trip through floating point changes prices and ids."""
    assert spooled(tmp_path, put(tmp_path, f'{{"n": {written}}}\n')).rows == [["n"], [written]]


def test_a_key_that_comes_late_widens_the_rows_before(tmp_path: Path) -> None:
    """Exports leave out nulls: no value is dropped because an early object did not have its key."""
    early = '{"email":"a\\r\\n\\"b","n":1}\n' * 30_000
    made = spooled(tmp_path, put(tmp_path, early + '{"late":"x","email":"z"}\n'))
    assert made.rows[0] == ["email", "n", "late"]
    assert made.rows[1:] == [['a\r\n"b', "1", ""]] * 30_000 + [["z", "", "x"]]


def test_lines_are_those_of_the_file_also_after_blank_ones(tmp_path: Path) -> None:
    """The report's source_line must lead to the object."""
    made = spooled(tmp_path, put(tmp_path, '\ufeff{"a":"x\\ny"}\n\n\n{"a":"2"}\n{"a":"3"}\n\n'))
    assert [made.line_of(row) for row in (1, 2, 3)] == [(0, 1), (0, 4), (0, 5)]


def test_several_files_have_all_their_keys_together(tmp_path: Path) -> None:
    """Each day's export has the keys of that day."""
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"b":2}\n{"a":3}'))
    made = spooled(tmp_path, put(tmp_path, '{"a":1}'), packed)
    assert made.rows == [["a", "b"], ["1", ""], ["", "2"], ["3", ""]]
    assert [made.line_of(row) for row in (1, 2, 3)] == [(0, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a":{"b":1}}', r"line 2, key 'a': a nested value"),
        ('{"a":[]}', r"line 2, key 'a': a nested value"),
        ('{"a":1,"a":2}', r"line 2: key 'a' stands twice"),
        ('{"a":1', r"line 2 is not JSON"),
        ('{"a":1}{"a":2}', r"line 2 is not JSON"),
        ('{"a":NaN}', r"line 2 is not JSON"),
        ("[1]", r"line 2 is not an object"),
        ('"text"', r"line 2 is not an object"),
        ("[" * 100_000, r"line 2 is not JSON"),
    ],
)
def test_what_has_no_form_as_a_row_is_refused_by_line_and_key(tmp_path: Path, line: str, message: str) -> None:
    """And without a word of its content."""
    with pytest.raises(ValuesUnfit, match=rf"a\.jsonl: {message}"):
        spooled(tmp_path, put(tmp_path, f'{{"a":0}}\n{line}\n'))


def test_bytes_that_are_no_utf_8_are_named_by_line_and_byte(tmp_path: Path) -> None:
    """Never mojibake."""
    with pytest.raises(UnknownEncoding, match=r"a\.jsonl: line 2: byte 7 of the line \(0xFF\)"):
        spooled(tmp_path, put(tmp_path, b'{"a":1}\n{"a":"\xff"}\n'))
    with pytest.raises(UnknownEncoding, match=r"^a\.jsonl: in line 1 or before, a value has half of a character"):
        spooled(tmp_path, put(tmp_path, '{"a":"\\ud800"}\n'))


def test_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line without an end, or a key per object, would fill the memory."""
    monkeypatch.setattr(jsonlines, "LINE_BYTES_MAX", 1_000_000)
    with pytest.raises(TooLargeUnpacked, match="line 2 has more than 1,000,000 bytes"):
        spooled(tmp_path, put(tmp_path, '{"a":1}\n{"a":"' + "x" * 2_000_000))
    with pytest.raises(ValuesUnfit, match=r"line 5,001: more than 5,000 different keys"):
        spooled(tmp_path, put(tmp_path, "\n".join(f'{{"k{n}":1}}' for n in range(5_001))))
    with pytest.raises(EmptySource, match="no object"):
        spooled(tmp_path, put(tmp_path, "\n\n"))
