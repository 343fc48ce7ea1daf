"""What the daemon does by itself, once an hour."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.daemon.service import DAY_S, Service
from orchestrator.daemon.setup import SetupSource
from orchestrator.library import World

ENVIRONMENT = {
    "ORCHESTRATOR_MARKETO__BASE_URL": "http://127.0.0.1:1",
    "ORCHESTRATOR_MARKETO__CLIENT_ID": "demo-client",
    "ORCHESTRATOR_MARKETO__CLIENT_SECRET": "demo-secret",
}


async def test_an_upload_that_becomes_a_load_while_the_house_is_tidied_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had lain there for a day: its file was removed after its load had been accepted."""
    monkeypatch.chdir(tmp_path)
    source = SetupSource(None, ENVIRONMENT, {})
    service = Service(source, source.read(), World(), {})
    deliveries = service.deliveries
    deliveries.prepare()
    old = [deliveries.begin(name, time.time() - 2 * DAY_S, "uploaded") for name in ("wanted.csv", "left.csv")]
    for upload in old:
        deliveries.path(upload).write_text("email\na@example.com\n")
    wanted, left = old

    async def prune(*_: Any) -> list[str]:
        deliveries.save(replace(wanted, stage="open"))
        return []

    monkeypatch.setattr(service.records, "prune", prune)
    try:
        await service.tidy()
    finally:
        service.records.close()
    assert deliveries.path(wanted).is_file()
    assert not deliveries.path(left).exists()
