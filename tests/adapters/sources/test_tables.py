"""Parquet files and queries."""

from __future__ import annotations

import base64
import gzip
import sys
import zlib
from pathlib import Path

import duckdb
import pytest
from adapters.sources.made import sheet, spooled, text, workbook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.adapters.sources import tables
from orchestrator.errors import ArchiveUnsound, FilesDiffer, QueryFailed, ReaderMissing, TooLargeUnpacked, ValuesUnfit


def parquet(path: Path, select: str, *arguments: object) -> Path:
    """A Parquet file of what a query gives."""
    with duckdb.connect() as db:
        db.execute(f"CREATE TABLE t AS {select}", arguments)
        db.execute(f"COPY t TO '{path}' (FORMAT parquet)")
    return path


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("1::INTEGER", "1"),
        ("9223372036854775807::BIGINT", "9223372036854775807"),
        ("1.0::DOUBLE", "1"),
        ("-0.0::DOUBLE", "0"),
        ("0.1::FLOAT", "0.1"),
        ("(0.1::DOUBLE + 0.2::DOUBLE)", "0.30000000000000004"),
        ("1e20::DOUBLE", "100000000000000000000"),
        ("-1.25e-7::DOUBLE", "-0.000000125"),
        ("'nan'::DOUBLE", ""),
        ("1.50::DECIMAL(10,2)", "1.50"),
        ("12345678901234567890.123456789::DECIMAL(38,9)", "12345678901234567890.123456789"),
        ("DATE '2024-02-29'", "2024-02-29"),
        ("TIMESTAMP '2024-02-29 12:13:14'", "2024-02-29T12:13:14"),
        ("TIMESTAMP '2024-02-29 12:13:14.25'", "2024-02-29T12:13:14.25"),
        ("TIMESTAMP_NS '2024-02-29 12:13:14'", "2024-02-29T12:13:14"),
        ("TIMESTAMPTZ '2024-02-29 12:13:14+02'", "2024-02-29T10:13:14Z"),
        ("TIME '08:09:10'", "08:09:10"),
        ("true", "true"),
        ("'00123'", "00123"),
        ("'a\"b,c' || chr(10) || chr(13) || 'd'", 'a"b,c\n\rd'),
        ("chr(13) || 'x'", "\rx"),
        ("''", ""),
        ("NULL::INTEGER", ""),
        ("'a'::ENUM('a','b')", "a"),
        ("'b4f8a9e0-0000-4000-8000-000000000001'::UUID", "b4f8a9e0-0000-4000-8000-000000000001"),
    ],
)
def test_a_value_is_what_a_person_would_write(tmp_path: Path, value: str, written: str) -> None:
    """Marketo takes W3C dates and plain numbers; nobody wants 1.0 for a whole one."""
    made = spooled(tmp_path, parquet(tmp_path / "a.parquet", f"SELECT {value} AS v, 'x' AS email"))
    assert made.rows == [["v", "email"], [written, "x"]]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floating_numbers_are_read_back_as_the_same_number(tmp_path: Path, value: float) -> None:
    """Without an exponent, and without a lost digit."""
    (_, (found,)) = spooled(tmp_path, parquet(tmp_path / "a.parquet", "SELECT ?::DOUBLE AS v", value)).rows
    assert float(found) == value
    assert "e" not in found.lower()


