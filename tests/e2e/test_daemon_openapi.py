"""The API against its own description: requests of every kind that it allows, and of kinds that it does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from e2e.daemon import Client, Daemon, csv, people, served
from e2e.shop import Shop, quick, shop
from hypothesis import HealthCheck, settings
from schemathesis.checks import (
    content_type_conformance,
    negative_data_rejection,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.daemon.http.openapi import description

Served = tuple[Shop, Daemon, Client]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
described = description()
del described["paths"]["/api/v1/events"]  # an answer without an end
schema = schemathesis.openapi.from_dict(described)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with shop(tmp_path_factory.mktemp("openapi"), quick()) as market, served(market) as (one, client):
        id = client.create(upload=client.upload("first.csv", csv(people("first", 50, bad=1))))
        one.until(lambda: client.load(id)["ended_at"] is not None)
        yield market, one, client


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_it_is_described(case: schemathesis.Case[Any], serving: Served) -> None:
    """Clients are made from the description."""
    _, _, client = serving
    headers = {"Authorization": f"Bearer {client.token}"}
    answer = case.call(base_url=client.url, headers=headers, timeout=20)
    case.validate_response(answer, checks=CHECKS)


def test_the_daemon_has_not_met_a_fault_of_its_own(serving: Served) -> None:
    """After all that."""
    _, one, client = serving
    assert client.http.get("/healthz").text == "ok\n"
    assert not one.said("request.broken")
    assert not one.said("load.broken")
