"""Which row of the spool comes from which line of which original? Kept as runs, since most rows follow each other."""

from __future__ import annotations

from orchestrator.core.model import Stretch
from orchestrator.errors import ValuesUnfit

STRETCHES_MAX = 10_000


class Places:
    """Filled while a spool file is written. Counts either lines of the spool or rows."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self.rows = 0
        self._original = 0

    def file(self, original: int) -> None:
        """What follows comes from this original."""
        self._original = original

    def next_rows(self, line: int, rows: int = 1) -> None:
        """The next rows of the spool stand on this line of the original, and on those after it."""
        self.run(self.rows + 1, line)
        self.rows += rows

    def run(self, at: int, line: int) -> None:
        """Row (or line) `at` of the spool is this line of the original; those after it follow, until told otherwise."""
        last = self.stretches[-1] if self.stretches else None
        if last is not None and (last.original, last.shift) == (self._original, line - at):
            return
        if len(self.stretches) >= STRETCHES_MAX:
            raise ValuesUnfit(
                f"there are more than {STRETCHES_MAX:,} gaps of blank lines between rows (line {line:,})",
                remedy="Remove the blank lines; nothing was sent.",
            )
        self.stretches.append(Stretch(at, self._original, line - at))