BY_ARROW = (
    "eNoLcAwyFGUQNRH10xFlATLYRNlkzBg02JIcKvRSUiXYEsG0oCADA4N8NwcDCDAxJyclJCQkpjBP6uQTrdJcqRAmNIOV4cuxqV1SQGmg"
    "ITKiDgjTJFgYGA7YQ0gxBg0kHnZTEywS+I98ZQhuniPOBzFOR9QFyTiIcgYGBwQLaCwWUezGMzTLfxWYdZCR4c5TrQAxmHtRLGje9Tp3"
    "u/4OcQRLjEkDiyg2C9Jy7n21Kt/9j6+Q4SRf0RSoD3hETRAWYHEVA8Oao2kz2ECKWSRzTBkk2IqTM1JzE0W5gHpVmSRYgezMHFUGH5Bm"
    "UQ6QSHFyflEqgygXkM1SlFgCZLKAmMWpqXk5PYIyNmDzRZlAYnn5eak5e4BcMRZJGckYNQYZUR5JVTYGSai5oixiLGJNjGJzGNU4bLBG"
    "vqSMKMgbTAw2YhKSbJJqDMD4YwCZwwE1B+wasDlVYvMY1ZYw2uCNdoR5msimcUFMA/sHbNgqRrFDjGqHmGxIinUcprNATQcFEdj0WWDT"
    "W1hsSIpyVNOZmKCmM0FNBwU22HQjsSi1Y6yeKKpBTmEQ+wSUVuMQA8a3hkJBYlFhaWqJbnJBgW5iUVF+uUJZalFxZn6egpGZnoGeoWQM"
    "MMqREYMS0MYAYK4FAMUyrV0="
)
"""A file that pyarrow wrote, packed: pa.table({"email": [...], "score": pa.array([1.5, nan], pa.float32()), "rate":
[nan, 2.0], "seen": pa.array([1709168523456789123, None], pa.timestamp("ns", tz="Europe/Berlin")), "none":
pa.nulls(2)})."""


def test_a_file_as_arrow_writes_it_is_read(tmp_path: Path) -> None:
    """Most files of pandas and Spark are: NaN is not counted among a column's numbers there, times are of nanoseconds,
    and a column may have no type since it has no value."""
    source = tmp_path / "a.parquet"
    source.write_bytes(zlib.decompress(base64.b64decode(BY_ARROW)))
    expected = [
        ["email", "score", "rate", "seen", "none"],
        ["a@x.de", "1.5", "", "2024-02-29T01:02:03.456789123Z", ""],
        ["b@x.de", "", "2", "", ""],
    ]
    assert spooled(tmp_path, source).rows == expected
    assert spooled(tmp_path, source, query="SELECT *, NULL AS more FROM source").rows == [
        [*row, more] for row, more in zip(expected, ["more", "", ""], strict=True)
    ]


def test_a_null_in_a_single_column_is_a_row(tmp_path: Path) -> None:
    """A blank line would be none, and every row after it would have a wrong number."""
    made = spooled(tmp_path, parquet(tmp_path / "a.parquet", "SELECT * FROM (VALUES ('a'), (NULL), ('c')) t(email)"))
    assert made.content == b'email\na\n""\nc\n'


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("[1]", "INTEGER[]"),
        ("{'a': 1}", "STRUCT"),
        ("MAP {'a': 1}", "MAP"),
        ("'x'::BLOB", "BLOB"),
        ("[1,2]::INT[2]", ""),
    ],
)
def test_what_has_no_form_as_a_cell_is_refused_by_its_column(tmp_path: Path, value: str, kind: str) -> None:
    """Nobody wants a lead whose company is {'a': 1}."""
    source = parquet(tmp_path / "a.parquet", f"SELECT 'x' AS email, {value} AS inner_")
    with pytest.raises(
        ValuesUnfit, match=rf"a\.parquet: column 'inner_' is {kind.replace('[', '.').replace(']', '.')}"
    ):
        spooled(tmp_path, source)
    assert spooled(tmp_path, source, query="SELECT * EXCLUDE inner_ FROM source").rows == [["email"], ["x"]]


def test_an_infinite_number_is_refused_without_showing_the_row(tmp_path: Path) -> None:
    """Messages hold no lead data."""
    source = parquet(tmp_path / "a.parquet", "SELECT 'secret@example.com' AS email, 'inf'::DOUBLE AS v")
    with pytest.raises(QueryFailed, match=r"a\.parquet: the rows cannot be read") as caught:
        spooled(tmp_path, source)
    assert "secret" not in str(caught.value)


def test_rows_keep_their_order_and_the_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    """A load is known by these bytes: a resumed one must find them again."""
    source = parquet(tmp_path / "a.parquet", "SELECT i AS n, 'x' || i AS email FROM range(700000) t(i)")
    first = spooled(tmp_path, source)
    assert [row[0] for row in first.rows[1:]] == [str(n) for n in range(700_000)]
    assert spooled(tmp_path, source).content == first.content


def test_names_that_mean_something_to_shells_or_sql_are_names(tmp_path: Path) -> None:
    """DuckDB expands patterns in paths."""
    for name in ("a[1]*.parquet", "it's.parquet"):
        made = tmp_path / "made.parquet"
        source = parquet(made, """SELECT 1 AS "a ""b"",c;d", 2 AS "select" """).rename(tmp_path / name)
        assert spooled(tmp_path, source).rows == [['a "b",c;d', "select"], ["1", "2"]]


