"""How are the cells of a failed row mended before it goes again?

`--fix trim,blank-invalid:leadScore,lower:email,map:country=countries.csv`: rules, applied from left to right, each to
one column (some to all of them when none is named). Cells in, cells out; what no rule changes stays as it is. A rule
with a comma in it is put in quotes, as in a CSV record.

Deliberately absent: anything that guesses. An e-mail address made ASCII would be somebody else's, and a number with its
decimals cut off is another number: such cells can be emptied, or mapped by a file that says what they are to be.

Which rows go again is `worth`'s and `retry`'s business; reading files is the caller's.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches

from orchestrator.errors import WrongRepairRule

COLUMNS_SHOWN = 30
_INVISIBLE = frozenset("\u200b\u2060\ufeff")
"""Zero-width space, word joiner and byte order mark: no script needs them, and they hide in copied text."""

Mend = Callable[[str, bool], str]
"""(cell, does the row's reason speak of this column) -> cell."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it was written, taken apart."""

    text: str
    name: str
    column: str | None
    value: str | None


@dataclass(frozen=True, slots=True)
class _Kind:
    shape: str
    for_all: bool = False
    """May stand without a column: then it is for all of them."""
    takes: str = ""
    """What follows the equals sign; empty: nothing may."""
    must: bool = False
    """Something must follow."""


KINDS: Mapping[str, _Kind] = {
    "trim": _Kind("trim[:COLUMN]", for_all=True),
    "strip-controls": _Kind("strip-controls[:COLUMN]", for_all=True),
    "one-line": _Kind("one-line[:COLUMN]", for_all=True),
    "lower": _Kind("lower:COLUMN"),
    "upper": _Kind("upper:COLUMN"),
    "blank": _Kind("blank:COLUMN"),
    "blank-invalid": _Kind("blank-invalid:COLUMN[=TYPE]", takes="a type"),
    "truncate": _Kind("truncate:COLUMN=CHARACTERS", takes="a number of characters", must=True),
    "map": _Kind("map:COLUMN=FILE", takes="a file", must=True),
}


def parse(text: str) -> tuple[Rule, ...]:
    """The rules of one --fix, in order. Raises WrongRepairRule."""
    try:
        parts = next(csv.reader([text], skipinitialspace=True, strict=True), [])
    except csv.Error as error:
        raise WrongRepairRule(f"--fix {text!r}: {error}", remedy="Close the quotes.") from None
    rules = tuple(_rule(part.strip()) for part in parts)
    if not rules:
        raise WrongRepairRule("--fix: there is no rule", remedy=_allowed())
    return rules


def _rule(text: str) -> Rule:
    name, colon, rest = text.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        near = get_close_matches(name, KINDS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise WrongRepairRule(f"--fix {text!r}: there is no rule {name!r}", remedy=hint + _allowed())
    column, equals, value = rest.partition("=") if kind.takes else (rest, "", "")
    if (colon and not column) or not (colon or kind.for_all):
        raise WrongRepairRule(f"--fix {text!r}: {name} needs a column", remedy=f"Write {kind.shape}.")
    if (equals and not value) or (kind.must and not equals):
        raise WrongRepairRule(f"--fix {text!r}: {name} needs {kind.takes}", remedy=f"Write {kind.shape}.")
    if name == "truncate" and not (value.isascii() and value.isdigit()):
        raise WrongRepairRule(f"--fix {text!r}: {value!r} is not a number of characters", remedy=f"Write {kind.shape}.")
    if name == "blank-invalid" and equals and value not in TYPES:
        near = get_close_matches(value, TYPES, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise WrongRepairRule(
            f"--fix {text!r}: there is no type {value!r}", remedy=f"{hint}Types: {', '.join(sorted(TYPES))}."
        )
    return Rule(text, name, column if colon else None, value if equals else None)


def _allowed() -> str:
    return f"Rules: {', '.join(kind.shape for kind in KINDS.values())}."


class Repair:
    """Rules made ready for the columns of one source.

    maps: by the path as a rule names it, what is to become of a value; see `read_map`. Raises WrongRepairRule when a
    rule names a column that the header has not.
    """

    def __init__(self, rules: Sequence[Rule], header: Sequence[str], maps: Mapping[str, Mapping[str, str]]) -> None:
        self._header = tuple(header)
        self._mends = [(at, mend) for rule in rules for at, mend in self._bound(rule, maps)]

    def _bound(self, rule: Rule, maps: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[int, Mend]]:
        if rule.column is not None and rule.column not in self._header:
            near = get_close_matches(rule.column, self._header, n=1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            more = f" and {len(self._header) - COLUMNS_SHOWN} more" if len(self._header) > COLUMNS_SHOWN else ""
            raise WrongRepairRule(
                f"--fix {rule.text!r}: the source has no column {rule.column!r}",
                remedy=f"{hint}Columns: {', '.join(self._header[:COLUMNS_SHOWN])}{more}.",
            )
        mend = _mend(rule, maps)
        for at, name in enumerate(self._header):
            if rule.column in (None, name):
                yield at, mend

    def __call__(self, cells: Sequence[str], named: str | None) -> tuple[str, ...]:
        """The cells of a row, mended. named: the column its reason speaks of, if any."""
        mended = list(cells)
        for at, mend in self._mends:
            mended[at] = mend(mended[at], self._header[at] == named)
        return tuple(mended)


def read_map(path: str, content: str) -> dict[str, str]:
    """What is to become of each value: a CSV file of two columns, old and new, without a header."""
    known: dict[str, str] = {}
    reader = csv.reader(io.StringIO(content.removeprefix("\ufeff"), newline=""))
    for record in reader:
        if not record:
            continue
        where = f"{path}, line {reader.line_num}"
        if len(record) != 2:
            raise WrongRepairRule(
                f"{where}: {len(record)} {'value' if len(record) == 1 else 'values'}, and a map has two: old and new",
                remedy="Write one pair in each line, separated by a comma; quote values with commas.",
            )
        old, new = record
        if known.setdefault(old, new) != new:
            raise WrongRepairRule(
                f"{where}: the same value is mapped a second time, to something else",
                remedy="Leave out one of the two.",
            )
    return known


def _mend(rule: Rule, maps: Mapping[str, Mapping[str, str]]) -> Mend:
    match rule.name:
        case "trim":
            return lambda cell, _: cell.strip()
        case "strip-controls":
            return lambda cell, _: "".join(filter(_is_wanted, cell))
        case "one-line":
            return lambda cell, _: _LINE_ENDS.sub(" ", cell)
        case "lower":
            return lambda cell, _: cell.lower()
        case "upper":
            return lambda cell, _: cell.upper()
        case "blank":
            return lambda cell, _: ""
        case "blank-invalid":
            fits = TYPES[rule.value] if rule.value is not None else _anything
            return lambda cell, named: "" if named or (cell and not fits(cell)) else cell
        case "truncate":
            characters = int(rule.value or 0)
            return lambda cell, _: cell[:characters]
        case "map":
            known = maps[rule.value or ""]
            return lambda cell, _: known.get(cell, cell)
        case name:
            raise AssertionError(name)


_LINE_ENDS = re.compile(r"[\r\n\v\f\x85\u2028\u2029]+")


def _is_wanted(character: str) -> bool:
    if character in _INVISIBLE:
        return False
    return character in "\t\r\n" or unicodedata.category(character) != "Cc"


# --- types ----------------------------------------------------------------------------------------------
# Marketo's data types (developer guide, field types). A value is called invalid only where Adobe's page leaves no
# doubt: an empty cell is always valid, and spellings that are not documented either way are left to Marketo.


def _anything(_: str) -> bool:
    return True


def _integer(cell: str) -> bool:
    """No decimals since 2019; 64 bits, as users report."""
    return bool(_DIGITS.fullmatch(cell)) and -(2**63) <= int(cell) < 2**63


def _date(cell: str) -> bool:
    """YYYY-MM-DD."""
    if not _DATE.fullmatch(cell):
        return False
    try:
        date.fromisoformat(cell)
    except ValueError:
        return False
    return True


def _datetime(cell: str) -> bool:
    """W3C: YYYY-MM-DDThh:mm:ss, and an offset or Z, which may be missing."""
    return bool(_TIME.fullmatch(cell[10:])) and _date(cell[:10])


_DIGITS = re.compile(r"[+-]?[0-9]{1,19}")
_NUMBER = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(Z|[+-][0-9]{2}:?[0-9]{2})?")
_EMAIL = re.compile(r"[!-?A-~]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}")
_BOOLEANS = frozenset({"true", "false", "1", "0", "yes", "no"})

TYPES: Mapping[str, Callable[[str], bool]] = {
    "integer": _integer,
    "score": _integer,
    "percent": _integer,
    "float": lambda cell: bool(_NUMBER.fullmatch(cell)),
    "currency": lambda cell: bool(_NUMBER.fullmatch(cell)),
    "date": _date,
    "datetime": _datetime,
    "boolean": lambda cell: cell.lower() in _BOOLEANS,
    "email": lambda cell: bool(_EMAIL.fullmatch(cell)),
}
