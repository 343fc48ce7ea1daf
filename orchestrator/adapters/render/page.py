"""How does the report look to a person? One self-contained page: no network, and whole without its script.

What it says of numbers and rows can be written again from the other files of the report, and so be compared.
The page's policy allows exactly its own style and its own script, by their hashes: text from strangers that got past
the escaping would still not run. What is drawn where is `core.picture`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, TextIO

import jinja2
import markupsafe

from orchestrator.adapters.render.summary import BATCHES_KEPT, Digest
from orchestrator.core.model import Target, Totals
from orchestrator.core.picture import BINS, WIDTH, Curves, parts_of
from orchestrator.core.reasons import column_of
from orchestrator.core.runs import ReportRow
from orchestrator.errors import counted

ROWS = 1_000
"""Rows the page lists; all of them are in report.csv."""
REASONS, COLUMNS, NOTES = 50, 30, 50
VALUES = 60
"""Values of a row that the page lists."""
CHARACTERS = 200
"""Of a value: the most that the page shows of one."""
LABELS = {
    "imported": "Imported",
    "warned": "Imported with a warning",
    "failed": "Failed",
    "rejected": "Rejected before sending",
    "unsent": "Not sent",
    "unknown": "Outcome unknown",
}
_TIME_LINES = re.compile(
    '(?<=<td class="lane plain">).*?(?=</td>)|<section aria-labelledby="course">.*?</section>\n', re.DOTALL
)
OPEN_LABELS = {"unsent": "Not sent yet", "unknown": "Outcome not known yet"}
"""The same of a load that is not finished."""
KINDS = {"failure": "failed", "warning": "warning", "rejected": "rejected"}
FILLS = {"failure": "failed", "warning": "warned", "rejected": "rejected"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be understood at a glance."""

    word: str
    sentence: str
    tone: str


@dataclass(frozen=True, slots=True)
class RowView:
    """One row as the page lists it."""

    place: str
    sort: str
    line: int | None
    kind: str
    reason: str
    key: str
    column: str | None
    value: str
    values: list[tuple[str, str]]


class Rows:
    """The rows that the page lists, as all of them come by: those that are not imported before those that are."""

    def __init__(self) -> None:
        self._lost: list[ReportRow] = []
        self._warned: list[ReportRow] = []

    def add(self, warned: bool, rows: Iterable[ReportRow]) -> None:
        shown = self._warned if warned else self._lost
        shown.extend(map(_shown, islice(rows, ROWS - len(shown))))

    def shown(self) -> list[ReportRow]:
        return (self._lost + self._warned)[:ROWS]


def _shown(row: ReportRow) -> ReportRow:
    """What the page shows of a row: one may be as large as a chunk, and a thousand of them are kept."""
    return replace(row, cells=tuple(cell[: CHARACTERS + 1] for cell in row.cells), sent=None, content=None)


@dataclass(frozen=True, slots=True)
class _Look:
    template: jinja2.Template
    style: markupsafe.Markup
    script: markupsafe.Markup
    policy: str
    generator: str
    """Which page this is: another release may say the same in other words."""


