"""Failed rows back to their source, against result files as Marketo ought to write them and as it does."""

from __future__ import annotations

import csv
import io
import sys
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.locate import Place, SentRow, locate, read_echoes, read_sent
from orchestrator.core.model import Format, Span
from orchestrator.core.plain import match, read_texts
from orchestrator.core.plan import Planner

REASON = "Import Failure Reason"
FORMATS = st.sampled_from(list(Format))


def sent_rows(*rows: Sequence[str]) -> list[SentRow]:
    return [SentRow(number, number + 1, tuple(cells), 0, 0) for number, cells in enumerate(rows, 1)]


def places_of(
    content: str, header: Sequence[str], sent: list[SentRow], key: str | None = "email", format: Format = Format.CSV
) -> list[Place]:
    return locate(read_echoes(content.encode(), format), header, sent, key, format)


def csv_text(records: list[list[str]], format: Format, quoting: Literal[0, 1], line_end: str = "\n") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=format.delimiter, quoting=quoting, lineterminator=line_end).writerows(records)
    return out.getvalue()


# --- what was sent ----------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(st.lists(st.text('ab",;\t\n\r é😀', max_size=6), min_size=2, max_size=2), min_size=1, max_size=25),
    format=FORMATS,
    line_end=st.sampled_from(["\n", "\r\n"]),
    blank=st.booleans(),
    ended=st.booleans(),
    budget=st.integers(50, 200),
)
def test_a_sent_row_has_its_number_its_line_its_cells_and_its_bytes(
    rows: list[list[str]], format: Format, line_end: str, blank: bool, ended: bool, budget: int
) -> None:
    """retry.csv is cut out of the source by these bytes, and people are sent to these lines."""
    pieces = [csv_text([row], format, csv.QUOTE_ALL, line_end) for row in [["email", "b"], *rows]]
    if blank:
        pieces.insert(len(pieces) // 2 + 1, line_end)
    source = "".join(pieces).encode()
    if not ended:
        source = source.rstrip(b"\r\n")
    planner = Planner(
        format=format, name="x", source_bytes=len(source), budget=budget, lookup_field=None, keep_rejected=100
    )
    planner.feed(source)
    plan = planner.finish()
    rejected = {row.row for row in plan.rejected}
    seen: list[SentRow] = []
    for chunk in plan.chunks:
        content = b"".join(source[span.start : span.stop] for span in chunk.spans)
        sent = list(read_sent(content, chunk.spans, format))
        assert b"".join(content[row.start : row.stop] for row in sent) == content
        line_of: dict[int, int] = {}
        at, base = 0, 0
        for span in chunk.spans:
            for row in sent:
                if base <= row.start < base + span.stop - span.start:
                    line_of[row.row] = 1 + source.count(b"\n", 0, span.start + row.start - base)
            base += span.stop - span.start
        for row in sent:
            parsed = csv.reader(
                io.StringIO(content[row.start : row.stop].decode(), newline=""), delimiter=format.delimiter
            )
            assert list(parsed) == [list(row.cells)]
            assert row.start == at
            assert row.line == line_of[row.row]
            at = row.stop
        seen += sent
    assert [(row.row, list(row.cells)) for row in seen] == [
        (number, cells) for number, cells in enumerate(rows, 1) if number not in rejected
    ]


def test_a_very_long_value_is_read_like_any_other() -> None:
    """Notes of more than 128 KB exist; a report that cannot be written leaves all rows of the load unaccounted for."""
    value = "x" * 200_000
    source = f"email,note\na@x,{value}\n".encode()
    planner = Planner(
        format=Format.CSV, name="x", source_bytes=len(source), budget=9_500_000, lookup_field="email", keep_rejected=1
    )
    planner.feed(source)
    (chunk,) = planner.finish().chunks
    sent = list(read_sent(source[11:], chunk.spans, Format.CSV))
    assert [row.cells for row in sent] == [("a@x", value)]
    (place,) = places_of(f"email,note,{REASON}\na@x,{value},bad\n", ("email", "note"), sent)
    assert place.sent == sent[0]


@pytest.mark.parametrize("value", ["one\rtwo", '"one\rtwo"', "one\r"])
def test_a_value_with_a_carriage_return_alone_is_a_record_like_others(value: str) -> None:
    """csv refuses it without quotes: a failed row would be counted, and listed nowhere."""
    plain = value.strip('"')
    sent = sent_rows(("a@x", plain, "1"), ("b@x", "two", "1"))
    file = read_echoes(f"email,note,n,{REASON}\nb@x,two,1,bad\na@x,{value},1,worse\n".encode(), Format.CSV)
    assert [(echo.cells, echo.reason) for echo in file.records] == [(sent[1].cells, "bad"), (sent[0].cells, "worse")]
    assert [place.sent for place in locate(file, ("email", "note", "n"), sent, "email", Format.CSV)] == sent[::-1]


@pytest.mark.parametrize("value", ["1\r\r\n2", "1\r\r\n", "1\r\r\r\n2\r"])
@pytest.mark.parametrize("quoted", [True, False])
def test_a_line_end_that_was_made_twice_is_one(value: str, quoted: bool) -> None:
    """Text mode makes CR CR LF of CR LF; the row that has it is found like any other."""
    sent = sent_rows((value, "a@x"), ("2", "b@x"))
    echoed = f'"{value}"' if quoted else value
    places = places_of(f"note,email,{REASON}\n{echoed},a@x,bad\n", ("note", "email"), sent)
    assert places[0].sent == sent[0]


# --- result files as they ought to be ---------------------------------------------------------------------

TIDY = [
    "",
    "",
    "a",
    "b",
    " a",
    "é😀",
    "Acme, Inc",
    "x; y",
    "tab\there",
    "line 1\nline 2",
    "line 1\r\nline 2",
    'say "a"',
]


@settings(max_examples=500, deadline=None)
@given(data=st.data(), format=FORMATS)
def test_a_well_formed_echo_finds_its_row(data: st.DataObject, format: Format) -> None:
    """Whoever mends a lead goes by the row that the report names; where equal rows cannot be told apart, none is."""
    header = ("email", "b", "c")[: data.draw(st.integers(1, 3))]
    cells = st.lists(st.sampled_from(TIDY), min_size=len(header), max_size=len(header))
    sent = sent_rows(*data.draw(st.lists(cells, min_size=1, max_size=25)))
    failed = data.draw(st.lists(st.sampled_from(sent), unique_by=lambda row: row.row))
    reasons = [data.draw(st.sampled_from(["bad", 'not "good", at all', "two\nlines"])) for _ in failed]
    records = [[*row.cells, reason] for row, reason in zip(failed, reasons, strict=True)]
    text = csv_text(
        [[*header, REASON], *records],
        format,
        data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        data.draw(st.sampled_from(["\n", "\r\n"])),
    )
    text = data.draw(st.sampled_from(["", "\ufeff"])) + text + data.draw(st.sampled_from(["", "\n", "\r\n"]))
    places = places_of(text, header, sent, "email", format)
    assert len(places) == len(failed)

    def echoed(row: SentRow) -> tuple[str, ...]:
        return tuple(cell.replace("\r\n", "\n") for cell in row.cells)

    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(failed):
        groups[echoed(row)].append(index)
    for value, indexes in groups.items():
        alike = [row for row in sent if echoed(row) == value]
        any_will_do = len({row.cells for row in alike}) == 1 or len({reasons[index] for index in indexes}) == 1
        if len(alike) == len(indexes) and any_will_do:
            placed = [place.sent for index in indexes if (place := places[index])]
            assert sorted(row.row for row in placed if row) == [row.row for row in alike]
        else:
            for index in indexes:
                assert places[index] == Place(None, tuple(alike))


def test_a_row_is_found_beside_one_that_has_nothing_in_it() -> None:
    """A row of empty values explains any record when the rest of the record is taken for its reason."""
    sent = sent_rows(("", ""), ("", ""), ("", "line 1\nline 2"))
    places = places_of(f'email,n,{REASON}\n,,bad\n,"line 1\nline 2",bad\n', ("email", "n"), sent)
    assert places == [Place(None, (sent[0], sent[1])), Place(sent[2])]


def test_equal_rows_that_did_not_all_fail_are_named_and_not_guessed() -> None:
    """A guess is right half of the time, and nobody can tell which half."""
    sent = sent_rows(("a@x", "1"), ("a@x", "1"), ("b@x", "2"))
    (place,) = places_of(f"email,n,{REASON}\na@x,1,bad\n", ("email", "n"), sent)
    assert place == Place(None, (sent[0], sent[1]))


def test_equal_rows_that_all_failed_are_all_placed() -> None:
    """Each of them is to be mended."""
    sent = sent_rows(("a@x", "1"), ("b@x", "2"), ("a@x", "1"))
    places = places_of(f"email,n,{REASON}\na@x,1,bad\na@x,1,worse\n", ("email", "n"), sent)
    assert [place.sent for place in places] == [sent[0], sent[2]]


def test_a_value_that_marketo_changed_is_found_by_its_key() -> None:
    """A trimmed blank must not lose the row's number where its e-mail address tells it."""
    sent = sent_rows(("a@x", " 1 "), ("b@x", " 2 "))
    (place,) = places_of(f"email,n,{REASON}\nb@x,2,bad\n", ("email", "n"), sent)
    assert place.sent == sent[1]


def test_without_the_empty_lookup_column_the_row_is_found_among_those_that_have_none() -> None:
    """This is the commonest failure of all, and its file comes without the column that would tell."""
    sent = sent_rows(("Ann", "1", "a@x"), ("Bob", "2", ""), ("Cid", "3", ""))
    (place,) = places_of(
        f"name,n,{REASON}\nBob,2,Value for lookup field 'email' not found\n", ("name", "n", "email"), sent
    )
    assert place.sent == sent[1]


def test_values_that_were_not_quoted_again_still_find_their_row() -> None:
    """A comma in a company's name is no rare thing."""
    sent = sent_rows(("a@x", "Acme, Inc"), ("b@x", "Bolt, Inc"), ("b@x", "Bolt"))
    places = places_of(f"email,c,{REASON}\nb@x,Bolt, Inc,bad\na@x,Acme, Inc,bad\n", ("email", "c"), sent)
    assert [place.sent for place in places] == [sent[1], sent[0]]


@settings(max_examples=200, deadline=None)
@given(data=st.data(), format=FORMATS)
def test_rows_that_were_not_quoted_again_are_found_whole_where_their_keys_differ(
    data: st.DataObject, format: Format
) -> None:
    """Real files are like this: never to guess is no excuse for never to find, and the reason is what is wanted."""
    cells = st.lists(st.sampled_from(TIDY), min_size=2, max_size=2)
    rows = data.draw(st.lists(cells, min_size=1, max_size=12))
    sent = sent_rows(*([f"{number}@x", *row] for number, row in enumerate(rows, 1)))
    failed = data.draw(st.lists(st.sampled_from(sent), unique_by=lambda row: row.row))
    lines = [["email", "b", "c", REASON], *([*row.cells, f"R{row.row}"] for row in failed)]
    text = "".join(format.delimiter.join(line) + "\n" for line in lines)
    file = read_echoes(text.encode(), format)
    places = locate(file, ("email", "b", "c"), sent, "email", format)
    found = [
        (place.sent, echo.reason if place.reason is None else place.reason)
        for echo, place in zip(file.records, places, strict=True)
        if not place.continues
    ]
    assert found == [(row, f"R{row.row}") for row in failed]


# --- result files as they are -----------------------------------------------------------------------------

WILD = ["", "", "a", "b", "c", "a,b", "b;a", "b\ta", "a\nb", "a\r\nb", "b\na,b", "a,b\nb", '"a"', 'b"a', '"', " a"]
REASONS = ["R1", "R2"]
SIMPLE = ["", "", "a", "b", "c", "a,b", " a"]
HAZARDS = ("raw", "mixed", "key dropped", "key left out of its row", "extra", "missing", "reordered", "line ends")


@dataclass(frozen=True)
class Mangled:
    header: tuple[str, ...]
    key: str
    sent: list[SentRow]
    failed: list[tuple[SentRow, str]]
    text: str
    format: Format


@st.composite
def mangled(draw: st.DrawFn, hazards: frozenset[str], draw_hazards: bool = False) -> Mangled:
    """Rows with many duplicates, some of them failed, and a result file that suffers from these hazards."""
    if draw_hazards:
        hazards = frozenset(draw(st.sets(st.sampled_from(sorted(hazards)))))
    format = draw(FORMATS)
    header = ("email", "b", "c", "d")[: draw(st.integers(2, 4))]
    key = draw(st.sampled_from(header))
    words = draw(st.lists(st.sampled_from(SIMPLE if "simple" in hazards else WILD), min_size=1, max_size=6))
    cells = st.lists(st.sampled_from(words), min_size=len(header), max_size=len(header))
    sent = sent_rows(*draw(st.lists(cells, min_size=1, max_size=12)))
    failed_rows = draw(st.lists(st.sampled_from(sent), unique_by=lambda row: row.row, min_size=1))
    failed = [(row, draw(st.sampled_from(REASONS))) for row in failed_rows]

    at_key = header.index(key)
    columns = list(header)
    if "key dropped" in hazards and not any(row.cells[at_key] for row, _ in failed):
        columns.remove(key)
    if "missing" in hazards:
        gone = draw(st.sets(st.sampled_from([name for name in header if name != key])))
        columns = [name for name in columns if name not in gone]
    if "extra" in hazards:
        columns.insert(draw(st.integers(0, len(columns))), "Lead Id")
    if "reordered" in hazards:
        columns = draw(st.permutations(columns))
    records: list[list[str]] = []
    for row, reason in failed:
        values = {**dict(zip(header, row.cells, strict=True)), "Lead Id": "7"}
        if "key left out of its row" in hazards and not values[key]:
            del values[key]
        records.append([*(values[name] for name in columns if name in values), reason])
    if "line ends" in hazards:
        before, after = draw(st.permutations(["\n", "\r\n"]))
        records = [[cell.replace("\r\n", "\n").replace(before, after) for cell in record] for record in records]
    if "trimmed" in hazards:
        records = [[cell.strip(" ") for cell in record] for record in records]
    line_end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = [[*columns, REASON], *records]
    raw = [format.delimiter.join(line) + line_end for line in lines]
    if "mixed" in hazards:
        quoted = [csv_text([line], format, draw(st.sampled_from([0, 1])), line_end) for line in lines]  # as in csv
        text = "".join(draw(st.sampled_from(ways)) for ways in zip(raw, quoted, strict=True))
    elif "raw" in hazards:
        text = "".join(raw)
    else:
        text = csv_text(lines, format, draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])), line_end)
    return Mangled(header, key, sent, failed, text, format)


