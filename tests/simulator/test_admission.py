"""Whose calls are let in, and how many of them."""

from __future__ import annotations

import json
from urllib.parse import urlencode
from uuid import UUID

import pytest
from simulator.client import CREATE, IDENTITY, USAGE, Client, code, form, leads

CREDENTIALS = urlencode(
    {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "demo-secret"}
)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", f"{IDENTITY}?{CREDENTIALS}", ""),
        ("POST", f"{IDENTITY}?{CREDENTIALS}", ""),
        ("POST", IDENTITY, CREDENTIALS),
    ],
)
def test_the_identity_service_takes_credentials_in_the_address_and_in_the_form(
    method: str, target: str, body: str
) -> None:
    """Swagger says address, practice says form: a client of either kind must be served."""
    answer = Client().send(method, target, body=body.encode())
    given = json.loads(answer.body)
    value, _, suffix = given["access_token"].partition(":")
    assert (answer.status, given["token_type"], given["expires_in"], suffix) == (200, "bearer", 3600, "int")
    assert UUID(value)


def test_a_token_asked_for_again_is_the_same_with_only_the_time_it_has_left() -> None:
    """A client that reckons its own hour from the last answer runs into 602 in mid-upload."""
    client = Client()
    first = json.loads(client.identify().body)
    client.now += 3_000.5
    again = json.loads(client.identify().body)
    assert again == {**first, "expires_in": 599}
    client.now += 600.0
    assert json.loads(client.identify().body)["access_token"] != first["access_token"]


@pytest.mark.parametrize(("knob", "left"), [(True, 0), (False, 1)])
def test_in_its_last_second_a_token_has_no_time_left(knob: bool, left: int) -> None:
    """Real answers said 0: a client that caches it asks for ever, one that calls it an error stops for nothing."""
    client = Client(expires_in_zero=knob)
    client.identify()
    client.now += 3_599.5
    assert json.loads(client.identify().body)["expires_in"] == left


def test_each_client_id_has_a_token_of_its_own() -> None:
    """Tokens belong to the custom service: the end of one integration's hour is not that of another."""
    client = Client(clients={"a": "x", "b": "y"}, token_life=100.0)
    first = client.token("a", "x")
    client.now += 60.0
    second = client.token("b", "y")
    client.now += 60.0
    assert first != second
    assert [code(client.call("GET", USAGE, token)) for token in (first, second)] == ["602", ""]


@pytest.mark.parametrize("wrong", ["client_id", "client_secret", "grant_type"])
def test_wrong_credentials_get_401_without_marketos_envelope(wrong: str) -> None:
    """The one answer with a status of its own: read as an envelope it looks like a broken server, and is retried."""
    answer = Client().send("POST", IDENTITY, body=CREDENTIALS.replace(f"{wrong}=", f"{wrong}=not-").encode())
    assert (answer.status, json.loads(answer.body)) == (
        401,
        {"error": "invalid_client", "error_description": "Bad client credentials"},
    )


@pytest.mark.parametrize("renewed", [False, True])
def test_an_expired_token_is_refused_with_602_once_and_with_601_from_then_on(renewed: bool) -> None:
    """Of many calls at once only one sees 602: a client that renews on 602 alone stops on the others."""
    client = Client()
    token = client.token()
    client.now += 3_600.0
    if renewed:
        assert client.token() != token
    assert [code(client.call("GET", USAGE, token)) for _ in range(3)] == ["602", "601", "601"]


def test_an_unknown_token_is_601_and_no_token_is_603() -> None:
    """601 is cured by a new token, 603 by a person: mixing them up retries for ever or stops for nothing."""
    client = Client()
    assert code(client.call("GET", USAGE, "cdf01657-110d-4155-99a7-f986b2ff13a0:int")) == "601"
    assert code(client.call("GET", USAGE, None)) == "603"
    assert code(client.send("GET", USAGE, {"authorization": client.token()})) == "603"


@pytest.mark.parametrize(
    ("place", "knob", "refusal"), [("address", True, "603"), ("form", False, "603"), ("form", True, "")]
)
def test_a_token_outside_of_the_header_is_noted_and_is_none_unless_a_knob_takes_that_of_a_form(
    place: str, knob: bool, refusal: str
) -> None:
    """Adobe removed it while its own samples still show it: a client that follows them must be caught here."""
    client = Client(accept_token_in_form=knob)
    token = client.token()
    headers, body = form(leads(1).encode(), **({"access_token": token} if place == "form" else {}))
    query = f"&access_token={token}" if place == "address" else ""
    answer = client.send("POST", f"{CREATE['leads']}?format=csv{query}", headers, body)
    assert "token outside of the header" in client.rules_broken
    assert code(answer) == refusal


def test_tokens_and_calls_that_were_not_executed_cost_nothing_and_every_other_call_costs_one() -> None:
    """The loader's own count of the daily quota is only right if it follows the same rules."""
    client = Client()
    assert client.calls_counted() == 1
    client.identify()
    assert code(client.call("GET", USAGE, "unknown")) == "601"
    assert client.calls_counted() == 2
    batch = client.batch(leads(1))
    client.marketo.occupy(9, client.now)
    assert code(client.upload(leads(1, first=1))) == "1016"
    client.ask(batch)
    assert client.calls_counted() == 6


def test_a_method_that_is_not_supported_costs_nothing() -> None:
    """605 is among the answers that do not count."""
    client = Client()
    assert code(client.call("GET", CREATE["leads"])) == "605"
    assert code(client.call("POST", "/bulk/v1/leads/batch/1.json")) == "605"
    assert code(client.call("DELETE", USAGE)) == "605"
    assert client.calls_counted() == 1


def test_the_daily_quota_ends_in_607_for_every_call_and_begins_anew_within_a_day() -> None:
    """Calls of other integrations count too; a loader that waits for midnight must find the quota restored."""
    client = Client(calls_per_day=10, calls_used_before=8)
    assert [code(client.call("GET", USAGE)) for _ in range(3)] == ["", "", "607"]
    assert code(client.upload(leads(1))) == "607"
    client.now += 86_400.0
    assert code(client.call("GET", USAGE)) == ""


def test_the_hundred_and_first_call_in_twenty_seconds_gets_606_and_the_window_slides() -> None:
    """Too fast a client must be refused here, not in production, and be let in again as soon as the window allows."""
    client = Client()
    token = client.token()
    codes = []
    for _ in range(101):
        codes.append(code(client.call("GET", USAGE, token)))
        client.now += 0.1
    assert codes == [""] * 100 + ["606"]
    client.now = 119.9
    assert code(client.call("GET", USAGE, token)) == "606"
    client.now = 120.0
    assert [code(client.call("GET", USAGE, token)) for _ in range(2)] == ["", "606"]
    assert set(client.rules_broken) == {"too many calls in 20 s"}


def test_the_eleventh_call_at_once_gets_615() -> None:
    """Slow uploads hold their place: a client that does not count them is refused under load only."""
    client = Client()
    client.marketo.in_flight = 10
    assert code(client.call("GET", USAGE)) == ""
    client.marketo.in_flight = 11
    assert code(client.call("GET", USAGE)) == "615"
    assert client.identify().status == 200
    assert client.rules_broken == ["too many calls at once"]
