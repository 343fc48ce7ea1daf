"""The model behind real sockets, spoken to by a real HTTP client."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from simulator.client import CREATE, IDENTITY, USAGE

from orchestrator.simulator.http import SimulatorServer
from orchestrator.simulator.settings import Settings

ROWS = "email,leadScore\r\nana@example.com,1\r\nana@nowhere,2\r\nbob@example.com,x\r\n"
CREATE_LEADS = f"{CREATE['leads']}?format=csv"


@pytest.fixture
def server() -> Iterator[SimulatorServer]:
    """Jobs last no time at all, so that nothing has to be waited for."""
    settings = Settings(rows_per_second=1e15, seconds_per_job=0.0, file_limit=200_000)
    with SimulatorServer(settings) as running:
        yield running


@pytest.fixture
def client(server: SimulatorServer) -> Iterator[httpx.Client]:
    """A client with a token."""
    credentials = {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "demo-secret"}
    with httpx.Client(base_url=server.base_url, trust_env=False) as speaking:
        token = speaking.post(IDENTITY, data=credentials).json()["access_token"]
        speaking.headers["Authorization"] = f"Bearer {token}"
        yield speaking


def upload(client: httpx.Client, content: str, path: str = CREATE_LEADS) -> httpx.Response:
    return client.post(path, files={"file": ("leads.csv", content.encode(), "text/csv")})


def script(client: httpx.Client, fault: str, on: str) -> None:
    client.post("/_simulator/faults", json={"script": [{"fault": fault, "on": on}]}).raise_for_status()


def state(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/_simulator/state").json()
    return found


def test_a_file_uploaded_as_real_clients_do_is_imported_and_its_failures_can_be_fetched(client: httpx.Client) -> None:
    """The whole conversation, with bodies that the tests did not write themselves."""
    (created,) = upload(client, ROWS).json()["result"]
    path = f"/bulk/v1/leads/batch/{created['batchId']}"
    (status,) = client.get(f"{path}.json").json()["result"]
    assert (status["status"], status["numOfLeadsProcessed"], status["numOfRowsFailed"]) == ("Complete", 2, 1)
    failures = client.get(f"{path}/failures.json")
    assert failures.headers["Content-Type"] == "text/csv;charset=UTF-8"
    assert failures.text == (
        "email,leadScore,Import Failure Reason\nbob@example.com,x,Invalid data type in field Lead Score\n"
    )
    assert client.get(f"{path}/warnings.json").text.endswith("\nana@nowhere,2,Invalid email address\n")
    (told,) = client.get("/_simulator/truth").json()["batches"]
    assert (told["rows"], [(row["index"], row["cells"][0]) for row in told["failed"]]) == (3, [(2, "bob@example.com")])
    assert client.get("/_simulator/violations").json() == []


def test_a_token_is_shared_by_every_connection(client: httpx.Client, server: SimulatorServer) -> None:
    """Two loads of one client id do not have an hour each."""
    credentials = {"grant_type": "client_credentials", "client_id": "demo-client", "client_secret": "demo-secret"}
    with httpx.Client(base_url=server.base_url, trust_env=False) as other:
        token = other.get(IDENTITY, params=credentials).json()["access_token"]
        assert client.headers["Authorization"] == f"Bearer {token}"
        assert other.post(IDENTITY, data={**credentials, "client_secret": "guess"}).status_code == 401
        assert other.get(USAGE).json()["errors"][0]["code"] == "603"


def test_a_body_over_the_limit_is_refused_before_a_byte_of_it_is_read(
    client: httpx.Client, server: SimulatorServer
) -> None:
    """A client must take 413 while it is still sending."""
    address = urlsplit(server.base_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    connection.putrequest("POST", CREATE_LEADS)
    connection.putheader("Authorization", client.headers["Authorization"])
    connection.putheader("Content-Length", "200001")
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (413, "text/html")
    connection.close()
    assert [violation["rule"] for violation in client.get("/_simulator/violations").json()] == ["body over the limit"]


def test_a_body_that_does_not_tell_its_length_is_held_to_the_limit_too(client: httpx.Client) -> None:
    """Chunked transfer is no way around it."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = client.post(CREATE_LEADS, content=(b"x" * 50_000 for _ in range(5)), headers=headers)
    assert answer.status_code == 413
    assert state(client)["batches_accepted"] == 0


def test_a_body_over_the_limit_costs_a_call_and_needs_a_token_like_any_other(client: httpx.Client) -> None:
    """413 exempts from nothing: who halves a chunk over and over pays for each try."""
    assert upload(client, "x" * 200_001).status_code == 413
    assert client.get(USAGE).json()["result"][0]["total"] == 2
    del client.headers["Authorization"]
    assert upload(client, "x" * 200_001).json()["errors"][0]["code"] == "603"