def test_several_files_are_one_load_and_each_row_has_its_place(tmp_path: Path) -> None:
    """A folder of parts, as Spark writes them; also packed."""
    parts = [parquet(tmp_path / f"p{n}.parquet", f"SELECT i + {10 * n} AS n FROM range(3) t(i)") for n in range(2)]
    packed = tmp_path / "p9.parquet.gz"
    packed.write_bytes(gzip.compress(parts[1].read_bytes()))
    made = spooled(tmp_path, *parts, packed)
    assert [row[0] for row in made.rows] == ["n", "0", "1", "2", "10", "11", "12", "10", "11", "12"]
    assert [made.line_of(row) for row in (1, 4, 9)] == [(0, 1), (1, 1), (2, 3)]
    query = spooled(tmp_path, *parts, packed, query="SELECT sum(n)::INT AS n FROM source")
    assert query.rows == [["n"], ["69"]]
    with pytest.raises(FilesDiffer, match=r"x\.parquet has other columns than p0\.parquet"):
        spooled(tmp_path, parts[0], parquet(tmp_path / "x.parquet", "SELECT 1 AS m"))


@pytest.mark.parametrize(
    ("first", "second"),
    [("1::BIGINT", "1.5::DOUBLE"), ("1", "'007'"), ("1.5::DECIMAL(5,1)", "1.567::DECIMAL(8,3)")],
)
def test_a_query_makes_no_other_values_of_those_of_a_later_file(tmp_path: Path, first: str, second: str) -> None:
    """DuckDB makes them the type that the column has in the first one: 2, 7 and 1.6."""
    parts = [parquet(tmp_path / f"p{n}.parquet", f"SELECT {value} AS v") for n, value in enumerate((first, second))]
    with pytest.raises(FilesDiffer, match=r"p1\.parquet: column 'v' is [A-Z0-9(,)]+, and in p0\.parquet"):
        spooled(tmp_path, *parts, query="SELECT * FROM source")
    values = [value.partition("::")[0].strip("'") for value in (first, second)]
    assert spooled(tmp_path, *parts).rows == [["v"], *([value] for value in values)]


def test_a_cut_or_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    """Its directory is at its end."""
    whole = parquet(tmp_path / "a.parquet", "SELECT i AS n FROM range(1000) t(i)").read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        (tmp_path / "b.parquet").write_bytes(content)
        with pytest.raises(ArchiveUnsound, match=r"b\.parquet: the Parquet file cannot be read"):
            spooled(tmp_path, tmp_path / "b.parquet")


