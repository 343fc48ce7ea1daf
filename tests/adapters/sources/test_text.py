"""Text in any encoding, in one file or in several."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from adapters.sources.made import spooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import text
from orchestrator.core.model import Format
from orchestrator.errors import (
    DuplicateColumn,
    FilesDiffer,
    Misconfigured,
    UnclosedQuote,
    UnknownColumn,
    UnknownEncoding,
)

VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def put(folder: Path, name: str, content: bytes | str) -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20))
def test_rows_in_any_unicode_encoding_are_the_rows_in_the_spool(
    tmp_path: Path, encoding: str, rows: list[tuple[str, str]]
) -> None:
    """Round trip: what stood in the file is what is loaded."""
    table = [["email", "notes"], *map(list, rows)]
    written = io.StringIO(newline="")
    csv.writer(written, quoting=csv.QUOTE_ALL).writerows(table)
    made = spooled(tmp_path, put(tmp_path, "a.csv", written.getvalue().encode(encoding)), encoding=encoding)
    assert made.rows == table


@pytest.mark.parametrize(("encoding", "mark"), [("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")])
def test_utf_16_is_known_by_its_mark(tmp_path: Path, encoding: str, mark: bytes) -> None:
    """Excel's "Unicode text" needs no flag."""
    made = spooled(tmp_path, put(tmp_path, "a.tsv", mark + "email\tname\nx\tГ\n".encode(encoding)))
    assert made.rows == [["email", "name"], ["x", "Г"]]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "koi8-r", "gb18030"])
def test_a_named_encoding_is_transcoded(tmp_path: Path, encoding: str) -> None:
    """Old systems export what they always did."""
    word = {"latin-1": "Müller", "cp1252": "10 € ½", "shift_jis": "日本", "koi8-r": "Привет", "gb18030": "中文€"}[
        encoding
    ]
    table = f"email,name\nx,{word}\n" * 1 + f"y,{word}\n" * 9_000
    assert (
        spooled(tmp_path, put(tmp_path, "a.csv", table.encode(encoding)), encoding=encoding).content == table.encode()
    )


def test_an_undecodable_byte_is_named_by_row_and_byte(tmp_path: Path) -> None:
    """Never mojibake, and never a guess: people must find the place."""
    rows = "email,notes\n" + 'a,"two\nlines"\n' * 40_000
    content = rows.encode("shift_jis") + b"b,\x81\xff\n"
    with pytest.raises(UnknownEncoding, match=rf"a\.csv: byte {len(content) - 3:,} \(row 40001, line 80002\)"):
        spooled(tmp_path, put(tmp_path, "a.csv", content), encoding="shift_jis")


def test_utf_16_that_is_cut_in_a_character_is_refused(tmp_path: Path) -> None:
    """The last row would lose its last letter."""
    with pytest.raises(UnknownEncoding, match="row 1"):
        spooled(tmp_path, put(tmp_path, "a.csv", "email\nx".encode("utf-16")[:-1]))


@pytest.mark.parametrize("encoding", ["utf-16", "punycode"])
def test_an_encoding_that_fails_without_saying_where_is_refused(tmp_path: Path, encoding: str) -> None:
    """Python says no place where a mark is missing, and quotes what it met of others."""
    with pytest.raises(UnknownEncoding, match=f"a.csv: it cannot be read as {encoding}; nothing was sent") as caught:
        spooled(tmp_path, put(tmp_path, "a.csv", b"email,a\nann@example.com,1\n"), encoding=encoding)
    assert "utf-16-le" in caught.value.remedy
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("content", ["email\nx\n".encode("utf-16-le"), "email\nx\n".encode("utf-32")])
def test_a_wrong_encoding_is_seen_by_its_nul(tmp_path: Path, content: bytes) -> None:
    """Every byte is a letter of latin-1: only NUL betrays it."""
    with pytest.raises(UnknownEncoding, match="NUL"):
        spooled(tmp_path, put(tmp_path, "a.csv", content), encoding="latin-1")


@pytest.mark.parametrize("encoding", ["nonsense", "zlib_codec", "rot13", "base64", "utf-8\0"])
def test_what_is_no_encoding_of_text_is_refused(tmp_path: Path, encoding: str) -> None:
    """By name, before anything is read."""
    with pytest.raises(Misconfigured, match=f"--encoding {encoding}"):
        spooled(tmp_path, put(tmp_path, "a.csv", "email\nx\n"), encoding=encoding)


# --- several files ----------------------------------------------------------------------------------------


