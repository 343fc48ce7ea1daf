"""Reports to look at: loads of every kind, and a real browser to open them in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

from playwright.sync_api import Browser, expect, sync_playwright
from report_case import Case, a_case

from orchestrator.adapters.render import Written, write_report
from orchestrator.core.model import ChunkRecord, Counts, Offer, State

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BEGAN_AT = 1_795_500_000.0
expect.set_options(timeout=30_000)  # ms, as for every other wait: five seconds are short on a busy machine
HEADER = "email,firstName,lastName,company,title,leadScore,phone,city,notes"
REASONS = (
    "Invalid data type in field Lead Score",
    "Value for lookup field 'email' not found",
    "Lead's partition does not allow this change",
    "Value too long for field Notes",
)


def chromium() -> str | None:
    """Path of this machine's Chromium; None when there is none."""
    return next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser(path: str, *flags: str) -> Iterator[Browser]:
    """A headless Chromium without a network of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=path, headless=True, args=[*FLAGS, *flags], env=dict(os.environ)
        )
        try:
            yield opened
        finally:
            opened.close()


def leads(rows: int, *, broken: frozenset[int] = frozenset()) -> list[str]:
    """Rows of a source; the broken ones lack a cell."""
    return [
        f"lead{row:05}@example.com,Ana"
        if row in broken
        else f"lead{row:05}@example.com,Zoë,O'Neil,Acme {row % 97},Head of Marketing,{row % 100},+1 555 {row:07},"
        f"Kraków,Met at the fair in hall {row % 40}"
        for row in range(1, rows + 1)
    ]


def time_records(case: Case, *, begun_at: float = BEGAN_AT, seconds: float = 60.0) -> float:
    """Give settled chunks the times of a queue of ten of which two are imported at a time; returns the last end."""
    rng, free = Random(7), [begun_at, begun_at]
    ends: list[float] = []
    for index, record in enumerate(case.records):
        if record.standing.state is not State.SETTLED:
            continue
        accepted = begun_at + 3 + 2 * index if index < 10 else ends[index - 10] + 2
        lane = free.index(min(free))
        importing = max(accepted, free[lane]) + 1
        ended = importing + seconds * rng.uniform(0.8, 1.2)
        free[lane] = ended
        ends.append(ended)
        offer = record.standing.offer
        assert offer is not None
        offer = replace(
            offer,
            offered_at=accepted - 2,
            accepted_at=accepted,
            importing_first_at=importing,
            ended_at=ended,
            collected_at=ended + 1,
        )
        case.records[index] = ChunkRecord(record.chunk, replace(record.standing, offer=offer), (offer,))
    return max(ends, default=begun_at)


def write(case: Case, until: float, exit_code: int, stopped: str = "") -> Written:
    case.load = replace(case.load, subscription="123-ABC-456.mktorest.com", created_at=BEGAN_AT)
    return write_report(
        load=case.load,
        records=lambda: case.records,
        rejected=case.plan.rejected,
        folder=case.folder / "report",
        calls={"token": 1, "create": len(case.records), "status": 4 * len(case.records)},
        started_at=BEGAN_AT,
        finished_at=until + 4,
        exit_code=exit_code,
        stopped=stopped,
    )


def mixed(folder: Path) -> Written:
    """Some of everything: failures, warnings, rejected rows, a doubt, an unknown outcome."""
    rows = leads(4_000, broken=frozenset({12, 1_503, 3_999}))
    case = a_case(folder, "\n".join([HEADER, *rows, ""]).encode(), "spring-campaign.csv", budget=40_000)
    for chunk in case.plan.chunks:
        inside = [row for row in range(chunk.first_row, chunk.last_row + 1) if row not in (12, 1_503, 3_999)]
        bad = {row: REASONS[min(3, row // 17 % 5)] for row in inside if row % 17 == 0}
        odd = [row for row in inside if row % 23 == 0 and row not in bad]
        case.settle(
            chunk.number,
            failures="".join(f"{rows[row - 1]},{reason}\n" for row, reason in bad.items()),
            warnings="".join(f"{rows[row - 1]},Invalid email address\n" for row in odd),
            counts=Counts(chunk.rows - len(bad), len(bad), len(odd)),
        )
    until = time_records(case)
    record = case.records[5]
    lost = Offer(1, BEGAN_AT + 9, 3, lost_at=BEGAN_AT + 39)
    offer = record.standing.offer
    assert offer is not None
    again = replace(offer, attempt=2)
    standing = replace(record.standing, attempts=2, doubts=1, offer=again)
    case.records[5] = ChunkRecord(record.chunk, standing, (lost, again))
    record = case.records[8]
    offer = record.standing.offer
    assert offer is not None
    gone = replace(offer, ended_at=None, status=None, counts=None, failures=None, warnings=None, collected_at=None)
    standing = replace(record.standing, state=State.EXPIRED, why="Marketo does not know the batch any more", offer=gone)
    case.records[8] = ChunkRecord(record.chunk, standing, (gone,))
    return write(case, until, 3)


def clean(folder: Path) -> Written:
    """Nothing failed, nothing was warned of."""
    case = a_case(folder, "\n".join([HEADER, *leads(900), ""]).encode(), budget=40_000)
    for chunk in case.plan.chunks:
        case.settle(chunk.number)
    return write(case, time_records(case), 0)


def empty(folder: Path) -> Written:
    """Stopped before anything was sent."""
    case = a_case(folder, "\n".join([HEADER, *leads(900), ""]).encode(), budget=40_000)
    return write(case, BEGAN_AT + 2, 77, "603 Access denied: the API user may not import")


def failed(folder: Path) -> Written:
    """No row was imported."""
    rows = leads(3_000)
    case = a_case(folder, "\n".join([HEADER, *rows, ""]).encode(), budget=100_000)
    for chunk in case.plan.chunks:
        inside = range(chunk.first_row, chunk.last_row + 1)
        failures = "".join(f"{rows[row - 1]},Value for required field 'externalId' is missing\n" for row in inside)
        case.settle(chunk.number, failures=failures)
    return write(case, time_records(case), 3)


def long(folder: Path) -> Written:
    """Ten thousand batches."""
    rows = [f"{row:06}@example.com,{row % 7},{row % 11},{'x' * 120}" for row in range(1, 60_001)]
    case = a_case(folder, "\n".join(["email,leadScore,title,notes", *rows, ""]).encode(), budget=1_000)
    for chunk in case.plan.chunks:
        bad = [row for row in range(chunk.first_row, chunk.last_row + 1) if row % 1_111 == 0]
        case.settle(chunk.number, failures="".join(f"{rows[row - 1]},{REASONS[0]}\n" for row in bad))
    assert len(case.plan.chunks) >= 10_000
    return write(case, time_records(case), 3)


EXAMPLES: dict[str, Callable[[Path], Written]] = {
    "mixed": mixed,
    "clean": clean,
    "empty": empty,
    "failed": failed,
    "long": long,
}


def example(name: str, folder: Path) -> Path:
    """The page of an example, made in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return EXAMPLES[name](folder).folder / "report.html"