def test_a_bomb_is_stopped_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated value of a billion rows is a few kilobytes of Parquet."""
    source = parquet(tmp_path / "a.parquet", "SELECT 'aaaaaaaaaaaaaaaaaaaa' AS email FROM range(30000000)")
    monkeypatch.setattr(tables, "WATCH_S", 0.005)
    with pytest.raises(TooLargeUnpacked, match=r"a\.parquet: its rows have more than 1,000,000 bytes"):
        spooled(tmp_path, source, bytes_max=1_000_000)
    monkeypatch.setattr(tables, "RATIO_FROM_BYTES", 1_000_000)
    with pytest.raises(TooLargeUnpacked, match=r"a\.parquet: as text it is more than 400 times as large"):
        spooled(tmp_path, source)


# --- queries ----------------------------------------------------------------------------------------------


def test_a_query_runs_over_any_source(tmp_path: Path) -> None:
    """Renamed, filtered, computed, in the order asked for; text columns are text, leading zeros and all."""
    query = "SELECT lower(mail) AS email, zip, n::INT + 1 AS n FROM source WHERE n <> '3' ORDER BY n DESC"
    wanted = [["email", "zip", "n"], ["b@x.de", "00002", "3"], ["a@x.de", "", "2"]]
    rows = [["mail", "zip", "n"], ["A@x.de", "", "1"], ["B@x.de", "00002", "2"], ["C", "3", "3"]]
    delimited = tmp_path / "a.tsv"
    delimited.write_text("\ufeff" + "\n".join("\t".join(row) for row in rows), encoding="utf-8")
    packed = tmp_path / "a.csv.gz"
    packed.write_bytes(gzip.compress("\r\n".join(",".join(f'"{cell}"' for cell in row) for row in rows).encode()))
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(f'{{"mail":"{mail}","zip":"{zip_}","n":{n}}}' for mail, zip_, n in rows[1:]))
    book = workbook(
        tmp_path / "a.xlsx", {"L": sheet([(at, [text(cell) for cell in row]) for at, row in enumerate(rows, 1)])}
    )
    for source in (delimited, packed, lines, book):
        assert spooled(tmp_path, source, query=query).rows == wanted, source
    renamed = spooled(tmp_path, lines, query="SELECT mail FROM source", renamed=(("email", "mail"),))
    assert renamed.rows[0] == ["email"]
    assert renamed.line_of(1) == (None, None)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT content FROM read_text('/etc/passwd')",
        "SELECT * FROM source; DROP VIEW source",
        "COPY source TO 'out.csv'",
        "ATTACH 'x.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT * FROM read_parquet('https://127.0.0.1/x')",
        "SELECT nothing FROM source",
        "not sql",
        "",
    ],
)
def test_a_query_reads_its_source_and_nothing_else(tmp_path: Path, query: str) -> None:
    """A query may come from a form or a configuration: it must not reach the machine or the network."""
    (tmp_path / "a.csv").write_text("email\nx\n")
    with pytest.raises(QueryFailed, match=r"a\.csv: the query"):
        spooled(tmp_path, tmp_path / "a.csv", query=query)


@pytest.mark.parametrize("before", ["\n\n", "\ufeff\r\n\r\n", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_header_is_no_row_of_a_query_whatever_stands_before_it(tmp_path: Path, before: str, end: str) -> None:
    """A lead whose e-mail address is `email` would be made."""
    (tmp_path / "a.csv").write_bytes(end.join([f'{before}email,"a{end}b"', "x,1", ""]).encode())
    assert spooled(tmp_path, tmp_path / "a.csv", query="SELECT email FROM source").rows == [["email"], ["x"]]


def test_a_blank_line_of_a_single_column_is_no_row_of_a_query(tmp_path: Path) -> None:
    """As it is none without a query; a value that is empty is a row."""
    (tmp_path / "a.csv").write_bytes(b'email\nx\n\n""\ny\n\n')
    assert spooled(tmp_path, tmp_path / "a.csv", query="SELECT email, email IS NULL AS n FROM source").rows == [
        ["email", "n"],
        ["x", "false"],
        ["", "true"],
        ["y", "false"],
    ]


def test_columns_that_are_one_to_sql_are_refused(tmp_path: Path) -> None:
    """Marketo's names differ by case; it is no fault of ours."""
    (tmp_path / "a.csv").write_bytes(b"email,Email\nx,y\n")
    with pytest.raises(QueryFailed, match=r"a\.csv: no table can be made of its columns"):
        spooled(tmp_path, tmp_path / "a.csv", query="SELECT * FROM source")


def test_what_a_query_stumbles_over_is_not_shown(tmp_path: Path) -> None:
    """DuckDB quotes values and whole lines in its errors."""
    (tmp_path / "a.csv").write_text("email,n\nsecret@example.com,secret\n")
    (tmp_path / "b.csv").write_text("email,n\nsecret@example.com,secret,secret\n")
    for source, query in (("a.csv", "SELECT n::INT FROM source"), ("b.csv", "SELECT * FROM source")):
        with pytest.raises(QueryFailed, match="the rows cannot be read") as caught:
            spooled(tmp_path, tmp_path / source, query=query)
        assert "secret" not in str(caught.value)


def test_a_missing_extra_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base installation has no heavy reader."""
    source = parquet(tmp_path / "a.parquet", "SELECT 1 AS email")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ReaderMissing, match=r"a\.parquet: a Parquet file.*\[parquet\][\s\S]*pip install 'marketo-orch"):
        spooled(tmp_path, source)
    monkeypatch.setitem(sys.modules, "backports", None)
    (tmp_path / "a.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    if sys.version_info < (3, 14):
        with pytest.raises(ReaderMissing, match=r"a\.zst: a Zstandard file .*\[zstd\]"):
            spooled(tmp_path, tmp_path / "a.zst")
