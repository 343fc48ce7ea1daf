"""Which rules of a client are watched, and what goes wrong on request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from simulator.client import CREATE, IDENTITY, USAGE, Client, code, form, leads

from orchestrator.simulator.faults import BEFORE, KINDS, Scripted

FILE = "email\nana@example.com\n"


def compressed(client: Client) -> None:
    headers, body = form(FILE.encode())
    client.call("POST", f"{CREATE['leads']}?format=csv", headers={**headers, "content-encoding": "gzip"}, body=body)


def nameless(client: Client) -> None:
    headers, body = form(FILE.encode(), filename=None)
    client.call("POST", CREATE["leads"], headers=headers, body=body)


def sent(content: str) -> dict[str, Any]:
    headers, body = form(content.encode())
    return {"headers": headers, "body": body}


def hasty(client: Client) -> None:
    batch = client.batch(FILE)
    for wait in (0.0, 5.0, 4.9):
        client.now += wait
        client.status(batch)


@pytest.mark.parametrize(
    ("rule", "act"),
    [
        ("secret in the address", lambda client: client.send("GET", f"{IDENTITY}?client_secret=demo-secret")),
        ("secret in the address", lambda client: client.call("GET", f"{USAGE}?access_token=x")),
        ("double slash in the path", lambda client: client.call("GET", "/rest//v1/stats/usage.json")),
        ("double slash in the path", lambda client: client.call("GET", f"/{USAGE}")),
        ("the same file twice", lambda client: [client.upload(FILE), client.upload(FILE)]),
        ("an unknown batch asked after", lambda client: client.ask(1)),
        ("compressed upload", compressed),
        ("file part without a filename", nameless),
        ("polled too often", hasty),
        ("no format", lambda client: client.call("POST", CREATE["leads"], **sent(FILE))),
        ("a file without rows", lambda client: client.upload("email\n")),
    ],
)
def test_a_broken_rule_is_noted_once(rule: str, act: Callable[[Client], object]) -> None:
    """Marketo would bear it in silence, or block the account: here every load of every test answers for it."""
    client = Client()
    act(client)
    assert client.rules_broken == [rule]


def test_a_careful_client_breaks_no_rule() -> None:
    """A watch that barks at everybody is switched off."""
    client = Client()
    batches = [client.batch(leads(20, first=20 * n) + ",Ana\n", listId="1001") for n in range(1)]
    batches += [client.batch(leads(5, first=1_000 + n)) for n in range(9)]
    for _ in range(3):
        client.now += 5.0
        for batch in batches:
            client.status(batch)
    client.ask(batches[0], "failures")
    assert client.rules_broken == []


def test_a_file_whose_job_failed_may_be_sent_again() -> None:
    """Failed is the one end after which nothing of it is there."""
    client = Client(failing_jobs=frozenset({1}))
    client.judged(FILE)
    client.judged(FILE)
    assert client.rules_broken == []
    client.judged(FILE)
    assert client.rules_broken == ["the same file twice"]


def test_a_file_all_of_whose_rows_failed_may_be_sent_again() -> None:
    """That is what a retry does; once a row of it is imported, it would be imported twice."""
    client = Client(transient_share=1.0)
    for _ in range(2):
        client.judged(FILE)
    assert client.rules_broken == []
    client.judged(FILE)
    assert client.rules_broken == ["the same file twice"]


@pytest.mark.parametrize("fault", ["drop after", "http 502 after", "truncate", "cut silently", "no result"])
def test_a_file_whose_answer_was_lost_may_be_sent_again(fault: str) -> None:
    """Nobody can know whether that job exists: to send it again is right, and must not be held against the client."""
    client = Client()
    client.marketo.faults.scripted.append(Scripted(fault, on="create"))
    client.upload(FILE)
    assert code(client.upload(FILE)) == ""
    assert len(client.marketo.jobs) == 2
    assert client.rules_broken == []


@pytest.mark.parametrize(
    "fault",
    [
        *("drop", "drop after", "truncate", "cut silently", "slow", "wrong content type", "html", "empty", "list"),
        *("http 500", "http 502", "http 503", "http 504", "http 429", "http 502 after", "no errors", "integer code"),
        *("code 604", "code 606", "code 607", "code 608", "code 611", "code 614", "code 615", "code 713"),
        *("no result", "extra fields", "unknown status", "other batch"),
    ],
)
def test_every_fault_can_be_had_on_request_and_meets_one_call(fault: str) -> None:
    """What was seen in production must be repeatable at will: a cure that was never tried is none."""
    client = Client()
    batch = client.batch(FILE)

    def asked() -> tuple[object, ...]:
        answer = client.ask(batch)
        body = answer.body.replace(answer.body[15:25], b"") if answer.body.startswith(b'{"requestId') else answer.body
        return answer.status, answer.headers, body, answer.effect

    usual = asked()
    client.marketo.faults.scripted.append(Scripted(fault, on="status"))
    met, after = asked(), asked()
    assert met != usual
    assert after == usual


@pytest.mark.parametrize("fault", BEFORE)
def test_a_fault_before_a_call_keeps_it_from_being_executed(fault: str) -> None:
    """Whether a batch exists after an error is what a repeat turns on."""
    client = Client()
    client.marketo.faults.scripted.append(Scripted(fault, on="create"))
    answer = client.upload(FILE)
    word, _, number = fault.partition(" ")
    if word == "http":
        assert (answer.status, answer.headers["Content-Type"]) == (int(number), "text/html")
    elif word == "code":
        assert code(answer) == number
    elif fault in {"no errors", "integer code"}:
        body = json.loads(answer.body)
        assert not body["success"]
        assert all(isinstance(error["code"], int) for error in body["errors"])
    else:
        assert (answer.effect, answer.body[:5]) in [("drop", b""), ("none", b"<html"), ("none", b""), ("none", b"[]")]
    assert len(client.marketo.jobs) == 0
    assert code(client.upload(FILE)) == ""


@pytest.mark.parametrize("fault", [fault for fault in KINDS["create"] if fault not in BEFORE])
def test_a_fault_after_a_call_leaves_the_job_in_the_queue(fault: str) -> None:
    """The worst case of a load: the rows are being imported, and nobody was told the batch id."""
    client = Client()
    client.marketo.faults.scripted.append(Scripted(fault, on="create"))
    answer = client.upload(FILE)
    assert client.marketo.truth(client.now)["unfinished"] == 1
    if fault in {"extra fields", "slow"}:
        assert json.loads(answer.body)["result"][0]["batchId"] in client.marketo.jobs
    elif fault in {"drop after", "truncate"}:
        assert answer.effect == fault.split()[0]
    else:
        assert b'"batchId"' not in answer.body or not answer.body.endswith(b"}")


def test_a_burst_of_faults_comes_after_so_many_calls_and_so_many_times() -> None:
    """Faults in a row are what exhausts retries; only the kind of call that was named meets them."""
    client = Client()
    client.marketo.faults.scripted.append(Scripted("code 606", on="other", times=3, after=2))
    assert [code(client.call("GET", USAGE)) for _ in range(6)] == ["", "", "606", "606", "606", ""]
    assert client.marketo.truth(client.now)["faults"] == {"other: code 606": 3}


def test_a_token_can_come_with_no_time_left_at_any_moment() -> None:
    """Seen in real answers: cached, it makes every call fail for an hour."""
    client = Client()
    client.marketo.faults.scripted.append(Scripted("expires in 0", on="token"))
    assert [json.loads(client.identify().body)["expires_in"] for _ in range(2)] == [0, 3600]


def test_faults_at_a_rate_are_the_same_for_the_same_seed() -> None:
    """A load that failed in a simulation can be looked at again only if all its misfortunes come again."""

    def misfortunes(seed: int) -> list[str]:
        client = Client(seed=seed)
        client.marketo.faults.rates["other"] = 0.3
        client.marketo.faults.kinds = frozenset({"http 502", "code 713"})
        token = client.token()
        return [code(client.call("GET", USAGE, token)) for _ in range(90)]

    first = misfortunes(1)
    assert first == misfortunes(1) != misfortunes(2)
    assert set(first) == {"", "http 502", "713"}
    assert 10 < sum(fault != "" for fault in first) < 45