def test_several_files_are_one_text_with_one_header(tmp_path: Path) -> None:
    """With and without final line ends, marks and blank lines: rows never run into each other."""
    made = spooled(
        tmp_path,
        put(tmp_path, "a.csv", "\ufeffemail,n\na,1"),
        put(tmp_path, "b.csv", "\r\nemail,n\r\nb,2\r\n"),
        put(tmp_path, "c.csv", '\ufeff"email","n"\n"c\nc",3'),
        put(tmp_path, "d.csv", "email,n\n"),
        put(tmp_path, "e.csv", "email,n\ne,5\n"),
    )
    assert made.rows == [["email", "n"], ["a", "1"], ["b", "2"], ["c\nc", "3"], ["e", "5"]]
    assert [made.line_of(row) for row in (1, 2, 3, 4)] == [(0, 2), (1, 3), (2, 2), (4, 2)]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ("email\nb\n", "it lacks 'n'"),
        ("email,m\nb,2\n", "it lacks 'n', it has 'm' besides"),
        ("n,email\n2,b\n", "column 1 is 'n', not 'email'"),
        ("email,n \nb,2\n", "it has 'n ' besides"),
        ("email,n,m\nb,2,2\n", "it has 'm' besides"),
    ],
)
def test_a_file_with_other_columns_is_named_with_the_difference(tmp_path: Path, other: str, difference: str) -> None:
    """Its values would go into the wrong fields of a thousand leads."""
    first = put(tmp_path, "a.csv", "email,n\na,1\n")
    with pytest.raises(FilesDiffer, match=rf"b\.csv has other columns than a\.csv: .*{difference}"):
        spooled(tmp_path, first, put(tmp_path, "b.csv", other))


def test_files_of_different_formats_and_kinds_are_no_load(tmp_path: Path) -> None:
    """A semicolon file after a comma file would be one column wide."""
    first = put(tmp_path, "a.csv", "email,n\na,1\n")
    with pytest.raises(FilesDiffer, match=r"b\.tsv is tsv and a\.csv is csv"):
        spooled(tmp_path, first, put(tmp_path, "b.tsv", "email\tn\na\t1\n"))
    with pytest.raises(FilesDiffer, match=r"b\.jsonl is JSON lines and a\.csv is delimited text"):
        spooled(tmp_path, first, put(tmp_path, "b.jsonl", '{"email":"x","n":1}\n'))


def test_a_file_that_ends_inside_a_quote_does_not_swallow_the_next(tmp_path: Path) -> None:
    """The first rows of the next file would become one value. Whichever file it is, it is named, and its own line."""
    open_one = put(tmp_path, "a.csv", '"email",n\nb,"two\nlines"\n\na,"1\n')
    sound = put(tmp_path, "b.csv", 'email,n\nb,"x"\nc,""""\n')
    for paths in ([open_one, sound], [sound, open_one], [sound, put(tmp_path, "c.csv", "email,n\n"), open_one]):
        with pytest.raises(UnclosedQuote, match=r"^a\.csv: row 2, which begins on line 5, opens a quote"):
            spooled(tmp_path, *paths)


def test_a_stray_quote_is_not_taken_for_an_open_one(tmp_path: Path) -> None:
    """The planner rejects that row; the file as a whole is sound."""
    made = spooled(tmp_path, put(tmp_path, "a.csv", 'email,n\na,6" nail\n'), put(tmp_path, "b.csv", "email,n\nb,2\n"))
    assert made.rows == [["email", "n"], ["a", '6" nail'], ["b", "2"]]


# --- renaming ---------------------------------------------------------------------------------------------


def test_a_column_is_renamed_and_nothing_else_is_touched(tmp_path: Path) -> None:
    """Lines, quotes and line ends stay the user's."""
    body = 'x,"a ""b""\r\nc"\r\ny,d'
    source = put(tmp_path, "a.csv", f"\ufeffE Mail,first_name\r\n{body}")
    made = spooled(tmp_path, source, renamed=(("email", "E Mail"), ("firstName", "first_name")))
    assert made.content == f"\ufeffemail,firstName\r\n{body}".encode()
    with pytest.raises(UnknownColumn, match=r"a\.csv: --map email=mail: there is no column 'mail'"):
        spooled(tmp_path, source, renamed=(("email", "mail"),))
    with pytest.raises(DuplicateColumn, match=r"a\.csv: --map gives column 'E Mail' two names, 'email' and 'title'"):
        spooled(tmp_path, source, renamed=(("email", "E Mail"), ("title", "E Mail")))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='a",\n\r ', max_size=30))
def test_whether_a_text_ends_inside_a_quote_is_what_csv_says(content: str) -> None:
    """csv is the oracle: a further line is a record of its own, or it is swallowed."""
    found = text.open_quote(io.BytesIO(content.encode()), Format.CSV)
    if re.search(r"\r(?!\n)", content + "\n"):  # alone, csv refuses it, and the planner its row
        return
    rows = list(csv.reader(io.StringIO(content + "\nend", newline="")))
    assert (found is not None) == (rows[-1] != ["end"])
    if found is not None:
        row, line = found
        lines = content.split("\n")
        assert list(csv.reader(io.StringIO("\n".join(lines[line - 1 :]) + "\nend", newline=""))) == rows[-1:]
        assert row == len([one for one in rows if one])
