"""Which values will Marketo not take as they stand?

By the field's type and length: what is documented, and where nothing is, what files in use show. A value found here is
not refused by us: Marketo judges, and its report counts. Counted per column and reason, with the first rows.

The cost is per distinct value and block: most columns repeat. Sources: the field types page (dates in W3C form, whole
numbers, true and false), the import pages (ASCII in e-mail addresses), and what failure files say.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

from orchestrator.core.fields import Described, Field

ROWS_SHOWN = 5
INTEGER_END = 2**63
"""No page says how large an integer may be; 64 bits are the most that is likely."""


@dataclass(frozen=True, slots=True)
class ValueFinding:
    """Values of one column that will probably not be taken, for one reason."""

    column: str
    reason: str
    rows: int
    first_rows: tuple[int, ...]


def not_whole(value: str) -> str:
    if re.fullmatch(r"[+-]?[0-9]{1,19}", value) and -INTEGER_END <= int(value) < INTEGER_END:
        return ""
    return "not a whole number"


def not_number(value: str) -> str:
    return "" if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", value) else "not a plain number (digits and a point)"


def not_date(value: str) -> str:
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            date.fromisoformat(value)
            return ""
    except ValueError:
        pass
    return "not a date (YYYY-MM-DD)"


def not_datetime(value: str) -> str:
    """Without a zone, the user interface reads US Central time; of the API nobody knows."""
    match = re.fullmatch(
        r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]+)?(Z|[+-][0-9]{2}:?[0-9]{2})?", value
    )
    try:
        if match is not None:
            datetime.fromisoformat(match[1])
            return "" if match[3] else "no time zone (add Z or +hh:mm)"
    except ValueError:
        pass
    return "not a time (YYYY-MM-DDThh:mm:ss+hh:mm)"


def not_boolean(value: str) -> str:
    return "" if value.lower() in ("true", "false") else "not true or false"


def not_email(value: str) -> str:
    if not value.isascii():
        return "not an e-mail address: it has characters beyond ASCII"
    if re.fullmatch(r"[!-?A-~]+@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*", value):
        return ""
    return "not an e-mail address"


CHECKS: Mapping[str, Callable[[str], str]] = {
    "integer": not_whole,
    "score": not_whole,
    "percent": not_whole,
    "currency": not_number,
    "float": not_number,
    "date": not_date,
    "datetime": not_datetime,
    "boolean": not_boolean,
    "email": not_email,
}
"""By data type: what is wrong with a value that is not empty. Types that are not here take any text."""


@dataclass(slots=True)
class _Count:
    rows: int = 0
    first_rows: list[int] = field(default_factory=list)


class Values:
    """Looks at the rows of one load, in blocks, in any order of columns.

    Where the fields are not known, only a column named email is looked at.
    """

    def __init__(self, header: Sequence[str], known: Described | None) -> None:
        self._header = tuple(header)
        fields = [known.named(name) if known is not None else None for name in self._header]
        if known is None:
            fields = [Field(name, "", "email", None, True) if name == "email" else None for name in self._header]
        self._fields = fields
        self._found: dict[tuple[int, str], _Count] = {}

    def feed(self, rows: Iterable[tuple[int, Sequence[str]]]) -> None:
        """Rows with their numbers, each as wide as the header."""
        block = list(rows)
        if not block:
            return
        numbers = [number for number, _ in block]
        for at, column in enumerate(zip(*(cells for _, cells in block), strict=True)):
            wanted = self._fields[at]
            if wanted is not None:
                self._look(at, wanted, column, numbers)

    def findings(self) -> list[ValueFinding]:
        """The columns in the header's order, the commonest reason first."""
        ordered = sorted(self._found.items(), key=lambda item: (item[0][0], -item[1].rows, item[0][1]))
        return [
            ValueFinding(self._header[at], reason, count.rows, tuple(count.first_rows))
            for (at, reason), count in ordered
        ]

    def _look(self, at: int, wanted: Field, column: Sequence[str], numbers: Sequence[int]) -> None:
        check = CHECKS.get(wanted.data_type)
        if check is None and (wanted.length is None or max(map(_size_of(wanted), column)) <= wanted.length):
            return
        wrong = {value: reason for value in set(column) if value and (reason := self._reason(value, wanted, check))}
        if not wrong:
            return
        for number, value in zip(numbers, column, strict=True):
            if value in wrong:
                reason = wrong[value]
                count = self._found.setdefault((at, reason), _Count())
                count.rows += 1
                if len(count.first_rows) < ROWS_SHOWN or number < count.first_rows[-1]:
                    insort(count.first_rows, number)  # rows that share a key come in chunks of their own
                    del count.first_rows[ROWS_SHOWN:]

    @staticmethod
    def _reason(value: str, wanted: Field, check: Callable[[str], str] | None) -> str:
        if wanted.length is not None and _size_of(wanted)(value) > wanted.length:
            return f"longer than {wanted.length:,} {'bytes' if wanted.data_type == 'text' else 'characters'}"
        return check(value) if check is not None else ""


def _size_of(wanted: Field) -> Callable[[str], int]:
    """How a value is measured: text areas take so many bytes, shorter fields so many characters (field types page)."""
    return (lambda value: len(value.encode())) if wanted.data_type == "text" else len
