"""The daemon's API, over real HTTP: making loads, looking at them, changing them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from e2e.daemon import Client, Daemon, csv, drop, ended, people, report_of, served
from e2e.shop import Shop, quick, rows_received, shop

from orchestrator.simulator.faults import Scripted

Served = tuple[Shop, Daemon, Client]


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A daemon whose Marketo is quick."""
    with shop(tmp_path_factory.mktemp("fast"), quick()) as market, served(market) as (one, client):
        yield market, one, client


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Served]:
    """A daemon whose Marketo takes its time: there is time to change something."""
    settings = quick(seconds_per_job=0.4, keep_bodies=True)
    with shop(tmp_path, settings) as market, served(market) as (one, client):
        yield market, one, client


def over(one: Daemon, client: Client, id: str) -> dict[str, object]:
    one.until(lambda: client.load(id)["ended_at"] is not None)
    return client.load(id)


def test_an_uploaded_file_is_loaded_and_its_report_can_be_had(fast: Served) -> None:
    """A program somewhere else has rows, and no way to the inbox."""
    _, one, client = fast
    upload = client.upload("spring leads.csv", csv(people("up", 200, bad=3)))
    id = client.create({"priority": "high"}, upload=upload)
    load = over(one, client, id)
    assert (load["phase"], load["exit_code"], load["rows"], load["imported"], load["failed"]) == (
        "done",
        3,
        200,
        197,
        3,
    )
    assert (load["name"], load["priority"]) == ("spring leads.csv", "high")
    report = client.http.get(f"/api/v1/loads/{id}/report/report.json")
    assert report.json()["totals"]["imported"] == 197
    rows = client.http.get(f"/api/v1/loads/{id}/report/retry.csv").text.splitlines()
    assert len(rows) == 4
    page = client.http.get(f"/api/v1/loads/{id}/report/report.html")
    assert page.headers["content-security-policy"].startswith("sandbox")
    chunks = client.http.get(f"/api/v1/loads/{id}/chunks", params={"limit": 1}).json()
    assert [chunk["state"] for chunk in chunks["chunks"]] == ["settled"]
    by_load = client.load(str(load["load_id"]))
    assert by_load["id"] == id


def test_an_upload_makes_one_load(fast: Served) -> None:
    """The second request for the same upload comes too late, or by mistake."""
    _, _, client = fast
    upload = client.upload("one.csv", csv(people("once", 5)))
    client.create(upload=upload)
    again = client.http.post("/api/v1/loads", json={"upload": upload})
    assert again.status_code == 404


def at_once(client: Client, count: int, what: str, body: dict[str, object]) -> list[int]:
    """The statuses of so many equal requests that are sent at the same moment."""

    def ask(_: int) -> int:
        return client.http.post(f"/api/v1/loads{what}", json=body).status_code

    with ThreadPoolExecutor(count) as people:
        return sorted(people.map(ask, range(count)))


def test_an_upload_that_several_ask_for_at_once_makes_one_load(fast: Served) -> None:
    """A program that is impatient: they wrote over each other's record, and got 500."""
    _, _, client = fast
    for turn in range(5):
        upload = client.upload("all.csv", csv(people(f"all{turn}", 5)))
        assert at_once(client, 6, "", {"upload": upload}) == [202] + 5 * [404]


def test_a_file_of_the_inbox_is_taken_when_it_is_asked_for(fast: Served) -> None:
    """Whoever asks says that it is whole."""
    market, one, client = fast
    folder = market.folder / "inbox" / "asked"
    folder.mkdir(parents=True)
    (folder / "load.toml").write_text("list_id = 1001\nsubscription = 'nobody'\n")
    path = drop(folder, "asked.csv", people("asked", 20))
    one.until(lambda: [line for line in one.said("file.not_taken") if line["name"] == "asked/asked.csv"])
    answer = client.http.post("/api/v1/loads", json={"inbox": "asked/asked.csv"})
    assert answer.status_code == 422
    (folder / "load.toml").write_text("list_id = 1001\nquery = 'SELECT 1'\n")
    (folder / "load.toml").unlink()
    id = client.create({"list_id": 1002}, inbox="asked/asked.csv") if path.exists() else ""
    if id:
        delivery = over(one, client, id)
        assert delivery["exit_code"] == 0