def assert_no_wrong_place(made: Mangled) -> None:
    """What is placed did fail, as often and for the reason that is said; what is named has a failed row in it."""
    file = read_echoes(made.text.encode(), made.format)
    places = locate(file, made.header, made.sent, made.key, made.format)
    found = [
        (place, echo.reason if place.reason is None else place.reason)
        for echo, place in zip(file.records, places, strict=True)
        if not place.continues
    ]
    placed = [(place.sent, reason) for place, reason in found if place.sent is not None]
    assert len({row.row for row, _ in placed}) == len(placed), "one row stands for two echoes"
    contents = Counter(row.cells for row, _ in placed)
    assert contents <= Counter(row.cells for row, _ in made.failed), "a row is named that did not fail"
    for_reason = Counter((row.cells, reason) for row, reason in placed if reason in REASONS)
    assert for_reason <= Counter((row.cells, reason) for row, reason in made.failed), "a row has another's reason"
    for place, reason in found:
        reasons = {reason} if reason in REASONS else set(REASONS)
        named = {row.cells for row in place.candidates}
        assert not named or named & {row.cells for row, reason in made.failed if reason in reasons}


@pytest.mark.parametrize("hazard", ["none", *HAZARDS])
def test_no_hazard_alone_leads_to_a_wrong_row(hazard: str) -> None:
    """A wrong row is worse than none: a sound lead is changed by hand, and the broken one is never loaded."""

    @settings(max_examples=400, deadline=None)
    @given(mangled(frozenset({hazard})))
    def no_wrong_place(made: Mangled) -> None:
        assert_no_wrong_place(made)

    no_wrong_place()


