"""Daemons to look at: idle, busy, kept waiting by others, with failures, with ten thousand chunks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from e2e.daemon import Client, Daemon, csv, ended, people, served
from e2e.shop import Shop, quick, shop

Scene = tuple[Shop, Daemon, Client]


@contextmanager
def idle(folder: Path) -> Iterator[Scene]:
    """Nothing has happened yet."""
    with shop(folder, quick()) as market, served(market) as (one, client):
        yield market, one, client


@contextmanager
def busy(folder: Path) -> Iterator[Scene]:
    """Several loads, some of them over."""
    with shop(folder, quick(seconds_per_job=0.7)) as market, served(market) as (one, client):
        first = client.create(upload=client.upload("newsletter.csv", csv(people("n", 300, bad=4))))
        one.until(lambda: client.load(first)["ended_at"] is not None)
        client.create({"priority": "high"}, upload=client.upload("spring fair.csv", csv(people("s", 9_000))))
        client.create(upload=client.upload("webinar-2026.csv", csv(people("w", 5_000))))
        one.until(lambda: len(one.said("batch.accepted")) >= 8)
        one.until(lambda: len(one.said("chunk.settled")) >= 3)
        yield market, one, client


@contextmanager
def others(folder: Path) -> Iterator[Scene]:
    """Somebody else has the queue."""
    with shop(folder, quick(seconds_per_job=0.5)) as market, served(market) as (one, client):
        market.simulator.occupy(9)
        client.create(upload=client.upload("waits.csv", csv(people("o", 6_000))))
        one.until(lambda: one.said("upload.refused"))
        time.sleep(1.0)
        yield market, one, client


@contextmanager
def failing(folder: Path) -> Iterator[Scene]:
    """Rows fail, a file is no file, and settings are wrong."""
    with shop(folder, quick()) as market, served(market) as (one, client):
        inbox = folder / "inbox"
        (inbox / "pipe.csv").symlink_to("/etc/passwd")
        (inbox / "typo.csv").write_bytes(csv(people("t", 3)))
        (inbox / "typo.csv.load.toml").write_text("list = 3\n")
        client.create(upload=client.upload("no key.csv", b"firstName\nAna\n"))
        rows = [*people("f", 200, bad=40), *(f"no-address-{n},Ana" for n in range(20))]
        client.create(upload=client.upload("<img src=x onerror=alert(1)>.csv", csv(rows)))
        one.until(lambda: ended(folder / "done") and ended(folder / "failed") and one.said("file.not_taken"))
        time.sleep(1.0)
        yield market, one, client


@contextmanager
def long(folder: Path) -> Iterator[Scene]:
    """A load of ten thousand chunks, under way."""
    tiny = {"ORCHESTRATOR_LIMITS__CHUNK_BYTES": "1000"}
    with shop(folder, quick(seconds_per_job=0.05)) as market, served(market, **tiny) as (one, client):
        rows = [f"{n:06}@example.com,{'x' * 70}" for n in range(100_000)]
        client.create(upload=client.upload("everybody.csv", csv(rows)))
        one.until(lambda: len(one.said("chunk.settled")) >= 3)
        yield market, one, client


SCENES: dict[str, Callable[[Path], AbstractContextManager[Scene]]] = {
    "idle": idle,
    "busy": busy,
    "others": others,
    "failing": failing,
    "long": long,
}
