"""What becomes of each row of a submitted file, and what do the failure and warning files look like?

Unknown columns are ignored and echoed; the header is not trimmed; reasons are those seen in Adobe's samples and in real
files. A row with a malformed e-mail address is imported with a warning.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from orchestrator.simulator.fields import CHECKS, LeadField, is_email
from orchestrator.simulator.settings import Settings

DELIMITERS = {"csv": ",", "tsv": "\t", "ssv": ";"}


@dataclass(frozen=True, slots=True)
class Judged:
    """One row that failed or was warned of. `index` counts the file's rows from 0; blank lines are no rows."""

    index: int
    cells: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A whole file: its header, how many rows it has, and which of them failed or were warned of."""

    header: tuple[str, ...]
    rows: int
    failed: tuple[Judged, ...]
    warned: tuple[Judged, ...]
    poisoned: bool


def judge(
    content: bytes,
    format: str,
    fields: Mapping[str, LeadField],
    keys: Sequence[str],
    missing_key: Callable[[str], str],
    *,
    key_must_exist: Callable[[str], bool] | None = None,
    poison: str | None = None,
    stumbles: Callable[[list[str]], str] | None = None,
    keep: Callable[[tuple[str, ...], list[str]], None] | None = None,
) -> Judgement | None:
    """Judge every row; None when the file has no header or is not UTF-8 text.

    keys: columns every row must have a value in. stumbles: why a sound row fails this time, or "". keep: called with
    the key and the cells of each imported row.
    """
    try:
        reader = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=DELIMITERS[format])
        header = tuple(next(reader))
    except (UnicodeDecodeError, StopIteration, csv.Error):
        return None
    at = {name: index for index, name in reversed(list(enumerate(header)))}
    key_columns = [(at.get(name) if name in fields else None, missing_key(name)) for name in keys]
    checks = [
        (index, CHECKS[field.data_type], f"Invalid data type in field {field.display_name}")
        for name, index in at.items()
        if (field := fields.get(name)) is not None and field.data_type in CHECKS
    ]
    email = at.get("email", -1)
    failed: list[Judged] = []
    warned: list[Judged] = []
    rows, width, poisoned = 0, len(header), False
    for cells in reader:
        if not cells:
            continue
        index, rows, reason = rows, rows + 1, ""
        if len(cells) != width:
            cells = (cells + [""] * width)[:width]
        for column, missing in key_columns:
            if column is None or not cells[column].strip():
                reason = missing
                break
        else:
            for column, check, invalid in checks:
                if cells[column] and not check(cells[column]):
                    reason = invalid
                    break
        if poison is not None and poison in cells:
            poisoned = True
        if not reason and key_must_exist is not None and not key_must_exist(cells[key_columns[0][0] or 0]):
            reason = "Lead not found"
        if not reason and stumbles is not None:
            reason = stumbles(cells)
        if reason:
            failed.append(Judged(index, tuple(cells), reason))
            continue
        if email >= 0 and cells[email] and not is_email(cells[email]):
            warned.append(Judged(index, tuple(cells), "Invalid email address"))
        if keep is not None:
            keep(tuple(cells[column] for column, _ in key_columns if column is not None), cells)
    return Judgement(header, rows, tuple(failed), tuple(warned), poisoned)


def result_file(
    header: Sequence[str],
    rows: Sequence[Judged],
    reason_column: str,
    format: str,
    keys: Sequence[str],
    settings: Settings,
    rng: Random,
) -> bytes:
    """A failure or warning file, in the submitted format, with the hazards the settings ask for."""
    columns = list(range(len(header)))
    if settings.drop_empty_lookup_column:
        empty = [at for at in columns if header[at] in keys and all(not row.cells[at].strip() for row in rows)]
        columns = [at for at in columns if at not in empty]
    lines = [[*(header[at] for at in columns), reason_column]]
    listed = list(rows)
    if settings.order == "shuffled":
        rng.shuffle(listed)
    lines += [[*(row.cells[at] for at in columns), row.reason] for row in listed]
    delimiter = DELIMITERS[format]
    if not settings.requote:
        return "".join(delimiter.join(line) + "\n" for line in lines).encode()
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return out.getvalue().encode()