@settings(max_examples=1500, deadline=None)
@given(mangled(frozenset(HAZARDS), draw_hazards=True))
def test_hazards_together_do_not_lead_to_a_wrong_row(made: Mangled) -> None:
    """They come together: the file that lost its lookup column is the one that does not quote."""
    assert_no_wrong_place(made)


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=80) | st.text('ab",\n\r\0', max_size=60).map(str.encode), format=FORMATS)
def test_no_result_file_is_too_broken_to_be_read(content: bytes, format: Format) -> None:
    """The batch is over and counted: a report must come out of whatever Marketo says about it."""
    file = read_echoes(b"email,b,Import Failure Reason\n" + content, format)
    sent = sent_rows(("a", "b"), ("b", "a"))
    assert len(locate(file, ("email", "b"), sent, "email", format)) == len(file.records)
    read_echoes(content, format)


# --- the fast way -----------------------------------------------------------------------------------------

Answer = tuple[SentRow | None, tuple[SentRow, ...], str, tuple[str, ...]]


def both_ways(made: Mangled, quoting: Literal[0, 1], line_end: str) -> tuple[Counter[Answer], Counter[Answer] | None]:
    """What `locate` says of each record, and what the fast way says; None where it hands the file over."""
    source = csv_text([list(made.header), *(list(row.cells) for row in made.sent)], made.format, quoting, line_end)
    start = len(csv_text([list(made.header)], made.format, quoting, line_end))
    span = Span(0, len(source.encode()) - start, len(made.sent), 1, 2)
    content = source.encode()[start:]
    sent = list(read_sent(content, (span,), made.format))
    texts = read_texts(content, (span,), made.format, len(made.header))
    if texts is not None:
        assert [texts.sent(position) for position in range(len(sent))] == sent
        assert [texts.raw(position) for position in range(len(sent))] == [content[row.start : row.stop] for row in sent]
    file = read_echoes(made.text.encode(), made.format)
    slow: Counter[Answer] = Counter()
    for echo, place in zip(file.records, locate(file, made.header, sent, made.key, made.format), strict=True):
        if not place.continues:
            reason = echo.reason if place.reason is None else place.reason
            slow[place.sent, place.candidates, reason, () if place.sent else echo.cells] += 1
    matched = match(made.text.encode(), texts, made.header, made.key, made.format) if texts is not None else None
    if texts is None or matched is None:
        return slow, None
    fast: Counter[Answer] = Counter()
    for position, reason in matched.certain:
        fast[texts.sent(position), (), reason, ()] += 1
    for _, echo, place in matched.others:
        if not place.continues:
            reason = echo.reason if place.reason is None else place.reason
            fast[place.sent, place.candidates, reason, () if place.sent else echo.cells] += 1
    return slow, fast


