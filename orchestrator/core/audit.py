"""Do the books of a report balance, going by what its own files say?

Every row is in exactly one chunk or rejected; a chunk's rows are imported, failed, unsent or unknown; the sums over all
chunks are the totals; what the tables list is what is counted. Pure: files are read by whoever asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.core.model import State, Totals
from orchestrator.core.reasons import OTHER_REASONS, counted_as
from orchestrator.core.report import exit_code

_PARTS = ("imported", "failed", "unsent", "unknown")


def faults_of_sums(report: Mapping[str, Any]) -> Iterator[str]:
    """What does not add up in report.json."""
    totals, chunks = report["totals"], report["chunks"]
    rows = totals["imported"] + totals["failed"] + totals["rejected"] + totals["unsent"] + totals["unknown"]
    if rows != totals["rows"]:
        yield f"the totals make {rows:,} rows, not {totals['rows']:,}"
    if totals["rows"] != report["source"]["rows"]:
        yield f"the totals are of {totals['rows']:,} rows, the source has {report['source']['rows']:,}"
    codes = {exit_code(Totals(**totals), fail_on_warning=warned) for warned in (False, True)}
    if not report["stopped"] and report["exit_code"] not in codes:
        yield f"exit_code is {report['exit_code']}, which these totals do not come to"
    if totals["warned"] > totals["imported"]:
        yield f"{totals['warned']:,} rows are warned of and only {totals['imported']:,} imported"
    for name in (*_PARTS, "warned"):
        counted = sum(chunk[name] for chunk in chunks)
        if counted != totals[name]:
            yield f"{name}: the chunks make {counted:,}, the totals say {totals[name]:,}"
    parts: Counter[int] = Counter()
    for chunk in chunks:
        if chunk["parent"] is not None:
            parts[chunk["parent"]] += chunk["rows"]
    for chunk in chunks:
        where = f"chunk {chunk['chunk']}"
        accounted = sum(chunk[name] for name in _PARTS)
        if chunk["state"] == "halved":
            if accounted or parts[chunk["chunk"]] != chunk["rows"]:
                yield f"{where}: it has {chunk['rows']:,} rows, its parts have {parts[chunk['chunk']]:,}"
        elif accounted + chunk["sent_again"] != chunk["rows"]:
            yield f"{where}: {accounted:,} of its {chunk['rows']:,} rows are accounted for"
    whole = sum(chunk["rows"] for chunk in chunks if chunk["parent"] is None and not chunk["again"])
    for again in {chunk["again"] + more for chunk in chunks for more in (0, 1)} - {0}:
        sent = sum(chunk["sent_again"] for chunk in chunks if chunk["again"] == again - 1)
        came = sum(chunk["rows"] for chunk in chunks if chunk["again"] == again and chunk["parent"] is None)
        if sent != came:
            yield f"{sent:,} rows went again, and {came:,} came to last chunks"
    if whole + totals["rejected"] != totals["rows"]:
        yield f"{whole:,} rows in chunks and {totals['rejected']:,} rejected are not {totals['rows']:,}"
    yield from _faults_of_batches(report)


def _faults_of_batches(report: Mapping[str, Any]) -> Iterator[str]:
    batches = {batch["batch_id"]: batch for batch in report["batches"]}
    if len(batches) != len(report["batches"]):
        yield "two batches have one id"
    for chunk in report["chunks"]:
        batch = batches.get(chunk["batch_id"])
        if chunk["state"] not in set(State):
            yield f"chunk {chunk['chunk']}: its state is none that there is"
        if chunk["state"] != State.SETTLED:
            continue
        if batch is None or batch["imported"] is None:
            yield f"chunk {chunk['chunk']}: it is settled and has no batch that was counted"
        elif any(batch[name] != chunk[name] for name in ("sha256", "bytes", "rows", "first_row", "last_row")):
            yield f"chunk {chunk['chunk']}: batch {batch['batch_id']} is of other bytes"
        elif batch["status"] == "Complete" and (
            chunk["imported"] > batch["imported"]
            or chunk["failed"] + chunk["sent_again"] != min(batch["failed"], chunk["rows"])
        ):
            yield f"chunk {chunk['chunk']}: it is not what Marketo counted of batch {batch['batch_id']}"


class Listed:
    """The rows of the tables, as they come by, against what report.json says of them.

    numbered: their numbers are those of the load's own source, in its chunks.
    """

    def __init__(self, report: Mapping[str, Any], *, numbered: bool = True) -> None:
        self._report, self._numbered = report, numbered
        self._reasons: Counter[tuple[str, str]] = Counter()
        self._kinds: Counter[str] = Counter()
        self._chunks = {chunk["chunk"]: (chunk["first_row"], chunk["last_row"]) for chunk in report["chunks"]}
        self._last = 0, ""
        self._faults: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """One row of report.jsonl."""
        kind, number = row["kind"], row["source_row"]
        self._kinds[kind] += 1
        self._reasons[kind, counted_as(kind, row["reason"])] += 1
        if number is None or not self._numbered:
            return
        if row["chunk"] is not None:
            first, last = self._chunks.get(row["chunk"], (0, 0))
            if not first <= number <= last:
                self._fault(f"row {number} is listed under chunk {row['chunk']}, which does not have it")
        if (number, kind) <= self._last:
            self._fault(f"row {number} is listed twice as {kind}, or out of order")
        self._last = number, kind

    def faults(self) -> Iterable[str]:
        """What does not agree, when all rows have come by."""
        faults = list(self._faults)
        told = {(one["kind"], one["reason"]): one["rows"] for one in self._report["reasons"]}
        if not any(reason == OTHER_REASONS for _, reason in told) and told != dict(self._reasons):
            faults.append("the rows listed do not have the reasons that are counted")
        kinds: Counter[str] = Counter()
        for (kind, _), rows in told.items():
            kinds[kind] += rows
        for kind in sorted({*kinds, *self._kinds}):
            if kinds[kind] != self._kinds[kind]:
                faults.append(f"{self._kinds[kind]:,} rows are listed as {kind}, {kinds[kind]:,} are counted")
        return faults

    def missing(self) -> int:
        """Failed rows that Marketo counted and its files do not name: they cannot be listed."""
        failed: int = self._report["totals"]["failed"]
        return max(0, failed - self._kinds["failure"])

    def _fault(self, text: str) -> None:
        if len(self._faults) < 20:
            self._faults.append(text)
