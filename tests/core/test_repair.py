"""Repair rules: what each does to a cell, and what is said of a rule that cannot be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.repair import KINDS, TYPES, Repair, parse, read_map
from orchestrator.errors import WrongRepairRule

HEADER = ("email", "leadScore", "country", "notes")
ROW = (" Ann@X.io ", "12.5", "Deutschland", "a\u200bb\x07c\r\nd")
MAPS = {"countries.csv": {"Deutschland": "Germany", "Schweiz": "Switzerland"}}


def mend(rules: str, cells: tuple[str, ...] = ROW, named: str | None = None) -> tuple[str, ...]:
    return Repair(parse(rules), HEADER, MAPS)(cells, named)


@pytest.mark.parametrize(
    ("rules", "column", "cell"),
    [
        ("trim", "email", "Ann@X.io"),
        ("trim:email", "email", "Ann@X.io"),
        ("trim:notes", "email", " Ann@X.io "),
        ("lower:email", "email", " ann@x.io "),
        ("upper:country", "country", "DEUTSCHLAND"),
        ("trim,lower:email", "email", "ann@x.io"),
        ("blank:notes", "notes", ""),
        ("strip-controls", "notes", "abc\r\nd"),
        ("one-line:notes", "notes", "a\u200bb\x07c d"),
        ("truncate:country=4", "country", "Deut"),
        ("truncate:country=400", "country", "Deutschland"),
        ("map:country=countries.csv", "country", "Germany"),
        ("map:notes=countries.csv", "notes", ROW[3]),
        ("upper:country,map:country=countries.csv", "country", "DEUTSCHLAND"),
        ("map:country=countries.csv,upper:country", "country", "GERMANY"),
        ("blank-invalid:leadScore", "leadScore", "12.5"),
        ("blank-invalid:leadScore=score", "leadScore", ""),
        ("blank-invalid:leadScore=float", "leadScore", "12.5"),
        (' "trim:email", lower:email', "email", "ann@x.io"),
    ],
)
def test_a_rule_changes_its_column_as_it_says_and_no_other(rules: str, column: str, cell: str) -> None:
    """What is sent after a repair is what the preview and the documentation promise."""
    mended = mend(rules)
    assert mended[HEADER.index(column)] == cell
    if ":" in rules and "trim" not in rules:
        assert [name for name, old, new in zip(HEADER, ROW, mended, strict=True) if old != new] in ([], [column])


@pytest.mark.parametrize(("named", "score"), [("leadScore", ""), ("email", "12.5"), (None, "12.5")])
def test_a_cell_is_emptied_where_the_rows_reason_speaks_of_its_column(named: str | None, score: str) -> None:
    """A row that failed for another reason keeps its value."""
    assert mend("blank-invalid:leadScore", named=named)[1] == score


@pytest.mark.parametrize(
    ("kind", "valid", "invalid"),
    [
        ("integer", ["0", "-7", "+12", "9223372036854775807"], ["1.0", "1e3", "12x", "9223372036854775808", "1,000"]),
        ("score", ["5"], ["5.5"]),
        ("percent", ["50"], ["50%"]),
        ("float", ["1", "-1.5"], ["1,5", "1.", "x"]),
        ("currency", ["1000.50"], ["$10", "1,000.50"]),
        ("date", ["2024-02-29"], ["2023-02-29", "29.02.2024", "2024-2-9", "20240229"]),
        ("datetime", ["2024-02-29T23:59:59Z", "2024-02-29T23:59:59+01:00"], ["2024-02-29", "2024-02-30T00:00:00Z"]),
        ("boolean", ["true", "False", "1", "no"], ["si", "2"]),
        ("email", ["a@x.io"], ["a@x", "a", "a@b@x.io", "jos\u00e9@x.io", "a b@x.io"]),
    ],
)
def test_a_type_takes_what_marketo_documents(kind: str, valid: list[str], invalid: list[str]) -> None:
    """Emptying a sound value loses it; leaving an unsound one fails the row again."""
    assert [cell for cell in (*valid, "") if not (TYPES[kind](cell) or cell == "")] == []
    assert [cell for cell in invalid if TYPES[kind](cell)] == []


def test_an_empty_cell_is_valid_for_every_type() -> None:
    """Nothing is there to be emptied, and nothing changed."""
    for kind in TYPES:
        assert mend(f"blank-invalid:leadScore={kind}", ("", "", "", "")) == ("", "", "", "")


@pytest.mark.parametrize(
    ("rules", "said", "remedy"),
    [
        ("blnk:notes", "there is no rule 'blnk'", "Did you mean 'blank'?"),
        ("", "there is no rule", "trim[:COLUMN]"),
        ("trim,,lower:email", "there is no rule ''", "map:COLUMN=FILE"),
        ("lower", "lower needs a column", "Write lower:COLUMN."),
        ("trim:", "trim needs a column", "Write trim[:COLUMN]."),
        ("map:country", "map needs a file", "Write map:COLUMN=FILE."),
        ("map:country=", "map needs a file", "Write map:COLUMN=FILE."),
        ("truncate:notes=ten", "'ten' is not a number of characters", "truncate:COLUMN=CHARACTERS"),
        ("truncate:notes", "truncate needs a number of characters", "truncate:COLUMN=CHARACTERS"),
        ("blank-invalid:leadScore=scores", "there is no type 'scores'", "Did you mean 'score'?"),
        ('"trim', "unexpected end of data", "Close the quotes."),
        ("lower:emial", "the source has no column 'emial'", "Did you mean 'email'? Columns: email, leadScore"),
        ("upper:Email", "the source has no column 'Email'", "'email'"),
    ],
)
def test_a_rule_that_cannot_be_is_refused_with_what_is_allowed(rules: str, said: str, remedy: str) -> None:
    """A misspelt rule that did nothing would send every bad row again as it was."""
    with pytest.raises(WrongRepairRule) as refused:
        mend(rules)
    assert said in refused.value.message
    assert remedy in refused.value.remedy
    assert refused.value.exit_code == 2


def test_a_column_with_a_comma_is_named_in_quotes() -> None:
    """Headers are free text in custom exports."""
    (rule,) = parse('"trim:Name, last"')
    assert (rule.name, rule.column) == ("trim", "Name, last")


def test_a_map_is_pairs_of_values() -> None:
    """Spreadsheets put a byte order mark first, and quote what holds commas."""
    assert read_map("m.csv", '\ufeffUK,"United Kingdom"\r\n\r\n"Korea, South",Korea\r\nUK,United Kingdom\r\n') == {
        "UK": "United Kingdom",
        "Korea, South": "Korea",
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("UK,United Kingdom\nFrance\n", "m.csv, line 2: 1 value, and a map has two"),
        ("Korea, South,Korea\n", "m.csv, line 1: 3 values, and a map has two"),
        ("UK,a\nUK,b\n", "m.csv, line 2: the same value is mapped a second time"),
    ],
)
def test_a_map_that_leaves_a_choice_is_refused(content: str, said: str) -> None:
    """One of two meanings would be taken in silence. No value of the map is in the message: they are lead data."""
    with pytest.raises(WrongRepairRule) as refused:
        read_map("m.csv", content)
    assert said in refused.value.message
    assert "UK" not in str(refused.value)
    assert "Korea" not in str(refused.value)


@given(
    st.lists(st.text(), min_size=4, max_size=4), st.sampled_from(["trim", "strip-controls", "one-line", "blank:notes"])
)
def test_mending_twice_is_mending_once(cells: list[str], rule: str) -> None:
    """A retry of a retry with the same rules must not change rows again."""
    once = mend(rule, tuple(cells))
    assert mend(rule, once) == once


def test_every_rule_is_made() -> None:
    """A kind that parses and does nothing would be found by nobody."""
    for name, kind in KINDS.items():
        value = {"map": "=countries.csv", "truncate": "=1", "blank-invalid": "=score"}.get(name, "")
        assert (
            mend(f"{name}:notes{value}", ("", "", "", " Aa\x07\n\u200b ")) != ("", "", "", " Aa\x07\n\u200b ")
            or name == "map"
        )
        assert kind.shape.startswith(f"{name}[:COLUMN]" if kind.for_all else f"{name}:COLUMN")
