"""What does a person read of a retry: which rows go again, and what the rules change in them?

The dry run shows cells of the changed columns only. They are lead data, and what was asked for, so they go to stdout.
Of e-mail addresses only the shape is shown: letters as x, digits as 0, so that changes of case and stray characters are
seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from orchestrator.cli.output import Output
from orchestrator.core.retry import Again, Tally
from orchestrator.core.verdicts import plain
from orchestrator.errors import counted
from orchestrator.library import RetrySummary

_ADDRESS = re.compile(r"(?<!\S)\S*@\S*")


def show_change(output: Output) -> Callable[[Again], None]:
    """One row that a rule changed: where it is, its reason, old and new cells."""

    def show(again: Again) -> None:
        if not again.changes:
            return
        was, reason = again.was, plain(again.was.reason)
        changes = [(change.column, shape(change.old), shape(change.new)) for change in again.changes]
        output.json(
            "status",
            source_row=was.source_row,
            source_line=was.source_line,
            reason=reason,
            changes=[{"column": column, "old": old, "new": new} for column, old, new in changes],
        )
        where = (
            f"row {was.source_row} (line {was.source_line})" if was.source_row is not None else "one of several rows"
        )
        lines = [f"{where}: {_shown(reason)}"]
        for column, old, new in changes:
            lines += [f"- {column}: {_quoted(old)}", f"+ {column}: {_quoted(new)}"]
        output.data("\n".join(lines))

    return show


def show_preview(output: Output, summary: RetrySummary) -> int:
    """The end of a dry run."""
    output.json("summary", exit_code=0, retry_of=summary.of.id, load_id=None, **_counts(summary.tally))
    output.data("\n".join(_in_words(summary)))
    output.data("a dry run: nothing was sent")
    return 0


def show_retry(output: Output, summary: RetrySummary) -> None:
    """What is about to be sent again."""
    output.json(
        "status", retry_of=summary.of.id, load_id=summary.load.id if summary.load else None, **_counts(summary.tally)
    )
    for line in _in_words(summary):
        output.note(line)


def show_nothing(output: Output, summary: RetrySummary) -> int:
    """No row goes again: that is no error."""
    output.json("summary", exit_code=0, retry_of=summary.of.id, load_id=None, **_counts(summary.tally))
    for line in _in_words(summary):
        output.note(line)
    output.note("no row goes again: nothing was sent")
    return 0


def shape(cell: str) -> str:
    """A cell with e-mail addresses made unreadable, character by character."""
    return _ADDRESS.sub(lambda match: "".join(map(_veiled, match[0])), cell)


def _veiled(character: str) -> str:
    if character.isdigit():
        return "0"
    if character.isalpha():
        return "X" if character.isupper() else "x"
    return character


def _quoted(cell: str) -> str:
    """Between quotes, so that blanks are seen; what a terminal would obey is written as escapes."""
    return '"' + _shown(cell).replace('"', '""') + '"'


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "rows": tally.rows,
        "again": tally.again,
        "mended": tally.mended,
        "staying": tally.staying,
        "unreadable": tally.unreadable,
        "not_found": tally.not_found,
        "by_class": dict(sorted(tally.by_class.items())),
        "cells_changed": dict(sorted(tally.cells_changed.items())),
    }


def _in_words(summary: RetrySummary) -> list[str]:
    tally = summary.tally
    if not tally.rows:
        return [f"load {summary.of.id}: no row failed"]
    classes = ", ".join(f"{count:,} {name}" for name, count in sorted(tally.by_class.items()))
    mended = f"; {tally.mended:,} of them mended" if tally.mended else ""
    lines = [f"load {summary.of.id}: {counted(tally.rows, 'row')} failed or not sent"]
    lines += [f"  {tally.again:,} go again ({classes}){mended}"] if tally.again else []
    lines += [f"  {tally.staying:,} stay: the same row would fail again, and no rule mends it"] if tally.staying else []
    lines += (
        [f"  {tally.unreadable:,} stay: they cannot be sent as they stand in the source"] if tally.unreadable else []
    )
    lines += [f"  {tally.not_found:,} stay: their place in the source is not known"] if tally.not_found else []
    if tally.cells_changed:
        cells = ", ".join(f"{column} {count:,}" for column, count in tally.cells_changed.most_common())
        lines.append(f"  cells changed: {cells}")
    return lines
