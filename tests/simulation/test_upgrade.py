"""Ledgers of every earlier schema, left in mid-load by the release that wrote them, carried on by the code of today."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import pytest
from simulation.play import Simulation, quiet
from simulation.promises import check
from simulation.scenario import SECRET, Command, Network, Scenario
from simulation.virtual import EPOCH
from simulator.client import CREATE, IDENTITY, form

from orchestrator.adapters.ledger import SCHEMA_VERSION
from orchestrator.simulator.model import Marketo, Request
from orchestrator.simulator.settings import Settings

LEDGERS = Path(__file__).parent.parent / "ledgers"
KINDS = ("failures", "warnings")
LEFT_AT = 94.0
"""Seconds after the beginning: when the process of the old release was killed."""


def left_in_mid_load(schema: int, folder: Path) -> Simulation:
    """The old ledger, its source, and a Marketo that knows what the ledger says was sent."""
    settings = Settings(
        clients={"client": SECRET},
        rows_per_second=1e9,
        seconds_per_job=40.0,
        failing_jobs=frozenset({3}),
        keep_bodies=True,
    )
    scenario = replace(
        Scenario.of(0),
        rows=[110],
        queued_jobs=4,
        settings=settings,
        network=Network(),
        rates={},
        foreign=[],
        commands=[Command(at=LEFT_AT + 60.0)],
        on_doubt="resend",
        list_id=None,
        storage=0.0,
        locked=0.0,
    )
    simulation = Simulation(scenario, folder)
    simulation.sources[0].write_bytes((LEDGERS / f"{schema}.csv").read_bytes())
    ledger = sqlite3.connect(simulation.config.ledger_path)
    ledger.executescript((LEDGERS / f"{schema}.sql").read_text(encoding="utf-8").replace("/srv/upload", str(folder)))
    sent = ledger.execute(
        "SELECT o.batch_id, coalesce(o.accepted_at, o.offered_at + 0.5), c.spans, o.failures_path, "
        "o.warnings_path FROM offers o "
        "JOIN chunks c ON c.load_id = o.load_id AND c.number = o.chunk WHERE o.lost_at IS NULL ORDER BY o.offered_at"
    ).fetchall()
    ledger.close()
    files = []
    for batch_id, accepted_at, spans, *paths in sent:  # without an id: it was killed before it could write it down
        create(simulation.model, batch_id or 1700, accepted_at - EPOCH, simulation.sources[0], json.loads(spans))
        files += [(f"{batch_id}/{kind}.json", path) for kind, path in zip(KINDS, paths, strict=True) if path]
    for name, path in files:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(ask(simulation.model, "GET", f"/bulk/v1/leads/batch/{name}", LEFT_AT))
    return simulation


def ask(model: Marketo, method: str, target: str, at: float, content: bytes | None = None) -> bytes:
    credentials = {"grant_type": "client_credentials", "client_id": "client", "client_secret": SECRET}
    identity = model.handle(Request("POST", IDENTITY, {}, urlencode(credentials).encode()), at)
    headers, body = form(content) if content is not None else ({}, b"")
    headers["authorization"] = f"Bearer {json.loads(identity.body)['access_token']}"
    return model.handle(Request(method, target, headers, body), at).body


def create(model: Marketo, batch_id: int, at: float, source: Path, spans: list[list[int]]) -> None:
    content = source.read_bytes()
    chunk = content[: content.index(b"\n") + 1] + b"".join(content[start:stop] for start, stop, *_ in spans)
    model.begin_batches_at(batch_id - 1)
    ask(model, "POST", f"{CREATE['leads']}?format=csv&lookupField=email", at, chunk)
    assert batch_id in model.jobs


@pytest.mark.parametrize("schema", range(1, SCHEMA_VERSION))
def test_a_load_that_an_earlier_release_left_in_mid_load_is_carried_on(schema: int, tmp_path: Path) -> None:
    """Upgrades happen while loads wait: no batch is sent again, no doubt is forgotten, every row is accounted for."""
    with quiet():
        simulation = left_in_mid_load(schema, tmp_path)
        states = dict(chunk_states(simulation))
        assert set(states) > {"planned", "doubtful", "queued", "collecting"}
        known = set(simulation.model.jobs)
        (result,) = simulation.run()
        check(simulation)
    assert result.doubts == 2  # the one that stood there, and the upload under way when the process was killed
    assert result.totals.unknown == result.totals.unsent == 0
    new = [job for number, job in simulation.model.jobs.items() if number not in known]
    assert len(new) == states["planned"] + 2  # what was planned, and the two doubts


def chunk_states(simulation: Simulation) -> list[tuple[str, int]]:
    ledger = sqlite3.connect(simulation.config.ledger_path)
    try:
        return ledger.execute("SELECT state, count(*) FROM chunks GROUP BY state").fetchall()
    finally:
        ledger.close()