@cache
def _look() -> _Look:
    """Compiled once in a process: that takes longer than a small report."""
    files = resources.files(__package__)
    style, script, page = (
        files.joinpath(f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js", "html.jinja")
    )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(filters())
    environment.globals.update(swatch=_swatch, rows_word=_rows, characters=CHARACTERS)
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
    return _Look(
        environment.from_string(page),
        markupsafe.Markup(style),  # noqa: S704 our own files
        markupsafe.Markup(script),  # noqa: S704
        policy + "base-uri 'none'; form-action 'none'",
        f"orchestrator {hashlib.sha256((page + style + script).encode()).hexdigest()[:12]}",
    )


def filters() -> dict[str, Callable[..., str]]:
    """How numbers, times and long texts are shown, on this page and on others of its look."""
    return {
        "number": _number,
        "percent": _percent,
        "rate": _rate,
        "when": _when,
        "span": _span,
        "bytes": _bytes,
        "cut": _cut,
    }


def style() -> str:
    """The style of this page, for others of its look."""
    return resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")


def write_page(
    file: TextIO, *, summary: Mapping[str, Any], digest: Digest, header: Sequence[str], rows: Rows, listed: int
) -> None:
    """summary: the head of report.json. header: the user's columns. rows: the first of all `listed` rows."""
    time_line = digest.time_line
    curves = time_line.curves()
    told = {**summary, "notes": digest.notes, "doubts": digest.doubts}
    context = {
        **_context(told, header, rows, listed),
        "batches": list(zip(digest.first, time_line.lanes(len(digest.first)), strict=True)),
        "batches_count": len(time_line),
        "timeline_seconds": time_line.seconds,
        "curves": curves,
        "paths": _paths(curves) if curves else None,
        "ticks": ticks_of(time_line.seconds),
    }
    file.writelines(_look().template.generate(**context))


def is_of_this_release(page: str) -> bool:
    return f'<meta name="generator" content="{_look().generator}">' in page


def pieces_missing(page: str, report: Mapping[str, Any], header: Sequence[str], rows: Rows, listed: int) -> list[str]:
    """Which parts of a page do not say what the other files of its report do? report: all of report.json.

    The page must be of this release. The time lines are not looked at: report.json has its times by the second.
    """
    look = _look()
    accepted = [batch for batch in report["batches"] if batch["accepted_at"] is not None]
    context = _context(report, header, rows, listed) | {
        "batches": [(batch, None) for batch in accepted[:BATCHES_KEPT]],
        "batches_count": len(accepted),
    }
    page = _TIME_LINES.sub("", page)
    if look.template.render(context) == page:
        return []
    missing = [
        name
        for name, block in look.template.blocks.items()
        if "".join(block(look.template.new_context(context))) not in page
    ]
    return missing or ["what stands around these"]


def _context(report: Mapping[str, Any], header: Sequence[str], rows: Rows, listed: int) -> dict[str, Any]:
    """What the page says, but for the time line."""
    look, totals, settings, notes = _look(), Totals(**report["totals"]), report["settings"], report["notes"]
    target = Target(**{field.name: settings[field.name] for field in fields(Target)})
    return {
        **report,
        "policy": look.policy,
        "generator": look.generator,
        "style": look.style,
        "script": look.script,
        "verdict": verdict_of(totals, str(report["stopped"])),
        "target": target_text(target),
        "subscription": settings["subscription"],
        "totals": totals,
        "parts": parts_of(totals),
        "labels": {**LABELS, **(OPEN_LABELS if report["stopped"] else {})},
        "settled": totals.rows - totals.unsent - totals.unknown,
        "kinds": KINDS,
        "fills": FILLS,
        "calls": sum(count for kind, count in report["calls"].items() if kind != "token"),
        "notes": notes[:NOTES],
        "notes_more": max(0, len(notes) - NOTES),
        "reasons": report["reasons"][:REASONS],
        "reasons_more": max(0, len(report["reasons"]) - REASONS),
        "columns": report["columns"][:COLUMNS],
        "key": target.key_column,
        "rows": [_view(row, tuple(header), target.key_column) for row in rows.shown()],
        "rows_more": listed - len(rows.shown()),
        "listed": listed,
    }


def verdict_of(totals: Totals, stopped: str) -> Verdict:
    """The load in a word and a sentence."""
    lost, unknown = totals.failed + totals.rejected + totals.unsent, totals.unknown
    warned = f", {_number(totals.warned)} of them with a warning" if totals.warned else ""
    are = "is" if 1 in (totals.imported, totals.rows) else "are"
    sentence = f"{_number(totals.imported)} of {_rows(totals.rows)} {are} imported"
    if stopped:
        sentence += " so far."
        return Verdict("Not finished yet", f"{sentence} The load is not finished yet: {stopped}.", "bad")
    if not lost and not unknown:
        sentence = "The row is" if totals.rows == 1 else f"All {_rows(totals.rows)} are"
        return Verdict("Everything is imported", f"{sentence} imported{warned}.", "good")
    sentence += f"{warned}."
    if lost:
        sentence += f" {_number(lost)} {'is not: it' if lost == 1 else 'are not: each of them'} is in report.csv with"
        sentence += " its reason"
        sentence += ", and the failed ones are in retry.csv, to be mended and loaded again." if totals.failed else "."
    if unknown:
        sentence += f" Of {_number(unknown)}, which were sent, Marketo does not say what became of them."
    word = "Some rows are not imported" if totals.imported else "Nothing is imported"
    return Verdict(word, sentence, "" if totals.imported else "bad")


def target_text(target: Target) -> str:
    """Where the rows went, in words."""
    match target.kind:
        case "leads":
            where = "Leads"
            where += f", added to static list {target.list_id}" if target.list_id is not None else ""
            return where + (f", in partition {target.partition_name}" if target.partition_name is not None else "")
        case "members":
            return f"Members of program {target.name} with status {target.member_status}"
        case "customobjects":
            return f"Custom objects {target.name}"


def _view(row: ReportRow, header: tuple[str, ...], key: str | None) -> RowView:
    named = dict(zip(header, row.cells, strict=False))
    column = column_of(row.reason, header) if row.kind != "rejected" else None
    place, sort = "?", ""
    if row.source_row is not None:
        place, sort = _number(row.source_row), str(row.source_row)
    elif row.candidates:
        place, sort = "one of " + ", ".join(map(_number, row.candidates[:5])), str(row.candidates[0])
        place += ", …" if len(row.candidates) > 5 else ""
    values = [(name, value) for name, value in named.items() if value][:VALUES]
    return RowView(
        place,
        sort,
        row.source_line,
        row.kind,
        row.reason,
        named.get(key, "") if key else "",
        column,
        named.get(column, "") if column else "",
        values,
    )


def _paths(curves: Curves) -> dict[str, Any]:
    """The curves as SVG paths in a box of WIDTH by 100."""
    step, top = WIDTH / BINS, 100 / curves.most
    total = [one + other for one, other in zip(curves.importing, curves.queued, strict=True)]
    rows = max(1, curves.rows_done[-1])
    done = [(index * step + step, 100 - 100 * count / rows) for index, count in enumerate(curves.rows_done)]
    edge = "M0,100" + "".join(f"L{x:.1f},{y:.2f}" for x, y in done)
    return {
        "queued": _steps(total, step, top),
        "importing": _steps(curves.importing, step, top),
        "lanes_y": round(100 - 2 * top, 2),
        "done": f"{edge}L{WIDTH:.0f},100Z",
        "done_edge": edge,
    }


def _steps(heights: Sequence[float], step: float, scale: float) -> str:
    path = "M0,100"
    for index, height in enumerate(heights):
        path += f"V{100 - height * scale:.2f}H{(index + 1) * step:.1f}"
    return path + "V100Z"


def _swatch(name: str) -> markupsafe.Markup:
    return markupsafe.Markup(
        '<svg viewBox="0 0 1 1" aria-hidden="true"><rect class="{}" width="1" height="1"/></svg>'
    ).format(name)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _rows(count: int) -> str:
    return counted(count, "row")


def _number(count: int) -> str:
    return f"{count:,}"


def _percent(share: float) -> str:
    """Never 0 % of something, nor 100 % of not quite all."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    text = f"{100 * share:.1f}".removesuffix(".0")
    return f"{text} %"


def _rate(rows_per_s: float) -> str:
    number = f"{rows_per_s:,.0f}" if rows_per_s >= 10 else f"{rows_per_s:.2g}"
    return f"{number} rows a second"


def _when(text: str | None) -> str:
    return datetime.fromisoformat(text).strftime("%-d %b %Y %H:%M:%S") if text else ""


def ticks_of(seconds: float) -> list[str]:
    """The quarters of a time; one that a second does not tell apart is told in parts of it."""
    quarters = [seconds * quarter / 4 for quarter in range(1, 5)]
    if seconds >= 8:
        return ["0", *map(_span, quarters)]
    digits = 1 if seconds >= 1 else 2 if seconds >= 0.1 else 3
    return ["0", *(f"{one:.{digits}f} s" for one in quarters)]


def _span(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60:02} s" if whole % 60 else "")
    if whole < 172_800:
        return f"{whole // 3600} h" + (f" {whole % 3600 // 60:02} min" if whole % 3600 // 60 else "")
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