@pytest.mark.parametrize("words", ["simple", "wild"])
def test_the_fast_way_says_what_the_thorough_one_says(words: str) -> None:
    """It was made to be fast; that it is right rests on this."""
    hazards = {words, "raw", "mixed", "trimmed", "key dropped", "key left out of its row"}
    answered = 0

    @settings(max_examples=2000, deadline=None)
    @given(
        made=mangled(frozenset(hazards), draw_hazards=True),
        quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        line_end=st.sampled_from(["\n", "\n", "\r\n"]),
    )
    def no_difference(made: Mangled, quoting: Literal[0, 1], line_end: str) -> None:
        nonlocal answered
        slow, fast = both_ways(made, quoting, line_end)
        answered += fast is not None
        assert fast is None or fast == slow

    no_difference()
    assert answered > 400, "it hands nearly everything over"


# --- the ways in which a row could be taken for another ---------------------------------------------------


def test_the_rest_of_a_value_cut_at_its_line_end_is_not_taken_for_a_row() -> None:
    """A note that quotes another lead's address would blame that lead."""
    sent = sent_rows(("a@x", "hello\nb@x"), ("b@x", "n"))
    places = places_of(f"email,note,{REASON}\na@x,hello\nb@x,bad\n", ("email", "note"), sent)
    assert sent[1] not in [place.sent for place in places]