def test_a_client_that_goes_away_in_mid_body_leaves_no_job_and_no_call_in_flight(
    client: httpx.Client, server: SimulatorServer
) -> None:
    """A killed loader must not hold a place among the ten calls for ever."""
    address = urlsplit(server.base_url)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as gone:
        gone.sendall(f"POST {CREATE_LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n--b\r\n".encode())
        wait_until(lambda: server.model.in_flight == 1)
    wait_until(lambda: server.model.in_flight == 0)
    assert state(client)["batches_accepted"] == 0
    assert state(client)["calls"] == {"token": 1}


@pytest.mark.parametrize(("fault", "accepted"), [("drop", 0), ("drop after", 1), ("truncate", 1)])
def test_a_connection_that_breaks_says_nothing_of_whether_the_job_exists(
    client: httpx.Client, fault: str, accepted: int
) -> None:
    """All look the same to the client, which is why it must not send again at once."""
    script(client, fault, "create")
    with pytest.raises(httpx.TransportError):
        upload(client, ROWS)
    assert state(client)["batches_accepted"] == accepted


def test_downloads_can_be_cut_with_and_without_a_sign_or_merely_slow(client: httpx.Client) -> None:
    """A report made from half a failure file would be believed."""
    rows = "email,leadScore\n" + "".join(f"lead{n}@example.com,x\n" for n in range(2_000))
    path = f"/bulk/v1/leads/batch/{upload(client, rows).json()['result'][0]['batchId']}/failures.json"
    whole = client.get(path).content
    script(client, "truncate", "failures")
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(path)
    script(client, "cut silently", "failures")
    assert client.get(path).content == whole[: len(whole) // 2]
    script(client, "slow", "failures")
    assert client.get(path).content == whole


def test_the_queue_of_others_can_be_filled_and_emptied(client: httpx.Client, server: SimulatorServer) -> None:
    """So that people see a load wait, and go on."""
    client.post("/_simulator/foreign", json={"occupy": 10}).raise_for_status()
    assert state(client)["unfinished"] == 10
    assert upload(client, ROWS).json()["errors"][0]["code"] == "1016"
    client.post("/_simulator/foreign", json={"release": 10}).raise_for_status()
    assert upload(client, ROWS).json()["success"]
    assert state(client)["refused_imports"] == {"1016": 1}
    server.occupy(3)
    assert server.truth()["unfinished"] == 3
    server.release(3)
    assert server.truth()["unfinished"] == 0


def test_a_token_asked_for_is_no_call_under_way(client: httpx.Client, server: SimulatorServer) -> None:
    """The limit is the REST API's: each load of a daemon asks for its token beside the calls of the others."""
    address = urlsplit(server.base_url)
    head = b"POST /identity/oauth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    slow = [socket.create_connection((str(address.hostname), int(address.port or 0))) for _ in range(12)]
    try:
        for connection in slow:
            connection.sendall(head)
        assert client.get(USAGE).json()["success"]
        wait_until(lambda: server.model.in_flight == 0)
    finally:
        for connection in slow:
            connection.close()


def test_calls_under_way_count_while_their_bodies_are_on_the_way(client: httpx.Client, server: SimulatorServer) -> None:
    """Ten slow uploads leave no room for a question."""
    address = urlsplit(server.base_url)
    head = f"POST {CREATE_LEADS} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    slow = [socket.create_connection((str(address.hostname), int(address.port or 0))) for _ in range(10)]
    try:
        for connection in slow:
            connection.sendall(head)
        wait_until(lambda: server.model.in_flight == 10)
        assert client.get(USAGE).json()["errors"][0]["code"] == "615"
        slow.pop().close()
        wait_until(lambda: server.model.in_flight == 9)
        assert client.get(USAGE).json()["success"]
    finally:
        for connection in slow:
            connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_stops_it_is_told_which_rules_were_broken(number: signal.Signals, tmp_path: Path) -> None:
    """A service manager, or `kill`, sends SIGTERM: what it had seen was lost with it."""
    port_file = tmp_path / "port"
    words = [sys.executable, "-m", "orchestrator", "simulator", "--port", "0", "--port-file", str(port_file)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        wait_until(port_file.exists)
        process.send_signal(number)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert out.splitlines()[-1] == "0 batches, 0 rows; 0 rules broken by the client"


def wait_until(holds: Any, seconds: float = 10.0) -> None:
    """Until something on the server's side has happened."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)
