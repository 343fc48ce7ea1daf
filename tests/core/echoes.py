"""A corpus of mangled echoes: sample leads with many equals, and result files as Marketo writes them, hazard by hazard.

python tests/core/echoes.py     prints the share of failed rows that are located exactly, ambiguously, and not
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random

from orchestrator.core.locate import Place, SentRow, locate, read_echoes, read_sent
from orchestrator.core.model import Format, Span

HEADER = ("email", "firstName", "company", "leadScore", "notes")
REASONS = ("Invalid data type in field Lead Score", "Value for lookup field 'email' not found", 'bad "value", sorry')
HAZARDS = (
    "lookup column dropped",
    "lookup value left out",
    "not quoted again",
    "columns reordered",
    "a column missing",
    "a column of Marketo's",
    "line ends changed",
)
ROWS, FAILED, SEEDS = 150, 60, 3


@dataclass(slots=True)
class Shares:
    """What became of the records of one kind of file."""

    exact: int = 0
    """At its row, or at one of several equal rows all of which came back, or named with its equals."""
    ambiguous: int = 0
    """Named among several different rows."""
    nowhere: int = 0
    wrong: int = 0

    @property
    def records(self) -> int:
        return self.exact + self.ambiguous + self.nowhere + self.wrong


def kinds() -> Iterator[tuple[str, ...]]:
    """Well-formed, each hazard, each two of them, and all that can come together."""
    yield ()
    for hazard in HAZARDS:
        yield (hazard,)
    yield from combinations(HAZARDS, 2)
    yield HAZARDS


def shares(hazards: tuple[str, ...]) -> Shares:
    """Over all formats and seeds. Rows come back in any order; a third of the rows has an equal."""
    found = Shares()
    for format in Format:
        for seed in range(SEEDS):
            _locate_all(found, frozenset(hazards), format, Random(f"{hazards}{format}{seed}"))
    return found


def _locate_all(found: Shares, hazards: frozenset[str], format: Format, rng: Random) -> None:
    sent = _sent(rng, format)
    failed = rng.sample(sent, FAILED)
    if "lookup column dropped" in hazards:
        failed = [row for row in sent if not row.cells[0]]
    truth = {f"#{index}": row for index, row in enumerate(failed)}
    text = _file(list(truth.items()), hazards, format, rng)
    file = read_echoes(text.encode(), format)
    for echo, place in zip(file.records, locate(file, HEADER, sent, "email", format), strict=True):
        if place.continues:
            continue
        reason = echo.reason if place.reason is None else place.reason
        row = next((row for mark, row in truth.items() if reason.endswith(f"({mark})")), None)
        _count(found, place, row)


def _count(found: Shares, place: Place, row: SentRow | None) -> None:
    if place.sent is not None:
        if row is not None and place.sent.cells == row.cells:
            found.exact += 1
        else:
            found.wrong += 1
    elif place.candidates:
        named = {candidate.cells for candidate in place.candidates}
        if row is not None and row.cells not in named:
            found.wrong += 1
        elif len(named) == 1:
            found.exact += 1
        else:
            found.ambiguous += 1
    else:
        found.nowhere += 1


def _sent(rng: Random, format: Format) -> list[SentRow]:
    rows: list[list[str]] = []
    while len(rows) < ROWS:
        if rows and rng.random() < 0.2:
            rows.append(rng.choice(rows))  # an equal
        elif rows and rng.random() < 0.2:
            rows.append([*rng.choice(rows)[:3], str(rng.randrange(3)), rng.choice(["", "b"])])  # of the same key
        else:
            number = rng.randrange(10_000)
            company = rng.choice(["Acme", "Acme, Inc", "Bolt; Sons", "Tab\tCo", 'The "Best"', "Zoë é😀"])
            notes = rng.choice(["", "a", "b, c", "first\nsecond", "first\r\nsecond, third", 'he said "no"', " x "])
            email = rng.choice(["", f"lead{number}@example.com", f"lead{number}@example.com"])
            rows.append([email, rng.choice(["Ana", "Zoë"]), company, str(rng.randrange(100)), notes])
    content = _csv(rows, format).encode()
    span = Span(0, len(content), len(rows), 1, 2)
    return list(read_sent(content, (span,), format))


def _file(failed: list[tuple[str, SentRow]], hazards: frozenset[str], format: Format, rng: Random) -> str:
    columns = list(HEADER)
    if "lookup column dropped" in hazards:
        columns.remove("email")
    if "a column missing" in hazards:
        columns.remove("firstName")
    if "a column of Marketo's" in hazards:
        columns.insert(rng.randrange(len(columns)), "Lead Id")
    if "columns reordered" in hazards:
        rng.shuffle(columns)
    lines = [[*columns, "Import Failure Reason"]]
    for mark, row in failed:
        values = {**dict(zip(HEADER, row.cells, strict=True)), "Lead Id": str(rng.randrange(9))}
        if "lookup value left out" in hazards and not values["email"]:
            del values["email"]
        if "line ends changed" in hazards:
            values = {name: value.replace("\r\n", "\n").replace("\n", "\r\n") for name, value in values.items()}
        plain = "not quoted again" in hazards
        reason = rng.choice(REASONS[:2] if plain else REASONS)
        lines.append([*(values[name] for name in columns if name in values), f"{reason} ({mark})"])
    rng.shuffle(body := lines[1:])
    if "not quoted again" in hazards:
        return "".join(format.delimiter.join(line) + "\n" for line in [lines[0], *body])
    return _csv([lines[0], *body], format)


def _csv(rows: list[list[str]], format: Format) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=format.delimiter, lineterminator="\n").writerows(rows)
    return out.getvalue()


def main() -> int:
    print(f"{'exact':>7} {'one of':>7} {'none':>7} {'wrong':>7} {'records':>8}  result files")
    wrong = 0
    for hazards in kinds():
        one = shares(hazards)
        wrong += one.wrong
        parts = (one.exact, one.ambiguous, one.nowhere, one.wrong)
        print(
            *(f"{part / max(1, one.records):7.1%}" for part in parts),
            f"{one.records:8,}  {' + '.join(hazards) or 'well-formed'}",
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    sys.exit(main())