def test_the_rest_of_a_cut_value_is_not_taken_for_a_row_that_it_equals() -> None:
    """It has as many cells as a sound record, and yet it is not one."""
    sent = sent_rows(("a@x", "hello\nb@x,n"), ("b@x", "n"))
    places = places_of(f"email,note,{REASON}\na@x,hello\nb@x,n,bad\n", ("email", "note"), sent)
    assert sent[1] not in [place.sent for place in places]


def test_a_key_cut_at_its_comma_is_not_taken_for_the_shorter_key() -> None:
    """`Acme` would be blamed for what is wrong with `Acme, Inc`."""
    sent = sent_rows(("Acme, Inc", "line 1\nline 2"), ("Acme", "n"))
    places = places_of(f"company,note,{REASON}\nAcme, Inc,line 1\nline 2,bad\n", ("company", "note"), sent, "company")
    assert sent[1] not in [place.sent for place in places]


def test_a_value_in_quotes_of_its_own_is_not_taken_for_the_one_without() -> None:
    """Not quoted again, `"q"` reads as `q`."""
    sent = sent_rows(("a@x", '"q"'), ("a@x", "q"))
    (place,) = places_of(f'email,note,{REASON}\na@x,"q",bad\n', ("email", "note"), sent)
    assert place.sent in (None, sent[0])
    assert not place.candidates or sent[0] in place.candidates


