"""How does a person see that a load goes on? A live view on a terminal, one plain line every ten seconds otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from orchestrator.adapters.logs import Unbreakable
from orchestrator.cli.output import Output, progress_object, span
from orchestrator.core.model import State
from orchestrator.runner.loop import Progress

PLAIN_EVERY_S = 10.0
_SHOWN = (
    State.PLANNED,
    State.OFFERED,
    State.QUEUED,
    State.IMPORTING,
    State.COLLECTING,
    State.DOUBTFUL,
    State.SETTLED,
)


def rate(progress: Progress) -> float | None:
    """Rows settled in a second, in this run; None before the first."""
    passed_s = progress.now - progress.started_at
    done = progress.rows_settled - progress.rows_settled_before
    return done / passed_s if done and passed_s > 0 else None


def left(progress: Progress) -> str:
    """When it will probably be done; empty while nobody can say."""
    return f"about {span(max(1.0, progress.eta_s))} left" if progress.eta_s else ""


def plain_line(progress: Progress) -> str:
    """Everything that matters in one line."""
    states = ", ".join(
        f"{progress.chunks_by_state[state]} {state}" for state in _SHOWN if progress.chunks_by_state.get(state)
    )
    speed = rate(progress)
    parts = [
        f"{progress.rows_settled:,} of {progress.rows:,} rows",
        f"{speed:,.0f} rows/s" if speed else "",
        f"chunks: {states}" if states else "",
        f"slots {progress.slots_used}/{progress.slots_limit}",
        left(progress),
        f"waiting for {progress.waiting_for}" if progress.waiting_for else "",
    ]
    return "; ".join(part for part in parts if part)


@contextmanager
def watching(output: Output, *, wanted: bool) -> Iterator[Callable[[Progress], None]]:
    """What a load's observer does while the block lasts."""
    if output.as_json:
        yield _every(PLAIN_EVERY_S, lambda progress: output.json("status", **progress_object(progress)))
    elif not wanted or output.quiet:
        yield lambda progress: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _live() as show:
            yield show
    else:
        yield _every(PLAIN_EVERY_S, lambda progress: output.note(plain_line(progress)))


def _every(seconds: float, show: Callable[[Progress], None]) -> Callable[[Progress], None]:
    last = float("-inf")

    def observe(progress: Progress) -> None:
        nonlocal last
        if progress.now - last >= seconds:
            last = progress.now
            show(progress)

    return observe


@contextmanager
def _live() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    stderr = cast(TextIO, Unbreakable(sys.stderr))  # the terminal may be closed in mid-load
    console = Console(file=stderr, force_terminal=True, no_color="NO_COLOR" in os.environ)

    def picture(progress: Progress) -> Group:
        share = progress.rows_settled / progress.rows if progress.rows else 1.0
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(progress.source_name, style="bold", overflow="ellipsis", no_wrap=True),
            ProgressBar(total=1.0, completed=share, width=30),
            f"{share:6.1%}",
            f"{progress.rows_settled:,} of {progress.rows:,} rows",
        )
        speed = rate(progress)
        facts = [
            f"{speed:,.0f} rows/s" if speed else "",
            f"{progress.bytes_sent / 1e6:,.0f} MB sent",
            f"slots {progress.slots_used}/{progress.slots_limit}",
            f"{progress.failed:,} failed" if progress.failed else "",
            left(progress),
        ]
        states = "  ".join(
            f"{state} {progress.chunks_by_state[state]}" for state in _SHOWN if progress.chunks_by_state.get(state)
        )
        lines: list[RenderableType] = [
            head,
            Text("  " + "   ".join(fact for fact in facts if fact)),
            Text(f"  chunks: {states}", style="dim"),
        ]
        if progress.waiting_for:
            lines.append(Text(f"  waiting for {progress.waiting_for}", style="yellow"))
        return Group(*lines)

    with Live(console=console, refresh_per_second=4, redirect_stderr=True, redirect_stdout=False) as live:
        yield lambda progress: live.update(picture(progress))