def test_a_bad_request_is_told_what_is_wrong_with_it(fast: Served) -> None:
    """Nobody reads the source to find out."""
    _, _, client = fast
    for body, status in (
        ({"settings": {"list": 1}, "upload": "x"}, 422),
        ({"settings": {}}, 422),
        ({"upload": "x", "inbox": "y"}, 422),
        ({"upload": "20260101-000000-00000000"}, 404),
        ({"upload": "x", "settings": {"subscription": "nobody"}}, 422),
        ({"upload": "x", "settings": {"query": "SELECT * FROM read_csv('/etc/passwd')"}}, 422),
        ({"surprise": 1}, 422),
        ([], 422),
    ):
        answer = client.http.post("/api/v1/loads", json=body)
        assert answer.status_code == status, (body, answer.text)
        assert answer.json()["error"]["message"]
    assert client.http.get("/api/v1/loads/0123456789ab").status_code == 404
    assert client.http.get("/api/v1/loads", params={"limit": "many"}).status_code == 422
    assert (
        client.http.post("/api/v1/loads", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
    )


def test_a_paused_load_sends_nothing_until_it_is_resumed(slow: Served) -> None:
    """Somebody needs the queue now."""
    market, one, client = slow
    id = client.create(upload=client.upload("leads.csv", csv(people("p", 4_000))))
    one.until(lambda: len(one.said("batch.accepted")) >= 2)
    assert client.change(id, "pause").status_code == 202
    one.until(lambda: client.load(id)["phase"] == "paused")
    accepted = market.simulator.truth()
    time.sleep(1.0)  # long enough for a batch to end and the next to be sent
    assert len(market.simulator.truth()["batches"]) == len(accepted["batches"])
    assert client.change(id, "resume").status_code == 202
    load = over(one, client, id)
    assert (load["imported"], load["exit_code"]) == (4_000, 0)
    assert len(rows_received(market.simulator)) == 4_000


def test_a_cancelled_load_ends_with_what_marketo_has(slow: Served) -> None:
    """The wrong file: what is in Marketo cannot be taken back, and that is said; nothing else is sent."""
    market, one, client = slow
    id = client.create(upload=client.upload("wrong.csv", csv(people("c", 20_000))))
    one.until(lambda: len(one.said("batch.accepted")) >= 2)
    answer = client.change(id, "cancel").json()
    assert answer["in_marketo"] >= 1
    assert "cannot cancel" in answer["note"]
    load = over(one, client, id)
    sent = len(rows_received(market.simulator))
    assert 0 < sent < 20_000
    assert (load["phase"], load["why"], load["exit_code"], load["imported"]) == ("failed", "cancelled", 3, sent)
    delivery = ended(market.folder / "failed")["wrong.csv"]
    totals = report_of(market, delivery).json["totals"]
    assert (totals["imported"], totals["unsent"], totals["unknown"]) == (sent, 20_000 - sent, 0)
    again = over(one, client, client.create(upload=client.upload("again.csv", csv(people("c", 20_000)))))
    assert (again["phase"], again["exit_code"], len(rows_received(market.simulator))) == ("done", 3, sent)
    assert f"{20_000 - sent:,} rows unsent: nothing was sent; force" in str(again["why"]), "it was never all loaded"
    assert client.change(id, "cancel").status_code == 409


def test_a_cancelled_load_stays_cancelled_when_the_daemon_dies(tmp_path: Path) -> None:
    """It must not come back to life with the next daemon."""
    settings = quick(seconds_per_job=0.6, keep_bodies=True)
    with shop(tmp_path, settings) as market:
        with served(market) as (one, client):
            id = client.create(upload=client.upload("wrong.csv", csv(people("c", 20_000))))
            one.until(lambda: len(one.said("batch.accepted")) >= 2)
            client.change(id, "cancel")
            one.kill()
        with served(market, ORCHESTRATOR_LIMITS__DOUBT_LEASE="1") as (one, client):
            load = over(one, client, id)
            assert load["phase"] == "failed"
            assert len(rows_received(market.simulator)) < 20_000


def test_a_load_that_waits_can_be_paused_cancelled_and_made_urgent(tmp_path: Path) -> None:
    """Before anything is sent everything can still be changed."""
    with (
        shop(tmp_path, quick(seconds_per_job=0.3)) as market,
        served(market, ORCHESTRATOR_DAEMON__LOADS_AT_ONCE="1") as (one, client),
    ):
        first = client.create(upload=client.upload("1.csv", csv(people("one", 2_000))))
        one.until(lambda: client.load(first)["phase"] == "running")
        others = [client.create(upload=client.upload(f"{n}.csv", csv(people(f"n{n}", 10)))) for n in (2, 3, 4)]
        assert client.change(others[0], "cancel").status_code == 202
        assert client.change(others[2], "priority", priority="high").status_code == 202
        assert client.change(others[1], "priority", priority="urgent").status_code == 422
        assert client.load(others[0])["phase"] == "failed"
        assert over(one, client, others[1])["exit_code"] == 0
        ends = [client.load(id)["ended_at"] for id in (others[2], others[1])]
        assert ends[0] < ends[1]


def test_a_load_of_the_command_line_is_shown_and_can_be_gone_on_with(slow: Served) -> None:
    """Somebody began it by hand, went home, and the daemon is there all night."""
    market, one, client = slow
    (market.folder / "hand.csv").write_bytes(csv(people("h", 3_000)))
    process = market.start("load", "hand.csv", "--no-progress")
    found: list[dict[str, object]] = []

    def seen() -> bool:
        found[:] = client.http.get("/api/v1/loads", params={"phase": "elsewhere"}).json()["loads"]
        return bool(found)

    one.until(seen)
    id = str(found[0]["id"])
    assert client.change(id, "pause").status_code == 409
    assert client.change(id, "priority", priority="low").status_code == 202
    process.terminate()
    process.communicate()
    one.until(lambda: client.load(id)["phase"] == "interrupted")
    assert at_once(client, 4, f"/{id}/resume", {}) == 4 * [202]
    load = over(one, client, id)
    assert (load["imported"], load["exit_code"]) == (3_000, 0)
    assert len(client.http.get("/api/v1/loads").json()["loads"]) == 1, "one delivery, however often it is asked for"


def test_a_doubt_that_a_person_is_to_decide_is_not_decided_by_resuming(slow: Served) -> None:
    """A load of the command line with --on-doubt stop: taken over, its doubtful chunk was sent again."""
    market, one, client = slow
    (market.folder / "doubt.csv").write_bytes(csv(people("d", 400)))
    with market.simulator.lock:
        market.simulator.model.faults.scripted.append(Scripted("drop", "create", after=0))
    stopped = market.run("load", "doubt.csv", "--on-doubt", "stop", ORCHESTRATOR_LIMITS__DOUBT_LEASE="1")
    assert stopped.code == 75, stopped
    sent = len(rows_received(market.simulator))
    (load,) = client.http.get("/api/v1/loads", params={"phase": "interrupted"}).json()["loads"]
    assert client.change(load["id"], "resume").status_code == 202
    one.until(lambda: client.load(load["id"])["phase"] == "paused")
    assert "may or may not have been imported" in client.load(load["id"])["why"]
    assert len(rows_received(market.simulator)) == sent
    assert client.change(load["id"], "resume", on_doubt="resend").status_code == 202
    assert over(one, client, load["id"])["imported"] == 400


def test_watchers_hear_of_every_change(slow: Served) -> None:
    """A page that must be reloaded is not looked at."""
    _, _, client = slow
    events: list[dict[str, object]] = []

    def watch() -> None:
        with client.http.stream("GET", "/api/v1/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    events.append(json.loads(line[6:]))
                    if any(load["name"] == "watched.csv" for load in events[-1]["loads"]):  # type: ignore[attr-defined]
                        return

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.3)
    client.create(upload=client.upload("watched.csv", csv(people("w", 9_000))))
    watcher.join(20)
    assert not watcher.is_alive()
    queue = events[-1]["queues"][0]  # type: ignore[index]
    assert len(queue["slots"]) == 10
    assert client.http.head("/api/v1/events", timeout=5.0).headers["content-type"].startswith("text/event-stream")


def test_metrics_are_what_prometheus_reads_and_agree_with_what_happened(fast: Served) -> None:
    """Alerts rest on these."""
    _, one, client = fast
    over(one, client, client.create(upload=client.upload("m.csv", csv(people("metric", 100, bad=1)))))
    text = client.http.get("/metrics").text
    samples: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in samples
            samples[name] = float(value)
    assert samples['orchestrator_rows_total{outcome="imported"}'] >= 99
    assert samples['orchestrator_rows_total{outcome="failed"}'] >= 1
    assert samples['orchestrator_failures_total{class="permanent"}'] >= 1
    slots = [value for name, value in samples.items() if name.startswith("orchestrator_slots{")]
    assert sum(slots) == 10
    assert sum(value for name, value in samples.items() if name.startswith("orchestrator_calls_total")) > 0
    assert sum(value for name, value in samples.items() if name.startswith("orchestrator_sent_bytes_total")) > 1_000
    kinds = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {name.split("{")[0] for name in samples} <= kinds


def test_health_is_told_to_everybody_and_says_nothing_else(fast: Served) -> None:
    """Load balancers have no token."""
    _, _, client = fast
    for path, text in (("/healthz", "ok\n"), ("/readyz", "ready\n")):
        answer = client.http.get(path, headers={"Authorization": ""})
        assert (answer.status_code, answer.text) in ((200, text), (401, answer.text))
    with httpx.Client(base_url=client.url) as nobody:
        assert nobody.get("/healthz").text == "ok\n"
        assert nobody.get("/readyz").text == "ready\n"


def test_the_description_names_every_route(fast: Served) -> None:
    """What is not described is used by nobody; what is described is a promise."""
    from orchestrator.daemon.http.api import Api

    _, _, client = fast
    described = client.http.get("/api/v1/openapi.json").json()
    there = {
        (method.lower(), route.path)
        for route in Api(None, None, None).routes()  # type: ignore[arg-type]
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = {
        (method, path.replace("{name}", "{name}"))
        for path, operations in described["paths"].items()
        for method in operations
        if method in ("get", "post") and path.startswith("/api/")
    }
    assert told == there
