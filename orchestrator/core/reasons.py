"""Which reasons are there, how often, and which column do they speak of?

Marketo's reasons are free text: they are counted, never classified by their wording. A reason may name a field, mostly
by its display name ("Invalid data type in field Lead Score"), while the header of the source has API names
(`leadScore`): the column is found by comparing letters and digits only. Where two are as likely, none is named.

Memory is bounded: a reason that quotes the row's own value is another one in every row. Of our own reasons one names
another row: it is counted without its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

REASONS_MAX = 10_000
"""Different reasons that are told apart; a load of millions of rows may have as many."""
REASON_CHARACTERS_MAX = 1_000
OTHER_REASONS = f"other reasons: more than {REASONS_MAX:,} different ones were given"
SUPERSEDED = "superseded by "
"""How the reason of a row begins that is not sent since a later one has its key; "row N" follows."""
_WORDS_MAX = 6
"""Words of the longest display name that is looked for: "Mobile Phone Number" has three."""
_DISPLAY_NAMES = {
    "emailaddress": "email",
    "companyname": "company",
    "jobtitle": "title",
    "phonenumber": "phone",
    "mobilephonenumber": "mobilePhone",
    "faxnumber": "fax",
    "numemployees": "numberOfEmployees",
}
"""Marketo's standard fields whose display name is not their API name with blanks in it (Adobe's list of fields)."""
_WORD = re.compile(r"\w+")
_AFTER_FIELD = re.compile(r"\bfields?\b", re.IGNORECASE)
_QUOTED = re.compile(r"['\"]([^'\"]{1,100})['\"]")


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many rows have one reason. `example_row` is the first of them whose place is known."""

    kind: str
    reason: str
    rows: int
    column: str | None
    example_row: int | None


@dataclass(frozen=True, slots=True)
class ColumnCount:
    """How many rows have a reason that speaks of this column."""

    column: str
    kind: str
    rows: int
    example_row: int | None


class Reasons:
    """Counts of reasons, as rows come by."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header = tuple(header)
        self._rows: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], int] = {}

    def add(self, kind: str, reason: str, row: int | None, rows: int = 1) -> None:
        """`rows` rows with this reason; `row` is the place of the first of them, where it is known."""
        key = kind, counted_as(kind, reason)
        if key not in self._rows and len(self._rows) >= REASONS_MAX:
            key = kind, OTHER_REASONS
        self._rows[key] = self._rows.get(key, 0) + rows
        if row is not None and key not in self._examples:
            self._examples[key] = row

    def counts(self) -> tuple[ReasonCount, ...]:
        """The commonest first."""
        return tuple(
            ReasonCount(kind, reason, rows, column_of(reason, self._header), self._examples.get((kind, reason)))
            for (kind, reason), rows in sorted(self._rows.items(), key=lambda item: (-item[1], item[0]))
        )


def counted_as(kind: str, reason: str) -> str:
    """Under which words this reason of one row is counted."""
    if kind == "rejected" and reason.startswith(SUPERSEDED):
        return f"{SUPERSEDED}a later row"
    return reason[:REASON_CHARACTERS_MAX]


def by_column(counts: Iterable[ReasonCount]) -> tuple[ColumnCount, ...]:
    """The column that is most often spoken of first."""
    rows: dict[tuple[str, str], int] = {}
    examples: dict[tuple[str, str], int] = {}
    for one in counts:
        if one.column is not None:
            key = one.column, one.kind
            rows[key] = rows.get(key, 0) + one.rows
            if one.example_row is not None:
                examples[key] = min(one.example_row, examples.get(key, one.example_row))
    ordered = sorted(rows, key=lambda key: (-rows[key], key))
    return tuple(
        ColumnCount(column, kind, rows[column, kind], examples.get((column, kind))) for column, kind in ordered
    )


@lru_cache(maxsize=4_096)
def column_of(reason: str, header: tuple[str, ...]) -> str | None:
    """The column a reason speaks of: one in quotes, else one named right after the word "field", else anywhere in it.

    A reason that names a field which is no column speaks of none, whatever other words of it may be.
    """
    known, text = _known(header), reason[:REASON_CHARACTERS_MAX]
    quoted = {known[run] for match in _QUOTED.finditer(text) if (run := _letters(match[1])) in known}
    if quoted:
        return quoted.pop() if len(quoted) == 1 else None
    places = list(_AFTER_FIELD.finditer(text))
    for match in places:
        words = _WORD.findall(text[match.end() :])[:_WORDS_MAX]
        for length in range(len(words), 0, -1):
            if (run := _letters("".join(words[:length]))) in known:
                return known[run]
    return None if places else _longest(text, known)


@lru_cache(maxsize=64)
def _known(header: tuple[str, ...]) -> Mapping[str, str]:
    """Columns by the letters and digits of their names; those that two columns share are nobody's."""
    known: dict[str, str] = {}
    shared: set[str] = set()
    for name in header:
        letters = _letters(name)
        shared |= {letters} & known.keys()
        known[letters] = name
    for display, name in _DISPLAY_NAMES.items():
        if name in header:
            known.setdefault(display, name)
    return {letters: name for letters, name in known.items() if letters and letters not in shared}


def _longest(text: str, known: Mapping[str, str]) -> str | None:
    """The column with the longest name in a text; None when there is none, or two of that length."""
    words = _WORD.findall(text)
    for length in range(min(_WORDS_MAX, len(words)), 0, -1):
        runs = {_letters("".join(words[at : at + length])) for at in range(len(words) - length + 1)}
        found = {known[run] for run in runs & known.keys()}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _letters(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())