def test_an_unknown_column_is_not_taken_for_the_end_of_a_value() -> None:
    """Marketo adds its own columns to some files."""
    sent = sent_rows(("a@x", "n,m"), ("a@x", "n,m,7"))
    (place,) = places_of(f"email,note,Lead Id,{REASON}\na@x,n,m,7,bad\n", ("email", "note"), sent)
    assert place.sent in (None, sent[0])
    assert not place.candidates or sent[0] in place.candidates


@pytest.mark.parametrize("columns", [3, 4, 5])
def test_a_row_of_several_lines_that_ends_with_its_empty_key_keeps_its_reason(columns: int) -> None:
    """Without quotes, its text with the empty key and the one without stand there both: the longer one is the row's."""
    header = [*(f"c{n}" for n in range(columns - 1)), "email"]
    sent = sent_rows(["a", *["b"] * (columns - 3), "c\nd", ""])
    content = ",".join(header) + f",{REASON}\n" + ",".join(sent[0].cells) + ",no key\n"
    (place, *rest) = places_of(content, header, sent)
    assert (place.sent, place.reason) == (sent[0], "no key")
    assert all(one.continues for one in rest)


def test_a_row_that_lacks_its_empty_key_is_not_found_by_the_value_that_moved_up() -> None:
    """The next column's value stands where the key would."""
    sent = sent_rows(("", "7", "x"), ("7", "8", "y"))
    (place,) = places_of(f"id,parent,c,{REASON}\n7,x,no id\n", ("id", "parent", "c"), sent, "id")
    assert place.sent in (None, sent[0])
    assert not place.candidates or sent[0] in place.candidates


def test_a_lookup_column_dropped_for_another_reason_does_not_blame_a_row_without_a_key() -> None:
    """That it is dropped only when it is empty was seen once and is written nowhere."""
    sent = sent_rows(("a@x", "n"), ("", "n"))
    (place,) = places_of(f"note,{REASON}\nn,bad\n", ("email", "note"), sent)
    assert place == Place(None, (sent[0], sent[1]))


# --- what it costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize(
    "row", [("a@x", "n"), ("", ""), ("{}@x", "n"), ("{}@x", "{}\nGermany"), ("{}@x", "n\nn\n"), ("{}", "Acme, Inc")]
)
def test_many_rows_that_look_alike_cost_as_much_as_others(row: tuple[str, str], quoted: bool) -> None:
    """A chunk holds some 300,000 rows: what grows with their square never ends, and takes all memory first."""

    def cost(count: int) -> tuple[int, int]:
        rows = [[cell.format(number) for cell in row] for number in range(count)]
        lines = [["email", "n", REASON], *([*cells, "bad"] for cells in rows)]
        raw = "".join(",".join(line) + "\n" for line in lines)
        content = (csv_text(lines, Format.CSV, csv.QUOTE_ALL) if quoted else raw).encode()
        sent, calls = sent_rows(*rows), 0

        def count_call(*_: object) -> None:
            nonlocal calls
            calls += 1

        tracemalloc.start()
        sys.setprofile(count_call)
        try:
            places = locate(read_echoes(content, Format.CSV), ("email", "n"), sent, "email", Format.CSV)
        finally:
            sys.setprofile(None)
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert len(places) >= count
        return calls, peak_bytes

    (calls, peak_bytes), (calls_of_four, peak_bytes_of_four) = cost(100), cost(400)
    assert calls_of_four < 6 * calls
    assert peak_bytes_of_four < 6 * peak_bytes
